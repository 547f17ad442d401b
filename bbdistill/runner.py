"""One run from config to report, blocking (`run`) or awaitable (`arun`), and what one does with a finished run."""

import asyncio
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbdistill import extras
from bbdistill.config import RunConfig, Settings
from bbdistill.errors import Collapse, MissingExtraError, RunError, RunStopped
from bbdistill.metrics import Event, OnEvent, parting, spent
from bbdistill.place import find_place
from bbdistill.rundir import RunDir
from bbdistill.task import load_task, resolve

if TYPE_CHECKING:
    from bbdistill.setup import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A finished run: its directory, its adapter (a PEFT directory) and the contents of report.json."""

    directory: Path
    adapter: Path
    report: Mapping[str, Any]


def run(
    config: str | Path | RunConfig,
    *,
    settings: Settings | None = None,
    on_event: OnEvent | None = None,
    stop: threading.Event | None = None,
    **options: Any,
) -> RunResult:
    """Trains a student. `options` are the fields of `Settings`.

    Setting `stop` ends the run with RunStopped: a step that waits for the teacher is given up, any other finished;
    calls in flight are awaited and stored, and a checkpoint is written.
    """
    given = replace(settings or Settings(), **options)
    resolved = resolve(config, given)  # before torch is loaded: most mistakes are found here
    task = load_task(resolved, skip_bad=given.skip_bad)
    place = find_place(resolved, given, None if isinstance(config, RunConfig) else Path(config))
    need_torch("training")
    from bbdistill.finish import finish
    from bbdistill.setup import note_what_differs, open_run
    from bbdistill.train import train

    with open_run(place, resolved, task, given, on_event or _ignore, stop or threading.Event()) as live:
        try:
            note_what_differs(live)
            return finish(live, train(live))
        except RunStopped:
            live.drain()
            raise RunStopped(_parting(live)) from None
        except Collapse:  # says itself how to go on, which is not to resume
            live.drain()
            live.note(spent(live.teacher.spent_usd))
            raise
        except BaseException:
            live.drain()
            # A replay that could not begin has nothing to go on with.
            if given.resume or not live.replayed or not live.directory.discard():
                live.note(_parting(live))
            raise


async def arun(config: str | Path | RunConfig, *, on_event: OnEvent | None = None, **options: Any) -> RunResult:
    """`run` for a program with an event loop, which stays free: the work is done in a thread.

    Cancelling stops the run at its next safe place; nothing that was paid for is lost. Events arrive in that thread.
    """
    stop = threading.Event()
    work = asyncio.create_task(asyncio.to_thread(run, config, on_event=on_event, stop=stop, **options))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([work])
        raise


def evaluate_run(
    path: Path, *, test: Path | None = None, on_event: OnEvent = lambda _: None
) -> dict[str, dict[str, Any]]:
    """Scores of base and adapter on the run's test prompts, or on those of `test`."""
    need_torch("evaluating")
    from bbdistill.finish import evaluate_finished

    return evaluate_finished(RunDir.finished(path), test, on_event)


def sample_run(path: Path, text: str, *, system: str | None, base: bool, temperature: float) -> str:
    """One answer of a run's student."""
    need_torch("sampling")
    from bbdistill.finish import sample_finished

    return sample_finished(RunDir.finished(path), text, system=system, base=base, temperature=temperature)


def export_run(path: Path, to: Path, *, merge: bool) -> Path:
    """The run's adapter as a PEFT directory at `to`, or the model with the adapter merged in."""
    directory = RunDir.finished(path)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise RunError(f"`{to}` is not empty; give a new directory")
    if not merge:
        shutil.copytree(directory.adapter, to, dirs_exist_ok=True)
        return to
    need_torch("merging")
    from bbdistill.student.export import merge as merge_

    merge_(directory.adapter, to)
    return to


def need_torch(what: str) -> None:
    """MissingExtraError where the training extra is not installed."""
    if extras.missing():
        raise MissingExtraError(f"{what} needs {extras.missing()}; install with `{extras.INSTALL}`")


def _parting(live: "Run") -> str:
    """What an unfinished run has cost so far, and how to go on with it."""
    return parting(live.teacher.spent_usd, live.directory.resume_command())


def _ignore(_: Event) -> None:
    pass
