"""`run --dry-run`: the first requests as they would be sent, the student's template checked, the cost bounded."""

import json
from importlib.util import find_spec
from pathlib import Path

from bbdistill.client.prices import price
from bbdistill.config import RunConfig, Settings
from bbdistill.objectives import stages
from bbdistill.task import Task, load_task, resolve
from bbdistill.templates import load_template
from bbdistill.types import Message, Usage

SHOWN = 3
FRAME_BYTES = 4000
"""More than any of the shipped templates adds to the conversation and the answers it shows."""


def dry_run(path: Path, settings: Settings) -> str:
    """What a run of this config would do, as text."""
    config = resolve(path, settings)
    task = load_task(config, skip_bad=settings.skip_bad)
    lines = [
        f"recipe {config.recipe}",
        f"{len(task.train)} train, {len(task.validation)} validation, {len(task.test)} test prompts",
        *(f"  stage {stage.name}: at most {stage.steps} steps" for stage in stages(config)),
        *_requests(config, task),
        *_template(config, task),
        *_bound(config, task),
    ]
    return "\n".join(lines)


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
    from bbdistill.student.student import preview

    return ["\nstudent:", *(f"  {line}" for line in preview(config.student, task.train[:SHOWN]))]


def _bound(config: RunConfig, task: Task) -> list[str]:
    """Calls and the most they can cost: every reply as long as allowed, every token of input one byte."""
    last = sum(stage.steps for stage in stages(config)) * config.train.prompts_per_step
    asked = min(last, len(task.train))
    policy = [stage for stage in stages(config) if stage.policy_weight > 0]
    pairs = sum(stage.steps * stage.preferences for stage in policy)
    mends = sum(stage.steps * stage.corrections for stage in policy)
    calls = {
        "demonstrations": asked + len(task.test),
        "preferences": 2 * pairs,
        "corrections": 3 * mends,  # one to correct, two to compare where the verifier cannot decide
    }
    longest = max(_size(prompt.messages) for prompt in (*task.train, *task.test))
    answer = config.teacher.max_tokens
    worst = {
        "demonstrations": Usage(input_tokens=longest, output_tokens=answer),
        "preferences": Usage(input_tokens=longest + 8 * answer + FRAME_BYTES, output_tokens=answer),
        "corrections": Usage(input_tokens=longest + 8 * answer + FRAME_BYTES, output_tokens=answer),
    }
    provider, _, model = config.teacher.model.partition(":")
    dollars = [price(model, provider, worst[kind], config.teacher.prices) for kind in calls]
    lines = ["\nat most " + ", ".join(f"{count} calls for {kind}" for kind, count in calls.items())]
    if any(dollar is None for dollar in dollars):
        keys = "teacher.input_usd_per_mtok and teacher.output_usd_per_mtok"
        return [*lines, f"cost: no price is known for `{config.teacher.model}`; set {keys}"]
    total = sum(count * (dollar or 0.0) for count, dollar in zip(calls.values(), dollars, strict=True))
    return [*lines, f"cost: less than ${total:.2f}, if every reply were as long as allowed"]


def _size(messages: tuple[Message, ...]) -> int:
    return len(json.dumps(list(messages), ensure_ascii=False).encode())
