"""Where two answers differ, so that a judge looks there and not at what they share.

A weak judge that sees two nearly equal texts in full mostly prefers a position; shown the difference, it looks it up.
"""

import json
from dataclasses import dataclass
from difflib import SequenceMatcher

ALIKE = 0.5
"""Share of equal lines from which on two answers are shown by their difference instead of in full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """`shared` has the common lines, "(…)" where the answers part; `parts` the two versions of each such place."""

    shared: str
    parts: tuple[tuple[str, str], ...]


def differences(a: str, b: str) -> Differences | None:
    """Line by line, JSON in an even layout. None where they have too little in common, or differ in layout only."""
    lines_a, lines_b = _lines(a), _lines(b)
    matcher = SequenceMatcher(None, lines_a, lines_b, autojunk=False)
    shared: list[str] = []
    parts: list[tuple[str, str]] = []
    for tag, a0, a1, b0, b1 in matcher.get_opcodes():
        if tag == "equal":
            shared += lines_a[a0:a1]
        else:
            shared.append("(…)")
            parts.append((_joined(lines_a[a0:a1]), _joined(lines_b[b0:b1])))
    if not parts or matcher.ratio() < ALIKE:
        return None
    return Differences(shared="\n".join(shared), parts=tuple(parts))


def _lines(text: str) -> list[str]:
    try:
        return json.dumps(json.loads(text), ensure_ascii=False, indent=1).splitlines()
    except (ValueError, RecursionError):
        return text.strip().splitlines()


def _joined(lines: list[str]) -> str:
    # The comma of a JSON line says where it stands, not what it says.
    return " ".join(line.strip().removesuffix(",") for line in lines)
