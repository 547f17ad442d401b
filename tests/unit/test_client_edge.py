"""The client under the official SDKs, over real sockets: each fault in the right outcome, none taken for an answer."""

import asyncio
import json
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from llmock.pytest_plugin import LLMock
from scripted_server import Answer, ScriptedServer, chat, error, good, messages

from bbdistill.client.call import Fault
from bbdistill.client.edge import http_client, sync_http_client, unwrap
from bbdistill.client.store import Store
from bbdistill.errors import BudgetExceeded, ConfigError, ReplayMiss

KEY = "sk-live-0123456789abcdef"
SDKS = ("openai", "openai-sync", "anthropic", "anthropic-sync")


def ask(
    sdk: str, url: str, store: Path | str, text: str = "2+2?", *, key: str = KEY, headers: Any = None, **settings: Any
) -> Any:
    """The SDK's raw response to one question."""
    question: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "max_tokens": 50}
    common: dict[str, Any] = {"api_key": key, "max_retries": 0}

    async def asynchronously() -> Any:
        client = http_client(store, **settings)
        if sdk == "openai":
            async with openai.AsyncOpenAI(base_url=f"{url}/v1", http_client=client, **common) as api:
                create = api.chat.completions.with_raw_response.create
                return await create(model="gpt-4o-mini", extra_headers=headers, **question)
        async with anthropic.AsyncAnthropic(base_url=url, http_client=client, **common) as claude:
            raw = await claude.messages.with_raw_response.create(
                model="claude-sonnet-5-5", extra_headers=headers, **question
            )
            await raw.read()
            return raw

    if not sdk.endswith("-sync"):
        return asyncio.run(asynchronously())
    client = sync_http_client(store, **settings)
    if sdk == "openai-sync":
        with openai.OpenAI(base_url=f"{url}/v1", http_client=client, **common) as api:
            create = api.chat.completions.with_raw_response.create
            return create(model="gpt-4o-mini", extra_headers=headers, **question)
    with anthropic.Anthropic(base_url=url, http_client=client, **common) as claude:
        return claude.messages.with_raw_response.create(model="claude-sonnet-5-5", extra_headers=headers, **question)


def kinds(store: Path) -> list[str]:
    return [row.kind for row in Store(store, read_only=True).calls()]


