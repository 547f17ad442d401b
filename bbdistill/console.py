"""Progress on stderr: a live display on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bbdistill.metrics import Alarm, Event, Note, OnEvent, StepDone, money
from bbdistill.metrics import Progress as Moved

QUIET_S = 10.0
"""Off a terminal, the least time between two lines about the same piece of work."""

SHOWN = {
    "gather/drafted": "drafts {:.0f}",
    "gather/passed": "passed {:.0f}",
    "gather/accepted": "corrected {:.0f}",
    "gather/candidates": "candidates {:.0f}",
    "gather/with_survivor": "prompts with an answer {:.0f}",
    "gather/without_survivor": "without {:.0f}",
    "sft/loss": "sft {:.3f}",
    "policy/loss": "policy {:.3f}",
    "rollout/score": "score {:.3f}",
    "rubric/student_score": "points {:.3f}",
    "discriminator/loss": "discriminator {:.3f}",
    "discriminator/accuracy": "accuracy {:.3f}",
}


@contextmanager
def watching() -> Generator[OnEvent]:
    """Gives the function that shows events for as long as the block lasts."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Live(progress)


class _Lines:
    """One line per event; progress at most every few seconds."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case Note():
                self._print(event.text)
            case StepDone():
                self._print(f"{_where(event)}  {_figures(event.metrics)}")
            case Alarm():
                self._print(_alarm(event))
            case Moved():
                now = time.monotonic()
                if event.done == event.total or now - self._last.get(event.what, -QUIET_S) >= QUIET_S:
                    self._last[event.what] = now
                    self._print(f"{event.what}: {event.done}/{event.total}{_calls(event)}")

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class _Live:
    """A bar per piece of work, steps and notes above it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("starting", total=None)

    def __call__(self, event: Event) -> None:
        match event:
            case Note():
                self._progress.console.print(event.text, highlight=False)
            case StepDone():
                self._progress.console.print(f"{_where(event)}  {_figures(event.metrics)}", highlight=False)
            case Alarm():
                style = "red" if event.level == "stop" else "yellow"
                self._progress.console.print(_alarm(event), style=style, markup=False, highlight=False)
            case Moved():
                text = f"{event.what}{_calls(event)}"
                self._progress.update(self._task, description=text, completed=event.done, total=event.total)


def _where(event: StepDone) -> str:
    return f"step {event.step} ({event.stage} {event.step_in_stage}/{event.steps_in_stage})"


def _alarm(event: Alarm) -> str:
    return f"{'collapse' if event.level == 'stop' else 'warning'}: {event.text}"


def _figures(metrics: Mapping[str, float]) -> str:
    return "  ".join(form.format(metrics[name]) for name, form in SHOWN.items() if name in metrics)


def _calls(event: Moved) -> str:
    if not event.calls:
        return ""
    limit = "" if event.limit is None else f", at most {event.limit} at once"
    # Nothing spent may also mean that nothing is priced yet.
    spent = "" if event.spent_usd == 0 else f", {money(event.spent_usd)}"
    trouble = f", {event.retrying} retrying: {event.trouble}" if event.trouble else ""
    sent = f"{event.calls} calls, {event.cached} from the record, {event.in_flight} on the wire"
    return f"  ({sent}{limit}{spent}{trouble})"
