"""What every loss shares: its result, token log-probs, and means that know their mask.

A mask is 1.0 on the tokens that count and 0.0 elsewhere; what stands under a 0.0 never reaches a result or a gradient.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

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


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of `values` where `mask` is 1; what is masked may be inf or nan."""
    return torch.where(mask > 0, values, 0.0).sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` over the tokens of `mask`; 0 on an empty mask."""
    return masked_sum(values, mask) / mask.sum().clamp(min=1)
