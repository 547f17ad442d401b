"""Reads what a teacher wrote: strict JSON first, plain text where the server has no structured output.

What cannot be read without guessing is None, and becomes an `Abstain`: never a default, never a tie.
"""

import itertools
import json
import re
from typing import Any, Literal, cast

from bbdistill.client.values import as_object, is_text, parse
from bbdistill.teacher.base import JsonSchema
from bbdistill.types import Criterion, Mark

Winner = Literal["A", "B"]
_SPACE, _LOOSE = "\\s", "\\s\"'`\u201c\u201d\u2018\u2019"
"""In a class of characters: what may differ in what is left alone, and in a quote (quotation marks too)."""

COMPARE = JsonSchema(
    name="comparison",
    schema={
        "type": "object",
        "properties": {"reason": {"type": "string"}, "winner": {"type": "string", "enum": ["A", "B"]}},
        "required": ["reason", "winner"],
        "additionalProperties": False,
    },
)
CORRECT = JsonSchema(
    name="correction",
    schema={
        "type": "object",
        "properties": {"reason": {"type": "string"}, "corrected": {"type": "string"}},
        "required": ["reason", "corrected"],
        "additionalProperties": False,
    },
)
CRITERIA = JsonSchema(
    name="criteria",
    schema={
        "type": "object",
        "properties": {
            "criteria": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"criterion": {"type": "string"}, "points": {"type": "integer"}},
                    "required": ["criterion", "points"],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["criteria"],
        "additionalProperties": False,
    },
)
CRITIQUE = JsonSchema(
    name="critique",
    schema={
        "type": "object",
        "properties": {
            "why": {"type": "string"},
            "verdict": {"type": "string", "enum": ["right", "wrong"]},
            "quote": {"type": "string"},
        },
        "required": ["why", "verdict", "quote"],
        "additionalProperties": False,
    },
)
STRATEGY = JsonSchema(
    name="strategy",
    schema={
        "type": "object",
        "properties": {"strategy": {"type": "string"}},
        "required": ["strategy"],
        "additionalProperties": False,
    },
)
COACH = JsonSchema(
    name="coaching",
    schema={
        "type": "object",
        "properties": {"mistake": {"type": "string"}, "advice": {"type": "string"}},
        "required": ["mistake", "advice"],
        "additionalProperties": False,
    },
)
QUESTIONS = JsonSchema(
    name="questions",
    schema={
        "type": "object",
        "properties": {"questions": {"type": "array", "items": {"type": "string"}}},
        "required": ["questions"],
        "additionalProperties": False,
    },
)

MOST_CRITERIA = 12
"""In one rubric: as many as `prompts/criteria.md` asks for at most, so that the length of the marks has a bound."""
_FENCE = re.compile(r"```[\w-]*\n(.*?)\n?```", re.DOTALL)
_NAMED = re.compile(
    r"\b(?:winner|better|answer|verdict)\b\W{0,12}(?:is\W{0,4})?(?:answer\W{0,4})?\b([AB])\b", re.IGNORECASE
)


def winner(text: str) -> Winner | None:
    """The answer a judge preferred."""
    found = _object(text)
    if found is not None:
        named = found.get("winner")
        return named if named in ("A", "B") else None
    letter = text.strip("*`.\"' \n")
    named_in_text = {letter} if letter in ("A", "B") else {match.upper() for match in _NAMED.findall(text)}
    return cast(Winner, named_in_text.pop()) if len(named_in_text) == 1 else None


def correction(text: str) -> tuple[str, str] | None:
    """(corrected answer, reason). Without the JSON frame, the whole text or its only fenced block is the answer."""
    found = _object(text)
    if found is not None and "corrected" in found:
        corrected = found["corrected"]
        answer = corrected if isinstance(corrected, str) else json.dumps(corrected, ensure_ascii=False)
        return (answer.strip(), str(found.get("reason", ""))) if answer.strip() else None
    fenced = _FENCE.findall(text)
    answer = (fenced[0] if len(fenced) == 1 else text).strip()
    return (answer, "") if answer else None


def rubric_schema(*, answers: int, criteria: int) -> JsonSchema:
    """Of the marks: each is a key of its own, so that a model that is held to the schema leaves none out."""

    def every(name: str, count: int, one: str) -> dict[str, Any]:
        names = [f"{name}_{number}" for number in range(1, count + 1)]
        return {
            "type": "object",
            "properties": {each: {"$ref": f"#/$defs/{one}"} for each in names},
            "required": names,
            "additionalProperties": False,
        }

    mark = {
        "type": "object",
        "properties": {"reason": {"type": "string"}, "met": {"type": "boolean"}},
        "required": ["reason", "met"],
        "additionalProperties": False,
    }
    defined = {"marks": every("criterion", criteria, "mark"), "mark": mark}
    return JsonSchema(name="marks", schema={**every("answer", answers, "marks"), "$defs": defined})


