"""Distillation from distributions: divergences by hand, their limits, and the tail."""

import math
from itertools import product

import pytest
import torch
from loss_inputs import double, gradient
from torch import Tensor
from torch.nn.functional import pad

from bbdistill.losses.distill import (
    Divergence,
    distill_loss,
    divergence,
    merged,
    sorted_term,
    with_tail,
)

KINDS: list[Divergence] = ["forward_kl", "reverse_kl", "jsd"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def logs(*probabilities: float, grad: bool = False) -> Tensor:
    """(1, K)"""
    return double([[math.log(p) if p else -math.inf for p in probabilities]], grad=grad)


def distributions(rows: int, width: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(rows, width, generator=draw, dtype=torch.float64)).log_softmax(1)


def plain(student: list[float], teacher: list[float], kind: Divergence, beta: float) -> float:
    """Of probabilities, one outcome after the other."""

    def kl(of: list[float], to: list[float]) -> float:
        return sum(p * math.log(p / q) for p, q in zip(of, to, strict=True) if p > 0)

    mixture = [beta * t + (1 - beta) * s for s, t in zip(student, teacher, strict=True)]
    match kind:
        case "forward_kl":
            return kl(teacher, student)
        case "reverse_kl":
            return kl(student, teacher)
        case "jsd":
            return beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)


def test_divergences_by_hand():
    student, teacher = logs(0.5, 0.5), logs(0.75, 0.25)
    assert divergence(student, teacher, kind="forward_kl").item() == pytest.approx(0.75 * math.log(3) - math.log(2))
    assert divergence(student, teacher, kind="reverse_kl").item() == pytest.approx(math.log(2) - 0.5 * math.log(3))
    # m = (0.6, 0.4) for beta = 0.4
    to_mixture = 0.75 * math.log(1.25) + 0.25 * math.log(0.625), 0.5 * math.log(5 / 6) + 0.5 * math.log(1.25)
    by_hand = 0.4 * to_mixture[0] + 0.6 * to_mixture[1]
    assert divergence(student, teacher, kind="jsd", beta=0.4).item() == pytest.approx(by_hand)


@every_kind
def test_divergences_are_those_of_a_plain_loop_and_0_of_equals(kind: Divergence):
    student, teacher = distributions(50, 6, seed=0), distributions(50, 6, seed=1)
    found = divergence(student, teacher, kind=kind, beta=0.3)
    pairs = zip(student.exp().tolist(), teacher.exp().tolist(), strict=True)
    assert found.tolist() == pytest.approx([plain(s, t, kind, 0.3) for s, t in pairs])
    assert (found > 0).all()
    assert divergence(student, student, kind=kind).abs().max() < 1e-12


def test_jsd_becomes_the_forward_kl_for_small_beta_and_the_reverse_kl_for_large():
    student, teacher = distributions(20, 5, seed=0), distributions(20, 5, seed=1)
    for beta, scale, kind in ((1e-6, 1e-6, "forward_kl"), (1 - 1e-6, 1e-6, "reverse_kl")):
        found = divergence(student, teacher, kind="jsd", beta=beta) / scale
        torch.testing.assert_close(found, divergence(student, teacher, kind=kind), rtol=1e-3, atol=1e-3)
    swapped = divergence(teacher, student, kind="jsd", beta=0.8)
    torch.testing.assert_close(divergence(student, teacher, kind="jsd", beta=0.2), swapped)


@every_kind
def test_the_gradient_is_that_of_all_outcomes_where_the_tail_is_one_of_them(kind: Divergence):
    """Towards logits of four outcomes, three of them given and the fourth worked out as the tail."""
    logits, teacher = double([[0.3, -1.0, 2.0, 0.5]], grad=True), logs(0.1, 0.2, 0.3, 0.4)
    student, ones = logits.log_softmax(1), torch.ones(1, 3)
    tailed = divergence(with_tail(student[:, :3], ones), with_tail(teacher[:, :3], ones), kind=kind, beta=0.3)
    whole = divergence(student, teacher, kind=kind, beta=0.3)
    torch.testing.assert_close(tailed, whole)
    found, expected = gradient(tailed.sum(), logits), gradient(whole.sum(), logits)
    torch.testing.assert_close(found, expected)
    if kind == "forward_kl":
        torch.testing.assert_close(found, student.exp() - teacher.exp())


