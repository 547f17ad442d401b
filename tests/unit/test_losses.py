"""Each loss against numbers worked out by hand, and its gradient against the plainest loop."""

import math

import pytest
import torch
from torch import Tensor

from bbdistill.losses.common import masked_mean, masked_sum, token_logprobs
from bbdistill.losses.discriminator import bradley_terry_loss
from bbdistill.losses.policy import PolicyInputs, policy_loss
from bbdistill.losses.sft import sft_loss


def double(values: object, *, grad: bool = False) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def policy_inputs(logprobs: Tensor, **given: Tensor) -> PolicyInputs:
    """On-policy, sampler exact, everything active, advantage 1, unless `given` says otherwise."""
    usual = {
        "old_logprobs": logprobs.detach(),
        "sampler_logprobs": logprobs.detach(),
        "advantages": torch.ones(len(logprobs), dtype=logprobs.dtype),
        "mask": torch.ones_like(logprobs),
    }
    return PolicyInputs(logprobs=logprobs, **(usual | given))


def random_logprobs(rows: int, width: int, seed: int = 0) -> Tensor:
    return -torch.rand(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def test_token_logprobs_are_the_log_softmax_at_the_targets():
    logits = double([[0.0, math.log(3.0)], [0.0, 0.0]])
    assert token_logprobs(logits, torch.tensor([1, 0])).tolist() == pytest.approx([math.log(0.75), math.log(0.5)])


def test_token_logprobs_of_bfloat16_logits_are_computed_in_float32():
    logits = torch.randn(300, 50, generator=torch.Generator().manual_seed(0)).bfloat16()  # more than one piece
    targets = torch.arange(300) % 50
    found = token_logprobs(logits, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, logits.float().log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1))


def test_masked_mean_ignores_what_is_masked_and_is_zero_on_an_empty_mask():
    values = double([[1.0, math.nan], [3.0, math.inf]])
    assert masked_mean(values, double([[1.0, 0.0], [1.0, 0.0]])).item() == 2.0
    assert masked_sum(values, torch.zeros_like(values)).item() == 0.0
    assert masked_mean(values, torch.zeros_like(values)).item() == 0.0


def test_sft_loss_by_hand():
    logprobs = double([[-1.0, -2.0, -9.0], [-3.0, -9.0, -9.0]], grad=True)
    mask = double([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    loss, metrics = sft_loss(logprobs, mask, total_tokens=3)
    assert loss.item() == 2.0
    assert metrics["sft/loss"].item() == 2.0
    assert not metrics["sft/loss"].requires_grad
    loss.backward()
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, -mask / 3)


def test_sft_gradient_of_eight_rows_is_that_of_eight_times_one_row():
    mask = (random_logprobs(8, 5, seed=1) < -1).double()
    whole, parts = (random_logprobs(8, 5).requires_grad_() for _ in range(2))
    sft_loss(whole, mask, total_tokens=mask.sum().item()).loss.backward()
    for row in range(8):
        sft_loss(parts[row : row + 1], mask[row : row + 1], total_tokens=mask.sum().item()).loss.backward()
    torch.testing.assert_close(whole.grad, parts.grad, rtol=0, atol=0)


def test_policy_loss_on_policy_is_minus_the_mean_advantage():
    inputs = policy_inputs(
        double([[-1.0, -2.0], [-3.0, -4.0]], grad=True),
        advantages=double([1.0, -0.5]),
        mask=double([[1.0, 1.0], [1.0, 0.0]]),
    )
    loss, metrics = policy_loss(inputs, total_tokens=3)
    assert loss.item() == pytest.approx(-(1.0 + 1.0 - 0.5) / 3)
    assert metrics["policy/entropy"].item() == pytest.approx((1 + 2 + 3) / 3)
    assert metrics["policy/clip_fraction"].item() == 0
    assert metrics["policy/mismatch"].item() == 0


def test_policy_gradient_raises_what_did_well_and_lowers_what_did_badly():
    logprobs = double([[-1.0, -2.0], [-3.0, -4.0]], grad=True)
    policy_loss(policy_inputs(logprobs, advantages=double([1.0, -1.0])), total_tokens=4).loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[-0.25, -0.25], [0.25, 0.25]]  # REINFORCE: -A / tokens


def test_policy_loss_clips_at_0_8_and_1_28():
    """Ratio 1.5 is cut to 1.28 where A > 0 and left where A < 0; ratio 0.5 is cut to 0.8 where A < 0."""
    old = double([[0.0], [0.0], [0.0], [0.0]])
    logprobs = double([[math.log(1.5)], [math.log(1.5)], [math.log(0.5)], [math.log(0.5)]], grad=True)
    advantages = double([1.0, -1.0, -1.0, 1.0])
    loss, metrics = policy_loss(
        policy_inputs(logprobs, old_logprobs=old, sampler_logprobs=old, advantages=advantages), total_tokens=1
    )
    assert loss.item() == pytest.approx(-1.28 + 1.5 + 0.8 - 0.5)
    assert metrics["policy/clip_fraction"].item() == 0.5
    loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.squeeze(1).tolist() == [0.0, pytest.approx(1.5), 0.0, pytest.approx(-0.5)]


