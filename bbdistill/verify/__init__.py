"""Verifiers: programs that say whether an answer is good. Named in a config as `name` or `name:FILE`."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from bbdistill.errors import ConfigError
from bbdistill.verify.base import Verifier, combine
from bbdistill.verify.fields import Fields
from bbdistill.verify.schema import JsonSchema

KNOWN = ("json_schema", "fields")


def load(specs: str | Sequence[str], *, base: Path, reveal: bool) -> Verifier:
    """The verifier of a config; a file is relative to `base`. ConfigError for an unknown name or a broken file."""
    return combine([_one(spec, base, reveal) for spec in ([specs] if isinstance(specs, str) else specs)])


def _one(spec: str, base: Path, reveal: bool) -> Verifier:
    name, _, file = spec.partition(":")
    match name:
        case "json_schema":
            if not file:
                raise ConfigError("the verifier `json_schema` needs its file: `json_schema:answer.schema.json`")
            return JsonSchema.read(base / file)
        case "fields" if not file:
            return Fields(reveal=reveal)
        case _:
            close = difflib.get_close_matches(name, KNOWN, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(KNOWN)}"
            raise ConfigError(f"unknown verifier `{spec}`; {hint}")
