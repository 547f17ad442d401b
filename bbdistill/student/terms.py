"""The terms of the student's loss. Each is built before any graph is (what it needs of other adapters is computed
then), back-propagates its share inside the student's block, as often as asked, and returns its metrics.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bbdistill.config.training import PolicyConfig
from bbdistill.losses.common import sequence_log_ratio
from bbdistill.losses.credit import token_credit
from bbdistill.losses.policy import PolicyInputs, policy_loss
from bbdistill.losses.preference import dpo_loss
from bbdistill.losses.sft import sft_loss
from bbdistill.student.adapters import Adapters
from bbdistill.student.batches import Batch, collate, completion_logprobs, micro_batches
from bbdistill.student.optimiser import merge_metrics
from bbdistill.student.tree import Row
from bbdistill.types import PolicyExample, RankedPair

Metrics = dict[str, float]
Answer = tuple[str, str]
"""(prompt id, text)."""


class PolicyTerm:
    """The policy gradient of rollouts, whose rows are `rows`.

    Those without an advantage have no gradient, and no forward unless the loss has a penalty, but they count in the
    mean. Where the loss has none, the distance to the base is measured on the first micro-batch alone.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        adapters: Adapters,
        examples: Sequence[PolicyExample],
        rows: Sequence[Row],
        settings: PolicyConfig,
        *,
        longest: int,
    ) -> None:
        """`longest` is how many tokens a completion may have."""
        self._model, self._settings = model, settings
        self.tokens = sum(len(row.completion) for row in rows)
        self._total = len(rows) * longest if settings.loss == "dr_grpo" else self.tokens
        self._kl_coef = settings.kl_coef if settings.kl == "k2_loss" else 0.0
        moving = [i for i, example in enumerate(examples) if example.advantage != 0 or self._kl_coef > 0]
        examples, rows = [examples[i] for i in moving], [rows[i] for i in moving]
        self._batches: list[Batch] = []
        self._drawn: list[Tensor] = []
        self._advantages: list[Tensor] = []
        for indices in micro_batches(model, [[row] for row in rows]):
            batch = collate(model, [rows[i] for i in indices])
            self._batches.append(batch)
            self._drawn.append(batch.place([examples[i].rollout.logprobs for i in indices]))
            self._advantages.append(_advantages(batch, [examples[i] for i in indices], settings.credit_clip))
        measured = len(self._batches) if self._kl_coef > 0 else 1
        with adapters.use(None):
            references = [completion_logprobs(model, batch) for batch in self._batches[:measured]]
        self._references: list[Tensor | None] = [*references, *[None] * (len(self._batches) - len(references))]
        self._old: list[Tensor | None] = [None] * len(self._batches)

    def backward(self) -> Metrics:
        parts: list[tuple[float, dict[str, Tensor]]] = []
        for index, batch in enumerate(self._batches):
            logprobs = completion_logprobs(self._model, batch)
            # The policy of the first update is its own old policy.
            old = self._old[index] = _or(self._old[index], logprobs.detach())
            inputs = PolicyInputs(
                logprobs=logprobs,
                old_logprobs=old,
                sampler_logprobs=self._drawn[index],
                advantages=self._advantages[index],
                mask=batch.mask,
                ref_logprobs=self._references[index],
            )
            loss, metrics = policy_loss(
                inputs,
                total_tokens=self._total,
                kl_coef=self._kl_coef,
                clip_low=self._settings.clip_low,
                clip_high=self._settings.clip_high,
                off_policy_limit=self._settings.off_policy_limit or None,
            )
            loss.backward()
            parts.append((batch.mask.sum().item(), metrics))
        return merge_metrics(parts, summed="policy/loss")


class SFTTerm:
    """The negative log-likelihood of given completions, mean over their tokens."""

    def __init__(self, model: PreTrainedModel, rows: Sequence[Row], weights: Sequence[float]) -> None:
        self._model, self._rows, self._weights = model, rows, weights
        self.tokens = sum(len(row.completion) for row in rows)

    def backward(self) -> Metrics:
        parts: list[tuple[float, dict[str, Tensor]]] = []
        for indices in micro_batches(self._model, [[row] for row in self._rows]):
            batch = collate(self._model, [self._rows[i] for i in indices])
            weights = torch.tensor([self._weights[i] for i in indices], device=batch.mask.device)
            logprobs = completion_logprobs(self._model, batch)
            loss, metrics = sft_loss(logprobs, batch.mask, total_tokens=self.tokens, weights=weights)
            loss.backward()
            parts.append((batch.mask.sum().item(), metrics))
        return merge_metrics(parts)


class PreferenceTerm:
    """DPO on pairs of answers; `rows_P` holds each prompt's answers, which share a forward."""

    def __init__(
        self,
        model: PreTrainedModel,
        adapters: Adapters,
        reference: str,
        pairs: Sequence[RankedPair],
        rows_P: Sequence[Sequence[tuple[Answer, Row]]],
        *,
        beta: float,
    ) -> None:
        """`reference` is the adapter that the student must not move away from."""
        self._model, self._beta = model, beta
        self._total = sum(pair.weight for pair in pairs)
        self.tokens = sum(len(row.completion) for rows in rows_P for _, row in rows)
        self._batches: list[tuple[Batch, list[int], list[int], Tensor]] = []
        for indices in micro_batches(model, [[row for _, row in rows] for rows in rows_P]):
            keyed = [pair for index in indices for pair in rows_P[index]]
            place = {answer: index for index, (answer, _) in enumerate(keyed)}
            here = [pair for pair in pairs if (pair.prompt.id, pair.chosen) in place]
            batch = collate(model, [row for _, row in keyed])
            chosen = [place[pair.prompt.id, pair.chosen] for pair in here]
            rejected = [place[pair.prompt.id, pair.rejected] for pair in here]
            weights = torch.tensor([pair.weight for pair in here], device=batch.mask.device)
            self._batches.append((batch, chosen, rejected, weights))
        with adapters.use(reference):
            self._references = [completion_logprobs(model, batch) for batch, *_ in self._batches]

    def backward(self) -> Metrics:
        parts: list[tuple[float, dict[str, Tensor]]] = []
        for (batch, chosen, rejected, weights), reference in zip(self._batches, self._references, strict=True):
            ratios = sequence_log_ratio(completion_logprobs(self._model, batch), reference, batch.mask)  # (N,)
            loss, metrics = dpo_loss(
                ratios[chosen], ratios[rejected], beta=self._beta, total_pairs=self._total, weights=weights
            )
            loss.backward()
            parts.append((len(chosen), metrics))
        return merge_metrics(parts)


def _advantages(batch: Batch, examples: Sequence[PolicyExample], clip: float) -> Tensor:
    """(B,), or (B, T) where any of the examples says which of its tokens its advantage is for."""
    direction = torch.tensor([example.advantage for example in examples], device=batch.mask.device)
    if all(example.magnitude is None for example in examples):
        return direction
    each = [example.magnitude or [1.0] * len(example.rollout.token_ids) for example in examples]
    return token_credit(direction, batch.place(each), batch.mask, limit=clip)


def _or(given: Tensor | None, other: Tensor) -> Tensor:
    return other if given is None else given
