"""What the tests of the losses are given: float64, so that two ways to one number agree to the last digits."""

import torch
from torch import Tensor

from bbdistill.losses.policy import PolicyInputs


def double(values: object, *, grad: bool = False) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def random_logprobs(rows: int, width: int, seed: int = 0) -> Tensor:
    return -torch.rand(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def random_mask(rows: int, width: int, seed: int) -> Tensor:
    """Two of three tokens count, with holes; none in row 1 if there is one."""
    mask = (random_logprobs(rows, width, seed) < -1).double()
    mask[1:2] = 0
    return mask


def policy_inputs(logprobs: Tensor, **given: Tensor) -> PolicyInputs:
    """On-policy, sampler exact, everything active, advantage 1, unless `given` says otherwise."""
    usual = {
        "old_logprobs": logprobs.detach(),
        "sampler_logprobs": logprobs.detach(),
        "advantages": torch.ones(len(logprobs), dtype=logprobs.dtype),
        "mask": torch.ones_like(logprobs),
    }
    return PolicyInputs(logprobs=logprobs, **(usual | given))


def gradient(of: Tensor, to: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(of, to, retain_graph=True)
    return found
