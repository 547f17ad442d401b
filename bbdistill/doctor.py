"""`bbdistill doctor`: does what a run needs work here, and can this teacher judge and correct at all?"""

import asyncio
import json
import os
import platform
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bbdistill import extras
from bbdistill.config import RunConfig, Settings
from bbdistill.errors import BBDistillError
from bbdistill.task import Task, load_task, resolve
from bbdistill.teacher.connect import connect
from bbdistill.teacher.judge import teacher_and_judge
from bbdistill.teacher.teacher import Teacher
from bbdistill.types import Abstain, Fix, Judgement, Preference, Prompt, Tie, Verdict
from bbdistill.verify.fields import Fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    name: str
    ok: bool
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A right answer, and the same with one field wrong."""

    prompt: Prompt
    right: str
    wrong: str


def diagnose(config: Path | None, *, overrides: tuple[str, ...] = (), judge: int = 0) -> list[Check]:
    """Every check that can be made with what was given; a failed one does not stop the others."""
    checks = [_python(), _training(), _writable(Path.cwd())]
    if config is None:
        return checks
    try:
        resolved = resolve(config, Settings(overrides=overrides))
        task = load_task(resolved)
    except BBDistillError as fault:
        return [*checks, Check(name="task", ok=False, says=str(fault))]
    counts = f"{len(task.train)} train, {len(task.validation)} validation, {len(task.test)} test prompts"
    checks.append(Check(name="task", ok=True, says=counts))
    return [*checks, *asyncio.run(_teacher(resolved, task, judge))]


def pairs_of(prompts: Sequence[Prompt], count: int) -> list[Pair]:
    """Pairs made from the references: one field takes the value it has in another prompt. Always the same ones."""
    draw = random.Random(0)
    labelled = [(prompt, _fields_of(prompt)) for prompt in prompts if _fields_of(prompt)]
    found: list[Pair] = []
    for prompt, reference in draw.sample(labelled, len(labelled)):
        key = list(reference)[len(found) % len(reference)]
        others = [other[key] for _, other in labelled if key in other and other[key] != reference[key]]
        if others and len(found) < count:
            wrong = {**reference, key: draw.choice(others)}
            found.append(Pair(prompt=prompt, right=_written(reference), wrong=_written(wrong)))
    return found


async def measure(
    teacher: Teacher, judge: Teacher, pairs: Sequence[Pair]
) -> tuple[list[Judgement], list[Fix | Abstain]]:
    """What the judge says of the pairs, and how the teacher corrects their wrong halves, told only the wrong field."""
    fields = Fields(reveal=False)

    async def repair(pair: Pair) -> Fix | Abstain:
        verdict = fields(pair.prompt, pair.wrong)
        feedback = verdict.feedback if isinstance(verdict, Verdict) else ""
        return await teacher.correct(pair.prompt, pair.wrong, feedback)

    judgements = await asyncio.gather(*(judge.compare(pair.prompt, pair.right, pair.wrong) for pair in pairs))
    return judgements, await asyncio.gather(*(repair(pair) for pair in pairs))


async def _teacher(config: RunConfig, task: Task, count: int) -> list[Check]:
    checks: list[Check] = []
    try:
        connection = connect(config.teacher, judge=config.judge_config if config.judge else None, mode="auto")
        try:
            teacher, judge = teacher_and_judge(config, connection)
            for name, model in {"teacher": teacher, "judge": judge}.items():
                if name == "teacher" or judge is not teacher:
                    checks.append(await _answers(f"{name} {model.config.model}", model, task))
            if count and all(check.ok for check in checks):
                checks += await _judge(teacher, judge, task, count)
        finally:
            await connection.close()
    except BBDistillError as fault:
        checks.append(Check(name=f"teacher {config.teacher.model}", ok=False, says=str(fault)))
    return checks


async def _answers(name: str, model: Teacher, task: Task) -> Check:
    reply = await model.demonstrate(task.train[0])
    if isinstance(reply, Abstain):
        return Check(name=name, ok=False, says=f"gives nothing usable: {reply.reason}")
    return Check(name=name, ok=True, says="answers")


async def _judge(teacher: Teacher, judge: Teacher, task: Task, count: int) -> list[Check]:
    pairs = pairs_of([*task.train, *task.validation], count)
    if not pairs:
        return [
            Check(
                name="judge",
                ok=False,
                says="no two prompts have `reference` objects that differ in a field, to make pairs from",
            )
        ]
    judgements, fixes = await measure(teacher, judge, pairs)
    decided = [(j, p) for j, p in zip(judgements, pairs, strict=True) if isinstance(j, Preference)]
    right = sum(judgement.chosen == pair.right for judgement, pair in decided)
    flips = sum(isinstance(judgement, Tie) for judgement in judgements)
    fields = Fields(reveal=False)
    verdicts = [fields(p.prompt, f.text) for f, p in zip(fixes, pairs, strict=True) if isinstance(f, Fix)]
    repaired = sum(isinstance(verdict, Verdict) and verdict.passed for verdict in verdicts)
    enough = len(decided) >= 10 and right >= 0.8 * len(decided)
    return [
        Check(
            name="judge",
            ok=enough,
            says=f"the same winner in both orders on {len(decided)} of {len(pairs)} pairs, the right one on {right}; "
            f"{flips} flips, {len(pairs) - len(decided) - flips} unreadable"
            + ("" if enough else "; set `feedback.preferences = 0`, or use a stronger judge"),
        ),
        Check(
            name="corrector", ok=repaired > 0, says=f"repaired {repaired} of {len(pairs)} answers with one wrong field"
        ),
    ]


def _python() -> Check:
    says = f"{platform.python_version()} on {platform.system()}, {os.cpu_count()} cores"
    return Check(name="python", ok=True, says=says)


def _training() -> Check:
    if extras.missing():
        says = f"{extras.missing()} not installed; install with `{extras.INSTALL}`"
        return Check(name="training", ok=False, says=says)
    from bbdistill.student.model import describe_device

    return Check(name="training", ok=True, says=describe_device())


def _writable(directory: Path) -> Check:
    try:
        with tempfile.NamedTemporaryFile(dir=directory):
            return Check(name="directory", ok=True, says=f"`{directory}` can be written")
    except OSError as fault:
        return Check(name="directory", ok=False, says=f"`{directory}` cannot be written: {fault.strerror}")


def _fields_of(prompt: Prompt) -> dict[str, Any]:
    """The reference, where it is an object."""
    reference: object = prompt.reference
    return cast(dict[str, Any], reference) if isinstance(reference, dict) else {}


def _written(answer: dict[str, Any]) -> str:
    return json.dumps(answer, ensure_ascii=False)
