"""PEFT's LoRA computed in the dtype of its base: two products and one addition per layer, without copies in float32.

PEFT casts each input to the adapter's float32, which doubles the work and the memory of what is kept for the backward.
Here the small factors are cast instead; they, their gradients and the optimiser stay in float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer, LoraVariant
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class InBaseDtype(LoraVariant):
    """How one layer computes its adapters."""

    def __init__(self) -> None:
        self.factors: tuple[Tensor, Tensor] | None = None
        """A and B as they are multiplied, while nobody trains them."""

    def forward(self, module: LoraLayer, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        if self.factors is not None:
            a, b = self.factors
            return result.view(-1, result.shape[-1]).addmm_(x.reshape(-1, x.shape[-1]) @ a.T, b.T).view(result.shape)
        weights = module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight
        return _Added.apply(result, x, *weights, module.scaling[active_adapter])


class _Added(torch.autograd.Function):
    """result + scaling x A^T B^T, in the place of `result`, which only a frozen linear layer has made."""

    @staticmethod
    def forward(ctx: Any, result: Tensor, x: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        a, b = _cast(a, b, scaling, x.dtype)
        rows = x.reshape(-1, x.shape[-1])
        inner = rows @ a.T  # (N, r)
        ctx.save_for_backward(rows, inner, a, b)
        ctx.scaling = scaling
        ctx.mark_dirty(result)
        result.view(-1, result.shape[-1]).addmm_(inner, b.T)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, inner, a, b = ctx.saved_tensors
        above = gradient.reshape(-1, gradient.shape[-1])
        to_inner = above @ b
        to_x = (to_inner @ a).view(*gradient.shape[:-1], -1) if ctx.needs_input_grad[1] else None
        return gradient, to_x, (to_inner.T @ rows).float(), (above.T @ inner).float() * ctx.scaling, None


def _cast(a: Tensor, b: Tensor, scaling: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return a.to(dtype), (b * scaling).to(dtype)


def compute_in_base_dtype(model: nn.Module, names: tuple[str, ...]) -> None:
    """Puts every linear LoRA layer of `model` on this way of computing."""
    for layer in _layers(model):
        layer.cast_input_dtype_enabled = False
        layer.lora_variant.update({name: InBaseDtype() for name in names})


@contextmanager
def factors_cast_once(model: nn.Module, name: str) -> Iterator[None]:
    """Inside, adapter `name` is frozen: its factors are cast once, not in every forward."""
    layers = list(_layers(model))
    for layer in layers:
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        layer.lora_variant[name].factors = _cast(a, b, layer.scaling[name], layer.base_layer.weight.dtype)
    try:
        yield
    finally:
        for layer in layers:
            layer.lora_variant[name].factors = None


def _layers(model: nn.Module) -> Iterator[LoraLayer]:
    return (module for module in model.modules() if isinstance(module, LoraLayer))
