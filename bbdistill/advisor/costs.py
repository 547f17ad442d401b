"""What each recipe would take here: dollars as `estimate` has them, hours from the seconds per token just measured."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from bbdistill.advisor.findings import Cost, Figure
from bbdistill.config import RunConfig, Settings
from bbdistill.errors import ConfigError
from bbdistill.estimate import estimate_task
from bbdistill.objectives import Stage, stages
from bbdistill.task import Task, load_task, resolve

_ANSWERED_AT_THE_END = 3
"""Greedy answers to each test prompt: of the base, after imitation, and at the end."""


def costs(path: Path, overrides: Sequence[str], recipes: Sequence[str], lengths: "Lengths") -> Iterator[Cost]:
    """One for each recipe; a recipe that this config does not fit says so."""
    for recipe in recipes:
        try:
            config = resolve(path, Settings(overrides=(*overrides, f'recipe="{recipe}"')))
            task = load_task(config)
            usd = estimate_task(config, task).usd
        except ConfigError as fault:
            yield Cost(recipe=recipe, why=str(fault))
        else:
            yield Cost(recipe=recipe, usd=usd, hours=_hours(config, task, lengths))


class Lengths:
    """Tokens of a rollout and of an answer, and what each takes; None where it was not measured."""

    def __init__(self, *, rollout: Figure, answer: Figure, sample_s: Figure, train_s: Figure) -> None:
        self.rollout, self.sample_s = rollout.value, sample_s.value
        # Without an answer to measure, what is imitated is taken to be as long as what the student says.
        self.answer = answer.value if answer.value is not None else rollout.value
        self.train_s = train_s.value if train_s.value is not None else None


def _hours(config: RunConfig, task: Task, lengths: Lengths) -> float | None:
    """Sampling, training, validation and evaluation if every stage runs to its end; the teacher is not waited for."""
    if config.student is None or lengths.rollout is None or lengths.answer is None:
        return None
    if lengths.sample_s is None or lengths.train_s is None:
        return None
    drawn = trained = 0.0
    for stage in stages(config):
        drawn_here = stage.steps * config.train.prompts_per_step * stage.group_size * lengths.rollout
        drawn += drawn_here + _validations(stage) * len(task.validation) * lengths.rollout
        trained += stage.steps * config.train.prompts_per_step * lengths.answer
        # The policy learns from its rollouts, and the discriminator reads them too.
        trained += drawn_here * (2 if stage.policy_weight else 1)
    drawn += _ANSWERED_AT_THE_END * len(task.test) * lengths.rollout
    return (drawn * lengths.sample_s + trained * lengths.train_s) / 3600


def _validations(stage: Stage) -> int:
    return -(-stage.steps // stage.validate_every)
