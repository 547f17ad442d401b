"""The process with the tests. It runs them against what the other process returns, and reports each to the verifier."""

import ast
import builtins
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, cast

from .confine import CannotConfine, confine
from .remote import Answer, BadTest, Ended, Remote
from .split import BadTests, split
from .wire import Closed, Wire


def main() -> None:
    """Arguments: the number of the socket, and the limits as JSON; on stdin the job, on stdout one report a line."""
    job = json.load(sys.stdin)
    report = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    quiet = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(quiet, fd)
    try:
        confine(json.loads(sys.argv[2]))
    except CannotConfine as fault:
        print(json.dumps({"refused": str(fault)}), file=report)
        return
    wire = Wire(int(sys.argv[1]))
    try:
        wire.receive()  # that the other side is ready, before it has seen any code
    except Closed:
        print(json.dumps({"refused": "the program's own process did not start"}), file=report)
        return
    answer = Answer(wire)
    print(json.dumps({"ready": True}), file=report)
    for row in _reports(answer, job["program"], job["tests"]):
        print(json.dumps(row), file=report)
    print(json.dumps({"done": True}), file=report)


def _reports(answer: Answer, program: str, tests: str) -> Iterator[dict[str, Any]]:
    """One for each test that ran; `broken` = nothing more can be run, `bad` = the tests are no use."""
    try:
        steps = split(tests)
        names = _load(answer, program)
    except (BadTests, BadTest) as fault:
        yield {"bad": str(fault)}
        return
    except Ended:
        yield {"broken": "loading", "ended": True}
        return
    except Exception as fault:
        yield {"broken": "loading", "fault": _fault(fault, 0)}
        return
    yield {"loaded": True}
    space = {"__name__": "tests", "__builtins__": builtins, **names}
    for step in steps:
        answer.notes.clear()
        try:
            code = compile(ast.Module(body=[step.node], type_ignores=[]), "<tests>", "exec", dont_inherit=True)
            exec(code, space)
        except Ended:
            pass  # told below
        except BadTest as fault:
            yield {"bad": str(fault)}
            return
        except BaseException as fault:
            if isinstance(fault, ImportError) and "answer" not in vars(fault):
                yield {"bad": f"the tests import what is not there: {fault}"}
                return
            row = {"fault": _fault(fault, _line(fault)), "notes": answer.notes, "source": step.source}
            yield {**row, "test": step.name} if step.name else {**row, "broken": step.source}
            if step.name is None:
                return
            continue
        # A bare `except:` of a test may have swallowed the end.
        if answer.ended:
            yield {"broken": step.name or step.source, "ended": True, "asked": answer.asked}
            return
        if step.name:
            yield {"test": step.name, "passed": True}


def _load(answer: Answer, program: str) -> dict[str, Any]:
    """The names of the judged code for the tests; those of Python itself, `__builtins__` too, stay Python's."""
    found, _ = answer.ask("load", program, told="", open=True)
    names = cast(dict[Any, Any], found) if isinstance(found, dict) else {}
    for name, value in names.items():
        if isinstance(value, Remote):
            object.__setattr__(value, "bb_told", "completion" if name == "completion" else name)
            object.__setattr__(value, "bb_open", value.bb_how != "object")
    return {name: value for name, value in names.items() if _may_be_given(name)}


def _may_be_given(name: Any) -> bool:
    return isinstance(name, str) and not name.startswith("_") and not hasattr(builtins, name)


def _line(fault: BaseException) -> int:
    """The last line of the tests that the fault came through."""
    line, trace = 0, fault.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<tests>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _fault(fault: BaseException, line: int) -> dict[str, Any]:
    """`answer`: where it was raised in the judged code, if it came from there."""
    try:
        said = str(fault)[:300]
    except BaseException:
        said = ""
    return {
        "kind": type(fault).__name__,
        "message": said,
        "missing": getattr(fault, "name", None) if isinstance(fault, NameError) else None,
        "line": line,
        "answer": vars(fault).get("answer"),
    }
