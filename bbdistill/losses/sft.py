"""Supervised fine-tuning: negative log-likelihood of given completions."""

from torch import Tensor

from bbdistill.losses.common import LossOutput, masked_mean, masked_sum


def sft_loss(logprobs: Tensor, mask: Tensor, *, total_tokens: float, weights: Tensor | None = None) -> LossOutput:
    """Sum of -log p over the completion tokens / `total_tokens`.

    `logprobs`, `mask`: (B, T); `weights`: (B,), 1 where None. `total_tokens` counts the completion tokens of the whole
    optimiser step, so that eight micro-batches of one row and one of eight rows have the same gradient.
    Metric `sft/loss`: nats per token of this call, unweighted.
    """
    weighted = logprobs if weights is None else logprobs * weights.unsqueeze(1)  # (B, T)
    return LossOutput(-masked_sum(weighted, mask) / total_tokens, {"sft/loss": -masked_mean(logprobs.detach(), mask)})
