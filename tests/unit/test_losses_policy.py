"""The clipped surrogate, its weight, its penalty and its mask, against numbers worked out by hand and a plain loop."""

import math

import pytest
import torch
from loss_inputs import double, gradient, policy_inputs, random_logprobs, random_mask
from torch import Tensor

from bbdistill.losses.policy import PolicyInputs, policy_loss


def test_policy_loss_on_policy_is_minus_the_mean_advantage():
    inputs = policy_inputs(
        double([[-1.0, -2.0], [-3.0, -4.0]], grad=True),
        advantages=double([1.0, -0.5]),
        mask=double([[1.0, 1.0], [1.0, 0.0]]),
    )
    loss, metrics = policy_loss(inputs, total_tokens=3)
    assert loss.item() == pytest.approx(-(1.0 + 1.0 - 0.5) / 3)
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


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("limit", [None, 0.1])
def test_policy_loss_and_gradient_equal_those_of_a_plain_loop(per_token: bool, limit: float | None):
    logprobs, old, sampler, ref = (random_logprobs(6, 7, seed).requires_grad_(seed == 0) for seed in range(4))
    mask, advantages = random_mask(6, 7, seed=5), random_logprobs(6, 7, seed=6) + 1.3
    inputs = PolicyInputs(logprobs, old, sampler, advantages if per_token else advantages[:, 0], mask, ref)
    loss, metrics = policy_loss(inputs, total_tokens=11, kl_coef=0.3, off_policy_limit=limit)
    plain, left_out = double(0.0), 0
    for b in range(6):
        tokens = [t for t in range(7) if mask[b, t]]
        advantage = {t: advantages[b, t if per_token else 0].item() for t in tokens}
        fallen = sum((sampler[b, t] - logprobs[b, t]).item() for t in tokens) / max(len(tokens), 1)
        masked = limit is not None and sum(advantage.values()) < 0 and fallen > limit
        left_out += masked
        for t in tokens:
            ratio, weight = (logprobs[b, t] - old[b, t]).exp(), min((old[b, t] - sampler[b, t]).exp().item(), 2.0)
            gain = min(ratio * advantage[t], ratio.clamp(0.8, 1.28) * advantage[t])
            plain = plain + 0.3 * 0.5 * (logprobs[b, t] - ref[b, t]) ** 2 / 11
            if not masked:
                plain = plain - weight * gain / 11
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(gradient(loss, logprobs), gradient(plain, logprobs))
    assert limit is None or left_out > 0
    assert metrics.get("policy/masked_sequences", double(0.0)).item() == pytest.approx(left_out / 6)


def test_an_advantage_per_token_that_is_the_same_everywhere_is_one_per_completion():
    logprobs, sampler = random_logprobs(3, 4).requires_grad_(), random_logprobs(3, 4, seed=1)
    one = double([1.0, -2.0, 0.5])
    per_row = policy_loss(policy_inputs(logprobs, sampler_logprobs=sampler, advantages=one), total_tokens=5)
    spread = one.unsqueeze(1).expand(3, 4)
    per_token = policy_loss(policy_inputs(logprobs, sampler_logprobs=sampler, advantages=spread), total_tokens=5)
    assert per_row.loss.item() == per_token.loss.item()
    assert gradient(per_row.loss, logprobs).equal(gradient(per_token.loss, logprobs))


def test_without_a_coefficient_the_distance_from_the_reference_is_reported_and_has_no_gradient():
    logprobs = double([[-1.0, -2.0]], grad=True)
    inputs = policy_inputs(logprobs, advantages=double([0.0]), ref_logprobs=double([[-1.5, -math.inf]]))
    loss, metrics = policy_loss(inputs._replace(mask=double([[1.0, 0.0]])), total_tokens=1)
    assert metrics["policy/kl"].item() == pytest.approx(0.5)
    assert gradient(loss, logprobs).tolist() == [[0.0, 0.0]]
    assert "policy/kl" not in policy_loss(policy_inputs(logprobs), total_tokens=1).metrics


def left_out(advantages: Tensor, fallen: list[float], *, limit: float | None = 0.5, count: int = 3) -> list[bool]:
    """Per row, all of whose tokens are `fallen` nats less likely than they were: whether it has no gradient."""
    logprobs = torch.full((len(fallen), count), -2.0, dtype=torch.float64, requires_grad=True)
    sampler = logprobs.detach() + double(fallen).unsqueeze(1)
    inputs = policy_inputs(logprobs, sampler_logprobs=sampler, advantages=advantages)
    loss, metrics = policy_loss(inputs, total_tokens=1, off_policy_limit=limit)
    found = (gradient(loss, logprobs) == 0).all(1)
    if limit is not None:
        assert metrics["policy/masked_sequences"].item() == pytest.approx(found.double().mean().item())
    return found.tolist()


