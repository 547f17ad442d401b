"""The cap is never passed, and what fits under it is never refused."""

import asyncio
import json
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import fake_time
import pytest

from bbdistill.client.budget import Budget, Purse
from bbdistill.client.call import Call, Fault, Reading, Reply
from bbdistill.client.prices import price
from bbdistill.errors import BudgetExceeded
from bbdistill.types import Usage

OVERHEAD = 1000


def per_token(model: str, provider: str, usage: Usage, terms: Mapping[str, str]) -> float | None:
    """A dollar per output token, input free."""
    return None if model == "unknown" else float(usage.output_tokens)


def call(max_tokens: int | None = 10, url: str = "http://127.0.0.1/v1/chat/completions", **more: Any) -> Call:
    body = {"model": "m", **({} if max_tokens is None else {"max_tokens": max_tokens}), **more}
    return Call(method="POST", url=url, headers={}, body=json.dumps(body).encode())


def reply(output_tokens: int, *, metered: bool = True) -> Reply:
    reading = Reading(kind="ok", text="", usage=Usage(output_tokens=output_tokens), model="m", metered=metered)
    return Reply(status=200, headers={}, body=b"", reading=reading)


class Server:
    """Spends what each call is told to, and knows the most that was ever spent or in flight at worst."""

    def __init__(self, *outcomes: Reply | Fault, delay_s: float = 0.0) -> None:
        self.outcomes, self.delay_s, self.sent = list(outcomes), delay_s, 0

    async def __call__(self, call: Call, /) -> Reply:
        self.sent += 1
        await asyncio.sleep(self.delay_s)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Fault):
            raise outcome
        return outcome


def run(budget: Budget, *calls: Call) -> list[Reply | BaseException]:
    async def together() -> list[Reply | BaseException]:
        return await asyncio.gather(*(budget(one) for one in calls), return_exceptions=True)

    return asyncio.run(together())


def test_64_calls_at_once_never_pass_the_cap_and_none_that_fits_is_refused() -> None:
    # Each may cost 10 and costs 1: 64 dollars in all, but 640 at worst.
    server = Server(reply(1), delay_s=0.01)
    outcomes = run(Budget(server, price=per_token, purse=Purse(73.0)), *[call(10)] * 64)
    assert all(isinstance(outcome, Reply) for outcome in outcomes)
    assert sum(outcome.cost_usd or 0 for outcome in outcomes if isinstance(outcome, Reply)) == 64


def test_the_rest_is_refused_once_the_cap_would_be_passed() -> None:
    server = Server(reply(10), delay_s=0.01)
    outcomes = run(Budget(server, price=per_token, purse=Purse(45.0)), *[call(10)] * 64)
    assert sum(isinstance(outcome, Reply) for outcome in outcomes) == 4
    refused = [outcome for outcome in outcomes if isinstance(outcome, BudgetExceeded)]
    assert len(refused) == 60
    assert "cap of $45" in str(refused[-1])
    assert "$40.0000 is spent" in str(refused[-1])


def test_waits_for_reservations_only_as_long_as_needed() -> None:
    server = Server(reply(2), delay_s=0.02)
    budget = Budget(server, price=per_token, purse=Purse(12.0))
    assert all(isinstance(outcome, Reply) for outcome in run(budget, call(10), call(10)))  # 2 + 10 = 12 fits


def test_exactly_the_cap_is_affordable_in_floats() -> None:
    def tenth(model: str, provider: str, usage: Usage, terms: Mapping[str, str]) -> float:
        return 0.1

    outcomes = run(Budget(Server(reply(1)), price=tenth, purse=Purse(1.0)), *[call(1)] * 11)
    assert sum(isinstance(outcome, Reply) for outcome in outcomes) == 10


def test_unknown_outcomes_cost_the_worst_and_refused_ones_nothing() -> None:
    lost = Fault("connection lost", retryable=True)
    unreachable = Fault("no connection", unreachable=True)
    limited = Fault("HTTP 429", reply=Reply(status=429, headers={}, body=b""))
    gateway = Fault("HTTP 504", reply=Reply(status=504, headers={}, body=b""))
    server = Server(unreachable, limited, lost, gateway, reply(1))
    budget = Budget(server, price=per_token, purse=Purse(30.0))
    for expected in (Fault, Fault, Fault, Fault, Reply, BudgetExceeded):  # 0, 0, 10, 20, 21, and 31 does not fit
        [outcome] = run_in_turn(budget, call(10))
        assert isinstance(outcome, expected)


def run_in_turn(budget: Budget, *calls: Call) -> list[Reply | BaseException]:
    return [outcome for one in calls for outcome in run(budget, one)]


def test_a_cancelled_attempt_costs_the_worst() -> None:
    async def cancel_one(budget: Budget) -> None:
        task = asyncio.create_task(budget(call(10)))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    budget = Budget(Server(reply(1), delay_s=1.0), price=per_token, purse=Purse(15.0))
    asyncio.run(cancel_one(budget))
    [outcome] = run(budget, call(10))
    assert isinstance(outcome, BudgetExceeded)


