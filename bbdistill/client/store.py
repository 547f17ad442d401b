"""The record: one SQLite file with every paid reply, what each run used, its plans and its rollouts.

Safe from any thread and beside other processes (two that ask the same at the same moment both buy it, and both replies
are kept). Calls are only ever added. `sqlite-utils` and Datasette open it too.
"""

import json
import secrets
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from bbdistill.client import audit, nearest
from bbdistill.client.keys import Request, to_json
from bbdistill.client.retry import Attempt
from bbdistill.client.rows import CALL_COLUMNS, AnswerRow, CallRow, RolloutRow, RunRow, SpendRow
from bbdistill.client.sqlite import in_words, open_database, writing
from bbdistill.client.values import as_object
from bbdistill.types import Rollout

__all__ = ["AnswerRow", "CallRow", "RolloutRow", "RunRow", "SpendRow", "Store"]

_GIVEN = ("id", "version", "created_at")
_WRITTEN = tuple(name for name in CALL_COLUMNS if name not in _GIVEN)
_PUT_CALL = f"""INSERT INTO calls ({", ".join(_WRITTEN)}, created_at, version)
    SELECT {", ".join(":" + name for name in _WRITTEN)}, :created_at, coalesce(max(version), 0) + 1
    FROM calls WHERE key = :key"""
_CALLS = "SELECT " + ", ".join(f"calls.{name}" for name in CALL_COLUMNS) + " FROM calls "
_ANSWERS = f"SELECT {', '.join(AnswerRow._fields)} FROM calls "
_USED = "EXISTS (SELECT 1 FROM run_calls WHERE run = :run AND call_id = calls.id)"


