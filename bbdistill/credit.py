"""Which tokens of a rollout its advantage is for. A run decides once how this is told, and asks at every step. Pure."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from bbdistill.objectives import Rollouts, Spot, edited
from bbdistill.rewards import NONE, Rewards
from bbdistill.teacher.ask import Feedback
from bbdistill.types import Coaching, Rollout

Magnitudes: TypeAlias = tuple[float, ...]
"""One for each token of a rollout: how much of the advantage is that token's."""
Touched: TypeAlias = Callable[[Rollout, Sequence[tuple[int, int]]], Magnitudes]
"""1 for each of a rollout's tokens that holds any of these characters, else 0."""
Evidence: TypeAlias = Callable[[Sequence[Coaching]], Sequence[tuple[float, ...] | None]]
"""For each token of a rollout how much likelier the advice makes it, in nats; None where that cannot be told."""
_MOST_NATS = 50.0
"""Beyond this an exponential is beyond any clip range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """Rollouts that are not named have the same magnitude everywhere."""

    magnitudes: Mapping[Spot, Magnitudes] = field(default_factory=dict[Spot, Magnitudes])
    metrics: dict[str, float] = field(default_factory=dict[str, float])


Assign: TypeAlias = Callable[[Rollouts, Rewards, Feedback], Credit]


def evenly(rollouts_P_G: Rollouts, rewards: Rewards, feedback: Feedback) -> Credit:
    """All tokens alike."""
    return Credit()


class ByCorrection:
    """Of corrected rollouts that are worse than their group, the tokens that an accepted correction changed.

    Of one that is better, that much credit would be for what the correction took out.
    """

    def __init__(self, touched: Touched) -> None:
        self._touched = touched

    def __call__(self, rollouts_P_G: Rollouts, rewards: Rewards, feedback: Feedback) -> Credit:
        spots = {id(r): (p, i) for p, group in enumerate(rollouts_P_G) for i, r in enumerate(group)}
        return Credit(
            magnitudes={
                spots[id(c.rollout)]: self._touched(c.rollout, edited(c.rollout.completion, c.text))
                for c in feedback.accepted
                if rewards.advantages_P_G[spots[id(c.rollout)][0]][spots[id(c.rollout)][1]] < 0
            }
        )


class ByAdvice:
    """Of coached rollouts, the tokens on which the student that heard the advice would have said something else.

    The reward says which way a rollout goes, the student's own evidence how much of that is each token's:
    exp(sign(A) * (log pi(token | advice) - log pi(token))), clipped by the loss (RLSD, arXiv 2604.03128). Learned as a
    target instead, the advised student's view makes the other one cite what it cannot see.
    """

    def __init__(self, evidence: Evidence, *, clip: float) -> None:
        self._evidence, self._clip = evidence, clip

    def __call__(self, rollouts_P_G: Rollouts, rewards: Rewards, feedback: Feedback) -> Credit:
        advice = {(c.rollout.prompt.id, c.rollout.completion): c.advice for c in feedback.coachings}
        coached = {
            (p, i): (advantage, Coaching(rollout=rollout, advice=advice[rollout.prompt.id, rollout.completion]))
            for p, (rollouts_G, advantages_G) in enumerate(zip(rollouts_P_G, rewards.advantages_P_G, strict=True))
            for i, (rollout, advantage) in enumerate(zip(rollouts_G, advantages_G, strict=True))
            if (rollout.prompt.id, rollout.completion) in advice
            and rollout.stop_reason == "stop"
            and abs(advantage) > NONE
        }
        found = self._evidence([coaching for _, coaching in coached.values()])
        known = {
            spot: (advantage, evidence)
            for (spot, (advantage, _)), evidence in zip(coached.items(), found, strict=True)
            if evidence is not None
        }
        magnitudes = {spot: weights(advantage, evidence) for spot, (advantage, evidence) in known.items()}
        return Credit(magnitudes=magnitudes, metrics=self._metrics(list(known.values()), list(magnitudes.values())))

    def _metrics(
        self, known: Sequence[tuple[float, tuple[float, ...]]], magnitudes: Sequence[Magnitudes]
    ) -> dict[str, float]:
        """Shares of the tokens of coached rollouts; none where there are none.

        `agreement`: those that the advice makes likelier, of which rollouts better than their group should have more
        (`raised_good`) than the others (`raised_bad`).
        """
        raised = [(advantage > 0, change > 0) for advantage, evidence in known for change in evidence]
        clipped = [abs(weight - 1) > self._clip for weights in magnitudes for weight in weights]
        shares = {
            "coach/agreement": [up for _, up in raised],
            "coach/raised_good": [up for good, up in raised if good],
            "coach/raised_bad": [up for good, up in raised if not good],
            "coach/clip_fraction": clipped,
        }
        found = {name: sum(tokens) / len(tokens) for name, tokens in shares.items() if tokens}
        return found | ({"coach/rollouts": float(len(known))} if known else {})


def weights(advantage: float, evidence: Sequence[float]) -> Magnitudes:
    """Over 1 where evidence speaks for a token of a good rollout, or against one of a bad one; under 1 elsewhere."""
    sign = math.copysign(1.0, advantage)
    return tuple(math.exp(min(sign * change, _MOST_NATS)) for change in evidence)
