import math
import random
import sys
import tomllib
from pathlib import Path

import pytest

from bbdistill.config import Settings
from bbdistill.config.models import TeacherConfig
from bbdistill.configfile import dump_config, load_config, parse_config
from bbdistill.errors import ConfigError
from bbdistill.keylike import looks_like_key
from bbdistill.place import find_place
from bbdistill.teacher.credentials import key_of
from bbdistill.teacher.teacher import Teacher
from bbdistill.teacher.terms import notice, terms_of

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


def test_a_model_in_this_process_is_a_directory_beside_the_config_or_a_hub_id(config_file: Path):
    (config_file.parent / "adapter").mkdir()
    for name, found in (("adapter", str(config_file.parent / "adapter")), ("some/model", "some/model")):
        config = load_config(config_file, [f"teacher.model=local:{name}"])
        assert (config.teacher.model, config.teacher.model_name) == (f"local:{found}", found)


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
        ("train.steps=many", '`train.steps`: expected a whole number, got "many"'),
        ("train.steps=1.5", "`train.steps`: expected a whole number, got 1.5"),
        ("train.steps=0", "`train.steps`: expected 1 or more, got 0"),
        ("train.lag=9", "`train.lag`: expected at most 4, got 9"),
        ("train.learning_rate=x", '`train.learning_rate`: expected a number, got "x"'),
        ("train.learning_rate=0", "`train.learning_rate`: expected more than 0.0, got 0"),
        ("distill.beta=1", "`distill.beta`: expected less than 1.0, got 1"),
        ("teacher.timeout_s=inf", "`teacher.timeout_s`: expected a finite number, got Infinity"),
        ("teacher.timeout_s=nan", "`teacher.timeout_s`: expected a finite number, got NaN"),
        ("task.reveal=maybe", '`task.reveal`: expected true or false, got "maybe"'),
        ("task.verifier=3", "`task.verifier`: expected a list, got 3"),
        ("task.prompts=[1]", "`task.prompts`: expected a path, got a list"),
        ("student.device=tpu", "`student.device`: expected 'auto', 'cuda', 'mps' or 'cpu', got \"tpu\""),
        ("student.model=3", "`student.model`: expected text, got 3"),
        ("judge=3", "`judge`: expected a table, got 3"),
        (f"train.steps={'1' * 5000}", '`train.steps`: expected a whole number, got "111'),
        (f"train.steps=0x{'f' * 5000}", "`train.steps` is a number with too many digits"),
        ("teacher.model=gpt-5", "expected `openai:MODEL`, `anthropic:MODEL` or `local:PATH`"),
        ("recipe=ppo", '"kd", "opd", got "ppo"'),
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


@pytest.mark.parametrize("text", ["recipe = ", "", "recipe = 3", "\x00", f"recipe = {'1' * 5000}"])
def test_a_broken_file_is_a_config_error(tmp_path: Path, text: str):
    file = tmp_path / "broken.toml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load_config(file)


@pytest.mark.parametrize("cap", [math.nan, math.inf, -1.0])
def test_a_cap_is_a_finite_number(cap: float):
    with pytest.raises(ConfigError, match="--max-usd: expected a finite number, 0 or more"):
        Settings(max_usd=cap)
    assert Settings(max_usd=0.0).max_usd == 0


def test_a_missing_file_names_init(tmp_path: Path):
    with pytest.raises(ConfigError, match="bbdistill init"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="directory"):
        load_config(tmp_path)


