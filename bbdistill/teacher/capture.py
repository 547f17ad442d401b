"""Recorded calls of chat/completions, responses and messages as conversations: what was asked, and the reply.

One form for all of them: messages as chat/completions has them, text only, with tool calls and their results.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, cast

from bbdistill.client import sse, wire
from bbdistill.client.call import Malformed
from bbdistill.client.rows import CallRow
from bbdistill.client.values import Json, as_object, parse
from bbdistill.data import ROLES
from bbdistill.types import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A conversation and the assistant turn that goes on with it."""

    messages: tuple[Message, ...]
    completion: Message
    tools: tuple[Message, ...]
    """As chat/completions declares them; empty where none were offered."""
    source: str
    """The model that answered."""

    @property
    def id(self) -> str:
        """The same for the same conversation and tools, whatever was answered."""
        asked = json.dumps([self.messages, self.tools], sort_keys=True, ensure_ascii=False)
        return f"c-{sha256(asked.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"

    def row(self) -> dict[str, Any]:
        """As a line of JSONL."""
        row = {"id": self.id, "prompt": list(self.messages), "completion": [self.completion]}
        return row | ({"tools": list(self.tools)} if self.tools else {}) | {"source": self.source}


_UNKNOWN = "of unknown form"
_ELSEWHERE = "with a history that only the server has"


class _LeftOut(Exception):
    """A call that is no example; its words are the reason that is counted."""


def examples(rows: Iterable[CallRow], *, every_turn: bool = False) -> tuple[list[Example], Counter[str]]:
    """(one example for every conversation asked, the newest reply to it; how many calls are left out, by reason).

    `rows` in the order of recording. With `every_turn` the earlier assistant turns inside a conversation are examples
    too, where they were not recorded as calls of their own.
    """
    found: dict[str, Example] = {}
    earlier: dict[str, Example] = {}
    said: dict[str, list[Message]] = {}
    left_out: Counter[str] = Counter()
    for row in rows:
        try:
            example = _example(row, said)
        except _LeftOut as reason:
            left_out[str(reason)] += 1
            continue
        left_out["duplicate"] += example.id in found
        found.pop(example.id, None)
        found[example.id] = example
        if every_turn:
            earlier |= {turn.id: turn for turn in _turns(example)}
    return list((earlier | found).values()), +left_out


def _turns(example: Example) -> Iterator[Example]:
    for index, message in enumerate(example.messages):
        context = example.messages[:index]
        if message["role"] == "assistant" and context and context[-1]["role"] in ("user", "tool"):
            yield Example(messages=context, completion=message, tools=example.tools, source=example.source)


def _example(row: CallRow, said: dict[str, list[Message]]) -> Example:
    """`said` holds, by the id of a response, the conversation up to and with it, for those that go on from there."""
    name = wire.endpoint(row.path)
    if name is None or name not in _READERS:
        raise _LeftOut("not a conversation")
    if row.kind != "ok":
        raise _LeftOut(row.kind)
    request, reply = as_object(as_object(parse(row.request)).get("body")), _reply(name, row)
    try:
        system, messages, completion = _READERS[name](request, reply, said)
        tools = tuple(_tools(request.get("tools") or []))
    except (KeyError, TypeError, AttributeError, IndexError):
        raise _LeftOut(_UNKNOWN) from None
    spoken = any(str(message["content"] or "").strip() for message in (*system, *messages))
    if not spoken or messages[-1]["role"] not in ("user", "tool"):
        raise _LeftOut("without a user turn at its end")
    if not completion.get("content") and not completion.get("tool_calls"):
        raise _LeftOut("an empty answer")
    source = row.model or row.teacher
    return Example(messages=(*system, *messages), completion=completion, tools=tools, source=source)


def _reply(name: str, row: CallRow) -> Json:
    text = row.reply or ""
    try:
        value = sse.assemble(name, text) if "event-stream" in (row.content_type or "") else json.loads(text)
    except (ValueError, Malformed):
        raise _LeftOut(_UNKNOWN) from None
    return as_object(value)


# Each of these gives (system messages, the conversation, the answer).
_Conversation = tuple[list[Message], list[Message], Message]


def _chat(request: Json, reply: Json, said: dict[str, list[Message]]) -> _Conversation:
    messages = [_chat_message(message) for message in request["messages"]]
    return [], messages, _chat_message({"role": "assistant", **reply["choices"][0]["message"]})


def _chat_message(message: Json) -> Message:
    content, calls = message.get("content"), cast(list[Json], message.get("tool_calls") or [])
    if message["role"] not in ROLES or (content is None and not calls):
        raise _LeftOut(_UNKNOWN)
    kept: Json = {"role": message["role"], "content": None if content is None else _text(content)}
    if calls:
        # Parts of a stream are numbered; a message is not.
        kept["tool_calls"] = [
            {name: call[name] for name in ("id", "type", "function") if name in call} for call in calls
        ]
    return kept | {name: message[name] for name in ("tool_call_id", "name") if message.get(name)}


