"""The command line's verbs that look before a run: what it costs, which recipe fits, what verifier and machine say."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bbdistill.cli_options import Cache, Config, Json, MaxUsd, Replay, Set, SkipBad, say, stoppable
from bbdistill.errors import ConfigError


def estimate(config: Config, set_: Set = None, skip_bad: SkipBad = False, as_json: Json = False) -> None:
    """Calls, tokens and dollars by purpose, as a range, before anything is spent; needs no torch and no key."""
    from bbdistill.estimate import estimate as estimate_

    found = estimate_(config, overrides=tuple(set_ or ()), skip_bad=skip_bad)
    print(json.dumps(found.as_json(), indent=2) if as_json else "\n".join(found.text()))


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
    advice = stoppable(partial(advise_, config, mode=cache, replay=replay, **settings))
    print(json.dumps(advice.as_json(), indent=2) if as_json else render(advice))
    if write is not None:
        nothing = f"`{write}` is not written: there is something to do before any recipe"
        say(f"next: bbdistill run {write} --dry-run" if advice.is_recipe else nothing)


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
    """Hold the completions of a JSONL file against a verifier; exit 1 if one fails, or none is judged."""
    from bbdistill.checks import verify_file
    from bbdistill.interrupt import stoppable as until_stopped

    if len(files) > 2:
        raise ConfigError(f"expected [CONFIG] ANSWERS, got {len(files)} files")
    with until_stopped() as stop:
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
            say=say,
            stop=stop,
        )
    print(
        json.dumps(summary) if as_json else "{passed} passed, {failed} failed, {abstained} not judged".format(**summary)
    )
    raise typer.Exit(1 if summary["failed"] or not summary["passed"] else 0)


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
