"""The student, told what was wrong with what it said: how much likelier that makes each token of it."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from bbdistill.student.adapters import Adapters
from bbdistill.student.batches import collate, completion_logprobs, micro_batches
from bbdistill.student.model import Base
from bbdistill.student.tokenize import advised
from bbdistill.student.tree import Row
from bbdistill.types import Coaching

Evidence: TypeAlias = tuple[float, ...]
"""One number for each token of a rollout."""
FOLLOWED = 0.05
"""Share of the way to the policy that the follower goes with each update (SDPO, arXiv 2601.20802)."""


class Copy:
    """An adapter that keeps what another one was when it was first asked for, or follows it from then on."""

    def __init__(self, adapters: Adapters, source: str, name: str, *, rate: float = 0.0) -> None:
        """`rate`: the share of the way to the other one that it goes at each `follow`."""
        self._adapters, self._source, self._name, self._rate, self._made = adapters, source, name, rate, False

    @property
    def name(self) -> str:
        """Of the adapter, which is made now if it was not yet."""
        if not self._made:
            self._adapters.copy(self._source, self._name)
            self._made = True
        return self._name

    def follow(self) -> None:
        if self._made and self._rate:
            self._adapters.copy(self._source, self._name, share=self._rate)

    def state(self) -> Mapping[str, Any] | None:
        return self._adapters.state(self._name) if self._made else None

    def load_state(self, state: Mapping[str, Any] | None) -> None:
        self._made = state is not None
        if state is not None:
            self._adapters.load_state(self._name, state)


def evidence(
    base: Base, adapters: Adapters, adapter: str | None, coachings: Sequence[Coaching], *, tags: bool
) -> list[Evidence | None]:
    """Of each rollout's tokens log pi(token | advice, prompt) - log pi(token | prompt), in nats.

    None where prompt, advice and rollout do not fit into the model together. Both under the same weights, `adapter` or
    the base (None), so that the advice alone makes the difference: by Bayes how much more it is to be expected after
    the token than before. Held against the policy's own view, all that the policy has learned would count as evidence:
    of the demo's student 0.8 nats per token against what is right, and 0.5 against what is wrong.
    """
    pairs = [_rows(base, coaching, tags=tags) for coaching in coachings]
    fitting = [number for number, (_, told) in enumerate(pairs) if len(told.ids) <= base.context]
    found: list[Evidence | None] = [None] * len(pairs)
    with adapters.use(adapter):
        for indices in micro_batches(base.model, [pairs[number] for number in fitting]):
            here = [fitting[index] for index in indices]
            batch = collate(base.model, [row for number in here for row in pairs[number]])
            logprobs = completion_logprobs(base.model, batch)  # plain, told, plain, told, ...
            for number, changes in zip(here, (logprobs[1::2] - logprobs[::2]).tolist(), strict=True):
                found[number] = tuple(changes[: len(pairs[number][0].completion)])
    return found


def _rows(base: Base, coaching: Coaching, *, tags: bool) -> tuple[Row, Row]:
    """The rollout's own tokens behind its prompt, and behind the prompt with the advice."""
    plain, told = (
        Row(
            prompt=tuple(base.chat.prompt_ids(prompt.messages, tags=tags)),
            completion=tuple(coaching.rollout.token_ids),
        )
        for prompt in (coaching.rollout.prompt, advised(coaching.rollout.prompt, coaching.advice))
    )
    return plain, told
