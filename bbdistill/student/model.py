"""Loads the frozen base model: weights, tokenizer, device, and the hash that says which weights they are."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from bbdistill.errors import ConfigError
from bbdistill.student.attention import attention_for
from bbdistill.student.bundled import bundled_student
from bbdistill.student.tokenize import Chat

BUNDLED = "bundled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The one copy of the weights that every adapter shares; never trained, never merged into."""

    model: PreTrainedModel
    chat: Chat
    device: torch.device
    name: str
    """Hub id or directory, as `from_pretrained` takes it."""
    weight_hash: str
    """sha256 of the weight files of a directory, or the commit of a hub snapshot."""
    context: int
    """Longest sequence the model has positions for, in tokens."""


def load_base(model: str, *, device: str = "auto", dtype: str = "auto") -> Base:
    """Loads `model`: a hub id, a local directory, or "bundled".

    `device` "auto" is cuda, else mps, else cpu; `dtype` "auto" is bfloat16 where the device computes in it, else float32.
    ConfigError where there is no such model, or it has no chat template.
    """
    place = _device(device)
    name = str(bundled_student()) if model == BUNDLED else model
    weights = getattr(torch, dtype) if dtype != "auto" else torch.bfloat16 if _has_bfloat16(place) else torch.float32
    try:
        with no_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(name)
            attention = attention_for(place, AutoConfig.from_pretrained(name).model_type)
            loaded = AutoModelForCausalLM.from_pretrained(name, dtype=weights, attn_implementation=attention)
    except (OSError, ValueError) as fault:
        reason = str(fault).splitlines()[0]
        raise ConfigError(
            f"cannot load the student `{model}`: {reason}; expected a hub id, a directory or `{BUNDLED}`"
        ) from fault
    loaded.requires_grad_(False)
    loaded.eval().to(place)
    return Base(
        model=loaded,
        chat=Chat(tokenizer, _end_of_turn(loaded)),
        device=place,
        name=name,
        weight_hash=weight_hash(Path(name)) if Path(name).is_dir() else str(loaded.config._commit_hash),
        context=getattr(loaded.config.get_text_config(), "max_position_embeddings", 2**31),  # some have no limit
    )


def weight_hash(directory: Path) -> str:
    """sha256 over the safetensors files of a model directory, in order of name."""
    digest = hashlib.sha256()
    found = sorted(directory.glob("*.safetensors"))
    if not found:
        raise ConfigError(f"`{directory}` has no .safetensors file; save the model there with `save_pretrained`")
    for path in found:
        with path.open("rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keeps the loader's bars off a terminal that is ours to draw on."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _end_of_turn(model: PreTrainedModel) -> list[int]:
    config = model.generation_config
    ids = None if config is None else config.eos_token_id
    return [] if ids is None else ids if isinstance(ids, list) else [ids]


def _device(device: str) -> torch.device:
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16, and does not only store it."""
    match device.type:
        case "cuda":
            return torch.cuda.is_bf16_supported(including_emulation=False)
        case "cpu":
            abilities = torch.cpu.get_capabilities()
            return any(abilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "sve_bf16", "bf16"))
        case _:
            return device.type == "mps"
