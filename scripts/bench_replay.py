#!/usr/bin/env python3
"""How fast a recording answers: the SDKs over our replay beside the same SDKs over an in-memory transport, in turn.

    scripts/bench_replay.py [--calls 300] [--rounds 9]

Prints calls per second (medians over the rounds), the ratio of the two, and look-ups per second of the store alone.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias

import anthropic
import httpx2
import openai

import bbdistill
from bbdistill.client.store import Store

Ask: TypeAlias = Callable[[Any, int], Any]

SYSTEM = "Answer as JSON with the keys customer, order, product, category and urgency. " * 8
TEXT = json.dumps({"customer": "Ida Lund", "order": "KX-48213", "product": "kettle", "category": "late", "urgency": 2})
CHAT = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-5.6",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": TEXT}}],
    "usage": {"prompt_tokens": 200, "completion_tokens": 40, "total_tokens": 240},
}
MESSAGE = {
    "id": "m1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-5-5",
    "content": [{"type": "text", "text": TEXT}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 200, "output_tokens": 40},
}
ANY: dict[str, Any] = {"api_key": "any", "max_retries": 0}
STRETCH = 5
"""Calls of one side before it is the other's turn."""
BODIES = {"completions": json.dumps(CHAT).encode(), "messages": json.dumps(MESSAGE).encode()}


def answer(request: httpx2.Request) -> httpx2.Response:
    body = BODIES[request.url.path.rsplit("/", 1)[-1]]
    return httpx2.Response(200, headers={"content-type": "application/json"}, content=body)


def ask_openai(api: Any, number: int) -> Any:
    return api.chat.completions.create(
        model="gpt-5.6", messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": mail(number)}]
    )


def ask_anthropic(api: Any, number: int) -> Any:
    question = {"role": "user", "content": mail(number)}
    return api.messages.create(model="claude-sonnet-5-5", max_tokens=99, system=SYSTEM, messages=[question])


def mail(number: int) -> str:
    return f"Where is my parcel KX-{number:05}? I have been waiting for it for a whole week now. Ida Lund"


async def blocking(api: Any, ask: Ask, numbers: range) -> None:
    for number in numbers:
        ask(api, number)


async def awaiting(api: Any, ask: Ask, numbers: range) -> None:
    for number in numbers:
        await ask(api, number)


WAYS: dict[str, tuple[Any, Ask, Callable[..., Coroutine[Any, Any, None]]]] = {
    "OpenAI": (openai.OpenAI, ask_openai, blocking),
    "AsyncOpenAI": (openai.AsyncOpenAI, ask_openai, awaiting),
    "Anthropic": (anthropic.Anthropic, ask_anthropic, blocking),
    "AsyncAnthropic": (anthropic.AsyncAnthropic, ask_anthropic, awaiting),
}


def record(store: Path, calls: int) -> None:
    """Buys every call once, of a server on loopback."""
    with serving() as url:
        for name, base_url in (("OpenAI", f"{url}/v1"), ("Anthropic", url)):
            sdk, ask, _ = WAYS[name]
            client = bbdistill.sync_http_client(store, teacher_id="bench")
            with sdk(**ANY, base_url=base_url, http_client=client) as api:
                for number in range(calls):
                    ask(api, number)


@contextmanager
def serving() -> Iterator[str]:
    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            body = BODIES[self.path.rsplit("/", 1)[-1]]
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


async def rates(name: str, store: Path, calls: int, rounds: int) -> tuple[float, float]:
    """Calls per second (bare, replayed): medians of short stretches in turn, under the same load."""
    sdk, ask, work = WAYS[name]
    blocks = work is blocking
    ours = (bbdistill.sync_http_client if blocks else bbdistill.http_client)(store, mode="replay", teacher_id="bench")
    bare = (httpx2.Client if blocks else httpx2.AsyncClient)(transport=httpx2.MockTransport(answer))
    apis = [sdk(**ANY, http_client=client) for client in (bare, ours)]
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for start in range(0, calls, STRETCH):
            for api, times in zip(apis, took, strict=True):
                started = time.perf_counter()
                await work(api, ask, range(start, start + STRETCH))
                times.append(time.perf_counter() - started)
    return STRETCH / statistics.median(took[0]), STRETCH / statistics.median(took[1])


def look_ups(store: Path, rounds: int) -> float:
    """Per second, of the store alone."""
    opened = Store(store, read_only=True)
    known = [row.key for row in opened.calls()]
    took: list[float] = []
    for _ in range(rounds):
        started = time.perf_counter()
        for key in known:
            opened.find_used(key, None)
        took.append(time.perf_counter() - started)
    opened.close()
    return len(known) / statistics.median(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "bench.db"
        record(store, options.calls)
        print(f"store alone      {look_ups(store, options.rounds):8.0f} look-ups/s")
        for name in WAYS:
            bare, ours = asyncio.run(rates(name, store, options.calls, options.rounds))
            print(f"{name:<16} {ours:8.0f} calls/s replayed, {bare:8.0f} bare, ratio {ours / bare:.2f}")


if __name__ == "__main__":
    main()
