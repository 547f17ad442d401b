"""What a student has forgotten: plain questions that have nothing to do with its task, before and after training.

A student that was taught one job loses others: no fault where it only does that job, but somebody should say so.
No torch.
"""

from collections.abc import Sequence
from typing import Any

import regex

from bbdistill.evaluate import interval, mean
from bbdistill.types import Prompt

MAX_NEW_TOKENS = 32
"""Enough for each answer."""
_QUESTIONS = {
    "What is the capital of France?": ("Paris",),
    "What is the capital of Japan?": ("Tokyo",),
    "What is the capital of Italy?": ("Rome",),
    "In which country are the pyramids of Giza?": ("Egypt",),
    "On which continent is Brazil?": ("South America",),
    "Which ocean lies between Europe and America?": ("Atlantic",),
    "Which river flows through London?": ("Thames",),
    "Which planet do we live on?": ("Earth",),
    "Which planet is known for its rings?": ("Saturn",),
    "What does the Earth go round once a year?": ("Sun",),
    "How many days does a week have?": ("7", "seven"),
    "How many months does a year have?": ("12", "twelve"),
    "How many legs does a spider have?": ("8", "eight"),
    "How many minutes does an hour have?": ("60", "sixty"),
    "What is 2 + 3?": ("5", "five"),
    "What is 10 - 4?": ("6", "six"),
    "What is 6 times 7?": ("42", "forty-two"),
    "What is half of 50?": ("25", "twenty-five"),
    "Which number comes after 99?": ("100", "hundred"),
    "How many sides does a triangle have?": ("3", "three"),
    "Which colour do blue and yellow paint make together?": ("green",),
    "Which colour is a ripe banana?": ("yellow",),
    "Which colour is grass?": ("green",),
    "Which colour is snow?": ("white",),
    "Which animal says meow?": ("cat",),
    "Which animal barks?": ("dog",),
    "Which insects make honey?": ("bee", "bees", "honeybees"),
    "What do cows give us to drink?": ("milk",),
    "What is frozen water called?": ("ice",),
    "At how many degrees Celsius does water boil?": ("100", "hundred"),
    "Which gas do we need to breathe?": ("oxygen",),
    "What is the chemical formula of water?": ("H2O", "H₂O"),
    "What is the opposite of hot?": ("cold",),
    "What is the opposite of up?": ("down",),
    "What is the plural of child?": ("children",),
    "What is the past tense of go?": ("went",),
    "Which language is spoken in Germany?": ("German", "Deutsch"),
    "Who wrote Romeo and Juliet?": ("Shakespeare",),
    "Which day comes after Monday?": ("Tuesday",),
    "Which season comes after spring?": ("summer",),
}
"""Each with what a right answer holds, any of it."""


def questions() -> tuple[Prompt, ...]:
    return tuple(
        Prompt(id=f"outside-{number}", messages=({"role": "user", "content": text},))
        for number, text in enumerate(_QUESTIONS)
    )


def forgotten(asked: Sequence[Prompt], base: Sequence[str], student: Sequence[str]) -> dict[str, Any]:
    """Shares of the questions that both answer rightly, and the student's less the base's with its 95 % interval."""
    before, after = (_right(asked, answers) for answers in (base, student))
    gains = [a - b for a, b in zip(after, before, strict=True)]
    low, high = interval(gains)
    return {
        "base": mean(before),
        "student": mean(after),
        "gain": mean(gains),
        "low": low,
        "high": high,
        "n": len(gains),
    }


def _right(asked: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
    """1 where a whole word, or words, of what is known stand in the answer."""
    known = [_QUESTIONS[prompt.messages[-1]["content"]] for prompt in asked]
    return [
        float(any(regex.search(rf"(?i)(?<![\w.]){regex.escape(word)}(?!\w)", answer) for word in words))
        for words, answer in zip(known, answers, strict=True)
    ]
