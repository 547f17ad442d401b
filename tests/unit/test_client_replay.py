"""Record and replay: which reply is given, what is written, and that one call is made of many."""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from scripted_server import Answer, chat

from bbdistill.client.call import Call, Fault, Handler, Mode, Reply
from bbdistill.client.faults import examine
from bbdistill.client.gate import Gate
from bbdistill.client.http import open_stack
from bbdistill.client.replay import Replay
from bbdistill.client.retry import Retry
from bbdistill.client.socket import Finish
from bbdistill.client.store import Store
from bbdistill.errors import ConfigError, ReplayMiss, StoreError

KEY = "sk-live-0123456789abcdef"


def ask(text: str = "hi", sample: int = 0) -> Call:
    return Call(
        method="POST",
        url="http://127.0.0.1:9/v1/chat/completions",
        headers={"authorization": f"Bearer {KEY}"},
        body=b'{"model":"m","messages":[{"role":"user","content":"%s"}]}' % text.encode(),
        sample=sample,
        tags={"purpose": "demonstrations", "prompt_id": "p7"},
    )


class Source:
    """A server without a network: gives `answers` in turn, the last for ever, each after `delay_s`."""

    def __init__(self, *answers: Answer, delay_s: float = 0.0) -> None:
        self.answers, self.delay_s = list(answers) or [chat("four")], delay_s
        self.calls = self.done = 0

    async def __call__(self, call: Call, /) -> Reply:
        self.calls += 1
        await asyncio.sleep(self.delay_s)
        self.done += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        headers = {"content-type": "application/json", "x-request-id": "r1", "set-cookie": "c", **answer.headers}
        reply = examine(call, Reply(status=answer.status, headers=headers, body=answer.body.encode()))
        return replace(reply, cost_usd=0.5, recorded_cost_usd=0.5)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "x.db")


def replay(inner: Handler | None, store: Store, mode: Mode = "auto", run: str | None = "r") -> Replay:
    return Replay(inner, store, mode=mode, run=run, source_run=run)


def test_the_second_time_comes_from_the_record(store: Store) -> None:
    source = Source()
    handler = replay(source, store)
    first, second = asyncio.run(handler(ask())), asyncio.run(handler(ask()))
    assert source.calls == 1
    assert (first.cached, first.cost_usd, first.recorded_cost_usd) == (False, 0.5, 0.5)
    assert (second.cached, second.cost_usd, second.recorded_cost_usd) == (True, 0.0, 0.5)
    assert second.body == first.body
    assert second.headers == {"content-type": "application/json", "x-request-id": "r1"}
    [spend] = store.spend("r")
    assert (spend.calls, spend.cached, spend.usd, spend.recorded_usd) == (2, 1, 0.5, 1.0)


def test_samples_are_different_calls(store: Store) -> None:
    source = Source()
    handler = replay(source, store)
    for sample in (0, 1, 1, 2):
        asyncio.run(handler(ask(sample=sample)))
    assert source.calls == 3


@pytest.mark.parametrize("run", ["r", None])
def test_a_sequence_gives_each_repetition_its_own_reply(store: Store, run: str | None) -> None:
    answers = [b"one", b"two", b"three"]
    source = Source(*(chat(text.decode()) for text in answers))

    async def ask_three(handler: Replay) -> list[bytes]:
        return [(await handler(ask())).body for _ in range(3)]

    def sequence(inner: Handler | None, mode: Mode) -> Replay:
        return Replay(inner, store, mode=mode, run=run, source_run=run, repeat="sequence")

    first = asyncio.run(ask_three(sequence(source, "auto")))
    assert [text in body for text, body in zip(answers, first, strict=True)] == [True] * 3
    assert [row.version for row in store.calls()] == [1, 2, 3]
    assert asyncio.run(ask_three(sequence(source, "auto"))) == first
    assert source.calls == 3
    replayed = sequence(None, "replay")
    assert asyncio.run(ask_three(replayed)) == first
    assert (len(replayed.used), replayed.misses) == (3, [])
    with pytest.raises(ReplayMiss, match=r"was not recorded 4 times.*Its recorded sequence is shorter"):
        replayed.recorded(ask())
    assert len(replayed.misses) == 1
    assert b"three" in asyncio.run(replay(None, store, "replay", run=run)(ask())).body  # the same: the newest


