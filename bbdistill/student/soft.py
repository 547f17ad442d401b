"""The distillation term: at every unit of a completion the student's next token follows the teacher's distribution.

The teacher's tokens come in bytes, from this process or from a server, with the tokenizer that it has. Where a unit is
one token on both sides, the outcomes are the tokens that the teacher finds likeliest and the student can say; elsewhere
the one outcome is the text itself. All else is the tail.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bbdistill.config.training import DistillConfig
from bbdistill.losses.common import likeliest, support_logprobs
from bbdistill.losses.distill import distill_loss, merged, sorted_term
from bbdistill.student.align import units
from bbdistill.student.batches import collate, completion_hidden, micro_batches, output_head
from bbdistill.student.optimiser import merge_metrics
from bbdistill.student.spelling import Spelling, folded
from bbdistill.student.tree import Row
from bbdistill.types import ScoredToken


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftUnit:
    """What the teacher says of a unit: of its outcomes, by the student's token, and of tokens the student has not."""

    tokens: tuple[int, int]
    """Of the completion, last excluded."""
    outcomes: tuple[tuple[int, float], ...]
    """(student's token, log-prob in nats); of a unit of several tokens one, whose token means the text itself."""
    rest: tuple[float, ...] = ()

    @property
    def single(self) -> bool:
        return self.tokens[1] - self.tokens[0] == 1


SURE = math.log(0.99)
"""How likely the teacher is taken to find the end of an answer that it gave and did not score."""


def soft_units(ids: Sequence[int], scored: Sequence[ScoredToken], spelling: Spelling, *, whole: bool) -> list[SoftUnit]:
    """The units of a completion; ValueError where the teacher's tokens spell another text.

    The end of the turn is a unit where both sides have one: a server may not score it, and a rollout may be cut off.
    Of a `whole` answer, somebody's demonstration, it always is one: else a student that is told of everything but the
    end learns not to come to one (the tests' student: from 7 % to 0.01 % in 60 updates).
    """
    said, told = list(ids), list(scored)
    ends, scored_end = bool(said) and not spelling.piece(said[-1]), bool(told) and told[-1].piece is None
    if ends and not scored_end:
        said.pop()
    elif scored_end and not ends:
        told.pop()
    found: list[SoftUnit] = []
    for unit in units(spelling.pieces(said), [token.piece or b"" for token in told]):
        theirs = told[unit.teacher[0] : unit.teacher[1]]
        if unit.single:
            outcomes, rest = _outcomes(said[unit.student[0]], theirs[0], spelling, first=unit.student[0] == 0)
            found.append(SoftUnit(tokens=unit.student, outcomes=outcomes, rest=rest))
        else:
            text = (said[unit.student[0]], sum(token.logprob for token in theirs))
            found.append(SoftUnit(tokens=unit.student, outcomes=(text,)))
    if whole and ends and not scored_end:
        found.append(SoftUnit(tokens=(len(said), len(ids)), outcomes=((ids[-1], SURE),)))
    return found


def _outcomes(
    said: int, token: ScoredToken, spelling: Spelling, *, first: bool
) -> tuple[tuple[tuple[int, float], ...], tuple[float, ...]]:
    """The likeliest tokens and the one that was said, by the student's ids; then those that it has not."""
    others = [
        (spelling.end if piece is None or piece in spelling.end_texts else spelling.token(piece, first=first), logprob)
        for piece, logprob in token.top
        if piece != token.piece
    ]
    found = folded([(said, token.logprob), *others])
    return tuple(found.logprobs.items()), found.rest


