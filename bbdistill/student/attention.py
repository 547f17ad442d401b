"""Attention as the student's forwards need it, registered with transformers so that its models run unchanged.

A forward that is given `attend` attends so; any other is the usual attention under a mask. `attend` travels as a
keyword of the forward, not as a state of the module: a layer computed again for its gradient gets the same one.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention.flex_attention import create_block_mask
from torch.utils._triton import has_triton
from transformers import AttentionInterface, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from bbdistill.student.tree import Stage, Tree

Attend = Callable[[nn.Module, Tensor, Tensor, Tensor, float], Tensor]
"""(module, query (B, H, N, D), key (B, K, N, D), value, scaling) -> (B, N, H, D); H is a multiple of K."""
Remember = Callable[[nn.Module, Tensor, Tensor], None]
"""(module, key (B, K, N, D), value)."""

NAME = "bbdistill"
PLAIN_FAMILIES = frozenset(("llama", "mistral", "qwen2", "qwen3", "smollm3"))
"""Model types whose attention is softmax(scale q k + mask) v and nothing else, and gets the forward's keywords."""

LONG = 1 << 20
"""Scores of a segment and head beyond which holding them costs more memory than it saves time."""


def is_plain(config: PreTrainedConfig) -> bool:
    """Whether tokens may be laid out as a tree: sliding windows and recurrent states need the plain order."""
    layers = DynamicCache(config=config).layers
    return config.model_type in PLAIN_FAMILIES and all(type(layer) is DynamicLayer for layer in layers)


def along(tree: Tree, remember: Remember | None = None) -> dict[str, Any]:
    """Keywords with which a model's forward over `tree.ids` attends along the paths of `tree`."""
    inner = _attend_along(tree)

    def attend_and_remember(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        if remember is not None:
            remember(module, key, value)
        return inner(module, query, key, value, scaling)

    return keywords(tree.positions, attend_and_remember)


def keywords(positions: Tensor, how: Attend) -> dict[str, Any]:
    """Of a forward that attends as `how` says; `positions` are (B, N)."""
    return {
        "position_ids": positions,
        "use_cache": False,
        "attend": how,
        # A mask of four dimensions is taken as it is: the model builds none of its own, which would be quadratic.
        "attention_mask": torch.empty(1, 1, 0, 0, device=positions.device),
    }


def _attend_along(tree: Tree) -> Attend:
    long = any(stage.mask.shape[2] * stage.mask.shape[3] > LONG for stage in tree.stages)
    if tree.ids.device.type == "cpu" and not long:
        return partial(_attend_in_stages, tree.stages)
    if tree.ids.device.type == "cuda" and has_triton():
        length = tree.ids.shape[1]
        mask = create_block_mask(lambda _b, _h, q, k: tree.sees(q, k), None, None, length, length, tree.ids.device)
        return partial(_attend_masked, flex_attention_forward, mask)
    return partial(_attend_masked, sdpa_attention_forward, tree.dense())


def _attend_masked(
    function: Callable[..., tuple[Tensor, Any]],
    mask: Any,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
) -> Tensor:
    return function(module, query, key, value, mask, scaling=scaling)[0]


def _attend_in_stages(
    stages: Sequence[Stage], _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
) -> Tensor:
    # (1, H, N, D) to (N, H, D), in which a segment is a slice.
    heads_last = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    said = _StagedAttention.apply(*heads_last, stages, scaling)
    assert isinstance(said, Tensor), f"{type(said)=}"
    return said.unsqueeze(0)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    attend: Attend | None = None,
    **rest: Any,
) -> tuple[Tensor, Tensor | None]:
    """The registered function: (B, N, H, D), and no weights."""
    if attend is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **rest)
    return attend(module, query, key, value, scaling), None