@every_kind
def test_a_support_with_a_tail_sees_no_more_than_the_whole(kind: Divergence):
    student, teacher = distributions(50, 30, seed=0), distributions(50, 30, seed=1)
    whole, seen = divergence(student, teacher, kind=kind), torch.zeros(50).double()
    for width in (0, 1, 5, 20, 29):
        ours, theirs = (with_tail(of[:, :width], torch.ones(50, width)) for of in (student, teacher))
        now = divergence(ours, theirs, kind=kind)
        assert (now >= seen - 1e-12).all()
        seen = now
    torch.testing.assert_close(seen, whole)


def test_the_tail_is_what_remains():
    found = with_tail(logs(0.5, 0.25, 0.125), double([[1.0, 0.0, 1.0]]))
    assert found[0, 3].exp().item() == pytest.approx(0.375, abs=1e-15)
    assert found[0, 1].exp().item() < 1e-300
    small = with_tail(double([[math.log1p(-1e-9)]]), torch.ones(1, 1))
    assert small[0, 1].exp().item() == pytest.approx(1e-9, rel=1e-6)
    assert with_tail(torch.zeros(2, 0), torch.zeros(2, 0)).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tail_of_nothing_is_the_least_that_a_sum_can_tell(dtype: torch.dtype):
    logprobs = torch.tensor([[0.5, 0.5], [0.6, 0.41], [1.0, 0.0]], dtype=dtype).log().requires_grad_()
    found = with_tail(logprobs, torch.ones(3, 2))
    torch.testing.assert_close(found[:, 2].exp(), torch.full((3,), torch.finfo(dtype).eps, dtype=dtype))
    assert gradient(found[:, 2].sum(), logprobs).abs().sum() == 0


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_of_0_on_either_side_leave_loss_and_gradient_finite(kind: Divergence, dtype: torch.dtype):
    cases = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.3, 0.4], [1e-30, 0.0, 1.0]]
    pairs = list(product(cases, cases))
    student = torch.tensor([ours for ours, _ in pairs], dtype=dtype).log().requires_grad_()
    teacher = torch.tensor([theirs for _, theirs in pairs], dtype=dtype).log()
    loss, metrics = distill_loss(student, teacher, torch.ones(len(pairs), 3), total_units=1, kind=kind)
    assert loss.isfinite()
    assert gradient(loss, student).isfinite().all()
    assert all(value.isfinite() for value in metrics.values())
    same = [ours == theirs for ours, theirs in pairs]
    each = divergence(*(with_tail(of, torch.ones(len(pairs), 3)) for of in (student, teacher)), kind=kind)
    assert each[torch.tensor(same)].abs().max() < 1e-6
    assert each[~torch.tensor(same)].min() > 1e-3


@every_kind
def test_logits_that_rule_a_token_out_have_a_finite_gradient(kind: Divergence):
    logits = torch.tensor([[0.0, -200.0, 60.0, -torch.inf]], requires_grad=True)
    teacher = logs(0.25, 0.25, 0.25, 0.2).float()
    loss = distill_loss(logits.log_softmax(1), teacher, torch.ones(1, 4), total_units=1, kind=kind).loss
    assert gradient(loss, logits).isfinite().all()


@every_kind
def test_the_order_of_outcomes_and_padding_change_nothing(kind: Divergence):
    student, teacher = distributions(9, 8, seed=0)[:, :6], distributions(9, 8, seed=1)[:, :6]
    mask = (distributions(9, 6, seed=2) > -3).double()
    mask[4] = 0

    def outcome(ours: Tensor, theirs: Tensor, mask: Tensor) -> tuple[float, dict[str, float], Tensor]:
        leaf = ours.detach().clone().requires_grad_()
        loss, metrics = distill_loss(leaf, theirs, mask, total_units=8, kind=kind)
        return loss.item(), {name: value.item() for name, value in metrics.items()}, gradient(loss, leaf)

    loss, metrics, slope = outcome(student, teacher, mask)
    order = [3, 0, 5, 1, 4, 2]
    moved = outcome(student[:, order], teacher[:, order], mask[:, order])
    padded = [
        [
            pad(of, (0, wider, 0, taller), value=value)
            for of, value in ((student, math.nan), (teacher, math.nan), (mask, 0))
        ]
        for wider, taller in ((2, 0), (0, 3))
    ]
    for found_loss, found_metrics, found_slope in (moved, *(outcome(*of) for of in padded)):
        assert found_loss == pytest.approx(loss)
        assert found_metrics == pytest.approx(metrics)
        assert found_slope.abs().sum().item() == pytest.approx(slope.abs().sum().item())
    torch.testing.assert_close(moved[2], slope[:, order])