def test_what_did_badly_and_has_fallen_by_more_than_the_limit_is_left_out():
    assert left_out(double([-1.0, -1.0, -1.0, 1.0, 1.0]), [0.4, 0.6, -3.0, 0.6, -3.0]) == [False, True] + [False] * 3
    assert left_out(double([-1.0, 1.0]), [50.0, 50.0], limit=None) == [False, False]


def test_a_completion_with_credit_per_token_did_badly_where_the_sum_is_negative():
    mixed = double([[1.0, -0.5, -0.6], [1.0, -0.5, -0.4]])
    assert left_out(mixed, [0.6, 0.6]) == [True, False]


def test_the_limit_is_on_the_mean_over_tokens_that_count():
    """One token of 1.2 nats of three is 0.4 on average; of two it is 0.6."""
    logprobs = double([[-1.0, -1.0, -1.0]] * 2, grad=True)
    sampler = double([[0.2, -1.0, -1.0], [0.2, -1.0, 9.0]])
    inputs = policy_inputs(logprobs, sampler_logprobs=sampler, advantages=double([-1.0, -1.0]))
    inputs = inputs._replace(mask=double([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]))
    loss, _ = policy_loss(inputs, total_tokens=1, off_policy_limit=0.5)
    torch.testing.assert_close(gradient(loss, logprobs), double([[math.exp(-1.2), 1.0, 1.0], [0.0, 0.0, 0.0]]))


def test_what_is_left_out_keeps_its_penalty_and_its_place_in_the_total():
    logprobs = double([[-3.0], [-1.0]], grad=True)
    inputs = policy_inputs(logprobs, sampler_logprobs=double([[-1.0], [-1.0]]), advantages=double([-1.0, -1.0]))
    inputs = inputs._replace(ref_logprobs=double([[-2.0], [-1.0]]))
    loss, _ = policy_loss(inputs, total_tokens=2, kl_coef=0.1, off_policy_limit=0.5)
    torch.testing.assert_close(gradient(loss, logprobs), double([[0.1 * -1.0 / 2], [1.0 / 2]]))


LONGEST = 4


def push(lengths: list[int], *, total: float) -> list[float]:
    """How hard each wrong answer of so many tokens is pushed down, per token."""
    logprobs = torch.full((len(lengths), LONGEST), -1.0, dtype=torch.float64, requires_grad=True)
    mask = double([[1.0] * length + [0.0] * (LONGEST - length) for length in lengths])
    inputs = policy_inputs(logprobs, mask=mask, advantages=-torch.ones(len(lengths)).double())
    return gradient(policy_loss(inputs, total_tokens=total).loss, logprobs)[:, 0].tolist()


def dapo(lengths: list[int]) -> list[float]:
    return push(lengths, total=sum(lengths))


def dr_grpo(lengths: list[int]) -> list[float]:
    return push(lengths, total=len(lengths) * LONGEST)


def test_no_answer_is_punished_less_per_token_for_being_long():
    """A mean per answer would push each token of the long one by 1/2/4, a quarter of the short one's 1/2."""
    assert dapo([1, 4]) == [pytest.approx(1 / 5)] * 2
    assert dr_grpo([1, 4]) == [1 / 8] * 2


def test_only_under_dapo_a_token_weighs_less_in_a_step_of_long_answers():
    assert (dapo([1, 1]), dapo([4, 4])) == ([1 / 2] * 2, [1 / 8] * 2)
    assert (dr_grpo([1, 1]), dr_grpo([4, 4])) == ([1 / 8] * 2, [1 / 8] * 2)


def test_an_empty_mask_gives_zeros_and_no_nan():
    logprobs = random_logprobs(2, 3).requires_grad_()
    inputs = policy_inputs(logprobs, mask=torch.zeros(2, 3).double(), advantages=double([-1.0, -1.0]))
    loss, metrics = policy_loss(inputs, total_tokens=1, off_policy_limit=0.5)
    loss.backward()
    assert loss.item() == 0
    assert all(value.item() == 0 for value in metrics.values())
    assert logprobs.grad is not None
    assert logprobs.grad.abs().sum() == 0
