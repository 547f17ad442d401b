"""A loopback HTTP server that answers what a test tells it to, faults included. Not a test itself."""

import asyncio
import json
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from bbdistill.client.loop import LoopThread


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One reply; `drop` closes the connection unanswered, `cut` in the middle of the body."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    delay_s: float = 0.0
    how: Literal["whole", "drop", "cut"] = "whole"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request as it arrived; `at` in monotonic seconds."""

    method: str
    path: str
    headers: dict[str, str]
    body: str
    at: float


class ScriptedServer:
    """Gives `answers` in order, then `otherwise` forever."""

    def __init__(self, *answers: Answer, otherwise: Answer | None = None) -> None:
        self.answers, self.otherwise = deque(answers), otherwise
        self.seen: list[Seen] = []
        self.in_flight = self.most_in_flight = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "ScriptedServer":
        self._loop = LoopThread()
        self._server = self._loop.run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.submit(self._stop()).result()
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, path, _ = head[0].split(" ")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.seen.append(Seen(method=method, path=path, headers=headers, body=body.decode(), at=time.monotonic()))
            await self._answer(path, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        answer = self.answers.popleft() if self.answers else self.otherwise or good(path)
        self.in_flight += 1
        self.most_in_flight = max(self.in_flight, self.most_in_flight)
        try:
            await asyncio.sleep(answer.delay_s)
        finally:
            self.in_flight -= 1
        if answer.how == "drop":
            writer.transport.abort()
            return
        body = answer.body.encode()
        headers = {"content-type": "application/json", "connection": "close"} | answer.headers
        length = len(body) + (100 if answer.how == "cut" else 0)
        lines = [f"HTTP/1.1 {answer.status} X", *(f"{n}: {v}" for n, v in headers.items()), f"content-length: {length}"]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()


def good(path: str, text: str = "four", *, tokens: tuple[int, int] = (100, 10)) -> Answer:
    """A usable reply of either protocol."""
    if path.split("?")[0].endswith("/messages"):
        return messages(text, tokens=tokens)
    return chat(text, tokens=tokens)


def chat(
    text: str | None, *, finish: str = "stop", tokens: tuple[int, int] = (100, 10), delay_s: float = 0.0
) -> Answer:
    body = {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
    }
    return Answer(body=json.dumps(body), delay_s=delay_s)


def messages(text: str, *, stop: str = "end_turn", tokens: tuple[int, int] = (100, 10)) -> Answer:
    body = {
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5-5",
        "content": [{"type": "text", "text": text}],
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": tokens[0], "output_tokens": tokens[1]},
    }
    return Answer(body=json.dumps(body))


def error(status: int, code: str = "", *, headers: dict[str, str] | None = None, message: str = "no") -> Answer:
    body = {"type": "error", "error": {"type": code or "some_error", "code": code, "message": message}}
    return Answer(status=status, body=json.dumps(body), headers=headers or {})
