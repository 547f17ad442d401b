"""A teacher behind a real HTTP server that takes its time and remembers when each request came and was answered."""

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rule_teacher import completion


@dataclass(slots=True)
class Asked:
    """One request; `answered` is when the last byte of its reply was given away, None where it never was."""

    prompt: str
    came: float
    answered: float | None = None


@dataclass(slots=True)
class SlowTeacher:
    """`latency_s` bounds how long an answer takes; `extra` are further headers of every answer."""

    latency_s: tuple[float, float] = (0.3, 0.3)
    extra: dict[str, str] = field(default_factory=dict[str, str])
    asked: list[Asked] = field(default_factory=list[Asked])
    base_url: str = ""
    draw: random.Random = field(default_factory=lambda: random.Random(0))

    @property
    def in_flight(self) -> int:
        return sum(asked.answered is None for asked in self.asked)

    def wait_for(self, count: int, seconds: float = 60) -> None:
        """Until this many requests have come."""
        end = time.monotonic() + seconds
        while len(self.asked) < count:
            assert time.monotonic() < end, f"only {len(self.asked)} of {count} requests came"
            time.sleep(0.005)


@contextmanager
def slow_teacher(**settings: Any) -> Iterator[SlowTeacher]:
    teacher = SlowTeacher(**settings)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                asked = Asked(prompt=request["messages"][-1]["content"], came=time.monotonic())
                teacher.asked.append(asked)
                wait = teacher.draw.uniform(*teacher.latency_s)
            time.sleep(wait)
            body = json.dumps(completion(f"answer to {asked.prompt}")).encode()
            self.send_response(200)
            for name, value in {"content-type": "application/json", **teacher.extra}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            asked.answered = time.monotonic()

        def handle(self) -> None:
            with suppress(OSError, ValueError):  # whoever asked was killed, perhaps in the middle of asking
                super().handle()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    teacher.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield teacher
    finally:
        server.shutdown()
        server.server_close()


def write_collection(folder: Path, teacher: SlowTeacher, *, prompts: int, more: str = "") -> Path:
    """A task that needs no student: prompts and a teacher, its store in `folder`/calls.db."""
    (folder / "train.jsonl").write_text("\n".join(json.dumps({"prompt": f"number {i}"}) for i in range(prompts)))
    config = folder / "task.toml"
    config.write_text(
        f'recipe = "sft"\n[task]\nprompts = "train.jsonl"\n'
        f'[teacher]\nmodel = "openai:slow"\nbase_url = "{teacher.base_url}"\nid = "slow"\ncache = "calls.db"\n'
        f"input_usd_per_mtok = 1000.0\noutput_usd_per_mtok = 1000.0\n{more}"
    )
    return config
