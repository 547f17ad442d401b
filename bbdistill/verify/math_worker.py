"""The process in which `math` reads and compares: a script of its own, so that a hopeless expression can be stopped.

One JSON object a line on stdin, `expected` and perhaps `answer`; one on stdout: `known` (the expected one can be read),
`read` (how the answer was read, None = not at all) and `equal`.
"""

import json
import logging
import re
import resource
import sys
from functools import partial
from typing import Any

import math_verify  # pyright: ignore[reportMissingTypeStubs]
from math_verify import LatexExtractionConfig  # pyright: ignore[reportMissingTypeStubs]
from sympy import sstr  # pyright: ignore[reportMissingTypeStubs]

MEMORY_BYTES = 4 * 2**30
LAST = 10_000
"""Characters from the end of an answer that are looked at."""

_library: Any = math_verify
_parse: Any = partial(_library.parse, parsing_timeout=None)
_verify: Any = partial(_library.verify, timeout_seconds=None)
_sstr: Any = sstr
_DELIMITED = re.compile(r"\$|\\boxed|\\\(|\\\[")
_PROSE = re.compile(r"[a-zA-Z]{3,}")
_NAMES = re.compile(r"\\[a-zA-Z]+|sqrt|sin|cos|tan|log|exp")


def main() -> None:
    logging.disable(logging.CRITICAL)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        # The verifier stops what takes too long; this does where the verifier is gone.
        used = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
        resource.setrlimit(resource.RLIMIT_CPU, (used + request["limit_s"] + 2, resource.RLIM_INFINITY))
        print(json.dumps(_compared(request["expected"], request.get("answer"))), flush=True)


def _compared(expected: str, answer: str | None) -> dict[str, Any]:
    known = _whole(expected) or _read(expected)
    if answer is None or not known:
        return {"known": bool(known)}
    found = _read(answer[-LAST:])
    equal = bool(found) and _verify(known, found)
    return {"known": True, "read": _shown(found[0]) if found else None, "equal": bool(equal)}


def _read(text: str) -> list[Any]:
    """The last expression of a text, or the boxed one; a text that is nothing but an expression is taken as LaTeX."""
    bare = not _DELIMITED.search(text) and not _PROSE.search(_NAMES.sub("", text))
    return (_whole(text) if bare else []) or _parse(text)


def _whole(text: str) -> list[Any]:
    if not text.strip():
        return []
    given = text if _DELIMITED.search(text) else f"${text.strip()}$"
    return _parse(given, [LatexExtractionConfig()])


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else _sstr(value, full_prec=False)


if __name__ == "__main__":
    main()
