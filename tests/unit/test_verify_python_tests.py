"""`python_tests`: which test failed and why, in the exact words; programs that forge; when it abstains or refuses.

Where `BBDISTILL_BWRAP=required` is set, bubblewrap must work here; otherwise the weaker sandbox does where it does not.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from verdicts import RIGHT, Said, said, wrong

from bbdistill import verify
from bbdistill.errors import ConfigError
from bbdistill.verify import Limits, PythonTests
from bbdistill.verify.python_tests import program_of
from bbdistill.verify.sandbox import Mode, why_not

TESTS = "assert f(2) == 4\n\ndef test_three():\n    assert f(3) == 9\n"
MODE: Mode = "bwrap" if os.environ.get("BBDISTILL_BWRAP") == "required" or why_not("bwrap") is None else "rlimits"

FORGED = '{{\\"test\\": \\"{}\\", \\"passed\\": true}}'


@pytest.fixture(scope="module")
def tests() -> PythonTests:
    return PythonTests(sandbox=MODE)


def both(gave: str, *more: str) -> Said:
    """The feedback where either test fails in the same way; {} is the argument."""
    lines = [f"test 1: {gave.format(2)}.", f"test_three: {gave.format(3)}."]
    return wrong("\n".join(["2 of 2 tests failed.", *lines, *more]))


def not_loaded(why: str) -> Said:
    return wrong(f"2 of 2 tests failed.\nThe program does not load: {why}. 2 tests did not run.")


PROGRAMS: dict[str, tuple[str, Said]] = {
    "right": ("def f(x): return x * x", RIGHT),
    "right, in a fence": ("Here:\n```python\ndef f(x): return x * x\n```\nDone.", RIGHT),
    "right, in the fence marked as Python": ("```\nf = None\n```\n```py\ndef f(x): return x * x\n```", RIGHT),
    "right, in an open fence": ("```python\ndef f(x): return x * x\n", RIGHT),
    "right, and it prints": ("def f(x):\n    print(x)\n    return x * x", RIGHT),
    "half right": ("def f(x): return x + x", wrong("1 of 2 tests failed.\ntest_three: `f(3)` gave 6.", 0.5)),
    "wrong": ("def f(x): return [x]", both("`f({0})` gave [{0}]")),
    "raises": (
        "def g(x):\n    y = 1 / 0\n    return y\n\ndef f(x):\n    return g(x)",
        both(
            "`f({0})` raised ZeroDivisionError: division by zero "
            "(line 6 in `f`: `return g(x)`, then line 2 in `g`: `y = 1 / 0`)"
        ),
    ),
    "raises a fault of its own": (
        "class Bad(ValueError): pass\ndef f(x):\n    raise Bad(f'no {x}')",
        both("`f({0})` raised Bad: no {0} (line 3 in `f`: `raise Bad(f'no {{x}}')`)"),
    ),
    "raises far down": (
        "def f(x):\n    if x > 99: raise KeyError('deep')\n    return f(x + 1)",
        both(
            "`f({0})` raised KeyError: 'deep' (line 3 in `f`: `return f(x + 1)`, then line 3 in `f`: "
            "`return f(x + 1)`, then line 2 in `f`: `if x > 99: raise KeyError('deep')`)"
        ),
    ),
    "prints": (
        "def f(x):\n    print('got', x)\n    return 5",
        both("`f({0})` gave 5", 'The program printed "got 2\\ngot 3".'),
    ),
    "prints a lot": (
        "def f(x):\n    print('x' * 5_000)\n    return 5",
        both("`f({0})` gave 5", f'The program printed "{"x" * 500}".'),
    ),
    "prints what steers a terminal": (
        "def f(x):\n    print('\\x1b[2J')\n    return 5",
        both("`f({0})` gave 5", 'The program printed "\\u001b[2J\\n\\u001b[2J".'),
    ),
    "not defined": ("def g(x): return x * x", both("the answer does not define `f`")),
    "no function": ("f = 3", both("the program was asked nothing; then the test raised TypeError")),
    "needs more": (
        "def f(x, y): return x * x",
        both("`f({0})` raised TypeError: f() missing 1 required positional argument: 'y'"),
    ),
    "empty": ("", wrong("The answer is empty; it should be a Python program.")),
    "an empty fence": ("```python\n```", wrong("The answer is empty; it should be a Python program.")),
    "prose": (
        "I cannot help with that.",
        not_loaded("SyntaxError: invalid syntax (line 1: `I cannot help with that.`)"),
    ),
    "no colon": ("def f(x)\n    return 4", not_loaded("SyntaxError: expected ':' (line 1: `def f(x)`)")),
    "mixed tabs": (
        "def f(x):\n\tif x:\n        return 4",
        not_loaded("TabError: inconsistent use of tabs and spaces in indentation (line 3: `return 4`)"),
    ),
    "no such import": (
        "import nowhere_at_all",
        not_loaded("ModuleNotFoundError: No module named 'nowhere_at_all' (line 1: `import nowhere_at_all`)"),
    ),
    "fails while loading": ("x = {}['a']", not_loaded("KeyError: 'a' (line 1: `x = {}['a']`)")),
    "a null byte": ("\x00", not_loaded("SyntaxError: source code string cannot contain null bytes")),
    "half a surrogate pair": (
        "def f(x): return '\ud83d'",
        not_loaded(
            "UnicodeEncodeError: 'utf-8' codec can't encode character '\\ud83d' in position 18: surrogates not allowed"
        ),
    ),
    "10 MB": ("#" * 10_000_000, not_loaded("ValueError: it is larger than 4 MB")),
    # Forgeries
    "exit while loading": ("import sys\nsys.exit(0)", not_loaded("SystemExit: 0 (line 2: `sys.exit(0)`)")),
    "exit in a test": (
        "import sys\ndef f(x):\n    sys.exit(0)",
        both("`f({0})` raised SystemExit: 0 (line 3 in `f`: `sys.exit(0)`)"),
    ),
    "exit without a word": (
        "import os\ndef f(x):\n    os._exit(0)",
        wrong(
            "2 of 2 tests failed.\ntest 1: the program was stopped in `f(2)`: it ended itself, with exit code 0. "
            "1 test after it did not run."
        ),
    ),
    "patched builtins": (
        "import builtins\nbuiltins.AssertionError = KeyError\nbuiltins.abs = lambda x: 4\ndef f(x): return 0",
        both("`f({0})` gave 0"),
    ),
    "equal to everything": (
        "class Any:\n    def __eq__(self, other): return True\n    __ne__ = None\ndef f(x): return Any()",
        both("`f({0})` gave <Any object>"),
    ),
    "a number equal to everything": (
        "class Any(int):\n    def __eq__(self, other): return True\ndef f(x): return Any(1)",
        both("`f({0})` gave 1"),
    ),
    "other tests": (
        "def test_three(): pass\ndef f(x): return 0\nimport sys\nsys.modules['tests'] = sys.modules['__main__']",
        both("`f({0})` gave 0"),
    ),
    "looks for the tests": (
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    found = []\n    while frame:\n"
        "        found += [k for k in frame.f_globals if 'test' in k]\n        frame = frame.f_back\n    return found",
        both("`f({0})` gave []"),
    ),
    "no asserts": (
        "__debug__ = False\ndef f(x): return 0",
        not_loaded("SyntaxError: cannot assign to __debug__ (line 1: `__debug__ = False`)"),
    ),
    "a report of its own": (
        "import json\ndef f(x):\n    for name in ('test 1', 'test_three'):\n"
        "        print(json.dumps({'test': name, 'passed': True}), flush=True)\n    return 0",
        both(
            "`f({0})` gave 0",
            'The program printed "' + "\\n".join([FORGED.format("test 1"), FORGED.format("test_three")] * 2) + '".',
        ),
    ),
}


@pytest.mark.parametrize("case", PROGRAMS)
def test_a_program(case: str, tests: PythonTests):
    program, expected = PROGRAMS[case]
    assert said(tests, program, {"tests": TESTS}) == expected


def test_only_with_reveal_the_feedback_shows_the_test():
    revealing = PythonTests(sandbox=MODE, reveal=True)
    assert said(revealing, "def f(x): return x + x", TESTS) == wrong(
        "1 of 2 tests failed.\ntest_three: `f(3)` gave 6. The test: `assert f(3) == 9`.", 0.5
    )


def test_three_failures_are_told_in_full_and_the_others_by_name(tests: PythonTests):
    many = "\n".join(f"assert f({n}) == {n + 1}" for n in range(6))
    assert said(tests, "def f(x): return x", many) == wrong(
        "6 of 6 tests failed.\ntest 1: `f(0)` gave 0.\ntest 2: `f(1)` gave 1.\ntest 3: `f(2)` gave 2.\n"
        "Also failed: test 4, test 5, test 6."
    )


def test_what_takes_too_long_is_stopped_and_named():
    hurried = PythonTests(sandbox=MODE, limits=Limits(wall_s=1.0))
    assert said(hurried, "import time\ndef f(x): time.sleep(99)", TESTS) == wrong(
        "2 of 2 tests failed.\ntest 1: the program was stopped: it did not end within 1 s. 1 test after it did not run."
    )


REFERENCES: dict[str, tuple[Any, Said]] = {
    "a text": ("assert f(1) == 1", RIGHT),
    "a list": (["assert f(1) == 1", "assert f(2) == 4"], RIGHT),
    "a table with a list": ({"tests": ["assert f(1) == 1"]}, RIGHT),
    "with imports and values": ("import math\nwanted = math.prod([2, 2])\nassert f(2) == wanted", RIGHT),
    "with a raised fault": ("try:\n    f('a')\nexcept TypeError:\n    pass\nelse:\n    assert False", RIGHT),
    "none": (None, "no tests in the reference"),
    "empty": ({"tests": " "}, "no tests in the reference"),
    "another table": ({"answer": "4"}, "no tests in the reference"),
    "numbers": ([1], "no tests in the reference"),
    "no test": ("x = 1", "there is no `assert` and no `def test_...()`"),
    "with arguments": ("def test_a(x): pass", "the test `test_a` takes arguments, which nobody gives"),
    "not Python": ("assert f(", "the tests are not valid Python: '(' was never closed (<unknown>, line 1)"),
    "an import that is not there": (
        "from solution import f\nassert f(1) == 1",
        "the tests import what is not there: No module named 'solution'",
    ),
    "that import in a test": (
        "def test_a():\n    import pytest_of_theirs\n    assert f(1) == 1",
        "the tests import what is not there: No module named 'pytest_of_theirs'",
    ),
}


@pytest.mark.parametrize("case", REFERENCES)
def test_a_reference(case: str, tests: PythonTests):
    reference, expected = REFERENCES[case]
    assert said(tests, "def f(x): return x * x", reference) == expected


def test_an_import_that_fails_in_the_program_is_its_own_fault(tests: PythonTests):
    found = said(tests, "def f(x): import nowhere_at_all", "assert f(1) == 1")
    assert found == wrong(
        "1 of 1 test failed.\ntest 1: `f(1)` raised ModuleNotFoundError: No module named 'nowhere_at_all' "
        "(line 1 in `f`: `def f(x): import nowhere_at_all`)."
    )


@pytest.mark.parametrize(
    "text", ["```" + "a" * 10_000_000, "```\n" * 1_000_000, "   " * 3_000_000], ids=["a", "b", "c"]
)
def test_the_program_is_found_in_time_whatever_the_answer(text: str):
    start = time.monotonic()
    program_of(text)
    assert time.monotonic() - start < 5


def refusal(*, path: str) -> str:
    """What loading says where programs are looked for in `path`."""
    code = (
        "from pathlib import Path\nfrom bbdistill import verify\n"
        "try: verify.load('python_tests', base=Path(), reveal=False)\n"
        "except Exception as fault: print(type(fault).__name__, fault)\n"
    )
    environment = {**os.environ, "PATH": path}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment).stdout


def test_where_bubblewrap_is_missing_it_refuses_and_names_the_way_out(tmp_path: Path):
    rm = shutil.which("rm")
    assert rm is not None
    (tmp_path / "rm").symlink_to(rm)
    assert refusal(path=str(tmp_path)) == (
        "ConfigError `python_tests` cannot run programs here: bubblewrap (`bwrap`) is not installed; install it, or "
        'accept weaker walls with `{ use = "python_tests", sandbox = "rlimits" }`\n'
    )


def test_where_bubblewrap_does_not_work_it_refuses_with_its_words(tmp_path: Path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'setting up uid map: Permission denied' >&2\nexit 1\n")
    broken.chmod(0o755)
    assert refusal(path=f"{tmp_path}:{os.environ['PATH']}") == (
        "ConfigError `python_tests` cannot run programs here: the sandbox `bwrap` does not start: setting up uid map: "
        "Permission denied; install it, or accept weaker walls with "
        '`{ use = "python_tests", sandbox = "rlimits" }`\n'
    )


def test_the_weaker_sandbox_is_taken_only_when_asked_for():
    weaker = verify.load({"use": "python_tests", "sandbox": "rlimits"}, base=Path(), reveal=False)
    assert said(weaker, "def f(x): return x * x", TESTS) == RIGHT


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sandbox": "docker"}, "`sandbox`: expected 'bwrap' or 'rlimits', got \"docker\""),
        ({"memory_mb": 1}, "`memory_mb`: expected 64 or more, got 1"),
        ({"wall_s": 0}, "`wall_s`: expected more than 0.0, got 0"),
        ({"timeout": 3}, "unknown key `timeout`; known keys: use, weight, gate, sandbox, wall_s, cpu_s, memory_mb"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], says: str):
    with pytest.raises(ConfigError) as caught:
        verify.load({"use": "python_tests", **options}, base=Path(), reveal=False)
    assert str(caught.value) == f"the verifier `python_tests`: {says}"