def mix(
    queries: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What each query gets, (K, P, M, R, L, D), and its weights, (K, P, M R L, sum of S).

    `queries` (K, P, M, R, L, D), scaled: K key heads, P parents of M segments, R queries per key, L tokens. Each of
    `keys` is (K C, S, D), shared by P M / C segments each, and `values` go with them. In bfloat16 on a CPU, batched
    products over these few shapes are faster than the fused attention, whose backward is slow on short sequences.
    """
    rows = queries.shape[:-1].numel()
    scores = torch.cat([_product(queries, key.transpose(1, 2)).view(rows, -1) for key in keys], -1)
    if mask is not None:
        _by_parent(scores, queries).add_(mask)
    weights = scores.softmax(-1)  # computed in float32 whatever the dtype
    parts = weights.split([value.shape[1] for value in values], -1)
    said = [_product(part, value).view(queries.shape) for part, value in zip(parts, values, strict=True)]
    return reduce(torch.add, said), weights


def _product(rows: Tensor, columns: Tensor) -> Tensor:
    """(C, n, S) of any `rows` that end with width D, cut into C equal parts, and `columns` (C, D, S)."""
    return torch.bmm(rows.reshape(columns.shape[0], -1, columns.shape[1]), columns)


def _by_parent(scores: Tensor, queries: Tensor) -> Tensor:
    """(K, P, M R, L, S) view of scores, to which a stage's mask (P, 1, L, S) can be added."""
    keys, parents, many, share, length, _ = queries.shape
    return scores.view(keys, parents, many * share, length, -1)


class _StagedAttention(torch.autograd.Function):
    """query (N, H, D), key and value (N, K, D) to (N, H, D)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, stages: Sequence[Stage], scaling: float) -> Tensor:
        said, query = torch.empty_like(query), query * scaling
        kept: list[Tensor] = []
        for stage in stages:
            queries = _spread_queries(query, stage, key.shape[1])
            found, weights = mix(queries, _seen(key, stage), _seen(value, stage), stage.mask.to(query.dtype))
            said[stage.tokens] = _gather_queries(found, stage)
            kept.append(weights)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.stages, ctx.scaling = stages, scaling
        return said

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] its decorator hides the names
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (query, key, value, *kept), (gradient,) = ctx.saved_tensors, grad_outputs
        to_query = torch.empty_like(query)
        to_key, to_value = (
            torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32)) for tensor in (key, value)
        )
        for stage, weights in zip(ctx.stages, kept, strict=True):
            keys, values = _seen(key, stage), _seen(value, stage)
            queries = _spread_queries(query, stage, key.shape[1])
            above = _spread_queries(gradient, stage, key.shape[1])
            to_weights = torch.cat([_product(above, v.transpose(1, 2)).view(len(weights), -1) for v in values], -1)
            to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
            parts = to_scores.split([k.shape[1] for k in keys], -1)
            found = reduce(torch.add, [_product(p, k).view(queries.shape) for p, k in zip(parts, keys, strict=True)])
            to_query[stage.tokens] = _gather_queries(found, stage) * ctx.scaling
            _add_seen(to_key, [_columns(p, queries, k) for p, k in zip(parts, keys, strict=True)], stage)
            shares = weights.split([k.shape[1] for k in keys], -1)
            _add_seen(to_value, [_columns(p, above, v) for p, v in zip(shares, values, strict=True)], stage)
        return to_query, to_key.to(key.dtype), to_value.to(value.dtype), None, None


def _columns(weights: Tensor, rows: Tensor, like: Tensor) -> Tensor:
    """(C, S, D): for each of `like`'s keys, the sum of `rows` by their `weights` for it."""
    parts, length, width = like.shape
    return torch.bmm(weights.reshape(parts, -1, length).transpose(1, 2), rows.reshape(parts, -1, width))


def _spread(tensor: Tensor, stage: Stage) -> Tensor:
    """(P M L, heads, D), zeros where a segment is shorter than the longest."""
    flat = tensor.new_zeros(stage.shape[0] * stage.shape[1] * stage.shape[2], *tensor.shape[1:])
    return flat.index_copy_(0, stage.places, tensor[stage.tokens])


def _spread_queries(query: Tensor, stage: Stage, key_heads: int) -> Tensor:
    """(K, P, M, R, L, D) of (N, H, D)."""
    parents, many, longest = stage.shape
    flat = _spread(query, stage).view(parents, many, longest, key_heads, -1, query.shape[-1])
    return flat.permute(3, 0, 1, 4, 2, 5).contiguous()


def _gather_queries(found: Tensor, stage: Stage) -> Tensor:
    """(n, H, D) of (K, P, M, R, L, D)."""
    flat = found.permute(1, 2, 4, 0, 3, 5).reshape(
        found.shape[1] * found.shape[2] * found.shape[4], -1, found.shape[-1]
    )
    return flat[stage.places]


def _seen(tensor: Tensor, stage: Stage) -> list[Tensor]:
    """(K C, S, D) for each ancestor depth and then the segments' own, of (N, K, D)."""
    heads, width = tensor.shape[1:]
    parts = [tensor[index] for index in stage.path]
    parts.append(_spread(tensor, stage).view(-1, stage.shape[2], heads, width))
    return [part.permute(2, 0, 1, 3).reshape(-1, part.shape[1], width) for part in parts]


def _add_seen(total: Tensor, parts: Sequence[Tensor], stage: Stage) -> None:
    """The reverse of `_seen`: adds what belongs to each token to `total` (N, K, D)."""
    heads, width = total.shape[1:]
    flat = [part.view(heads, -1, width).transpose(0, 1).to(total.dtype) for part in parts]
    for index, part in zip(stage.path, flat, strict=False):
        total.index_add_(0, index.flatten(), part)
    total[stage.tokens] += flat[-1][stage.places]


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
