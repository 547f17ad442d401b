"""`rubric` and `coach`, for teachers that only speak: each runs, goes on where it stopped, and replays."""

import json
from pathlib import Path
from typing import Any

import pytest
from rule_teacher import ADVICE, RUBRIC, RuleTeacher, rule_teacher
from test_recipes import recipe, rows_of, run_stopped_and_replayed, with_completions
from test_run import metrics_of

import bbdistill
from bbdistill.metrics import Note


def spoken(folder: Path, teacher: RuleTeacher, student: Path, name: str, **train: Any) -> Path:
    """A task of this recipe that asks for nothing else; it is warmed up on every second prompt."""
    config = recipe(folder, teacher, student, name, **{"steps": 3, "group_size": 3} | train)
    config.write_text(config.read_text().replace("preferences = 2\ncorrections = 2", ""))
    with_completions(config)
    return config


def test_rubric_marks_teacher_and_student_together_and_rewards_the_share_of_the_points(
    tiny_student: Path, tmp_path: Path
):
    with rule_teacher() as teacher:
        config = spoken(tmp_path, teacher, tiny_student, "rubric", warmup_max=10, validate_every=10)
        found = run_stopped_and_replayed(config, tmp_path, "rubric.answers=2", after=12).report
        asked = [json.loads(body)["messages"] for body in teacher.asked]
    rows = [row for row in metrics_of(tmp_path / "whole") if row["stage"] == "policy"]
    groups = rows_of(tmp_path / "whole", "rubrics")
    assert len(rows) == 3
    assert 0 < len(groups) <= 3 * 2
    assert {row["rubric/criteria"] for row in rows} == {4.0}
    assert [row["rubric/teacher_score"] for row in rows] == pytest.approx([8 / 9] * 3)  # all but the six characters
    for row in groups:
        assert [each["points"] for each in row["criteria"]] == [points for points, _ in RUBRIC.values()]
        assert [each["author"] for each in row["answers"]] == ["teacher"] * 2 + ["student"] * 3
        for each in row["answers"]:
            points = [points for (points, _), mark in zip(RUBRIC.values(), each["marks"], strict=True) if mark["met"]]
            assert each["score"] == pytest.approx(sum(points) / 9)
    scores = [each["score"] for row in groups for each in row["answers"] if each["author"] == "student"]
    assert len(set(scores)) > 1
    of_step = rows_of_step(tmp_path / "whole", rows[0]["step"])
    assert rows[0]["rubric/student_score"] == pytest.approx(
        sum(each["score"] for row in of_step for each in row["answers"][2:]) / (3 * len(of_step))
    )
    # The judge is not told whose answers they are, and sees them in an order of their own.
    judged = [messages[-1]["content"] for messages in asked if "You mark answers" in messages[0]["content"]]
    assert len(judged) >= len(groups)
    assert not [text for text in judged if "reference" in text or "draft" in text or "teacher" in text]
    purposes = found["teacher"]["by_purpose"]
    assert purposes["rubric"]["calls"] == 2 * len(groups)
    assert purposes["rubric"]["abstained"] == 0


@pytest.mark.parametrize("name", ["rubric", "gad", "dpo"])
def test_without_a_verifier_the_newest_student_is_kept(name: str, tiny_student: Path, tmp_path: Path):
    """Rewards lead away from the demonstrations: by its NLL of these the student before them would be the best."""
    notes: list[str] = []
    with rule_teacher() as teacher:
        config = spoken(tmp_path, teacher, tiny_student, name, warmup_max=10, validate_every=10, steps=4)
        config.write_text(config.read_text().replace('verifier = ["json_schema:number.schema.json", "fields"]', ""))
        rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
        unknown = [{name: value for name, value in row.items() if name != "reference"} for row in rows]
        (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, unknown)))
        found = bbdistill.run(
            config,
            out=tmp_path / "run",
            overrides=("train.policy_learning_rate=0.01", "discriminator.warmup_steps=0"),
            on_event=lambda event: notes.append(event.text) if isinstance(event, Note) else None,
        ).report
    assert (found["train"]["sft_step"], found["train"]["best_step"], found["train"]["steps"]) == (10, 14, 14)
    assert [step for step, _ in found["train"]["validations"]] == [10]
    assert found["train"]["validation_score"] is None
    assert f"{'dpo' if name == 'dpo' else 'policy'} step 4: nothing to judge it by: the newest counts" in notes
    assert found["eval"]["student"]["nll"] != found["eval"]["sft"]["nll"]


