from pathlib import Path

import pytest

from bbdistill.config import dump_config, load_config, parse_config
from bbdistill.errors import ConfigError

SMALL = """
recipe = "gad"
[student]
model = "some/student"
[teacher]
model = "openai:gpt-5.6"
[task]
prompts = "train.jsonl"
verifier = "json_schema:ticket.schema.json"
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "task.toml"
    file.write_text(SMALL)
    return file


def test_paths_are_relative_to_the_config_file(config_file: Path):
    config = load_config(config_file)
    assert config.task.prompts == config_file.parent / "train.jsonl"
    assert config.teacher.cache == config_file.parent / "cache" / "teacher.db"
    assert config.task.verifier == (f"json_schema:{config_file.parent / 'ticket.schema.json'}",)


def test_precedence_is_override_then_file_then_recipe(config_file: Path):
    config_file.write_text(SMALL + "\n[train]\nsteps = 7\n")
    assert load_config(config_file).train.steps == 7
    assert load_config(config_file, ["train.steps=9"]).train.steps == 9
    assert load_config(config_file).train.warmup_max == 50
    assert load_config(config_file, ["recipe=sft"]).train.steps == 7


def test_an_override_needs_no_quotes_for_a_string(config_file: Path):
    assert load_config(config_file, ["student.device=cpu"]).student.device == "cpu"  # type: ignore[union-attr]


def test_the_dump_reads_back_as_the_same_config(config_file: Path):
    config = load_config(config_file)
    assert parse_config(dump_config(config), where="dump", base=Path("/")) == config


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.stepz=3", "unknown key `train.stepz`; did you mean `steps`?"),
        ("student.modell='x'", "did you mean `model`?"),
        ("train.steps=0", "`train.steps`"),
        ("train.steps=many", 'got "many"'),
        ("teacher.model=gpt-5", "expected `openai:MODEL` or `anthropic:MODEL`"),
        ("recipe=ppo", '`recipe` must be one of "sft", "gad", got "ppo"'),
        ("teacher.input_usd_per_mtok=1.0", "together"),
        ("train", "expected `section.key=value`"),
    ],
)
def test_a_wrong_value_is_one_sentence_with_the_key(config_file: Path, override: str, says: str):
    with pytest.raises(ConfigError) as caught:
        load_config(config_file, [override])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_put_where_its_variable_belongs_is_not_repeated(config_file: Path):
    with pytest.raises(ConfigError) as caught:
        load_config(config_file, ["teacher.api_key_env=sk-very-secret-0123456789"])
    assert "very-secret" not in str(caught.value)
    assert "name of an environment variable" in str(caught.value)


@pytest.mark.parametrize("text", ["recipe = ", "", "recipe = 3", "\x00"])
def test_a_broken_file_is_a_config_error(tmp_path: Path, text: str):
    file = tmp_path / "broken.toml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load_config(file)


def test_a_missing_file_names_init(tmp_path: Path):
    with pytest.raises(ConfigError, match="bbdistill init"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="directory"):
        load_config(tmp_path)