def test_importance_weights_are_capped_at_2_and_have_no_gradient():
    logprobs = double([[-1.0, -1.0]], grad=True)
    sampler = double([[-1.0 - math.log(5.0), -1.0 + math.log(4.0)]])  # weights 5 -> 2, and 1/4
    loss, metrics = policy_loss(policy_inputs(logprobs, sampler_logprobs=sampler), total_tokens=2)
    assert loss.item() == pytest.approx(-(2 + 0.25) / 2)
    assert metrics["policy/tis_clip_fraction"].item() == 0.5
    assert metrics["policy/mismatch"].item() == pytest.approx((math.log(5) + math.log(4)) / 2)
    assert metrics["policy/mismatch_k3"].item() == pytest.approx((4 - math.log(5) + 0.25 - 1 + math.log(4)) / 2)
    loss.backward()
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, double([[-1.0, -0.125]]))


def test_k2_penalty_by_hand():
    logprobs = double([[-1.0, -2.0]], grad=True)
    inputs = policy_inputs(logprobs, advantages=double([0.0]), ref_logprobs=double([[-1.5, -1.0]]))
    loss, metrics = policy_loss(inputs, total_tokens=2, kl_coef=0.1)
    assert loss.item() == pytest.approx(0.1 * 0.5 * (0.25 + 1.0) / 2)
    assert metrics["policy/kl"].item() == pytest.approx((0.5 - 1.0) / 2)
    loss.backward()
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, double([[0.1 * 0.5 / 2, -0.1 * 1.0 / 2]]))


def test_policy_gradient_equals_that_of_a_plain_loop():
    logprobs, old, sampler, ref = (random_logprobs(4, 6, seed).requires_grad_(seed == 0) for seed in range(4))
    mask, advantages = (random_logprobs(4, 6, seed=5) < -1).double(), random_logprobs(4, 1, seed=6).squeeze(1) + 1.5
    inputs = PolicyInputs(logprobs, old, sampler, advantages, mask, ref)
    policy_loss(inputs, total_tokens=11, kl_coef=0.3).loss.backward()
    plain = logprobs.detach().clone().requires_grad_()
    total = double(0.0)
    for b in range(4):
        for t in range(6):
            if mask[b, t]:
                ratio, weight = (plain[b, t] - old[b, t]).exp(), min((old[b, t] - sampler[b, t]).exp().item(), 2.0)
                gain = min(ratio * advantages[b], ratio.clamp(0.8, 1.28) * advantages[b])
                total = total - weight * gain + 0.3 * 0.5 * (plain[b, t] - ref[b, t]) ** 2
    (total / 11).backward()
    torch.testing.assert_close(logprobs.grad, plain.grad)


def test_padding_changes_neither_policy_loss_nor_gradient():
    narrow, wide = random_logprobs(2, 3).requires_grad_(), torch.full((2, 5), math.nan, dtype=torch.float64)
    wide[:, :3] = narrow.detach()
    wide.requires_grad_()
    mask = torch.zeros(2, 5, dtype=torch.float64)
    mask[:, :3] = 1
    drawn = random_logprobs(2, 3, seed=1)
    padded = torch.full((2, 5), math.inf, dtype=torch.float64)
    padded[:, :3] = drawn
    one = policy_loss(policy_inputs(narrow, sampler_logprobs=drawn), total_tokens=6)
    two = policy_loss(policy_inputs(wide, sampler_logprobs=padded, mask=mask), total_tokens=6)
    assert one.loss.item() == two.loss.item()
    assert one.metrics == two.metrics
    one.loss.backward()
    two.loss.backward()
    assert wide.grad is not None
    torch.testing.assert_close(narrow.grad, wide.grad[:, :3], rtol=0, atol=0)
    assert wide.grad[:, 3:].abs().sum() == 0


def test_an_empty_mask_gives_zeros_and_no_nan():
    logprobs = random_logprobs(2, 3).requires_grad_()
    loss, metrics = policy_loss(policy_inputs(logprobs, mask=torch.zeros(2, 3).double()), total_tokens=1)
    loss.backward()
    assert loss.item() == 0
    assert all(value.item() == 0 for value in metrics.values())
    assert logprobs.grad is not None
    assert logprobs.grad.abs().sum() == 0
    assert sft_loss(logprobs, torch.zeros(2, 3), total_tokens=1).loss.item() == 0


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


def test_a_tie_is_half_right():
    assert bradley_terry_loss(double([1.0]), double([1.0]), total_pairs=1).metrics[
        "discriminator/accuracy"
    ].item() == pytest.approx(0.5)


def test_pairs_have_weights_and_add_up_over_micro_batches():
    chosen, rejected, weights = double([0.3, -1.0, 2.0]), double([0.1, 0.5, -0.5]), double([1.0, 0.0, 0.5])
    whole = bradley_terry_loss(chosen, rejected, total_pairs=3, weights=weights).loss.item()
    single = [
        bradley_terry_loss(chosen[i : i + 1], rejected[i : i + 1], total_pairs=3).loss.item() * weights[i].item()
        for i in range(3)
    ]
    assert whole == pytest.approx(sum(single))
