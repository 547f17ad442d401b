"""A monitor and its levels: the two types of the table in `watched.py`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Beyond `at` for so many steps in a row. `least` is, of a multiple of the start, the least change that counts."""

    at: float
    steps: int = 3
    least: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor:
    """One row of the table."""

    name: str
    key: str
    """The metric."""
    beyond: Literal["above", "below"]
    of: Literal["value", "multiple", "change"] = "value"
    """What a level is: a value, a multiple of the start, or a difference to it."""
    over: int = 1
    """Steps that are smoothed over; nothing is judged before there are as many."""
    warn: Level
    stop: Level | None = None
    unless: str = ""
    """A metric that says the same better: where a step has it, this one is not judged."""
    rewarded: bool = True
    """Whether it is judged only while rewards drive the student."""
    says: str
    """The figure and what it means; may hold `value` (smoothed), `percent` (100 times that), `start` and `limit`."""
    do: str
    """The next action."""

    def limit(self, level: Level, start: float) -> float:
        """The value beyond which the level is reached."""
        match self.of:
            case "value":
                return level.at
            case "change":
                return start + level.at
            case "multiple" if self.beyond == "above":
                return max(level.at * start, start + level.least)
            case "multiple":
                return min(level.at * start, start - level.least)
