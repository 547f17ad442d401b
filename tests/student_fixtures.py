"""A student small enough for unit tests: a random two-layer Llama with a byte-level tokenizer and a ChatML template."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bbdistill.config import Recipe, RunConfig
from bbdistill.config.models import StudentConfig, TeacherConfig
from bbdistill.config.task import TaskConfig
from bbdistill.config.training import DiscriminatorConfig, PolicyConfig, RewardConfig, TrainConfig
from bbdistill.types import Prompt

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = ["Answer in JSON.", "number 17", '{"number": 17}', "What is the capital of France? The capital is Paris."]


def tiny_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """Every byte has a token, so every text round-trips."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=template
    )


def tiny_student(directory: Path, *, seed: int = 0, context: int = 256) -> Path:
    """Writes the model and its tokenizer to `directory`, in float32; the same seed gives the same weights."""
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.2,  # wide enough for distributions that are neither flat nor certain
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] *= 4  # so that about half of its completions end by themselves
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def tiny_config(
    model: Path,
    *,
    recipe: Recipe = "gad",
    max_new_tokens: int = 12,
    temperature: float = 1.0,
    policy: PolicyConfig | None = None,
    **train: float,
) -> RunConfig:
    """A config for `open_student`: float32 on the CPU, LoRA of rank 4."""
    return RunConfig(
        recipe=recipe,
        student=StudentConfig(
            model=str(model),
            device="cpu",
            dtype="float32",
            lora_rank=4,
            lora_alpha=8,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=1.0,
        ),
        teacher=TeacherConfig(model="openai:none"),
        task=TaskConfig(prompts=model / "none.jsonl"),
        train=TrainConfig(**train),
        reward=RewardConfig(discriminator=1.0),
        policy=policy or PolicyConfig(),
        discriminator=DiscriminatorConfig(learning_rate=1e-2, pool_fraction=0.0),
    )


def prompts(count: int, *, system: str = "Answer in JSON.") -> list[Prompt]:
    """Prompts of different lengths with the same beginning."""
    return [
        Prompt(
            id=f"p{i}",
            messages=({"role": "system", "content": system}, {"role": "user", "content": "number " + "7" * (i + 1)}),
        )
        for i in range(count)
    ]


def saying_student(directory: Path, says: Mapping[str, float]) -> Path:
    """Writes a student that answers anything with one of these texts, each with its probability, and then stops.

    Each text is one token. Attention and MLP add nothing, so that the next token depends on the last one alone: after a
    text comes the end of the turn, after anything else one of the texts.
    """
    tiny_student(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens(list(says))
    model = LlamaForCausalLM.from_pretrained(directory)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    texts = tokenizer.convert_tokens_to_ids(list(says))
    scale = model.config.hidden_size**0.5  # what the norm makes of the one coordinate that is set
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[:, 0] = 1
        model.model.embed_tokens.weight[texts] = torch.eye(model.config.hidden_size)[1]
        model.lm_head.weight.fill_(0)
        model.lm_head.weight[:, :2] = -100 / scale
        model.lm_head.weight[texts, 0] = torch.tensor([math.log(p) for p in says.values()]) / scale
        model.lm_head.weight[tokenizer.eos_token_id, 1] = 0
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
