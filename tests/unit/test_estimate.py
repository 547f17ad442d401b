"""What a run will take, known before anything is asked, and held against what it then takes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rule_teacher import rule_teacher, write_task

from bbdistill.collect import collect
from bbdistill.config import Settings
from bbdistill.dryrun import dry_run
from bbdistill.errors import BudgetExceeded
from bbdistill.estimate import Estimate, Line, estimate

PRICED = ("teacher.input_usd_per_mtok=1.0", "teacher.output_usd_per_mtok=10.0")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Ten prompts, two of them answered, and three to test on; a teacher nobody reaches; no student."""
    lines: list[dict[str, Any]] = [{"prompt": f"number {i}"} for i in range(10)]
    for answered in lines[:2]:
        answered["completion"] = "1"
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (tmp_path / "test.jsonl").write_text("\n".join(json.dumps({"prompt": f"test {i}"}) for i in range(3)))
    file = tmp_path / "task.toml"
    file.write_text(
        """recipe = "gad"
        [teacher]
        model = "openai:rules"
        base_url = "http://127.0.0.1:9/v1"
        cache = "store.db"
        max_tokens = 100
        [task]
        prompts = "train.jsonl"
        test = "test.jsonl"
        """
    )
    return file


def line(found: Estimate, purpose: str) -> Line:
    return next(line for line in found.lines if line.purpose == purpose)


def test_without_a_student_only_demonstrations_and_evaluation(config: Path) -> None:
    found = estimate(config, overrides=PRICED)
    assert [line.purpose for line in found.lines] == ["demonstrations", "evaluation"]
    asked = line(found, "demonstrations")
    assert (asked.calls, asked.cached, asked.recorded) == ((8, 8), 0, 0)
    body = {"model": "rules", "messages": [{"role": "user", "content": "number 5"}], "max_tokens": 100}
    size = len(json.dumps(body, separators=(",", ":")).encode())
    assert asked.input_tokens == (8 * size / 4, 8 * size)
    assert asked.output_tokens == (8, 800)
    assert asked.usd == pytest.approx((8 * (size / 4 + 10) / 1e6, 8 * (size + 1000) / 1e6), rel=0.02)
    assert found.usd is not None
    assert found.usd[1] > asked.usd[1]


def test_an_unknown_price_is_said_and_is_not_nothing(config: Path) -> None:
    found = estimate(config)
    assert found.usd is None
    assert all(line.usd is None for line in found.lines)
    assert "no price is known for `openai:rules`" in found.text()[-1]


def test_a_run_asks_about_its_rollouts_too(config: Path) -> None:
    student = ('student.model="any"', "train.steps=3", "train.prompts_per_step=2", "train.group_size=2")
    feedback = (
        "feedback.preferences=5",
        "feedback.corrections=3",
        "train.warmup_max=2",
        "discriminator.warmup_steps=1",
    )
    found = estimate(config, overrides=(*PRICED, *student, *feedback))
    calls = {line.purpose: line.calls for line in found.lines}
    # 12 prompts are used in 6 steps of 2: all 8 of the training split, of which some came with an answer.
    assert calls["preferences"] == (0, 2 * 5 * 3)
    assert calls["corrections"] == (2 * 3, 3 * 3 * 3)
    assert calls["demonstrations"][0] == calls["demonstrations"][1] <= 8
    assert calls["evaluation"] == (3 + 2, 3 + 2)  # no verifier: the validation prompts are asked as well
    assert line(found, "preferences").input_tokens[0] == 0
    assert line(found, "preferences").input_tokens[1] > 30 * 2 * 512


def test_what_is_scored_is_what_the_stage_shows(config: Path) -> None:
    """Steps that show two prompts each, and none of them surely: an answer may be left out."""
    student = ('student.model="any"', "recipe=kd", "train.steps=2", "train.prompts_per_step=2", "train.warmup_max=0")
    found = estimate(config, overrides=(*PRICED, *student))
    assert line(found, "scores").calls == (0, 4)
    assert line(found, "scores").output_tokens == (0, 4)  # a token of reply each, however long the answer is
    after = estimate(config, overrides=(*PRICED, *student[:-1], "train.warmup_max=1"))
    assert line(after, "scores").calls == (0, 4)


