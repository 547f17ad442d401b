"""The pytest plugin: fixture `bbdistill_replay`, with one store per test module, `recordings/<module>.db` beside it.

    pytest --bbdistill-record    asks what is not recorded yet; of modules that pass whole, drops what no test asked
    pytest                       replays: no network, no key; a miss fails the test, a call that no test used the suite

It is loaded in every pytest run of an environment, so everything else is imported by those who use the fixture.
"""

from __future__ import annotations  # of pytest's types, older releases do not have all

import os
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bbdistill.client.call import Repeat
    from bbdistill.client.edge import Library
    from bbdistill.client.http import Stack
    from bbdistill.client.replay import Replay
    from bbdistill.client.store import Store

_RUN = "tests"
"""Whose calls they are in the store: what was asked in one recording session is known to the next."""


class ReplayFixture:
    """What `bbdistill_replay` is: HTTP clients on the store of the test's module, for any SDK with `max_retries=0`."""

    def __init__(self, path: Path, *, record: bool, test: str) -> None:
        self.path = path
        self._record, self._test = record, test
        self._store: Store | None = None
        self._replays: list[Replay] = []
        self._blocking: list[Any] = []

    def http_client(self, *, repeat: Repeat = "same", library: Library = "httpx2", **settings: Any) -> Any:
        """As `bbdistill.http_client`, for an async SDK, which should be closed."""
        from bbdistill.client.edge import async_client

        stack, timeout_s = self._stack(repeat, settings)
        return async_client(stack, store=None, library=library, timeout_s=timeout_s)

    def sync_http_client(self, *, repeat: Repeat = "same", library: Library = "httpx2", **settings: Any) -> Any:
        """As `bbdistill.sync_http_client`; it is closed after the test."""
        from bbdistill.client.edge import sync_client

        stack, timeout_s = self._stack(repeat, settings)
        self._blocking.append(sync_client(stack, store=None, library=library, timeout_s=timeout_s))
        return self._blocking[-1]

    @property
    def used(self) -> set[int]:
        """Numbers of the recorded calls that the test was given."""
        return {number for replay in self._replays for number in replay.used}

    def check(self) -> None:
        """Fails the test if it asked what is not recorded, even where the code under test took that for an outage."""
        for miss in (miss for replay in self._replays for miss in replay.misses):
            pytest.fail(f"{miss}\nrecord it: pytest {self._test} --bbdistill-record", pytrace=False)

    def close(self) -> None:
        for client in self._blocking:
            client.close()
        if self._store is not None:
            self._store.close()

    def _stack(self, repeat: Repeat, settings: dict[str, Any]) -> tuple[Stack, float]:
        from bbdistill.client.http import ClientSettings, open_stack
        from bbdistill.client.store import Store

        if not self._record and not self.path.is_file():
            message = f"`{self.path}` is not there: nothing of this module is recorded"
            pytest.fail(f"{message}; record it once: pytest {self._test} --bbdistill-record", pytrace=False)
        wishes = ClientSettings(**settings)
        mode = "auto" if self._record else "replay"
        self._store = self._store or Store(self.path, read_only=not self._record)
        stack = open_stack(self._store, mode=mode, run=_RUN if self._record else None, repeat=repeat, settings=wishes)
        assert stack.replay is not None
        self._replays.append(stack.replay)
        return stack, wishes.timeout_s


class Bookkeeper:
    """Knows which recorded calls the tests used, and of which modules every test was run and passed."""

    def __init__(self, config: pytest.Config) -> None:
        self.record = bool(config.getoption("--bbdistill-record"))
        self.used: defaultdict[Path, set[int]] = defaultdict(set)
        # Tests named one by one, or only the last failures: nothing can be said of the others.
        self._partly = any("::" in argument for argument in config.args) or bool(config.getoption("lf", False))
        self._deselected: set[Path] = set()
        self._modules: dict[Path, set[str]] = {}
        self._passed: set[str] = set()
        self._says: list[str] = []

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self._deselected |= {item.path for item in items}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            self._modules.setdefault(item.path, set()).add(item.nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        try:
            return (yield)
        finally:
            fixture: Any = getattr(item, "funcargs", {}).get("bbdistill_replay")
            if fixture is not None:
                fixture.check()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self._passed.add(report.nodeid)
        elif report.failed:
            self._passed.discard(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        for module, tests in self._modules.items():
            if self._partly or module in self._deselected or not tests <= self._passed:
                continue
            path = recording_of(module)
            if path.is_file() and self._settle(path, self.used[module]) and session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._says:
            terminalreporter.section("bbdistill")
            for line in self._says:
                terminalreporter.line(line)

    def _settle(self, path: Path, used: set[int]) -> bool:
        """When recording, leaves in the store what was used. Otherwise whether something there was not used."""
        from bbdistill.client.store import Store

        store = Store(path, read_only=True)
        rows = store.calls()
        store.close()
        answered = {row.key for row in rows if row.id in used and row.kind != "fault"}
        kept = {row.id for row in rows if row.id in used and not (row.kind == "fault" and row.key in answered)}
        unused = [row for row in rows if row.id not in kept]
        if self.record:
            _reduce(path, kept)
            return False
        if unused:
            names = ", ".join(f"{row.id} ({row.path}, {row.model})" for row in unused[:5])
            more = f" and {len(unused) - 5} more" if len(unused) > 5 else ""
            self._says.append(f"{os.path.relpath(path)}: no test used the recorded calls {names}{more}")
            self._says.append("drop them: run the module with --bbdistill-record, which asks only what is missing")
        return bool(unused)


def recording_of(module: Path) -> Path:
    """Where the calls of a test module are recorded."""
    return module.parent / "recordings" / f"{module.stem}.db"


def _reduce(path: Path, kept: set[int]) -> None:
    from bbdistill.client.export import export

    if not kept:
        path.unlink()
        return
    beside = path.with_name(path.name + ".tmp")
    beside.unlink(missing_ok=True)
    export(path, beside, calls=kept)
    os.replace(beside, path)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("bbdistill").addoption(
        "--bbdistill-record",
        action="store_true",
        help="let `bbdistill_replay` ask what is not recorded yet (costs money), and drop what no test asks any more",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Bookkeeper(config), "bbdistill-bookkeeper")


@pytest.fixture
def bbdistill_replay(request: pytest.FixtureRequest) -> Iterator[ReplayFixture]:
    """Recorded API calls of this test module: `.http_client()` and `.sync_http_client()` go under an SDK."""
    bookkeeper = request.config.pluginmanager.get_plugin("bbdistill-bookkeeper")
    assert isinstance(bookkeeper, Bookkeeper)
    fixture = ReplayFixture(recording_of(request.path), record=bookkeeper.record, test=request.node.nodeid)
    yield fixture
    bookkeeper.used[request.path] |= fixture.used
    fixture.close()
