"""Reads replies of the generation endpoints (chat/completions, responses, messages, embeddings) into one `Reading`.

What the SDKs let pass in silence (an empty body, a web page, a stream that broke off) is `Malformed` here.
"""

import json
import re
from collections.abc import Callable
from typing import Any, cast

from bbdistill.client import sse
from bbdistill.client.call import Kind, Malformed, Reading, WebPage
from bbdistill.client.values import Json, as_object, is_text, parse
from bbdistill.types import Usage

_MOST_TOKENS = 10**12
"""That a reply can have; a server that says more does not count."""
_TERMS = ("service_tier", "speed")
_GOODNESS: list[Kind] = ["refusal", "length", "ok"]
"""Several choices are as good as the worst of them."""


def endpoint(path: str) -> str | None:
    """The generation endpoint a path ends in; None = not one of them."""
    return next((name for name in _READERS if path.endswith("/" + name)), None)


def read(path: str, body: bytes, content_type: str) -> Reading:
    """What a reply of status 200 says. `path` ends in the endpoint's name. Malformed if it is not what was promised."""
    name = endpoint(path)
    if name is None:
        raise ValueError(f"`{path}` is not a generation endpoint")
    if not body.strip():
        raise Malformed("the reply is empty", retryable=True)
    try:
        text = body.decode()
        value = sse.assemble(name, text) if "event-stream" in content_type else json.loads(text)
        reading = _READERS[name](cast(Json, value))
    except Malformed:
        raise
    except (ValueError, RecursionError):
        form = content_type or "no content type"
        if "html" in content_type or body.lstrip()[:9].lower().startswith((b"<html", b"<!doctype")):
            raise WebPage(f"the reply is a web page ({form}): {_first_words(body)}") from None
        raise Malformed(f"the reply is cut off or not JSON ({form})", retryable=True) from None
    except (KeyError, TypeError, AttributeError, IndexError):
        raise Malformed(f"the reply has no {_PROMISED[name]}{_complaint(body)}", retryable=True) from None
    if not is_text(reading.text):
        raise Malformed("the reply holds half a surrogate pair, which is no text", retryable=True)
    return reading


def _chat(value: Json) -> Reading:
    choices: list[Json] = value["choices"]
    first: Json = choices[0]["message"]
    kinds: list[Kind] = [_choice_kind(choice) for choice in choices]
    usage = _table(value, "usage")
    return Reading(
        kind=min(kinds, key=_GOODNESS.index),
        text=_plain(first.get("content")),
        usage=_openai_usage(usage, "prompt_tokens", "completion_tokens"),
        model=_model(value),
        metered=_metered(usage, "prompt_tokens", "completion_tokens"),
        terms=_terms(value),
    )


def _choice_kind(choice: Json) -> Kind:
    message: Json = choice["message"]
    reason = choice.get("finish_reason")
    if reason == "content_filter" or message.get("refusal"):
        return "refusal"
    if reason == "length":
        return "length"
    if message.get("content") is None and not message.get("tool_calls") and not message.get("function_call"):
        return "refusal"  # a whole reply, and billed, in which the model says nothing
    return "ok"


def _plain(content: Any) -> str:
    """Text of a message; some servers send it in parts."""
    match content:
        case None:
            return ""
        case str():
            return content
        case _:
            return "".join(part["text"] for part in content if part["type"] == "text")


def _responses(value: Json) -> Reading:
    output: list[Json] = value["output"]
    status = value.get("status", "completed")
    if status not in ("completed", "incomplete"):
        told = _table(value, "error").get("message", "")
        raise Malformed(f"the response is `{status}` {told}".rstrip(), retryable=status == "failed")
    parts: list[Json] = [part for item in output if item["type"] == "message" for part in item["content"]]
    refused = any(part["type"] == "refusal" for part in parts)
    kind: Kind = "refusal" if refused else "ok"
    if status == "incomplete":
        filtered = _table(value, "incomplete_details").get("reason") == "content_filter"
        kind = "refusal" if filtered else "length"
    if kind == "ok" and not parts and all(item["type"] == "reasoning" for item in output):
        raise KeyError("message")
    usage = _table(value, "usage")
    return Reading(
        kind=kind,
        text="".join(part["text"] for part in parts if part["type"] == "output_text"),
        usage=_openai_usage(usage, "input_tokens", "output_tokens"),
        model=_model(value),
        metered=_metered(usage, "input_tokens", "output_tokens"),
        terms=_terms(value),
    )


