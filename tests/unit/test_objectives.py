import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from bbdistill.config import RunConfig
from bbdistill.configfile import parse_config
from bbdistill.credit import ByCorrection
from bbdistill.errors import ConfigError
from bbdistill.objectives import (
    as_lessons,
    choose_corrections,
    choose_pairs,
    edited,
    policy_batch,
    preference_batch,
    ranked_pairs,
    sft_batch,
    sift,
    within,
)
from bbdistill.rewards import Rewards
from bbdistill.stages import Stage, epochs, prompts_marked, prompts_used, refill_prompts, stages, step_prompts
from bbdistill.teacher.ask import Feedback
from bbdistill.types import (
    Abstain,
    Correction,
    Demonstration,
    Preference,
    Prompt,
    RankedPair,
    Revising,
    Rollout,
    Verdict,
)

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


def config(
    *,
    recipe: str = "gad",
    feedback: dict[str, object] | None = None,
    tables: Mapping[str, object] = {},
    **train: object,
) -> RunConfig:
    raw: dict[str, object] = {
        "recipe": recipe,
        "teacher": {"model": "openai:x"},
        "task": {"prompts": "p.jsonl", "verifier": "fields"},
        "train": train,
        "feedback": feedback or {},
        **(tables or {}),
    }
    return parse_config(raw, where="test", base=Path("/"))


def stages_of(config: RunConfig, *, prompts: int = 10, given: tuple[str, ...] = ()) -> tuple[Stage, ...]:
    return stages(config, [str(i) for i in range(prompts)], given)


def test_gad_is_a_warm_up_then_the_discriminator_then_the_policy():
    names = [(stage.name, stage.steps, stage.policy) for stage in stages_of(config(steps=6, warmup_max=40))]
    assert names == [("warmup", 40, False), ("discriminator", 4, False), ("policy", 6, True)]


def test_the_discriminator_learns_alone_before_its_score_is_a_reward():
    warmup, alone, policy = stages_of(config())
    assert (alone.lessons, alone.policy, alone.validate_every) == (None, False, 0)
    assert (warmup.supervised, alone.supervised, policy.supervised) == (True, False, False)
    assert (alone.rewarded, policy.rewarded) == (False, True)
    assert prompts_used((alone,), 0, alone.ids)  # its pairs need the teacher's answers


def test_grpo_is_rewards_alone_and_replaces_prompts_that_score_alike():
    (policy,) = stages_of(config(recipe="grpo", steps=3))
    assert (policy.name, policy.steps, policy.sft_weight, policy.refills) == ("policy", 3, 0.0, 2)
    assert (policy.preferences, policy.corrections) == (0, 0)
    assert [s.name for s in stages_of(config(recipe="grpo"), given=("1",))] == ["warmup", "policy"]


def test_a_discriminator_needs_something_to_learn_from():
    judged = {"reward": {"discriminator": 1.0}}
    with pytest.raises(ConfigError, match="the discriminator has nothing to learn from"):
        stages_of(config(recipe="grpo", tables=judged))
    weightless = judged | {"discriminator": {"teacher_weight": 0.0}}
    with pytest.raises(ConfigError, match="the discriminator has nothing to learn from"):
        stages_of(config(recipe="grpo", tables=weightless), given=("1",))
    found = stages_of(config(recipe="grpo", tables=judged), given=("1",))
    assert [(each.name, each.refills) for each in found] == [("warmup", 0), ("discriminator", 0), ("policy", 0)]
    # By itself it asks for nothing: where there is no answer to show, it learns beside the student.
    found = stages_of(config(recipe="grpo", tables=judged | {"feedback": {"preferences": 2}}))
    assert [each.name for each in found] == ["policy"]


def test_a_rubric_and_a_coach_are_rewards_that_ask_for_more():
    warmup, policy = stages_of(config(recipe="rubric", steps=3))
    assert (warmup.name, policy.name, policy.references, policy.coached, policy.refills) == (
        "warmup",
        "policy",
        4,
        0,
        0,
    )
    assert prompts_marked((warmup, policy), 0) == dict.fromkeys([str(i) for i in range(10)], 4)
    assert prompts_marked((warmup,), 0) == {}
    assert [s.references for s in stages_of(config(recipe="dpo", tables={"reward": {"rubric": 1.0}}))] == [0, 0]
    (coached,) = stages_of(config(recipe="coach", tables={"coach": {"rollouts": 5}}))
    assert (coached.references, coached.coached, coached.refills) == (0, 5, 2)
    (both,) = stages_of(config(recipe="coach", tables={"reward": {"rubric": 0.5}, "rubric": {"answers": 2}}))
    assert (both.references, both.coached, both.refills) == (2, 16, 0)  # a verifier is not all there is to the reward


def test_the_prompts_that_are_marked_are_those_that_come_after_the_warm_up():
    warmup, policy = stages_of(config(recipe="rubric", steps=2, prompts_per_step=2, warmup_max=3))
    assert list(prompts_marked((warmup, policy), 0)) == epochs([str(i) for i in range(10)], 0, 6, 10)