def files_with(text: str, folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if text.encode() in path.read_bytes()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


@pytest.mark.parametrize("sdk", SDKS)
def test_a_good_reply_and_its_replay_without_server_or_key(sdk: str, path: Path) -> None:
    headers = {
        "x-bbdistill-purpose": "demonstrations",
        "x-bbdistill-prompt": "p%20%C3%A9",
        "x-bbdistill-template": "t@1",
        "x-bbdistill-sample": "2",
    }
    with ScriptedServer() as server:
        url = server.url
        first = ask(sdk, url, path, headers=headers, prices=(1.0, 10.0), teacher_id="theirs")
        [seen] = server.seen
    assert "four" in str(first.parse() if sdk != "anthropic" else asyncio.run(first.parse()))
    assert first.headers["x-bbdistill-cached"] == "0"
    assert float(first.headers["x-bbdistill-cost-usd"]) == pytest.approx(200e-6)
    assert not [name for name in seen.headers if name.startswith("x-bbdistill")]
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    again = ask(sdk, url, path, key="another", mode="replay", headers=headers, teacher_id="theirs")
    assert again.headers["x-bbdistill-cached"] == "1"
    assert float(again.headers["x-bbdistill-cost-usd"]) == 0
    assert float(again.headers["x-bbdistill-recorded-cost-usd"]) == pytest.approx(200e-6)
    [row] = Store(path, read_only=True).calls()
    assert (row.kind, row.purpose, row.prompt_id, row.template, row.sample, row.teacher) == (
        "ok",
        "demonstrations",
        "p é",
        "t@1",
        2,
        "theirs",
    )
    assert files_with(KEY, path.parent) == []


FINAL_ERRORS = [
    (Answer(status=500, body="{}"), 500),
    (error(529, "overloaded_error"), 529),
    (error(400, "invalid_request_error"), 400),
    (error(401, "authentication_error", message=f"wrong key {KEY}"), 401),
    (error(429, "insufficient_quota"), 429),
]


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize(("answer", "status"), FINAL_ERRORS)
def test_an_http_error_is_the_sdks_own_exception(sdk: str, answer: Answer, status: int, path: Path) -> None:
    with (
        ScriptedServer(otherwise=answer) as server,
        pytest.raises((openai.APIStatusError, anthropic.APIStatusError)) as caught,
    ):
        ask(sdk, server.url, path, attempts=1)
    assert caught.value.status_code == status
    assert kinds(path) == ["fault"]
    assert files_with(KEY, path.parent) == []
    with pytest.raises(type(caught.value)):
        ask(sdk, server.url, path, mode="replay", teacher_id=f"127.0.0.1:{server.port}")


MALFORMED = [
    (Answer(body=""), "empty"),
    (Answer(body=good("/messages").body[:-20]), "cut off or not JSON"),
    (Answer(body="<html>proxy</html>", headers={"content-type": "text/html"}), "a web page"),
    (Answer(body="{}"), "the reply has no"),
    (Answer(how="drop"), "RemoteProtocolError|ReadError"),
    (Answer(how="cut", body='{"choices": ['), "RemoteProtocolError|ReadError"),
]


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize(("answer", "says"), MALFORMED)
def test_a_broken_reply_is_a_connection_error(sdk: str, answer: Answer, says: str, path: Path) -> None:
    with (
        ScriptedServer(otherwise=answer) as server,
        pytest.raises((openai.APIConnectionError, anthropic.APIConnectionError)) as caught,
    ):
        ask(sdk, server.url, path, attempts=1)
    fault = unwrap(caught.value)
    assert isinstance(fault, Fault)
    assert fault.retryable == (says != "a web page")  # which comes from another address, and always will
    assert re.search(says, fault.reason)
    assert kinds(path) == ["fault"]


@pytest.mark.parametrize("sdk", SDKS)
def test_a_broken_reply_is_asked_again(sdk: str, path: Path) -> None:
    with ScriptedServer(Answer(how="drop"), error(503, headers={"retry-after-ms": "50"})) as server:
        raw = ask(sdk, server.url, path)
    assert raw.headers["x-bbdistill-cached"] == "0"
    assert len(server.seen) == 3
    assert kinds(path) == ["ok"]


@pytest.mark.parametrize("sdk", ["openai", "anthropic-sync"])
def test_waits_as_long_as_the_server_asks(sdk: str, path: Path) -> None:
    with ScriptedServer(error(429, "rate_limit_error", headers={"retry-after": "1"})) as server:
        ask(sdk, server.url, path)
    assert 1.0 <= server.seen[1].at - server.seen[0].at < 3.0


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("kind", ["refusal", "length"])
def test_refusals_and_cut_replies_reach_the_sdk_and_are_marked(sdk: str, kind: str, path: Path) -> None:
    if sdk.startswith("openai"):
        answer = chat("no", finish={"refusal": "content_filter", "length": "length"}[kind])
    else:
        answer = messages("no", stop={"refusal": "refusal", "length": "max_tokens"}[kind])
    with ScriptedServer(otherwise=answer) as server:
        for _ in range(2):
            assert ask(sdk, server.url, path).headers["x-bbdistill-cached"] == "0"
    assert kinds(path) == [kind, kind]


@pytest.mark.parametrize("sdk", SDKS)
def test_a_silent_server_is_a_timeout(sdk: str, path: Path) -> None:
    with (
        ScriptedServer(otherwise=Answer(delay_s=5)) as server,
        pytest.raises((openai.APITimeoutError, anthropic.APITimeoutError)),
    ):
        ask(sdk, server.url, path, attempts=1, timeout_s=0.2)
    assert kinds(path) == ["fault"]


@pytest.mark.parametrize("sdk", SDKS)
def test_no_server_at_all(sdk: str, path: Path) -> None:
    with ScriptedServer() as server:
        url = server.url
    with pytest.raises((openai.APIConnectionError, anthropic.APIConnectionError)) as caught:
        ask(sdk, url, path, attempts=1)
    fault = unwrap(caught.value)
    assert isinstance(fault, Fault)
    assert fault.unreachable


@pytest.mark.parametrize("sdk", SDKS)
def test_our_own_errors_are_found_in_the_sdks(sdk: str, path: Path) -> None:
    with ScriptedServer() as server:
        ask(sdk, server.url, path, prices=(1.0, 1.0))
        with pytest.raises(Exception) as missed:  # noqa: PT011  as it is, or wrapped by the SDK
            ask(sdk, server.url, path, "3+3?", mode="replay")
        with pytest.raises(Exception) as refused:  # noqa: PT011
            ask(sdk, server.url, path, "3+3?", max_usd=1e-6, prices=(1.0, 1.0))
        assert len(server.seen) == 1
    miss = unwrap(missed.value)
    assert isinstance(miss, ReplayMiss)
    assert '+    "content": "3+3?"' in str(miss)
    assert isinstance(unwrap(refused.value), BudgetExceeded)
    assert unwrap(ValueError("other")) is None


def test_a_resumed_run_counts_what_it_spent_before(path: Path) -> None:
    settings: dict[str, Any] = {"prices": (0.0, 1000.0), "max_usd": 0.065, "run": "r"}
    with ScriptedServer() as server:  # each call costs 0.01 and may cost 0.05
        ask("openai", server.url, path, "a", **settings)
        ask("openai", server.url, path, "b", **settings)
        with pytest.raises(BudgetExceeded, match=r"0\.0200 is spent"):
            ask("openai", server.url, path, "c", **settings)
        ask("openai", server.url, path, "c", **settings | {"run": "another"})


def test_a_resumed_run_counts_attempts_that_nobody_knows_the_cost_of(path: Path) -> None:
    settings: dict[str, Any] = {"prices": (0.0, 1000.0), "max_usd": 0.105, "run": "r"}
    with ScriptedServer(Answer(how="cut")) as server:  # worth 0.05 at worst; then a call for 0.01
        ask("openai", server.url, path, "a", headers={"x-bbdistill-purpose": "preferences"}, **settings)
        with pytest.raises(BudgetExceeded, match=r"0\.0600 is spent"):
            ask("openai", server.url, path, "b", **settings)
        more = settings | {"max_usd": None, "max_usd_by": {"preferences": 0.1}}
        with pytest.raises(BudgetExceeded, match=r"max_usd_by\.preferences.*0\.0600 is spent"):
            ask("openai", server.url, path, "b", headers={"x-bbdistill-purpose": "preferences"}, **more)
        ask("openai", server.url, path, "b", **settings | {"max_usd": 0.11})
    with sqlite3.connect(path) as file:
        kept = file.execute("SELECT number, purpose, cost_usd, fault IS NULL FROM attempts").fetchall()
    assert kept == [(1, "preferences", 0.05, 0), (2, "preferences", None, 1), (1, None, None, 1)]


def test_ten_identical_calls_are_one_request_and_the_gate_holds(path: Path) -> None:
    async def together(url: str) -> list[str]:
        async with openai.AsyncOpenAI(
            api_key=KEY, base_url=f"{url}/v1", max_retries=0, http_client=http_client(path, concurrency=3)
        ) as api:
            questions = ["same"] * 10 + [f"q{n}" for n in range(9)]
            raws = await asyncio.gather(
                *(
                    api.chat.completions.with_raw_response.create(
                        model="gpt-4o-mini", messages=[{"role": "user", "content": question}]
                    )
                    for question in questions
                )
            )
            return [raw.headers["x-bbdistill-cached"] for raw in raws]

    with ScriptedServer(otherwise=chat("four", delay_s=0.05)) as server:
        cached = asyncio.run(together(server.url))
    assert len(server.seen) == 10
    assert sorted(cached[:10]) == ["0"] + ["1"] * 9
    assert server.most_in_flight == 3


def test_a_cancelled_sdk_call_is_still_recorded(path: Path) -> None:
    async def leave(server: ScriptedServer) -> None:
        async with openai.AsyncOpenAI(
            api_key=KEY, base_url=f"{server.url}/v1", max_retries=0, http_client=http_client(path)
        ) as api:
            create = api.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
            asking = asyncio.ensure_future(create)
            while not server.seen:  # noqa: ASYNC110  set by another thread
                await asyncio.sleep(0.01)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    with ScriptedServer(otherwise=chat("four", delay_s=0.4)) as server:
        asyncio.run(leave(server))
    assert len(server.seen) == 1
    assert kinds(path) == ["ok"]


def test_many_threads_may_share_a_sync_client(path: Path) -> None:
    with (
        ScriptedServer(otherwise=chat("four", delay_s=0.02)) as server,
        openai.OpenAI(
            api_key=KEY, base_url=f"{server.url}/v1", max_retries=0, http_client=sync_http_client(path)
        ) as api,
    ):
        threads = [
            threading.Thread(
                target=api.chat.completions.create,
                kwargs={"model": "m", "messages": [{"role": "user", "content": f"q{n % 8}"}]},
            )
            for n in range(24)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(server.seen) == 8
    assert kinds(path) == ["ok"] * 8


@pytest.mark.parametrize("make", [http_client, sync_http_client])
def test_what_is_no_generation_goes_straight_through(make: Callable[..., Any], path: Path) -> None:
    answer = Answer(body='{"object": "list", "data": []}', headers={"x-mine": "1"})

    async def get(url: str, mode: str) -> httpx2.Response:
        client = make(path, mode=mode)
        if isinstance(client, httpx2.AsyncClient):
            async with client:
                return await client.get(f"{url}/v1/models", headers={"x-bbdistill-purpose": "x"})
        with client:
            return client.get(f"{url}/v1/models", headers={"x-bbdistill-purpose": "x"})

    with ScriptedServer(otherwise=answer) as server:
        response = asyncio.run(get(server.url, "auto"))
        assert response.json() == {"object": "list", "data": []}
        assert response.headers["x-mine"] == "1"
        assert "x-bbdistill-purpose" not in server.seen[0].headers
        with pytest.raises(ReplayMiss, match="GET /v1/models is never recorded"):
            asyncio.run(get(server.url, "replay"))
        assert len(server.seen) == 1
    assert kinds(path) == []


@pytest.mark.parametrize("make", [http_client, sync_http_client])
def test_the_edge_for_httpx_does_the_same(make: Callable[..., Any], path: Path) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    listing = Answer(body='{"data": []}', headers={"x-mine": "1"})

    async def visit(url: str, mode: str, what: str = "POST") -> httpx.Response:
        client = make(path, mode=mode, library="httpx", attempts=1, timeout_s=0.5, teacher_id="t")
        assert isinstance(client, httpx.AsyncClient | httpx.Client)
        address = f"{url}/v1/models" if what == "GET" else f"{url}/v1/chat/completions"
        if isinstance(client, httpx.AsyncClient):
            async with client:
                return await client.request(what, address, content=body)
        with client:
            return client.request(what, address, content=body)

    with ScriptedServer(good("/chat/completions"), listing, otherwise=Answer(delay_s=2)) as server:
        first = asyncio.run(visit(server.url, "auto"))
        assert asyncio.run(visit(server.url, "auto", "GET")).headers["x-mine"] == "1"
        with pytest.raises(httpx.ReadTimeout) as caught:
            asyncio.run(visit(server.url, "record"))
        assert isinstance(unwrap(caught.value), Fault)
    again = asyncio.run(visit("http://elsewhere", "replay"))
    assert again.json() == first.json()
    assert (first.headers["x-bbdistill-cached"], again.headers["x-bbdistill-cached"]) == ("0", "1")
    with pytest.raises(ReplayMiss, match="GET /v1/models is never recorded"):
        asyncio.run(visit("http://elsewhere", "replay", "GET"))


def test_httpx_is_only_loaded_for_those_who_ask(path: Path) -> None:
    Store(path).close()
    code = (
        "import sys, bbdistill; bbdistill.sync_http_client(sys.argv[1], mode='replay'); print('httpx' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True).stdout.strip() == "False"


def test_a_rerun_asks_nothing_and_one_row_more_asks_once(path: Path) -> None:
    def asked(rows: int, **settings: Any) -> int:
        before = len(server.seen)
        with openai.OpenAI(
            api_key=KEY, base_url=f"{server.url}/v1", max_retries=0, http_client=sync_http_client(path, **settings)
        ) as api:
            for row in range(rows):
                api.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": f"row {row}"}], timeout=settings.get("timeout_s")
                )
        return len(server.seen) - before

    with ScriptedServer() as server:
        assert asked(20) == 20
        assert asked(20) == 0
        assert asked(21) == 1
        assert asked(21, concurrency=1, timeout_s=5, attempts=2, deadline_s=9) == 0


def test_off_keeps_nothing(path: Path) -> None:
    with ScriptedServer() as server:
        for _ in range(2):
            assert ask("openai", server.url, path, mode="off").headers["x-bbdistill-cached"] == "0"
    assert len(server.seen) == 2
    assert not path.exists()


def test_redirects_and_proxies_of_the_environment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "")
        ask("openai", "http://teacher.invalid", path)
        assert proxy.seen[0].path == "http://teacher.invalid/v1/chat/completions"
        monkeypatch.delenv("http_proxy")
        moved = Answer(status=307, headers={"location": f"{proxy.url}/v1/chat/completions"})
        with ScriptedServer(otherwise=moved) as server:
            raw = ask("openai", server.url, path)
    assert raw.status_code == 200


def test_a_wrong_sample_is_said(path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a number from 0 up, got `two`"):
        ask("openai", "http://127.0.0.1:9", path, headers={"x-bbdistill-sample": "two"})


# With llmock: a server of other hands, which also judges how the client behaved.


def _stream_openai(url: str, store: Path, **settings: Any) -> str:
    with openai.OpenAI(
        api_key=KEY, base_url=url, max_retries=0, http_client=sync_http_client(store, **settings)
    ) as api:
        parts = api.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], stream=True)
        return "".join(part.choices[0].delta.content or "" for part in parts if part.choices)


