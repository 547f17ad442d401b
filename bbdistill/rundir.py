"""Every path of a run in one place, and who may write there.

runs/<name>/
  config.json  metrics.jsonl  report.json  report.md  report.html  adapter/
  best/                       instead of adapter/, where a monitor stopped the run
  evaluation.jsonl            every model's answer to every test prompt, and its score
  judgements.jsonl            the student's answers beside the others', and which the judge prefers
  checkpoints/step_000020/    what a resume needs; the newest one counts
  rollouts/ preferences/ corrections/ step_000020.jsonl   and demonstrations.jsonl: evidence, in TRL's columns
  lessons/ set_aside/ step_000020.jsonl                   what a round found worth imitating, and what not, and why
  rubrics/ coachings/ step_000020.jsonl                   by what answers were marked, and how; advice on what failed
"""

import fcntl
import json
import os
import shlex
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bbdistill.errors import ConfigError, RunError

_WRITTEN = {"task", "mode", "replay"}
"""What config.json of any run has."""


@dataclass(frozen=True, slots=True)
class RunDir:
    path: Path
    made: Path | None = None
    """The topmost directory that was made for it; None where it was there."""

    @classmethod
    def check(cls, path: Path, *, overwrite: bool = False) -> None:
        """ConfigError where no run can begin: what is there is kept, unless it is a run's and to be overwritten."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            if not overwrite:
                raise ConfigError(
                    f"`{path}` is not empty; use --resume to go on, --overwrite to start again, or another --out"
                )
            if not _is_run(path):
                raise ConfigError(
                    f"`{path}` is not a run and will not be overwritten (no config.json of one); use another --out"
                )
        check_writable(path, "--out")

    @classmethod
    def create(cls, path: Path, facts: Mapping[str, Any], *, overwrite: bool = False) -> "RunDir":
        """A fresh directory, with what is known of its run in config.json. ConfigError as in `check`."""
        cls.check(path, overwrite=overwrite)
        if path.exists() and any(path.iterdir()):
            with alone(path):
                shutil.rmtree(path)
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        directory = cls(path, missing[-1] if missing else None)
        write_json(directory.config, facts)
        return directory

    @classmethod
    def existing(cls, path: Path) -> "RunDir":
        if not _is_run(path):
            raise ConfigError(
                f"`{path}` is not a run (no config.json of one there); give the directory of a finished or stopped run"
            )
        return cls(path)

    @classmethod
    def finished(cls, path: Path) -> "RunDir":
        """RunError, with the command that goes on, where the run has not come to its end."""
        directory = cls.existing(path)
        if directory.report.is_file():
            return directory
        if directory.best.is_dir():
            raise RunError(
                f"the run in `{path}` was stopped because it went wrong; its best student is the adapter in "
                f"`{directory.best}`, from which a new run goes on with `student.adapter`"
            )
        raise RunError(f"the run in `{path}` is not finished; go on with: {directory.resume_command()}")

    def discard(self) -> bool:
        """Removes it with all that was made for it, if nothing but its config has been written; whether it did."""
        if [file.name for file in self.path.iterdir()] != ["config.json"]:
            return False
        self.config.unlink()
        for folder in (self.path, *self.path.parents) if self.made else ():
            folder.rmdir()
            if folder == self.made:
                break
        return True

    def resume_command(self) -> str:
        """What goes on with the run, as a sentence says it."""
        facts = read_json(self.config)
        if not facts.get("task"):
            return "the same call and `resume=True`"
        return self.command("run", "--out", str(self.path), *self.options(), "--resume")

    def options(self) -> list[str]:
        """Of the command that began the run, what it is to be held to."""
        facts = read_json(self.config)
        given = {"--replay": facts["replay"], "--max-usd": facts.get("max_usd")}
        words = [word for option, value in given.items() if value is not None for word in (option, str(value))]
        words += ["--cache", facts["mode"]] if facts["mode"] != "auto" else []
        return words + (["--skip-bad"] if facts.get("skip_bad") else [])

    def command(self, verb: str, *more: str) -> str:
        """A command for the task of this run."""
        facts = read_json(self.config)
        overrides = [word for override in facts.get("overrides", ()) for word in ("--set", override)]
        return shlex.join(["bbdistill", verb, facts.get("task") or "CONFIG", *overrides, *more])

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "report.json"

    @property
    def report_text(self) -> Path:
        return self.path / "report.md"

    @property
    def report_page(self) -> Path:
        return self.path / "report.html"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.jsonl"

    @property
    def judgements(self) -> Path:
        return self.path / "judgements.jsonl"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def best(self) -> Path:
        """The best adapter so far of a run that was stopped because it went wrong."""
        return self.path / "best"

    @property
    def demonstrations(self) -> Path:
        return self.path / "demonstrations.jsonl"

    def evidence(self, kind: str, step: int) -> Path:
        """File of one step's rollouts, or of what was said of them or found in them."""
        folder = self.path / kind
        folder.mkdir(exist_ok=True)
        return folder / f"step_{step:06d}.jsonl"

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step_{step:06d}"

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(path for path in (self.path / "checkpoints").glob("step_??????") if path.is_dir())


@contextmanager
def alone(path: Path) -> Generator[None]:
    """RunError where another process is at work on the run in `path`, which is locked as long as this lasts."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # of a file system without locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"another process is at work on the run in `{path}`; wait for its end") from None
        yield
    finally:
        os.close(descriptor)


def _is_run(path: Path) -> bool:
    """Whether its config.json is one that was written here: models have files of this name too."""
    file = path / "config.json"
    return file.is_file() and read_json(file).keys() >= _WRITTEN


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Whole or not at all: written beside, then moved into place."""
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(beside, path)


def read_json(path: Path) -> dict[str, Any]:
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise RunError(f"`{path}` cannot be read: {fault}") from None
    if not isinstance(value, dict):
        raise RunError(f"`{path}` should hold one JSON object")
    return value  # pyright: ignore[reportUnknownVariableType]


def check_writable(path: Path, option: str) -> None:
    """ConfigError where nothing can be made at `path`, given by `option`. Makes nothing."""
    there = path if path.is_dir() else next(folder for folder in path.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"`{option} {path}` cannot be written, because `{there}` is no directory to write to")