def test_dpo_compares_with_the_newest_student_or_with_a_snapshot():
    warmup, fresh = stages_of(config(recipe="dpo", group_size=3))
    assert (warmup.name, fresh.name, fresh.frozen, fresh.group_size) == ("warmup", "dpo", False, 3)
    assert (fresh.policy, fresh.preference, fresh.rewarded) == (False, True, True)
    snapshot = stages_of(config(recipe="dpo", group_size=3, tables={"dpo": {"negatives": "snapshot"}}))[-1]
    assert (snapshot.frozen, snapshot.group_size) == (True, 1)
    with pytest.raises(ConfigError, match="nothing to prefer"):
        stages_of(config(recipe="dpo", feedback={"demonstrations": False}))
    asked = {"demonstrations": False, "preferences": 4}
    assert len(stages_of(config(recipe="dpo", group_size=2, feedback=asked))) == 1
    for alone in ({"group_size": 1}, {"group_size": 3, "tables": {"dpo": {"negatives": "snapshot"}}}):
        with pytest.raises(ConfigError, match=r"`train.group_size` \(2 or more\)"):  # no other answer to compare with
            stages_of(config(recipe="dpo", feedback=asked, **alone))


@pytest.mark.parametrize(
    ("recipe", "tables", "said"),
    [
        ("grpo", {"reward": {"verifier": 0.0}}, "all weights in `[reward]` are 0"),
        ("gad", {"reward": {"discriminator": 0.0}}, "`gad` without a discriminator is `grpo`"),
        ("grpo", {"reward": {"preference": 1.0}}, "raise `feedback.preferences`"),
        ("rubric", {"reward": {"rubric": 0.0}}, "all weights in `[reward]` are 0"),
        ("rubric", {"reward": {"rubric": 0.0, "verifier": 1.0}}, "`rubric` without a rubric is `grpo`"),
        ("coach", {"train": {"group_size": 1}}, "set `train.group_size` to 2 or more"),
        ("grpo", {"train": {"group_size": 1}}, "set `train.group_size` to 2 or more"),
    ],
)
def test_rewards_that_cannot_be_are_refused(recipe: str, tables: Mapping[str, object], said: str):
    with pytest.raises(ConfigError, match=re.escape(said)):
        config(recipe=recipe, tables=tables)


def test_a_prompt_comes_once_in_a_step_that_samples():
    policy = stages_of(config(prompts_per_step=4), prompts=5)[-1]
    taken = step_prompts(policy, (), step=1, stage_step=1, seed=0)
    assert 3 <= len(taken) == len(set(taken)) <= 4


def test_prompts_that_score_alike_are_replaced_by_others():
    (policy,) = stages_of(config(recipe="grpo"), prompts=6)
    taken = ["0", "1", "2", "3"]
    more = refill_prompts(policy, taken, 1, step=5, turn=1, seed=0)
    assert len(more) == 1
    assert not set(more) & set(taken)
    assert more == refill_prompts(policy, taken, 1, step=5, turn=1, seed=0)
    assert set(refill_prompts(policy, taken, 9, step=5, turn=1, seed=0)) == {"4", "5"}


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
    scores = [[0.0, 0.0, 9.0], [0.0, 5.0, 1.0]]
    assert choose_pairs(rollouts, verdicts, scores, 2) == [(1, 0, 2), (1, 1, 2)]
    assert set(choose_pairs(rollouts, verdicts, scores, 9)) == {(1, 0, 1), (1, 0, 2), (1, 1, 2), (0, 0, 2)}


def test_the_judge_is_asked_where_the_discriminator_is_unsure_and_audits_it_where_it_is_sure():
    rollouts = [[rollout(name, i, f"{name}{i}") for i in range(4)] for name in "ab"]
    verdicts = [[NOTHING] * 4, [NOTHING] * 4]
    scores = [[0.0, 0.1, 1.0, 9.0], [0.0, 0.2, 1.0, 7.0]]
    asked = choose_pairs(rollouts, verdicts, scores, 4)
    assert asked[:3] == [(0, 0, 1), (1, 0, 1), (1, 1, 2)]  # the smallest gap of each prompt, then of the second ones
    assert asked[3] == (0, 0, 3)  # a gap of 9.0: surest of all


def test_the_worst_are_corrected_first_by_the_verifier_then_by_the_discriminator():
    rollouts = [[rollout("a", 0, "x"), rollout("a", 1, "y")], [rollout("b", 0, "u"), rollout("b", 1, "v")]]
    verdicts = [[verdict(0.8), verdict(0.2)], [verdict(1.0), verdict(1.0)]]
    scores = [[9.0, 9.0], [3.0, -3.0]]
    assert choose_corrections(rollouts, verdicts, scores, 3) == [(0, 1), (0, 0), (1, 1)]


