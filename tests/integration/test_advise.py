"""Constructed tasks, advised from the command line: the right recommendation for the right reason, under its cap."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from scripted_server import Answer, ScriptedServer, chat, error
from student_fixtures import saying_student

import bbdistill
from bbdistill.advisor.advise import measure
from bbdistill.advisor.ask import ask
from bbdistill.advisor.decide import RECIPES, decide
from bbdistill.cli import main
from bbdistill.configfile import dump_config, load_config
from bbdistill.errors import BudgetExceeded, ConfigError, RunStopped
from bbdistill.estimate import estimate
from bbdistill.task import load_task
from bbdistill.types import Verdict

YES, NO, PROSE = '{"label": "yes"}', '{"label": "no"}', "I cannot say."
PRICES = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 10.0}
A_CALL = 200e-6
"""Dollars: 100 tokens in, 10 out, at those prices."""


def write_task(
    folder: Path,
    server: ScriptedServer,
    *,
    student: Path | None = None,
    verifier: bool = True,
    completions: bool = False,
) -> Path:
    """30 prompts, of which every third is to be answered with yes and the others with no; 24 of them to train on."""

    def line(number: int) -> dict[str, Any]:
        right = YES if number % 3 == 0 else NO
        known = {"reference": json.loads(right)} if verifier else {}
        return {"prompt": f"number {number}", **known, **({"completion": right} if completions else {})}

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.jsonl").write_text("\n".join(json.dumps(line(number)) for number in range(30)))
    tables: dict[str, Mapping[str, Any]] = {
        "teacher": {
            "model": "openai:rules",
            "base_url": f"{server.url}/v1",
            "id": "rules",
            "cache": "store.db",
            **PRICES,
        },
        "task": {"prompts": "train.jsonl", **({"verifier": "fields"} if verifier else {})},
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    code: Any
    out: str
    err: str


class Command:
    """`bbdistill advise`, in this process: torch is loaded once."""

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


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: None) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")


def first_of(*recipes: str) -> str:
    """The first that this build has."""
    return next(name for name in recipes if name in RECIPES)


def test_good_demonstrations_are_imitated(tmp_path: Path, command: Command) -> None:
    student = saying_student(tmp_path / "student", {YES: 0.3, NO: 0.3, PROSE: 0.4})
    with ScriptedServer(otherwise=chat(PROSE)) as server:
        config = write_task(tmp_path, server, student=student, completions=True)
        found = command.json(config, "--write", tmp_path / "next" / "task.toml")
    assert found["recommends"] == "sft"
    assert "24 demonstrations came with the data, and 100 % (24 of 24) of them pass" in found["reason"]
    figures = found["findings"]
    assert figures["given_pass"] == {"value": 1.0, "n": 24}
    assert figures["teacher_pass"] == {"value": 0.0, "n": 24}
    assert figures["answer_tokens"] == {"value": 2.0, "n": 24}  # a text is one token, and its end another
    # What the student says by itself it finds as likely as it says it: -ln 0.3, and nothing for the end of the turn.
    assert figures["nll"]["value"] == pytest.approx(1.204 / 2, abs=0.01)
    assert figures["costs"][0]["recipe"] == "sft"
    assert figures["costs"][0]["hours"] > 0
    written, before = (dump_config(load_config(file)) for file in (tmp_path / "next" / "task.toml", config))
    assert written == before
    assert "24 demonstrations" in (tmp_path / "next" / "task.toml").read_text()


def test_a_student_that_passes_sometimes_is_selected_from(tmp_path: Path, command: Command) -> None:
    student = saying_student(tmp_path / "student", {YES: 0.3, NO: 0.3, PROSE: 0.4})
    with ScriptedServer(otherwise=chat(PROSE)) as server:
        config = write_task(tmp_path, server, student=student)
        found = command.json(config)
        assert len(server.seen) == 24
        again = command.json(config)
        assert len(server.seen) == 24
    assert found["recommends"] == first_of("best_of_n", "gad")
    figures = found["findings"]
    assert figures["pass_at_1"]["n"] == figures["bits"]["n"] == 24
    assert figures["pass_at_1"]["value"] == pytest.approx(0.3, abs=0.1)
    assert figures["pass_at_k"]["value"] == pytest.approx(1 - 0.7**4, abs=0.2)
    # Four rollouts see 0.66 of the 0.88 bits that there are: the mean of H(c/4) over c ~ Bin(4, 0.3).
    assert figures["bits"]["value"] == pytest.approx(0.66, abs=0.15)
    assert "the teacher passes 0 % (0 of 24), but the student passes" in found["reason"]
    assert f"{figures['bits']['value']:.2f} bits" in found["reason"]
    assert found["findings"]["spent_usd"] == pytest.approx(24 * A_CALL)
    assert again["findings"]["spent_usd"] == 0
    timed = ("sample_s", "train_s", "costs", "spent_usd")
    assert {k: v for k, v in again["findings"].items() if k not in timed} == {
        k: v for k, v in figures.items() if k not in timed
    }
    # What was bought is what a run would ask for, and a replay needs no server.
    line = next(line for line in estimate(config).lines if line.purpose == "demonstrations")
    assert line.cached == line.calls[0] == 24
    assert command.json(config, "--replay", tmp_path / "store.db")["reason"] == found["reason"]


def test_a_student_that_never_passes_is_corrected(tmp_path: Path, command: Command) -> None:
    student = saying_student(tmp_path / "student", {PROSE: 1.0})
    with ScriptedServer(otherwise=chat(YES)) as server:  # right for every third prompt
        found = command.json(write_task(tmp_path, server, student=student))
    figures = found["findings"]
    assert found["recommends"] == first_of("isft", "gad")
    assert (figures["pass_at_1"]["value"], figures["bits"]["value"]) == (0.0, 0.0)
    assert figures["zero_variance"]["value"] == 1.0
    assert 0.2 <= figures["teacher_pass"]["value"] <= 0.5
    assert "too few to imitate as they come, enough to correct" in found["reason"]


def test_a_student_and_a_teacher_that_never_pass_leave_the_reward_silent(tmp_path: Path, command: Command) -> None:
    student = saying_student(tmp_path / "student", {PROSE: 1.0})
    with ScriptedServer(otherwise=chat(PROSE)) as server:
        found = command.json(write_task(tmp_path, server, student=student))
    assert found["recommends"] == first_of("isft", "gad")
    assert "the student passes 0 % (24 prompts), where a reward carries 0.00 bits per rollout" in found["reason"]


def test_a_verifier_that_accepts_everything_is_to_be_fixed(tmp_path: Path, key: None) -> None:
    with ScriptedServer(otherwise=chat(NO)) as server:
        config = load_config(write_task(tmp_path, server))
        task = replace(load_task(config), verify=lambda *_: Verdict(score=1.0, passed=True, feedback=""))
        advice = decide(measure(config, task))
    assert advice.recommends == "fix the verifier"
    assert "the verifier accepts everything: it passes 24 of 24 empty answers" in advice.reason
    assert "24 of 24 cut answers" in advice.reason


def test_nothing_to_learn_from_is_a_problem_of_the_data(tmp_path: Path, command: Command) -> None:
    with ScriptedServer(otherwise=error(401)) as server:
        config = write_task(tmp_path, server, verifier=False)
        done = command(config, "--write", tmp_path / "next.toml")
    assert done.code == 0
    said = " ".join(done.out.split())
    assert said.startswith("recommended: data problem no demonstrations came with the data, the teacher cannot be used")
    assert "HTTP 401" in said
    assert "there is no verifier; collect first" in said
    assert max(map(len, done.out.splitlines())) <= 79
    assert "next.toml` not written" in done.err
    assert not (tmp_path / "next.toml").exists()


def test_without_torch_the_rest_still_works(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from bbdistill.cli import main; main()"
    with ScriptedServer(otherwise=chat(NO)) as server:
        config = write_task(tmp_path, server, student=tmp_path / "never-loaded")
        done = subprocess.run(
            [sys.executable, "-c", code, "advise", str(config), "--json"],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "OPENAI_API_KEY": "any"},
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["findings"]
    assert found["teacher_pass"]["n"] == 24
    assert found["rejects_other"]["value"] == 1.0
    assert found["pass_at_1"]["value"] is None
    assert found["pass_at_1"]["why"] == "torch not installed: `pip install 'bbdistill[train]'`"


@pytest.mark.parametrize("cap", [0.0005, 0.0112, 0.0114, 0.012, 0.0135, 0.016, 0.5])
@pytest.mark.parametrize("reply", [chat(NO), chat(NO, tokens=(900, 700)), chat(PROSE, finish="length")])
def test_the_cap_is_never_passed(tmp_path: Path, key: None, cap: float, reply: Answer) -> None:
    usage = json.loads(reply.body)["usage"]
    price = (usage["prompt_tokens"] * 1.0 + usage["completion_tokens"] * 10.0) / 1e6
    with ScriptedServer(otherwise=reply) as server:
        config = write_task(tmp_path, server)
        with suppress(BudgetExceeded):  # where not even the first call fits
            found = bbdistill.advise(config, max_usd=cap, sample=12).findings
            assert found.spent_usd == pytest.approx(len(server.seen) * price)
        assert len(server.seen) * price <= cap
        assert len(server.seen) == 12 or cap < 0.5
        assert bool(server.seen) == (cap > 0.0113)  # 1,000 + 88 tokens in, 1,024 out


def test_a_sample_that_the_cap_cuts_short_says_so(tmp_path: Path, key: None) -> None:
    notes: list[Any] = []
    with ScriptedServer(otherwise=chat(NO)) as server:
        config = write_task(tmp_path, server)
        advice = bbdistill.advise(config, max_usd=0.0130, on_event=notes.append)
        asked = len(server.seen)
    assert 0 < asked < 24
    assert advice.findings.teacher_answers.n == advice.findings.teacher_pass.n == asked
    assert any(f"{asked} of 24 prompts were answered: the cap of $0.013" in getattr(note, "text", "") for note in notes)


def test_without_a_price_no_cap_can_be_kept(tmp_path: Path, command: Command) -> None:
    with ScriptedServer(otherwise=chat(NO)) as server:
        config = write_task(tmp_path, server)
        config.write_text("\n".join(line for line in config.read_text().splitlines() if "_per_mtok" not in line))
        done = command(config)
        assert not server.seen
    assert done.code == 2
    assert "no price is known for `openai:rules`" in done.err


def test_what_is_written_is_the_same_task_with_the_recipe_advised(tmp_path: Path, key: None) -> None:
    with ScriptedServer(otherwise=chat(YES)) as server:
        config = write_task(tmp_path, server)
        out = tmp_path / "written.toml"
        advice = bbdistill.advise(config, write=out, overrides=("teacher.max_usd_by={evaluation=2.5}",))
        with pytest.raises(ConfigError, match="not overwritten"):
            bbdistill.advise(config, write=out)
    assert advice.recommends == first_of("isft", "gad")
    written, before = load_config(out), load_config(config)
    assert (written.recipe, written.teacher.max_usd_by.evaluation) == (advice.recommends, 2.5)
    assert (written.task, written.teacher.cache) == (before.task, before.teacher.cache)
    assert written.train.prompts_per_step == before.train.prompts_per_step == 4
    assert 'prompts = "train.jsonl"' in out.read_text()


def test_a_stop_keeps_what_was_bought(tmp_path: Path, key: None) -> None:
    stop = threading.Event()
    with ScriptedServer(otherwise=chat(NO, delay_s=0.3)) as server:
        config = load_config(write_task(tmp_path, server), ("teacher.concurrency=2",))
        threading.Timer(0.4, stop.set).start()
        with pytest.raises(RunStopped, match="go on with: the same command"):
            ask(config, load_task(config).train, mode="auto", replay=None, on_event=print, stop=stop)
        bought = len(server.seen)
        assert 0 < bought < 24
        server.otherwise = chat(NO)
        again = ask(
            config, load_task(config).train, mode="auto", replay=None, on_event=lambda _: None, stop=threading.Event()
        )
        assert len(server.seen) == 24
    assert len(again.usable) == 24


def test_a_stop_while_the_student_is_measured_says_what_was_spent(tmp_path: Path, key: None) -> None:
    student = saying_student(tmp_path / "student", {PROSE: 1.0})
    stop = threading.Event()

    def stop_at_the_student(event: object) -> None:
        if getattr(event, "text", "").startswith("student:"):
            stop.set()

    with ScriptedServer(otherwise=chat(NO)) as server:
        config = write_task(tmp_path, server, student=student)
        with pytest.raises(RunStopped, match=r"spent so far: \$0\.0048"):  # 24 calls
            bbdistill.advise(config, on_event=stop_at_the_student, stop=stop)
