"""The command line: each verb is one library call. The result goes to stdout, everything else to stderr."""

import errno
import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from bbdistill.cli_cache import cache_app
from bbdistill.cli_init import init
from bbdistill.cli_look import advise, doctor, estimate, verify
from bbdistill.cli_options import (
    Batch,
    Cache,
    Config,
    Json,
    MaxUsd,
    Out,
    Replay,
    RunPath,
    Set,
    SkipBad,
    say,
    stoppable,
    watched,
)
from bbdistill.errors import BBDistillError, ConfigError, RunStopped

app = typer.Typer(
    help="Turn a hosted LLM into a small model of your own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cache_app, name="cache")

for verb in (init, advise, estimate, verify, doctor):
    app.command()(verb)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run directory; an earlier demo there is replaced.")] = Path("runs/demo"),
    live: Annotated[bool, typer.Option(help="Ask a live teacher instead of replaying the shipped recording.")] = False,
    base_url: Annotated[str, typer.Option(help="The live teacher's server.")] = "http://127.0.0.1:8077/v1",
    model: Annotated[str, typer.Option(help="The live teacher's model.")] = "openai:qwen2.5-coder-1.5b-instruct",
    as_json: Json = False,
) -> None:
    """The whole method on a built-in task: offline, without a key, from a recorded teacher."""
    from bbdistill.demo import run_demo

    _report(stoppable(partial(run_demo, out=out, live=(base_url, model) if live else None)), as_json)


@app.command()
def run(
    config: Config,
    set_: Set = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace the run in --out.")] = False,
    cache: Cache = "auto",
    replay: Replay = None,
    max_usd: MaxUsd = None,
    dry_run: Annotated[
        bool, typer.Option(help="Show the first requests and the most they can cost; ask nothing.")
    ] = False,
    batch: Batch = False,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Train a student: prompts and a teacher in; an adapter, a report and a replayable record out."""
    from bbdistill import runner
    from bbdistill.config import Settings

    settings = Settings(
        overrides=tuple(set_ or ()),
        out=out,
        resume=resume,
        overwrite=overwrite,
        mode=cache,
        replay=replay,
        max_usd=max_usd,
        skip_bad=skip_bad,
        batch=batch,
    )
    if dry_run:
        from bbdistill.dryrun import dry_run as preview

        for line in preview(config, settings):
            print(line, flush=True)
    else:
        _report(stoppable(partial(runner.run, config, settings=settings)), as_json)


@app.command()
def collect(
    config: Annotated[
        Path | None, typer.Argument(help="TOML file of the task; not needed with --from-cache.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="Where to write the demonstrations.")] = Path("demonstrations.jsonl"),
    set_: Set = None,
    cache: Cache = "auto",
    replay: Replay = None,
    max_usd: MaxUsd = None,
    batch: Batch = False,
    skip_bad: SkipBad = False,
    from_cache: Annotated[
        Path | None, typer.Option(help="Take the conversations recorded in this store instead of asking.")
    ] = None,
    purpose: Annotated[str | None, typer.Option(help="With --from-cache: only calls of this purpose.")] = None,
    every_turn: Annotated[
        bool,
        typer.Option(help="With --from-cache: earlier assistant turns are demonstrations too."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Only get demonstrations: ask the teacher, or take what an agent recorded; needs no torch."""
    from bbdistill.collect import collect as collect_
    from bbdistill.collect import collect_recorded

    if from_cache is not None:
        summary = watched(partial(collect_recorded, from_cache, out, purpose=purpose, every_turn=every_turn))
    elif config is None:
        raise ConfigError("nothing to collect from: give the TOML file of a task, or a store with --from-cache FILE")
    else:
        settings = {
            "overrides": tuple(set_ or ()),
            "mode": cache,
            "replay": replay,
            "max_usd": max_usd,
            "skip_bad": skip_bad,
            "batch": batch,
        }
        summary = stoppable(partial(collect_, config, out, **settings))
    print(json.dumps(summary) if as_json else out)


@app.command(name="eval")
def eval_(
    path: RunPath,
    test: Annotated[Path | None, typer.Option(help="JSONL to evaluate on instead of the run's test file.")] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run's base and adapter on a test file; asks no teacher."""
    from bbdistill.runner import evaluate_run

    result = watched(partial(evaluate_run, path, test=test))
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        for name, row in result.items():
            print(f"{name:<8} " + "  ".join(f"{key} {value:.3f}" for key, value in row.items() if value is not None))


@app.command()
def sample(
    path: RunPath,
    prompt: Annotated[
        str, typer.Argument(help="Text of the user's message; `-` reads it from stdin.", show_default=False)
    ],
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    base: Annotated[bool, typer.Option(help="Answer with the base model, without the adapter.")] = False,
    temperature: Annotated[float, typer.Option(help="0 = greedy.", min=0.0)] = 0.0,
) -> None:
    """Answer one prompt with a run's student."""
    from bbdistill.runner import sample_run

    text = sys.stdin.read() if prompt == "-" else prompt
    print(sample_run(path, text, system=system, base=base, temperature=temperature))


@app.command()
def report(path: RunPath, as_json: Json = False) -> None:
    """Show the report of a finished run."""
    from bbdistill.report import read_report, render

    found = read_report(path)
    print(json.dumps(found, indent=2, ensure_ascii=False) if as_json else render(found))


@app.command()
def export(
    path: RunPath,
    to: Annotated[Path, typer.Option(help="Directory to write.", show_default=False)],
    merge: Annotated[
        bool, typer.Option(help="A full model with the adapter merged in, instead of a PEFT adapter.")
    ] = False,
) -> None:
    """Copy a run's adapter out, as a PEFT directory or merged into its base."""
    from bbdistill.runner import export_run

    print(export_run(path, to, merge=merge))


def _version(wanted: bool) -> None:
    if wanted:
        import bbdistill

        print(f"bbdistill {bbdistill.__version__}")
        raise typer.Exit


@app.callback()
def _everywhere(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    _debug["on"] = debug


_debug = {"on": False}
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main() -> None:
    """Runs the command line. One error, one sentence, its exit code; no traceback without `--debug`."""
    try:
        app()
    except RunStopped as stopped:
        say(str(stopped))
        sys.exit(stopped.exit_code)
    except BBDistillError as fault:
        if _debug["on"]:
            raise
        say(f"error: {fault}")
        sys.exit(fault.exit_code)
    except KeyboardInterrupt:
        say("interrupted; every reply that was paid for is stored")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as fault:
        if _debug["on"]:
            raise
        where = f"`{fault.filename}`: " if fault.filename else ""
        hint = "; free some space, and go on with --resume" if fault.errno in _DISK_FULL else ""
        say(f"error: {where}{fault.strerror or fault}{hint}")
        sys.exit(1)


def _report(result: Any, as_json: bool) -> None:
    from bbdistill.report import summary_lines

    if as_json:
        print(json.dumps(result.report, indent=2, ensure_ascii=False))
        return
    for line in summary_lines(result.report):
        print(line)
    print(result.directory)
