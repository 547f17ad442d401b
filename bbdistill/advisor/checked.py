"""The verifier as `advise` asks it: twice about every text, once and for all, and no more once the user says stop."""

import threading
import time
from collections.abc import Sequence
from typing import TypeAlias

from bbdistill.advisor.findings import Figure, mean
from bbdistill.errors import RunStopped
from bbdistill.metrics import OnEvent, Progress
from bbdistill.types import Abstain, Prompt, Verdict, Verify

Case: TypeAlias = tuple[Prompt, str]
"""A prompt, and a text to be judged as an answer to it."""


QUIET_S = 2.0
"""Most verifiers judge everything in less."""


class Checked:
    """Its first verdict on a text counts; whether the second one was the same is what `steady` says.

    RunStopped soon after `stop` is set; what the verifier raises goes through.
    """

    def __init__(self, verify: Verify, *, on_event: OnEvent, stop: threading.Event) -> None:
        self._verify, self._on_event, self._stop = verify, on_event, stop
        self._known: dict[tuple[str, str], Verdict | Abstain] = {}
        self._same: list[bool] = []
        self.abstained = ""
        """Why it had nothing to say, the last time; empty where it always had."""

    def judge(self, cases: Sequence[Case], what: str) -> list[Verdict | Abstain]:
        """A verdict for each, in order; where it takes a while, `what` they are is told with the progress."""
        verdicts: list[Verdict | Abstain] = []
        started = time.monotonic()
        for prompt, text in cases:
            verdicts.append(self(prompt, text))
            if time.monotonic() - started > QUIET_S:
                self._on_event(Progress(what=f"verifier: {what}", done=len(verdicts), total=len(cases)))
        return verdicts

    def __call__(self, prompt: Prompt, text: str) -> Verdict | Abstain:
        place = prompt.id, text
        if place not in self._known:
            look(self._stop)
            first, second = self._verify(prompt, text), self._verify(prompt, text)
            self._known[place] = first
            if isinstance(first, Verdict) or isinstance(second, Verdict):
                self._same.append(_said(first) == _said(second))
            if isinstance(first, Abstain):
                self.abstained = f"it abstains: {first.reason}"
        return self._known[place]

    def steady(self) -> Figure:
        """Texts that got the same verdict twice, of all that got one."""
        return mean(self._same, self.abstained or "there was nothing to judge")

    def telling(self) -> Figure:
        """Different texts of feedback for each rejection of an answer that is not empty."""
        said = [
            verdict.feedback
            for (_, text), verdict in self._known.items()
            if text and isinstance(verdict, Verdict) and not verdict.passed
        ]
        if not said:
            return Figure(why="nothing was rejected")
        return Figure(value=len({text for text in said if text}) / len(said), n=len(said), why="")


def look(stop: threading.Event) -> None:
    """RunStopped where the user said stop."""
    if stop.is_set():
        raise RunStopped


def _said(verdict: Verdict | Abstain) -> tuple[bool, float] | None:
    """What counts of a verdict; its words may differ."""
    return (verdict.passed, verdict.score) if isinstance(verdict, Verdict) else None
