"""One batch, from the reservation to the record: submitted once, waited for, found again after a restart."""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NoReturn, TypeVar

from bbdistill.client.batches import TERMS, Batch, BatchStore, Item, Outcome, outcome_of
from bbdistill.client.budget import Budget
from bbdistill.client.call import Call, Fault, Reply
from bbdistill.config.models import TeacherConfig
from bbdistill.errors import TeacherError
from bbdistill.metrics import Note, OnEvent, Progress
from bbdistill.teacher import faults
from bbdistill.teacher.base import BatchApi, BatchReply, BatchRequest

T = TypeVar("T")

_SUBMIT_S = 600.0
"""The longest that a submission may take."""
_CLOCKS = timedelta(days=1)
"""How far our clock and the provider's may be apart."""
_NO_RESULT = b'{"error": {"code": "no_result", "message": "the batch ended without a result for this request"}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds."""

    first_s: float = 1.0
    """The first wait between two looks at a batch; each is twice as long as the one before."""
    longest_s: float = 60.0
    arrival_s: float = _SUBMIT_S + 60
    """From when on a batch that the provider does not show never arrived."""
    patience_s: float = 1800.0
    """How long the provider may be out of order."""

    def waits(self) -> Iterator[float]:
        wait = self.first_s
        while True:
            yield wait
            wait = min(2 * wait, self.longest_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request for a batch, and the call that would be made instead."""

    item: Item
    call: Call


class Courier:
    """Takes batches to the provider and home again. Raises TeacherError where the provider refuses."""

    def __init__(
        self,
        config: TeacherConfig,
        *,
        api: BatchApi,
        store: BatchStore,
        budget: Budget,
        run: str,
        tell: OnEvent,
        pace: Pace,
    ) -> None:
        self._config, self._api, self._store, self._budget = config, api, store, budget
        self._purse = budget.purse
        self._run, self._tell, self._pace = run, tell, pace
        self._reached = False

    async def send(self, group: Sequence[Asked]) -> None:
        """A new batch of calls for one purpose, if nobody else has sent any of them out meanwhile.

        BudgetExceeded where its worst case does not fit.
        """
        purpose = group[0].item.tags["purpose"]
        capped = self._purse.caps(purpose)
        worst = sum(self._budget.worst_case(each.call, TERMS) for each in group) if capped else 0.0
        await self._purse.reserve(worst, purpose)
        name = f"bbd-{secrets.token_hex(8)}"
        requests = [
            BatchRequest(custom_id=f"{name}-{number}", body=json.loads(each.call.body))
            for number, each in enumerate(group)
        ]
        staged = await self._patiently(lambda: self._api.stage(name, requests))
        batch = Batch(
            id=name,
            run=self._run,
            provider=self._config.model.partition(":")[0],
            purpose=purpose,
            reserved_usd=worst,
            created_at=datetime.now(UTC),
            size=len(group),
        )
        if not await asyncio.to_thread(self._store.intend, batch, [each.item for each in group]):
            self._purse.settle(worst, 0.0, purpose)
            return
        await self._submit(batch, staged)
        if not await self._bring_home(batch, group[0].call):
            raise TeacherError(f"batch {name} did not arrive at {batch.provider}, so nothing was asked; resume later")

    async def take_up(self, batch: Batch, like: Call) -> None:
        """A batch that this run or another one submitted before. `like` is any call as it would be made now."""
        self._purse.hold(batch.reserved_usd, batch.purpose)
        await self._bring_home(batch, like)

    async def _submit(self, batch: Batch, staged: Any) -> None:
        """Submits. What is refused for sure is an error; whatever else goes wrong is left to be looked for."""
        for wait in self._pace.waits():
            try:
                async with asyncio.timeout(_SUBMIT_S):
                    remote_id = await self._api.submit(batch.id, batch.run, staged)
            except Exception as error:
                fault = faults.as_fault(error)
                if fault is None:
                    raise
                if not _refused(fault):
                    self._note(f"batch {batch.id}: whether it was submitted is not known ({fault.reason})")
                    return
                if fault.status != 429 or not fault.retryable:
                    self._give_up(batch, "refused")
                    self._stop(error, fault)
                await asyncio.sleep(max(wait, fault.retry_after_s or 0.0))
            else:
                self._store.submitted(batch.id, remote_id)
                self._note(f"batch {batch.id}: {batch.size} requests submitted to {batch.provider} as {remote_id}")
                return

    async def _bring_home(self, batch: Batch, like: Call) -> bool:
        """Waits for a batch and writes down what it answered; False if it never arrived at the provider."""
        try:
            found = await self._identify(batch)
            if found is None:
                self._give_up(batch, "lost")
                return False
            batch, remote_id = found
            await self._end_of(batch, remote_id)
            replies = await self._patiently(lambda: self._api.replies(remote_id))
        except asyncio.CancelledError:
            where = f"batch {batch.id}: its {batch.size} requests go on at {batch.provider}"
            self._note(f"{where}; the same command brings the replies home (a run: with --resume)")
            raise
        outcomes = await asyncio.to_thread(self._read, batch, like, replies)
        if not await asyncio.to_thread(self._store.collect, batch.id, outcomes, self._run):
            outcomes = []  # another process was quicker, and has paid
        for outcome in outcomes:
            self._purse.settle(0.0, outcome.usd, batch.purpose)
        self._purse.settle(batch.reserved_usd, 0.0, batch.purpose)
        if outcomes:
            answered = sum(outcome.state == "answered" for outcome in outcomes)
            self._note(f"batch {batch.id}: {answered} of {batch.size} requests answered")
        return True

    async def _identify(self, batch: Batch) -> tuple[Batch, str] | None:
        """The batch and the provider's id of it; None once it is certain that it has none."""
        for wait in self._pace.waits():
            now = self._store.under_way(batch.id)
            if now is None:
                return None
            if now.remote_id is not None:
                return now, now.remote_id
            since, known = batch.created_at - _CLOCKS, self._store.remote_ids()
            found = await self._patiently(
                lambda since=since, known=known: self._api.find(batch.id, batch.size, since=since, known=known)
            )
            if found.remote_id is not None:
                self._store.submitted(batch.id, found.remote_id)
                continue
            age_s = (datetime.now(UTC) - batch.created_at).total_seconds()
            if found.certain and age_s > self._pace.arrival_s:
                return None
            self._tell(Progress(what=f"batch {batch.id}: looking whether it arrived", done=0, total=batch.size))
            await asyncio.sleep(wait)
        raise AssertionError("unreachable: the waits do not end")

    async def _end_of(self, batch: Batch, remote_id: str) -> None:
        """Waits until the provider is through with it."""
        told = -1
        for wait in self._pace.waits():
            status = await self._patiently(lambda: self._api.status(remote_id))
            if status.failure is not None:
                self._give_up(batch, "refused")
                raise TeacherError(f"{batch.provider} refused batch {batch.id} ({remote_id}): {status.failure}")
            if status.done != told:
                told = status.done
                self._tell(Progress(what=f"batch {batch.id}", done=told, total=batch.size))
            if status.ended:
                return
            await asyncio.sleep(wait)

    def _read(self, batch: Batch, like: Call, replies: Sequence[BatchReply]) -> list[Outcome]:
        """The outcome of every item, in order."""
        by_id = {reply.custom_id: reply for reply in replies}
        latency_s = (datetime.now(UTC) - (batch.submitted_at or batch.created_at)).total_seconds()
        outcomes: list[Outcome] = []
        for number, item in enumerate(self._store.items(batch.id)):
            name = batch.custom_id(number)
            found = by_id.get(name) or BatchReply(custom_id=name, status=503, body=_NO_RESULT)
            headers = {"content-type": "application/json", "x-request-id": found.request_id}
            reply = Reply(status=found.status, headers=headers, body=found.body, latency_s=latency_s)
            outcomes.append(outcome_of(item, like, reply, self._budget))
        return outcomes

    def _give_up(self, batch: Batch, state: Literal["refused", "lost"]) -> None:
        self._store.give_up(batch.id, state)
        self._purse.settle(batch.reserved_usd, 0.0, batch.purpose)

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks until there is an answer: nothing below tries again what is not recorded."""
        waited = 0.0
        for wait in self._pace.waits():
            try:
                answer = await ask()
            except Exception as error:
                fault = faults.as_fault(error)
                # A server that was never reached most likely has another address.
                if fault is None or not fault.retryable or (fault.unreachable and not self._reached):
                    self._stop(error, fault)
                wait = max(wait, fault.retry_after_s or 0.0)
                if waited + wait > self._pace.patience_s:
                    self._stop(error, fault)
                waited += wait
                await asyncio.sleep(wait)
            else:
                self._reached = True
                return answer
        raise AssertionError("unreachable: the waits do not end")

    def _stop(self, error: Exception, fault: Fault | None) -> NoReturn:
        """As an error that says what to do."""
        if fault is None:
            raise error
        model = self._config.model
        if fault.status in (404, 405):
            raise TeacherError(f"`{model}` has no batch API ({fault.reason}); go on without --batch") from error
        faults.outcome_of(error, self._config)
        raise TeacherError(f"the batch API of `{model}` failed: {fault.reason}") from error

    def _note(self, text: str) -> None:
        self._tell(Note(text=text))


def _refused(fault: Fault) -> bool:
    """Whether a submission certainly did not arrive."""
    status = fault.status
    return fault.unreachable or (status is not None and 400 <= status < 500 and status not in (408, 409))
