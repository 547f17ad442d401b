"""Win rates by hand: what counts as won, and what length alone explains."""

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


def test_wins_ties_and_what_cannot_be_read() -> None:
    found = win_rates(PLAYED)
    assert list(found) == ["base", "teacher"]
    base = found["base"]
    counted = {name: base[name] for name in ("n", "wins", "losses", "ties", "flips", "unusable")}
    assert counted == {"n": 5, "wins": 2, "losses": 1, "ties": 2, "flips": 1, "unusable": 1}
    assert base["rate"] == pytest.approx((1 + 0 + 1 + 0.5 + 0.5) / 5)
    assert base["low"] <= base["rate"] <= base["high"]
    assert base["characters"] == [pytest.approx(18 / 6), pytest.approx(15 / 6)]
    assert (found["teacher"]["rate"], found["teacher"]["low"], found["teacher"]["high"]) == (0.0, 0.0, 0.0)


def test_from_the_other_side_it_is_the_rest() -> None:
    there = win_rates(PLAYED)["base"]
    here = win_rates([match(m.other, m.student, m.judgement) for m in PLAYED if m.against == "base"])["base"]
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
    # All longer alike: nothing tells length from quality.
    assert at_equal_length([(1.0, 0.7), (0.5, 0.7)]) == pytest.approx(0.75)


def test_it_stays_between_0_and_1() -> None:
    assert at_equal_length([(1.0, -0.9), (0.5, -0.1), (1.0, -0.9)]) == pytest.approx(0.4375)
    assert at_equal_length([(0.2, -0.9), (1.0, -0.3)]) == 1.0


def test_nothing_compared_is_no_rate() -> None:
    assert win_rates([]) == {}
    found = win_rates([match("a", "b", Abstain(reason="cut"))])["base"]
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
