"""Every path of a run in one place, and who may write there.

runs/<name>/
  config.json  metrics.jsonl  report.json  report.md  adapter/
  checkpoints/step_000020/    what a resume needs; the newest one counts
  rollouts/ preferences/ corrections/ step_000020.jsonl   and demonstrations.jsonl: evidence, in TRL's columns
  lessons/ set_aside/ step_000020.jsonl                   what a round found worth imitating, and what not, and why
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bbdistill.errors import RunError


@dataclass(frozen=True, slots=True)
class RunDir:
    path: Path

    @classmethod
    def create(cls, path: Path, *, overwrite: bool = False) -> "RunDir":
        """A fresh directory; one that holds anything is refused unless `overwrite`, and then only if it was a run's."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            if not overwrite:
                raise RunError(
                    f"`{path}` is not empty; use --resume to go on, --overwrite to start again, or another --out"
                )
            if not (path / "config.json").is_file():
                raise RunError(
                    f"`{path}` has no config.json, so it is not a run and will not be overwritten; use another --out"
                )
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    @classmethod
    def existing(cls, path: Path) -> "RunDir":
        if not (path / "config.json").is_file():
            raise RunError(
                f"`{path}` is not a run (no config.json there); give the directory of a finished or stopped run"
            )
        return cls(path)

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
    def report_page(self) -> Path:
        return self.path / "report.md"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def demonstrations(self) -> Path:
        return self.path / "demonstrations.jsonl"

    def evidence(self, kind: str, step: int) -> Path:
        """File of one step's rollouts, preferences, corrections, lessons, or what was set aside."""
        folder = self.path / kind
        folder.mkdir(exist_ok=True)
        return folder / f"step_{step:06d}.jsonl"

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step_{step:06d}"

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(path for path in (self.path / "checkpoints").glob("step_??????") if path.is_dir())


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
