#!/usr/bin/env python3
"""What the client costs beside the bare SDK and beside other tools: wall, CPU and calls on one loopback server.

    .venv/bin/python scripts/bench_client.py [--rounds 5] [--curator PYTHON] [--distilabel PYTHON]

Every job runs in a process of its own, in turn, round after round; figures are medians. PYTHON is the interpreter of an
environment that has `bespokelabs-curator==0.1.31`, or `distilabel[openai]==1.5.3` and `requests`.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CALLS, IN_FLIGHT, LATENCY_S = 640, 64, 0.2
MODEL = "gpt-5.6"


class Server:
    """An OpenAI-compatible server that takes `LATENCY_S` for every answer and counts them."""

    def __init__(self) -> None:
        self.answered = 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        listening = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop)
        self.port = listening.result().sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
                await reader.readexactly(int(fields.get(b"content-length", 0)))
                await asyncio.sleep(LATENCY_S)
                self.answered += 1
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % REPLY
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def reply() -> bytes:
    message = {"role": "assistant", "content": "An answer of some length. " * 20}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    usage = {"prompt_tokens": 60, "completion_tokens": 100, "total_tokens": 160}
    facts = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL}
    return json.dumps(facts | {"choices": [choice], "usage": usage}).encode()


REPLY = reply()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(REPLY)


def messages(number: int) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": "Answer the question in two sentences, with care. " * 4},
        {"role": "user", "content": f"What is special about the number {number}?"},
    ]


# Jobs: each runs in its own process, is given the server's address and a directory, and says what it measured.


def bare(address: str, _: Path, rows: int) -> None:
    from openai import AsyncOpenAI

    asyncio.run(_ask(AsyncOpenAI(base_url=address, api_key="k", max_retries=0), rows))


def ours(address: str, directory: Path, rows: int) -> None:
    from openai import AsyncOpenAI

    import bbdistill

    http = bbdistill.http_client(
        directory / "calls.db", concurrency=IN_FLIGHT, max_usd=1000.0, prices=(1.0, 2.0), teacher_id="bench"
    )
    asyncio.run(_ask(AsyncOpenAI(base_url=address, api_key="k", max_retries=0, http_client=http), rows))


async def _ask(client: Any, rows: int) -> None:
    places = asyncio.Semaphore(IN_FLIGHT)

    async def one(number: int) -> str:
        async with places:
            done = await client.chat.completions.create(model=MODEL, messages=messages(number), max_tokens=200)
            return done.choices[0].message.content

    answers = await asyncio.gather(*(one(number) for number in range(rows)))
    assert all(answers)
    assert len(answers) == rows
    await client.close()


def curator(address: str, directory: Path, rows: int) -> None:
    os.environ |= {
        "CURATOR_CACHE_DIR": str(directory),
        "TELEMETRY_ENABLED": "false",
        "CURATOR_DISABLE_RICH_DISPLAY": "1",
    }
    os.environ |= {"OPENAI_API_KEY": "k", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    from bespokelabs import curator as tool

    class Answer(tool.LLM):
        def prompt(self, row: dict[str, Any]) -> Any:
            return messages(row["number"])

        def parse(self, row: dict[str, Any], response: str) -> Any:
            return {"number": row["number"], "answer": response}

    limits = {"max_concurrent_requests": IN_FLIGHT, "max_requests_per_minute": 10**6, "max_tokens_per_minute": 10**9}
    model = Answer(
        model_name=f"openai/{MODEL}",
        backend="litellm",
        generation_params={"max_tokens": 200},
        backend_params={"base_url": address, **limits},
    )
    model([{"number": number} for number in range(rows)])


def distilabel(address: str, directory: Path, rows: int) -> None:
    from distilabel.llms import OpenAILLM
    from distilabel.pipeline import Pipeline
    from distilabel.steps import LoadDataFromDicts
    from distilabel.steps.tasks import TextGeneration

    with Pipeline(name="bench", cache_dir=str(directory)) as pipeline:
        load = LoadDataFromDicts(
            data=[{"instruction": messages(number)[1]["content"]} for number in range(rows)], batch_size=IN_FLIGHT
        )
        llm = OpenAILLM(model=MODEL, base_url=address, api_key="k", generation_kwargs={"max_new_tokens": 200})
        load >> TextGeneration(llm=llm, system_prompt=messages(0)[0]["content"], input_batch_size=IN_FLIGHT)
    pipeline.run(use_cache=True)


JOBS = {"bare SDK": bare, "bbdistill": ours, "curator": curator, "distilabel": distilabel}


def worker(name: str, address: str, directory: Path, rows: int) -> None:
    """Runs one job and prints its figures; libraries are loaded before the clock starts where the job is ours."""
    import openai  # noqa: F401

    if name == "bbdistill":
        import bbdistill

        assert bbdistill.http_client
    sent = time.monotonic(), _cpu_s()
    JOBS[name](address, directory, rows)
    done = time.monotonic(), _cpu_s()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"wall_s": done[0] - sent[0], "cpu_s": done[1] - sent[1], "peak_mib": peak}))


def _cpu_s() -> float:
    """Of this process and of those it has waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def measure(python: str, name: str, server: Server, directory: Path, rows: int = CALLS) -> dict[str, float]:
    """One run of a job in a fresh process, with the number of calls that reached the server."""
    before = server.answered
    command = [python, __file__, "--worker", name, f"http://127.0.0.1:{server.port}/v1", str(directory), str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1]) | {"calls": float(server.answered - before)}


def table(title: str, columns: Sequence[str], rows: dict[str, Sequence[float]]) -> None:
    print(f"\n{title}\n{'':<14}" + "".join(f"{column:>16}" for column in columns))
    for name, values in rows.items():
        print(f"{name:<14}" + "".join(f"{value:>16.2f}" for value in values))


def main(pythons: dict[str, str], rounds: int) -> None:
    server = Server()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in pythons}
    again: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(rounds):
            for name, python in pythons.items():
                directory = Path(scratch) / f"{name}-{turn}"
                directory.mkdir()
                found[name].append(measure(python, name, server, directory))
        for name, python in pythons.items():
            directory = Path(scratch) / f"{name}-0"
            same = measure(python, name, server, directory)
            more = measure(python, name, server, directory, CALLS + 1)
            again[name] = [same["calls"], same["wall_s"], more["calls"]]
    medians = {
        name: [statistics.median(run[what] for run in runs) for what in ("wall_s", "cpu_s", "peak_mib", "calls")]
        for name, runs in found.items()
    }
    base = medians["bare SDK"]
    figures = {name: [*values, values[0] / base[0], values[1] / base[1]] for name, values in medians.items()}
    title = f"{CALLS} calls of {LATENCY_S} s, {IN_FLIGHT} in flight, {os.cpu_count()} cores, medians of {rounds}"
    table(title, ("wall s", "CPU s", "peak MiB", "calls", "wall / bare", "CPU / bare"), figures)
    table("asked again", ("calls, same", "wall s, same", "calls, +1 row"), again)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]))
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--curator", metavar="PYTHON")
    parser.add_argument("--distilabel", metavar="PYTHON")
    given = parser.parse_args()
    others = {name: getattr(given, name) for name in ("curator", "distilabel") if getattr(given, name)}
    main({"bare SDK": sys.executable, "bbdistill": sys.executable} | others, given.rounds)
