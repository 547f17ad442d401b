"""Policy gradient on the student's own completions: the clipped surrogate of the GRPO family."""

from typing import NamedTuple

import torch
from torch import Tensor

from bbdistill.losses.common import LossOutput, masked_mean, masked_sum

TIS_CAP = 2.0
"""Upper end of the importance weight between trainer and sampler."""


class PolicyInputs(NamedTuple):
    """Of completion tokens, in nats; all (B, T) but `advantages`, which may be (B,)."""

    logprobs: Tensor
    """Of the policy being trained, with a graph."""
    old_logprobs: Tensor
    """Of the policy before the first update on this batch: `logprobs.detach()` where there is one update per batch."""
    sampler_logprobs: Tensor
    """Of the distribution the tokens were drawn from."""
    advantages: Tensor
    """One per completion (B,), or one per token (B, T), as `token_credit` makes them."""
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
    off_policy_limit: float | None = None,
) -> LossOutput:
    """-sum of w * min(r A, clip(r) A) / `total_tokens`, with r = pi / pi_old (PPO, arXiv 1707.06347; GRPO, 2402.03300).

    The clip range is wider above (DAPO, arXiv 2503.14476). w = min(pi_old / pi_sampler, 2) corrects for the sampler's
    arithmetic and for its age (truncated importance sampling).

    `total_tokens`, of the whole optimiser step, is all that sets two losses of the family apart: its active tokens
    (DAPO), or its rollouts times the longest allowed completion (Dr. GRPO, arXiv 2503.20783). Within a step each token
    weighs the same in both, so that a wrong answer cannot thin out its punishment by being long, as it can under GRPO's
    mean per completion. Over steps, a token weighs less under DAPO's where answers are long, under Dr. GRPO's never.

    With `off_policy_limit` completions whose advantage (its sum, where it is per token) is negative and whose tokens
    have on average become less likely than they were to the sampler by more than so many nats teach nothing, except
    by the penalty (DeepSeek-V3.2, arXiv 2512.02556); they count in `total_tokens` as before.

    The penalty, `kl_coef` times k2 = 0.5 log(pi / pi_ref)^2, has on policy the gradient of the KL of each token where
    the completions went (arXiv 2510.01555); for the KL of whole completions see `sequence_log_ratio`.

    Metrics are means over the tokens of this call, except `policy/loss`, its share of the loss, and
    `policy/masked_sequences`, the share of completions that `off_policy_limit` left out.
    """
    assert kl_coef == 0 or inputs.ref_logprobs is not None, f"{kl_coef=} needs ref_logprobs"
    mask, advantage = inputs.mask, _per_token(inputs)  # (B, T)
    # Padding is blanked before the exponentials: a nan under a 0.0 would survive in the gradient.
    log_ratio = torch.where(mask > 0, inputs.logprobs - inputs.old_logprobs, 0.0)
    log_weight = torch.where(mask > 0, inputs.old_logprobs - inputs.sampler_logprobs, 0.0).detach()
    metrics = _mismatch(log_weight, mask)
    if off_policy_limit is not None:
        left_out = _off_policy(inputs, advantage, off_policy_limit)  # (B,)
        advantage = torch.where(left_out.unsqueeze(1), 0.0, advantage)
        metrics["policy/masked_sequences"] = left_out.to(advantage.dtype).sum() / max(len(left_out), 1)
    ratio = log_ratio.exp()
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)
    metrics["policy/clip_fraction"] = masked_mean((surrogate < ratio * advantage).to(ratio.dtype), mask)
    per_token = -log_weight.exp().clamp(max=TIS_CAP) * surrogate
    if inputs.ref_logprobs is not None:
        moved = torch.where(mask > 0, inputs.logprobs - inputs.ref_logprobs, 0.0)
        metrics["policy/kl"] = masked_mean(moved.detach(), mask)
        if kl_coef != 0:
            per_token = per_token + kl_coef * 0.5 * moved.square()
    loss = masked_sum(per_token, mask) / total_tokens
    return LossOutput(loss, {"policy/loss": loss.detach(), **metrics})


def _per_token(inputs: PolicyInputs) -> Tensor:
    """Advantages (B, T), 0 on padding."""
    given = inputs.advantages
    return torch.where(inputs.mask > 0, given if given.ndim == 2 else given.unsqueeze(1), 0.0)


def _off_policy(inputs: PolicyInputs, advantage: Tensor, limit: float) -> Tensor:
    """(B,) whether a completion did badly and has fallen, since it was drawn, by more than `limit` nats per token."""
    fallen = torch.where(inputs.mask > 0, inputs.sampler_logprobs - inputs.logprobs.detach(), 0.0).sum(1)
    return (advantage.sum(1) < 0) & (fallen > limit * inputs.mask.sum(1))


def _mismatch(log_weight: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """How far trainer and sampler disagree on the same tokens; k3 = (r - 1) - log r with r = pi_old / pi_sampler."""
    weight = log_weight.exp()  # (B, T)
    return {
        "policy/mismatch": masked_mean(log_weight.abs(), mask),
        "policy/mismatch_k3": masked_mean(weight - 1 - log_weight, mask),
        "policy/tis_clip_fraction": masked_mean((weight > TIS_CAP).to(weight.dtype), mask),
    }
