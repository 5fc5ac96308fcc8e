"""Unstructured pruning: single weights become zero, and nothing gets smaller or faster by it. The contrast of lesson 07."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.compression.schedule import cubic_sparsity


def zero_smallest(model: nn.Module, target: float, steps: int, train_fn: Callable[[nn.Module], Any] | None) -> None:
    """The smallest weights of all layers together become zero; what is zero stays zero through fine-tuning."""
    tensors = [p for p in model.parameters() if p.dim() > 1]
    for step in range(1, steps + 1):
        share = cubic_sparsity(step, steps, target)
        sizes = torch.cat([p.detach().abs().flatten() for p in tensors])
        count = round(share * len(sizes))
        limit = sizes.kthvalue(count).values if count else sizes.new_tensor(-1.0)
        masks = [p.detach().abs() > limit for p in tensors]
        _apply(tensors, masks)
        if train_fn is not None:
            train_fn(model)
            _apply(tensors, masks)


@torch.no_grad()
def _apply(tensors: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    for tensor, mask in zip(tensors, masks, strict=True):
        tensor.mul_(mask)
