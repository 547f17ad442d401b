"""What is rewarded: the discriminator's score and the verifier's, as advantages within each prompt's group. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bbdistill.types import Abstain, Verdict

Verdicts = Sequence[Sequence[Verdict | Abstain]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewards:
    """Rewards and advantages of a step's rollouts; `discriminator_version` says which discriminator scored them."""

    values_P_G: tuple[tuple[float, ...], ...]
    advantages_P_G: tuple[tuple[float, ...], ...]
    discriminator_version: int


def reward(
    scores_P_G: Sequence[Sequence[float]],
    verdicts_P_G: Verdicts,
    *,
    discriminator_version: int,
    discriminator_weight: float,
    verifier_weight: float,
) -> Rewards:
    """reward = discriminator_weight * standardised score + verifier_weight * verdict; advantage = reward - group mean.

    The discriminator's logits have no scale of their own, so they are centred within the group and divided by their
    standard deviation over the whole batch (arXiv 2508.08221); a group's own deviation would magnify meaningless
    differences. A group in which the verifier abstains has no verifier term: an abstention is never a zero.
    """
    standard_P_G = _standardise(scores_P_G)
    values = tuple(
        tuple(
            discriminator_weight * score + verifier_weight * check
            for score, check in zip(scores_G, _checks(verdicts_G), strict=True)
        )
        for scores_G, verdicts_G in zip(standard_P_G, verdicts_P_G, strict=True)
    )
    return Rewards(
        values_P_G=values,
        advantages_P_G=tuple(tuple(center(values_G)) for values_G in values),
        discriminator_version=discriminator_version,
    )


def center(values: Sequence[float]) -> list[float]:
    """Differences to the mean; no division by the group's spread (dr_grpo, arXiv 2503.20783)."""
    mean = sum(values) / len(values) if values else 0.0
    return [value - mean for value in values]


def reward_metrics(rewards: Rewards) -> dict[str, float]:
    flat = [value for values_G in rewards.values_P_G for value in values_G]
    if not flat:
        return {}
    still = sum(all(abs(a) < 1e-12 for a in advantages_G) for advantages_G in rewards.advantages_P_G)
    return {
        "reward/mean": sum(flat) / len(flat),
        "reward/std": math.sqrt(sum(d * d for d in center(flat)) / len(flat)),
        "reward/frac_zero_std": still / len(rewards.values_P_G),
        "reward/discriminator_version": float(rewards.discriminator_version),
    }


def _standardise(scores_P_G: Sequence[Sequence[float]]) -> list[list[float]]:
    centred_P_G = [center(scores_G) for scores_G in scores_P_G]
    flat = [score for scores_G in centred_P_G for score in scores_G]
    deviation = math.sqrt(sum(score * score for score in flat) / len(flat)) if flat else 0.0
    return [[score / (deviation + 1e-4) for score in scores_G] for scores_G in centred_P_G]


def _checks(verdicts_G: Sequence[Verdict | Abstain]) -> list[float]:
    scores = [verdict.score for verdict in verdicts_G if isinstance(verdict, Verdict)]
    return scores if len(scores) == len(verdicts_G) else [0.0] * len(verdicts_G)
