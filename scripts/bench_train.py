#!/usr/bin/env python3
"""A LoRA step of bbdistill beside TRL's and a plain loop's: same model, data, precision and rank, in turn in one run.

    .venv/bin/python scripts/bench_train.py [--trl PYTHON] [--rounds 5]

PYTHON is the interpreter of an environment with torch, transformers and peft as here, and `trl==1.16.0`. Every job is a
process of its own; figures are medians over rounds. TRL runs at the micro-batch that is fastest in a trial, which the
table names. `share` is that of the machine's best matrix product, counting every distinct token of a step once:
4 x the weights of the layers, and 4 x those of the output head for each token that is predicted.
"""

import argparse
import json
import sys
from typing import Any

from bench_student import (
    ALPHA,
    GROUP,
    NEW,
    PROMPTS,
    RANK,
    asked,
    gemm_flops,
    in_turn,
    job,
    opened,
    peak_gb,
    policy_work,
    synchronised,
    table,
    timed,
    work,
)

SFT_ROWS = 8


def ours(kind: str) -> dict[str, float]:
    from bbdistill.student.tree import Row, tree_tokens
    from bbdistill.types import SFTExample

    student, discriminator = opened()
    base, chat = student.base.model, student.base.chat
    head = base.get_output_embeddings().weight.numel()
    layers = sum(p.numel() for name, p in base.named_parameters() if ".layers." in name and "lora" not in name)

    def told(rows: list[Row], seconds: float) -> dict[str, float]:
        said = sum(len(row.completion) for row in rows)
        tokens = sum(len(row.ids) for row in rows)
        flops = 4 * (layers * tree_tokens(rows) + head * said)
        return {
            "train s": seconds,
            "tokens": tokens,
            "said": said,
            "tokens/s": tokens / seconds,
            "peak GB": peak_gb(),
            "share": flops / seconds / gemm_flops(),
        }

    if kind != "policy":
        data = work(SFT_ROWS, shared=kind == "sft shared")
        texts = [row["completion"][0]["content"] for row in data]
        shown = [SFTExample(prompt=p, text=text) for p, text in zip(asked(data), texts, strict=True)]
        student.update([], shown, learning_rate=1e-5)
        seconds = min(timed(lambda: student.update([], shown, learning_rate=1e-5))[0] for _ in range(3))
        messages = [(one.prompt.messages, one.text) for one in shown]
        return told(
            [Row(prompt=tuple(chat.prompt_ids(m)), completion=tuple(chat.completion_ids(m, t))) for m, t in messages],
            seconds,
        )
    prompts = asked(work(PROMPTS))
    student.sample(prompts[:1], group_size=GROUP, step=0)
    sampling, groups = timed(lambda: student.sample(prompts, group_size=GROUP, step=1))
    examples, pairs = policy_work(groups)
    student.update(examples[:GROUP], [], learning_rate=1e-5)
    training, _ = timed(lambda: student.update(examples, [], learning_rate=1e-5))
    rollouts = [example.rollout for example in examples]
    found = told(
        [Row(prompt=tuple(chat.prompt_ids(r.prompt.messages)), completion=tuple(r.token_ids)) for r in rollouts],
        training,
    )
    discriminator.update(pairs[: GROUP - 1])
    scoring, _ = timed(lambda: discriminator.scores(groups))
    updating, _ = timed(lambda: discriminator.update(pairs))
    return {
        "step s": sampling + training,
        "sampling s": sampling,
        **found,
        "with discriminator GB": peak_gb(),
        "score s": scoring,
        "discriminator s": updating,
    }


