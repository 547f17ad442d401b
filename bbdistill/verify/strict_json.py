"""Reads an answer that should be exactly one JSON value, and says why it is not."""

import json
from typing import Any

from bbdistill.verify.base import quoted


class NotJson(ValueError):
    """The message is feedback for whoever wrote the answer."""


def parse(answer: str) -> Any:
    """The value. NotJson for anything around it, a key given twice, and what JSON or UTF-8 cannot hold."""
    text = answer.strip()
    if not text:
        raise NotJson("The answer is empty; it should be one JSON value.")
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
        # Half a surrogate pair and 1e999 both load, and would break whoever sends or stores the feedback.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        return value
    except NotJson:
        raise
    except UnicodeEncodeError:
        raise NotJson("The answer is not valid JSON: a \\u escape names half of a surrogate pair.") from None
    except RecursionError:
        raise NotJson("The answer is nested too deeply to be read.") from None
    except ValueError as fault:
        raise NotJson(_why(text, str(fault))) from None


def _why(text: str, fault: str) -> str:
    if "```" in text:
        return "The answer is not JSON alone: leave out the Markdown fence (```) and everything around the JSON value."
    if text[0] not in '{["-0123456789tfn':
        return "The answer is not JSON alone: there is other text before the JSON value."
    if fault.startswith("Extra data"):
        return "The answer is not JSON alone: there is other text after the JSON value."
    return f"The answer is not valid JSON: {fault}."


def _no_constant(name: str) -> Any:
    raise NotJson(f"The answer is not valid JSON: `{name}` is not a JSON number.")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise NotJson(f"The answer gives the key {quoted(key)} twice.")
        found[key] = value
    return found