def _messages(value: Json) -> Reading:
    blocks: list[Json] = value["content"]
    reason = value.get("stop_reason")
    cut = reason in ("max_tokens", "model_context_window_exceeded")
    usage = _table(value, "usage")
    return Reading(
        kind="refusal" if reason == "refusal" else "length" if cut else "ok",
        # Thinking blocks are not part of the answer.
        text="".join(block["text"] for block in blocks if block["type"] == "text"),
        usage=_anthropic_usage(usage),
        model=_model(value),
        metered=_metered(usage, "input_tokens", "output_tokens"),
        terms=_terms(usage),
    )


def _embeddings(value: Json) -> Reading:
    if not all(row["embedding"] for row in value["data"]) or not value["data"]:
        raise KeyError("embedding")
    usage = _table(value, "usage")
    return Reading(
        kind="ok",
        text="",
        usage=Usage(input_tokens=_count(usage, "prompt_tokens")),
        model=_model(value),
        metered=_is_count(usage.get("prompt_tokens")),
    )


def _openai_usage(usage: Json, sent: str, made: str) -> Usage:
    """OpenAI counts cached tokens inside the input."""
    details = _table(usage, sent + "_details")
    return Usage(
        input_tokens=_count(usage, sent),
        output_tokens=_count(usage, made),
        cached_tokens=_count(details, "cached_tokens"),
        cache_write_tokens=_count(details, "cache_write_tokens"),
    )


def _anthropic_usage(usage: Json) -> Usage:
    """Anthropic counts cached tokens beside the input."""
    cached, written = _count(usage, "cache_read_input_tokens"), _count(usage, "cache_creation_input_tokens")
    return Usage(
        input_tokens=_count(usage, "input_tokens") + cached + written,
        output_tokens=_count(usage, "output_tokens"),
        cached_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=_count(_table(usage, "cache_creation"), "ephemeral_1h_input_tokens"),
    )


def _terms(value: Json) -> dict[str, str]:
    return {name: value[name] for name in _TERMS if isinstance(value.get(name), str)}


def _model(value: Json) -> str | None:
    name = value.get("model")
    return name if isinstance(name, str) else None


def _count(usage: Json, name: str) -> int:
    return usage[name] if _is_count(usage.get(name)) else 0


def _metered(usage: Json, sent: str, made: str) -> bool:
    return _is_count(usage.get(sent)) and _is_count(usage.get(made, 0))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value <= _MOST_TOKENS


def _table(value: Json, name: str) -> Json:
    return as_object(value.get(name))


def _first_words(page: bytes) -> str:
    """Of what people would read, the beginning."""
    text = re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", page.decode("utf-8", "replace"), flags=re.DOTALL)
    return json.dumps(" ".join(text.split())[:100], ensure_ascii=False)


def _complaint(body: bytes) -> str:
    """Some gateways answer 200 with an error inside."""
    error = as_object(parse(body)).get("error")
    return f"; it says {json.dumps(error, ensure_ascii=False)[:300]}" if error else ""


_READERS: dict[str, Callable[[Json], Reading]] = {
    "chat/completions": _chat,
    "responses": _responses,
    "messages": _messages,
    "embeddings": _embeddings,
}
_PROMISED = {
    "chat/completions": "`choices` with a `content`",
    "responses": "`output` with a message",
    "messages": "`content`",
    "embeddings": "`data`",
}
