"""What an HTTP reply is worth: usable, worth another attempt, or final. The only place that knows the rules."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from bbdistill.client import headers, wire
from bbdistill.client.call import Call, Fault, Malformed, Reply
from bbdistill.client.secrets import identities_of, redact, secrets_of
from bbdistill.client.values import as_object, parse

_RETRYABLE = {408, 409, 429}
_FINAL = {400, 401, 402, 403, 404, 413, 422}
STRUCTURED_OUTPUT = ("response_format", "json_schema", "output_config", "structured output")
"""A server that names one of these does not take that form of request; some say so with a 500."""
_HOPELESS = ("insufficient_quota", "billing", "spend_limit", "context_length", "context_size")
"""In the codes of an error: no money left, or too long a request. Some servers say so with a 429, a 500 or a 200."""


def examine(call: Call, reply: Reply) -> Reply:
    """`reply` with its reading. Raises the Fault that it is instead, with nothing secret in it."""
    if 200 <= reply.status < 300:
        try:
            return replace(reply, reading=wire.read(call.path, reply.body, reply.headers.get("content-type", "")))
        except Malformed as fault:
            secrets = secrets_of(call) | identities_of(reply)
            cleaned = _clean(reply, secrets)
            codes, _ = _error_of(cleaned.body.decode())
            raise type(fault)(
                redact(fault.reason, secrets),
                reply=cleaned,
                retryable=fault.retryable and not _hopeless(codes),
                latency_s=reply.latency_s,
            ) from None
    # Before anything is cut short: half a key is no longer recognised.
    reply = _clean(reply, secrets_of(call) | identities_of(reply))
    codes, message = _error_of(reply.body.decode())
    said = ", ".join(dict.fromkeys(codes))
    reason = ": ".join(part for part in (f"HTTP {reply.status} {said}".rstrip(), message) if part)
    raise Fault(
        reason[:500],
        reply=reply,
        retryable=_retryable(reply, codes) and not any(word in message.lower() for word in STRUCTURED_OUTPUT),
        retry_after_s=retry_after(reply),
        latency_s=reply.latency_s,
    )


def _clean(reply: Reply, secrets: set[str]) -> Reply:
    """Servers repeat keys and account ids in what they complain of, and SDKs put that into their exceptions."""
    return replace(reply, body=redact(reply.body.decode("utf-8", "replace"), secrets).encode())


def retry_after(reply: Reply) -> float | None:
    """Seconds the server asks to wait, whichever way it says it; None if it does not."""
    return headers.retry_after(reply.headers, datetime.now(UTC))


def _hopeless(codes: Sequence[str]) -> bool:
    """Whether no other attempt will change it."""
    return any(word in code for code in codes for word in _HOPELESS)


def _retryable(reply: Reply, codes: Sequence[str]) -> bool:
    wish = reply.headers.get("x-should-retry")
    if reply.status in _FINAL or wish == "false" or _hopeless(codes):
        return False
    return wish == "true" or reply.status in _RETRYABLE or reply.status >= 500


def _error_of(body: str) -> tuple[list[str], str]:
    """Codes and message of an error body; the start of the body where it has another form."""
    value = parse(body)
    error = as_object(value).get("error", value)
    fields = as_object(error)
    if not fields:
        return [], (error if isinstance(error, str) else body)[:200].strip()
    fields = fields | as_object(fields.get("details"))
    codes = [str(fields[name]) for name in ("error_code", "code", "type") if fields.get(name)]
    return codes, str(fields.get("message") or "")
