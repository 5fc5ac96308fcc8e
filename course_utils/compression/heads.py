"""Attention heads: how much each one matters, and a network without the least important. Built in lesson 07."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

PARTS = ("query", "key", "value", "out")


def attentions(model: nn.Module) -> dict[str, Any]:
    """Name -> every attention whose query, key, value and output are dense layers of their own, as in the course's ViT."""
    return {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "num_heads") and all(hasattr(module, part) for part in PARTS)
    }


def head_norms(attention: Any, norm: int = 2) -> Tensor:
    """Importance of every head, `(heads,)`: the norm of all weights that only this head uses.

    Source: the channel norms of Li et al. 2017, applied to heads (Michel et al. 2019 ask which heads can go).
    """
    heads: int = attention.num_heads
    layers = [getattr(attention, part).weight.detach() for part in PARTS]
    rows = [weight.unflatten(0, (heads, -1)).flatten(1) for weight in layers[:3]]  # (heads, width per head * in)
    columns = layers[3].T.unflatten(0, (heads, -1)).flatten(1)
    return torch.cat([*rows, columns], dim=1).norm(p=norm, dim=1)


def keep_heads(attention: Any, kept: Sequence[int]) -> None:
    """Leave these heads, in place; all others go from query, key, value and output.

    Raises:
        ValueError: no head, or one that is not there.
    """
    heads: int = attention.num_heads
    if not kept or not set(kept) <= set(range(heads)):
        raise ValueError(f"kept={list(kept)}: name at least one of the heads 0 to {heads - 1}")
    size = attention.query.out_features // heads
    index = torch.cat([torch.arange(head * size, (head + 1) * size) for head in sorted(kept)])
    for part in PARTS[:3]:
        _take(getattr(attention, part), index, 0)
    _take(attention.out, index, 1)
    attention.num_heads = len(kept)


def _take(layer: nn.Linear, index: Tensor, dim: int) -> None:
    index = index.to(layer.weight.device)
    layer.weight = nn.Parameter(layer.weight.detach().index_select(dim, index), layer.weight.requires_grad)
    if dim == 0:
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.detach()[index], layer.bias.requires_grad)
        layer.out_features = len(index)
    else:
        layer.in_features = len(index)
