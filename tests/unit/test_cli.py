"""The command line as a user meets it: a process, its exit code, its two streams."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bbdistill.config import load_config


def cli(*arguments: str | Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bbdistill", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "train.jsonl"
    lines = [{"prompt": f"number {i}", **({"reference": {"number": i}} if i % 2 else {})} for i in range(10)]
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return file


def test_init_writes_a_config_that_loads_and_fits_the_data(tmp_path: Path, prompts: Path):
    done = cli("init", prompts, folder=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "task.toml")
    config = load_config(tmp_path / "task.toml")
    assert config.task.prompts == prompts
    assert config.task.verifier == ("fields",)
    assert tomllib.loads((tmp_path / "task.toml").read_text())["recipe"] == "gad"
    again = cli("init", prompts, folder=tmp_path)
    assert again.returncode == 2
    assert "not overwritten" in again.stderr


def test_init_writes_no_secret(tmp_path: Path, prompts: Path):
    done = cli("init", prompts, "--base-url", "https://me:pass-word-1@host/v1", folder=tmp_path)
    assert done.returncode == 2
    assert "without user, password or key" in done.stderr
    assert "pass-word-1" not in done.stderr
    assert not (tmp_path / "task.toml").exists()


def test_one_error_is_one_sentence_and_its_exit_code(tmp_path: Path):
    done = cli("run", "none.toml", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no config at `none.toml`")
    assert "Traceback" not in done.stderr
    assert "Traceback" in cli("--debug", "run", "none.toml", folder=tmp_path).stderr


def test_a_bad_line_of_data_is_named(tmp_path: Path, prompts: Path):
    cli("init", prompts, folder=tmp_path)
    prompts.write_text(prompts.read_text() + "\nnot json\n")
    done = cli("run", "task.toml", "--dry-run", folder=tmp_path)
    assert done.returncode == 2
    assert "train.jsonl" in done.stderr
    assert "11" in done.stderr


def test_verify_counts_and_says_what_is_wrong(tmp_path: Path, prompts: Path):
    cli("init", prompts, folder=tmp_path)
    rows = [
        {"prompt": "number 1", "reference": {"number": 1}, "completion": '{"number": 1}'},
        {"prompt": "number 3", "reference": {"number": 3}, "completion": '{"number": 4}'},
        {"prompt": "number 2", "completion": "?"},
    ]
    (tmp_path / "answers.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    done = cli("verify", "task.toml", "answers.jsonl", "--json", folder=tmp_path)
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"passed": 1, "failed": 1, "abstained": 1, "score": 0.5}
    assert "`number` is wrong" in done.stderr


def test_replay_without_a_store_is_a_usage_error(tmp_path: Path, prompts: Path):
    cli("init", prompts, folder=tmp_path)
    done = cli("collect", "task.toml", "--replay", "none.db", folder=tmp_path)
    assert done.returncode == 2
    assert "nothing to replay" in done.stderr


def test_a_missing_key_is_named_before_anything_is_asked(tmp_path: Path, prompts: Path):
    cli("init", prompts, folder=tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    done = subprocess.run(
        [sys.executable, "-m", "bbdistill", "collect", "task.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 2
    assert "OPENAI_API_KEY" in done.stderr


def test_the_readme_names_every_command():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for verb in ("init", "run", "doctor", "report", "sample", "export", "cache list"):
        assert f"bbdistill {verb}" in readme
