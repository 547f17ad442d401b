"""What every loss shares: its result, token log-probs, and means that know their mask.

A mask is 1.0 on the tokens that count and 0.0 elsewhere; what stands under a 0.0 never reaches a result or a gradient.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class LossOutput(NamedTuple):
    """`loss` is a scalar with a graph; `metrics` are detached scalars, means over what this call saw."""

    loss: Tensor
    metrics: dict[str, Tensor]


def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probs in nats, float32 (float64 stays), of `targets` (B, T) under `logits` (B, T, V)."""
    rows = [_row_logprobs(row, ids) for row, ids in zip(logits, targets, strict=True)]
    return torch.stack(rows)  # (B, T)


def _row_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    # Row by row: a bfloat16 batch turned to float32 at once would hold the largest tensor of the step three times.
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return -F.cross_entropy(wide, targets, reduction="none")


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of `values` where `mask` is 1; what is masked may be inf or nan."""
    return torch.where(mask > 0, values, 0.0).sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` over the tokens of `mask`; 0 on an empty mask."""
    return masked_sum(values, mask) / mask.sum().clamp(min=1)
