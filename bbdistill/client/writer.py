"""Writes of an event loop: all that comes up in one turn of it is one transaction, and a locked file blocks nobody."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from bbdistill.client import sqlite
from bbdistill.client.sqlite import StoreBusy
from bbdistill.client.store import Store

T = TypeVar("T")
_LOOK_AGAIN_S = 0.01
"""How soon a file is tried again that another process is writing to."""
_log = logging.getLogger(__name__)


class Writer:
    """Does writes to `store` in the order in which they are given. What one of them raises concerns that one alone.

    They are done on the loop's own thread: what takes microseconds would wait for milliseconds in another, for its turn
    with the interpreter.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def write(self, work: Callable[[], T]) -> T:
        """The result of `work`, once it is on disk. Cancelling the wait does not take it back."""
        return await self._give(work)

    def post(self, work: Callable[[], object]) -> None:
        """Does `work` at the latest with the next write. That it failed is only logged."""
        self._give(work).add_done_callback(_log_failure)

    async def flush(self) -> None:
        """Waits until everything is written."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    def _give(self, work: Callable[[], T]) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append((work, future))
        if self._writing is None or self._writing.done():
            self._writing = loop.create_task(self._write())
        return future

    async def _write(self) -> None:
        patience_s = sqlite.BUSY_S
        while self._waiting:
            batch = list(self._waiting)
            try:
                outcomes = self._try(batch)
            except StoreBusy as busy:
                patience_s -= _LOOK_AGAIN_S
                if patience_s > 0:
                    await asyncio.sleep(_LOOK_AGAIN_S)
                    continue
                outcomes = [busy for _ in batch]
            patience_s = sqlite.BUSY_S
            del self._waiting[: len(batch)]
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                _settle(future, outcome)

    def _try(self, batch: list[tuple[Callable[[], Any], asyncio.Future[Any]]]) -> list[Any]:
        """Results and exceptions, in order. StoreBusy where nothing could be tried."""
        try:
            with self._store.together():
                return [work() for work, _ in batch]
        except StoreBusy:
            raise
        except Exception:
            # Nothing of it was written; one by one shows whose fault it was.
            return [_outcome(work) for work, _ in batch]


def _outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as failure:
        return failure


def _settle(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():  # whoever waited has gone
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _log_failure(future: asyncio.Future[Any]) -> None:
    if not future.cancelled() and future.exception() is not None:
        _log.debug("a write failed: %s", future.exception())
