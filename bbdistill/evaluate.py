"""Before and after: what each model answers on held-out prompts, how good that is, and how sure we can be of it."""

import random
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from bbdistill.types import Prompt, Verdict, Verify
from bbdistill.verify.base import Combined
from bbdistill.verify.fields import agreement

T = TypeVar("T")
RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """One model's answers to the same prompts, each judged. None = could not be judged; it is left out of the mean."""

    name: str
    texts: tuple[str | None, ...]
    """None = no answer (the teacher abstained)."""
    valid: tuple[float | None, ...]
    scores: tuple[float | None, ...]
    nll: float | None = None
    """Mean nats per token of the teacher's answers under this model."""

    def summary(self) -> dict[str, Any]:
        """`valid`, `score` with a 95 % interval, `n` answers scored, and `nll`."""
        scored = [score for score in self.scores if score is not None]
        judged = [valid for valid in self.valid if valid is not None]
        low, high = interval(scored)
        return {
            "valid": mean(judged),
            "score": mean(scored),
            "low": low,
            "high": high,
            "n": len(scored),
            "nll": self.nll,
        }


def judge(name: str, prompts: Sequence[Prompt], texts: Sequence[str | None], verify: Verify) -> Answers:
    """Valid: what the verifier says without the reference. Score: agreement with the reference, else the verifier's.

    Where the verifier grades answers itself, both are its own verdict.
    """

    def marks(prompt: Prompt, text: str | None) -> tuple[float | None, float | None]:
        return (None, None) if text is None else _marks(prompt, text, verify)

    with ThreadPoolExecutor() as pool:  # a verifier may wait for a program
        found = list(pool.map(marks, prompts, texts))
    return Answers(
        name=name,
        texts=tuple(texts),
        valid=tuple(valid for valid, _ in found),
        scores=tuple(score for _, score in found),
    )


def _marks(prompt: Prompt, text: str, verify: Verify) -> tuple[float | None, float | None]:
    """(valid, score); None where there is nothing to hold the answer against."""
    if prompt.reference is None or (isinstance(verify, Combined) and verify.grades):
        verdict = verify(prompt, text)
        return (float(verdict.passed), verdict.score) if isinstance(verdict, Verdict) else (None, None)
    blind = verify(replace(prompt, reference=None), text)
    return float(blind.passed) if isinstance(blind, Verdict) else None, agreement(text, prompt.reference)


def difference(better: Answers, worse: Answers) -> dict[str, float | None]:
    """Mean difference of the scores on the prompts both have, with a paired 95 % interval."""
    pairs = zip(better.scores, worse.scores, strict=True)
    gains = [b - w for b, w in pairs if b is not None and w is not None]
    low, high = interval(gains)
    return {"score": mean(gains), "low": low, "high": high}


def interval(
    values: Sequence[T], *, level: float = 0.95, of: Callable[[Sequence[T]], float] = statistics.fmean
) -> tuple[float | None, float | None]:
    """Percentile bootstrap of the mean, or of what `of` says, always with the same resamples; None without values."""
    if not values:
        return None, None
    draw = random.Random(0)
    found = sorted(of(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    tail = (1 - level) / 2
    return found[int(tail * RESAMPLES)], found[int((1 - tail) * RESAMPLES) - 1]


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
