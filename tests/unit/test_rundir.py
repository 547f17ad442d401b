"""Where a run may begin, what a start that failed leaves, and how one goes on."""

from pathlib import Path

import pytest

from bbdistill.errors import ConfigError, RunError
from bbdistill.metrics import MetricsFile
from bbdistill.rundir import RunDir, alone

FACTS = {"task": "my task.toml", "overrides": ["a.b=c d"], "replay": None, "mode": "auto", "max_usd": None}


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_run_takes_only_an_empty_place_or_an_old_run(tmp_path: Path):
    old = RunDir.create(tmp_path / "old", FACTS)
    (old.path / "precious").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("old", "other", "file"):
        with pytest.raises(ConfigError, match=r"is not empty; use --resume"):
            RunDir.check(tmp_path / name)
    for name in ("other", "file"):
        with pytest.raises(ConfigError, match="is not a run and will not be overwritten"):
            RunDir.create(tmp_path / name, FACTS, overwrite=True)
    with pytest.raises(ConfigError, match=rf"because `{tmp_path}/file` is no directory"):
        RunDir.check(tmp_path / "file" / "below")
    assert tree(tmp_path) == {"old", "old/precious", "old/config.json", "other", "other/precious", "file"}
    RunDir.create(tmp_path / "old", FACTS, overwrite=True)
    assert tree(tmp_path / "old") == {"config.json"}


def test_a_directory_with_some_other_config_is_not_overwritten(tmp_path: Path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(ConfigError, match="is not a run and will not be overwritten"):
        RunDir.create(model, FACTS, overwrite=True)
    with pytest.raises(ConfigError, match="is not a run"):
        RunDir.existing(model)
    assert tree(tmp_path) == {"model", "model/config.json"}


def test_two_never_work_on_one_run(tmp_path: Path):
    run = RunDir.create(tmp_path / "run", FACTS)
    with alone(run.path):
        with pytest.raises(RunError, match="another process is at work on the run"), alone(run.path):
            pass
        with pytest.raises(RunError, match="another process"):
            RunDir.create(run.path, FACTS, overwrite=True)
        assert run.config.is_file()
    with alone(run.path):
        pass


def test_a_run_that_went_wrong_names_its_best_student(tmp_path: Path):
    run = RunDir.create(tmp_path / "run", FACTS)
    run.best.mkdir()
    with pytest.raises(RunError, match=r"went wrong; its best student is the adapter in `.*run/best`"):
        RunDir.finished(run.path)


def test_what_is_discarded_is_what_was_made_for_it(tmp_path: Path):
    (tmp_path / "runs").mkdir()
    deep = RunDir.create(tmp_path / "runs" / "new" / "deep", FACTS)
    assert deep.discard()
    assert tree(tmp_path) == {"runs"}
    there = RunDir.create(tmp_path / "runs", FACTS)
    assert there.discard()
    assert tree(tmp_path) == {"runs"}
    used = RunDir.create(tmp_path / "runs", FACTS)
    used.metrics.write_text("")
    assert not used.discard()
    assert tree(tmp_path) == {"runs", "runs/config.json", "runs/metrics.jsonl"}


@pytest.mark.parametrize(
    ("facts", "command"),
    [
        ({}, "bbdistill run 'my task.toml' --set 'a.b=c d' --out {} --resume"),
        ({"max_usd": 0.5, "skip_bad": True}, "bbdistill run 'my task.toml' --set 'a.b=c d' --out {} --max-usd 0.5 "),
        ({"mode": "record"}, "--cache record --resume"),
        ({"replay": "x.db#r"}, "--replay 'x.db#r' --resume"),
        ({"task": None}, "the same call and `resume=True`"),
    ],
)
def test_an_unfinished_run_names_the_command_that_goes_on(facts: dict[str, object], command: str, tmp_path: Path):
    directory = RunDir.create(tmp_path / "r", FACTS | {"skip_bad": False} | facts)
    with pytest.raises(RunError) as caught:
        RunDir.finished(directory.path)
    assert f"the run in `{directory.path}` is not finished; go on with: " in str(caught.value)
    assert command.format(directory.path) in str(caught.value)
    directory.report.write_text("{}")
    assert RunDir.finished(directory.path).path == directory.path
    with pytest.raises(ConfigError, match="is not a run"):
        RunDir.finished(tmp_path)


def test_metrics_of_a_resumed_run_lose_what_is_done_again_and_what_was_torn(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "stage": "sft"}\nbroken }\n{"step": 2, "stage": "sft"}\n[3]\n{"st')
    MetricsFile(path, after_step=1).log(2, "sft", {"x": float("nan")})
    assert path.read_text() == '{"step": 1, "stage": "sft"}\n{"step": 2, "stage": "sft", "x": null}\n'
