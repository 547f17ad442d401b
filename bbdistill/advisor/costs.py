"""What each recipe would take here: dollars as `estimate` has them, hours from the seconds per token just measured."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from bbdistill.advisor.findings import Cost, Findings
from bbdistill.config import RunConfig, Settings
from bbdistill.errors import ConfigError
from bbdistill.estimate import estimate_task
from bbdistill.stages import Stage, stages
from bbdistill.task import Task, load_task, resolve

_ANSWERED_AT_THE_END = 3
"""Greedy answers to each test prompt: of the base, after imitation, and at the end."""


def costs(path: Path, overrides: Sequence[str], recipes: Sequence[str], found: Findings) -> Iterator[Cost]:
    """One for each recipe; a recipe that this config does not fit says so."""
    for recipe in recipes:
        try:
            config = resolve(path, Settings(overrides=(*overrides, f'recipe="{recipe}"')))
            task = load_task(config)
            usd = estimate_task(config, task).usd
        except ConfigError as fault:
            yield Cost(recipe=recipe, why=str(fault))
        else:
            yield Cost(recipe=recipe, usd=usd, hours=_hours(config, task, found))


def _hours(config: RunConfig, task: Task, found: Findings) -> float | None:
    """Sampling, training, validation and evaluation if every stage runs to its end; the teacher is not waited for."""
    rollout, answer = found.student_tokens.value, found.answer_tokens.value
    sample_s, train_s = found.sample_s.value, found.train_s.value
    if config.student is None or rollout is None or answer is None or sample_s is None or train_s is None:
        return None
    drawn = trained = 0.0
    for stage in stages(config, [prompt.id for prompt in task.train], task.demonstrations):
        taken = len(stage.ids) if stage.gathers else stage.steps * stage.prompts
        rollouts = taken * stage.group_size * rollout
        drawn += rollouts + _validations(stage) * len(task.validation) * rollout
        # The discriminator reads the rollouts, and the policy learns from them.
        trained += 0.0 if stage.gathers else taken * answer + rollouts * (2 if stage.policy_weight else 1)
    drawn += _ANSWERED_AT_THE_END * len(task.test) * rollout
    return (drawn * sample_s + trained * train_s) / 3600


def _validations(stage: Stage) -> int:
    return math.ceil(stage.steps / stage.validate_every) if stage.validate_every else 0
