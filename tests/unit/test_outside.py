"""Questions outside the task: what counts as right, and what is said to be forgotten."""

import pytest

from bbdistill.outside import forgotten, questions


def test_every_question_is_another_one() -> None:
    texts = [prompt.messages[-1]["content"] for prompt in questions()]
    assert len(set(texts)) == len({prompt.id for prompt in questions()}) == len(texts) == 40


def test_a_right_answer_holds_the_word_and_not_a_part_of_it() -> None:
    asked = {prompt.messages[-1]["content"]: place for place, prompt in enumerate(questions())}

    def right(question: str, answer: str) -> bool:
        answers = [""] * len(asked)
        answers[asked[question]] = answer
        return forgotten(questions(), answers, [""] * len(asked))["base"] > 0

    assert right("What is 2 + 3?", "2 + 3 = 5")
    assert right("What is 2 + 3?", "Five, of course.")
    assert not right("What is 2 + 3?", "15")
    assert not right("What is 2 + 3?", "5000")
    assert not right("What is 2 + 3?", "2.5")
    assert right("What is frozen water called?", "It is called ICE.")
    assert not right("What is frozen water called?", "juice, or rice")
    assert right("On which continent is Brazil?", "in south america")
    assert not right("On which continent is Brazil?", "in America")


def test_what_is_lost_is_paired() -> None:
    right = [known.messages[-1]["content"] for known in questions()]
    answers = ["7 12 8 60 5 6 42 25 100 3 Paris Tokyo Rome Egypt"] * len(right)
    found = forgotten(questions(), answers, [""] * len(right))
    assert found["base"] == pytest.approx(15 / 40)  # water boils at 100, too
    assert (found["student"], found["gain"], found["n"]) == (0.0, -found["base"], 40)
    assert found["low"] < -found["base"] < found["high"] < 0
    assert forgotten(questions()[:2], ["Paris", "?"], ["?", "Tokyo"])["base"] == 0.5
    assert forgotten([], [], [])["base"] is None
    assert forgotten(questions(), answers, answers) == found | {
        "student": found["base"],
        "gain": 0.0,
        "low": 0.0,
        "high": 0.0,
    }