def test_a_rubric_and_advice_are_asked_for_step_by_step(config: Path) -> None:
    student = ('student.model="any"', "student.max_new_tokens=64", "train.steps=3", "train.prompts_per_step=2")
    small = (*PRICED, *student, "train.group_size=4", "train.warmup_max=1")
    found = estimate(config, overrides=(*small, "recipe=rubric", "rubric.answers=3"))
    calls = {line.purpose: line.calls for line in found.lines}
    # 8 prompts: 2 to warm up on, of which none or some came with an answer, and 6 with 3 answers each.
    assert calls["demonstrations"][0] == calls["demonstrations"][1] in (18, 19, 20)
    assert calls["rubric"] == (0, 2 * 3 * 2)
    assert (calls["preferences"], calls["corrections"], "coaching" in calls) == ((0, 0), (0, 0), False)
    marks = line(found, "rubric")
    # At most 6 rubrics of 100 tokens, and 6 times 12 marks of 80 tokens for each of 3 + 4 answers.
    assert marks.output_tokens == (0, 6 * 100 + 6 * 12 * 80 * 7)
    assert marks.input_tokens[1] > 2 * 6 * 8 * (3 * 100 + 4 * 64)
    assert found.usd is not None
    advised = estimate(config, overrides=(*small, "recipe=coach", "coach.rollouts=5", "policy.refills=0"))
    calls = {line.purpose: line.calls for line in advised.lines}
    assert calls["coaching"] == (0, 3 * 5)
    assert (calls["demonstrations"], "rubric" in calls) == ((0, 0), False)
    more = estimate(config, overrides=(*small, "recipe=coach", "coach.rollouts=99", "policy.refills=1"))
    assert line(more, "coaching").calls == (0, 3 * 2 * 4 * 2)


def test_what_is_stored_costs_nothing_and_tells_the_lengths(tmp_path: Path) -> None:
    with rule_teacher() as teacher:
        config = write_task(tmp_path, teacher, Path("never-loaded"))
        before = estimate(config, overrides=PRICED)
        spent = collect(config, tmp_path / "out.jsonl", overrides=PRICED)["teacher"]
    after = estimate(config, overrides=PRICED)
    asked, evaluated = line(after, "demonstrations"), line(after, "evaluation")
    assert asked.calls == line(before, "demonstrations").calls
    assert asked.cached == asked.calls[0] > 0
    assert (asked.input_tokens, asked.output_tokens, asked.usd) == ((0, 0), (0, 0), (0.0, 0.0))
    assert (evaluated.cached, evaluated.recorded) == (0, 24)
    assert (evaluated.input_tokens, evaluated.output_tokens) == ((60, 60), (30, 30))  # 6 calls of 10 and 5 tokens
    assert evaluated.usd == pytest.approx((6 * 60e-6, 6 * 60e-6))
    assert spent["cost_usd"] == pytest.approx(24 * 60e-6)


def test_the_command_needs_no_key_no_torch_and_prints_json(config: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from bbdistill.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "estimate", str(config), "--json", "--set", PRICED[0], "--set", PRICED[1]],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["by_purpose"]["demonstrations"]["calls"] == [8, 8]
    assert said["usd"][0] < said["usd"][1]


def test_the_dry_run_shows_the_same_figures(config: Path) -> None:
    text = "\n".join(dry_run(config, Settings(overrides=PRICED)))
    assert "\n".join(estimate(config, overrides=PRICED).text()) in text


def test_a_cap_stops_cleanly_and_a_higher_one_goes_on_without_paying_twice(tmp_path: Path) -> None:
    with rule_teacher() as teacher:
        config = write_task(tmp_path, teacher, tmp_path)
        # Each of 24 calls costs 60 millionths of a dollar and may cost about two thousand: 0.0030 is enough for a few.
        capped = (*PRICED, "teacher.max_tokens=100", "teacher.concurrency=1", "teacher.max_usd_by.demonstrations=0.003")
        with pytest.raises(BudgetExceeded, match=r"max_usd_by\.demonstrations") as stopped:
            collect(config, tmp_path / "out.jsonl", overrides=capped)
        assert stopped.value.exit_code == 3
        first = sum(teacher.asked.values())
        assert 0 < first < 24
        done = collect(config, tmp_path / "out.jsonl", overrides=(*PRICED, "teacher.max_tokens=100"))
        assert done["demonstrations"] == 24
        assert done["teacher"]["cached"] == first
        assert set(teacher.asked.values()) == {1}
