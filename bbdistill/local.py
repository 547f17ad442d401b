"""A teacher in this process: it answers as a server would, and says how likely it finds a text."""

import asyncio
import hashlib
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from peft import PeftModel

from bbdistill.client.call import Call, Fault, Reply
from bbdistill.client.faults import examine
from bbdistill.rundir import read_json
from bbdistill.student.batches import collate, completion_hidden, micro_batches, output_head
from bbdistill.student.export import BASE
from bbdistill.student.model import Base, load_base
from bbdistill.student.sample import sample
from bbdistill.student.tree import Row
from bbdistill.teacher.scorer import Scores
from bbdistill.types import Message, Prompt, ScoredToken

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
AT_ONCE = 32
"""Requests that are answered together."""


class LocalTeacher:
    """A model with a chat template. As a handler it stands where the socket does: POST /chat/completions, and nothing else.

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
        return await asyncio.to_thread(self._score, [(prompt.messages, text) for prompt, text in answers])

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

    def _score(self, texts: Sequence[tuple[Sequence[Message], str]]) -> list[tuple[ScoredToken, ...]]:
        chat, model = self._base.chat, self._base.model
        rows = [
            Row(prompt=tuple(chat.prompt_ids(messages)), completion=tuple(chat.completion_ids(messages, text)))
            for messages, text in texts
        ]
        found: list[tuple[ScoredToken, ...]] = [()] * len(rows)
        with torch.inference_mode():
            for indices in micro_batches(model, [[row] for row in rows]):
                batch = collate(model, [rows[index] for index in indices])
                hidden = completion_hidden(model, batch)  # (n, H), row by row
                for index in indices:
                    size = len(rows[index].completion)
                    logprobs = (hidden[:size] @ output_head(model).weight.T).float().log_softmax(-1)
                    hidden = hidden[size:]
                    found[index] = self._tokens(rows[index].completion, logprobs)
        return found

    def _tokens(self, ids: Sequence[int], logprobs: torch.Tensor) -> tuple[ScoredToken, ...]:
        """`logprobs`: (T, V)."""
        values, likeliest = logprobs.topk(min(self._top_k, logprobs.shape[1]))
        chosen = logprobs.gather(1, torch.tensor(ids, device=logprobs.device).unsqueeze(1)).squeeze(1).tolist()
        rows = zip(ids, chosen, likeliest.tolist(), values.tolist(), strict=True)
        return tuple(
            ScoredToken(
                piece=self._piece(id, first=place == 0),
                logprob=logprob,
                top=tuple((self._piece(other, first=place == 0), value) for other, value in zip(row, column, strict=True)),
            )
            for place, (id, logprob, row, column) in enumerate(rows)
        )

    def _piece(self, id: int, *, first: bool) -> bytes | None:
        chat = self._base.chat
        return None if id in chat.eos_ids else chat.spelling.piece(id, first=first)


class _Together(Generic[Asked, Answer]):
    """Answers in one go, in a thread, what was asked since the last time."""

    def __init__(self, work: Callable[[Sequence[Asked]], list[Answer]]) -> None:
        self._work = work
        self._waiting: list[tuple[Asked, asyncio.Future[Answer]]] = []
        self._worker: Awaitable[None] | None = None

    async def __call__(self, asked: Asked) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._until_done())
        return await future

    async def _until_done(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(0.01)  # those that are asked together come within a moment
                now, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                try:
                    answers = await asyncio.to_thread(self._work, [asked for asked, _ in now])
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
    """`model`: a hub id, a directory, or an adapter saved by an earlier run, which is merged into a copy of its base."""
    directory = Path(model)
    if not (directory / BASE).is_file():
        return LocalTeacher(load_base(model), top_k=top_k)
    base = load_base(str(read_json(directory / BASE)["model"]))
    merged = PeftModel.from_pretrained(base.model, str(directory)).merge_and_unload()
    name = read_json(directory / BASE)["weight_hash"]
    return LocalTeacher(replace(base, model=merged.eval(), weight_hash=_hash(directory, str(name))), top_k=top_k)


def _completion(body: dict[str, Any], text: str, stop: str, tokens: int) -> bytes:
    """A chat completion as servers give it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": stop}
    usage = {"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens}
    reply = {"id": "local", "object": "chat.completion", "created": 0, "model": body["model"]}
    return json.dumps(reply | {"choices": [choice], "usage": usage}).encode()


def _hash(directory: Path, base: str) -> str:
    """Of a base with an adapter: both tell these weights from others."""
    adapter = (directory / "adapter_model.safetensors").read_bytes()
    return hashlib.sha256(base.encode() + adapter).hexdigest()
