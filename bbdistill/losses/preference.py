"""Direct preference optimisation: of two completions of a prompt, the better one should become the likelier."""

import torch.nn.functional as F
from torch import Tensor

from bbdistill.losses.common import LossOutput, pair_metrics


def dpo_loss(
    chosen: Tensor, rejected: Tensor, *, beta: float, total_pairs: float, weights: Tensor | None = None
) -> LossOutput:
    """-log sigmoid(beta * (chosen - rejected)), summed over pairs / `total_pairs` (DPO, arXiv 2305.18290).

    `chosen`, `rejected`: (B,) `sequence_log_ratio` of the completions against the reference. With answers of the
    teacher as chosen and the student's own first ones as rejected this is SODA (arXiv 2604.03873). `weights` (B,), 1
    where None. `total_pairs` counts the pairs of the whole optimiser step. Metrics are unweighted means over this call:
    accuracy counts a tie as half, and the margin is in nats, before `beta`.
    """
    margin = chosen - rejected  # (B,)
    losses = -F.logsigmoid(beta * margin)
    weighted = losses if weights is None else losses * weights
    return LossOutput(weighted.sum() / total_pairs, pair_metrics("dpo", losses, margin))
