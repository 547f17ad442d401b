"""A model in this process as a teacher: what it answers, and what it cannot hold."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from student_fixtures import prompts, tiny_config, tiny_student

from bbdistill.client.call import Call, Fault
from bbdistill.errors import ConfigError, RunError
from bbdistill.local import LocalTeacher, open_local
from bbdistill.student.export import save_adapter
from bbdistill.student.model import load_base
from bbdistill.student.open import open_student
from bbdistill.student.tokenize import NO_STRATEGY
from bbdistill.types import Abstain, Prompt


def asked(prompt: Prompt, limit: int) -> Call:
    body = {"model": "m", "messages": [dict(message) for message in prompt.messages], "max_tokens": limit}
    url = "http://local.invalid/v1/chat/completions"
    return Call(method="POST", url=url, headers={}, body=json.dumps(body).encode(), key=prompt.id)


def answers(teacher: LocalTeacher, *calls: Call) -> list[tuple[str, str, int]]:
    """Text, why it ended, and tokens of each, asked together."""

    async def together() -> list[Any]:
        return list(await asyncio.gather(*(teacher(call) for call in calls)))

    bodies = [json.loads(reply.body) for reply in asyncio.run(together())]
    said = [(body["choices"][0], body["usage"]["completion_tokens"]) for body in bodies]
    return [(choice["message"]["content"], choice["finish_reason"], tokens) for choice, tokens in said]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LocalTeacher:
    """It holds 64 tokens."""
    base = load_base(str(tiny_student(tmp_path_factory.mktemp("small"), context=64)), device="cpu", dtype="float32")
    return LocalTeacher(base, top_k=3)


def test_an_answer_is_as_long_as_its_own_call_allows_whatever_is_asked_beside_it(small: LocalTeacher):
    one, other = prompts(2)
    alone = [answers(small, asked(one, 2)), answers(small, asked(other, 20))]
    assert answers(small, asked(one, 2), asked(other, 20)) == [alone[0][0], alone[1][0]]
    assert alone[0][0][2] <= 2


def test_what_it_cannot_hold_is_not_answered_and_not_scored(small: LocalTeacher):
    fits, long = prompts(1)[0], Prompt(id="long", messages=({"role": "user", "content": "7" * 100},))
    size = len(small.prompt_ids(fits.messages))
    assert 64 - size < 40
    (_, _, tokens), *_ = answers(small, asked(fits, 1000))
    assert tokens <= 64 - size
    with pytest.raises(Fault, match="a prompt fills the 64 tokens that the local teacher holds"):
        answers(small, asked(long, 4))
    scores = asyncio.run(small.score([(fits, "7" * 100), (fits, "7"), (long, "7")]))
    assert [isinstance(each, Abstain) for each in scores] == [True, False, True]


def test_an_adapter_that_answers_behind_tags_is_asked_behind_them(model: Path, tmp_path: Path):
    student, _ = open_student(tiny_config(model))
    student.tags = True
    save_adapter(tmp_path / "adapter", student, card="")
    teacher, chat = open_local(str(tmp_path / "adapter"), top_k=3), student.base.chat
    messages = prompts(1)[0].messages
    assert teacher.prompt_ids(messages) == chat.prompt_ids(messages, tags=True)
    assert chat.decode(teacher.prompt_ids(messages)).endswith(NO_STRATEGY)


def test_a_damaged_adapter_is_a_sentence(model: Path, tmp_path: Path):
    student, _ = open_student(tiny_config(model))
    save_adapter(tmp_path / "adapter", student, card="")
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(RunError, match=r"the weights of adapter `.*` cannot be read: .*; copy it again, whole"):
        open_local(str(tmp_path / "adapter"), top_k=3)
    (tmp_path / "adapter" / "base.json").write_text("{}")
    with pytest.raises(RunError, match=r"is not an adapter saved by bbdistill: expected a base.json there with"):
        open_local(str(tmp_path / "adapter"), top_k=3)
    with pytest.raises(ConfigError, match="cannot load the model `/no/where`: there is no such directory; expected"):
        open_local("/no/where", top_k=3)
