"""Finds the stored request most like one that was never recorded, and shows where two differ."""

import difflib
import json
import textwrap
from collections.abc import Sequence
from typing import Any

from bbdistill.client.keys import Request

CANDIDATES = 200
"""Stored requests that are looked at, at most."""
_COMPARED_CHARS = 8000
_COMPARED_PAIRS = 1_000_000
_FINALISTS = 5
_DIFF_LINES = 30
_WIDTH = 110


def most_similar(request: Request, candidates: Sequence[Request]) -> Request | None:
    """The one that differs in the fewest letters; of `candidates`, the earlier one where two are as similar."""
    wanted = _lines(request)

    def roughly(candidate: Request) -> float:
        # Compares the letters alone, whatever their order: fast, and never below the true ratio.
        return difflib.SequenceMatcher(None, _text(wanted), _text(_lines(candidate)), autojunk=False).quick_ratio()

    finalists = sorted(candidates, key=roughly, reverse=True)[:_FINALISTS]
    return min(finalists, key=lambda candidate: _distance(wanted, _lines(candidate)), default=None)


def _distance(first: Sequence[str], second: Sequence[str]) -> float:
    """Letters that stand in only one of the two; of long texts, about so many."""
    apart = 0.0
    for what, a, b, c, d in difflib.SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        if what != "equal":
            one, other = _text(first[a:b]), _text(second[c:d])
            letters = difflib.SequenceMatcher(None, one, other, autojunk=False)
            alike = letters.ratio() if len(one) * len(other) < _COMPARED_PAIRS else letters.quick_ratio()
            apart += (1 - alike) * (len(one) + len(other))
    return apart


def diff(stored: Request, wanted: Request) -> str:
    """Unified diff from the stored request to the wanted one, cut after 30 lines; empty if they are equal."""
    lines = unified(stored, wanted, "recorded", "asked").splitlines()
    if len(lines) > _DIFF_LINES:
        lines = [*lines[:_DIFF_LINES], f"... {len(lines) - _DIFF_LINES} more lines"]
    return "\n".join(lines)


def unified(first: Any, second: Any, first_name: str, second_name: str) -> str:
    """Unified diff of two JSON values, whole; empty if they are equal."""
    return "\n".join(difflib.unified_diff(_lines(first), _lines(second), first_name, second_name, n=1, lineterm=""))


def _lines(value: Any) -> list[str]:
    """Readable lines, long texts broken at their own line ends and at the width of a page."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).replace("\\n", "\n")
    return [part for line in text.split("\n") for part in textwrap.wrap(line, _WIDTH, drop_whitespace=False) or [""]]


def _text(lines: Sequence[str]) -> str:
    return "\n".join(lines)[:_COMPARED_CHARS]
