"""The example `search`: queries that find the right document, about the user's documents or this documentation."""

import asyncio
import json
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

from bbdistill.config import RunConfig, Settings
from bbdistill.errors import ConfigError, TeacherError
from bbdistill.evidence import write_rows
from bbdistill.examples.folder import CONFIG, check_free, config_text
from bbdistill.examples.search.passages import Document, read_folder
from bbdistill.examples.search.questions import HITS, Asked, Chosen, ask, choose, drawn
from bbdistill.metrics import Note, OnEvent
from bbdistill.task import resolve
from bbdistill.teacher.teacher import Teacher
from bbdistill.teacher.wait import waited
from bbdistill.templates import shipped
from bbdistill.verify.retrieval import Retrieval

HERE = Path(__file__).parent
RECORDING = "search.db"
FEWEST = 6
"""Documents that make a search."""
FILES = ("documents.jsonl", "train.jsonl", "test.jsonl", CONFIG)


def write_search(
    out: Path,
    *,
    folder: Path | None = None,
    teacher: str | None = None,
    base_url: str | None = None,
    max_usd: float | None = None,
    replay: str | None = None,
    on_event: OnEvent = lambda _: None,
    stop: threading.Event | None = None,
) -> Path:
    """Writes the example into the directory `out`, with questions of `teacher`; returns its config.

    Without a teacher they are those that came with the package, about the shipped documents, and so is their recording.
    ConfigError where something is wrong or would be replaced. What was asked is kept in `out`/cache.db: the same call
    after a stop, or under a higher cap, asks only for the rest.
    """
    recorded = teacher is None
    recording = shipped("cache") / RECORDING
    if recorded:
        given = {"a folder": folder, "--base-url": base_url, "--max-usd": max_usd, "--replay": replay}
        named = [name for name, value in given.items() if value is not None]
        if named:
            raise ConfigError(
                f"{' and '.join(named)} goes with a teacher that writes the questions: add --teacher provider:model "
                "(without one, the recorded questions about the built-in documents are taken)"
            )
        if not recording.is_file():
            raise ConfigError(f"the recorded questions are not at `{recording}`; add --teacher provider:model")
    check_free(out, (*FILES, RECORDING) if recorded else FILES)
    documents = shipped_documents() if folder is None else _documents(folder, on_event)
    text, config = example_config(out, documents, teacher=teacher, base_url=base_url)
    capped = resolve(config, Settings(max_usd=max_usd))
    make(out, text, documents, capped, replay=str(recording) if recorded else replay, on_event=on_event, stop=stop)
    if recorded:
        shutil.copyfile(recording, out / RECORDING)
    return out / CONFIG


def example_config(
    out: Path, documents: Sequence[Document], *, teacher: str | None = None, base_url: str | None = None
) -> tuple[str, RunConfig]:
    """The text of the config, and as it will be read from `out`. ConfigError where a value is wrong."""
    values = {
        "recorded": teacher is None,
        "teacher": teacher,
        "base_url": base_url,
        "documents": len(documents),
        "hits": HITS,
    }
    return config_text("search", out, values)


def make(
    out: Path,
    text: str,
    documents: Sequence[Document],
    config: RunConfig,
    *,
    replay: str | None = None,
    on_event: OnEvent = lambda _: None,
    stop: threading.Event | None = None,
) -> Chosen:
    """Asks the teacher of `config` for the questions and writes the files of the example, the config's `text` last."""
    stop = stop or threading.Event()
    about = drawn(documents)

    async def work() -> Asked:
        async with Teacher.from_config(config.teacher, replay=replay) as teacher:
            asking, what = ask(teacher, about), "asking for questions"
            return await waited(teacher, asking, what, total=len(about), on_event=on_event, stop=stop)

    asked = asyncio.run(work())
    index = out / "documents.jsonl"
    write_rows(index, ({"id": document.id, "text": document.text} for document in documents))
    try:
        chosen = choose(asked, Retrieval(index, k=HITS))
    except TeacherError:
        index.unlink()
        raise
    for name, questions in (("train", chosen.train), ("test", chosen.test)):
        rows = (question.row(f"{name}-{number:03d}") for number, question in enumerate(questions))
        write_rows(out / f"{name}.jsonl", rows)
    (out / CONFIG).write_text(text, encoding="utf-8")
    for line in chosen.lines():
        on_event(Note(text=line))
    return chosen


def shipped_documents() -> list[Document]:
    """Of this project's documentation, as it was when the questions about it were recorded."""
    lines = (HERE / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    return [Document(**json.loads(line)) for line in lines]


def _documents(folder: Path, on_event: OnEvent) -> list[Document]:
    documents, left_out = read_folder(folder)
    said = f"{len(documents)} passages in `{folder}`"
    if len(documents) < FEWEST:
        raise ConfigError(f"{said}, and {FEWEST} are needed: give a folder with more text")
    on_event(Note(text=said + (f"; {left_out} files are no UTF-8 text and left out" if left_out else "")))
    return documents
