"""The teacher's answers to the sample, under the cap: asked as a run asks, stored, and never bought twice."""

import asyncio
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from bbdistill.advisor.rollouts import not_installed
from bbdistill.config import CacheMode, RunConfig
from bbdistill.errors import BudgetExceeded, MissingExtraError, TeacherError
from bbdistill.metrics import Note, OnEvent, parting
from bbdistill.teacher.base import InProcess
from bbdistill.teacher.connect import connect
from bbdistill.teacher.judge import teacher_and_judge
from bbdistill.teacher.teacher import Teacher
from bbdistill.types import Abstain, Demonstration, Prompt

Reply: TypeAlias = Demonstration | Abstain | TeacherError | BudgetExceeded
AGAIN = "the same command"
"""How to go on after a stop."""
LOOK_EVERY_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What came back: replies in the order of the prompts, and what stands in place of the others."""

    replies: tuple[Reply, ...]
    """Fewer than there were prompts where the user said stop, or the teacher turned out to be unusable."""
    spent_usd: float | None

    @property
    def usable(self) -> list[Demonstration]:
        return [reply for reply in self.replies if isinstance(reply, Demonstration)]

    @property
    def abstained(self) -> int:
        """Calls that were answered with nothing usable."""
        return sum(isinstance(reply, Abstain) for reply in self.replies)

    @property
    def answered(self) -> int:
        return len(self.usable) + self.abstained

    @property
    def fault(self) -> str:
        """Why some prompts have no answer; empty where all were asked."""
        return next((str(reply) for reply in self.replies if isinstance(reply, TeacherError | BudgetExceeded)), "")


def open_teacher(config: RunConfig, on_event: OnEvent) -> InProcess | None:
    """The teacher where it is a model in this process, else None.

    ConfigError where it cannot be loaded; MissingExtraError where what it takes is not installed.
    """
    if not config.teacher.is_local:
        return None
    if why := not_installed():
        raise MissingExtraError(f"the teacher `{config.teacher.model}` is a model in this process; {why}")
    from bbdistill.local import open_local

    on_event(Note(text=f"loading the teacher `{config.teacher.model}`"))
    return open_local(config.teacher.model_name, top_k=config.distill.top_k)


def ask(
    config: RunConfig,
    prompts: Sequence[Prompt],
    *,
    mode: CacheMode,
    replay: str | None,
    on_event: OnEvent,
    stop: threading.Event,
    local: InProcess | None = None,
) -> Asked:
    """One answer to each prompt, as far as the cap reaches, or until `stop` is set; calls in flight are awaited.

    `local` answers for a teacher in this process. BudgetExceeded where the cap allows not one. A teacher that cannot be
    used is a finding.
    """
    asked = asyncio.run(_connected(config, prompts, mode, replay, on_event, stop, local))
    over = [reply for reply in asked.replies if isinstance(reply, BudgetExceeded)]
    if over and not asked.answered:
        raise over[0]
    return asked


async def _connected(
    config: RunConfig,
    prompts: Sequence[Prompt],
    mode: CacheMode,
    replay: str | None,
    on_event: OnEvent,
    stop: threading.Event,
    local: InProcess | None,
) -> Asked:
    connection = connect(config.teacher, mode=mode, replay=replay, local=local)
    teacher, _ = teacher_and_judge(config, connection)
    try:
        return await _ask(teacher, prompts, on_event, stop)
    finally:
        await connection.close()


async def _ask(teacher: Teacher, prompts: Sequence[Prompt], on_event: OnEvent, stop: threading.Event) -> Asked:
    asking = [asyncio.create_task(_one(teacher, prompt)) for prompt in prompts]
    pending = set(asking)
    try:
        while pending and not stop.is_set() and not any(_hopeless(one) for one in asking):
            _, pending = await asyncio.wait(pending, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
            on_event(teacher.progress("asking the teacher", total=len(prompts)))
        await _give_up(teacher, pending)
        replies = [one.result() for one in asking if not one.cancelled()]
    except BaseException:
        await _give_up(teacher, pending)
        if teacher.spent_usd != 0:
            on_event(Note(text=parting(teacher.spent_usd, AGAIN)))
        raise
    return Asked(replies=tuple(replies), spent_usd=teacher.spent_usd)


async def _one(teacher: Teacher, prompt: Prompt) -> Reply:
    try:
        return await teacher.demonstrate(prompt)
    except (TeacherError, BudgetExceeded) as fault:
        return fault


def _hopeless(one: asyncio.Task[Reply]) -> bool:
    """Whether it ended in a way that every other call would: a teacher, a record or a store that cannot be used."""
    return one.done() and (one.exception() is not None or isinstance(one.result(), TeacherError))


async def _give_up(teacher: Teacher, waiting: Collection[asyncio.Task[Reply]]) -> None:
    """Nothing more is bought; what is on the wire is stored."""
    for one in waiting:
        one.cancel()
    await teacher.drain()
    await asyncio.gather(*waiting, return_exceptions=True)
