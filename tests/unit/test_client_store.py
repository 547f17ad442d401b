"""The store: what it keeps, who may read it, and how it says that it cannot."""

import json
import multiprocessing
import os
import sqlite3
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bbdistill.client.keys import key
from bbdistill.client.retry import Attempt
from bbdistill.client.rows import CallRow
from bbdistill.client.sqlite import StoreEmpty
from bbdistill.client.store import Store
from bbdistill.config.models import TeacherConfig
from bbdistill.errors import ConfigError, StoreError
from bbdistill.teacher.connect import ready
from bbdistill.types import Prompt, Rollout


def row(text: str = "hi", *, kind: str = "ok", cost_usd: float | None = 0.25, **more: object) -> CallRow:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    request = {"teacher": "t", "path": "/v1/chat/completions", "sample": 0, "body": body}
    finish = {"ok": "stop", "length": "length", "refusal": "content_filter", "fault": "stop"}[kind]
    choice = {"finish_reason": finish, "message": {"content": f"re: {text}"}}
    made = CallRow(
        key=key(request),
        sample=0,
        teacher="t",
        path="/v1/chat/completions",
        request=json.dumps(request),
        status=200,
        content_type="application/json",
        headers="{}",
        reply=json.dumps({"choices": [choice]}),
        kind=kind,  # pyright: ignore[reportArgumentType]
        fault="it broke" if kind == "fault" else None,
        model="m",
        input_tokens=10,
        output_tokens=5,
        cached_tokens=0,
        cost_usd=cost_usd,
        purpose="demonstrations",
        prompt_id="p1",
        template="demonstrate@1",
        latency_s=0.5,
    )
    return replace(made, **more)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "deep" / "down" / "x.db")


def rollout(prompt_id: str, sample: int) -> Rollout:
    return Rollout(
        prompt=Prompt(id=prompt_id, messages=()),
        sample=sample,
        completion="é",
        token_ids=(1, 2),
        logprobs=(-0.1, -1e-17),
        policy_version=3,
        stop_reason="stop",
    )


def test_the_file_and_its_side_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = Store(tmp_path / "x.db")
        store.put_call(row())
    finally:
        os.umask(before)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert found == {"x.db": 0o600, "x.db-wal": 0o600, "x.db-shm": 0o600}


def test_a_call_comes_back_as_it_was(store: Store) -> None:
    call_id = store.put_call(row(), run="r")
    [found] = store.calls("r")
    assert found == replace(row(), id=call_id, version=1, created_at=found.created_at)
    assert found.brief()["key"] == row().key
    assert found.full()["reply"]["choices"][0]["message"]["content"] == "re: hi"
    assert store.verify() == []


def test_versions_are_added_and_never_overwritten(store: Store) -> None:
    for _ in range(3):
        store.put_call(row())
    assert [found.version for found in store.calls()] == [1, 2, 3]


def test_other_runs_reuse_only_good_replies_and_the_newest(store: Store) -> None:
    name = row().key
    store.put_call(row(), run="a")
    good = store.put_call(row(), run="a")
    refused = store.put_call(row(kind="refusal"), run="b")
    store.put_call(row(kind="fault"), run="c")
    assert [store.find(name, run).id for run in (None, "a", "c", "new")] == [good] * 4  # pyright: ignore
    assert store.find(name, "b").id == refused  # pyright: ignore
    assert store.find("0" * 64, "a") is None


def test_a_replay_gets_what_the_run_got_faults_last(store: Store) -> None:
    name = row().key
    first = store.put_call(row(kind="fault"), run="a")
    store.put_call(row(), run="b")
    assert store.find_used(name, "a").id == first  # pyright: ignore
    second = store.put_call(row(kind="length"), run="a")
    store.put_call(row(kind="fault"), run="a")
    assert store.find_used(name, "a").id == second  # pyright: ignore
    assert store.find_used(name, "c") is None


