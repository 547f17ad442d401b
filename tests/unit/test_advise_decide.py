"""The rule: hand-made findings in, one recommendation and its reason out; and the formulas, against numbers by hand."""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest

from bbdistill.advisor.decide import (
    ENOUGH_ANSWERS,
    FEWEST_ANSWERS,
    GOOD_ANSWERS,
    LONG_ANSWERS,
    RECIPES,
    Advice,
    decide,
)
from bbdistill.advisor.findings import Figure, Findings, bits_of, marks, mean, pass_at_k, passing_bits, wilson
from bbdistill.advisor.page import WIDTH, render
from bbdistill.advisor.trust import trust_in
from bbdistill.types import Abstain, Verdict

UNUSABLE = Figure(why="HTTP 401: the key is wrong")


def share(value: float, n: int = 24) -> Figure:
    return Figure(value=value, n=n, why="")


def findings(**changed: Any) -> Findings:
    """300 prompts, nothing given, a verifier that catches everything, a silent teacher, a student that never passes."""
    found = Findings(
        prompts=300,
        given=0,
        has_verifier=True,
        teacher_answers=UNUSABLE,
        steady=share(1.0, 100),
        accepts_reference=share(1.0),
        rejects_empty=share(1.0),
        rejects_other=share(1.0),
        rejects_shuffled=share(1.0),
        rejects_truncated=share(1.0),
        feedback=share(0.9, 60),
        pass_at_1=share(0.0),
        bits=share(0.0),
        pass_bits=share(0.0),
        zero_variance=share(1.0),
        student_tokens=share(40.0),
    )
    return replace(found, **changed)


def passing(p: float) -> dict[str, Figure]:
    """A student that passes with probability p on every prompt."""
    return {
        "pass_at_1": share(p),
        "bits": share(bits_of(p)),
        "pass_bits": share(passing_bits(p)),
        "zero_variance": share(0.25),
    }


def teaching(p: float, replies: float = 1.0) -> dict[str, Figure]:
    return {"teacher_answers": share(replies), "teacher_pass": share(p)}


def advised(**changed: Any) -> Advice:
    return decide(findings(**changed))


def runner_up(advice: Advice) -> str | None:
    return advice.runner_up.recipe if advice.runner_up else None


def test_pass_at_k_is_unbiased() -> None:
    assert pass_at_k(4, 1, 1) == 0.25
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5)  # 1 - C(3,2)/C(4,2) = 1 - 3/6
    assert pass_at_k(10, 3, 5) == pytest.approx(1 - 21 / 252)  # C(7,5) = 21, C(10,5) = 252
    assert (pass_at_k(4, 0, 4), pass_at_k(4, 4, 1), pass_at_k(4, 1, 4)) == (0.0, 1.0, 1.0)
    # Over all outcomes of 5 draws at p = 0.3 its mean is the true 1 - 0.7^2.
    weights = [math.comb(5, c) * 0.3**c * 0.7 ** (5 - c) for c in range(6)]
    assert sum(w * pass_at_k(5, c, 2) for c, w in enumerate(weights)) == pytest.approx(1 - 0.7**2)


def test_the_bits_of_a_reward() -> None:
    assert (bits_of(0.0), bits_of(1.0), bits_of(0.5)) == (0.0, 0.0, 1.0)
    assert bits_of(0.25) == pytest.approx(0.8112781)  # 0.25 * 2 + 0.75 * log2(4/3)
    assert bits_of(0.3) == pytest.approx(0.8812909)
    assert passing_bits(0.25) == 0.5
    assert passing_bits(0.3) == pytest.approx(0.5210897)


def test_the_interval_of_a_rate() -> None:
    low, high = wilson(share(0.75, 24))
    assert (low, high) == (pytest.approx(0.5510, abs=1e-3), pytest.approx(0.8800, abs=1e-3))
    assert wilson(share(1.0, 10)) == (pytest.approx(0.7225, abs=1e-3), 1.0)
    assert wilson(Figure()) == (0.0, 1.0)


def test_abstentions_are_left_out_of_a_rate() -> None:
    right, wrong = Verdict(score=1, passed=True, feedback=""), Verdict(score=0.5, passed=False, feedback="no")
    found = marks([right, Abstain(reason="no reference"), wrong])
    assert (found.passed.value, found.passed.n, found.score.value) == (0.5, 2, 0.75)
    assert marks([Abstain(reason="no reference")]).passed == Figure(why="not judged: no reference")
    assert mean([], "nobody asked") == Figure(why="nobody asked")


