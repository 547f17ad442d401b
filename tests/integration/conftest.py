"""What the tests of `advise` share."""

from pathlib import Path

import pytest
from advise_task import NO, PROSE, YES, Command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: None) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")


@pytest.fixture(scope="session")
def undecided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that is right in three of ten answers, whatever is asked."""
    from student_fixtures import saying_student

    return saying_student(tmp_path_factory.mktemp("undecided"), {YES: 0.3, NO: 0.3, PROSE: 0.4})


@pytest.fixture(scope="session")
def hopeless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that is never right."""
    from student_fixtures import saying_student

    return saying_student(tmp_path_factory.mktemp("hopeless"), {PROSE: 1.0})
