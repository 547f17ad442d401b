import json
from pathlib import Path

import pytest

from bbdistill import verify as verifiers
from bbdistill.evaluate import Answers, difference, interval, judge, mean
from bbdistill.types import Abstain, Prompt, Verdict


def prompt(name: str, reference: object = None) -> Prompt:
    return Prompt(id=name, messages=({"role": "user", "content": name},), reference=reference)


def verify(prompt: Prompt, text: str) -> Verdict | Abstain:
    """Wants `{`; with a reference, that too."""
    ok = text.startswith("{") and (prompt.reference is None or "1" in text)
    return Verdict(score=0.5 if ok else 0.0, passed=ok, feedback="")


def scored(name: str, *scores: float | None) -> Answers:
    return Answers(name=name, texts=("",) * len(scores), valid=(None,) * len(scores), scores=scores)


def test_valid_ignores_the_reference_and_score_uses_it():
    prompts = [prompt("a", {"x": 1, "y": 2}), prompt("b"), prompt("c"), prompt("d")]
    answers = judge("m", prompts, ['{"x": 1, "y": 3}', "{}", "no", None], verify)
    assert answers.valid == (1.0, 1.0, 0.0, None)
    assert answers.scores == (0.5, 0.5, 0.0, None)
    assert answers.summary()["n"] == 3
    assert answers.summary()["valid"] == pytest.approx(2 / 3)


def test_where_the_verifier_grades_valid_is_its_pass_rate_and_score_its_own(tmp_path: Path):
    rows = [{"id": f"d{n}", "text": "apple " * n + "pear " * (9 - n)} for n in range(1, 9)]
    (tmp_path / "documents.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    check = verifiers.load({"use": "retrieval:documents.jsonl", "k": 5}, base=tmp_path, reveal=False)
    asked = [prompt(name, name) for name in ("d8", "d5", "d1", "d8")]
    summary = judge("m", asked, ["apple", "apple", "apple", "banana"], check).summary()
    # Ranks 1, 4 and 8, and not found: hit@5 is the share of passes, score the mean of 1 / rank.
    assert summary["valid"] == 0.5
    assert summary["score"] == pytest.approx((1 + 1 / 4 + 1 / 8 + 0) / 4)
    assert summary["n"] == 4


def test_without_a_verifier_or_a_reference_there_is_no_score():
    answers = judge("m", [prompt("a")], ["x"], lambda p, t: Abstain(reason="none"))
    assert answers.summary() == {"valid": None, "score": None, "low": None, "high": None, "n": 0, "nll": None}


def test_the_interval_holds_the_mean_and_is_always_the_same():
    values = [0.0, 1.0] * 50
    low, high = interval(values)
    assert low is not None
    assert high is not None
    # The standard error of the mean is 0.05.
    assert low == pytest.approx(0.4, abs=0.02)
    assert high == pytest.approx(0.6, abs=0.02)
    assert (low, high) == interval(values)
    assert interval([0.5]) == (0.5, 0.5)


def test_a_paired_difference_is_narrower_than_the_difference_of_the_intervals():
    worse = scored("sft", *[0.0, 1.0] * 20)
    better = scored("student", *[0.1, 1.0] * 20)
    found = difference(better, worse)
    assert found["score"] == pytest.approx(0.05)
    assert found["low"] is not None
    assert found["low"] > 0.0


def test_a_prompt_that_one_of_them_did_not_answer_is_left_out_of_the_difference():
    assert difference(scored("a", 1.0, None, 0.5), scored("b", 0.0, 1.0, 0.5))["score"] == 0.5
    assert difference(scored("a", None), scored("b", 1.0)) == {"score": None, "low": None, "high": None}


def test_mean():
    assert mean([1.0, 2.0]) == 1.5
    assert mean([]) is None
