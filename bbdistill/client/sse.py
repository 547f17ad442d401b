"""Server-sent events of the generation endpoints, put together to the reply they would have been unstreamed."""

import json
from collections.abc import Iterator
from typing import cast

from bbdistill.client.call import Malformed
from bbdistill.client.values import Json, as_object, parse


def assemble(endpoint: str, text: str) -> Json:
    """The whole reply. Malformed if the stream broke off: the SDKs take a cut stream for an answer."""
    events = list(_events(text))
    failed = next((event for event in events if isinstance(event, dict) and _is_error(event)), None)
    if failed is not None:
        said = json.dumps(failed.get("error") or failed, ensure_ascii=False)
        raise Malformed(f"the stream ended in an error: {said[:300]}", retryable=True)
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


def _is_error(event: Json) -> bool:
    return bool(event.get("error")) or event.get("type") == "error"


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
    for part in cast(list[Json], delta.get("tool_calls") or []):
        _add_tool_call(message.setdefault("tool_calls", []), part)
    for name, text in as_object(delta.get("function_call")).items():
        function = message.setdefault("function_call", {})
        function[name] = function.get(name, "") + (text or "")


def _add_tool_call(calls: list[Json], part: Json) -> None:
    """The first part of a call names it, the others go on with its arguments."""
    index = part.get("index", len(calls))
    begun = next((call for call in calls if call["index"] == index), None)
    if begun is None:
        calls.append({**part, "index": index, "function": dict(as_object(part.get("function")))})
        return
    function, more = begun["function"], as_object(part.get("function"))
    function["arguments"] = (function.get("arguments") or "") + (more.get("arguments") or "")


def _messages(events: list[Json]) -> Json | None:
    if not events or events[-1].get("type") != "message_stop":
        return None
    whole: Json = {"content": []}
    inputs: dict[int, str] = {}
    for event in events:
        match event.get("type"):
            case "message_start":
                whole = event["message"] | {"content": []}
            case "content_block_start":
                whole["content"].append(dict(event["content_block"]))
            case "content_block_delta" if event["delta"].get("type") == "text_delta":
                whole["content"][event["index"]]["text"] += event["delta"]["text"]
            case "content_block_delta" if event["delta"].get("type") == "input_json_delta":
                inputs[event["index"]] = inputs.get(event["index"], "") + event["delta"]["partial_json"]
            case "message_delta":
                usage = as_object(whole.get("usage")) | as_object(event.get("usage"))
                whole |= event["delta"] | {"usage": usage}
            case _:
                pass
    for index, text in inputs.items():
        # Cut off by the output limit it is no JSON; the stop reason says so too.
        whole["content"][index]["input"] = parse(text or "{}")
    return whole if whole.get("stop_reason") else None


def _responses(events: list[Json]) -> Json | None:
    ends = ("response.completed", "response.incomplete", "response.failed")
    return next((event["response"] for event in reversed(events) if event.get("type") in ends), None)
