"""Pairs of a better and a worse answer: the discriminator's loss and DPO."""

import math

import pytest
import torch
from loss_inputs import double, gradient, random_logprobs, random_mask
from torch import Tensor

from bbdistill.losses.common import sequence_log_ratio
from bbdistill.losses.discriminator import bradley_terry_loss
from bbdistill.losses.preference import dpo_loss


def test_bradley_terry_by_hand():
    chosen, rejected = double([1.0, 0.0], grad=True), double([0.0, 2.0], grad=True)
    loss, metrics = bradley_terry_loss(chosen, rejected, total_pairs=2)
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2))) / 2
    assert loss.item() == pytest.approx(expected)
    assert {name: value.item() for name, value in metrics.items()} == {
        "discriminator/loss": pytest.approx(expected),
        "discriminator/accuracy": 0.5,
        "discriminator/margin": -0.5,
    }
    loss.backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert (chosen.grad < 0).all()  # a higher score of the better answer lowers the loss
    torch.testing.assert_close(chosen.grad, -rejected.grad)
    torch.testing.assert_close(chosen.grad, double([-1 / (1 + math.exp(1)), -1 / (1 + math.exp(-2))]) / 2)


def test_swapping_a_pair_negates_its_margin_and_adds_it_to_the_loss():
    better, worse = double([0.7]), double([0.2])
    right = bradley_terry_loss(better, worse, total_pairs=1)
    wrong = bradley_terry_loss(worse, better, total_pairs=1)
    assert right.metrics["discriminator/margin"].item() == pytest.approx(0.5)
    assert wrong.metrics["discriminator/margin"].item() == pytest.approx(-0.5)
    assert (wrong.loss - right.loss).item() == pytest.approx(0.5)


def test_bradley_terry_loss_and_gradient_equal_those_of_a_plain_loop():
    chosen, rejected = double([0.3, -1.0, 2.0], grad=True), double([0.1, 0.5, -0.5])
    weights = double([1.0, 0.0, 0.5])
    plain = sum(w * (1 + (r - c).exp()).log() for c, r, w in zip(chosen, rejected, weights, strict=True)) / 3
    loss = bradley_terry_loss(chosen, rejected, total_pairs=3, weights=weights).loss
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(gradient(loss, chosen), gradient(plain, chosen))


def test_a_tie_is_half_right():
    tie = double([1.0])
    assert bradley_terry_loss(tie, tie, total_pairs=1).metrics["discriminator/accuracy"].item() == 0.5
    assert dpo_loss(tie, tie, beta=0.1, total_pairs=1).metrics["dpo/accuracy"].item() == 0.5


def test_without_pairs_there_is_no_loss_and_no_nan():
    none = double([], grad=True)
    for loss, metrics in (
        bradley_terry_loss(none, none, total_pairs=1),
        dpo_loss(none, none, beta=0.1, total_pairs=1),
    ):
        assert loss.item() == 0
        assert all(value.item() == 0 for value in metrics.values())


def pair(logprobs: Tensor, ref: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Ratios of rows 0, 2, .. as chosen and of rows 1, 3, .. as rejected."""
    ratios = sequence_log_ratio(logprobs, ref, mask)
    return ratios[0::2], ratios[1::2]


def test_dpo_starts_at_log_2_and_pulls_every_token_by_half_of_beta():
    logprobs = random_logprobs(4, 3).requires_grad_()
    loss, metrics = dpo_loss(*pair(logprobs, logprobs.detach(), torch.ones_like(logprobs)), beta=0.1, total_pairs=2)
    assert loss.item() == pytest.approx(math.log(2))
    assert [metrics[f"dpo/{name}"].item() for name in ("loss", "accuracy", "margin")] == [
        pytest.approx(math.log(2)),
        0.5,
        0.0,
    ]
    up, down = [-0.1 / 2 / 2] * 3, [0.1 / 2 / 2] * 3  # a step against the gradient raises the chosen rows
    torch.testing.assert_close(gradient(loss, logprobs), double([up, down, up, down]))


def test_dpo_by_hand():
    """Chosen gained 2 nats, rejected lost 1; and the other way round: margins of 3 and -3 nats, times beta 0.5."""
    chosen, rejected = double([2.0, -1.0], grad=True), double([-1.0, 2.0], grad=True)
    loss, metrics = dpo_loss(chosen, rejected, beta=0.5, total_pairs=2)
    right, wrong = math.log(1 + math.exp(-1.5)), math.log(1 + math.exp(1.5))
    assert loss.item() == pytest.approx((right + wrong) / 2)
    assert [metrics[f"dpo/{name}"].item() for name in ("loss", "accuracy", "margin")] == [
        pytest.approx((right + wrong) / 2),
        0.5,
        0.0,
    ]
    pull = [-0.5 / (1 + math.exp(1.5)) / 2, -0.5 / (1 + math.exp(-1.5)) / 2]  # what is wrong is pulled harder
    torch.testing.assert_close(gradient(loss, chosen), double(pull))


def test_dpo_loss_and_gradient_equal_those_of_a_plain_loop():
    logprobs, ref = random_logprobs(6, 5).requires_grad_(), random_logprobs(6, 5, seed=1)
    mask, weights = random_mask(6, 5, seed=2), double([1.0, 0.5, 0.0])
    loss, metrics = dpo_loss(*pair(logprobs, ref, mask), beta=0.7, total_pairs=4, weights=weights)
    plain, margins = double(0.0), []
    for k in range(3):
        gain = [
            sum((logprobs[row, t] - ref[row, t] for t in range(5) if mask[row, t]), double(0.0))
            for row in (2 * k, 2 * k + 1)
        ]
        margins.append((gain[0] - gain[1]).item())
        plain = plain + weights[k] * (1 + (-0.7 * (gain[0] - gain[1])).exp()).log() / 4
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(gradient(loss, logprobs), gradient(plain, logprobs))
    assert metrics["dpo/margin"].item() == pytest.approx(sum(margins) / 3)
    assert metrics["dpo/accuracy"].item() == pytest.approx(sum(margin > 0 for margin in margins) / 3)


def test_a_dpo_loss_of_extreme_margins_stays_finite():
    chosen = double([1e4, -1e4], grad=True)
    loss, _ = dpo_loss(chosen, torch.zeros_like(chosen), beta=1.0, total_pairs=2)
    assert loss.item() == pytest.approx(5e3)
    torch.testing.assert_close(gradient(loss, chosen), double([0.0, -0.5]))
