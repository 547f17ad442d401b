"""The example `search` from documents to a recording that gives all of it back: as scripts/record_search makes it."""

import json
import runpy
from pathlib import Path

from rule_teacher import rule_teacher

from bbdistill import open_recording, run
from bbdistill.configfile import load_config
from bbdistill.data import load_prompts
from bbdistill.examples.search import write_search
from bbdistill.metrics import Event, Note

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SMALL = ("train.steps=1", "train.rounds=1", "train.prompts_per_step=4", "task.validation_size=2")


def test_questions_and_run_replay_from_one_small_recording(tmp_path: Path, tiny_student: Path):
    shipping = runpy.run_path(str(SCRIPTS / "shipping.py"))
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(12):
        (docs / f"{number:02}.txt").write_text(f"Alpha beta gamma, page of number own{number}")
    overrides = (*SMALL, f"student.model={tiny_student}", "student.max_new_tokens=6", "student.dtype=float32")
    notes: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    with rule_teacher() as teacher:
        given = {"folder": docs, "teacher": "openai:rules", "base_url": teacher.base_url}
        config = write_search(tmp_path / "one", **given)
        live = run(config, overrides=overrides, out=tmp_path / "live")
        store = load_config(config).teacher.cache
        with open_recording(store) as recording:
            asked, trained = (found.id for found in recording.runs())
        shipping["adopt"](store, asked, trained)
        shipping["ship"](store, tmp_path / "small.db", run=trained, licence="any")
        calls = sum(teacher.asked.values())

    again = write_search(tmp_path / "two", replay=str(tmp_path / "small.db"), on_event=note, **given)
    assert (tmp_path / "one" / "train.jsonl").read_bytes() == (tmp_path / "two" / "train.jsonl").read_bytes()
    replayed = run(again, overrides=overrides, out=tmp_path / "replayed", replay=str(tmp_path / "small.db"))
    assert sum(teacher.asked.values()) == calls
    assert replayed.report["eval"] == live.report["eval"]

    with open_recording(tmp_path / "small.db") as recording:
        (kept,) = recording.runs()
        assert kept.calls == len(recording.calls()) == calls
        assert kept.config == {}
    test = load_prompts(tmp_path / "one" / "test.jsonl").prompts
    # The teacher searches with the document's own word, which the plain question has, too.
    assert live.report["eval"]["teacher"]["valid"] == sum("own" in json.dumps(p.messages) for p in test) / len(test)
    assert "hit@5" in notes[-1]
