"""JSON values of unknown form, taken as objects."""

import json
from typing import Any, TypeAlias, cast

Json: TypeAlias = dict[str, Any]


def as_object(value: Any) -> Json:
    """`value` if it is an object, else an empty one."""
    return cast(Json, value) if isinstance(value, dict) else {}


def is_text(text: str) -> bool:
    """Whether it can be written as UTF-8, and what it says as JSON can: half a surrogate pair stands in either."""
    try:
        text.encode()
        json.dumps(parse(text), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    except RecursionError:  # too deep to be written again, but read it was
        pass
    return True


def parse(text: bytes | str) -> Any:
    """The JSON value; None where `text` is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
