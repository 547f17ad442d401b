"""The tree of rows and what is computed on it, held against each row by itself through an unregistered attention."""

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from student_fixtures import tiny_tokenizer
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from bbdistill.student import attention
from bbdistill.student.adapters import Adapters
from bbdistill.student.batches import as_tree, collate, completion_logprobs, last_hidden, micro_batches
from bbdistill.student.decode import PaddedDecoder, TreeDecoder
from bbdistill.student.lora import compute_in_base_dtype, factors_cast_once
from bbdistill.student.model import Base, load_base
from bbdistill.student.tree import Row, lay_out, tree_tokens

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.1,
}
PLAIN = ["llama", "mistral", "qwen2", "qwen3", "smollm3"]


def tiny(directory: Path, family: str, **settings: Any) -> Path:
    """A random model of any family, in float32, with a tokenizer."""
    tokenizer = tiny_tokenizer()
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4} if family == "gpt2" else SIZES
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": 0}
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **sizes, **ends, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@contextmanager
def trained(base: Base, *, train: bool = True) -> Iterator[Adapters]:
    """The base with adapters that have an effect."""
    adapters = Adapters(base, ("policy", "discriminator"), rank=4, alpha=8, seed=0)
    draws = torch.Generator().manual_seed(1)
    for parameter in adapters.parameters("policy"):
        parameter.data.normal_(std=0.1, generator=draws)
    with adapters.use("policy", train=train):
        yield adapters


def ids(draws: random.Random, length: int) -> tuple[int, ...]:
    return tuple(draws.randrange(3, 250) for _ in range(length))


def rows_of(groups: list[list[int]], *, system: int = 0, alike: bool = True) -> list[Row]:
    """For each group the lengths of its completions; prompts of 3 to 9 tokens after `system` common ones."""
    draws = random.Random(0)
    first = ids(draws, system)
    prompts = [(*first, len(groups) + 10 + index, *ids(draws, 3 + 2 * index)) for index in range(len(groups))]
    rows = [
        Row(prompt=p, completion=ids(draws, n)) for p, lengths in zip(prompts, groups, strict=True) for n in lengths
    ]
    return rows if alike else random.Random(1).sample(rows, len(rows))


SHAPES = {
    "groups": rows_of([[5, 3, 8], [1, 6], [4, 4, 2, 7]]),
    "groups and a system prompt": rows_of([[5, 3, 8], [1, 6], [4, 4, 2, 7]], system=20),
    "rows in any order": rows_of([[5, 3, 8], [1, 6]], system=7, alike=False),
    "one row each": rows_of([[5], [3], [8], [1]], system=20),
    "nothing shared": rows_of([[5], [3], [8]]),
    "one group": rows_of([[5, 3, 8]]),
    "one row": rows_of([[5]]),
    "empty completions": rows_of([[0, 3, 0], [0], [2], [0, 0]], system=5),
    "one group and one row": rows_of([[2, 9], [4]], system=1),
    "a prompt that begins another": [
        Row(prompt=(5, 6, 7), completion=(8, 9)),
        Row(prompt=(5, 6, 7, 8), completion=(9,)),
        Row(prompt=(5, 6, 7), completion=(9, 9, 9)),
    ],
    "equal rows": [Row(prompt=(5, 6), completion=(7, 8))] * 3,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    whole = {"mistral": {"sliding_window": None}}
    return {family: tiny(tmp_path_factory.mktemp(family), family, **whole.get(family, {})) for family in PLAIN}


def alone(model: PreTrainedModel, row: Row) -> tuple[Tensor, Tensor]:
    """Log-probs of a row's completion and the last hidden state, the whole sequence by itself."""
    inputs = torch.tensor([row.ids])
    hidden = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state[0]
    logits = model(input_ids=inputs, use_cache=False).logits[0].log_softmax(-1)
    first = len(row.prompt)
    return logits[first - 1 : -1].gather(1, inputs[0, first:, None]).squeeze(1), hidden[-1]


def gradients(adapters: Adapters, value: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value, adapters.parameters("policy")))


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


# --- the layout -------------------------------------------------------------------------------------------------------


def test_a_tree_by_hand():
    rows = [Row(prompt=(1, 2, 3), completion=(7, 8)), Row(prompt=(1, 2, 4, 5), completion=(9,))]
    tree = lay_out([*rows, Row(prompt=(1, 2, 3), completion=(6,))], CPU)
    assert tree.ids.tolist() == [[1, 2, 3, 4, 5, 9, 7, 8, 6]]
    assert tree.positions.tolist() == [[0, 1, 2, 2, 3, 4, 3, 4, 3]]
    assert [tuple(span) for span in tree.spans] == [(2, 6, 2), (4, 5, 1), (2, 8, 1)]
    assert [span.end for span in tree.spans] == [7, 5, 8]
    seen = [[key for key in range(9) if tree.dense()[0, 0, query, key]] for query in range(9)]
    assert seen[:4] == [[0], [0, 1], [0, 1, 2], [0, 1, 3]]
    assert seen[4:] == [[0, 1, 3, 4], [0, 1, 3, 4, 5], [0, 1, 2, 6], [0, 1, 2, 6, 7], [0, 1, 2, 8]]


