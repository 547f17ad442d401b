"""Loads the frozen base model: weights, tokenizer, device, and the hash that says which weights they are."""

import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx
import httpx2
import torch
from huggingface_hub import file_exists
from huggingface_hub.errors import HFValidationError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.utils import logging

from bbdistill.errors import ConfigError
from bbdistill.student.attention import NAME, is_plain
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

    `device` "auto" is cuda, else mps, else cpu; `dtype` "auto" is bfloat16 where the device computes in it, else
    float32. ConfigError where there is no such model, or it has no chat template.
    """
    name, place = _source(model), pick_device(device)
    with _loading(model):
        local = _local_only(name)
        config = AutoConfig.from_pretrained(name, local_files_only=local)
        loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=pick_dtype(dtype, place),
            attn_implementation=NAME if is_plain(config) else None,
            local_files_only=local,
        )
    loaded.requires_grad_(False)
    torch.nn.Module.to(loaded.eval(), place)
    return Base(
        model=loaded,
        chat=load_chat(model),
        device=place,
        name=name,
        weight_hash=weight_hash(loaded),
        context=getattr(config.get_text_config(), "max_position_embeddings", 2**31),  # some have no limit
    )


def load_chat(model: str) -> Chat:
    """Only the tokenizer of `model`, with its template and what ends a turn."""
    name = _source(model)
    with _loading(model):
        local = _local_only(name)
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local)
        try:
            ends = GenerationConfig.from_pretrained(name, local_files_only=local).eos_token_id
        except OSError:  # it has no generation config of its own
            ends = AutoConfig.from_pretrained(name, local_files_only=local).eos_token_id
    return Chat(tokenizer, ends if isinstance(ends, list) else [] if ends is None else [ends])


def weight_hash(model: PreTrainedModel) -> str:
    """Of a model as it was loaded: sha256 over its directory's safetensors files by name, or its hub commit."""
    directory = Path(str(model.name_or_path))
    if not directory.is_dir():
        return str(model.config._commit_hash)
    digest = hashlib.sha256()
    found = sorted(directory.glob("*.safetensors"))
    if not found:
        raise ConfigError(f"`{directory}` has no .safetensors file; save the model there with `save_pretrained`")
    for path in found:
        with path.open("rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
    return digest.hexdigest()


def describe_device() -> str:
    """What `auto` means on this machine, in words."""
    place = pick_device("auto")
    what = torch.cuda.get_device_name(place) if place.type == "cuda" else f"{torch.get_num_threads()} threads"
    return f"torch {torch.__version__} on {place.type} ({what}), {pick_dtype('auto', place)}".replace("torch.", "")


def pick_device(device: str) -> torch.device:
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The named one; "auto" is bfloat16 where the device computes in it, and does not only store it."""
    if dtype != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[dtype]
    if device.type == "cpu":
        abilities = torch.cpu.get_capabilities()
        native = any(abilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "sve_bf16", "bf16"))
    else:
        native = device.type == "mps" or torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float32


def _source(model: str) -> str:
    return str(bundled_student()) if model == BUNDLED else model


@cache
def _local_only(name: str) -> bool:
    """Whether nothing but this machine can be loaded from. Asked once: the loaders ask an absent hub for a minute."""
    if Path(name).is_dir():
        return True
    try:
        file_exists(name, "config.json")
    except (ConnectionError, httpx.TransportError, httpx2.TransportError):
        return True
    return False


@contextmanager
def _loading(model: str) -> Generator[None]:
    """Says what could not be loaded, and keeps the loader's bars off a terminal that is ours to draw on."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError) as fault:
        said = (str(fault).splitlines() or [type(fault).__name__])[0].rstrip(".")
        said = "there is no such directory" if isinstance(fault, HFValidationError) else said
        raise ConfigError(
            f"cannot load the model `{model}`: {said}; expected a hub id, a directory with a model, or `{BUNDLED}`"
        ) from fault
    finally:
        if shown:
            logging.enable_progress_bar()
