"""All the questions of one step at once: preferences, corrections, candidates, marks, advice. Async, no torch."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from bbdistill.teacher.judge import check_winner
from bbdistill.teacher.marking import mark
from bbdistill.teacher.revise import Reviser
from bbdistill.teacher.scorer import Scorer, Scores
from bbdistill.teacher.teacher import Teacher
from bbdistill.types import (
    ONCE,
    Abstain,
    Coaching,
    Correction,
    Demonstration,
    Judgement,
    MarkedGroup,
    Preference,
    Prompt,
    Revising,
    Rollout,
    Verdict,
    Verify,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What a step's plan asks: candidates for its prompts, and what is wrong, better or best among its rollouts."""

    pairs: tuple[tuple[Rollout, Rollout], ...] = ()
    corrections: tuple[tuple[Rollout, Verdict | Abstain], ...] = ()
    """Rollouts to mend, with what the verifier says of them."""
    revising: Revising = ONCE
    """How they are mended."""
    candidates: tuple[Prompt, ...] = ()
    per_prompt: int = 0
    """Answers asked for each of `candidates`."""
    groups: tuple[tuple[Rollout, ...], ...] = ()
    """Rollouts of one prompt each, to be marked together."""
    references: int = 0
    """Answers of the teacher that each of `groups` is marked beside."""
    shuffle: str = ""
    """Decides, with the prompt's id, the order in which a group is shown to the judge."""
    coached: tuple[tuple[Rollout, Verdict | Abstain], ...] = ()
    """Rollouts to give advice on, with what the verifier says of them."""
    texts: tuple[tuple[Prompt, str], ...] = ()
    """Answers whose tokens the teacher scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """The answers, in the order of the questions."""

    judgements: tuple[Judgement, ...] = ()
    corrections: tuple[Correction, ...] = ()
    """Accepted or not."""
    unanswered: tuple[tuple[Rollout, Abstain], ...] = ()
    """Rollouts that the teacher gave nothing usable on; they are not among the corrections."""
    candidates: tuple[tuple[Demonstration, ...], ...] = ()
    """For each prompt; those that the teacher abstained from are left out."""
    marked: tuple[MarkedGroup, ...] = ()
    """The groups that got a rubric."""
    coachings: tuple[Coaching, ...] = ()
    """The rollouts that got advice."""
    scores: tuple[Scores | Abstain, ...] = ()

    @property
    def preferences(self) -> tuple[Preference, ...]:
        return tuple(judgement for judgement in self.judgements if isinstance(judgement, Preference))

    @property
    def accepted(self) -> tuple[Correction, ...]:
        return tuple(correction for correction in self.corrections if correction.accepted_by)


async def ask(teacher: Teacher, judge: Teacher, scorer: Scorer, questions: Questions, verify: Verify) -> Feedback:
    """Everything in flight together; the client's gate decides how much of it at once."""
    reviser = Reviser(teacher, judge, verify, questions.revising)
    judgements, mended, candidates, marked, coachings, scores = await asyncio.gather(
        asyncio.gather(*(compared(judge, a.prompt, a.completion, b.completion, verify) for a, b in questions.pairs)),
        asyncio.gather(*(reviser.mend(rollout, verdict) for rollout, verdict in questions.corrections)),
        asyncio.gather(*(_candidates(teacher, prompt, questions.per_prompt) for prompt in questions.candidates)),
        asyncio.gather(*(_marked(teacher, judge, rollouts_G, questions) for rollouts_G in questions.groups)),
        asyncio.gather(*(_coached(teacher, rollout, verdict) for rollout, verdict in questions.coached)),
        scorer.score(questions.texts),
    )
    asked = [rollout for rollout, _ in questions.corrections]
    return Feedback(
        judgements=tuple(judgements),
        corrections=tuple(answer for answer in mended if isinstance(answer, Correction)),
        unanswered=tuple((r, a) for r, a in zip(asked, mended, strict=True) if isinstance(a, Abstain)),
        candidates=tuple(candidates),
        marked=tuple(group for group in marked if isinstance(group, MarkedGroup)),
        coachings=tuple(coaching for coaching in coachings if isinstance(coaching, Coaching)),
        scores=tuple(scores),
    )


async def demonstrations(
    teacher: Teacher, prompts: Sequence[Prompt], *, purpose: str = "demonstrations"
) -> list[Demonstration | Abstain]:
    """The teacher's answer to each prompt, in order."""
    return list(await asyncio.gather(*(teacher.demonstrate(prompt, purpose=purpose) for prompt in prompts)))


async def compared(
    judge: Teacher, prompt: Prompt, a: str, b: str, verify: Verify, *, purpose: str = "preferences"
) -> Judgement:
    """Which of two answers is better; the ledger also learns whether the verifier agrees."""
    judgement = await judge.compare(prompt, a, b, purpose=purpose)
    if isinstance(judgement, Preference):
        of_a, of_b = await asyncio.gather(*(asyncio.to_thread(verify, prompt, text) for text in (a, b)))
        check_winner(judge, judgement, a, (of_a, of_b))
    return judgement


async def _candidates(teacher: Teacher, prompt: Prompt, count: int) -> tuple[Demonstration, ...]:
    answers = await asyncio.gather(*(teacher.demonstrate(prompt, sample=sample) for sample in range(count)))
    return tuple(answer for answer in answers if isinstance(answer, Demonstration))


async def _marked(
    teacher: Teacher, judge: Teacher, rollouts_G: Sequence[Rollout], questions: Questions
) -> MarkedGroup | Abstain:
    shuffle = f"{questions.shuffle}:{rollouts_G[0].prompt.id}"
    return await mark(teacher, judge, rollouts_G, references=questions.references, shuffle=shuffle)


async def _coached(teacher: Teacher, rollout: Rollout, verdict: Verdict | Abstain) -> Coaching | Abstain:
    wrong = verdict.feedback if isinstance(verdict, Verdict) else ""
    advice = await teacher.coach(rollout.prompt, rollout.completion, wrong)
    return advice if isinstance(advice, Abstain) else Coaching(rollout=rollout, advice=advice)
