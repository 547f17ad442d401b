"""Holds a file of answers against a verifier: `bbdistill verify`. Needs no student, and a teacher only for a rubric."""

import os
import threading
import tomllib
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from bbdistill import verify
from bbdistill.client.loop import LoopThread
from bbdistill.config import RunConfig, Settings
from bbdistill.config.models import TeacherConfig
from bbdistill.configfile import teacher_config
from bbdistill.data import load_prompts
from bbdistill.errors import ConfigError, RunStopped
from bbdistill.metrics import parting
from bbdistill.task import resolve
from bbdistill.teacher.teacher import Teacher
from bbdistill.teacher.wait import waited
from bbdistill.types import Abstain, Demonstration, Mark, Prompt, Verdict
from bbdistill.verify.rubric import Ask

ASKED_AT_ONCE = 16


def verify_file(
    answers: Path,
    *,
    config: Path | None = None,
    specs: Sequence[str] = (),
    reveal: bool = False,
    judge: str | None = None,
    base_url: str | None = None,
    replay: str | None = None,
    max_usd: float | None = None,
    overrides: tuple[str, ...] = (),
    skip_bad: bool = False,
    say: Callable[[str], None],
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Counts of passed, failed and not judged completions of a JSONL file; says what is wrong with each that fails.

    `specs` are verifiers as in a config, a table written as `{ use = "...", ... }`; without any, the config's are used.
    `judge` is the `provider:model` that a rubric asks; without one, the config's judge.
    Setting `stop` ends it with RunStopped once those that are being judged are.
    """
    stop = stop or threading.Event()
    settings = Settings(overrides=overrides, max_usd=max_usd)
    resolved = resolve(config, settings) if config is not None else None
    chosen = [spec for text in specs for spec in _specs(text)] or _of_config(resolved)
    reveal = reveal or (resolved is not None and resolved.task.reveal)
    given = load_prompts(answers, skip_bad=skip_bad, answered=True).answers
    if not verify.asks(chosen):
        check = verify.load(chosen, base=Path(), reveal=reveal)
        return _count(given, check, say, stop, workers=os.cpu_count() or 1)
    asked = _judge(resolved, judge, base_url, max_usd)
    teacher = Teacher.from_config(asked, replay=replay, templates=resolved.task.templates if resolved else None)
    with _asking(teacher, stop) as ask:
        check = verify.load(chosen, base=Path(), reveal=reveal, ask=ask)
        try:
            counts = _count(given, check, say, stop, workers=ASKED_AT_ONCE)
        except RunStopped:
            raise RunStopped(parting(teacher.spent_usd, "the same command")) from None
        return {**counts, "teacher": teacher.ledger.summary()}


def _count(
    given: Sequence[Demonstration],
    check: verify.Verifier,
    say: Callable[[str], None],
    stop: threading.Event,
    *,
    workers: int,
) -> dict[str, Any]:
    counts = {"passed": 0, "failed": 0, "abstained": 0}
    scores: list[float] = []

    def judged(row: Demonstration) -> Verdict | Abstain:
        if stop.is_set():
            raise RunStopped("stopped; nothing was asked of a teacher")
        return check(row.prompt, row.completion)

    with ThreadPoolExecutor(workers) as pool:
        try:
            verdicts = pool.map(judged, given)
            for row, verdict in zip(given, verdicts, strict=True):
                match verdict:
                    case Abstain(reason=reason):
                        counts["abstained"] += 1
                        say(f"{row.prompt.id}: not judged: {reason}")
                    case Verdict(score=score, passed=passed, feedback=feedback):
                        scores.append(score)
                        counts["passed" if passed else "failed"] += 1
                        if not passed:
                            say(f"{row.prompt.id}: {feedback}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return {**counts, "score": sum(scores) / len(scores) if scores else None}


@contextmanager
def _asking(teacher: Teacher, stop: threading.Event) -> Generator[Ask]:
    """The teacher as a rubric asks it: from any thread, waiting for the answer until `stop`."""
    loop = LoopThread()

    def ask(prompt: Prompt, answer: str, criteria: Sequence[str]) -> Sequence[Mark] | Abstain:
        asking = teacher.rubric(prompt, [answer], criteria)
        return loop.run(waited(teacher, asking, "judging", total=1, on_event=lambda _: None, stop=stop))[0]

    try:
        loop.run(teacher.__aenter__())
        try:
            yield ask
        finally:
            loop.run(teacher.__aexit__())
    finally:
        loop.close()


def _specs(text: str) -> Sequence[verify.Spec]:
    """What one `--verifier` says: a name, a table, or a list of these."""
    if not text.lstrip().startswith(("{", "[")):
        return [text]
    try:
        found: Any = tomllib.loads(f"spec = {text}")["spec"]
        return cast(Sequence[verify.Spec], found) if isinstance(found, list) else [found]
    except (ValueError, RecursionError) as fault:  # the rest is of numbers too long and tables too deep
        raise ConfigError(f'--verifier {text}: not a TOML table such as {{ use = "fields" }}: {fault}') from None


def _of_config(config: RunConfig | None) -> verify.Spec | Sequence[verify.Spec]:
    if config is None:
        raise ConfigError("nothing to verify with: give the TOML file of a task first, or `--verifier SPEC`")
    if not config.task.verifier:
        raise ConfigError("nothing to verify with: the task has no `verifier`; add one, or give `--verifier SPEC`")
    return config.task.verifier


def _judge(config: RunConfig | None, judge: str | None, base_url: str | None, max_usd: float | None) -> TeacherConfig:
    if judge is not None:
        return teacher_config(model=judge, base_url=base_url, max_usd=max_usd)
    if config is None:
        raise ConfigError("a rubric is judged by a hosted model: name it with `--teacher provider:model`")
    return config.judge_config
