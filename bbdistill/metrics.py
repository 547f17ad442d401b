"""What a run tells while it works: events for whoever watches, and `metrics.jsonl`, one line per step."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something worth a line: what is being done now."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a piece of work is. `spent_usd` is None where a price is unknown, `limit` before anything went out."""

    what: str
    done: int
    total: int
    calls: int = 0
    cached: int = 0
    in_flight: int = 0
    """Calls that are sent and not answered yet."""
    limit: int | None = None
    """Calls that the gate allows at once, now."""
    retrying: int = 0
    """Calls whose last attempt failed, and that are tried again."""
    trouble: str | None = None
    """Why the newest of these failed."""
    spent_usd: float | None = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDone:
    """One step of the loop; `step` counts from 1 over all stages."""

    step: int
    stage: str
    step_in_stage: int
    steps_in_stage: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A monitor's metric went beyond a level: `warn` is worth a look, `stop` is a collapse."""

    monitor: str
    level: Literal["warn", "stop"]
    text: str


Event: TypeAlias = Note | Progress | StepDone | Alarm
OnEvent: TypeAlias = Callable[[Event], object]


def parting(spent_usd: float | None, go_on: str) -> str:
    """The last line of work that did not come to its end."""
    return f"stopped; {spent(spent_usd)}; go on with: {go_on}"


def spent(usd: float | None) -> str:
    """What the work cost that did not come to its end."""
    return f"spent so far: {money(usd)}; everything paid for is kept"


def money(usd: float | None) -> str:
    return "price unknown" if usd is None else f"${usd:.4f}"


class MetricsFile:
    """`metrics.jsonl`. Opened for a resume at step n, it forgets what stands after step n, and what was torn."""

    def __init__(self, path: Path, *, after_step: int = 0) -> None:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        kept = [line for line in lines if _step(line) <= after_step]
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self._path = path

    def log(self, step: int, stage: str, values: Mapping[str, float]) -> None:
        """Appends one line; a value that is not finite is null, for JSON has no word for it."""
        row: dict[str, Any] = {"step": step, "stage": stage}
        for name, value in values.items():
            row[name] = value if math.isfinite(value) else None
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _step(line: str) -> float:
    """Of a torn line it is none: it belongs to a step that is done again."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
