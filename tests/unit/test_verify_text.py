"""`exact`, `contains` and `regex`: right, wrong and malicious answers, and the exact feedback to each."""

import time
from pathlib import Path
from typing import Any

import pytest
from verdicts import RIGHT, Said, said, wrong

from bbdistill import verify
from bbdistill.errors import ConfigError
from bbdistill.verify import Contains, Exact, Regex

LONG = "x" * 10_000_000


def exactly(where: str, has: str, more: str = "") -> Said:
    return wrong(f"The answer is wrong from {where} on, where it has {has}.{more}")


EXACT: dict[str, tuple[Any, str, Said]] = {
    "equal": ("Paris", "Paris", RIGHT),
    "space around it": ("  Paris\n", "\tParis \n\n", RIGHT),
    "a number": (42, " 42", RIGHT),
    "a fraction": (0.5, "0.5", RIGHT),
    "half a surrogate pair": ("\ud83d", "\ud83d", RIGHT),
    "empty": ("Paris", "", wrong("The answer is empty; 5 characters are expected.")),
    "only space": ("P", " \n ", wrong("The answer is empty; 1 character is expected.")),
    "other from the start": ("Paris", "Milan", exactly("line 1, character 1", '"Milan"')),
    "other in the middle": (
        "Paris",
        "Pariah no",
        exactly("line 1, character 5", '"ah no"', " Its length in characters is 9; it should be 5."),
    ),
    "in a later line": ("a\nb\nc", "a\nb\nd", exactly("line 3, character 1", '"d"')),
    "other case": (
        "Paris",
        "PARIS",
        exactly("line 1, character 2", '"ARIS"', " It differs only in upper and lower case."),
    ),
    "other spaces": (
        "a b c",
        "a  b\nc",
        exactly("line 1, character 3", '" b\\nc"', " It differs only in spaces and line breaks."),
    ),
    "too short": (
        "Paris",
        "Par",
        wrong("The answer ends too early: it is right up to its end, and 2 characters are missing."),
    ),
    "too long": (
        "Paris",
        "Paris, of course",
        wrong('The answer goes on too long: all from line 1, character 6 on (", of course") is too much.'),
    ),
    "another number": (
        42,
        "42.0",
        wrong('The answer goes on too long: all from line 1, character 3 on (".0") is too much.'),
    ),
    "accent apart": (
        "é",
        "e\u0301",
        exactly("line 1, character 1", '"e\u0301"', " Its length in characters is 2; it should be 1."),
    ),
    "half a pair for a letter": ("a", "\ud83d", exactly("line 1, character 1", '"\\ud83d"')),
    "steers a terminal": ("abcd", "\x1b[2J", exactly("line 1, character 1", '"\\u001b[2J"')),
    "10 MB": (
        "a",
        LONG,
        exactly("line 1, character 1", f'"{"x" * 40}…"', " Its length in characters is 10000000; it should be 1."),
    ),
    "no reference": (None, "Paris", "no reference text to compare with"),
    "empty reference": (" ", "", "no reference text to compare with"),
    "a list": (["Paris"], "Paris", "no reference text to compare with"),
    "true": (True, "True", "no reference text to compare with"),
}


@pytest.mark.parametrize("case", EXACT)
def test_exact(case: str):
    reference, answer, expected = EXACT[case]
    assert said(Exact(), answer, reference) == expected


def test_exact_tells_the_reference_only_where_it_may():
    told = said(Exact(), "Milan", "Paris")
    assert told == exactly("line 1, character 1", '"Milan"')
    assert said(Exact(reveal=True), "Milan", "Paris") == exactly(
        "line 1, character 1", '"Milan"', ' It should be "Paris".'
    )
    assert said(Exact(reveal=True), "x", "a" * 1_000) == exactly(
        "line 1, character 1", '"x"', f' Its length in characters is 1; it should be 1000. It should be "{"a" * 400}…".'
    )


CONTAINS: dict[str, tuple[Any, str, Said]] = {
    "all there": (["KX-1", "Ida"], "Ida asks for KX-1.", RIGHT),
    "one text": ("KX-1", "the order is KX-1", RIGHT),
    "twice the same": (["a", "a"], "a", RIGHT),
    "inside a word": ("art", "cartwheel", RIGHT),
    "half": (["KX-1", "Ida"], "KX-1", wrong("Missing from the answer, 1 of 2: string 2.", 0.5)),
    "none": (["KX-1", "Ida"], "no", wrong("Missing from the answer, 2 of 2: string 1, string 2.")),
    "other case": ("Ida", "IDA", wrong("Missing from the answer, 1 of 1: string 1.")),
    "empty": ("Ida", "", wrong("Missing from the answer, 1 of 1: string 1.")),
    "half a surrogate pair": ("😀", "\ud83d", wrong("Missing from the answer, 1 of 1: string 1.")),
    "10 MB": ("y", LONG, wrong("Missing from the answer, 1 of 1: string 1.")),
    "no reference": (None, "x", "no reference strings to look for"),
    "empty list": ([], "x", "no reference strings to look for"),
    "empty string": (["x", ""], "x", "no reference strings to look for"),
    "a number among them": (["x", 1], "x", "no reference strings to look for"),
}


