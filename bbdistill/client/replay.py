"""Answers from the record what is recorded, and records what is not. A reply is on disk before anyone uses it."""

import logging
import threading
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial

from bbdistill.client import keys, nearest
from bbdistill.client.call import Call, Fault, Handler, Mode, Repeat, Reply
from bbdistill.client.flights import Flights, to_the_end
from bbdistill.client.keys import Request
from bbdistill.client.records import as_cached, outcome_of, row_of
from bbdistill.client.store import AnswerRow, Store
from bbdistill.client.writer import Writer
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
    With `repeat="sequence"` the n-th identical request gets the n-th recorded reply.

    `used` holds the numbers of the recorded calls it gave or wrote, `misses` what was never recorded.
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
        repeat: Repeat = "same",
        writer: Writer | None = None,
    ) -> None:
        self._writer = writer or Writer(store)
        self.used: set[int] = set()
        self.misses: list[ReplayMiss] = []
        self._inner, self._store, self._mode = inner, store, mode
        self._run, self._source_run, self._teacher = run, source_run, teacher
        self._flights = Flights[_Landed]()
        self._reclaimed: set[int] = set()
        self._asked: Counter[str] | None = Counter() if repeat == "sequence" else None
        self._counting = threading.Lock()
        self._warned = False

    async def __call__(self, call: Call, /) -> Reply:
        inner = self._inner
        if inner is None:
            return self.recorded(call)
        request = keys.canonical(call, self._teacher)
        key = keys.key(request)
        nth = self._turn(key)
        # To record is to call every time; otherwise identical calls in flight are one.
        name = object() if self._mode == "record" else (key, nth)
        landed, first = await self._flights.share(name, lambda: self._fly(inner, call, request, key, nth))
        if first:
            return landed.reply
        if landed.call_id is not None:
            await self._writer.write(partial(self._store.use, self._run, landed.call_id))
        return as_cached(landed.reply)

    async def drain(self) -> None:
        await self._flights.drain()

    def recorded(self, call: Call) -> Reply:
        """The recorded reply; the network is not touched. ReplayMiss shows the nearest recorded request."""
        request = keys.canonical(call, self._teacher)
        key = keys.key(request)
        nth = self._turn(key)
        row = self._store.find_used(key, self._source_run, nth)
        if row is None:
            miss = ReplayMiss(self._miss(call, request, key, nth))
            self.misses.append(miss)
            raise miss
        self.used.add(row.id)
        return outcome_of(row)

    async def aclose(self) -> None:
        await self._flights.aclose(_GRACE_S)
        await self._writer.flush()

    def _turn(self, key: str) -> int | None:
        """How many times this client has asked the same before; None where that does not matter."""
        if self._asked is None:
            return None
        with self._counting:
            self._asked[key] += 1
            return self._asked[key] - 1

    async def _fly(self, inner: Handler, call: Call, request: Request, key: str, nth: int | None) -> _Landed:
        if self._mode == "auto":
            row = self._store.find(key, self._run, nth)  # a look-up is shorter than a change of threads
            if row is not None:
                return await self._reuse(row)
        try:
            reply = await inner(replace(call, key=key))
        except Fault as fault:
            await self._write(call, request, key, fault)
            raise
        call_id = await self._write(call, request, key, reply)
        if call_id is not None:
            self._reclaimed.add(call_id)
        return _Landed(reply, call_id)

    async def _reuse(self, row: AnswerRow) -> _Landed:
        self.used.add(row.id)
        reply = outcome_of(row)
        if row.id not in self._reclaimed and self._store.bought(self._run, row.id):
            # A resumed run comes by what it paid for itself: the same reply, at the same price, as when it was bought.
            self._reclaimed.add(row.id)
            return _Landed(replace(reply, cached=False, cost_usd=row.cost_usd), row.id)
        await self._writer.write(partial(self._store.use, self._run, row.id))
        return _Landed(reply, row.id)

    async def _write(self, call: Call, request: Request, key: str, outcome: Reply | Fault) -> int | None:
        row = row_of(call, request, key, outcome)
        try:
            with to_the_end():
                call_id = await self._writer.write(partial(self._store.put_call, row, run=self._run))
        except StoreError as failure:
            if self._mode != "record":
                self._flights.give_up(failure)  # what cannot be kept is not bought
                raise
            if not self._warned:
                self._warned = True
                _log.warning("replies are passed on but no longer recorded: %s", failure)
            return None
        self.used.add(call_id)
        return call_id

    def _miss(self, call: Call, request: Request, key: str, nth: int | None) -> str:
        names = {"purpose": call.tags.get("purpose"), "prompt": call.tags.get("prompt_id"), "sample": call.sample}
        about = ", ".join(f"{name} `{value}`" for name, value in names.items() if value)
        where = f"run `{self._source_run}` of `{self._store.path}`" if self._source_run else f"`{self._store.path}`"
        often = f" {nth + 1} times" if nth else ""
        said = f"{request['path']} ({about})" if about else request["path"]
        said = f"{said} was not recorded{often}"
        said = f"{said} in {where}, key {key[:12]}; record it with mode `auto`, or ask what was asked then."
        if nth and self._store.find_used(key, self._source_run):
            return f"{said} Its recorded sequence is shorter."
        stored = self._store.nearest(request, call.tags)
        if stored is None:
            return f"{said} Nothing at all is recorded there."
        difference = nearest.diff(stored, request)
        if not difference:
            return f"{said} Another run has exactly this request."
        return f"{said} The nearest recorded request differs so:\n{difference}"
