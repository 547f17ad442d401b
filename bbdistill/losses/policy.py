"""Policy gradient on the student's own completions: the clipped surrogate of the GRPO family."""

from typing import NamedTuple

import torch
from torch import Tensor

from bbdistill.losses.common import LossOutput, masked_mean, masked_sum

TIS_CAP = 2.0
"""Upper end of the importance weight between trainer and sampler."""


class PolicyInputs(NamedTuple):
    """Of completion tokens, in nats; all (B, T) but `advantages`, which are (B,)."""

    logprobs: Tensor
    """Of the policy being trained, with a graph."""
    old_logprobs: Tensor
    """Of the policy before the first update on this batch: `logprobs.detach()` where there is one update per batch."""
    sampler_logprobs: Tensor
    """Of the distribution the tokens were drawn from."""
    advantages: Tensor
    mask: Tensor
    ref_logprobs: Tensor | None = None
    """Of the reference model; needed where `kl_coef` is not 0."""


def policy_loss(
    inputs: PolicyInputs,
    *,
    total_tokens: float,
    kl_coef: float = 0.0,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> LossOutput:
    """-sum of w * min(r A, clip(r) A) / `total_tokens`, with r = pi / pi_old (PPO, arXiv 1707.06347; GRPO, 2402.03300).

    The clip range is wider above and the sum is over tokens, divided by the active tokens of the whole optimiser step
    (DAPO, arXiv 2503.14476). w = min(pi_old / pi_sampler, 2) corrects for the sampler's arithmetic and for its age
    (truncated importance sampling). The penalty is k2, 0.5 log(pi / pi_ref)^2, whose gradient is that of the KL
    (arXiv 2510.01555). Metrics are means over the tokens of this call, except `policy/loss`, its share of the loss.
    """
    assert kl_coef == 0 or inputs.ref_logprobs is not None, f"{kl_coef=} needs ref_logprobs"
    mask, advantage = inputs.mask, inputs.advantages.unsqueeze(1)  # (B, T), (B, 1)
    # Padding is blanked before the exponentials: a nan under a 0.0 would survive in the gradient.
    logprobs = torch.where(mask > 0, inputs.logprobs, 0.0)
    log_ratio = torch.where(mask > 0, inputs.logprobs - inputs.old_logprobs, 0.0)
    log_weight = torch.where(mask > 0, inputs.old_logprobs - inputs.sampler_logprobs, 0.0).detach()
    ratio = log_ratio.exp()  # (B, T)
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)
    per_token = -log_weight.exp().clamp(max=TIS_CAP) * surrogate
    metrics = _mismatch(log_weight, mask) | {
        "policy/entropy": masked_mean(-logprobs.detach(), mask),
        "policy/clip_fraction": masked_mean((surrogate < ratio * advantage).to(ratio.dtype), mask),
    }
    if inputs.ref_logprobs is not None:
        moved = torch.where(mask > 0, inputs.logprobs - inputs.ref_logprobs, 0.0)
        per_token = per_token + kl_coef * 0.5 * moved.square()
        metrics["policy/kl"] = masked_mean(moved.detach(), mask)
    loss = masked_sum(per_token, mask) / total_tokens
    return LossOutput(loss, {"policy/loss": loss.detach(), **metrics})


def _mismatch(log_weight: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """How far trainer and sampler disagree on the same tokens; k3 = (r - 1) - log r with r = pi_old / pi_sampler."""
    weight = log_weight.exp()  # (B, T)
    return {
        "policy/mismatch": masked_mean(log_weight.abs(), mask),
        "policy/mismatch_k3": masked_mean(weight - 1 - log_weight, mask),
        "policy/tis_clip_fraction": masked_mean((weight > TIS_CAP).to(weight.dtype), mask),
    }
