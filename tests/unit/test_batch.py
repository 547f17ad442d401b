"""The batch lane against both providers' APIs: what is submitted, how often, and what is in the record afterwards."""

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from batch_server import BatchServer, batch_server
from llmock.pytest_plugin import LLMock
from scripted_server import messages

import bbdistill
from bbdistill.client.batches import TERMS, Batch, BatchStore, Item, outcome_of
from bbdistill.client.budget import Budget, Purse
from bbdistill.client.call import Call, Reply
from bbdistill.client.keys import canonical, key
from bbdistill.client.prices import price
from bbdistill.config import Settings
from bbdistill.config.models import TeacherConfig
from bbdistill.errors import BudgetExceeded, ConfigError, TeacherError
from bbdistill.metrics import Event, Note
from bbdistill.teacher.base import RawReply
from bbdistill.teacher.batch import fetch
from bbdistill.teacher.courier import Courier, Pace
from bbdistill.teacher.reply import read_reply
from bbdistill.teacher.teacher import Teacher, as_prompt
from bbdistill.types import Demonstration, Prompt, Usage

PROVIDERS = ("openai", "anthropic")
PACE = Pace(first_s=0.01, longest_s=0.05, arrival_s=0.2, patience_s=2)
PRICES = {"input_usd_per_mtok": 1000.0, "output_usd_per_mtok": 1000.0}
COST = 0.11
"""Of one reply, at those prices."""
PROMPTS = [as_prompt(f"question {number}") for number in range(4)]


def ask(
    server: BatchServer | tuple[str, str],
    path: Path,
    prompts: list[Prompt] | None = None,
    *,
    pace: Pace = PACE,
    **settings: Any,
) -> tuple[list[Any], dict[str, Any], list[Event]]:
    """Asks by batch, then as ever: answers, ledger, events."""
    provider, url = server if isinstance(server, tuple) else (server.provider, server.base_url)
    events: list[Event] = []
    prompts = PROMPTS if prompts is None else prompts

    async def work() -> tuple[list[Any], dict[str, Any], list[Event]]:
        async with Teacher(f"{provider}:m", base_url=url, cache=path / "t.db", **settings) as teacher:
            await fetch(teacher, {"demonstrations": prompts}, tell=events.append, pace=pace)
            answers = await asyncio.gather(*(teacher.demonstrate(prompt) for prompt in prompts))
            return list(answers), teacher.ledger.summary(), events

    return asyncio.run(work())


def texts(answers: list[Any]) -> list[str]:
    return [answer.completion if isinstance(answer, Demonstration) else answer.reason for answer in answers]


def notes(events: list[Event]) -> str:
    return "\n".join(event.text for event in events if isinstance(event, Note))


