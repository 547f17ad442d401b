"""Whole runs: a tiny random student, a teacher that follows rules behind a real server, a real store."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rule_teacher import RuleTeacher, rule_teacher, write_task
from safetensors.torch import load_file

import bbdistill
from bbdistill.estimate import estimate
from bbdistill.metrics import Event, Note, StepDone
from bbdistill.report import render

Rows = list[dict[str, Any]]


def metrics_of(run: Path) -> Rows:
    """Without the times, which alone may differ between equal runs."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def evaluation_of(run: Path) -> list[str]:
    return (run / "evaluation.jsonl").read_text().splitlines()


def adapter_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


def same_adapter(one: Path, other: Path) -> bool:
    left, right = adapter_of(one), adapter_of(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def recorded(tiny_student: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(config, run directory) of a finished run; its teacher is gone."""
    folder = tmp_path_factory.mktemp("recorded")
    with rule_teacher() as teacher:
        config = write_task(folder, teacher, tiny_student)
        bbdistill.run(config, out=folder / "run")
    return config, folder / "run"


def test_a_run_leaves_what_it_promises(recorded: tuple[Path, Path]):
    _, run = recorded
    report = json.loads((run / "report.json").read_text())
    assert report["eval"]["teacher"] | {"nll": None} == {
        "valid": 1.0,
        "score": 1.0,
        "low": 1.0,
        "high": 1.0,
        "n": 6,
        "nll": None,
    }
    assert set(report["eval"]["student_minus_sft"]) == {"score", "low", "high"}
    assert report["train"]["steps"] == 5
    assert report["train"]["corrections_accepted"] == report["train"]["corrections"] == 4
    assert report["teacher"]["calls"] == 28
    assert report["teacher"]["cached"] == 0
    assert report["teacher"]["cost_usd"] is None  # no price is known for this teacher, and unknown is not 0
    assert report["teacher"]["concurrency"][0] == {"at_s": 0.0, "limit": 32, "why": "start", "model": "rules"}
    assert "Calls at once, as the gate found the limit: 32 (start, 0 s)" in (run / "report.md").read_text()
    assert len(report["samples"]) == 6
    assert render(report) == (run / "report.md").read_text()
    assert [report["train"][name] for name in ("best_step", "validation_score")] in report["train"]["validations"]
    page = (run / "report.html").read_text()
    assert page.count("<svg") == 1
    assert ">validation score</text>" in page
    assert [row["stage"] for row in metrics_of(run)] == ["warmup"] * 2 + ["discriminator"] + ["policy"] * 2


def test_the_score_is_stamped_with_the_discriminator_of_the_step_before(recorded: tuple[Path, Path]):
    rows = [row for row in metrics_of(recorded[1]) if row["stage"] != "warmup"]
    # One discriminator step in its warm-up, one in each policy step, each after the score was taken.
    assert [row["reward/discriminator_version"] for row in rows] == [0.0, 1.0, 2.0]


def test_outputs_open_with_datasets_in_trl_columns(recorded: tuple[Path, Path]):
    from datasets import load_dataset

    _, run = recorded

    def opened(pattern: str) -> Any:
        files = sorted(str(file) for file in run.glob(pattern))
        return load_dataset("json", data_files=files, split="train", cache_dir=str(run.parent / "hf"))

    shown = opened("demonstrations.jsonl")
    assert {"prompt", "completion"} <= set(shown.column_names)
    assert shown[0]["completion"][0]["role"] == "assistant"
    assert {"prompt", "chosen", "rejected"} <= set(opened("preferences/*.jsonl").column_names)
    assert {"prompt", "completion", "original"} <= set(opened("corrections/*.jsonl").column_names)
    assert len(opened("rollouts/*.jsonl")) == 3 * 2 * 2


def test_two_replays_equal_the_run_without_a_server(recorded: tuple[Path, Path], tmp_path: Path):
    config, run = recorded
    store = config.parent / "cache" / "teacher.db"
    before = store.read_bytes()
    for name in ("first", "second"):
        result = bbdistill.run(config, out=tmp_path / name, replay=str(store))
        assert metrics_of(tmp_path / name) == metrics_of(run)
        assert same_adapter(tmp_path / name, run)
        assert result.report["teacher"]["cached"] == result.report["teacher"]["calls"] == 28
        assert result.report["teacher"]["cost_usd"] == 0
        assert result.report["teacher"]["recorded_cost_usd"] is None
    assert store.read_bytes() == before


def test_a_replay_with_other_values_says_which(recorded: tuple[Path, Path], tmp_path: Path):
    config, _ = recorded
    store = str(config.parent / "cache" / "teacher.db")

    def notes(name: str, *overrides: str) -> list[str]:
        found = list[Event]()
        bbdistill.run(config, out=tmp_path / name, replay=store, overrides=overrides, on_event=found.append)
        return [
            event.text for event in found if isinstance(event, Note) and event.text.startswith("note: the recorded")
        ]

    elsewhere = ("teacher.concurrency=2", 'teacher.base_url="http://127.0.0.1:9/v1"')
    assert notes("same", *elsewhere) == []
    assert notes("other", "train.learning_rate=0.5") == [
        "note: the recorded run had another train.learning_rate; figures may differ from those recorded"
    ]


@pytest.mark.parametrize("changed", ["every prompt", "one prompt"])
def test_a_changed_prompt_misses_and_shows_the_difference(changed: str, recorded: tuple[Path, Path], tmp_path: Path):
    config, run = recorded
    for file in config.parent.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    demonstrated = json.loads((run / "demonstrations.jsonl").read_text().splitlines()[0])["prompt"]
    wanted = "Answer" if changed == "every prompt" else f'"{demonstrated[-1]["content"]}"'
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    lines = [line.replace("in JSON.", "in XML.") if wanted in line else line for line in lines]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    store = config.parent / "cache" / "teacher.db"
    with pytest.raises(bbdistill.ReplayMiss) as miss:
        bbdistill.run(tmp_path / "task.toml", out=tmp_path / "run", replay=str(store))
    assert miss.value.exit_code == 4
    assert not (tmp_path / "run").exists()  # it could not begin
    assert "The nearest recorded request differs so" in str(miss.value)
    differing = [line.split(": ")[1] for line in str(miss.value).splitlines() if line[0] in "+-" and "Answer" in line]
    assert differing == ['"Answer in JSON.",', '"Answer in XML.",']


def test_three_steps_and_a_resume_are_the_whole_run(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        config = write_task(tmp_path, teacher, tiny_student, steps=3, checkpoint_every=1)
        whole = bbdistill.run(config, out=tmp_path / "whole")
        asked = sum(teacher.asked.values())
        fresh = f'teacher.cache="{tmp_path / "fresh.db"}"'

        def stop_after_three(event: object) -> None:
            if isinstance(event, StepDone) and event.step == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            bbdistill.run(config, out=tmp_path / "parts", overrides=(fresh,), on_event=stop_after_three)
        parts = bbdistill.run(config, out=tmp_path / "parts", overrides=(fresh,), resume=True)
        assert sum(teacher.asked.values()) == 2 * asked  # the stop bought nothing twice
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")
    assert same_adapter(tmp_path / "parts", tmp_path / "whole")
    assert parts.report["eval"] == whole.report["eval"]
    timed = {"concurrency": None}  # how fast the calls went, in the process that ended the run
    assert parts.report["teacher"] | timed == whole.report["teacher"] | timed


def test_killed_in_the_middle_nothing_answered_is_asked_again(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        config = write_task(tmp_path, teacher, tiny_student, steps=3, checkpoint_every=1)
        bbdistill.run(config, out=tmp_path / "whole")
        asked, teacher.delay_s = dict(teacher.asked), 0.1
        teacher.asked.clear()
        arguments = [
            "run",
            str(config),
            "--out",
            str(tmp_path / "killed"),
            "--set",
            f"teacher.cache={tmp_path / 'k.db'}",
        ]
        started = subprocess.Popen([sys.executable, "-m", "bbdistill", *arguments], stderr=subprocess.DEVNULL)
        wait_for(lambda: len(metrics_of(tmp_path / "killed")) >= 4, started)
        os.kill(started.pid, signal.SIGKILL)
        started.wait()
        time.sleep(0.3)  # replies on their way at the kill are the server's, not ours
        in_flight = sum(teacher.asked.values()) - calls_in(tmp_path / "k.db")
        resumed = subprocess.run(
            [sys.executable, "-m", "bbdistill", *arguments, "--resume"], capture_output=True, text=True
        )
        assert resumed.returncode == 0, resumed.stderr
        assert sum(teacher.asked.values()) == sum(asked.values()) + in_flight
        assert set(teacher.asked) == set(asked)
    assert metrics_of(tmp_path / "killed") == metrics_of(tmp_path / "whole")
    assert same_adapter(tmp_path / "killed", tmp_path / "whole")


def test_a_lag_uses_older_rollouts_on_a_fixed_schedule(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        config = write_task(tmp_path, teacher, tiny_student, steps=4, lag=1)
        bbdistill.run(config, out=tmp_path / "run")
    with bbdistill.open_recording(tmp_path / "cache" / "teacher.db") as recording:
        run = recording.runs()[-1].id
        versions = [recording.rollouts(run, step)[0].policy_version for step in range(3, 7)]
    # Two updates before the policy stage; then step t draws from the policy of step max(0, t - 1).
    assert versions == [2, 2, 3, 4]


def test_arun_leaves_the_loop_free_and_can_be_cancelled(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        config = write_task(tmp_path, teacher, tiny_student, steps=2)

        async def work() -> tuple[bbdistill.RunResult, int]:
            running = asyncio.create_task(bbdistill.arun(config, out=tmp_path / "run"))
            ticks = 0
            while not running.done():
                await asyncio.sleep(0.01)
                ticks += 1
            return await running, ticks

        result, ticks = asyncio.run(work())
        assert result.report["train"]["steps"] == 5
        assert ticks > 20

        async def cancelled() -> None:
            stepped, loop = asyncio.Event(), asyncio.get_running_loop()

            def tell(event: object) -> None:
                if isinstance(event, StepDone):
                    loop.call_soon_threadsafe(stepped.set)

            longer = ("train.steps=200", f'teacher.cache="{tmp_path / "c.db"}"')
            running = asyncio.create_task(
                bbdistill.arun(config, out=tmp_path / "cancelled", overrides=longer, on_event=tell)
            )
            await stepped.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

        asyncio.run(cancelled())
        assert calls_in(tmp_path / "c.db") > 0
        assert not (tmp_path / "cancelled" / "report.json").exists()


def test_sft_imitates_and_asks_for_nothing_else(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        config = write_task(tmp_path, teacher, tiny_student, steps=6, learning_rate=0.01)
        result = bbdistill.run(config, out=tmp_path / "run", overrides=('recipe="sft"',))
    losses = [row["sft/loss"] for row in metrics_of(tmp_path / "run")]
    assert losses[-1] < losses[0] - 1.0
    assert set(result.report["teacher"]["by_purpose"]) == {"demonstrations", "evaluation"}
    assert result.report["eval"]["student"]["nll"] < result.report["eval"]["base"]["nll"]


def test_completions_that_came_with_the_data_are_not_bought(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        config = write_task(tmp_path, teacher, tiny_student, steps=1)
        rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
        lines = [json.dumps(row | {"completion": json.dumps({"number": i})}) for i, row in enumerate(rows)]
        (tmp_path / "train.jsonl").write_text("\n".join(lines))
        result = bbdistill.run(config, out=tmp_path / "run", overrides=('recipe="sft"',))
    assert "demonstrations" not in {k for k, v in result.report["teacher"]["by_purpose"].items() if v["calls"]}
    assert result.report["data"]["demonstrations"] > 0


def test_a_judge_of_its_own_and_the_terms_of_both_are_in_the_report(tiny_student: Path, tmp_path: Path):
    notes: list[str] = []
    with rule_teacher() as teacher, rule_teacher() as judge:
        config = write_task(tmp_path, teacher, tiny_student)
        text = config.read_text().replace('id = "rules"', 'id = "rules"\nterms = "mine: all | of it"')
        config.write_text(f'{text}\n[judge]\nmodel = "openai:judge"\nbase_url = "{judge.base_url}"\n')
        result = bbdistill.run(config, out=tmp_path / "run", on_event=lambda event: notes.append(str(event)))
        asked = {name: sum(server.asked.values()) for name, server in (("rules", teacher), ("judge", judge))}
        replayed = bbdistill.run(config, out=tmp_path / "replay", replay=str(tmp_path / "cache" / "teacher.db"))
    table = result.report["teacher"]
    assert {model: row["calls"] for model, row in table["by_model"].items()} == {
        "openai:rules": asked["rules"],
        "openai:judge": asked["judge"],
    }
    assert asked["judge"] == table["by_purpose"]["preferences"]["calls"] > 0
    assert table["by_model"]["openai:judge"]["comparisons"] == table["comparisons"] == asked["judge"] // 2
    assert table["by_model"]["openai:rules"]["comparisons"] == 0
    assert (table["terms"], table["by_model"]["openai:judge"]["terms"]) == ("mine: all | of it", "not stated")
    page, card = (tmp_path / "run" / "report.md").read_text(), (tmp_path / "run" / "adapter" / "README.md").read_text()
    assert "taught by openai:rules, judged by openai:judge" in page
    assert page.count("mine: all \\| of it") == 1
    assert "- `openai:judge`: not stated" in card
    assert "- `openai:rules`: mine: all" in card
    assert not any("notice" in note for note in notes)  # both servers are the user's own
    assert metrics_of(tmp_path / "replay") == metrics_of(tmp_path / "run")
    assert replayed.report["teacher"]["by_model"]["openai:judge"]["cached"] == asked["judge"]


def test_the_judge_compares_the_student_with_the_others(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        config = write_task(tmp_path, teacher, tiny_student)
        settings = {"overrides": ("task.win_rate_size=4",)}
        whole = bbdistill.run(config, out=tmp_path / "whole", **settings)
        most = estimate(config, **settings).as_json()["by_purpose"]["evaluation"]["calls"]
        asked = sum(teacher.asked.values())
        again = bbdistill.run(config, out=tmp_path / "again", **settings)
        assert sum(teacher.asked.values()) == asked
    found = whole.report["eval"]["win_rates"]
    assert found.keys() == {"base", "sft", "teacher"}
    assert [row["n"] for row in found.values()] == [4, 4, 4]
    # The rule prefers the answer with the number in it; a random student never says it.
    assert (found["teacher"]["rate"], found["teacher"]["losses"], found["teacher"]["flips"]) == (0.0, 4, 0)
    rows = [json.loads(line) for line in (whole.directory / "judgements.jsonl").read_text().splitlines()]
    assert [row["against"] for row in rows] == ["base"] * 4 + ["sft"] * 4 + ["teacher"] * 4
    said = {(row["id"], row["model"]): row["completion"] for row in map(json.loads, evaluation_of(whole.directory))}
    assert all(row["student"] == said[row["id"], "student"] for row in rows)
    assert all(row["other"] == said[row["id"], row["against"]] for row in rows)
    apart = sum(row["student"] != row["other"] for row in rows)
    calls = whole.report["teacher"]["by_purpose"]["evaluation"]["calls"]
    assert calls == 6 + 2 * apart
    assert 6 <= calls <= most[1] == 6 + 6 * 4
    assert "| teacher | 0 | 4 | 0 | 0 | 0.000 |" in render(whole.report)
    assert again.report["eval"] == whole.report["eval"]

    store = str(tmp_path / "cache" / "teacher.db")
    replayed = bbdistill.run(config, out=tmp_path / "replayed", replay=store, **settings)
    assert replayed.report["eval"] == whole.report["eval"]
    assert "but for the win rates, which are those of the recorded answers" in render(replayed.report)
    fewer = bbdistill.run(config, out=tmp_path / "fewer", replay=store, overrides=("task.win_rate_size=2",))
    assert [row["n"] for row in fewer.report["eval"]["win_rates"].values()] == [2, 2, 2]
    more = bbdistill.run(config, out=tmp_path / "more", replay=store, overrides=("task.win_rate_size=6",))
    assert more.report["eval"]["win_rates"] == found
    lines = (tmp_path / "test.jsonl").read_text().splitlines()
    (tmp_path / "test.jsonl").write_text("\n".join(reversed(lines[2:])))
    settings = {"overrides": ("task.win_rate_size=4", "task.validation_size=2")}
    other = bbdistill.run(config, out=tmp_path / "other", replay=store, **settings)
    assert [row["n"] for row in other.report["eval"]["win_rates"].values()] == [2, 2, 2]


def test_a_record_without_comparisons_replays_without_win_rates(recorded: tuple[Path, Path], tmp_path: Path):
    config, _ = recorded
    store, notes = str(config.parent / "cache" / "teacher.db"), list[Event]()
    settings = {"replay": store, "overrides": ("task.win_rate_size=4",), "on_event": notes.append}
    found = bbdistill.run(config, out=tmp_path / "run", **settings)
    assert found.report["eval"]["win_rates"] is None
    assert Note(text="note: the recorded run compared no answers, so there are no win rates") in notes


def test_no_key_is_written_anywhere(tiny_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    key = "sk-planted-0123456789abcdefghij"
    monkeypatch.setenv("MY_KEY", key)
    with rule_teacher() as teacher:
        config = write_task(tmp_path, teacher, tiny_student, steps=1)
        bbdistill.run(config, out=tmp_path / "run", overrides=('teacher.api_key_env="MY_KEY"',))
        assert teacher.keys == {f"Bearer {key}"}
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 10
    assert [file for file in files if key.encode() in file.read_bytes()] == []
    assert (tmp_path / "cache" / "teacher.db").stat().st_mode & 0o777 == 0o600


def test_a_run_directory_is_not_overwritten_by_accident(recorded: tuple[Path, Path], tmp_path: Path):
    config, run = recorded
    with pytest.raises(bbdistill.ConfigError, match="--resume"):
        bbdistill.run(config, out=run, mode="replay")
    (tmp_path / "precious").write_text("x")
    with pytest.raises(bbdistill.ConfigError, match="not a run"):
        bbdistill.run(config, out=tmp_path, mode="replay", overwrite=True)
    with pytest.raises(bbdistill.ConfigError, match=r"train\.steps"):
        bbdistill.run(config, out=run, mode="replay", resume=True, overrides=("train.steps=9",))
    inside = f'teacher.cache="{tmp_path / "new" / "calls.db"}"'
    with pytest.raises(bbdistill.ConfigError, match="would lie in the run's directory"):
        bbdistill.run(config, out=tmp_path / "new", overrides=(inside,))
    assert not (tmp_path / "new").exists()


def test_a_prompt_that_the_student_has_no_room_for_is_refused_before_anything_is_asked(
    tiny_student: Path, tmp_path: Path
):
    with rule_teacher() as teacher:
        config = write_task(tmp_path, teacher, tiny_student)
        with (tmp_path / "test.jsonl").open("a") as file:
            file.write(json.dumps({"id": "long", "prompt": "word " * 300}) + "\n")
        with pytest.raises(bbdistill.ConfigError, match=r"prompt `long` has \d+ tokens .* room for 256 together"):
            bbdistill.run(config, out=tmp_path / "run")
        assert not teacher.asked
    assert not (tmp_path / "run").exists()


def test_a_dry_run_shows_the_teachers_half_before_it_looks_for_the_student(tmp_path: Path):
    with rule_teacher() as teacher:
        config = write_task(tmp_path, teacher, Path("nobody/no-such-model"))
    hub = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")}
    command = [sys.executable, "-m", "bbdistill", "run", str(config), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | hub)
    assert done.returncode == 2
    assert "request to openai:rules for prompt" in done.stdout
    assert "cost: no price is known for `openai:rules`" in done.stdout
    assert len(done.stderr.splitlines()) == 1  # no word of the loaders, and no tries of theirs
    assert done.stderr.startswith("error: cannot load the model `nobody/no-such-model`")


def test_a_run_whose_demonstrations_all_fail_says_how_to_look_at_them(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        config = write_task(tmp_path, teacher, tiny_student)
        (tmp_path / "number.schema.json").write_text('{"type": "array"}')
        with pytest.raises(bbdistill.RunError, match="none of the 10 demonstrations may be imitated") as caught:
            bbdistill.run(config, out=tmp_path / "run")
    answers = tmp_path / "run" / "demonstrations.jsonl"
    assert f"(10 refuted by the verifier); see why with: bbdistill verify {config} {answers}" in str(caught.value)
    command = [sys.executable, "-m", "bbdistill", "verify", str(config), str(answers)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (1, "0 passed, 10 failed, 0 not judged")
    for command in (["report", str(tmp_path / "run")], ["sample", str(tmp_path / "run"), "number 1"]):
        done = subprocess.run([sys.executable, "-m", "bbdistill", *command], capture_output=True, text=True)
        assert done.returncode == 1
        assert "is not finished; go on with: bbdistill run" in done.stderr


def test_a_teacher_whose_answers_are_all_cut_is_named_with_the_reason(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        teacher.cut = True
        config = write_task(tmp_path, teacher, tiny_student)
        with pytest.raises(bbdistill.RunError, match=r"no usable answer to any of 10 prompts \(.+ \(10\)\); see"):
            bbdistill.run(config, out=tmp_path / "run")


def test_the_verbs_work_inside_a_running_loop(tmp_path: Path):
    async def work(teacher: RuleTeacher) -> tuple[object, object, object]:
        settings = {"base_url": teacher.base_url, "cache": tmp_path / "x.db"}
        async with bbdistill.Teacher("openai:rules", **settings) as asked:
            shown = await asked.demonstrate("number 7")
            preferred = await asked.compare("number 7", '{"number": 7}', '{"number": 8}')
            fix = await asked.correct("number 7", '{"number": 8}', "`number` is wrong")
            return shown, preferred, fix

    with rule_teacher() as teacher:
        shown, preferred, fix = asyncio.run(work(teacher))
        asked = sum(teacher.asked.values())
        assert asked == 4
        assert asyncio.run(work(teacher)) == (shown, preferred, fix)
        assert sum(teacher.asked.values()) == asked  # the second time comes from the record
    assert isinstance(shown, bbdistill.Demonstration)
    assert shown.completion == '{"number": 7}'
    assert isinstance(preferred, bbdistill.Preference)
    assert (preferred.chosen, preferred.rejected) == ('{"number": 7}', '{"number": 8}')
    assert isinstance(fix, bbdistill.Fix)
    assert fix.text == '{"number": 7}'


def wait_for(condition: Any, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except (OSError, ValueError):
            pass
        assert process.poll() is None, f"the run ended early with {process.returncode}"
        time.sleep(0.02)
    raise AssertionError("waited too long")


def calls_in(store: Path) -> int:
    with bbdistill.open_recording(store) as recording:
        return sum(call.kind != "fault" for call in recording.calls())


def test_a_run_that_does_not_know_a_key_resumes_with_its_default_alone(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        config = write_task(tmp_path, teacher, tiny_student)
        bbdistill.run(config, out=tmp_path / "run")
        facts = json.loads((tmp_path / "run" / "config.json").read_text())
        del facts["config"]["task"]["win_rate_size"]
        (tmp_path / "run" / "config.json").write_text(json.dumps(facts))
        with pytest.raises(bbdistill.ConfigError, match=r"another config \(task\.win_rate_size differ\)"):
            bbdistill.run(config, out=tmp_path / "run", resume=True, overrides=("task.win_rate_size=4",))
        bbdistill.run(config, out=tmp_path / "run", resume=True)
