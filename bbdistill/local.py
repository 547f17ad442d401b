"""A teacher in this process: it answers as a server would, and says how likely it finds a text."""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bbdistill.client.call import Call, Fault, Reply
from bbdistill.client.faults import examine
from bbdistill.student.export import answers_behind_tags, is_adapter, load_merged
from bbdistill.student.model import Base, load_base
from bbdistill.student.sample import Sampled, sample
from bbdistill.student.scores import score_rows, text_row
from bbdistill.teacher.scorer import Scores
from bbdistill.types import Abstain, Message, Prompt

AT_ONCE = 32
"""Requests that are answered together."""


class LocalTeacher:
    """A model with a chat template. As a handler it stands where the socket does, for POST /chat/completions alone.

    Requests that come together are answered together, in a thread: one at a time, since each uses all cores.
    """

    def __init__(self, base: Base, *, top_k: int, tags: bool = False) -> None:
        """`tags`: whether it was trained to answer behind empty strategy tags."""
        self._base, self._top_k, self._tags = base, top_k, tags
        self._answers = _Together(self._answer)

    @property
    def id(self) -> str:
        """Names these very weights inside request keys."""
        return f"local-{self._base.weight_hash[:12]}"

    async def __call__(self, call: Call, /) -> Reply:
        if not call.path.endswith("/chat/completions"):
            raise Fault(f"a local teacher answers /chat/completions, not {call.path}", unreachable=True)
        if len(self.prompt_ids(json.loads(call.body)["messages"])) >= self._base.context:
            raise Fault(f"a prompt fills the {self._base.context} tokens that the local teacher holds")
        body = await self._answers(call)
        return examine(call, Reply(status=200, headers={"content-type": "application/json"}, body=body))

    async def score(self, answers: Sequence[tuple[Prompt, str]]) -> Sequence[Scores | Abstain]:
        """Log-probs of each text as its answer, token by token, the end of the turn included.

        What is given together is computed together: so a replay computes the very same numbers.
        """
        return await asyncio.to_thread(self._score, answers)

    def _score(self, answers: Sequence[tuple[Prompt, str]]) -> list[Scores | Abstain]:
        rows = [text_row(self._base, prompt.messages, text, tags=self._tags) for prompt, text in answers]
        fitting = [row for row in rows if len(row.ids) <= self._base.context]
        found = iter(score_rows(self._base, fitting, top_k=self._top_k))
        too_long = Abstain(reason="an answer that is longer than the local teacher holds")
        return [next(found) if len(row.ids) <= self._base.context else too_long for row in rows]

    def _answer(self, calls: Sequence[Call]) -> list[bytes]:
        asked: list[dict[str, Any]] = [json.loads(call.body) for call in calls]
        prompts = [self.prompt_ids(body["messages"]) for body in asked]
        limits = [
            min(int(body.get("max_tokens") or 1024), self._base.context - len(prompt))
            for body, prompt in zip(asked, prompts, strict=True)
        ]
        found = sample(
            self._base,
            prompts,
            [[random.Random(f"{call.key}:{call.sample}")] for call in calls],
            max_new_tokens=max(limits),
            temperature=float(asked[0].get("temperature") or 0.0),
        )
        return [
            _completion(body, self._base.chat.answer(said.token_ids[:limit], tags=self._tags), said, limit)
            for body, limit, (said,) in zip(asked, limits, found, strict=True)
        ]

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """What it goes on from."""
        return self._base.chat.prompt_ids(messages, tags=self._tags)


class _Together:
    """Answers in one go, in a thread, the calls that came since the last time."""

    def __init__(self, work: Callable[[Sequence[Call]], list[bytes]]) -> None:
        self._work = work
        self._waiting: list[tuple[Call, asyncio.Future[bytes]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, call: Call) -> bytes:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._until_done())
        return await future

    async def _until_done(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(0.01)  # those that are asked together come within a moment
                now, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                try:
                    answers = await asyncio.to_thread(self._work, [call for call, _ in now])
                except Exception as fault:
                    for _, future in now:
                        if not future.done():
                            future.set_exception(fault)
                else:
                    for (_, future), answer in zip(now, answers, strict=True):
                        if not future.done():
                            future.set_result(answer)
        finally:
            self._worker = None


def open_local(model: str, *, top_k: int) -> LocalTeacher:
    """`model`: a hub id, a directory, or an adapter of an earlier run."""
    if is_adapter(Path(model)):
        return LocalTeacher(load_merged(Path(model)), top_k=top_k, tags=answers_behind_tags(Path(model)))
    return LocalTeacher(load_base(model), top_k=top_k)


def _completion(body: dict[str, Any], text: str, said: Sampled, limit: int) -> bytes:
    """A chat completion as servers give it, of so many tokens at most: those beside it may have had room for more."""
    tokens = min(len(said.token_ids), limit)
    stop = said.stop_reason if tokens == len(said.token_ids) else "length"
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": stop}
    usage = {"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens}
    reply = {"id": "local", "object": "chat.completion", "created": 0, "model": body["model"]}
    return json.dumps(reply | {"choices": [choice], "usage": usage}).encode()
