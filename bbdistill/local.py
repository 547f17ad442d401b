"""A teacher in this process: it answers as a server would, and says how likely it finds a text."""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bbdistill.client.call import Call, Fault, Reply
from bbdistill.client.faults import examine
from bbdistill.student.export import is_adapter, load_merged
from bbdistill.student.model import Base, load_base
from bbdistill.student.sample import sample
from bbdistill.student.scores import score_texts
from bbdistill.teacher.scorer import Scores
from bbdistill.types import Prompt

AT_ONCE = 32
"""Requests that are answered together."""


class LocalTeacher:
    """A model with a chat template. As a handler it stands where the socket does, for POST /chat/completions alone.

    Requests that come together are answered together, in a thread: one at a time, since each uses all cores.
    """

    def __init__(self, base: Base, *, top_k: int) -> None:
        self._base, self._top_k = base, top_k
        self._answers = _Together(self._answer)

    @property
    def id(self) -> str:
        """Names these very weights inside request keys."""
        return f"local-{self._base.weight_hash[:12]}"

    async def __call__(self, call: Call, /) -> Reply:
        if not call.path.endswith("/chat/completions"):
            raise Fault(f"a local teacher answers /chat/completions, not {call.path}", unreachable=True)
        body = await self._answers(call)
        return examine(call, Reply(status=200, headers={"content-type": "application/json"}, body=body))

    async def score(self, answers: Sequence[tuple[Prompt, str]]) -> Sequence[Scores]:
        """Log-probs of each text as its answer, token by token, the end of the turn included.

        What is given together is computed together: so a replay computes the very same numbers.
        """
        texts = [(prompt.messages, text) for prompt, text in answers]
        return await asyncio.to_thread(score_texts, self._base, texts, top_k=self._top_k)

    def _answer(self, calls: Sequence[Call]) -> list[bytes]:
        asked: list[dict[str, Any]] = [json.loads(call.body) for call in calls]
        limit = max(int(body.get("max_tokens") or body.get("max_completion_tokens") or 1024) for body in asked)
        chat = self._base.chat
        found = sample(
            self._base,
            [chat.prompt_ids(body["messages"]) for body in asked],
            [[random.Random(f"{call.key}:{call.sample}")] for call in calls],
            max_new_tokens=limit,
            temperature=float(asked[0].get("temperature") or 0.0),
        )
        return [
            _completion(body, chat.answer(said.token_ids), said.stop_reason, len(said.token_ids))
            for body, (said,) in zip(asked, found, strict=True)
        ]


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
    base = load_merged(Path(model)) if is_adapter(Path(model)) else load_base(model)
    return LocalTeacher(base, top_k=top_k)


def _completion(body: dict[str, Any], text: str, stop: str, tokens: int) -> bytes:
    """A chat completion as servers give it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": stop}
    usage = {"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens}
    reply = {"id": "local", "object": "chat.completion", "created": 0, "model": body["model"]}
    return json.dumps(reply | {"choices": [choice], "usage": usage}).encode()
