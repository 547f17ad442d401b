"""Getting demonstrations, from a teacher or from a record. Needs no student and no torch."""

import asyncio
import threading
from pathlib import Path
from typing import Any

from bbdistill.care import is_refusal
from bbdistill.config import CacheMode, RunConfig, Settings
from bbdistill.data import load_prompts
from bbdistill.errors import ConfigError, TeacherError
from bbdistill.evidence import write_demonstrations, write_rows
from bbdistill.metrics import Note, OnEvent, money
from bbdistill.recording import open_recording
from bbdistill.rundir import check_writable
from bbdistill.task import load_verifier, resolve
from bbdistill.teacher.ask import demonstrations
from bbdistill.teacher.batch import fetch
from bbdistill.teacher.capture import examples
from bbdistill.teacher.teacher import Teacher
from bbdistill.teacher.terms import notice
from bbdistill.teacher.wait import waited
from bbdistill.types import Abstain, Demonstration


def collect(
    config: Path,
    out: Path,
    *,
    overrides: tuple[str, ...] = (),
    mode: CacheMode = "auto",
    replay: str | None = None,
    max_usd: float | None = None,
    skip_bad: bool = False,
    batch: bool = False,
    on_event: OnEvent = lambda _: None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Asks for an answer to every prompt of the task and writes those that came; returns the counts.

    With `batch`, through the provider's batch API as far as that goes.
    Setting `stop` ends it with RunStopped once the calls in flight are stored; the same call goes on from there.
    """
    settings = Settings(overrides=overrides, mode=mode, replay=replay, max_usd=max_usd, skip_bad=skip_bad, batch=batch)
    resolved = resolve(config, settings)
    _may_write(out, resolved)
    load_verifier(resolved)  # it is not used here, but a run with this config would need it
    dataset = load_prompts(resolved.task.prompts, skip_bad=skip_bad)
    stop = stop or threading.Event()
    said = notice(resolved)
    if said is not None:
        on_event(Note(text=said))
    missing = [prompt for prompt in dataset.prompts if prompt.id not in dataset.demonstrations]

    async def ask(teacher: Teacher) -> list[Demonstration | Abstain]:
        if batch:
            await fetch(teacher, {"demonstrations": missing}, tell=on_event)
        return await demonstrations(teacher, missing)

    async def work() -> tuple[list[Demonstration], dict[str, Any]]:
        teacher = Teacher.from_config(
            resolved.teacher,
            mode=mode,
            replay=replay,
            templates=resolved.task.templates,
            answer_options=resolved.answer_options,
        )
        async with teacher:
            asking = ask(teacher)
            what, total = "asking for demonstrations", len(missing)
            answers = await waited(teacher, asking, what, total=total, on_event=on_event, stop=stop)
            return [a for a in answers if isinstance(a, Demonstration)], teacher.summary()

    answers, ledger = asyncio.run(work())
    given = [answer for answer in answers if answer.completion.strip() and not is_refusal(answer.completion)]
    refusals = len(answers) - len(given)
    if missing and not given and not dataset.demonstrations:
        reasons = ", ".join([*ledger["abstain_reasons"], *(["refusals"] if refusals else [])])
        raise TeacherError(f"the teacher gave no usable answer to any of {len(missing)} prompts: {reasons}")
    found = [*dataset.demonstrations.values(), *given]
    write_demonstrations(out, found)
    cost, without = money(ledger["cost_usd"]), f"; {refusals} refusals left out" if refusals else ""
    said = f"{len(found)} demonstrations for {len(dataset.prompts)} prompts in {out}{without}; spent: {cost}"
    on_event(Note(text=said))
    counts = {"prompts": len(dataset.prompts), "demonstrations": len(found), "skipped": dataset.skipped}
    counts["refusals"] = refusals
    return {**counts, "teacher": ledger}


def collect_recorded(
    store: Path,
    out: Path,
    *,
    purpose: str | None = None,
    every_turn: bool = False,
    on_event: OnEvent = lambda _: None,
) -> dict[str, Any]:
    """Writes the conversations recorded in `store` (of one purpose) as demonstrations; buys nothing.

    The last assistant turn, the recorded reply, is the completion; with `every_turn` each earlier one is too.
    """
    with open_recording(store) as recording:
        everything = recording.calls()
    rows = [row for row in everything if purpose is None or row.purpose == purpose]
    if everything and not rows:
        known = ", ".join(sorted({row.purpose for row in everything if row.purpose})) or "none with a purpose"
        raise ConfigError(f"`{store}` has no calls of purpose `{purpose}`; it has {known}")
    found, left_out = examples(rows, every_turn=every_turn)
    if not found:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        which = f"calls of purpose `{purpose}`" if purpose is not None else "calls"
        raise ConfigError(f"`{store}` has nothing to learn from; left out of its {len(rows)} {which}: {reasons or '-'}")
    write_rows(out, (example.row() for example in found))
    tool_calls = sum("tool_calls" in example.completion for example in found)
    on_event(Note(text=f"{len(found)} demonstrations of {len(rows)} recorded calls in {out}"))
    if tool_calls:
        on_event(Note(text=f"{tool_calls} of them are tool calls; a student learns text: train with --skip-bad"))
    return {"calls": len(rows), "demonstrations": len(found), "tool_calls": tool_calls, "left_out": dict(left_out)}


def _may_write(out: Path, config: RunConfig) -> None:
    """ConfigError, before anything is asked, where `out` is no place for the answers."""
    if out.is_dir():
        raise ConfigError(
            f"`--out {out}` is a directory; give the file to write, such as `{out / 'demonstrations.jsonl'}`"
        )
    if out.resolve() in {
        file.resolve() for file in (config.task.prompts, config.task.test, config.task.validation) if file
    }:
        raise ConfigError(f"`--out {out}` would replace a file of the task; give another one")
    check_writable(out, "--out")
