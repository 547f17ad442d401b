"""A store, opened to be read: runs, calls, plans and rollouts as typed rows."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from bbdistill.client.export import export
from bbdistill.client.nearest import unified
from bbdistill.client.store import CallRow, RolloutRow, RunRow, Store
from bbdistill.errors import ConfigError


class Recording:
    """Read-only view of one store; `with open_recording(...) as recording:` closes it."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ConfigError(f"no store at `{path}`; a run writes one to `teacher.cache`")
        self._store = Store(path, read_only=True)

    def runs(self) -> Sequence[RunRow]:
        """Oldest first."""
        return self._store.runs()

    def calls(self, run: str | None = None) -> Sequence[CallRow]:
        """Every recorded call, or those that one run used, in order."""
        return self._store.calls(run)

    def call(self, which: str | int) -> CallRow:
        """By number, or by the first letters of its key. ConfigError if there is not exactly one."""
        found = [row for row in self.calls() if str(row.id) == str(which) or row.key.startswith(str(which))]
        exact = [row for row in found if str(row.id) == str(which)]
        if len(exact or found) != 1:
            raise ConfigError(
                f"{len(found)} calls match `{which}`; give a number from `bbdistill cache list`, or a longer key"
            )
        return (exact or found)[0]

    def rollouts(self, run: str, step: int) -> Sequence[RolloutRow]:
        return self._store.rollouts(run, step)

    def plan(self, run: str, step: int, name: str) -> dict[str, Any] | None:
        """What a run decided under this name at this step."""
        return self._store.plan(run, step, name)

    def diff(self, first: str | int, second: str | int) -> str:
        """Unified diff of two calls, their requests and then their replies; empty if they are equal."""
        calls = [self.call(first), self.call(second)]
        parts = [(row.full()["request"], row.full()["reply"]) for row in calls]
        names = [f"call {row.id}" for row in calls]
        both = [
            unified(old, new, f"{names[0]} {what}", f"{names[1]} {what}")
            for what, old, new in zip(("request", "reply"), *parts, strict=True)
        ]
        return "\n".join(difference for difference in both if difference)

    def verify(self) -> list[str]:
        """Problems found when every key is derived anew from its stored request; empty if none."""
        return self._store.verify()

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> "Recording":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_recording(path: str | Path) -> Recording:
    """The record at `path`. ConfigError if there is none, StoreError if it cannot be read."""
    return Recording(Path(path))


def export_recording(path: str | Path, out: str | Path, *, run: str | None = None) -> int:
    """Copies what one run used (None: the newest run) to the new store `out`; returns the number of its calls."""
    return export(Path(path), Path(out), run=run)
