"""Distillation from distributions, from config to report: a model in this process, and servers that give log-probs."""

import json
from pathlib import Path

import pytest
from rule_teacher import rule_teacher
from student_fixtures import tiny_student
from test_recipes import recipe, run_stopped_and_replayed, with_completions
from test_run import metrics_of

import bbdistill
from bbdistill.config import CacheMode
from bbdistill.errors import ConfigError, RunError
from bbdistill.estimate import estimate
from bbdistill.metrics import Event, Note

NO_FEEDBACK = "preferences = 2\ncorrections = 2"


@pytest.fixture(scope="module")
def other_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher for the tiny student: the same tokenizer, other weights."""
    return tiny_student(tmp_path_factory.mktemp("teacher"), seed=7)


def local(config: Path, teacher: Path) -> Path:
    text = config.read_text().replace('model = "openai:rules"', f'model = "local:{teacher}"')
    lines = [line for line in text.splitlines() if not line.startswith(("base_url", "id ="))]
    config.write_text("\n".join(lines).replace(NO_FEEDBACK, ""))
    return config


def divergences(run: Path) -> list[float]:
    """In nats per unit, of the steps that had something to learn from."""
    return [row["distill/kl"] for row in metrics_of(run) if "distill/kl" in row]


@pytest.mark.parametrize("name", ["kd", "opd"])
def test_a_model_in_this_process_teaches_by_its_distributions(
    name: str, tiny_student: Path, other_student: Path, tmp_path: Path
):
    with rule_teacher() as teacher:
        config = local(recipe(tmp_path, teacher, tiny_student, name, steps=30, warmup_max=2), other_student)
        config.write_text(config.read_text().replace('verifier = ["json_schema:number.schema.json", "fields"]', ""))
        rate = "train.policy_learning_rate=0.01"
        whole = run_stopped_and_replayed(config, tmp_path, rate, "teacher.max_tokens=8", after=4)
        assert not teacher.asked
    rows = [row for row in metrics_of(tmp_path / "whole") if row["stage"] == name]
    assert len(rows) == 30
    found = divergences(tmp_path / "whole")  # a teacher that is cut off gives no demonstration
    assert len(found) > 20
    assert name == "opd" or sum(found[-5:]) < 0.8 * sum(found[:5])  # on its own texts two random models stay apart
    assert all(row.get("distill/unaligned", 0) == 0 for row in rows)
    assert "equal_rewards" not in {row["monitor"] for row in whole.report["alarms"]}  # nothing is rewarded
    assert whole.report["teacher"]["cost_usd"] == 0
    assert whole.report["run"]["teacher"] == f"local:{other_student}"


def test_an_adapter_of_an_earlier_run_teaches_a_new_student(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        config = recipe(tmp_path / "a", teacher, tiny_student, "sft", steps=20)
        taught = bbdistill.run(config, out=tmp_path / "taught")
        config = local(
            recipe(tmp_path / "b", teacher, tiny_student, "kd", steps=20, warmup_max=0),
            taught.adapter,
        )
        result = bbdistill.run(config, out=tmp_path / "run", overrides=("teacher.max_tokens=16",))
    first, *_, last = divergences(tmp_path / "run")
    assert last < 0.5 * first
    by_teacher = [
        json.loads(line)["completion"] for line in (tmp_path / "run" / "evaluation.jsonl").read_text().splitlines()
    ]
    assert result.report["teacher"]["calls"] > 0
    assert len(by_teacher) == 4 * 6


def test_a_server_scores_the_students_own_texts(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        config = recipe(tmp_path, teacher, tiny_student, "opd", steps=3, warmup_max=2, group_size=2)
        config.write_text(config.read_text().replace(NO_FEEDBACK, ""))
        found = run_stopped_and_replayed(config, tmp_path, after=3).report
        asked = [json.loads(body) for body in teacher.asked if "prompt_logprobs" in body]
    assert asked
    assert all(body["max_tokens"] == 1 and body["messages"][-1]["role"] == "assistant" for body in asked)
    line = found["teacher"]["by_purpose"]["scores"]
    assert line["calls"] >= len(asked) // 2
    assert line["abstained"] <= line["calls"]  # what is no text is not sent
    assert all(0 <= row["distill/unscored"] <= 1 for row in metrics_of(tmp_path / "whole") if row["stage"] == "opd")
    assert [row["stage"] for row in metrics_of(tmp_path / "whole")][-1] == "opd"


def test_a_server_that_gives_no_log_probs_is_found_out(
    tiny_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rule_teacher.logprobs", lambda asked, said: {})
    notes: list[str] = []

    def listen(event: Event) -> None:
        notes.extend([event.text] if isinstance(event, Note) else [])

    with rule_teacher() as teacher:
        config = recipe(tmp_path, teacher, tiny_student, "kd", steps=20, warmup_max=0, prompts_per_step=4)
        with pytest.raises(RunError, match=r"100 % of 20 calls for scores gave nothing usable \(no log-probs of the"):
            bbdistill.run(config, out=tmp_path / "run")
        bbdistill.run(config, out=tmp_path / "short", overrides=("train.steps=2",), on_event=listen)
    assert [row["distill/unscored"] for row in metrics_of(tmp_path / "run")] == [1.0] * 5
    assert any("no step had anything to learn from (no log-probs of the" in note for note in notes)


def test_answers_that_came_with_the_data_are_imitated_and_nothing_is_asked_about_them(
    tiny_student: Path, tmp_path: Path
):
    with rule_teacher() as teacher:
        config = recipe(
            tmp_path, teacher, tiny_student, "kd", steps=2, warmup_max=0, prompts_per_step=6, sft_weight=1.0
        )
        config.write_text(config.read_text().replace(NO_FEEDBACK, ""))
        with_completions(config)
        bbdistill.run(config, out=tmp_path / "run", overrides=('distill.scores="own"',))
        asked = {json.loads(body)["messages"][-1]["content"] for body in teacher.asked}
    lines = (tmp_path / "run" / "demonstrations.jsonl").read_text().splitlines()
    shown = [json.loads(line)["prompt"][-1]["content"] for line in lines]
    given = {f"number {i}" for i in range(1, 24, 2)} & set(shown)
    assert given
    assert not given & asked
    rows = metrics_of(tmp_path / "run")
    assert all("sft/loss" in row and "distill/loss" in row for row in rows)
    assert sum(row["distill/unscored"] for row in rows) == pytest.approx(len(given) / 6)


def test_a_server_gives_the_likeliest_tokens_of_what_it_writes(tiny_student: Path, tmp_path: Path):
    with rule_teacher() as teacher:
        config = recipe(tmp_path, teacher, tiny_student, "kd", steps=6)
        config.write_text(config.read_text().replace(NO_FEEDBACK, ""))
        run_stopped_and_replayed(config, tmp_path, 'distill.scores="own"', after=3)
        asked = [json.loads(body) for body in teacher.asked if '"logprobs"' in body]
    known = estimate(config, overrides=('distill.scores="own"',)).lines[0]
    assert known.cached == known.calls[1] > 0  # the requests that it weighs are those that were sent
    assert {body["top_logprobs"] for body in asked} == {20}
    rows, found = metrics_of(tmp_path / "whole"), divergences(tmp_path / "whole")
    assert found[-1] < found[0]
    assert all(row.get("distill/unaligned", 0) == 0 for row in rows)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (('teacher.model="anthropic:x"',), "needs log-probs, which this API never gives"),
        (('recipe="opd"', 'distill.scores="own"'), "`distill.scores` must be `given`"),
        (('recipe="best_of_n"', 'teacher.model="local:x"'), "makes all candidates alike; set it, such as to 1"),
        (('judge={model = "local:x"}',), "can be the teacher, not the judge"),
    ],
)
def test_a_teacher_that_cannot_score_is_refused(overrides: tuple[str, ...], said: str, tmp_path: Path):
    with rule_teacher() as teacher:
        config = recipe(tmp_path, teacher, tmp_path, "kd")
        with pytest.raises(ConfigError, match=said):
            bbdistill.run(config, out=tmp_path / "run", overrides=overrides)


@pytest.mark.parametrize("mode", ["record", "off"])
def test_own_scores_are_looked_for_in_the_record(mode: CacheMode, tmp_path: Path):
    with rule_teacher() as teacher:
        config = recipe(tmp_path, teacher, tmp_path, "kd")
        with pytest.raises(ConfigError, match=f"it needs `--cache auto`, got `{mode}`: each answer would be bought"):
            bbdistill.run(config, out=tmp_path / "run", mode=mode, overrides=('distill.scores="own"',))
        assert not teacher.asked