@pytest.mark.parametrize(
    ("probes", "trust", "says"),
    [
        ({}, "trusted", "the verifier rejects 96 of 96 empty, misplaced or damaged answers"),
        (teaching(0.75), "trusted", "rejects 96 of 96 empty, misplaced or damaged answers, and accepts 18 of 24"),
        # A teacher that is always wrong is no fault of a verifier that has passed something else.
        (teaching(0.0), "trusted", "and accepts 0 of 24 answers of the teacher"),
        ({"has_verifier": False}, "none", "there is no verifier"),
        ({"steady": share(0.9, 100)}, "broken", "contradicts itself: asked twice, it changes 10 of 100 verdicts"),
        (
            {f"rejects_{name}": share(0.0) for name in ("empty", "other", "shuffled", "truncated")},
            "broken",
            "accepts everything: it passes 24 of 24 empty answers, 24 of 24 answers to another prompt",
        ),
        (
            {"accepts_reference": share(0.0), "given_pass": share(0.0, 9), **teaching(0.0)},
            "broken",
            "rejects everything: all 9 given demonstrations and 24 answers of the teacher, some of which should be",
        ),
        ({"rejects_empty": share(0.5)}, "weak", "passes 12 of 24 empty answers: it checks form, not content"),
        ({"rejects_other": share(0.0)}, "weak", "24 of 24 answers to another prompt: it checks form, not content"),
        ({"rejects_shuffled": share(0.25), "rejects_truncated": share(0.5)}, "weak", "18 of 24 shuffled answers"),
        ({"rejects_shuffled": share(0.0)}, "trusted", "rejects 72 of 96"),
        ({"rejects_other": Figure(why="no two answers differ")}, "weak", "not proven (no two answers differ)"),
        (
            {"accepts_reference": share(0.0, 2), "pass_at_1": share(0.0, 2)},
            "weak",
            "not proven: it has accepted nothing yet",
        ),
    ],
)
def test_how_far_a_verifier_is_trusted_and_which_probe_says_so(probes: Any, trust: str, says: str) -> None:
    found, sentence = trust_in(findings(**probes))
    assert found == trust
    assert says in sentence


def test_a_verifier_that_abstains_everywhere_is_none() -> None:
    silent = Figure(why="it abstains: no reference")
    probes = {f"rejects_{name}": silent for name in ("empty", "other", "shuffled", "truncated")}
    assert trust_in(findings(**probes)) == ("none", "the verifier judges nothing (it abstains: no reference)")


def test_good_demonstrations_are_imitated() -> None:
    advice = advised(given=200, given_pass=share(0.96), **teaching(0.3))
    assert advice.recommends == "sft"
    assert "200 demonstrations came with the data, and 96 % (23 of 24) of them pass" in advice.reason
    assert "every token" in advice.reason
    assert runner_up(advice) == "isft"


def test_a_teacher_that_passes_is_imitated_however_good_the_student_is() -> None:
    advice = advised(**teaching(0.75), **passing(0.9))
    assert (advice.recommends, runner_up(advice)) == ("sft", "isft")
    assert "the teacher's answers pass 75 % (18 of 24)" in advice.reason
    # 18 of 24 may be anything from 55 to 88 %: the other side of the threshold.
    assert "a larger --sample tells on which side of 70 %" in advice.changes[-1]


def test_without_a_verifier_answers_are_taken_as_they_are() -> None:
    advice = advised(has_verifier=False, teacher_answers=share(1.0))
    assert (advice.recommends, runner_up(advice)) == ("sft", "rubric")
    assert "no verifier says how well: read some of them" in advice.reason
    given = advised(has_verifier=False, given=40)
    assert (given.recommends, runner_up(given)) == ("sft", None)
    assert "no verifier to doubt them" in given.reason


