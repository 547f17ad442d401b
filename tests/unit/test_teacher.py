"""The verbs against servers that misbehave, through both official SDKs."""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llmock.pytest_plugin import LLMock
from scripted_server import Answer, ScriptedServer, chat, error, good, messages

import bbdistill
from bbdistill.metrics import Progress
from bbdistill.teacher.teacher import Teacher
from bbdistill.types import Abstain, Demonstration, Fix, Preference, Tie

PROVIDERS = ("openai", "anthropic")


def ask(
    server: ScriptedServer, provider: str, path: Path, verb: Callable[[Teacher], Any], **settings: Any
) -> tuple[Any, Teacher]:
    """What the verb returns, and the teacher that was asked."""

    async def work() -> tuple[Any, Teacher]:
        url = f"{server.url}/v1" if provider == "openai" else server.url
        async with Teacher(f"{provider}:m", base_url=url, cache=path / "t.db", **settings) as teacher:
            return await verb(teacher), teacher

    return asyncio.run(work())


def demonstrate(teacher: Teacher) -> Any:
    return teacher.demonstrate("two and two?")


def kinds(path: Path) -> list[str]:
    with bbdistill.open_recording(path / "t.db") as recording:
        return [call.kind for call in recording.calls()]


def refusal(provider: str) -> Answer:
    return chat("no", finish="content_filter") if provider == "openai" else messages("no", stop="refusal")


def cut(provider: str) -> Answer:
    return chat("fo", finish="length") if provider == "openai" else messages("fo", stop="max_tokens")


HTML = Answer(body="<html>Welcome!</html>", headers={"content-type": "text/html"})
NOW = {"retry-after": "0"}


def test_the_limits_of_the_gate_are_shown(tmp_path: Path) -> None:
    with ScriptedServer(error(429, "rate_limit", headers={"retry-after": "0"})) as server:
        seen: list[tuple[int | None, list[str]]] = []

        async def look(teacher: Teacher) -> None:
            assert teacher.limit is None
            await teacher.demonstrate("two and two?")
            seen.append((teacher.limit, [change.why for change in teacher.limits[0].changes]))

        ask(server, "openai", tmp_path, look)
    assert seen == [(25, ["start", "throttled"])]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "first",
    [
        error(429, "rate_limit", headers={"retry-after": "0"}),
        error(500, headers=NOW),
        error(529, "overloaded_error", headers=NOW),
        Answer(body=""),
        Answer(body='{"choices": [{"mess'),
        Answer(body="{}"),
        Answer(how="drop"),
        Answer(body="{", how="cut"),
    ],
    ids=["429", "500", "529", "empty", "truncated", "hollow", "dropped", "cut off"],
)
def test_a_passing_fault_costs_an_attempt_and_nothing_else(provider: str, first: Answer, tmp_path: Path):
    with ScriptedServer(first) as server:
        reply, teacher = ask(server, provider, tmp_path, demonstrate)
    assert isinstance(reply, Demonstration)
    assert reply.completion == "four"
    assert len(server.seen) == 2
    assert kinds(tmp_path) == ["ok"]
    assert teacher.ledger.abstain_rate("demonstrations") == 0


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("answer", "reason", "kind"),
    [
        (refusal, "refusal", "refusal"),
        (cut, "cut at the output limit", "length"),
        (lambda _: error(400, message="context too long"), "HTTP 400 some_error: context too long", "fault"),
        (lambda _: error(413), "HTTP 413 some_error: no", "fault"),
        (lambda _: error(500, headers={"x-should-retry": "false"}), "HTTP 500 some_error: no", "fault"),
    ],
    ids=["refusal", "cut", "400", "413", "500"],
)
def test_what_is_about_one_request_is_an_abstention(
    provider: str, answer: Callable[[str], Answer], reason: str, kind: str, tmp_path: Path
):
    with ScriptedServer(otherwise=answer(provider)) as server:
        reply, teacher = ask(server, provider, tmp_path, demonstrate)
    assert reply == Abstain(reason=reason)
    assert kinds(tmp_path) == [kind]
    assert teacher.ledger.summary()["abstain_rate"] == 1.0


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (error(401), "api_key_env"),
        (error(403), "may not use"),
        (error(404), "no such model"),
        (error(429, "insufficient_quota"), "quota"),
        (HTML, r'http://127.0.0.1:\d+.* is no API: the reply is a web page .*: "Welcome!"; check `base_url` .*`/v1`'),
    ],
    ids=["401", "403", "404", "quota", "web page"],
)
def test_a_teacher_that_cannot_be_used_stops_at_once(provider: str, answer: Answer, says: str, tmp_path: Path):
    with ScriptedServer(otherwise=answer) as server, pytest.raises(bbdistill.TeacherError, match=says):
        ask(server, provider, tmp_path, demonstrate)
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize(("provider", "endpoint"), [("openai", "/v1/chat/completions"), ("anthropic", "/v1/messages")])
@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("https://me:secret-word-1@new.example/api{}?key=abc", "`https://new.example/api{}`; set `base_url` to `{}`"),
        ("/moved{}", "`{here}/moved{}`; set `base_url` to `{}`"),
        ("/login", "`{here}/login`; check `base_url`"),
    ],
)
def test_a_redirect_says_where_to_and_what_to_set(
    provider: str, endpoint: str, status: int, location: str, says: str, tmp_path: Path
):
    with ScriptedServer(otherwise=Answer(status=status, headers={"location": location.format(endpoint)})) as server:
        base = "https://new.example/api" if "new.example" in location else f"{server.url}/moved"
        base += "/v1" if provider == "openai" else ""
        with pytest.raises(bbdistill.TeacherError) as caught:
            ask(server, provider, tmp_path, demonstrate)
        assert says.format(endpoint, base, here=server.url) in str(caught.value)
    assert f"answered HTTP {status}: it redirects to" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "key" not in str(caught.value)
    assert len(server.seen) == 1


