"""Preferences, several updates, and credit per token on a tiny random student, held against the plain way."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from student_examples import disturb, plain_logprobs, policy_examples, ranked_pairs, rollout_of
from student_fixtures import prompts, tiny_config
from torch import Tensor

from bbdistill.config.training import DPOConfig, PolicyConfig
from bbdistill.student.open import open_student
from bbdistill.student.student import Student
from bbdistill.student.tree import Row
from bbdistill.types import PolicyExample, Prompt


def test_a_preference_step_prefers_and_starts_at_no_preference(model: Path):
    student, _ = open_student(tiny_config(model, recipe="dpo"))
    disturb(student)
    before = student.adapter_state()
    first = student.update([], [], ranked_pairs(), learning_rate=1e-2)
    assert first["dpo/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert (first["dpo/accuracy"], first["dpo/margin"]) == (0.5, pytest.approx(0, abs=1e-4))
    for _ in range(10):
        last = student.update([], [], ranked_pairs(), learning_rate=1e-2)
    assert last["dpo/accuracy"] == 1
    assert last["dpo/margin"] > 1
    snapshot = student.adapters.state("snapshot")
    assert all(torch.equal(tensor, before[key]) for key, tensor in snapshot.items())


def test_the_gradient_of_a_preference_step_equals_that_of_a_plain_loop(model: Path, monkeypatch: pytest.MonkeyPatch):
    config = tiny_config(model, recipe="dpo", max_grad_norm=1e9).model_copy(update={"dpo": DPOConfig(beta=0.3)})
    student, _ = open_student(config)
    pairs = [replace(pair, weight=weight) for pair, weight in zip(ranked_pairs()[:3], (1.0, 0.5, 2.0), strict=True)]
    student.update([], [], pairs, learning_rate=0.0)  # the snapshot is taken
    disturb(student)
    chat, net = student.base.chat, student.base.model

    def ratio(prompt: Prompt, text: str) -> Tensor:
        ids = chat.completion_ids(prompt.messages, text)
        return plain_logprobs(net, Row(prompt=tuple(chat.prompt_ids(prompt.messages)), completion=tuple(ids))).sum()

    with student.adapters.use("snapshot"):
        known = [(ratio(p.prompt, p.chosen), ratio(p.prompt, p.rejected)) for p in pairs]
    with student.adapters.use("policy", train=True):
        for pair, (chosen, rejected) in zip(pairs, known, strict=True):
            margin = ratio(pair.prompt, pair.chosen) - chosen - ratio(pair.prompt, pair.rejected) + rejected
            (-pair.weight * torch.nn.functional.logsigmoid(0.3 * margin) / 3.5).backward()
        expected = [p.grad.clone() for p in student.adapters.parameters("policy") if p.grad is not None]
    for parameter in student.adapters.parameters("policy"):
        parameter.grad = None
    found = list[Tensor]()

    def keep(*_: object) -> None:
        found.extend(p.grad.clone() for p in student.adapters.parameters("policy") if p.grad is not None)

    monkeypatch.setattr(torch.optim.AdamW, "step", keep)
    student.update([], [], pairs, learning_rate=1.0)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-4)


def test_the_snapshot_answers_as_the_student_did_and_survives_a_checkpoint(model: Path):
    student, _ = open_student(tiny_config(model, recipe="dpo"))
    disturb(student)
    before = student.sample(prompts(2), group_size=2, step=7)
    assert student.sample(prompts(2), group_size=2, step=7, frozen=True) == before
    for _ in range(5):
        student.update([], [], ranked_pairs(), learning_rate=1e-2)
    later = student.sample(prompts(2), group_size=2, step=7, frozen=True)
    assert [[r.completion for r in group] for group in later] == [[r.completion for r in group] for group in before]
    again, _ = open_student(tiny_config(model, recipe="dpo"))
    again.load_state(student.state())
    assert again.sample(prompts(2), group_size=2, step=7, frozen=True) == later


def test_several_updates_on_the_same_rollouts_are_clipped_against_the_first(model: Path):
    once, _ = open_student(tiny_config(model))
    often, _ = open_student(tiny_config(model, policy=PolicyConfig(updates=4)))
    for student in (once, often):
        disturb(student)
    one = once.update(policy_examples(once), [], learning_rate=3e-2)
    many = often.update(policy_examples(often), [], learning_rate=3e-2)
    assert one["policy/clip_fraction"] == 0 < many["policy/clip_fraction"]
    assert many["policy/mismatch"] == pytest.approx(one["policy/mismatch"])  # of the policy before the first of them
    assert once.version == often.version == 1


def test_dr_grpo_divides_by_what_might_have_been_said(model: Path):
    found: list[float] = []
    for loss in ("dapo", "dr_grpo"):
        student, _ = open_student(tiny_config(model, policy=PolicyConfig(loss=loss)))
        disturb(student)
        examples = policy_examples(student)
        found.append(student.update(examples, [], learning_rate=0.0)["policy/loss"])
    whole = [example for example in examples if example.rollout.stop_reason == "stop"]
    tokens = sum(len(example.rollout.token_ids) for example in whole)
    assert found[1] == pytest.approx(found[0] * tokens / (12 * len(whole)), rel=1e-4)


def test_drift_is_the_log_ratio_of_whole_rollouts(student: Student):
    rollouts = student.sample(prompts(2), group_size=2, step=0)
    assert [value for group in student.drift(rollouts) for value in group] == pytest.approx([0.0] * 4, abs=1e-4)
    disturb(student)
    rollouts = student.sample(prompts(2), group_size=2, step=0)
    for group, drifts in zip(rollouts, student.drift(rollouts), strict=True):
        for rollout, drift in zip(group, drifts, strict=True):
            row = Row(prompt=tuple(student.base.chat.prompt_ids(rollout.prompt.messages)), completion=rollout.token_ids)
            with student.adapters.use(None):
                reference = plain_logprobs(student.base.model, row).sum().item()
            assert drift == pytest.approx(sum(rollout.logprobs) - reference, abs=1e-3)


def test_credit_goes_to_the_tokens_that_hold_the_characters(student: Student):
    text = '{"number": 17} \u00e4\U0001f600'
    ids = (*student.base.chat.completion_ids(prompts(1)[0].messages, text),)
    rollout = replace(rollout_of(prompts(1)[0], text), token_ids=ids)
    places = student.base.chat.places(ids)
    assert (places[0][0], places[-1]) == (0, (len(text), len(text)))
    assert "".join(text[a:b] for a, b in places) == text
    assert "".join(text[a:b] for (a, b), on in zip(places, student.touched(rollout, [(1, 9)]), strict=True) if on) == (
        '{"number":'
    )
    assert sum(student.touched(rollout, [])) == 0
    assert student.touched(rollout, [(len(text), len(text) + 1)]) == (
        *[0.0] * (len(ids) - 1),
        1.0,
    )  # it ended too early


def test_credit_moves_the_credited_tokens_alone(model: Path, monkeypatch: pytest.MonkeyPatch):
    """All of the advantage on the first token: the gradient is that of a rollout of one token, times their number."""
    gradients: list[list[Tensor]] = []
    for credited in (True, False):
        student, _ = open_student(tiny_config(model, max_grad_norm=1e9))
        disturb(student)
        rollout = next(e.rollout for e in policy_examples(student) if len(e.rollout.token_ids) > 3)
        rollout = replace(rollout, stop_reason="stop")
        size = len(rollout.token_ids)
        first = replace(rollout, token_ids=rollout.token_ids[:1], logprobs=rollout.logprobs[:1])
        whole = PolicyExample(rollout=rollout, advantage=1.0, magnitude=(1.0,) + (0.0,) * (size - 1))
        found = list[Tensor]()

        def keep(*_: object, student: Student = student, found: list[Tensor] = found) -> None:
            found.extend(p.grad.clone() for p in student.adapters.parameters("policy") if p.grad is not None)

        monkeypatch.setattr(torch.optim.AdamW, "step", keep)
        student.update([whole if credited else PolicyExample(rollout=first, advantage=1.0)], [], learning_rate=1.0)
        gradients.append(found)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-4)
