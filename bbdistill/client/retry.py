"""Tries again, as often and as late as the server allows. Every attempt is told to `on_attempt`."""

import asyncio
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from bbdistill.client.call import Call, Fault, Handler, Reply
from bbdistill.client.flights import given_up

_FIRST_S, _LONGEST_S = 0.5, 60.0
"""Waits where the server names none: each twice as long as the one before."""
_JITTER = 0.5
"""Of the wait, on top of it: less than what the next wait is longer, so that waits always grow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try of a call, the first being number 1; `fault` is None where it gave a usable reply."""

    number: int
    status: int | None
    fault: str | None
    latency_s: float
    retry_after_s: float | None
    purpose: str | None = None
    cost_usd: float | None = None
    """The worst case, where nobody knows what the attempt cost; None where that is known, and stands with the call."""


OnAttempt: TypeAlias = Callable[[Call, Attempt], None]


class Retry:
    """Up to `attempts` tries, as long as the waits between them stay within `deadline_s` in all.

    Time spent queueing or answering does not count: a call at the end of a long queue must not lose its retries.
    """

    def __init__(
        self, inner: Handler, *, attempts: int, deadline_s: float, on_attempt: OnAttempt | None = None
    ) -> None:
        self._inner, self._on_attempt = inner, on_attempt
        self._attempts, self._deadline_s = attempts, deadline_s
        self._failed: dict[int, str] = {}

    @property
    def failed(self) -> list[str]:
        """Why the last attempt failed of each call that is tried again, the newest reason last."""
        return list(self._failed.values())

    async def __call__(self, call: Call, /) -> Reply:
        try:
            return await self._until_usable(call)
        finally:
            self._failed.pop(id(call), None)

    async def _until_usable(self, call: Call) -> Reply:
        waited = 0.0
        for number in itertools.count(1):
            try:
                return await self._attempt(call, number)
            except Fault as fault:
                wait = _wait(fault, number)
                waited += wait
                if not fault.retryable or given_up() or number == self._attempts or waited > self._deadline_s:
                    raise
            await asyncio.sleep(wait)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _attempt(self, call: Call, number: int) -> Reply:
        try:
            reply = await self._inner(call if number == 1 else replace(call, attempt=number))
        except Fault as fault:
            self._failed.pop(id(call), None)
            self._failed[id(call)] = fault.reason
            self._tell(call, number, fault)
            raise
        self._tell(call, number, reply)
        return reply

    def _tell(self, call: Call, number: int, outcome: Reply | Fault) -> None:
        if self._on_attempt is None:
            return
        failed = outcome if isinstance(outcome, Fault) else None
        attempt = Attempt(
            number=number,
            status=outcome.status,
            fault=failed and failed.reason,
            latency_s=outcome.latency_s,
            retry_after_s=failed and failed.retry_after_s,
            purpose=call.tags.get("purpose"),
            cost_usd=outcome.unknown_usd,
        )
        self._on_attempt(call, attempt)


def _wait(fault: Fault, number: int) -> float:
    """Seconds after the attempt of this number."""
    asked = fault.retry_after_s
    # Never earlier than asked; a little later, so that not everyone comes back at once.
    if asked is None:
        return min(_LONGEST_S, _FIRST_S * 2.0 ** (number - 1)) * random.uniform(1, 1 + _JITTER)
    return asked + random.uniform(0, 0.25 + 0.1 * asked)
