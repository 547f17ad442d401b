"""The process in which `math` reads and compares: a script of its own, so that a hopeless expression can be stopped.

One JSON object a line on stdin: `expected`, `answer` and `limit_s`; one on stdout: `known` (the expected one can be
read), and then `read` (how the answer was read, None = not at all) and `equal`.
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
_DELIMITED = re.compile(r"(?<!\\)\$|\\boxed|\\\(|\\\[")
_PROSE = re.compile(r"[a-zA-Z]{3,}|[a-zA-Z]{2}\s+[a-zA-Z]|[a-zA-Z]\s+[a-zA-Z]{2}")
_COMMANDS = re.compile(r"\\(?:text|mathrm|mbox|operatorname|begin|end)\s*\{[^{}]*\}|\\[a-zA-Z]+|(?<![a-zA-Z])sqrt")
_BARE_NAMES = re.compile(r"(?<![a-zA-Z\\])(sin|cos|tan|log|ln|exp|pi)(?![a-zA-Z]{2})")
"""Without their backslash: `sinx` holds one, `costs` does not."""


def main() -> None:
    logging.disable(logging.CRITICAL)
    if sys.platform == "linux":
        _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        # The verifier stops what takes too long; this does where the verifier is gone.
        used = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
        _limit(resource.RLIMIT_CPU, used + request["limit_s"] + 2)
        print(json.dumps(_compared(request["expected"], request["answer"])), flush=True)


def _limit(kind: int, most: int) -> None:
    """Below the limit that is set already, if there is one."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _compared(expected: str, answer: str) -> dict[str, Any]:
    known = _read(expected)
    if not known:
        return {"known": False}
    found = _read(answer[-LAST:])
    equal = bool(found) and _verify(known, found)
    return {"known": True, "read": _shown(found[0]) if found else None, "equal": bool(equal)}


def _read(text: str) -> list[Any]:
    """The last expression of a text, or the boxed one; a text that is nothing but an expression is taken as LaTeX.

    A word of three letters is prose, and no product of three variables, unless it stands between dollar signs.
    """
    formula = _BARE_NAMES.sub(r"\\\1 ", text)
    bare = not _DELIMITED.search(text) and not _PROSE.search(_COMMANDS.sub("", formula))
    return (_whole(formula) if bare else []) or _parse(text)


def _whole(text: str) -> list[Any]:
    if not text.strip():
        return []
    given = text if _DELIMITED.search(text) else f"${text.strip()}$"
    return _parse(given, [LatexExtractionConfig()])


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else _sstr(value, full_prec=False)


if __name__ == "__main__":
    main()