@pytest.mark.parametrize("name", SHAPES)
def test_every_token_sees_its_own_row_up_to_itself(name: str):
    rows = SHAPES[name]
    tree = lay_out(rows, CPU)
    assert tree.ids.shape == tree.positions.shape == (1, tree_tokens(rows))
    for row, span in zip(rows, tree.spans, strict=True):
        path = tree.dense()[0, 0, span.end].nonzero().squeeze(1)
        assert tree.ids[0, path].tolist() == list(row.ids)
        assert tree.positions[0, path].tolist() == list(range(len(row.ids)))


def test_four_groups_of_eight_are_laid_out_once():
    rows = rows_of([[50] * 8] * 4, system=150)
    assert tree_tokens(rows) == 150 + sum(4 + 2 * index for index in range(4)) + 32 * 50
    assert sum(len(row.ids) for row in rows) == 6624


# --- equality with each row by itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", PLAIN)
@pytest.mark.parametrize("name", SHAPES)
def test_logprobs_hidden_states_and_gradients_equal_those_of_single_rows(
    name: str, family: str, models: dict[str, Path]
):
    rows, base = SHAPES[name], load_base(str(models[family]), device="cpu", dtype="float32")
    assert as_tree(base.model)
    with trained(base) as adapters:
        batch = collate(base.model, rows)
        logprobs, hidden = completion_logprobs(base.model, batch), last_hidden(base.model, rows)
        plain = [alone(base.model, row) for row in rows]
        expected = torch.cat([said for said, _ in plain])
        torch.testing.assert_close(logprobs[batch.mask > 0], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(hidden, torch.stack([last for _, last in plain]), rtol=0, atol=1e-5)
        assert not logprobs[batch.mask == 0].any()
        if expected.numel():
            weights = torch.linspace(-1, 1, expected.numel()) / expected.numel()
            assert_same(
                gradients(adapters, (logprobs[batch.mask > 0] * weights).sum()),
                gradients(adapters, (expected * weights).sum()),
            )
        assert_same(
            gradients(adapters, hidden.square().mean()),
            gradients(adapters, torch.stack([last for _, last in plain]).square().mean()),
        )


@pytest.mark.parametrize("how", ["long segments", "recomputed layers"])
def test_other_ways_through_the_model_give_the_same(how: str, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    rows, base = SHAPES["groups and a system prompt"], load_base(str(models["qwen3"]), device="cpu", dtype="float32")
    with trained(base) as adapters:
        batch = collate(base.model, rows)
        expected = completion_logprobs(base.model, batch)
        wanted = gradients(adapters, expected.sum() / 40)
        if how == "long segments":
            monkeypatch.setattr(attention, "LONG", 0)
        else:
            base.model.gradient_checkpointing_enable()
            base.model.train()
        found = completion_logprobs(base.model, batch)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert_same(gradients(adapters, found.sum() / 40), wanted)


@pytest.mark.parametrize("name", SHAPES)
def test_a_block_mask_of_the_tree_is_its_dense_mask(name: str):
    tree = lay_out(SHAPES[name], CPU)
    length = tree.ids.shape[1]
    draws = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, length, 16, generator=draws) for heads in (4, 2, 2))
    mask = create_block_mask(lambda _b, _h, q, k: tree.sees(q, k), None, None, length, length, "cpu")
    found = flex_attention(query, key, value, block_mask=mask, enable_gqa=True)
    expected = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=tree.dense(), enable_gqa=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_bfloat16_gradients_are_near_those_of_float32(models: dict[str, Path]):
    rows = SHAPES["groups and a system prompt"]
    found: dict[str, Tensor] = {}
    for dtype in ("float32", "bfloat16"):
        base = load_base(str(models["llama"]), device="cpu", dtype=dtype)
        with trained(base) as adapters:
            logprobs = completion_logprobs(base.model, collate(base.model, rows))
            assert logprobs.dtype == torch.float32
            found[dtype] = torch.cat([g.flatten() for g in gradients(adapters, logprobs.sum())])
    assert found["bfloat16"].dtype == torch.float32
    assert torch.cosine_similarity(found["float32"], found["bfloat16"], dim=0) > 0.999


