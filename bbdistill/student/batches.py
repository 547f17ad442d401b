"""Token rows to tensors and back: which rows share a forward, completion log-probs, last hidden states.

Where the model allows it, the rows of a forward are a tree and what they share is computed once. Elsewhere they are
padded on the right and carry no attention mask: under causal attention no real token sees what comes after it.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bbdistill.losses.common import head_logprobs, token_logprobs
from bbdistill.student.attention import along, is_plain
from bbdistill.student.tree import Row, Tree, lay_out, tree_tokens
from bbdistill.types import Prompt

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a device makes of batches, in tokens."""

    budget: int
    """Tokens in one forward with gradients, which bounds its memory."""
    cached: int
    """Positions in the cache of one batch that is being sampled, which bounds its memory."""


CPU = Limits(budget=2048, cached=1 << 15)
ACCELERATOR = Limits(budget=16384, cached=1 << 15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B rows as tensors, T tokens at most in a completion."""

    rows: tuple[Row, ...]
    targets: Tensor
    """(B, T) completion ids."""
    mask: Tensor
    """(B, T) 1.0 on completion tokens."""

    def place(self, values: Sequence[Sequence[float]]) -> Tensor:
        """(B, T) one value per completion token, 0 elsewhere."""
        return _padded(values, torch.float32).to(self.mask.device)


def collate(model: PreTrainedModel, rows: Sequence[Row]) -> Batch:
    """Tensors on the model's device for rows that share a forward."""
    return Batch(
        rows=tuple(rows),
        targets=_padded([row.completion for row in rows], torch.long).to(model.device),
        mask=_padded([[1.0] * len(row.completion) for row in rows], torch.float32).to(model.device),
    )


def completion_logprobs(model: PreTrainedModel, batch: Batch) -> Tensor:
    """(B, T) log-probs in nats of `batch.targets`, 0 where `batch.mask` is. Only the logits they need are computed."""
    real = batch.mask > 0
    of_rows = _tree_logprobs if as_tree(model) else _padded_logprobs
    found = of_rows(model, batch.rows, batch.targets[real])  # completion tokens, row by row
    return torch.zeros_like(batch.mask, dtype=found.dtype).masked_scatter(real, found)


def completion_hidden(model: PreTrainedModel, batch: Batch) -> Tensor:
    """(n, H) final hidden states that predict the n completion tokens of `batch`, row by row."""
    if as_tree(model):
        return _tree_hidden(model, batch.rows)
    inputs = _padded([row.ids[:-1] for row in batch.rows], torch.long).to(model.device)
    hidden = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state  # (B, N, H)
    return hidden[_predicts(batch.rows).to(model.device)]


def last_hidden(model: PreTrainedModel, rows: Sequence[Row]) -> Tensor:
    """(B, H) final hidden state of each row's last token."""
    if as_tree(model):
        tree = lay_out(rows, model.device)
        return _hidden(model, tree)[torch.tensor([span.end for span in tree.spans], device=model.device)]
    inputs = _padded([row.ids for row in rows], torch.long).to(model.device)
    hidden = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state  # (B, N, H)
    return hidden[torch.arange(len(rows)), torch.tensor([len(row.ids) - 1 for row in rows])]


def micro_batches(
    model: PreTrainedModel, groups: Sequence[Sequence[Row]], budget: int | None = None
) -> list[list[int]]:
    """Which groups of rows share a forward: indices into `groups`, each once. Rows of one group stay together.

    Rows of one prompt are neighbours, and prompts are in order of their longest row. Neighbours share a forward as long
    as its tokens fit the budget (that of the device where None); a group beyond it is a batch by itself.
    """
    limit = budget or limits_of(model.device).budget
    longest: dict[tuple[int, ...], int] = {}
    for group in groups:
        longest[group[0].prompt] = max(longest.get(group[0].prompt, 0), _longest(group))
    order = sorted(
        range(len(groups)), key=lambda i: (longest[groups[i][0].prompt], groups[i][0].prompt, _longest(groups[i]))
    )
    batches: list[list[int]] = []
    rows: list[Row] = []
    for index in order:
        rows += groups[index]
        if not batches or forward_tokens(model, rows) > limit:
            batches.append([])
            rows = list(groups[index])
        batches[-1].append(index)
    return batches


def by_prompt(answers: Sequence[tuple[Prompt, str]]) -> list[list[tuple[Prompt, str]]]:
    """The distinct answers, grouped by prompt id, in order of first appearance."""
    groups: dict[str, dict[str, Prompt]] = {}
    for prompt, text in answers:
        groups.setdefault(prompt.id, {}).setdefault(text, prompt)
    return [[(prompt, text) for text, prompt in texts.items()] for texts in groups.values()]


def limits_of(device: torch.device) -> Limits:
    return CPU if device.type == "cpu" else ACCELERATOR


def _tree_logprobs(model: PreTrainedModel, rows: Sequence[Row], targets: Tensor) -> Tensor:
    return head_logprobs(_tree_hidden(model, rows), output_head(model).weight, targets)


def _tree_hidden(model: PreTrainedModel, rows: Sequence[Row]) -> Tensor:
    # The last token of a row predicts nothing.
    tree = lay_out([Row(prompt=row.prompt, completion=row.completion[:-1]) for row in rows], model.device)
    places = [
        place
        for row, span in zip(rows, tree.spans, strict=True)
        for place in (span.prompt_end, *range(span.start, span.start + span.length))[: len(row.completion)]
    ]
    return _hidden(model, tree)[torch.tensor(places, dtype=torch.long, device=model.device)]


def output_head(model: PreTrainedModel) -> nn.Linear:
    """The layer that makes logits of final hidden states."""
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Linear), f"{type(head)=}"
    return head


def _padded_logprobs(model: PreTrainedModel, rows: Sequence[Row], targets: Tensor) -> Tensor:
    inputs = _padded([row.ids[:-1] for row in rows], torch.long).to(model.device)
    logits = model(input_ids=inputs, use_cache=False, logits_to_keep=_predicts(rows).to(model.device)).logits
    return token_logprobs(logits.flatten(0, -2), targets)


def _predicts(rows: Sequence[Row]) -> Tensor:
    """(B, N) where a completion token comes next."""
    return _padded([[False] * (len(row.prompt) - 1) + [True] * len(row.completion) for row in rows], torch.bool)


def _hidden(model: PreTrainedModel, tree: Tree) -> Tensor:
    """(N, H) final hidden states."""
    return model.base_model(input_ids=tree.ids, **along(tree)).last_hidden_state[0]


def as_tree(model: PreTrainedModel) -> bool:
    """Whether the rows of a forward are laid out as a tree; says once for a model that they are not."""
    return _as_tree(model.config.model_type, is_plain(model.config))


@cache
def _as_tree(model_type: str, plain: bool) -> bool:
    if not plain:
        _log.warning(
            "models of type `%s` are trained on padded rows: what prompts share is computed once only for plain "
            "attention (Llama and Qwen families)",
            model_type,
        )
    return plain


def forward_tokens(model: PreTrainedModel, rows: Sequence[Row]) -> int:
    """Of one forward over `rows`."""
    return tree_tokens(rows) if as_tree(model) else len(rows) * _longest(rows)


def _longest(rows: Sequence[Row]) -> int:
    return max(len(row.prompt) + len(row.completion) for row in rows)


def _padded(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
    """(B, longest) with zeros on the right."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=dtype)
