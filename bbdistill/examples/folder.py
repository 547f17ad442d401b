"""Where an example is written: nothing is replaced, and the config is parsed before there is a file of it."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from bbdistill.config import RunConfig
from bbdistill.configfile import parse_config
from bbdistill.errors import ConfigError

CONFIG = "task.toml"


def check_free(out: Path, names: Sequence[str]) -> None:
    """ConfigError where one of the files to be written is there already, or `out` is no directory."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"`{out}` is a file; give a directory as --out")
    for name in names:
        if (out / name).exists():
            raise ConfigError(f"`{out / name}` exists and is not overwritten; move it away or give another --out")


def config_text(example: str, out: Path, values: Mapping[str, Any]) -> tuple[str, RunConfig]:
    """The example's commented config as text and as read from `out`. ConfigError where a value is wrong."""
    environment = Environment(
        loader=PackageLoader("bbdistill", "examples"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template(f"{example}/{CONFIG}").render(values)
    return text, parse_config(tomllib.loads(text), where=str(out / CONFIG), base=out)
