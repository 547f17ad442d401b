"""Verifiers: programs that say whether an answer is good, and what is wrong with it. See the README for their names."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from bbdistill.config.task import VERIFIERS, VERIFIERS_WITH_A_FILE
from bbdistill.configfile import checked
from bbdistill.errors import ConfigError
from bbdistill.verify.base import Combined, Part, Verifier, combine
from bbdistill.verify.custom import Custom
from bbdistill.verify.fields import Fields
from bbdistill.verify.maths import Math
from bbdistill.verify.options import ContainsOptions, MathOptions, Options, PythonTestsOptions, RetrievalOptions
from bbdistill.verify.python_tests import PythonTests
from bbdistill.verify.retrieval import Retrieval
from bbdistill.verify.rubric import Ask, Criteria, Rubric
from bbdistill.verify.sandbox import Limits
from bbdistill.verify.schema import JsonSchema
from bbdistill.verify.text import Contains, Exact, Regex

__all__ = [
    "Combined",
    "Contains",
    "Criteria",
    "Custom",
    "Exact",
    "Fields",
    "JsonSchema",
    "Limits",
    "Math",
    "Part",
    "PythonTests",
    "Regex",
    "Retrieval",
    "Rubric",
    "Verifier",
    "combine",
    "load",
]

Spec: TypeAlias = str | Mapping[str, Any]
"""`name`, `name:REST`, or a table with that as `use` and options beside it."""

_OPTIONS: dict[str, type[Options]] = {
    "contains": ContainsOptions,
    "math": MathOptions,
    "python_tests": PythonTestsOptions,
    "retrieval": RetrievalOptions,
}
_FORMAL = ("json_schema", "fields", "regex")
"""These leave it to the fields of the reference how good an answer is."""


def load(specs: Spec | Sequence[Spec], *, base: Path, reveal: bool, ask: Ask | None = None) -> Combined:
    """The verifier of a config; files and modules are relative to `base`, and `ask` judges by a rubric.

    ConfigError for an unknown name or option, or a broken file.
    """
    return combine([_part(spec, base, reveal, ask) for spec in _listed(specs)])


def asks(specs: Spec | Sequence[Spec]) -> bool:
    """Whether a hosted model is needed."""
    return any(_name(spec) == "rubric" for spec in _listed(specs))


def _listed(specs: Spec | Sequence[Spec]) -> Sequence[Spec]:
    return [specs] if isinstance(specs, str | Mapping) else specs


def _name(spec: Spec) -> str:
    use: object = spec if isinstance(spec, str) else spec.get("use")
    if not isinstance(use, str):
        raise ConfigError('a table of `task.verifier` needs a `use`, such as `use = "fields"`')
    return use.partition(":")[0]


def _part(spec: Spec, base: Path, reveal: bool, ask: Ask | None) -> Part:
    name = _name(spec)
    kind = _OPTIONS.get(name, Options)
    options = checked(kind, {"use": spec} if isinstance(spec, str) else spec, where=f"the verifier `{name}`")
    verifier = _verifier(name, options, base, reveal, ask)
    return Part(verifier=verifier, weight=options.weight, gate=options.gate, grades=name not in _FORMAL)


def _verifier(name: str, options: Options, base: Path, reveal: bool, ask: Ask | None) -> Verifier:
    _, colon, rest = options.use.partition(":")
    if name in VERIFIERS_WITH_A_FILE and not rest:
        file = "answer.schema.json" if name == "json_schema" else "FILE"
        raise ConfigError(f"the verifier `{name}` needs its file: `{name}:{file}`")
    match name, options:
        case "json_schema", _:
            return JsonSchema.read(base / rest)
        case "regex", _ if rest:
            return Regex(rest)
        case "retrieval", RetrievalOptions():
            return Retrieval(base / rest, k=options.k, reveal=reveal)
        case "rubric", _:
            return _rubric(base / rest, ask)
        case "fields", _ if not colon:
            return Fields(reveal=reveal)
        case "exact", _ if not colon:
            return Exact(reveal=reveal)
        case "contains", ContainsOptions() if not colon:
            return Contains(options.strings, reveal=reveal)
        case "math", MathOptions() if not colon:
            return Math(limit_s=options.limit_s, reveal=reveal)
        case "python_tests", PythonTestsOptions() if not colon:
            limits = Limits(wall_s=options.wall_s, cpu_s=options.cpu_s, memory_mb=options.memory_mb)
            return PythonTests(sandbox=options.sandbox, limits=limits, reveal=reveal)
        case _ if name and colon and name not in VERIFIERS and options.use.rpartition(":")[2].isidentifier():
            return Custom.load(options.use, base=base, known=VERIFIERS)
        case _:
            raise _unknown(name, options.use)


def _rubric(path: Path, ask: Ask | None) -> Rubric:
    criteria = Criteria.read(path)
    if ask is None:
        raise ConfigError(
            "the verifier `rubric` asks a hosted model, which no run does for every answer; "
            "use it with `bbdistill verify --verifier rubric:FILE`, or from Python"
        )
    return Rubric(criteria, ask)


def _unknown(name: str, use: str) -> ConfigError:
    if name == "regex":
        return ConfigError("the verifier `regex` needs its pattern: `regex:\\d+`")
    close = difflib.get_close_matches(name, VERIFIERS, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(VERIFIERS)}, and `module:function`"
    return ConfigError(f"unknown verifier `{use}`; {hint}")
