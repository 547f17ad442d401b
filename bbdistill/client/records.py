"""Between replies and rows of the store: what is kept of a call, and how it is given back. Nothing secret gets past."""

import json
from collections.abc import Mapping

from bbdistill.client.call import Call, Fault, Kind, Reply
from bbdistill.client.keys import Request, to_json
from bbdistill.client.rows import AnswerRow, CallRow
from bbdistill.client.secrets import redact, secrets_of
from bbdistill.client.values import as_object

PROCESSING = "x-bbdistill-processing"
"""Header of a reply that came at another price than a live one: `batch`. Stored, so that prices can be told later."""
_KEPT_HEADERS = (PROCESSING, "request-id", "x-request-id", "openai-processing-ms", "openai-version", "x-should-retry")
_KEPT_PREFIXES = ("retry-after", "x-ratelimit-", "anthropic-ratelimit-")
_KEPT_CHARS = 100_000
"""Of the body of a fault."""


def row_of(call: Call, request: Request, key: str, outcome: Reply | Fault) -> CallRow:
    """What the store keeps of a call and of how it ended."""
    fault = outcome if isinstance(outcome, Fault) else None
    reply = outcome if isinstance(outcome, Reply) else outcome.reply
    reading = None if fault or reply is None else reply.reading
    kind: Kind | None = reading.kind if reading else None
    usage = reading.usage if reading and reading.metered else None
    secrets = secrets_of(call)
    return CallRow(
        key=key,
        sample=call.sample,
        teacher=request["teacher"],
        path=request["path"],
        request=to_json(request),
        status=reply and reply.status,
        content_type=reply and reply.headers.get("content-type"),
        headers=to_json(kept(reply.headers) if reply else {}),
        reply=reply and _text(reply, secrets, is_fault=fault is not None),
        kind=kind or "fault",
        fault=fault and fault.reason,
        model=(reading and reading.model) or _asked_model(request),
        input_tokens=usage and usage.input_tokens,
        output_tokens=usage and usage.output_tokens,
        cached_tokens=usage and usage.cached_tokens,
        cost_usd=_fault_cost(fault) if fault else reply and reply.cost_usd,
        purpose=call.tags.get("purpose"),
        prompt_id=call.tags.get("prompt_id"),
        template=call.tags.get("template"),
        latency_s=outcome.latency_s,
    )


def outcome_of(row: AnswerRow | CallRow) -> Reply:
    """The recorded reply, at no cost. Raises the Fault that was recorded instead."""
    reply = None
    if row.status is not None:
        headers: dict[str, str] = json.loads(row.headers)
        reply = Reply(
            status=row.status,
            headers=headers | ({"content-type": row.content_type} if row.content_type else {}),
            body=(row.reply or "").encode(),
            cached=True,
            cost_usd=0.0,
            recorded_cost_usd=row.cost_usd,
        )
    if row.kind == "fault" or reply is None:
        raise Fault(row.fault or "fault", reply=reply)
    return reply


def as_cached(reply: Reply) -> Reply:
    """The same reply for one who did not pay for it."""
    return Reply(
        status=reply.status,
        headers=reply.headers,
        body=reply.body,
        reading=reply.reading,
        cached=True,
        cost_usd=0.0,
        recorded_cost_usd=reply.recorded_cost_usd,
    )


def _text(reply: Reply, secrets: set[str], *, is_fault: bool) -> str:
    text = redact(reply.body.decode("utf-8", "replace"), secrets, patterns=is_fault)
    return text[:_KEPT_CHARS] if is_fault else text


def kept(headers: Mapping[str, str]) -> dict[str, str]:
    """Of a reply's headers, those that say nothing of whose account it is."""
    return {n: v for n, v in headers.items() if n in _KEPT_HEADERS or n.startswith(_KEPT_PREFIXES)}


def _asked_model(request: Request) -> str | None:
    model = as_object(request.get("body")).get("model")
    return model if isinstance(model, str) else None


def _fault_cost(fault: Fault) -> float | None:
    return 0.0 if fault.free else None