def test_without_a_verifier_a_rubric_is_the_next_step() -> None:
    """What says nothing anywhere is as none; a check of form is something to keep a discriminator honest."""
    silent = Figure(why="it abstains: no reference")
    probes = {f"rejects_{name}": silent for name in ("empty", "other", "shuffled", "truncated")}
    for none in ({"has_verifier": False}, probes):
        advice = advised(**none, teacher_answers=share(1.0))
        assert (advice.recommends, runner_up(advice)) == ("sft", "rubric")
        assert advice.runner_up
        assert "where the discriminator of `gad` says how like the teacher's it is, which" in advice.runner_up.why
        assert "four answers to each prompt, and two calls each time a prompt comes up" in advice.runner_up.why
        assert runner_up(advised(**none, given=40, teacher_answers=share(0.5))) == "rubric"
        assert runner_up(advised(**none, given=40, teacher_answers=share(0.4))) is None
    assert "no verifier can judge, and imitation at its end: rewards by a rubric (`rubric`)" in advice.changes[-1]


def test_log_probs_make_more_of_the_same_answers() -> None:
    good: dict[str, Any] = teaching(0.75)
    advice = advised(**good, gives_log_probs=True)
    assert (advice.recommends, runner_up(advice)) == ("kd", "opd")
    assert advice.reason.startswith("the teacher's answers pass 75 % (18 of 24); the teacher gives log-probs: of every")
    assert advice.settings == ("feedback.demonstrations=true",)
    assert "demonstrations that come with the data, and are as good: `sft`" in advice.changes
    for silent in (None, False):  # what is not known is not taken to be so
        other = advised(**good, gives_log_probs=silent)
        assert (other.recommends, runner_up(other)) == ("sft", "isft")
        assert other.changes[1].startswith("log-probs with a teacher's answers (`local:PATH`, a server that scores")
    # As well where nobody judges the answers, or only their form.
    unjudged = advised(has_verifier=False, teacher_answers=share(1.0), gives_log_probs=True)
    assert (unjudged.recommends, runner_up(unjudged)) == ("kd", "opd")
    form = advised(rejects_other=share(0.5), **teaching(0.5), gives_log_probs=True)
    assert (form.recommends, runner_up(form)) == ("kd", "opd")
    assert "it checks form, not content; read some of the answers; the teacher gives log-probs" in form.reason


def test_distributions_are_followed_only_where_the_answers_are_good() -> None:
    given: dict[str, Any] = {"given": 200, "given_pass": share(0.96), "gives_log_probs": True}
    both = advised(**given, **teaching(0.75))
    assert (both.recommends, runner_up(both)) == ("sft", "kd")
    assert both.runner_up
    assert both.runner_up.settings == both.settings == ("feedback.demonstrations=true",)
    assert runner_up(advised(**given, **teaching(0.3))) == "isft"
    assert runner_up(advised(**given)) is None
    assert advised(**teaching(0.3), gives_log_probs=True).recommends == "isft"
    assert advised(**passing(0.3), gives_log_probs=True).recommends == "best_of_n"


def test_answers_that_a_check_of_form_lets_through_are_as_good_as_without_one() -> None:
    form: dict[str, Any] = {"rejects_other": share(0.5), "accepts_reference": share(1.0, 12)}
    advice = advised(**form, **teaching(0.5))
    assert (advice.recommends, runner_up(advice)) == ("sft", "gad")
    assert advice.reason.startswith(
        "the teacher's answers pass 50 % (12 of 24), though the verifier passes 12 of 24 answers to another prompt: it "
        "checks form, not content, and 12 of 24 prompts have no `reference`; read some of the answers; imitating them"
    )
    below = advised(**form, **teaching(11 / 24))
    assert below.recommends == "data problem"
    assert (
        "pass 46 % (11 of 24), which may be 28 % to 65 %: a larger --sample tells on which side of 50 %"
        in (below.changes[-1])
    )


def test_answers_that_are_cut_off_teach_nothing() -> None:
    advice = advised(**teaching(0.4), cut=share(0.75, 96))
    assert "75 % (72 of 96) of the rollouts are cut at `student.max_new_tokens`" in advice.changes[-1]
    assert "cut at" not in advised(**teaching(0.4), cut=share(0.1, 96)).changes[-1]


@pytest.mark.parametrize("prompts", [30, 300])
def test_corrections_are_the_next_step_after_few_good_demonstrations_as_after_many(prompts: int) -> None:
    advice = advised(prompts=prompts, given=30, given_pass=share(1.0), **teaching(0.5))
    assert (advice.recommends, runner_up(advice)) == ("sft", "isft")


