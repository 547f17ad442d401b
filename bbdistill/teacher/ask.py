"""All the questions of one step at once: demonstrations, preferences, corrections. Async, no torch."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from bbdistill.teacher.judge import check_winner
from bbdistill.teacher.teacher import Teacher
from bbdistill.types import Abstain, Correction, Demonstration, Judgement, Preference, Prompt, Rollout, Verdict

Verify: TypeAlias = Callable[[Prompt, str], Verdict | Abstain]


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What a step's plan asks: which of two rollouts is better, and how to mend a rollout that got this verdict."""

    pairs: tuple[tuple[Rollout, Rollout], ...] = ()
    corrections: tuple[tuple[Rollout, Verdict | Abstain], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """The answers, in the order of the questions."""

    judgements: tuple[Judgement, ...] = ()
    corrections: tuple[Correction, ...] = ()
    """Accepted or not; questions the teacher abstained from are left out."""

    @property
    def preferences(self) -> tuple[Preference, ...]:
        return tuple(judgement for judgement in self.judgements if isinstance(judgement, Preference))

    @property
    def accepted(self) -> tuple[Correction, ...]:
        return tuple(correction for correction in self.corrections if correction.accepted_by)


async def ask(teacher: Teacher, judge: Teacher, questions: Questions, verify: Verify) -> Feedback:
    """Everything in flight together; the client's gate decides how much of it at once."""
    mends = (_correct(teacher, judge, rollout, verdict, verify) for rollout, verdict in questions.corrections)
    judgements, corrections = await asyncio.gather(
        asyncio.gather(*(_compare(judge, a, b, verify) for a, b in questions.pairs)), asyncio.gather(*mends)
    )
    return Feedback(judgements=tuple(judgements), corrections=tuple(c for c in corrections if c is not None))


async def demonstrations(
    teacher: Teacher, prompts: Sequence[Prompt], *, purpose: str = "demonstrations"
) -> list[Demonstration | Abstain]:
    """The teacher's answer to each prompt, in order."""
    return list(await asyncio.gather(*(teacher.demonstrate(prompt, purpose=purpose) for prompt in prompts)))


async def _compare(judge: Teacher, a: Rollout, b: Rollout, verify: Verify) -> Judgement:
    judgement = await judge.compare(a.prompt, a.completion, b.completion)
    of_a, of_b = await asyncio.gather(*(asyncio.to_thread(verify, one.prompt, one.completion) for one in (a, b)))
    check_winner(judge, judgement, a.completion, (of_a, of_b))
    return judgement


async def _correct(
    teacher: Teacher, judge: Teacher, rollout: Rollout, verdict: Verdict | Abstain, verify: Verify
) -> Correction | None:
    """One correction and whether it may be imitated.

    The verifier decides where it can: the correction passes and the rollout did not. Where it cannot tell them apart
    (both pass, or it has nothing to say), the judge must prefer the correction in both orders.
    """
    feedback = verdict.feedback if isinstance(verdict, Verdict) else ""
    fix = await teacher.correct(rollout.prompt, rollout.completion, feedback)
    if isinstance(fix, Abstain):
        return None
    correction = Correction(rollout=rollout, text=fix.text, reason=feedback or fix.reason, accepted_by=None)
    if fix.text == rollout.completion:
        return correction
    # In a thread: a verifier may run a program for seconds, and the network must not wait for that.
    mended = await asyncio.to_thread(verify, rollout.prompt, fix.text)
    match verdict, mended:
        case Verdict(passed=False), Verdict(passed=True):
            return replace(correction, accepted_by="verifier")
        case (Verdict(passed=True), Verdict(passed=True)) | (Abstain(), Abstain()):
            judgement = await judge.compare(rollout.prompt, fix.text, rollout.completion, purpose="corrections")
            check_winner(judge, judgement, fix.text, (mended, verdict))
            preferred = isinstance(judgement, Preference) and judgement.chosen == fix.text
            return replace(correction, accepted_by="preference") if preferred else correction
        case _:
            return correction