def test_a_reply_without_usage_costs_the_worst_and_has_no_price() -> None:
    budget = Budget(Server(reply(1, metered=False)), price=per_token, purse=Purse(15.0))
    first, second = run_in_turn(budget, call(10), call(10))
    assert isinstance(first, Reply)
    assert first.cost_usd is None
    assert isinstance(second, BudgetExceeded)


def test_what_was_spent_before_counts() -> None:
    [outcome] = run(Budget(Server(reply(1)), price=per_token, purse=Purse(15.0, spent={"": 6.0})), call(10))
    assert isinstance(outcome, BudgetExceeded)


def test_several_answers_to_one_request_cost_several_times() -> None:
    [outcome] = run(Budget(Server(reply(1)), price=per_token, purse=Purse(15.0)), call(10, n=2))
    assert isinstance(outcome, BudgetExceeded)


@pytest.mark.parametrize(
    ("made", "says"),
    [(call(None), "without an output limit"), (call(10, model="unknown"), "no price is known for model `unknown`")],
)
def test_what_cannot_be_bounded_is_refused_under_a_cap(made: Call, says: str) -> None:
    server = Server(reply(1))
    [outcome] = run(Budget(server, price=per_token, purse=Purse(1e9)), made)
    assert isinstance(outcome, BudgetExceeded)
    assert says in str(outcome)
    assert server.sent == 0


@pytest.mark.parametrize("made", [call(None), call(10, model="unknown")])
def test_without_a_cap_everything_goes(made: Call) -> None:
    [outcome] = run(Budget(Server(reply(1)), price=per_token, purse=Purse(None)), made)
    assert isinstance(outcome, Reply)


def test_embeddings_need_no_output_limit() -> None:
    [outcome] = run(
        Budget(Server(reply(0)), price=per_token, purse=Purse(1.0)), call(None, "http://127.0.0.1/v1/embeddings")
    )
    assert isinstance(outcome, Reply)


def test_the_bound_covers_the_price_of_the_reply() -> None:
    # gpt-4o-mini: 0.15 and 0.60 dollars per million tokens.
    body = json.dumps({"model": "gpt-4o-mini", "max_tokens": 1000}).encode()
    made = Call(method="POST", url="https://api.openai.com/v1/chat/completions", headers={}, body=body)
    worst = ((len(body) + OVERHEAD) * 0.15 + 1000 * 0.60) / 1e6

    def listed(model: str, provider: str, usage: Usage, terms: Mapping[str, str]) -> float | None:
        return price(model, provider, usage, None, terms)

    usage = Usage(input_tokens=len(body), output_tokens=1000)
    reading = Reading(kind="ok", text="", usage=usage, model="gpt-4o-mini-2024-07-18", metered=True)
    server = Server(Reply(status=200, headers={}, body=b"", reading=reading))
    [refused] = run(Budget(server, price=listed, purse=Purse(worst * 0.999)), made)
    [paid] = run(Budget(server, price=listed, purse=Purse(worst * 1.001)), made)
    assert isinstance(refused, BudgetExceeded)
    assert isinstance(paid, Reply)
    assert paid.cost_usd == pytest.approx((len(body) * 0.15 + 1000 * 0.60) / 1e6)


def test_prices() -> None:
    usage = Usage(input_tokens=1_000_000, output_tokens=500_000, cached_tokens=400_000)
    assert price("any", "http://127.0.0.1/v1", usage) is None
    assert price("no-such-model", "openai", usage) is None
    assert price("any", "http://127.0.0.1/v1", usage, (2.0, 6.0)) == pytest.approx(2 + 3)
    assert price("any", "http://127.0.0.1/v1", usage, (2.0, 6.0, 0.5)) == pytest.approx(1.2 + 0.2 + 3)
    assert price("gpt-4o-mini", "openai", usage) == pytest.approx(0.6 * 0.15 + 0.4 * 0.075 + 0.5 * 0.6)
    written = Usage(input_tokens=1000, cache_write_tokens=1000, cache_write_1h_tokens=1000)
    assert price("claude-sonnet-4-5", "anthropic", written) == pytest.approx(1000 * 6e-6)


def for_purpose(purpose: str, max_tokens: int = 10) -> Call:
    return replace(call(max_tokens), tags={"purpose": purpose})


def test_a_purpose_has_a_cap_of_its_own_beside_the_one_for_all() -> None:
    caps = {"preferences": 15.0}
    budget = Budget(Server(reply(5)), price=per_token, purse=Purse(40.0, max_usd_by=caps))
    outcomes = run_in_turn(budget, *[for_purpose("preferences")] * 3)  # 5, 10; a third might make 20
    assert [isinstance(outcome, Reply) for outcome in outcomes] == [True, True, False]
    assert "`max_usd_by.preferences`" in str(outcomes[2])
    assert "$10.0000 is spent" in str(outcomes[2])
    others = run_in_turn(budget, *[for_purpose("demonstrations")] * 6)  # 10 are spent, so 15, 20, 25, 30, 35
    assert [isinstance(outcome, Reply) for outcome in others] == [True] * 5 + [False]
    assert "(`max_usd`)" in str(others[5])


