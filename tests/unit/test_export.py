"""Small copies of a store, and the difference of two calls."""

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from scripted_server import ScriptedServer, chat

from bbdistill.client.call import Call
from bbdistill.client.http import open_stack
from bbdistill.client.store import Store
from bbdistill.errors import ConfigError, ReplayMiss
from bbdistill.recording import export_recording, open_recording
from bbdistill.types import Prompt, Rollout


def call(text: str) -> Call:
    body = f'{{"model": "m", "messages": [{{"role": "user", "content": "{text}"}}]}}'
    return Call(method="POST", url="http://t/v1/chat/completions", headers={}, body=body.encode())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with two runs: `old` used a and b; `new` used b, which it did not buy, and c, and has a plan."""
    path = tmp_path / "store.db"
    store = Store(path)

    async def ask(run: str, url: str, *texts: str) -> None:
        stack = open_stack(store, run=run)
        for text in texts:
            made = call(text)
            await stack(Call(method="POST", url=url + "/v1/chat/completions", headers={}, body=made.body))
        await stack.aclose()

    with ScriptedServer(chat("one"), chat("two"), chat("three")) as server:
        asyncio.run(ask("old", server.url, "a", "b"))
        asyncio.run(ask("new", server.url, "b", "c"))
        assert len(server.seen) == 3
    rollout = Rollout(
        prompt=Prompt(id="p", messages=()),
        sample=0,
        completion="x",
        token_ids=(1,),
        logprobs=(0.0,),
        policy_version=0,
        stop_reason="stop",
    )
    for run in ("old", "new"):
        store.commit_plan(run, 1, "prompts", {"of": run})
        store.put_rollouts(run, 1, [rollout])
    store.put_fact("licence", "mine")
    store.close()
    return path


def test_a_copy_holds_what_the_newest_run_used_and_replays_it(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "shipped" / "small.db"
    assert export_recording(path, out) == 2
    assert [file.name for file in out.parent.iterdir()] == ["small.db"]
    assert out.stat().st_mode & 0o777 == 0o600
    with open_recording(out) as recording:
        assert [run.id for run in recording.runs()] == ["new"]
        assert recording.plan("new", 1, "prompts") == {"of": "new"}
        assert recording.plan("old", 1, "prompts") is None
        assert len(recording.rollouts("new", 1)) == 1
        assert recording.verify() == []
        teacher = recording.calls()[0].teacher
    with closing(sqlite3.connect(out)) as plain:
        counts = [plain.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("attempts", "facts")]
        assert counts == [0, 1]
    stack = open_stack(Store(out, read_only=True), mode="replay")
    assert stack.offline is not None
    url = f"http://{teacher}/v1/chat/completions"
    texts = ["b", "c"]
    replies = [
        stack.offline(Call(method="POST", url=url, headers={}, body=call(text).body)).body.decode() for text in texts
    ]
    assert ["two" in replies[0], "three" in replies[1]] == [True, True]
    with pytest.raises(ReplayMiss):
        stack.offline(Call(method="POST", url=url, headers={}, body=call("a").body))


def test_another_run_or_none(path: Path, tmp_path: Path) -> None:
    assert export_recording(path, tmp_path / "old.db", run="old") == 2
    with open_recording(tmp_path / "old.db") as recording:
        assert [row.id for row in recording.calls("old")] == [1, 2]
    with pytest.raises(ConfigError, match="has no run `older`; it has old, new"):
        export_recording(path, tmp_path / "none.db", run="older")
    with pytest.raises(ConfigError, match="exists and is not overwritten"):
        export_recording(path, tmp_path / "old.db")
    with pytest.raises(ConfigError, match="no store at"):
        export_recording(tmp_path / "missing.db", tmp_path / "new" / "none.db")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/x\.db` cannot be written"):
        export_recording(path, tmp_path / "file" / "x.db", run="old")
    assert not (tmp_path / "none.db").exists()
    assert not (tmp_path / "new").exists()


def test_the_difference_of_two_calls_on_the_command_line(path: Path) -> None:
    def bbdistill(*arguments: str) -> str:
        command = [sys.executable, "-m", "bbdistill", "cache", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    said = bbdistill("diff", str(path), "1", "3")
    assert "--- call 1 request\n+++ call 3 request" in said
    assert '-    "content": "a",\n+    "content": "c",' in said
    assert '-    "content": "one",' in said
    assert '+    "content": "three",' in said
    assert bbdistill("diff", str(path), "2", "2") == ""
