"""A small copy of a store: only what a run or a test suite used, to be committed or handed on."""

import os
import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from bbdistill.client.sqlite import in_words, open_database
from bbdistill.errors import ConfigError


def export(source: Path, out: Path, *, run: str | None = None, calls: Collection[int] | None = None) -> int:
    """Writes the new file `out`; returns how many calls it has. ConfigError if `out` exists or `run` is unknown.

    It holds what `run` used (None: the newest run; every call of a store without runs) and its plans and rollouts, or
    of that only the calls with these numbers. The log of attempts stays behind.
    """
    if out.exists():
        raise ConfigError(f"`{out}` exists and is not overwritten; give another path, or delete it first")
    whole = open_database(source, read_only=True)
    with closing(whole), in_words(source):
        run = _known(whole.conn, source, run)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            # SQLite writes into an empty file, which then keeps this mode: replies are nobody else's business.
            os.close(os.open(out, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except OSError as fault:
            raise ConfigError(f"`{out}` cannot be written ({fault.strerror}); give another path") from None
        try:
            whole.conn.execute("VACUUM INTO ?", [str(out)])
            with closing(sqlite3.connect(out)) as copy:
                _reduce(copy, run, calls)
                return copy.execute("SELECT count(*) FROM calls").fetchone()[0]
        except BaseException:
            out.unlink()
            raise


def _known(store: sqlite3.Connection, path: Path, run: str | None) -> str | None:
    runs = [row[0] for row in store.execute("SELECT id FROM runs ORDER BY started_at, rowid")]
    if run is not None and run not in runs:
        raise ConfigError(f"the store `{path}` has no run `{run}`; it has {', '.join(runs) or 'none'}")
    return run or (runs[-1] if runs else None)


def _reduce(copy: sqlite3.Connection, run: str | None, calls: Collection[int] | None) -> None:
    with copy:
        if run is not None:
            for table in _tables_by_run(copy):
                copy.execute(f"DELETE FROM {table} WHERE run IS NOT ?", [run])
            copy.execute("DELETE FROM runs WHERE id != ?", [run])
            copy.execute("DELETE FROM calls WHERE id NOT IN (SELECT call_id FROM run_calls)")
        if calls is not None:
            stored = {row[0] for row in copy.execute("SELECT id FROM calls")}
            left_out = [(number,) for number in stored - set(calls)]
            copy.executemany("DELETE FROM run_calls WHERE call_id = ?", left_out)
            copy.executemany("DELETE FROM calls WHERE id = ?", left_out)
        copy.execute("DELETE FROM attempts")
    copy.execute("PRAGMA journal_mode = DELETE")  # a read-only directory has no room for a write-ahead log
    copy.execute("VACUUM")


def _tables_by_run(copy: sqlite3.Connection) -> list[str]:
    query = "SELECT m.name FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table' AND c.name = 'run'"
    return [row[0] for row in copy.execute(query)]
