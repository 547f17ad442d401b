"""What is rewarded: discriminator, verifier, preferences, rubric, as advantages within each prompt's group. Pure."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bbdistill.config.training import PolicyConfig, RewardConfig
from bbdistill.types import Abstain, MarkedGroup, Preference, Rollout, Verdict

Values = Sequence[Sequence[float]]
"""One number per rollout, (P, G)."""
Verdicts = Sequence[Sequence[Verdict | Abstain]]
Rollouts = Sequence[Sequence[Rollout]]
NONE = 1e-12
"""Below this an advantage is rounding."""
OWN_SCALE = (["verifier"], ["rubric"])
"""Terms that keep their scale where they are alone: shares of what there is to reach, in [0, 1]."""
_TINY = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewards:
    """Rewards and advantages of a step's rollouts; `discriminator_version` says which discriminator scored them."""

    values_P_G: tuple[tuple[float, ...], ...]
    advantages_P_G: tuple[tuple[float, ...], ...]
    discriminator_version: int = 0
    shares: Mapping[str, float] = field(default_factory=dict[str, float])
    """How much of the reward's size each term makes up; they add up to 1."""
    alike: float = 0.0
    """Share of the groups in which no term tells one answer from another, however much it is trusted."""


def reward(
    terms: Mapping[str, Values],
    weights: RewardConfig,
    policy: PolicyConfig,
    *,
    trust: float = 1.0,
    drift_P_G: Values = (),
    discriminator_version: int = 0,
) -> Rewards:
    """reward = sum over the terms of weight * term; advantage = reward - group mean.

    `terms` are called as in `weights`. Their scales are not comparable, and a discriminator's logits have none, so each
    is centred within the group and divided by its deviation over the batch (arXiv 2508.08221); a group's own deviation
    would magnify meaningless differences. A verifier or a rubric alone keeps its scale; `trust` is the share of the
    discriminator's weight that it deserves now (see `balance.py`). `policy.scale_rewards` divides the
    advantages of a group by their deviation (GRPO, arXiv 2402.03300); without it, dr_grpo's (arXiv 2503.20783).
    `drift_P_G`, log pi / pi_base of a whole rollout in nats, is held against it last, in nats (k1 in the reward).
    """
    used = {name: values for name, values in terms.items() if getattr(weights, name) > 0}
    scaled = {name: values if list(used) in OWN_SCALE else _standardise(values) for name, values in used.items()}
    weight = {name: getattr(weights, name) * (trust if name == "discriminator" else 1.0) for name in used}
    weighted = [[[weight[name] * value for value in values_G] for values_G in scaled[name]] for name in used]
    # A group at a time, then a rollout at a time.
    values = tuple(tuple(map(sum, zip(*of_terms, strict=True))) for of_terms in zip(*weighted, strict=True))
    advantages = [center(values_G) for values_G in values]
    if policy.scale_rewards == "group":
        advantages = [_by_deviation(advantages_G) for advantages_G in advantages]
    if drift_P_G:
        advantages = [
            [a - policy.kl_coef * d for a, d in zip(advantages_G, center(drift_G), strict=True)]
            for advantages_G, drift_G in zip(advantages, drift_P_G, strict=True)
        ]
    return Rewards(
        values_P_G=values,
        advantages_P_G=tuple(map(tuple, advantages)),
        discriminator_version=discriminator_version,
        shares=_shares(dict(zip(used, weighted, strict=True))),
        alike=_alike(list(scaled.values())),
    )


def checks(verdicts_P_G: Verdicts) -> list[list[float]]:
    """The verifier's term. A group in which it abstains has none: an abstention is never a zero."""
    return [_checks(verdicts_G) for verdicts_G in verdicts_P_G]


def wins(rollouts_P_G: Rollouts, preferences: Sequence[Preference]) -> list[list[float]]:
    """The judge's term: (won - lost) / comparisons of a rollout's text within its group; 0 where it was in none.

    A tie is no preference, and counts as if it had not been asked.
    """
    said: dict[tuple[str, str], list[int]] = {}
    for preference in preferences:
        said.setdefault((preference.prompt.id, preference.chosen), []).append(1)
        said.setdefault((preference.prompt.id, preference.rejected), []).append(-1)

    def value(rollout: Rollout) -> float:
        found = said.get((rollout.prompt.id, rollout.completion), [])
        return sum(found) / len(found) if found else 0.0

    return [[value(rollout) for rollout in rollouts_G] for rollouts_G in rollouts_P_G]


