"""Draws completions on a key-value cache: each distinct prompt is read once, and finished rows make room.

Every row draws with its own generator, so that what it says does not depend on which rows share its batch, up to float
rounding of the logits (a draw changes only where the uniform number falls within that rounding of a boundary).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache

from bbdistill.student.batches import limits_of, read_prefix, shared_prefix
from bbdistill.student.model import Base
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
    rows = [_Row(place=(p, g), draw=draw) for p, draws in enumerate(draws_P_G) for g, draw in enumerate(draws)]
    # Neighbours then need little padding, and rows of one prompt stay together.
    rows.sort(key=lambda row: len(prompts[row.place[0]]), reverse=True)
    with torch.inference_mode():
        for batch in _batches(rows, prompts, max_new_tokens, limits_of(base.device).cached):
            _Decoder(base, temperature, top_p, max_new_tokens).run(batch, prompts)
    finished = {row.place: row for row in rows}
    return [
        [_sampled(finished[p, g], base.chat.eos_ids) for g in range(len(draws))] for p, draws in enumerate(draws_P_G)
    ]


def _batches(
    rows: list[_Row], prompts: Sequence[Sequence[int]], max_new_tokens: int, positions: int
) -> list[list[_Row]]:
    """Rows, longest prompt first, cut so that a batch never holds more than `positions`, or is one row."""
    batches: list[list[_Row]] = []
    room = 0
    for row in rows:
        if not room:
            batches.append([])
            room = max(1, positions // (len(prompts[row.place[0]]) + max_new_tokens))
        batches[-1].append(row)
        room -= 1
    return batches


def _sampled(row: _Row, eos_ids: frozenset[int]) -> Sampled:
    return Sampled(
        token_ids=tuple(row.token_ids),
        logprobs=tuple(row.logprobs),
        stop_reason="stop" if row.token_ids[-1] in eos_ids else "length",
    )


class _Decoder:
    """Decodes one batch: cache, attention mask and next positions of the rows still speaking."""

    def __init__(self, base: Base, temperature: float, top_p: float, max_new_tokens: int) -> None:
        self.base, self.temperature, self.top_p, self.max_new_tokens = base, temperature, top_p, max_new_tokens

    def run(self, rows: list[_Row], prompts: Sequence[Sequence[int]]) -> None:
        """Fills `rows`."""
        logits = self._read(rows, prompts)  # (B, V)
        for _ in range(self.max_new_tokens - 1):
            ids = self._say(rows, logits)
            kept = [index for index, row in enumerate(rows) if not row.done]
            if not kept:
                return
            if len(kept) < len(rows):
                self._keep(torch.tensor(kept, device=self.base.device))
                rows, ids = [rows[index] for index in kept], [ids[index] for index in kept]
            logits = self._next(torch.tensor(ids, device=self.base.device).unsqueeze(1))
        self._say(rows, logits)

    def _read(self, rows: list[_Row], prompts: Sequence[Sequence[int]]) -> Tensor:
        """Reads each distinct prompt once, and what all of them begin with once for all; gives every row its copy.

        Between what is shared and the rest of a prompt there is padding, which the mask hides.
        """
        model, device = self.base.model, self.base.device
        wanted = list(dict.fromkeys(row.place[0] for row in rows))
        read = [tuple(prompts[p]) for p in wanted]
        shared = shared_prefix(model, read)
        prefix = torch.tensor([read[0][:shared]], dtype=torch.long, device=device)
        after = read_prefix(model, prefix, len(read))
        self.cache = DynamicCache(config=model.config) if after is None else after
        width = max(map(len, read))
        rests = [[self.base.chat.pad_id] * (width - len(ids)) + list(ids[shared:]) for ids in read]
        mask = [[1] * shared + [0] * (width - len(ids)) + [1] * (len(ids) - shared) for ids in read]
        self.mask = torch.tensor(mask, device=device)  # (P, width)
        positions = self.mask.cumsum(1).sub(1).clamp(min=0)[:, shared:]
        logits = self._forward(torch.tensor(rests, device=device), positions)
        copies = torch.tensor([wanted.index(row.place[0]) for row in rows], device=device)
        self._keep(copies)
        return logits[copies]

    def _next(self, ids: Tensor) -> Tensor:
        """(B, V) logits after one more token per row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(ids), 1)], dim=1)
        return self._forward(ids, self.mask.sum(1, keepdim=True) - 1)

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        output = self.base.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def _keep(self, indices: Tensor) -> None:
        self.cache.batch_select_indices(indices)
        self.mask = self.mask[indices]

    def _say(self, rows: list[_Row], logits: Tensor) -> list[int]:
        """Draws one token per row and marks the rows that end with it."""
        if self.temperature == 0:
            ids, logprobs = logits.argmax(-1).tolist(), [0.0] * len(rows)
        else:
            # 1 - random() is in (0, 1], so that a token of probability 0 is never drawn.
            uniforms = torch.tensor([1 - row.draw.random() for row in rows], dtype=torch.float64)
            ids, logprobs = draw(logits / self.temperature, uniforms, self.top_p)
        for row, token, logprob in zip(rows, ids, logprobs, strict=True):
            row.token_ids.append(token)
            row.logprobs.append(logprob)
            row.done = token in self.base.chat.eos_ids
        return ids


def draw(logits: Tensor, uniforms: Tensor, top_p: float) -> tuple[list[int], list[float]]:
    """Tokens by inverse CDF and their log-probs. `logits`: (B, V); `uniforms`: (B,) float64 in (0, 1]."""
    probs = logits.float().softmax(-1)  # (B, V)
    probs = (probs.cpu() if probs.device.type == "mps" else probs).double()  # mps has no float64
    if top_p < 1:
        probs = _nucleus(probs, top_p)
    cdf = probs.cumsum(-1)
    total = cdf[:, -1:]
    numbers = uniforms.to(cdf.device).unsqueeze(1) * total  # (B, 1)
    ids = torch.searchsorted(cdf, numbers)  # the first token whose CDF reaches the number
    logprobs = (probs.gather(1, ids) / total).log()
    return ids.squeeze(1).tolist(), logprobs.squeeze(1).tolist()


def _nucleus(probs: Tensor, top_p: float) -> Tensor:
    """Keeps the fewest most likely tokens that together have at least `top_p`, and sets the others to 0."""
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(probs).scatter(1, order, torch.where(before < top_p, ordered, 0.0))
