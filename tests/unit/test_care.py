"""What training prompts should not be, by hand."""

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from rule_teacher import RuleTeacher, write_task

from bbdistill import care
from bbdistill.configfile import load_config
from bbdistill.demo import demo_config
from bbdistill.errors import ConfigError
from bbdistill.task import load_task
from bbdistill.types import Prompt


def prompt(name: str, text: str, reference: object = None) -> Prompt:
    messages = ({"role": "system", "content": "Answer."}, {"role": "user", "content": text})
    return Prompt(id=name, messages=messages, reference=reference)


def test_shingles_are_three_words_of_what_is_said_and_not_of_the_system_text():
    assert care.shingles(prompt("a", "One two, three FOUR")) == {("one", "two", "three"), ("two", "three", "four")}
    assert care.shingles(prompt("a", "number 3")) == {("number", "3")}


def test_near_is_four_fifths_of_the_shingles():
    def words(*numbers: int) -> Prompt:
        return prompt(str(numbers), " ".join(f"w{i}" for i in numbers))

    ten = words(*range(12))  # 10 shingles
    eleven = words(*range(13))  # the same and one more: 10 / 11
    two_changed = words(*range(9), 90, 91, 92)  # 7 in common of 13
    thirteen, twelve = words(*range(15)), words(*range(2, 14))  # 13 and 10 shingles, 10 of them in common: 10 / 13
    assert list(care.near([care.shingles(p) for p in (ten, eleven, two_changed)])) == [(0, 1)]
    assert list(care.near([care.shingles(p) for p in (thirteen, twelve)])) == []
    assert care.near_within([ten, eleven, two_changed]) == 1
    assert care.without_near([ten, eleven, two_changed]) == (ten, two_changed)
    assert care.near_between([ten, two_changed], [eleven, thirteen]) == 1


def test_the_quick_search_finds_what_comparing_all_pairs_finds():
    draw = random.Random(0)
    texts = [" ".join(draw.choices("abcd", k=draw.randrange(1, 9))) for _ in range(300)]
    sets = [care.shingles(prompt(str(i), text)) for i, text in enumerate(texts)]
    slow = [
        (i, j)
        for j, i in itertools.product(range(300), range(300))
        if i < j and len(sets[i] & sets[j]) >= 0.8 * len(sets[i] | sets[j])
    ]
    assert len(slow) > 50
    assert list(care.near(sets)) == slow


def test_of_equal_prompts_the_one_is_kept_that_knows_most():
    plain, labelled, other = prompt("a", "x"), prompt("b", "x", reference=1), prompt("c", "y")
    assert care.distinct([plain, labelled, other], ()) == (labelled, other)
    assert care.distinct([plain, labelled, other], {"a"}) == (plain, other)
    assert care.distinct([plain, prompt("d", "x")], ()) == (plain,)


def test_a_test_prompt_in_the_training_prompts_is_refused(tmp_path: Path):
    config = write_task(tmp_path, RuleTeacher(), tmp_path)
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    (tmp_path / "test.jsonl").write_text("\n".join(json.dumps(json.loads(line) | {"id": "t"}) for line in lines[:1]))
    with pytest.raises(ConfigError, match="1 of the 1 test prompts"):
        load_task(load_config(config))
    allowed = load_task(load_config(config, ["task.allow_contamination=true"]))
    assert (allowed.test_seen_in_train, len(allowed.train)) == (1, 22)


def test_a_validation_prompt_in_the_training_prompts_is_refused(tmp_path: Path):
    config = write_task(tmp_path, RuleTeacher(), tmp_path)
    same = f'task.validation="{tmp_path / "train.jsonl"}"'
    with pytest.raises(ConfigError, match=r"(\d+) of the \1 validation prompts"):
        load_task(load_config(config, [same]))
    allowed = load_task(load_config(config, [same, "task.allow_contamination=true"]))
    assert allowed.validation_seen_in_train == len(allowed.validation)


def test_equal_prompts_are_left_out_and_near_ones_where_told(tmp_path: Path):
    config = write_task(tmp_path, RuleTeacher(), tmp_path)
    text = " ".join(f"w{i}" for i in range(12))
    more = [{"id": name, "prompt": said} for name, said in (("a", text), ("b", text), ("c", f"{text} end"))]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, more)))
    for told, left, near in (("report", 2, 0), ("remove", 1, 1)):
        (tmp_path / "test.jsonl").write_text('{"prompt": "else"}')
        (tmp_path / "held.jsonl").write_text('{"prompt": "other"}')
        found = load_task(load_config(config, [f"task.near_duplicates={told}", 'task.validation="held.jsonl"']))
        assert (len(found.train), found.duplicates, found.near_left_out) == (left, 1, near)


def test_the_demo_has_nothing_to_leave_out():
    task = load_task(demo_config())
    assert (len(task.train), task.duplicates, task.test_seen_in_train) == (180, 0, 0)
    assert care.near_within(task.train) == care.near_between(task.train, (*task.test, *task.validation)) == 0


def test_near_prompts_with_references_of_their_own_are_two_examples():
    text = " ".join(f"w{i}" for i in range(20))
    one, other, bare = (
        Prompt(id=name, messages=({"role": "user", "content": f"{text} {name}"},), reference=known)
        for name, known in (("a", {"n": 1}), ("b", {"n": 2}), ("c", None))
    )
    assert care.near_within([one, other, bare]) == 2
    assert care.without_near([one, other, bare]) == (one, other)
    assert care.without_near([one, replace(other, reference={"n": 1})]) == (one,)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("I'm sorry, but I can\u2019t help with that.", True),
        ("I cannot comply with this request, as it would be harmful.", True),
        ("Sorry! I am unable to fulfill your request.", True),
        ("As an AI language model, I don't have feelings.", True),
        ("We are sorry to hear that. I cannot provide a refund after 30 days.", False),
        ('{"reason": "The customer says: I can\'t wait"}', False),
        ("The law " + "x" * 120 + " I can't help with that", False),
    ],
)
def test_a_refusal_is_told_by_how_it_begins(text: str, refusal: bool):
    assert care.is_refusal(text) is refusal
