"""The stages of a recipe: stretches of steps, what each asks, optimises and takes its prompts from. Pure."""

import itertools
import math
import random
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from bbdistill.config import RunConfig
from bbdistill.errors import ConfigError
from bbdistill.types import ONCE, Revising

AT_ONCE = 64
"""Prompts of one step that gathers: as many as a teacher is usually asked about at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stretch of steps with one set of objectives. A term that is off has nothing to work on: weight or count 0."""

    name: str
    steps: int
    ids: tuple[str, ...]
    """The prompts it takes, a few each step; empty = those that something was gathered for."""
    prompts: int
    """Taken in each step."""
    lessons: Literal["demonstrations", "gathered"] | None
    """What is imitated besides the corrections of the step; None = nothing is."""
    gathers: Literal["corrections", "candidates"] | None = None
    """What it gathers lessons from, for the next stage; it takes each prompt once, and imitates nothing itself."""
    group_size: int = 0
    """Rollouts per prompt; 0 = none are sampled, and with them all terms but the supervised one are off."""
    refills: int = 0
    """Rounds in which prompts whose rollouts the verifier cannot tell apart are replaced by others."""
    frozen: bool = False
    """Whether rollouts are the snapshot's: one answer per prompt of the student as it was before the stage."""
    sft_weight: float = 1.0
    policy: bool = False
    """Whether it learns from rewards,"""
    preference: bool = False
    """or from pairs of answers."""
    compares: bool = False
    """Whether rollouts are held against the teacher's answers, by discriminator, rubric or preference term."""
    distils: Literal["demonstrations", "rollouts"] | None = None
    """Which answers the teacher scores token by token, for the student to learn its distributions from."""
    preferences: int = 0
    corrections: int | None = 0
    """Rollouts that are corrected in each step, the worst first; None = all that do not pass the verifier."""
    revising: Revising = ONCE
    """How they are corrected."""
    candidates: int = 0
    """Answers asked of the teacher for each prompt."""
    references: int = 0
    """The same, to mark the rollouts beside them, by a rubric for each prompt; 0 = there is no rubric."""
    coached: int = 0
    """Rollouts that the teacher gives advice on in each step, at most."""
    learning_rate: float
    validate_every: int
    """Steps between validations; the last step is always followed by one. 0 = none."""
    patience: int
    """The stage ends early after this many validations without a new best; 0 = never."""

    @property
    def supervised(self) -> bool:
        """Whether demonstrations are all it learns from: the state after the last such stage is "SFT-only"."""
        return self.lessons == "demonstrations" and not self.group_size and self.distils is None

    @property
    def rewarded(self) -> bool:
        """Whether it may also make the student worse at what it could do before: more than imitation."""
        return self.policy or self.preference or self.distils == "rollouts"

    @property
    def shows(self) -> bool:
        """Whether it needs the teacher's answers to its prompts."""
        imitated = self.lessons == "demonstrations" and self.sft_weight > 0
        return imitated or self.compares or self.distils == "demonstrations"

    def rate(self, step: int) -> float:
        """Falls linearly to a tenth over the stage."""
        return self.learning_rate * (1 - 0.9 * step / self.steps)

    def validates(self, done: int) -> bool:
        """Whether a validation is due after this many of the stage's steps."""
        return self.validate_every > 0 and done > 0 and (done % self.validate_every == 0 or done == self.steps)