ANSWERS = [f"answer to question {number}" for number in range(4)]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_batch_answers_as_if_asked_one_by_one(provider: str, tmp_path: Path):
    with batch_server(provider) as server:
        answers, ledger, _ = ask(server, tmp_path, **PRICES)
        assert texts(answers) == ANSWERS
        assert len(server.batches) == 1
        assert server.live == []
        again, free, _ = ask(server, tmp_path, **PRICES)
        assert texts(again) == ANSWERS
        assert len(server.batches) == 1
    assert (ledger["calls"], ledger["cached"]) == (4, 0)
    assert ledger["cost_usd"] == ledger["recorded_cost_usd"] == pytest.approx(4 * COST)
    assert (free["cached"], free["cost_usd"]) == (4, 0)
    with bbdistill.open_recording(tmp_path / "t.db") as recording:
        assert recording.verify() == []
        calls = recording.calls()
    assert [call.purpose for call in calls] == ["demonstrations"] * 4
    assert all(call.prompt_id and call.template and call.latency_s for call in calls)
    replayed, replay_ledger, _ = ask(server, tmp_path, replay=str(tmp_path / "t.db"), **PRICES)
    assert texts(replayed) == ANSWERS
    assert replay_ledger["cost_usd"] == 0


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_is_submitted_is_what_would_be_sent_live(provider: str, tmp_path: Path):
    long = [as_prompt([{"role": "system", "content": "rule " * 300}, {"role": "user", "content": "hi"}])]
    with batch_server(provider) as server:
        wish = {"openai": {"top_p": 0.9}, "anthropic": {"stop_sequences": ["\n"]}}[provider]
        more: dict[str, Any] = {"temperature": 0.5, "answer_options": wish}
        ask(server, tmp_path / "batch", long, **more)

        async def live() -> None:
            async with Teacher(f"{provider}:m", base_url=server.base_url, cache=tmp_path / "t.db", **more) as teacher:
                await teacher.demonstrate(long[0])

        asyncio.run(live())
    assert list(server.batches[0].requests.values()) == server.live
    assert wish.items() <= server.live[0].items()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_failed_is_asked_in_one_more_batch_and_then_live(provider: str, tmp_path: Path):
    overloaded = (500, {"error": {"type": "api_error", "message": "busy"}})
    invalid = (400, {"error": {"type": "invalid_request_error", "message": "too odd"}})

    def first(body: dict[str, Any]) -> Any:
        return {"question 0": overloaded, "question 1": "expired", "question 2": "missing", "question 3": invalid}[
            body["messages"][-1]["content"]
        ]

    def second(body: dict[str, Any]) -> Any:
        answer = ANSWERS[int(body["messages"][-1]["content"][-1])]
        whole = {"openai": {"choices": [{"message": {"content": answer}, "finish_reason": "stop"}]}}
        whole["anthropic"] = {"content": [{"type": "text", "text": answer}], "stop_reason": "end_turn"}
        return ("canceled" if "0" in answer else "unreadable") if "1" not in answer else (200, whole[provider])

    with batch_server(provider, results={0: first, 1: second}) as server:
        answers, _, _ = ask(server, tmp_path)
        # An invalid request would be so again: it is asked live at once, which says what is wrong with it.
        assert [len(batch.requests) for batch in server.batches] == [4, 3]
        assert sorted(body["messages"][-1]["content"] for body in server.live) == [
            f"question {number}" for number in (0, 2, 3)
        ]
        assert texts(answers) == ["live", ANSWERS[1], "live", "live"]
        ask(server, tmp_path)
        assert len(server.batches) == 2
    with bbdistill.open_recording(tmp_path / "t.db") as recording:
        assert recording.verify() == []
        assert [call.kind for call in recording.calls()] == ["ok"] * 4


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_reply_that_is_none_is_a_fault_and_asked_again(provider: str, tmp_path: Path):
    with batch_server(provider, results={0: lambda _: (200, {"id": "hollow"})}) as server:
        answers, ledger, _ = ask(server, tmp_path, max_usd=20, **PRICES)
    assert texts(answers) == ANSWERS
    assert [len(batch.requests) for batch in server.batches] == [4, 4]
    assert ledger["cost_usd"] == pytest.approx(4 * COST)
    rows = attempts(tmp_path)
    assert [row["number"] for row in rows] == [1] * 4 + [2] * 4
    # Such a reply may well be billed: the worst case counts until somebody knows better.
    assert all(row["cost_usd"] > 1 for row in rows[:4])
    assert all("has no" in row["fault"] for row in rows[:4])


def attempts(path: Path) -> list[dict[str, Any]]:
    store = BatchStore(path / "t.db", read_only=True)
    names = ("number", "status", "fault", "cost_usd", "purpose")
    rows = store._rows(f"SELECT {', '.join(names)} FROM attempts ORDER BY id")  # pyright: ignore[reportPrivateUsage]
    store.close()
    return [dict(zip(names, row, strict=True)) for row in rows]


# Restarts


