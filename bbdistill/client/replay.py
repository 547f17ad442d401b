"""Answers from the record what is recorded, and records what is not. A reply is on disk before anyone uses it."""

import asyncio
import logging
from dataclasses import dataclass, replace

from bbdistill.client import keys, nearest
from bbdistill.client.call import Call, Fault, Handler, Mode, Reply
from bbdistill.client.flights import Flights, to_the_end
from bbdistill.client.keys import Request
from bbdistill.client.records import as_cached, outcome_of, row_of
from bbdistill.client.store import Store
from bbdistill.errors import ReplayMiss, StoreError

_log = logging.getLogger(__name__)
_GRACE_S = 30.0
"""How long closing waits for what is on the wire: it is paid for."""


@dataclass(frozen=True, slots=True)
class _Landed:
    reply: Reply
    call_id: int | None
    """None where the reply could not be written."""


class Replay:
    """Record and replay over `inner`, which is None where no call may go out.

    `auto`: a recorded reply, else call and write. `record`: always call, always write; a failing store only warns.
    `replay`: what `source_run` (None: any run) was answered, faults as faults; else ReplayMiss. Nothing is written.
    """

    def __init__(
        self,
        inner: Handler | None,
        store: Store,
        *,
        mode: Mode,
        run: str | None = None,
        source_run: str | None = None,
        teacher: str | None = None,
    ) -> None:
        self._inner, self._store, self._mode = inner, store, mode
        self._run, self._source_run, self._teacher = run, source_run, teacher
        self._flights = Flights[_Landed]()
        self._reclaimed: set[int] = set()
        self._warned = False

    async def __call__(self, call: Call, /) -> Reply:
        request = keys.canonical(call, self._teacher)
        key = keys.key(request)
        inner = self._inner
        if inner is None:
            return await asyncio.to_thread(self._recorded, call, request, key)
        # To record is to call every time; otherwise identical calls in flight are one.
        name = object() if self._mode == "record" else key
        landed, first = await self._flights.share(name, lambda: self._fly(inner, call, request, key))
        if first:
            return landed.reply
        if landed.call_id is not None:
            await asyncio.to_thread(self._store.use, self._run, landed.call_id)
        return as_cached(landed.reply)

    async def drain(self) -> None:
        await self._flights.drain()

    async def aclose(self) -> None:
        await self._flights.aclose(_GRACE_S)

    async def _fly(self, inner: Handler, call: Call, request: Request, key: str) -> _Landed:
        if self._mode == "auto":
            found = await asyncio.to_thread(self._reuse, key)
            if found is not None:
                return found
        try:
            reply = await inner(call)
        except Fault as fault:
            await to_the_end(self._write(call, request, key, fault))
            raise
        call_id = await to_the_end(self._write(call, request, key, reply))
        if call_id is not None:
            self._reclaimed.add(call_id)
        return _Landed(reply, call_id)

    def _reuse(self, key: str) -> _Landed | None:
        row = self._store.find(key, self._run)
        if row is None:
            return None
        reply = outcome_of(row)
        if row.id not in self._reclaimed and self._store.bought(self._run, row.id):
            # A resumed run comes by what it paid for itself: the same reply, at the same price, as when it was bought.
            self._reclaimed.add(row.id)
            return _Landed(replace(reply, cached=False, cost_usd=row.cost_usd), row.id)
        self._store.use(self._run, row.id)
        return _Landed(reply, row.id)

    async def _write(self, call: Call, request: Request, key: str, outcome: Reply | Fault) -> int | None:
        row = row_of(call, request, key, outcome)
        try:
            return await asyncio.to_thread(self._store.put_call, row, run=self._run)
        except StoreError as failure:
            if self._mode != "record":
                raise
            if not self._warned:
                self._warned = True
                _log.warning("replies are passed on but no longer recorded: %s", failure)
            return None

    def _recorded(self, call: Call, request: Request, key: str) -> Reply:
        row = self._store.find_used(key, self._source_run)
        if row is None:
            raise ReplayMiss(self._miss(call, request, key))
        return outcome_of(row)

    def _miss(self, call: Call, request: Request, key: str) -> str:
        names = {"purpose": call.tags.get("purpose"), "prompt": call.tags.get("prompt_id"), "sample": call.sample}
        about = ", ".join(f"{name} `{value}`" for name, value in names.items() if value)
        where = f"run `{self._source_run}` of `{self._store.path}`" if self._source_run else f"`{self._store.path}`"
        said = f"{request['path']} ({about}) was not recorded" if about else f"{request['path']} was not recorded"
        said = f"{said} in {where}, key {key[:12]}; record it with mode `auto`, or ask what was asked then."
        stored = self._store.nearest(request)
        if stored is None:
            return f"{said} Nothing at all is recorded there."
        difference = nearest.diff(stored, request)
        if not difference:
            return f"{said} Another run has exactly this request."
        return f"{said} The nearest recorded request differs so:\n{difference}"
