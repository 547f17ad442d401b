"""The stack between an SDK and the socket, one concern per layer: Replay -> Retry -> Gate -> Budget -> Socket."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import httpx2

from bbdistill.client.budget import Budget, Purse
from bbdistill.client.call import Call, Fault, Handler, Malformed, Mode, Repeat, Reply
from bbdistill.client.gate import Gate, LimitHistory
from bbdistill.client.headers import Kind
from bbdistill.client.prices import Override, price
from bbdistill.client.replay import Replay
from bbdistill.client.retry import Attempt, OnAttempt, Retry
from bbdistill.client.socket import Finish, Socket
from bbdistill.client.store import SpendRow, Store
from bbdistill.client.writer import Writer
from bbdistill.errors import ConfigError
from bbdistill.types import Usage

__all__ = ["Call", "ClientSettings", "Fault", "Handler", "Malformed", "Mode", "Reply", "Stack", "open_stack"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """How calls are made."""

    concurrency: int = 64
    """Attempts on the wire at once, at most; how many are worth it is found by trying, from 32 up."""
    per_minute: Mapping[Kind, int] = field(default_factory=dict[Kind, int])
    """Rate limits you know of: `requests`, `tokens`, `input-tokens`, `output-tokens`. The server's own are learned."""
    attempts: int = 8
    """Tries of one call, at most."""
    timeout_s: float = 600
    """Longest silence of one attempt; a shorter wish of the SDK counts."""
    deadline_s: float = 1800
    """Longest time one call may wait between its attempts, all waits together."""
    max_usd: float | None = None
    """Hard cap; what the run has spent before counts. None = no cap."""
    max_usd_by: Mapping[str, float] = field(default_factory=dict[str, float])
    """Hard caps on the calls of one purpose, beside `max_usd`."""
    prices: Override | None = None
    """Your own dollars per million tokens (input, output, perhaps cached input); None = the price table."""
    teacher_id: str | None = None
    """Name of the teacher inside request keys; None = the provider, or host:port."""


class Stack:
    """The handlers of one client. `direct` is for traffic that is not recorded; None where nothing may go out."""

    def __init__(
        self,
        handler: Handler,
        *,
        replay: Replay | None = None,
        socket: Socket | None = None,
        retry: Retry | None = None,
        gate: Gate | None = None,
        budget: Budget | None = None,
    ) -> None:
        self._handler, self.replay, self._socket, self._retry, self._gate = handler, replay, socket, retry, gate
        self.budget = budget
        """Who pays; None where nothing goes out."""

    async def __call__(self, call: Call, /) -> Reply:
        return await self._handler(call)

    @property
    def direct(self) -> httpx2.AsyncClient | None:
        return None if self._socket is None else self._socket.client

    @property
    def limits(self) -> Sequence[LimitHistory]:
        """How many calls at once each model was given, and why; empty where nothing goes out."""
        return () if self._gate is None else self._gate.history

    @property
    def in_flight(self) -> int:
        """Calls that are sent and not answered yet."""
        return 0 if self.budget is None else self.budget.in_flight

    @property
    def failed(self) -> Sequence[str]:
        """Why the last attempt failed of each call that is tried again, the newest reason last."""
        return () if self._retry is None else self._retry.failed

    @property
    def offline(self) -> Callable[[Call], Reply] | None:
        """Answers on the caller's own thread, without a loop; None where calls may go out."""
        return self.replay.recorded if self.replay is not None and self.budget is None else None

    async def drain(self) -> None:
        """Sends nothing more of what was asked so far, and waits until all that is on the wire is stored."""
        if self.replay is not None:
            await self.replay.drain()

    async def aclose(self) -> None:
        """Lets what is on the wire come home; the store stays open, being the caller's."""
        if self.replay is not None:
            await self.replay.aclose()
        if self._socket is not None:
            await self._socket.aclose()


def open_stack(
    store: Store | None,
    *,
    mode: Mode = "auto",
    run: str | None = None,
    source_run: str | None = None,
    repeat: Repeat = "same",
    settings: ClientSettings | None = None,
    beside: Stack | None = None,
    bottom: Handler | None = None,
) -> Stack:
    """The stack of a mode. `run` is who uses the calls, `source_run` whom a replay repeats (None: the newest run).

    `beside` is another stack of the same run: what both spend counts under one cap. `bottom` answers in the place of
    the network.
    """
    settings = settings or ClientSettings()
    if mode == "off":
        socket, end = _end(settings, bottom)
        purse = _purse(settings, (), beside)
        live, gate, budget = _live(end, settings, purse)
        return Stack(live, socket=socket, retry=live, gate=gate, budget=budget)
    if store is None:
        raise ConfigError(f"mode `{mode}` needs a store; give its path, or use mode `off`")
    if mode == "replay":
        source_run = _known_run(store, source_run)
        replay = Replay(None, store, mode=mode, source_run=source_run, teacher=settings.teacher_id, repeat=repeat)
        return Stack(replay, replay=replay)
    socket, end = _end(settings, bottom)
    spent = store.spend(run) if run is not None else ()
    writer = Writer(store)
    log = _attempt_log(store, writer, run)
    purse = _purse(settings, spent, beside)
    live, gate, budget = _live(Finish(end), settings, purse, on_attempt=log)
    replay = Replay(live, store, mode=mode, run=run, teacher=settings.teacher_id, repeat=repeat, writer=writer)
    return Stack(replay, replay=replay, socket=socket, retry=live, gate=gate, budget=budget)


def _end(settings: ClientSettings, bottom: Handler | None) -> tuple[Socket | None, Handler]:
    """The network, if it is that, and where calls end."""
    if bottom is not None:
        return None, bottom
    socket = Socket(concurrency=settings.concurrency, timeout_s=settings.timeout_s)
    return socket, socket


def _purse(settings: ClientSettings, spent: Sequence[SpendRow], beside: Stack | None) -> Purse:
    """A stack beside another pays from the same purse."""
    if beside is not None and beside.budget is not None:
        return beside.budget.purse
    before, unbounded = {row.purpose: row.usd for row in spent}, sum(row.unpriced for row in spent)
    return Purse(settings.max_usd, settings.max_usd_by, before, unbounded)


def _live(
    bottom: Handler, settings: ClientSettings, purse: Purse, *, on_attempt: OnAttempt | None = None
) -> tuple[Retry, Gate, Budget]:
    budget = Budget(bottom, price=partial(_price, settings.prices), purse=purse)
    gate = Gate(budget, ceiling=settings.concurrency, per_minute=settings.per_minute, patience_s=settings.deadline_s)
    retry = Retry(gate, attempts=settings.attempts, deadline_s=settings.deadline_s, on_attempt=on_attempt)
    return retry, gate, budget


def _price(
    override: Override | None, model: str, provider: str, usage: Usage, terms: Mapping[str, str]
) -> float | None:
    return price(model, provider, usage, override, terms)


def _known_run(store: Store, wanted: str | None) -> str | None:
    """The run to replay; None where the store has calls of no run."""
    runs = [row.id for row in store.runs()]
    if wanted is None:
        return runs[-1] if runs else None
    if wanted not in runs:
        raise ConfigError(f"the store `{store.path}` has no run `{wanted}`; it has {', '.join(runs) or 'none'}")
    return wanted


def _attempt_log(store: Store, writer: Writer, run: str | None) -> OnAttempt:
    """Writes attempts down, at the latest with the reply. It never fails a call over it."""

    def log(call: Call, attempt: Attempt) -> None:
        writer.post(partial(store.attempt, call.key, run, attempt))

    return log
