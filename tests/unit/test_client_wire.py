"""Replies of the four endpoints, whole, streamed and broken."""

import json
from typing import Any

import pytest

from bbdistill.client.call import Malformed, WebPage
from bbdistill.client.wire import read
from bbdistill.types import Usage

JSON, STREAM = "application/json", "text/event-stream; charset=utf-8"


def chat(message: dict[str, Any], finish: str | None = "stop", **more: Any) -> bytes:
    return json.dumps({"model": "m", "choices": [{"message": message, "finish_reason": finish}], **more}).encode()


def response(*output: dict[str, Any], status: str = "completed", **more: Any) -> bytes:
    return json.dumps({"model": "m", "status": status, "output": output, **more}).encode()


def said(text: str) -> dict[str, Any]:
    return {"type": "message", "content": [{"type": "output_text", "text": text}]}


def message(*blocks: dict[str, Any], stop: str = "end_turn", **usage: Any) -> bytes:
    return json.dumps({"model": "m", "content": blocks, "stop_reason": stop, "usage": usage}).encode()


def stream(*events: Any) -> bytes:
    return "".join(f"data: {e if isinstance(e, str) else json.dumps(e)}\n\n" for e in events).encode()


@pytest.mark.parametrize(
    ("path", "body", "kind", "text"),
    [
        ("/v1/chat/completions", chat({"content": "hi"}), "ok", "hi"),
        ("/chat/completions", chat({"content": ""}), "ok", ""),
        (
            "/chat/completions",
            chat({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
            "ok",
            "ab",
        ),
        ("/chat/completions", chat({"content": None, "tool_calls": [{"id": "1"}]}, "tool_calls"), "ok", ""),
        ("/chat/completions", chat({"content": None, "refusal": "I will not"}), "refusal", ""),
        ("/chat/completions", chat({"content": None}, "content_filter"), "refusal", ""),
        ("/chat/completions", chat({"content": None}, "length"), "length", ""),
        ("/chat/completions", chat({"content": None}), "refusal", ""),
        ("/chat/completions", chat({"content": "hal"}, "length"), "length", "hal"),
        ("/v1/responses", response({"type": "reasoning"}, said("hi")), "ok", "hi"),
        ("/v1/responses", response({"type": "function_call"}), "ok", ""),
        (
            "/v1/responses",
            response({"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}),
            "refusal",
            "",
        ),
        (
            "/v1/responses",
            response(said("h"), status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
            "length",
            "h",
        ),
        (
            "/v1/responses",
            response(status="incomplete", incomplete_details={"reason": "content_filter"}),
            "refusal",
            "",
        ),
        (
            "/v1/messages",
            message({"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "hi"}),
            "ok",
            "hi",
        ),
        ("/v1/messages", message({"type": "tool_use", "id": "t"}, stop="tool_use"), "ok", ""),
        ("/v1/messages", message(stop="refusal"), "refusal", ""),
        ("/v1/messages", message({"type": "text", "text": "h"}, stop="max_tokens"), "length", "h"),
        ("/v1/messages", message(stop="model_context_window_exceeded"), "length", ""),
        ("/v1/embeddings", b'{"model": "m", "data": [{"embedding": [0.5]}]}', "ok", ""),
    ],
)
def test_readings(path: str, body: bytes, kind: str, text: str) -> None:
    reading = read(path, body, JSON)
    assert (reading.kind, reading.text, reading.model) == (kind, text, "m")


def test_several_choices_are_as_good_as_the_worst() -> None:
    choices = [{"message": {"content": t}, "finish_reason": f} for t, f in (("a", "stop"), ("b", "length"))]
    reading = read("/chat/completions", json.dumps({"choices": choices}).encode(), JSON)
    assert (reading.kind, reading.text) == ("length", "a")


@pytest.mark.parametrize(
    ("path", "body", "content_type", "says"),
    [
        ("/chat/completions", b"", JSON, "empty"),
        ("/chat/completions", b" \n", JSON, "empty"),
        ("/chat/completions", chat({"content": "hi"})[:-9], JSON, "cut off"),
        ("/chat/completions", b"\xff\xfe{}", JSON, "cut off or not JSON"),
        ("/chat/completions", b"[1]", JSON, "no `choices`"),
        ("/chat/completions", b"{}", JSON, "no `choices`"),
        ("/chat/completions", b'{"choices": []}', JSON, "no `choices`"),
        ("/chat/completions", b'{"error": {"message": "overloaded"}}', JSON, "overloaded"),
        ("/v1/responses", b"{}", JSON, "no `output`"),
        ("/v1/responses", response({"type": "reasoning"}), JSON, "no `output`"),
        ("/v1/responses", response(status="failed", error={"message": "server died"}), JSON, "`failed` server died"),
        ("/v1/messages", b'{"type": "message"}', JSON, "no `content`"),
        ("/v1/embeddings", b'{"data": []}', JSON, "no `data`"),
        ("/chat/completions", b"[" * 100_000, JSON, "cut off or not JSON"),
    ],
)
def test_malformed(path: str, body: bytes, content_type: str, says: str) -> None:
    with pytest.raises(Malformed, match=says) as caught:
        read(path, body, content_type)
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<html><head><style>b {}</style></head><b>Bad\nday</b></html>", "text/html; charset=utf-8"),
        (b"\n<!DOCTYPE html><title>Bad day</title>", ""),
        (b"<HTML>Bad day</HTML>", "text/plain"),
    ],
)
def test_a_web_page_is_quoted_and_not_asked_for_again(body: bytes, content_type: str) -> None:
    with pytest.raises(WebPage, match=r'web page .*: "Bad day"') as caught:
        read("/chat/completions", body, content_type)
    assert not caught.value.retryable


def test_json_that_calls_itself_a_web_page_is_a_reply() -> None:
    assert read("/chat/completions", chat({"content": "hi"}), "text/html").text == "hi"


def test_a_reply_still_in_the_making_is_not_asked_again() -> None:
    with pytest.raises(Malformed, match="`queued`") as caught:
        read("/v1/responses", response(status="queued"), JSON)
    assert not caught.value.retryable


CHAT_STREAM = [
    {"model": "m", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "f"}, "finish_reason": None}]},
    {"model": "m", "choices": [{"index": 0, "delta": {"content": "our"}, "finish_reason": None}]},
    {"model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"model": "m", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}},
    "[DONE]",
]
MESSAGES_STREAM = [
    {
        "type": "message_start",
        "message": {"model": "m", "content": [], "usage": {"input_tokens": 7, "output_tokens": 1}},
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "fo"}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "ur"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
]
RESPONSES_STREAM = [
    {"type": "response.created", "response": {"status": "in_progress"}},
    {
        "type": "response.completed",
        "response": {
            "model": "m",
            "status": "completed",
            "output": [said("four")],
            "usage": {"input_tokens": 7, "output_tokens": 2},
        },
    },
]
STREAMS = [("/chat/completions", CHAT_STREAM), ("/v1/messages", MESSAGES_STREAM), ("/v1/responses", RESPONSES_STREAM)]


@pytest.mark.parametrize(("path", "events"), STREAMS)
def test_a_stream_reads_like_the_whole_reply(path: str, events: list[Any]) -> None:
    reading = read(path, stream(*events), STREAM)
    assert (reading.kind, reading.text, reading.model) == ("ok", "four", "m")
    assert reading.usage == Usage(input_tokens=7, output_tokens=2)


@pytest.mark.parametrize(("path", "events"), STREAMS)
def test_a_stream_without_its_end_is_malformed(path: str, events: list[Any]) -> None:
    for count in range(1, len(events)):
        with pytest.raises(Malformed, match="broke off"):
            read(path, stream(*events[:count]), STREAM)


def test_an_error_inside_a_stream_is_malformed() -> None:
    with pytest.raises(Malformed, match="overloaded_error"):
        read(
            "/v1/messages", stream(MESSAGES_STREAM[0], {"type": "error", "error": {"type": "overloaded_error"}}), STREAM
        )


def test_an_error_event_of_responses_is_malformed() -> None:
    with pytest.raises(Malformed, match="server_error"):
        read("/v1/responses", stream(RESPONSES_STREAM[0], {"type": "error", "code": "server_error"}), STREAM)


def test_cached_tokens_are_part_of_the_input_for_both_providers() -> None:
    openai_usage = {
        "prompt_tokens": 115,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 5},
    }
    anthropic_usage = {
        "input_tokens": 10,
        "cache_read_input_tokens": 100,
        "cache_creation_input_tokens": 5,
        "output_tokens": 3,
    }
    expected = Usage(input_tokens=115, output_tokens=3, cached_tokens=100, cache_write_tokens=5)
    assert read("/chat/completions", chat({"content": "x"}, usage=openai_usage), JSON).usage == expected
    assert read("/v1/messages", message({"type": "text", "text": "x"}, **anthropic_usage), JSON).usage == expected


def test_a_reply_without_usage_is_not_metered() -> None:
    assert not read("/chat/completions", chat({"content": "x"}), JSON).metered
    assert read("/chat/completions", chat({"content": "x"}, usage={"prompt_tokens": 0}), JSON).metered


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": "many", "completion_tokens": 5}, {"prompt_tokens": 3, "completion_tokens": -5}]
)
def test_a_usage_of_no_counts_is_a_reply_of_unknown_cost(usage: dict[str, object]) -> None:
    body = json.loads(chat({"content": "hi"})) | {"usage": usage}
    reading = read("/chat/completions", json.dumps(body).encode(), JSON)
    assert (reading.text, reading.metered) == ("hi", False)
    assert min(reading.usage.input_tokens, reading.usage.output_tokens) >= 0


@pytest.mark.parametrize("text", ["bad \ud800 end", '{"winner": "A", "reason": "\\ud800"}'])
def test_half_a_surrogate_pair_is_no_text(text: str):
    with pytest.raises(Malformed, match="half a surrogate pair") as caught:
        read("/chat/completions", chat({"content": text}), JSON)
    assert caught.value.retryable


@pytest.mark.parametrize(
    "text", ["whole \U0001f600 end", '{"reason": "\\ud83d\\ude00"}', "[" * 900 + "]" * 900, "\\ud800"]
)
def test_whole_characters_are_text_however_they_are_written(text: str):
    assert read("/chat/completions", chat({"content": text}), JSON).text == text


def test_a_count_of_tokens_that_cannot_be_is_none():
    usage = {"prompt_tokens": 10**30, "completion_tokens": 3}
    found = read("/chat/completions", chat({"content": "hi"}, usage=usage), JSON)
    assert found.usage == Usage(output_tokens=3)
    assert not found.metered
