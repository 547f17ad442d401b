"""One AdamW over the float32 parameters of one adapter."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bbdistill.errors import AFRESH, RunError


class Optimiser:
    """Steps at a learning rate given each time; no weight decay, since an adapter at 0 is the base model."""

    def __init__(self, name: str, parameters: Sequence[nn.Parameter], *, max_grad_norm: float) -> None:
        """`name` is for the error message. beta2 = 0.95, because runs are tens to hundreds of steps."""
        self._name, self._parameters, self._max_grad_norm = name, list(parameters), max_grad_norm
        self._adam = torch.optim.AdamW(self._parameters, betas=(0.9, 0.95), weight_decay=0.0)

    def step(self, learning_rate: float) -> float:
        """Clips, steps, clears the gradients; returns their norm before clipping. RunError where it is not finite."""
        norm = nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm).item()
        if not math.isfinite(norm):
            self._adam.zero_grad()
            raise RunError(
                f"the gradient norm of the {self._name} is {norm}, so the step was not taken; "
                f"lower the learning rate, or set `student.dtype` to float32, and {AFRESH}"
            )
        for group in self._adam.param_groups:
            group["lr"] = learning_rate
        self._adam.step()
        self._adam.zero_grad()
        return norm

    def state(self) -> dict[str, Any]:
        return self._adam.state_dict()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._adam.load_state_dict(dict(state))


def merge_metrics(parts: Sequence[tuple[float, Mapping[str, Tensor]]], summed: str = "") -> dict[str, float]:
    """Means over (weight, metrics) of the micro-batches that have the metric; the one called `summed` is added up."""
    merged: dict[str, float] = {}
    for name in dict.fromkeys(name for _, metrics in parts for name in metrics):
        having = [(weight, metrics[name].item()) for weight, metrics in parts if name in metrics]
        total = 1.0 if name == summed else sum(weight for weight, _ in having)
        merged[name] = sum((1.0 if name == summed else weight / total) * value for weight, value in having)
    return merged