def marks(text: str, *, answers: int, criteria: int) -> list[tuple[Mark, ...] | None]:
    """For each answer its marks by the criteria; None where one is missing."""
    found = _object(text) or {}
    return [_marks(as_object(found.get(f"answer_{number}")), criteria) for number in range(1, answers + 1)]


def _marks(given: dict[str, Any], criteria: int) -> tuple[Mark, ...] | None:
    read: list[Mark] = []
    for place in range(1, criteria + 1):
        match given.get(f"criterion_{place}"):
            case {"met": bool() as met, **rest}:
                read.append(Mark(met=met, reason=str(rest.get("reason", "")).strip()))
            case _:
                return None
    return tuple(read)


def criteria(text: str) -> tuple[Criterion, ...] | None:
    """A rubric of 1 to 12 criteria with 1 to 5 points each; of two with the same words the first counts."""
    found = _object(text)
    rows: object = found.get("criteria") if found is not None else None
    read: dict[str, Criterion] = {}
    for row in cast(list[Any], rows) if isinstance(rows, list) else []:
        match row:
            case {"criterion": str() as said, "points": int() as points} if (
                points in range(1, 6) and points is not True and said.strip()
            ):
                line = " ".join(said.split())
                read.setdefault(line, Criterion(text=line, points=points))
            case _:
                return None
    return tuple(read.values()) if 1 <= len(read) <= MOST_CRITERIA else None


def critique(text: str) -> tuple[str | None, str] | None:
    """(quote of the first wrong part, why); the quote is None where the answer is found right.

    A verdict that contradicts its quote is no verdict.
    """
    found = _object(text)
    if found is None:
        return None
    quote, why = found.get("quote"), str(found.get("why", ""))
    match found.get("verdict"):
        case "wrong" if isinstance(quote, str) and quote.strip():
            return quote, why
        case "right" if not quote:
            return None, why
        case _:
            return None


def strategy(text: str) -> str | None:
    """One line, whatever the frame."""
    return _line(text, "strategy")


def advice(text: str) -> str | None:
    """Likewise."""
    return _line(text, "advice")


def questions(text: str) -> list[str] | None:
    """One line each, equal ones once; None where there is no list of texts, or nothing in it."""
    found = _object(text)
    said: object = found.get("questions") if found is not None else None
    lines = cast(list[Any], said) if isinstance(said, list) else []
    if not all(isinstance(line, str) for line in lines):
        return None
    return [line for line in dict.fromkeys(" ".join(line.split()) for line in lines) if line] or None


def locate(quote: str, answer: str) -> tuple[int, int] | None:
    """Where `quote` first stands in `answer`, in characters; None where it does not.

    Spacing and quotation marks may differ: the quote comes in a JSON string, where those of the answer need escaping.
    """
    exact = answer.find(quote)
    if exact >= 0:
        return exact, exact + len(quote)
    pattern = _loosely(quote, _LOOSE)
    loose = re.search(rf"(?<!\w){pattern}(?!\w)", answer) if pattern else None
    return loose.span() if loose else None


def end_of(beginning: str, text: str) -> int | None:
    """Where in `text` its beginning ends, spacing aside; None where it begins otherwise."""
    after = r"\s*" if beginning[-1:].isspace() else ""
    found = re.match(rf"\s*{_loosely(beginning, _SPACE)}{after}", text)
    return found.end() if found else None


def _loosely(text: str, loose: str) -> str:
    """A pattern of what differs from `text` in characters of the class `loose` alone, which keep words apart."""
    parts = re.findall(rf"\w+|[^\w{loose}]", text)
    pattern = "".join(map(re.escape, parts[:1]))
    for before, part in itertools.pairwise(parts):
        words = re.match(r"\w", before) and re.match(r"\w", part)
        pattern += f"[{loose}]{'+' if words else '*'}{re.escape(part)}"
    return pattern


def _line(text: str, key: str) -> str | None:
    """What stands under `key`; without the JSON frame, the whole text."""
    found = _object(text)
    said = text if found is None else found.get(key)
    return " ".join(said.split()) or None if isinstance(said, str) else None


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object that the text is, or holds in its only code fence; an empty one if half a character is in it."""
    fenced = _FENCE.findall(text)
    for candidate in (text, *fenced[:1]):
        value: Any = parse(candidate)
        if isinstance(value, dict):
            return cast(dict[str, Any], value) if is_text(candidate) else {}
    return None