def _stream_anthropic(url: str, store: Path, **settings: Any) -> str:
    with (
        anthropic.Anthropic(
            api_key=KEY, base_url=url, max_retries=0, http_client=sync_http_client(store, **settings)
        ) as api,
        api.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}]) as parts,
    ):
        return "".join(parts.text_stream)


def _stream_responses(url: str, store: Path, **settings: Any) -> str:
    with openai.OpenAI(
        api_key=KEY, base_url=url, max_retries=0, http_client=sync_http_client(store, **settings)
    ) as api:
        parts = api.responses.create(model="m", input="hi", stream=True)
        return "".join(part.delta for part in parts if part.type == "response.output_text.delta")


STREAMING = [("openai", _stream_openai), ("anthropic", _stream_anthropic), ("openai", _stream_responses)]


@pytest.mark.parametrize(("provider", "stream"), STREAMING)
def test_a_stream_is_recorded_whole_and_replays(
    llmock: LLMock, provider: str, stream: Callable[..., str], path: Path
) -> None:
    llmock.reply("one two three four").delay(0)
    text = stream(llmock.base_url(provider), path)
    assert text == "one two three four"
    assert stream(llmock.base_url(provider), path, mode="replay") == text
    assert len(llmock.requests) == 1
    [row] = Store(path, read_only=True).calls()
    assert (row.content_type or "").startswith("text/event-stream")
    # Chat tells the usage of a stream only when it is asked to.
    assert (row.output_tokens is None) == row.path.endswith("chat/completions")


