"""Which tokens of two tokenizers stand for the same piece of one text. Knows bytes alone.

Bytes, since a token may hold part of a character, and what a student writes need not be valid text.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

SHOWN = 16
"""Bytes of each text in an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A span of the text at whose two ends both have a boundary, and nowhere between. Tokens, last excluded."""

    student: tuple[int, int]
    teacher: tuple[int, int]

    @property
    def single(self) -> bool:
        """Whether it is one token on both sides."""
        return self.student[1] - self.student[0] == self.teacher[1] - self.teacher[0] == 1


def units(student: Sequence[bytes], teacher: Sequence[bytes]) -> list[Unit]:
    """The units of a completion, in order, of the bytes that each token adds to it; they hold every token once.

    A token without bytes belongs to what follows it. Those at the end of both, the end of turn, are a unit; ValueError
    if one side alone has any, or if the two texts differ.
    """
    _same(b"".join(student), b"".join(teacher))
    ends, other_ends = list(accumulate(map(len, student))), list(accumulate(map(len, teacher)))
    shared = sorted({end for end in ends if end} & set(other_ends))
    cuts = [(bisect_left(ends, end) + 1, bisect_left(other_ends, end) + 1) for end in shared]
    last = cuts[-1] if cuts else (0, 0)
    left, other_left = len(student) - last[0], len(teacher) - last[1]
    if bool(left) != bool(other_left):
        raise ValueError(
            f"the two sides do not end alike: after {sum(map(len, student))} bytes of text the student has {left} "
            f"token(s) without any and the teacher {other_left}; give both an end of turn, or neither"
        )
    cuts += [(len(student), len(teacher))] if left else []
    starts = [(0, 0), *cuts][: len(cuts)]
    return [
        Unit(student=(first, last), teacher=(other_first, other_last))
        for (first, other_first), (last, other_last) in zip(starts, cuts, strict=True)
    ]


def _same(student: bytes, teacher: bytes) -> None:
    if student == teacher:
        return
    pairs = zip(student, teacher, strict=False)
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(student), len(teacher)))
    raise ValueError(
        f"the tokens of student and teacher do not spell the same text: from byte {place} on the student's say "
        f"{student[place : place + SHOWN]!r}, the teacher's {teacher[place : place + SHOWN]!r}; does one of the "
        "tokenizers change what it is given?"
    )
