"""Server-sent events of the generation endpoints, put together to the reply they would have been unstreamed."""

import json
from collections.abc import Iterator
from typing import cast

from bbdistill.client.call import Malformed
from bbdistill.client.values import Json, as_object


def assemble(endpoint: str, text: str) -> Json:
    """The whole reply. Malformed if the stream broke off: the SDKs take a cut stream for an answer."""
    events = list(_events(text))
    failed = next((event for event in events if isinstance(event, dict) and event.get("error")), None)
    if failed is not None:
        raise Malformed(f"the stream ended in an error: {json.dumps(failed['error'])[:300]}", retryable=True)
    match endpoint:
        case "chat/completions":
            whole = _chat(events)
        case "messages":
            whole = _messages(cast(list[Json], events))
        case _:
            whole = _responses(cast(list[Json], events))
    if whole is None:
        raise Malformed(f"the stream broke off after {len(events)} events", retryable=True)
    return whole


def _events(text: str) -> Iterator[Json | str]:
    """JSON of every event; the closing mark of chat streams as the string it is."""
    for block in text.replace("\r\n", "\n").split("\n\n"):
        data = "\n".join(line[5:].lstrip() for line in block.split("\n") if line.startswith("data:"))
        if data:
            yield data if data == "[DONE]" else json.loads(data)


def _chat(events: list[Json | str]) -> Json | None:
    if not events or events[-1] != "[DONE]":
        return None
    whole: Json = {}
    choices: dict[int, Json] = {}
    for chunk in cast(list[Json], events[:-1]):
        whole |= {name: value for name, value in chunk.items() if name != "choices" and value is not None}
        for part in cast(list[Json], chunk.get("choices") or []):
            choice = choices.setdefault(part.get("index", 0), {"message": {"content": None}, "finish_reason": None})
            _add(choice["message"], as_object(part.get("delta")))
            choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
    if not choices or not all(choice["finish_reason"] for choice in choices.values()):
        return None
    return whole | {"choices": [choices[index] for index in sorted(choices)]}


def _add(message: Json, delta: Json) -> None:
    for name in ("content", "refusal"):
        if isinstance(delta.get(name), str):
            message[name] = (message.get(name) or "") + delta[name]
    if delta.get("tool_calls"):
        message.setdefault("tool_calls", []).extend(delta["tool_calls"])


def _messages(events: list[Json]) -> Json | None:
    if not events or events[-1].get("type") != "message_stop":
        return None
    whole: Json = {"content": []}
    for event in events:
        match event.get("type"):
            case "message_start":
                whole = event["message"] | {"content": []}
            case "content_block_start":
                whole["content"].append(dict(event["content_block"]))
            case "content_block_delta" if event["delta"].get("type") == "text_delta":
                whole["content"][event["index"]]["text"] += event["delta"]["text"]
            case "message_delta":
                usage = as_object(whole.get("usage")) | as_object(event.get("usage"))
                whole |= event["delta"] | {"usage": usage}
            case _:
                pass
    return whole if whole.get("stop_reason") else None


def _responses(events: list[Json]) -> Json | None:
    ends = ("response.completed", "response.incomplete", "response.failed")
    return next((event["response"] for event in reversed(events) if event.get("type") in ends), None)
