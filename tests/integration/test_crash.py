"""Killed, out of disk, not allowed to write, two at once: what becomes of the store, in real processes."""

import ctypes
import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from slow_teacher import slow_teacher, write_collection

import bbdistill
from bbdistill.client.store import CallRow

KILLS = int(os.environ.get("BBDISTILL_KILLS", "6"))
"""Points at which a live run is killed; more of them take longer and prove more."""
CONCURRENCY = 4
BYTES = 200_000
"""Room for the store, and some forty of its calls."""


def start(*arguments: str | Path, folder: Path, limit: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bbdistill", *map(str, arguments)],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=limit,
    )


def calls(path: Path) -> dict[str, CallRow]:
    """By prompt id; every one of them whole."""
    if not path.exists():
        return {}
    with bbdistill.open_recording(path) as recording:
        assert recording.verify() == []
        found = {row.prompt_id or "": row for row in recording.calls()}
        assert len(found) == len(recording.calls()), "a reply was bought twice although it was stored"
    return found


def test_killed_at_random_moments_no_stored_reply_is_lost_or_asked_for_again(tmp_path: Path):
    draw = random.Random(0)
    with slow_teacher(latency_s=(0.0, 0.06)) as teacher:
        prompts = 6 * KILLS + 12
        config = write_collection(tmp_path, teacher, prompts=prompts, more=f"concurrency = {CONCURRENCY}\n")
        before: dict[str, CallRow] = {}
        known: set[str] = set()
        late = 0
        for _ in range(KILLS):
            first = len(teacher.asked)
            running = start("collect", config, folder=tmp_path)
            teacher.wait_for(first + draw.randrange(1, 8))
            time.sleep(draw.uniform(0, 0.05))
            running.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            running.communicate()
            assert running.returncode == -signal.SIGKILL
            now = calls(tmp_path / "calls.db")
            assert before.items() <= now.items()  # nothing stored is lost or changed
            assert not known & {asked.prompt for asked in teacher.asked[first:]}  # nor asked for again
            before, known = now, {row_prompt(row) for row in now.values()}
            lost = [asked for asked in teacher.asked[first:] if asked.prompt not in known]
            late += sum(asked.answered is not None and asked.answered < killed for asked in lost)
        first = len(teacher.asked)
        last = start("collect", config, folder=tmp_path)
        _, said = last.communicate(timeout=120)
        assert last.returncode == 0, said
        assert not known & {asked.prompt for asked in teacher.asked[first:]}
        final = calls(tmp_path / "calls.db")
    assert len(final) == prompts
    repeated = len(teacher.asked) - prompts
    print(
        f"{KILLS} kills, {prompts} prompts, {repeated} calls repeated, none of them with an answer on disk; "
        f"{late} of these answers were on their way there"
    )
    # Beside the calls on the wire, at most as many answers are being written.
    assert repeated <= KILLS * 2 * CONCURRENCY


def row_prompt(row: CallRow) -> str:
    return json.loads(row.request)["body"]["messages"][-1]["content"]


def no_more_than(size: int) -> Callable[[], None]:
    # A write past the limit fails like one on a full disk: Python ignores the signal that comes with it.
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_stops_with_one_sentence_and_harms_nothing(tmp_path: Path):
    with slow_teacher(latency_s=(0.0, 0.01)) as teacher:
        config = write_collection(tmp_path, teacher, prompts=150, more="concurrency = 4\n")
        full = start("collect", config, folder=tmp_path, limit=no_more_than(BYTES))
        _, said = full.communicate(timeout=60)
        assert full.returncode == 1, said
        [sentence] = [line for line in said.splitlines() if line.startswith("error:")]
        assert "calls.db" in sentence
        assert "disk is full" in sentence
        assert "free some space" in sentence
        assert "Traceback" not in said
        assert not (tmp_path / "demonstrations.jsonl").exists()
        stored = calls(tmp_path / "calls.db")
        asked = len(teacher.asked)
        # What was on the wire as the disk ran full could not be kept, nor what went out as that came in.
        assert 0 < asked - len(stored) <= 2 * 4
        assert asked < 150
        rest = start("collect", config, folder=tmp_path)
        rest.communicate(timeout=60)
        assert rest.returncode == 0
        assert len(teacher.asked) == 150 + asked - len(stored)
    after = calls(tmp_path / "calls.db")
    assert len(after) == 150
    assert stored.items() <= after.items()