def test_a_broken_verifier_comes_before_everything() -> None:
    wrong = {f"rejects_{name}": share(0.0) for name in ("empty", "other", "shuffled", "truncated")}
    advice = advised(given=200, given_pass=share(1.0), **wrong)
    assert advice.recommends == "fix the verifier"
    assert not advice.is_recipe
    assert "the verifier accepts everything" in advice.reason


def test_corrections_where_the_teacher_passes_too_seldom() -> None:
    advice = advised(**teaching(0.3), **passing(0.2))
    assert (advice.recommends, runner_up(advice)) == ("isft", "best_of_n")
    assert "the teacher passes 30 % (7 of 24): too few to imitate as they come, enough to correct" in advice.reason


def test_long_answers_are_corrected_from_where_they_go_wrong() -> None:
    assert runner_up(advised(**teaching(0.3), student_tokens=share(400.0))) == "process"


def test_corrections_where_the_student_never_passes_and_a_reward_is_silent() -> None:
    advice = advised(**teaching(0.04))
    assert (advice.recommends, advice.runner_up) == ("isft", None)
    assert "the student passes 0 % (over 24 prompts), where a reward carries 0.00 bits per rollout" in advice.reason
    # Always or never, prompt by prompt: a third passes, and no group tells anything.
    split = advised(**teaching(0.04), pass_at_1=share(0.33), bits=share(0.0), pass_bits=share(0.0))
    assert split.recommends == "isft"


def test_selection_where_only_the_student_passes() -> None:
    advice = advised(**teaching(0.0), **passing(0.3))
    assert (advice.recommends, runner_up(advice)) == ("best_of_n", "grpo")
    assert "uses 0.52 of the 0.88 bits" in advice.reason
    assert advice.settings == ('feedback.candidates_from="student"',)
    assert runner_up(advised(**passing(0.3))) == "grpo"  # it asks nobody either
    # A teacher that is no better than the student has nothing to correct it with.
    assert advised(**teaching(0.3), **passing(0.3)).recommends == "best_of_n"


def test_rewards_where_most_of_a_verdict_lies_in_the_failures() -> None:
    advice = advised(**passing(0.8))
    assert (advice.recommends, runner_up(advice)) == ("grpo", "best_of_n")
    assert "no teacher is asked: 0.72 bits per rollout (1 at most), none in the 25 % (6 of 24) groups" in advice.reason
    assert "long answers, and a teacher that sees them: blame where it belongs (`coach`)" in advice.changes[-1]


def test_advice_refines_rewards_where_it_is_known_what_is_wrong_or_worth_knowing_where() -> None:
    often: dict[str, Any] = {**teaching(0.0), **passing(0.8)}
    telling = advised(**often)
    assert (telling.recommends, runner_up(telling)) == ("grpo", "coach")
    assert telling.runner_up
    assert "the teacher says what kind of mistake an answer makes, never the right one" in telling.runner_up.why
    assert runner_up(advised(**often, feedback=share(0.4))) == "best_of_n"
    assert runner_up(advised(**often, feedback=share(0.4), student_tokens=share(LONG_ANSWERS))) == "coach"
    assert runner_up(advised(**often | teaching(0.0, replies=0.4))) == "best_of_n"  # nobody to ask


def test_what_a_recipe_needs_set_beside_its_name() -> None:
    """A run that asks a teacher for demonstrations of which it can keep none would fail."""
    assert advised(**teaching(0.0), **passing(0.8)).settings == ()  # `grpo` asks it for nothing
    assert advised(**teaching(0.2), **passing(0.8)).settings == ()
    good: dict[str, Any] = {"given": 200, "given_pass": share(1.0)}
    assert advised(**good, **teaching(0.2)).settings == ("feedback.demonstrations=true",)
    assert advised(**good, **teaching(0.0)).settings == ("feedback.demonstrations=false",)
    assert advised(**good).settings == ("feedback.demonstrations=false",)
    assert advised(**good | {"given": 300}, **teaching(0.0)).settings == ()  # there is nothing left to ask for
    assert advised(**teaching(0.9)).settings == ("feedback.demonstrations=true",)


def test_a_teacher_that_cannot_be_used_is_needed_at_the_end_of_a_run() -> None:
    at_its_end = "at its end a run has the teacher answer the test prompts"
    assert at_its_end in advised(given=200, given_pass=share(1.0)).reason
    assert at_its_end in advised(**passing(0.3)).reason
    assert at_its_end not in advised(**teaching(0.4)).reason


