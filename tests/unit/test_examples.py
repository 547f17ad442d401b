"""The built-in examples: what is written, from which documents and questions, and whether the code's tests tell."""

import json
import runpy
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import code_mistakes
import code_solutions
import pytest
from rule_teacher import RuleTeacher, rule_teacher

from bbdistill import cli
from bbdistill.configfile import load_config
from bbdistill.data import load_prompts
from bbdistill.errors import ConfigError, RunStopped, TeacherError
from bbdistill.examples import code
from bbdistill.examples.code import write_code
from bbdistill.examples.search import RECORDING, shipped_documents, write_search
from bbdistill.examples.search.passages import LONGEST, SHORTEST, read_folder, split, words
from bbdistill.examples.search.questions import TEST, TRAIN, choose, drawn
from bbdistill.metrics import Note
from bbdistill.recording import open_recording
from bbdistill.task import load_task
from bbdistill.templates import shipped
from bbdistill.types import Abstain, Prompt, Verdict
from bbdistill.verify.python_tests import PythonTests
from bbdistill.verify.retrieval import Retrieval
from bbdistill.verify.sandbox import why_not

ROOT = Path(__file__).resolve().parents[2]


def prose(count: int, word: str = "word") -> str:
    return " ".join(f"{word}{number}" for number in range(count))


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Thirty short files; each ends with a word of its own."""
    documents = tmp_path / "docs"
    for number in range(30):
        file = documents / f"part{number % 3}" / f"{number:02}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"Alpha beta gamma, page of number own{number}")
    return documents


# Documents


def test_a_short_text_is_one_passage_and_an_empty_one_none():
    assert split(f"# Title\n\n{prose(LONGEST - 2)}\n") == [f"# Title\n\n{prose(LONGEST - 2)}"]
    assert split(" \n\n") == []


def test_a_long_text_is_cut_at_headings_and_paragraphs_and_loses_nothing():
    sections = [f"## Part {number}\n\n{prose(50)}\n\n{prose(40, 'more')}" for number in range(5)]
    passages = split("\n\n".join(sections))
    assert passages == sections
    assert [words(passage) for passage in passages] == [93] * 5


def test_a_section_that_is_too_short_stays_with_the_next_one():
    text = f"# Title\n\nA line.\n\n## One\n\n{prose(100)}\n\n## Two\n\n{prose(120)}\n\n## End\n\n{prose(20)}"
    assert [passage.split("\n")[0] for passage in split(text)] == ["# Title", "## Two"]


def test_a_paragraph_without_an_end_is_cut_by_sentences_and_then_by_words():
    sentences = " ".join(f"{prose(29, f's{number}x')} end." for number in range(10))
    assert [words(passage) for passage in split(sentences)] == [180, 120]
    assert [words(passage) for passage in split(f"# Title\n\n{prose(450)}")] == [LONGEST, LONGEST, 52]


def test_code_in_a_fence_is_neither_heading_nor_cut():
    fence = f"```bash\n# not a heading\n\n{prose(90)}\n```"
    passages = split(f"{prose(150)}\n\n{fence}")
    assert passages == [prose(150), fence]


def test_the_readme_is_split_without_a_word_lost_and_no_passage_is_too_long():
    text = (ROOT / "README.md").read_text()
    passages = split(text)
    assert " ".join(passages).split() == text.split()
    assert max(map(words, passages)) <= LONGEST
    assert sum(words(passage) < SHORTEST for passage in passages) <= len(passages) / 5


def test_a_folder_is_read_by_path_and_what_is_no_text_is_counted(tmp_path: Path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "long.md").write_text("\n\n".join(prose(150, word) for word in "xyz"))
    (tmp_path / "a.rst").write_bytes(b"\xef\xbb\xbfhello \xc3\xa9")
    (tmp_path / "c.bin").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "d.txt").write_bytes(b"a\0b")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.txt").write_text("x")
    documents, left_out = read_folder(tmp_path)
    assert [document.id for document in documents] == ["a.rst#1", "b/long.md#1", "b/long.md#2", "b/long.md#3"]
    assert documents[0].text == "hello é"
    assert left_out == 2


def test_the_shipped_documents_are_many_short_and_different():
    documents = shipped_documents()
    assert 150 <= len(documents) <= 300
    assert len({document.id for document in documents}) == len({document.text for document in documents})
    assert max(words(document.text) for document in documents) <= LONGEST
    assert not any("AGENTS" in document.id for document in documents)


def test_the_script_writes_the_same_documents_each_time():
    script = runpy.run_path(str(ROOT / "scripts" / "example_documents.py"))
    assert script["text"]() == script["text"]()
    assert 150 <= script["text"]().count("\n") <= 300


# Questions


def asked(folder: Path, *answers: tuple[str, ...] | Abstain) -> tuple[list[Any], Retrieval]:
    documents, _ = read_folder(folder)
    documents = documents[: len(answers)]
    file = folder.parent / "index.jsonl"
    file.write_text("".join(json.dumps({"id": each.id, "text": each.text}) + "\n" for each in documents))
    return list(zip(documents, answers, strict=True)), Retrieval(file)


def test_the_last_third_is_tested_on_and_equal_questions_count_once(folder: Path):
    said = ("Where is page one?", "where is page ONE", "Another thing?")
    rows, index = asked(folder, *[said] * 5, ("Only here?",))
    chosen = choose(rows, index)
    assert [question.text for question in chosen.train] == ["Where is page one?", "Another thing?"]
    assert [question.text for question in chosen.test] == ["Only here?"]
    assert (chosen.duplicates, chosen.naming, chosen.asked) == (13, 0, 6)


def test_questions_that_name_something_are_left_out_of_both(folder: Path):
    said = [("What is `x`?", "First one?"), ("Does max_usd help?", "Second one?"), ("Third?", "--y?")]
    rows, index = asked(folder, *said)
    chosen = choose(rows, index)
    assert [question.text for question in (*chosen.train, *chosen.test)] == ["First one?", "Second one?", "Third?"]
    assert chosen.naming == 3


def test_an_easy_question_is_trained_on_only_if_there_are_too_few_others(folder: Path, monkeypatch: pytest.MonkeyPatch):
    answers = [(f"Is it own{number}?", f"Nothing like {number}?") for number in (0, 12, 15, 18, 21, 24)]
    rows, index = asked(folder, *answers)
    # Sorted by path, the first files are 00, 03, 06 and so on; only the first question's own word is its document's.
    hard, easy = 7, 1
    kept = choose(rows, index)
    assert (kept.easy, kept.easy_kept, len(kept.train)) == (easy, easy, hard + easy)
    monkeypatch.setattr("bbdistill.examples.search.questions.TRAIN", hard)
    chosen = choose(rows, index)
    assert (chosen.easy, chosen.easy_kept, len(chosen.train)) == (easy, 0, hard)
    assert "Is it own0?" not in [question.text for question in chosen.train]
    assert len(chosen.test) == len(kept.test) == 4


def test_the_plain_questions_are_scored_as_queries(folder: Path):
    answers = [(f"Where is own{number}?",) for number in (0, 3, 6, 9)] + [("own12",), ("nothing",)]
    rows, index = asked(folder, *answers)
    chosen = choose(rows, index)
    assert (chosen.plain_hits, chosen.plain_score) == (0.5, 0.5)
    assert "hit@5 0.500, mean 1/rank 0.500" in chosen.lines()[-1]


def test_a_teacher_with_nothing_usable_is_an_error_that_says_why(folder: Path):
    rows, index = asked(folder, *[Abstain(reason="refusal")] * 6)
    with pytest.raises(TeacherError, match=r"6 documents gave 0 questions .* refusal \(6\)"):
        choose(rows, index)


def test_the_documents_asked_about_depend_on_their_ids_alone():
    documents = shipped_documents()
    assert drawn(documents) == drawn(documents[::-1])
    assert len(drawn(documents)) == 150


# The example `search`


def written(out: Path, teacher: RuleTeacher, folder: Path, **options: Any) -> tuple[Path, list[str]]:
    notes: list[str] = []
    config = write_search(
        out,
        folder=folder,
        teacher="openai:rules",
        base_url=teacher.base_url,
        on_event=lambda event: notes.append(event.text) if isinstance(event, Note) else None,
        **options,
    )
    return config, notes


def test_search_writes_a_task_that_loads_and_whose_splits_share_no_document(tmp_path: Path, folder: Path):
    with rule_teacher() as teacher:
        config, notes = written(tmp_path / "out", teacher, folder)
        assert sum(teacher.asked.values()) == 30
    train, test = lines(tmp_path / "out" / "train.jsonl"), lines(tmp_path / "out" / "test.jsonl")
    documents = {row["id"] for row in lines(tmp_path / "out" / "documents.jsonl")}
    used = [{row["reference"] for row in rows} for rows in (train, test)]
    assert len(documents) == 30
    assert used[0] & used[1] == set()
    assert used[0] | used[1] <= documents
    # "Is there help?" is asked about every document, and kept once; each `Alpha` is named.
    assert (len(train), len(test)) == (21, 10)
    assert "30 passages" in notes[0]
    assert "left out: 30 questions that name a file, a key or an option, 29 that were there already" in notes
    assert [message["role"] for message in train[0]["messages"]] == ["system", "user"]
    loaded = load_config(config)
    assert (loaded.recipe, loaded.teacher.cache) == ("isft", tmp_path / "out" / "cache.db")
    assert loaded.require_student().max_new_tokens == 32
    task = load_task(loaded)
    assert (len(task.train) + len(task.validation), len(task.test), task.test_seen_in_train) == (21, 10, 0)
    verdict = task.verify(task.test[0], str(task.test[0].messages[-1]["content"]))
    assert verdict == Verdict(score=1.0, passed=True, feedback="")


def test_search_is_the_same_again_from_its_record_without_a_server(tmp_path: Path, folder: Path):
    with rule_teacher() as teacher:
        written(tmp_path / "one", teacher, folder)
    written(tmp_path / "two", teacher, folder, replay=str(tmp_path / "one" / "cache.db"))
    for name in ("documents.jsonl", "train.jsonl", "test.jsonl", "task.toml"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert not (tmp_path / "two" / "cache.db").exists()


def test_stopped_it_leaves_only_the_record_and_goes_on_from_there(tmp_path: Path, folder: Path):
    stop = threading.Event()
    stop.set()
    with rule_teacher() as teacher:
        with pytest.raises(RunStopped, match="the same command"):
            written(tmp_path / "out", teacher, folder, stop=stop)
        assert {path.suffix for path in (tmp_path / "out").iterdir()} <= {".db", ".db-wal", ".db-shm"}
        written(tmp_path / "out", teacher, folder)
        assert max(teacher.asked.values()) == 1


def test_nothing_is_replaced_and_nothing_asked_before_that_is_clear(tmp_path: Path, folder: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.jsonl").write_text("mine")
    with rule_teacher() as teacher, pytest.raises(ConfigError, match=r"train.jsonl` exists and is not overwritten"):
        written(tmp_path / "out", teacher, folder)
    assert sum(teacher.asked.values()) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train.jsonl"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"folder": Path("docs")}, "a folder goes with a teacher"),
        ({"base_url": "http://x/v1", "max_usd": 1.0}, "--base-url and --max-usd goes with a teacher"),
        ({"teacher": "openai:m", "folder": Path("none")}, "`none` is not a directory"),
        ({"teacher": "openai:m", "folder": Path("few")}, "1 passages in `few`, and 6 are needed"),
        ({"teacher": "other:m"}, "expected `openai:MODEL`, `anthropic:MODEL` or `local:PATH`"),
        ({"teacher": "openai:m", "base_url": "http://me:pass-1@x/v1"}, "without user, password or key"),
        ({"teacher": "openai:m", "base_url": "http://127.0.0.1:9/v1", "max_usd": 1.0}, "no price is known"),
        ({"teacher": "openai:m"}, "OPENAI_API_KEY"),
        ({"teacher": "openai:m", "replay": "none.db"}, "nothing to replay"),
    ],
    ids=str,
)
def test_search_says_what_is_wrong_and_writes_nothing(
    options: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("few").mkdir()
    Path("few/a.txt").write_text("a line")
    with pytest.raises(ConfigError, match=says):
        write_search(Path("out"), **options)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "give the JSONL file of your prompts, or --example"),
        ({"replay": "x.db"}, "--replay cannot be used without --example search"),
        (
            {"example": "search", "recipe": "gad", "test": Path("t")},
            "--test, --recipe cannot be used with --example search",
        ),
        ({"example": "code", "prompts": Path("docs")}, "a folder cannot be used with --example code"),
        ({"example": "code", "max_usd": 1.0, "replay": "x"}, "--max-usd, --replay cannot be used with --example code"),
    ],
    ids=str,
)
def test_init_refuses_what_does_not_go_together(options: dict[str, Any], says: str):
    with pytest.raises(ConfigError, match=says):
        cli.init(**options)


@pytest.mark.skipif(not (shipped("cache") / RECORDING).exists(), reason="scripts/record_search was not run yet")
def test_the_shipped_recording_gives_the_example_and_its_run_offline(tmp_path: Path):
    config = load_config(write_search(tmp_path / "out"))
    task = load_task(config)
    assert (len(task.train) + len(task.validation), len(task.test)) == (TRAIN, TEST)
    assert config.teacher.cache == tmp_path / "out" / RECORDING
    with open_recording(config.teacher.cache) as recording:
        (run,) = recording.runs()
        purposes = {call.purpose for call in recording.calls(run.id)}
        assert recording.plan(run.id, 0, "prompts") is not None
    assert {"demonstrations", "corrections", "evaluation"} <= purposes
    assert config.teacher.cache.stat().st_size < 3e6


# The example `code`


def tasks() -> Sequence[dict[str, Any]]:
    return [row for name in code.DATA for row in lines(code.HERE / name)]


def passes(module: Any, row: dict[str, Any]) -> list[bool]:
    """For each test of the task whether the module's function passes it."""
    names = {row["id"]: getattr(module, row["id"])}
    found = []
    for test in row["reference"]["tests"]:
        try:
            exec(test, dict(names))
        except Exception:
            found.append(False)
        else:
            found.append(True)
    return found


