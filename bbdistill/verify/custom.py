"""`module:function`: a check of the user's own, as plain Python.

    def score_it(prompt, answer):
        return len(answer) < 200, "Too long: say it in 200 characters."

It gives one of: a `Verdict`; an `Abstain`; true or false; a score in [0, 1], where 1 passes; or (one of the last two,
the feedback). What it raises is a fault of the program and stops it.
"""

import difflib
import importlib
import sys
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, cast

from bbdistill.errors import ConfigError, VerifierError
from bbdistill.types import Abstain, Prompt, Verdict


class Custom:
    """Calls the user's function, one call at a time. VerifierError where that raises, or gives something else."""

    def __init__(self, function: Callable[[Prompt, str], Any], *, name: str) -> None:
        self._function = function
        self._name = name
        self._one_at_a_time = threading.Lock()

    @classmethod
    def load(cls, spec: str, *, base: Path, known: Collection[str] = ()) -> "Custom":
        """The function that `[DIRECTORY/]module:function` names; the module is looked for in `base` first."""
        where, _, function = spec.rpartition(":")
        directory, module = (base / where).parent.resolve(), Path(where).name
        if str(directory) not in sys.path:
            sys.path.insert(0, str(directory))  # for good: it may import more of its own later
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as fault:
            if fault.name != module:
                raise VerifierError(f"the verifier `{module}:{function}` cannot be imported: {fault}") from fault
            close = difflib.get_close_matches(module, known, n=1)
            hint = f"; did you mean the verifier `{close[0]}`?" if close else ""
            raise ConfigError(
                f"the verifier `{module}:{function}`: no module `{module}` in `{directory}`{hint}"
            ) from None
        except Exception as fault:
            raise VerifierError(f"the verifier `{module}:{function}` cannot be imported: {_said(fault)}") from fault
        check = getattr(found, function, None)
        if not callable(check):
            raise ConfigError(f"the verifier `{module}:{function}`: `{found.__file__}` has no function `{function}`")
        return cls(cast(Callable[[Prompt, str], Any], check), name=f"{module}:{function}")

    def __call__(self, prompt: Prompt, answer: str, /) -> Verdict | Abstain:
        try:
            with self._one_at_a_time:
                found = self._function(prompt, answer)
        except Exception as fault:
            raise VerifierError(
                f"the verifier `{self._name}` failed on prompt `{prompt.id}`: {_said(fault)}"
            ) from fault
        return self._verdict(found)

    def _verdict(self, found: Any) -> Verdict | Abstain:
        match found:
            case Verdict() | Abstain():
                return found
            case (score, str() as feedback):
                pass
            case score:
                feedback = f"The answer fails the check `{self._name}`."
        match score:
            case bool() | int() | float() if 0 <= score <= 1:
                passed = score == 1
                return Verdict(score=float(score), passed=passed, feedback="" if passed else feedback)
            case _:
                raise VerifierError(
                    f"the verifier `{self._name}` gave {found!r:.100}; expected a Verdict, an Abstain, true or false, "
                    "a score from 0 to 1, or one of these two with the feedback"
                )


def _said(fault: Exception) -> str:
    return f"{type(fault).__name__}: {fault}"