def test_everything_that_may_have_been_billed_is_in_what_was_spent(tmp_path: Path):
    settings = {"input_usd_per_mtok": 0.0, "output_usd_per_mtok": 1000.0, "max_tokens": 100}
    # At worst an attempt costs 0.1: so does one that is unusable, and an answer without usage. A refusal costs 0.01.
    unmetered = json.loads(chat("four").body)
    del unmetered["usage"]
    script = (Answer(body="{}"), refusal("openai"), error(500, headers=NOW), chat("four"))
    with ScriptedServer(*script, Answer(body=json.dumps(unmetered))) as server:

        async def work(teacher: Teacher) -> None:
            for number in range(3):
                await teacher.demonstrate(f"question {number}")
            with pytest.raises(bbdistill.BudgetExceeded, match=r"\$0\.2200 is spent"):
                await teacher.demonstrate("one more")

        def check(teacher: Teacher) -> None:
            assert teacher.spent_usd == pytest.approx(0.22)

        async def all_of_it() -> dict[str, Any]:
            url = f"{server.url}/v1"
            async with Teacher("openai:m", base_url=url, cache=tmp_path / "t.db", max_usd=0.31, **settings) as teacher:
                await work(teacher)
                check(teacher)
                return teacher.summary()

        summary = asyncio.run(all_of_it())
    assert (summary["cost_usd"], summary["uncertain_usd"]) == pytest.approx((0.22, 0.2))
    with sqlite3.connect(tmp_path / "t.db") as store:
        rows = store.execute("SELECT usd, uncertain_usd, unpriced FROM v_spend").fetchall()
    assert rows == [(pytest.approx(0.22), pytest.approx(0.2), 0)]


def test_what_has_no_price_is_never_said_to_have_cost_nothing(tmp_path: Path):
    with ScriptedServer(Answer(body="{}")) as server:
        seen: list[float | None] = []

        async def look(teacher: Teacher) -> None:
            seen.append(teacher.spent_usd)
            await teacher.demonstrate("q")
            seen.append(teacher.summary()["cost_usd"])

        ask(server, "openai", tmp_path, look)
    assert seen == [0.0, None]


def test_a_cap_without_a_price_is_a_mistake_of_the_config(tmp_path: Path):
    with ScriptedServer() as server:
        for cap in ({"max_usd": 1.0}, {"max_usd_by": {"evaluation": 1.0}}):
            with pytest.raises(bbdistill.ConfigError, match=r"`openai:m`.*`input_usd_per_mtok` and `output_usd_per_"):
                ask(server, "openai", tmp_path, demonstrate, **cap)
        assert not list(tmp_path.iterdir())
        ask(server, "openai", tmp_path, demonstrate)
    reply, _ = ask(server, "openai", tmp_path, demonstrate, mode="replay", max_usd=1.0)  # which costs nothing
    assert isinstance(reply, Demonstration)


