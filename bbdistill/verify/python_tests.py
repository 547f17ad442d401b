"""`python_tests`: the answer is a Python program, held against the unit tests in the prompt's reference.

The reference is `{"tests": TESTS}`, or TESTS alone: Python source, or a list of such texts. What counts as a test says
`inside/split.py`: an `assert`, a `def test_...()`, a call by itself. The names of the program are there as if imported;
`completion.NAME` is one that Python has itself. Nothing else is needed, and no pytest.
"""

import re
from collections.abc import Sequence
from typing import Any, cast

from bbdistill.errors import ConfigError
from bbdistill.types import Abstain, Prompt, Span, Verdict
from bbdistill.verify.base import one_line, quoted
from bbdistill.verify.inside.split import BadTests, split
from bbdistill.verify.sandbox import Limits, Mode, Outcome, run, why_not

SHOWN = 3
"""Failed tests that are told in full."""
_TOLD = 500
"""Characters of one line of feedback."""

# Possessive: on a line without an end, giving back what was matched would take time by the square of its length.
_FENCE = re.compile(r"^ {0,3}```[ \t]*+([\w+-]*+)[^\n]*+\n(.*?)(?:^ {0,3}```|\Z)", re.DOTALL | re.MULTILINE)


class PythonTests:
    """Score: the share of the tests that pass. ConfigError where the sandbox does not work on this machine.

    The program is the answer's first code block marked as Python, else its first code block, else all of it. It runs
    with this Python and what is installed beside it. Without `reveal` the feedback tells what the program was asked and
    what it gave, and nothing of what the test wanted. Abstains where a prompt has no usable tests.
    """

    def __init__(self, *, sandbox: Mode = "bwrap", limits: Limits | None = None, reveal: bool = False) -> None:
        reason = why_not(sandbox)
        if reason is not None:
            way_out = (
                '; install it, or accept weaker walls with `{ use = "python_tests", sandbox = "rlimits" }`'
                if sandbox == "bwrap" and why_not("rlimits") is None
                else ""
            )
            raise ConfigError(f"`python_tests` cannot run programs here: {reason}{way_out}")
        self._mode: Mode = sandbox
        self._limits = limits or Limits()
        self._reveal = reveal

    def __call__(self, prompt: Prompt, answer: str, /) -> Verdict | Abstain:
        tests = _tests(prompt.reference)
        if tests is None:
            return Abstain(reason="no tests in the reference")
        try:
            names = [step.name for step in split(tests) if step.name is not None]
        except BadTests as fault:
            return Abstain(reason=str(fault))
        program = program_of(answer)
        if not program.strip():
            return Verdict(score=0.0, passed=False, feedback="The answer is empty; it should be a Python program.")
        outcome = run(program, tests, mode=self._mode, limits=self._limits)
        bad = next((row["bad"] for row in outcome.reports if "bad" in row), None)
        if bad is not None:
            return Abstain(reason=str(bad))
        return self._verdict(names, outcome, tests.split("\n"))

    def _verdict(self, names: Sequence[str], outcome: Outcome, tests: Sequence[str]) -> Verdict:
        rows = {row["test"]: row for row in outcome.reports if "test" in row}
        passed = [name for name in names if rows.get(name, {}).get("passed") is True]
        if len(passed) == len(names):
            return Verdict(score=1.0, passed=True, feedback="")
        failed = [name for name in names if "fault" in rows.get(name, {})]
        missed = [name for name in names if name not in rows]
        spans = [_stopped(missed, outcome)] if missed else []
        spans += [Span(where=name, why=f"{name}: {self._why(rows[name], tests)}") for name in failed]
        lines = [f"{len(names) - len(passed)} of {_counted(len(names))} failed.", *(span.why for span in spans[:SHOWN])]
        if len(spans) > SHOWN:
            lines.append(one_line(f"Also failed: {', '.join(span.where for span in spans[SHOWN:])}", _TOLD) + ".")
        if outcome.printed.strip():
            lines.append(f"The program printed {quoted(outcome.printed.strip()[-_TOLD:], _TOLD)}.")
        return Verdict(score=len(passed) / len(names), passed=False, feedback="\n".join(lines), spans=tuple(spans))

    def _why(self, row: dict[str, Any], tests: Sequence[str]) -> str:
        fault = row["fault"]
        why = _cause(fault)
        if why is None:
            why = "; ".join(f"`{asked}` {came}" for asked, came in row["notes"]) or "the program was asked nothing"
            why += "" if fault["kind"] == "AssertionError" else f"; then the test raised {fault['kind']}"
        number: int = fault["line"]
        line = tests[number - 1].strip() if 0 < number <= len(tests) else ""
        return f"{one_line(why, _TOLD)}." + (f" The test: `{line}`." if self._reveal else "")


def program_of(answer: str) -> str:
    """The code of an answer."""
    blocks = cast(list[tuple[str, str]], _FENCE.findall(answer))
    marked = [code for mark, code in blocks if mark.lower() in ("python", "py", "python3")]
    return (marked or [code for _, code in blocks] or [answer])[0]


def _tests(reference: Any) -> str | None:
    given: Any = cast(dict[str, Any], reference).get("tests") if isinstance(reference, dict) else reference
    if isinstance(given, list) and all(isinstance(test, str) for test in cast(list[Any], given)):
        given = "\n".join(cast(list[str], given))
    return given if isinstance(given, str) and given.strip() else None


def _stopped(missed: Sequence[str], outcome: Outcome) -> Span:
    """Why these tests did not run, or not to their end."""
    broken = next((row for row in outcome.reports if "broken" in row), None)
    rest = f" {_counted(len(missed))} did not run."
    if broken is not None and "fault" in broken:
        loading = broken["broken"] == "loading"
        what = "The program does not load" if loading else f"The tests stop at `{broken['broken']}`"
        # While the program is loaded, no test has had a say yet: there is nothing to keep from the feedback.
        why = f"{what}: {_cause(broken['fault']) or broken['fault']['kind']}"
        why += f": {broken['fault']['message']}" if loading and broken["fault"]["answer"] is None else ""
        return Span(where="loading" if loading else missed[0], why=f"{one_line(why, _TOLD)}.{rest}")
    if {"loaded": True} not in outcome.reports:
        return Span(where="loading", why=f"The program was stopped while it was loaded: {outcome.ending}.{rest}")
    busy = f" in `{broken['asked']}`" if broken is not None and broken.get("asked") else ""
    after = f" {_counted(len(missed) - 1)} after it did not run." if len(missed) > 1 else ""
    return Span(
        where=missed[0],
        why=one_line(f"{missed[0]}: the program was stopped{busy}: {outcome.ending}", _TOLD) + f".{after}",
    )


def _cause(fault: dict[str, Any]) -> str | None:
    """What the program did wrong by itself: an error of its own, or a name that is not there."""
    if fault["missing"] is not None:
        return f"the answer does not define `{fault['missing']}`"
    raised = fault["answer"]
    if raised is None:
        return None
    said = f"`{raised['asked']}` raised {raised['kind']}" if raised["asked"] else str(raised["kind"])
    said += f": {raised['message']}" if raised["message"] else ""
    frames = [
        f"line {line}" + (f" in `{name}`" if name and name != "<module>" else "") + f": `{code}`"
        for line, name, code in raised["trace"]
    ]
    return said + (f" ({', then '.join(frames)})" if frames else "")


def _counted(count: int) -> str:
    return "1 test" if count == 1 else f"{count} tests"
