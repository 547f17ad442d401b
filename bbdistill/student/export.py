"""A trained adapter leaves as a standard PEFT directory, which knows its base; or merged into a copy of that base."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from bbdistill.errors import RunError
from bbdistill.rundir import read_json
from bbdistill.student.files import whole_directory
from bbdistill.student.model import Base, load_base, weight_hash
from bbdistill.student.student import POLICY, Student

WEIGHTS, BASE = "adapter_model.safetensors", "base.json"


def save_adapter(directory: Path, student: Student, *, card: str) -> None:
    """Writes the student's adapter with its tokenizer, chat template and `card` (README.md), replacing `directory`.

    `PeftModel.from_pretrained` opens it as it is; base.json holds the name and weight hash of the base it belongs to,
    and whether it answers behind empty strategy tags, which the chat template saved here then asks for.
    """
    base, lora = student.base, student.adapters.config(POLICY)
    revision = None if Path(base.name).is_dir() else base.weight_hash
    config = replace(lora, base_model_name_or_path=base.name, revision=revision, inference_mode=True)
    with whole_directory(directory) as new:
        save_file(student.adapter_state(), new / WEIGHTS, metadata={"format": "pt"})
        config.save_pretrained(str(new))
        base.chat.save(new, tags=student.tags)
        (new / "README.md").write_text(card, encoding="utf-8")
        facts = {"model": base.name, "weight_hash": base.weight_hash, "tags": student.tags}
        (new / BASE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def load_adapter(student: Student, directory: Path) -> None:
    """Puts a saved adapter on the student. RunError where it was trained on other weights, or has another shape."""
    _check_base(directory, student.base.name, student.base.weight_hash)
    saved, own = read_json(directory / "adapter_config.json"), student.adapters.config(POLICY)
    rank, alpha = saved.get("r"), saved.get("lora_alpha")
    if (rank, alpha) != (own.r, own.lora_alpha):
        raise RunError(
            f"adapter `{directory}` has rank {rank} and alpha {alpha}, but the student's are {own.r} and "
            f"{own.lora_alpha}; set `student.lora_rank` and `student.lora_alpha` to those of the adapter"
        )
    student.load_adapter_state(_weights(directory))
    student.tags = answers_behind_tags(directory)


def merge(directory: Path, out: Path) -> None:
    """Writes the whole model with the adapter merged in, in the base's own dtype, from a fresh copy of the base."""
    facts = _facts(directory)
    name = facts["model"]
    revision = "main" if Path(name).is_dir() else facts["weight_hash"]
    fresh: PreTrainedModel = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype="auto")
    _check_base(directory, name, weight_hash(fresh))
    merged = PeftModel.from_pretrained(fresh, str(directory)).merge_and_unload()
    with whole_directory(out) as new:
        merged.save_pretrained(new)
        AutoTokenizer.from_pretrained(directory).save_pretrained(new)


def is_adapter(directory: Path) -> bool:
    """Whether it is an adapter saved by an earlier run."""
    return (directory / BASE).is_file()


def answers_behind_tags(directory: Path) -> bool:
    """Whether a saved adapter was trained to answer behind empty strategy tags."""
    return bool(_facts(directory).get("tags"))


def load_merged(directory: Path) -> Base:
    """A fresh copy of an adapter's base with the adapter merged in; its weight hash tells it from the base."""
    facts = _facts(directory)
    _weights(directory)
    base = load_base(facts["model"])
    _check_base(directory, base.name, base.weight_hash)
    merged = PeftModel.from_pretrained(base.model, str(directory)).merge_and_unload()
    digest = hashlib.sha256(facts["weight_hash"].encode() + (directory / WEIGHTS).read_bytes()).hexdigest()
    return replace(base, model=merged.eval(), name=str(directory), weight_hash=digest)


def _check_base(directory: Path, name: str, found: str) -> None:
    expected = _facts(directory)
    if expected["weight_hash"] != found:
        raise RunError(
            f"adapter `{directory}` was trained on `{expected['model']}` with weights {expected['weight_hash'][:12]}, "
            f"got `{name}` with weights {found[:12]}; use the same base, or train the adapter again"
        )


def _weights(directory: Path) -> dict[str, Tensor]:
    try:
        return load_file(directory / WEIGHTS)
    except (OSError, SafetensorError) as fault:
        raise RunError(f"the weights of adapter `{directory}` cannot be read: {fault}; copy it again, whole") from None


def _facts(directory: Path) -> dict[str, Any]:
    facts = read_json(directory / BASE) if is_adapter(directory) else {}
    if not {"model", "weight_hash"} <= facts.keys():
        raise RunError(
            f"`{directory}` is not an adapter saved by bbdistill: expected a {BASE} there with `model` and "
            "`weight_hash`; give the `adapter/` of a finished run"
        )
    return facts
