"""`module:function`: what a user's own check may give, and what is said of one that is broken."""

import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from verdicts import RIGHT, Said, said, wrong

from bbdistill import verify
from bbdistill.errors import ConfigError, VerifierError
from bbdistill.types import Prompt, Verdict

KEY = "sk-test-abcdefgh12345678"
MODULE = f"""
from bbdistill.types import Abstain, Span, Verdict

class Odd:
    def __repr__(self): raise RuntimeError

def verdict(prompt, answer):
    return Verdict(score=0.5, passed=False, feedback="half", spans=(Span(where="a", why="b"),))
def whole_score(prompt, answer): return Verdict(score=1, passed=True, feedback="")
def abstain(prompt, answer): return Abstain(reason="cannot tell")
def yes(prompt, answer): return True
def no(prompt, answer): return False
def half(prompt, answer): return 0.5
def one(prompt, answer): return 1
def zero(prompt, answer): return 0
def yes_and_why(prompt, answer): return True, "never said"
def no_and_why(prompt, answer): return False, "Say it shorter."
def some_and_why(prompt, answer): return 0.25, "Say it shorter."
def as_list(prompt, answer): return [False, "Say it shorter."]
def half_a_pair(prompt, answer): return False, "bad \\ud800 end"
def by_reference(prompt, answer): return answer == prompt.reference, "It is " + prompt.reference

def nothing(prompt, answer): pass
def too_much(prompt, answer): return 1.5
def negative(prompt, answer): return -0.1
def nan(prompt, answer): return float("nan")
def word(prompt, answer): return "yes"
def three(prompt, answer): return True, "a", "b"
def too_good(prompt, answer): return Verdict(score=7, passed=True, feedback="")
def nan_verdict(prompt, answer): return Verdict(score=float("nan"), passed=True, feedback="")
def no_feedback(prompt, answer): return Verdict(score=0.0, passed=False, feedback=None)
def odd(prompt, answer): return Odd()
def returns_key(prompt, answer): return "{KEY}"
def large(prompt, answer): return "x" * 10_000

def raises(prompt, answer): raise KeyError("order")
def says_nothing(prompt, answer): raise ValueError
def exits(prompt, answer): raise SystemExit(0)
def divides(prompt, answer): return 1 / 0
def one_argument(answer): return True
def many_lines(prompt, answer): raise ValueError("a\\nb" * 1_000)
def key(prompt, answer): raise ValueError("401 for {KEY}")
def bearer(prompt, answer): raise ValueError("header: Bearer abcdefgh")
def address(prompt, answer): raise OSError("GET https://api.test/x?api_key=abc failed")
def password(prompt, answer): raise OSError("https://me:pass@api.test refused")

constant = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    path = tmp_path / "my_checks.py"
    path.write_text(MODULE)
    return path


def load(spec: str, base: Path) -> verify.Verifier:
    return verify.load(spec, base=base, reveal=False)


GIVES: dict[str, Said] = {
    "verdict": wrong("half", 0.5),
    "whole_score": RIGHT,
    "abstain": "cannot tell",
    "yes": RIGHT,
    "no": wrong("The answer fails the check `my_checks:no`."),
    "half": wrong("The answer fails the check `my_checks:half`.", 0.5),
    "one": RIGHT,
    "zero": wrong("The answer fails the check `my_checks:zero`."),
    "yes_and_why": RIGHT,
    "no_and_why": wrong("Say it shorter."),
    "some_and_why": wrong("Say it shorter.", 0.25),
    "as_list": wrong("Say it shorter."),
    "half_a_pair": wrong("bad \\ud800 end"),
    "by_reference": wrong("It is Paris"),
}


@pytest.mark.parametrize("function", GIVES)
def test_what_a_check_may_give(function: str, tmp_path: Path):
    assert said(load(f"my_checks:{function}", tmp_path), "Milan", "Paris") == GIVES[function]


WRONG: dict[str, str] = {
    "nothing": "None",
    "too_much": "1.5",
    "negative": "-0.1",
    "nan": "nan",
    "word": "'yes'",
    "three": "(True, 'a', 'b')",
    "too_good": "Verdict(score=7, passed=True, feedback='', spans=())",
    "nan_verdict": "Verdict(score=nan, passed=True, feedback='', spans=())",
    "no_feedback": "Verdict(score=0.0, passed=False, feedback=None, spans=())",
    "odd": "a `Odd`",
    "returns_key": "a `str`",
    "large": f"'{'x' * 99}…",
}


@pytest.mark.parametrize("function", WRONG)
def test_what_a_check_may_not_give(function: str, tmp_path: Path):
    with pytest.raises(VerifierError) as caught:
        said(load(f"my_checks:{function}", tmp_path), "Milan")
    assert str(caught.value) == (
        f"the verifier `my_checks:{function}` gave {WRONG[function]}; expected a Verdict, an Abstain, true or false, "
        "a score from 0 to 1, or one of these two with the feedback"
    )


HIDDEN = "its message is left out, since it may tell a secret"
RAISES: dict[str, str] = {
    "raises": "KeyError: 'order'",
    "says_nothing": "ValueError",
    "exits": "SystemExit: 0",
    "divides": "ZeroDivisionError: division by zero",
    "one_argument": "TypeError: one_argument() takes 1 positional argument but 2 were given",
    "many_lines": f"ValueError: {'a ba ' + 'ba ' * 98 + 'b'}…",
    "key": f"ValueError: {HIDDEN}",
    "bearer": f"ValueError: {HIDDEN}",
    "address": f"OSError: {HIDDEN}",
    "password": f"OSError: {HIDDEN}",
}


@pytest.mark.parametrize("function", RAISES)
def test_a_check_that_raises_stops_the_program_in_one_sentence(function: str, tmp_path: Path):
    with pytest.raises(VerifierError) as caught:
        said(load(f"my_checks:{function}", tmp_path), "Milan")
    message = str(caught.value)
    assert message.startswith(f"the verifier `my_checks:{function}` failed on prompt `p`: {RAISES[function][:200]}")
    assert len(message) < 400
    assert "\n" not in message


@pytest.mark.parametrize("function", ["key", "bearer", "address", "password", "returns_key"])
def test_not_even_the_traceback_tells_a_secret(function: str, tmp_path: Path):
    with pytest.raises(VerifierError) as caught:
        said(load(f"my_checks:{function}", tmp_path), "Milan")
    told = "".join(traceback.format_exception(caught.value))
    assert not any(secret in told for secret in (KEY, "abcdefgh", "api_key=abc", "pass@"))


def test_the_traceback_of_any_other_fault_leads_to_its_line(tmp_path: Path, module: Path):
    with pytest.raises(VerifierError) as caught:
        said(load("my_checks:divides", tmp_path), "Milan")
    told = "".join(traceback.format_exception(caught.value))
    assert f'File "{module}"' in told
    assert "return 1 / 0" in told


IMPORTS: dict[str, tuple[str, str]] = {
    "no Python": ("def check(:", "SyntaxError: invalid syntax (broken.py, line 1)"),
    "a module it lacks": ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
    "a fault of its own": ("1 / 0", "ZeroDivisionError: division by zero"),
    "an exit": ("import sys; sys.exit(0)", "SystemExit: 0"),
    "a key": (f"raise ValueError('{KEY}')", f"ValueError: {HIDDEN}"),
    "binary": ("\x00", "SyntaxError: source code string cannot contain null bytes"),
}


@pytest.mark.parametrize("case", IMPORTS)
def test_a_module_that_cannot_be_imported_says_why(case: str, tmp_path: Path):
    text, says = IMPORTS[case]
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(VerifierError) as caught:
        load("broken:check", tmp_path)
    assert str(caught.value) == f"the verifier `broken:check` cannot be imported: {says}"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nowhere:check", "the verifier `nowhere:check`: no module `nowhere` in `{}`"),
        ("sub/nowhere:check", "the verifier `nowhere:check`: no module `nowhere` in `{}/sub`"),
        (
            "exacto:check",
            "the verifier `exacto:check`: no module `exacto` in `{}`; did you mean the verifier `exact`?",
        ),
        ("my_checks:missing", "the verifier `my_checks:missing`: `{}/my_checks.py` has no function `missing`"),
        ("my_checks:constant", "the verifier `my_checks:constant`: `{}/my_checks.py` has no function `constant`"),
        ("time:check", "the verifier `time:check`: `time` has no function `check`"),
    ],
)
def test_what_is_not_there_is_named(spec: str, says: str, tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        load(spec, tmp_path)
    assert str(caught.value) == says.format(tmp_path)


@pytest.mark.parametrize("spec", ["my_checks", "my_checks:", ":check", ":", "", "my_checks:a.b"])
def test_a_spec_that_names_nothing_is_unknown(spec: str, tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        load(spec, tmp_path)
    assert str(caught.value).startswith(f"unknown verifier `{spec}`; known: json_schema, fields, exact, contains")


def test_a_module_in_a_directory_a_package_and_below_a_colon_is_found(tmp_path: Path):
    for directory in (tmp_path / "sub", tmp_path / "package", tmp_path / "a:b"):
        directory.mkdir()
    (tmp_path / "sub" / "beside.py").write_text("wanted = 'Paris'")
    (tmp_path / "sub" / "own.py").write_text("import beside\ndef check(p, a): return a == beside.wanted")
    (tmp_path / "package" / "part.py").write_text("def check(p, a): return a == 'Paris'")
    (tmp_path / "a:b" / "colon.py").write_text("def check(p, a): return a == 'Paris'")
    for spec in ("sub/own:check", f"{tmp_path}/sub/own:check", "package.part:check", f"{tmp_path}/a:b/colon:check"):
        assert said(load(spec, tmp_path), "Paris") == RIGHT


def test_a_name_that_another_module_has_is_refused_and_not_taken_for_it(tmp_path: Path):
    (tmp_path / "json.py").write_text("def check(p, a): return True")
    with pytest.raises(ConfigError, match=rf"`{tmp_path}/json.py` bears the name of another module, `.*json/__init__"):
        load("json:check", tmp_path)
    (tmp_path / "time.py").write_text("def check(p, a): return True")
    with pytest.raises(ConfigError, match=r"bears the name of another module, one of Python itself; rename it"):
        load("time:check", tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "my_checks.py").write_text("def yes(p, a): return False")
    assert said(load("my_checks:yes", tmp_path), "") == RIGHT
    with pytest.raises(ConfigError, match=rf"`{other}/my_checks.py` bears the name of another module"):
        load("my_checks:yes", other)


def test_an_exit_of_a_check_is_no_success_of_the_command(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "?", "completion": "!"}')
    done = subprocess.run(
        [sys.executable, "-m", "bbdistill", "verify", "a.jsonl", "--verifier", "my_checks:exits"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the verifier `my_checks:exits` failed on prompt `p-")
    assert done.stderr.endswith("`: SystemExit: 0\n")


def test_a_key_in_the_feedback_goes_no_further(tmp_path: Path):
    (tmp_path / "leaks.py").write_text(
        "KEY = 'sk-proj-' + 'ABCDEFGH12345678'\n"
        "from bbdistill.types import Verdict\n"
        "def plain(prompt, answer): return False, f'the key {KEY} is bad'\n"
        "def whole(prompt, answer): return Verdict(score=0.5, passed=False, feedback=f'{KEY} is bad')\n"
    )
    for function, says in (("plain", "the key [redacted] is bad"), ("whole", "[redacted] is bad")):
        verdict = verify.load(f"leaks:{function}", base=tmp_path, reveal=False)(Prompt(id="p", messages=()), "x")
        assert isinstance(verdict, Verdict)
        assert verdict.feedback == says
