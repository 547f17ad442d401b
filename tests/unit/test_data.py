"""Prompts in and answers out: every layout that is accepted, and one sentence for every one that is not."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from bbdistill.data import Dataset, load_prompts, split
from bbdistill.errors import ConfigError
from bbdistill.evidence import (
    write_coachings,
    write_corrections,
    write_demonstrations,
    write_preferences,
    write_rollouts,
    write_rubrics,
)
from bbdistill.types import (
    Coaching,
    Correction,
    Criterion,
    Demonstration,
    Mark,
    MarkedAnswer,
    MarkedGroup,
    Preference,
    Prompt,
    Rollout,
)

USER = {"role": "user", "content": "Hi"}
SAID = {"role": "assistant", "content": "Hello"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "prompts.jsonl"


def load(file: Path, *rows: Any, skip_bad: bool = False) -> Dataset:
    """Rows are JSON values, or lines as they stand."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    file.write_text("\n".join(lines), encoding="utf-8")
    return load_prompts(file, skip_bad=skip_bad)


def written(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def prompt(name: str = "a") -> Prompt:
    return Prompt(id=name, messages=(USER,))


def rollout() -> Rollout:
    return Rollout(
        prompt=prompt(),
        sample=2,
        completion="Hé",
        token_ids=(1,),
        logprobs=(-0.5,),
        policy_version=3,
        stop_reason="stop",
    )


def test_a_text_prompt_is_one_user_turn_and_other_keys_are_meta(file: Path):
    data = load(file, {"prompt": "Hi", "id": 7, "reference": {"a": 1}, "lang": "en", "tags": ["x"]})
    expected = Prompt(id="7", messages=(USER,), reference={"a": 1}, meta={"lang": "en", "tags": ["x"]})
    assert data == Dataset(prompts=(expected,), demonstrations={}, skipped=0)


def test_the_id_of_a_line_without_one_is_the_hash_of_its_conversation(file: Path):
    reordered = {"messages": [{"content": "Hi", "role": "user"}]}
    ids = [load(file, row).prompts[0].id for row in ({"prompt": "Hi"}, {"prompt": [USER], "reference": 1}, reordered)]
    assert len(set(ids)) == 1
    assert ids[0].startswith("p-")
    assert len(ids[0]) == len("p-") + 12
    assert load(file, {"prompt": "Hi!"}).prompts[0].id != ids[0]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, SAID]},
        {"messages": [USER], "completion": "Hello"},
        {"prompt": [USER], "completion": [SAID]},
        {"prompt": "Hi", "completion": "Hello", "messages": None},
    ],
)
def test_a_completion_is_a_demonstration_and_not_part_of_the_prompt(file: Path, row: dict[str, Any]):
    data = load(file, {"id": "a", **row})
    assert data.prompts == (prompt(),)
    assert data.demonstrations == {"a": Demonstration(prompt=prompt(), completion="Hello", source="data")}


def test_conversations_tool_turns_and_content_parts_are_kept_as_they_are(file: Path):
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {}}]}
    parts = {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "Ann"}
    messages = [{"role": "system", "content": "S"}, parts, call, {"role": "tool", "content": "4", "tool_call_id": "1"}]
    assert load(file, {"messages": messages}).prompts[0].messages == tuple(messages)
    bare = {name: value for name, value in call.items() if name != "content"}  # as some loggers leave it
    assert load(file, {"messages": [*messages[:2], bare, messages[3]]}).prompts[0].messages == tuple(messages)


def test_byte_order_mark_crlf_blank_lines_and_line_separators_inside_texts_are_read(file: Path):
    first, second = {"id": "a", "prompt": "one\u2028two\u0085three"}, {"id": "b", "prompt": "Zoë"}
    text = "\r\n".join(["", json.dumps(first, ensure_ascii=False), "  ", json.dumps(second, ensure_ascii=False), ""])
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [prompt.messages[0]["content"] for prompt in load_prompts(file).prompts] == [first["prompt"], "Zoë"]