def test_recording_under_a_sequence_adds_to_it(store: Store) -> None:
    handler = Replay(Source(chat("one"), chat("two")), store, mode="record", repeat="sequence")

    async def together() -> None:
        await asyncio.gather(handler(ask()), handler(ask()))

    asyncio.run(together())
    again = Replay(None, store, mode="replay", repeat="sequence")
    assert [b"one" in again.recorded(ask()).body, b"two" in again.recorded(ask()).body] == [True, True]


def test_a_sequence_passes_over_faults_where_replies_came_after_all(store: Store) -> None:
    source = Source(Answer(status=500), chat("four"))
    handler = Replay(source, store, mode="auto", repeat="sequence")
    with pytest.raises(Fault):
        asyncio.run(handler(ask()))
    asyncio.run(handler(ask()))
    assert b"four" in Replay(None, store, mode="replay", repeat="sequence").recorded(ask()).body
    only_faults = Replay(Source(Answer(status=400)), store, mode="auto", repeat="sequence")
    with pytest.raises(Fault):
        asyncio.run(only_faults(ask("bad")))
    with pytest.raises(Fault, match="HTTP 400"):
        Replay(None, store, mode="replay", repeat="sequence").recorded(ask("bad"))


def test_threads_share_out_a_sequence(store: Store) -> None:
    source = Source(*(chat(str(number)) for number in range(40)))
    recording = Replay(source, store, mode="record")
    for _ in range(40):
        asyncio.run(recording(ask()))
    handler = Replay(None, store, mode="replay", repeat="sequence")
    bodies: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: bodies.extend(handler.recorded(ask()).body for _ in range(10)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(bodies)) == 40


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(chat(None, finish="content_filter"), "refusal"), (chat("hal", finish="length"), "length")],
)
def test_a_bad_answer_is_kept_for_its_own_run_only(store: Store, answer: Answer, kind: str) -> None:
    source = Source(answer)
    for run, calls in (("a", 1), ("a", 1), ("b", 2), (None, 3), (None, 4)):
        asyncio.run(replay(source, store, run=run)(ask()))
        assert source.calls == calls
    assert {row.kind for row in store.calls()} == {kind}


def test_a_fault_is_written_and_asked_again(store: Store) -> None:
    source = Source(Answer(status=500, body=f'{{"error": {{"message": "no {KEY}"}}}}'), chat("four"))
    handler = replay(source, store)
    with pytest.raises(Fault, match="HTTP 500: no \\[redacted\\]"):
        asyncio.run(handler(ask()))
    assert not asyncio.run(handler(ask())).cached
    assert [(row.kind, row.status, row.version) for row in store.calls()] == [("fault", 500, 1), ("ok", 200, 2)]
    assert KEY not in (store.calls()[0].reply or "")


def test_identical_calls_in_flight_are_one(store: Store) -> None:
    source = Source(delay_s=0.05)
    handler = replay(source, store)

    async def together() -> list[Reply]:
        return await asyncio.gather(*(handler(ask()) for _ in range(10)))

    replies = asyncio.run(together())
    assert source.calls == 1
    assert sorted((reply.cached, reply.cost_usd) for reply in replies) == [(False, 0.5)] + [(True, 0.0)] * 9
    assert len({reply.body for reply in replies}) == 1
    assert store.runs()[0].calls == 10


def test_identical_calls_share_a_fault(store: Store) -> None:
    source = Source(Answer(status=500), delay_s=0.05)
    handler = replay(source, store)

    async def together() -> list[Reply | BaseException]:
        return await asyncio.gather(*(handler(ask()) for _ in range(3)), return_exceptions=True)

    assert all(isinstance(outcome, Fault) for outcome in asyncio.run(together()))
    assert source.calls == 1


async def _until(true: Callable[[], object]) -> None:
    while not true():  # noqa: ASYNC110  any condition
        await asyncio.sleep(0.005)


async def _cancel_when(true: Callable[[], object], task: asyncio.Task[Reply]) -> None:
    await _until(true)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("leaver", [0, 1])
def test_who_leaves_does_not_take_the_call_along(store: Store, leaver: int) -> None:
    source = Source(delay_s=0.1)
    handler = replay(source, store)

    async def leave() -> Reply:
        tasks = [asyncio.create_task(handler(ask())) for _ in range(2)]
        await _cancel_when(lambda: source.calls, tasks[leaver])
        return await tasks[1 - leaver]

    stays = asyncio.run(leave())
    assert source.calls == 1
    assert not stays.cached  # whoever gets the reply first has paid for it


