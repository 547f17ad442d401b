"""The example `code`: small Python functions, each with its tests. Asks nobody anything."""

import shutil
from pathlib import Path

from bbdistill.examples.folder import CONFIG, check_free, config_text

HERE = Path(__file__).parent
DATA = ("train.jsonl", "test.jsonl")
TEACHER = "openai:gpt-5.6"


def write_code(out: Path, *, teacher: str | None = None, base_url: str | None = None) -> Path:
    """Writes the example into the directory `out`; returns its config. ConfigError where a file is there already."""
    check_free(out, (*DATA, CONFIG))
    text, _ = config_text("code", out, {"teacher": teacher or TEACHER, "base_url": base_url})
    out.mkdir(parents=True, exist_ok=True)
    for name in DATA:
        shutil.copyfile(HERE / name, out / name)
    (out / CONFIG).write_text(text, encoding="utf-8")
    return out / CONFIG
