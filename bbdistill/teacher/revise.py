"""How a student's answer is mended: the smallest edit, told what is wrong, again until it may be imitated. No torch."""

import asyncio
from dataclasses import replace

from bbdistill.teacher import parse
from bbdistill.teacher.judge import check_winner
from bbdistill.teacher.teacher import Teacher
from bbdistill.types import Abstain, Correction, Critique, Preference, Prompt, Revising, Rollout, Verdict, Verify


class Reviser:
    """Mends answers one by one; every request follows from the replies before it, so that a replay asks the same."""

    def __init__(self, teacher: Teacher, judge: Teacher, verify: Verify, how: Revising) -> None:
        self._teacher, self._judge, self._verify, self._how = teacher, judge, verify, how

    async def mend(self, rollout: Rollout, verdict: Verdict | Abstain) -> Correction | Abstain:
        """The correction and whether it may be imitated; an Abstain where the teacher gave nothing usable.

        The verifier decides where it can: the correction passes and the rollout did not. Where it cannot tell them
        apart (both pass, or it has nothing to say), the judge must prefer the correction in both orders. Only what the
        verifier still finds wrong is revised again: without a word about it there is nothing new to go by.
        """
        newest, told, start = rollout.completion, verdict, len(rollout.completion)
        remarks: list[str] = []
        correction = Correction(rollout=rollout, text=newest, reason="", accepted_by=None)
        for number in range(1, self._how.limit + 1):
            critique = await self._critique(rollout.prompt, newest, told)
            if isinstance(critique, Abstain):
                return critique
            if critique is not None and critique.span is None:
                return replace(correction, refused="the teacher finds nothing wrong")
            feedback = _feedback(told, critique, newest)
            fix = await self._teacher.correct(rollout.prompt, newest, feedback)
            if isinstance(fix, Abstain):
                return fix
            remarks += [line for line in (feedback, fix.reason) if line]
            correction = replace(correction, text=fix.text, reason=feedback or fix.reason, revisions=number)
            if fix.text == newest:
                return replace(correction, refused="the teacher left it as it was")
            if critique is not None and critique.span is not None:
                kept = newest[: critique.span[0]]
                rest = parse.end_of(kept, fix.text)
                if rest is None:
                    return replace(correction, refused="the teacher changed what stands before the quoted part")
                # Teachers set out anew what they should leave alone; the student's own spacing stays.
                text, start = kept + fix.text[rest:], min(start, len(kept))
                correction = replace(correction, text=text, region=_region(rollout.completion, text, start))
            # In a thread: a verifier may run a program for seconds, and the network must not wait for that.
            mended = await asyncio.to_thread(self._verify, rollout.prompt, correction.text)
            settled = await self._settle(correction, verdict, mended)
            if settled.accepted_by is not None:
                return await self._with_strategy(settled, remarks)
            if not isinstance(mended, Verdict) or mended.passed:
                return settled
            newest, told, correction = settled.text, mended, settled
        return correction

    async def _critique(self, prompt: Prompt, answer: str, told: Verdict | Abstain) -> Critique | Abstain | None:
        """None where nobody asks for one."""
        return await self._teacher.critique(prompt, answer, _said(told)) if self._how.quoted else None

    async def _settle(
        self, correction: Correction, verdict: Verdict | Abstain, mended: Verdict | Abstain
    ) -> Correction:
        """The correction, accepted or refused. `verdict` is that of the student's own answer."""
        match verdict, mended:
            case Verdict(passed=False), Verdict(passed=True):
                return replace(correction, accepted_by="verifier", refused="")
            case (Verdict(passed=True), Verdict(passed=True)) | (Abstain(), Abstain()):
                return await self._preferred(correction, verdict, mended)
            case _, Verdict(passed=False, feedback=still):
                return replace(correction, refused="the verifier still finds it wrong", reason=still)
            case _:
                return replace(correction, refused="the verifier can judge only one of the two")

    async def _preferred(
        self, correction: Correction, verdict: Verdict | Abstain, mended: Verdict | Abstain
    ) -> Correction:
        rollout = correction.rollout
        judgement = await self._judge.compare(
            rollout.prompt, correction.text, rollout.completion, purpose="corrections"
        )
        check_winner(self._judge, judgement, correction.text, (mended, verdict))
        if isinstance(judgement, Preference) and judgement.chosen == correction.text:
            return replace(correction, accepted_by="preference", refused="")
        return replace(correction, refused="the judge does not prefer it in both orders")

    async def _with_strategy(self, correction: Correction, remarks: list[str]) -> Correction:
        if not self._how.strategy:
            return correction
        found = await self._teacher.strategy(correction.rollout.prompt, "\n".join(dict.fromkeys(remarks)))
        return correction if isinstance(found, Abstain) else replace(correction, strategy=found)


def _said(told: Verdict | Abstain) -> str:
    return told.feedback if isinstance(told, Verdict) else ""


def _feedback(told: Verdict | Abstain, critique: Critique | None, answer: str) -> str:
    """What the teacher is told before it edits: the verifier's words, then its own quote."""
    if critique is None or critique.span is None:
        return _said(told)
    first, last = critique.span
    quoted = f"The answer first goes wrong here: {answer[first:last]}\n{critique.why}".strip()
    return "\n".join(filter(None, (_said(told), quoted)))


def _region(draft: str, text: str, start: int) -> tuple[int, int]:
    """Characters of `text` from `start` to where it is the draft's again; never empty.

    Where words were only taken out, it is the character that follows: what comes instead of them. Where nothing is the
    draft's again, it reaches one beyond the text, which stands for the end of the turn.
    """
    old, new = draft[start:], text[start:]
    shared = 0
    while shared < min(len(old), len(new)) and old[-1 - shared] == new[-1 - shared]:
        shared += 1
    end = len(text) - shared
    return start, max(end, start + 1) if shared else len(text) + 1
