"""`fields`: the fields of a JSON answer against those of the prompt's reference."""

import json
from typing import Any, cast

from bbdistill.types import Abstain, Prompt, Span, Verdict
from bbdistill.verify.base import one_line
from bbdistill.verify.strict_json import NotJson, parse

SHOWN = 5
"""Fields named in the feedback that should not be there: an answer may have any number of them, of any length."""


class Fields:
    """Score: the share of the reference's fields that are right. Abstains where a prompt has no reference object.

    With `reveal` the feedback names the expected value; without, only which field is wrong and what stands there.
    """

    def __init__(self, *, reveal: bool = False) -> None:
        self._reveal = reveal

    def __call__(self, prompt: Prompt, answer: str, /) -> Verdict | Abstain:
        known: object = prompt.reference
        if not isinstance(known, dict):
            return Abstain(reason="the reference is no object to compare with")
        reference = cast(dict[str, Any], known)
        try:
            value = parse(answer)
        except NotJson as fault:
            return Verdict(score=0.0, passed=False, feedback=str(fault))
        if not isinstance(value, dict):
            return Verdict(score=0.0, passed=False, feedback="The answer should be one JSON object.")
        given = cast(dict[str, Any], value)
        wrong = [Span(where=name, why=self._why(name, given, reference[name])) for name in _wrong(given, reference)]
        extra = [one_line(name, 80) for name in given if name not in reference]
        more = [f"{len(extra) - SHOWN} more fields should not be there."] if len(extra) > SHOWN else []
        spans = (*wrong, *(Span(where=name, why=f"`{name}` should not be there.") for name in extra[:SHOWN]))
        return Verdict(
            score=1 - len(wrong) / max(1, len(reference)),
            passed=not wrong and not extra,
            feedback="\n".join([*(span.why for span in spans), *more]),
            spans=spans,
        )

    def _why(self, name: str, given: dict[str, Any], expected: Any) -> str:
        said = f"is wrong: the answer has {_shown(given[name])}" if name in given else "is missing"
        hint = f"it should be {_shown(expected)}" if self._reveal else "look at the text again"
        return f"`{name}` {said}; {hint}."


def agreement(answer: str, reference: Any) -> float:
    """How far an answer agrees with a reference, in [0, 1]: by fields for an object, else all or nothing."""
    if isinstance(reference, dict):
        fields = cast(dict[str, Any], reference)
        try:
            value = parse(answer)
        except NotJson:
            return 0.0
        return (
            1 - len(_wrong(cast(dict[str, Any], value), fields)) / max(1, len(fields))
            if isinstance(value, dict)
            else 0.0
        )
    if isinstance(reference, str):
        return float(same(answer, reference))
    try:
        return float(same(parse(answer), reference))
    except NotJson:
        return 0.0


def same(one: Any, other: Any) -> bool:
    """Equal as values: texts up to case and spacing, numbers by value, and true is not 1."""
    match one, other:
        case str(), str():
            return " ".join(one.split()).casefold() == " ".join(other.split()).casefold()
        case (bool(), _) | (_, bool()):
            return one is other
        case dict(), dict():
            left, right = cast(dict[str, Any], one), cast(dict[str, Any], other)
            return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
        case list(), list():
            pair = cast(list[Any], one), cast(list[Any], other)
            return len(pair[0]) == len(pair[1]) and all(map(same, *pair))
        case _:
            return bool(one == other)


def _wrong(given: dict[str, Any], reference: dict[str, Any]) -> list[str]:
    return [name for name, expected in reference.items() if name not in given or not same(given[name], expected)]


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:200]
