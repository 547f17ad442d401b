"""What is bought again when something changes between two runs of `collect`: only what was never answered."""

from collections.abc import Callable
from pathlib import Path

import pytest
from rule_teacher import RuleTeacher, rule_teacher, write_task

from bbdistill.collect import collect
from bbdistill.errors import ConfigError

Change = Callable[[Path], tuple[str, ...]]
"""Edits the task in a folder; returns overrides of its config."""

STEERED = "---\nvariables: []\n---\n# system\nBe brief.\n# conversation\n"
SAME_TEXT = "---\ndescription: says the same\nvariables: []\n---\n\n# system  \n\n  Be brief.\n\n\n# conversation\n"


def nothing(_: Path) -> tuple[str, ...]:
    return ()


def one_row_more(folder: Path) -> tuple[str, ...]:
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"prompt": "number 77"}\n')
    return ()


def rows_shuffled(folder: Path) -> tuple[str, ...]:
    lines = (folder / "train.jsonl").read_text().splitlines()
    (folder / "train.jsonl").write_text("\n".join(reversed(lines)))
    return ()


def whitespace_around_the_template(folder: Path) -> tuple[str, ...]:
    (folder / "prompts" / "demonstrate.md").write_text(SAME_TEXT)
    return ()


def another_verifier(_: Path) -> tuple[str, ...]:
    return ('task.verifier="fields"',)


def other_limits(_: Path) -> tuple[str, ...]:
    return ("teacher.concurrency=3", "teacher.timeout_s=17.0")


def another_word_in_the_template(folder: Path) -> tuple[str, ...]:
    (folder / "prompts" / "demonstrate.md").write_text(STEERED.replace("brief", "short"))
    return ()


def ask(folder: Path, teacher: RuleTeacher, overrides: tuple[str, ...]) -> int:
    """Collects; the number of calls that reached the teacher."""
    before = teacher.asked.total()
    collect(folder / "task.toml", folder / "out.jsonl", overrides=('task.templates="prompts"', *overrides))
    return teacher.asked.total() - before


@pytest.mark.parametrize(
    ("change", "calls"),
    [
        (nothing, 0),
        (one_row_more, 1),
        (rows_shuffled, 0),
        (whitespace_around_the_template, 0),
        (another_verifier, 0),
        (other_limits, 0),
        (another_word_in_the_template, 24),
    ],
)
def test_what_is_bought_again(change: Change, calls: int, tmp_path: Path):
    with rule_teacher() as teacher:
        write_task(tmp_path, teacher, Path("none"))
        (tmp_path / "prompts").mkdir()
        (tmp_path / "prompts" / "demonstrate.md").write_text(STEERED)
        assert ask(tmp_path, teacher, ()) == 24
        assert ask(tmp_path, teacher, change(tmp_path)) == calls


@pytest.mark.parametrize(
    ("out", "says"), [("train.jsonl", "would replace a file of the task"), (".", "is a directory")]
)
def test_answers_never_replace_the_prompts(out: str, says: str, tmp_path: Path):
    with rule_teacher() as teacher:
        config = write_task(tmp_path, teacher, Path("none"))
        before = (tmp_path / "train.jsonl").read_bytes()
        with pytest.raises(ConfigError, match=says):
            collect(config, tmp_path / out)
        assert teacher.asked.total() == 0
    assert (tmp_path / "train.jsonl").read_bytes() == before
