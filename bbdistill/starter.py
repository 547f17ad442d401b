"""A commented task.toml: one that fits the user's own JSONL (`init`), or one that says what was advised (`advise`)."""

import json
import textwrap
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, PackageLoader, StrictUndefined

from bbdistill.configfile import dump_config, parse_config, read_tables, recipe_defaults
from bbdistill.data import load_prompts
from bbdistill.errors import ConfigError
from bbdistill.rundir import check_writable

MANY_REFERENCES = 0.2
"""From this share of labelled prompts on, checking against the references is proposed."""


def write_task(
    prompts: Path,
    out: Path,
    *,
    test: Path | None = None,
    schema: Path | None = None,
    teacher: str = "openai:gpt-5.6",
    base_url: str | None = None,
    student: str = "HuggingFaceTB/SmolLM2-135M-Instruct",
    recipe: str = "sft",
) -> str:
    """Writes `out` and returns its text. ConfigError where the data or a value is wrong, or `out` exists."""
    may_write(out, "--out")
    dataset = load_prompts(prompts)
    for file in (test, schema):
        if file is not None and not file.is_file():
            raise ConfigError(f"no file at `{file}`")
    labelled = sum(prompt.reference is not None for prompt in dataset.prompts)
    verifiers = [f"json_schema:{_from(schema, out)}"] if schema else []
    if labelled >= MANY_REFERENCES * len(dataset.prompts):
        objects = sum(isinstance(prompt.reference, dict) for prompt in dataset.prompts)
        verifiers.append("fields" if objects >= labelled / 2 else "exact")
    values = {
        "verb": "init",
        "why": (),
        "kept": dict.fromkeys(_IN_THE_TEMPLATE, ()),
        "others": {},
        "count": len(dataset.prompts),
        "labelled": labelled,
        "demonstrated": len(dataset.demonstrations),
        "prompts": _from(prompts, out),
        "test": _from(test, out) if test else None,
        "verifiers": _toml(verifiers),
        "teacher": teacher,
        "base_url": base_url,
        "cache": "cache/teacher.db",
        "student": student,
        "recipe": recipe,
        "steps": recipe_defaults(recipe)["train"]["steps"],
    }
    return _write(out, values)


def may_write(out: Path, option: str) -> None:
    """ConfigError where `out`, given by `option`, cannot become a new file. Makes nothing."""
    if out.is_dir():
        raise ConfigError(f"`{option} {out}` is a directory; give the file to write, such as `{out / 'task.toml'}`")
    if out.exists():
        raise ConfigError(f"`{out}` exists and is not overwritten; move it away or give another {option}")
    check_writable(out, option)


_IN_THE_TEMPLATE = {
    "student": ("model",),
    "teacher": ("model", "base_url", "cache"),
    "task": ("prompts", "test", "verifier"),
    "train": (),
}
"""Keys that `pages/task.toml` writes itself."""


def rewrite_task(path: Path, overrides: Sequence[str], out: Path, *, why: str) -> str:
    """Writes the config at `path`, overrides applied, to `out`, with `why` above it; ConfigError where `out` exists."""
    may_write(out, "--write")
    said = read_tables(path, overrides)
    config = parse_config(said, where=str(path), base=path.parent)
    dataset = load_prompts(config.task.prompts)
    tables = dump_config(config)
    kept = {name: _lines(tables[name], said.get(name, {}), out, but=known) for name, known in _IN_THE_TEMPLATE.items()}
    others = [name for name, table in said.items() if isinstance(table, dict) and name not in kept]
    values = {
        "verb": "advise",
        "why": textwrap.wrap(why, 100),
        "kept": kept,
        "others": {name: _lines(tables[name], said[name], out) for name in others},
        "count": len(dataset.prompts),
        "labelled": sum(prompt.reference is not None for prompt in dataset.prompts),
        "demonstrated": len(dataset.demonstrations),
        "prompts": _from(config.task.prompts, out),
        "test": _from(config.task.test, out) if config.task.test else None,
        "verifiers": _toml(_near(tables["task"]["verifier"], out)),
        "teacher": config.teacher.model,
        "base_url": config.teacher.base_url,
        "cache": _from(config.teacher.cache, out),
        "student": config.student.model if config.student else None,
        "recipe": config.recipe,
    }
    return _write(out, values)


def _write(out: Path, values: dict[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("bbdistill", "pages"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template("task.toml").render(values | {"file": out.name})
    parse_config(tomllib.loads(text), where=str(out), base=out.parent)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    return text


def _lines(table: Mapping[str, Any], said: Iterable[str], out: Path, *, but: Sequence[str] = ()) -> list[str]:
    """`key = value` for each key that the user's own table has, with the value it came to."""
    values = {key: _toml(_near(table[key], out)) for key in said if key not in but}
    return [f"{key} = {value}" for key, value in values.items() if value]


def _toml(value: Any) -> str:
    """A JSON value as TOML writes it, which has no null: such keys are left out. Empty where nothing is left."""
    match value:
        case None:
            return ""
        case dict():
            table = cast(dict[str, Any], value)
            items = [f"{key} = {text}" for key, each in table.items() if (text := _toml(each))]
            return f"{{ {', '.join(items)} }}" if items else ""
        case list() | tuple():
            items = [text for each in cast(Sequence[Any], value) if (text := _toml(each))]
            return f"[{', '.join(items)}]" if items else ""
        case _:
            return json.dumps(value, ensure_ascii=False)


def _near(value: Any, out: Path) -> Any:
    """The value with its paths (`name:FILE` of a verifier, too) relative to the new config, where they lie below it."""
    home = f"{out.resolve().parent.as_posix()}/"
    match value:
        case str():
            return value.replace(home, "", 1) if value.startswith(home) or f":{home}" in value else value
        case list():
            return [_near(each, out) for each in cast(list[Any], value)]
        case _:
            return value


def _from(file: Path, out: Path) -> str:
    """The file as the config should name it: relative to the config where it lies below it."""
    file, home = file.resolve(), out.resolve().parent
    return file.relative_to(home).as_posix() if file.is_relative_to(home) else file.as_posix()
