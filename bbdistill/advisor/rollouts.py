"""The student as it is before training: how often it passes, what a reward would tell, and how long a token takes."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import TYPE_CHECKING

from bbdistill.advisor.findings import Figure, bits_of, mean, pass_at_k, passing_bits
from bbdistill.config import RunConfig
from bbdistill.errors import RunStopped
from bbdistill.metrics import Note, OnEvent, Progress
from bbdistill.task import Verify
from bbdistill.types import Prompt, Rollout, SFTExample, Verdict

if TYPE_CHECKING:
    from bbdistill.student.student import Student

AT_ONCE = 8
"""Prompts sampled between two looks at whether to stop, as many as in a step: a token then costs as much as there."""
TIMED = 8
"""Answers trained on to take the time of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Fields of `Findings` with the same names, and what the student said."""

    pass_at_1: Figure
    pass_at_k: Figure
    bits: Figure
    pass_bits: Figure
    zero_variance: Figure
    student_tokens: Figure
    cut: Figure
    answer_tokens: Figure
    nll: Figure
    sample_s: Figure
    train_s: Figure
    texts: Mapping[str, Sequence[str]]
    """By prompt id."""


def draw(
    config: RunConfig,
    prompts: Sequence[Prompt],
    answers: Sequence[tuple[Prompt, str]],
    verify: Verify,
    *,
    k: int,
    on_event: OnEvent,
    stop: threading.Event,
) -> Drawn:
    """k rollouts for each prompt, and `answers` held against the student; without a student, why there is none.

    RunStopped soon after `stop` is set.
    """
    if why := _absent(config):
        return _nothing(why)
    from bbdistill.student.student import open_student

    on_event(Note(text=f"student: {k} rollouts for each of {len(prompts)} prompts, before any training"))
    student, _ = open_student(config)
    groups: list[list[Rollout]] = []
    started = time.perf_counter()
    for first in range(0, len(prompts), AT_ONCE):
        _look(stop)
        groups += student.sample(prompts[first : first + AT_ONCE], group_size=k, step=0)
        on_event(Progress(what="sampling the student", done=len(groups), total=len(prompts)))
    sampled_s = time.perf_counter() - started
    _look(stop)
    return _figures(groups, sampled_s, k, verify, _Answered.measure(student, answers))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    """Somebody else's answers under the student."""

    tokens: Figure
    nll: Figure
    train_s: Figure

    @classmethod
    def measure(cls, student: "Student", answers: Sequence[tuple[Prompt, str]]) -> "_Answered":
        """Trains on a few of them last of all, so that every other figure is of the untrained student."""
        chat = student.base.chat
        length = [len(chat.completion_ids(prompt.messages, text)) for prompt, text in answers]
        fits = [
            (answer, tokens)
            for answer, tokens in zip(answers, length, strict=True)
            if len(chat.prompt_ids(answer[0].messages)) + tokens <= student.base.context
        ]
        why = "there are no answers" if not answers else f"no answer fits into {student.base.context} tokens"
        nll = mean(student.nll([answer for answer, _ in fits]), why)
        timed = fits[:TIMED]
        shown = [SFTExample(prompt=prompt, text=text) for (prompt, text), _ in timed]
        student.update([], shown[:1], learning_rate=0.0)  # the first step of all pays for what later ones reuse
        started = time.perf_counter()
        student.update([], shown, learning_rate=0.0)
        trained_s = time.perf_counter() - started
        train_s = _per_token(trained_s, sum(tokens for _, tokens in timed), why)
        return cls(tokens=mean(length, why), nll=nll, train_s=train_s)


def _figures(
    groups: Sequence[Sequence[Rollout]], sampled_s: float, k: int, verify: Verify, answered: _Answered
) -> Drawn:
    judged = [[verify(rollout.prompt, rollout.completion) for rollout in group] for group in groups]
    # A group that the verifier abstains from, in whole or in part, says nothing of a rate.
    whole = [[v for v in group if isinstance(v, Verdict)] for group in judged]
    whole = [group for group in whole if len(group) == k]
    passes = [sum(verdict.passed for verdict in group) for group in whole]
    why = "the verifier abstains, or there is none"
    lengths = [len(rollout.token_ids) for group in groups for rollout in group]
    return Drawn(
        pass_at_1=mean((c / k for c in passes), why),
        pass_at_k=mean((pass_at_k(k, c, k) for c in passes), why),
        bits=mean((bits_of(c / k) for c in passes), why),
        pass_bits=mean((passing_bits(c / k) for c in passes), why),
        zero_variance=mean((len({verdict.score for verdict in group}) == 1 for group in whole), why),
        student_tokens=mean(lengths),
        cut=mean(rollout.stop_reason == "length" for group in groups for rollout in group),
        answer_tokens=answered.tokens,
        nll=answered.nll,
        sample_s=_per_token(sampled_s, sum(lengths), why),
        train_s=answered.train_s,
        texts={group[0].prompt.id: [rollout.completion for rollout in group] for group in groups},
    )


def _absent(config: RunConfig) -> str:
    """Why there is no student to measure."""
    if config.student is None:
        return "the config has no `[student]` table"
    missing = [name for name in ("torch", "transformers", "peft") if find_spec(name) is None]
    return f"{', '.join(missing)} not installed: `pip install 'bbdistill[train]'`" if missing else ""


def _nothing(why: str) -> Drawn:
    figures = {each.name: Figure(why=why) for each in fields(Drawn) if each.name != "texts"}
    return Drawn(**figures, texts={})


def _per_token(seconds: float, tokens: int, why: str) -> Figure:
    return Figure(value=seconds / tokens, n=tokens, why="") if tokens else Figure(why=why)


def _look(stop: threading.Event) -> None:
    if stop.is_set():
        raise RunStopped("asked to stop while the student was measured")
