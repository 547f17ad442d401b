from pathlib import Path

import pytest

from bbdistill.config import RunConfig
from bbdistill.configfile import parse_config
from bbdistill.objectives import (
    choose_corrections,
    choose_pairs,
    epochs,
    policy_batch,
    ranked_pairs,
    sft_batch,
    stages,
    trustworthy,
)
from bbdistill.rewards import Rewards
from bbdistill.types import Abstain, Correction, Demonstration, Preference, Prompt, Rollout, Verdict

NOTHING = Abstain(reason="no verifier")


def prompt(name: str) -> Prompt:
    return Prompt(id=name, messages=({"role": "user", "content": name},))


def rollout(name: str, sample: int, text: str) -> Rollout:
    return Rollout(
        prompt=prompt(name),
        sample=sample,
        completion=text,
        token_ids=(1,),
        logprobs=(-0.5,),
        policy_version=0,
        stop_reason="stop",
    )


def verdict(score: float) -> Verdict:
    return Verdict(score=score, passed=score == 1.0, feedback="wrong")


def config(**train: object) -> RunConfig:
    raw = {
        "recipe": "gad",
        "teacher": {"model": "openai:x"},
        "task": {"prompts": "p.jsonl"},
        "train": train,
    }
    return parse_config(raw, where="test", base=Path("/"))


def test_gad_is_a_warm_up_then_the_discriminator_then_the_policy():
    names = [(stage.name, stage.steps, stage.policy_weight) for stage in stages(config(steps=6, warmup_max=40))]
    assert names == [("warmup", 40, 0.0), ("discriminator", 4, 0.0), ("policy", 6, 1.0)]


def test_the_rate_falls_to_a_tenth():
    stage = stages(config(steps=10, policy_learning_rate=1.0))[-1]
    assert stage.rate(0) == 1.0
    assert stage.rate(9) == pytest.approx(0.19)


def test_a_stage_always_ends_with_a_validation():
    stage = stages(config(warmup_max=25, validate_every=10))[0]
    assert [done for done in range(1, 26) if stage.validates(done)] == [10, 20, 25]


def test_pairs_the_verifier_cannot_tell_apart_come_first_and_equal_texts_never():
    rollouts = [
        [rollout("a", 0, "x"), rollout("a", 1, "x"), rollout("a", 2, "y")],
        [rollout("b", 0, "u"), rollout("b", 1, "v"), rollout("b", 2, "w")],
    ]
    verdicts = [[verdict(1.0), verdict(1.0), verdict(0.0)], [NOTHING, NOTHING, NOTHING]]
    assert choose_pairs(rollouts, verdicts, 2) == [(1, 0, 1), (1, 0, 2)]
    assert choose_pairs(rollouts, verdicts, 9) == [(1, 0, 1), (1, 0, 2), (1, 1, 2), (0, 0, 2)]


def test_the_worst_are_corrected_first_by_the_verifier_then_by_the_discriminator():
    rollouts = [[rollout("a", 0, "x"), rollout("a", 1, "y")], [rollout("b", 0, "u"), rollout("b", 1, "v")]]
    verdicts = [[verdict(0.8), verdict(0.2)], [verdict(1.0), verdict(1.0)]]
    scores = [[9.0, 9.0], [3.0, -3.0]]
    assert choose_corrections(rollouts, verdicts, scores, 3) == [(0, 1), (0, 0), (1, 1)]


def test_the_discriminator_learns_teacher_preferred_and_corrected_over_the_rest_each_once():
    rollouts = [[rollout("a", 0, "x"), rollout("a", 1, "y"), rollout("a", 2, "y"), rollout("a", 3, "T")]]
    taught = {"a": Demonstration(prompt=prompt("a"), completion="T", source="t")}
    preferred = Preference(prompt=prompt("a"), chosen="x", rejected="y", strength=1.0, source="t")
    mended = Correction(rollout=rollouts[0][1], text="z", reason="", accepted_by="verifier")
    pairs = ranked_pairs(rollouts, taught, [preferred], [mended])
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("T", "x"), ("T", "y"), ("x", "y"), ("z", "y")]


def test_batches():
    rollouts = [[rollout("a", 0, "x"), rollout("a", 1, "y")]]
    rewards = Rewards(values_P_G=((1.0, 3.0),), advantages_P_G=((-1.0, 1.0),), discriminator_version=0)
    assert policy_batch(rollouts, rewards, 0.0) == []
    assert [example.advantage for example in policy_batch(rollouts, rewards, 0.5)] == [-0.5, 0.5]
    taught = {"a": Demonstration(prompt=prompt("a"), completion="T", source="t")}
    mended = Correction(rollout=rollouts[0][1], text="z", reason="", accepted_by="verifier")
    batch = sft_batch([prompt("a"), prompt("unasked")], taught, [mended])
    assert [example.text for example in batch] == ["T", "z"]


def test_every_epoch_has_every_prompt_once_and_its_own_order():
    ids = [str(i) for i in range(10)]
    stream = epochs(ids, 0, 0, 20)
    assert sorted(stream[:10]) == sorted(stream[10:]) == ids
    assert stream[:10] != stream[10:]
    assert epochs(ids, 0, 7, 13) == stream[7:13]
    assert epochs(ids, 1, 0, 10) != stream[:10]


def test_a_refuted_demonstration_is_not_imitated_an_unjudged_one_is():
    given = [Demonstration(prompt=prompt(name), completion=name, source="t") for name in "abc"]
    verdicts = {"a": verdict(1.0), "b": verdict(0.0), "c": NOTHING}
    assert list(trustworthy(given, lambda prompt, text: verdicts[text])) == ["a", "c"]
