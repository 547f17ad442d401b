"""The process with the judged code. It loads it, and does with it what the tests ask: nothing here decides anything.

The judged code may do what it likes to this process. It can choose what it returns, without knowing what is expected,
and no more.
"""

import builtins
import json
import sys
import types
from collections.abc import Callable
from typing import Any, cast

from .confine import CannotConfine, confine
from .wire import Closed, Data, Unreadable, Wire, decode, encode

FILE = "<answer>"
_TOLD = 300
_FRAMES = 3


def main() -> None:
    """Arguments: the number of the socket, and the limits as JSON."""
    try:
        confine(json.loads(sys.argv[2]))
    except CannotConfine as fault:
        sys.exit(f"the sandbox is refused: {fault}")
    wire = Wire(int(sys.argv[1]))
    try:
        wire.send("ready")
        Program(wire).serve()
    except Closed:
        return


class Program:
    """Answers requests until the tests hang up."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._objects: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}
        self._lines: list[str] = []

    def serve(self) -> None:
        while True:
            self._reply(self._wire.receive())

    def _reply(self, request: Data) -> None:
        try:
            self._wire.send(self._answer(request))
        except Unreadable as fault:
            self._wire.send(_unsendable(fault))

    def _answer(self, request: Data) -> Data:
        verb, *rest = request
        try:
            result, given = getattr(self, f"_{verb}")(*rest)
            return ["ok", encode(result, self._export), encode(given, self._export)]
        except Closed:
            raise
        except Unreadable as fault:
            return _unsendable(fault)
        except BaseException as fault:
            return self._raised(fault)

    def _load(self, source: str) -> tuple[Any, Any]:
        self._lines = source.split("\n")
        module = types.ModuleType("answer")
        sys.modules["answer"] = module
        code = compile(source, FILE, "exec", dont_inherit=True)
        exec(code, module.__dict__)
        names = {name: value for name, value in vars(module).items() if not name.startswith("_")}
        # The tests import what they use themselves: a module from here could have been changed.
        found = {name: value for name, value in names.items() if not isinstance(value, types.ModuleType)}
        return {**found, "completion": module}, None

    def _call(self, what: Data, arguments: Data, named: Data) -> tuple[Any, Any]:
        positional, keywords = self._value(arguments), self._value(named)
        return self._value(what)(*positional, **keywords), [positional, keywords]

    def _get(self, what: Data, name: str) -> tuple[Any, Any]:
        return getattr(self._value(what), name), None

    def _set(self, what: Data, name: str, value: Data) -> tuple[Any, Any]:
        setattr(self._value(what), name, self._value(value))
        return None, None

    def _special(self, name: str, what: Data, arguments: Data) -> tuple[Any, Any]:
        """A special method, looked up as Python does, on the type."""
        value: Any = self._value(what)
        if name == "__bool__":
            return bool(value), None
        if name == "__next__":
            try:
                return (next(value),), None
            except StopIteration:
                return (), None
        found: Any = getattr(cast(type[Any], type(value)), name, None)
        if name == "__iter__" and found is None:
            return iter(value), None
        if found is None:
            raise TypeError(f"`{type(value).__name__}` has no `{name}`")
        result = found(value, *self._value(arguments))
        return ("__NotImplemented__" if result is NotImplemented else result), None

    def _isinstance(self, what: Data, kind: Data) -> tuple[Any, Any]:
        return isinstance(self._value(what), self._value(kind)), None

    def _raised(self, fault: BaseException) -> Data:
        kind = type(fault)
        own = self._export(kind) if kind.__module__ == "answer" else None
        try:
            said = str(fault)[:_TOLD]
            arguments = encode(tuple(fault.args), self._export)
        except BaseException:
            said, arguments = "", None
        if isinstance(fault, SyntaxError) and fault.filename == FILE:
            said = fault.msg
        return ["raised", [one.__name__ for one in kind.__mro__], said, self._trace(fault), own, arguments]

    def _trace(self, fault: BaseException) -> list[list[Any]]:
        """[line, function, source] of the last frames in the judged code."""
        if isinstance(fault, SyntaxError) and fault.filename == FILE:
            return [[fault.lineno or 0, "", self._line(fault.lineno or 0)]]
        frames: list[list[Any]] = []
        trace = fault.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if code.co_filename == FILE:
                frames.append([trace.tb_lineno, code.co_name, self._line(trace.tb_lineno)])
            trace = trace.tb_next
        return frames[-_FRAMES:]

    def _line(self, number: int) -> str:
        return self._lines[number - 1].strip()[:120] if 0 < number <= len(self._lines) else ""

    def _value(self, data: Data) -> Any:
        return decode(data, self._find)

    def _find(self, data: list[Any]) -> Any:
        match data:
            case ["r", int() as number, *_]:
                return self._callback(number)
            case [_, int() as number, *_]:
                return self._objects[number]
            case _:
                raise Unreadable("malformed")

    def _callback(self, number: int) -> Callable[..., Any]:
        """A function of the tests."""

        def call(*arguments: Any, **named: Any) -> Any:
            self._wire.send(["callback", number, encode(arguments, self._export), encode(named, self._export)])
            # Until its result comes, the tests may ask for more: what they were handed may be ours to call.
            while True:
                reply = self._wire.receive()
                match reply:
                    case ["returned", value]:
                        return self._value(value)
                    case ["failed", str() as kind, str() as message]:
                        raise _exception(kind)(message)
                    case _:
                        self._reply(reply)

        return call

    def _export(self, value: Any) -> Data:
        number = self._numbers.get(id(value))
        if number is None:
            number = len(self._objects) + 1
            self._objects[number], self._numbers[id(value)] = value, number
        if isinstance(value, type):
            mro = [one.__name__ for one in cast(type[Any], value).__mro__]
            return ["r", number, "exception" if issubclass(cast(type[Any], value), BaseException) else "class", mro]
        kind = cast(type[Any], type(value))
        how = "module" if isinstance(value, types.ModuleType) else "function" if callable(value) else "object"
        return ["r", number, how, [kind.__name__]]


def _exception(name: str) -> type[Exception]:
    found: Any = getattr(builtins, name, None)
    fits = isinstance(found, type) and issubclass(cast(type[Any], found), Exception)
    return cast(type[Exception], found) if fits else Exception


def _unsendable(fault: Unreadable) -> Data:
    return ["raised", ["ValueError"], f"the result is {fault}", [], None, None]
