"""Prompt caching: what is asked of the provider, that it changes no key, and what the ledger says it saved."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from scripted_server import Answer, ScriptedServer, chat, messages

import bbdistill
from bbdistill.client.call import Call, Reply
from bbdistill.client.keys import canonical, key
from bbdistill.client.prices import saving
from bbdistill.config.models import TeacherConfig
from bbdistill.errors import ReplayMiss
from bbdistill.report import render
from bbdistill.teacher.connect import connect_to
from bbdistill.teacher.teacher import Teacher
from bbdistill.types import Usage

LONG = "Answer in one word. " * 60  # 1200 bytes
SHORT = "Answer in one word."


def call(body: object, url: str = "https://api.anthropic.com/v1/messages") -> Call:
    return Call(method="POST", url=url, headers={}, body=json.dumps(body).encode())


def sent(model: str, system: str, **settings: object) -> dict[str, object]:
    """The body that a demonstration would be asked with."""
    found: list[bytes] = []

    async def note(call: Call, /) -> Reply:
        found.append(call.body)
        raise ReplayMiss("only looked at")

    async def work() -> None:
        config = TeacherConfig.model_validate({"model": model, **settings})
        teacher = Teacher.from_config(config, connection=connect_to(note, config))
        with pytest.raises(ReplayMiss):
            await teacher.demonstrate([{"role": "system", "content": system}, {"role": "user", "content": "hi"}])

    asyncio.run(work())
    return json.loads(found[0])


def test_long_instructions_are_marked_for_anthropic_and_short_ones_are_not() -> None:
    marked = [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}]
    assert sent("anthropic:m", LONG)["system"] == marked
    assert sent("anthropic:m", SHORT)["system"] == SHORT


def test_openai_gets_a_key_for_its_cache_and_other_servers_do_not() -> None:
    assert str(sent("openai:m", LONG)["prompt_cache_key"]).startswith("demonstrate@")
    assert "prompt_cache_key" not in sent("openai:m", LONG, base_url="http://127.0.0.1:1/v1")


def test_a_mark_changes_no_key() -> None:
    mark = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    turn = {"type": "text", "text": "hi"}
    plain = {"model": "m", "system": "s", "messages": [{"role": "user", "content": [turn]}]}
    marked = plain | mark | {"messages": [{"role": "user", "content": [turn | mark]}]}
    listed = plain | {"system": [{"type": "text", "text": "s"} | mark]}
    assert canonical(call(marked)) == canonical(call(listed)) == canonical(call(plain))
    chat_url = "https://api.openai.com/v1/chat/completions"
    keyed = {"model": "m", "prompt_cache_key": "k", "prompt_cache_options": {"mode": "implicit"}}
    assert key(canonical(call(keyed, chat_url))) == key(canonical(call({"model": "m"}, chat_url)))


def test_what_only_looks_like_a_mark_stays() -> None:
    schema = {"type": "object", "properties": {"cache_control": {"type": "string"}}}
    body = {"tools": [{"name": "t", "input_schema": schema}], "system": [{"type": "text", "text": "s"}]}
    assert canonical(call(body))["body"] == body


def test_saving_is_the_price_without_the_cache_less_the_price_with_it() -> None:
    used = Usage(input_tokens=100_000, cached_tokens=60_000, cache_write_tokens=10_000)
    # claude-sonnet-4-5: $3 per million in, a tenth of that from the cache, a quarter more into it.
    assert saving("claude-sonnet-4-5", "anthropic", used) == pytest.approx(0.06 * 2.7 - 0.01 * 0.75)
    assert saving("claude-sonnet-4-5", "anthropic", used, terms={"processing": "batch"}) == pytest.approx(0.1545 / 2)
    written = Usage(input_tokens=100_000, cache_write_tokens=100_000)
    assert saving("claude-sonnet-4-5", "anthropic", written) == pytest.approx(-0.075)
    assert saving("gpt-4o-mini", "openai", Usage(input_tokens=10), (1.0, 2.0, 0.5)) == 0
    assert saving("gpt-4o-mini", "openai", used, (1.0, 2.0, 0.5)) == pytest.approx(0.03)
    assert saving("no-such-model", "openai", used) is None
    assert saving("no-such-model", "openai", Usage(input_tokens=10)) == 0


def cached_reply(provider: str) -> Answer:
    """2000 tokens in, 1500 of them from the cache; of Anthropic's, 100 newly written to it."""
    body = json.loads((chat("four") if provider == "openai" else messages("four")).body)
    if provider == "openai":
        body["usage"] = {
            "prompt_tokens": 2000,
            "completion_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 1500},
        }
    else:
        cache = {"cache_read_input_tokens": 1500, "cache_creation_input_tokens": 100}
        body["usage"] = {"input_tokens": 400, "output_tokens": 10, **cache}
    return Answer(body=json.dumps(body))


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_the_ledger_counts_what_the_cache_had(provider: str, tmp_path: Path) -> None:
    with ScriptedServer(otherwise=cached_reply(provider)) as server:
        url = f"{server.url}/v1" if provider == "openai" else server.url
        ledger = asyncio.run(summary(f"{provider}:m", tmp_path, base_url=url))
    line = ledger["by_purpose"]["demonstrations"]
    assert (line["input_tokens"], line["cached_tokens"]) == (2000, 1500)
    assert line["cache_write_tokens"] == (0 if provider == "openai" else 100)
    assert ledger["saved_usd"] is None  # nobody knows what this server asks
    with bbdistill.open_recording(tmp_path / "t.db") as recording:
        assert recording.verify() == []