def stages(config: RunConfig, ids: Sequence[str], given: Container[str]) -> tuple[Stage, ...]:
    """The stages of a recipe, in order, for training prompts `ids`, of which those in `given` came with an answer."""
    train, shown = config.train, demonstrated(config, ids, given)
    supervised = Stage(
        name="sft",
        steps=train.steps,
        ids=shown,
        prompts=train.prompts_per_step,
        lessons="demonstrations",
        learning_rate=train.learning_rate,
        validate_every=train.validate_every,
        patience=2,
    )
    warmup = replace(supervised, name="warmup", steps=train.warmup_max if shown else 0)
    match config.recipe:
        case "sft":
            if not shown:
                raise ConfigError(
                    "there is nothing to imitate: no training prompt has a `completion`, and the teacher is not asked "
                    "for any; set `feedback.demonstrations = true`"
                )
            return (supervised,)
        case "gad" | "grpo" | "rubric" | "coach":
            feedback, weights = config.feedback, config.discriminator
            pairs = (
                (shown, weights.teacher_weight),
                (feedback.preferences, weights.preference_weight),
                (feedback.corrections, weights.correction_weight),
            )
            if config.reward.discriminator and not any(map(all, pairs)):
                raise ConfigError(
                    "the discriminator has nothing to learn from: no training prompt has a `completion`, and the "
                    "teacher is asked for nothing; set `feedback.demonstrations = true`, or raise "
                    "`feedback.preferences` or `feedback.corrections` (and their weights in `[discriminator]`), or set "
                    "`reward.discriminator = 0`"
                )
            alone = _discriminator(config, ids)  # it asks for nothing, so that the answers alone can teach it
            rewarded = (alone, _policy(config, ids)) if shown else (_policy(config, ids),)
            return tuple(stage for stage in (warmup, *rewarded) if stage.steps > 0)
        case "dpo":
            feedback, preference = config.feedback, _preference(config, shown or ids)
            compared = feedback.preferences and preference.group_size > 1  # with another answer to the same prompt
            if not (shown or compared or feedback.corrections):
                raise ConfigError(
                    "there is nothing to prefer: no training prompt has a `completion`, and the teacher is asked for "
                    "nothing; set `feedback.demonstrations = true`, or raise `feedback.corrections`, or, with "
                    '`dpo.negatives = "on_policy"`, `feedback.preferences` and `train.group_size` (2 or more)'
                )
            return tuple(stage for stage in (warmup, preference) if stage.steps > 0)
        case "kd":
            if not shown:
                raise ConfigError(
                    "there is nothing to distil: no training prompt has a `completion`, and the teacher is not asked "
                    "for any; set `feedback.demonstrations = true`"
                )
            own = config.distill.scores == "own" and not config.teacher.is_local
            if own and all(name in given for name in shown):
                raise ConfigError(
                    '`distill.scores = "own"` has the teacher score its own answers, and all answers come with the '
                    "data; use a teacher that scores given texts, or leave the `completion`s out and set "
                    "`feedback.demonstrations = true`"
                )
            dense = replace(supervised, name="kd", distils="demonstrations", sft_weight=train.sft_weight)
            return tuple(stage for stage in (warmup, dense) if stage.steps > 0)
        case "opd":
            rewarded = replace(_policy(config, ids), policy=False, refills=0, references=0, compares=False)
            dense = replace(rewarded, name="opd", distils="rollouts")
            return tuple(stage for stage in (warmup, dense) if stage.steps > 0)
        case "best_of_n" | "isft" | "rgt" | "process":
            rounds = itertools.chain(*(_round(config, ids, number) for number in range(train.rounds)))
            return tuple(stage for stage in (warmup, *rounds) if stage.steps > 0)
        case _:
            assert_never(config.recipe)


def demonstrated(config: RunConfig, ids: Sequence[str], given: Container[str]) -> tuple[str, ...]:
    """Those of `ids` that have a demonstration, or get one from the teacher."""
    return tuple(ids) if config.feedback.demonstrations else tuple(name for name in ids if name in given)


def _discriminator(config: RunConfig, ids: Sequence[str]) -> Stage:
    """The discriminator alone learns, from the warmed-up student; without one, no steps."""
    train = config.train
    return Stage(
        name="discriminator",
        steps=config.discriminator.warmup_steps if config.reward.discriminator else 0,
        ids=tuple(ids),
        prompts=train.prompts_per_step,
        lessons=None,
        group_size=train.group_size,
        compares=config.reward.discriminator > 0,
        learning_rate=train.policy_learning_rate,
        validate_every=0,
        patience=0,
    )


def _policy(config: RunConfig, ids: Sequence[str]) -> Stage:
    """Rewards on the student's own rollouts."""
    train, feedback, reward = config.train, config.feedback, config.reward
    return replace(
        _discriminator(config, ids),
        name="policy",
        steps=train.steps,
        lessons="demonstrations",
        sft_weight=train.sft_weight,
        policy=True,
        refills=config.policy.refills if reward.verifier_alone else 0,
        preferences=feedback.preferences,
        corrections=feedback.corrections,
        references=config.rubric.answers if reward.rubric else 0,
        compares=reward.discriminator > 0 or reward.rubric > 0,
        coached=config.coach.rollouts if config.recipe == "coach" else 0,
        validate_every=train.validate_policy_every,
    )


def _preference(config: RunConfig, ids: Sequence[str]) -> Stage:
    """The teacher's answers are preferred to the student's own."""
    snapshot = config.dpo.negatives == "snapshot"
    return replace(
        _policy(config, ids),
        name="dpo",
        frozen=snapshot,
        group_size=1 if snapshot else config.train.group_size,
        refills=0,
        compares=True,
        references=0,
        policy=False,
        preference=True,
    )


