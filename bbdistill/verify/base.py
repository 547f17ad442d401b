"""What every verifier is: a function of prompt and answer that gives a `Verdict`, or abstains. No torch, no network."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from bbdistill.types import Abstain, Prompt, Verdict

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Verifier(Protocol):
    def __call__(self, prompt: Prompt, answer: str, /) -> Verdict | Abstain:
        """Never raises for a bad answer: what is wrong with it is the verdict."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One verifier among several."""

    verifier: Verifier
    weight: float | None = None
    """Share in the mean score; None = 1, and for a gate 0."""
    gate: bool = False
    """Whether the others are asked only if this one passes."""
    grades: bool = False
    """Whether its score says how good an answer is: it looks at the reference in a way of its own."""

    @property
    def share(self) -> float:
        return self.weight if self.weight is not None else float(not self.gate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Combined:
    """Several verifiers as one: passed if all pass, score their weighted mean; those that abstain do not count.

    Gates are asked first, in order. One that fails decides: the score is 0, and nothing else is asked. One that passes
    counts in the score only with a weight of its own, or where there are gates alone.
    """

    parts: tuple[Part, ...]

    def __call__(self, prompt: Prompt, answer: str, /) -> Verdict | Abstain:
        found: list[tuple[float, Verdict | Abstain]] = []
        for part in sorted(self.parts, key=lambda part: not part.gate):
            verdict = part.verifier(prompt, answer)
            if part.gate and isinstance(verdict, Verdict) and not verdict.passed:
                return replace(verdict, score=0.0)
            found.append((part.share, verdict))
        return _together(found)

    @property
    def grades(self) -> bool:
        return any(part.grades for part in self.parts)


def combine(verifiers: Sequence[Verifier | Part]) -> Combined:
    return Combined(parts=tuple(part if isinstance(part, Part) else Part(verifier=part) for part in verifiers))


def _together(found: Sequence[tuple[float, Verdict | Abstain]]) -> Verdict | Abstain:
    shares = [(share, verdict) for share, verdict in found if isinstance(verdict, Verdict)]
    if not shares:
        reasons = "; ".join(verdict.reason for _, verdict in found if isinstance(verdict, Abstain))
        return Abstain(reason=reasons or "no verifier")
    if not any(share for share, _ in shares):
        shares = [(1.0, verdict) for _, verdict in shares]
    verdicts = [verdict for _, verdict in shares]
    return Verdict(
        score=sum(share * verdict.score for share, verdict in shares) / sum(share for share, _ in shares),
        passed=all(verdict.passed for verdict in verdicts),
        feedback="\n".join(dict.fromkeys(verdict.feedback for verdict in verdicts if verdict.feedback)),
        spans=tuple(span for verdict in verdicts for span in verdict.spans),
    )


def quoted(text: str, limit: int = 80) -> str:
    """The text in quotes, as one line, cut at `limit` characters."""
    return writable(json.dumps(_cut(text, limit), ensure_ascii=False))


def one_line(text: str, limit: int) -> str:
    """The text as one line, cut at `limit` characters; what steers a terminal becomes a space."""
    return _cut(" ".join(writable(_CONTROL.sub(" ", text)).split()), limit)


def writable(text: str) -> str:
    """Half a surrogate pair is a text in Python, and breaks whoever sends or stores it: here it is spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "…"
