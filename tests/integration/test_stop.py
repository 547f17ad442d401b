"""Ctrl-C, a second Ctrl-C and SIGTERM, in real processes against a real server."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rule_teacher import rule_teacher, write_task
from slow_teacher import slow_teacher, write_collection

import bbdistill
from bbdistill.errors import RunStopped
from bbdistill.metrics import Progress


def start(*arguments: str | Path, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bbdistill", *map(str, arguments)],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def stored(path: Path) -> int:
    with bbdistill.open_recording(path) as recording:
        assert recording.verify() == []
        return len(recording.calls())


def stopped_by_the_second(running: subprocess.Popen[str]) -> str:
    """What a process says that one Ctrl-C does not end and a second one does."""
    running.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(1.0)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=5)
    assert running.returncode == 130
    assert "Traceback" not in said
    return said


def wait_until(condition: Callable[[], bool], running: subprocess.Popen[str], seconds: float) -> None:
    """Until it holds, while the process goes on."""
    end = time.monotonic() + seconds
    while not condition():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("recipe", ["sft", "gad"])
def test_a_run_that_is_stopped_in_a_validation_makes_up_for_it(recipe: str, tiny_student: Path, tmp_path: Path):
    """Where nothing can judge an answer, a validation asks the teacher; the stop comes while one waits for it."""
    stop = threading.Event()

    def listen(event: object) -> None:
        if isinstance(event, Progress) and event.what == "validation":
            stop.set()

    with rule_teacher() as teacher:
        config = write_task(tmp_path, teacher, tiny_student, steps=2, warmup_max=2, validate_every=2)
        lines = [line for line in config.read_text().splitlines() if not line.startswith("verifier")]
        config.write_text("\n".join(lines).replace('recipe = "gad"', f'recipe = "{recipe}"'))
        for name in ("train", "test"):
            file = tmp_path / f"{name}.jsonl"
            rows = [{"messages": json.loads(line)["messages"]} for line in file.read_text().splitlines()]
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        whole = bbdistill.run(config, out=tmp_path / "whole")
        teacher.delay_s = 0.3
        fresh = (f'teacher.cache="{tmp_path / "fresh.db"}"',)
        with pytest.raises(RunStopped):
            bbdistill.run(config, out=tmp_path / "parts", overrides=fresh, stop=stop, on_event=listen)
        parts = bbdistill.run(config, out=tmp_path / "parts", overrides=fresh, resume=True)
    assert parts.report["train"]["validations"] == whole.report["train"]["validations"]
    assert parts.report["train"]["validations"][0][0] == 2
    assert parts.report["teacher"] == whole.report["teacher"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_drains_what_is_in_flight(number: signal.Signals, tmp_path: Path):
    with slow_teacher(latency_s=(0.8, 0.8)) as teacher:
        config = write_collection(tmp_path, teacher, prompts=40, more="concurrency = 4\n")
        running = start("collect", config, folder=tmp_path)
        teacher.wait_for(8)
        time.sleep(0.2)  # the second four are half way
        assert teacher.in_flight == 4
        running.send_signal(number)
        _, said = running.communicate(timeout=30)
        assert running.returncode == 130
        # Nothing new was sent, and every answer that was on its way is on disk.
        assert len(teacher.asked) == 8
        assert teacher.in_flight == 0
        assert stored(tmp_path / "calls.db") == 8
    assert "spent so far: $0.1200;" in said
    assert "go on with: the same command" in said
    assert "Traceback" not in said
    assert "error" not in said


def test_going_on_asks_only_for_the_rest(tmp_path: Path):
    with slow_teacher(latency_s=(0.3, 0.3)) as teacher:
        config = write_collection(tmp_path, teacher, prompts=16, more="concurrency = 4\n")
        running = start("collect", config, folder=tmp_path)
        teacher.wait_for(6)
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=30)
        assert running.returncode == 130
        again = start("collect", config, folder=tmp_path)
        again.communicate(timeout=60)
        assert again.returncode == 0
        assert len({asked.prompt for asked in teacher.asked}) == len(teacher.asked) == 16


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path):
    with slow_teacher(latency_s=(20.0, 20.0)) as teacher:
        running = start("collect", write_collection(tmp_path, teacher, prompts=8), folder=tmp_path)
        teacher.wait_for(8)
        said = stopped_by_the_second(running)
    assert "once more (Ctrl-C) stops at once" in said
    assert said.rstrip().splitlines()[-1].startswith("stopped at once; what is stored is kept")
    assert stored(tmp_path / "calls.db") == 0


def test_a_stopped_run_keeps_its_last_step_and_resumes_to_the_same_end(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        # No checkpoint is due before the end: the one it resumes from is written by the stop.
        config = write_task(tmp_path, teacher, tiny_student, steps=4, checkpoint_every=100)
        whole = bbdistill.run(config, out=tmp_path / "whole")
        asked = sum(teacher.asked.values())
        teacher.asked.clear()
        teacher.delay_s = 0.3
        fresh = ("--set", f"teacher.cache={tmp_path / 'fresh.db'}")
        running = start("run", config, "--out", tmp_path / "parts", *fresh, folder=tmp_path)
        metrics = tmp_path / "parts" / "metrics.jsonl"
        wait_until(lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= 4, running, 120)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
        assert running.returncode == 130, said
        assert "Traceback" not in said
        assert f"--out {tmp_path / 'parts'} --resume" in said
        steps = [int(path.name[-6:]) for path in (tmp_path / "parts" / "checkpoints").iterdir()]
        assert max(steps) >= 4
        assert stored(tmp_path / "fresh.db") == sum(teacher.asked.values())
        parts = bbdistill.run(
            config, out=tmp_path / "parts", overrides=(f'teacher.cache="{tmp_path / "fresh.db"}"',), resume=True
        )
        assert sum(teacher.asked.values()) == asked
    assert parts.report["eval"] == whole.report["eval"]
    assert parts.report["teacher"] == whole.report["teacher"]


def verifying(folder: Path, *, seconds: float) -> subprocess.Popen[str]:
    """`bbdistill verify` of 200 answers, one of which is being judged already; each takes so long."""
    (folder / "slow.py").write_text(
        "import time\n\n"
        "def judge(prompt, answer):\n"
        "    open('seen', 'a').write(answer)\n"
        f"    time.sleep({seconds})\n"
        "    return True\n"
    )
    rows = [json.dumps({"prompt": f"prompt {n}", "completion": "x"}) for n in range(200)]
    (folder / "answers.jsonl").write_text("\n".join(rows))
    running = start("verify", "answers.jsonl", "--verifier", "slow:judge", folder=folder)
    wait_until((folder / "seen").exists, running, 60)
    return running


def test_a_stopped_verify_judges_no_more_answers(tmp_path: Path):
    running = verifying(tmp_path, seconds=1)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=20)
    assert running.returncode == 130
    assert said.rstrip().splitlines()[-1] == "stopped; nothing was asked of a teacher"
    assert len((tmp_path / "seen").read_text()) < 200


def test_a_stopped_verify_by_a_rubric_sends_nothing_more_and_keeps_what_was_on_the_wire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    (tmp_path / "r.json").write_text('[{"text": "Is short"}]')
    rows = [json.dumps({"prompt": f"prompt {n}", "completion": "x"}) for n in range(60)]
    (tmp_path / "answers.jsonl").write_text("\n".join(rows))
    with slow_teacher(latency_s=(1.5, 1.5)) as teacher:
        at = ("--teacher", "openai:m", "--base-url", teacher.base_url)
        running = start("verify", "answers.jsonl", "--verifier", "rubric:r.json", *at, folder=tmp_path)
        teacher.wait_for(3)
        told = time.monotonic()
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)
        assert running.returncode == 130
        assert "Traceback" not in said
        assert said.rstrip().splitlines()[-1].startswith("stopped; spent so far:")
        assert all(asked.came < told + 0.5 for asked in teacher.asked)
        assert 3 <= stored(tmp_path / "cache" / "teacher.db") == len(teacher.asked) <= 20


def test_a_verifier_that_hangs_is_left_by_a_second_ctrl_c(tmp_path: Path):
    stopped_by_the_second(verifying(tmp_path, seconds=600))
