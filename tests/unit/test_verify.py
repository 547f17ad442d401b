"""Verifiers on answers worked out by hand: what passes, what it scores, and what the feedback may and may not say."""

import json
from pathlib import Path
from typing import Any

import pytest

from bbdistill import verify
from bbdistill.errors import ConfigError
from bbdistill.types import Abstain, Prompt, Span, Verdict
from bbdistill.verify.base import combine
from bbdistill.verify.fields import Fields, agreement, same
from bbdistill.verify.schema import JsonSchema

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"order": {"type": ["string", "null"]}, "urgency": {"enum": ["low", "high"]}},
    "required": ["order", "urgency"],
    "additionalProperties": False,
}
REFERENCE = {"customer": "Zoë Brandt", "order": "KX-1", "count": 2, "note": None}


def prompt(reference: Any = None) -> Prompt:
    return Prompt(id="p", messages=({"role": "user", "content": "?"},), reference=reference)


def judged(verifier: verify.Verifier, answer: str, reference: Any = None) -> Verdict:
    verdict = verifier(prompt(reference), answer)
    assert isinstance(verdict, Verdict)
    return verdict


def by_fields(answer: Any, *, reveal: bool = False) -> Verdict:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return judged(Fields(reveal=reveal), text, REFERENCE)


NOT_JSON = {
    "": "empty",
    " \n": "empty",
    '```json\n{"order": null, "urgency": "low"}\n```': "fence",
    'Here you are: {"order": null}': "before",
    '{"order": null} I hope this helps': "after",
    '{"order": "a", "order": "b"}': '"order" twice',
    '{"order": NaN}': "NaN",
    '{"order": -Infinity}': "-Infinity",
    '{"order": 1e999}': "not valid JSON",
    '{"order": "\\ud83d"}': "surrogate",
    '{"\\ud83d": 1, "\\ud83d": 2}': "twice",
    '{"order": ': "not valid JSON",
    "[" * 100_000 + "]" * 100_000: "too deep",
    "9" * 5_000: "not valid JSON",
}


@pytest.mark.parametrize("answer", NOT_JSON, ids=[f"{answer[:20]!r}" for answer in NOT_JSON])
@pytest.mark.parametrize("verifier", [JsonSchema(SCHEMA), Fields(reveal=False)], ids=["json_schema", "fields"])
def test_what_is_not_one_json_value_scores_0_and_is_told_why(verifier: verify.Verifier, answer: str):
    verdict = judged(verifier, answer, REFERENCE)
    assert (verdict.score, verdict.passed) == (0.0, False)
    assert NOT_JSON[answer] in verdict.feedback
    verdict.feedback.encode()


@pytest.mark.parametrize("depth", [500, 900, 960, 985, 1_000])
def test_an_answer_just_below_the_depth_limit_is_judged_not_raised(depth: int):
    answer = '{"order": ' + "[" * depth + "]" * depth + "}"
    assert not judged(JsonSchema(SCHEMA), answer).passed
    assert by_fields(answer).score == 0.0


def test_schema_passes_a_valid_answer_with_space_around_it():
    verdict = judged(JsonSchema(SCHEMA), ' {"order": "Ä-1 \u2028", "urgency": "low"}\n')
    assert verdict == Verdict(score=1.0, passed=True, feedback="")


def test_schema_names_path_finding_and_wish_one_line_per_violation():
    verdict = judged(JsonSchema(SCHEMA), '{"order": 7, "urgency": "asap"}')
    assert verdict.score == 0.0
    assert [span.where for span in verdict.spans] == ["$.order", "$.urgency"]
    first, second = verdict.feedback.split("\n")
    assert all(word in first for word in ("$.order", "7", "string", "null"))
    assert all(word in second for word in ("$.urgency", "asap", "low", "high"))


@pytest.mark.parametrize(
    ("answer", "named"),
    [('{"order": null}', "urgency"), ('{"order": null, "urgency": "low", "mood": 1}', "mood"), ("[1]", "object")],
)
def test_schema_names_what_is_missing_unexpected_or_of_the_wrong_kind(answer: str, named: str):
    verdict = judged(JsonSchema(SCHEMA), answer)
    assert not verdict.passed
    assert named in verdict.feedback


def test_schema_feedback_stays_short_for_a_hopeless_answer():
    verdict = judged(JsonSchema({"items": {"type": "string"}}), json.dumps([*range(1_000), "x" * 10_000]))
    assert len(verdict.spans) == 5
    assert len(verdict.feedback) < 2_000


