"""A dollar cap that cannot be passed: the worst case is set aside before sending, the real cost taken after.

No token is shorter than a byte, so a request's bytes bound its input: text and inline data, not files named by address.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

from bbdistill.client import wire
from bbdistill.client.call import Call, Fault, Handler, Reply
from bbdistill.client.keys import teacher_id
from bbdistill.client.values import Json, as_object, parse
from bbdistill.errors import BudgetExceeded
from bbdistill.types import Usage

Price: TypeAlias = Callable[[str, str, Usage, Mapping[str, str]], float | None]
"""(model, provider id or URL, usage, terms) -> dollars, None = unknown."""

_OVERHEAD_TOKENS = 1000
"""What providers add to a request: chat template, tool and schema instructions."""
_OUTPUT_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_NOISE_USD = 1e-9
"""Sums of floats miss by less; without it the last affordable call could be refused."""


class Budget:
    """Prices every reply and, with a cap, refuses what could pass it.

    With `beside`, what both spend is one sum under one cap: that of the other.
    """

    def __init__(
        self,
        inner: Handler,
        *,
        price: Price,
        max_usd: float | None,
        spent_usd: float = 0.0,
        beside: "Budget | None" = None,
    ) -> None:
        self._inner, self._price, self._max_usd = inner, price, max_usd
        self._sums = beside or self
        self._settled, self._reserved = spent_usd, 0.0
        self._freed = asyncio.Event()

    async def __call__(self, call: Call, /) -> Reply:
        worst = 0.0 if self._max_usd is None else self._worst_case(call)
        if self._max_usd is not None:
            await self._sums._reserve(worst, self._max_usd)
        # Until the outcome is known, the worst case is what it cost.
        actual = worst
        try:
            reply = await self._inner(call)
            cost = self._cost(call, reply)
            actual = worst if cost is None else cost
        except Fault as fault:
            actual = 0.0 if fault.free else worst
            raise
        finally:
            self._sums._settle(worst, actual)
        return replace(reply, cost_usd=cost, recorded_cost_usd=cost)

    async def _reserve(self, worst: float, cap: float) -> None:
        while self._settled + self._reserved + worst > cap + _NOISE_USD:
            if self._settled + worst > cap + _NOISE_USD:
                raise BudgetExceeded(
                    f"the cap of ${cap:g} is reached: ${self._settled:.4f} is spent and the next call may cost up to "
                    f"${worst:.4f}; raise `max_usd` and resume, or lower the output limit"
                )
            await self._freed.wait()
        self._reserved += worst

    def _settle(self, worst: float, actual: float) -> None:
        self._reserved -= worst
        self._settled += actual
        waiting, self._freed = self._freed, asyncio.Event()
        waiting.set()

    def _worst_case(self, call: Call) -> float:
        body = _fields(call)
        output = _output_bound(call, body)
        bound = len(call.body) + _OVERHEAD_TOKENS
        written = bound if b'"cache_control"' in call.body else 0
        usage = Usage(
            input_tokens=bound, output_tokens=output, cache_write_tokens=written, cache_write_1h_tokens=written
        )
        model = str(body.get("model"))
        terms = {name: str(body[name]) for name in ("service_tier", "speed") if body.get(name)}
        prices = [self._price(model, _provider(call), usage, wanted) for wanted in ({}, terms)]
        known = [price for price in prices if price is not None]
        if not known:
            raise BudgetExceeded(
                f"no price is known for model `{model}` at {_provider(call)}, so a cap of ${self._max_usd:g} cannot be "
                "kept; give its price (`input_usd_per_mtok`, `output_usd_per_mtok`), or run without `max_usd`"
            )
        return max(known)

    def _cost(self, call: Call, reply: Reply) -> float | None:
        reading = reply.reading
        if reading is None or not reading.metered:
            return None
        names = dict.fromkeys(str(name) for name in (reading.model, _fields(call).get("model")) if name)
        prices = (self._price(name, _provider(call), reading.usage, reading.terms) for name in names)
        return next((price for price in prices if price is not None), None)


def _fields(call: Call) -> Json:
    return as_object(parse(call.body))


def _output_bound(call: Call, body: Json) -> int:
    """Tokens the reply may have at most. BudgetExceeded where the request sets no limit."""
    if wire.endpoint(call.path) == "embeddings":
        return 0
    limits = [body[name] for name in _OUTPUT_LIMITS if isinstance(body.get(name), int)]
    if not limits:
        raise BudgetExceeded(
            "a call without an output limit can cost any amount, so the dollar cap cannot be kept; "
            f"set one of {', '.join(f'`{name}`' for name in _OUTPUT_LIMITS)}, or run without `max_usd`"
        )
    return max(limits) * (body.get("n") or 1)


def _provider(call: Call) -> str:
    """As the price table names it; the URL of a host that is not a provider's own."""
    teacher = teacher_id(call.url)
    return call.url if ":" in teacher else teacher