def test_while_calls_are_tried_again_their_progress_says_why(tmp_path: Path):
    failing = [error(503, headers={"retry-after": "0.4"}, message="server error")] * 3
    with ScriptedServer(*failing, otherwise=chat("four", delay_s=0.4)) as server:

        async def watched(teacher: Teacher) -> tuple[set[tuple[int, int, str | None]], Progress]:
            asking = asyncio.gather(*(teacher.demonstrate(f"q{n}") for n in range(5)))
            seen: set[tuple[int, int, str | None]] = set()
            while not asking.done():
                await asyncio.sleep(0.02)
                now = teacher.progress("asking", total=5)
                seen.add((now.in_flight, now.retrying, now.trouble))
            return seen, teacher.progress("asking", total=5)

        (seen, last), _ = ask(server, "openai", tmp_path, watched, concurrency=2)
    assert {trouble for _, retrying, trouble in seen if retrying == 3} == {"HTTP 503 some_error: server error"}
    assert max(in_flight for in_flight, _, _ in seen) == 2  # though five are asked
    assert (last.done, last.in_flight, last.retrying, last.trouble) == (5, 0, 0, None)


def test_an_address_where_nothing_answers_is_named(tmp_path: Path):
    with ScriptedServer() as server:
        pass
    with pytest.raises(bbdistill.TeacherError, match=f"127.0.0.1:{server.port}"):
        ask_once_closed(server, tmp_path)


def ask_once_closed(server: ScriptedServer, path: Path) -> None:
    async def work() -> None:
        async with Teacher("openai:m", base_url=f"{server.url}/v1", cache=path / "t.db") as teacher:
            await teacher.demonstrate("x")

    asyncio.run(work())


def verdict(winner: str) -> str:
    return json.dumps({"reason": "r", "winner": winner})


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ((verdict("A"), verdict("B")), Preference),
        ((verdict("B"), verdict("A")), Preference),
        ((verdict("A"), verdict("A")), Tie),
        ((verdict("A"), "both are fine"), Abstain),
        (("", verdict("A")), Abstain),
    ],
)
def test_a_preference_needs_both_orders(provider: str, replies: tuple[str, str], expected: type, tmp_path: Path):
    make = chat if provider == "openai" else messages
    answers = [make(text) if text else refusal(provider) for text in replies]
    with ScriptedServer(*answers) as server:
        # One call at a time, so that the script's order is the order asked.
        found, teacher = ask(server, provider, tmp_path, lambda t: t.compare("q", "x", "y"), concurrency=1)
    assert isinstance(found, expected)
    if isinstance(found, Preference):
        assert {found.chosen, found.rejected} == {"x", "y"}
        assert found.strength == 1.0
    if isinstance(found, Tie):
        assert found.flipped
    readable = expected is not Abstain
    assert teacher.ledger.comparisons == int(readable)
    assert teacher.ledger.flips == int(expected is Tie)


def test_the_order_of_the_answers_changes_nothing(tmp_path: Path):
    always_x = {True: verdict("A"), False: verdict("B")}

    async def work(first: str, second: str, path: Path) -> Any:
        async with Teacher("openai:m", base_url=f"{server.url}/v1", cache=path, concurrency=1) as teacher:
            return await teacher.compare("q", first, second)

    with ScriptedServer(chat(always_x[True]), chat(always_x[False])) as server:
        there = asyncio.run(work("x", "y", tmp_path / "1.db"))
    with ScriptedServer(chat(always_x[False]), chat(always_x[True])) as server:
        back = asyncio.run(work("y", "x", tmp_path / "2.db"))
    assert there == back
    assert there.chosen == "x"


def test_equal_texts_are_a_tie_without_a_call(tmp_path: Path):
    with ScriptedServer() as server:
        found, _ = ask(server, "openai", tmp_path, lambda t: t.compare("q", "x", "x"))
    assert isinstance(found, Tie)
    assert not found.flipped
    assert server.seen == []


def test_structured_output_is_asked_for_in_the_form_the_server_takes(tmp_path: Path):
    refused = error(500, message="response_format: Input should be 'text' or 'json_object'")
    with ScriptedServer(refused, otherwise=chat(verdict("A"))) as server:

        async def twice(teacher: Teacher) -> None:
            await teacher.compare("q", "x", "y")
            await teacher.compare("q", "x", "z")

        ask(server, "openai", tmp_path, twice)
    forms = [json.loads(seen.body).get("response_format", {}).get("type") for seen in server.seen]
    assert forms == ["json_schema", *["json_object"] * 4]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_server_without_structured_output_is_asked_for_text(provider: str, tmp_path: Path):
    refused = error(400, message="unknown parameter: response_format / output_config")
    tries = 2 if provider == "openai" else 1
    answers = [refused] * tries
    with ScriptedServer(
        *answers, otherwise=good("/messages" if provider == "anthropic" else "/chat", "The winner is A.")
    ) as server:
        found, _ = ask(server, provider, tmp_path, lambda t: t.compare("q", "x", "y"))
    assert isinstance(found, Tie)
    assert len(server.seen) == tries + 2


