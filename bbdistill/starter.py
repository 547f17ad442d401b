"""`bbdistill init`: a commented task.toml that fits the user's own JSONL."""

import tomllib
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from bbdistill.configfile import parse_config
from bbdistill.data import load_prompts
from bbdistill.errors import ConfigError

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
    recipe: str = "gad",
) -> str:
    """Writes `out` and returns its text. ConfigError where the data or a value is wrong, or `out` exists."""
    if out.exists():
        raise ConfigError(f"`{out}` exists and is not overwritten; move it away or give another --out")
    dataset = load_prompts(prompts)
    for file in (test, schema):
        if file is not None and not file.is_file():
            raise ConfigError(f"no file at `{file}`")
    labelled = sum(prompt.reference is not None for prompt in dataset.prompts)
    verifiers = [f"json_schema:{_from(schema, out)}"] if schema else []
    if labelled >= MANY_REFERENCES * len(dataset.prompts):
        verifiers.append("fields")
    environment = Environment(
        loader=PackageLoader("bbdistill", "pages"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template("task.toml").render(
        count=len(dataset.prompts),
        labelled=labelled,
        demonstrated=len(dataset.demonstrations),
        prompts=_from(prompts, out),
        test=_from(test, out) if test else None,
        verifiers=verifiers,
        teacher=teacher,
        base_url=base_url,
        student=student,
        recipe=recipe,
    )
    parse_config(tomllib.loads(text), where=str(out), base=out.parent)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    return text


def _from(file: Path, out: Path) -> str:
    """The file as the config should name it: relative to the config where it lies below it."""
    file, home = file.resolve(), out.resolve().parent
    return file.relative_to(home).as_posix() if file.is_relative_to(home) else file.as_posix()