def test_what_a_purpose_spent_before_counts_for_it_and_for_all() -> None:
    spent = {"preferences": 6.0, "demonstrations": 20.0}

    def budget(**caps: Any) -> Budget:
        return Budget(Server(reply(1)), price=per_token, purse=Purse(spent=spent, **caps))

    [refused] = run(budget(max_usd=None, max_usd_by={"preferences": 15.0}), for_purpose("preferences"))
    [other] = run(budget(max_usd=None, max_usd_by={"preferences": 15.0}), for_purpose("demonstrations"))
    [total] = run(budget(max_usd=35.0), for_purpose("corrections"))
    assert isinstance(refused, BudgetExceeded)
    assert isinstance(other, Reply)
    assert isinstance(total, BudgetExceeded)


def test_what_nobody_knows_the_cost_of_says_its_worst_case() -> None:
    lost, free = Fault("lost", retryable=True), Fault("no connection", unreachable=True)
    for cap in (100.0, None):
        budget = Budget(Server(lost, free, reply(1, metered=False), reply(1)), price=per_token, purse=Purse(cap))
        found = run_in_turn(budget, *[call(10)] * 4)
        assert [getattr(outcome, "unknown_usd", "none") for outcome in found] == [10.0, None, 10.0, None]


PURPOSES = ("demonstrations", "preferences", "corrections", "evaluation")


class Till:
    """A server whose calls take any time, cost anything up to their worst case, fail or are left; adds up the truth.

    The test knows at every moment what may be spent in all, and by purpose: that is what the caps are held against.
    """

    def __init__(self, draw: random.Random, caps: dict[str, float]) -> None:
        self.draw, self.caps = draw, caps
        self.settled = dict.fromkeys(caps, 0.0)
        self.at_risk = dict.fromkeys(caps, 0.0)

    async def __call__(self, call: Call, /) -> Reply:
        worst = float(json.loads(call.body)["max_tokens"])
        mine = [name for name in self.caps if name in ("all", call.tags["purpose"])]
        for name in mine:
            self.at_risk[name] += worst
            assert self.settled[name] + self.at_risk[name] <= self.caps[name] + 1e-6, "the cap can be passed"
        cost = worst  # also of what is left before it is answered
        try:
            await asyncio.sleep(self.draw.uniform(0.01, 30))
            what = self.draw.random()
            if what < 0.1:
                cost = 0.0
                raise Fault("HTTP 429", reply=Reply(status=429, headers={}, body=b""))
            if what < 0.2:
                raise Fault("lost")
            cost = float(self.draw.randint(0, int(worst)))
            return reply(int(cost))
        finally:
            for name in mine:
                self.at_risk[name] -= worst
                self.settled[name] += cost

    def must_refuse(self, call: Call) -> bool:
        worst = float(json.loads(call.body)["max_tokens"])
        mine = [name for name in self.caps if name in ("all", call.tags["purpose"])]
        return any(self.settled[name] + worst > self.caps[name] + 1e-6 for name in mine)


@pytest.mark.parametrize("seed", range(200))
def test_any_schedule_keeps_the_caps_gets_stuck_nowhere_and_refuses_nothing_that_fits(seed: int) -> None:
    draw = random.Random(seed)
    caps = {"all": draw.uniform(20, 2000)} | {
        purpose: draw.uniform(10, 500) for purpose in PURPOSES if draw.random() < 0.5
    }
    till = Till(draw, caps)
    own = {name: cap for name, cap in caps.items() if name != "all"}
    budget = Budget(till, price=per_token, purse=Purse(caps["all"], max_usd_by=own))
    refused = 0

    async def one() -> None:
        nonlocal refused
        await asyncio.sleep(draw.uniform(0, 200))
        made = for_purpose(draw.choice(PURPOSES), draw.randint(1, 30))
        try:
            await asyncio.wait_for(budget(made), draw.choice([5, 50, None]))
        except BudgetExceeded:
            refused += 1
            assert till.must_refuse(made)
        except (Fault, TimeoutError):
            pass

    async def all_of_them() -> None:
        await asyncio.gather(*(one() for _ in range(64)))
        # Nothing is held back any more: what is left of each cap can be spent to the last dollar, and no further.
        left = int(min(caps[name] - till.settled[name] for name in caps if name in ("all", "evaluation")))
        if left >= 1:
            with suppress(Fault):
                await budget(for_purpose("evaluation", left))
        with pytest.raises(BudgetExceeded):
            await budget(for_purpose("evaluation", int(caps["all"]) + 1))

    fake_time.run(all_of_them())
