"""How likely a model finds texts, token by token, with the tokens that it finds likeliest in each place."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bbdistill.student.batches import collate, completion_hidden, micro_batches, output_head
from bbdistill.student.model import Base
from bbdistill.student.tree import Row
from bbdistill.types import Message, ScoredToken


def text_row(base: Base, messages: Sequence[Message], text: str, *, tags: bool = False) -> Row:
    """A text behind its messages. It may hold bytes that belong to no character, as `surrogateescape` writes them."""
    prompt = base.chat.prompt_ids(messages, tags=tags)
    return Row(prompt=tuple(prompt), completion=tuple(_ids(base, messages, text)))


def score_rows(base: Base, rows: Sequence[Row], *, top_k: int) -> list[tuple[ScoredToken, ...]]:
    """Of each completion, the end of the turn included."""
    every = zip(rows, distributions(base.model, rows), strict=True)
    return [_tokens(base, row.completion, logprobs, top_k) for row, logprobs in every]


@torch.inference_mode()  # as a decorator it is off again while the caller has a row
def distributions(model: PreTrainedModel, rows: Sequence[Row]) -> Iterator[Tensor]:
    """Log-probs (T, V) of the next token in each place of each completion, of one row at a time, in their order."""
    hidden: dict[int, Tensor] = {}
    for indices in micro_batches(model, [[row] for row in rows]):
        found = completion_hidden(model, collate(model, [rows[index] for index in indices]))  # (n, H), row by row
        hidden |= zip(indices, found.split([len(rows[index].completion) for index in indices]), strict=True)
    for index in range(len(rows)):
        yield (hidden[index] @ output_head(model).weight.T).float().log_softmax(-1)


def _ids(base: Base, messages: Sequence[Message], text: str) -> list[int]:
    if text.isascii() or not any("\udc80" <= character <= "\udcff" for character in text):
        return base.chat.completion_ids(messages, text)
    try:
        return [*base.chat.spelling.ids(text.encode("utf-8", "surrogateescape")), base.chat.end]
    except ValueError:  # it cannot spell these bytes: what it can say of the rest is about another text
        return base.chat.completion_ids(messages, text.encode("utf-8", "replace").decode())


def _tokens(base: Base, ids: Sequence[int], logprobs: Tensor, top_k: int) -> tuple[ScoredToken, ...]:
    """`logprobs`: (T, V)."""

    def piece(id: int, place: int) -> bytes | None:
        return None if id in base.chat.eos_ids else base.chat.spelling.piece(id, first=place == 0)

    values, likeliest = logprobs.topk(min(top_k, logprobs.shape[1]))
    chosen = logprobs.gather(1, torch.tensor(ids, device=logprobs.device).unsqueeze(1)).squeeze(1)
    rows = zip(ids, chosen.tolist(), likeliest.tolist(), values.tolist(), strict=True)
    return tuple(
        ScoredToken(
            piece=piece(id, place),
            logprob=logprob,
            top=tuple((piece(other, place), value) for other, value in zip(others, column, strict=True)),
        )
        for place, (id, logprob, others, column) in enumerate(rows)
    )
