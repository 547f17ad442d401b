"""Token log-probs, masked means, supervised fine-tuning, and the log-ratio of a whole completion."""

import math

import pytest
import torch
from loss_inputs import double, gradient, random_logprobs, random_mask
from torch import Tensor

from bbdistill.losses.common import (
    head_logprobs,
    likeliest,
    masked_mean,
    masked_sum,
    sequence_log_ratio,
    support_logprobs,
    token_logprobs,
)
from bbdistill.losses.sft import sft_loss


def test_token_logprobs_are_the_log_softmax_at_the_targets():
    logits = double([[0.0, math.log(3.0)], [0.0, 0.0]])
    assert token_logprobs(logits, torch.tensor([1, 0])).tolist() == pytest.approx([math.log(0.75), math.log(0.5)])


def test_token_logprobs_of_bfloat16_logits_are_computed_in_float32():
    logits = torch.randn(300, 50, generator=torch.Generator().manual_seed(0)).bfloat16()  # more than one piece
    targets = torch.arange(300) % 50
    found = token_logprobs(logits, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, logits.float().log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1))


def test_head_logprobs_and_their_gradient_are_those_of_the_logits_written_out():
    draw = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(300, 8, generator=draw, requires_grad=True), torch.randn(50, 8, generator=draw)
    targets, upstream = torch.arange(300) % 50, torch.randn(300, generator=draw)
    found, written_out = head_logprobs(hidden, head, targets), token_logprobs(hidden @ head.T, targets)
    torch.testing.assert_close(found, written_out)
    torch.testing.assert_close(gradient(found @ upstream, hidden), gradient(written_out @ upstream, hidden))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_support_logprobs_and_their_gradient_are_those_of_the_logits_written_out(dtype: torch.dtype):
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 8, generator=draw, dtype=dtype, requires_grad=True)  # more than one piece
    head, upstream = (torch.randn(rows, width, generator=draw, dtype=dtype) for rows, width in ((50, 8), (300, 5)))
    ids = torch.randint(50, (300, 5), generator=draw)  # some stand twice in a row
    found, written_out = support_logprobs(hidden, head, ids), (hidden @ head.T).log_softmax(-1).gather(1, ids)
    torch.testing.assert_close(found, written_out)
    slopes = (gradient((logprobs * upstream).sum(), hidden) for logprobs in (found, written_out))
    torch.testing.assert_close(*slopes)


def test_support_logprobs_keep_a_row_of_the_head_for_each_position_and_no_logits():
    kept = list[int]()

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    hidden, head, ids = torch.randn(300, 8, requires_grad=True), torch.randn(5000, 8), torch.zeros(300, 4).long()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        found = support_logprobs(hidden, head, ids)
    assert sorted(kept) == [300 * 4, 300 * 8, 5000 * 8]  # ids, rows, and the head, which there is anyway
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), torch.no_grad():
        assert torch.equal(support_logprobs(hidden, head, ids), found)
    assert kept == []


def test_support_logprobs_of_no_position():
    hidden = torch.randn(0, 8, requires_grad=True)
    found = support_logprobs(hidden, torch.randn(50, 8), torch.zeros(0, 3).long())
    assert found.shape == (0, 3)
    assert gradient(found.sum(), hidden).shape == (0, 8)


def test_likeliest_are_the_first_of_all_sorted_but_those_left_out():
    draw = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(300, 8, generator=draw), torch.randn(50, 8, generator=draw)
    order = (hidden @ head.T).argsort(dim=1, descending=True)
    assert torch.equal(likeliest(hidden, head, 4), order[:, :4])
    assert torch.equal(likeliest(hidden, head, 4, order[:, [1, 0, 3, 3]]), order[:, [2, 4, 5, 6]])


def test_masked_mean_ignores_what_is_masked_and_is_zero_on_an_empty_mask():
    values = double([[1.0, math.nan], [3.0, math.inf]])
    assert masked_mean(values, double([[1.0, 0.0], [1.0, 0.0]])).item() == 2.0
    assert masked_sum(values, torch.zeros_like(values)).item() == 0.0
    assert masked_mean(values, torch.zeros_like(values)).item() == 0.0


def test_sequence_log_ratio_by_hand():
    logprobs = double([[-1.0, -2.0, math.nan], [-3.0, -math.inf, -1.0]], grad=True)
    ref = double([[-1.5, -1.0, math.nan], [-1.0, -math.inf, math.inf]])
    mask = double([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    found = sequence_log_ratio(logprobs, ref, mask)
    assert found.tolist() == [0.5 - 1.0, -2.0]
    assert gradient(found.sum(), logprobs).tolist() == mask.tolist()


def test_sft_loss_by_hand():
    logprobs = double([[-1.0, -2.0, -9.0], [-3.0, -9.0, -9.0]], grad=True)
    mask = double([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    loss, metrics = sft_loss(logprobs, mask, total_tokens=3)
    assert loss.item() == 2.0
    assert metrics["sft/loss"].item() == 2.0
    torch.testing.assert_close(gradient(loss, logprobs), -mask / 3)


def test_sft_loss_and_gradient_equal_those_of_a_plain_loop():
    logprobs, weights = random_logprobs(4, 6).requires_grad_(), double([1.0, 2.0, 0.0, 0.25])
    mask = random_mask(4, 6, seed=1)
    plain = sum(-weights[b] * logprobs[b, t] for b in range(4) for t in range(6) if mask[b, t]) / 11
    loss = sft_loss(logprobs, mask, total_tokens=11, weights=weights).loss
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(gradient(loss, logprobs), gradient(plain, logprobs))


def test_sft_loss_of_an_empty_mask_is_zero():
    assert sft_loss(random_logprobs(2, 3), torch.zeros(2, 3), total_tokens=1).loss.item() == 0
