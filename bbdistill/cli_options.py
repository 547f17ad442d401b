"""What several verbs of the command line share: options, progress on stderr, a Ctrl-C that stops in order."""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bbdistill.errors import ConfigError

Recipe = Literal["sft", "best_of_n", "isft", "rgt", "process", "dpo", "gad", "grpo", "rubric", "coach", "kd", "opd"]
CacheMode = Literal["auto", "record", "replay", "off"]
Config = Annotated[Path, typer.Argument(help="TOML file of the task.", show_default=False)]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override one key: --set train.steps=5", metavar="A.B=V")]
Out = Annotated[Path | None, typer.Option(help="Run directory.", show_default="runs/<config>-<date>-<id>")]
Cache = Annotated[CacheMode, typer.Option(help="How the store is used.")]
Replay = Annotated[
    str | None,
    typer.Option(help="Replay a recorded run: FILE or FILE#RUN (default: its newest).", metavar="FILE[#RUN]"),
]
MaxUsd = Annotated[float | None, typer.Option(help="Hard cap for this run, in dollars.")]
SkipBad = Annotated[bool, typer.Option(help="Skip and count bad lines instead of stopping.")]
Batch = Annotated[
    bool, typer.Option("--batch", help="Ask for what can wait through the provider's batch API: half the price, a day.")
]
RunPath = Annotated[Path, typer.Argument(help="Directory of a run.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def refuse(options: Mapping[str, object], where: str) -> None:
    """ConfigError where one of these is given."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ConfigError(f"{', '.join(given)} cannot be used {where}; leave it out")


def watched(work: Callable[..., Any]) -> Any:
    """Runs `work(on_event=...)` with progress on stderr."""
    from bbdistill.console import watching

    with watching() as on_event:
        return work(on_event=on_event)


def stoppable(work: Callable[..., Any]) -> Any:
    """The same for work that a first Ctrl-C asks to stop, and a second one ends."""
    from bbdistill.interrupt import stoppable

    with stoppable() as stop:
        return watched(partial(work, stop=stop))
