"""What holds for every loss: padding, order and micro-batches change nothing, and metrics carry no graph."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from loss_inputs import double, random_logprobs, random_mask
from torch import Tensor

from bbdistill.losses.common import LossOutput, sequence_log_ratio
from bbdistill.losses.credit import token_credit
from bbdistill.losses.discriminator import bradley_terry_loss
from bbdistill.losses.distill import Divergence, distill_loss, sorted_term
from bbdistill.losses.policy import PolicyInputs, policy_loss
from bbdistill.losses.preference import dpo_loss
from bbdistill.losses.sft import sft_loss

ROWS, WIDTH = 6, 5
Given = dict[str, Tensor]


def sft(given: Given) -> LossOutput:
    return sft_loss(given["a"], given["a_mask"], total_tokens=17, weights=given["weights"])


def policy(given: Given) -> LossOutput:
    inputs = PolicyInputs(given["a"], given["b"], given["c"], given["advantages"], given["a_mask"], given["d"])
    return policy_loss(inputs, total_tokens=17, kl_coef=0.3, off_policy_limit=0.1)


def policy_with_credit(given: Given) -> LossOutput:
    credit = token_credit(given["advantages"], given["magnitudes"], given["a_mask"], limit=0.5)
    return policy(given | {"advantages": credit})


def discriminator(given: Given) -> LossOutput:
    return bradley_terry_loss(given["a"][:, 0], given["b"][:, 0], total_pairs=7, weights=given["weights"])


def dpo(given: Given) -> LossOutput:
    chosen = sequence_log_ratio(given["a"], given["c"], given["a_mask"])
    rejected = sequence_log_ratio(given["b"], given["d"], given["b_mask"])
    return dpo_loss(chosen, rejected, beta=0.4, total_pairs=7, weights=given["weights"])


def distill(given: Given, kind: Divergence) -> LossOutput:
    """Rows are units, columns outcomes."""
    student, teacher, mask = given["a"] - 2, given["b"] - 2, given["a_mask"]
    absent = torch.full_like(teacher, -torch.inf)
    rest = 0.3 * sorted_term(torch.where(mask > 0, student, absent), torch.where(mask > 0, teacher, absent))
    return distill_loss(student, teacher, mask, total_units=7, kind=kind, beta=0.3, weights=given["weights"], rest=rest)


def forward_kl(given: Given) -> LossOutput:
    return distill(given, "forward_kl")


def reverse_kl(given: Given) -> LossOutput:
    return distill(given, "reverse_kl")


def jsd(given: Given) -> LossOutput:
    return distill(given, "jsd")


LOSSES = [sft, policy, policy_with_credit, discriminator, dpo, forward_kl, reverse_kl, jsd]
Loss = Callable[[Given], LossOutput]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=[loss.__name__ for loss in LOSSES])


def given() -> Given:
    """Per row one advantage and one weight, the rest (6, 5); `a` is what is trained."""
    tensors = {name: random_logprobs(ROWS, WIDTH, seed) for seed, name in enumerate("abcd")}
    return tensors | {
        "magnitudes": random_logprobs(ROWS, WIDTH, seed=4).exp() * 2,
        "a_mask": random_mask(ROWS, WIDTH, seed=5),
        "b_mask": random_mask(ROWS, WIDTH, seed=6),
        "advantages": double([1.0, -1.0, -0.5, 0.5, -2.0, 0.0]),
        "weights": double([1.0, 0.5, 0.0, 2.0, 1.0, 0.25]),
    }


def outcome(loss: Loss, tensors: Given) -> tuple[Tensor, Tensor, dict[str, float]]:
    """The loss, its gradient towards `a`, the metrics."""
    leaf = tensors["a"].detach().clone().requires_grad_()
    found = loss(tensors | {"a": leaf})
    found.loss.backward()
    assert leaf.grad is not None
    return found.loss.detach(), leaf.grad, {name: value.item() for name, value in found.metrics.items()}


def rows(tensors: Given, which: Sequence[int]) -> Given:
    return {name: tensor[list(which)] for name, tensor in tensors.items()}


def padded(tensors: Given, rubbish: float) -> Given:
    wide = {name: tensor.new_full((ROWS, WIDTH + 3), rubbish) for name, tensor in tensors.items() if tensor.ndim == 2}
    for name, tensor in wide.items():
        tensor[:, :WIDTH] = tensors[name]
        if name.endswith("mask"):
            tensor[:, WIDTH:] = 0
    return tensors | wide


@every_loss
@pytest.mark.parametrize("rubbish", [math.nan, math.inf, -math.inf])
def test_what_stands_in_padding_changes_nothing(loss: Loss, rubbish: float):
    tensors = given()
    value, grad, metrics = outcome(loss, tensors)
    wide_value, wide_grad, wide_metrics = outcome(loss, padded(tensors, rubbish))
    torch.testing.assert_close(wide_value, value)
    torch.testing.assert_close(wide_grad[:, :WIDTH], grad)
    assert wide_grad[:, WIDTH:].abs().sum() == 0
    assert wide_metrics == pytest.approx(metrics)


@every_loss
def test_the_order_of_rows_changes_nothing(loss: Loss):
    order = [3, 0, 5, 1, 4, 2]
    value, grad, metrics = outcome(loss, given())
    other_value, other_grad, other_metrics = outcome(loss, rows(given(), order))
    torch.testing.assert_close(other_value, value)
    torch.testing.assert_close(other_grad, grad[order])
    assert other_metrics == pytest.approx(metrics)


@every_loss
@pytest.mark.parametrize("cuts", [[[0], [1], [2], [3], [4], [5]], [[0, 1], [2, 3, 4, 5]], [[5, 0, 2], [4, 1], [3]]])
def test_micro_batches_add_up_to_the_whole(loss: Loss, cuts: list[list[int]]):
    value, grad, _ = outcome(loss, given())
    parts = [outcome(loss, rows(given(), cut)) for cut in cuts]
    torch.testing.assert_close(sum(part[0] for part in parts), value)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), grad[[row for cut in cuts for row in cut]])


@every_loss
def test_metrics_are_detached_finite_scalars_and_the_loss_has_a_graph(loss: Loss):
    tensors = given()
    found = loss(tensors | {"a": tensors["a"].requires_grad_()})
    assert found.loss.requires_grad
    assert found.metrics
    for value in found.metrics.values():
        assert not value.requires_grad
        assert value.shape == ()
        assert math.isfinite(value.item())


def test_the_rows_here_put_the_limit_of_the_policy_loss_to_use():
    _, _, metrics = outcome(policy, given())
    assert metrics["policy/masked_sequences"] == pytest.approx(1 / 6)
    assert metrics["policy/clip_fraction"] > 0
