"""Runs a judged program and its tests as two confined processes; the limits are kept whatever the program does.

`bwrap`: namespaces of their own, made by bubblewrap: no network, no other process, a read-only system without a home.
`rlimits`: the same two processes without the namespaces. Both are confined further by `inside/confine.py`.
"""

import json
import os
import platform
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal, Self

from bbdistill.errors import VerifierError
from bbdistill.verify.inside.confine import MACHINES

Mode = Literal["bwrap", "rlimits"]

FILE_BYTES = 8 * 2**20
"""Of one file that the program writes."""
DISK_BYTES = 32 * 2**20
"""Of all of them, looked at every `LOOK_S`: for so long there may be more."""
DISK_FILES = 1000
OUTPUT_BYTES = 2**20
"""Printed by the program, in all."""
KEPT_BYTES = 2000
"""The end of what it printed, for the feedback."""
LOOK_S = 0.05
_SAID_BYTES = 2**24

_INSIDE = Path(__file__).parent / "inside"
_SYSTEM = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime")
_START = "import sys; sys.path.insert(0, {root!r}); from inside.{role} import main; del sys.path[0]; main()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    wall_s: float = 10.0
    """For all of it: loading and every test."""
    cpu_s: int = 5
    memory_mb: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How it went. For the rows of `reports` see `inside/tests.py`."""

    reports: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    printed: str = ""
    """The end of what the program printed."""
    ending: str = ""
    """Why it came to an end too early; empty = it did not."""


def why_not(mode: Mode) -> str | None:
    """What keeps this machine from running programs in that way; None = it works, which was tried."""
    if sys.platform != "linux":
        return f"programs are confined by means that only Linux has, and this is {platform.system()}"
    if platform.machine() not in MACHINES:
        return f"the filter on system calls is made for {' and '.join(MACHINES)}, and this is {platform.machine()}"
    bwrap = shutil.which("bwrap")
    if mode == "bwrap" and bwrap is None:
        return "bubblewrap (`bwrap`) is not installed"
    return _tried(mode, bwrap)


@cache
def _tried(mode: Mode, _: str | None) -> str | None:
    try:
        found = run("def f(): return 1", "assert f() == 1", mode=mode, limits=Limits())
    except VerifierError as fault:
        return str(fault)
    return None if {"test": "test 1", "passed": True} in found.reports else f"a trial failed: {found}"


def run(program: str, tests: str, *, mode: Mode, limits: Limits) -> Outcome:
    """Runs `tests` against `program`. VerifierError if the sandbox itself does not start."""
    with ExitStack() as stack:
        job, complaint = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        job.write(json.dumps({"program": program, "tests": tests}).encode())
        job.seek(0)
        ends = socket.socketpair()
        with ends[0], ends[1]:
            judged = _Process("program", ends[0], mode, limits, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT)
            stack.enter_context(judged)
            judge = stack.enter_context(_Process("tests", ends[1], mode, limits, stdin=job, stderr=complaint))
        outcome = _watch(judge, judged, limits)
        if {"ready": True} in outcome.reports or outcome.ending:
            return outcome
        complaint.seek(0)
        said = [str(row["refused"]) for row in outcome.reports if "refused" in row]
        said += (outcome.printed or complaint.read(2000).decode(errors="replace")).strip().splitlines()[-1:]
        raise VerifierError(f"the sandbox `{mode}` does not start: {'; '.join(said) or 'no reason is given'}")


def _watch(judge: "_Process", judged: "_Process", limits: Limits) -> Outcome:
    """Reads what both say until the tests are through, or a limit is reached."""
    deadline = time.monotonic() + limits.wall_s
    ending = ""
    while judge.open and not ending:
        _read(judge, judged)
        if judged.total > OUTPUT_BYTES:
            ending = f"it printed more than {OUTPUT_BYTES >> 20} MB"
        elif _overfull(judged.directory):
            ending = f"it wrote more than {DISK_BYTES >> 20} MB, or {DISK_FILES} files"
        elif judge.open and time.monotonic() > deadline:
            ending = f"it did not end within {limits.wall_s:g} s"
    reports: list[dict[str, Any]] = [json.loads(line) for line in judge.said.split(b"\n")[:-1]]
    if not ending and any("ended" in row for row in reports):
        ending = judged.ending(limits)
    elif not ending and {"done": True} not in reports and {"ready": True} in reports:
        ending = "what it returned was too much for the tests to work with"
    judged.kill()
    for _ in range(10):  # what it printed last may still be in the pipe
        if judged.open:
            _read(judged)
    return Outcome(reports=reports, printed=judged.said[-KEPT_BYTES:].decode(errors="replace"), ending=ending)


def _read(*processes: "_Process") -> None:
    """What they have said, waiting for `LOOK_S` at most."""
    with selectors.DefaultSelector() as selector:
        for process in processes:
            if process.open:
                selector.register(process.output, selectors.EVENT_READ, process)
        for key, _ in selector.select(LOOK_S):
            key.data.read()


class _Process:
    """One confined process, its directory, and what it says. Leaving the context kills it and clears up."""

    def __init__(
        self,
        role: str,
        end: socket.socket,
        mode: Mode,
        limits: Limits,
        *,
        stdin: int | IO[bytes],
        stderr: int | IO[bytes],
    ) -> None:
        self.said, self.total, self.open = b"", 0, True
        self.directory = tempfile.mkdtemp(prefix="bbdistill-")
        try:
            self._process = subprocess.Popen(
                _command(role, end.fileno(), self.directory, mode, limits),
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=self.directory,
                # The same hashes always: a verdict must not depend on the order of a set.
                env={"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "HOME": self.directory, "TMPDIR": self.directory},
                pass_fds=[end.fileno()],
                start_new_session=True,
            )
        except OSError as fault:
            os.rmdir(self.directory)
            raise VerifierError(f"the sandbox `{mode}` does not start: {fault}") from None
        assert self._process.stdout is not None
        self.output = self._process.stdout.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()
        # Not shutil.rmtree, which gives up on a directory that is nested deeply enough.
        subprocess.run(["rm", "-rf", "--", self.directory], check=False, stderr=subprocess.DEVNULL)

    def read(self) -> None:
        part = os.read(self.output, 2**16)
        self.open = bool(part)
        self.total += len(part)
        self.said = (self.said + part)[-_SAID_BYTES:]

    def kill(self) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def ending(self, limits: Limits) -> str:
        """Why it left the tests alone."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "it closed its connection to the tests"
        code = 128 - code if code > 128 else code  # bubblewrap passes a signal on as 128 and its number
        match -code:
            case signal.SIGXCPU | signal.SIGKILL:
                return f"it used more than {limits.cpu_s} s of CPU time"
            case number if number > 0:
                return f"it was killed by {signal.Signals(number).name}"
            case _:
                return f"it ended itself, with exit code {code}"