@pytest.mark.parametrize(
    "schema", [3, None, [], "x", {"type": "strin"}, {"pattern": "["}, {"$ref": "#/nope"}, {"$ref": "http://a.test/b"}]
)
def test_a_broken_schema_is_refused_before_any_answer_is_seen(schema: Any, tmp_path: Path):
    (tmp_path / "s.json").write_text(json.dumps(schema))
    with pytest.raises(ConfigError, match=r"s\.json"):
        JsonSchema.read(tmp_path / "s.json")


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"n": {"type": "integer"}}, "items": {"$ref": "#/$defs/n"}},
        {"$id": "urn:x:list", "$defs": {"n": {"$anchor": "n", "type": "integer"}}, "items": {"$ref": "#n"}},
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": {"n": {"type": "integer"}},
            "items": {"$ref": "#/definitions/n"},
        },
    ],
)
def test_references_inside_a_schema_are_followed(schema: dict[str, Any]):
    assert judged(JsonSchema(schema), "[1, 2]").passed
    assert not judged(JsonSchema(schema), '[1, "2"]').passed


def test_fields_forgives_case_and_spacing_and_compares_numbers_by_value():
    right = {"customer": " ZOË\n brandt ", "order": "kx-1", "count": 2.0, "note": None}
    assert by_fields(right) == Verdict(score=1.0, passed=True, feedback="")


def test_fields_scores_the_share_of_right_fields():
    verdict = by_fields({"customer": "Zoë Brandt", "order": "12", "count": "2"})
    assert verdict.score == pytest.approx(1 / 4)
    assert not verdict.passed
    assert [span.where for span in verdict.spans] == ["order", "count", "note"]


def test_fields_feedback_keeps_the_expected_value_to_itself_unless_it_may_tell():
    answer = {**REFERENCE, "order": "12"}
    told, revealed = by_fields(answer).feedback, by_fields(answer, reveal=True).feedback
    assert "`order`" in told
    assert '"12"' in told
    assert "KX-1" not in told
    assert '"KX-1"' in revealed
    del answer["order"]
    assert "`order` is missing" in by_fields(answer).feedback
    assert "KX-1" not in by_fields(answer).feedback


def test_fields_reports_extra_fields_and_fails_on_them_at_full_score():
    verdict = by_fields({**REFERENCE, "mood": "good"})
    assert (verdict.score, verdict.passed) == (1.0, False)
    assert verdict.spans == (Span(where="mood", why=verdict.feedback),)
    assert "mood" in verdict.feedback


def test_feedback_stays_short_whatever_names_an_answer_makes_up():
    many = json.dumps({**REFERENCE, **{f"k{i}": i for i in range(20_000)}})
    assert by_fields(many).feedback.split("\n") == [
        *(f"`k{i}` should not be there." for i in range(5)),
        "19995 more fields should not be there.",
    ]
    long = by_fields({**REFERENCE, "k\n\x1b" * 100_000: 1})
    assert long.feedback == f"`{('k ' * 40)}…` should not be there."
    twice = by_fields('{"' + "k" * 100_000 + '": 1, "' + "k" * 100_000 + '": 2}')
    assert twice.feedback == f'The answer gives the key "{"k" * 80}…" twice.'
    deep = judged(JsonSchema({"additionalProperties": {"type": "string"}}), json.dumps({"k" * 100_000: 1}))
    assert deep.feedback == f"`$.{'k' * 98}…`: 1 is not of type 'string'"


def test_a_pattern_of_a_schema_that_would_go_on_for_ever_is_no_verdict():
    schema = JsonSchema({"properties": {"code": {"type": "string", "pattern": "^(x|x)*$"}}})
    assert schema(prompt(), json.dumps({"code": "x" * 5_000 + "!"})) == Abstain(
        reason="a pattern of the schema takes longer than 1 s on an answer"
    )
    assert judged(schema, '{"code": "xx"}').passed
    assert judged(schema, '{"code": "y"}').feedback == "`$.code`: 'y' does not match '^(x|x)*$'"


