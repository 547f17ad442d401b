"""JSON values of unknown form, taken as objects."""

import json
from typing import Any, TypeAlias, cast

Json: TypeAlias = dict[str, Any]


def as_object(value: Any) -> Json:
    """`value` if it is an object, else an empty one."""
    return cast(Json, value) if isinstance(value, dict) else {}


def parse(text: bytes | str) -> Any:
    """The JSON value; None where `text` is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
