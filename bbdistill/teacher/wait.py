"""Waiting for a teacher outside a run: progress is told, and a wish to stop costs nothing that is paid for."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from bbdistill.errors import RunStopped
from bbdistill.metrics import OnEvent, parting
from bbdistill.teacher.teacher import Teacher

T = TypeVar("T")
LOOK_EVERY_S = 0.1


async def waited(
    teacher: Teacher, work: Coroutine[Any, Any, T], what: str, *, total: int, on_event: OnEvent, stop: threading.Event
) -> T:
    """What `work` gives, which asks the open `teacher` `total` times.

    Once `stop` is set, nothing more is sent, the calls in flight are stored, and RunStopped is raised: the same command
    goes on from there.
    """
    asking = asyncio.create_task(work)
    try:
        while not asking.done():
            await asyncio.wait([asking], timeout=LOOK_EVERY_S)
            if stop.is_set():
                raise RunStopped
            if teacher.ledger.calls:  # a batch under way tells of itself
                on_event(teacher.progress(what, total=total))
        return await asking
    except RunStopped:
        asking.cancel()
        await teacher.drain()
        raise RunStopped(parting(teacher.spent_usd, "the same command")) from None
    except BaseException:
        # Whatever went wrong, nothing more is bought.
        asking.cancel()
        await teacher.drain()
        raise
