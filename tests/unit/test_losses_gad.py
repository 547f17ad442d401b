"""GAD's toy (arXiv 2511.10643): imitation covers both modes of a teacher, the adversarial reward seeks one."""

import math

import pytest
import torch
from loss_inputs import double, gradient, policy_inputs
from torch import Tensor

from bbdistill.losses.discriminator import bradley_terry_loss
from bbdistill.losses.policy import policy_loss
from bbdistill.losses.sft import sft_loss

CLASSES = torch.arange(10, dtype=torch.float64)


def bell(mean: Tensor | float, log_std: Tensor | float) -> Tensor:
    """Log-probs (10,) of a normal distribution on the classes."""
    return (-((CLASSES - mean) ** 2) / 2 * torch.as_tensor(-2 * log_std).exp()).log_softmax(0)


TEACHER = 0.7 * bell(1.0, math.log(0.8)).exp() + 0.3 * bell(7.0, math.log(0.8)).exp()
ONE_TOKEN = torch.ones(10, 1, dtype=torch.float64)


def imitate(student: Tensor, updates: int) -> None:
    optimiser = torch.optim.Adam([student], lr=0.1)
    for _ in range(updates):
        optimiser.zero_grad()
        sft_loss(bell(*student).unsqueeze(1), ONE_TOKEN, total_tokens=1, weights=TEACHER).loss.backward()
        optimiser.step()


def compete(student: Tensor, updates: int, *, warm_up: int) -> None:
    """The discriminator scores, then the student is updated, then the discriminator, on all pairs by their chance."""
    scores = torch.zeros(10, dtype=torch.float64, requires_grad=True)
    optimisers = torch.optim.Adam([student], lr=0.02), torch.optim.Adam([scores], lr=0.1)
    teachers, students = torch.arange(10).repeat_interleave(10), torch.arange(10).repeat(10)
    for update in range(warm_up + updates):
        logprobs, rewards = bell(*student), scores.detach()
        often = logprobs.detach().exp()
        if update >= warm_up:
            # Every class is a rollout; how often it would be drawn stands in its advantage.
            centred = often * (rewards - often @ rewards)
            optimisers[0].zero_grad()
            policy_loss(policy_inputs(logprobs.unsqueeze(1), advantages=centred), total_tokens=1).loss.backward()
            optimisers[0].step()
        chance = TEACHER[teachers] * often[students]
        optimisers[1].zero_grad()
        bradley_terry_loss(scores[teachers], scores[students], total_pairs=1, weights=chance).loss.backward()
        optimisers[1].step()


def shape(student: Tensor) -> tuple[float, float, float, float]:
    """Mean, standard deviation, mass of the valley (classes 4, 5) and of the smaller mode (6 to 9)."""
    chance = bell(*student.detach()).exp()
    mean = chance @ CLASSES
    return (
        mean.item(),
        (chance @ (CLASSES - mean) ** 2).sqrt().item(),
        chance[4:6].sum().item(),
        chance[6:].sum().item(),
    )


def test_imitation_covers_both_modes_and_the_adversarial_reward_seeks_the_larger():
    assert TEACHER[4:6].sum() < 0.01
    student = double([4.0, 0.5], grad=True)
    imitate(student, 200)
    mean, std, valley, smaller = shape(student)
    assert 2.7 < mean < 3.5
    assert std > 2.3
    assert valley > 0.18  # where the teacher is almost never
    assert smaller > 0.15
    compete(student, 400, warm_up=50)
    mean, std, valley, smaller = shape(student)
    assert mean == pytest.approx(1.05, abs=0.1)
    assert std == pytest.approx(0.75, abs=0.1)
    assert valley < 0.005
    assert smaller < 1e-6


def test_the_best_discriminator_scores_the_log_ratio_of_teacher_and_student():
    """So that the mean reward of the student is minus its reverse KL: where all pairs are seen by their chance."""
    teacher, student = double([0.3, 0.6, 0.1]), double([0.5, 0.1, 0.4])
    scores = (teacher / student).log().requires_grad_()
    better, worse = torch.arange(3).repeat_interleave(3), torch.arange(3).repeat(3)
    chance = teacher[better] * student[worse]
    loss = bradley_terry_loss(scores[better], scores[worse], total_pairs=1, weights=chance).loss
    assert gradient(loss, scores).abs().max() < 1e-12
