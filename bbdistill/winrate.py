"""Win rates: how often a judge prefers the student's answers to another model's, as they are and at equal length.

No torch. The judge sees each pair in both orders; where these disagree nobody has won.
"""

import asyncio
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from bbdistill.evaluate import interval, mean
from bbdistill.teacher.ask import compared
from bbdistill.teacher.teacher import Teacher
from bbdistill.types import Abstain, Judgement, Preference, Prompt, Tie, Verify

STUDENT = "student"
Texts: TypeAlias = Mapping[str, Sequence[str | None]]
"""By model, an answer to each of the same prompts; None = it gave none."""
Outcome: TypeAlias = tuple[float, float | None]
"""Won, 1 or 0 or half, and how much longer the student's answer was, in (-1, 1); None where both answers are equal."""
NO_SPREAD = 1e-9
"""Less is rounding: the differences in length are all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The student's answer to one prompt beside another model's, and what the judge says."""

    prompt: Prompt
    against: str
    student: str
    other: str
    judgement: Judgement

    @property
    def outcome(self) -> float | None:
        """1 where the student's answer won, 0 where it lost, 0.5 for a tie; None where nothing usable was said."""
        match self.judgement:
            case Preference(chosen=chosen):
                return float(chosen == self.student)
            case Tie():
                return 0.5
            case Abstain():
                return None

    @property
    def longer(self) -> int:
        """Characters that the student's answer has more."""
        return len(self.student) - len(self.other)


async def matches(judge: Teacher, prompts: Sequence[Prompt], texts: Texts, verify: Verify) -> list[Match]:
    """The student against each other model, wherever both gave an answer; equal answers are a tie without a call."""
    pairs = [
        (prompt, name, student, other)
        for name in texts
        if name != STUDENT
        for prompt, student, other in zip(prompts, texts[STUDENT], texts[name], strict=True)
        if student is not None and other is not None
    ]
    judged = await asyncio.gather(
        *(compared(judge, prompt, a, b, verify, purpose="evaluation") for prompt, _, a, b in pairs)
    )
    return [
        Match(prompt=prompt, against=name, student=a, other=b, judgement=judgement)
        for (prompt, name, a, b), judgement in zip(pairs, judged, strict=True)
    ]


def win_rates(played: Sequence[Match], against: Sequence[str], prompts: int) -> dict[str, dict[str, Any]]:
    """By model, of so many prompts: `rate` and `equal_length`, each with its 95 % interval, and what they are of."""
    return {name: _summary([m for m in played if m.against == name], prompts) for name in against}


def rows(played: Sequence[Match]) -> Iterator[dict[str, Any]]:
    """Rows of judgements.jsonl: id, against, student, other, outcome, and why where there is none."""
    for m in played:
        why = m.judgement.reason if isinstance(m.judgement, Abstain) else None
        said = {"student": m.student, "other": m.other}
        yield {"id": m.prompt.id, "against": m.against, **said, "outcome": m.outcome, "why": why}


def at_equal_length(played: Sequence[Outcome]) -> float:
    """The win rate that is left where the answers are equally long.

    Judges like long answers. A straight line through the outcomes by least squares, where arXiv 2404.04475 has a
    logistic one; both look at tanh of the difference, so that a few endless answers do not decide. Equal answers say
    nothing of what length does: they stay what they are.
    """
    told = [(won, longer) for won, longer in played if longer is not None]
    if not told:
        return statistics.fmean(won for won, _ in played)
    rate, longer = (statistics.fmean(column) for column in zip(*told, strict=True))
    spread = sum((x - longer) ** 2 for _, x in told)
    slope = sum((y - rate) * (x - longer) for y, x in told) / spread if spread > NO_SPREAD else 0.0
    fitted = min(max(rate - slope * longer, 0.0), 1.0)
    return (fitted * len(told) + sum(won for won, x in played if x is None)) / len(played)


def _summary(played: Sequence[Match], prompts: int) -> dict[str, Any]:
    found = [(m.outcome, m) for m in played if m.outcome is not None]
    outcomes = [outcome for outcome, _ in found]
    flips = sum(isinstance(m.judgement, Tie) and m.judgement.flipped for _, m in found)
    low, high = interval(outcomes)
    scaled = _scaled(found)
    equal_low, equal_high = interval(scaled, of=at_equal_length)
    return {
        "rate": mean(outcomes),
        "low": low,
        "high": high,
        "equal_length": at_equal_length(scaled) if scaled else None,
        "equal_length_low": equal_low,
        "equal_length_high": equal_high,
        "n": len(found),
        "wins": outcomes.count(1.0),
        "losses": outcomes.count(0.0),
        "flips": flips,
        "equal": outcomes.count(0.5) - flips,
        "unusable": len(played) - len(found),
        "unanswered": prompts - len(played),
        "characters": [mean([len(m.student) for m in played]), mean([len(m.other) for m in played])],
    }


def _scaled(found: Sequence[tuple[float, Match]]) -> list[Outcome]:
    """Nothing where one side's answers are always the longer ones: then none shows what equal ones would get."""
    differences = [m.longer for _, m in found if m.student != m.other]
    if differences and not min(differences) <= 0 <= max(differences):
        return []
    scale = math.sqrt(statistics.fmean(d**2 for d in differences)) if differences else 0.0
    return [(won, None if m.student == m.other else math.tanh(m.longer / scale) if scale else 0.0) for won, m in found]
