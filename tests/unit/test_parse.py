import pytest

from bbdistill.teacher.differences import differences
from bbdistill.teacher.parse import correction, end_of, locate, winner


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"reason": "x", "winner": "A"}', "A"),
        ('```json\n{"reason": "x", "winner": "B"}\n```', "B"),
        ("B", "B"),
        (" **A** ", "A"),
        ("The winner is B.", "B"),
        ("Better answer: A", "A"),
        ("My verdict: answer B", "B"),
    ],
)
def test_a_clear_verdict_is_read(text: str, named: str):
    assert winner(text) == named


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"winner": "C"}',
        '{"winner": "a tie"}',
        '{"winner": null}',
        '{"reason": "the winner is A"}',
        "Both are good.",
        "The winner is A. No, the winner is B.",
        "A and B",
        '{"reason": "cut off in the mid',
        "<html>502</html>",
        "[" * 100_000,
    ],
)
def test_what_cannot_be_read_without_guessing_is_none(text: str):
    assert winner(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"reason": "r", "corrected": "x y"}', ("x y", "r")),
        ('{"reason": "r", "corrected": {"a": 1}}', ('{"a": 1}', "r")),
        ('```json\n{"reason": "r", "corrected": "x"}\n```', ("x", "r")),
        ("plain text", ("plain text", "")),
        ('Here it is:\n```json\n{"a": 1}\n```\nDone.', ('{"a": 1}', "")),
        ('{"a": 1}', ('{"a": 1}', "")),
        ("", None),
        ('{"reason": "r", "corrected": "  "}', None),
    ],
)
def test_a_correction_with_and_without_its_frame(text: str, answer: tuple[str, str] | None):
    assert correction(text) == answer


def test_json_answers_are_compared_by_value_and_not_by_layout():
    found = differences('{"a": 1, "b": 2, "c": 3}', '{"a": 1,\n "b": 5,\n "c": 3}')
    assert found is not None
    assert found.parts == (('"b": 2', '"b": 5'),)
    assert '"a": 1' in found.shared
    assert "(…)" in found.shared
    assert differences('{"a": 1}', '{ "a":1 }') is None


def test_differences_swap_with_the_answers():
    a, b = "one\ntwo\nthree", "one\n2\nthree"
    there, back = differences(a, b), differences(b, a)
    assert there is not None
    assert back is not None
    assert there.shared == back.shared
    assert [(y, x) for x, y in there.parts] == list(back.parts)


def test_unlike_answers_are_shown_in_full():
    assert differences("one\ntwo", "three\nfour") is None


SAID = '{\n  "customer": "Ida",\n  "order": "343",\n  "category": "refund", "urgency": "slow, high"\n}'


@pytest.mark.parametrize(
    ("quote", "found"),
    [
        ('"category": "refund"', '"category": "refund"'),
        ("category: refund", 'category": "refund'),
        ("'category': 'refund'", 'category": "refund'),
        ("customer: Ida, order: 343", 'customer": "Ida",\n  "order": "343'),
        ("slow,   high", "slow, high"),
        ("“343”", "343"),
        ("category: refun", None),
        ("category: delivery", None),
        ("slowhigh", None),
        ("category refund", None),
        ("''", None),
        ("$", None),
    ],
)
def test_a_quote_is_found_whatever_its_spacing_and_quotation_marks(quote: str, found: str | None):
    place = locate(quote, SAID)
    assert (place and SAID[slice(*place)]) == found


@pytest.mark.parametrize(
    ("beginning", "text", "rest"),
    [
        ('{\n  "a": 1,\n  "', '{"a": 1, "b": 2}', 'b": 2}'),
        ('{"a": 1, ', '{\n  "a": 1,\n  "b": 2\n}', '"b": 2\n}'),
        ("", "all of it", "all of it"),
        ("two words", "two  words more", " more"),
        ("two words", "twowords more", None),
        ('{"a": 1, "', '{"a": 2, "b": 2}', None),
        ('{"a": "x y", "', '{"a": "xy", "b": 2}', None),
    ],
)
def test_what_is_left_alone_may_be_set_out_anew(beginning: str, text: str, rest: str | None):
    place = end_of(beginning, text)
    assert (None if place is None else text[place:]) == rest


@pytest.mark.parametrize("frame", ["{}", "```json\n{}\n```"])
def test_a_verdict_with_half_a_character_is_none(frame: str):
    assert winner(frame.format('{"winner": "A", "reason": "\\ud800"}')) is None
    assert winner(frame.format('{"winner": "A", "reason": "\\ud83d\\ude00"}')) == "A"
