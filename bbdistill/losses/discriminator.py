"""The discriminator's loss: of two answers to one prompt, the better one should score higher."""

import torch.nn.functional as F
from torch import Tensor

from bbdistill.losses.common import LossOutput, pair_metrics


def bradley_terry_loss(
    chosen: Tensor, rejected: Tensor, *, total_pairs: float, weights: Tensor | None = None
) -> LossOutput:
    """-log sigmoid(D(chosen) - D(rejected)), summed over pairs / `total_pairs` (GAD, arXiv 2511.10643).

    Scores are (B,) logits; `weights` (B,), 1 where None. `total_pairs` counts the pairs of the whole optimiser step.
    Metrics are unweighted means over this call: accuracy counts a tie as half.
    """
    margin = chosen - rejected  # (B,)
    losses = -F.logsigmoid(margin)
    weighted = losses if weights is None else losses * weights
    return LossOutput(weighted.sum() / total_pairs, pair_metrics("discriminator", losses, margin))
