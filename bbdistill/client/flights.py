"""Makes one call of many identical ones, and brings home what is already paid for. Knows nothing of HTTP."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Generic, TypeVar

from bbdistill.errors import RunStopped

T = TypeVar("T")


class _Flight(Generic[T]):
    """One piece of work under way, and how many wait for it."""

    def __init__(self, start: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self.waiting = 0
        self.claimed = self.sheltered = self.given_up = False
        self.task = asyncio.create_task(self._fly(start))

    def give_up(self) -> None:
        """Nobody wants the result any more: ends the work, unless it is at something that runs to its end."""
        self.given_up = True
        if not self.sheltered:
            self.task.cancel()

    async def _fly(self, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        _MINE.set(self)
        return await start()


_MINE: ContextVar[_Flight[Any] | None] = ContextVar("flight", default=None)
"""The flight that the running code is part of."""


class Flights(Generic[T]):
    """Work by name: whoever asks for a name that is under way waits for it instead of starting it again."""

    def __init__(self) -> None:
        self._under_way: dict[object, _Flight[T]] = {}
        self._over: Exception | None = None

    async def share(self, name: object, start: Callable[[], Coroutine[Any, Any, T]]) -> tuple[T, bool]:
        """(result, whether this caller is the first to get it). Work that nobody waits for any more is cancelled.

        RunStopped after `drain`, and after `give_up` its reason: nothing is started any more.
        """
        while True:
            if self._over is not None:
                raise self._over
            flight = self._flight(name, start)
            flight.waiting += 1
            flight.given_up = False
            try:
                result = await asyncio.shield(flight.task)
            except asyncio.CancelledError:
                if _cancelled_myself() or not flight.task.cancelled():
                    raise
                continue  # it was given up together with those who waited before; this caller starts anew
            finally:
                flight.waiting -= 1
                if not flight.waiting:
                    flight.give_up()
            first, flight.claimed = not flight.claimed, True
            return result, first

    async def drain(self) -> None:
        """Gives everything up, for good, and waits for what goes on to its end all the same (see `to_the_end`)."""
        self.give_up(RunStopped("nothing more is sent: the run is being stopped"))
        await asyncio.gather(*(flight.task for flight in self._under_way.values()), return_exceptions=True)

    def give_up(self, reason: Exception) -> None:
        """Nothing is started any more; what is under way is given up, but for the work that calls this."""
        self._over = self._over or reason
        for flight in self._under_way.values():
            if flight is not _MINE.get():
                flight.give_up()

    async def aclose(self, grace_s: float) -> None:
        """Waits up to `grace_s` for work that runs to its end, then cancels it."""
        tasks = [flight.task for flight in self._under_way.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _flight(self, name: object, start: Callable[[], Coroutine[Any, Any, T]]) -> _Flight[T]:
        # No await between the look-up and the entry, or two callers would both start.
        flight = self._under_way.get(name)
        if flight is None or flight.task.done():
            flight = self._under_way[name] = _Flight(start)
            flight.task.add_done_callback(partial(self._done, name))
        return flight

    def _done(self, name: object, task: asyncio.Task[T]) -> None:
        if self._under_way[name].task is task:
            del self._under_way[name]
        if not task.cancelled():
            task.exception()  # seen, even where everyone who waited is gone


@contextmanager
def to_the_end() -> Generator[None]:
    """What is done inside goes on when nobody waits for it any more; what comes after it should soon end."""
    flight = _MINE.get()
    if flight is None:
        yield
        return
    flight.sheltered = True
    try:
        yield
    finally:
        flight.sheltered = False


def given_up() -> bool:
    """Whether nobody waits any more for what is being done here."""
    flight = _MINE.get()
    return flight is not None and flight.given_up


def _cancelled_myself() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