def test_a_cancelled_caller_keeps_the_paid_reply(store: Store) -> None:
    source = Source(delay_s=0.1)
    handler = replay(Finish(source), store)

    async def leave() -> None:
        await _cancel_when(lambda: source.calls, asyncio.create_task(handler(ask())))
        assert source.done == 0
        await handler.aclose()

    asyncio.run(leave())
    assert [(row.kind, row.cost_usd) for row in store.calls("r")] == [("ok", 0.5)]
    assert asyncio.run(handler(ask())).cached


def test_a_cancelled_call_is_not_tried_again(store: Store) -> None:
    source = Source(Answer(status=500), delay_s=0.1)
    handler = replay(Retry(Finish(source), attempts=3, deadline_s=60), store)

    async def leave() -> None:
        await _cancel_when(lambda: source.calls, asyncio.create_task(handler(ask())))
        await handler.aclose()

    asyncio.run(leave())
    assert source.calls == 1
    assert [row.kind for row in store.calls("r")] == ["fault"]


def test_closing_waits_for_a_reply_that_is_being_written(store: Store) -> None:
    source = Source(delay_s=0.1)
    handler = replay(source, store)
    other = sqlite3.connect(store.path, isolation_level=None, check_same_thread=False)

    async def leave() -> None:
        asking = asyncio.create_task(handler(ask()))
        await _until(lambda: source.calls)
        other.execute("BEGIN IMMEDIATE")
        asyncio.get_running_loop().call_later(0.5, other.execute, "ROLLBACK")
        await _cancel_when(lambda: source.done, asking)
        assert other.execute("SELECT count(*) FROM calls").fetchone() == (0,)
        await handler.aclose()
        assert other.execute("SELECT kind FROM calls").fetchall() == [("ok",)]

    asyncio.run(leave())


def test_a_cancelled_call_that_is_not_sent_yet_is_never_sent(store: Store) -> None:
    source, queueing = Source(), asyncio.Event()

    async def queue(call: Call, /) -> Reply:
        queueing.set()
        await asyncio.sleep(5)
        return await source(call)

    async def leave() -> None:
        await _cancel_when(queueing.is_set, asyncio.create_task(handler(ask())))
        await handler.aclose()

    handler = replay(queue, store)
    asyncio.run(leave())
    assert source.calls == 0


def test_who_comes_while_a_given_up_call_ends_starts_anew(store: Store) -> None:
    source, queueing, ending = Source(), asyncio.Event(), asyncio.Event()

    async def queue(call: Call, /) -> Reply:
        if not queueing.is_set():
            queueing.set()
            try:
                await asyncio.sleep(5)
            finally:
                ending.set()
                await asyncio.sleep(0.1)  # takes a while to give up
        return await source(call)

    async def leave() -> Reply:
        leaving = asyncio.create_task(handler(ask()))
        await _until(queueing.is_set)
        leaving.cancel()
        await _until(ending.is_set)
        return await handler(ask())

    handler = replay(queue, store)
    assert asyncio.run(leave()).status == 200
    assert source.calls == 1


def test_recording_calls_and_writes_every_time(store: Store) -> None:
    source = Source(delay_s=0.02)
    handler = replay(source, store, "record")

    async def together() -> list[Reply]:
        return await asyncio.gather(*(handler(ask()) for _ in range(3)))

    assert [reply.cached for reply in asyncio.run(together())] == [False] * 3
    assert source.calls == 3
    assert [row.version for row in store.calls("r")] == [1, 2, 3]


