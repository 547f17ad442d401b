"""The supervised recipes from config to report: each runs, goes on where it stopped, and replays."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rule_teacher import RuleTeacher, rule_teacher, write_task
from test_run import metrics_of, same_adapter

import bbdistill
import bbdistill.runner
from bbdistill.metrics import StepDone
from bbdistill.report import summary_lines


def rows_of(run: Path, kind: str) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(run.glob(f"{kind}/*.jsonl")) for line in file.read_text().splitlines()]


def recipe(folder: Path, teacher: RuleTeacher, student: Path, name: str, **train: Any) -> Path:
    """A task of this recipe: two rounds of one gathering step and two updates each, if nothing else is said."""
    config = write_task(folder, teacher, student, prompts=14, checkpoint_every=1, rounds=2, learning_rate=0.01, **train)
    config.write_text(config.read_text().replace('recipe = "gad"', f'recipe = "{name}"'))
    return config


def with_completions(config: Path) -> None:
    """Every second training prompt comes with an answer in the right form."""
    file = config.parent / "train.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    shown = [row | ({"completion": json.dumps({"number": i})} if i % 2 else {}) for i, row in enumerate(rows)]
    file.write_text("\n".join(map(json.dumps, shown)))


def run_stopped_and_replayed(config: Path, folder: Path, *overrides: str, after: int = 3) -> bbdistill.RunResult:
    """Runs a config; then stops another run of it after some steps, goes on, and replays the first one twice."""
    whole = bbdistill.run(config, out=folder / "whole", overrides=overrides)
    fresh = (*overrides, f'teacher.cache="{folder / "fresh.db"}"')

    def stop(event: object) -> None:
        if isinstance(event, StepDone) and event.step == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bbdistill.run(config, out=folder / "parts", overrides=fresh, on_event=stop)
    parts = bbdistill.run(config, out=folder / "parts", overrides=fresh, resume=True)
    store = str(folder / "cache" / "teacher.db")
    replays = [bbdistill.run(config, out=folder / name, overrides=overrides, replay=store) for name in ("one", "two")]
    for other, result in zip(("parts", "one", "two"), (parts, *replays), strict=True):
        assert metrics_of(folder / other) == metrics_of(folder / "whole")
        assert same_adapter(folder / other, folder / "whole")
        for table in ("eval", "lessons"):
            assert result.report[table] == whole.report[table]
    assert all(result.report["teacher"]["cached"] == result.report["teacher"]["calls"] for result in replays)
    return whole


def test_isft_revises_until_the_verifier_passes_and_sets_aside_what_never_does(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        teacher.slips, teacher.hopeless = {2, 4}, {6}
        config = recipe(tmp_path, teacher, tiny_student, "isft")
        found = run_stopped_and_replayed(config, tmp_path).report
    rows = metrics_of(tmp_path / "whole")
    assert [row["stage"] for row in rows] == ["gather-1", "sft-1", "sft-1", "gather-2", "sft-2", "sft-2"]
    table = found["lessons"]
    assert table["drafted"] == table["passed"] + table["accepted"] + table["set_aside"] == 2 * 12
    assert table["accepted_after"] == {"1": 18, "2": 4}
    assert table["set_aside_because"] == {"the verifier still finds it wrong": 2}
    aside = rows_of(tmp_path / "whole", "set_aside")
    assert {row["prompt"][-1]["content"] for row in aside} == {"number 6"}
    assert [row["completion"][0]["content"] for row in aside] == ['{"number": -1}'] * 2  # -1, -2, -1: the third edit
    assert [row["feedback"] for row in aside] == ["`number` is wrong: the answer has -1; look at the text again."] * 2
    gathered = [row for row in rows if row["stage"].startswith("gather")]
    assert [row["gather/accepted"] for row in gathered] == [11, 11]
    assert all(row["gather/nll_correction"] > 0 and "optim/lr" not in row for row in gathered)
    assert found["train"]["sft_step"] == 0  # nothing came with the data: SFT-only is the base
    assert found["eval"]["sft"] == found["eval"]["base"]
    assert set(found["teacher"]["by_purpose"]) == {"corrections", "evaluation"}


def test_isft_learns_and_imitates_its_own_drafts_that_pass(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        config = recipe(tmp_path, teacher, tiny_student, "isft", steps=40, validate_every=20)
        bbdistill.run(config, out=tmp_path / "run", overrides=("student.temperature=0.2",))
    first, second = [row for row in metrics_of(tmp_path / "run") if row["stage"].startswith("gather")]
    assert first["gather/passed"] == 0 < second["gather/passed"]
    assert first["gather/kept_share"] < second["gather/kept_share"]
    assert second["gather/nll_correction"] < first["gather/nll_correction"] - 1
    drafts = [(row["id"], row["completion"]) for row in rows_of(tmp_path / "run", "rollouts")]
    imitated = [(row["id"], row["completion"]) for row in rows_of(tmp_path / "run", "lessons")]
    assert len(drafts) == len(imitated) == 24
    assert sum(lesson in drafts[12:] for lesson in imitated[12:]) == second["gather/passed"]


def test_completions_that_came_with_the_data_warm_the_student_up(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        config = recipe(tmp_path, teacher, tiny_student, "isft")
        with_completions(config)
        found = bbdistill.run(config, out=tmp_path / "run").report
    rows = metrics_of(tmp_path / "run")
    assert [row["stage"] for row in rows[:3]] == ["warmup", "warmup", "gather-1"]
    assert found["data"]["demonstrations"] == found["data"]["demonstrations_used"] > 0
    assert found["train"]["sft_step"] == 2
    assert set(found["teacher"]["by_purpose"]) == {"corrections", "evaluation"}


def test_the_feedback_never_holds_the_expected_value_that_is_withheld(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        teacher.slips = set(range(14))
        config = recipe(tmp_path, teacher, tiny_student, "isft")
        bbdistill.run(config, out=tmp_path / "run")
    asked = [json.loads(body)["messages"][-1]["content"] for body in teacher.asked]
    told = [re.findall(r"number (\d+)\n.*<checker>\n(.*)\n</checker>", text, re.DOTALL) for text in asked]
    pairs = [pair[0] for pair in told if pair]
    assert len([1 for _, said in pairs if "`number` is wrong: the answer has -1" in said]) > 2
    assert not [pair for pair in pairs if re.search(rf"\b{pair[0]}\b", pair[1])]


def test_best_of_n_keeps_the_likeliest_right_answer_of_the_teacher(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        teacher.varied = True
        config = recipe(tmp_path, teacher, tiny_student, "best_of_n", group_size=4)
        found = run_stopped_and_replayed(config, tmp_path).report["lessons"]
    # Right with and without a space, no JSON, and a wrong number, which passes where there is no reference.
    kept = [row["completion"][0]["content"] for row in rows_of(tmp_path / "whole", "lessons")]
    assert len(kept) == found["with_survivor"] == 2 * 12
    assert found["candidates"] == 2 * 12 * 4
    assert 2 * 12 * 2 < found["survivors"] < 2 * 12 * 3
    assert found["without_survivor"] == 0


def test_best_of_n_of_the_student_needs_no_teacher_and_counts_prompts_without_a_survivor(
    tiny_student: Path, tmp_path: Path
):
    with rule_teacher() as teacher:
        config = recipe(tmp_path, teacher, tiny_student, "best_of_n", group_size=4, warmup_max=30, validate_every=30)
        with_completions(config)
        own = ('feedback.candidates_from="student"', "student.temperature=0.5")
        found = run_stopped_and_replayed(config, tmp_path, *own, after=32).report
    assert found["lessons"]["with_survivor"] > 3
    assert found["lessons"]["candidates"] == 2 * 12 * 4
    assert found["lessons"]["without_survivor"] + found["lessons"]["with_survivor"] == 2 * 12
    assert set(found["teacher"]["by_purpose"]) == {"evaluation"}


def test_rgt_shows_each_correction_twice_and_answers_behind_empty_tags(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        config = recipe(tmp_path, teacher, tiny_student, "rgt")
        result = run_stopped_and_replayed(config, tmp_path)
    found = result.report
    shown = rows_of(tmp_path / "whole", "lessons")
    assert found["lessons"]["strategies"] == found["lessons"]["accepted"] == 24
    assert [row["strategy"] for row in shown] == ["", "Copy the number."] * 24
    assert found["run"]["answers_behind"] == "[THINK] [/THINK]\n"
    assert json.loads((result.adapter / "base.json").read_text())["tags"] is True
    assert "empty strategy tags" in (result.adapter / "README.md").read_text()
    again = bbdistill.runner.evaluate_run(result.directory)
    assert again["student"] == found["eval"]["student"] | {"nll": None}


def test_process_weighs_only_what_was_wrong(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        config = recipe(tmp_path, teacher, tiny_student, "process", steps=30, validate_every=15)
        found = bbdistill.run(config, out=tmp_path / "run").report["lessons"]
    assert found["accepted"] > 12
    shown = [(row["completion"][0]["content"], row["region"]) for row in rows_of(tmp_path / "run", "lessons")]
    assert {text[: region[0]] for text, region in shown if region} >= {"", '{"number": '}


@pytest.mark.parametrize("credit", ["false", "true"])
def test_process_goes_on_and_replays(credit: str, tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        config = recipe(tmp_path, teacher, tiny_student, "process")
        run_stopped_and_replayed(
            config, tmp_path, f"policy.token_credit={credit}", "student.max_new_tokens=24", after=2
        )
    blamed = ["policy/loss" in row for row in metrics_of(tmp_path / "whole")]
    assert blamed == [credit == "true" and number not in (0, 3) for number in range(6)]  # 0 and 3 gather


def test_a_run_that_found_nothing_to_imitate_says_that_the_student_is_unchanged(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        teacher.hopeless = set(range(14))
        config = recipe(tmp_path, teacher, tiny_student, "isft")
        (tmp_path / "train.jsonl").write_text(
            "\n".join(json.dumps({"prompt": f"number {i}", "reference": {"number": i}}) for i in range(14))
        )
        result = bbdistill.run(config, out=tmp_path / "run")
    assert result.report["lessons"]["set_aside"] == 24
    assert result.report["train"]["tokens"] == 0
    assert "**The student is unchanged:**" in (result.directory / "report.md").read_text()
    assert "the student is unchanged" in summary_lines(result.report)[0]


def test_an_answer_longer_than_the_student_can_hold_is_left_out_of_its_nll(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        teacher.long = {100}
        config = recipe(tmp_path, teacher, tiny_student, "isft")
        found = bbdistill.run(config, out=tmp_path / "run").report
    assert found["eval"]["teacher"]["n"] == 6
    assert 0 < found["eval"]["student"]["nll"] < 20
