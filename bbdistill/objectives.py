"""What a stage of a recipe optimises, what it asks the teacher, and which examples follow from the answers. Pure."""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from bbdistill.config import RunConfig, TrainConfig
from bbdistill.rewards import Rewards
from bbdistill.types import (
    Abstain,
    Correction,
    Demonstration,
    PolicyExample,
    Preference,
    Prompt,
    RankedPair,
    Rollout,
    SFTExample,
    Verdict,
)

Rollouts = Sequence[Sequence[Rollout]]
Pair = tuple[int, int, int]
"""(prompt, first sample, second sample), indices into a step's rollouts."""
Spot = tuple[int, int]
"""(prompt, sample)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stretch of steps with one set of objectives. A term that is off has nothing to work on: weight or count 0."""

    name: str
    steps: int
    group_size: int
    """Rollouts per prompt; 0 = none are sampled, and with them the policy term and the discriminator are off."""
    policy_weight: float
    preferences: int
    corrections: int
    learning_rate: float
    validate_every: int
    """Steps between validations; the last step is always followed by one."""
    patience: int
    """The stage ends early after this many validations without a new best; 0 = never."""

    def rate(self, step: int) -> float:
        """Falls linearly to a tenth over the stage."""
        return self.learning_rate * (1 - 0.9 * step / self.steps)

    def validates(self, done: int) -> bool:
        """Whether a validation is due after this many of the stage's steps."""
        return done % self.validate_every == 0 or done == self.steps


def stages(config: RunConfig) -> tuple[Stage, ...]:
    """The stages of a recipe, in order. The state after the last one without a policy term is what "SFT-only" means."""
    train = config.train
    supervised = Stage(
        name="sft",
        steps=train.steps,
        group_size=0,
        policy_weight=0.0,
        preferences=0,
        corrections=0,
        learning_rate=train.learning_rate,
        validate_every=train.validate_every,
        patience=2,
    )
    match config.recipe:
        case "sft":
            return (supervised,)
        case "gad":
            warmup = replace(supervised, name="warmup", steps=train.warmup_max)
            discriminator = replace(
                supervised,
                name="discriminator",
                steps=config.discriminator.warmup_steps,
                group_size=train.group_size,
                learning_rate=train.policy_learning_rate,
                validate_every=config.discriminator.warmup_steps,
                patience=0,
            )
            policy = replace(
                discriminator,
                name="policy",
                steps=train.steps,
                policy_weight=1.0,
                preferences=config.feedback.preferences,
                corrections=config.feedback.corrections,
                validate_every=train.validate_policy_every,
            )
            return tuple(stage for stage in (warmup, discriminator, policy) if stage.steps > 0)


def choose_pairs(rollouts_P_G: Rollouts, verdicts_P_G: Sequence[Sequence[Verdict | Abstain]], count: int) -> list[Pair]:
    """Pairs worth a judge's opinion: different texts, first those the verifier cannot tell apart, over all prompts."""
    ranked: list[tuple[bool, int, Pair]] = []
    for p, rollouts_G in enumerate(rollouts_P_G):
        distinct = _first_of_each_text(rollouts_G)
        for turn, (i, j) in enumerate(itertools.combinations(distinct, 2)):
            told_apart = _score(verdicts_P_G[p][i]) != _score(verdicts_P_G[p][j])
            ranked.append((told_apart, turn, (p, i, j)))
    return [pair for _, _, pair in sorted(ranked)[:count]]


def choose_corrections(
    rollouts_P_G: Rollouts,
    verdicts_P_G: Sequence[Sequence[Verdict | Abstain]],
    scores_P_G: Sequence[Sequence[float]],
    count: int,
) -> list[Spot]:
    """The worst rollouts, each text once: by the verifier's score, then by the discriminator's.

    An answer nothing is known to be wrong with (the verifier abstains or passes it) comes after every known failure.
    """
    ranked: list[tuple[float, float, Spot]] = []
    for p, rollouts_G in enumerate(rollouts_P_G):
        for i in _first_of_each_text(rollouts_G):
            verdict = verdicts_P_G[p][i]
            known = verdict.score if isinstance(verdict, Verdict) and not verdict.passed else 1.0
            ranked.append((known, scores_P_G[p][i], (p, i)))
    return [spot for _, _, spot in sorted(ranked)[:count]]


