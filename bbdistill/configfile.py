"""Reads a config from its TOML file and says in one sentence what is wrong with it.

Order of precedence: `--set a.b=v`, the user's file, the recipe's own (`recipes/<recipe>.toml`), the defaults in
`config/`. An unknown key is an error with a suggestion. Relative paths are relative to the file that names them.
"""

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bbdistill.config import Recipe, RunConfig
from bbdistill.config.models import TeacherConfig
from bbdistill.config.section import Section
from bbdistill.config.task import VERIFIERS, VERIFIERS_WITH_A_FILE
from bbdistill.errors import ConfigError
from bbdistill.keylike import keys_in, looks_like_key

Table: TypeAlias = Mapping[str, Any]
S = TypeVar("S", bound=Section)
_NEVER_SHOWN = ("api_key_env", "api_key_cmd", "base_url")
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "tuple": "a list",
    "model": "a table",
}
"""By the first word of pydantic's name for an error."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads `path` and applies `a.b=value` overrides. ConfigError says file, key, found and expected."""
    return parse_config(read_tables(path, overrides), where=str(path), base=path.parent)


def read_tables(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What the user wrote, overrides applied, nothing checked yet but that it is TOML."""
    if path.is_dir():
        raise ConfigError(f"`{path}` is a directory; give the TOML file of the run (or make one: `bbdistill init`)")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no config at `{path}`; make one with `bbdistill init PROMPTS.jsonl`") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise ConfigError(f"`{path}` is not valid TOML: {fault}") from None
    except ValueError:  # of numbers with thousands of digits, which Python does not read
        raise ConfigError(f"`{path}` holds a number with too many digits") from None
    except OSError as fault:
        raise ConfigError(f"`{path}` cannot be read: {fault.strerror}") from None
    for override in overrides:
        raw = _merge(raw, _parse_override(override))
    return raw


def parse_config(raw: Table, *, where: str, base: Path) -> RunConfig:
    """Checks a config tree; paths become absolute, relative ones taken from `base`."""
    recipe = raw.get("recipe")
    if not isinstance(recipe, str) or recipe not in get_args(Recipe):
        known = ", ".join(f'"{name}"' for name in get_args(Recipe))
        raise ConfigError(f"`{where}`: `recipe` must be one of {known}, got {json.dumps(recipe, default=str)}")
    for name in keys_in(raw):
        raise ConfigError(
            f"`{where}`: the value of `{name}` looks like a key, which no config may hold; "
            "put the name of an environment variable into `api_key_env` instead"
        )
    for name in _too_large(raw):
        raise ConfigError(f"`{where}`: `{name}` is a number with too many digits")
    merged = _merge(recipe_defaults(recipe), raw)
    try:
        config = RunConfig.model_validate(merged)
    except ValidationError as fault:
        raise ConfigError(f"`{where}`: " + "; ".join(_explain(fault))) from None
    return _absolute(config, base.resolve())


def teacher_config(**values: Any) -> TeacherConfig:
    """A teacher that is given in code instead of a file. ConfigError says what is wrong."""
    return checked(TeacherConfig, values)


def checked(kind: type[S], values: Table, *, where: str = "") -> S:
    """A section from its values. ConfigError says what is wrong, and `where`."""
    try:
        return kind(**values)
    except ValidationError as fault:
        raise ConfigError((f"{where}: " if where else "") + "; ".join(_explain(fault, kind))) from None


def recipe_defaults(recipe: str) -> dict[str, Any]:
    """The table of `recipes/<recipe>.toml`."""
    return tomllib.loads((resources.files("bbdistill") / "recipes" / f"{recipe}.toml").read_text(encoding="utf-8"))


def dump_config(config: RunConfig) -> dict[str, Any]:
    """The resolved tree as JSON values, nulls kept; `parse_config` reads it back."""
    return config.model_dump(mode="json")


def _merge(under: Table, over: Table) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        mine = merged.get(key)
        both_tables = isinstance(mine, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(cast(Table, mine), cast(Table, value)) if both_tables else value
    return merged


def _parse_override(text: str) -> dict[str, Any]:
    path, equals, value = text.partition("=")
    if looks_like_key(text):
        raise ConfigError("a `--set` holds a key; give the name of an environment variable in `api_key_env` instead")
    if not equals or not path.strip():
        raise ConfigError(f"`--set {text}`: expected `section.key=value`, for example `--set train.steps=5`")
    try:
        parsed: Any = tomllib.loads(f"value = {value}")["value"]
    except ValueError:
        parsed = value  # a bare word is a string, so that the shell needs no second pair of quotes
    tree: Any = parsed
    for key in reversed(path.strip().split(".")):
        tree = {key: tree}
    return tree


def _explain(fault: ValidationError, root: type[BaseModel] = RunConfig) -> Iterator[str]:
    errors = fault.errors()
    for error in errors:
        if error["type"] == "too_short" and any(_is_inside(other["loc"], error["loc"]) for other in errors):
            continue  # a list whose items are wrong is only short of right ones
        where = ".".join(str(part) for part in error["loc"])
        if error["type"] == "extra_forbidden":
            known = _known_keys(error["loc"][:-1], root)
            close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
            hint = f"; did you mean `{close[0]}`?" if close else f"; known keys: {', '.join(known)}"
            yield f"unknown key `{where}`{hint}"
        elif error["type"] == "missing":
            yield f"`{where}` is required and missing"
        elif not where:  # said of several keys together
            yield _wanted(error)
        else:
            # What stands where a key's name should be may be the key itself; an address may hold one.
            got = "" if where.endswith(_NEVER_SHOWN) else f", got {_shown(error['input'])}"
            yield f"`{where}`: {_wanted(error)}{got}"


def _is_inside(location: tuple[int | str, ...], other: tuple[int | str, ...]) -> bool:
    return len(location) > len(other) and location[: len(other)] == other


def _wanted(error: ErrorDetails) -> str:
    """What pydantic expected, in our words."""
    context = error.get("ctx", {})
    match error["type"]:
        case "literal_error":
            return f"expected {context['expected']}"
        case "greater_than_equal":
            return f"expected {context['ge']} or more"
        case "greater_than":
            return f"expected more than {context['gt']}"
        case "too_short":
            return f"expected {context['min_length']} or more items"
        case "less_than":
            return f"expected less than {context['lt']}"
        case "less_than_equal":
            return f"expected at most {context['le']}"
        case other:
            kind = _KINDS.get(other.partition("_")[0])
            return f"expected {kind}" if kind else error["msg"].removeprefix("Value error, ")


def _shown(value: Any) -> str:
    match value:
        case str() | int() | float() | None:
            return json.dumps(value, default=str)[:80]
        case Mapping():
            return "a table"
        case _:
            return "a list"


def _too_large(value: Any, at: str = "") -> Iterator[str]:
    """Dotted names of whole numbers that nothing else can hold."""
    match value:
        case int() if abs(value) >= 2**63:
            yield at
        case dict():
            for name, item in cast(dict[str, Any], value).items():
                yield from _too_large(item, f"{at}.{name}".lstrip("."))
        case list() | tuple():
            for item in cast(list[Any], value):
                yield from _too_large(item, at)
        case _:
            pass


def _known_keys(location: tuple[int | str, ...], section: type[BaseModel]) -> list[str]:
    for part in location:
        if isinstance(part, int):  # the place in a list
            continue
        candidates = [section.model_fields[part].annotation, *get_args(section.model_fields[part].annotation)]
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(section.model_fields)


def _absolute(config: RunConfig, base: Path) -> RunConfig:
    def resolve(path: Path | None) -> Path | None:
        return None if path is None else base / path.expanduser()

    task = config.task
    verifier = task.verifier
    if verifier is not None:
        verifier = tuple(_absolute_spec(spec, base) for spec in verifier)
    return config.model_copy(
        update={
            "teacher": config.teacher.model_copy(
                update={"model": _teacher_path(config.teacher, base), "cache": resolve(config.teacher.cache)}
            ),
            "student": config.student
            and config.student.model_copy(
                update={"model": _model_path(config.student.model, base), "adapter": resolve(config.student.adapter)}
            ),
            "task": task.model_copy(
                update={
                    "prompts": resolve(task.prompts),
                    "test": resolve(task.test),
                    "validation": resolve(task.validation),
                    "templates": resolve(task.templates),
                    "verifier": verifier,
                }
            ),
        }
    )


def _absolute_spec(spec: str | dict[str, Any], base: Path) -> str | dict[str, Any]:
    if isinstance(spec, dict):
        return {**spec, "use": _absolute_spec(spec["use"], base)} if isinstance(spec.get("use"), str) else spec
    name, colon, rest = spec.partition(":")
    if not colon or name == "regex":
        return spec
    if name in VERIFIERS_WITH_A_FILE:
        return f"{name}:{base / Path(rest).expanduser()}"
    return spec if name in VERIFIERS else f"{base / name}:{rest}"  # else a module there, and its function


def _teacher_path(teacher: TeacherConfig, base: Path) -> str:
    return f"local:{_model_path(teacher.model_name, base)}" if teacher.is_local else teacher.model


def _model_path(model: str, base: Path) -> str:
    # A hub id has the look of a relative path; only an existing directory is one.
    local = base / Path(model).expanduser()
    return str(local) if local.is_dir() else model
