"""The student side on a tiny random model: what it samples, trains, saves and exports, held against the plain way."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from student_examples import disturb, plain_logprobs, policy_examples, ranked_pairs, sft_examples
from student_fixtures import TEMPLATE, prompts, tiny_config, tiny_student, tiny_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from bbdistill.config.training import PolicyConfig
from bbdistill.errors import ConfigError, RunError
from bbdistill.student import checkpoint
from bbdistill.student.adapters import Adapters
from bbdistill.student.batches import collate, completion_logprobs, last_hidden, micro_batches
from bbdistill.student.discriminator import Discriminator
from bbdistill.student.export import load_adapter, merge, save_adapter
from bbdistill.student.files import whole_directory
from bbdistill.student.model import load_base
from bbdistill.student.open import open_student, preview
from bbdistill.student.sample import draw, sample
from bbdistill.student.student import Student
from bbdistill.student.tokenize import Chat
from bbdistill.student.tree import Row, tree_tokens
from bbdistill.types import (
    PolicyExample,
    Prompt,
)

ODD_TEXTS = [
    '{"a": [1, 2.5, null]}',
    "naïve café — 日本語 🙂",
    "  two  spaces \n\n\tx ",
    "",
    "a <|im_end|> inside",
    "\n",
]


def random_rows(count: int, *, prefix: int = 0, seed: int = 0) -> list[Row]:
    """Rows of unequal length with `prefix` common tokens; every second one has the prompt of the one before."""
    draws = random.Random(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(draws.randrange(3, 250) for _ in range(length))

    shared, rows = ids(prefix), list[Row]()
    for index in range(count):
        prompt = rows[-1].prompt if index % 2 else shared + ids(draws.randrange(1, 9))
        rows.append(Row(prompt=prompt, completion=ids(draws.randrange(1, 9))))
    return rows


# --- chat -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_a_completion_is_its_text_and_one_end_of_turn_token(text: str):
    chat = Chat(tiny_tokenizer())
    ids = chat.completion_ids(({"role": "user", "content": "hi"},), text)
    assert [id in chat.eos_ids for id in ids] == [False] * (len(ids) - 1) + [True]
    assert chat.decode(ids) == text
    assert chat.decode(ids[:-1]) == text


def test_prompt_and_completion_are_the_rendered_conversation():
    chat = Chat(tiny_tokenizer())
    messages = ({"role": "user", "content": "What?"},)
    ids = chat.prompt_ids(messages) + chat.completion_ids(messages, "Paris.")
    expected = "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nParis.<|im_end|>"
    assert chat.tokenizer.decode(ids, skip_special_tokens=False) == expected


def test_the_generation_config_adds_end_of_turn_tokens():
    tokenizer = tiny_tokenizer(TEMPLATE.replace("<|im_end|>", "<|endoftext|>"))
    with pytest.raises(ConfigError, match=r"does not end an answer with an end-of-turn token.*<\|im_end\|>"):
        Chat(tokenizer)
    assert Chat(tokenizer, [0]).eos_ids == {0, tokenizer.eos_token_id}


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (None, "has no chat template; use the instruct version"),
        (TEMPLATE.replace("assistant\n{%", "bot\n{%"), "does not put an answer right after its generation prompt"),
    ],
)
def test_an_unusable_template_is_named(template: str | None, says: str):
    with pytest.raises(ConfigError, match=says):
        Chat(tiny_tokenizer(template))


def test_a_conversation_that_a_template_refuses_is_named():
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    with pytest.raises(ConfigError, match="refuses a conversation of system, user: no system role; change the prompts"):
        Chat(tiny_tokenizer(refuses + TEMPLATE)).prompt_ids(prompts(1)[0].messages)


def test_preview_shows_the_rendered_prompt(model: Path):
    settings = tiny_config(model).require_student()
    lines = preview(settings, prompts(1))
    assert "a turn ends with <|im_end|>" in lines[0]
    assert "  number 7<|im_end|>" in lines


# --- base and adapters ------------------------------------------------------------------------------------------------


def test_the_weight_hash_is_that_of_the_weights(model: Path, tmp_path: Path):
    assert load_base(str(model)).weight_hash == load_base(str(model)).weight_hash
    assert load_base(str(tiny_student(tmp_path, seed=1))).weight_hash != load_base(str(model)).weight_hash


def test_a_student_that_cannot_be_loaded_is_a_config_error(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot load the model"):
        load_base(str(tmp_path))


def test_adapters_are_the_same_for_the_same_seed_and_leave_the_global_generator_alone(model: Path):
    states = list[dict[str, Tensor]]()
    for before in (1, 2):
        torch.manual_seed(before)
        expected = torch.get_rng_state()
        adapters = Adapters(load_base(str(model)), ("policy", "discriminator"), rank=4, alpha=8, seed=3)
        assert torch.equal(torch.get_rng_state(), expected)
        states.append(adapters.state("policy"))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert all("lora_A" in key or not tensor.any() for key, tensor in states[0].items())


def test_adapters_are_float32_disjoint_and_not_on_the_output_head(student: Student):
    policy, other = student.adapters.parameters("policy"), student.adapters.parameters("discriminator")
    assert len(policy) == len(other) == 2 * 7 * 2  # A and B, seven linear layers, two blocks
    assert not {id(p) for p in policy} & {id(p) for p in other}
    assert not any("lm_head" in key for key in student.adapters.state("policy"))


def test_only_the_adapter_in_training_wants_a_gradient(student: Student):
    with student.adapters.use("policy", train=True):
        wanting = {id(p) for p in student.base.model.parameters() if p.requires_grad}
    assert wanting == {id(p) for p in student.adapters.parameters("policy")}
    assert not any(p.requires_grad for p in student.base.model.parameters())


def test_uses_never_nest(student: Student):
    with student.adapters.use("policy"):
        with pytest.raises(AssertionError, match="in use already"), student.adapters.use("discriminator"):
            pass
        with pytest.raises(AssertionError, match="in use already"), student.adapters.use(None):
            pass
    with student.adapters.use("discriminator"):
        pass


def test_the_reference_is_the_untouched_base(student: Student, model: Path):
    fresh = AutoModelForCausalLM.from_pretrained(model)
    ids = torch.tensor([[5, 6, 7, 8]])
    disturb(student)
    with student.adapters.use("policy"):
        changed = student.base.model(input_ids=ids).logits
    with student.adapters.use(None):
        found = student.base.model(input_ids=ids).logits
    with torch.no_grad():
        expected = fresh(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (changed - expected).abs().max() > 0.01


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [0, 3, 150])
def test_batched_logprobs_and_gradients_equal_those_of_single_rows(student: Student, prefix: int):
    """Completion logits only, and a shared prefix computed once."""
    rows, model = random_rows(6, prefix=prefix), student.base.model
    disturb(student)
    with student.adapters.use("policy", train=True):
        batch = collate(model, rows)
        logprobs = completion_logprobs(model, batch)
        assert batch.mask.sum(1).tolist() == [len(row.completion) for row in rows]
        (logprobs.square() * batch.mask).sum().backward()
        found = [p.grad.clone() for p in student.adapters.parameters("policy") if p.grad is not None]
        model.zero_grad()
        for row, values, mask in zip(rows, logprobs, batch.mask, strict=True):
            alone = plain_logprobs(model, row)
            torch.testing.assert_close(values[mask > 0], alone, rtol=0, atol=1e-4)
            alone.square().sum().backward()
        expected = [p.grad for p in student.adapters.parameters("policy")]
        model.zero_grad()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("prefix", [0, 150])
def test_last_hidden_is_that_of_each_rows_last_token(student: Student, prefix: int):
    rows, model = random_rows(5, prefix=prefix), student.base.model
    with student.adapters.use("discriminator"):
        found = last_hidden(model, rows)
        for row, hidden in zip(rows, found, strict=True):
            alone = model(input_ids=torch.tensor([row.ids]), output_hidden_states=True).hidden_states[-1][0, -1]
            torch.testing.assert_close(hidden, alone, rtol=0, atol=1e-4)


def test_a_batch_by_hand(student: Student):
    rows = [Row(prompt=(5, 6, 7), completion=(8,)), Row(prompt=(5,), completion=(9, 10))]
    batch = collate(student.base.model, rows)
    assert batch.targets.tolist() == [[8, 0], [9, 10]]
    assert batch.mask.tolist() == [[1, 0], [1, 1]]
    assert batch.place([[0.5], [1.5, 2.5]]).tolist() == [[0.5, 0], [1.5, 2.5]]


def test_micro_batches_hold_every_group_once_and_fit_the_budget(student: Student):
    rows = random_rows(40)
    batches = micro_batches(student.base.model, [[row] for row in rows], 100)
    assert sorted(index for batch in batches for index in batch) == list(range(40))
    assert all(tree_tokens([rows[i] for i in batch]) <= 100 for batch in batches)
    assert len(batches) < 8


def test_rows_of_one_prompt_share_a_batch(student: Student):
    """Two long prompts with four short completions each do not fit together."""
    one, two = tuple(range(1000)), tuple(range(1000, 2000))
    rows = [Row(prompt=prompt, completion=(i,) * 5) for i in range(4) for prompt in (one, two)]
    batches = micro_batches(student.base.model, [[row] for row in rows], 1100)
    assert sorted(map(sorted, batches)) == [[0, 2, 4, 6], [1, 3, 5, 7]]


# --- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["", "a system prompt that all of them share, " * 5])
def test_sampled_logprobs_equal_recomputed_ones(student: Student, system: str):
    """Left padding, a cache, and (with the long system prompt) a prefix read once for all prompts."""
    disturb(student)
    groups = student.sample(prompts(3, system=system), group_size=4, step=0)
    chat = student.base.chat
    with student.adapters.use("policy"):
        for rollout in (rollout for group in groups for rollout in group):
            row = Row(prompt=tuple(chat.prompt_ids(rollout.prompt.messages)), completion=rollout.token_ids)
            recomputed = plain_logprobs(student.base.model, row).tolist()
            assert list(rollout.logprobs) == pytest.approx(recomputed, abs=1e-4)


def test_what_a_row_says_depends_on_its_seed_and_not_on_its_batch(student: Student, model: Path):
    together = student.sample(prompts(4), group_size=3, step=5)
    for prompt, group in zip(prompts(4), together, strict=True):
        alone = student.sample([prompt], group_size=1, step=5)[0][0]
        assert alone.token_ids == group[0].token_ids
    assert student.sample(prompts(4), group_size=3, step=6) != together
    assert len({rollout.token_ids for group in together for rollout in group}) > 6


def test_rollouts_end_at_the_first_end_of_turn_or_at_the_limit(student: Student):
    chat = student.base.chat
    rollouts = [rollout for group in student.sample(prompts(4), group_size=8, step=0) for rollout in group]
    assert {rollout.stop_reason for rollout in rollouts} == {"stop", "length"}
    for rollout in rollouts:
        ended = [id in chat.eos_ids for id in rollout.token_ids]
        if rollout.stop_reason == "stop":
            assert ended == [False] * (len(ended) - 1) + [True]
        else:
            assert len(ended) == 12
            assert not any(ended)
        assert len(rollout.logprobs) == len(rollout.token_ids)
        assert rollout.completion == chat.decode(rollout.token_ids)
        assert rollout.policy_version == 0


def test_greedy_answers_are_the_argmax_of_the_plain_model(student: Student):
    disturb(student)
    chat, ids = student.base.chat, list[int]()
    prompt = prompts(2)[1]
    with student.adapters.use("policy"):
        while len(ids) < 12 and not (ids and ids[-1] in chat.eos_ids):
            before = torch.tensor([chat.prompt_ids(prompt.messages) + ids])
            ids.append(int(student.base.model(input_ids=before).logits[0, -1].argmax()))
    assert student.answer(prompts(2))[1] == chat.decode(ids)
    assert student.answer(prompts(2), adapter=False) != student.answer(prompts(2))


def test_draws_follow_the_distribution_and_top_p_its_nucleus():
    logits = torch.tensor([[0.5, 0.3, 0.2, 0.0]]).log()
    ids, logprobs = draw(logits.expand(4, 4), torch.tensor([1e-9, 0.5, 0.8, 1.0], dtype=torch.float64), 1.0)
    assert ids == [0, 0, 1, 2]
    assert logprobs == pytest.approx([-0.6931472, -0.6931472, -1.2039728, -1.6094379], abs=1e-6)
    ids, logprobs = draw(logits.expand(2, 4), torch.tensor([0.6, 1.0], dtype=torch.float64), 0.7)
    assert ids == [0, 1]
    assert logprobs == pytest.approx([-0.4700036, -0.9808293], abs=1e-6)  # log 5/8, log 3/8


def test_temperature_changes_the_distribution_that_is_recorded(model: Path):
    hot, _ = open_student(tiny_config(model, temperature=2.0))
    rollout = hot.sample(prompts(1), group_size=1, step=0)[0][0]
    ids = torch.tensor([hot.base.chat.prompt_ids(rollout.prompt.messages)])
    with hot.adapters.use("policy"):
        logits = hot.base.model(input_ids=ids).logits[0, -1]
    assert rollout.logprobs[0] == pytest.approx((logits / 2).log_softmax(-1)[rollout.token_ids[0]].item(), abs=1e-4)


def test_a_prompt_without_room_for_its_answer_is_a_config_error(student: Student):
    with pytest.raises(ConfigError, match=r"prompt `p\d*` has \d+ tokens .* has room for 256 together"):
        student.sample(prompts(1, system="word " * 200), group_size=1, step=0)


def test_a_prompt_in_parts_is_the_text_of_its_parts(student: Student):
    chat = student.base.chat
    parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]
    assert chat.prompt_ids([{"role": "user", "content": parts}]) == chat.prompt_ids(
        [{"role": "user", "content": "Say hi"}]
    )
    with pytest.raises(ConfigError, match="a part of type `image_url`; a student reads text alone"):
        chat.prompt_ids([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])


def test_logits_that_are_not_finite_draw_nothing():
    with pytest.raises(RunError, match="logits are not finite, so nothing can be drawn"):
        draw(torch.tensor([[0.0, math.nan]]), torch.tensor([0.5], dtype=torch.float64), 1.0)


def test_sampling_nothing_gives_nothing(student: Student):
    assert student.sample([], group_size=4, step=0) == []
    assert sample(student.base, [[5]], [[]], max_new_tokens=3) == [[]]


# --- updates ----------------------------------------------------------------------------------------------------------


def naive_gradient(student: Student, kl_coef: float) -> list[Tensor]:
    """Of the same loss, one sequence and one token at a time; the sampler agrees with the trainer."""
    chat, model, policy = student.base.chat, student.base.model, policy_examples(student)
    whole = [example for example in policy if example.rollout.stop_reason == "stop"]
    tokens = sum(len(example.rollout.token_ids) for example in whole)

    def row(prompt: Prompt, ids: list[int] | tuple[int, ...]) -> Row:
        return Row(prompt=tuple(chat.prompt_ids(prompt.messages)), completion=tuple(ids))

    rows = [row(example.rollout.prompt, example.rollout.token_ids) for example in whole]
    with student.adapters.use(None):
        references = [plain_logprobs(model, one) for one in rows]
    taught = [row(e.prompt, chat.completion_ids(e.prompt.messages, e.text)) for e in sft_examples()]
    with student.adapters.use("policy", train=True):
        for example, one, reference in zip(whole, rows, references, strict=True):
            logprobs = plain_logprobs(model, one)
            gain = (logprobs - logprobs.detach()).exp() * example.advantage
            penalty = kl_coef * 0.5 * (logprobs - reference) ** 2
            ((penalty - gain).sum() / tokens).backward()
        for one in taught:
            (-0.5 * plain_logprobs(model, one).sum() / sum(len(r.completion) for r in taught)).backward()
        return [p.grad.clone() for p in student.adapters.parameters("policy") if p.grad is not None]


@pytest.mark.parametrize("kl_coef", [0.0, 0.2])
def test_the_gradient_of_an_update_equals_that_of_a_plain_loop(
    model: Path, kl_coef: float, monkeypatch: pytest.MonkeyPatch
):
    student, _ = open_student(tiny_config(model, policy=PolicyConfig(kl_coef=kl_coef), max_grad_norm=1e9))
    disturb(student)
    expected = naive_gradient(student, kl_coef)
    for parameter in student.adapters.parameters("policy"):
        parameter.grad = None
    found = list[Tensor]()

    def keep(*_: object) -> None:
        found.extend(p.grad.clone() for p in student.adapters.parameters("policy") if p.grad is not None)

    monkeypatch.setattr(torch.optim.AdamW, "step", keep)
    shown = [replace(example, weight=0.5) for example in sft_examples()]
    metrics = student.update(policy_examples(student), shown, learning_rate=1.0)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-4)
    norm = torch.stack([gradient.norm() for gradient in expected]).norm().item()
    assert metrics["optim/grad_norm"] == pytest.approx(norm, rel=1e-3)


def test_an_update_moves_the_student_where_it_should_go_and_reports_it(student: Student):
    policy, sft = policy_examples(student), sft_examples()
    whole = [example for example in policy if example.rollout.stop_reason == "stop"]
    texts = [(example.prompt, example.text) for example in sft]
    before = student.nll(texts)
    for _ in range(5):
        metrics = student.update(policy, sft, learning_rate=1e-2)
    after = student.nll(texts)
    assert sum(after) < sum(before) - 1
    assert student.version == 5
    names = "policy/loss policy/clip_fraction policy/mismatch sft/loss optim/grad_norm optim/lr"
    assert set(names.split()) <= metrics.keys()
    assert metrics["optim/lr"] == 1e-2
    assert len(whole) > 3


def test_metrics_of_the_first_update_are_those_of_the_batch(student: Student):
    policy, sft = policy_examples(student), sft_examples()
    nll = student.nll([(example.prompt, example.text) for example in sft])
    lengths = [len(student.base.chat.completion_ids(e.prompt.messages, e.text)) for e in sft]
    moving = [e for e in policy if e.rollout.stop_reason == "stop" and e.advantage]
    tokens = sum(len(e.rollout.token_ids) for e in policy if e.rollout.stop_reason == "stop")
    gains = sum(e.advantage * len(e.rollout.token_ids) for e in moving)
    metrics = student.update(policy, sft, learning_rate=1e-3)
    mean_nll = sum(n * k for n, k in zip(nll, lengths, strict=True)) / sum(lengths)
    assert metrics["sft/loss"] == pytest.approx(mean_nll, abs=1e-4)
    assert metrics["policy/loss"] == pytest.approx(-gains / tokens, abs=1e-4)
    assert metrics["policy/mismatch"] < 1e-5
    assert metrics["policy/kl"] == pytest.approx(0, abs=1e-5)  # the student is the base as yet


def test_nothing_to_learn_from_is_no_step(student: Student):
    rollouts = [example.rollout for example in policy_examples(student)]
    cut_off = [PolicyExample(rollout=r, advantage=1.0) for r in rollouts if r.stop_reason == "length"]
    level = [PolicyExample(rollout=r, advantage=0.0) for r in rollouts]
    before = student.adapter_state()
    for policy in ([], cut_off, level):
        assert student.update(policy, [], learning_rate=1e-2) == {}
    assert student.version == 0
    assert all(torch.equal(tensor, before[key]) for key, tensor in student.adapter_state().items())
    assert "policy/loss" not in student.update(level, sft_examples(), learning_rate=1e-2)
    assert student.version == 1


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_step(student: Student):
    disturb(student)
    rollout = policy_examples(student)[0].rollout
    broken = PolicyExample(rollout=replace(rollout, stop_reason="stop"), advantage=float("inf"))
    before = student.adapter_state()
    with pytest.raises(RunError, match="gradient norm of the student is"):
        student.update([broken], [], learning_rate=1e-2)
    assert all(torch.equal(tensor, before[key]) for key, tensor in student.adapter_state().items())


def test_each_side_trains_alone(student: Student, discriminator: Discriminator):
    """A step of one leaves the other's adapter and the base as they were, to the byte, and does change its own."""
    base = {name: p.clone() for name, p in student.base.model.named_parameters() if "lora" not in name}

    def changed(step: Callable[[], dict[str, float]]) -> set[str]:
        before = {name: student.adapters.state(name) for name in ("policy", "discriminator")}
        assert step()
        return {
            name
            for name, state in before.items()
            if any(not torch.equal(tensor, state[key]) for key, tensor in student.adapters.state(name).items())
        }

    for _ in range(2):
        assert changed(lambda: student.update(policy_examples(student), [], learning_rate=1e-2)) == {"policy"}
        assert changed(lambda: discriminator.update(ranked_pairs())) == {"discriminator"}
    parameters = dict(student.base.model.named_parameters())
    assert all(torch.equal(tensor, parameters[name]) for name, tensor in base.items())


