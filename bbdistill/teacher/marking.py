"""A group of answers, marked: the teacher writes one rubric for it, the judge marks all answers blind. No torch."""

import asyncio
from collections.abc import Sequence

from bbdistill.teacher.teacher import Teacher
from bbdistill.types import Abstain, Author, Criterion, Demonstration, Mark, MarkedAnswer, MarkedGroup, Rollout


async def mark(
    teacher: Teacher, judge: Teacher, rollouts_G: Sequence[Rollout], *, references: int, shuffle: str
) -> MarkedGroup | Abstain:
    """The rollouts of one prompt beside so many answers of the teacher (ROPD, arXiv 2605.07396).

    One answer of the teacher, or a rubric for each answer instead of one for all, was much worse there, and so was a
    judge that knew whose answers they were. `shuffle` decides the order in which it sees them.
    """
    prompt = rollouts_G[0].prompt
    asked = await asyncio.gather(*(teacher.demonstrate(prompt, sample=sample) for sample in range(references)))
    taught = [answer.completion for answer in asked if isinstance(answer, Demonstration)]
    if not taught:
        return Abstain(reason="the teacher gave no answer to hold the student's against")
    drafts = [rollout.completion for rollout in rollouts_G]
    criteria = await teacher.criteria(prompt, list(dict.fromkeys(taught)), list(dict.fromkeys(drafts)))
    if isinstance(criteria, Abstain):
        return criteria
    said = [criterion.text for criterion in criteria]
    marks = await judge.rubric(prompt, [*taught, *drafts], said, purpose="rubric", shuffle=shuffle)
    by_teacher, by_student = marks[: len(taught)], marks[len(taught) :]
    answers = [
        *(_marked("teacher", text, found, criteria) for text, found in zip(taught, by_teacher, strict=True)),
        *(_marked("student", text, found, criteria) for text, found in zip(drafts, by_student, strict=True)),
    ]
    return MarkedGroup(prompt=prompt, criteria=criteria, answers=tuple(answers))


def _marked(author: Author, text: str, found: Sequence[Mark] | Abstain, criteria: Sequence[Criterion]) -> MarkedAnswer:
    if isinstance(found, Abstain):
        return MarkedAnswer(author=author, text=text)
    return MarkedAnswer(author=author, text=text, marks=tuple(found), score=score(criteria, found))


def score(criteria: Sequence[Criterion], marks: Sequence[Mark]) -> float:
    """The points of the criteria that are met, as a share of all points."""
    met = sum(criterion.points for criterion, mark in zip(criteria, marks, strict=True) if mark.met)
    return met / sum(criterion.points for criterion in criteria)
