"""The command line as a user meets it: a process, its exit code, its two streams."""

import json
import os
import random
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from test_client_store import row

import bbdistill
from bbdistill.client.store import Store
from bbdistill.configfile import load_config
from bbdistill.recording import open_recording
from bbdistill.starter import write_task


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
    assert tomllib.loads((tmp_path / "task.toml").read_text())["recipe"] == "sft"
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


def test_the_version_is_said(tmp_path: Path):
    done = cli("--version", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"bbdistill {bbdistill.__version__}\n")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("cache", "list", "train.jsonl"), "`train.jsonl` is not a store"),
        (("cache", "list", "none.db"), "no store at `none.db`"),
        (("cache", "show", "used.db", "999"), "0 calls match `999`"),
        (("cache", "export", "used.db", "new/x.db", "--run", "nope"), "has no run `nope`; it has r"),
        (("collect", "task.toml", "--set", "teacher.cache=train.jsonl"), "train.jsonl` is not a store"),
        (("collect", "--from-cache", "used.db", "--purpose", "nope"), "of purpose `nope`; it has demonstrations"),
        (("collect", "task.toml", "--set", "task.verifier=fieldz"), "did you mean `fields`?"),
        (("collect", "task.toml", "--set", "task.templates=nowhere"), "nowhere` is not a directory with one of `coa"),
        (("collect", "task.toml", "--max-usd", "nan"), "--max-usd: expected a finite number"),
        (("collect", "task.toml", "--max-usd", "1", "--set", "teacher.model=openai:x"), "no price is known for"),
        (("run", "task.toml", "--max-usd", "1", "--set", "teacher.model=openai:x"), "no price is known for"),
        (("run", "task.toml", "--out", "full"), "`full` is not empty"),
        (("run", "task.toml", "--out", "none", "--resume"), "`none` is not a run"),
        (("run", "task.toml", "--out", "train.jsonl/x"), "cannot be written, because"),
        (("collect", "task.toml", "--out", "train.jsonl/x"), "cannot be written, because"),
        (
            ("run", "task.toml", "--cache", "record", "--replay", "used.db"),
            "--replay asks nobody; leave one of them out",
        ),
        (("collect", "task.toml", "--cache", "off", "--replay", "used.db"), "--replay asks nobody"),
        (("run", "task.toml", "--set", "student.model=no/such", "--out", "a/b"), "cannot load the model `no/such`"),
        (("report", "full"), "`full` is not a run"),
        (("verify", "task.toml", "train.jsonl"), "train.jsonl` has no line with a `completion`"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else "",
)
def test_a_wrong_command_ends_with_2_and_leaves_nothing(
    command: tuple[str, ...], says: str, tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
):
    write_task(prompts, tmp_path / "task.toml", teacher="openai:gpt-4o-mini")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    store = Store(tmp_path / "used.db")
    store.put_call(row(), run="r")
    store.close()
    before = sorted(path.name for path in tmp_path.rglob("*"))
    done = cli(*command, folder=tmp_path, OPENAI_API_KEY="any")
    assert says in done.stderr
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_damaged_store_is_one_sentence(tmp_path: Path):
    whole = tmp_path / "whole.db"
    store = Store(whole)
    for number in range(50):
        store.put_call(row(f"{number} " + "x" * 1000), run="r")
    store.close()
    content = whole.read_bytes()
    draw = random.Random(0)
    said: set[str] = set()
    for _ in range(60):
        broken = bytearray(content)
        for _ in range(draw.randrange(1, 30)):
            start = draw.randrange(100, len(broken))
            broken[start : start + 40] = draw.randbytes(40)
        (tmp_path / "x.db").write_bytes(broken[: len(content)])
        try:
            with open_recording(tmp_path / "x.db") as recording:
                for found in recording.calls():
                    found.full()
        except bbdistill.BBDistillError as fault:
            said.add(str(fault))
    assert any("is damaged" in sentence for sentence in said)
    known = ("is damaged; restore it from a copy", "cache verify", "is not a store")
    assert all(any(words in sentence for words in known) for sentence in said), said


def test_the_readme_names_every_command():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for verb in ("init", "run", "doctor", "report", "sample", "export", "cache list"):
        assert f"bbdistill {verb}" in readme