def _round(config: RunConfig, ids: Sequence[str], number: int) -> tuple[Stage, Stage]:
    """What the student as it is now needs to learn is gathered from its next prompts, and then imitated."""
    train, feedback, recipe = config.train, config.feedback, config.recipe
    size = min(train.prompts_per_round or len(ids), len(ids))
    chosen = tuple(dict.fromkeys(epochs(ids, train.seed, number * size, (number + 1) * size)))
    gather = Stage(
        name=f"gather-{number + 1}",
        steps=math.ceil(len(chosen) / AT_ONCE),
        ids=chosen,
        prompts=AT_ONCE,
        lessons=None,
        gathers="corrections",
        group_size=1,
        corrections=None,
        revising=Revising(limit=feedback.revisions, quoted=recipe == "process", strategy=recipe == "rgt"),
        learning_rate=train.learning_rate,
        validate_every=0,
        patience=0,
    )
    if recipe == "best_of_n":
        asked = feedback.candidates_from == "teacher"
        drawn, bought = (0, train.group_size) if asked else (train.group_size, 0)
        gather = replace(gather, gathers="candidates", group_size=drawn, candidates=bought, corrections=0)
    imitate = Stage(
        name=f"sft-{number + 1}",
        steps=train.steps,
        ids=(),
        prompts=train.prompts_per_step,
        lessons="gathered",
        learning_rate=train.learning_rate,
        validate_every=train.validate_every,
        patience=2,
    )
    return gather, imitate


def epochs(ids: Sequence[str], seed: int, first: int, last: int) -> list[str]:
    """Items [first, last) of an endless stream: all `ids` in a seeded order, then all again in another."""
    stream: list[str] = []
    for epoch in range(first // len(ids), (last - 1) // len(ids) + 1):
        order = list(ids)
        random.Random(f"{seed}:{epoch}").shuffle(order)
        stream += order
    start = first - first // len(ids) * len(ids)
    return stream[start : start + last - first]


def step_prompts(stage: Stage, gathered: Iterable[str], *, step: int, stage_step: int, seed: int) -> list[str]:
    """The prompts of one step: in a new seeded order each epoch, without end; each once where a stage gathers."""
    ids = stage.ids or tuple(gathered)
    if not ids:
        return []
    # The stages that go round share one stream, so that a stage goes on where the one before it stopped.
    first = (stage_step if stage.gathers else step) * stage.prompts
    last = first + stage.prompts
    chosen = epochs(ids, seed, first, min(last, len(ids)) if stage.gathers else last)
    # Where an epoch ends within a step, a prompt may come twice; its rollouts would be the same ones.
    return list(dict.fromkeys(chosen)) if stage.group_size else chosen


def refill_prompts(stage: Stage, taken: Collection[str], count: int, *, step: int, turn: int, seed: int) -> list[str]:
    """Other prompts in the place of `count` that nothing can be learned from, as many as there are."""
    others = [name for name in stage.ids if name not in taken]
    return random.Random(f"{seed}:{step}:refill:{turn}").sample(others, min(count, len(others)))


def prompts_used(stages: Sequence[Stage], seed: int, shown: Collection[str], *, distilled: bool = False) -> list[str]:
    """The prompts whose demonstrations are shown if every stage runs to its end, each once, in order of use.

    `shown` are those that may have one: a stage with rewards takes the others too. With `distilled`, those of stages
    that have them scored.
    """
    among, taken = set(shown), _taken(stages, seed)
    used = itertools.chain(*(names for stage, names in taken if stage.distils == "demonstrations" or not distilled))
    return [name for name in dict.fromkeys(used) if name in among]


def prompts_marked(stages: Sequence[Stage], seed: int) -> dict[str, int]:
    """The prompts whose rollouts are marked by a rubric then, and beside how many answers of the teacher."""
    return {name: stage.references for stage, names in _taken(stages, seed) for name in names if stage.references}


def _taken(stages: Sequence[Stage], seed: int) -> Iterator[tuple[Stage, list[str]]]:
    """Each stage that shows answers of the teacher, with its prompts; the stages share one stream."""
    first = 0
    for stage in stages:
        if stage.shows:
            last = first + stage.steps * stage.prompts
            yield stage, epochs(stage.ids, seed, first, last)
            first = last
