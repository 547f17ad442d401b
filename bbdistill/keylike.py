"""What looks like a key in a config, where none belongs. Looks at texts only; what is stored is `client/secrets.py`."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

_KNOWN = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:sk|gsk|xai|hf|ghp|gho|glpat|github_pat)[-_](?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{16,}"
    r"|AKIA[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{30,}|Bearer\s+\S{8,})"
)
"""The forms that providers give their keys."""
_RUN = re.compile(r"[A-Za-z0-9+]{32,}")
_DIGEST = re.compile(r"[0-9a-f]+")
_RANDOM_BITS = 3.0
"""Per character; random hex of this length has 3.5 and more, words put together have no digits."""
_SECRET_PARAMETER = re.compile(r"key|token|sig|signature|secret|password", re.IGNORECASE)

_SECRET_IN_ADDRESS = re.compile(rf"://[^/\s@]+@|[?&][\w-]*(?:{_SECRET_PARAMETER.pattern})[\w-]*=", re.IGNORECASE)


def looks_like_key(text: str) -> bool:
    """Whether `text` holds a key of a known form, or a long run of random characters.

    Digests in lower-case hex are allowed inside a path: that is how model caches name their directories.
    """
    if _KNOWN.search(text):
        return True
    in_path = "/" in text or "\\" in text
    return any(_random(run) and not (in_path and _DIGEST.fullmatch(run)) for run in _RUN.findall(text))


def without_keys(text: str) -> str:
    """The text, with every key of a known form taken out."""
    return _KNOWN.sub("[redacted]", text)


def may_tell_a_secret(text: str) -> bool:
    """Whether a message holds what looks like a key, or an address with credentials."""
    return looks_like_key(text) or _SECRET_IN_ADDRESS.search(text) is not None


def keys_in(value: Any, at: str = "") -> Iterator[str]:
    """Dotted names of the texts in a config tree that look like a key; never the texts themselves."""
    match value:
        case str() if looks_like_key(value):
            yield at
        case dict():
            for name, item in cast(dict[str, Any], value).items():
                if looks_like_key(name):
                    yield at
                else:
                    yield from keys_in(item, f"{at}.{name}".lstrip("."))
        case list() | tuple():
            for item in cast(list[Any], value):
                yield from keys_in(item, at)
        case _:
            pass


def address_secret(address: str) -> bool:
    """Whether a URL carries credentials: a user or password, or a parameter such as `?key=`."""
    parts = urlsplit(address)
    return "@" in parts.netloc or any(_SECRET_PARAMETER.search(name) for name, _ in parse_qsl(parts.query))


def _random(run: str) -> bool:
    counts = Counter(run)
    bits = -sum(n / len(run) * math.log2(n / len(run)) for n in counts.values())
    return bits >= _RANDOM_BITS and any(c.isdigit() for c in run) and any(c.isalpha() for c in run)