def graded(rollouts_P_G: Rollouts, marked: Sequence[MarkedGroup]) -> list[list[float]]:
    """The rubric's term: the share of its points that a rollout's text got (ROPD, arXiv 2605.07396).

    A group without a rubric, or with a text whose marks cannot be read, has none: an abstention is never a zero.
    """
    scores = {(group.prompt.id, answer.text): answer.score for group in marked for answer in group.answers}
    found_P_G = [[scores.get((r.prompt.id, r.completion)) for r in rollouts_G] for rollouts_G in rollouts_P_G]
    return [_all_or_none(found_G) for found_G in found_P_G]


def without_length(scores_P_G: Values, rollouts_P_G: Rollouts) -> list[list[float]]:
    """Centred scores less what a straight line through a completion's length explains, both centred within the groups.

    A discriminator finds length before anything else, and the student follows it (GAD's known failure); the same is
    done to win rates (arXiv 2404.04475). One slope, by least squares, for all groups of the step.
    """
    lengths = [center([float(len(rollout.token_ids)) for rollout in rollouts_G]) for rollouts_G in rollouts_P_G]
    scores = [center(scores_G) for scores_G in scores_P_G]
    both = list(zip(itertools.chain(*scores), itertools.chain(*lengths), strict=True))
    spread = sum(n * n for _, n in both)
    slope = sum(s * n for s, n in both) / spread if spread else 0.0
    return [
        [score - slope * length for score, length in zip(scores_G, lengths_G, strict=True)]
        for scores_G, lengths_G in zip(scores, lengths, strict=True)
    ]


def told_apart(verdicts_G: Sequence[Verdict | Abstain]) -> bool:
    """Whether the verifier finds a difference within a group."""
    return len(set(_checks(verdicts_G))) > 1


def center(values: Sequence[float]) -> list[float]:
    """Differences to the mean."""
    mean = sum(values) / len(values) if values else 0.0
    return [value - mean for value in values]


def reward_metrics(rewards: Rewards, *, learned: bool) -> dict[str, float]:
    """Of a step; `frac_zero_std`, the share of groups without a difference, only where rewards are `learned` from."""
    flat = [value for values_G in rewards.values_P_G for value in values_G]
    if not flat:
        return {}
    return {
        "reward/std": _deviation(center(flat)),
        **({"reward/frac_zero_std": rewards.alike} if learned else {}),
        "reward/discriminator_version": float(rewards.discriminator_version),
        **{f"reward/share_{name}": share for name, share in rewards.shares.items()},
    }


def _standardise(values_P_G: Values) -> list[list[float]]:
    centred_P_G = [center(values_G) for values_G in values_P_G]
    deviation = _deviation([value for values_G in centred_P_G for value in values_G])
    return [[value / (deviation + _TINY) for value in values_G] for values_G in centred_P_G]


def _by_deviation(centred: Sequence[float]) -> list[float]:
    """0 where the differences are rounding."""
    deviation = _deviation(centred)
    return [0.0 if deviation < NONE else value / (deviation + _TINY) for value in centred]


def _alike(terms: Sequence[Values]) -> float:
    groups = list(zip(*terms, strict=True))  # (P, terms, G)
    equal = [all(abs(value) < NONE for values_G in group for value in center(values_G)) for group in groups]
    return sum(equal) / len(equal) if equal else 0.0


def _deviation(centred: Sequence[float]) -> float:
    return math.sqrt(sum(value * value for value in centred) / len(centred)) if centred else 0.0


def _checks(verdicts_G: Sequence[Verdict | Abstain]) -> list[float]:
    return _all_or_none([verdict.score if isinstance(verdict, Verdict) else None for verdict in verdicts_G])


def _all_or_none(scores_G: Sequence[float | None]) -> list[float]:
    """The scores of a group; no difference where one of them is missing."""
    known = [score for score in scores_G if score is not None]
    return known if len(known) == len(scores_G) else [0.0] * len(scores_G)


def _shares(weighted: Mapping[str, Values]) -> dict[str, float]:
    """Of the mean size of what each term adds, centred, so that a verifier that passes all has none."""
    sizes = {
        name: sum(abs(value) for values_G in values for value in center(values_G)) for name, values in weighted.items()
    }
    total = sum(sizes.values())
    return {name: size / total for name, size in sizes.items()} if total else {}
