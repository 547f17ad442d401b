"""Opens the store's file and says in one sentence what SQLite says in a code."""

import errno
import os
import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from sqlite_utils import Database

from bbdistill.client.schema import migrations
from bbdistill.errors import ConfigError, StoreError

BUSY_S = 30.0
"""How long a file that another process writes to is waited for."""
_SENTENCES = {
    sqlite3.SQLITE_FULL: "cannot be written: the disk is full; free some space and resume",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk is full or failing; free some space and resume",
    sqlite3.SQLITE_BUSY: "is locked by another process; wait until that one is done, and resume",
    sqlite3.SQLITE_LOCKED: "is locked by another process; wait until that one is done, and resume",
    sqlite3.SQLITE_NOTADB: "is not a store (no SQLite database); give another path",
    sqlite3.SQLITE_CORRUPT: "is damaged; restore it from a copy, or recover what can be with `sqlite3 FILE .recover`",
    sqlite3.SQLITE_READONLY: "cannot be written: it is read-only; replay it, or give a path you can write to",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check the path and its permissions",
    sqlite3.SQLITE_CONSTRAINT: "already has this entry, which is never overwritten",
}
_FAILED = "failed; `bbdistill cache verify` says whether it is damaged"
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class StoreBusy(StoreError):
    """Another process is writing to the file."""


class StoreEmpty(ConfigError):
    """The file has no tables at all: nothing is recorded in it yet, or another process is just making it."""


def _code(fault: sqlite3.Error) -> int:
    # The low byte is the primary code; the rest is detail.
    return getattr(fault, "sqlite_errorcode", 0) & 0xFF


@contextmanager
def in_words(path: Path) -> Generator[None]:
    """Turns what SQLite and the file system raise into a StoreError."""
    try:
        yield
    except sqlite3.Error as fault:
        kind = StoreBusy if _code(fault) in _LOCKED else StoreError
        raise kind(f"the store `{path}` {_SENTENCES.get(_code(fault), _FAILED)} ({fault})") from fault
    except UnicodeDecodeError as fault:  # of a damaged text that SQLite quotes in a complaint
        raise StoreError(f"the store `{path}` {_SENTENCES[sqlite3.SQLITE_CORRUPT]}") from fault
    except OSError as fault:
        said = fault.strerror or fault
        raise StoreError(
            f"the store `{path}` cannot be opened for writing ({said}); replay it, or give a path you can write to"
        ) from fault


@contextmanager
def writing(database: Database, *, patient: bool = True) -> Generator[Database]:
    """One transaction, all or nothing; inside another it is part of that one.

    Without `patient` it fails where it would have to wait. It takes the write lock at once: one that begins by reading
    is refused, not made to wait, if another wrote since.
    """
    if database.conn.in_transaction:
        yield database
        return
    if patient:
        database.conn.execute("BEGIN IMMEDIATE")
    else:
        _begin_now(database)
    try:
        yield database
        database.conn.execute("COMMIT")
    except BaseException:
        database.rollback()
        raise


def _begin_now(database: Database) -> None:
    database.conn.execute("PRAGMA busy_timeout = 0")
    try:
        database.conn.execute("BEGIN IMMEDIATE")
    finally:
        database.conn.execute(f"PRAGMA busy_timeout = {1000 * BUSY_S:.0f}")


def open_database(path: Path, *, read_only: bool) -> Database:
    """A connection of any thread's (the caller locks), its schema up to date.

    ConfigError where the file is not there or no store, StoreError where it cannot be read or written.
    """
    with in_words(path):
        connection = _connect_read_only(path) if read_only else _connect(path)
        try:
            database = Database(connection, execute_plugins=False)
            if not read_only:
                _prepare(database)
            _check_schema(database, path)
        except BaseException as fault:
            connection.close()
            if isinstance(fault, sqlite3.DatabaseError) and _code(fault) == sqlite3.SQLITE_NOTADB:
                raise ConfigError(f"`{path}` is not a store (no SQLite database); give another path") from fault
            raise
        return database


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Made before SQLite opens it, which gives its side files the mode of this one: replies are nobody else's business.
    # One that is there is not touched: closing it would drop the locks that SQLite holds on it for this process.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False)


def _connect_read_only(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise ConfigError(f"no store at `{path}`; record one first with mode `auto`")
    # Without pending writes nothing else needs the file, and `immutable` opens it even in a read-only directory.
    options = "mode=ro" if path.with_name(path.name + "-wal").exists() else "mode=ro&immutable=1"
    address = f"file:{quote(str(path.resolve()))}?{options}"
    return sqlite3.connect(address, uri=True, timeout=BUSY_S, check_same_thread=False)


def _prepare(database: Database) -> None:
    _enable_wal(database)
    database.conn.execute("PRAGMA synchronous = NORMAL")
    if not migrations.pending(database):
        return
    # Two processes may open a new store at once: the second waits here, and finds the tables of the first.
    with writing(database):
        migrations.apply(database)


def _enable_wal(database: Database) -> None:
    """Changing the mode does not wait for a lock by itself."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            database.enable_wal()
            return
        except sqlite3.OperationalError as fault:
            if _code(fault) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _check_schema(database: Database, path: Path) -> None:
    ours = {migration.name for migration in migrations.pending(Database(memory=True))}
    newer = {migration.name for migration in migrations.applied(database)} - ours
    if newer:
        raise StoreError(
            f"the store `{path}` was written by a newer bbdistill: its schema is {max(newer)}, this one knows up to "
            f"{max(ours)}; upgrade bbdistill, or give another path"
        )
    if not database.table_names():
        raise StoreEmpty(f"nothing is recorded in the store `{path}` yet; record with mode `auto` first")
    # One that is only read may lack what later migrations add.
    if "m001_initial" in {migration.name for migration in migrations.pending(database)}:
        raise ConfigError(f"`{path}` is not a store: it has no table of calls; give another path")
