"""Distillation from distributions: at each unit of a completion, what the student says should follow the teacher.

A unit is a token, or a span of text that two tokenizers cut differently. Its support is the K outcomes of which both
probabilities are known, and one more: the tail, which is everything else.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from bbdistill.losses.common import LossOutput, masked_mean, masked_sum

Divergence = Literal["forward_kl", "reverse_kl", "jsd"]


def merged(logprobs: Tensor, unit: Tensor, count: int) -> Tensor:
    """(count,) log-probs of units: sums of those of their tokens (M,), each of which belongs to the unit `unit` (M,).

    Of several tokens that is the probability of the text, cut in this way: a lower bound of the text's own.
    """
    return logprobs.new_zeros(count).index_add(0, unit, logprobs)


def with_tail(logprobs: Tensor, mask: Tensor) -> Tensor:
    """(N, K + 1) log-probs in nats of the outcomes (N, K), then of the tail: log(1 - their sum).

    Finite, whatever is given: an outcome that is masked, or whose probability is 0, is given the least positive number
    of the dtype, and the tail at least its `eps`, since a sum cannot tell less from 0. There, the gradient is 0.
    """
    floor = math.log(torch.finfo(logprobs.dtype).tiny)
    kept = torch.where(mask > 0, logprobs, floor).clamp(min=floor)
    least = torch.finfo(logprobs.dtype).eps
    tail = torch.log1p((-kept.exp().sum(1, keepdim=True)).clamp(min=least - 1))
    return torch.cat([kept, tail], dim=1)


def divergence(student: Tensor, teacher: Tensor, *, kind: Divergence, beta: float = 0.5) -> Tensor:
    """(N,) in nats, of two distributions over the same outcomes (N, K + 1), as `with_tail` makes them.

    `forward_kl` is KL(teacher || student), `reverse_kl` is KL(student || teacher). `jsd` is beta KL(teacher || m) +
    (1 - beta) KL(student || m) with m = beta teacher + (1 - beta) student, 0 < beta < 1 (GKD, arXiv 2306.13649):
    divided by beta it becomes the forward KL as beta goes to 0, divided by 1 - beta the reverse one as beta goes to 1.
    What the tail holds is seen as one outcome, so that each is a lower bound of that of the whole distributions.
    """
    match kind:
        case "forward_kl":
            return _kl(teacher, student)
        case "reverse_kl":
            return _kl(student, teacher)
        case "jsd":
            assert 0 < beta < 1, f"{beta=} is not between 0 and 1"
            mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
            return beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)


def _kl(of: Tensor, to: Tensor) -> Tensor:
    return (of.exp() * (of - to)).sum(1)


def sorted_term(student: Tensor, teacher: Tensor) -> Tensor:
    """(N,) the distance between outcomes that cannot be matched, from 0 to 2.

    Log-probs (N, R): the teacher's, -inf where there are fewer, and at least as many of the student's likeliest. Both
    are sorted, the greatest first, and the absolute differences of the probabilities are summed (ULD, arXiv
    2402.12030), as far down as the teacher's go: what else the student might say is in the tail.
    """
    ours, theirs = (each.exp().sort(dim=1, descending=True).values for each in (student, teacher))
    return torch.where(theirs > 0, (ours - theirs).abs(), 0).sum(1)


def distill_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    *,
    total_units: float,
    kind: Divergence,
    beta: float = 0.5,
    weights: Tensor | None = None,
    rest: Tensor | None = None,
) -> LossOutput:
    """Sum over units of weight * (`divergence` + rest) / `total_units`.

    `student`, `teacher`, `mask`: (N, K) log-probs of the same outcomes, without the tail; a row without an outcome is
    padding. `weights` (N,), 1 where None. `rest` (N,), 0 where None, is what else sets the two apart at a unit, such as
    `sorted_term` times a coefficient. `total_units` counts the units of the whole optimiser step. The teacher gets no
    gradient.

    Metrics are unweighted means over the units of this call: `distill/loss`; `distill/kl`, the forward KL in nats,
    whatever the kind; `distill/agreement`, the share whose likeliest outcome is the same, the tail being one.
    """
    units = (mask > 0).any(1)
    ours, theirs = with_tail(student, mask), with_tail(teacher.detach(), mask)
    losses = divergence(ours, theirs, kind=kind, beta=beta)
    if rest is not None:
        losses = losses + rest
    weighted = losses if weights is None else losses * weights
    metrics = {
        "distill/loss": masked_mean(losses.detach(), units),
        "distill/kl": masked_mean(_kl(theirs, ours.detach()), units),
        "distill/agreement": masked_mean((ours.argmax(1) == theirs.argmax(1)).to(ours.dtype), units),
    }
    return LossOutput(masked_sum(weighted, units) / total_units, metrics)
