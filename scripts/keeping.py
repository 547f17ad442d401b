"""Keeps the adapters of a run's checkpoints, of which the run itself keeps only the last two."""

from pathlib import Path

import torch

from bbdistill.metrics import Event, OnEvent, StepDone
from bbdistill.rundir import RunDir
from bbdistill.student import checkpoint
from bbdistill.student.student import Student


def keeping(run: Path, to: Path, *, every: int) -> OnEvent:
    """Told of a run's steps, it writes the adapter after each `every`th of them to `to`, all but the last one."""

    def on_event(event: Event) -> None:
        # A checkpoint is written after its step is told, so it is there when the next one is.
        if isinstance(event, StepDone) and event.step % every == 1 and event.step > 1:
            keep(run, to, event.step - 1)

    return on_event


def keep(run: Path, to: Path, step: int) -> None:
    """The student's adapter after a step, where it is not kept yet and its checkpoint is still there."""
    file, found = _file(to, step), RunDir(run).checkpoint(step)
    if not file.is_file() and found.is_dir():
        tensors, _ = checkpoint.load(found)
        to.mkdir(parents=True, exist_ok=True)
        torch.save(tensors["student"]["adapter"], file)


def kept(to: Path) -> dict[int, Path]:
    """The files by step."""
    return {int(file.stem): file for file in sorted(to.glob("*.pt"), key=lambda file: int(file.stem))}


def put(student: Student, file: Path) -> None:
    student.load_adapter_state(torch.load(file, weights_only=True))


def _file(to: Path, step: int) -> Path:
    return to / f"{step}.pt"
