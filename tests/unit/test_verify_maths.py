"""`math`: what is equal by value, what the feedback says was read, and what would hang."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from verdicts import RIGHT, Said, said, wrong

from bbdistill import verify
from bbdistill.errors import ConfigError
from bbdistill.verify import Math

UNREAD = wrong("No mathematical expression can be read in the answer; end with one, as in \\boxed{...}.")
EMPTY = wrong("The answer is empty; end with one, as in \\boxed{...}.")
TOO_LONG = wrong("Working it out takes over 1 s, or too much memory; give it in a simpler form.")
UNKNOWN = "the reference cannot be read as mathematics"
NO_TEXT = "no reference text to compare with"


@pytest.fixture(scope="module")
def math() -> Math:
    return Math(limit_s=1)


def read(what: str) -> Said:
    return wrong(f"The answer is wrong; it was read as `{what}`.")


CASES: dict[str, tuple[Any, str, Said]] = {
    "equal": ("42", "42", RIGHT),
    "fraction and decimal": ("0.75", r"\frac{3}{4}", RIGHT),
    "decimal and fraction": ("3/4", "0.75", RIGHT),
    "percent": ("50%", "0.5", RIGHT),
    "thousands": ("1,000", "1000", RIGHT),
    "sum": ("4", "2+2", RIGHT),
    "factored": ("x^2+2x+1", "(x+1)^2", RIGHT),
    "equation": ("5", "x = 5", RIGHT),
    "last equation": ("72", "10+62=72", RIGHT),
    "in a sentence": ("42", "So it must be 42.", RIGHT),
    "short words": ("5", "so it is 5 cm", RIGHT),
    "a word with a function in it": ("12.5", "It costs 12.5", RIGHT),
    "boxed, whatever follows": ("4", r"$\boxed{4}$, which is not 5", RIGHT),
    "last of two boxes": ("4", r"$\boxed{5}$, no: $\boxed{4}$", RIGHT),
    "function by name": (r"\sin(2x)", "sin 2x", RIGHT),
    "root by name": (r"2\sqrt{3}", "2sqrt(3)", RIGHT),
    "constant by name": (r"2\pi", "2pi", RIGHT),
    "matrix": (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"$\begin{pmatrix} 1 \\ 2 \end{pmatrix}$", RIGHT),
    "text": (r"\text{blue}", r"\boxed{\text{blue}}", RIGHT),
    "dollars": (r"\$12.50", "It costs $12.50.", RIGHT),
    "a sentence as reference": ("The answer is 42", "42", RIGHT),
    "a derivation as reference": ("So 3+4=7 thus #### 7", "7", RIGHT),
    "a number as reference": (42, "42", RIGHT),
    "a float as reference": (1e22, "10^{22}", RIGHT),
    "another number": ("42", "I think it is 41.", read("41")),
    "almost": ("4", "4.0000000001", read("4.0000000001")),
    "another sign": ("4", "-4", read("-4")),
    "another expression": ("x^2", "2x", read("2*x")),
    "two answers": ("72", "72 or 71", read("{71, 72}")),
    "two in a box": ("4", r"\boxed{4, 5}", read("{4, 5}")),
    "division by zero": ("4", r"\frac{1}{0}", read("zoo")),
    "a tower": ("4", "9**9**9", read("9**9**9")),
    "prose": ("4", "four", UNREAD),
    "empty": ("4", "", EMPTY),
    "only space": ("4", " \n", EMPTY),
    "half a surrogate pair": ("4", "4\ud83d", read(r"4\ud83d")),
    "code": ("4", "__import__('os').system('true')", UNREAD),
    "a tower in LaTeX": ("4", "$9^{9^{9^9}}$", TOO_LONG),
    "a factorial": ("4", "$99999999!$", TOO_LONG),
    "deep braces": ("4", "$" + "{" * 4_000 + "4" + "}" * 4_000 + "$", TOO_LONG),
    "many digits": ("4", "1" * 100_000, read("1" * 200 + "…")),
    "10 MB": ("4", "x" * 10_000_000, UNREAD),
    "10 MB with the answer at the end": ("4", "x" * 10_000_000 + " is 4", RIGHT),
    "a word as reference": ("Paris", "Paris", UNKNOWN),
    "yes as reference": ("yes", "yes", UNKNOWN),
    "nothing boxed": (r"\boxed{}", "4", UNKNOWN),
    "a hopeless reference": ("9^{9^{9^9}}", "4", "the reference takes over 1 s, or too much memory, to work out"),
    "no reference": (None, "4", NO_TEXT),
    "an empty reference": (" ", "4", NO_TEXT),
    "true": (True, "1", NO_TEXT),
    "a list": ([4], "4", NO_TEXT),
}


@pytest.mark.parametrize("case", CASES)
def test_math(case: str, math: Math):
    reference, answer, expected = CASES[case]
    start = time.monotonic()
    assert said(math, answer, reference) == expected
    assert time.monotonic() - start < 10


def test_the_reference_is_told_only_where_it_may_be():
    revealing = Math(reveal=True)
    assert said(revealing, "41", "42") == wrong("The answer is wrong; it was read as `41`. It should be 42.")
    assert said(revealing, "", 1e-7) == wrong(
        "The answer is empty; end with one, as in \\boxed{...}. It should be 0.0000001."
    )


def test_it_is_the_same_from_many_threads_at_once(math: Math):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: said(math, str(n % 3), "1"), range(48)))
    assert found == [RIGHT if n % 3 == 1 else read(str(n % 3)) for n in range(48)]


def test_without_the_library_it_says_what_to_install():
    code = (
        "import sys\n"
        "sys.modules['math_verify'] = None\n"
        "from pathlib import Path\n"
        "from bbdistill import verify\n"
        "from bbdistill.errors import MissingExtraError\n"
        "try: verify.load('math', base=Path(), reveal=False)\n"
        "except MissingExtraError as fault: print(fault.exit_code, fault)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "2 the verifier `math` needs a library: `pip install 'bbdistill[math]'`\n"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("math:x", "unknown verifier `math:x`; did you mean `math`?"),
        ({"use": "math", "limit_s": 0}, "the verifier `math`: `limit_s`: expected 1 or more, got 0"),
        ({"use": "math", "limit": 3}, "the verifier `math`: unknown key `limit`; did you mean `limit_s`?"),
    ],
)
def test_a_wrong_spec_is_refused(spec: verify.Spec, says: str):
    with pytest.raises(ConfigError) as caught:
        verify.load(spec, base=Path(), reveal=False)
    assert str(caught.value) == says
