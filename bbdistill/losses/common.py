"""What every loss shares: its result, token log-probs, and means that know their mask.

A mask is 1.0 on the tokens that count and 0.0 elsewhere; what stands under a 0.0 never reaches a result or a gradient.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

AT_ONCE = 128
"""Positions whose logits are turned to float32 at a time."""


class LossOutput(NamedTuple):
    """`loss` is a scalar with a graph; `metrics` are detached scalars, means over what this call saw."""

    loss: Tensor
    metrics: dict[str, Tensor]


def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probs in nats, float32 (float64 stays), of `targets` (N,) under `logits` (N, V)."""
    # In pieces: bfloat16 logits turned to float32 at once would hold the largest tensor of a step three times.
    pieces = zip(logits.split(AT_ONCE), targets.split(AT_ONCE), strict=True)
    return torch.cat([-F.cross_entropy(_wide(piece), ids, reduction="none") for piece, ids in pieces])


def head_logprobs(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Log-probs in nats, float32, of `targets` (N,) under the logits `hidden` (N, H) @ `head` (V, H) transposed.

    `head` gets no gradient. Logits exist `AT_ONCE` rows at a time, once: the gradient of a token's log-prob towards its
    hidden state is worked out beside it, so that the backward is one product by a number per token.
    """
    found = _HeadLogprobs.apply(hidden, head, targets, torch.is_grad_enabled() and hidden.requires_grad)
    assert isinstance(found, Tensor), f"{type(found)=}"
    return found


class _HeadLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, train: bool) -> Tensor:
        found = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        slopes = torch.empty_like(hidden) if train else None  # (N, H)
        for first in range(0, len(hidden), AT_ONCE):
            here = slice(first, first + AT_ONCE)
            logprobs = (hidden[here] @ head.T).float().log_softmax(-1)
            found[here] = logprobs.gather(1, targets[here, None]).squeeze(1)
            if slopes is not None:
                expected = logprobs.exp_().to(head.dtype) @ head  # (n, H) the mean of the head's rows
                slopes[here] = head[targets[here]] - expected
        if slopes is not None:
            ctx.save_for_backward(slopes)
        return found

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] its decorator hides the names
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (slopes,), (gradient,) = ctx.saved_tensors, grad_outputs
        return (slopes * gradient.unsqueeze(1)).to(slopes.dtype), None, None, None


def support_logprobs(hidden: Tensor, head: Tensor, ids: Tensor) -> Tensor:
    """Log-probs in nats, float32 (float64 stays), of `ids` (N, K) under the logits `hidden` (N, H) @ `head` (V, H).T.

    `head` gets no gradient. Logits exist `AT_ONCE` rows at a time, once: the backward needs of them only the mean of
    the head's rows (N, H), which is worked out beside them.
    """
    found = _SupportLogprobs.apply(hidden, head, ids)
    assert isinstance(found, Tensor), f"{type(found)=}"
    return found


class _SupportLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, ids: Tensor) -> Tensor:
        train = ctx.needs_input_grad[0]
        pieces = list[Tensor]()
        expected = torch.empty_like(hidden) if train else None  # (N, H)
        for first in range(0, len(hidden), AT_ONCE):
            here = slice(first, first + AT_ONCE)
            logprobs = _wide(hidden[here] @ head.T).log_softmax(-1)
            pieces.append(logprobs.gather(1, ids[here]))
            if expected is not None:
                expected[here] = logprobs.exp_().to(head.dtype) @ head
        if expected is not None:
            ctx.save_for_backward(expected, head, ids)
        return torch.cat(pieces) if pieces else _wide(hidden).new_zeros(ids.shape)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] its decorator hides the names
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (expected, head, ids), (gradient,) = ctx.saved_tensors, grad_outputs
        slopes = torch.empty_like(expected)
        for first in range(0, len(expected), AT_ONCE):
            here = slice(first, first + AT_ONCE)
            rows = head[ids[here]].to(gradient.dtype)  # (n, K, H)
            taken = torch.bmm(gradient[here].unsqueeze(1), rows).squeeze(1)
            slopes[here] = taken - expected[here] * gradient[here].sum(1, keepdim=True)
        return slopes, None, None


@torch.no_grad()
def likeliest(hidden: Tensor, head: Tensor, count: int, without: Tensor | None = None) -> Tensor:
    """(N, count) the ids with the greatest logits `hidden` (N, H) @ `head` (V, H).T, in descending order.

    Those of `without` (N, K) are left out; a row that has fewer of them names one twice.
    """
    found = list[Tensor]()
    for first in range(0, len(hidden), AT_ONCE):
        here = slice(first, first + AT_ONCE)
        logits = hidden[here] @ head.T
        if without is not None:
            logits.scatter_(1, without[here], -torch.inf)
        found.append(logits.topk(count, dim=1).indices)
    return torch.cat(found) if found else torch.empty(0, count, dtype=torch.long, device=hidden.device)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of `values` where `mask` is 1; what is masked may be inf or nan."""
    return torch.where(mask > 0, values, 0.0).sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` over the tokens of `mask`; 0 on an empty mask."""
    return masked_sum(values, mask) / mask.sum().clamp(min=1)


def sequence_log_ratio(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """(B,) log(pi / pi_ref) of whole completions, in nats, of token log-probs and their mask (B, T).

    Its mean over completions drawn from pi is KL(pi || pi_ref) of whole sequences (the estimator k1). Subtracted,
    detached, from the reward it gives the gradient of that KL. The penalty of `policy_loss`, k2 as a loss, has another
    one: that of the KLs of single tokens where the completions went, blind to how a token leads to later ones; the two
    are equal where completions have one token (arXiv 2510.01555, 2512.21852).
    """
    return torch.where(mask > 0, logprobs - ref_logprobs, 0.0).sum(1)


def pair_metrics(family: str, losses: Tensor, margin: Tensor) -> dict[str, Tensor]:
    """Unweighted means over B pairs, of their losses (B,) and margins (B,): a tie is half right; 0 without pairs."""
    count = max(margin.numel(), 1)
    return {
        f"{family}/loss": losses.detach().sum() / count,
        f"{family}/accuracy": ((margin.detach().sign() + 1) / 2).sum() / count,
        f"{family}/margin": margin.detach().sum() / count,
    }
