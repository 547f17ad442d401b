"""The command line's `cache` verbs: they look into a store, and ask nobody anything."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bbdistill.cli_options import Json

cache_app = typer.Typer(help="Look into a store of recorded calls.", no_args_is_help=True)
File = Annotated[Path, typer.Argument(help="The store.", show_default=False)]


@cache_app.command(name="list")
def cache_list(
    file: File,
    run: Annotated[str | None, typer.Option(help="Only calls that this run used.")] = None,
    as_json: Json = False,
) -> None:
    """The runs of a store and their calls, a line each."""
    from bbdistill.recording import open_recording

    with open_recording(file) as recording:
        rows = [call.brief() for call in recording.calls(run)]
        if as_json:
            print(json.dumps({"runs": [found.brief() for found in recording.runs()], "calls": rows}, indent=2))
        else:
            for found in recording.runs():
                print("run  {id}  {started_at}  {calls} calls".format(**found.brief()))
            for row in rows:
                print("{id:>6}  {kind:<8} {purpose:<15} {prompt_id:<16} {model}  {key:.12}".format(**row))


@cache_app.command(name="show")
def cache_show(
    file: File,
    call: Annotated[
        str, typer.Argument(help="Number of the call, or the first letters of its key.", show_default=False)
    ],
) -> None:
    """One recorded call, whole, as JSON."""
    from bbdistill.recording import open_recording

    with open_recording(file) as recording:
        print(json.dumps(recording.call(call).full(), indent=2, ensure_ascii=False))


@cache_app.command(name="diff")
def cache_diff(
    file: File,
    first: Annotated[str, typer.Argument(help="Number of a call, or the first letters of its key.")],
    second: Annotated[str, typer.Argument(help="Another call of the same store.")],
) -> None:
    """How two recorded calls differ, in request and reply; nothing if they are equal."""
    from bbdistill.recording import open_recording

    with open_recording(file) as recording:
        difference = recording.diff(first, second)
    if difference:
        print(difference)


@cache_app.command(name="export")
def cache_export(
    file: File,
    out: Annotated[Path, typer.Argument(help="The file to write.", show_default=False)],
    run: Annotated[str | None, typer.Option(help="The run to keep.", show_default="the newest")] = None,
) -> None:
    """Write a small store with only what one run used; it replays that run."""
    from bbdistill.recording import export_recording

    kept = export_recording(file, out, run=run)
    print(out)
    typer.echo(f"{kept} calls, {out.stat().st_size / 1e6:.2f} MB", err=True)


@cache_app.command(name="verify")
def cache_verify(file: File) -> None:
    """Derive every key anew from its stored request; exit 1 if something does not fit."""
    from bbdistill.recording import open_recording

    with open_recording(file) as recording:
        problems = recording.verify()
        for problem in problems:
            print(problem)
        typer.echo(f"{len(recording.calls())} calls checked, {len(problems)} problems", err=True)
    raise typer.Exit(1 if problems else 0)