BAD = {
    "no json": ("{", "not valid JSON"),
    "list": ("7", "expected an object"),
    "neither": ({"text": "Hi", "id": "x"}, r"neither .* \['id', 'text'\]"),
    "misspelt prompt": ({"promt": "Hi"}, r"neither .*; is `promt` meant to be `prompt`\?"),
    "prompt of another name": ({"question": "Hi"}, r"is `question` meant to be `prompt`\?"),
    "misspelt messages": ({"mesages": [USER]}, r"is `mesages` meant to be `messages`\?"),
    "null prompt": ({"prompt": None}, "neither"),
    "both": ({"prompt": "Hi", "messages": [USER]}, "both"),
    "two completions": ({"messages": [USER, SAID], "completion": "Hello"}, "keep one"),
    "number prompt": ({"prompt": 3}, "has 3 as its prompt"),
    "blank prompt": ({"prompt": "  "}, "empty prompt"),
    "no messages": ({"messages": []}, "an empty list"),
    "only an answer": ({"messages": [SAID]}, "does not end in a user turn"),
    "ends with system": ({"messages": [USER, {"role": "system", "content": "S"}]}, "does not end in a user turn"),
    "text message": ({"messages": ["Hi"]}, '"Hi" among its messages'),
    "odd role": ({"messages": [{"role": "human", "content": "Hi"}]}, '"human"; expected one of system'),
    "no content": ({"messages": [{"role": "user"}]}, "content is null"),
    "number content": ({"messages": [{"role": "user", "content": 1}]}, "content is 1"),
    "nested content": ({"messages": [{"role": "user", "content": [["Hi"]]}]}, "`content` is a list with a list in it"),
    "text in a list": ({"messages": [{"role": "user", "content": ["Hi"]}]}, 'is a list with "Hi" in it'),
    "many digits": ('{"prompt": "Hi", "reference": ' + "1" * 5000 + "}", "a number has 5000 digits"),
    "odd completion": ({"prompt": "Hi", "completion": {"role": "assistant"}}, "`completion` that is neither"),
    "completion of two": ({"prompt": "Hi", "completion": [SAID, SAID]}, "`completion` that is neither"),
    "user completion": ({"prompt": "Hi", "completion": [USER]}, "`completion` that is neither"),
    "tool call completion": (
        {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{}]}]},
        "has a tool call as its completion",
    ),
    "empty completion": ({"prompt": "Hi", "completion": " "}, "an empty `completion`; leave the key out"),
    "number in a part": ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "is not text"),
    "true id": ({"prompt": "Hi", "id": True}, "has true as its id"),
    "blank id": ({"prompt": "Hi", "id": " "}, "as its id"),
    "same id": ({"prompt": "Other", "id": "first"}, "id `first` of line 1"),
    "nan": ('{"prompt": "Hi", "reference": NaN}', "not valid JSON"),
    "half a pair": ('{"prompt": "\\ud83d"}', "not valid JSON"),
    "deep": ('{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}", "not valid JSON"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named_by_file_and_number_and_can_be_skipped(file: Path, name: str):
    row, says = BAD[name]
    good = {"prompt": "Hi", "id": "first"}
    with pytest.raises(ConfigError, match=rf"prompts\.jsonl` line 3 (.|\n)*{says}") as caught:
        load(file, good, "", row)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    data = load(file, row if name != "same id" else good, good, "", row, skip_bad=True)
    assert [prompt.id for prompt in data.prompts] == ["first"]
    assert data.skipped == 2


def test_answers_must_be_there_and_a_misspelt_key_is_named(file: Path):
    good = {"prompt": "Hi", "completion": "Hello"}
    rows = [good, {"prompt": "Ho"}, {"prompt": "Ha", "reponse": "Hello"}]
    assert len(load(file, *rows).prompts) == 3  # where no answer is needed, another key is nobody's business
    with pytest.raises(ConfigError, match=r"line 3 has no `completion`; is `reponse` meant to be `completion`\?"):
        load_prompts(file, answered=True)
    assert load_prompts(file, answered=True, skip_bad=True).skipped == 1
    load(file, {"prompt": "Ho"})
    with pytest.raises(ConfigError, match="has no line with a `completion`"):
        load_prompts(file, answered=True)


def test_a_repeated_line_without_id_is_one_prompt_and_what_it_adds_is_kept(file: Path):
    data = load(file, {"prompt": "Hi"}, {"prompt": "Ho"}, {"prompt": "Hi", "completion": "x", "reference": 1})
    assert [(prompt.messages[0]["content"], prompt.reference) for prompt in data.prompts] == [("Hi", 1), ("Ho", None)]
    assert [(d.completion, d.prompt.reference) for d in data.demonstrations.values()] == [("x", 1)]
    assert (data.duplicates, data.skipped) == (1, 0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no usable line"),
        (b"\xef\xbb\xbf\n \n", "no usable line"),
        (b'\n[\n{"prompt": "Hi"}\n]', "JSON array.*one JSON object a line"),
        (b'{"prompt": "Gr\xfc\xdfe"}', "not UTF-8 at byte 14"),
        ('{"prompt": "Hi"}'.encode("utf-16"), "not UTF-8"),
    ],
    ids=["empty", "blank", "array", "latin-1", "utf-16"],
)
def test_a_file_that_is_not_jsonl_says_what_it_is(file: Path, content: bytes, says: str):
    file.write_bytes(content)
    for skip_bad in (False, True):
        with pytest.raises(ConfigError, match=rf"prompts\.jsonl.*{says}"):
            load_prompts(file, skip_bad=skip_bad)


