"""What `advise` measured, each figure with its n or with why there is none, and the formulas behind them. Pure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from bbdistill.types import Abstain, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measured value and how many cases it is the mean of; None = not measured, and `why`."""

    value: float | None = None
    n: int = 0
    why: str = "not measured"

    @property
    def hits(self) -> int:
        """Of a rate: the cases it counts."""
        return round((self.value or 0.0) * self.n)

    def as_json(self) -> dict[str, Any]:
        return {"value": self.value, "n": self.n} | ({"why": self.why} if self.value is None else {})


UNMEASURED = Figure()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one recipe would take: dollars at least and at most, and hours on this machine, an estimate."""

    recipe: str
    usd: tuple[float, float] | None = None
    """None = no price is known. What the store holds already costs nothing."""
    hours: float | None = None
    """Sampling and training only, at most, from the seconds per token measured here; None = not measured."""
    why: str = ""
    """Why there is no figure, where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything the rule may look at. Rates are shares in [0, 1]."""

    prompts: int
    """Training prompts; the sample is the first of them that a run would ask about."""
    given: int
    """Of all prompts, those that came with a demonstration (`completion`)."""
    has_verifier: bool

    given_pass: Figure = UNMEASURED
    """Demonstrations of the sample that the verifier passes."""
    given_score: Figure = UNMEASURED

    teacher_answers: Figure = UNMEASURED
    """Calls with a usable reply, one that declines being none; None where the teacher cannot be used at all."""
    teacher_fault: str = ""
    """Why some prompts of the sample were not answered; empty where all were."""
    teacher_pass: Figure = UNMEASURED
    teacher_score: Figure = UNMEASURED
    gives_log_probs: bool | None = None
    """Whether the teacher says how likely it finds a given text, token by token; None = not known: servers vary."""

    steady: Figure = UNMEASURED
    """Answers that get the same verdict twice, of all that get one."""
    accepts_reference: Figure = UNMEASURED
    """References that pass when they are given as the answer, which they may be meant to be or not."""
    rejects_empty: Figure = UNMEASURED
    rejects_other: Figure = UNMEASURED
    """Rejected answers to another prompt of the sample; those that say the same are not tried."""
    rejects_shuffled: Figure = UNMEASURED
    """With the values of its fields, its lines or its words in another order."""
    rejects_truncated: Figure = UNMEASURED
    """Cut in the middle."""
    feedback: Figure = UNMEASURED
    """Different texts of feedback for each rejection: near 1 it says what is wrong, near 0 only that it is wrong."""

    k: int = 4
    """Rollouts per prompt, at training temperature."""
    pass_at_1: Figure = UNMEASURED
    """Rollouts that pass and came to their end: of others no recipe learns. Here and below, n counts prompts."""
    pass_at_k: Figure = UNMEASURED
    bits: Figure = UNMEASURED
    """What a pass-or-fail reward tells per rollout: mean over prompts of the binary entropy of the pass rate.

    k rollouts show less than there is: of the 0.88 bits of a pass rate of 30 %, four show 0.66.
    """
    pass_bits: Figure = UNMEASURED
    """The part of `bits` that lies in the rollouts that pass; imitating those alone leaves the rest unused."""
    zero_variance: Figure = UNMEASURED
    """Groups whose rollouts all got the same score: they have no advantage, and teach a policy gradient nothing."""
    student_tokens: Figure = UNMEASURED
    """Mean length of a rollout."""
    cut: Figure = UNMEASURED
    """Rollouts that `student.max_new_tokens` cut off; n counts rollouts."""
    answer_tokens: Figure = UNMEASURED
    """Mean length of a demonstration (else of a teacher's answer) in the student's tokens."""
    nll: Figure = UNMEASURED
    """Mean nats per token of those answers under the untrained student."""
    sample_s: Figure = UNMEASURED
    """Seconds per token drawn on this machine; n counts tokens."""
    train_s: Figure = UNMEASURED
    """Seconds per token trained on, its share of the prompt included; n counts tokens."""

    costs: tuple[Cost, ...] = field(default=())
    spent_usd: float | None = 0.0
    """What measuring this cost now; None = a price is not known."""

    def as_json(self) -> dict[str, Any]:
        return {
            name: value.as_json() if isinstance(value := getattr(self, name), Figure) else plain
            for name, plain in asdict(self).items()
        }


class Marks(NamedTuple):
    """What a verifier said of some answers."""

    passed: Figure
    score: Figure


def marks(verdicts: Sequence[Verdict | Abstain], nothing: str = "there are no answers") -> Marks:
    """Pass rate and mean score over the verdicts; abstentions are left out."""
    judged = [verdict for verdict in verdicts if isinstance(verdict, Verdict)]
    why = f"not judged: {verdicts[0].reason}" if verdicts and isinstance(verdicts[0], Abstain) else nothing
    return Marks(passed=mean((v.passed for v in judged), why), score=mean((v.score for v in judged), why))


def mean(values: Iterable[float], why: str = "") -> Figure:
    """The mean with its n; without values, `why` there are none."""
    found = [float(value) for value in values]
    return Figure(value=sum(found) / len(found), n=len(found), why="") if found else Figure(why=why)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that one of k draws passes, at least, unbiased from c passes in n draws (arXiv 2107.03374, eq. 1)."""
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def bits_of(p: float) -> float:
    """Binary entropy, in bits: at most 1, at p = 1/2; 0 where the outcome is known."""
    return passing_bits(p) + passing_bits(1 - p)


def passing_bits(p: float) -> float:
    """The part of the binary entropy that lies in one outcome of probability p: p log2(1/p)."""
    return p * math.log2(1 / p) if p > 0 else 0.0


def wilson(figure: Figure) -> tuple[float, float]:
    """95 % interval of a rate (Wilson, 1927), good for few cases and for rates near 0 and 1; (0, 1) without n."""
    if figure.value is None or not figure.n:
        return 0.0, 1.0
    z, n, p = 1.96, figure.n, figure.value
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def rate(figure: Figure) -> str:
    """A share as one reads it: 71 % (17 of 24)."""
    return f"{percent(figure.value or 0.0)} ({figure.hits} of {figure.n})"


def mean_rate(figure: Figure) -> str:
    """A mean of shares: 31 % (over 24 prompts)."""
    return f"{percent(figure.value or 0.0)} (over {figure.n} prompts)"
