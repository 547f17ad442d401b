"""What `collect` writes of a teacher's answers."""

import json
from pathlib import Path

import pytest
from scripted_server import ScriptedServer, chat

from bbdistill.collect import collect
from bbdistill.errors import TeacherError


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps({"prompt": f"number {i}"}) for i in range(3)))
    (tmp_path / "task.toml").write_text(
        'recipe = "sft"\n[teacher]\nmodel = "openai:m"\nconcurrency = 1\n[task]\nprompts = "train.jsonl"\n'
    )
    return tmp_path / "task.toml"


def test_refusals_are_left_out_and_counted(config: Path) -> None:
    out = config.parent / "out.jsonl"
    answers = [chat("I'm sorry, but I can't help with that."), chat("two")]
    with ScriptedServer(*answers, otherwise=chat("three")) as server:
        found = collect(config, out, overrides=(f'teacher.base_url="{server.url}/v1"',))
    assert (found["demonstrations"], found["refusals"]) == (2, 1)
    said = [json.loads(line)["completion"][0]["content"] for line in out.read_text().splitlines()]
    assert said == ["two", "three"]


def test_nothing_but_refusals_is_an_error_and_writes_nothing(config: Path) -> None:
    out = config.parent / "out.jsonl"
    with (
        ScriptedServer(otherwise=chat("I cannot comply with this request.")) as server,
        pytest.raises(TeacherError, match="no usable answer to any of 3 prompts: refusals"),
    ):
        collect(config, out, overrides=(f'teacher.base_url="{server.url}/v1"',))
    assert not out.exists()
