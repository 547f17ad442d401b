"""Which values of a request are secret, and how they are kept out of what is stored, raised and logged."""

import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import parse_qsl, unquote, urlsplit

from bbdistill.client.call import Call, Reply

SECRET_PARAMETERS = {
    "key",
    "api_key",
    "api-key",
    "apikey",
    "access_token",
    "token",
    "sig",
    "signature",
    "subscription-key",
}
_SECRET_HEADERS = ("authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie")
_WHOSE = ("organization", "organisation", "workspace", "project")
"""Headers with such a word in their name tell whose account it is."""
_PATTERN = re.compile(r"sk-[A-Za-z0-9_-]{16,}|\bBearer\s+[^\s\"'\\,]{8,}|\bAKIA[A-Z0-9]{16}\b|\borg-[A-Za-z0-9]{12,}")
_COOKIE = re.compile(r"([^=;,\s]+)=([^;,\s]+)")
_ADDRESS = re.compile(
    rf"(?<=://)[^/\s@'\"]+@|(?<=[?&])({'|'.join(sorted(SECRET_PARAMETERS))})=[^&\s'\"]+", re.IGNORECASE
)
_HEADER = re.compile(
    rf"(b?['\"](?:set-)?(?:{'|'.join(_SECRET_HEADERS)}|[\w-]*(?:{'|'.join(_WHOSE)})[\w-]*)['\"]\s*[:,]\s*b?)(['\"]).*?\2",
    re.IGNORECASE,
)
"""A name and its value, as dicts and lists of headers are printed."""
_MARK = "[redacted]"


def secrets_of(call: Call) -> set[str]:
    """The secret values a call carries: keys in headers, credentials in the address, secret query parameters."""
    values = [call.headers[name].split(" ", 1)[-1] for name in _SECRET_HEADERS if name in call.headers]
    values += [value for name, value in call.headers.items() if _tells_whose(name)]
    address = urlsplit(call.url)
    values += [unquote(part) for part in (address.username, address.password) if part]
    values += [value for name, value in parse_qsl(address.query) if name.lower() in SECRET_PARAMETERS]
    return {value.strip() for value in values if _tells_something(value.strip())}


def identities_of(reply: Reply) -> set[str]:
    """What the headers of a reply say of whose account or session it is."""
    values = [value for name, value in reply.headers.items() if _tells_whose(name)]
    values += [value for _, value in _COOKIE.findall(reply.headers.get("set-cookie", ""))]
    return {value for value in values if _tells_something(value)}


def redact_line(text: str) -> str:
    """A line of a log, where addresses and printed headers stand, without anything secret."""
    return _PATTERN.sub(_MARK, _HEADER.sub(rf"\1\2{_MARK}\2", _ADDRESS.sub(_MARK, text)))


def redact(text: str, secrets: Iterable[str], *, patterns: bool = True) -> str:
    """`text` without these values and, with `patterns`, without anything that looks like a key.

    Good replies are stored with `patterns` off: an answer about key formats must replay as it was.
    """
    for value in sorted(secrets, key=len, reverse=True):
        text = text.replace(value, _MARK)
    return _PATTERN.sub(_MARK, text) if patterns else text


@lru_cache(maxsize=256)  # a few names, in every request and reply
def _tells_whose(header: str) -> bool:
    return any(word in header for word in _WHOSE)


def _tells_something(value: str) -> bool:
    # Local servers take any key ("none", "ollama"): such a word must not be cut out of every answer.
    return len(value) >= 20 or (len(value) >= 8 and (value.startswith("sk-") or any(c.isdigit() for c in value)))
