"""Dollar caps that cannot be passed: the worst case is set aside before sending, the real cost taken after.

No token is shorter than a byte, so a request's bytes bound its input: text and inline data, not files named by address.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from bbdistill.client import wire
from bbdistill.client.bounds import OUTPUT_LIMITS, output_limit
from bbdistill.client.call import Call, Fault, Handler, Reply
from bbdistill.client.keys import teacher_id
from bbdistill.client.values import Json, as_object, parse
from bbdistill.errors import BudgetExceeded
from bbdistill.types import Usage

Price: TypeAlias = Callable[[str, str, Usage, Mapping[str, str]], float | None]
"""(model, provider id or URL, usage, terms) -> dollars, None = unknown."""

_OVERHEAD_TOKENS = 1000
"""What providers add to a request: chat template, tool and schema instructions."""
_NOISE_USD = 1e-9
"""Sums of floats miss by less; without it the last affordable call could be refused."""


@dataclass(slots=True)
class _Account:
    """One cap, what is spent of it, and what calls on the wire may yet spend. `key` is how the user sets the cap."""

    key: str
    cap: float
    settled: float
    reserved: float = 0.0

    def has_room(self, usd: float) -> bool:
        return self.settled + self.reserved + usd <= self.cap + _NOISE_USD

    def can_ever(self, usd: float) -> bool:
        return self.settled + usd <= self.cap + _NOISE_USD


class Purse:
    """What a run spends, and the caps on it; shared by all models that the run asks.

    `max_usd` is for everything, `max_usd_by` for calls of one purpose; `spent` is what the run has cost before, by
    purpose, and counts. `unbounded` are the calls before that nobody knows even the worst case of.
    """

    def __init__(
        self,
        max_usd: float | None,
        max_usd_by: Mapping[str, float] | None = None,
        spent: Mapping[str, float] | None = None,
        unbounded: int = 0,
    ) -> None:
        before = spent or {}
        self._settled, self._unbounded = sum(before.values()), unbounded
        self._total = [] if max_usd is None else [_Account("max_usd", max_usd, sum(before.values()))]
        self._by_purpose = {
            purpose: _Account(f"max_usd_by.{purpose}", cap, before.get(purpose, 0.0))
            for purpose, cap in (max_usd_by or {}).items()
        }
        self._freed = asyncio.Event()

    def caps(self, purpose: str) -> bool:
        """Whether there is a cap on what is paid for this purpose."""
        return bool(self._accounts(purpose))

    async def reserve(self, usd: float, purpose: str) -> None:
        """Sets `usd` aside, waiting for what other calls give back. BudgetExceeded where that cannot be enough."""
        accounts = self._accounts(purpose)
        while not all(account.has_room(usd) for account in accounts):
            for account in accounts:
                if not account.can_ever(usd):
                    raise BudgetExceeded(
                        f"the cap of ${account.cap:g} (`{account.key}`) is reached: ${account.settled:.4f} is spent "
                        f"and the next call may cost up to ${usd:.4f}; raise `{account.key}` and resume, or lower "
                        "the output limit"
                    )
            await self._freed.wait()
        for account in accounts:
            account.reserved += usd

    def hold(self, usd: float, purpose: str) -> None:
        """Sets `usd` aside for what was sent before: there is nothing to refuse any more."""
        for account in self._accounts(purpose):
            account.reserved += usd

    @property
    def spent_usd(self) -> float | None:
        """Everything settled, unknown outcomes at their worst case; None where one of them has no bound."""
        return None if self._unbounded else self._settled

    def settle(self, reserved_usd: float, actual_usd: float | None, purpose: str) -> None:
        """Takes back what was set aside and pays what it came to; None, where there is no cap, if nobody knows."""
        self._settled += actual_usd or 0.0
        self._unbounded += actual_usd is None
        for account in self._accounts(purpose):
            account.reserved -= reserved_usd
            account.settled += actual_usd or 0.0
        waiting, self._freed = self._freed, asyncio.Event()
        waiting.set()

    def _accounts(self, purpose: str) -> list[_Account]:
        own = self._by_purpose.get(purpose)
        return self._total if own is None else [*self._total, own]


class Budget:
    """Prices every reply and, where the purse has a cap, refuses what could pass it."""

    def __init__(self, inner: Handler, *, price: Price, purse: Purse) -> None:
        self._inner, self._price, self.purse = inner, price, purse
        self.in_flight = 0
        """Calls that are sent and not answered yet."""

    async def __call__(self, call: Call, /) -> Reply:
        purpose = call.tags.get("purpose", "")
        worst = self.worst_case(call) if self.purse.caps(purpose) else 0.0
        await self.purse.reserve(worst, purpose)
        outcome: Reply | Fault | None = None
        self.in_flight += 1
        try:
            outcome = reply = self.bill(call, await self._inner(call))
        except Fault as fault:
            outcome = fault
            fault.unknown_usd = None if fault.free else self.at_most(call)
            raise
        finally:
            self.in_flight -= 1
            self.purse.settle(worst, self._settled(call, outcome), purpose)
        return reply

    def _settled(self, call: Call, outcome: Reply | Fault | None) -> float | None:
        """What it cost; where that is not known, the worst case."""
        match outcome:
            case Reply(cost_usd=float(cost)):
                return cost
            case Fault(free=True):
                return 0.0
            case Reply() | Fault():
                return outcome.unknown_usd
            case None:
                return self.at_most(call)

    def bill(self, call: Call, reply: Reply) -> Reply:
        """`reply` with what it costs."""
        cost = self._cost(call, reply)
        unknown = self.at_most(call) if cost is None else None
        return replace(reply, cost_usd=cost, recorded_cost_usd=cost, unknown_usd=unknown)

    def at_most(self, call: Call) -> float | None:
        """What an attempt of unknown outcome is taken to have cost; None where that has no bound."""
        try:
            return self.worst_case(call)
        except BudgetExceeded:
            return None

    def worst_case(self, call: Call, terms: Mapping[str, str] | None = None) -> float:
        """Dollars that the call may cost, on these terms beside its own; BudgetExceeded if there is no bound."""
        body = _fields(call)
        output = _output_bound(call, body)
        bound = len(call.body) + _OVERHEAD_TOKENS
        written = bound if b'"cache_control"' in call.body else 0
        for_an_hour = written if b'"1h"' in call.body else 0
        usage = Usage(
            input_tokens=bound, output_tokens=output, cache_write_tokens=written, cache_write_1h_tokens=for_an_hour
        )
        model = str(body.get("model"))
        wished = {name: str(body[name]) for name in ("service_tier", "speed") if body.get(name)}
        given = {**(terms or {})}
        prices = [self._price(model, provider_of(call), usage, on) for on in (given, given | wished)]
        known = [price for price in prices if price is not None]
        if not known:
            raise BudgetExceeded(
                f"no price is known for model `{model}` at {provider_of(call)}, so a dollar cap cannot be kept; give "
                "its price (`input_usd_per_mtok`, `output_usd_per_mtok`), or run without a cap"
            )
        return max(known)

    def _cost(self, call: Call, reply: Reply) -> float | None:
        reading = reply.reading
        if reading is None or not reading.metered:
            return None
        names = dict.fromkeys(str(name) for name in (reading.model, _fields(call).get("model")) if name)
        prices = (self._price(name, provider_of(call), reading.usage, reading.terms) for name in names)
        return next((price for price in prices if price is not None), None)


def _fields(call: Call) -> Json:
    return as_object(parse(call.body))


def _output_bound(call: Call, body: Json) -> int:
    """Tokens the reply may have at most. BudgetExceeded where the request sets no limit."""
    if wire.endpoint(call.path) == "embeddings":
        return 0
    limit = output_limit(body)
    if limit is None:
        raise BudgetExceeded(
            "a call without an output limit can cost any amount, so the dollar cap cannot be kept; "
            f"set one of {', '.join(f'`{name}`' for name in OUTPUT_LIMITS)}, or run without a cap"
        )
    return limit


def provider_of(call: Call) -> str:
    """As the price table names it; the URL of a host that is not a provider's own."""
    teacher = teacher_id(call.url)
    return call.url if ":" in teacher else teacher