def test_a_handful_of_prompts_teaches_nothing() -> None:
    advice = advised(prompts=FEWEST_ANSWERS - 1, given=9, given_pass=share(1.0, 9), **teaching(1.0))
    assert advice.recommends == "data problem"
    assert advice.reason.startswith("there are 9 prompts to train on; collect first: prompts as your users write them")


def test_neither_answers_nor_a_verifier_is_a_problem_of_the_data() -> None:
    advice = advised(has_verifier=False)
    assert advice.recommends == "data problem"
    assert "no demonstrations came with the data, the teacher cannot be used (HTTP 401" in advice.reason
    assert "there is no verifier; collect first" in advice.reason
    assert advised(rejects_other=share(0.0), **teaching(0.4)).recommends == "data problem"
    assert advised(has_verifier=False, teacher_answers=share(0.2)).recommends == "data problem"
    assert advised(has_verifier=False, given=FEWEST_ANSWERS - 1).recommends == "data problem"


def test_a_verifier_alone_teaches_nothing_where_nobody_ever_passes() -> None:
    advice = advised()
    assert advice.recommends == "data problem"
    assert "the student passes 0 % (over 24 prompts)" in advice.reason


def test_without_a_student_the_rest_still_decides() -> None:
    absent = {name: Figure(why="torch not installed") for name in ("pass_at_1", "bits", "pass_bits", "student_tokens")}
    assert advised(**teaching(0.9), **absent).recommends == "sft"
    assert advised(**teaching(0.3), **absent).recommends == "isft"
    assert "the student was not measured (torch not installed)" in advised(**teaching(0.0), **absent).reason
    alone = advised(**absent)
    assert alone.recommends == "measure the student"
    assert "which was not measured (torch not installed)" in alone.reason


def test_every_advice_has_a_reason_and_another_runner_up() -> None:
    teachers: list[Any] = [{}, teaching(0.0), teaching(0.4), teaching(0.9)]
    yes, no = True, False
    cases = itertools.product(teachers, (0.0, 0.3, 0.8), (yes, no), (0, 5, 100), (yes, no, None))
    for teacher, p, verifier, given, scores in cases:
        advice = advised(**teacher, **passing(p), has_verifier=verifier, given=given, gives_log_probs=scores)
        assert advice.recommends in {*RECIPES, "data problem"}
        assert advice.recommends != runner_up(advice)
        assert advice.reason
        assert advice.changes


def test_the_rule_at_its_threshold() -> None:
    assert advised(**teaching(ENOUGH_ANSWERS)).recommends == "sft"
    assert advised(**teaching(ENOUGH_ANSWERS - 0.01)).recommends == "isft"
    # A teacher that passes no more often than the student has to be good by itself.
    as_good = passing(GOOD_ANSWERS)
    assert advised(**teaching(GOOD_ANSWERS), **as_good).recommends == "sft"
    assert advised(**teaching(GOOD_ANSWERS - 0.01), **as_good).recommends == "grpo"
    assert advised(**passing(0.02)).recommends == "data problem"  # 0.14 bits
    assert advised(**passing(0.03)).recommends == "best_of_n"  # 0.19 bits


def test_the_page_fits_a_terminal_and_has_every_figure() -> None:
    advice = advised(**teaching(0.4), **passing(0.3), nll=Figure(why="no room " * 20))
    text = render(advice)
    assert max(map(len, text.splitlines())) <= WIDTH == 79
    assert text.startswith("recommended: sft\n")
    assert "\n  teacher\n    usable replies                         1.00  n 24\n" in text
    assert "\n    answers that pass                      0.40  n 24\n" in text
    assert "its nats per token of that: not measured (no room no room" in " ".join(text.split())
    assert "\n  demonstrations: with 0 of the 300 prompts to train on\n    not measured (not measured)\n" in text
    assert set(advice.as_json()["findings"]) == set(Findings.__dataclass_fields__)
    assert advice.as_json()["findings"]["gives_log_probs"] is None


@pytest.mark.parametrize(("known", "says"), [(True, "yes"), (False, "no"), (None, "not known")])
def test_the_page_says_whether_a_teacher_gives_log_probs(known: bool | None, says: str) -> None:
    text = render(advised(**teaching(0.9), gives_log_probs=known))
    assert f"    {'log-probs of given texts':<36}{says:>7}\n" in text