def _command(role: str, fd: int, directory: str, mode: Mode, limits: Limits) -> list[str]:
    readable = sorted({str(_INSIDE), *_SYSTEM, *_python()})
    confined = {
        "memory": limits.memory_mb * 2**20,
        "cpu": limits.cpu_s,
        "file": FILE_BYTES,
        "readable": readable,
        "writable": [directory],
    }
    start = _START.format(root=str(_INSIDE.parent), role=role)
    # As with `-I`, nothing outside is imported or heard; but that would also ignore the fixed hash seed.
    python = [sys.executable, "-s", "-P", "-B", "-u", "-c", start, str(fd), json.dumps(confined)]
    if mode == "rlimits":
        return python
    # By its full path: the new process is given no PATH to look it up in.
    bwrap = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
    ]
    for path in readable:
        bwrap += ["--ro-bind-try", path, path]
    for path in ("/dev/null", "/dev/urandom"):
        bwrap += ["--dev-bind", path, path]
    return [*bwrap, "--bind", directory, directory, "--remount-ro", "/", "--chdir", directory, *python]


def _python() -> set[str]:
    """The directories of this Python and its environment, by every name they go by."""
    found = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent.parent)}
    return found | {str(Path(path).resolve()) for path in found}


def _overfull(directory: str) -> bool:
    """Whether there is more in it than may be. A link counts as itself, a file by the blocks it takes."""
    size, count, open_ends = 0, 0, [directory]
    while open_ends:
        with suppress(OSError), os.scandir(open_ends.pop()) as entries:
            for entry in entries:
                count += 1
                size += entry.stat(follow_symlinks=False).st_blocks * 512
                if count > DISK_FILES or size > DISK_BYTES:
                    return True
                if entry.is_dir(follow_symlinks=False):
                    open_ends.append(entry.path)
    return False
