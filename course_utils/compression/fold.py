"""BatchNorm into the convolution in front of it: the same numbers, one layer less. Built in lesson 07, exercise 07.5."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from course_utils.compression.tracing import Call, Trace, example, trace


def folded_weights(
    weight: Tensor, bias: Tensor | None, mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """Weight and bias of one convolution that does what a convolution and a BatchNorm behind it did.

    Args:
        weight: `(out, in, height, width)`; bias: `(out,)` or None.
        mean, variance, gamma, beta: `(out,)` of the BatchNorm, in eval mode.

    Source: Jacob et al. 2018, eq. 14. Built in lesson 07, exercise 07.5.
    """
    factor = gamma / torch.sqrt(variance + eps)
    shift = -mean if bias is None else bias - mean
    return weight * factor.view(-1, *[1] * (weight.dim() - 1)), beta + shift * factor


def fold_batchnorm(model: nn.Module, image_shape: Sequence[int]) -> list[str]:
    """Fold every BatchNorm that follows a convolution, in place; what is folded becomes an `nn.Identity`.

    A max-pooling may stand between the two, as in the course's CNN, where every factor is positive: the largest of
    scaled numbers is then the scaled largest. With a negative factor it would be the smallest, so such a BatchNorm stays.

    Returns:
        Names of the BatchNorm layers that stay.

    Raises:
        RuntimeError: the folded network computes something else (two layers that share a convolution, say).
    """
    x = example(tuple(image_shape), 4).to(next(model.parameters()).device)
    found = trace(model, x)
    kept = []
    for call in found.calls:
        if call.name == "batch_norm" and not _fold(model, found, call):
            kept.append(call.module)
    after = trace(model, x).output
    if not torch.allclose(found.output, after, rtol=1e-3, atol=1e-3 * max(1.0, found.output.abs().max().item())):
        raise RuntimeError("folding changed what the network computes; leave this network's BatchNorm as it is")
    return kept


def _fold(model: nn.Module, found: Trace, call: Call) -> bool:
    norm, source, pooled = model.get_submodule(call.module), found.producer(call.args[0]), False
    if source is not None and source.name == "max_pool2d" and _feeds_only(found, source):
        source, pooled = found.producer(source.args[0]), True
    if source is None or source.name != "conv2d" or not _feeds_only(found, source):
        return False
    conv = model.get_submodule(source.module)
    if not isinstance(norm, nn.BatchNorm2d) or not isinstance(conv, nn.Conv2d) or norm.running_var is None:
        return False
    mean, variance = norm.running_mean, norm.running_var
    gamma = torch.ones_like(variance) if norm.weight is None else norm.weight
    beta = torch.zeros_like(variance) if norm.bias is None else norm.bias
    if mean is None or (pooled and bool((gamma < 0).any())):
        return False
    weight, bias = folded_weights(conv.weight, conv.bias, mean, variance, gamma, beta, norm.eps)
    conv.weight, conv.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    parent, _, attribute = call.module.rpartition(".")
    setattr(model.get_submodule(parent), attribute, nn.Identity())
    return True


def _feeds_only(found: Trace, call: Call) -> bool:
    return len(found.readers(call.output)) == 1