def test_a_failing_store_stops_auto_and_only_warns_when_recording(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.put_fact("a", "b")
    store.close()
    reader = Store(store.path, read_only=True)
    with pytest.raises(StoreError, match="read-only"):
        asyncio.run(replay(Source(), reader)(ask()))
    handler = replay(Source(), reader, "record")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert asyncio.run(handler(ask())).status == 200
    assert len(caplog.records) == 1
    assert "no longer recorded" in caplog.text


def test_after_the_first_write_that_fails_nothing_more_is_sent(store: Store) -> None:
    store.put_fact("a", "b")
    store.close()
    source = Source(delay_s=0.01)
    one_at_a_time = Gate(source, ceiling=1, per_minute={}, patience_s=10)
    handler = replay(one_at_a_time, Store(store.path, read_only=True))

    async def together() -> list[Reply | BaseException]:
        found = await asyncio.gather(*(handler(ask(str(n))) for n in range(20)), return_exceptions=True)
        return [*found, *await asyncio.gather(handler(ask("later")), return_exceptions=True)]

    outcomes = asyncio.run(together())
    assert [type(outcome) for outcome in outcomes] == [StoreError] * 21
    assert source.calls <= 2  # the second went out as the first came in, before that was written


def test_replay_gives_what_the_run_got_and_writes_nothing(store: Store) -> None:
    asyncio.run(replay(Source(chat("mine")), store, run="a")(ask()))
    with pytest.raises(Fault):
        asyncio.run(replay(Source(Answer(status=500, body="down")), store, run="a")(ask("broken")))
    asyncio.run(replay(Source(chat("other")), store, run="b")(ask("theirs")))
    store.close()
    before = store.path.read_bytes()
    handler = replay(None, Store(store.path, read_only=True), "replay", run="a")
    reply = asyncio.run(handler(ask()))
    assert (reply.cached, reply.cost_usd, b"mine" in reply.body) == (True, 0.0, True)
    with pytest.raises(Fault, match="HTTP 500: down") as caught:
        asyncio.run(handler(ask("broken")))
    assert caught.value.reply is not None
    assert caught.value.reply.body == b"down"
    with pytest.raises(ReplayMiss, match="Another run has exactly this request"):
        asyncio.run(handler(ask("theirs")))
    assert store.path.read_bytes() == before


def test_a_miss_says_who_asked_and_shows_the_nearest_request(store: Store) -> None:
    for text in ("Sort these: 3 1 2", "Something else entirely"):
        asyncio.run(replay(Source(), store)(ask(text)))
    with pytest.raises(ReplayMiss) as caught:
        asyncio.run(replay(None, store, "replay")(ask("Sort these: 3 1 4", sample=2)))
    said = str(caught.value)
    assert (
        "/v1/chat/completions (purpose `demonstrations`, prompt `p7`, sample `2`) was not recorded in run `r`" in said
    )
    assert '-    "content": "Sort these: 3 1 2"' in said
    assert '+    "content": "Sort these: 3 1 4"' in said
    assert caught.value.exit_code == 4


def test_the_diff_of_long_requests_shows_the_place_and_stays_short(store: Store) -> None:
    words = [f"word{n}" for n in range(400)]
    asyncio.run(replay(Source(), store)(ask(" ".join(words))))
    words[200] = "changed"
    with pytest.raises(ReplayMiss) as caught:
        asyncio.run(replay(None, store, "replay")(ask(" ".join(words))))
    assert "changed" in str(caught.value)
    assert len(str(caught.value).splitlines()) < 40


@pytest.mark.parametrize("make", [lambda: ask("x" * 200_000), lambda: replace(ask(), body=b"not json")])
def test_a_miss_is_told_in_any_case(store: Store, make: Callable[[], Call]) -> None:
    asyncio.run(replay(Source(), store)(ask("y" * 200_000)))
    with pytest.raises(ReplayMiss, match="was not recorded"):
        asyncio.run(replay(None, store, "replay")(make()))


def test_which_run_is_replayed(store: Store) -> None:
    asyncio.run(replay(Source(), store, run=None)(ask("of no run")))
    stack = open_stack(store, mode="replay")
    assert asyncio.run(stack(ask("of no run"))).cached
    asyncio.run(replay(Source(), store, run="old")(ask("old")))
    asyncio.run(replay(Source(), store, run="new")(ask("new")))
    newest = open_stack(store, mode="replay")
    assert asyncio.run(newest(ask("new"))).cached
    with pytest.raises(ReplayMiss, match="run `new`"):
        asyncio.run(newest(ask("old")))
    assert asyncio.run(open_stack(store, mode="replay", source_run="old")(ask("old"))).cached
    with pytest.raises(ConfigError, match="has no run `older`; it has old, new"):
        open_stack(store, mode="replay", source_run="older")
    assert newest.direct is None
    with pytest.raises(ConfigError, match="needs a store"):
        open_stack(None, mode="auto")