def test_a_number_too_large_to_be_divided_fails():
    verdict = judged(JsonSchema({"multipleOf": 0.01}), "9" * 4_000)
    assert verdict == Verdict(
        score=0.0, passed=False, feedback="The answer has a number that is too large to be checked."
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "cannot be read: maximum recursion depth exceeded"),
        ('{"items":' * 900 + "{}" + "}" * 900, "is nested too deeply to be a JSON schema"),
        ("", "cannot be read: Expecting value"),
    ],
)
def test_a_schema_that_cannot_be_read_is_refused(text: str, says: str, tmp_path: Path):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(ConfigError, match=f"s.json` {says}"):
        JsonSchema.read(tmp_path / "s.json")


@pytest.mark.parametrize("answer", ["[]", '"KX-1"', "null", "7"])
def test_fields_wants_an_object(answer: str):
    verdict = by_fields(answer)
    assert (verdict.score, verdict.passed) == (0.0, False)
    assert "object" in verdict.feedback


@pytest.mark.parametrize("reference", [None, "text", ["a"], 3])
def test_fields_abstains_without_a_reference_object(reference: Any):
    assert isinstance(Fields(reveal=False)(prompt(reference), "{}"), Abstain)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        (True, True, True),
        (None, None, True),
        (None, "null", False),
        ("12", 12, False),
        ("STRASSE", "straße", True),
        ("a b", "ab", False),
        ([{"a": " X"}], [{"a": "x"}], True),
        ([1, 2], [2, 1], False),
        ({"a": 1}, {"a": 1, "b": None}, False),
        ({}, [], False),
    ],
)
def test_same(one: Any, other: Any, equal: bool):
    assert same(one, other) is equal
    assert same(other, one) is equal


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ('{"a": 1, "b": 3}', {"a": 1, "b": 2}, 0.5),
        ('{"a": 1, "b": 2, "c": 0}', {"a": 1, "b": 2}, 1.0),
        ('```{"a": 1}```', {"a": 1}, 0.0),
        ("[1]", {"a": 1}, 0.0),
        (" Paris\n", "paris", 1.0),
        ("Paris.", "paris", 0.0),
        ("42.0", 42, 1.0),
        ("forty-two", 42, 0.0),
        ('["B"]', ["b"], 1.0),
    ],
)
def test_agreement(answer: str, reference: Any, score: float):
    assert agreement(answer, reference) == pytest.approx(score)


def test_combined_score_is_the_mean_of_those_that_do_not_abstain():
    both = combine([JsonSchema(SCHEMA), Fields(reveal=False)])
    labelled = {"order": "KX-1", "urgency": "low"}
    verdict = judged(both, '{"order": "12", "urgency": "low"}', labelled)
    assert (verdict.score, verdict.passed) == (pytest.approx((1 + 0.5) / 2), False)
    assert judged(both, '{"order": "12", "urgency": "low"}') == Verdict(score=1.0, passed=True, feedback="")
    worse = judged(both, '{"order": "12", "urgency": 1}', labelled)
    assert worse.score == 0.0
    assert [span.where for span in worse.spans] == ["$.urgency", "order", "urgency"]
    assert len(worse.feedback.split("\n")) == 3


def test_combined_abstains_only_if_all_do_and_says_the_same_thing_once():
    assert isinstance(combine([Fields(reveal=False), Fields(reveal=True)])(prompt(), "{}"), Abstain)
    verdict = judged(combine([JsonSchema(SCHEMA), Fields(reveal=False)]), "no", {"a": 1})
    assert "\n" not in verdict.feedback


def test_load_reads_files_relative_to_the_base(tmp_path: Path):
    (tmp_path / "answer.schema.json").write_text(json.dumps(SCHEMA))
    both = verify.load(["json_schema:answer.schema.json", "fields"], base=tmp_path, reveal=True)
    verdict = judged(both, '{"order": null, "urgency": "low"}', {"order": "KX-1", "urgency": "low"})
    assert verdict.score == pytest.approx((1 + 0.5) / 2)
    assert "KX-1" in verdict.feedback
    absolute = verify.load(f"json_schema:{tmp_path / 'answer.schema.json'}", base=Path(), reveal=False)
    assert judged(absolute, '{"order": null, "urgency": "low"}').passed


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("field", "did you mean `fields`"),
        ("magic", "json_schema, fields"),
        ("json_schema", "json_schema:"),
        ("json_schema:none.json", r"none\.json"),
        ("fields:x.json", "did you mean `fields`"),
    ],
)
def test_load_refuses_what_it_does_not_know(spec: str, says: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=says):
        verify.load(spec, base=tmp_path, reveal=False)
