"""`exact`, `contains` and `regex`: an answer as plain text."""

from collections.abc import Sequence
from typing import cast

import regex

from bbdistill.errors import ConfigError
from bbdistill.types import Abstain, Prompt, Span, Verdict
from bbdistill.verify.base import one_line, quoted

PATTERN_LIMIT_S = 1.0
"""Wall time that one match may take."""


class Exact:
    """Score 1 if the answer is the prompt's reference, else 0; space around either does not count.

    Abstains where the reference is neither a text nor a number.
    """

    def __init__(self, *, reveal: bool = False) -> None:
        self._reveal = reveal

    def __call__(self, prompt: Prompt, answer: str, /) -> Verdict | Abstain:
        expected = reference_text(prompt)
        if expected is None:
            return Abstain(reason="no reference text to compare with")
        expected, given = expected.strip(), answer.strip()
        if given == expected:
            return Verdict(score=1.0, passed=True, feedback="")
        where, why = _difference(given, expected)
        if self._reveal:
            why += f" It should be {quoted(expected, 400)}."
        return Verdict(score=0.0, passed=False, feedback=why, spans=(Span(where=where, why=why),))


class Contains:
    """Score: the share of the strings that stand in the answer, letter by letter.

    The strings are those given, else the prompt's reference (one text, or a list). Strings of a reference are named in
    the feedback only with `reveal`; without, by their place in it. Abstains where there are none.
    """

    def __init__(self, strings: Sequence[str] | None = None, *, reveal: bool = False) -> None:
        self._strings = strings
        self._named = reveal or strings is not None

    def __call__(self, prompt: Prompt, answer: str, /) -> Verdict | Abstain:
        strings = self._strings if self._strings is not None else _reference_texts(prompt)
        if not strings:
            return Abstain(reason="no reference strings to look for")
        missing = [(place, text) for place, text in enumerate(strings, start=1) if text not in answer]
        names = [quoted(text) if self._named else f"string {place}" for place, text in missing]
        feedback = f"Missing from the answer, {len(missing)} of {len(strings)}: {', '.join(names)}."
        return Verdict(
            score=1 - len(missing) / len(strings),
            passed=not missing,
            feedback=feedback if missing else "",
            spans=tuple(Span(where=name, why=f"{name} is missing.") for name in names),
        )


class Regex:
    """Score 1 if the pattern is found anywhere in the answer, else 0; for the whole answer, anchor it with \\A and \\Z.

    Abstains where the match takes longer than `PATTERN_LIMIT_S`, or all memory. ConfigError for what is not a pattern.
    """

    def __init__(self, pattern: str) -> None:
        try:
            self._pattern = regex.compile(pattern)
        except (regex.error, RecursionError, MemoryError) as fault:
            said = str(fault) if isinstance(fault, regex.error) else "it is too large"
            raise ConfigError(f"`regex:{one_line(pattern, 80)}` is not a pattern: {said}") from None

    def __call__(self, prompt: Prompt, answer: str, /) -> Verdict | Abstain:
        try:
            found = self._pattern.search(answer, timeout=PATTERN_LIMIT_S)
        except TimeoutError:
            return Abstain(reason=f"the pattern takes longer than {PATTERN_LIMIT_S:g} s on an answer")
        except MemoryError:  # of a pattern that calls itself without moving on
            return Abstain(reason="the pattern takes more memory than there is on an answer")
        if found is not None:
            return Verdict(score=1.0, passed=True, feedback="")
        empty = "The answer is empty; it" if not answer.strip() else "The answer"
        feedback = f"{empty} should match the pattern `{self._pattern.pattern}`, and no part of it does."
        return Verdict(score=0.0, passed=False, feedback=feedback)


def reference_text(prompt: Prompt) -> str | None:
    """The prompt's reference, if it is a text or a number."""
    match prompt.reference:
        case str() as text if text.strip():
            return text
        case bool():
            return None
        case int() | float() as number:
            return str(number)
        case _:
            return None


def _reference_texts(prompt: Prompt) -> list[str]:
    """The texts of the reference; none if anything else stands among them."""
    reference: object = prompt.reference
    given = cast(list[object], reference) if isinstance(reference, list) else [reference]
    texts = [text for text in given if isinstance(text, str) and text]
    return texts if len(texts) == len(given) else []


def _difference(given: str, expected: str) -> tuple[str, str]:
    """Where the texts part, and how to say it without the expected one."""
    if not given:
        return "line 1", f"The answer is empty; {_characters(len(expected))} expected."
    at = next((i for i, (one, other) in enumerate(zip(given, expected, strict=False)) if one != other), None)
    at = min(len(given), len(expected)) if at is None else at
    line, column = given.count("\n", 0, at) + 1, at - given.rfind("\n", 0, at)
    where = f"line {line}, character {column}"
    if at == len(given):
        missing = len(expected) - at
        return where, f"The answer ends too early: it is right up to its end, and {_characters(missing)} missing."
    if at == len(expected):
        return where, f"The answer goes on too long: all from {where} on ({quoted(given[at:], 40)}) is too much."
    kind = ""
    if given.casefold() == expected.casefold():
        kind = " It differs only in upper and lower case."
    elif given.split() == expected.split():
        kind = " It differs only in spaces and line breaks."
    said = f"The answer is wrong from {where} on, where it has {quoted(given[at:], 40)}."
    return where, f"{said}{kind or _length(len(given), len(expected))}"


def _length(given: int, expected: int) -> str:
    return "" if given == expected else f" Its length in characters is {given}; it should be {expected}."


def _characters(count: int) -> str:
    return "1 character is" if count == 1 else f"{count} characters are"
