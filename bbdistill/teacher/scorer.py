"""How likely a hosted teacher finds a text, token by token: any text where the server can, else its own. No torch."""

import asyncio
import math
from collections.abc import Container, Sequence
from typing import Any, Protocol, TypeAlias, cast
from urllib.parse import quote

from bbdistill.client.values import as_object, parse
from bbdistill.teacher.base import RawReply
from bbdistill.teacher.faults import outcome_of
from bbdistill.teacher.reply import read_reply
from bbdistill.teacher.teacher import Teacher
from bbdistill.templates import load_template
from bbdistill.types import Abstain, Prompt, ScoredToken

Scores: TypeAlias = tuple[ScoredToken, ...]
PURPOSE = "scores"
LEAST, ROUNDING = -9999.0, 0.01
"""What servers write for a log-prob of minus infinity, and how far rounding may take a log-prob or a sum above 0."""


class Scorer(Protocol):
    async def score(self, answers: Sequence[tuple[Prompt, str]]) -> Sequence[Scores | Abstain]:
        """The teacher's tokens of each text, as its answer to the prompt. All of a step come in one call."""
        ...


class NoScorer:
    """Stands where a recipe has none."""

    async def score(self, answers: Sequence[tuple[Prompt, str]]) -> Sequence[Scores | Abstain]:
        assert not answers, f"{len(answers)=}, and nobody to score them"
        return ()


class GivenScorer:
    """A server that gives log-probs of what it is given: vLLM's `prompt_logprobs`.

    The text is sent as an answer to go on with, so that the end of the turn is not scored.
    """

    def __init__(self, teacher: Teacher, *, top_k: int) -> None:
        self._teacher, self._top_k = teacher, top_k

    async def score(self, answers: Sequence[tuple[Prompt, str]]) -> Sequence[Scores | Abstain]:
        return await asyncio.gather(*(self._one(prompt, text) for prompt, text in answers))

    async def _one(self, prompt: Prompt, text: str) -> Scores | Abstain:
        try:
            if not text.encode():
                return Abstain(reason="an answer without text")
        except UnicodeEncodeError:
            return Abstain(reason="an answer that is no text")
        wanted = {
            "prompt_logprobs": self._top_k,
            "add_generation_prompt": False,
            "continue_final_message": True,
        }
        messages = [*prompt.messages, {"role": "assistant", "content": text}]
        raw = await _asked(self._teacher, prompt, messages, {"extra_body": wanted}, 1)
        if isinstance(raw, Abstain):
            return raw
        return given_scores(raw, text) or _abstained(self._teacher, "no log-probs of the given text")


class OwnScorer:
    """A server that gives the likeliest tokens of what it writes: its own demonstrations alone can be scored.

    Its `answer_options` ask for them with every demonstration; scoring one is the same request again, which the record
    answers. Nothing is asked about the prompts in `given`, whose answers came with the data.
    """

    def __init__(self, teacher: Teacher, *, given: Container[str]) -> None:
        self._teacher, self._given = teacher, given
        self._template = load_template("demonstrate", teacher.templates)

    async def score(self, answers: Sequence[tuple[Prompt, str]]) -> Sequence[Scores | Abstain]:
        return await asyncio.gather(*(self._one(prompt, text) for prompt, text in answers))

    async def _one(self, prompt: Prompt, text: str) -> Scores | Abstain:
        if prompt.id in self._given:
            return Abstain(reason="an answer that is not the teacher's own")
        messages = self._template.render(prompt.messages, {})
        limit = self._teacher.config.max_tokens
        raw = await _asked(self._teacher, prompt, messages, self._teacher.answer_options, limit)
        if isinstance(raw, Abstain):
            return raw
        return own_scores(raw, text) or _abstained(self._teacher, "no log-probs of its own answer")