OPAQUE = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=40))
KEYS = [
    "sk-proj-0123456789abcdefABCDEF",
    "sk-ant-api03-0123456789abcdefABCDEF",
    "AKIA0123456789ABCDEF",
    "Bearer 0123456789abcdef",
    "hf_0123456789abcdefABCDEF",
    "gsk_0123456789abcdefABCDEF",
    OPAQUE,
    "0f1e2d3c4b5a69788796a5b4c3d2e1f0",
]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_in_a_config_is_refused_and_not_repeated(config_file: Path, key: str):
    inside = [
        ("teacher", "id"),
        ("teacher", "terms"),
        ("teacher", "api_key_env"),
        ("student", "model"),
        ("judge", "id"),
    ]
    for table, name in inside:
        with pytest.raises(ConfigError) as caught:
            load_config(config_file, [f"{table}.{name}={key}"])
        assert key not in str(caught.value)
        written = tomllib.loads(SMALL)
        written.setdefault(table, {})[name] = f"text around {key}"
        with pytest.raises(ConfigError, match=rf"`x`: the value of `{table}\.{name}` looks like a key") as caught:
            parse_config(written, where="x", base=Path("/"))
        assert key not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B-AWQ-Instruct-2025-01-20",
        "/home/me/.cache/huggingface/hub/models--x--y/snapshots/7e27bd9f95328f0f3b08261d1252705110c806f8",
        "runs/task-demonstrations-of-the-second-week-2026",
        "I have permission: the model is Apache-2.0, and its owner said so on 2026-11-02 (mail no. 4711).",
        "op read op://private/openai/credential",
        "/tmp/pytest-of-root/pytest-0/test_a_key_in_a_config_is_refused_and_not_repeated0/x.jsonl",
    ],
)
def test_what_a_config_usually_holds_is_no_key(text: str):
    assert not looks_like_key(text)


@pytest.mark.parametrize(
    "address",
    [
        "https://user:pass-word-1@host/v1",
        "https://token@host/v1",
        "https://host/v1?key=abc",
        "https://host/v1?a=1&api-key=x",
    ],
)
def test_an_address_with_credentials_is_refused_and_not_repeated(config_file: Path, address: str):
    for table in ("teacher", "judge"):
        with pytest.raises(ConfigError, match=rf"`{table}\.base_url`: expected an address without") as caught:
            load_config(config_file, ['judge.model="openai:j"', f'{table}.base_url="{address}"'])
        assert address not in str(caught.value)
    with pytest.raises(ConfigError, match="expected an address without") as caught:
        Teacher("openai:m", base_url=address)
    assert address not in str(caught.value)


def test_a_wrong_teacher_in_code_is_a_config_error():
    with pytest.raises(ConfigError, match="unknown key `max_token`; did you mean `max_tokens`"):
        Teacher("openai:m", max_token=3)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (f"{sys.executable} -c 'print(\"the-key\")'", None),
        (f"{sys.executable} -c 'print(\"the-key\"); exit(3)'", "exit code 3"),
        (f"{sys.executable} -c 'print(\"the-key 2\")'", "printed 2 words"),
        ("no-such-program the-key", "No such file"),
        ("echo 'the-key", "not a command line"),
        ("", "not a command line"),
    ],
)
def test_a_key_comes_from_a_command(command: str, says: str | None):
    config = TeacherConfig(model="openai:m", api_key_cmd=command)
    if says is None:
        assert key_of(config) == "the-key"
        return
    with pytest.raises(ConfigError, match=says) as caught:
        key_of(config)
    assert "the-key" not in str(caught.value)


def test_a_key_has_one_source(config_file: Path):
    with pytest.raises(ConfigError, match="not both"):
        load_config(config_file, ["teacher.api_key_env=A", "teacher.api_key_cmd=b"])


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ([], ["openai:gpt-5.6", "teacher.terms"]),
        (["teacher.terms='I may'"], []),
        (["teacher.base_url='http://127.0.0.1:8000/v1'"], []),
        (["teacher.base_url='https://api.openai.com/v1'"], ["teacher.terms"]),
        (["teacher.terms='I may'", "judge.model='anthropic:c'"], ["anthropic:c", "judge.terms"]),
    ],
)
def test_hosted_models_without_stated_terms_get_one_notice(config_file: Path, overrides: list[str], named: list[str]):
    config = load_config(config_file, overrides)
    said = notice(config)
    assert bool(said) == bool(named)
    assert all(name in (said or "") for name in named)
    assert terms_of(config.teacher) == (config.teacher.terms or "not stated")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["recipe=opd"], "which api.openai.com does not do; set `teacher.base_url` to a server that does"),
        (["recipe=kd"], "which api.openai.com does not do"),
        (["recipe=grpo"], "`grpo` rewards what the verifier says, and there is none"),
        (["recipe=coach"], "`coach` rewards what the verifier says, and there is none"),
    ],
)
def test_a_run_that_could_only_fail_later_does_not_begin(config_file: Path, overrides: list[str], says: str):
    config = load_config(config_file, overrides)
    config = config.model_copy(update={"task": config.task.model_copy(update={"verifier": None})})
    with pytest.raises(ConfigError) as caught:
        find_place(config, Settings(), config_file)
    assert says in str(caught.value)
