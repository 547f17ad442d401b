"""What each recipe would take here: dollars as `estimate` has them, hours from the seconds per token just measured."""

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bbdistill.advisor.checked import look
from bbdistill.advisor.findings import Cost, Findings
from bbdistill.config import RunConfig, Settings
from bbdistill.config.models import StudentConfig
from bbdistill.errors import ConfigError
from bbdistill.estimate import estimate_task
from bbdistill.stages import Stage, stages
from bbdistill.task import Task, resolve

READ = 0.35
"""Of the time of a training step, the part that reading the same texts takes: 2.0 s of 5.7 s (README, 32 rollouts)."""
RANKED = 0.8
"""The same of an update of the discriminator: 4.4 s."""
STRATEGY_TOKENS = 40
"""Of a strategy of at most 25 words, as `prompts/strategy.md` asks for it, with its tags."""


def costs(
    path: Path,
    overrides: Sequence[str],
    task: Task,
    found: Findings,
    needs: Mapping[str, Sequence[str]],
    stop: threading.Event,
) -> Iterator[Cost]:
    """One for each recipe in `needs`, with what it needs set beside its name; one that does not fit says why.

    RunStopped soon after `stop` is set.
    """
    for recipe, settings in needs.items():
        look(stop)
        try:
            config = resolve(path, Settings(overrides=(*overrides, f'recipe="{recipe}"', *settings)))
            # Without a student, what would be asked about its answers is priced as for one with the usual limits.
            student = config.student or StudentConfig.model_validate({"model": "any"})
            priced = config.model_copy(update={"student": student})
            yield Cost(recipe=recipe, usd=estimate_task(priced, task).usd, hours=hours(config, task, found))
        except ConfigError as fault:
            yield Cost(recipe=recipe, why=str(fault))


def hours(config: RunConfig, task: Task, found: Findings) -> float | None:
    """Sampling, training, validation and evaluation if every stage runs to its end; the teacher is not waited for."""
    draft, sample_s, train_s = found.student_tokens.value, found.sample_s.value, found.train_s.value
    if config.student is None or draft is None or sample_s is None or train_s is None:
        return None
    answer = found.answer_tokens.value or draft
    run = stages(config, [prompt.id for prompt in task.train], task.demonstrations)
    drawn = trained = 0.0
    for stage in run:
        rollouts = _prompts(stage) * stage.group_size
        drawn += (rollouts + _validations(stage) * len(task.validation)) * draft
        trained += READ * _read(stage, draft, answer) + _learned(stage, config, draft, answer)
        # The advised student reads what was coached twice: behind its prompt, and behind the advice.
        coached = min(stage.coached, stage.prompts * stage.group_size * (1 + stage.refills))
        trained += READ * 2 * stage.steps * coached * draft
        if stage.compares and config.reward.discriminator:  # it scores the rollouts, and learns from them
            trained += (READ + RANKED) * rollouts * draft
    # The base and the best student answer the test prompts, and what the demonstrations alone came to.
    answering = 3 if any(stage.supervised for stage in run) else 2
    drawn += answering * len(task.test) * draft
    trained += READ * answering * len(task.test) * answer
    return (drawn * sample_s + trained * train_s) / 3600


def _prompts(stage: Stage) -> int:
    """Prompts that it takes, each as often as it takes it."""
    return len(stage.ids) if stage.gathers else stage.steps * stage.prompts


def _learned(stage: Stage, config: RunConfig, draft: float, answer: float) -> float:
    """Tokens that the student is trained on, at most."""
    if stage.gathers:
        return 0.0
    lesson = answer
    if stage.lessons == "gathered" and config.recipe == "rgt":
        lesson = 2 * answer + STRATEGY_TOKENS  # the answer alone, and behind its strategy
    elif stage.lessons == "gathered" and config.recipe == "best_of_n" and config.feedback.candidates_from == "student":
        lesson = draft
    lesson *= stage.lessons is not None and stage.sft_weight > 0
    rewarded = stage.group_size * draft * config.policy.updates if stage.policy else 0.0
    if stage.preference:
        rewarded = (stage.group_size * draft + answer) * (1 + READ)  # both answers, and the snapshot's view of them
    if stage.distils == "demonstrations":
        lesson += answer
    elif stage.distils == "rollouts":
        rewarded = stage.group_size * draft
    corrections = min(stage.corrections or 0, stage.prompts * stage.group_size)
    return stage.steps * (stage.prompts * (lesson + rewarded) + corrections * answer)


def _read(stage: Stage, draft: float, answer: float) -> float:
    """Tokens that are read to tell how likely the student finds what was gathered, at most."""
    match stage.gathers:
        case None:
            return 0.0
        case "corrections":
            return len(stage.ids) * (draft + answer)
        case "candidates":
            return len(stage.ids) * (stage.candidates * answer + stage.group_size * draft)


def _validations(stage: Stage) -> int:
    return math.ceil(stage.steps / stage.validate_every) if stage.validate_every else 0