async def until(happened: Callable[[], bool]) -> None:
    """Looks, since the server is in another thread."""
    while not happened():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def interrupted(server: BatchServer, path: Path, when: Callable[[BatchServer], bool], **settings: Any) -> list[Event]:
    """Asks until `when`, then is stopped as Ctrl-C stops it."""
    events: list[Event] = []

    async def work() -> None:
        model = f"{server.provider}:m"
        async with Teacher(model, base_url=server.base_url, cache=path / "t.db", **settings) as teacher:
            asking = asyncio.create_task(fetch(teacher, {"demonstrations": PROMPTS}, tell=events.append, pace=PACE))
            await until(lambda: when(server))
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(work())
    return events


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_restart_between_submission_and_collection_submits_nothing(provider: str, tmp_path: Path):
    with batch_server(provider, running=True) as server:
        polled = "GET /batches/*" if provider == "openai" else "GET /messages/batches/*"
        events = interrupted(server, tmp_path, lambda server: server.asked[polled] > 0)
        assert "--resume" in notes(events)
        server.running = False
        # Other prompts than before: what was paid for comes home all the same.
        answers, _, _ = ask(server, tmp_path, PROMPTS[:2])
        assert texts(answers) == ANSWERS[:2]
        assert texts(ask(server, tmp_path)[0]) == ANSWERS
        assert len(server.batches) == 1
        assert server.live == []


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_submission_whose_reply_is_lost_is_found_and_not_repeated(provider: str, tmp_path: Path):
    with batch_server(provider, lose="reply") as server:
        answers, _, events = ask(server, tmp_path)
        assert texts(answers) == ANSWERS
        assert len(server.batches) == 1
    assert "whether it was submitted is not known" in notes(events)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_crash_between_intent_and_remote_id_finds_the_batch(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with batch_server(provider) as server:
        crash(monkeypatch, after=True, server=server, path=tmp_path)
        assert len(server.batches) == 1
        answers, _, _ = ask(server, tmp_path)
        assert texts(answers) == ANSWERS
        assert len(server.batches) == 1
        assert server.live == []


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_crash_before_the_submission_submits_once(provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with batch_server(provider) as server:
        crash(monkeypatch, after=False, server=server, path=tmp_path)
        assert server.batches == []
        answers, _, _ = ask(server, tmp_path)
        assert texts(answers) == ANSWERS
        assert len(server.batches) == 1


def crash(monkeypatch: pytest.MonkeyPatch, *, after: bool, server: BatchServer, path: Path) -> None:
    """Dies right before or right after the submission, when the intent is on disk and the remote id is not."""
    submit = Courier._submit  # pyright: ignore[reportPrivateUsage]

    async def dies(self: Courier, batch: Batch, staged: Any) -> None:
        if after:
            await self._api.submit(batch.id, batch.run, staged)  # pyright: ignore[reportPrivateUsage]
        raise KeyError("power cut")

    monkeypatch.setattr(Courier, "_submit", dies)
    with pytest.raises(KeyError, match="power cut"):
        ask(server, path)
    monkeypatch.setattr(Courier, "_submit", submit)


def test_anthropic_is_waited_for_where_only_the_results_can_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with batch_server("anthropic", running=True) as server:
        crash(monkeypatch, after=True, server=server, path=tmp_path)
        # No submission can still be on its way, yet a batch of that size is in progress: whose, nobody knows.
        interrupted(server, tmp_path, lambda server: server.asked["GET /messages/batches"] > 12)
        assert len(server.batches) == 1
        server.running = False
        assert texts(ask(server, tmp_path)[0]) == ANSWERS
        assert len(server.batches) == 1


def test_a_strangers_batch_is_not_taken_for_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with batch_server("anthropic") as server:
        crash(monkeypatch, after=False, server=server, path=tmp_path)
        ask(server, tmp_path / "other")
        assert len(server.batches) == 1
        assert texts(ask(server, tmp_path)[0]) == ANSWERS
        assert len(server.batches) == 2


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_two_who_share_a_store_submit_once(provider: str, together: bool, tmp_path: Path):
    async def both(server: BatchServer) -> list[Any]:
        model = f"{provider}:m"
        async with (
            Teacher(model, base_url=server.base_url, cache=tmp_path / "t.db") as one,
            Teacher(model, base_url=server.base_url, cache=tmp_path / "t.db") as other,
        ):
            first = asyncio.create_task(fetch(one, {"demonstrations": PROMPTS}, tell=list[Event]().append, pace=PACE))
            await until(lambda: together or bool(server.batches))
            second = asyncio.create_task(
                fetch(other, {"demonstrations": PROMPTS}, tell=list[Event]().append, pace=PACE)
            )
            await asyncio.sleep(0.2)
            server.running = False
            await asyncio.gather(first, second)
            await asyncio.gather(*(other.demonstrate(prompt) for prompt in PROMPTS))
            return [one.ledger.summary(), other.ledger.summary()]

    with batch_server(provider, running=True) as server:
        asyncio.run(both(server))
        assert len(server.batches) == 1
        assert server.live == []
    with bbdistill.open_recording(tmp_path / "t.db") as recording:
        assert len(recording.calls()) == 4


# Refusals, money, limits


@pytest.mark.parametrize("provider", PROVIDERS)
def test_throttling_and_outages_are_waited_out(provider: str, tmp_path: Path):
    passing = [(429, "rate_limit_error"), (500, "api_error"), (529, "overloaded_error"), (503, "api_error")]
    with batch_server(provider, running=True) as server:
        polled = "GET /batches/*" if provider == "openai" else "GET /messages/batches/*"
        interrupted(server, tmp_path, lambda server: server.asked[polled] > 0)
        server.running, server.refuse = False, passing
        assert texts(ask(server, tmp_path)[0]) == ANSWERS
        assert server.refuse == []
        assert len(server.batches) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_throttled_submission_is_made_once(provider: str, tmp_path: Path):
    # OpenAI's first request is the upload.
    throttled = [(429, "rate_limit_error")] * 3
    with batch_server(provider, refuse=throttled) as server:
        assert texts(ask(server, tmp_path)[0]) == ANSWERS
        assert len(server.batches) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (401, "x", "api_key_env"),
        (404, "x", "without --batch"),
        (400, "x", "HTTP 400"),
        (429, "insufficient_quota", "429"),
    ],
)
def test_a_refusal_stops_and_can_be_resumed(provider: str, status: int, code: str, says: str, tmp_path: Path):
    with batch_server(provider, refuse=[(status, code)]) as server:
        with pytest.raises(TeacherError, match=says):
            ask(server, tmp_path)
        assert server.batches == []
        assert texts(ask(server, tmp_path)[0]) == ANSWERS
        assert len(server.batches) == 1


