"""`json_schema`: the answer must be one JSON value that fits a JSON schema."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import jsonschema
import referencing
import regex
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend, validator_for  # pyright: ignore[reportUnknownVariableType]
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, specification_with

from bbdistill.errors import ConfigError
from bbdistill.types import Abstain, Prompt, Span, Verdict
from bbdistill.verify.base import one_line
from bbdistill.verify.strict_json import NotJson, parse
from bbdistill.verify.text import PATTERN_LIMIT_S

NO_NETWORK: Any = referencing.Registry[Any]()
"""The default registry would fetch what a `$ref` names."""
SHOWN = 5
"""Violations named in the feedback; the first ones usually cause the rest."""


class JsonSchema:
    """Score 1 if the answer fits the schema, else 0. ConfigError if the schema itself is not one, or not whole.

    Abstains where matching a `pattern` takes longer than `PATTERN_LIMIT_S`.
    """

    def __init__(self, schema: Any, *, name: str = "schema") -> None:
        if not isinstance(schema, dict):
            raise ConfigError(f"`{name}` is not a JSON schema: expected an object, got {json.dumps(schema)[:60]}")
        table = cast(dict[str, Any], schema)
        kind: Any = validator_for(table, default=Draft202012Validator)
        try:
            kind.check_schema(table)
            _look_up_references(table)
        except SchemaError as fault:
            raise ConfigError(f"`{name}` is not a JSON schema: {fault.message}") from None
        except Unresolvable as fault:
            raise ConfigError(f"`{name}` refers to `{fault.ref}`, which is not in it; copy it under `$defs`") from None
        except RecursionError:
            raise ConfigError(f"`{name}` is nested too deeply to be a JSON schema") from None
        timed: Any = cast(Any, extend)(kind, {"pattern": _matches})
        self._validator: jsonschema.Validator = timed(table, registry=NO_NETWORK)

    @classmethod
    def read(cls, path: Path) -> "JsonSchema":
        try:
            schema = json.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as fault:
            raise ConfigError(f"the JSON schema `{path}` cannot be read: {fault}") from None
        return cls(schema, name=str(path))

    def __call__(self, prompt: Prompt, answer: str, /) -> Verdict | Abstain:
        try:
            value = parse(answer)
            violations = sorted(self._validator.iter_errors(value), key=lambda error: error.json_path)
        except NotJson as fault:
            return Verdict(score=0.0, passed=False, feedback=str(fault), spans=(Span(where="$", why=str(fault)),))
        except RecursionError:
            return Verdict(score=0.0, passed=False, feedback="The answer is nested too deeply to be checked.")
        except OverflowError:
            return Verdict(score=0.0, passed=False, feedback="The answer has a number that is too large to be checked.")
        except TimeoutError:
            return Abstain(reason=f"a pattern of the schema takes longer than {PATTERN_LIMIT_S:g} s on an answer")
        spans = tuple(
            Span(where=one_line(error.json_path, 100), why=error.message[:300]) for error in violations[:SHOWN]
        )
        feedback = "\n".join(f"`{span.where}`: {span.why}" for span in spans)
        return Verdict(score=0.0 if violations else 1.0, passed=not violations, feedback=feedback, spans=spans)


def _matches(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[ValidationError]:
    """The keyword `pattern` with a limit of time: on the wrong text, some patterns go on for ever."""
    if isinstance(value, str) and not regex.search(pattern, value, timeout=PATTERN_LIMIT_S):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _look_up_references(schema: dict[str, Any]) -> None:
    """Unresolvable where a `$ref` leads nowhere; otherwise only an answer that reaches it would find out."""
    specification: Any = specification_with(str(schema.get("$schema", "")), default=DRAFT202012)
    root: Any = specification.create_resource(schema)
    uri = root.id() or ""
    open_ends: list[tuple[Any, Any]] = [(root, NO_NETWORK.with_resource(uri, root).resolver(uri))]
    while open_ends:
        resource, resolver = open_ends.pop()
        contents: Any = resource.contents
        if isinstance(contents, dict) and "$ref" in contents:
            resolver.lookup(contents["$ref"])
        open_ends += [(inner, resolver.in_subresource(inner)) for inner in resource.subresources()]
