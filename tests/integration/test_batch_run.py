"""Whole commands with `--batch`: stopped and killed while a batch is out, taken up again, replayed offline."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from batch_server import BatchServer, batch_server
from rule_teacher import answer, write_task

import bbdistill


def start(*arguments: str | Path, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bbdistill", *map(str, arguments)],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(running: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not happened():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def polled(server: BatchServer) -> Callable[[], bool]:
    return lambda: server.asked["GET /batches/*"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_collecting_is_taken_up_where_it_was_left(number: signal.Signals, tmp_path: Path):
    with batch_server("openai", says=answer, running=True) as server:
        config = write_task(tmp_path, server, Path("unused"))  # pyright: ignore[reportArgumentType]
        running = start("collect", config, "--batch", folder=tmp_path)
        wait_for(running, polled(server))
        running.send_signal(number)
        _, said = running.communicate(timeout=30)
        if number == signal.SIGINT:
            assert running.returncode == 130
            assert "its 24 requests go on at openai" in said
            assert "Traceback" not in said
        server.running = False
        again = start("collect", config, "--batch", folder=tmp_path)
        _, said = again.communicate(timeout=60)
        assert again.returncode == 0, said
        assert "24 of 24 requests answered" in said
        assert len(server.batches) == 1
        assert server.live == []
    assert len((tmp_path / "demonstrations.jsonl").read_text().splitlines()) == 24


def test_a_run_asks_by_batch_what_can_wait_and_resumes_it(tiny_student: Path, tmp_path: Path):
    with batch_server("openai", says=answer, running=True) as server:
        config = write_task(tmp_path, server, tiny_student)  # pyright: ignore[reportArgumentType]
        running = start("run", config, "--batch", "--out", tmp_path / "run", folder=tmp_path)
        wait_for(running, lambda: len(server.batches) == 2 and polled(server)())
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
        assert running.returncode == 130, said
        assert said.count("the same command brings the replies home (a run: with --resume)") == 2
        server.running = False
        # It remembers how it was begun.
        live = bbdistill.run(config, out=tmp_path / "run", resume=True)
        assert len(server.batches) == 2
        # Preferences and corrections alone were asked one by one.
        assert all("number" in body["messages"][-1]["content"] for body in server.live)
        assert not any(body["messages"][0]["content"] == "Answer in JSON." for body in server.live)
    store = next(tmp_path.glob("**/teacher.db"))
    replayed = bbdistill.run(config, out=tmp_path / "replayed", replay=str(store))
    assert replayed.report["eval"] == live.report["eval"]
    by_purpose = live.report["teacher"]["by_purpose"]
    assert by_purpose["evaluation"]["calls"] == 6
    assert by_purpose["demonstrations"]["calls"] == sum(len(batch.requests) for batch in server.batches) - 6
    with bbdistill.open_recording(store) as recording:
        assert recording.verify() == []
