"""The recipes with rewards or preferences from config to report: each runs, goes on where it stopped, and replays."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from rule_teacher import rule_teacher
from test_recipes import recipe, rows_of, run_stopped_and_replayed, with_completions
from test_run import metrics_of

import bbdistill
from bbdistill.errors import Collapse
from bbdistill.metrics import Alarm, Note


def plans(store: Path, name: str) -> list[dict[str, Any]]:
    """What the first run in the store decided under this name, step by step."""
    with bbdistill.open_recording(store) as recording:
        run = recording.runs()[0].id
        return [plan for step in range(40) if (plan := recording.plan(run, step, name)) is not None]


def test_gad_with_every_term_goes_on_and_replays(tiny_student: Path, tmp_path: Path):
    mix = (
        "reward={discriminator = 1.0, verifier = 0.5, preference = 0.5}",
        'policy={kl = "k1_reward", kl_coef = 0.01, updates = 2, token_credit = true, scale_rewards = "group"}',
        "discriminator.pool_fraction=0.5",
    )
    with rule_teacher() as teacher:
        config = recipe(tmp_path, teacher, tiny_student, "gad", steps=3, group_size=3)
        found = run_stopped_and_replayed(config, tmp_path, *mix, after=4).report
    rows = metrics_of(tmp_path / "whole")
    assert [row["stage"] for row in rows] == ["warmup"] * 2 + ["discriminator"] + ["policy"] * 3
    assert "optim/lr" not in rows[2]  # the discriminator learns alone
    assert "discriminator/pool_accuracy" not in rows[2]
    assert all("discriminator/pool_accuracy" in row and "tripwire/gap" in row for row in rows[3:])
    shares = [sum(value for name, value in row.items() if name.startswith("reward/share_")) for row in rows[3:]]
    assert shares == pytest.approx([1.0] * 3)
    assert found["train"]["sft_step"] == 2


def test_grpo_asks_nothing_of_the_teacher_and_replaces_prompts_that_score_alike(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        config = recipe(tmp_path, teacher, tiny_student, "grpo", steps=3, group_size=4, warmup_max=30)
        config.write_text(config.read_text().replace("preferences = 2\ncorrections = 2", ""))
        with_completions(config)
        own = ("student.temperature=0.7",)
        found = run_stopped_and_replayed(config, tmp_path, *own, after=31).report
    assert set(found["teacher"]["by_purpose"]) == {"evaluation"}
    chosen, *refills = (plans(tmp_path / "cache" / "teacher.db", name) for name in ("prompts", "refill-1", "refill-2"))
    assert [len(refill) for refill in refills] == [3, 3]
    drawn = rows_of(tmp_path / "whole", "rollouts")
    more = sum(len(plan["prompts"]) for refill in refills for plan in refill)
    assert more > 0
    assert len(drawn) == 4 * (3 * 2 + more)
    assert all(len(plan["prompts"]) == 2 for plan in chosen[-3:])


@pytest.mark.parametrize("negatives", ["on_policy", "snapshot"])
def test_dpo_prefers_the_teachers_answer_to_the_students_own(negatives: str, tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        config = recipe(tmp_path, teacher, tiny_student, "dpo", steps=6, group_size=1, policy_learning_rate=0.01)
        config.write_text(config.read_text().replace("preferences = 2\ncorrections = 2", ""))
        found = run_stopped_and_replayed(config, tmp_path, f'dpo.negatives="{negatives}"', after=5).report
    rows = [row for row in metrics_of(tmp_path / "whole") if row["stage"] == "dpo"]
    assert rows[0]["dpo/loss"] == pytest.approx(0.693, abs=1e-3)
    assert rows[-1]["dpo/margin"] > 1
    assert all("policy/loss" not in row and "discriminator/loss" not in row for row in rows)
    # One rejected answer per prompt has no equal and no other; nothing is learned from rewards here.
    assert "equal_rewards" not in {row["monitor"] for row in found["alarms"]}
    # A snapshot is old by intention, and no run ends for that.
    assert {row.get("policy/staleness") for row in rows} == ({0.0} if negatives == "on_policy" else {None})


def test_a_run_that_goes_wrong_stops_keeps_its_best_student_and_says_how_to_go_on(tiny_student: Path, tmp_path: Path):
    """The sampler's temperature is not the trainer's: named within one policy step."""
    told: list[Alarm] = []
    notes: list[str] = []

    def listen(event: object) -> None:
        if isinstance(event, Alarm):
            told.append(event)
        elif isinstance(event, Note):
            notes.append(event.text)

    with rule_teacher() as teacher:
        config = recipe(tmp_path, teacher, tiny_student, "gad", steps=5, validate_policy_every=1, on_collapse='"stop"')
        with pytest.raises(Collapse) as stopped:
            bbdistill.run(
                config,
                out=tmp_path / "run",
                overrides=("student.temperature=0.3",),
                skip_bad=True,
                on_event=listen,
            )
        assert [row["stage"] for row in metrics_of(tmp_path / "run")][-2:] == ["discriminator", "policy"]
        assert told[-1].monitor == "mismatch"
        said = str(stopped.value)
        assert said.startswith("collapse at step 4 (`mismatch`): trainer and sampler differ by")
        assert "the adapter of the best validation (step 2," in said
        assert notes[-1] == "spent so far: price unknown; everything paid for is kept"  # and nothing of resuming
        assert said.endswith(" --skip-bad")  # it is held to what the run was held to
        words = shlex.split(said[said.index("bbdistill run") :])
        overrides = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
        assert overrides[1] == f"student.adapter={tmp_path / 'run' / 'best'}"
        assert overrides[3:] == ["student.temperature=1", "student.top_p=1"]  # which is what was wrong
        again = bbdistill.run(config, out=tmp_path / "again", overrides=tuple(overrides))
        with pytest.raises(Collapse) as resumed:
            bbdistill.run(
                config, out=tmp_path / "run", overrides=("student.temperature=0.3",), skip_bad=True, resume=True
            )
        assert str(resumed.value) == said
        on = bbdistill.run(
            config,
            out=tmp_path / "run",
            overrides=("student.temperature=0.3", 'train.on_collapse="warn"'),
            skip_bad=True,
            resume=True,
        )
    rows = metrics_of(tmp_path / "again")
    assert [row["stage"] for row in rows] == ["discriminator"] + ["policy"] * 5
    assert rows[1]["policy/kl"] != pytest.approx(0, abs=1e-3)  # it goes on from a student that had left the base
    assert again.report["eval"]["sft"] != again.report["eval"]["base"]
    assert on.report["train"]["steps"] == 8
    assert [step for step, _ in on.report["train"]["validations"]] == [2, 4, 5, 6, 7, 8]  # 4 is made up for
    facts = json.loads(next((tmp_path / "run" / "checkpoints").glob("*8/facts.json")).read_text())
    assert [row["monitor"] for row in facts["state"]["monitors"]["alarms"]].count("mismatch") == 1
