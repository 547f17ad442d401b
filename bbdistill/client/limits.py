"""How many calls to one model are on the wire at once: found by trying, as TCP finds a link's capacity. Pure.

Slow start doubles the limit after every clean round until the first throttling; then it grows by a twentieth a round,
and a throttling cuts it by a fifth, once per cooldown. A round is as many good replies in a row as the limit says.
"""

import math
from dataclasses import dataclass
from typing import Literal

START = 32
_GROWTH = 0.05
_CUT = 0.8
_COOLDOWN_S = 15.0
"""Calls that were already out when the limit was cut are throttled too; they are no reason to cut again."""
_SATURATED = 0.8
"""Share of the limit that a round must have used before it may grow: unused room proves nothing."""

Why = Literal["start", "slow start", "growth", "throttled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One entry of a limit's history; `at_s` in seconds since the first call."""

    at_s: float
    limit: int
    why: Why


class Limit:
    """The limit now and how it came about. `now` is any clock's seconds, always the same clock's."""

    def __init__(self, ceiling: int, now: float) -> None:
        self._ceiling, self._began = ceiling, now
        self.value = min(START, ceiling)
        self.history = [Change(at_s=0.0, limit=self.value, why="start")]
        self._slow_start = True
        self._cooldown_ends = -math.inf
        self._clean = self._peak = 0

    def entered(self, in_flight: int) -> None:
        self._peak = max(self._peak, in_flight)

    def succeeded(self, now: float) -> None:
        if now < self._cooldown_ends:
            return
        self._clean += 1
        if self._clean < self.value:
            return
        saturated = self._peak >= _SATURATED * self.value
        self._new_round()
        if saturated and self.value < self._ceiling:
            more = self.value if self._slow_start else max(1, round(_GROWTH * self.value))
            self._change(min(self._ceiling, self.value + more), now, "slow start" if self._slow_start else "growth")

    def failed(self) -> None:
        """The server is in trouble of its own: no reason to send less, but none to send more."""
        self._new_round()

    def throttled(self, now: float) -> None:
        self._slow_start = False
        self._new_round()
        if now >= self._cooldown_ends:
            self._cooldown_ends = now + _COOLDOWN_S
            if self.value > 1:
                self._change(int(_CUT * self.value), now, "throttled")

    def _new_round(self) -> None:
        self._clean = self._peak = 0

    def _change(self, value: int, now: float, why: Why) -> None:
        self.value = value
        self.history.append(Change(at_s=round(now - self._began, 3), limit=value, why=why))
