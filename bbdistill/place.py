"""Where a run begins or goes on, found out before anything is loaded or made. No torch."""

import platform
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from bbdistill.config import RunConfig, Settings
from bbdistill.configfile import Table, dump_config, parse_config
from bbdistill.errors import ConfigError
from bbdistill.rundir import RunDir, read_json
from bbdistill.teacher.connect import ready


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A directory, what its config.json says or is to say, and the keys to ask with."""

    path: Path
    facts: Mapping[str, Any]
    keys: Sequence[str] = field(repr=False)

    @property
    def run(self) -> str:
        return str(self.facts["run"])


def find_place(config: RunConfig, settings: Settings, file: Path | None) -> Place:
    """The place of the run being resumed, or that of a new one; `file` is where the config was read from, if from one.

    ConfigError where no run can begin. Makes nothing.
    """
    _check(config, settings)
    path, facts = _resumed(config, settings) if settings.resume else _new(config, settings, file)
    judge = config.judge_config if config.judge else None
    keys = ready(config.teacher, judge=judge, mode=settings.mode, replay=settings.replay)
    return Place(path=path, facts=facts, keys=keys)


def _check(config: RunConfig, settings: Settings) -> None:
    """ConfigError where the recipe could only fail later; a config may be made, priced and advised on all the same."""
    recipe, teacher = config.recipe, config.teacher
    if config.rewarded and config.reward.verifier_alone and config.task.verifier is None:
        raise ConfigError(
            f"`{recipe}` rewards what the verifier says, and there is none; set `task.verifier`, or raise another "
            "weight in `[reward]`"
        )
    if recipe not in ("kd", "opd") or teacher.is_local:
        return
    if config.distill.scores == "given" and teacher.base_url is None:
        raise ConfigError(
            f"`{recipe}` has given texts scored (vLLM's `prompt_logprobs`), which api.openai.com does not do; set "
            "`teacher.base_url` to a server that does, or, of `kd`, `distill.scores` to `own`"
        )
    if config.distill.scores == "own" and settings.mode in ("record", "off"):
        raise ConfigError(
            '`distill.scores = "own"` finds the scores of an answer in the record, so it needs `--cache auto`, got '
            f"`{settings.mode}`: each answer would be bought again, and might be another one"
        )


def _new(config: RunConfig, settings: Settings, file: Path | None) -> tuple[Path, Mapping[str, Any]]:
    stamp = f"{file.stem if file else config.recipe}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    path = settings.out or Path("runs") / stamp
    RunDir.check(path, overwrite=settings.overwrite)
    if config.teacher.cache.absolute().is_relative_to(path.absolute()):
        raise ConfigError(
            f"the store `{config.teacher.cache}` would lie in the run's directory `{path}`, which --overwrite deletes; "
            "set `teacher.cache` or --out to another place"
        )
    facts = {
        "run": stamp,
        "task": None if file is None else str(file),
        **{name: value for name, value in asdict(settings).items() if name not in ("out", "resume", "overwrite")},
        "versions": versions(),
        "config": dump_config(config),
    }
    return path, facts


def _resumed(config: RunConfig, settings: Settings) -> tuple[Path, Mapping[str, Any]]:
    if settings.out is None:
        raise ConfigError("--resume needs --out DIR, the directory of the run to go on with")
    path = RunDir.existing(settings.out).path
    before = read_json(RunDir(path).config)
    # Read again: a run of an earlier version has the defaults of the keys that it does not know.
    recorded, now = (
        parse_config(table, where=str(RunDir(path).config), base=Path("/"))
        for table in (before["config"], dump_config(config))
    )
    changed = differing(dump_config(recorded), now, apart_from=RESUMABLE_CHANGES)
    if changed:
        raise ConfigError(
            f"`{path}` was started with another config ({', '.join(changed)} differ); "
            "resume with the same values, or start anew with another --out"
        )
    if before["replay"] != settings.replay:
        raise ConfigError(f"`{path}` was started with --replay {before['replay']}; resume it the same way")
    return path, before


RESUMABLE_CHANGES = {"train.on_collapse"} | {
    f"{who}.{key}"
    for who in ("teacher", "judge")
    for key in (
        "max_usd",
        "max_usd_by",
        "concurrency",
        "requests_per_minute",
        "tokens_per_minute",
        "input_tokens_per_minute",
        "output_tokens_per_minute",
        "timeout_s",
        "api_key_env",
        "api_key_cmd",
        "terms",
    )
}
"""What may change between the parts of one run, because it changes no result."""
REPLAYABLE_CHANGES = RESUMABLE_CHANGES | {
    *(f"task.{key}" for key in ("prompts", "validation", "test", "verifier", "templates")),
    *(f"{who}.{key}" for who in ("teacher", "judge") for key in ("base_url", "cache")),
    "student.model",
    "student.adapter",
}
"""The same where a record is replayed, perhaps elsewhere. Other data is found by what it says, not by where it lies."""


def differing(recorded: Table, config: RunConfig, *, apart_from: Collection[str]) -> list[str]:
    """Dotted names of the keys that have other values now than in a recorded config, as far as that one has them."""
    return [name for name in _differences(recorded, dump_config(config)) if name not in apart_from]


def _differences(before: Table, now: Table, at: str = "") -> Iterator[str]:
    for key in before:
        old, new = before[key], now.get(key, before[key])
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(cast(Table, old), cast(Table, new), f"{at}{key}.")
        elif old != new:
            yield f"{at}{key}"


def versions() -> dict[str, str]:
    """Of Python and of the packages that can change a result."""
    names = ("bbdistill", "torch", "transformers", "peft", "openai", "anthropic")
    found = {"python": platform.python_version()}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
