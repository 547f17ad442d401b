"""A rate limit as a bucket that refills steadily: taken from before sending, put right by what comes back. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from bbdistill.client.headers import Kind, Told

Amounts: TypeAlias = Mapping[Kind, float]
"""What one call takes of each kind of limit."""

_MINUTE_S = 60.0
_SLACK = 0.1
"""Resets come rounded to the second; a tenth of a minute tells a steady refill from the two other kinds."""
_NOISE = 1e-9
"""Sums of floats miss by less; without it a wait could end a hair too early, for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What a reply tells of one limit, and what else was taken from it meanwhile."""

    told: Told
    now: float
    elapsed_s: float
    """Since the call was sent: somewhen in between the server counted."""
    unseen: float
    """Taken since the call was sent, so surely not counted."""
    maybe_unseen: float
    """Taken before by calls that were still out when this one was sent: perhaps they got there later."""
    level_is_known: bool
    """False where our own count is no help: none was kept, or the server has just refused what it allowed."""


class Bucket:
    """`per_minute` units of one kind. Full at first; may be overdrawn by what is learned later."""

    def __init__(self, per_minute: float, now: float) -> None:
        self.capacity = self.level = float(per_minute)
        self._per_s = per_minute / _MINUTE_S
        self._closed_until = -math.inf
        self._at = now

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until `amount` may be taken. More than the whole limit may be taken from a full bucket."""
        self._refill(now)
        missing = min(amount, self.capacity) - self.level
        refilled_s = missing / self._per_s if missing > _NOISE else 0.0
        return max(refilled_s, self._closed_until - now)

    def take(self, amount: float, now: float) -> None:
        self._refill(now)
        self.level -= amount

    def give_back(self, amount: float) -> None:
        self.level = min(self.capacity, self.level + amount)

    def learn(self, heard: Heard) -> None:
        """Puts the level within what a reply allows."""
        told = heard.told
        self._refill(heard.now)
        self._learn_rate(told, heard.now)
        least = told.remaining - heard.unseen - heard.maybe_unseen
        most = told.remaining + 1 + self._per_s * heard.elapsed_s - heard.unseen
        self.level = min(self.capacity, max(least, min(most, self.level)) if heard.level_is_known else least)

    def _learn_rate(self, told: Told, now: float) -> None:
        self.capacity, self._per_s = float(told.limit), told.limit / _MINUTE_S
        if told.reset_s is None:
            return
        if told.reset_s > (1 + _SLACK) * _MINUTE_S and told.remaining < told.limit:
            # No limit per minute takes that long to be whole again: this one is per hour or per day.
            self._per_s = (told.limit - told.remaining) / told.reset_s
        elif told.remaining == 0 and told.reset_s < (1 - _SLACK) * _MINUTE_S:
            # An empty bucket that is full again so soon does not refill steadily, but all at once.
            self._closed_until = now + told.reset_s

    def _refill(self, now: float) -> None:
        self.level = min(self.capacity, self.level + self._per_s * (now - self._at))
        self._at = now
