"""A task to advise on, and `bbdistill advise` as a user runs it, in this process: torch is loaded once."""

import json
import sqlite3
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scripted_server import ScriptedServer

from bbdistill.cli import main

YES, NO, PROSE = '{"label": "yes"}', '{"label": "no"}', "It depends."
PRICES = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 10.0}
A_CALL = 200e-6
"""Dollars: 100 tokens in, 10 out, at those prices."""


def write_task(
    folder: Path,
    server: ScriptedServer,
    *,
    student: Path | None = None,
    verifier: Any = "fields",
    completions: bool = False,
    prompts: int = 30,
    **teacher: Any,
) -> Path:
    """Of the prompts every third is to be answered with yes and the others with no; a fifth is to validate on.

    There are references only where there is a verifier.
    """

    def line(number: int) -> dict[str, Any]:
        right = YES if number % 3 == 0 else NO
        known = {"reference": json.loads(right)} if verifier else {}
        return {"prompt": f"number {number}", **known, **({"completion": right} if completions else {})}

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.jsonl").write_text("\n".join(json.dumps(line(number)) for number in range(prompts)))
    address = {"model": "openai:rules", "base_url": f"{server.url}/v1", "id": "rules", "cache": "store.db"}
    tables: dict[str, Mapping[str, Any]] = {
        "teacher": {**address, **PRICES, **teacher},
        "task": {"prompts": "train.jsonl", **({"verifier": verifier} if verifier else {})},
        "train": {"prompts_per_step": 4},
    }
    if student is not None:
        small = {"device": "cpu", "dtype": "float32", "lora_rank": 4, "max_new_tokens": 8}
        tables["student"] = {"model": str(student), **small}
    lines = ['recipe = "sft"']
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    (folder / "task.toml").write_text("\n".join(lines))
    return folder / "task.toml"


CHECK = """import os, random, signal

known = []

def judge(prompt, answer):
    {body}
"""


def write_check(folder: Path, name: str, body: str) -> str:
    """A verifier of the user's own; modules are loaded once, so `name` must be its alone in the whole test run."""
    (folder / f"{name}.py").write_text(CHECK.format(body=body))
    return f"{name}:judge"


def paid(store: Path) -> tuple[float, int]:
    """Dollars, and calls bought, by the store's own account of all runs."""
    with sqlite3.connect(store) as database:
        usd, bought = database.execute("SELECT total(usd), sum(calls - cached) FROM v_spend").fetchone()
    return usd, bought or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    code: Any
    out: str
    err: str

    @property
    def said(self) -> str:
        """The last line of stderr."""
        return self.err.strip().splitlines()[-1]


class Command:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, config: Path, *options: str | Path) -> Done:
        self._monkeypatch.setattr(sys, "argv", ["bbdistill", "advise", str(config), *map(str, options)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        captured = self._capsys.readouterr()
        return Done(code=left.value.code, out=captured.out, err=captured.err)

    def json(self, config: Path, *options: str | Path) -> dict[str, Any]:
        done = self(config, "--json", *options)
        assert done.code == 0, done.err
        return json.loads(done.out)
