"""Win rates by hand: what counts as won, and what length alone explains."""

import math
from typing import Any

import pytest

from bbdistill.types import Abstain, Judgement, Preference, Prompt, Tie
from bbdistill.winrate import Match, at_equal_length, rows, win_rates

PROMPT = Prompt(id="p", messages=({"role": "user", "content": "x"},))


def match(student: str, other: str, judgement: Judgement, against: str = "base") -> Match:
    return Match(prompt=PROMPT, against=against, student=student, other=other, judgement=judgement)


def won(chosen: str, rejected: str) -> Preference:
    return Preference(prompt=PROMPT, chosen=chosen, rejected=rejected, strength=1.0, source="judge")


PLAYED = [
    match("aaaa", "bb", won("aaaa", "bb")),
    match("aa", "bbbb", won("bbbb", "aa")),
    match("a", "b", won("a", "b")),
    match("aaaaaa", "b", Tie(prompt=PROMPT, flipped=True)),
    match("same", "same", Tie(prompt=PROMPT, flipped=False)),
    match("a", "bbb", Abstain(reason="cut")),
    match("a", "b", won("b", "a"), against="teacher"),
]


def rates(played: list[Match], *against: str, prompts: int = 10) -> dict[str, dict[str, Any]]:
    return win_rates(played, against or ("base",), prompts)


def test_wins_ties_and_what_cannot_be_read() -> None:
    found = rates(PLAYED, "base", "sft", "teacher")
    base = found["base"]
    names = ("n", "wins", "losses", "flips", "equal", "unusable", "unanswered")
    assert [base[name] for name in names] == [5, 2, 1, 1, 1, 1, 4]
    assert base["rate"] == pytest.approx((1 + 0 + 1 + 0.5 + 0.5) / 5)
    assert base["low"] <= base["rate"] <= base["high"]
    assert base["characters"] == [pytest.approx(18 / 6), pytest.approx(15 / 6)]
    assert (found["teacher"]["rate"], found["teacher"]["low"], found["teacher"]["high"]) == (0.0, 0.0, 0.0)
    assert (found["sft"]["rate"], found["sft"]["n"], found["sft"]["unanswered"]) == (None, 0, 10)


def test_from_the_other_side_it_is_the_rest() -> None:
    there = rates(PLAYED)["base"]
    here = rates([match(m.other, m.student, m.judgement) for m in PLAYED if m.against == "base"])["base"]
    assert (here["wins"], here["losses"]) == (there["losses"], there["wins"])
    for mine, theirs in (("rate", "rate"), ("equal_length", "equal_length"), ("low", "high"), ("high", "low")):
        assert here[mine] == pytest.approx(1 - there[theirs])


def test_where_length_decides_everything_equal_length_is_even() -> None:
    assert at_equal_length([(1.0, 0.8), (0.0, -0.8), (1.0, 0.8), (1.0, 0.8)]) == pytest.approx(0.5)
    # Slope by hand: mean x 0.25, mean y 0.75; covariance 0.0625 + 3 * 0.0625, spread 4 * 0.1875; 0.75 - 0.25 / 3.
    assert at_equal_length([(0.5, 0.0), (1.0, 1.0), (1.0, 0.0), (0.5, 0.0)]) == pytest.approx(0.75 - 0.25 / 3)


def test_length_that_says_nothing_changes_nothing() -> None:
    assert at_equal_length([(1.0, 0.3), (0.0, 0.3), (1.0, -0.3), (0.0, -0.3)]) == pytest.approx(0.5)
    assert at_equal_length([(1.0, 0.0), (0.5, 0.0)]) == pytest.approx(0.75)


@pytest.mark.parametrize(("pairs", "wins"), [(10, 7), (24, 15), (30, 20), (30, 27)])
def test_rounding_is_no_difference_in_length(pairs: int, wins: int) -> None:
    shorter = math.tanh(-1 / 3)
    played = [(float(number < wins), shorter) for number in range(pairs)]
    assert at_equal_length(played) == pytest.approx(wins / pairs)


def test_equal_answers_say_nothing_of_length() -> None:
    alone = [(1.0, 0.5), (1.0, 0.5), (0.0, -0.5), (1.0, -0.5)]
    assert at_equal_length(alone) == pytest.approx(0.75)
    assert at_equal_length([*alone, *[(0.5, None)] * 4]) == pytest.approx((0.75 * 4 + 0.5 * 4) / 8)
    assert at_equal_length([(0.5, None)] * 3) == 0.5


def test_where_the_student_is_always_shorter_nothing_is_known_of_equal_length() -> None:
    shorter = [match("a", "b" * size, won("a", "b" * size)) for size in (2, 3, 4)]
    same = match("same", "same", Tie(prompt=PROMPT, flipped=False))
    found = rates([*shorter, same])["base"]
    assert found["rate"] == pytest.approx(3.5 / 4)
    assert (found["equal_length"], found["equal_length_low"], found["equal_length_high"]) == (None, None, None)
    assert rates([*shorter, match("aa", "b", won("aa", "b"))])["base"]["equal_length"] == 1.0
    assert rates([same])["base"]["equal_length"] == 0.5


def test_it_stays_between_0_and_1() -> None:
    assert at_equal_length([(1.0, -0.9), (0.5, -0.1), (1.0, -0.9)]) == pytest.approx(0.4375)
    assert at_equal_length([(0.2, -0.9), (1.0, -0.3)]) == 1.0


def test_nothing_compared_is_no_rate() -> None:
    assert rates([])["base"]["rate"] is None
    found = rates([match("a", "b", Abstain(reason="cut"))])["base"]
    assert (found["rate"], found["equal_length"], found["low"], found["n"], found["unusable"]) == (
        None,
        None,
        None,
        0,
        1,
    )


def test_every_pair_can_be_read_again() -> None:
    first, *_, unreadable, _ = rows(PLAYED)
    assert first == {"id": "p", "against": "base", "student": "aaaa", "other": "bb", "outcome": 1.0, "why": None}
    assert (unreadable["outcome"], unreadable["why"]) == (None, "cut")
