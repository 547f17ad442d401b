"""What the judged code has, as the tests see it: plain data is plain data, anything else a stand-in.

The judged code never decides a comparison with plain data, and learns nothing of what is expected from one: an object
of its own is equal to no plain value, cannot be ordered or reckoned with one, and is searched by looking through its
items. What a function returns can only be read: iterated over, measured, printed, asked for an attribute or called
without arguments. Arguments go to functions, to classes whose names begin with a capital, and to the objects made by
calling such a class.
"""

import builtins
import reprlib
from collections.abc import Callable, Iterator
from typing import Any, cast

from .wire import Closed, Data, Unreadable, Wire, decode, encode

_MOST_NOTES = 3


class Ended(BaseException):
    """The process with the judged code is gone."""


class BadTest(BaseException):
    """The tests ask for something that cannot be: their author's mistake."""


class Answer:
    """The judged code: asks its process, and notes for the feedback what was called and what came back."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._callbacks: list[Callable[..., Any]] = []
        self._exceptions: dict[int, type[Exception]] = {}
        self.notes: list[list[str]] = []
        """[what was asked, what came back], the latest ones."""
        self.asked = ""
        """What the judged code is busy with."""
        self.ended = False

    def ask(self, verb: str, *rest: Data, told: str, open: bool = False) -> tuple[Any, Any]:
        """(the result, the arguments afterwards). Raises what the judged code raised."""
        self.asked = told
        try:
            self._wire.send([verb, *rest])
        except Unreadable as fault:
            raise ValueError(f"what a test gives to `{told}` is {fault}" if told else f"it is {fault}") from None
        except Closed:
            raise self._end() from None
        try:
            while True:
                reply = self._wire.receive()
                match reply:
                    case ["ok", result, given]:
                        found = self.value(result, told, open)
                        self._note(told, f"gave {shown(found)}")
                        return found, self.value(given, told, False)
                    case ["raised", [str(), *_] as mro, str() as message, list(), kind, arguments]:
                        fault = self._raised(told, cast(list[Any], mro), message, reply[3], kind, arguments)
                        break
                    case ["callback", int() as number, arguments, named]:
                        self._wire.send(self._called(number, arguments, named))
                    case _:
                        raise Unreadable("malformed")
        except (Closed, Unreadable):
            raise self._end() from None
        raise fault

    def _end(self) -> Ended:
        self.ended = True
        return Ended()

    def value(self, data: Data, told: str, open: bool) -> Any:
        """What came from the judged code. Unreadable if it is no value at all."""

        def find(found: list[Any]) -> Any:
            match found:
                case ["r", int() as number, "exception", [str(), *_] as mro]:
                    return self._exception(number, cast(list[Any], mro))
                case ["r", int() as number, str() as how, [str() as name, *_]]:
                    return Remote(self, number, how, str(name)[:60], told, open)
                case ["o", int() as number]:
                    return self._callbacks[number]
                case _:
                    raise Unreadable("malformed")

        return decode(data, find)

    def encode(self, value: Any) -> Data:
        try:
            return encode(value, self._export)
        except Unreadable as fault:
            raise ValueError(f"what a test gives is {fault}") from None

    def _export(self, value: Any) -> Data:
        if isinstance(value, Remote):
            return ["o", value.bb_number]
        if isinstance(value, type) and value in self._exceptions.values():
            return ["o", next(number for number, kind in self._exceptions.items() if kind is value)]
        if not callable(value):
            raise BadTest(f"a test can hand over plain data and functions, and not a `{type(value).__name__}`")
        self._callbacks.append(value)
        return ["r", len(self._callbacks) - 1]

    def _called(self, number: int, arguments: Data, named: Data) -> Data:
        told = self.asked
        try:
            positional, keywords = self.value(arguments, told, False), self.value(named, told, False)
            return ["returned", self.encode(self._callbacks[number](*positional, **keywords))]
        except Exception as fault:
            return ["failed", type(fault).__name__, ""]
        finally:
            self.asked = told

    def _raised(
        self, told: str, mro: list[Any], message: str, trace: list[Any], kind: Data, arguments: Data
    ) -> Exception:
        own, given = self.value(kind, told, False), self.value(arguments, told, False)
        base = own if isinstance(own, type) and issubclass(own, Exception) else _known(mro)
        fault = base.__new__(base)
        fault.args = cast(tuple[Any, ...], given) if isinstance(given, tuple) else (message,)
        frames = [[line, name, source] for line, name, source in trace if _is_frame(line, name, source)]
        vars(fault)["answer"] = {"asked": told, "kind": str(mro[0])[:60], "message": message, "trace": frames}
        self._note(told, f"raised {str(mro[0])[:60]}")
        return fault

    def _exception(self, number: int, mro: list[Any]) -> type[Exception]:
        if number not in self._exceptions:
            self._exceptions[number] = type(str(mro[0]), (_known(mro[1:]),), {})
        return self._exceptions[number]

    def _note(self, asked: str, came: str) -> None:
        self.notes = [*self.notes, [asked, came]][-_MOST_NOTES:]


def _is_frame(line: Any, name: Any, source: Any) -> bool:
    return isinstance(line, int) and isinstance(name, str) and isinstance(source, str)


def _known(mro: list[Any]) -> type[Exception]:
    """The nearest exception that Python has itself; what would end the tests, such as SystemExit, is a plain one."""
    for name in mro:
        found: Any = getattr(builtins, str(name), None)
        if isinstance(found, type) and issubclass(cast(type[Any], found), Exception):
            return cast(type[Exception], found)
    return Exception


class Remote:
    """Stands for an object of the judged code. `open`: it may be given arguments."""

    __slots__ = ("bb_answer", "bb_how", "bb_kind", "bb_number", "bb_open", "bb_told")

    def __init__(self, answer: Answer, number: int, how: str, kind: str, told: str, open: bool) -> None:
        set_ = object.__setattr__
        set_(self, "bb_answer", answer)
        set_(self, "bb_number", number)
        set_(self, "bb_how", how)
        set_(self, "bb_kind", kind)
        set_(self, "bb_told", told)
        set_(self, "bb_open", open)

    bb_answer: Answer
    bb_number: int
    bb_how: str
    bb_kind: str
    bb_told: str
    bb_open: bool

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if (arguments or named) and not self.bb_open:
            raise TypeError(f"`{self.bb_told}` takes no arguments from a test")
        answer = self.bb_answer
        told = f"{self.bb_told}({_listed(arguments, named)})"
        # The name by which the test calls it counts: what the thing calls itself is its own choice.
        makes = self.bb_open and self.bb_how == "class" and self.bb_told.rpartition(".")[2][:1].isupper()
        given = [answer.encode(arguments), answer.encode(named)]
        result, after = answer.ask("call", ["o", self.bb_number], *given, told=told, open=makes)
        if makes and isinstance(result, Remote):
            object.__setattr__(result, "bb_how", "object")
        match after:
            case [tuple(), dict()]:
                _put_back(list(arguments), list(cast(tuple[Any, ...], after[0])))
                _put_back(named, after[1])
            case _:
                pass
        return result

    def __getattr__(self, name: str) -> Any:
        told = name if self.bb_how == "module" else f"{self.bb_told}.{name}"
        result, _ = self.bb_answer.ask("get", ["o", self.bb_number], name, told=told)
        if isinstance(result, Remote):
            opens = self.bb_open and self.bb_how != "function" and result.bb_how in ("function", "class")
            object.__setattr__(result, "bb_open", opens)
        return result

    def __setattr__(self, name: str, value: Any) -> None:
        self.bb_writable(f"{self.bb_told}.{name}")
        told = f"{self.bb_told}.{name} = {shown(value)}"
        self.bb_answer.ask("set", ["o", self.bb_number], name, self.bb_answer.encode(value), told=told)

    def __getitem__(self, key: Any) -> Any:
        self.bb_writable(f"{self.bb_told}[{shown(key)}]")
        return self.bb_special("__getitem__", key, told=f"{self.bb_told}[{shown(key)}]")

    def __setitem__(self, key: Any, value: Any) -> None:
        self.bb_writable(f"{self.bb_told}[{shown(key)}]")
        self.bb_special("__setitem__", key, value, told=f"{self.bb_told}[{shown(key)}] = {shown(value)}")

    def __delitem__(self, key: Any) -> None:
        self.bb_writable(f"{self.bb_told}[{shown(key)}]")
        self.bb_special("__delitem__", key, told=f"del {self.bb_told}[{shown(key)}]")

    def __iter__(self) -> Iterator[Any]:
        return self.bb_special("__iter__", told=f"iter({self.bb_told})")

    def __next__(self) -> Any:
        found: Any = self.bb_special("__next__", told=f"next({self.bb_told})")
        if not isinstance(found, tuple) or not found:
            raise StopIteration
        return cast(tuple[Any, ...], found)[0]

    def __enter__(self) -> Any:
        return self.bb_special("__enter__", told=f"with {self.bb_told}")

    def __exit__(self, *fault: object) -> None:
        self.bb_special("__exit__", None, None, None, told=f"the end of `with {self.bb_told}`")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Remote):
            return False
        return self.bb_number == other.bb_number or bool(self.bb_binary("__eq__", other) is True)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.bb_number)

    def __instancecheck__(self, value: object) -> bool:
        if not isinstance(value, Remote):
            return False
        told = f"isinstance(..., {self.bb_told})"
        numbers = ["o", value.bb_number], ["o", self.bb_number]
        return self.bb_answer.ask("isinstance", *numbers, told=told)[0] is True

    def bb_writable(self, what: str) -> None:
        if not self.bb_open:
            raise TypeError(f"`{what}` asks something of what the answer returned, where plain data is expected")

    def bb_binary(self, name: str, other: object) -> Any:
        """Only between two objects of the judged code: a plain operand would tell it what is expected."""
        if not isinstance(other, Remote):
            return NotImplemented
        result = self.bb_special(name, other, told=f"{self.bb_told}.{name}({other.bb_told})")
        return NotImplemented if result == "__NotImplemented__" else result

    def bb_special(self, name: str, *arguments: Any, told: str) -> Any:
        answer = self.bb_answer
        return answer.ask("special", name, ["o", self.bb_number], answer.encode(arguments), told=told)[0]


def _reader(name: str, form: str, *, plain: type[Any] | None) -> Callable[[Remote], Any]:
    def read(self: Remote) -> Any:
        found = self.bb_special(name, told=form.format(self.bb_told))
        if plain is not None and type(found) is not plain:
            raise TypeError(f"`{name}` should give {plain.__name__}")
        return found

    return read


def _operator(name: str) -> Callable[[Remote, object], Any]:
    def operate(self: Remote, other: object) -> Any:
        return self.bb_binary(name, other)

    return operate


_READERS: tuple[tuple[str, str, type[Any] | None], ...] = (
    ("__len__", "len({})", int),
    ("__bool__", "bool({})", bool),
    ("__str__", "str({})", str),
    ("__repr__", "repr({})", str),
    ("__int__", "int({})", int),
    ("__index__", "int({})", int),
    ("__float__", "float({})", float),
    ("__abs__", "abs({})", None),
    ("__neg__", "-{}", None),
    ("__reversed__", "reversed({})", None),
)
_OPERATORS = (
    "lt",
    "le",
    "gt",
    "ge",
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and",
    "or",
    "xor",
)
for _name, _form, _plain in _READERS:
    setattr(Remote, _name, _reader(_name, _form, plain=_plain))
for _name in _OPERATORS:
    setattr(Remote, f"__{_name}__", _operator(f"__{_name}__"))


class _Shown(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 5
        self.maxlist = self.maxtuple = self.maxset = self.maxdict = 12
        self.maxstring = self.maxother = 120
        self.maxlong = 60

    def repr1(self, x: Any, level: int) -> str:
        match x:
            case Remote():
                return f"<class {x.bb_kind}>" if x.bb_how == "class" else f"<{x.bb_kind} object>"
            case tuple() if hasattr(cast(object, x), "_fields"):
                # A named one may bear any name, and the base class goes by that.
                return self.repr_tuple(tuple(cast(tuple[Any, ...], x)), level)
            case _:
                return super().repr1(x, level)

    def repr_int(self, x: int, level: int) -> str:
        return super().repr_int(x, level) if x.bit_length() < 10_000 else f"<int of {x.bit_length()} bits>"


_shown = _Shown()


def shown(value: Any) -> str:
    """A value for the feedback, briefly."""
    return _shown.repr(value)


def _listed(arguments: tuple[Any, ...], named: dict[str, Any]) -> str:
    return ", ".join([*map(shown, arguments), *(f"{name}={shown(value)}" for name, value in named.items())])


def _put_back(mine: Any, theirs: Any) -> Any:
    """Gives a test's own lists, dicts and sets the content they have after a call that was handed copies."""
    own: Any = mine
    match mine, theirs:
        case list(), list():
            one, other = cast(list[Any], mine), cast(list[Any], theirs)
            kept = [_put_back(*pair) for pair in zip(one, other, strict=False)]
            one[:] = kept + other[len(one) :]
        case dict(), dict():
            table, after = cast(dict[Any, Any], mine), cast(dict[Any, Any], theirs)
            kept = {key: _put_back(table[key], value) if key in table else value for key, value in after.items()}
            table.clear()
            table.update(kept)
        case set(), set():
            cast(set[Any], mine).clear()
            cast(set[Any], mine).update(cast(set[Any], theirs))
        case bytearray(), bytearray():
            mine[:] = theirs
        case tuple(), tuple():
            for pair in zip(cast(tuple[Any, ...], mine), cast(tuple[Any, ...], theirs), strict=False):
                _put_back(*pair)
        case _:
            # A function of the tests comes back as the stand-in of its stand-in.
            return own if callable(own) or (type(own) is type(theirs) and own == theirs) else theirs
    return own