def test_code_writes_a_task_that_loads(tmp_path: Path):
    config = load_config(write_code(tmp_path / "out", teacher="openai:m", base_url="http://127.0.0.1:9/v1"))
    assert (config.recipe, config.task.verifier, config.teacher.model) == ("isft", ("python_tests",), "openai:m")
    assert len(load_prompts(config.task.prompts).prompts) == 40
    assert config.task.test is not None
    assert len(load_prompts(config.task.test).prompts) == 16
    with pytest.raises(ConfigError, match=r"train.jsonl` exists and is not overwritten"):
        write_code(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").write_text("x")
    with pytest.raises(ConfigError, match="is a file; give a directory"):
        write_code(tmp_path / "out")


def test_code_tasks_are_different_and_say_their_function():
    rows = tasks()
    assert len({row["id"] for row in rows}) == len(rows) == 56
    for row in rows:
        assert row["messages"][-1]["content"].startswith(f"def {row['id']}(")
        assert row["messages"][-1]["content"].count("\n") == 1
        assert 3 <= len(row["reference"]["tests"]) <= 5


@pytest.mark.parametrize("row", tasks(), ids=lambda row: row["id"])
def test_every_test_passes_the_solution_and_some_fails_the_mistake(row: dict[str, Any]):
    assert all(passes(code_solutions, row))
    assert not all(passes(code_mistakes, row))


@pytest.mark.skipif(why_not("bwrap") is not None, reason="no bubblewrap here")
def test_the_verifier_runs_every_test_of_the_tasks():
    rows = tasks()
    everything = [test for row in rows for test in row["reference"]["tests"]]
    prompt = Prompt(id="all", messages=(), reference={"tests": everything})
    program = (ROOT / "tests" / "code_solutions.py").read_text()
    verify = PythonTests()
    assert verify(prompt, program) == Verdict(score=1.0, passed=True, feedback="")
    verdict = verify(prompt, (ROOT / "tests" / "code_mistakes.py").read_text())
    assert isinstance(verdict, Verdict)
    failed = sum(not passed for row in rows for passed in passes(code_mistakes, row))
    assert verdict.score == pytest.approx(1 - failed / len(everything))
