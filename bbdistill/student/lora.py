"""PEFT's LoRA computed in the dtype of its base: two products and one addition per layer, without copies in float32.

PEFT casts each input to the adapter's float32, which doubles the work and the memory of what is kept for the backward.
Here the small factors are cast instead; they, their gradients and the optimiser stay in float32.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer, LoraVariant
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class InBaseDtype(LoraVariant):
    """How one layer computes one adapter."""

    def __init__(self) -> None:
        self.factors: tuple[Tensor, Tensor] | None = None
        """A and B as they are multiplied, while nobody trains them."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] static there, for variants without a state
        self, module: LoraLayer, active_adapter: str, x: Tensor, result: Tensor, **_: Any
    ) -> Tensor:
        """`result`, of the frozen layer, with the adapter's share added in its place."""
        if self.factors is None:
            return _Added.apply(result, x, *_weights(module, active_adapter), module.scaling[active_adapter])
        a, b = self.factors
        result.view(-1, result.shape[-1]).addmm_(x.reshape(-1, x.shape[-1]) @ a.T, b.T)
        return result


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
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] its decorator hides the names
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (rows, inner, a, b), (gradient,) = ctx.saved_tensors, grad_outputs
        above = gradient.reshape(-1, gradient.shape[-1])
        to_inner = above @ b
        to_x = (to_inner @ a).view(*gradient.shape[:-1], -1) if ctx.needs_input_grad[1] else None
        return gradient, to_x, (to_inner.T @ rows).float(), (above.T @ inner).float() * ctx.scaling, None


def _cast(a: Tensor, b: Tensor, scaling: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return a.to(dtype), (b * scaling).to(dtype)


def compute_in_base_dtype(model: nn.Module, names: Sequence[str]) -> None:
    """Puts every linear LoRA layer of `model` on this way of computing."""
    for layer in _layers(model):
        layer.cast_input_dtype_enabled = False
        layer.lora_variant.update({name: InBaseDtype() for name in names})


@contextmanager
def factors_cast_once(model: nn.Module, name: str) -> Iterator[None]:
    """Inside, adapter `name` is frozen: its factors are cast once, not in every forward."""
    variants = [(layer, _variant(layer, name)) for layer in _layers(model)]
    for layer, variant in variants:
        dtype = layer.get_base_layer().weight.dtype
        assert isinstance(dtype, torch.dtype), f"{dtype=}"
        variant.factors = _cast(*_weights(layer, name), layer.scaling[name], dtype)
    try:
        yield
    finally:
        for _, variant in variants:
            variant.factors = None


def _layers(model: nn.Module) -> Iterator[LoraLayer]:
    return (module for module in model.modules() if isinstance(module, LoraLayer))


def _variant(layer: LoraLayer, name: str) -> InBaseDtype:
    variant = layer.lora_variant[name]
    assert isinstance(variant, InBaseDtype), f"{type(variant)=}"
    return variant


def _weights(layer: LoraLayer, name: str) -> tuple[Tensor, Tensor]:
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    assert isinstance(a, Tensor), f"{type(a)=}"
    assert isinstance(b, Tensor), f"{type(b)=}"
    return a, b
