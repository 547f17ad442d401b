"""`module:function`: a check of the user's own, as plain Python.

    def score_it(prompt, answer):
        return len(answer) < 200, "Too long: say it in 200 characters."

It gives one of: a `Verdict`; an `Abstain`; true or false; a score in [0, 1], where 1 passes; or (one of the last two,
the feedback). What it raises is a fault of the program and stops it; a message that may tell a secret is left out.
"""

import difflib
import importlib
import sys
import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from bbdistill.errors import ConfigError, VerifierError
from bbdistill.keylike import may_tell_a_secret, without_keys
from bbdistill.types import Abstain, Prompt, Verdict
from bbdistill.verify.base import one_line, writable


class Custom:
    """Calls the user's function, one call at a time. VerifierError where that raises, or gives something else."""

    def __init__(self, function: Callable[[Prompt, str], Any], *, name: str) -> None:
        self._function = function
        self._name = name
        self._one_at_a_time = threading.Lock()

    @classmethod
    def load(cls, spec: str, *, base: Path, known: Collection[str] = ()) -> "Custom":
        """The function that `[DIRECTORY/]module:function` names; the module is looked for in `base` first.

        ConfigError where there is none, VerifierError where importing the module fails.
        """
        where, _, function = spec.rpartition(":")
        directory, module = (base / where).parent.resolve(), Path(where).name
        name = f"{module}:{function}"
        found = _imported(module, directory, name, known)
        file: str | None = getattr(found, "__file__", None)
        meant = directory.joinpath(*module.split(".")).with_suffix(".py")
        if meant.is_file() and (file is None or not meant.samefile(file)):
            raise ConfigError(
                f"the verifier `{name}`: `{meant}` bears the name of another module, "
                f"{f'`{file}`' if file else 'one of Python itself'}; rename it"
            )
        check = getattr(found, function, None)
        if not callable(check):
            raise ConfigError(f"the verifier `{name}`: `{file or module}` has no function `{function}`")
        return cls(cast(Callable[[Prompt, str], Any], check), name=name)

    def __call__(self, prompt: Prompt, answer: str, /) -> Verdict | Abstain:
        try:
            with self._one_at_a_time:
                found = self._function(prompt, answer)
        except (Exception, SystemExit) as fault:
            raise _broken(f"the verifier `{self._name}` failed on prompt `{prompt.id}`", fault) from _told(fault)
        return self._verdict(found)

    def _verdict(self, found: Any) -> Verdict | Abstain:
        match found:
            case Verdict(score=score, passed=bool(), feedback=str()) if _is_score(score):
                return replace(found, feedback=_feedback(found.feedback))
            case Abstain():
                return found
            case (score, str() as feedback) if _is_score(score):
                pass
            case score if _is_score(score):
                feedback = f"The answer fails the check `{self._name}`."
            case _:
                raise VerifierError(
                    f"the verifier `{self._name}` gave {_shown(found)}; expected a Verdict, an Abstain, true or false, "
                    "a score from 0 to 1, or one of these two with the feedback"
                )
        passed = score == 1
        return Verdict(score=float(score), passed=passed, feedback="" if passed else _feedback(feedback))


def _imported(module: str, directory: Path, name: str, known: Collection[str]) -> Any:
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))  # for good: it may import more of its own later
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as fault:
        if fault.name != module:
            raise _broken(f"the verifier `{name}` cannot be imported", fault) from _told(fault)
        close = difflib.get_close_matches(module, known, n=1)
        hint = f"; did you mean the verifier `{close[0]}`?" if close else ""
        raise ConfigError(f"the verifier `{name}`: no module `{module}` in `{directory}`{hint}") from None
    except (Exception, SystemExit) as fault:
        raise _broken(f"the verifier `{name}` cannot be imported", fault) from _told(fault)


def _feedback(text: str) -> str:
    """As it may be sent: without keys, and with half a surrogate pair spelt out."""
    return without_keys(writable(text))


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _broken(what: str, fault: BaseException) -> VerifierError:
    message = one_line(str(fault), 300) if _told(fault) else "its message is left out, since it may tell a secret"
    return VerifierError(f"{what}: {type(fault).__name__}" + (f": {message}" if message else ""))


def _told(fault: BaseException) -> BaseException | None:
    """The fault, unless its message may tell a secret; a traceback would repeat it."""
    return None if may_tell_a_secret(str(fault)) else fault


def _shown(value: Any) -> str:
    try:
        said = one_line(repr(value), 100)
    except Exception:
        said = ""
    return said if said and not may_tell_a_secret(said) else f"a `{type(value).__name__}`"