async def _asked(
    teacher: Teacher, prompt: Prompt, messages: Sequence[Any], options: dict[str, Any], max_tokens: int
) -> RawReply | Abstain:
    headers = {"x-bbdistill-purpose": PURPOSE, "x-bbdistill-prompt": quote(prompt.id)}
    try:
        with teacher.ledger.asking(teacher.config.model, PURPOSE):
            raw = await teacher.connection.provider.send(messages, options, headers, max_tokens)
    except Exception as fault:
        return _abstained(teacher, outcome_of(fault, teacher.config))
    teacher.ledger.answered(teacher.config.model, PURPOSE, read_reply(raw, teacher.config))
    return raw


def _abstained(teacher: Teacher, reason: str) -> Abstain:
    teacher.ledger.abstained(teacher.config.model, PURPOSE, reason)
    return Abstain(reason=reason)


def given_scores(raw: RawReply, text: str) -> Scores | None:
    """The last tokens of the prompt that make up `text`; None where the reply does not hold them.

    Each token has an object {id: {logprob, rank, decoded_token}}: first itself, then the likeliest ones.
    """
    rows = _list(as_object(parse(raw.body.decode())).get("prompt_logprobs"))
    wanted, found = text.encode(), list[ScoredToken]()
    for row in reversed(rows):
        outcomes = [_outcome(as_object(each)) for each in as_object(row).values()]
        known = [outcome for outcome in outcomes if outcome is not None]
        if not wanted or not known or len(known) != len(outcomes) or _too_likely(known):
            break
        piece, logprob = known[0]
        top = tuple(sorted(known, key=lambda outcome: -outcome[1]))
        # A token that also holds the end of what stands before the text.
        if not wanted.endswith(piece):
            break
        wanted = wanted[: len(wanted) - len(piece)]
        found.append(ScoredToken(piece=piece, logprob=logprob, top=top))
    return tuple(reversed(found)) if found and not wanted else None


def own_scores(raw: RawReply, text: str) -> Scores | None:
    """The tokens of the reply, if they make up `text`; servers leave the end of the turn out."""
    choices = _list(as_object(parse(raw.body.decode())).get("choices"))
    choice = as_object(choices[0]) if choices else {}
    found: list[ScoredToken] = []
    for row in _list(as_object(choice.get("logprobs")).get("content")):
        token = as_object(row)
        top = [_named(as_object(each)) for each in _list(token.get("top_logprobs"))]
        named = _named(token)
        if named is None or any(each is None for each in top) or _too_likely([each for each in top if each]):
            return None
        found.append(ScoredToken(piece=named[0], logprob=named[1], top=tuple(each for each in top if each)))
    said = b"".join(token.piece or b"" for token in found)
    return tuple(found) if found and said == text.encode() else None


def _outcome(row: dict[str, Any]) -> tuple[bytes, float] | None:
    piece, logprob = row.get("decoded_token"), _logprob(row)
    return (piece.encode(), logprob) if isinstance(piece, str) and logprob is not None else None


def _named(row: dict[str, Any]) -> tuple[bytes, float] | None:
    """The token's own bytes where the server gives them: a text may be half a character."""
    spelt, logprob = _list(row.get("bytes")), _logprob(row)
    if logprob is None:
        return None
    if spelt and all(isinstance(byte, int) and 0 <= byte < 256 for byte in spelt):
        return bytes(spelt), logprob
    return (str(row["token"]).encode(), logprob) if isinstance(row.get("token"), str) else None


def _logprob(row: dict[str, Any]) -> float | None:
    """None where it is no log of a probability."""
    value = row.get("logprob")
    if isinstance(value, bool) or not isinstance(value, int | float) or not value <= ROUNDING:
        return None
    return float(min(max(value, LEAST), 0.0))


def _too_likely(outcomes: Sequence[tuple[bytes, float]]) -> bool:
    """Whether different tokens in one place have more than all there is of probability."""
    return sum(math.exp(logprob) for _, logprob in outcomes) > 1 + ROUNDING


def _list(value: Any) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else []