def test_distill_loss_by_hand():
    student = torch.cat([logs(0.5, 0.25), logs(0.1, 0.2), logs(0.9, 0.05)]).requires_grad_()
    teacher = torch.cat([logs(0.25, 0.5), logs(0.1, 0.2), logs(0.8, 0.05)])
    mask, weights, rest = double([[1, 1], [1, 1], [1, 0]]), double([1.0, 5.0, 0.5]), double([0.1, 0.0, 0.2])
    kls = [0.25 * math.log(2), 0.0, 0.8 * math.log(0.8 / 0.9) + 0.2 * math.log(0.2 / 0.1)]
    loss, metrics = distill_loss(student, teacher, mask, total_units=10, kind="forward_kl", weights=weights, rest=rest)
    assert loss.item() == pytest.approx((kls[0] + 0.1 + 0.5 * (kls[2] + 0.2)) / 10)
    assert metrics["distill/loss"].item() == pytest.approx((sum(kls) + 0.3) / 3)
    assert metrics["distill/kl"].item() == pytest.approx(sum(kls) / 3)
    assert metrics["distill/agreement"].item() == pytest.approx(2 / 3)
    reverse = distill_loss(student, teacher, mask, total_units=10, kind="reverse_kl").metrics
    assert reverse["distill/kl"].item() == pytest.approx(sum(kls) / 3)
    assert reverse["distill/loss"].item() != pytest.approx(sum(kls) / 3)


def test_a_call_without_a_unit_is_0():
    for rows in (0, 2):
        student = torch.zeros(rows, 3, requires_grad=True)
        loss, metrics = distill_loss(student, student, torch.zeros(rows, 3), total_units=1, kind="jsd")
        assert [loss.item(), *(value.item() for value in metrics.values())] == [0.0] * 4
        assert gradient(loss, student).abs().sum() == 0


def test_sorted_term_by_hand():
    student, teacher = logs(0.1, 0.3, 0.2), logs(0.05, 0.25, 0.0)
    found = sorted_term(student, teacher)
    assert found.item() == pytest.approx(abs(0.3 - 0.25) + abs(0.2 - 0.05))  # two against the two likeliest


def test_sorted_term_is_blind_to_order_and_padding():
    student, teacher = distributions(9, 6, seed=0).requires_grad_(), distributions(9, 4, seed=1)
    empty = torch.full((9, 2), -torch.inf, dtype=teacher.dtype)
    wide = torch.cat([teacher, empty], 1)
    found = sorted_term(student, wide)
    slope = gradient(found.sum(), student)
    other = sorted_term(student[:, [2, 5, 0, 4, 3, 1]], torch.cat([empty, teacher[:, [3, 0, 2, 1]]], 1))
    torch.testing.assert_close(other, found)
    torch.testing.assert_close(gradient(other.sum(), student), slope)
    # As if there had been room for four only, which is so where other units of the micro-batch have fewer.
    torch.testing.assert_close(sorted_term(student.sort(1, descending=True).values[:, :4], teacher), found)
    assert sorted_term(student, torch.full_like(student, -torch.inf)).tolist() == [0.0] * 9


def test_merged_log_probs_are_the_sums_of_their_tokens():
    logprobs = double([-1.0, -2.0, -0.5, -4.0], grad=True)
    found = merged(logprobs, torch.tensor([0, 2, 0, 1]), 3)
    assert found.tolist() == [-1.5, -4.0, -2.0]
    assert gradient((found * double([1.0, 2.0, 3.0])).sum(), logprobs).tolist() == [1.0, 3.0, 1.0, 2.0]
