"""The teacher's answers to the sample, under the cap: asked as a run asks, stored, and never bought twice."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from bbdistill.config import CacheMode, RunConfig
from bbdistill.errors import BudgetExceeded, RunStopped, TeacherError
from bbdistill.metrics import OnEvent, parting
from bbdistill.teacher.teacher import Teacher
from bbdistill.types import Abstain, Demonstration, Prompt

LOOK_EVERY_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What came back: replies in the order of the prompts, and what stands in place of the others."""

    replies: tuple[Demonstration | Abstain | TeacherError | BudgetExceeded, ...]
    spent_usd: float | None

    @property
    def usable(self) -> list[Demonstration]:
        return [reply for reply in self.replies if isinstance(reply, Demonstration)]

    @property
    def told(self) -> list[bool]:
        """Of the calls that were answered, whether the answer was usable."""
        return [
            isinstance(reply, Demonstration) for reply in self.replies if isinstance(reply, Demonstration | Abstain)
        ]

    @property
    def fault(self) -> str:
        """Why some prompts have no answer; empty where all were asked."""
        return next((str(reply) for reply in self.replies if isinstance(reply, TeacherError | BudgetExceeded)), "")


def ask(
    config: RunConfig,
    prompts: Sequence[Prompt],
    *,
    mode: CacheMode,
    replay: str | None,
    on_event: OnEvent,
    stop: threading.Event,
) -> Asked:
    """One answer to each prompt, as far as the cap reaches.

    BudgetExceeded where that is nowhere (or no price is known); RunStopped once calls in flight are stored. A teacher
    that cannot be used is a finding.
    """
    asked = asyncio.run(_ask(config, prompts, mode, replay, on_event, stop))
    over = [reply for reply in asked.replies if isinstance(reply, BudgetExceeded)]
    if over and not asked.told:
        raise over[0]
    return asked


async def _ask(
    config: RunConfig,
    prompts: Sequence[Prompt],
    mode: CacheMode,
    replay: str | None,
    on_event: OnEvent,
    stop: threading.Event,
) -> Asked:
    teacher = Teacher.from_config(config.teacher, mode=mode, replay=replay, templates=config.task.templates)
    async with teacher:
        asking = [asyncio.create_task(_one(teacher, prompt)) for prompt in prompts]
        try:
            while not all(one.done() for one in asking):
                await asyncio.wait(asking, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_EXCEPTION)
                if any(one.done() and one.exception() for one in asking):
                    break
                if stop.is_set():
                    raise RunStopped
                on_event(teacher.progress("asking the teacher", total=len(prompts)))
            return Asked(replies=tuple([await one for one in asking]), spent_usd=teacher.spent_usd)
        except RunStopped:
            await _give_up(teacher, asking)
            raise RunStopped(parting(teacher.spent_usd, "the same command")) from None
        except BaseException:
            await _give_up(teacher, asking)
            raise


async def _one(teacher: Teacher, prompt: Prompt) -> Demonstration | Abstain | TeacherError | BudgetExceeded:
    try:
        return await teacher.demonstrate(prompt)
    except (TeacherError, BudgetExceeded) as fault:
        return fault


async def _give_up(teacher: Teacher, asking: Sequence[asyncio.Task[object]]) -> None:
    """Nothing more is bought; what is on the wire is stored."""
    for one in asking:
        one.cancel()
    await teacher.drain()
    await asyncio.gather(*asking, return_exceptions=True)
