"""What makes two requests the same: a readable, canonical form and its sha256. Nothing secret is ever part of it."""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeAlias, cast
from urllib.parse import parse_qsl, urlsplit

from bbdistill.client.call import Call
from bbdistill.client.secrets import SECRET_PARAMETERS

Request: TypeAlias = dict[str, Any]

_CONTENT_HEADERS = ("anthropic-version", "anthropic-beta")
"""The only headers that change what a model answers."""
_NO_CONTENT = {"prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"}
"""Fields that say how a provider is to cache a prompt, which changes no answer."""
_OFFICIAL = {"api.openai.com": "openai", "api.anthropic.com": "anthropic"}
_EXACT = 2**53
_compact = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


@lru_cache(maxsize=256)  # a few addresses, looked at again and again in every call
def teacher_id(url: str, override: str | None = None) -> str:
    """Who answers: `override`, the provider of an official host, or host:port, so that two servers share no replies."""
    if override is not None:
        return override
    address = urlsplit(url)
    host = address.hostname or ""
    return _OFFICIAL.get(host) or f"{host}:{address.port or (80 if address.scheme == 'http' else 443)}"


def canonical(call: Call, teacher: str | None = None) -> Request:
    """Everything of `call` that decides the answer, as JSON values; `teacher` overrides the teacher's id."""
    request: Request = {"teacher": teacher_id(call.url, teacher), "path": call.path, "sample": call.sample}
    asked = urlsplit(call.url).query
    query = sorted(pair for pair in parse_qsl(asked) if pair[0].lower() not in SECRET_PARAMETERS) if asked else []
    if query:
        request["query"] = [list(pair) for pair in query]
    headers = {name: call.headers[name] for name in _CONTENT_HEADERS if name in call.headers}
    if headers:
        request["headers"] = headers
    try:
        body = _of_content(_parse(call.body.decode("utf-8", "surrogatepass")))
        request["body"] = _unmarked(body) if b"cache_control" in call.body else body
    except (ValueError, RecursionError):
        request["text"] = call.body.decode("utf-8", "backslashreplace")
    return request


def key(request: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON, in hex."""
    return hashlib.sha256(_compact(request).encode("utf-8", "surrogatepass")).hexdigest()


def to_json(value: Any) -> str:
    """JSON that SQLite can hold: readable, but escaped where it has half a surrogate pair, which is not UTF-8."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() or _encodable(text) else json.dumps(value)


def _of_content(body: Any) -> Any:
    """`body` without what changes no answer."""
    if not isinstance(body, dict):
        return body
    fields = {name: value for name, value in cast(dict[str, Any], body).items() if name not in _NO_CONTENT}
    # The SDKs' `.parse()` sends `"stream": false` where `.create()` sends nothing.
    if fields.get("stream") is False:
        del fields["stream"]
    # Anthropic takes a mark for its cache only on a list of blocks; a list of one text says what the text says.
    match fields.get("system"):
        case [{"type": "text", "text": str(text), "cache_control": mark, **more}] if _is_mark(mark) and not more:
            fields["system"] = text
        case _:
            pass
    return fields


def _unmarked(value: Any) -> Any:
    """`value` without the marks of Anthropic's prompt cache."""
    if isinstance(value, dict):
        items = cast(dict[str, Any], value).items()
        return {name: _unmarked(item) for name, item in items if not (name == "cache_control" and _is_mark(item))}
    if isinstance(value, list):
        return [_unmarked(item) for item in cast(list[Any], value)]
    return value


def _is_mark(value: Any) -> bool:
    # A schema may have a property of the name; its type is never `ephemeral`.
    return isinstance(value, dict) and cast(dict[str, Any], value).get("type") == "ephemeral"


def _number(text: str) -> int | float:
    """1.0 and 1 are the same number but not the same JSON."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < _EXACT else value


_parse = json.JSONDecoder(parse_float=_number).decode


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