@pytest.mark.parametrize(("provider", "stream"), STREAMING)
@pytest.mark.parametrize("fault", ["truncate", "disconnect", "corrupt"])
def test_a_broken_stream_is_never_an_answer(
    llmock: LLMock, provider: str, stream: Callable[..., str], fault: str, path: Path
) -> None:
    getattr(llmock, fault)(after_chunks=2)
    assert stream(llmock.base_url(provider), path)
    assert len(llmock.requests) == 2
    assert kinds(path) == ["ok"]
    llmock.assert_resilient()


@pytest.mark.parametrize(("provider", "sdk"), [("openai", "openai"), ("anthropic", "anthropic")])
def test_llmock_finds_nothing_to_blame(llmock: LLMock, provider: str, sdk: str, path: Path) -> None:
    llmock.rate_limit(retry_after=0.5).fail(529)
    url = llmock.base_url(provider).removesuffix("/v1")
    started = time.monotonic()
    ask(sdk, url, path)
    assert time.monotonic() - started >= 0.5
    llmock.assert_resilient(strict=True)
    llmock.fail(401)
    with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)):
        ask(sdk, url, path, "another")
    llmock.assert_resilient(strict=True)


def test_the_other_endpoints_of_openai(llmock: LLMock, path: Path) -> None:
    url = llmock.base_url("openai")
    for mode in ("auto", "replay"):
        with openai.OpenAI(
            api_key=KEY, base_url=url, max_retries=0, http_client=sync_http_client(path, mode=mode)
        ) as api:
            assert api.responses.create(model="m", input="hi", store=False).output_text
            assert len(api.embeddings.create(model="text-embedding-3-small", input="hi").data[0].embedding) > 1
    assert len(llmock.requests) == 2
    assert [json.loads(row.request)["path"] for row in Store(path, read_only=True).calls()] == [
        "/v1/responses",
        "/v1/embeddings",
    ]
