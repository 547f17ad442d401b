"""`run --dry-run`: the first requests as they would be sent, the cost bounded, the student's template checked."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from bbdistill import care
from bbdistill.config import RunConfig, Settings
from bbdistill.estimate import estimate_task
from bbdistill.stages import stages
from bbdistill.task import Task, load_task, resolve
from bbdistill.templates import load_template
from bbdistill.types import Abstain

SHOWN = 3


def dry_run(path: Path, settings: Settings) -> Iterator[str]:
    """What a run of this config would do, as lines: the teacher's half is told before the student is looked at."""
    config = resolve(path, settings)
    task = load_task(config, skip_bad=settings.skip_bad)
    planned = stages(config, [prompt.id for prompt in task.train], task.demonstrations)
    yield f"recipe {config.recipe}"
    yield f"{len(task.train)} train, {len(task.validation)} validation, {len(task.test)} test prompts"
    yield from _found(task)
    yield from _judged(config, task)
    yield from (f"  stage {stage.name}: at most {stage.steps} steps" for stage in planned)
    yield from _requests(config, task)
    yield "\nwhat it takes, at least and at most:"
    yield from estimate_task(config, task).text()
    yield from _template(config, task)


def _found(task: Task) -> list[str]:
    """What the data should not hold, where it does."""
    counts = {
        "training prompts stood there twice and are left out": task.duplicates,
        "training prompts say almost the same as another one and are left out": task.near_left_out,
        "training prompts say almost the same as another one": care.near_within(task.train),
        "test prompts also stand in the training prompts": task.test_seen_in_train,
        "test prompts say almost the same as a training prompt": care.near_between(task.train, task.test),
    }
    return [f"  {count} {what}" for what, count in counts.items() if count]


def _judged(config: RunConfig, task: Task) -> list[str]:
    """How many training prompts the verifier has something to say about, where it has nothing on some."""
    if config.task.verifier is None:
        return []
    verdicts = [task.verify(prompt, "") for prompt in task.train]
    silent = [verdict.reason for verdict in verdicts if isinstance(verdict, Abstain)]
    if not silent:
        return []
    heard = len(verdicts) - len(silent)
    return [f"  the verifier can judge answers to {heard} of {len(verdicts)} training prompts: {silent[0]}"]


def _requests(config: RunConfig, task: Task) -> list[str]:
    template = load_template("demonstrate", config.task.templates)
    lines: list[str] = []
    for prompt in task.train[:SHOWN]:
        lines.append(f"\nrequest to {config.teacher.model} for prompt {prompt.id} ({template.label}):")
        lines += [f"  [{message['role']}] {message['content']}" for message in template.render(prompt.messages, {})]
    return lines


def _template(config: RunConfig, task: Task) -> list[str]:
    """The first prompts as the student sees them. Needs its tokenizer, and so the training extra."""
    if config.student is None or find_spec("torch") is None:
        return ["\nstudent: not checked (no [student] table, or torch is not installed)"]
    from bbdistill.student.open import preview

    return ["\nstudent:", *(f"  {line}" for line in preview(config.student, task.train[:SHOWN]))]