@pytest.mark.parametrize("refusals", [0, 1, 2])
def test_a_replay_finds_the_form_whichever_question_comes_first(refusals: int, tmp_path: Path):
    """Which of a step's calls is the first one depends on how long those before it took."""
    refused = error(500, message="response_format: Input should be 'text' or 'json_object'")
    fix = chat(json.dumps({"reason": "r", "corrected": "y"}))

    async def corrected(teacher: Teacher, *answers: str) -> list[Any]:
        return [await teacher.correct("q", answer) for answer in answers]

    with ScriptedServer(*[refused] * refusals, otherwise=fix) as server:
        live, _ = ask(server, "openai", tmp_path, lambda t: corrected(t, "one", "two"))
        replayed, _ = ask(server, "openai", tmp_path, lambda t: corrected(t, "two", "one"), mode="replay")
        assert replayed == live == [Fix(text="y", reason="r")] * 2
        assert len(server.seen) == 2 + refusals
        with pytest.raises(bbdistill.ReplayMiss, match="three"):
            ask(server, "openai", tmp_path, lambda t: corrected(t, "three"), mode="replay")


def test_our_frozen_schema_is_what_is_sent(tmp_path: Path):
    with ScriptedServer(otherwise=chat(verdict("A"))) as server:
        ask(server, "openai", tmp_path, lambda t: t.compare("q", "x", "y"))
    sent = json.loads(server.seen[0].body)["response_format"]["json_schema"]
    assert sent["strict"] is True
    assert sent["schema"]["required"] == ["reason", "winner"]
    with ScriptedServer(otherwise=messages(verdict("A"))) as server:
        ask(server, "anthropic", tmp_path / "a", lambda t: t.compare("q", "x", "y"))
    body = json.loads(server.seen[0].body)
    assert body["output_config"]["format"]["schema"] == sent["schema"]
    assert body["system"].startswith("You decide which of two answers")
    assert [message["role"] for message in body["messages"]] == ["user"]


def test_a_price_makes_dollars_and_a_cap_stops(tmp_path: Path):
    settings = {"input_usd_per_mtok": 1000.0, "output_usd_per_mtok": 1000.0, "max_tokens": 100}
    with ScriptedServer() as server:
        _, teacher = ask(server, "openai", tmp_path, demonstrate, **settings)
        assert teacher.ledger.summary()["cost_usd"] == pytest.approx(0.11)  # 110 tokens
        with pytest.raises(bbdistill.BudgetExceeded):
            ask(server, "openai", tmp_path, lambda t: t.demonstrate("another"), max_usd=0.01, **settings)
    assert len(server.seen) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_verb_through_a_server_of_other_hands(llmock: LLMock, provider: str, tmp_path: Path):
    for _ in range(4):
        llmock.reply("The winner is A.").delay(0)

    async def work() -> tuple[Any, Any, Any]:
        url = llmock.base_url(provider)
        async with Teacher(f"{provider}:m", base_url=url, cache=tmp_path / "t.db") as teacher:
            judged = await teacher.compare("q", "x", "y")
            return await teacher.demonstrate("q"), judged, await teacher.correct("q", "x", "wrong")

    shown, judged, fixed = asyncio.run(work())
    assert shown.completion == "The winner is A."
    assert isinstance(judged, Tie)
    assert judged.flipped
    assert fixed.text == "The winner is A."
    assert len(llmock.requests) == 4


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ('{"questions": ["Why?", " Why? ", "How\\nso?", "Who?"]}', ("Why?", "How so?")),
        ('{"questions": ["Why?"]}', ("Why?",)),
        ('{"questions": []}', None),
        ('{"questions": ["Why?", 3]}', None),
        ('{"questions": "Why?"}', None),
        ("Why? How?", None),
    ],
)
def test_questions_about_a_document_are_lines_and_no_more_than_asked(
    said: str, found: tuple[str, ...] | None, tmp_path: Path
) -> None:
    with ScriptedServer(otherwise=chat(said)) as server:
        result, teacher = ask(server, "openai", tmp_path, lambda teacher: teacher.questions("Do it.\n# user\nx", 2))
    assert result == (found or Abstain(reason="unreadable questions"))
    sent = json.loads(server.seen[0].body)
    assert [message["role"] for message in sent["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]
    assert "<document>\nDo it.\n# user\nx\n</document>" in sent["messages"][-1]["content"]
    summary = teacher.ledger.summary()
    assert summary["by_purpose"]["demonstrations"]["abstained"] == (found is None)
    assert summary["abstain_reasons"] == ({} if found else {"unreadable questions": 1})