def test_runs_and_what_they_spent(store: Store) -> None:
    run = store.start_run({"a": 1}, note="first")
    bought = store.put_call(row(), run=run)
    store.put_call(row("other", cost_usd=None), run=run)
    store.use(run, bought)
    store.finish_run(run)
    store.use("second", bought)
    [one, two] = store.runs()
    assert (one.id, one.config, one.note, one.calls, one.finished_at is None) == (run, {"a": 1}, "first", 3, False)
    assert (two.id, two.calls) == (store.newest_run(), 1)
    [spend] = store.spend(run)
    assert (spend.purpose, spend.calls, spend.cached, spend.usd, spend.recorded_usd, spend.unpriced) == (
        "demonstrations",
        3,
        1,
        0.25,
        0.5,
        1,
    )
    assert [line.usd for line in store.spend("second")] == [0.0]


def test_a_plan_is_decided_once(store: Store) -> None:
    assert store.plan("r", 1, "pairs") is None
    store.commit_plan("r", 1, "pairs", {"pairs": [[0, 1]]})
    assert store.plan("r", 1, "pairs") == {"pairs": [[0, 1]]}
    with pytest.raises(StoreError, match="already has this entry"):
        store.commit_plan("r", 1, "pairs", {"pairs": []})
    assert store.plan("r", 1, "pairs") == {"pairs": [[0, 1]]}


def test_rollouts_of_a_step_are_written_together_or_not_at_all(store: Store) -> None:
    made = [rollout("b", 0), rollout("b", 1), rollout("a", 0)]
    store.put_rollouts("r", 1, made)
    found = store.rollouts("r", 1)
    assert [one.rollout(Prompt(id=one.prompt_id, messages=())) for one in found] == made
    with pytest.raises(StoreError):
        store.put_rollouts("r", 2, [rollout("a", 0), rollout("a", 0)])
    assert store.rollouts("r", 2) == []


def test_facts_and_attempts(store: Store) -> None:
    store.put_fact("licence", "MIT")
    store.put_fact("licence", "Apache-2.0")
    assert store.facts() == {"licence": "Apache-2.0"}
    store.attempt("k", "r", Attempt(number=2, status=429, fault="HTTP 429", latency_s=0.1, retry_after_s=3.0))
    with sqlite3.connect(store.path) as other:
        assert other.execute("SELECT number, status, retry_after_s FROM attempts").fetchall() == [(2, 429, 3.0)]


def test_attempts_of_unknown_outcome_count_as_spent(store: Store) -> None:
    def attempt(purpose: str | None, usd: float | None) -> Attempt:
        return Attempt(
            number=1, status=None, fault="lost", latency_s=1, retry_after_s=None, purpose=purpose, cost_usd=usd
        )

    store.put_call(row(cost_usd=0.25, purpose="preferences"), run="r")
    for purpose, usd in (("preferences", 0.5), ("preferences", None), ("corrections", 0.125), (None, 1.0)):
        store.attempt("k", "r", attempt(purpose, usd))
    store.attempt("k", "another", attempt("preferences", 64.0))
    spend = {line.purpose: (line.calls, line.usd, line.uncertain_usd) for line in store.spend("r")}
    assert spend == {"preferences": (1, 0.75, 0.5), "corrections": (0, 0.125, 0.125), "": (0, 1.0, 1.0)}
    assert store.spend("nobody") == []


def test_only_a_bought_call_without_even_a_worst_case_is_unpriced(store: Store) -> None:
    def attempt(usd: float | None) -> Attempt:
        known = {"number": 1, "status": 200, "fault": None, "latency_s": 1.0, "retry_after_s": None}
        return Attempt(**known, purpose="demonstrations", cost_usd=usd)  # pyright: ignore[reportArgumentType]

    bounded, unbounded = row("bounded", cost_usd=None), row("unbounded", cost_usd=None)
    store.put_call(bounded, run="r")
    store.attempt(bounded.key, "r", attempt(0.5))
    store.use("another", store.put_call(unbounded, run="r"))
    store.attempt(unbounded.key, "r", attempt(None))
    assert {run: (line.usd, line.unpriced) for run in ("r", "another") for line in store.spend(run)} == {
        "r": (0.5, 1),
        "another": (0.0, 0),
    }


SPEND = "SELECT purpose, calls, cached, usd, recorded_usd FROM v_spend WHERE run = ?"