def test_a_batch_that_fails_as_a_whole_stops_the_run(tmp_path: Path):
    with batch_server("openai", failure="enqueued token limit reached") as server:
        with pytest.raises(TeacherError, match="enqueued token limit reached"):
            ask(server, tmp_path)
        assert server.live == []
        server.failure = ""
        assert texts(ask(server, tmp_path)[0]) == ANSWERS


def test_an_address_where_nothing_answers_is_named_at_once(tmp_path: Path):
    with batch_server("openai") as server:
        pass
    with pytest.raises(TeacherError, match="cannot be reached"):
        ask(server, tmp_path, pace=Pace())


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_worst_case_of_a_batch_is_reserved(provider: str, tmp_path: Path):
    # Each call: a bound of some 1100 tokens in and 1024 out, so more than $2.
    with batch_server(provider) as server:
        with pytest.raises(BudgetExceeded, match="max_usd"):
            ask(server, tmp_path, max_usd=8.0, **PRICES)
        assert server.batches == []
        _, ledger, _ = ask(server, tmp_path, max_usd=9.5, **PRICES)
        assert ledger["cost_usd"] == pytest.approx(4 * COST)
        with pytest.raises(BudgetExceeded, match=r"max_usd_by\.demonstrations"):
            ask(server, tmp_path / "own", max_usd_by={"demonstrations": 8.0}, **PRICES)


def test_a_batch_under_way_holds_its_money_after_a_restart(tmp_path: Path):
    async def resumed(server: BatchServer) -> None:
        settings = {"max_usd": 9.5, **PRICES}
        async with Teacher("openai:m", base_url=server.base_url, cache=tmp_path / "t.db", **settings) as teacher:
            fetching = asyncio.create_task(
                fetch(teacher, {"demonstrations": PROMPTS}, tell=list[Event]().append, pace=PACE)
            )
            before = server.asked["GET /batches/*"]
            await until(lambda: server.asked["GET /batches/*"] >= before + 2)
            other = asyncio.create_task(teacher.demonstrate("something else"))
            await asyncio.sleep(0.2)
            assert not other.done()  # it waits for what the batch may yet cost
            server.running = False
            await fetching
            assert isinstance(await other, Demonstration)

    with batch_server("openai", running=True) as server:
        interrupted(server, tmp_path, lambda server: server.asked["GET /batches/*"] > 0, max_usd=9.5, **PRICES)
        asyncio.run(resumed(server))


async def nowhere(call: Call, /) -> Reply:
    raise AssertionError(f"{call.url} was called")


