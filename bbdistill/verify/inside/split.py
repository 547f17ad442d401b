"""What a text of tests holds: statements that prepare, and tests with their names."""

import ast
from dataclasses import dataclass


class BadTests(ValueError):
    """The tests themselves are no use; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One statement, in the order in which they run."""

    name: str | None
    """Of the test; None = it only prepares."""
    node: ast.stmt
    source: str


def split(source: str) -> list[Step]:
    """The statements of the source as they stand, then a call of each `def test_...()`.

    A test is such a function, an `assert`, a call by itself, or a block (`for`, `with`, `try`, ...) that holds one of
    those; the last three are called "test 1", "test 2", ... Everything else prepares: imports, helpers, values.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as fault:
        raise BadTests(f"the tests are not valid Python: {fault}") from None
    steps: list[Step] = []
    functions: list[str] = []
    count = 0
    for node in tree.body:
        name = None
        match node:
            case ast.FunctionDef(name=called) if called.startswith("test"):
                if node.args.args or node.args.posonlyargs or node.args.kwonlyargs:
                    raise BadTests(f"the test `{called}` takes arguments, which nobody gives")
                functions.append(called)
            case _ if _tests_something(node):
                count += 1
                name = f"test {count}"
            case _:
                pass
        steps.append(Step(name=name, node=node, source=ast.get_source_segment(source, node) or ""))
    for called in functions:
        steps.append(Step(name=called, node=ast.parse(f"{called}()").body[0], source=f"{called}()"))
    if not any(step.name for step in steps):
        raise BadTests("there is no `assert` and no `def test_...()`")
    return steps


def _tests_something(node: ast.stmt) -> bool:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return False
        case ast.Assert() | ast.Expr(value=ast.Call()):
            return True
        case ast.For() | ast.While() | ast.With() | ast.Try() | ast.If():
            return any(isinstance(inner, ast.Assert) for inner in ast.walk(node))
        case _:
            return False