def test_a_store_of_an_older_version_can_be_read_and_is_brought_up_to_date_when_written(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "cache" / "demo.db"
    copy = tmp_path / "old.db"
    copy.write_bytes(shipped.read_bytes())
    old = Store(copy, read_only=True)
    run = old.newest_run()
    assert run is not None
    assert len(old.calls(run)) > 100
    assert copy.read_bytes() == shipped.read_bytes()
    before = {row[0]: row[1:] for row in sqlite3.connect(copy).execute(SPEND, [run])}
    after = {row.purpose: (row.calls, row.cached, row.usd, row.recorded_usd) for row in Store(copy).spend(run)}
    assert after == before
    assert len(after) > 1


def test_views_can_be_read_by_anyone(store: Store) -> None:
    verdict = json.dumps({"choices": [{"message": {"content": '{"winner": "A"}'}, "finish_reason": "stop"}]})
    store.put_call(row(purpose="preferences", template="compare@1", reply=verdict), run="r")
    store.put_call(row("x", template="compare@1", reply="data: not json", content_type="text/event-stream"), run="r")
    with sqlite3.connect(store.path) as other:
        assert other.execute("SELECT winner FROM v_preferences ORDER BY id").fetchall() == [("A",), (None,)]
        assert other.execute("SELECT count(*) FROM v_calls").fetchone() == (2,)
        assert other.execute("SELECT calls FROM v_spend ORDER BY purpose").fetchall() == [(1,), (1,)]


def test_verify_finds_what_was_changed(store: Store) -> None:
    for text in ("a", "b", "c"):
        store.put_call(row(text))
    with sqlite3.connect(store.path) as other:
        other.execute("UPDATE calls SET request = replace(request, 'a', 'z') WHERE id = 1")
        other.execute("UPDATE calls SET reply = substr(reply, 1, 20) WHERE id = 2")
        other.execute("UPDATE calls SET kind = 'length' WHERE id = 3")
    said = store.verify()
    assert len(said) == 3
    assert "the request or the key was changed" in said[0]
    assert "its reply cannot be read" in said[1]
    assert "is `ok` and marked `length`" in said[2]


def test_the_nearest_request_is_the_most_similar_one(store: Store) -> None:
    for text in ("What is the capital of France?", "Write a poem", "What is the capital of Italy?"):
        store.put_call(row(text))
    wanted = json.loads(row("What is the capital of Francia?").request)
    found = store.nearest(wanted)
    assert found is not None
    assert found["body"]["messages"][0]["content"] == "What is the capital of France?"


def test_the_nearest_request_is_of_the_same_model_purpose_and_prompt_before_the_text_counts(store: Store) -> None:
    def request(text: str, model: str) -> dict[str, Any]:
        path = "/v1/chat/completions"
        return {"teacher": "t", "path": path, "sample": 0, "body": {"model": model, "messages": text}}

    wanted = request("Sort 1 2 3 4 5", "m")
    tags = {"purpose": "demonstrations", "prompt_id": "p7"}
    for text, model, purpose, prompt in (
        ("Sort 1 2 3 4 6", "other", "demonstrations", "p7"),
        ("Sort 1 2 3 4 7", "m", "evaluation", "p7"),
        ("Sort 1 2 3 4 8", "m", "demonstrations", "p8"),
        ("Order 9 9", "m", "demonstrations", "p7"),
    ):
        store.put_call(row(text, request=json.dumps(request(text, model)), purpose=purpose, prompt_id=prompt))
    assert store.nearest(wanted, tags)["body"]["messages"] == "Order 9 9"  # pyright: ignore
    assert store.nearest(wanted, tags | {"prompt_id": "new"})["body"]["messages"] == "Sort 1 2 3 4 8"  # pyright: ignore


def test_of_two_that_differ_in_one_line_the_nearest_has_fewer_other_letters(store: Store) -> None:
    for text in ("abcdefgh 54321", "xyz 12345", "abcdefgh 12346"):
        store.put_call(row(text))
    found = store.nearest(json.loads(row("abcdefgh 12345").request))
    assert found is not None
    assert found["body"]["messages"][0]["content"] == "abcdefgh 12346"


def _write_many(path: Path, name: str) -> None:
    store = Store(path)
    for number in range(40):
        store.put_call(row(f"shared {number % 8}"), run=name)
        store.commit_plan(name, number, "n", {})
    store.close()


def test_processes_share_a_new_store(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    spawn = multiprocessing.get_context("fork")
    workers = [spawn.Process(target=_write_many, args=(path, f"run{n}")) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    store = Store(path)
    calls = store.calls()
    assert len(calls) == 120
    assert {call.version for call in calls} == set(range(1, 16))
    assert sorted(run.calls for run in store.runs()) == [40, 40, 40]


def test_read_only_needs_no_writable_directory_and_changes_nothing(store: Store) -> None:
    store.put_call(row(), run="r")
    store.close()
    os.chmod(store.path, 0o400)
    os.chmod(store.path.parent, 0o500)
    try:
        reader = Store(store.path, read_only=True)
        assert len(reader.calls()) == 1
        with pytest.raises(StoreError, match="read-only"):
            reader.put_call(row())
        reader.close()
        assert [path.name for path in store.path.parent.iterdir()] == ["x.db"]
    finally:
        os.chmod(store.path.parent, 0o700)


def test_read_only_sees_what_another_process_is_writing(store: Store) -> None:
    store.put_call(row())
    assert len(Store(store.path, read_only=True).calls()) == 1


FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_client_store import row
from bbdistill.client.store import Store
from bbdistill.errors import StoreError
store = Store(sys.argv[1])
store.put_call(row(), run="r")
room = Path(sys.argv[1] + "-wal").stat().st_size + 100_000
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
try:
    for number in range(100):
        store.put_call(row("x" * 20_000), run="r")
except StoreError as fault:
    print(fault)
print(len(store.calls("r")), store.verify())
"""


def test_a_full_disk_is_a_store_error_and_keeps_what_was_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "x.db"), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=True,
    )
    said, kept = done.stdout.splitlines()
    assert "the disk is full" in said
    count, problems = kept.split(" ", 1)
    assert 1 < int(count) < 100
    assert problems == "[]"


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    for text in ("hello, I am no database at all " * 100, '{"prompt": "Hi"}\n'):
        path.write_text(text)
        for read_only in (True, False):
            with pytest.raises(ConfigError, match="is not a store"):
                Store(path, read_only=read_only)
        assert path.read_text() == text


def test_a_store_of_a_newer_version_is_left_alone(store: Store) -> None:
    with sqlite3.connect(store.path) as other:
        other.execute("INSERT INTO _sqlite_migrations VALUES (99, 'bbdistill', 'm099_later', 'now')")
    store.close()
    for read_only in (True, False):
        with pytest.raises(StoreError, match=r"newer bbdistill: its schema is m099_later, this one knows up to m\d+"):
            Store(store.path, read_only=read_only)


def test_other_ways_not_to_be_a_store(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no store at"):
        Store(tmp_path / "none.db", read_only=True)
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path)
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE notes (text)").connection.commit()
    with pytest.raises(ConfigError, match="has no table of calls"):
        Store(tmp_path / "other.db", read_only=True)


@pytest.mark.parametrize("made", ["nothing", "wal"])
def test_a_store_that_another_process_is_just_making(tmp_path: Path, made: str) -> None:
    """Its file and its mode come a moment before its tables."""
    path = tmp_path / "x.db"
    path.touch()
    if made == "wal":
        sqlite3.connect(path).execute("PRAGMA journal_mode = WAL").connection.close()
        assert path.stat().st_size
    with pytest.raises(StoreEmpty, match=r"nothing is recorded in the store `.*x\.db` yet"):
        Store(path, read_only=True)
    teacher = TeacherConfig.model_validate({"model": "openai:m", "base_url": "http://127.0.0.1:9/v1", "cache": path})
    assert len(ready(teacher, mode="auto")) == 1
    Store(path).close()
    assert Store(path, read_only=True).calls() == []


def test_a_locked_store_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bbdistill.client.sqlite.BUSY_S", 0.1)
    mine = Store(store.path)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked by another process"):
        mine.put_call(row())
    other.execute("ROLLBACK")
    assert mine.put_call(row()) == 1
