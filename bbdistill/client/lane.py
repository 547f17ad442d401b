"""The queue in front of one model: who may send next, and what a reply means for those who wait."""

import asyncio
from collections import deque
from collections.abc import Mapping

from bbdistill.client.buckets import Amounts
from bbdistill.client.call import Fault, Reply
from bbdistill.client.headers import Kind
from bbdistill.client.limits import Limit
from bbdistill.client.rates import Rates, Ticket

_Queue = deque[tuple[asyncio.Future[Ticket], Amounts]]
_PAUSE_S = 1.0
"""After a throttling that does not say how long to wait."""
_THROTTLED = 429


class Lane:
    """First come first served, through three doors: the limit on calls at once, the rate limits, the shared pause.

    Retries have a queue of their own, which goes first: they have been waiting for longer than anyone.
    """

    def __init__(self, *, ceiling: int, per_minute: Mapping[Kind, int], patience_s: float) -> None:
        now = asyncio.get_running_loop().time()
        self.limit, self._rates = Limit(ceiling, now), Rates(per_minute, now)
        self._patience_s = patience_s
        self._retries, self._first_tries = _Queue(), _Queue()
        self._in_flight = 0
        self._paused_until = now
        self._pause: Fault | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, amounts: Amounts, *, first_try: bool) -> Ticket:
        """Waits for leave to send. Raises the fault that asked for a pause, where that outlasts `patience_s`."""
        turn: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()
        (self._first_tries if first_try else self._retries).append((turn, amounts))
        self._admit()
        try:
            return await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.exception() is None:  # admitted in the same moment
                self.leave(turn.result(), None)
            self._admit()
            raise

    def leave(self, ticket: Ticket, outcome: Reply | Fault | None) -> None:
        """The attempt is over; None = nobody knows how."""
        now = asyncio.get_running_loop().time()
        self._in_flight -= 1
        reply = outcome.reply if isinstance(outcome, Fault) else outcome
        throttled = reply is not None and reply.status == _THROTTLED
        self._rates.close(ticket, _used(reply))
        if reply is not None:
            self._rates.learn(ticket, reply.headers, now, throttled=throttled)
        match outcome:
            case Reply():
                self.limit.succeeded(now)
            case Fault() if throttled:
                self.limit.throttled(now)
                self._pause_for(outcome, now)
            case _:
                self.limit.failed()
        self._admit()

    def _admit(self) -> None:
        """Lets in whoever may go now, in order, and comes back when the next one may."""
        now = asyncio.get_running_loop().time()
        while queue := self._retries or self._first_tries:
            turn, amounts = queue[0]
            if not turn.done():
                if self._pause is not None and self._paused_until - now > self._patience_s:
                    turn.set_exception(_again(self._pause, self._paused_until - now))
                elif self._in_flight >= self.limit.value:
                    return
                else:
                    wait_s = max(self._paused_until - now, self._rates.wait_s(amounts, now))
                    if wait_s > 0:
                        self._come_back(wait_s)
                        return
                    self._in_flight += 1
                    self.limit.entered(self._in_flight)
                    turn.set_result(self._rates.take(amounts, now))
            queue.popleft()

    def _come_back(self, wait_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._admit)

    def _pause_for(self, fault: Fault, now: float) -> None:
        ends = now + (_PAUSE_S if fault.retry_after_s is None else fault.retry_after_s)
        if ends > self._paused_until:
            self._paused_until, self._pause = ends, fault


def _again(pause: Fault, remaining_s: float) -> Fault:
    return Fault(pause.reason, reply=pause.reply, retry_after_s=remaining_s)


def _used(reply: Reply | None) -> Amounts | None:
    """Tokens as the provider counts them towards a limit: what it has in its cache is free."""
    reading = None if reply is None else reply.reading
    if reading is None or not reading.metered:
        return None
    usage = reading.usage
    return {"input-tokens": usage.input_tokens - usage.cached_tokens, "output-tokens": usage.output_tokens}
