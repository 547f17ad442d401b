"""Several verifiers as one: weights, gates, abstentions; every score worked out by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest
from verdicts import RIGHT, Said, said, wrong

from bbdistill import verify
from bbdistill.errors import ConfigError
from bbdistill.types import Abstain, Prompt, Span, Verdict
from bbdistill.verify import Part, combine

Check = Callable[[Prompt, str], Verdict | Abstain]


def gives(score: float, feedback: str = "") -> Check:
    def check(prompt: Prompt, answer: str) -> Verdict:
        return Verdict(score=score, passed=score == 1, feedback=feedback)

    return check


def abstains(reason: str) -> Check:
    def check(prompt: Prompt, answer: str) -> Abstain:
        return Abstain(reason=reason)

    return check


def never(prompt: Prompt, answer: str) -> Verdict:
    raise AssertionError("a gate that failed lets nobody else be asked")


def part(check: Check, weight: float | None = None, *, gate: bool = False) -> Part:
    return Part(verifier=check, weight=weight, gate=gate)


HALF, LOW, FULL = gives(0.5, "half"), gives(0.2, "low"), gives(1.0)

CASES: dict[str, tuple[list[Part], Said]] = {
    "one": ([part(HALF)], wrong("half", 0.5)),
    "all pass": ([part(FULL), part(FULL, 3)], RIGHT),
    "equal weights": ([part(HALF), part(FULL)], wrong("half", 0.75)),
    # (1 * 0.5 + 3 * 0.2) / 4
    "weights": ([part(HALF), part(LOW, 3)], wrong("half\nlow", 0.275)),
    # (2 * 1 + 6 * 0.5) / 8: only the ratio counts
    "other weights": ([part(FULL, 2), part(HALF, 6)], wrong("half", 0.625)),
    "one abstains": ([part(abstains("no reference")), part(HALF, 9)], wrong("half", 0.5)),
    "a heavy one abstains": ([part(abstains("no reference"), 99), part(HALF), part(FULL)], wrong("half", 0.75)),
    "all abstain": ([part(abstains("a")), part(abstains("b"))], "a; b"),
    "nobody": ([], "no verifier"),
    "said twice": ([part(gives(0.0, "same")), part(gives(0.0, "same"))], wrong("same")),
    "a gate fails": ([part(gives(0.9, "shut"), gate=True), part(never)], wrong("shut")),
    "a later gate fails": ([part(never), part(gives(0.9, "shut"), gate=True)], wrong("shut")),
    "the first gate that fails": (
        [part(FULL, gate=True), part(gives(0.0, "one"), gate=True), part(never, gate=True), part(never)],
        wrong("one"),
    ),
    "a weighed gate that fails scores 0": ([part(gives(0.9, "shut"), 5, gate=True), part(never)], wrong("shut")),
    "a gate passes without weight": ([part(FULL, gate=True), part(LOW)], wrong("low", 0.2)),
    # (1 * 1 + 3 * 0.2) / 4
    "a gate passes with weight": ([part(FULL, 1, gate=True), part(LOW, 3)], wrong("low", 0.4)),
    "gates alone": ([part(FULL, gate=True), part(FULL, gate=True)], RIGHT),
    "a gate abstains": ([part(abstains("a"), gate=True), part(HALF)], wrong("half", 0.5)),
    "all but a gate abstain": ([part(FULL, gate=True), part(abstains("a"))], RIGHT),
    "a passed gate at less than full score": (
        [part(lambda p, a: Verdict(score=0.5, passed=True, feedback=""), 1, gate=True), part(FULL, 1)],
        (0.75, True, ""),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_combined(case: str):
    parts, expected = CASES[case]
    found = said(combine(parts), "x")
    if isinstance(expected, str):
        assert found == expected
    else:
        assert found == (pytest.approx(expected[0], abs=1e-12), *expected[1:])


def test_the_spans_of_all_stand_in_order():
    def spanned(where: str) -> Check:
        return lambda p, a: Verdict(score=0.0, passed=False, feedback=where, spans=(Span(where=where, why="x"),))

    both = combine([spanned("a"), Part(verifier=spanned("b"), weight=2)])
    verdict = both(Prompt(id="p", messages=()), "")
    assert isinstance(verdict, Verdict)
    assert [span.where for span in verdict.spans] == ["a", "b"]


def test_tables_of_a_config_give_weights_and_gates():
    gated = verify.load(
        [
            {"use": "regex:^[A-Z]", "gate": True},
            {"use": "contains", "strings": ["Ida", "KX-1"], "weight": 3},
            "exact",
        ],
        base=Path(),
        reveal=False,
    )
    assert said(gated, "Ida KX-1", "Ida KX-1") == RIGHT
    assert said(gated, "ida KX-1", "Ida KX-1") == wrong(
        "The answer should match the pattern `^[A-Z]`, and no part of it does."
    )
    # contains: 1 of 2, weight 3; exact: 0, weight 1
    assert said(gated, "Ida", "Ida KX-1") == wrong(
        'Missing from the answer, 1 of 2: "KX-1".\n'
        "The answer ends too early: it is right up to its end, and 5 characters are missing.",
        0.375,
    )
    # without a reference, `exact` abstains
    assert said(gated, "Ida") == wrong('Missing from the answer, 1 of 2: "KX-1".', 0.5)


@pytest.mark.parametrize(
    ("specs", "grades"),
    [
        ("exact", True),
        (["regex:a"], False),
        (["fields", "regex:a"], False),
        (["regex:a", {"use": "contains", "strings": ["a"], "weight": 2}], True),
    ],
)
def test_it_grades_if_a_part_of_it_looks_at_the_reference_in_its_own_way(specs: verify.Spec, grades: bool):
    assert verify.load(specs, base=Path(), reveal=False).grades is grades


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"use": "exact", "weight": 0}, "the verifier `exact`: `weight`: expected more than 0.0, got 0"),
        ({"use": "exact", "weight": -1}, "the verifier `exact`: `weight`: expected more than 0.0, got -1"),
        ({"use": "exact", "weight": "3x"}, 'the verifier `exact`: `weight`: expected a number, got "3x"'),
        (
            {"use": "exact", "weight": float("nan")},
            "the verifier `exact`: `weight`: expected a finite number, got NaN",
        ),
        ({"use": "exact", "gate": 3}, "the verifier `exact`: `gate`: expected true or false, got 3"),
        ({"use": "exact", "wieght": 1}, "the verifier `exact`: unknown key `wieght`; did you mean `weight`?"),
        ({"use": "exact", "k": 1}, "the verifier `exact`: unknown key `k`; known keys: use, weight, gate"),
        ({"weight": 1}, 'a table of `task.verifier` needs a `use`, such as `use = "fields"`'),
        ({"use": ["exact"]}, 'a table of `task.verifier` needs a `use`, such as `use = "fields"`'),
        ({}, 'a table of `task.verifier` needs a `use`, such as `use = "fields"`'),
    ],
)
def test_a_wrong_table_is_refused(spec: verify.Spec, says: str):
    with pytest.raises(ConfigError) as caught:
        verify.load(["exact", spec], base=Path(), reveal=False)
    assert str(caught.value) == says
