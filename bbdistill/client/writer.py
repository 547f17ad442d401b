"""Writes for an event loop: a thread of their own, and one transaction for all that came up meanwhile."""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from bbdistill.client.store import Store

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Writer:
    """Does writes to `store` in the order in which they are given. What one of them raises concerns that one alone."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._guard = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bbdistill-store")

    async def write(self, work: Callable[[], T]) -> T:
        """The result of `work`, once it is on disk. Cancelling the wait does not take it back."""
        return await asyncio.wrap_future(self._give(work))

    def post(self, work: Callable[[], object]) -> None:
        """Does `work` at the latest with the next write. That it failed is only logged."""
        self._give(work).add_done_callback(_log_failure)

    async def flush(self) -> None:
        """Waits until everything is written."""
        await asyncio.wrap_future(self._thread.submit(int))  # what comes after everything that was given

    def _give(self, work: Callable[[], T]) -> "Future[T]":
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # from now on it cannot be cancelled
        with self._guard:
            self._waiting.append((work, future))
            first = len(self._waiting) == 1
        if first:
            self._thread.submit(self._write_waiting)
        return future

    def _write_waiting(self) -> None:
        with self._guard:
            batch, self._waiting = self._waiting, []
        try:
            with self._store.together():
                results = [work() for work, _ in batch]
        except BaseException:
            # Nothing of it was written; one by one shows whose fault it was.
            for work, future in batch:
                _settle(work, future)
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)


def _settle(work: Callable[[], Any], future: Future[Any]) -> None:
    try:
        future.set_result(work())
    except BaseException as failure:
        future.set_exception(failure)


def _log_failure(future: Future[Any]) -> None:
    failure = future.exception()
    if failure is not None:
        _log.debug("a write failed: %s", failure)
