"""Decoding, one token per row at a time: keys and values that rows share are kept once, and finished rows make room."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from bbdistill.student.attention import along, keywords, mix
from bbdistill.student.batches import output_head
from bbdistill.student.tree import HIDDEN, Row, Tree, lay_out

CROWDED = 0.75
"""Share of the slots that must be in use; below it the rows move together, which copies what they have said."""


class Decoder(Protocol):
    """Reads the prompts of its rows, then one token of each again and again. All logits are (rows, V)."""

    def read(self) -> Tensor:
        """Logits after the prompts."""
        ...

    def next(self, ids: Tensor) -> Tensor:
        """Logits after one more token (rows,) each."""
        ...

    def keep(self, indices: Tensor) -> None:
        """Drops the rows that are not at `indices`, which ascend."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """Keys and values of one layer, with heads first: (2, K, ...)."""

    shared: Tensor
    """(2, K, S, D) of what all prompts begin with."""
    rests: Tensor
    """(2, K, P, S, D) of the rest of each prompt."""
    own: Tensor
    """(2, K, P M, T, D) of what was said, with room for what will be."""

    def parts(self, said: int) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values as `mix` takes them, with the first `said` tokens of the rows' own."""
        both = [self.shared, self.rests.flatten(1, 2), self.own.flatten(1, 2)[:, :, :said]]
        used = [pair for pair in both if pair.shape[2]]
        return [keys for keys, _ in used], [values for _, values in used]


