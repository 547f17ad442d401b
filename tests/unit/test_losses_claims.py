"""What is said of importance weights, KL penalties and stale answers, where every answer can be counted, not drawn."""

import math

import pytest
import torch
from loss_inputs import double, gradient, policy_inputs
from torch import Tensor

from bbdistill.losses.common import sequence_log_ratio
from bbdistill.losses.policy import PolicyInputs, policy_loss


def expected(inputs: PolicyInputs, often: Tensor, *, kl_coef: float = 0.0) -> Tensor:
    """The mean of `policy_loss`, summed over tokens, over draws of which a share of `often` (B,) is row b."""
    total = double(0.0)
    for b, share in enumerate(often.detach()):
        row = PolicyInputs(*(None if tensor is None else tensor[b : b + 1] for tensor in inputs))
        total = total + share * policy_loss(row, total_tokens=1, kl_coef=kl_coef).loss
    return total


REWARDS = double([1.0, 0.2, -0.5, -1.0])


def gradients(sampler: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Towards the logits of a policy over four answers that a sampler draws: exact, with the weight, without it."""
    logits = double([0.5, 0.0, -0.5, 0.3], grad=True)
    logprobs, drawn = logits.log_softmax(0), sampler.log_softmax(0)
    advantages = REWARDS - (logprobs.exp() @ REWARDS).item()
    unweighted = policy_inputs(logprobs.unsqueeze(1), advantages=advantages)
    weighted = unweighted._replace(sampler_logprobs=drawn.unsqueeze(1))
    losses = -(logprobs.exp() @ advantages), expected(weighted, drawn.exp()), expected(unweighted, drawn.exp())
    exact, found, biased = (gradient(loss, logits) for loss in losses)
    return exact, found, biased


def test_the_weight_removes_the_bias_of_a_shifted_sampler():
    exact, weighted, unweighted = gradients(double([0.2, 0.4, -0.2, -0.1]))  # no weight is above 2
    torch.testing.assert_close(weighted, exact)
    assert (unweighted - exact).norm() > 0.2 * exact.norm()


def test_the_cap_leaves_part_of_the_bias_and_bounds_what_one_draw_can_do():
    exact, weighted, unweighted = gradients(double([-3.0, 0.4, -0.2, -0.1]))  # a weight of 23 becomes 2
    assert 0.3 * exact.norm() < (weighted - exact).norm() < (unweighted - exact).norm()
    for rarity in (1e-2, 1e-4, 1e-8):
        logits = double([0.0, 0.0], grad=True)
        logprobs = logits.log_softmax(0)[:1].unsqueeze(1)
        inputs = policy_inputs(logprobs, sampler_logprobs=double([[math.log(rarity)]]))
        norm = gradient(policy_loss(inputs, total_tokens=1).loss, logits).norm().item()
        assert norm == pytest.approx(2 * math.sqrt(0.5))  # the whole weight would make it 0.5 / rarity times as much


def kl(logprobs: Tensor, ref: Tensor) -> Tensor:
    return (logprobs.exp() * (logprobs - ref)).sum(-1)


def penalties(logprobs: Tensor, ref: Tensor) -> tuple[Tensor, Tensor]:
    """Losses over all completions (B, T), drawn on policy: minus k1 as the reward; k2."""
    often, mask = logprobs.sum(1).exp(), torch.ones_like(logprobs)
    k1 = sequence_log_ratio(logprobs, ref, mask).detach()
    silent = policy_inputs(logprobs, advantages=torch.zeros(len(logprobs)).double(), ref_logprobs=ref)
    return expected(policy_inputs(logprobs, advantages=-k1), often), expected(silent, often, kl_coef=1.0)


def test_for_answers_of_one_token_k1_as_a_reward_and_k2_as_a_loss_have_the_gradient_of_the_kl_and_k3_has_not():
    logits, ref = double([1.0, 0.0, -1.0], grad=True), double([0.0, 0.5, 0.2]).log_softmax(0)
    logprobs = logits.log_softmax(0)
    true = gradient(kl(logprobs, ref), logits)
    k1, k2 = penalties(logprobs.unsqueeze(1), ref.unsqueeze(1))
    torch.testing.assert_close(gradient(k1, logits), true)
    torch.testing.assert_close(gradient(k2, logits), true)
    k3 = (ref - logprobs).exp() - 1 - (ref - logprobs)
    biased = gradient(logprobs.detach().exp() @ k3, logits)
    torch.testing.assert_close(biased, gradient(kl(ref, logprobs), logits))  # of the other KL
    assert (biased - true).norm() > 0.2 * true.norm()


def test_for_answers_of_two_tokens_only_k1_as_a_reward_has_the_gradient_of_the_kl_of_whole_answers():
    """`heads` (4, 3): logits of the first token, then those of the second after each first.

    The reference differs at the second token alone. That a first token leads to a more distant second is no concern of
    k2, but it is of the KL.
    """
    draw = torch.Generator().manual_seed(0)
    heads = torch.randn(4, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    ref = torch.randn(4, 3, generator=draw, dtype=torch.float64).log_softmax(1)
    ref[0] = heads.detach()[0].log_softmax(0)
    first = torch.arange(3).repeat_interleave(3)
    second = torch.arange(3).repeat(3)

    def answers(logprobs: Tensor) -> Tensor:
        """(9, 2) of all nine answers."""
        return torch.stack([logprobs[0, first], logprobs[1 + first, second]], dim=1)

    def kl_of_answers(visits: Tensor) -> Tensor:
        """KL at the first token plus those at the second, each as often as its `visits` (3,)."""
        per_state = kl(heads.log_softmax(1), ref)
        return per_state[0] + visits @ per_state[1:]

    visits = heads.log_softmax(1)[0].exp()
    true, per_token = (gradient(kl_of_answers(often), heads) for often in (visits, visits.detach()))
    k1, k2 = penalties(answers(heads.log_softmax(1)), answers(ref))
    k1_gradient, k2_gradient = gradient(k1, heads), gradient(k2, heads)
    torch.testing.assert_close(k1_gradient, true)
    torch.testing.assert_close(k2_gradient, per_token)
    torch.testing.assert_close(k2_gradient[1:], true[1:])
    assert k2_gradient[0].abs().max() < 1e-12
    assert true[0].norm() > 0.05


@pytest.mark.parametrize("stale", [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
def test_the_limit_bounds_the_gradient_of_a_stale_answer_that_did_badly(stale: float):
    """Its first token has fallen by 3 `stale` nats and its second has risen by one: they fell by `stale` on average.

    A negative advantage is not clipped above, so that the second token's gradient is exp(stale).
    """
    logprobs = double([[-1.0 - 3 * stale, -20.0 + stale]], grad=True)
    drawn = double([[-1.0, -20.0]])
    inputs = policy_inputs(logprobs, old_logprobs=drawn, sampler_logprobs=drawn, advantages=double([-1.0]))
    unbounded = gradient(policy_loss(inputs, total_tokens=1).loss, logprobs).norm().item()
    bounded = gradient(policy_loss(inputs, total_tokens=1, off_policy_limit=0.5).loss, logprobs).norm().item()
    assert unbounded == pytest.approx(math.exp(stale))
    assert bounded == pytest.approx(math.exp(stale) if stale <= 0.5 else 0.0)


def fall(updates: int, limit: float | None) -> float:
    """Nats by which a bad answer with the probability 1/2 falls when one draw of it is learnt from again and again."""
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    drawn = double([[math.log(0.5)]])
    for _ in range(updates):
        logprobs = logits.log_softmax(0)[:1].unsqueeze(1)
        inputs = policy_inputs(logprobs, sampler_logprobs=drawn, advantages=double([-1.0]))
        slope = gradient(policy_loss(inputs, total_tokens=1, off_policy_limit=limit).loss, logits)
        with torch.no_grad():
            logits -= 0.2 * slope
    return math.log(0.5) - logits.log_softmax(0)[0].item()


def test_under_the_limit_an_old_bad_answer_stops_falling():
    assert 0.5 < fall(20, 0.5) == fall(200, 0.5) < 0.6
    assert fall(200, None) > fall(20, None) + 1.5