def rows_of_step(run: Path, step: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "rubrics" / f"step_{step:06d}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("which", ["vague", "silent"])
def test_a_rubric_or_marks_that_cannot_be_read_are_counted_and_reward_nothing(
    which: str, tiny_student: Path, tmp_path: Path
):
    with rule_teacher() as teacher:
        setattr(teacher, which, True)
        config = spoken(tmp_path, teacher, tiny_student, "rubric", warmup_max=2, steps=2)
        found = bbdistill.run(config, out=tmp_path / "run").report
    rows = [row for row in metrics_of(tmp_path / "run") if row["stage"] == "policy"]
    assert all(row["reward/std"] == 0 and row["reward/frac_zero_std"] == 1 for row in rows)
    assert all("policy/loss" not in row and "rubric/student_score" not in row for row in rows)
    line, reasons = found["teacher"]["by_purpose"]["rubric"], found["teacher"]["abstain_reasons"]
    if which == "vague":
        assert line["abstained"] == line["calls"] == reasons["unreadable criteria"] > 0
        assert not (tmp_path / "run" / "rubrics").exists()
    else:
        assert 2 * line["abstained"] == line["calls"] == 2 * reasons["unreadable marks"] > 0
        assert {each["score"] for row in rows_of(tmp_path / "run", "rubrics") for each in row["answers"]} == {None}


@pytest.mark.parametrize(
    ("whose", "temperature", "more"),
    [("base", 0.7, ()), ("ema", 1.3, ("reward.rubric=1.0", "rubric.answers=1"))],
)
def test_coach_weighs_the_tokens_of_what_failed_by_what_the_advice_changes(
    whose: str, temperature: float, more: tuple[str, ...], tiny_student: Path, tmp_path: Path
):
    with rule_teacher() as teacher:
        config = spoken(tmp_path, teacher, tiny_student, "coach", warmup_max=30, validate_every=30, group_size=4)
        own = (f'coach.self="{whose}"', "coach.rollouts=3", "policy.refills=1", f"student.temperature={temperature}")
        found = run_stopped_and_replayed(config, tmp_path, *own, *more, after=31).report
    rows = [row for row in metrics_of(tmp_path / "whole") if row["stage"] == "policy"]
    coachings = rows_of(tmp_path / "whole", "coachings")
    assert {row["advice"] for row in coachings} == {ADVICE}
    assert found["teacher"]["by_purpose"]["coaching"]["calls"] == len(coachings) > 0
    assert any("reward/share_rubric" in row for row in rows) == bool(more)
    coached = [row for row in rows if "coach/rollouts" in row]
    assert coached
    for row in coached:
        assert 0 < row["coach/rollouts"] <= 3 * 4  # three texts, some of them said more than once
        assert 0 <= row["coach/agreement"] <= 1
        assert 0 <= row["coach/clip_fraction"] <= 1
        assert {"coach/raised_good", "coach/raised_bad"} & set(row)
    # The advice is held against what is said after it, and survives the stop.
    assert "coach/leak" not in rows[0]
    assert rows[-1]["coach/leak"] == 0
    facts = json.loads(max((tmp_path / "parts" / "checkpoints").glob("*/facts.json")).read_text())
    assert facts["state"]["advice"] == [ADVICE]
