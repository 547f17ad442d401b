"""`Teacher`: the verbs one asks of a hosted model. Async, no torch, usable on its own.

    async with Teacher("openai:gpt-5.6", cache="cache/x.db") as teacher:
        demonstration = await teacher.demonstrate("Name three primes.")

A reply that cannot be used is an `Abstain`; only a teacher that cannot be used at all raises (`TeacherError`).
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

from bbdistill.client.gate import LimitHistory
from bbdistill.config import CacheMode
from bbdistill.config.models import TeacherConfig
from bbdistill.configfile import teacher_config
from bbdistill.errors import TeacherError
from bbdistill.metrics import Progress
from bbdistill.teacher import parse
from bbdistill.teacher.base import JsonSchema
from bbdistill.teacher.connect import Connection, connect
from bbdistill.teacher.differences import differences
from bbdistill.teacher.faults import outcome_of
from bbdistill.teacher.ledger import Ledger
from bbdistill.teacher.reply import read_reply
from bbdistill.teacher.structured import Structured
from bbdistill.templates import Template, load_template
from bbdistill.types import (
    Abstain,
    Criterion,
    Critique,
    Demonstration,
    Fix,
    Judgement,
    Mark,
    Message,
    Preference,
    Prompt,
    TeacherReply,
    Tie,
)

T = TypeVar("T")
Input: TypeAlias = Prompt | Sequence[Message] | str
TOKENS_PER_MARK = 80
"""More than one mark takes, with its reason of a sentence: what `Teacher.rubric` makes room for in its reply."""
_VERBS = ("demonstrate", "compare", "correct", "critique", "strategy", "coach", "criteria", "rubric", "questions")


class Teacher:
    """A hosted model behind the record. Enter it (`async with`) before asking.

    `model` is `provider:model`; for `mode` and `replay` ("FILE" or "FILE#RUN") see `client/replay.py`.
    """

    def __init__(
        self,
        model: str,
        *,
        cache: str | Path = "cache/teacher.db",
        mode: CacheMode = "auto",
        replay: str | None = None,
        templates: Path | None = None,
        answer_options: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.config = teacher_config(model=model, cache=Path(cache), **settings)
        self._mode: CacheMode = mode
        self._replay = replay
        self._connection: Connection | None = None
        self.templates = templates
        self.ledger = Ledger()
        self._templates = {name: load_template(name, templates) for name in _VERBS}
        self._structured = Structured()
        self.answer_options = dict(answer_options or {})
        """What goes into the body of a request for an answer, beside the conversation."""

    @classmethod
    def from_config(
        cls,
        config: TeacherConfig,
        *,
        mode: CacheMode = "auto",
        replay: str | None = None,
        templates: Path | None = None,
        answer_options: Mapping[str, Any] | None = None,
        connection: Connection | None = None,
    ) -> "Teacher":
        """The teacher of a run's config; on a connection that the run has opened, and closes, if one is given."""
        teacher = cls(
            **config.model_dump(), mode=mode, replay=replay, templates=templates, answer_options=answer_options
        )
        teacher._connection = connection
        return teacher

    async def __aenter__(self) -> "Teacher":
        self._connection = connect(self.config, mode=self._mode, replay=self._replay)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    @property
    def limits(self) -> Sequence[LimitHistory]:
        """How many calls at once the gate allowed, and why: one history for each address and model asked."""
        return () if self._connection is None else self._connection.limits

    @property
    def limit(self) -> int | None:
        """Calls at once that the gate allows now; None before the first went out."""
        return self.limits[-1].changes[-1].limit if self.limits else None

    async def drain(self) -> None:
        """Gives up what waits to be sent, and waits until all that is on the wire is stored."""
        if self._connection is not None:
            await self._connection.drain()

    @property
    def spent_usd(self) -> float | None:
        """Dollars paid so far by the whole run, attempts of unknown cost at their worst case; None = no price is known.

        The ledger has less: a failed attempt, and a reply that nobody waited for, may have been billed.
        """
        purse = None if self._connection is None else self._connection.purse
        return self.ledger.summary()["cost_usd"] if purse is None else purse.spent_usd

    def summary(self) -> dict[str, Any]:
        """The ledger's, but with everything spent, and the part of it that is only a worst case."""
        spent = {"cost_usd": self.spent_usd, "uncertain_usd": self.connection.uncertain_usd}
        return self.ledger.summary() | spent

    def progress(self, what: str, *, total: int, before: int = 0) -> Progress:
        """How far it is with the calls after the first `before`."""
        ledger, connection = self.ledger, self.connection
        failed = connection.failed
        return Progress(
            what=what,
            done=ledger.calls - ledger.in_flight - before,
            total=total,
            calls=ledger.calls,
            cached=ledger.cached,
            in_flight=connection.in_flight,
            limit=self.limit,
            retrying=len(failed),
            trouble=failed[-1] if failed else None,
            spent_usd=self.spent_usd,
        )

    async def demonstrate(
        self, prompt: Input, *, purpose: str = "demonstrations", sample: int = 0
    ) -> Demonstration | Abstain:
        """The teacher's own answer; `sample` tells several answers to one prompt apart."""
        prompt = as_prompt(prompt)
        template = self._templates["demonstrate"]
        reply = await self._ask(prompt, template, template.render(prompt.messages, {}), None, purpose, sample)
        if isinstance(reply, Abstain):
            return reply
        return Demonstration(prompt=prompt, completion=reply.text, source=self.config.model)

    async def compare(self, prompt: Input, a: str, b: str, *, purpose: str = "preferences") -> Judgement:
        """Which answer is better, asked in both orders.

        A `Preference` only if one text wins both; two valid answers that disagree are a `Tie` (a flip); an unreadable
        one makes the whole comparison an `Abstain`. Equal texts are a tie without a call.
        """
        prompt = as_prompt(prompt)
        if a == b:
            return Tie(prompt=prompt, flipped=False)
        first, second = await asyncio.gather(self._winner(prompt, a, b, purpose), self._winner(prompt, b, a, purpose))
        if isinstance(first, Abstain):
            return first
        if isinstance(second, Abstain):
            return second
        self.ledger.compared(self.config.model, flipped=first != second)
        if first != second:
            return Tie(prompt=prompt, flipped=True)
        rejected = b if first == a else a
        return Preference(prompt=prompt, chosen=first, rejected=rejected, strength=1.0, source=self.config.model)

    async def correct(
        self, prompt: Input, answer: str, feedback: str = "", *, purpose: str = "corrections"
    ) -> Fix | Abstain:
        """The smallest edit of `answer` that makes it right, given what a verifier said of it."""
        about, prompt = {"answer": answer, "feedback": feedback}, as_prompt(prompt)
        found = await self._about(prompt, "correct", about, parse.CORRECT, parse.correction, purpose, "correction")
        return found if isinstance(found, Abstain) else Fix(text=found[0], reason=found[1])

    async def criteria(
        self, prompt: Input, references: Sequence[str], drafts: Sequence[str], *, purpose: str = "rubric"
    ) -> tuple[Criterion, ...] | Abstain:
        """A rubric for answers to `prompt`, from answers that are very likely right and drafts that may not be."""
        about, prompt = {"references": references, "drafts": drafts}, as_prompt(prompt)
        return await self._about(prompt, "criteria", about, parse.CRITERIA, parse.criteria, purpose, "criteria")

    async def rubric(
        self,
        prompt: Input,
        answers: Sequence[str],
        criteria: Sequence[str],
        *,
        purpose: str = "evaluation",
        shuffle: str = "",
    ) -> list[tuple[Mark, ...] | Abstain]:
        """Which criteria each answer meets: a mark for each, in the order given. All in one call.

        The judge sees the answers numbered, in an order that depends on their text and on `shuffle` alone, and an equal
        one once.
        """
        prompt = as_prompt(prompt)
        shown = sorted(set(answers), key=lambda text: _digest(shuffle + text))
        variables = {"messages": prompt.messages, "answers": shown, "criteria": criteria}
        counts, room = {"answers": len(shown), "criteria": len(criteria)}, TOKENS_PER_MARK * len(shown) * len(criteria)
        template, schema = self._templates["rubric"], parse.rubric_schema(**counts)
        messages = template.render(prompt.messages, variables)
        reply = await self._ask(prompt, template, messages, schema, purpose, room=room)
        if isinstance(reply, Abstain):
            return [reply for _ in answers]
        found = dict(zip(shown, parse.marks(reply.text, **counts), strict=True))
        unreadable = Abstain(reason="unreadable marks")
        if None in found.values():
            self._abstain(purpose, unreadable.reason)
        return [marks if (marks := found[answer]) is not None else unreadable for answer in answers]

    async def critique(
        self, prompt: Input, answer: str, feedback: str = "", *, purpose: str = "corrections"
    ) -> Critique | Abstain:
        """Where `answer` first goes wrong, quoted from it; a quote that is not in the answer is an `Abstain`."""
        about, prompt = {"answer": answer, "feedback": feedback}, as_prompt(prompt)
        found = await self._about(prompt, "critique", about, parse.CRITIQUE, parse.critique, purpose, "critique")
        if isinstance(found, Abstain):
            return found
        quoted, why = found
        span = None if quoted is None else parse.locate(quoted, answer)
        if quoted is not None and span is None:
            return self._abstain(purpose, "the quoted part is not in the answer")
        return Critique(span=span, why=why)

    async def strategy(self, prompt: Input, rationale: str, *, purpose: str = "corrections") -> str | Abstain:
        """How to answer prompts like this one, in one short line, from what was wrong with answers to it."""
        about, prompt = {"rationale": rationale}, as_prompt(prompt)
        return await self._about(prompt, "strategy", about, parse.STRATEGY, parse.strategy, purpose, "strategy")

    async def coach(
        self, prompt: Input, answer: str, feedback: str = "", *, purpose: str = "coaching"
    ) -> str | Abstain:
        """What kind of mistake a wrong answer makes and how to avoid it, in one line, without the right answer."""
        about, prompt = {"answer": answer, "feedback": feedback}, as_prompt(prompt)
        return await self._about(prompt, "coach", about, parse.COACH, parse.advice, purpose, "advice")

    async def questions(
        self, document: str, count: int, *, purpose: str = "demonstrations"
    ) -> tuple[str, ...] | Abstain:
        """At most `count` questions that `document` answers, in the words of somebody who has not read it."""
        template = self._templates["questions"]
        messages = template.render((), {"document": document, "count": count})
        reply = await self._ask(as_prompt(document), template, messages, parse.QUESTIONS, purpose)
        if isinstance(reply, Abstain):
            return reply
        found = parse.questions(reply.text)
        return self._abstain(purpose, "unreadable questions") if found is None else tuple(found[:count])

    async def _winner(self, prompt: Prompt, a: str, b: str, purpose: str) -> str | Abstain:
        """The text that won when `a` was shown first."""
        about = {"a": a, "b": b, "differences": differences(a, b)}
        found = await self._about(prompt, "compare", about, parse.COMPARE, parse.winner, purpose, "verdict")
        return found if isinstance(found, Abstain) else {"A": a, "B": b}[found]

    async def _about(
        self,
        prompt: Prompt,
        verb: str,
        variables: Mapping[str, Any],
        schema: JsonSchema,
        read: Callable[[str], T | None],
        purpose: str,
        what: str,
    ) -> T | Abstain:
        """One call about a conversation; where `read` makes nothing of the reply, `what` it should be is unreadable."""
        template = self._templates[verb]
        messages = template.render(prompt.messages, {"messages": prompt.messages, **variables})
        reply = await self._ask(prompt, template, messages, schema, purpose)
        if isinstance(reply, Abstain):
            return reply
        found = read(reply.text)
        return self._abstain(purpose, f"unreadable {what}") if found is None else found

    async def _ask(
        self,
        prompt: Prompt,
        template: Template,
        messages: Sequence[Message],
        schema: JsonSchema | None,
        purpose: str,
        sample: int = 0,
        room: int = 0,
    ) -> TeacherReply | Abstain:
        """One call, with `room` tokens for its reply even if the config allows fewer; the ledger has it in any case."""
        headers = {
            "x-bbdistill-purpose": purpose,
            "x-bbdistill-prompt": quote(prompt.id),
            "x-bbdistill-template": template.label,
            "x-bbdistill-sample": str(sample),
        }
        try:
            with self.ledger.asking(self.config.model, purpose):
                limit = max(room, self.config.max_tokens)
                provider, plain = self.connection.provider, self.answer_options
                raw = await self._structured.send(provider, messages, schema, headers, limit, plain)
        except Exception as fault:
            # The SDKs wrap everything below them; what is not about this one request is raised from here.
            return self._abstain(purpose, outcome_of(fault, self.config))
        reply = read_reply(raw, self.config)
        self.ledger.answered(self.config.model, purpose, reply)
        if reply.stop == "stop":
            return reply
        return self._abstain(purpose, "refusal" if reply.stop == "refusal" else "cut at the output limit")

    @property
    def connection(self) -> Connection:
        if self._connection is None:
            raise TeacherError("the teacher is not open; use `async with bbdistill.Teacher(...) as teacher:`")
        return self._connection

    def _abstain(self, purpose: str, reason: str) -> Abstain:
        self.ledger.abstained(self.config.model, purpose, reason)
        return Abstain(reason=reason)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def as_prompt(given: Input) -> Prompt:
    """Text is one user message; a conversation without an id is named after its content."""
    match given:
        case Prompt():
            return given
        case str():
            return as_prompt([{"role": "user", "content": given}])
        case _:
            canonical = json.dumps([dict(message) for message in given], sort_keys=True, ensure_ascii=False)
            digest = hashlib.sha256(canonical.encode()).hexdigest()
            return Prompt(id=f"p-{digest[:12]}", messages=tuple(given))