def raw(kind: str, model: str) -> dict[str, float]:
    """The loop that anyone would write with transformers and PEFT: padding, a mask, all logits."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).to(device)
    lora = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    optimiser = torch.optim.AdamW([p for p in lora.parameters() if p.requires_grad])
    texts = [
        tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], tokenize=False)
        for row in work(SFT_ROWS, shared=kind == "sft shared")
    ]
    batch = tokenizer(texts, return_tensors="pt", padding=True).to(device)

    def step() -> None:
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        lora(**batch, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    step()
    seconds = min(timed(step)[0] for _ in range(3))
    tokens = int(batch["attention_mask"].sum())
    return {"train s": seconds, "tokens": tokens, "tokens/s": tokens / seconds, "peak GB": peak_gb()}


def trl(kind: str, model: str, micro: int) -> dict[str, float]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.steps: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = synchronised()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.steps.append(synchronised() - self.began)

    clock, rows = Clock(), PROMPTS * GROUP if kind == "policy" else SFT_ROWS
    common: dict[str, Any] = {
        "output_dir": "out",
        "use_cpu": not torch.cuda.is_available(),
        "bf16": True,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": rows // micro,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "learning_rate": 1e-5,
        "dataloader_pin_memory": False,
    }
    put: dict[str, Any] = {
        "model": AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16),
        "processing_class": AutoTokenizer.from_pretrained(model),
        "peft_config": LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
        "callbacks": [clock],
    }
    if kind != "policy":
        data = Dataset.from_list(work(SFT_ROWS, shared=kind == "sft shared"))
        trainer = SFTTrainer(args=SFTConfig(**common, max_steps=4, max_length=None), train_dataset=data, **put)
        trainer.train()
        tokens = sum(len(ids) for ids in trainer.train_dataset["input_ids"])
        seconds = min(clock.steps[1:])
        return {"train s": seconds, "tokens": tokens, "tokens/s": tokens / seconds, "peak GB": peak_gb()}
    config = GRPOConfig(**common, max_steps=2, num_generations=GROUP, max_completion_length=NEW, beta=0.0)
    trainer = GRPOTrainer(
        args=config,
        reward_funcs=lambda completions, **_: [float(index % 2) for index in range(len(completions))],
        train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in work(PROMPTS)]),
        **put,
    )
    sampling: list[float] = []
    tokens: list[int] = []
    said: list[int] = []
    inner = trainer._generate_and_score_completions

    def generate(inputs: Any) -> Any:
        seconds, result = timed(lambda: inner(inputs))
        sampling.append(seconds)
        said.append(int(result["completion_mask"].sum()))
        tokens.append(int(result["prompt_mask"].sum()) + said[-1])
        return result

    trainer._generate_and_score_completions = generate
    trainer.train()
    training = clock.steps[-1] - sampling[-1]
    return {
        "step s": clock.steps[-1],
        "sampling s": sampling[-1],
        "train s": training,
        "tokens": tokens[-1],
        "said": said[-1],
        "tokens/s": tokens[-1] / training,
        "peak GB": peak_gb(),
    }


def fastest(kind: str, python: str, model: str) -> int:
    """TRL's best micro-batch, by one trial of each."""
    sizes = (4, 8, 16, 32) if kind == "policy" else (1, 2, 4, 8)
    return min(sizes, key=lambda size: job(python, __file__, kind, "trl", model, str(size))["train s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", default="policy,sft shared,sft", help="which of: policy, sft shared, sft")
    parser.add_argument("--micro", type=int, help="TRL's micro-batch, instead of trials")
    options = parser.parse_args()
    from bbdistill.student.bundled import bundled_student

    model = str(bundled_student())
    for kind in options.kinds.split(","):
        jobs = {"bbdistill": lambda kind=kind: job(sys.executable, __file__, kind, "ours", model, "0")}
        if options.trl:
            micro = options.micro or fastest(kind, options.trl, model)
            jobs[f"TRL, micro-batch {micro}"] = lambda kind=kind, micro=micro: job(
                options.trl, __file__, kind, "trl", model, str(micro)
            )
        if kind != "policy":
            jobs["transformers + PEFT"] = lambda kind=kind: job(sys.executable, __file__, kind, "raw", model, "0")
        found = in_turn(jobs, options.rounds)
        keys = list(dict.fromkeys(key for rows in found.values() for key in rows[0]))
        print(f"\n{kind}\n\n" + table(found, keys, baseline=next((name for name in jobs if "TRL" in name), "")))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        kind, who, model, micro = sys.argv[2:]
        runs = {
            "ours": lambda: ours(kind),
            "raw": lambda: raw(kind, model),
            "trl": lambda: trl(kind, model, int(micro)),
        }
        print(json.dumps(runs[who]()))
    else:
        main()