def test_a_replay_tells_the_saving_from_the_recorded_usage(tmp_path: Path) -> None:
    with ScriptedServer(otherwise=cached_reply("anthropic")) as server:
        asyncio.run(summary("anthropic:m", tmp_path, base_url=server.url, id="anthropic"))
    ledger = asyncio.run(summary("anthropic:m", tmp_path, replay=str(tmp_path / "t.db")))
    used = Usage(input_tokens=2000, output_tokens=10, cached_tokens=1500, cache_write_tokens=100)
    expected = saving("claude-sonnet-5-5", "anthropic", used)
    assert expected is not None
    assert expected > 0
    assert ledger["saved_usd"] == ledger["by_purpose"]["demonstrations"]["saved_usd"] == pytest.approx(expected)


async def summary(model: str, path: Path, **settings: Any) -> dict[str, Any]:
    """The ledger after one demonstration."""
    async with Teacher(model, cache=path / "t.db", **settings) as teacher:
        await teacher.demonstrate([{"role": "system", "content": LONG}, {"role": "user", "content": "hi"}])
        return teacher.ledger.summary()


def test_a_ledger_without_cached_tokens_saved_nothing() -> None:
    assert Teacher("openai:m").ledger.summary()["saved_usd"] == 0.0


def test_the_page_shows_the_saving() -> None:
    assert "saved by the prompt cache" in render_page(saved_usd=0.0123)
    assert "$0.0123 |" in render_page(saved_usd=0.0123)


def render_page(*, saved_usd: float) -> str:
    teacher = Teacher("openai:m")
    teacher.ledger.line("demonstrations").saved_usd = saved_usd
    rows = {"valid": 1.0, "score": 1.0, "low": 1.0, "high": 1.0, "n": 1, "nll": None}
    counts = ("steps", "sft_step", "best_step", "preferences", "corrections", "corrections_accepted", "tokens")
    data = (
        "train",
        "validation",
        "test",
        "demonstrations",
        "demonstrations_used",
        "test_seen_in_train",
        "test_near_train",
        "duplicates",
        "near_left_out",
    )
    return render(
        {
            "run": {
                "id": "r",
                "recipe": "sft",
                "replayed": None,
                "student": "s",
                "teacher": "t",
                "judge": "t",
                "versions": {},
            },
            "eval": dict.fromkeys(("base", "sft", "student", "teacher", "student_minus_sft"), rows),
            "teacher": teacher.ledger.summary(),
            "train": dict.fromkeys(counts, 1) | {"seconds": 1.0, "validation_score": 1.0},
            "data": dict.fromkeys(data, 0) | {"demonstrations_left_out": {}},
            "lessons": {"drafted": 0, "candidates": 0},
            "alarms": [],
            "samples": [],
        }
    )
