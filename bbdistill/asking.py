"""What one call of each verb about the student's answers takes, at least and at most: weighed, not sent. No network."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from bbdistill.config import RunConfig
from bbdistill.config.models import TeacherConfig
from bbdistill.task import Task
from bbdistill.teacher.parse import MOST_CRITERIA
from bbdistill.teacher.teacher import TOKENS_PER_MARK, Teacher
from bbdistill.teacher.weigh import Scale
from bbdistill.types import Prompt

Range: TypeAlias = tuple[int, int]
"""At least, at most."""
Verb: TypeAlias = Callable[[Teacher, Prompt], Coroutine[Any, Any, object]]

ANSWER_BYTES_PER_TOKEN = 8
"""More than the tokens of any whole answer come to on average, escapes of JSON included."""
FEEDBACK_BYTES = 2000
"""More than a verifier says of one answer."""
TAG_BYTES = 50
"""More than stands around one answer among others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Calls of one template: how many, and the bytes of those that must be paid for, all together."""

    asked: TeacherConfig
    provider: str
    """Of the model asked, as the price table names it."""
    template: str
    calls: Range
    cached: int
    size: Range
    room: int
    """Tokens that one reply may have."""

    @property
    def paid(self) -> Range:
        return max(0, self.calls[0] - self.cached), max(0, self.calls[1] - self.cached)

    def times(self, calls: Range) -> "Batch":
        """So many calls like this one."""
        return replace(self, calls=calls, size=(self.size[0] * calls[0], self.size[1] * calls[1]))


class Asking:
    """One call each: at least about the shortest prompt and short answers, at most about the longest ones."""

    def __init__(self, config: RunConfig, task: Task, teacher: Scale, judge: Scale) -> None:
        self._config, self._task, self._teacher, self._judge = config, task, teacher, judge

    async def comparing(self) -> Batch:
        return await self._one(self._judge, lambda judge, prompt: judge.compare(prompt, "a", "b"), 2 * self._draft)

    async def judging(self) -> Batch:
        """The same of answers to the test prompts, one of which may be the teacher's."""
        more = self._draft + max(self._draft, self._reply)
        return await self._one(
            self._judge, lambda judge, prompt: judge.compare(prompt, "a", "b"), more, self._task.test
        )

    async def correcting(self) -> Batch:
        return await self._told(lambda teacher, prompt: teacher.correct(prompt, "a"))

    async def criticising(self) -> Batch:
        return await self._told(lambda teacher, prompt: teacher.critique(prompt, "a"))

    async def coaching(self) -> Batch:
        return await self._told(lambda teacher, prompt: teacher.coach(prompt, "a"))

    async def scoring(self) -> Batch:
        """The request of a demonstration with the answer behind it; one token is said in reply."""
        one = await self._one(self._teacher, lambda teacher, prompt: teacher.demonstrate(prompt), self._draft)
        return replace(one, room=1, template="")  # what a demonstration took says nothing of it

    async def strategising(self, revisions: int) -> Batch:
        """From what was said of each revision by the verifier and by the teacher."""
        remarks = revisions * (FEEDBACK_BYTES + self._reply)
        return await self._one(self._teacher, lambda teacher, prompt: teacher.strategy(prompt, "a"), remarks)

    async def writing_rubrics(self) -> Batch:
        """At least from one answer of the teacher and two of the student."""
        return await self._one(
            self._teacher, lambda teacher, prompt: teacher.criteria(prompt, ["a"], ["b", "c"]), self._group
        )

    async def marking(self) -> Batch:
        """At least of as many, by one criterion."""
        more = self._group + self._reply
        one = await self._one(self._judge, lambda judge, prompt: judge.rubric(prompt, ["a", "b", "c"], ["d"]), more)
        answers = self._config.rubric.answers + self._config.train.group_size
        return replace(one, room=max(one.room, TOKENS_PER_MARK * answers * MOST_CRITERIA))

    @property
    def _draft(self) -> int:
        """Bytes of the student's longest answer."""
        return ANSWER_BYTES_PER_TOKEN * self._config.require_student().max_new_tokens

    @property
    def _reply(self) -> int:
        """Of the teacher's longest."""
        return ANSWER_BYTES_PER_TOKEN * self._config.teacher.max_tokens

    @property
    def _group(self) -> int:
        """Of all that a group may consist of, each between its tags."""
        teachers, students = self._config.rubric.answers, self._config.train.group_size
        return teachers * (self._reply + TAG_BYTES) + students * (self._draft + TAG_BYTES)

    async def _told(self, verb: Verb) -> Batch:
        """About one answer, and what the verifier says of it."""
        return await self._one(self._teacher, verb, self._draft + FEEDBACK_BYTES)

    async def _one(self, scale: Scale, verb: Verb, more: int, prompts: Sequence[Prompt] | None = None) -> Batch:
        """`more`: bytes that what is asked about may add. `prompts`: those to train on, if not given."""
        shortest, longest = (choose(prompts or self._task.train, key=_size) for choose in (min, max))
        low, high = await scale.weigh(verb(scale.teacher, shortest)), await scale.weigh(verb(scale.teacher, longest))
        return Batch(
            asked=scale.teacher.config,
            provider=low.provider,
            template=low.template,
            calls=(1, 1),
            cached=0,
            size=(low.size, high.size + more),
            room=scale.teacher.config.max_tokens,
        )


def _size(prompt: Prompt) -> int:
    return sum(len(str(message["content"])) for message in prompt.messages)
