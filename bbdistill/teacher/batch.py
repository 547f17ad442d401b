"""The batch lane, above the client stack: it fills the record through the provider's batch API, at half the price.

Afterwards the verbs find their replies in the record, as if asked one by one; what no batch answered they ask live.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from bbdistill.client import keys
from bbdistill.client.batches import BatchStore, Item
from bbdistill.client.call import Call, Reply
from bbdistill.errors import ReplayMiss
from bbdistill.metrics import OnEvent
from bbdistill.teacher.connect import connect_to
from bbdistill.teacher.courier import Asked, Courier, Pace
from bbdistill.teacher.teacher import Teacher
from bbdistill.types import Prompt, Purpose

_FRAME_BYTES = 200
"""More than a batch adds to the body of one request."""


async def fetch(
    teacher: Teacher, wanted: Mapping[Purpose, Sequence[Prompt]], *, tell: OnEvent, pace: Pace | None = None
) -> None:
    """Returns when every demonstration of `wanted` is in the record, or is left to be asked live; at once in a replay.

    TeacherError if the provider refuses, BudgetExceeded if the worst case does not fit. Cancelling leaves what was
    submitted to the provider; the same call, in another process too, takes it up again.
    """
    if teacher.connection.replaying:
        return
    lane = _Lane(teacher, tell=tell, pace=pace or Pace())
    try:
        await lane.fetch(wanted)
    finally:
        lane.close()


class _Lane:
    def __init__(self, teacher: Teacher, *, tell: OnEvent, pace: Pace) -> None:
        connection = teacher.connection
        store, run, budget = connection.store, connection.run, connection.stacks[0].budget
        assert store is not None, "the batch lane needs a store"
        assert run is not None, "the batch lane needs a run"
        assert budget is not None, "the batch lane needs a live connection"
        self._teacher, self._run = teacher, run
        self._api, self._store = connection.provider.batches, BatchStore(store.path)
        self._courier = Courier(
            teacher.config, api=self._api, store=self._store, budget=budget, run=run, tell=tell, pace=pace
        )

    def close(self) -> None:
        self._store.close()

    async def fetch(self, wanted: Mapping[Purpose, Sequence[Prompt]]) -> None:
        asked: dict[str, Asked] = {}
        for purpose, prompts in wanted.items():
            for each in await self._as_asked(prompts, purpose):
                asked.setdefault(each.item.key, each)
        while asked:
            like = next(iter(asked.values())).call
            out = await asyncio.to_thread(self._store.out, asked)
            await _all(self._courier.take_up(batch, like) for batch in out)
            due = [asked[key] for key in await asyncio.to_thread(self._store.due, asked, self._run)]
            if not due:
                return
            groups = [group for purpose in wanted for group in self._groups(due, purpose)]
            await _all(self._courier.send(group) for group in groups)

    async def _as_asked(self, prompts: Sequence[Prompt], purpose: Purpose) -> list[Asked]:
        """The calls that the teacher would make."""
        config, found = self._teacher.config, list[Asked]()

        async def note(call: Call, /) -> Reply:
            request = keys.canonical(call, config.id)
            found.append(Asked(item=Item(key=keys.key(request), request=request, tags=call.tags), call=call))
            raise ReplayMiss("the request goes out in a batch")

        connection = connect_to(note, config)
        like = self._teacher
        teacher = Teacher.from_config(
            config, templates=like.templates, answer_options=like.answer_options, connection=connection
        )
        for prompt in prompts:
            with suppress(ReplayMiss):
                await teacher.demonstrate(prompt, purpose=purpose)
        await connection.close()
        return found

    def _groups(self, due: Sequence[Asked], purpose: Purpose) -> Iterator[list[Asked]]:
        """Those for one purpose, as many together as the provider takes."""
        group: list[Asked] = []
        size = 0
        for each in due:
            if each.item.tags["purpose"] != purpose:
                continue
            own = len(each.call.body) + _FRAME_BYTES
            if group and (len(group) == self._api.max_requests or size + own > self._api.max_bytes):
                yield group
                group, size = [], 0
            group.append(each)
            size += own
        if group:
            yield group


async def _all(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """All of it at once; the first error cancels the rest."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
