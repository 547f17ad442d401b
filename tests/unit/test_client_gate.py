"""How fast calls go out: limits found by trying, limits told, pauses asked for. On a clock that jumps."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import fake_time
import pytest

from bbdistill.client.buckets import Bucket, Heard
from bbdistill.client.call import Call, Fault, Reading, Reply
from bbdistill.client.gate import Gate
from bbdistill.client.headers import Kind, Told, retry_after, told
from bbdistill.client.limits import Limit
from bbdistill.types import Usage

NOON = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)


def call(text: str = "", *, max_tokens: int = 0, key: str = "k" * 20, model: str = "m", attempt: int = 1) -> Call:
    body = {"model": model, "max_tokens": max_tokens, "text": text}
    headers = {"authorization": f"Bearer {key}"}
    return Call(
        method="POST",
        url="http://h/v1/chat/completions",
        headers=headers,
        body=json.dumps(body).encode(),
        attempt=attempt,
    )


def good(headers: dict[str, str] | None = None, *, tokens: tuple[int, int] | None = None) -> Reply:
    usage = Usage() if tokens is None else Usage(input_tokens=tokens[0], output_tokens=tokens[1])
    reading = Reading(kind="ok", text="", usage=usage, model="m", metered=tokens is not None)
    return Reply(status=200, headers=headers or {}, body=b"", reading=reading)


def throttled(retry_after_s: float | None = None, **headers: str) -> Fault:
    reply = Reply(status=429, headers=headers, body=b"")
    return Fault("HTTP 429", reply=reply, retryable=True, retry_after_s=retry_after_s)


class Server:
    """Answers after `latency_s` what `answer` makes of the number of the call; notes when each was sent."""

    def __init__(self, answer: Callable[[int], Reply | Fault] = lambda _: good(), *, latency_s: float = 1.0) -> None:
        self.answer, self.latency_s = answer, latency_s
        self.sent: list[float] = []
        self.bodies: list[str] = []
        self.in_flight = self.most_in_flight = 0

    async def __call__(self, call: Call, /) -> Reply:
        number = len(self.sent)
        self.sent.append(asyncio.get_running_loop().time())
        self.bodies.append(json.loads(call.body)["text"])
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency_s)
        finally:
            self.in_flight -= 1
        outcome = self.answer(number)
        if isinstance(outcome, Fault):
            raise outcome
        return outcome


def gate(server: Any, *, ceiling: int = 64, patience_s: float = 1800, **per_minute: int) -> Gate:
    known: dict[Kind, int] = {name.replace("_", "-"): limit for name, limit in per_minute.items()}  # pyright: ignore
    return Gate(server, ceiling=ceiling, per_minute=known, patience_s=patience_s)


def together(gate: Gate, *calls: Call) -> list[Reply | BaseException]:
    async def ask() -> list[Reply | BaseException]:
        return await asyncio.gather(*(gate(one) for one in calls), return_exceptions=True)

    return fake_time.run(ask())


def limits(gate: Gate) -> list[tuple[int, str]]:
    return [(change.limit, change.why) for change in gate.history[0].changes]


# The limit on calls at once


def test_slow_start_doubles_after_each_clean_round_up_to_the_ceiling() -> None:
    server = Server()
    one = gate(server, ceiling=160)
    together(one, *[call()] * 1200)
    assert limits(one) == [(32, "start"), (64, "slow start"), (128, "slow start"), (160, "slow start")]
    assert server.most_in_flight == 160
    assert [change.at_s for change in one.history[0].changes] == [0.0, 1.0, 2.0, 3.0]


def test_a_small_ceiling_is_kept_from_the_start() -> None:
    server = Server()
    together(gate(server, ceiling=2), *[call()] * 50)
    assert server.most_in_flight == 2


def test_room_that_is_not_used_does_not_grow() -> None:
    async def one_by_one(gate: Gate) -> None:
        for _ in range(40):
            await asyncio.gather(*(gate(call()) for _ in range(24)))  # 24 of 32 are 75 %

    one = gate(Server())
    fake_time.run(one_by_one(one))
    assert limits(one) == [(32, "start")]


def grown(limit: Limit, to: int, now: float = 0.0) -> None:
    while limit.value < to:
        limit.entered(limit.value)
        limit.succeeded(now)


def test_throttling_cuts_once_per_cooldown_and_growth_is_slow_after() -> None:
    limit = Limit(100, 0.0)
    grown(limit, 64)
    limit.throttled(10.0)
    limit.throttled(20.0)
    assert limit.value == 51
    for _ in range(500):  # replies to calls that were sent before the cut
        limit.entered(51)
        limit.succeeded(24.9)
    assert limit.value == 51
    limit.throttled(25.0)
    assert limit.value == 40
    grown(limit, 41, now=41.0)
    assert [(change.limit, change.why) for change in limit.history[-3:]] == [
        (51, "throttled"),
        (40, "throttled"),
        (42, "growth"),
    ]


def test_the_limit_never_falls_below_one() -> None:
    limit = Limit(8, 0.0)
    for cut in range(20):
        limit.throttled(20.0 * cut)
    assert limit.value == 1
    grown(limit, 2, now=1000.0)
    assert limit.history[-1].why == "growth"


def test_server_errors_do_not_cut_and_only_hold_growth_back() -> None:
    broken = Fault("HTTP 500", reply=Reply(status=500, headers={}, body=b""), retryable=True)
    one = gate(Server(lambda number: broken if number % 8 == 7 else good()))
    together(one, *[call()] * 400)
    assert limits(one) == [(32, "start")]


# Pauses


def test_one_throttling_pauses_everyone_as_long_as_asked() -> None:
    server = Server(lambda number: throttled(5.0) if number == 3 else good())
    together(gate(server), *[call()] * 80)
    assert server.sent[:32] == [0.0] * 32
    # What the first round's good replies let in goes out before the throttled one is back; all others wait.
    assert all(at < 1.1 or at >= 6.0 for at in server.sent)
    assert sum(at >= 6.0 for at in server.sent) >= 5


def test_a_throttling_without_a_word_pauses_for_a_second() -> None:
    server = Server(lambda number: throttled() if number == 0 else good())
    together(gate(server, ceiling=1), call(), call())
    assert server.sent == pytest.approx([0.0, 2.0])


def test_server_errors_pause_nobody() -> None:
    fault = Fault("HTTP 503", reply=Reply(status=503, headers={}, body=b""), retryable=True, retry_after_s=60)
    server = Server(lambda number: fault if number == 0 else good())
    together(gate(server, ceiling=1), call(), call())
    assert server.sent == pytest.approx([0.0, 1.0])


def test_a_pause_longer_than_the_deadline_fails_at_once_with_the_same_fault() -> None:
    server = Server(lambda _: throttled(86400.0))
    outcomes = together(gate(server, ceiling=1, patience_s=1800), call(), call(), call())
    assert len(server.sent) == 1
    assert [outcome.status for outcome in outcomes if isinstance(outcome, Fault)] == [429, 429, 429]
    second = outcomes[1]
    assert isinstance(second, Fault)
    assert not second.retryable
    assert second.retry_after_s == 86400.0


# Order, lanes, cancellation


def test_first_come_first_served_and_retries_before_those() -> None:
    server = Server()
    together(gate(server, ceiling=1), call("a"), call("b"), call("c"), call("again", attempt=2))
    assert server.bodies == ["a", "again", "b", "c"]


def test_each_key_and_model_has_a_lane_of_its_own() -> None:
    server = Server()
    one = gate(server, ceiling=1)
    together(one, call(), call(key="x" * 20), call(model="n"))
    assert server.sent == [0.0] * 3
    assert [history.model for history in one.history] == ["m", "m", "n"]
    assert "kkkk" not in repr(one.history)


def test_a_cancelled_wait_frees_its_place() -> None:
    async def leave(server: Server) -> None:
        one = gate(server, ceiling=1)
        first, second, third = [asyncio.create_task(one(call())) for _ in range(3)]
        await asyncio.sleep(0.5)
        second.cancel()
        await asyncio.sleep(0.5)
        first.cancel()  # it may have been answered in this very moment, and the third let in
        third_reply = await third
        assert third_reply.status == 200

    server = Server()
    fake_time.run(leave(server))
    assert len(server.sent) == 2


# Rates


def bucketed(limit: int, remaining: int, reset: str, kind: str = "requests") -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{kind}": str(limit),
        f"x-ratelimit-remaining-{kind}": str(remaining),
        f"x-ratelimit-reset-{kind}": reset,
    }


class Quota:
    """A server with a bucket of its own that tells it, and throttles what does not fit; as OpenAI has it."""

    def __init__(self, per_minute: int, *, latency_s: float, filled: float = 1.0) -> None:
        self.per_minute, self.latency_s = per_minute, latency_s
        self.level, self.at = per_minute * filled, 0.0
        self.good = self.refused = 0

    async def __call__(self, call: Call, /) -> Reply:
        await asyncio.sleep(self.latency_s / 2)
        now = asyncio.get_running_loop().time()
        self.level = min(self.per_minute, self.level + (now - self.at) * self.per_minute / 60)
        self.at = now
        fits = self.level >= 1
        self.level -= fits
        reset_s = (self.per_minute - self.level) * 60 / self.per_minute
        headers = bucketed(self.per_minute, int(self.level), f"{reset_s:.3f}s")
        await asyncio.sleep(self.latency_s / 2)
        if fits:
            self.good += 1
            return good(headers)
        self.refused += 1
        raise throttled((1 - self.level) * 60 / self.per_minute, **headers)


@pytest.mark.parametrize("latency_s", [0.05, 1.0, 8.0])
def test_a_told_quota_is_used_up_and_not_passed(latency_s: float) -> None:
    async def ask(quota: Quota) -> None:
        one = gate(quota)

        async def work() -> None:
            while asyncio.get_running_loop().time() < 300:
                await one(call())

        await asyncio.gather(*(work() for _ in range(128)))

    quota = Quota(300, latency_s=latency_s, filled=0.2)
    fake_time.run(ask(quota))
    assert quota.refused == 0
    assert quota.good >= 0.95 * (0.2 * 300 + 5 * 300)


def test_others_who_use_the_same_quota_are_noticed() -> None:
    bucket = Bucket(600, 0.0)
    bucket.take(1, 0.0)
    heard = Heard(
        told=Told(limit=600, remaining=10, reset_s=59),
        now=1.0,
        elapsed_s=1.0,
        unseen=0,
        maybe_unseen=0,
        level_is_known=True,
    )
    bucket.learn(heard)
    assert bucket.level == 10 + 1 + 10  # what is left, its fraction, and a second's refill at most


def test_a_limit_per_day_refills_as_slowly_as_its_reset_says() -> None:
    bucket = Bucket(14400, 0.0)
    heard = Heard(
        told=Told(limit=14400, remaining=0, reset_s=86400),
        now=0.0,
        elapsed_s=0.0,
        unseen=0,
        maybe_unseen=0,
        level_is_known=False,
    )
    bucket.learn(heard)
    assert bucket.wait_s(1, 0.0) == pytest.approx(6.0)


def test_nothing_goes_out_before_the_reset_of_what_refills_all_at_once() -> None:
    server = Server(lambda number: good(bucketed(10, 0, "20s") if number == 0 else bucketed(10, 9, "1s")))
    together(gate(server, ceiling=1), call(), call())
    assert server.sent == pytest.approx([0.0, 21.0])


def test_stated_limits_pace_the_calls_of_a_server_that_tells_none() -> None:
    server = Server(latency_s=0.1)
    together(gate(server, requests=60), *[call()] * 120)
    assert server.sent[59] < 10.0
    assert server.sent[-1] == pytest.approx(60.0, abs=1.0)


def test_output_tokens_are_reserved_in_full_and_given_back_when_unused() -> None:
    # Of 1000 a minute, a call may use 500 and uses none.
    server = Server(lambda _: good(tokens=(10, 0)))
    together(gate(server, output_tokens=1000), *[call(max_tokens=500)] * 6)
    assert server.sent == pytest.approx([0, 0, 1, 1, 2, 2], abs=0.01)
    slow = Server(lambda _: good())  # no usage told: nothing is given back
    together(gate(slow, output_tokens=1000), *[call(max_tokens=500)] * 4)
    assert slow.sent == pytest.approx([0, 0, 30, 60], abs=0.01)


def test_a_call_larger_than_the_whole_limit_goes_out_once_the_bucket_is_full() -> None:
    server = Server(lambda _: good())
    together(gate(server, tokens=1000), call(max_tokens=500), call(max_tokens=5000))
    assert server.sent == pytest.approx([0.0, 32.0], abs=3.0)


# Headers


def headers_of_anthropic() -> dict[str, str]:
    headers: dict[str, str] = {"date": format_datetime(NOON, usegmt=True)}
    for kind, limit, remaining in (("requests", 50, 49), ("input-tokens", 3000, 2000), ("tokens", 3000, 2000)):
        headers[f"anthropic-ratelimit-{kind}-limit"] = str(limit)
        headers[f"anthropic-ratelimit-{kind}-remaining"] = str(remaining)
        headers[f"anthropic-ratelimit-{kind}-reset"] = "2026-05-01T12:00:20Z"
    return headers


def test_limits_in_headers() -> None:
    assert told(bucketed(600, 599, "100ms") | bucketed(90000, 5, "6m0s", "tokens"), NOON) == {
        "requests": Told(limit=600, remaining=599, reset_s=0.1),
        "tokens": Told(limit=90000, remaining=5, reset_s=360.0),
    }
    # Counted on the server's clock, not on ours, which is an hour late.
    assert told(headers_of_anthropic(), NOON.replace(hour=11)) == {
        "requests": Told(limit=50, remaining=49, reset_s=20.0),
        "input-tokens": Told(limit=3000, remaining=2000, reset_s=20.0),
    }
    assert told({"x-ratelimit-limit-requests": "-1", "x-ratelimit-remaining-requests": "-1"}, NOON) == {}
    assert told({"x-ratelimit-remaining-requests": "5"}, NOON) == {}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20", 20.0),
        ("20s", 20.0),
        ("1m30s", 90.0),
        ("250ms", 0.25),
        ("1h", 3600.0),
        ("Fri, 01 May 2026 12:00:07 GMT", 7.0),
        ("2026-05-01T12:00:07Z", 7.0),
        ("2026-05-01T11:00:00Z", 0.0),
        ("6 apples", None),
    ],
)
def test_retry_after_in_all_its_spellings(text: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": text}, NOON) == seconds
