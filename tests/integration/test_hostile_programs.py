"""Hostile programs in the sandbox of `python_tests`: none passes, none gets out, none stays, and the host goes on.

Where `BBDISTILL_BWRAP=required` is set, bubblewrap must work here; otherwise its half of the tests is left out where it
does not, and the half without namespaces is what is shown.
"""

import os
import socket
import tempfile
import time
from pathlib import Path

import pytest
from hostile_programs import HANGS, PROGRAMS, TESTS

from bbdistill.types import Prompt, Verdict
from bbdistill.verify.inside.confine import has_landlock
from bbdistill.verify.python_tests import PythonTests
from bbdistill.verify.sandbox import Limits, Mode, why_not

FILES = {"read a file", "write a file", "remove a file", "link to a file", "search of files", "write elsewhere"}
PROC = {"memory of the parent", "keys of the parent"}
PROMPT = Prompt(id="p", messages=(), reference={"tests": TESTS})


@pytest.fixture(params=["bwrap", "rlimits"])
def mode(request: pytest.FixtureRequest) -> Mode:
    reason = why_not(request.param)
    if reason is None:
        return request.param
    if request.param == "rlimits" or os.environ.get("BBDISTILL_BWRAP") == "required":
        pytest.fail(f"the sandbox `{request.param}` must work here: {reason}")
    pytest.skip(f"the sandbox `bwrap` does not work here: {reason}")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_hostile_program_gets_nowhere(name: str, mode: Mode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if mode == "rlimits" and name in FILES | PROC and not has_landlock():
        pytest.skip("without Landlock and namespaces, files are not kept from a program; the README says so")
    marks, work = tmp_path / "marks.txt", tmp_path / "work"
    marks.write_text("the expected value is 7355608")
    work.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(work))
    program, says = PROGRAMS[name]
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        program = program.replace("{port}", str(server.getsockname()[1])).replace("{marks!r}", repr(str(marks)))
        limits = Limits(wall_s=1 if name in HANGS else 20)
        verdict = PythonTests(sandbox=mode, limits=limits)(PROMPT, program)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert isinstance(verdict, Verdict)
    assert (verdict.score, verdict.passed) == (0.0, False)
    assert says in verdict.feedback
    assert "7355608" not in verdict.feedback
    assert len(verdict.feedback) < 3_000
    assert marks.read_text() == "the expected value is 7355608"
    assert list(work.iterdir()) == []
    assert left_behind(work) == []


def test_too_much_cpu_time_is_told(mode: Mode):
    verify = PythonTests(sandbox=mode, limits=Limits(cpu_s=1))
    verdict = verify(PROMPT, "def secret(x):\n    while True: pass")
    assert isinstance(verdict, Verdict)
    assert "in `secret(3)`: it used more than 1 s of CPU time" in verdict.feedback


def test_an_honest_program_passes(mode: Mode):
    program = """```python
def secret(x): return 7355608
def ratio(x): return 0.12751
def word(x): return "zebu!"
def numbers(x): return range(5000)
def table(x): return {"a": 18}
def flag(i): return i % 3 == 1
```"""
    assert PythonTests(sandbox=mode)(PROMPT, program) == Verdict(score=1.0, passed=True, feedback="")


def left_behind(work: Path, *, wait_s: float = 1.0) -> list[str]:
    """Processes that still know the directory of a run; what was killed in a namespace takes a moment to go."""
    end = time.monotonic() + wait_s
    while (found := _knowing(str(work).encode())) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def _knowing(mark: bytes) -> list[str]:
    found: list[str] = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and process.name != str(os.getpid()):
            try:
                told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            except OSError:
                continue
            if mark in told:
                found.append(told.decode(errors="replace"))
    return found
