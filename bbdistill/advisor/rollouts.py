"""The student as it is before training: how often it passes, what a reward would tell, and how long a token takes."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from bbdistill import extras
from bbdistill.advisor.checked import Case, Checked, look
from bbdistill.advisor.findings import Figure, bits_of, mean, pass_at_k, passing_bits
from bbdistill.config import RunConfig
from bbdistill.metrics import Note, OnEvent, Progress
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


def absent(config: RunConfig) -> str:
    """Why there is no student to measure; empty where there is one."""
    return "the config has no `[student]` table" if config.student is None else not_installed()


def not_installed() -> str:
    """What a model in this process lacks; empty where it lacks nothing."""
    return f"{extras.missing()} not installed: `{extras.INSTALL}`" if extras.missing() else ""


def load(config: RunConfig, on_event: OnEvent) -> "Student | None":
    """The untrained student; None where it is `absent`. ConfigError where it cannot be loaded."""
    if absent(config):
        return None
    from bbdistill.student.open import open_student

    on_event(Note(text=f"loading the student `{config.require_student().model}`"))
    student, _ = open_student(config.model_copy(update={"recipe": "sft"}))  # no discriminator is needed
    return student


def draw(
    student: "Student",
    prompts: Sequence[Prompt],
    answers: Sequence[Case],
    check: Checked,
    *,
    k: int,
    on_event: OnEvent,
    stop: threading.Event,
) -> Drawn:
    """k rollouts for each prompt, and somebody else's `answers` held against the student.

    RunStopped soon after `stop` is set.
    """
    on_event(Note(text=f"student: {k} rollouts for each of {len(prompts)} prompts, before any training"))
    groups: list[list[Rollout]] = []
    started = time.perf_counter()
    for first in range(0, len(prompts), AT_ONCE):
        look(stop)
        groups += student.sample(prompts[first : first + AT_ONCE], group_size=k, step=0)
        on_event(Progress(what="sampling the student", done=len(groups), total=len(prompts)))
    sampled_s = time.perf_counter() - started
    look(stop)
    own = [(rollout.prompt, rollout.completion) for group in groups for rollout in group]
    return _figures(groups, sampled_s, k, check, _Answered.measure(student, answers, own))


def undrawn(why: str) -> Drawn:
    """Of a student that there is not."""
    figures = {each.name: Figure(why=why) for each in fields(Drawn) if each.name != "texts"}
    return Drawn(**figures, texts={})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    """Somebody else's answers under the student."""

    tokens: Figure
    nll: Figure
    train_s: Figure

    @classmethod
    def measure(cls, student: "Student", answers: Sequence[Case], own: Sequence[Case]) -> "_Answered":
        """Trains on a few of them, else of its `own`, last of all: every other figure is of the untrained student."""
        chat = student.base.chat
        length = [len(chat.completion_ids(prompt.messages, text)) for prompt, text in answers]
        fits = [
            (prompt, text)
            for (prompt, text), tokens in zip(answers, length, strict=True)
            if len(chat.prompt_ids(prompt.messages)) + tokens <= student.base.context
        ]
        why = f"no answer fits into {student.base.context} tokens" if answers else "there are no answers"
        nll = mean(student.nll(fits), why)
        shown = [SFTExample(prompt=prompt, text=text) for prompt, text in (fits or own)[:TIMED]]
        student.update([], shown[:1], learning_rate=0.0)  # the first step of all pays for what later ones reuse
        started = time.perf_counter()
        trained = student.update([], shown, learning_rate=0.0)
        trained_s = time.perf_counter() - started
        train_s = _per_token(trained_s, int(trained["optim/tokens"]), "nothing was sampled")
        return cls(tokens=mean(length, why), nll=nll, train_s=train_s)


def _figures(
    groups: Sequence[Sequence[Rollout]], sampled_s: float, k: int, check: Checked, answered: _Answered
) -> Drawn:
    rollouts = [rollout for group in groups for rollout in group]
    verdicts = iter(check.judge([(rollout.prompt, rollout.completion) for rollout in rollouts], "rollouts"))
    judged = [[(next(verdicts), rollout.stop_reason == "stop") for rollout in group] for group in groups]
    # A group that the verifier abstains from, in whole or in part, says nothing of a rate.
    whole = [[(verdict, ended) for verdict, ended in group if isinstance(verdict, Verdict)] for group in judged]
    whole = [group for group in whole if len(group) == k]
    passes = [sum(verdict.passed and ended for verdict, ended in group) for group in whole]
    why = "the verifier abstains, or there is none"
    lengths = [len(rollout.token_ids) for rollout in rollouts]
    return Drawn(
        pass_at_1=mean((c / k for c in passes), why),
        pass_at_k=mean((pass_at_k(k, c, k) for c in passes), why),
        bits=mean((bits_of(c / k) for c in passes), why),
        pass_bits=mean((passing_bits(c / k) for c in passes), why),
        zero_variance=mean((len({verdict.score for verdict, _ in group}) == 1 for group in whole), why),
        student_tokens=mean(lengths),
        cut=mean(rollout.stop_reason == "length" for rollout in rollouts),
        answer_tokens=answered.tokens,
        nll=answered.nll,
        sample_s=_per_token(sampled_s, sum(lengths), "nothing was sampled"),
        train_s=answered.train_s,
        texts={group[0].prompt.id: [rollout.completion for rollout in group] for group in groups},
    )


def _per_token(seconds: float, tokens: int, why: str) -> Figure:
    return Figure(value=seconds / tokens, n=tokens, why="") if tokens else Figure(why=why)