def test_missing_file_and_directory(file: Path):
    with pytest.raises(ConfigError, match=r"no file at .*prompts\.jsonl"):
        load_prompts(file)
    with pytest.raises(ConfigError, match="is a directory"):
        load_prompts(file.parent)


def test_only_bad_lines_are_no_dataset(file: Path):
    with pytest.raises(ConfigError, match="no usable line"):
        load(file, "7", "8", skip_bad=True)


def test_demonstrations_load_again_as_they_were(file: Path):
    odd = Prompt(id="é\n", messages=({"role": "system", "content": "S\u2028"}, USER))
    rows = [
        Demonstration(prompt=odd, completion="", source="t"),
        Demonstration(prompt=prompt(), completion="ü", source="t"),
    ]
    write_demonstrations(file, rows)
    data = load_prompts(file)
    assert [(p.id, p.messages) for p in data.prompts] == [(row.prompt.id, row.prompt.messages) for row in rows]
    assert [data.demonstrations[row.prompt.id].completion for row in rows] == ["", "ü"]


def test_columns_are_those_trl_reads(file: Path):
    head = {"id": "a", "prompt": [USER]}
    write_demonstrations(file, [Demonstration(prompt=prompt(), completion="Hello", source="claude")])
    assert written(file) == [{**head, "completion": [SAID], "source": "claude"}]
    write_preferences(file, [Preference(prompt=prompt(), chosen="Hello", rejected="Hé", strength=0.5, source="judge")])
    rejected = [{"role": "assistant", "content": "Hé"}]
    assert written(file) == [{**head, "chosen": [SAID], "rejected": rejected, "strength": 0.5, "source": "judge"}]
    write_corrections(file, [Correction(rollout=rollout(), text="Hello", reason="é", accepted_by="verifier")])
    correction = {"completion": [SAID], "original": "Hé", "reason": "é", "accepted_by": "verifier"}
    assert written(file) == [{**head, **correction, "revisions": 1, "refused": ""}]
    write_rollouts(file, [rollout()])
    drawn = {"completion": rejected, "sample": 2, "policy_version": 3, "stop_reason": "stop"}
    assert written(file) == [{**head, **drawn}]
    write_coachings(file, [Coaching(rollout=rollout(), advice="Look twice.")])
    assert written(file) == [{**head, "completion": rejected, "sample": 2, "advice": "Look twice."}]
    marked = MarkedAnswer(author="student", text="Hé", marks=(Mark(met=True, reason="é"),), score=1.0)
    criteria = (Criterion(text="Greets", points=3),)
    unread = MarkedAnswer(author="teacher", text="Hello")
    write_rubrics(file, [MarkedGroup(prompt=prompt(), criteria=criteria, answers=(marked, unread))])
    answers = [
        {"completion": rejected, "author": "student", "score": 1.0, "marks": [{"met": True, "reason": "é"}]},
        {"completion": [SAID], "author": "teacher", "score": None, "marks": []},
    ]
    assert written(file) == [{**head, "criteria": [{"criterion": "Greets", "points": 3}], "answers": answers}]
    assert "Hé" in file.read_text(encoding="utf-8")


def test_a_write_that_fails_leaves_the_old_file(file: Path):
    write_demonstrations(file, [Demonstration(prompt=prompt(), completion="old", source="t")])
    before = file.read_bytes()

    def rows():
        yield Demonstration(prompt=prompt(), completion="new", source="t")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_demonstrations(file, rows())
    assert file.read_bytes() == before


def test_half_a_surrogate_pair_in_an_answer_still_gives_a_readable_file(file: Path):
    write_demonstrations(file, [Demonstration(prompt=prompt(), completion="\ud83d", source="t")])
    assert written(file)[0]["completion"][0]["content"] == "\ud83d"


def test_split_depends_on_ids_and_seed_only():
    prompts = [prompt(f"p{number}") for number in range(50)]
    shuffled = random.Random(0).sample(prompts, 50)
    train, validation = split(prompts, validation=10, seed=1)
    again = split(shuffled, validation=10, seed=1)
    assert (len(train), len(validation)) == (40, 10)
    assert {p.id for p in again[1]} == {p.id for p in validation}
    assert {p.id for p in train} | {p.id for p in validation} == {p.id for p in prompts}
    assert {p.id for p in split(prompts, validation=10, seed=2)[1]} != {p.id for p in validation}
    assert split(prompts, validation=0, seed=1) == (tuple(prompts), ())


def test_one_prompt_more_moves_at_most_one_other():
    prompts = [prompt(f"p{number}") for number in range(50)]
    before = {p.id for p in split(prompts, validation=10, seed=1)[1]}
    for extra in range(20):
        after = {p.id for p in split([*prompts, prompt(f"new{extra}")], validation=10, seed=1)[1]}
        assert len(before - after) <= 1
