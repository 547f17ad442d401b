"""Values over a socket: plain data by value, everything else by a number that only its owner can resolve.

JSON in frames of a bounded size. Never pickle or marshal: what comes from the other side may be anything.
"""

import datetime
import decimal
import fractions
import json
import keyword
import os
import struct
from collections import deque, namedtuple
from collections.abc import Callable
from typing import Any, TypeAlias, cast

MOST_BYTES = 4 * 2**20
Data: TypeAlias = Any
"""What `json` reads and writes."""

_SMALL = 2**53
_SIMPLE: dict[str, tuple[type[Any], Callable[[Any], list[Any]]]] = {
    "Decimal": (decimal.Decimal, lambda v: [str(v)]),
    "Fraction": (fractions.Fraction, lambda v: [v.numerator, v.denominator]),
    "date": (datetime.date, lambda v: [v.year, v.month, v.day]),
    "time": (datetime.time, lambda v: [v.hour, v.minute, v.second, v.microsecond, v.tzinfo]),
    "datetime": (
        datetime.datetime,
        lambda v: [v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, v.tzinfo],
    ),
    "timedelta": (datetime.timedelta, lambda v: [v.days, v.seconds, v.microseconds]),
    "timezone": (datetime.timezone, lambda v: [v.utcoffset(None)]),
}
"""The type, and what to call it with to have the value again."""
_TUPLE: type[tuple[Any, ...]] = tuple
_DICT: type[dict[Any, Any]] = dict
_COLLECTIONS: dict[str, type[Any]] = {"l": list, "t": tuple, "s": set, "f": frozenset, "q": deque}


class Closed(Exception):
    """The other side is gone."""


class Unreadable(Exception):
    """What came, or should go, is no message: too large, nested too deeply, or malformed."""


class Wire:
    """One end of the socket."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def send(self, message: Data) -> None:
        try:
            body = json.dumps(message).encode()
        except (ValueError, TypeError, RecursionError):
            raise Unreadable("nested too deeply") from None
        if len(body) > MOST_BYTES:
            raise Unreadable("larger than 4 MB")
        frame = struct.pack("!I", len(body)) + body
        try:
            while frame:
                frame = frame[os.write(self._fd, frame) :]
        except OSError:
            raise Closed from None

    def receive(self) -> Data:
        size = struct.unpack("!I", self._read(4))[0]
        if size > MOST_BYTES:
            raise Closed
        try:
            return json.loads(self._read(size))
        except (ValueError, RecursionError):
            raise Unreadable("malformed") from None

    def _read(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            try:
                part = os.read(self._fd, min(size - len(found), 2**16))
            except OSError:
                raise Closed from None
            if not part:
                raise Closed
            found += part
        return bytes(found)


def encode(value: Any, export: Callable[[Any], Data]) -> Data:
    """A value as JSON; `export` names what is not plain data. Unreadable where it is nested too deeply."""
    try:
        return _encode(value, export)
    except RecursionError:
        raise Unreadable("nested too deeply") from None


def decode(data: Data, find: Callable[[list[Any]], Any]) -> Any:
    """The value; `find` gives what was named. Unreadable for what `encode` does not write."""
    try:
        return _decode(data, find)
    except Unreadable:
        raise
    except (ValueError, TypeError, KeyError, IndexError, ArithmeticError, RecursionError, MemoryError):
        raise Unreadable("malformed") from None


def _encode(value: Any, export: Callable[[Any], Data]) -> Data:
    """Subclasses of plain types go as those: what they say of themselves is left behind."""
    kind = cast(type[Any], type(value))
    match value:
        case None | bool():
            return value
        case int():
            number = int.__index__(value)
            return number if -_SMALL < number < _SMALL else ["i", hex(number)]
        case float():
            return float.__float__(value)
        case str():
            return str.__str__(value)
        case complex():
            return ["c", value.real, value.imag]
        case bytes() | bytearray():
            return ["b" if isinstance(value, bytes) else "B", bytes(value).hex()]
        case range():
            return ["g", *(_encode(edge, export) for edge in (value.start, value.stop, value.step))]
        case tuple() if hasattr(kind, "_fields"):
            named = cast(tuple[Any, ...], value)
            items = [_encode(item, export) for item in _TUPLE.__iter__(named)]
            return ["n", kind.__name__, [str(name) for name in kind._fields], items]
        case dict():
            pairs = _DICT.items(cast(dict[Any, Any], value))
            return ["d", [[_encode(key, export), _encode(item, export)] for key, item in pairs]]
        case _:
            pass
    for tag, base in _COLLECTIONS.items():
        if isinstance(value, base):
            return [tag, [_encode(item, export) for item in base.__iter__(value)]]
    simple = _SIMPLE.get(kind.__name__)
    if simple is not None and simple[0] is kind:
        return ["v", kind.__name__, [_encode(part, export) for part in simple[1](value)]]
    if kind.__module__ == "numpy" and hasattr(value, "tolist"):
        return _encode(value.tolist(), export)
    return export(value)


def _decode(data: Data, find: Callable[[list[Any]], Any]) -> Any:
    match data:
        case None | bool() | int() | float() | str():
            return data
        case ["i", str() as digits]:
            return int(digits, 16)
        case ["c", real, imaginary]:
            return complex(real, imaginary)
        case ["b", str() as digits]:
            return bytes.fromhex(digits)
        case ["B", str() as digits]:
            return bytearray.fromhex(digits)
        case ["g", start, stop, step]:
            return range(*(_decode(edge, find) for edge in (start, stop, step)))
        case ["n", str() as name, list(), list()]:
            fits = name.isidentifier() and not keyword.iskeyword(name)
            named = namedtuple(name if fits else "Tuple", data[2], rename=True)  # pyright: ignore[reportUntypedNamedTuple]
            return named(*(_decode(item, find) for item in data[3]))
        case ["d", list()]:
            return {_decode(key, find): _decode(item, find) for key, item in data[1]}
        case [("l" | "t" | "s" | "f" | "q") as tag, list()]:
            return _COLLECTIONS[tag](_decode(item, find) for item in data[1])
        case ["v", str() as name, list()]:
            return _SIMPLE[name][0](*(_decode(part, find) for part in data[2]))
        case ["r" | "o", *_]:
            return find(cast(list[Any], data))
        case _:
            raise Unreadable("malformed")
