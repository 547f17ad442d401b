"""Draws completions: each distinct prompt is read once, and finished rows make room.

Every row draws with its own generator, so that what it says does not depend on which rows share its batch, up to float
rounding of the logits (a draw changes only where the uniform number falls within that rounding of a boundary).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bbdistill.errors import AFRESH, RunError
from bbdistill.student.batches import as_tree, forward_tokens, limits_of
from bbdistill.student.decode import Decoder, PaddedDecoder, TreeDecoder
from bbdistill.student.model import Base
from bbdistill.student.tree import Row
from bbdistill.types import StopReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """One completion: ids with the end-of-turn token that ended it, and the log-prob (nats) each was drawn with."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop_reason: StopReason


@dataclass(slots=True)
class _Row:
    place: tuple[int, int]
    """(prompt, sample)."""
    draw: random.Random
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    done: bool = False


def sample(
    base: Base,
    prompts: Sequence[Sequence[int]],
    draws_P_G: Sequence[Sequence[random.Random]],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> list[list[Sampled]]:
    """One completion for each generator of each prompt, from the model as it is (its adapter is the caller's business).

    `temperature` 0 is greedy: no generator is used, and every log-prob is 0. A completion stops at the first
    end-of-turn token, which it keeps, or after `max_new_tokens`.
    """
    asked = [tuple(prompt) for prompt in prompts]
    rows = [_Row(place=(p, g), draw=draw) for p, draws in enumerate(draws_P_G) for g, draw in enumerate(draws)]
    # Rows of one prompt are neighbours, and so are prompts of about the same length, which need little padding.
    rows.sort(key=lambda row: (len(asked[row.place[0]]), asked[row.place[0]]), reverse=True)
    with torch.inference_mode():
        for batch in _batches(base, rows, asked, max_new_tokens):
            read = [asked[row.place[0]] for row in batch]
            if as_tree(base.model):
                decoder: Decoder = TreeDecoder(base.model, read, max_new_tokens)
            else:
                decoder = PaddedDecoder(base.model, read, base.chat.pad_id)
            _Speaker(base, decoder, temperature, top_p).run(batch, max_new_tokens)
    finished = {row.place: row for row in rows}
    return [
        [_sampled(finished[p, g], base.chat.eos_ids) for g in range(len(draws))] for p, draws in enumerate(draws_P_G)
    ]


def _batches(base: Base, rows: list[_Row], prompts: Sequence[tuple[int, ...]], max_new_tokens: int) -> list[list[_Row]]:
    """`rows` cut so that no batch keeps more positions than the device should, unless it is one row."""
    batches: list[list[_Row]] = []
    read: list[Row] = []
    for row in rows:
        read.append(Row(prompt=prompts[row.place[0]], completion=()))
        kept = forward_tokens(base.model, read) + len(read) * max_new_tokens
        if not batches or kept > limits_of(base.device).cached:
            batches.append([])
            read = read[-1:]
        batches[-1].append(row)
    return batches


def _sampled(row: _Row, eos_ids: frozenset[int]) -> Sampled:
    return Sampled(
        token_ids=tuple(row.token_ids),
        logprobs=tuple(row.logprobs),
        stop_reason="stop" if row.token_ids[-1] in eos_ids else "length",
    )


class _Speaker:
    """Says one batch: draws from what a decoder gives, until every row has ended."""

    def __init__(self, base: Base, decoder: Decoder, temperature: float, top_p: float) -> None:
        self._base, self._decoder, self._temperature, self._top_p = base, decoder, temperature, top_p

    def run(self, rows: list[_Row], max_new_tokens: int) -> None:
        """Fills `rows`."""
        logits = self._decoder.read()  # (B, V)
        for _ in range(max_new_tokens - 1):
            ids = self._say(rows, logits)
            kept = [index for index, row in enumerate(rows) if not row.done]
            if not kept:
                return
            if len(kept) < len(rows):
                self._decoder.keep(torch.tensor(kept, device=self._base.device))
                rows, ids = [rows[index] for index in kept], [ids[index] for index in kept]
            logits = self._decoder.next(torch.tensor(ids, device=self._base.device))
        self._say(rows, logits)

    def _say(self, rows: list[_Row], logits: Tensor) -> list[int]:
        """Draws one token per row and marks the rows that end with it."""
        if self._temperature == 0:
            ids, logprobs = logits.argmax(-1).tolist(), [0.0] * len(rows)
        else:
            # 1 - random() is in (0, 1], so that a token of probability 0 is never drawn.
            uniforms = torch.tensor([1 - row.draw.random() for row in rows], dtype=torch.float64)
            ids, logprobs = draw(logits / self._temperature, uniforms, self._top_p)
        for row, token, logprob in zip(rows, ids, logprobs, strict=True):
            row.token_ids.append(token)
            row.logprobs.append(logprob)
            row.done = token in self._base.chat.eos_ids
        return ids


def draw(logits: Tensor, uniforms: Tensor, top_p: float) -> tuple[list[int], list[float]]:
    """Tokens by inverse CDF and their log-probs. `logits`: (B, V); `uniforms`: (B,) float64 in (0, 1]."""
    probs = logits.float().softmax(-1)  # (B, V)
    probs = (probs.cpu() if probs.device.type == "mps" else probs).double()  # mps has no float64
    if top_p < 1:
        probs = _nucleus(probs, top_p)
    cdf = probs.cumsum(-1)
    total = cdf[:, -1:]
    if not total.isfinite().all():
        raise RunError(
            "the student's logits are not finite, so nothing can be drawn from them; lower the learning rate (or raise "
            f"`student.temperature`) and {AFRESH}"
        )
    numbers = uniforms.to(cdf.device).unsqueeze(1) * total  # (B, 1)
    ids = torch.searchsorted(cdf, numbers)  # the first token whose CDF reaches the number
    logprobs = (probs.gather(1, ids) / total).log()
    return ids.squeeze(1).tolist(), logprobs.squeeze(1).tolist()


def _nucleus(probs: Tensor, top_p: float) -> Tensor:
    """Keeps the fewest most likely tokens that together have at least `top_p`, and sets the others to 0."""
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(probs).scatter(1, order, torch.where(before < top_p, ordered, 0.0))
