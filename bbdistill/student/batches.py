"""Token rows to tensors and back: which rows share a forward, what of them is computed once, and completion log-probs.

Rows are padded on the right and carry no attention mask: under causal attention no real token sees what comes after it.
Tokens that all rows of a batch begin with are computed once; their keys and values, with gradients, serve every row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from bbdistill.losses.common import token_logprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a device makes of batches, in tokens."""

    budget: int
    """Padded tokens in one forward with gradients, which bounds its memory."""
    forward_cost: int
    """What starting a forward costs beside its tokens."""
    cached: int
    """Positions in the cache of one batch that is being sampled, which bounds its memory."""


CPU = Limits(budget=1024, forward_cost=64, cached=1 << 14)
"""Measured on two cores with a model of 135M parameters: time is linear in tokens from 500 to 2,300 per forward."""
ACCELERATOR = Limits(budget=16384, forward_cost=1024, cached=1 << 15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sequence: the tokens given and the tokens said."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        return self.prompt + self.completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows as tensors: B rows, P shared tokens, N at most after them, T at most in a completion."""

    prefix: Tensor
    """(1, P) ids common to all rows; P may be 0. A last prompt token is never part of it: it predicts a completion."""
    inputs: Tensor
    """(B, N) ids after the prefix, without each row's last."""
    predicts: Tensor
    """(B, N) True where an input should predict a completion token."""
    targets: Tensor
    """(B, T) completion ids."""
    mask: Tensor
    """(B, T) 1.0 on completion tokens."""

    def place(self, values: Sequence[Sequence[float]]) -> Tensor:
        """(B, T) one value per completion token, 0 elsewhere."""
        return _padded(values, torch.float32).to(self.mask.device)


def collate(model: PreTrainedModel, rows: Sequence[Row]) -> Batch:
    """Tensors on the model's device for rows that share a forward."""
    shared = shared_prefix(model, [row.prompt for row in rows])
    before = [len(row.prompt) - shared - 1 for row in rows]  # inputs that predict prompt tokens
    predicts = [[False] * b + [True] * len(row.completion) for b, row in zip(before, rows, strict=True)]
    device = model.device
    return Batch(
        prefix=torch.tensor([rows[0].prompt[:shared]], dtype=torch.long, device=device),
        inputs=_padded([row.ids[shared:-1] for row in rows], torch.long).to(device),
        predicts=_padded(predicts, torch.bool).to(device),
        targets=_padded([row.completion for row in rows], torch.long).to(device),
        mask=_padded([[1.0] * len(row.completion) for row in rows], torch.float32).to(device),
    )


def completion_logprobs(model: PreTrainedModel, batch: Batch) -> Tensor:
    """(B, T) log-probs in nats of `batch.targets`, 0 where `batch.mask` is. Only the logits they need are computed."""
    after = read_prefix(model, batch.prefix, len(batch.inputs))
    output = model(
        input_ids=batch.inputs, past_key_values=after, use_cache=after is not None, logits_to_keep=batch.predicts
    )
    real = batch.mask > 0
    found = token_logprobs(output.logits.flatten(0, -2), batch.targets[real])  # completion tokens, row by row
    return torch.zeros_like(batch.mask, dtype=found.dtype).masked_scatter(real, found)


def last_hidden(model: PreTrainedModel, rows: Sequence[Row]) -> Tensor:
    """(B, H) final hidden state of each row's last token."""
    shared = shared_prefix(model, [row.prompt for row in rows])
    rests = [row.ids[shared:] for row in rows]
    prefix = torch.tensor([rows[0].prompt[:shared]], dtype=torch.long, device=model.device)
    inputs = _padded(rests, torch.long).to(model.device)
    after = read_prefix(model, prefix, len(rows))
    output = model.base_model(input_ids=inputs, past_key_values=after, use_cache=after is not None)
    hidden = output.last_hidden_state  # (B, N, H)
    return hidden[torch.arange(len(rows)), torch.tensor([len(rest) - 1 for rest in rests])]


def micro_batches(groups: Sequence[Sequence[Row]], limits: Limits) -> list[list[int]]:
    """Which groups of rows share a forward: indices into `groups`, each once. Rows of one group stay together.

    Rows of one prompt are neighbours, and prompts are in order of their longest row. Neighbours are put together where
    that costs no more than two forwards would, and fits the budget; a group beyond the budget is a batch by itself.
    """
    longest: dict[tuple[int, ...], int] = {}
    for group in groups:
        longest[group[0].prompt] = max(longest.get(group[0].prompt, 0), _longest(group))
    order = sorted(
        range(len(groups)), key=lambda i: (longest[groups[i][0].prompt], groups[i][0].prompt, _longest(groups[i]))
    )
    batches: list[list[int]] = []
    rows: list[Row] = []
    for index in order:
        group = list(groups[index])
        together, apart = _tokens([*rows, *group], limits), _tokens(group, limits) + limits.forward_cost
        if rows and together <= limits.budget and together <= _tokens(rows, limits) + apart:
            batches[-1].append(index)
            rows += group
        else:
            batches.append([index])
            rows = group
    return batches


def limits_of(device: torch.device) -> Limits:
    return CPU if device.type == "cpu" else ACCELERATOR


def _tokens(rows: Sequence[Row], limits: Limits) -> int:
    """Padded tokens of one forward over `rows`."""
    shared = _shared([row.prompt for row in rows], limits)
    return shared + len(rows) * (_longest(rows) - shared)


def _longest(rows: Sequence[Row]) -> int:
    return max(len(row.prompt) + len(row.completion) for row in rows)


def _shared(prompts: Sequence[tuple[int, ...]], limits: Limits) -> int:
    """Leading tokens to compute once for all prompts; 0 where a second forward would cost more than it saves."""
    low, high = min(prompts), max(prompts)  # all others lie between
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(low, high, strict=False)))
    shared = min(alike, min(map(len, prompts)) - 1)  # the last token of each is its own: it predicts a completion
    return shared if (len(prompts) - 1) * shared > limits.forward_cost else 0


def shared_prefix(model: PreTrainedModel, prompts: Sequence[tuple[int, ...]]) -> int:
    """How many leading tokens of `prompts` are worth computing once.

    0 where a layer does not keep all its keys and values: sliding windows and recurrent states are not for sharing.
    """
    layers = DynamicCache(config=model.config).layers
    return _shared(prompts, limits_of(model.device)) if all(type(layer) is DynamicLayer for layer in layers) else 0


def read_prefix(model: PreTrainedModel, prefix: Tensor, rows: int) -> DynamicCache | None:
    """Keys and values of `prefix` (1, P), repeated for `rows` rows, with their graph; None where P is 0."""
    if prefix.shape[1] == 0:
        return None
    cache = DynamicCache(config=model.config)
    model.base_model(input_ids=prefix, past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(rows)
    return cache


def _padded(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
    """(B, longest) with zeros on the right."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=dtype)
