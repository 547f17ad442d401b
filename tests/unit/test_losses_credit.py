"""Credit per token: what a row was worth stays, and no token changes sides."""

import math

import pytest
import torch
from loss_inputs import double, policy_inputs, random_logprobs, random_mask

from bbdistill.losses.credit import token_credit
from bbdistill.losses.policy import policy_loss


def test_credit_by_hand():
    """Magnitudes 1, 3 have mean 2; 0, 0 say nothing; 5 alone is all there is."""
    found = token_credit(
        double([1.0, -2.0, 0.5]),
        double([[1.0, 3.0], [0.0, 0.0], [5.0, math.nan]]),
        double([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]]),
    )
    assert found.tolist() == [[0.5, 1.5], [-2.0, -2.0], [0.5, 0.0]]


def test_credit_is_clipped_before_it_is_scaled():
    """1, 1, 1, 97 become 1, 1, 1, 1.2 and so 1 / 1.05 ..: scaled first, the ones would all have been below 0.8."""
    found = token_credit(double([1.0]), double([[1.0, 1.0, 1.0, 97.0]]), torch.ones(1, 4).double(), limit=0.2)
    torch.testing.assert_close(found, double([[1 / 1.05, 1 / 1.05, 1 / 1.05, 1.2 / 1.05]]))


def test_credit_of_an_infinite_ratio_is_that_of_the_limit():
    found = token_credit(double([-1.0]), double([[math.inf, 0.0]]), torch.ones(1, 2).double(), limit=0.5)
    assert found.tolist() == [[-1.5, -0.5]]


@pytest.mark.parametrize("limit", [None, 0.0, 0.2, 1.0])
def test_credit_equals_that_of_a_plain_loop_and_keeps_each_rows_total_and_sign(limit: float | None):
    direction, magnitude = double([1.0, -1.0, -0.3, 0.0, 2.0]), random_logprobs(5, 6).exp() * 2
    magnitude[4] = 0
    mask = random_mask(5, 6, seed=3)
    found = token_credit(direction, magnitude, mask, limit=limit)
    plain = torch.zeros(5, 6).double()
    for b in range(5):
        here = {t: magnitude[b, t].item() for t in range(6) if mask[b, t]}
        if limit is not None:
            here = {t: min(max(value, 1 - limit), 1 + limit) for t, value in here.items()}
        for t, value in here.items():
            plain[b, t] = direction[b] * (value / (sum(here.values()) / len(here)) if sum(here.values()) else 1.0)
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(found.sum(1), direction * mask.sum(1))
    assert (found * direction.unsqueeze(1) >= 0).all()
    if limit == 0.0:
        torch.testing.assert_close(found, direction.unsqueeze(1) * mask)


def test_a_negative_magnitude_a_nan_or_an_infinite_row_is_a_mistake_of_the_caller():
    one = torch.ones(1, 2).double()
    for wrong in ([[-0.1, 1.0]], [[math.nan, 1.0]], [[math.inf, 1.0]]):
        with pytest.raises(AssertionError, match="magnitude"):
            token_credit(double([1.0]), double(wrong), one)
    with pytest.raises(AssertionError, match="limit"):
        token_credit(double([1.0]), one, one, limit=1.5)


def test_credit_has_no_gradient_of_its_own():
    magnitude = double([[1.0, 3.0]], grad=True)
    assert not token_credit(double([1.0]), magnitude, torch.ones(1, 2).double()).requires_grad


def test_credit_moves_the_gradient_between_tokens_and_leaves_its_total():
    logprobs = double([[-1.0, -2.0]], grad=True)
    credit = token_credit(double([-1.0]), double([[1.0, 3.0]]), torch.ones(1, 2).double())
    policy_loss(policy_inputs(logprobs, advantages=credit), total_tokens=2).loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[0.25, 0.75]]  # without credit 0.5 and 0.5
