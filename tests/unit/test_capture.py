"""Recorded calls become demonstrations: conversations and tool calls survive, nothing bad and nothing twice."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from scripted_server import Answer, ScriptedServer, chat

from bbdistill.client.edge import http_client, sync_http_client
from bbdistill.client.rows import CallRow
from bbdistill.collect import collect_recorded
from bbdistill.data import load_prompts
from bbdistill.errors import ConfigError
from bbdistill.teacher.capture import Example, examples

CALL = {"id": "t1", "type": "function", "function": {"name": "track", "arguments": '{"parcel": "KX-1"}'}}
TOOL = {"type": "function", "function": {"name": "track", "parameters": {"type": "object"}}}
HISTORY = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is KX-1?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "t1", "content": "in Oslo"},
]
SAID = {"role": "assistant", "content": "In Oslo."}


def row(path: str, body: dict[str, Any], reply: Any, **more: Any) -> CallRow:
    known: dict[str, Any] = dict.fromkeys(CallRow.__dataclass_fields__)
    text = reply if isinstance(reply, str) else json.dumps(reply)
    stream = {"content_type": "text/event-stream"} if isinstance(reply, str) else {}
    request = json.dumps({"path": path, "body": body})
    fixed = {"key": "k", "sample": 0, "teacher": "t", "path": path, "request": request, "reply": text, "kind": "ok"}
    return CallRow(**known | fixed | stream | more)


def chatted(messages: list[Any], message: Any = SAID, **more: Any) -> CallRow:
    body = {"model": "m", "messages": messages, "tools": [TOOL]}
    return row("/v1/chat/completions", body, {"choices": [{"message": message, "finish_reason": "stop"}]}, **more)


def only(*rows: CallRow, every_turn: bool = False) -> Example:
    [example], _ = examples(rows, every_turn=every_turn)
    return example


def events(*values: Any) -> str:
    return "".join(f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n" for value in values)


RESPONSES_BODY = {
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Where is KX-1?"}]},
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "call_id": "t1", "name": "track", "arguments": '{"parcel": "KX-1"}'},
        {"type": "function_call_output", "call_id": "t1", "output": "in Oslo"},
    ],
    "tools": [{"type": "function", "name": "track", "parameters": {"type": "object"}}],
}
RESPONSES_REPLY = {
    "id": "r1",
    "output": [
        {"type": "reasoning", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "In Oslo."}]},
    ],
}
MESSAGES_BODY = {
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": "Where is KX-1?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "tool_use", "id": "t1", "name": "track", "input": {"parcel": "KX-1"}},
            ],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "in Oslo"}]}],
        },
    ],
    "tools": [{"name": "track", "input_schema": {"type": "object"}}],
}
MESSAGES_REPLY = {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "In Oslo."}]}
CHAT_STREAM = events(
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "In "}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {"content": "Oslo."}, "finish_reason": "stop"}]},
    "[DONE]",
)


@pytest.mark.parametrize(
    "recorded",
    [
        chatted(HISTORY),
        row("/v1/chat/completions", {"messages": HISTORY, "tools": [TOOL], "stream": True}, CHAT_STREAM),
        row("/v1/responses", RESPONSES_BODY, RESPONSES_REPLY),
        row("/v1/messages", MESSAGES_BODY, MESSAGES_REPLY),
    ],
    ids=["chat", "stream", "responses", "messages"],
)
def test_a_conversation_with_tools_is_the_same_from_every_endpoint(recorded: CallRow) -> None:
    example = only(recorded)
    assert list(example.messages) == HISTORY
    assert example.completion == SAID
    assert list(example.tools) == [TOOL]


CALLING_CHAT = events(
    {
        "choices": [
            {
                "index": 0,
                "delta": {"tool_calls": [{"index": 0, **CALL, "function": {"name": "track", "arguments": ""}}]},
                "finish_reason": None,
            }
        ]
    },
    *(
        {
            "choices": [
                {
                    "index": 0,
                    "delta": {"tool_calls": [{"index": 0, "function": {"arguments": part}}]},
                    "finish_reason": None,
                }
            ]
        }
        for part in ('{"parcel": ', '"KX-1"}')
    ),
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    "[DONE]",
)
CALLING_MESSAGES = events(
    {"type": "message_start", "message": {"content": []}},
    {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "tool_use", "id": "t1", "name": "track", "input": {}},
    },
    *(
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "input_json_delta", "partial_json": part},
        }
        for part in ("", '{"parcel": ', '"KX-1"}')
    ),
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {}},
    {"type": "message_stop"},
)


@pytest.mark.parametrize(
    ("path", "body", "reply"),
    [
        ("/v1/chat/completions", {"messages": HISTORY[:2]}, CALLING_CHAT),
        ("/v1/messages", {"messages": MESSAGES_BODY["messages"][:1]}, CALLING_MESSAGES),
        (
            "/v1/responses",
            {"input": "Where is KX-1?"},
            {"output": [RESPONSES_BODY["input"][2]]},  # pyright: ignore
        ),
    ],
)
def test_an_answer_that_is_a_tool_call_stays_one(path: str, body: dict[str, Any], reply: Any) -> None:
    assert only(row(path, body, reply)).completion == {"role": "assistant", "content": None, "tool_calls": [CALL]}


def test_the_newest_good_reply_to_a_conversation_wins_and_the_rest_is_counted() -> None:
    newer = {"role": "assistant", "content": "In Bergen."}
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
    found, left_out = examples(
        [
            chatted(HISTORY),
            chatted(HISTORY, newer),
            chatted(HISTORY, kind="fault"),
            chatted(HISTORY, kind="refusal"),
            chatted(HISTORY, kind="length"),
            row("/v1/embeddings", {"input": "x"}, {"data": []}),
            chatted(image),
            chatted(HISTORY[:1]),
            row("/v1/responses", {"input": "hi", "previous_response_id": "r9"}, RESPONSES_REPLY),
            row("/v1/responses", {"input": "hi"}, {"output": [{"type": "web_search_call"}]}),
        ]
    )
    assert [example.completion for example in found] == [newer]
    assert left_out == {
        "duplicate": 1,
        "fault": 1,
        "refusal": 1,
        "length": 1,
        "not a conversation": 1,
        "with more than text": 1,
        "without a user turn at its end": 1,
        "with a history that only the server has": 1,
        "with tools of the server's own": 1,
    }


def test_a_history_that_the_server_keeps_is_put_together_from_the_record() -> None:
    thanks = {"role": "user", "content": "Thanks"}
    first = row("/v1/responses", RESPONSES_BODY, RESPONSES_REPLY)
    then = {"input": "Thanks", "previous_response_id": "r1", "tools": RESPONSES_BODY["tools"]}
    _, second = examples([first, row("/v1/responses", then, RESPONSES_REPLY | {"id": "r2"})])[0]
    assert list(second.messages) == [*HISTORY[1:], SAID, thanks]  # instructions are of one call alone


def test_an_answer_begun_in_the_request_is_whole() -> None:
    body = {"messages": [{"role": "user", "content": "JSON?"}, {"role": "assistant", "content": "{"}]}
    example = only(row("/v1/messages", body, {"content": [{"type": "text", "text": '"a": 1}'}]}))
    assert example.completion["content"] == '{"a": 1}'


def test_every_turn_of_a_conversation_if_asked() -> None:
    conversation = [*HISTORY, SAID, {"role": "user", "content": "Thanks"}]
    bye = {"role": "assistant", "content": "Bye."}
    last, _ = examples([chatted(conversation, bye)])
    every, _ = examples([chatted(conversation, bye)], every_turn=True)
    assert [example.completion for example in last] == [bye]
    assert [len(example.messages) for example in every] == [2, 4, 6]
    assert every[0].completion["tool_calls"] == [CALL]


def _openai(url: str, store: Path) -> None:
    with openai.OpenAI(
        api_key="sk-0123456789abcdef0123",
        max_retries=0,
        base_url=f"{url}/v1",
        http_client=sync_http_client(store, mode="record"),
    ) as api:
        for text in ("a", "b", "a"):
            api.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])


def _anthropic(url: str, store: Path) -> None:
    async def work() -> None:
        async with anthropic.AsyncAnthropic(
            api_key="k", max_retries=0, base_url=url, http_client=http_client(store, mode="record")
        ) as api:
            for text in ("a", "b", "a"):
                await api.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": text}])

    asyncio.run(work())


@pytest.mark.parametrize("agent", [_openai, _anthropic])
def test_an_agent_that_was_recorded_gives_data_to_train_on(agent: Callable[..., None], tmp_path: Path) -> None:
    with ScriptedServer() as server:
        agent(server.url, tmp_path / "prod.db")
        assert len(server.seen) == 3
    out = tmp_path / "demonstrations.jsonl"
    counts = collect_recorded(tmp_path / "prod.db", out)
    assert counts == {"calls": 3, "demonstrations": 2, "tool_calls": 0, "left_out": {"duplicate": 1}}
    dataset = load_prompts(out)
    assert [d.completion for d in dataset.demonstrations.values()] == ["four", "four"]


def test_tool_calls_are_written_and_training_says_that_it_cannot_use_them(tmp_path: Path) -> None:
    answer = json.loads(chat("x").body)
    answer["choices"][0] |= {"message": {"role": "assistant", "content": None, "tool_calls": [CALL]}}
    with ScriptedServer(chat("four"), Answer(body=json.dumps(answer))) as server:
        _openai(server.url, tmp_path / "prod.db")
    out = tmp_path / "demonstrations.jsonl"
    assert collect_recorded(tmp_path / "prod.db", out)["tool_calls"] == 1
    with pytest.raises(ConfigError, match=r"line 1 has a tool call as its completion.*--skip-bad"):
        load_prompts(out)
    dataset = load_prompts(out, skip_bad=True)
    assert (len(dataset.prompts), dataset.skipped) == (1, 1)


def test_only_one_purpose_and_a_store_with_nothing_in_it(tmp_path: Path) -> None:
    with ScriptedServer() as server:
        _openai(server.url, tmp_path / "prod.db")
    with pytest.raises(ConfigError, match="has no calls of purpose `x`; it has none with a purpose"):
        collect_recorded(tmp_path / "prod.db", tmp_path / "out.jsonl", purpose="x")