def train_both(student: Student, discriminator: Discriminator, steps: range) -> None:
    for step in steps:
        rollouts = student.sample(prompts(2), group_size=3, step=step)
        policy = [PolicyExample(rollout=r, advantage=r.sample - 1.0) for group in rollouts for r in group]
        student.update(policy, sft_examples()[:2], learning_rate=1e-2)
        discriminator.update(ranked_pairs())


def test_three_updates_saved_loaded_and_three_more_are_six(model: Path, tmp_path: Path):
    straight = open_student(tiny_config(model))
    train_both(*straight, range(6))
    first = open_student(tiny_config(model))
    train_both(*first, range(3))
    checkpoint.save(tmp_path / "c", {"student": first[0].state(), "discriminator": first[1].state()}, {"step": 3})
    tensors, facts = checkpoint.load(tmp_path / "c")
    second = open_student(tiny_config(model))
    second[0].load_state(tensors["student"])
    second[1].load_state(tensors["discriminator"])
    train_both(*second, range(facts["step"], 6))
    assert second[0].version == second[1].version == 6
    for one, other in zip(straight, second, strict=True):
        assert all(torch.equal(t, other.state()["adapter"][key]) for key, t in one.state()["adapter"].items())
    assert torch.equal(straight[1].state()["head"]["weight"], second[1].state()["head"]["weight"])
    scores = [side[1].scores(side[0].sample(prompts(2), group_size=2, step=9)) for side in (straight, second)]
    assert scores[0] == scores[1]


