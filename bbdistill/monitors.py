"""The watch over a run: says when it goes wrong, before it is lost. Pure: it reads metrics, and ends no run itself.

`Monitors.look` holds one step's metrics against the table in `watched.py`. Most of it means something only while
rewards drive the student: imitation is there to change lengths and entropy, and a group of one has no difference.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from bbdistill.levels import Level, Monitor
from bbdistill.metrics import Alarm
from bbdistill.watched import MONITORS

START = 5
"""Steps whose mean is the start that others are compared with: one step of sampled metrics is off by up to a third."""
BACK = 5
"""Steps in a row within the level after which a monitor may tell again: a value that wavers is told once."""
RANKS = ("", "warn", "stop")


@dataclass(slots=True)
class Memory:
    """What one monitor has seen. `warn`, `stop`, `within`: steps in a row up to now."""

    seen: int = 0
    start: float = 0.0
    smoothed: float = 0.0
    warn: int = 0
    stop: int = 0
    within: int = 0
    told: Literal["", "warn", "stop"] = ""

    def take(self, value: float, monitor: Monitor) -> Literal["", "warn", "stop"]:
        """One more value; the level that has to be told now, if any."""
        self.seen += 1
        if self.seen <= START:
            self.start += (value - self.start) / self.seen
        self.smoothed += (value - self.smoothed) / min(self.seen, monitor.over)
        if self.seen < monitor.over or (monitor.of != "value" and self.seen <= START):
            return ""
        warned, stopped = self._beyond(monitor.warn, monitor), self._beyond(monitor.stop, monitor)
        self.warn = self.warn + 1 if warned else 0
        self.stop = self.stop + 1 if stopped else 0
        self.within = 0 if warned else self.within + 1
        if self.within >= BACK:
            self.told = ""
        level = self._level(monitor)
        if RANKS.index(level) <= RANKS.index(self.told):
            return ""
        self.told = level
        return level

    def _beyond(self, level: Level | None, monitor: Monitor) -> bool:
        if level is None:
            return False
        limit = monitor.limit(level, self.start)
        return self.smoothed > limit if monitor.beyond == "above" else self.smoothed < limit

    def _level(self, monitor: Monitor) -> Literal["", "warn", "stop"]:
        if monitor.stop is not None and self.stop >= monitor.stop.steps:
            return "stop"
        return "warn" if self.warn >= monitor.warn.steps else ""


@dataclass(slots=True)
class Monitors:
    """Memory of every monitor and what was told so far; `asdict` of it is JSON, and `restored` reads that back."""

    memory: dict[str, Memory] = field(default_factory=dict[str, Memory])
    """By the monitor's name."""
    not_finite: list[str] = field(default_factory=list[str])
    """Metrics that were not finite when last seen."""
    alarms: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """For the report: step, monitor, level, text."""

    @classmethod
    def restored(cls, facts: Mapping[str, Any]) -> "Monitors":
        memory = {name: Memory(**row) for name, row in facts["memory"].items()}
        return cls(memory=memory, not_finite=[*facts["not_finite"]], alarms=[*facts["alarms"]])

    def look(self, step: int, metrics: Mapping[str, float], *, rewarded: bool = True) -> list[Alarm]:
        """What this step's metrics make worth telling; a monitor whose metric is missing is left as it is.

        `rewarded`: whether rewards drive the student in this step.
        """
        found = self._look_for_not_finite(metrics)
        for monitor in MONITORS:
            value = metrics.get(monitor.key)
            if value is None or not math.isfinite(value) or monitor.unless in metrics:
                continue
            if monitor.rewarded and not rewarded:
                continue
            memory = self.memory.setdefault(monitor.name, Memory())
            level = memory.take(value, monitor)
            if level:
                found.append(Alarm(monitor=monitor.name, level=level, text=_says(monitor, level, memory)))
        self.alarms += [{"step": step, **asdict(alarm)} for alarm in found]
        return found

    def stop_at(self, step: int) -> Alarm | None:
        """The first alarm of that step which ends a run, if there was one."""
        for row in self.alarms:
            if (row["step"], row["level"]) == (step, "stop"):
                return Alarm(monitor=row["monitor"], level="stop", text=row["text"])
        return None

    def _look_for_not_finite(self, metrics: Mapping[str, float]) -> list[Alarm]:
        now = [name for name, value in metrics.items() if not math.isfinite(value)]
        new = [name for name in now if name not in self.not_finite]
        self.not_finite = [name for name in self.not_finite if name not in metrics] + now
        if not new:
            return []
        figures = ", ".join(f"`{name}` is {metrics[name]}" for name in new)
        text = (
            f"{figures}, where a finite number was expected: the adapter that gave it is spoiled, or is by the next "
            "update; lower `train.learning_rate` or `train.policy_learning_rate`, whichever this stage takes"
        )
        return [Alarm(monitor="not_finite", level="stop", text=text)]


def collapsed(alarm: Alarm, *, step: int, best: str, go_on: str) -> str:
    """The sentence of a `Collapse`. `best` names the best validation ("step 20, 0.741"; empty = there was none),
    `go_on` is the command that continues from there."""
    kept = f"the adapter of the best validation ({best}) is kept; go on from there with"
    next_action = kept if best else "nothing was validated yet; begin again with"
    return f"collapse at step {step} (`{alarm.monitor}`): {alarm.text}; {next_action}: {go_on}"


def _says(monitor: Monitor, level: Literal["warn", "stop"], memory: Memory) -> str:
    beyond = monitor.stop if level == "stop" and monitor.stop else monitor.warn
    limit, value = monitor.limit(beyond, memory.start), memory.smoothed
    figure = monitor.says.format(value=value, percent=100 * value, start=memory.start, limit=limit)
    return f"{figure}; {monitor.do}"