class DistillTerm:
    """Of rows with the units of their completions; each row's units count for its weight."""

    def __init__(
        self,
        model: PreTrainedModel,
        rows: Sequence[Row],
        units_R: Sequence[Sequence[SoftUnit]],
        weights: Sequence[float],
        settings: DistillConfig,
    ) -> None:
        self._model, self._rows, self._units, self._weights = model, rows, units_R, weights
        self._settings = settings
        self._total = sum(map(len, units_R))
        self.tokens = sum(len(row.completion) for row in rows)

    def backward(self) -> dict[str, float]:
        parts: list[tuple[float, dict[str, Tensor]]] = []
        for indices in micro_batches(self._model, [[row] for row in self._rows]):
            rows, units_R = [self._rows[i] for i in indices], [self._units[i] for i in indices]
            if not any(units_R):
                continue
            hidden = completion_hidden(self._model, collate(self._model, rows))  # (n, H)
            given = _Tensors.of(rows, units_R, [self._weights[i] for i in indices], hidden.device)
            student, rest = self._student(hidden, given)
            loss, metrics = distill_loss(
                student,
                given.teacher,
                given.mask,
                total_units=self._total,
                kind=self._settings.divergence,
                beta=self._settings.beta,
                weights=given.weights,
                rest=rest,
            )
            loss.backward()
            parts.append((len(given.teacher), metrics))
        return merge_metrics(parts)

    def _student(self, hidden: Tensor, given: "_Tensors") -> tuple[Tensor, Tensor | None]:
        """(U, K) log-probs of the units' outcomes, and (U,) how far the rest of the distributions are apart."""
        head = output_head(self._model).weight
        outcomes, asked = given.ids.shape[1], given.ids
        if given.rest.shape[1]:
            asked = torch.cat([asked, likeliest(hidden, head, given.rest.shape[1], without=asked)], dim=1)
        logprobs = support_logprobs(hidden, head, asked)  # (n, K [+ R])
        texts = merged(logprobs[given.covered, 0], given.unit, len(given.first))
        student = torch.where(given.single.unsqueeze(1), logprobs[given.first, :outcomes], texts.unsqueeze(1))
        if not given.rest.shape[1]:
            return student, None
        return student, sorted_term(logprobs[given.first, outcomes:], given.rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensors:
    """A micro-batch of n tokens in U units with at most K outcomes, R of the rest."""

    ids: Tensor
    """(n, K) outcomes of the token's unit; the first is the token itself."""
    covered: Tensor
    """(m,) the tokens that are in a unit,"""
    unit: Tensor
    """and (m,) in which."""
    first: Tensor
    """(U,) the first token of each unit."""
    single: Tensor
    teacher: Tensor
    """(U, K)"""
    mask: Tensor
    rest: Tensor
    """(U, R) log-probs, -inf where there is none."""
    weights: Tensor
    """(U,)"""

    @classmethod
    def of(
        cls, rows: Sequence[Row], units_R: Sequence[Sequence[SoftUnit]], weights: Sequence[float], device: torch.device
    ) -> "_Tensors":
        flat = [unit for found in units_R for unit in found]
        width, spare = max(len(unit.outcomes) for unit in flat), max(len(unit.rest) for unit in flat)
        ids = torch.tensor([[id] * width for row in rows for id in row.completion])
        teacher, mask = torch.zeros(len(flat), width), torch.zeros(len(flat), width)
        rest = torch.full((len(flat), spare), -torch.inf)
        covered, numbers, first = list[int](), list[int](), list[int]()
        start, number = 0, 0
        for row, found in zip(rows, units_R, strict=True):
            for unit in found:
                places = range(start + unit.tokens[0], start + unit.tokens[1])
                covered += places
                numbers += [number] * len(places)
                first.append(places[0])
                if unit.single:
                    ids[places[0], : len(unit.outcomes)] = torch.tensor([id for id, _ in unit.outcomes])
                teacher[number, : len(unit.outcomes)] = torch.tensor([logprob for _, logprob in unit.outcomes])
                mask[number, : len(unit.outcomes)] = 1
                rest[number, : len(unit.rest)] = torch.tensor(unit.rest)
                number += 1
            start += len(row.completion)
        each = torch.tensor([weight for weight, found in zip(weights, units_R, strict=True) for _ in found])
        tensors = {
            "ids": ids,
            "covered": torch.tensor(covered),
            "unit": torch.tensor(numbers),
            "first": torch.tensor(first),
            "single": torch.tensor([unit.single for unit in flat]),
            "teacher": teacher,
            "mask": mask,
            "rest": rest,
            "weights": each,
        }
        return cls(**{name: tensor.to(device) for name, tensor in tensors.items()})
