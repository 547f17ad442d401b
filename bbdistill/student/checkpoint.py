"""Checkpoints on disk: a directory with the tensors and a readable JSON beside them, whole or absent."""

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from bbdistill.errors import RunError
from bbdistill.student.files import whole_directory

TENSORS, FACTS = "tensors.pt", "facts.json"


def save(directory: Path, tensors: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Writes `directory`, replacing what stood there. `tensors` nests containers, numbers, strings and tensors.

    RunError where it cannot be written; what stood there is then still whole.
    """
    written = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    try:
        with whole_directory(directory) as new:
            torch.save(dict(tensors), new / TENSORS)
            (new / FACTS).write_text(written, encoding="utf-8")
    except (OSError, RuntimeError) as fault:
        raise RunError(
            f"checkpoint `{directory}` cannot be written ({str(fault).splitlines()[0]}); free some space, and go on "
            "with --resume"
        ) from fault


def load(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors, on the CPU, and the facts. RunError where they cannot be read."""
    try:
        tensors = torch.load(directory / TENSORS, map_location="cpu", weights_only=True)
        return tensors, json.loads((directory / FACTS).read_text(encoding="utf-8"))
    except (OSError, EOFError, ValueError, RuntimeError, UnpicklingError) as fault:
        raise RunError(
            f"checkpoint `{directory}` cannot be read ({(str(fault) or repr(fault)).splitlines()[0]}); "
            "delete it and resume from the one before"
        ) from fault
