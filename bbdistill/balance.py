"""What keeps the two sides of an adversarial run level: a pool of earlier pairs, a governor of their speeds. Pure."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bbdistill.config.training import DiscriminatorConfig
from bbdistill.types import PairSource, Prompt, RankedPair

HEALTHY = (0.65, 0.85)
"""Accuracy of the discriminator on fresh pairs, teacher over student, within which both sides learn at full speed.

At 1 the student is told apart by a shortcut (length, format), at 0.5 the reward is noise (methods of GAD's users).
"""
CHANCE = 0.5
SMOOTHING = 0.5
"""Share of the newest accuracy in the running one: a step has some tens of pairs, whose accuracy is off by 0.1."""


@dataclass(slots=True)
class Pool:
    """Earlier pairs, teacher over student, kept whole, with the step each is from; oldest first.

    With negatives of the newest student alone the reward follows a distribution that moves at every step; history keeps
    it in place (persistent negatives, arXiv 2609.30864). Only the discriminator is trained on it.
    """

    size: int
    rows: list[tuple[int, RankedPair]] = field(default_factory=list[tuple[int, RankedPair]])

    def draw(self, fresh: int, fraction: float, *, step: int, seed: int) -> list[RankedPair]:
        """So many pairs that they are `fraction` of all, as far as there are so many; each weighs as when fresh."""
        count = min(round(fresh * fraction / (1 - fraction)), len(self.rows))
        drawn = random.Random(f"{seed}:{step}:pool").sample(self.rows, count)
        return [replace(pair, source="pool") for _, pair in drawn]

    def add(self, fresh: Iterable[RankedPair], *, step: int) -> None:
        """Keeps the teacher's pairs of a step; beyond `size` the oldest go."""
        self.rows += [(step, pair) for pair in fresh if pair.source == "teacher"]
        del self.rows[: max(0, len(self.rows) - self.size)]

    def age(self, step: int) -> float:
        """Mean number of steps since its pairs were fresh."""
        return sum(step - then for then, _ in self.rows) / len(self.rows) if self.rows else 0.0

    def state(self) -> list[list[Any]]:
        return [
            [step, p.prompt.id, [dict(message) for message in p.prompt.messages], p.chosen, p.rejected, p.weight]
            for step, p in self.rows
        ]

    def load_state(self, state: Sequence[Sequence[Any]]) -> None:
        self.rows = []
        for step, name, said, chosen, rejected, weight in state:
            prompt = Prompt(id=name, messages=tuple(said))
            pair = RankedPair(prompt=prompt, chosen=chosen, rejected=rejected, source="teacher", weight=weight)
            self.rows.append((step, pair))


def running(before: float, accuracy: float | None) -> float:
    """The running accuracy after one more step; unchanged where the step had no fresh pairs.

    It starts at `CHANCE`: what a few lucky pairs say of an untrained discriminator is not believed at once.
    """
    return before if accuracy is None else (1 - SMOOTHING) * before + SMOOTHING * accuracy


def speeds(accuracy: float) -> tuple[float, float]:
    """What is left, in [0, 1], of (the discriminator's part in the reward, its learning rate).

    Within the healthy band both are 1. Above it the discriminator slows down, to a stop at 1; below it the student
    follows it less, and not at all at chance, where it tells nothing apart.
    """
    low, high = HEALTHY
    reward, learning = (accuracy - CHANCE) / (low - CHANCE), (1 - accuracy) / (1 - high)
    return min(max(reward, 0.0), 1.0), min(max(learning, 0.0), 1.0)


def weigh(pairs: Sequence[RankedPair], settings: DiscriminatorConfig) -> list[RankedPair]:
    """Pairs times the weight of their source, less those of weight 0."""
    weights: dict[PairSource, float] = {
        "teacher": settings.teacher_weight,
        "pool": settings.teacher_weight,
        "preference": settings.preference_weight,
        "correction": settings.correction_weight,
    }
    weighed = (replace(pair, weight=pair.weight * weights[pair.source]) for pair in pairs)
    return [pair for pair in weighed if pair.weight > 0]
