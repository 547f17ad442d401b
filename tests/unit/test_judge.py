"""A judge apart from the teacher: who is asked what, one record, one cap, and what the ledger says of each."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from rule_teacher import rule_teacher
from scripted_server import Answer, ScriptedServer, chat

import bbdistill
from bbdistill.config import RunConfig
from bbdistill.configfile import parse_config, teacher_config
from bbdistill.errors import BudgetExceeded, ConfigError
from bbdistill.teacher.ask import Feedback, Questions, ask
from bbdistill.teacher.connect import connect, ready
from bbdistill.teacher.judge import teacher_and_judge
from bbdistill.teacher.ledger import Ledger
from bbdistill.teacher.scorer import NoScorer
from bbdistill.types import Prompt, Rollout, Verdict

PROMPT = Prompt(id="p", messages=({"role": "user", "content": "number 7"},))


def says(winner: str) -> Answer:
    return chat(json.dumps({"reason": "r", "winner": winner}))


def rollout(text: str) -> Rollout:
    return Rollout(
        prompt=PROMPT, sample=0, completion=text, token_ids=(), logprobs=(), policy_version=0, stop_reason="stop"
    )


def verify(_: Prompt, text: str) -> Verdict:
    """Knows the score from the text."""
    score = float(text.split()[0])
    return Verdict(score=score, passed=score == 1.0, feedback="")


def config(folder: Path, teacher: str, judge: str | None, both: dict[str, Any] | None = None, **more: Any) -> RunConfig:
    shared = both or {}
    raw: dict[str, Any] = {
        "recipe": "gad",
        "teacher": {"model": "openai:t", "base_url": teacher, "cache": str(folder / "t.db"), **shared, **more},
        "task": {"prompts": "none.jsonl"},
    }
    if judge is not None:
        raw["judge"] = {"model": "openai:j", "base_url": judge, **shared}
    return parse_config(raw, where="test", base=folder)


def asked(given: RunConfig, questions: Questions, *, replay: str | None = None) -> tuple[Feedback, Ledger]:
    async def work() -> tuple[Feedback, Ledger]:
        judge_config = given.judge_config if given.judge else None
        connection = connect(given.teacher, judge=judge_config, mode="auto", replay=replay, run="run")
        try:
            teacher, judge = teacher_and_judge(given, connection)
            return await ask(teacher, judge, NoScorer(), questions, verify), teacher.ledger
        finally:
            await connection.close()

    return asyncio.run(work())


def pairs(*texts: tuple[str, str]) -> Questions:
    return Questions(pairs=tuple((rollout(a), rollout(b)) for a, b in texts))


def test_preferences_go_to_the_judge_and_corrections_to_the_teacher(tmp_path: Path):
    fix = chat(json.dumps({"reason": "r", "corrected": "1 better"}))
    with ScriptedServer(fix) as teacher, ScriptedServer(otherwise=says("A")) as judge:
        given = config(tmp_path, teacher.url + "/v1", judge.url + "/v1")
        rest = (rollout("1 good"), Verdict(score=1.0, passed=True, feedback=""))
        questions = Questions(pairs=((rollout("0.5 x"), rollout("0.2 y")),), corrections=(rest,))
        feedback, ledger = asked(given, questions)
        assert len(teacher.seen) == 1
        assert len(judge.seen) == 4  # the pair, and whether the correction is better, each in both orders
        assert {json.loads(seen.body)["model"] for seen in judge.seen} == {"j"}
        # One record holds both, and one run.
        replayed, _ = asked(given, questions, replay=f"{tmp_path / 't.db'}#run")
        assert len(teacher.seen) + len(judge.seen) == 5
    assert replayed == feedback
    assert {line: found["calls"] for line, found in ledger.summary()["by_model"].items()} == {
        "openai:j": 4,
        "openai:t": 1,
    }
    with bbdistill.open_recording(tmp_path / "t.db") as recording:
        assert [run.calls for run in recording.runs()] == [5]


def test_agreement_counts_where_the_verifier_has_a_winner_too(tmp_path: Path):
    # This judge prefers the answer with a 7 in it.
    questions = pairs(("0.9 7", "0.1 b"), ("0.8 a", "0.9 7 c"), ("0.2 7", "0.3 b"), ("0.5 7", "0.5 b"))
    with ScriptedServer() as teacher, rule_teacher() as judge:
        feedback, ledger = asked(config(tmp_path, teacher.url + "/v1", judge.base_url), questions)
    assert ["7" in preference.chosen for preference in feedback.preferences] == [True] * 4
    row = ledger.summary()["by_model"]["openai:j"]
    assert (row["comparisons"], row["order_flip_rate"]) == (4, 0.0)
    assert (row["verifier_comparisons"], row["verifier_agreement"]) == (3, pytest.approx(2 / 3))
    assert list(ledger.summary()["by_model"]) == ["openai:j"]


def test_a_flip_is_neither_agreement_nor_its_contrary(tmp_path: Path):
    with ScriptedServer() as teacher, ScriptedServer(otherwise=says("A")) as judge:
        _, ledger = asked(config(tmp_path, teacher.url + "/v1", judge.url + "/v1"), pairs(("0.9 7", "0.1 b")))
    row = ledger.summary()["by_model"]["openai:j"]
    assert (row["comparisons"], row["order_flip_rate"]) == (1, 1.0)
    assert (row["verifier_comparisons"], row["verifier_agreement"]) == (0, None)


def test_without_a_judge_the_teacher_judges(tmp_path: Path):
    with rule_teacher() as teacher:
        feedback, ledger = asked(config(tmp_path, teacher.base_url, None), pairs(("0.9 7", "0.1 b")))
    assert len(feedback.preferences) == 1
    assert ledger.summary()["by_model"]["openai:t"]["verifier_agreement"] == 1.0


@pytest.mark.parametrize(("cap", "calls"), [(0.30, 3), (0.25, 2)])
def test_one_cap_is_over_both(cap: float, calls: int, tmp_path: Path):
    # A correction and two verdicts, ten cents each, and no more than that at worst.
    fix = chat(json.dumps({"reason": "r", "corrected": "1 better"}))
    dear = {"input_usd_per_mtok": 0.0, "output_usd_per_mtok": 10_000.0, "max_tokens": 10}
    questions = Questions(corrections=((rollout("1 good"), Verdict(score=1.0, passed=True, feedback="")),))
    with ScriptedServer(fix) as teacher, ScriptedServer(otherwise=says("A")) as judge:
        given = config(tmp_path, teacher.url + "/v1", judge.url + "/v1", dear, max_usd=cap)
        if calls == 3:
            _, ledger = asked(given, questions)
            assert ledger.summary()["cost_usd"] == pytest.approx(0.30)
        else:
            with pytest.raises(BudgetExceeded, match=r"cap of \$0.25 \(`max_usd`\) is reached: \$0.2000 is spent"):
                asked(given, questions)
        assert len(teacher.seen) + len(judge.seen) == calls


def test_the_ledger_survives_a_checkpoint():
    ledger, again = Ledger(), Ledger()
    with ledger.asking("m", "preferences"):
        ledger.abstained("m", "preferences", "refusal")
    ledger.compared("m", flipped=False)
    ledger.checked("m", agreed=True)
    again.restore(json.loads(json.dumps(ledger.state())))
    assert again == ledger
    assert again.summary() == ledger.summary()


@pytest.mark.parametrize("key", ["cache", "max_usd"])
def test_the_judge_has_no_store_and_no_cap_of_its_own(key: str, tmp_path: Path):
    raw = {
        "recipe": "gad",
        "teacher": {"model": "openai:t"},
        "judge": {"model": "openai:j", key: 1},
        "task": {"prompts": "x"},
    }
    with pytest.raises(ConfigError, match=f"unknown key `judge.{key}`"):
        parse_config(raw, where="test", base=tmp_path)


@pytest.mark.parametrize("purpose", ["preferences", "corrections", "rubric"])
def test_a_cap_on_what_a_judge_is_asked_needs_its_price(purpose: str, tmp_path: Path):
    priced = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0}
    asked = {"base_url": "http://127.0.0.1:9/v1", "api_key_cmd": "echo key", "cache": tmp_path / "t.db"}
    teacher = teacher_config(model="openai:teacher", max_usd_by={purpose: 1.0}, **asked, **priced)
    for price in (priced, {}):
        judge = teacher_config(model="openai:judge", **asked, **price)
        if price:
            ready(teacher, judge=judge, mode="auto")
            continue
        with pytest.raises(ConfigError, match="no price is known for `openai:judge`"):
            ready(teacher, judge=judge, mode="auto")