def _responses(request: Json, reply: Json, said: dict[str, list[Message]]) -> _Conversation:
    before = request.get("previous_response_id")
    if request.get("conversation") or request.get("prompt") or (before and before not in said):
        raise _LeftOut(_ELSEWHERE)
    asked = request["input"]
    items: list[Json] = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    messages = [*said.get(before or "", []), *_items(items)]
    [answer] = _items(reply["output"]) or [_assistant("", [])]
    if reply.get("id"):
        said[reply["id"]] = [*messages, answer]
    instructions = request.get("instructions")
    return [{"role": "system", "content": instructions}] if instructions else [], messages, answer


def _items(items: list[Json]) -> list[Message]:
    """Adjacent texts and tool calls of the assistant are one turn, as chat has it; reasoning is no part of it."""
    messages: list[Message] = []
    for item in items:
        match item.get("type", "message"):
            case "message":
                message = {"role": item["role"], "content": _text(item["content"])}
            case "function_call":
                function = {"name": item["name"], "arguments": item["arguments"]}
                message = _assistant("", [{"id": item["call_id"], "type": "function", "function": function}])
            case "function_call_output":
                message = {"role": "tool", "tool_call_id": item["call_id"], "content": _text(item["output"])}
            case "reasoning":
                continue
            case _:
                raise _LeftOut("with tools of the server's own")
        if message["role"] == "assistant" and messages and messages[-1]["role"] == "assistant":
            message = _joined(messages.pop(), message)
        messages.append(message)
    return messages


def _messages(request: Json, reply: Json, said: dict[str, list[Message]]) -> _Conversation:
    messages = [turn for message in request["messages"] for turn in _turns_of_blocks(message)]
    [answer] = _turns_of_blocks({"role": "assistant", "content": reply["content"]})
    if messages and messages[-1]["role"] == "assistant":
        answer = _joined(messages.pop(), answer)  # the answer was begun in the request
    system = request.get("system")
    return [{"role": "system", "content": _text(system)}] if system else [], messages, answer


def _turns_of_blocks(message: Json) -> Iterator[Message]:
    """Results of tools are turns of their own in chat, before what the user says to them."""
    content = message["content"]
    blocks: list[Json] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    said = [block for block in blocks if block["type"] not in ("thinking", "redacted_thinking")]
    calls = [block for block in said if block["type"] == "tool_use"]
    results = [block for block in said if block["type"] == "tool_result"]
    spoken = [block for block in said if block not in calls and block not in results]
    for block in results:
        yield {"role": "tool", "tool_call_id": block["tool_use_id"], "content": _text(block.get("content") or "")}
    if message["role"] == "assistant":
        functions = [{"name": c["name"], "arguments": json.dumps(c["input"], ensure_ascii=False)} for c in calls]
        named = zip(calls, functions, strict=True)
        yield _assistant(_text(spoken), [{"id": c["id"], "type": "function", "function": f} for c, f in named])
    elif spoken:
        yield {"role": message["role"], "content": _text(spoken)}


def _assistant(text: str, calls: list[Json]) -> Message:
    return {"role": "assistant", "content": text or (None if calls else ""), **({"tool_calls": calls} if calls else {})}


def _joined(first: Message, second: Message) -> Message:
    text = (first.get("content") or "") + (second.get("content") or "")
    return _assistant(text, [*first.get("tool_calls", []), *second.get("tool_calls", [])])


def _text(content: Any) -> str:
    """The text of a content that is text alone."""
    if isinstance(content, str):
        return content
    parts = cast(list[Json], content)
    if not all(isinstance(part.get("text"), str) for part in parts):
        raise _LeftOut("with more than text")
    return "".join(part["text"] for part in parts)


def _tools(tools: Iterable[Json]) -> Iterator[Message]:
    for tool in tools:
        if "function" in tool:
            yield {"type": "function", "function": tool["function"]}
        elif "input_schema" in tool:
            yield _function(tool, tool["input_schema"])
        elif tool.get("type") == "function":
            yield _function(tool, tool.get("parameters"))
        else:
            raise _LeftOut("with tools of the server's own")


def _function(tool: Json, parameters: Any) -> Message:
    named = {"name": tool["name"], "description": tool.get("description"), "parameters": parameters}
    return {"type": "function", "function": {name: value for name, value in named.items() if value is not None}}


_READERS: Mapping[str, Callable[[Json, Json, dict[str, list[Message]]], _Conversation]] = {
    "chat/completions": _chat,
    "responses": _responses,
    "messages": _messages,
}
