"""`rubric`: weights, what the judge gets to see, marks that cannot be read, and files that are no rubric."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from scripted_server import Answer, ScriptedServer, chat, error
from verdicts import RIGHT, Said, prompt, said, wrong

from bbdistill import verify
from bbdistill.errors import ConfigError
from bbdistill.teacher.teacher import Teacher
from bbdistill.types import Abstain, Mark, Prompt
from bbdistill.verify import Criteria, Rubric
from bbdistill.verify.rubric import Ask

TOML = """
[[criteria]]
text = "Names the order"
weight = 2.5

[[criteria]]
text = "Is polite"
weight = 1.25

[[criteria]]
text = "Says when it will arrive"
"""


@pytest.fixture
def criteria(tmp_path: Path) -> Criteria:
    (tmp_path / "rubric.toml").write_text(TOML)
    return Criteria.read(tmp_path / "rubric.toml")


def judge(*met: bool, reason: str = "") -> Ask:
    def ask(prompt: Prompt, answer: str, criteria: Sequence[str]) -> Sequence[Mark]:
        return [Mark(met=one, reason=reason) for one in met]

    return ask


WEIGHED: dict[str, tuple[tuple[bool, bool, bool], str, Said]] = {
    "all met": ((True, True, True), "fine", RIGHT),
    "the heaviest not": ((False, True, True), "", wrong("Not met: Names the order", 2.25 / 4.75)),
    "the lightest not": (
        (True, True, False),
        "no day is named",
        wrong("Not met: Says when it will arrive (no day is named)", 3.75 / 4.75),
    ),
    "only the middle one": (
        (False, True, False),
        "no",
        wrong("Not met: Names the order (no)\nNot met: Says when it will arrive (no)", 1.25 / 4.75),
    ),
    "none met": (
        (False, False, False),
        "",
        wrong("Not met: Names the order\nNot met: Is polite\nNot met: Says when it will arrive", 0.0),
    ),
}


@pytest.mark.parametrize("case", WEIGHED)
def test_the_score_is_the_share_of_the_weight_that_is_met(case: str, criteria: Criteria):
    met, reason, expected = WEIGHED[case]
    assert said(Rubric(criteria, judge(*met, reason=reason)), "Hi") == expected


def test_it_abstains_with_its_judge(criteria: Criteria):
    assert said(Rubric(criteria, lambda *_: Abstain(reason="refusal")), "Hi") == "refusal"


def marks(rows: Sequence[tuple[int, int, bool]]) -> Answer:
    found: dict[str, dict[str, Any]] = {}
    for answer, criterion, met in rows:
        found.setdefault(f"answer_{answer}", {})[f"criterion_{criterion}"] = {"reason": "r", "met": met}
    return chat(json.dumps(found))


def asked(reply: Answer, answers: Sequence[str], path: Path, criteria: Criteria) -> tuple[list[Any], list[str]]:
    """What the teacher says of the answers, and the texts of the requests that it took."""

    async def work() -> list[Any]:
        async with Teacher("openai:m", base_url=f"{server.url}/v1", cache=path / "t.db") as teacher:
            texts = [criterion.text for criterion in criteria.criteria]
            return await teacher.rubric(prompt(), answers, texts)

    with ScriptedServer(otherwise=reply) as server:
        found = asyncio.run(work())
        return found, [seen.body for seen in server.seen]


def test_all_answers_go_in_one_call_that_tells_neither_weights_nor_whose_they_are(tmp_path: Path, criteria: Criteria):
    rows = [(answer, place, answer == place) for answer in (1, 2) for place in (1, 2, 3)]
    found, requests = asked(marks(rows), ["Dear Ida", "No.", "Dear Ida"], tmp_path, criteria)
    assert len(requests) == 1
    assert {tuple(mark.met for mark in each) for each in found} == {(True, False, False), (False, True, False)}
    assert found[0] == found[2] != found[1]
    text = "\n".join(message["content"] for message in json.loads(requests[0])["messages"])
    assert text.count("Dear Ida") == 1
    assert all(criterion.text in text for criterion in criteria.criteria)
    for hidden in ("2.5", "1.25", "weight", "student", "teacher", "openai:m"):
        assert hidden not in text


def test_the_order_of_the_answers_changes_neither_the_request_nor_the_marks(tmp_path: Path, criteria: Criteria):
    rows = [(answer, place, answer >= place) for answer in (1, 2, 3) for place in (1, 2, 3)]
    answers = ["one", "two", "three"]
    (tmp_path / "there").mkdir()
    (tmp_path / "back").mkdir()
    there, first = asked(marks(rows), answers, tmp_path / "there", criteria)
    back, second = asked(marks(list(reversed(rows))), answers[::-1], tmp_path / "back", criteria)
    assert first == second
    assert there == back[::-1]


FULL = [(1, place, True) for place in (1, 2, 3)]
UNREADABLE: dict[str, Answer] = {
    "prose": chat("All criteria are met."),
    "no marks": chat('{"answer_1": []}'),
    "one missing": marks(FULL[:2]),
    "one of no criterion": marks([*FULL[:2], (1, 4, True)]),
    "met is a word": marks([*FULL[:2], (1, 3, "yes")]),  # pyright: ignore[reportArgumentType]
    "nested too deeply": chat("[" * 100_000),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_marks_that_cannot_be_read_are_an_abstention(case: str, tmp_path: Path, criteria: Criteria):
    found, _ = asked(UNREADABLE[case], ["Hi"], tmp_path, criteria)
    assert found == [Abstain(reason="unreadable marks")]


def test_a_judge_that_refuses_or_fails_is_an_abstention(tmp_path: Path, criteria: Criteria):
    (tmp_path / "a").mkdir()
    refused, _ = asked(chat("no", finish="content_filter"), ["Hi"], tmp_path / "a", criteria)
    assert refused == [Abstain(reason="refusal")]
    failed, _ = asked(error(400, message="too long"), ["Hi", "Ho"], tmp_path, criteria)
    assert failed == [Abstain(reason="HTTP 400 some_error: too long")] * 2


def test_marks_may_come_in_any_order(tmp_path: Path, criteria: Criteria):
    found, _ = asked(marks([(1, 3, False), (1, 1, True), (1, 2, True)]), ["Hi"], tmp_path, criteria)
    assert [mark.met for mark in found[0]] == [True, True, False]


def test_the_schema_leaves_out_no_mark(tmp_path: Path, criteria: Criteria):
    _, requests = asked(marks(FULL), ["Hi", "Ho"], tmp_path, criteria)
    schema = json.loads(requests[0])["response_format"]["json_schema"]["schema"]
    whole = {f"answer_{n}": {f"criterion_{k}": {"reason": "", "met": True} for k in (1, 2, 3)} for n in (1, 2)}
    check = Draft202012Validator(schema)
    assert check.is_valid(whole)
    assert not check.is_valid({"answer_1": whole["answer_1"]})
    assert not check.is_valid(whole | {"answer_2": {}})
    assert not check.is_valid(whole | {"answer_3": whole["answer_1"]})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.json", '[{"text": "a", "weight": 2}, {"text": "b"}]'),
        ("r.json", '\ufeff{"criteria": [{"text": "a", "weight": 2}, {"text": "b"}]}'),
        ("r.toml", 'criteria = [{ text = "a", weight = 2 }, { text = "b" }]'),
    ],
)
def test_a_rubric_is_a_list_as_toml_or_json(name: str, text: str, tmp_path: Path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = Criteria.read(tmp_path / name).criteria
    assert [(criterion.text, criterion.weight) for criterion in found] == [("a", 2.0), ("b", 1.0)]


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "empty": ("r.toml", b"", "`{}`: `criteria` is required and missing"),
    "empty JSON": ("r.json", b"", "the rubric `{}` cannot be read: Expecting value: line 1 column 1 (char 0)"),
    "no criterion": ("r.json", b"[]", "`{}`: `criteria`: expected 1 or more items, got a list"),
    "texts": (
        "r.json",
        b'["a", "b"]',
        '`{}`: `criteria.0`: expected a table, got "a"; `criteria.1`: expected a table, got "b"',
    ),
    "nulls": ("r.json", b"[null]", "`{}`: `criteria.0`: expected a table, got null"),
    "a text": ("r.json", b'"a"', "the rubric `{}` should be a list of criteria, each with `text` and `weight`"),
    "an empty text": ("r.toml", b'[[criteria]]\ntext = ""', '`{}`: `criteria.0.text`: expected text, got ""'),
    "a misspelt key": (
        "r.toml",
        b'[[criteria]]\ntext = "a"\nwieght = 2',
        "`{}`: unknown key `criteria.0.wieght`; did you mean `weight`?",
    ),
    "no weight": (
        "r.toml",
        b'[[criteria]]\ntext = "a"\nweight = 0',
        "`{}`: `criteria.0.weight`: expected more than 0.0, got 0",
    ),
    "an endless weight": (
        "r.json",
        b'[{"text": "a", "weight": 1e999}]',
        "`{}`: `criteria.0.weight`: expected a finite number, got Infinity",
    ),
    "half a surrogate pair": (
        "r.json",
        b'[{"text": "\\ud83d"}]',
        '`{}`: `criteria.0.text`: expected text, got "\\ud83d"',
    ),
    "binary": (
        "r.toml",
        b"\xff\x00",
        "the rubric `{}` cannot be read: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
    ),
    "prose": (
        "r.txt",
        b"Be polite.",
        "the rubric `{}` cannot be read: Expected '=' after a key in a key/value pair (at line 1, column 4)",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_is_no_rubric_is_refused(case: str, tmp_path: Path):
    name, content, says = BROKEN[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        verify.load(f"rubric:{name}", base=tmp_path, reveal=False, ask=judge(True))
    assert str(caught.value) == says.format(tmp_path / name)


@pytest.mark.parametrize(("name", "text"), [("r.json", "[" * 100_000), ("r.toml", "a = " + "[" * 100_000)])
def test_a_file_nested_too_deeply_is_refused(name: str, text: str, tmp_path: Path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=r"cannot be read: maximum recursion depth"):
        Criteria.read(tmp_path / name)


@pytest.mark.parametrize("name", ["none.toml", "."])
def test_a_file_that_is_not_there_is_named(name: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"the rubric `.*` cannot be read: .*(No such file|Is a directory)"):
        Criteria.read(tmp_path / name)


def test_a_run_does_not_ask_a_judge_for_every_answer(tmp_path: Path):
    (tmp_path / "r.toml").write_text(TOML)
    with pytest.raises(ConfigError) as caught:
        verify.load("rubric:r.toml", base=tmp_path, reveal=False)
    assert str(caught.value) == (
        "the verifier `rubric` asks a hosted model, which no run does for every answer; use it with "
        "`bbdistill verify --verifier rubric:FILE`, or from Python"
    )