class TreeDecoder:
    """P prompts with M rows each at most. Prompts are read as a tree; no row has a copy of its prompt."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[tuple[int, ...]], max_new_tokens: int) -> None:
        """`prompts` has one per row; equal ones are neighbours."""
        self._model, self._room, self._said = model, max_new_tokens, 0
        self._prompts = list(dict.fromkeys(prompts))
        self._many = max(map(prompts.count, self._prompts))
        numbers = [self._prompts.index(prompt) for prompt in prompts]
        slots = [p * self._many + row - numbers.index(p) for row, p in enumerate(numbers)]
        self._slots = torch.tensor(slots, device=model.device)  # (rows,) places in (P M,)
        self._starts = torch.tensor([len(prompt) for prompt in prompts], device=model.device)  # (rows,)
        self._layers: dict[nn.Module, _Layer] = {}

    @property
    def slots(self) -> int:
        """Rows that there is room for."""
        return len(self._mask) * self._many

    def read(self) -> Tensor:
        """Logits after the prompts."""
        tree = lay_out([Row(prompt=prompt, completion=()) for prompt in self._prompts], self._model.device)
        self._shared = tree.stages[-1].tokens.start
        self._rests, self._mask = self._after_shared(tree)
        hidden = self._forward(tree.ids, **along(tree, self._remember))
        ends = torch.tensor([span.end for span in tree.spans], device=self._model.device)
        return output_head(self._model)(hidden[0, ends])[self._slots // self._many]

    def next(self, ids: Tensor) -> Tensor:
        """Logits after one more token each."""
        self._said += 1
        positions = (self._starts + self._said - 1).unsqueeze(1)
        hidden = self._forward(ids.unsqueeze(1), **keywords(positions, self._attend))
        return output_head(self._model)(hidden[:, 0])

    def keep(self, indices: Tensor) -> None:
        """Drops the rows that are not at `indices`, which ascend."""
        self._slots, self._starts = self._slots[indices], self._starts[indices]
        parents, numbers, counts = torch.unique_consecutive(
            self._slots // self._many, return_inverse=True, return_counts=True
        )
        many = int(counts.max())
        if len(parents) * many > CROWDED * self.slots:
            return
        first = counts.cumsum(0) - counts
        slots = numbers * many + torch.arange(len(numbers), device=numbers.device) - first[numbers]
        old = torch.zeros(len(parents) * many, dtype=torch.long, device=slots.device).index_copy_(0, slots, self._slots)
        self._slots, self._many, self._mask = slots, many, self._mask[parents]
        for module, layer in self._layers.items():
            self._layers[module] = _Layer(
                shared=layer.shared, rests=layer.rests[:, :, parents], own=layer.own[:, :, old]
            )

    def _after_shared(self, tree: Tree) -> tuple[Tensor, Tensor]:
        """(P, S) the tokens of each prompt's rest, and (P, 1, 1, all positions) what is added to the scores."""
        lengths = [len(prompt) - self._shared for prompt in self._prompts]
        tokens = [
            [*range(span.end + 1 - n, span.end + 1), *[0] * (max(lengths) - n)]
            for span, n in zip(tree.spans, lengths, strict=True)
        ]
        mask = torch.zeros(len(lengths), 1, 1, self._shared + max(lengths) + self._room, dtype=self._model.dtype)
        for row, n in zip(mask, lengths, strict=True):
            row[..., self._shared + n : self._shared + max(lengths)] = HIDDEN
        return torch.tensor(tokens, device=self._model.device), mask.to(self._model.device)

    def _forward(self, ids: Tensor, **how: Any) -> Tensor:
        """(B, N, H)."""
        return self._model.base_model(input_ids=ids, **how).last_hidden_state

    def _remember(self, module: nn.Module, key: Tensor, value: Tensor) -> None:
        """Keeps what a layer makes of the prompts: (1, K, N, D) each."""
        both = torch.stack([key[0], value[0]])
        slots = len(self._prompts) * self._many
        self._layers[module] = _Layer(
            shared=both[:, :, : self._shared].contiguous(),
            rests=both[:, :, self._rests],
            own=both.new_zeros(2, key.shape[1], slots, self._room, key.shape[3]),
        )

    def _attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        layer, heads, width = self._layers[module], key.shape[1], key.shape[3]
        layer.own[:, :, self._slots, self._said - 1] = torch.stack([key, value])[:, :, :, 0].transpose(1, 2)
        keys, values = layer.parts(self._said)
        spread = query.new_zeros(self.slots, heads, query.shape[1] // heads, width)
        spread[self._slots] = (query * scaling).view(-1, *spread.shape[1:])  # of (rows, H, 1, D)
        queries = spread.transpose(0, 1).reshape(heads, -1, self._many, spread.shape[2], 1, width)
        found, _ = mix(queries, keys, values, self._mask[..., : sum(part.shape[1] for part in keys)])
        said = found.view(heads, self.slots, -1, width).transpose(0, 1)[self._slots]
        return said.reshape(len(query), 1, -1, width)


class PaddedDecoder:
    """For any model: a cache of its own kind, prompts padded on the left and one copy of them per row."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[tuple[int, ...]], pad_id: int) -> None:
        self._model, self._prompts, self._pad_id = model, prompts, pad_id
        self._cache = DynamicCache(config=model.config)

    def read(self) -> Tensor:
        """Logits after the prompts, each read once."""
        distinct = list(dict.fromkeys(self._prompts))
        width = max(map(len, distinct))
        ids = [[self._pad_id] * (width - len(prompt)) + list(prompt) for prompt in distinct]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in distinct]
        self._mask = torch.tensor(mask, device=self._model.device)  # (P, width)
        logits = self._forward(torch.tensor(ids, device=self._model.device), self._mask.cumsum(1).sub(1).clamp(min=0))
        copies = torch.tensor([distinct.index(prompt) for prompt in self._prompts], device=self._model.device)
        self.keep(copies)
        return logits[copies]

    def next(self, ids: Tensor) -> Tensor:
        """Logits after one more token each."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(ids), 1)], dim=1)
        return self._forward(ids.unsqueeze(1), self._mask.sum(1, keepdim=True) - 1)

    def keep(self, indices: Tensor) -> None:
        """Makes the rows those at `indices`."""
        self._cache.batch_select_indices(indices)
        self._mask = self._mask[indices]

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        output = self._model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]