# --- on disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def exported(student: Student, tmp_path: Path) -> Path:
    disturb(student)
    save_adapter(tmp_path / "adapter", student, card="# card\n")
    return tmp_path / "adapter"


def adapted_logits(student: Student, ids: Tensor) -> Tensor:
    with student.adapters.use("policy"):
        return student.base.model(input_ids=ids).logits


def test_an_exported_adapter_is_plain_peft(student: Student, exported: Path, model: Path):
    ids = torch.tensor([[5, 6, 7, 8]])
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), str(exported))
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, adapted_logits(student, ids), rtol=0, atol=1e-4)
    written = json.loads((exported / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == str(model)
    assert written["task_type"] == "CAUSAL_LM"
    assert (exported / "README.md").read_text() == "# card\n"
    assert AutoTokenizer.from_pretrained(exported).chat_template == TEMPLATE


def test_a_merged_model_says_what_the_adapter_says(student: Student, exported: Path, tmp_path: Path):
    merge(exported, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=ids).logits, adapted_logits(student, ids), rtol=0, atol=1e-4)
    assert merged.dtype == torch.float32
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == TEMPLATE


def test_an_adapter_comes_back_on_its_own_base_and_on_no_other(
    student: Student, exported: Path, model: Path, tmp_path: Path
):
    again, _ = open_student(tiny_config(model))
    load_adapter(again, exported)
    assert all(torch.equal(t, again.adapter_state()[key]) for key, t in student.adapter_state().items())
    other, _ = open_student(tiny_config(tiny_student(tmp_path / "other", seed=1)))
    with pytest.raises(RunError, match=r"was trained on .* with weights .*, got .*; use the same base"):
        load_adapter(other, exported)


def test_what_is_no_adapter_of_ours_is_refused(student: Student, tmp_path: Path):
    with pytest.raises(RunError, match="is not an adapter saved by bbdistill"):
        load_adapter(student, tmp_path)


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path: Path):
    checkpoint.save(tmp_path / "step_000001", {"x": torch.ones(2)}, {"step": 1})

    class Killed(Exception):
        pass

    def crash() -> None:
        with whole_directory(tmp_path / "step_000001") as new:
            (new / "tensors.pt").write_bytes(b"half")
            raise Killed

    with pytest.raises(Killed):
        crash()
    tensors, facts = checkpoint.load(tmp_path / "step_000001")
    assert tensors["x"].tolist() == [1, 1]
    assert facts == {"step": 1}
    checkpoint.save(tmp_path / "step_000001", {"x": torch.zeros(2)}, {"step": 2})
    assert checkpoint.load(tmp_path / "step_000001")[1] == {"step": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["step_000001"]


def test_a_damaged_checkpoint_is_named(tmp_path: Path):
    checkpoint.save(tmp_path / "c", {"x": torch.ones(2)}, {})
    for content in (b"damaged", b""):
        (tmp_path / "c" / "tensors.pt").write_bytes(content)
        with pytest.raises(RunError, match=r"checkpoint .* cannot be read \(.+\)"):
            checkpoint.load(tmp_path / "c")
