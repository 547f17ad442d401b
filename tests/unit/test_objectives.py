from pathlib import Path

import pytest

from bbdistill.config import RunConfig
from bbdistill.configfile import parse_config
from bbdistill.errors import ConfigError
from bbdistill.objectives import (
    as_lessons,
    choose_corrections,
    choose_pairs,
    policy_batch,
    ranked_pairs,
    sft_batch,
    sift,
)
from bbdistill.rewards import Rewards
from bbdistill.stages import Stage, epochs, prompts_used, stages, step_prompts
from bbdistill.types import Abstain, Correction, Demonstration, Preference, Prompt, Revising, Rollout, Verdict

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


def config(*, recipe: str = "gad", feedback: dict[str, object] | None = None, **train: object) -> RunConfig:
    raw = {
        "recipe": recipe,
        "teacher": {"model": "openai:x"},
        "task": {"prompts": "p.jsonl"},
        "train": train,
        "feedback": feedback or {},
    }
    return parse_config(raw, where="test", base=Path("/"))


def stages_of(config: RunConfig, *, prompts: int = 10, given: tuple[str, ...] = ()) -> tuple[Stage, ...]:
    return stages(config, [str(i) for i in range(prompts)], given)


def test_gad_is_a_warm_up_then_the_discriminator_then_the_policy():
    names = [(stage.name, stage.steps, stage.policy_weight) for stage in stages_of(config(steps=6, warmup_max=40))]
    assert names == [("warmup", 40, 0.0), ("discriminator", 4, 0.0), ("policy", 6, 1.0)]


def test_the_rate_falls_to_a_tenth():
    stage = stages_of(config(steps=10, policy_learning_rate=1.0))[-1]
    assert stage.rate(0) == 1.0
    assert stage.rate(9) == pytest.approx(0.19)


def test_a_stage_always_ends_with_a_validation():
    stage = stages_of(config(warmup_max=25, validate_every=10))[0]
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
    policy, gather = stages_of(config())[-1], stages_of(config(recipe="isft"))[0]
    lessons = as_lessons(taught.values())
    assert [e.text for e in sft_batch([prompt("a"), prompt("unasked")], lessons, [mended], policy)] == ["T", "z"]
    assert sft_batch([prompt("a")], lessons, [mended], gather) == []


def test_a_recipe_with_rounds_warms_up_on_what_is_given_and_then_gathers_and_imitates():
    given = stages_of(config(recipe="isft", steps=7, warmup_max=3), given=("2", "5"))
    assert [(stage.name, stage.steps) for stage in given] == [
        ("warmup", 3),
        ("gather-1", 1),
        ("sft-1", 7),
        ("gather-2", 1),
        ("sft-2", 7),
    ]
    assert given[0].ids == ("2", "5")
    assert set(prompts_used(given, 0, given[0].ids)) == {"2", "5"}
    assert [stage.name for stage in stages_of(config(recipe="isft", rounds=1))] == ["gather-1", "sft-1"]
    asked = stages_of(config(recipe="isft", feedback={"demonstrations": True}))
    assert (asked[0].name, len(asked[0].ids)) == ("warmup", 10)
    with pytest.raises(ConfigError, match="nothing to imitate"):
        stages_of(config(recipe="sft", feedback={"demonstrations": False}))


def test_rewards_need_no_demonstration():
    """`gad` on prompts that came with no answer, where the teacher is not asked for any."""
    shown = {"recipe": "gad", "feedback": {"demonstrations": False}}
    given = stages_of(config(**shown), given=("2", "5"))
    assert [stage.name for stage in given] == ["warmup", "discriminator", "policy"]
    assert set(prompts_used(given, 0, ("2", "5"))) == {"2", "5"}
    none = stages_of(config(**shown))
    assert [stage.name for stage in none] == ["discriminator", "policy"]
    assert len(none[1].ids) == 10
    assert prompts_used(none, 0, ()) == []


def test_each_recipe_asks_its_own_questions():
    def gather(recipe: str, **feedback: object) -> Stage:
        return stages_of(config(recipe=recipe, group_size=5, feedback=dict(feedback)))[0]

    assert gather("isft").revising == Revising(limit=3)
    assert gather("rgt", revisions=2).revising == Revising(limit=2, strategy=True)
    assert gather("process").revising == Revising(limit=3, quoted=True)
    taught, own = gather("best_of_n"), gather("best_of_n", candidates_from="student")
    assert (taught.group_size, taught.candidates, taught.corrections) == (0, 5, 0)
    assert (own.group_size, own.candidates, own.corrections) == (5, 0, 0)


def test_a_round_takes_each_of_its_prompts_once_and_the_next_round_the_next_ones():
    first, _, second, _ = stages_of(config(recipe="isft", prompts_per_round=100), prompts=200)
    assert (first.steps, first.prompts, len(first.ids)) == (2, 64, 100)
    taken = [step_prompts(first, (), step=9, stage_step=step, seed=0) for step in range(2)]
    assert list(map(len, taken)) == [64, 36]
    assert sorted(taken[0] + taken[1]) == sorted(first.ids)
    assert set(first.ids) | set(second.ids) == {str(i) for i in range(200)}


def test_what_was_gathered_is_taken_round_after_round_and_nothing_where_there_is_nothing():
    imitate = stages_of(config(recipe="isft", prompts_per_step=2))[1]
    taken = [step_prompts(imitate, ["a", "b", "c"], step=step, stage_step=0, seed=0) for step in range(3)]
    assert sorted(taken[0] + taken[1] + taken[2]) == ["a", "a", "b", "b", "c", "c"]
    assert step_prompts(imitate, [], step=3, stage_step=0, seed=0) == []


def test_without_a_count_all_are_corrected_that_do_not_pass():
    rollouts = [[rollout("a", 0, "x")], [rollout("b", 0, "u")], [rollout("c", 0, "v")]]
    verdicts = [[verdict(1.0)], [NOTHING], [verdict(0.5)]]
    assert choose_corrections(rollouts, verdicts, [[0.0], [0.0], [0.0]], None) == [(2, 0), (1, 0)]


def test_every_epoch_has_every_prompt_once_and_its_own_order():
    ids = [str(i) for i in range(10)]
    stream = epochs(ids, 0, 0, 20)
    assert sorted(stream[:10]) == sorted(stream[10:]) == ids
    assert stream[:10] != stream[10:]
    assert epochs(ids, 0, 7, 13) == stream[7:13]
    assert epochs(ids, 1, 0, 10) != stream[:10]


def test_what_is_refuted_a_refusal_or_too_long_is_not_imitated_and_counted():
    said = {
        "a": ("right", verdict(1.0)),
        "b": ("wrong", verdict(0.0)),
        "c": ("unjudged", NOTHING),
        "d": ("I'm sorry, but I can't assist with that request.", NOTHING),
        "e": ("As an AI language model I have no opinions.", verdict(1.0)),
        "f": ("much too long", NOTHING),
    }
    given = [Demonstration(prompt=prompt(name), completion=text, source="t") for name, (text, _) in said.items()]
    found = sift(given, lambda one, _: said[one.id][1], lambda _, text: text != "much too long")
    assert list(found.kept) == ["a", "c", "e"]
    assert found.left_out == {
        "refuted by the verifier": 1,
        "a refusal": 1,
        "longer than `student.max_new_tokens`": 1,
    }
