"""What is tried again, how late, and when it ends."""

import asyncio
import itertools
import time
from collections.abc import Callable
from email.utils import formatdate

import fake_time
import pytest

from bbdistill.client.call import Call, Fault, Reply
from bbdistill.client.faults import examine, retry_after
from bbdistill.client.retry import Attempt, Retry

CALL = Call(method="POST", url="http://127.0.0.1/v1/chat/completions", headers={}, body=b"{}")
GOOD = Reply(status=200, headers={}, body=b"")


def fault_of(status: int, body: bytes = b"", **headers: str) -> Fault:
    reply = Reply(status=status, headers={name.replace("_", "-"): value for name, value in headers.items()}, body=body)
    with pytest.raises(Fault) as caught:
        examine(CALL, reply)
    return caught.value


class Script:
    """A handler that raises or returns what it is given, in order, the last one for ever."""

    def __init__(self, *outcomes: Reply | Fault) -> None:
        self.outcomes, self.times = list(outcomes), list[float]()

    async def __call__(self, call: Call, /) -> Reply:
        self.times.append(asyncio.get_running_loop().time())
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Fault):
            raise outcome
        return outcome


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
def test_worth_another_attempt(status: int) -> None:
    assert fault_of(status).retryable


@pytest.mark.parametrize("status", [301, 400, 401, 402, 403, 404, 413, 422])
def test_final(status: int) -> None:
    assert not fault_of(status).retryable


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"type": "insufficient_quota", "code": "insufficient_quota", "message": "pay"}}',
        b'{"error": {"code": "billing_hard_limit_reached"}}',
        b'{"error": {"type": "rate_limit_error", "details": {"error_code": "enforced_spend_limit_reached"}}}',
    ],
)
def test_no_money_is_final(body: bytes) -> None:
    assert not fault_of(429, body).retryable
    assert not fault_of(429, body, x_should_retry="true").retryable
    assert not fault_of(200, body).retryable  # some gateways put the error there


def test_another_error_inside_a_200_is_tried_again() -> None:
    assert fault_of(200, b'{"error": {"type": "overloaded", "message": "no"}}').retryable


@pytest.mark.parametrize(
    ("status", "code"),
    [(500, "context_length_exceeded"), (429, "billing_not_active"), (500, "exceed_context_size_error")],
)
def test_what_no_wait_mends_is_final_whatever_its_status(status: int, code: str) -> None:
    assert not fault_of(status, f'{{"error": {{"code": "{code}"}}}}'.encode()).retryable


def test_a_wish_cannot_make_a_final_error_retryable() -> None:
    assert not fault_of(401, x_should_retry="true").retryable


def test_the_server_may_forbid_or_wish_another_attempt() -> None:
    assert not fault_of(500, x_should_retry="false").retryable
    assert fault_of(499, x_should_retry="true").retryable
    assert not fault_of(499).retryable


def test_a_fault_says_what_the_server_said() -> None:
    assert fault_of(429, b'{"error": {"code": "slow", "message": "wait"}}').reason == "HTTP 429 slow: wait"
    assert fault_of(503, b"<html>down</html>").reason == "HTTP 503: <html>down</html>"
    assert fault_of(500, b'{"error": "boom"}').reason == "HTTP 500: boom"
    assert fault_of(500).reason == "HTTP 500"


def test_a_key_that_the_server_echoes_is_not_repeated() -> None:
    call = Call(method="POST", url=CALL.url, headers={"x-api-key": "key-abcdef-99"}, body=b"")
    with pytest.raises(Fault) as caught:
        examine(call, Reply(status=401, headers={}, body=b'{"error": {"message": "bad key key-abcdef-99"}}'))
    assert str(caught.value) == "HTTP 401: bad key [redacted]"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "9", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "-4"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": formatdate(1000, usegmt=True), "date": formatdate(940, usegmt=True)}, 60.0),
        ({"retry-after": formatdate(1000, usegmt=True)}, 0.0),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(Reply(status=429, headers=headers, body=b"")) == seconds


def test_retry_after_as_a_date_counts_from_now() -> None:
    wait = retry_after(Reply(status=429, headers={"retry-after": formatdate(time.time() + 30)}, body=b""))
    assert wait == pytest.approx(30, abs=1.5)


def test_waits_at_least_as_long_as_asked_and_tells_every_attempt() -> None:
    told: list[Attempt] = []

    def note(call: Call, attempt: Attempt) -> None:
        told.append(attempt)

    script = Script(Fault("busy", retryable=True, retry_after_s=0.4, latency_s=0.1), GOOD)
    reply = asyncio.run(Retry(script, attempts=3, deadline_s=10, on_attempt=note)(CALL))
    assert reply is GOOD
    assert 0.4 <= script.times[1] - script.times[0] < 2.0
    assert [(a.number, a.status, a.fault, a.retry_after_s) for a in told] == [
        (1, None, "busy", 0.4),
        (2, 200, None, None),
    ]


def test_backs_off_by_itself_and_stops_after_the_last_attempt() -> None:
    script = Script(Fault("busy", retryable=True))
    with pytest.raises(Fault, match="busy"):
        asyncio.run(Retry(script, attempts=3, deadline_s=10)(CALL))
    assert len(script.times) == 3
    first, second = script.times[1] - script.times[0], script.times[2] - script.times[1]
    assert first >= 0.25
    assert second >= 0.25


def test_every_wait_is_longer_than_the_one_before() -> None:
    script = Script(Fault("busy", retryable=True))

    async def run() -> None:
        with pytest.raises(Fault):
            await Retry(script, attempts=8, deadline_s=1800)(CALL)

    fake_time.run(run())
    waits = [after - before for before, after in itertools.pairwise(script.times)]
    assert all(0.5 * 2**n <= wait <= 0.75 * 2**n + 0.001 for n, wait in enumerate(waits))
    assert len(waits) == 7


@pytest.mark.parametrize(
    "fault",
    [
        Fault("no", retryable=False),
        Fault("come back tomorrow", retryable=True, retry_after_s=86400),
    ],
)
def test_gives_up_at_once(fault: Fault) -> None:
    script = Script(fault)
    started = time.monotonic()
    with pytest.raises(Fault) as caught:
        asyncio.run(Retry(script, attempts=5, deadline_s=60)(CALL))
    assert caught.value is fault
    assert len(script.times) == 1
    assert time.monotonic() - started < 1.0


def test_waits_add_up_to_the_deadline() -> None:
    script = Script(Fault("busy", retryable=True, retry_after_s=0.3))
    with pytest.raises(Fault):
        asyncio.run(Retry(script, attempts=9, deadline_s=0.59)(CALL))
    assert len(script.times) == 2  # one wait of 0.3 to 0.58 s fits, two never do


def test_other_errors_are_not_retried() -> None:
    async def broken(call: Call, /) -> Reply:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(Retry(broken, attempts=5, deadline_s=60)(CALL))


def test_a_cancelled_wait_ends_at_once() -> None:
    async def run(make: Callable[[], Retry]) -> float:
        task = asyncio.create_task(make()(CALL))
        await asyncio.sleep(0.05)
        task.cancel()
        started = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - started

    script = Script(Fault("busy", retryable=True, retry_after_s=30))
    assert asyncio.run(run(lambda: Retry(script, attempts=5, deadline_s=60))) < 1.0