def policy_batch(rollouts_P_G: Rollouts, rewards: Rewards, weight: float) -> list[PolicyExample]:
    """Every rollout with its advantage; none where the policy term is off."""
    if weight == 0:
        return []
    return [
        PolicyExample(rollout=rollout, advantage=weight * advantage)
        for rollouts_G, advantages_G in zip(rollouts_P_G, rewards.advantages_P_G, strict=True)
        for rollout, advantage in zip(rollouts_G, advantages_G, strict=True)
    ]


def sft_batch(
    prompts: Sequence[Prompt], demonstrations: Mapping[str, Demonstration], accepted: Sequence[Correction]
) -> list[SFTExample]:
    """Demonstrations of the step's prompts and the accepted corrections."""
    shown = [demonstrations[prompt.id] for prompt in prompts if prompt.id in demonstrations]
    return [
        *(SFTExample(prompt=d.prompt, text=d.completion) for d in shown),
        *(SFTExample(prompt=c.rollout.prompt, text=c.text) for c in accepted),
    ]


def ranked_pairs(
    rollouts_P_G: Rollouts,
    demonstrations: Mapping[str, Demonstration],
    preferences: Sequence[Preference],
    accepted: Sequence[Correction],
) -> list[RankedPair]:
    """teacher > student, preferred > other, correction > original; each once, equal texts never."""
    everything = [
        *(
            RankedPair(prompt=r.prompt, chosen=demonstrations[r.prompt.id].completion, rejected=r.completion)
            for rollouts_G in rollouts_P_G
            for r in rollouts_G
            if r.prompt.id in demonstrations
        ),
        *(RankedPair(prompt=p.prompt, chosen=p.chosen, rejected=p.rejected) for p in preferences),
        *(RankedPair(prompt=c.rollout.prompt, chosen=c.text, rejected=c.rollout.completion) for c in accepted),
    ]
    once = {(pair.prompt.id, pair.chosen, pair.rejected): pair for pair in everything if pair.chosen != pair.rejected}
    return list(once.values())


def epochs(ids: Sequence[str], seed: int, first: int, last: int) -> list[str]:
    """Items [first, last) of an endless stream: all `ids` in a seeded order, then all again in another."""
    stream: list[str] = []
    for epoch in range(first // len(ids), (last - 1) // len(ids) + 1):
        order = list(ids)
        random.Random(f"{seed}:{epoch}").shuffle(order)
        stream += order
    start = first - first // len(ids) * len(ids)
    return stream[start : start + last - first]


def prompts_used(stages: Sequence[Stage], train: TrainConfig, ids: Sequence[str]) -> list[str]:
    """The prompts that the stages take if every one of them runs to its end, each once, in order of use."""
    last = sum(stage.steps for stage in stages) * train.prompts_per_step
    return list(dict.fromkeys(epochs(ids, train.seed, 0, last)))


def trustworthy(
    demonstrations: Sequence[Demonstration], verify: Callable[..., Verdict | Abstain]
) -> dict[str, Demonstration]:
    """By prompt id, the demonstrations that no verifier refutes: a wrong answer is not imitated, whoever wrote it."""

    def refuted(demonstration: Demonstration) -> bool:
        verdict = verify(demonstration.prompt, demonstration.completion)
        return isinstance(verdict, Verdict) and not verdict.passed

    return {d.prompt.id: d for d in demonstrations if not refuted(d)}


def _first_of_each_text(rollouts_G: Sequence[Rollout]) -> list[int]:
    seen: dict[str, int] = {}
    for index, rollout in enumerate(rollouts_G):
        seen.setdefault(rollout.completion, index)
    return list(seen.values())


def _score(verdict: Verdict | Abstain) -> float | None:
    return verdict.score if isinstance(verdict, Verdict) else None
