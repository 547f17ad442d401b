#!/usr/bin/env python3
"""How fast bbdistill samples: beside TRL's sampling and `generate`, on the same model, prompts and LoRA, in turn.

    .venv/bin/python scripts/bench_rollouts.py [--trl PYTHON] [--rounds 5]

Rollouts are 4 prompts x 8 of at most 64 tokens; PYTHON is as in bench_train.py. Besides, bbdistill answers the demo's
prompts greedily, as an evaluation does.
"""

import argparse
import json
import sys
from typing import Any

from bench_student import ALPHA, GROUP, NEW, PROMPTS, RANK, asked, in_turn, job, opened, peak_gb, table, timed, work

EVALUATED = 120


def ours() -> dict[str, float]:
    student, _ = opened()
    prompts = asked(work(EVALUATED))
    student.sample(prompts[:1], group_size=GROUP, step=0)
    sampling, groups = timed(lambda: student.sample(prompts[:PROMPTS], group_size=GROUP, step=1))
    tokens = sum(len(rollout.token_ids) for group in groups for rollout in group)
    peak = peak_gb()
    answering, _ = timed(lambda: student.answer(prompts))
    return {
        "sampling s": sampling,
        "said": tokens,
        "said/s": tokens / sampling,
        "peak GB": peak,
        "evaluation s": answering,
        "evaluated": len(prompts),
    }


def raw(model: str) -> dict[str, float]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).to(device)
    lora: Any = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear")).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(model, padding_side="left")
    texts = [
        tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        for row in work(PROMPTS)
    ]
    batch = tokenizer(texts, return_tensors="pt", padding=True).to(device)

    def generate(new: int) -> int:
        out = lora.generate(**batch, do_sample=True, num_return_sequences=GROUP, max_new_tokens=new, top_k=0)
        said = out[:, batch["input_ids"].shape[1] :]
        return int((said != tokenizer.pad_token_id).sum())

    torch.manual_seed(0)
    generate(4)
    seconds, tokens = timed(lambda: generate(NEW))
    return {"sampling s": seconds, "said": tokens, "said/s": tokens / seconds, "peak GB": peak_gb()}


def trl(model: str) -> dict[str, float]:
    from bench_train import trl

    found = trl("policy", model, 8)
    said = found["said"]
    return {"sampling s": found["sampling s"], "said": said, "said/s": said / found["sampling s"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    from bbdistill.student.bundled import bundled_student

    model = str(bundled_student())
    jobs = {"bbdistill": lambda: job(sys.executable, __file__, "ours", model)}
    if options.trl:
        jobs["TRL"] = lambda: job(options.trl, __file__, "trl", model)
    jobs["generate"] = lambda: job(sys.executable, __file__, "raw", model)
    found = in_turn(jobs, options.rounds)
    keys = list(dict.fromkeys(key for rows in found.values() for key in rows[0]))
    print(table(found, keys, baseline="TRL" if options.trl else "generate"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        who, model = sys.argv[2:]
        print(json.dumps(ours() if who == "ours" else raw(model) if who == "raw" else trl(model)))
    else:
        main()
