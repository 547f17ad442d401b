"""What servers give for the log-probs of a text: no number, too much probability, another text."""

import json
from typing import Any

import pytest

from bbdistill.measures import scored_metrics
from bbdistill.teacher.base import RawReply
from bbdistill.teacher.scorer import given_scores, own_scores
from bbdistill.types import Abstain, ScoredToken

TOKENS = {"Hi": -0.5, "!": -0.25}
OTHER = -3.0


def given(said: Any = None, other: Any = OTHER) -> RawReply:
    """`prompt_logprobs` of a template and a text of two tokens; `said` is what the second one gets."""
    logprobs = [TOKENS["Hi"], TOKENS["!"] if said is None else said]
    rows = [
        {str(id): {"decoded_token": text, "logprob": logprob}, "9": {"decoded_token": "?", "logprob": other}}
        for id, (text, logprob) in enumerate(zip(TOKENS, logprobs, strict=True))
    ]
    return reply({"prompt_logprobs": [None, {"7": {"decoded_token": "<user>", "logprob": -1.0}}, *rows]})


def own(said: Any = None, other: Any = OTHER) -> RawReply:
    """The same as `logprobs` of what it wrote."""
    logprobs = [TOKENS["Hi"], TOKENS["!"] if said is None else said]
    rows = [
        {"token": text, "logprob": logprob, "top_logprobs": [{"token": text, "logprob": logprob}, named("?", other)]}
        for text, logprob in zip(TOKENS, logprobs, strict=True)
    ]
    return reply({"choices": [{"logprobs": {"content": rows}}]})


def named(text: str, logprob: Any) -> dict[str, Any]:
    return {"token": text, "logprob": logprob}


def reply(body: Any) -> RawReply:
    return RawReply(path="/chat/completions", headers={}, body=json.dumps(body).encode())


@pytest.mark.parametrize(("read", "made"), [(given_scores, given), (own_scores, own)])
def test_a_log_prob_is_that_of_a_probability_or_there_is_none(read: Any, made: Any):
    found = read(made(), "Hi!")
    assert [(token.piece, token.logprob) for token in found] == [(b"Hi", -0.5), (b"!", -0.25)]
    for wrong in (float("nan"), float("inf"), 3.0, 1000, True, "-0.1", [], {}):
        assert read(made(wrong), "Hi!") is None
        assert read(made(other=wrong), "Hi!") is None
    # A sure token, and what rounding makes of it; minus infinity, as servers write it and as JSON need not.
    assert [read(made(sure, float("-inf")), "Hi!")[1].logprob for sure in (0, 1e-6, -(10**400))] == [0.0, 0.0, -9999.0]
    assert read(made(-0.25, -0.25), "Hi!") is None  # two tokens with 0.78 each


@pytest.mark.parametrize("read", [given_scores, own_scores])
def test_a_reply_that_is_nothing_like_it_has_no_scores(read: Any):
    for body in (None, [], {}, {"prompt_logprobs": None}, {"choices": None}, {"choices": [{"logprobs": None}]}):
        assert read(reply(body), "Hi!") is None
    for made in (given(), own()):
        assert read(made, "Hi") is None
        assert read(made, "Hello!") is None


def test_what_could_not_be_scored_is_counted():
    scored = (ScoredToken(piece=b"Hi", logprob=-0.5),)
    assert scored_metrics([scored, Abstain(reason="HTTP 400"), scored, scored]) == {"distill/unscored": 0.25}
    assert scored_metrics([]) == {}
