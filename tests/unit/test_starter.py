"""A config that is written for the user: what it keeps of the one it comes from, and where it may be written."""

import json
from pathlib import Path
from typing import get_args

import pytest

from bbdistill.config import Recipe
from bbdistill.configfile import dump_config, load_config
from bbdistill.errors import ConfigError
from bbdistill.starter import may_write, rewrite_task, write_task

FULL = r"""
recipe = "sft"
[student]
model = "bundled"
temperature = 0.7
[teacher]
model = "openai:gpt-5.6"
api_key_cmd = "pass show \"open ai\""
terms = "§ 3 \\ our contract, ”fair use“"
cache = "deep/calls.db"
max_usd_by = { preferences = 2.0 }
[judge]
model = "anthropic:claude-sonnet-5"
api_key_env = "OTHER_KEY"
[task]
prompts = "train.jsonl"
templates = "mine"
verifier = ["json_schema:answer.schema.json", { use = "regex:^\\d+\t:$", gate = true, weight = 0.5 }, "checks:judge"]
reveal = true
[train]
steps = 7
learning_rate = 1e-4
[feedback]
revisions = 2
max_abstain_rate = 0.25
"""


@pytest.fixture
def full(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps({"prompt": f"number {i}"}) for i in range(12)))
    (tmp_path / "task.toml").write_text(FULL)
    return tmp_path / "task.toml"


@pytest.mark.parametrize("place", ["next.toml", "elsewhere/next.toml"])
def test_a_rewritten_config_says_the_same_but_for_what_is_overridden(full: Path, place: str) -> None:
    overrides = ("recipe=best_of_n", 'feedback.candidates_from="student"', "train.steps=9")
    out = full.parent / place
    rewrite_task(full, overrides, out, why='because\nof 5 § "this"')
    assert dump_config(load_config(out)) == dump_config(load_config(full, overrides))
    text = out.read_text()
    assert '# because of 5 § "this"\nrecipe = "best_of_n"\n' in text
    assert "bbdistill run next.toml --dry-run" in text
    assert '[feedback]\nrevisions = 2\nmax_abstain_rate = 0.25\ncandidates_from = "student"\n' in text
    assert ('prompts = "train.jsonl"' in text) == (place == "next.toml")


@pytest.mark.parametrize("recipe", get_args(Recipe))
def test_a_first_config_names_the_recipes_and_the_steps_of_its_own(full: Path, recipe: str) -> None:
    text = write_task(full.parent / "train.jsonl", full.parent / "first.toml", recipe=recipe)
    steps = load_config(full.parent / "first.toml").train.steps
    assert f"# steps = {steps} " in text
    assert all(f'"{name}": ' in text for name in get_args(Recipe))
    assert "bbdistill advise first.toml" in text


def test_a_place_to_write_to(full: Path) -> None:
    may_write(full.parent / "new" / "deeper" / "x.toml", "--out")
    for place, says in (
        (full, "exists and is not overwritten; move it away or give another --out"),
        (full.parent, f"`--out {full.parent}` is a directory; give the file to write"),
        (full / "x.toml", f"cannot be written, because `{full}` is no directory"),
    ):
        with pytest.raises(ConfigError) as refused:
            may_write(place, "--out")
        assert says in str(refused.value)


@pytest.mark.parametrize(("reference", "verifier"), [({"n": 1}, "fields"), ("42", "exact"), (42, "exact")])
def test_the_verifier_proposed_can_use_the_references(tmp_path: Path, reference: object, verifier: str) -> None:
    rows = [json.dumps({"prompt": f"number {i}", "reference": reference}) for i in range(12)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    write_task(tmp_path / "train.jsonl", tmp_path / "task.toml")
    task = load_config(tmp_path / "task.toml").task
    assert (task.verifier, task.win_rate_size) == ((verifier,), 0)


def test_where_nothing_can_check_an_answer_the_judge_compares(full: Path) -> None:
    write_task(full.parent / "train.jsonl", full.parent / "first.toml")
    task = load_config(full.parent / "first.toml").task
    assert (task.verifier, task.win_rate_size) == (None, 30)
