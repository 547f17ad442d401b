#!/usr/bin/env python3
"""What the client makes of a rate-limited and of a faulty server: a real one (`llmock`) on loopback, under the SDK.

    scripts/bench_quota.py [quota | faults]        both take about five minutes, nearly all of it waiting

Prints the figures as JSON; exit 1 where one is worse than it should be.
"""

import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmock.chaos import ChaosSettings, StreamChaos
from llmock.journal import RequestRecord
from llmock.ratelimit import LimitSettings, requested_tokens
from llmock.testing import LLMockServer
from llmock.verdict import Finding, judge
from openai import AsyncOpenAI

from bbdistill.client.edge import http_client
from bbdistill.client.store import Store

MINUTE_S = 60.0
WORKERS = 128
RUN = "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What became of a quota. Shares are of one minute's quota, after the first minute."""

    seconds: float
    answered: int
    used_of_requests: float
    used_of_tokens: float
    throttled: float
    """Share of the calls after the first minute that were answered 429."""
    throttled_in_all: int
    verdict: list[str]
    """What the server has to say against the client."""
    limit: int
    """Calls at once that the gate allowed in the end."""

    @property
    def good(self) -> bool:
        return max(self.used_of_requests, self.used_of_tokens) >= 0.95 and self.throttled < 0.02 and not self.verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What became of the rows asked of a server that fails on 16 % of the attempts."""

    rows: int
    seconds: float
    lost: int
    bad_rows_stored: int
    """Rows whose reply is not whole, or is not what the row says; and good rows more or fewer than were asked for."""
    attempts: int
    faults_injected: int
    verdict: list[str]

    @property
    def good(self) -> bool:
        return self.lost == self.bad_rows_stored == 0 and self.faults_injected > 0 and not self.verdict


def quota(*, rpm: int = 600, tpm: int = 120_000, seconds: float = 3 * MINUTE_S) -> Quota:
    """Asks as fast as the gate allows; requests differ in size, so that either limit may be the tight one."""
    with LLMockServer(chaos=ChaosSettings(latency_ms=100)) as server, tempfile.TemporaryDirectory() as folder:
        server.state.limiter.configure(LimitSettings(rpm=rpm, tpm=tpm))
        started = time.monotonic()
        limit = asyncio.run(_ask_until(server, Path(folder) / "quota.db", started + seconds))
        records = server.state.journal.records(wait=2.0)
        findings = [f"{f.severity}: {f.title}" for f in _verdict(records)]
    later = [record for record in records if MINUTE_S <= record.started_at - started < seconds]
    answered = [record for record in later if record.status == 200]
    minutes = (seconds - MINUTE_S) / MINUTE_S
    tokens = sum(
        requested_tokens(record.body, len(json.dumps(record.body, separators=(",", ":")))) for record in answered
    )
    return Quota(
        seconds=seconds,
        answered=sum(record.status == 200 for record in records),
        used_of_requests=round(len(answered) / (rpm * minutes), 4),
        used_of_tokens=round(tokens / (tpm * minutes), 4),
        throttled=round(sum(record.status == 429 for record in later) / len(later), 4),
        throttled_in_all=sum(record.status == 429 for record in records),
        verdict=findings,
        limit=limit,
    )


def faults(*, rows: int = 600) -> Faults:
    """Streams, since only those can be malformed there: 10 % are answered 429, 5 % 500, 1 % break off in nonsense."""
    with LLMockServer(chaos=ChaosSettings(error_rates={429: 0.10, 500: 0.05})) as server:
        server.state.stream_chaos = StreamChaos(fault_rates=(("malformed", 0.01),), max_after_chunks=2)
        with tempfile.TemporaryDirectory() as folder:
            path, started = Path(folder) / "faults.db", time.monotonic()
            texts = asyncio.run(_ask_all(server, path, rows))
            seconds = time.monotonic() - started
            records = server.state.journal.records(wait=2.0)
            store = Store(path)
            bad, good = store.verify(), sum(row.kind == "ok" for row in store.calls(RUN))
        findings = [f"{f.severity}: {f.title}" for f in _verdict(records)]
    return Faults(
        rows=rows,
        seconds=round(seconds, 1),
        lost=sum(text is None for text in texts),
        bad_rows_stored=len(bad) + abs(good - rows),
        attempts=len(records),
        faults_injected=sum(record.fault is not None for record in records),
        verdict=findings,
    )


async def _ask_until(server: LLMockServer, path: Path, until: float) -> int:
    draw, numbers = random.Random(0), iter(range(10**9))
    client = http_client(path, run=RUN)
    async with AsyncOpenAI(api_key="k", base_url=server.base_url(), max_retries=0, http_client=client) as api:

        async def work() -> None:
            while time.monotonic() < until:
                text = f"question {next(numbers)} " + "word " * draw.randrange(100)
                limit = draw.randrange(50, 220)
                await api.chat.completions.create(model="m", messages=[_user(text)], max_tokens=limit)

        working = [asyncio.create_task(work()) for _ in range(WORKERS)]
        done, late = await asyncio.wait(working, timeout=until - time.monotonic())
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for task in done:
            task.result()
        transport: Any = client._transport  # pyright: ignore[reportPrivateUsage]
        return transport._stack.limits[0].changes[-1].limit


async def _ask_all(server: LLMockServer, path: Path, rows: int) -> list[str | None]:
    client = http_client(path, run=RUN)
    async with AsyncOpenAI(api_key="k", base_url=server.base_url(), max_retries=0, http_client=client) as api:

        async def ask(number: int) -> str:
            stream = await api.chat.completions.create(
                model="m", messages=[_user(f"question {number}")], max_tokens=50, stream=True
            )
            return "".join([part.choices[0].delta.content or "" async for part in stream if part.choices])

        found = await asyncio.gather(*(ask(number) for number in range(rows)), return_exceptions=True)
        return [text if isinstance(text, str) else None for text in found]


def _user(text: str) -> Any:
    return {"role": "user", "content": text}


def _verdict(records: Sequence[RequestRecord]) -> Iterable[Finding]:
    """All but what the server cannot see: that a malformed stream which it completed was asked for again."""
    by_number = {record.seq: record for record in records}
    for finding in judge(records).findings:
        broken = by_number[finding.seqs[-1]]
        again = any(r.seq > broken.seq and r.fingerprint == broken.fingerprint for r in records)
        if finding.code != "malformed_chunk_ignored" or not again:
            yield finding


def main(which: str) -> int:
    measured = {name: run() for name, run in (("quota", quota), ("faults", faults)) if which in (name, "all")}
    print(json.dumps({name: asdict(found) | {"good": found.good} for name, found in measured.items()}, indent=2))
    return 0 if all(found.good for found in measured.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "all"))