@pytest.mark.parametrize("case", CONTAINS)
def test_contains(case: str):
    reference, answer, expected = CONTAINS[case]
    assert said(Contains(), answer, reference) == expected


def test_contains_names_the_strings_where_it_may():
    missing = 'Missing from the answer, 2 of 3: "b\\n", "\\ud83d".'
    assert said(Contains(reveal=True), "a", ["a", "b\n", "\ud83d"]) == wrong(missing, 1 - 2 / 3)


def test_contains_goes_by_its_own_strings_and_names_them():
    fixed = verify.load({"use": "contains", "strings": ["Dear", "Yours"]}, base=Path(), reveal=False)
    assert said(fixed, "Dear Ida, ... Yours") == RIGHT
    assert said(fixed, "Hi", ["Hi"]) == wrong('Missing from the answer, 2 of 2: "Dear", "Yours".')


@pytest.mark.parametrize(
    ("strings", "says"),
    [
        ([], "the verifier `contains`: `strings`: expected 1 or more items, got a list"),
        ("Dear", 'the verifier `contains`: `strings`: expected a list, got "Dear"'),
        (["a", 1], "the verifier `contains`: `strings.1`: expected text, got 1"),
        ([""], 'the verifier `contains`: `strings.0`: expected text, got ""'),
    ],
)
def test_contains_refuses_what_are_no_strings(strings: Any, says: str):
    with pytest.raises(ConfigError) as caught:
        verify.load({"use": "contains", "strings": strings}, base=Path(), reveal=False)
    assert str(caught.value) == says


REGEX: dict[str, tuple[str, str, Said]] = {
    "found": (r"\d+", "order 12", RIGHT),
    "whole": (r"\A\w{2}\Z", "ok", RIGHT),
    "over lines": (r"(?s)a.b", "a\nb", RIGHT),
    "not found": (r"\d+", "no", wrong(r"The answer should match the pattern `\d+`, and no part of it does.")),
    "not whole": (
        r"\A\w{2}\Z",
        "ok!",
        wrong(r"The answer should match the pattern `\A\w{2}\Z`, and no part of it does."),
    ),
    "empty": (
        "a",
        "",
        wrong("The answer is empty; it should match the pattern `a`, and no part of it does."),
    ),
    "half a surrogate pair": (
        "a",
        "\ud83d",
        wrong("The answer should match the pattern `a`, and no part of it does."),
    ),
    "10 MB": ("y", LONG, wrong("The answer should match the pattern `y`, and no part of it does.")),
    "calls itself": ("(?R)", "a", "the pattern takes more memory than there is on an answer"),
}


@pytest.mark.parametrize("case", REGEX)
def test_regex(case: str):
    pattern, answer, expected = REGEX[case]
    assert said(Regex(pattern), answer) == expected


@pytest.mark.parametrize("pattern", ["(x+x+)+y", "(x|xx)+$", "^(x|x)*$"])
def test_a_pattern_that_would_go_on_for_ever_is_no_verdict(pattern: str):
    start = time.process_time()  # of this process alone: what else the machine does is not counted
    assert said(Regex(pattern), "x" * 5_000 + "!") == "the pattern takes longer than 1 s on an answer"
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("regex", r"the verifier `regex` needs its pattern: `regex:\d+`"),
        ("regex:", r"the verifier `regex` needs its pattern: `regex:\d+`"),
        ("regex:(a", "`regex:(a` is not a pattern: missing ) at position 2"),
        ("regex:[", "`regex:[` is not a pattern: unterminated character set at position 1"),
        ("regex:a{99999999999}", "`regex:a{99999999999}` is not a pattern: repeat count too big at position 2"),
        (f"regex:{'(' * 9_000}{')' * 9_000}", f"`regex:{'(' * 80}…` is not a pattern: it is too large"),
    ],
)
def test_regex_refuses_what_is_no_pattern(spec: str, says: str):
    with pytest.raises(ConfigError) as caught:
        verify.load(spec, base=Path(), reveal=False)
    assert str(caught.value) == says


@pytest.mark.parametrize("spec", ["exact:", "exact:x", "contains:x"])
def test_exact_and_contains_take_no_file(spec: str):
    name = spec.partition(":")[0]
    with pytest.raises(ConfigError) as caught:
        verify.load(spec, base=Path(), reveal=False)
    assert str(caught.value) == f"unknown verifier `{spec}`; did you mean `{name}`?"