class Store:
    """One store file, made if it is missing. With `read_only` it is opened wherever it lies and never touched.

    Every method raises StoreError where the file cannot be read or written; ConfigError, at once, where it is no store.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path = Path(path).expanduser()
        self.read_only = read_only
        self._lock = threading.RLock()
        self._database = open_database(self.path, read_only=read_only)

    def close(self) -> None:
        with self._lock:
            self._database.close()

    # Calls

    def put_call(self, row: CallRow, *, run: str | None = None) -> int:
        """Adds a version of a call, noted as used by `run`; returns its id."""
        with self._writing() as database:
            return self._add_call(database, row, run)

    def use(self, run: str | None, call_id: int, *, cached: bool = True) -> None:
        """Notes that `run` was answered from the record."""
        if run is not None:
            with self._writing() as database:
                _use(database, run, call_id, cached=cached)

    def bought(self, run: str | None, call_id: int) -> bool:
        """Whether it was `run` that paid for this call."""
        query = "SELECT 1 FROM run_calls WHERE run = :run AND call_id = :call_id AND NOT cached"
        return bool(self._rows(query, run=run, call_id=call_id))

    def find(self, key: str, run: str | None, nth: int | None = None) -> AnswerRow | None:
        """What may answer a call of `run`: any reply this run already used, else the newest good one of any run.

        With `nth` it is the reply at this place, from 0, in the order of recording.
        """
        mine = None if run is None else self._answer(f"kind != 'fault' AND {_USED}", key, run, nth)
        return mine or self._answer("kind = 'ok'", key, run, nth)

    def find_used(self, key: str, run: str | None, nth: int | None = None) -> AnswerRow | None:
        """What `run` was answered, faults included where nothing better came; of any run if `run` is None.

        The newest, or with `nth` the one at this place, from 0, in the order of recording.
        """
        whose = "TRUE" if run is None else _USED
        good = f"kind != 'fault' AND {whose}"
        found = self._answer(good, key, run, nth)
        if found is None and (not nth or self._answer(good, key, run) is None):
            return self._answer(whose, key, run, nth)
        return found

    def calls(self, run: str | None = None) -> list[CallRow]:
        """Every call in the order of recording, or those that `run` used."""
        where = f"WHERE {_USED}" if run is not None else ""
        return [_call_row(row) for row in self._rows(f"{_CALLS} {where} ORDER BY calls.id", run=run)]

    def lengths(self, template: str, model: str) -> list[tuple[int, int]]:
        """(input, output) tokens of the replies to this template that were asked of this model."""
        return self._rows(
            """SELECT input_tokens, output_tokens FROM calls WHERE template = :template AND input_tokens IS NOT NULL
            AND json_extract(request, '$.body.model') = :model""",
            template=template,
            model=model,
        )  # pyright: ignore[reportReturnType]

    def nearest(self, request: Request, tags: Mapping[str, str] | None = None) -> Request | None:
        """The stored request most like `request`, which was tagged so; None if nothing is stored.

        What has the same path, model, purpose and prompt comes first, in this order; then the text decides.
        """
        same = """path = :path, json_extract(request, '$.body.model') IS :model, purpose IS :purpose,
            prompt_id IS :prompt_id, teacher = :teacher"""
        rows = self._rows(
            f"""SELECT request, {same} FROM calls WHERE json_valid(request) GROUP BY key
            ORDER BY 2 DESC, 3 DESC, 4 DESC, 5 DESC, 6 DESC, max(id) DESC LIMIT {nearest.CANDIDATES}""",
            path=request["path"],
            model=as_object(request.get("body")).get("model"),
            teacher=request["teacher"],
            **{name: (tags or {}).get(name) for name in ("purpose", "prompt_id")},
        )
        return nearest.most_similar(request, [json.loads(row[0]) for row in rows if row[1:] == rows[0][1:]])

    def attempt(self, key: str, run: str | None, attempt: Attempt) -> None:
        """Adds one try of a call."""
        with self._writing() as database:
            self._add_attempt(database, key, run, attempt)

    def verify(self) -> list[str]:
        """Problems of the file and of every stored call, a sentence each; empty if there are none."""
        damage = [row[0] for row in self._rows("PRAGMA quick_check") if row[0] != "ok"]
        return damage or [problem for row in self.calls() for problem in audit.problems(row)]

    # Runs

    def start_run(self, config: Mapping[str, Any], *, run: str | None = None, note: str | None = None) -> str:
        """Adds a run, or opens a finished one again; returns its id."""
        run = run or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        with self._writing() as database:
            _know(database, run)
            database.conn.execute(
                "UPDATE runs SET config = ?, note = ?, finished_at = NULL WHERE id = ?",
                [to_json(dict(config)), note, run],
            )
        return run

    def finish_run(self, run: str) -> None:
        with self._writing() as database:
            database.conn.execute("UPDATE runs SET finished_at = ? WHERE id = ?", [_now(), run])

    def runs(self) -> list[RunRow]:
        """Oldest first."""
        rows = self._rows(
            """SELECT id, started_at, config, finished_at, note, (SELECT count(*) FROM run_calls WHERE run = runs.id)
            FROM runs ORDER BY started_at, rowid"""
        )
        names = ("id", "started_at", "config", "finished_at", "note", "calls")
        return [RunRow(**(dict(zip(names, row, strict=True)) | {"config": json.loads(row[2])})) for row in rows]

    def newest_run(self, *, planned: bool = False) -> str | None:
        """The run that was started last; with `planned`, the last that trained, and not only asked."""
        which = "WHERE id IN (SELECT run FROM plans)" if planned else ""
        rows = self._rows(f"SELECT id FROM runs {which} ORDER BY started_at DESC, rowid DESC LIMIT 1")
        return rows[0][0] if rows else None

    def spend(self, run: str) -> list[SpendRow]:
        """By purpose."""
        names = tuple(field.name for field in fields(SpendRow))
        rows = self._rows(f"SELECT {', '.join(names)} FROM v_spend WHERE run = :run ORDER BY purpose", run=run)
        return [SpendRow(**dict(zip(names, row, strict=True))) for row in rows]

    # Plans and rollouts

    def plan(self, run: str, step: int, name: str) -> dict[str, Any] | None:
        """What `run` decided under this name at this step."""
        where = "WHERE run = :run AND step = :step AND name = :name"
        rows = self._rows(f"SELECT plan FROM plans {where}", run=run, step=step, name=name)
        return json.loads(rows[0][0]) if rows else None

    def commit_plan(self, run: str, step: int, name: str, plan: Mapping[str, Any]) -> None:
        """Writes a decision, once and for all: a second one under the same name is a StoreError."""
        with self._writing() as database:
            _know(database, run)
            _insert(database, "plans", {"run": run, "step": step, "name": name, "plan": to_json(dict(plan))})

    def put_rollouts(self, run: str, step: int, rollouts: Sequence[Rollout]) -> None:
        """Writes all rollouts of a step, or none."""
        rows = [
            {
                "run": run,
                "step": step,
                "prompt_id": rollout.prompt.id,
                "sample": rollout.sample,
                "completion": rollout.completion,
                "token_ids": json.dumps(rollout.token_ids),
                "logprobs": json.dumps(rollout.logprobs),
                "policy_version": rollout.policy_version,
                "stop_reason": rollout.stop_reason,
            }
            for rollout in rollouts
        ]
        with self._writing() as database:
            _know(database, run)
            for row in rows:
                _insert(database, "rollouts", row)

    def rollouts(self, run: str, step: int) -> list[RolloutRow]:
        """In the order of writing; empty if the step has none."""
        names = ("prompt_id", "sample", "completion", "token_ids", "logprobs", "policy_version", "stop_reason")
        rows = self._rows(
            f"SELECT {', '.join(names)} FROM rollouts WHERE run = :run AND step = :step ORDER BY rowid",
            run=run,
            step=step,
        )
        found = [dict(zip(names, row, strict=True)) for row in rows]
        for row in found:
            row["token_ids"], row["logprobs"] = tuple(json.loads(row["token_ids"])), tuple(json.loads(row["logprobs"]))
        return [RolloutRow(**row) for row in found]

    # Facts

    def put_fact(self, name: str, value: str) -> None:
        """Keeps something worth knowing about the recording, such as the licence of its teacher."""
        with self._writing() as database:
            database.conn.execute("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", [name, value])

    def facts(self) -> dict[str, str]:
        return dict(self._rows("SELECT name, value FROM facts ORDER BY name"))

    def _add_call(self, database: Database, row: CallRow, run: str | None) -> int:
        values = {name: value for name, value in asdict(row).items() if name in _WRITTEN}
        call_id = database.conn.execute(_PUT_CALL, values | {"created_at": _now()}).lastrowid
        assert call_id is not None
        _use(database, run, call_id, cached=False)
        return call_id

    def _add_attempt(self, database: Database, key: str, run: str | None, attempt: Attempt) -> None:
        _insert(database, "attempts", {"key": key, "run": run, "created_at": _now()} | asdict(attempt))

    def _answer(self, condition: str, key: str, run: str | None, nth: int | None = None) -> AnswerRow | None:
        """Of the versions of a call that meet `condition`, the newest, or with `nth` the one at this place."""
        order = "DESC" if nth is None else f"LIMIT 1 OFFSET {nth}"
        query = f"{_ANSWERS} WHERE key = :key AND {condition} ORDER BY version {order}"
        with self._lock, in_words(self.path):
            row = self._database.conn.execute(query, {"key": key, "run": run}).fetchone()
        return row and AnswerRow(*row)

    def _rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        with self._lock, in_words(self.path):
            return self._database.conn.execute(query, values).fetchall()

    @contextmanager
    def together(self) -> Generator[None]:
        """Makes one transaction of all writes inside. StoreBusy at once, if another process holds the file."""
        with self._writing(patient=False):
            yield

    @contextmanager
    def _writing(self, *, patient: bool = True) -> Generator[Database]:
        with self._lock, in_words(self.path), writing(self._database, patient=patient) as database:
            yield database


def _insert(database: Database, table: str, row: Mapping[str, Any]) -> None:
    names = ", ".join(row)
    database.conn.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join(':' + name for name in row)})", row)


def _use(database: Database, run: str | None, call_id: int, *, cached: bool) -> None:
    if run is not None:
        _know(database, run)
        _insert(database, "run_calls", {"run": run, "call_id": call_id, "cached": int(cached)})


def _know(database: Database, run: str) -> None:
    """A run is known from the first thing it does."""
    database.conn.execute("INSERT OR IGNORE INTO runs (id, started_at, config) VALUES (?, ?, '{}')", [run, _now()])


def _call_row(row: Sequence[Any]) -> CallRow:
    return CallRow(**dict(zip(CALL_COLUMNS, row, strict=True)))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