AGENT = """
import logging, sys
import bbdistill
from openai import OpenAI
logging.basicConfig(level=logging.WARNING)
http = bbdistill.sync_http_client("agent.db", mode="record")
client = OpenAI(api_key="none", base_url=sys.argv[1], max_retries=0, http_client=http)
for number in range(80):
    reply = client.chat.completions.create(model="m", messages=[{"role": "user", "content": f"number {number}"}])
    assert reply.choices[0].message.content == f"answer to number {number}"
client.close()
"""


def test_around_a_production_agent_a_full_disk_is_one_warning(tmp_path: Path):
    with slow_teacher(latency_s=(0.0, 0.0)) as teacher:
        done = subprocess.run(
            [sys.executable, "-c", AGENT, teacher.base_url],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            preexec_fn=no_more_than(BYTES),
        )
    assert done.returncode == 0, done.stderr
    assert len(teacher.asked) == 80
    assert done.stderr.count("WARNING") == 1
    assert "no longer recorded" in done.stderr
    assert 0 < len(bare(tmp_path / "agent.db")) < 80


def bare(path: Path) -> list[CallRow]:
    with bbdistill.open_recording(path) as recording:
        assert recording.verify() == []
        return list(recording.calls())


def bound_by_modes() -> None:
    """Takes from root what lets it write to read-only files (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH)."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        for capability in (1, 2):
            libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: counts from the exec that follows


@pytest.mark.skipif(sys.platform != "linux", reason="root is bound by file modes in another way")
def test_a_read_only_store_replays_and_is_not_written(tmp_path: Path):
    store = tmp_path / "calls.db"
    with slow_teacher(latency_s=(0.0, 0.0)) as teacher:
        config = write_collection(tmp_path, teacher, prompts=3)
        start("collect", config, folder=tmp_path).communicate(timeout=60)
        assert len(teacher.asked) == 3
        content = store.read_bytes()
        store.chmod(0o400)
        writing = start("collect", config, folder=tmp_path, limit=bound_by_modes)
        _, said = writing.communicate(timeout=60)
        assert writing.returncode == 1, said
        assert "error: the store" in said
        assert "cannot be opened for writing (Permission denied); replay it, or give a path you can write to" in said
        assert "Traceback" not in said
        assert len(teacher.asked) == 3
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    tmp_path.chmod(0o500)  # not even its directory can be written
    try:
        out = elsewhere / "demos.jsonl"
        replaying = start("collect", config, "--replay", store, "--out", out, folder=elsewhere, limit=bound_by_modes)
        _, said = replaying.communicate(timeout=60)
        assert replaying.returncode == 0, said
        assert len(out.read_text().splitlines()) == 3
    finally:
        tmp_path.chmod(0o700)
    assert store.read_bytes() == content


def test_a_store_of_a_newer_version_is_named_with_both(tmp_path: Path):
    with slow_teacher(latency_s=(0.0, 0.0)) as teacher:
        config = write_collection(tmp_path, teacher, prompts=2)
        start("collect", config, folder=tmp_path).communicate(timeout=60)
        with sqlite3.connect(tmp_path / "calls.db") as other:
            other.execute("INSERT INTO _sqlite_migrations VALUES (99, 'bbdistill', 'm099_later', 'now')")
        other.close()
        done = start("collect", config, folder=tmp_path)
        _, said = done.communicate(timeout=60)
        assert len(teacher.asked) == 2
    assert done.returncode == 1
    assert "its schema is m099_later, this one knows up to m0" in said
    assert "upgrade bbdistill" in said


def test_two_processes_share_one_store(tmp_path: Path):
    with slow_teacher(latency_s=(0.0, 0.05)) as teacher:
        config = write_collection(tmp_path, teacher, prompts=60, more="concurrency = 4\n")
        both = [start("collect", config, "--out", f"{name}.jsonl", folder=tmp_path) for name in ("a", "b")]
        for running in both:
            _, said = running.communicate(timeout=120)
            assert running.returncode == 0, said
        asked = [asked.prompt for asked in teacher.asked]
    texts = [(tmp_path / f"{name}.jsonl").read_text() for name in ("a", "b")]
    assert texts[0] == texts[1]
    assert len(texts[0].splitlines()) == 60
    rows = bare(tmp_path / "calls.db")
    # Every answer is on disk, those to the same question asked at the same moment as two versions of one call.
    assert len(rows) == len(asked)
    assert {row.prompt_id for row in rows if row.version == 1} == {row.prompt_id for row in rows}
    assert all(asked.count(prompt) <= 2 for prompt in asked)
    with bbdistill.open_recording(tmp_path / "calls.db") as recording:
        runs = {run.id: run.calls for run in recording.runs()}
    assert list(runs.values()) == [60, 60]