def test_a_batch_is_billed_at_its_own_price_and_says_so_in_the_record():
    def listed(model: str, provider: str, usage: Usage, terms: Mapping[str, str]) -> float | None:
        return price(model, provider, usage, terms=terms)

    budget = Budget(nowhere, price=listed, purse=Purse(1.0))
    body = {"model": "claude-sonnet-4-5", "max_tokens": 1000, "messages": []}
    like = Call(method="POST", url="https://api.anthropic.com/v1/messages", headers={}, body=json.dumps(body).encode())
    request = canonical(like)
    usage = {"input_tokens": 1000, "output_tokens": 100, "cache_read_input_tokens": 9000}
    content = json.loads(messages("four").body) | {"model": "claude-sonnet-4-5", "usage": usage}
    reply = Reply(status=200, headers={}, body=json.dumps(content).encode())
    row = outcome_of(Item(key=key(request), request=request, tags={}), like, reply, budget).row
    assert row is not None
    # $3 and $15 per million, a tenth of the first from the cache, and half of it all in a batch.
    assert row.cost_usd == pytest.approx((1000 * 3 + 9000 * 0.3 + 100 * 15) / 1e6 / 2)
    assert budget.worst_case(like, TERMS) == pytest.approx(budget.worst_case(like) / 2)
    headers = json.loads(row.headers)
    read = read_reply(RawReply(path="/messages", headers=headers, body=reply.body), TeacherConfig(model="anthropic:m"))
    assert read.saved_usd == pytest.approx(9000 * 2.7 / 1e6 / 2)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_batches_stay_within_the_providers_limits(provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from bbdistill.teacher import anthropic, openai

    api = openai.OpenAIBatches if provider == "openai" else anthropic.AnthropicBatches
    assert (openai.OpenAIBatches.max_requests, openai.OpenAIBatches.max_bytes) == (50_000, 200_000_000)
    assert (anthropic.AnthropicBatches.max_requests, anthropic.AnthropicBatches.max_bytes) == (100_000, 256_000_000)
    monkeypatch.setattr(api, "max_requests", 3)
    with batch_server(provider) as server:
        assert texts(ask(server, tmp_path / "a")[0]) == ANSWERS
        assert sorted(len(batch.requests) for batch in server.batches) == [1, 3]
        monkeypatch.setattr(api, "max_bytes", 700)
        ask(server, tmp_path / "b")
        assert [len(batch.requests) for batch in server.batches[2:]] == [2, 2]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_no_key_reaches_the_store(provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    secret = "sk-test-0123456789abcdefghij"
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    monkeypatch.setenv("ANTHROPIC_API_KEY", secret)
    with batch_server(provider) as server:
        ask(server, tmp_path)
    assert all(secret.encode() not in file.read_bytes() for file in tmp_path.glob("t.db*"))


@pytest.mark.parametrize("mode", ["off", "record"])
def test_a_batch_needs_the_record(mode: Any):
    with pytest.raises(ConfigError, match="--cache auto"):
        Settings(batch=True, mode=mode)


def test_a_store_without_batches_replays_unchanged():
    with bbdistill.open_recording(Path(__file__).parents[2] / "cache" / "demo.db") as recording:
        assert recording.verify() == []


# A server that is not ours


@pytest.mark.parametrize("provider", PROVIDERS)
def test_against_llmock(provider: str, llmock: LLMock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("llmock.routers.batch._BATCH_DELAY", 0.1)
    server = (provider, llmock.base_url(provider))
    answers, ledger, _ = ask(server, tmp_path)
    assert all(isinstance(answer, Demonstration) for answer in answers)
    made = [r.path for r in llmock.requests if r.method == "POST" and r.path.endswith("/batches")]
    assert len(made) == 1
    assert texts(ask(server, tmp_path)[0]) == texts(answers)
    assert len([r for r in llmock.requests if r.method == "POST" and r.path.endswith("/batches")]) == 1
    assert texts(ask(server, tmp_path, replay=str(tmp_path / "t.db"))[0]) == texts(answers)
    assert (ledger["calls"], ledger["cached"]) == (4, 0)
    with bbdistill.open_recording(tmp_path / "t.db") as recording:
        assert recording.verify() == []
