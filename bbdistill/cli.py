"""The command line: each verb is one library call. The result goes to stdout, everything else to stderr."""

import errno
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bbdistill.cli_cache import Json, cache_app
from bbdistill.errors import BBDistillError, ConfigError, RunStopped

app = typer.Typer(
    help="Turn a hosted LLM into a small model of your own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cache_app, name="cache")

Recipe = Literal["sft", "gad", "best_of_n", "isft", "rgt", "process"]
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


@app.command()
def init(
    prompts: Annotated[
        Path | None,
        typer.Argument(
            help="JSONL with your prompts; with `--example search`, a folder of documents.",
            metavar="PROMPTS|FOLDER",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write the config; of an example, its directory.",
            show_default="task.toml, or examples/<name>",
        ),
    ] = None,
    test: Annotated[Path | None, typer.Option(help="JSONL with held-out prompts.")] = None,
    schema: Annotated[Path | None, typer.Option(help="JSON schema that answers must fit.")] = None,
    teacher: Annotated[str | None, typer.Option(help="provider:model", show_default="openai:gpt-5.6")] = None,
    base_url: Annotated[str | None, typer.Option(help="Another OpenAI-compatible server.")] = None,
    student: Annotated[
        str | None, typer.Option(help="Hub id or directory.", show_default="HuggingFaceTB/SmolLM2-135M-Instruct")
    ] = None,
    recipe: Annotated[Recipe | None, typer.Option(help="Training recipe.", show_default="gad")] = None,
    example: Annotated[
        Literal["search", "code"] | None,
        typer.Option(help="A built-in task instead: search queries for documents, or Python functions with tests."),
    ] = None,
    max_usd: Annotated[
        float | None, typer.Option(help="With `--example search`: hard cap for the questions, in dollars.")
    ] = None,
    replay: Annotated[
        str | None,
        typer.Option(help="With `--example search`: take the questions from this record.", metavar="FILE[#RUN]"),
    ] = None,
) -> None:
    """Write a commented task.toml that fits your data, or a whole built-in example."""
    next_step = "--dry-run"
    if example is not None:
        own = {"--test": test, "--schema": schema, "--student": student, "--recipe": recipe}
        _refuse(own, f"with --example {example}")
    if example == "search":
        from bbdistill.examples.search import RECORDING, write_search

        asked = {"teacher": teacher, "base_url": base_url, "max_usd": max_usd, "replay": replay}
        config = _stoppable(partial(write_search, out or Path("examples/search"), folder=prompts, **asked))
        next_step = f"--replay {config.with_name(RECORDING)}" if teacher is None else next_step
    elif example == "code":
        from bbdistill.examples.code import write_code

        _refuse({"a folder": prompts, "--max-usd": max_usd, "--replay": replay}, "with --example code")
        config = write_code(out or Path("examples/code"), teacher=teacher, base_url=base_url)
    else:
        from bbdistill.starter import write_task

        _refuse({"--max-usd": max_usd, "--replay": replay}, "without --example search")
        if prompts is None:
            raise ConfigError("nothing to begin with: give the JSONL file of your prompts, or --example search or code")
        config = out or Path("task.toml")
        chosen = {"teacher": teacher, "student": student, "recipe": recipe}
        given = {name: value for name, value in chosen.items() if value is not None}
        write_task(prompts, config, test=test, schema=schema, base_url=base_url, **given)
    print(config)
    _say(f"next: bbdistill run {config} {next_step}")


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

    _report(_stoppable(partial(run_demo, out=out, live=(base_url, model) if live else None)), as_json)


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
        _report(_stoppable(partial(runner.run, config, settings=settings)), as_json)


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
        summary = _watched(partial(collect_recorded, from_cache, out, purpose=purpose, every_turn=every_turn))
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
        summary = _stoppable(partial(collect_, config, out, **settings))
    print(json.dumps(summary) if as_json else out)


@app.command()
def estimate(config: Config, set_: Set = None, skip_bad: SkipBad = False, as_json: Json = False) -> None:
    """Calls, tokens and dollars by purpose, as a range, before anything is spent; needs no torch and no key."""
    from bbdistill.estimate import estimate as estimate_

    found = estimate_(config, overrides=tuple(set_ or ()), skip_bad=skip_bad)
    print(json.dumps(found.as_json(), indent=2) if as_json else "\n".join(found.text()))


@app.command()
def advise(
    config: Config,
    set_: Set = None,
    sample: Annotated[int, typer.Option(help="Prompts to measure on.", min=1)] = 24,
    max_usd: Annotated[
        float | None,
        typer.Option(help="Hard cap, in dollars.", min=0.0, show_default="0.50, or the config's if that is lower"),
    ] = None,
    write: Annotated[
        Path | None, typer.Option(help="Write the config of the recommended recipe here.", metavar="FILE")
    ] = None,
    cache: Cache = "auto",
    replay: Replay = None,
    as_json: Json = False,
) -> None:
    """Which recipe fits this task, measured on a small sample: demonstrations, verifier, teacher, student."""
    from bbdistill.advisor.advise import advise as advise_
    from bbdistill.advisor.page import render

    settings = {"overrides": tuple(set_ or ()), "sample": sample, "max_usd": max_usd, "write": write}
    advice = _stoppable(partial(advise_, config, mode=cache, replay=replay, **settings))
    print(json.dumps(advice.as_json(), indent=2) if as_json else render(advice))
    if write is not None:
        nothing = f"`{write}` is not written: there is something to do before any recipe"
        _say(f"next: bbdistill run {write} --dry-run" if advice.is_recipe else nothing)


@app.command()
def verify(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="JSONL with prompts and completions, after the TOML file of a task if its verifier is meant.",
            metavar="[CONFIG] ANSWERS",
            show_default=False,
        ),
    ],
    verifier: Annotated[
        list[str] | None,
        typer.Option(
            help='Instead of the task\'s: `exact`, `regex:^A`, `{ use = "retrieval:docs", k = 3 }`.', metavar="SPEC"
        ),
    ] = None,
    reveal: Annotated[bool, typer.Option("--reveal", help="The feedback may name what was expected.")] = False,
    teacher: Annotated[str | None, typer.Option(help="provider:model that judges by a rubric.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Another OpenAI-compatible server.")] = None,
    replay: Replay = None,
    max_usd: MaxUsd = None,
    set_: Set = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Hold the completions of a JSONL file against a verifier; exit 1 if one fails."""
    from bbdistill.checks import verify_file

    if len(files) > 2:
        raise ConfigError(f"expected [CONFIG] ANSWERS, got {len(files)} files")
    summary = verify_file(
        files[-1],
        config=files[0] if len(files) == 2 else None,
        specs=verifier or (),
        reveal=reveal,
        judge=teacher,
        base_url=base_url,
        replay=replay,
        max_usd=max_usd,
        overrides=tuple(set_ or ()),
        skip_bad=skip_bad,
        say=_say,
    )
    print(
        json.dumps(summary) if as_json else "{passed} passed, {failed} failed, {abstained} not judged".format(**summary)
    )
    raise typer.Exit(1 if summary["failed"] else 0)


@app.command(name="eval")
def eval_(
    path: RunPath,
    test: Annotated[Path | None, typer.Option(help="JSONL to evaluate on instead of the run's test file.")] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run's base and adapter on a test file; asks no teacher."""
    from bbdistill.runner import evaluate_run

    result = _watched(partial(evaluate_run, path, test=test))
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


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Argument(help="Also check this task: data, key, teacher.")] = None,
    set_: Set = None,
    judge: Annotated[int, typer.Option(help="Measure judge and corrector on this many pairs.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """What is installed, what this machine can do, and whether the task's parts answer."""
    from bbdistill.doctor import diagnose

    checks = diagnose(config, overrides=tuple(set_ or ()), judge=judge)
    if as_json:
        print(json.dumps([{"name": c.name, "ok": c.ok, "says": c.says} for c in checks], indent=2))
    else:
        for check in checks:
            print(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.says}")
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


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
        _say(str(stopped))
        sys.exit(stopped.exit_code)
    except BBDistillError as fault:
        if _debug["on"]:
            raise
        _say(f"error: {fault}")
        sys.exit(fault.exit_code)
    except KeyboardInterrupt:
        _say("interrupted; every reply that was paid for is stored")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as fault:
        if _debug["on"]:
            raise
        where = f"`{fault.filename}`: " if fault.filename else ""
        hint = "; free some space, and go on with --resume" if fault.errno in _DISK_FULL else ""
        _say(f"error: {where}{fault.strerror or fault}{hint}")
        sys.exit(1)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _refuse(options: Mapping[str, object], where: str) -> None:
    """ConfigError where one of these is given."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ConfigError(f"{', '.join(given)} cannot be used {where}; leave it out")


def _watched(work: Callable[..., Any]) -> Any:
    """Runs `work(on_event=...)` with progress on stderr."""
    from bbdistill.console import watching

    with watching() as on_event:
        return work(on_event=on_event)


def _stoppable(work: Callable[..., Any]) -> Any:
    """The same for work that a first Ctrl-C asks to stop, and a second one ends."""
    from bbdistill.interrupt import stoppable

    with stoppable() as stop:
        return _watched(partial(work, stop=stop))


def _report(result: Any, as_json: bool) -> None:
    from bbdistill.report import summary_lines

    if as_json:
        print(json.dumps(result.report, indent=2, ensure_ascii=False))
        return
    for line in summary_lines(result.report):
        print(line)
    print(result.directory)
