"""Writes of an event loop: together, in order, each with its own outcome, and never in the loop's way."""

import asyncio
import sqlite3
import time
from functools import partial
from pathlib import Path

import pytest

from bbdistill.client import sqlite
from bbdistill.client.sqlite import StoreBusy
from bbdistill.client.store import Store
from bbdistill.client.writer import Writer
from bbdistill.errors import StoreError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "calls.db")


def test_writes_keep_their_order_and_are_on_disk_when_awaited(store: Store) -> None:
    async def work() -> dict[str, str]:
        writer = Writer(store)
        writer.post(partial(store.put_fact, "a", "first"))
        await writer.write(partial(store.put_fact, "a", "second"))
        other = Store(store.path, read_only=True)
        try:
            return other.facts()
        finally:
            other.close()

    assert asyncio.run(work()) == {"a": "second"}


def test_what_one_raises_concerns_that_one_alone(store: Store) -> None:
    def wrong() -> None:
        raise StoreError("no")

    async def work() -> list[object]:
        writer = Writer(store)
        writes = [writer.write(partial(store.put_fact, name, name)) for name in "ab"]
        return await asyncio.gather(writes[0], writer.write(wrong), writes[1], return_exceptions=True)

    outcomes = asyncio.run(work())
    assert [type(outcome) for outcome in outcomes] == [type(None), StoreError, type(None)]
    assert store.facts() == {"a": "a", "b": "b"}


def test_who_no_longer_waits_takes_nothing_back(store: Store) -> None:
    async def work() -> None:
        writer = Writer(store)
        waiting = asyncio.create_task(writer.write(partial(store.put_fact, "a", "kept")))
        await asyncio.sleep(0)
        waiting.cancel()
        await writer.flush()
        assert waiting.cancelled()

    asyncio.run(work())
    assert store.facts() == {"a": "kept"}


def test_a_locked_file_does_not_stop_the_loop(store: Store) -> None:
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    async def work() -> float:
        writer = Writer(store)
        writing = asyncio.create_task(writer.write(partial(store.put_fact, "a", "late")))
        longest, looked = 0.0, time.monotonic()
        for _ in range(20):
            await asyncio.sleep(0.01)
            longest, looked = max(longest, time.monotonic() - looked), time.monotonic()
        assert not writing.done()
        other.execute("ROLLBACK")
        await writing
        return longest

    assert asyncio.run(work()) < sqlite.BUSY_S / 10
    assert store.facts() == {"a": "late"}


def test_a_file_that_stays_locked_is_given_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_S", 0.05)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    async def work() -> None:
        writer = Writer(store)
        with pytest.raises(StoreBusy, match="locked by another process"):
            await writer.write(partial(store.put_fact, "a", "never"))
        other.execute("ROLLBACK")
        await writer.write(partial(store.put_fact, "b", "after"))

    asyncio.run(work())
    assert store.facts() == {"b": "after"}
