"""What each recipe would take: hours by hand from the seconds per token, dollars as `estimate` has them."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from bbdistill.advisor.costs import RANKED, READ, STRATEGY_TOKENS, costs, hours
from bbdistill.advisor.decide import RECIPES
from bbdistill.advisor.findings import Figure, Findings
from bbdistill.config import RunConfig
from bbdistill.configfile import load_config
from bbdistill.errors import RunStopped
from bbdistill.estimate import estimate_task
from bbdistill.task import Task, load_task

DRAFT, ANSWER = 100, 10
"""Tokens."""
FOUND = Findings(
    prompts=10,
    given=0,
    has_verifier=False,
    student_tokens=Figure(value=DRAFT, n=96),
    answer_tokens=Figure(value=ANSWER, n=24),
    sample_s=Figure(value=0.0, n=96),
    train_s=Figure(value=0.0, n=96),
)
SMALL = (
    "train.steps=6",
    "train.prompts_per_step=2",
    "train.group_size=3",
    "train.validate_every=4",
    "train.validate_policy_every=3",
    "train.warmup_max=4",
    "train.rounds=2",
    "discriminator.warmup_steps=2",
    "feedback.corrections=4",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Ten prompts to train on, two to validate on and five to test on."""
    for name, count in (("train", 10), ("validation", 2), ("test", 5)):
        rows = [json.dumps({"prompt": f"{name} {i}", "reference": i}) for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    (tmp_path / "task.toml").write_text(
        'recipe = "sft"\n[student]\nmodel = "any"\nmax_new_tokens = 200\n'
        '[teacher]\nmodel = "openai:rules"\nbase_url = "http://127.0.0.1:9/v1"\ncache = "store.db"\n'
        "input_usd_per_mtok = 1.0\noutput_usd_per_mtok = 10.0\n"
        '[task]\nprompts = "train.jsonl"\nvalidation = "validation.jsonl"\ntest = "test.jsonl"\n'
    )
    return tmp_path / "task.toml"


def loaded(path: Path, *overrides: str) -> tuple[RunConfig, Task]:
    config = load_config(path, (*SMALL, *overrides))
    return config, load_task(config)


def tokens(path: Path, *overrides: str) -> tuple[float, float]:
    """(drawn, trained on): what hours come to where a token of one kind takes a second, and of the other none."""
    run = loaded(path, *overrides)
    second = Figure(value=1.0, n=96)
    drawn, trained = hours(*run, replace(FOUND, sample_s=second)), hours(*run, replace(FOUND, train_s=second))
    assert drawn is not None
    assert trained is not None
    return round(drawn * 3600, 6), round(trained * 3600, 6)


def test_imitation_takes_its_answers_and_its_validations(path: Path) -> None:
    # 2 validations of 2 prompts; at the end 5 test prompts, three times: 19 answers of 100 tokens.
    # 6 steps of 2 answers of 10 tokens; the teacher's 5 at the end are read three times.
    assert tokens(path) == (1900, 120 + READ * 150)
    assert READ == 0.35


def test_rewards_take_rollouts_and_a_discriminator(path: Path) -> None:
    # A warm-up of 4 steps with 1 validation, 2 discriminator steps without, 6 policy steps with 2. Those with rollouts
    # draw 2 x 3 of 100 tokens: 4800, and 3 x 2 answers to validate, and 15 at the end.
    # Trained on: 10 steps of 2 demonstrations and 6 of 4 corrections of 10 tokens, and 6 of 6 rollouts.
    assert tokens(path, "recipe=gad") == (6900, 200 + 240 + 3600 + (READ + RANKED) * 4800 + READ * 150)
    assert RANKED == 0.8


def test_a_rubric_takes_rollouts_and_advice_is_read_twice(path: Path) -> None:
    # As `gad` without a discriminator, and nothing imitated or corrected after the warm-up of 4 steps of 2; `coach` has
    # none of these, and reads 5 rollouts twice in each of 6 steps.
    fewer = ("feedback.corrections=0", "train.sft_weight=0")
    assert tokens(path, "recipe=rubric", *fewer) == (3600 + 600 + 1500, 80 + 3600 + READ * 150)
    found = tokens(path, "recipe=coach", "coach.rollouts=5", *fewer)
    assert found == (3600 + 400 + 1000, 3600 + READ * (2 * 6 * 500 + 100))


def test_rounds_take_a_draft_of_each_prompt_and_read_what_becomes_of_it(path: Path) -> None:
    # Each of 2 rounds: 10 drafts, 10 drafts and their corrections read, 6 steps of 2 corrections, 2 validations of 2.
    # There are no demonstrations: only the base and the student answer at the end.
    assert tokens(path, "recipe=isft") == (2 * 1400 + 1000, 2 * (READ * 1100 + 120) + READ * 100)
    assert tokens(path, "recipe=process") == tokens(path, "recipe=isft") == (3800, 1045)
    assert tokens(path, "recipe=isft", "train.prompts_per_round=4") == (2600, 583)
    # With them: 4 steps of 2, 1 validation of 2, and what they came to answers the test prompts as well.
    assert tokens(path, "recipe=isft", "feedback.demonstrations=true") == (3800 + 700, 1045 + 80 + READ * 50)


def test_a_strategy_is_imitated_beside_the_answer(path: Path) -> None:
    # As `isft`, and in 2 rounds of 6 steps of 2 the answer once more, behind its strategy.
    assert tokens(path, "recipe=rgt") == (3800, 1045 + 24 * (10 + STRATEGY_TOKENS))
    assert STRATEGY_TOKENS == 40


def test_candidates_are_read_and_only_the_students_own_are_drawn(path: Path) -> None:
    # Each of 2 rounds: 3 candidates to 10 prompts read, 6 steps of 2 of them imitated, 2 validations of 2.
    assert tokens(path, "recipe=best_of_n") == (2 * 400 + 1000, 2 * (READ * 300 + 120) + READ * 100)
    own = tokens(path, "recipe=best_of_n", 'feedback.candidates_from="student"')
    assert own == (2 * 3400 + 1000, 2 * (READ * 3000 + 1200) + READ * 100)


def test_without_a_measured_student_there_are_no_hours(path: Path) -> None:
    run = loaded(path)
    assert hours(*run, replace(FOUND, student_tokens=Figure(why="torch not installed"))) is None
    # Where there is no answer to imitate, they are taken to be as long as the student's.
    second = Figure(value=1.0, n=96)
    found = hours(*run, replace(FOUND, answer_tokens=Figure(why="there are no answers"), train_s=second))
    assert found == pytest.approx(1725 / 3600)


def test_dollars_are_those_of_an_estimate_and_a_recipe_that_does_not_fit_says_why(path: Path) -> None:
    task = load_task(load_config(path))
    wanted = dict.fromkeys(RECIPES, ()) | {"best_of_n": ('feedback.candidates_from="student"',)}
    found = {cost.recipe: cost for cost in costs(path, SMALL, task, FOUND, wanted, threading.Event())}
    for recipe in RECIPES:
        assert found[recipe].usd == estimate_task(*loaded(path, f"recipe={recipe}", *wanted[recipe])).usd
    most = {name: cost.usd[1] for name, cost in found.items() if cost.usd is not None}
    # A strategy more than three edits (`revisions`), these more than an answer; own candidates cost 5 at the end alone.
    assert most["rgt"] > most["isft"] > most["sft"] > most["best_of_n"] > 0
    cold = {"best_of_n": ('feedback.candidates_from="teacher"', "teacher.temperature=0")}
    (alike,) = costs(path, SMALL, task, FOUND, cold, threading.Event())
    assert (alike.usd, alike.hours) == (None, None)
    assert alike.why.endswith(": `teacher.temperature = 0` makes all candidates alike; raise it, or leave it out")


def test_a_stop_is_heard_between_two_recipes(path: Path) -> None:
    stop = threading.Event()
    priced = costs(path, SMALL, load_task(load_config(path)), FOUND, dict.fromkeys(RECIPES, ()), stop)
    next(priced)
    stop.set()
    with pytest.raises(RunStopped):
        next(priced)
