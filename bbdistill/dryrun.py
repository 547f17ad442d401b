"""`run --dry-run`: the first requests as they would be sent, the student's template checked, the cost bounded."""

import json
from importlib.util import find_spec
from pathlib import Path

from bbdistill.client.prices import price
from bbdistill.config import ModelConfig, RunConfig, Settings
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
    longest = max(_size(prompt.messages) for prompt in (*task.train, *task.test))
    teacher, judge = config.teacher, config.judge_config
    shown = longest + 8 * teacher.max_tokens + FRAME_BYTES
    rows = [
        ("demonstrations", asked + len(task.test), teacher, longest),
        ("preferences", 2 * pairs, judge, shown),
        ("corrections", mends, teacher, shown),
        ("comparing them where the verifier cannot decide", 2 * mends, judge, shown),
    ]
    lines = ["\nat most " + ", ".join(f"{count} calls for {what}" for what, count, _, _ in rows)]
    dollars = [_price(model, sent) for _, _, model, sent in rows]
    unknown = dict.fromkeys(f"`{row[2].model}`" for row, dollar in zip(rows, dollars, strict=True) if dollar is None)
    if unknown:
        keys = "input_usd_per_mtok and output_usd_per_mtok"
        return [*lines, f"cost: no price is known for {' and '.join(unknown)}; set {keys}"]
    total = sum(row[1] * (dollar or 0.0) for row, dollar in zip(rows, dollars, strict=True))
    return [*lines, f"cost: less than ${total:.2f}, if every reply were as long as allowed"]


def _price(config: ModelConfig, sent_bytes: int) -> float | None:
    provider, _, model = config.model.partition(":")
    return price(model, provider, Usage(input_tokens=sent_bytes, output_tokens=config.max_tokens), config.prices)


def _size(messages: tuple[Message, ...]) -> int:
    return len(json.dumps(list(messages), ensure_ascii=False).encode())