def test_micro_batches_of_any_size_have_the_same_gradient(models: dict[str, Path]):
    rows = SHAPES["groups and a system prompt"]
    base = load_base(str(models["llama"]), device="cpu", dtype="float32")
    with trained(base) as adapters:

        def total(budget: int) -> list[Tensor]:
            parts = micro_batches(base.model, [[row] for row in rows], budget)
            sizes.append(len(parts))
            batches = [collate(base.model, [rows[index] for index in part]) for part in parts]
            sums = [gradients(adapters, completion_logprobs(base.model, batch).sum() / 40) for batch in batches]
            return [torch.stack(column).sum(0) for column in zip(*sums, strict=True)]

        sizes = list[int]()
        one, several, many = total(1000), total(50), total(1)
        assert sizes[0] == 1 < sizes[1] < sizes[2] == len(rows)
        assert_same(several, one)
        assert_same(many, one)


# --- other models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "settings"),
    [("gpt2", {}), ("gemma2", {"sliding_window": 8}), ("mistral", {"sliding_window": 4})],
)
def test_other_models_are_padded_with_one_warning(
    family: str, settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    rows, where = SHAPES["one group and one row"], str(tiny(tmp_path, family, **settings))
    base = load_base(where, device="cpu", dtype="float32")
    with caplog.at_level(logging.WARNING, logger="bbdistill"), trained(base) as adapters:
        batch = collate(base.model, rows)
        logprobs, hidden = completion_logprobs(base.model, batch), last_hidden(base.model, rows)
        plain = [alone(base.model, row) for row in rows]
        expected = torch.cat([said for said, _ in plain])
        torch.testing.assert_close(logprobs[batch.mask > 0], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(hidden, torch.stack([last for _, last in plain]), rtol=0, atol=1e-5)
        assert_same(gradients(adapters, logprobs.sum() / 15), gradients(adapters, expected.sum() / 15))
        assert sum(len(part) for part in micro_batches(base.model, [[row] for row in rows])) == len(rows)
    assert [record.message for record in caplog.records if record.name.startswith("bbdistill")] == [
        f"models of type `{family}` are trained on padded rows: what prompts share is computed once only for plain "
        "attention (Llama and Qwen families)"
    ]


# --- LoRA -------------------------------------------------------------------------------------------------------------


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(24, 16), nn.Linear(16, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


def test_lora_in_the_dtype_of_the_base_is_pefts_own():
    torch.manual_seed(0)
    model = inject_adapter_in_model(
        LoraConfig(r=4, lora_alpha=12, target_modules=["first", "second"], init_lora_weights=False), TwoLayers(), "a"
    )
    weights = [p for name, p in model.named_parameters() if "lora" in name]
    x = torch.randn(3, 5, 24, requires_grad=True)
    expected = model(x)
    wanted = torch.autograd.grad(expected.square().mean(), [x, *weights])
    compute_in_base_dtype(model, ("a",))
    found = model(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert_same(list(torch.autograd.grad(found.square().mean(), [x, *weights])), list(wanted))
    with torch.no_grad(), factors_cast_once(model, "a"):
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-6)


# --- decoding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in SHAPES if "order" not in name])
def test_decoding_on_the_tree_equals_decoding_with_a_cache(name: str, models: dict[str, Path]):
    """Row by row they end; the logits of the others stay those of a cache with a copy of the prompt for each."""
    prompts = sorted(row.prompt for row in SHAPES[name])
    base, draws = load_base(str(models["qwen2"]), device="cpu", dtype="float32"), random.Random(2)
    with trained(base, train=False), torch.inference_mode():
        tree, padded = TreeDecoder(base.model, prompts, 12), PaddedDecoder(base.model, prompts, 0)
        torch.testing.assert_close(tree.read(), padded.read(), rtol=0, atol=1e-5)
        left = len(prompts)
        for step in range(11):
            ids_ = torch.tensor([draws.randrange(3, 250) for _ in range(left)])
            torch.testing.assert_close(tree.next(ids_), padded.next(ids_), rtol=0, atol=1e-5)
            if left > 1 and step % 2:
                kept = torch.tensor(sorted(draws.sample(range(left), left - 1)))
                tree.keep(kept)
                padded.keep(kept)
                left -= 1


def test_rows_that_ended_give_their_room_back(models: dict[str, Path]):
    base = load_base(str(models["llama"]), device="cpu", dtype="float32")
    prompts = sorted(chain.from_iterable([row.prompt] * 8 for row in rows_of([[1]] * 4, system=9)))
    with torch.inference_mode():
        decoder = TreeDecoder(base.model, prompts, 4)
        decoder.read()
        sizes = [decoder.slots]
        for kept in (range(31), range(20), range(4, 8)):
            decoder.keep(torch.tensor(list(kept)))
            sizes.append(decoder.slots)
    assert sizes == [32, 32, 24, 4]
