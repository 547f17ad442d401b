"""`math`: a mathematical answer against the prompt's reference, by value and not by letter: 0.75 is \\frac{3}{4}.

What is read and when two expressions are equal is said by the library `math-verify`: the boxed expression counts, else
the last one. Its own time limits need the main thread, so it works in a process that can be stopped from any.
"""

import json
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bbdistill.errors import MissingExtraError, VerifierError
from bbdistill.types import Abstain, Prompt, Verdict
from bbdistill.verify.base import one_line
from bbdistill.verify.text import reference_text

START_S = 60.0
"""For loading the library, once."""


class Math:
    """Score 1 if the answer equals the reference, else 0; abstains where the reference is no expression."""

    def __init__(self, *, limit_s: int = 5, reveal: bool = False) -> None:
        if find_spec("math_verify") is None:
            raise MissingExtraError("the verifier `math` needs a library: `pip install 'bbdistill[math]'`")
        self._limit_s = limit_s
        self._reveal = reveal
        self._worker: _Worker | None = None
        self._one_at_a_time = threading.Lock()

    def __call__(self, prompt: Prompt, answer: str, /) -> Verdict | Abstain:
        expected = _expected(prompt)
        if expected is None:
            return Abstain(reason="no reference text to compare with")
        found = self._ask(expected, answer)
        if found is None and self._ask(expected, "0") is None:
            return Abstain(reason=f"the reference takes over {self._limit_s} s, or too much memory, to work out")
        if found is not None and not found["known"]:
            return Abstain(reason="the reference cannot be read as mathematics")
        if found is not None and found["equal"]:
            return Verdict(score=1.0, passed=True, feedback="")
        return Verdict(score=0.0, passed=False, feedback=self._why(answer, found, expected))

    def _why(self, answer: str, found: Mapping[str, Any] | None, expected: str) -> str:
        if found is None:
            why = f"Working it out takes over {self._limit_s} s, or too much memory; give it in a simpler form."
        elif found["read"] is None:
            empty = (
                "The answer is empty" if not answer.strip() else "No mathematical expression can be read in the answer"
            )
            why = f"{empty}; end with one, as in \\boxed{{...}}."
        else:
            why = f"The answer is wrong; it was read as `{one_line(found['read'], 200)}`."
        return f"{why} It should be {expected}." if self._reveal else why

    def _ask(self, expected: str, answer: str) -> dict[str, Any] | None:
        """None where it takes too long, or more memory than there is."""
        with self._one_at_a_time:
            if self._worker is None:
                self._worker = _Worker()
            request = {"expected": expected, "answer": answer, "limit_s": self._limit_s}
            found = self._worker.ask(request, self._limit_s)
            if found is None:
                self._worker.stop()
                self._worker = None
            return found


class _Worker:
    """The process, once it is ready."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("math_worker.py")
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.stop = weakref.finalize(self, _stop, self._process)
        if self._answer(START_S) is None:
            self.stop()
            raise VerifierError("the verifier `math` cannot load `math_verify`; reinstall `bbdistill[math]`")

    def ask(self, request: Mapping[str, Any], limit_s: float) -> dict[str, Any] | None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        return self._answer(limit_s)

    def _answer(self, limit_s: float) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        said, deadline = b"", time.monotonic() + limit_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not said.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return None
                part = os.read(self._process.stdout.fileno(), 2**16)
                if not part:
                    return None
                said += part
        return json.loads(said)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _expected(prompt: Prompt) -> str | None:
    """A number without an exponent, whose letter would be read as Euler's number."""
    match prompt.reference:
        case float() as number:
            return format(Decimal(repr(number)), "f")
        case _:
            return reference_text(prompt)