def test_the_discriminator_learns_teacher_preferred_and_corrected_over_the_rest_each_once():
    rollouts = [[rollout("a", 0, "x"), rollout("a", 1, "y"), rollout("a", 2, "y"), rollout("a", 3, "T")]]
    taught = {"a": Demonstration(prompt=prompt("a"), completion="T", source="t")}
    preferred = Preference(prompt=prompt("a"), chosen="x", rejected="y", strength=1.0, source="t")
    mended = [
        Correction(rollout=rollouts[0][1], text=text, reason="", accepted_by="verifier")
        for text in ("z", "T")  # the second one is the teacher's own answer again
    ]
    pairs = ranked_pairs(rollouts, taught, [preferred], mended)
    assert [(pair.chosen, pair.rejected, pair.source, pair.weight) for pair in pairs] == [
        ("T", "x", "teacher", 1),
        ("T", "y", "teacher", 2),  # drawn twice
        ("x", "y", "preference", 1),
        ("z", "y", "correction", 1),
    ]


def test_a_correction_that_the_student_could_not_say_is_refused():
    found = [
        Correction(rollout=rollout("a", 0, "x"), text=text, reason="", accepted_by=by)
        for text, by in (("yes", "verifier"), ("much too long", "preference"), ("much too long", None))
    ]
    kept = within(found, lambda _, text: len(text) < 9)
    assert [(each.accepted_by, each.refused) for each in kept] == [
        ("verifier", ""),
        (None, "longer than `student.max_new_tokens`"),
        (None, ""),
    ]


def test_credit_of_a_correction_goes_to_what_is_worse_than_its_group():
    rollouts = [[rollout("a", 0, "abcX"), rollout("a", 1, "aYZX")]]
    rewards = Rewards(values_P_G=((0.75, 0.25),), advantages_P_G=((0.25, -0.25),))
    mended = tuple(Correction(rollout=r, text="abcd", reason="", accepted_by="verifier") for r in rollouts[0])
    credit = ByCorrection(lambda r, spans: (float(len(spans)),))(rollouts, rewards, Feedback(corrections=mended))
    assert credit.magnitudes == {(0, 1): (1.0,)}


def test_batches():
    rollouts = [[rollout("a", 0, "x"), rollout("a", 1, "y")]]
    rewards = Rewards(values_P_G=((1.0, 3.0),), advantages_P_G=((-1.0, 1.0),), discriminator_version=0)
    warmup, _, policy = stages_of(config())
    assert policy_batch(rollouts, rewards, {}, warmup) == []
    credited = policy_batch(rollouts, rewards, {(0, 1): (2.0,)}, policy)
    assert [(example.advantage, example.magnitude) for example in credited] == [(-1.0, None), (1.0, (2.0,))]
    level = Rewards(values_P_G=((1.0, 1.0),), advantages_P_G=((0.0, 0.0),))
    assert policy_batch(rollouts, level, {}, policy) == []
    taught = {"a": Demonstration(prompt=prompt("a"), completion="T", source="t")}
    mended = Correction(rollout=rollouts[0][1], text="z", reason="", accepted_by="verifier")
    gather, preferring = stages_of(config(recipe="isft"))[0], stages_of(config(recipe="dpo"))[-1]
    lessons = as_lessons(taught.values())
    assert [e.text for e in sft_batch([prompt("a"), prompt("unasked")], lessons, [mended], policy)] == ["T", "z"]
    assert sft_batch([prompt("a")], lessons, [mended], gather) == []
    assert {e.weight for e in sft_batch([prompt("a")], lessons, [], replace(policy, sft_weight=0.3))} == {0.3}
    assert sft_batch([prompt("a")], lessons, [mended], replace(policy, sft_weight=0.0)) == []
    pair = RankedPair(prompt=prompt("a"), chosen="T", rejected="x", source="teacher", weight=0.5)
    assert preference_batch([pair], rollouts, preferring) == [pair]
    assert preference_batch([pair], rollouts, policy) == []
    cut = [[replace(rollouts[0][0], stop_reason="length"), rollouts[0][1]]]
    assert preference_batch([pair], cut, preferring) == []
    assert preference_batch([replace(pair, rejected="y")], cut, preferring) != []


def test_a_server_that_scores_its_own_answers_needs_some():
    own = config(recipe="kd", tables={"distill": {"scores": "own"}})
    assert [stage.ids for stage in stages_of(own, prompts=3, given=("0", "2"))] == [("0", "1", "2")]
    with pytest.raises(ConfigError, match="all answers come with the data"):
        stages_of(own, prompts=2, given=("0", "1"))
    unasked = config(recipe="kd", tables={"distill": {"scores": "own"}}, feedback={"demonstrations": False})
    with pytest.raises(ConfigError, match=r"set `feedback\.demonstrations = true`"):
        stages_of(unasked, prompts=3, given=("0",))


def test_what_a_correction_changes_in_a_draft():
    draft = '{"number": 12, "name": "A B"}'
    assert [draft[a:b] for a, b in edited(draft, '{"number": 13, "name": "A B"}')] == ["12"]
    assert [draft[a:b] for a, b in edited(draft, '{"number": 12, "name": "A"}')] == [" B"]
    assert [draft[a:b] for a, b in edited(draft, '{"number": 12, "name": "A and B"}')] == ["B"]  # put in before it
    assert edited("a", "a b") == [(1, 2)]  # the end of the turn came too early
    assert edited(draft, draft) == []


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
    assert [stage.name for stage in none] == ["policy"]
    assert len(none[0].ids) == 10
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
