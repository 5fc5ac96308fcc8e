"""Prune a network with one call: whole channels, or, as the contrast, single weights.

What else loses an input when a channel goes (the BatchNorm behind it, the next layer, whatever is added to it) is found by
Torch-Pruning's dependency graph. Lesson 07 does it on four channels by hand first.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from course_utils.compression.blocks import drop_blocks
from course_utils.compression.channel_pruner import ChannelPruner
from course_utils.compression.deployment import without_adapters
from course_utils.compression.importance import NORMS
from course_utils.compression.inputs import image_shape_of
from course_utils.compression.magnitude import zero_smallest
from course_utils.compression.preparation import quantized_layers
from course_utils.compression.tracing import count_macs

METHODS = ("channel", "magnitude")


def prune_model(
    model: nn.Module,
    target_sparsity: float = 0.5,
    method: str = "channel",
    gradual: bool = True,
    train_fn: Callable[[nn.Module], Any] | None = None,
    *,
    image_shape: Sequence[int] | None = None,
    norm: str = "l2",
    steps: int = 4,
    share_of: str = "parameters",
    ignored: Sequence[str] = (),
    round_to: int = 1,
    blocks: int = 0,
    images: Tensor | None = None,
) -> dict[str, Any]:
    """Prune a copy of a network. Adapters are written into the copy's weights first.

    Args:
        target_sparsity: share to remove, 0 to below 1. Every layer keeps one channel at least.
        method: "channel" makes layers narrower. "magnitude" sets the smallest weights to zero and nothing else: the file
            and the arithmetic stay as large as before (the contrast of lesson 07).
        gradual: in `steps` steps on the cubic schedule; otherwise at once.
        train_fn: called with the network after every step, to fine-tune it in place. Without it, accuracy collapses.
        image_shape: (channels, height, width); default is the first usual size that the network takes.
        norm: "l1" or "l2", what a channel's importance is measured by.
        share_of: "parameters", or "channels" of every layer (half of the channels is three quarters of the parameters).
        ignored: names of modules that keep their outputs. The head always does.
        round_to: widths are multiples of this, as far as it goes.
        blocks: of a transformer to take out first, one by one, with `train_fn` behind each: the layers that stay get their share of
            `target_sparsity` afterwards. `images`, some hundreds of them, decide which.

    Returns:
        "pruned_model", a network in eval mode, and "metrics": `sparsity` (share of parameters gone, or set to zero),
        `parameters_before`, `parameters_after`, `macs_before`, `macs_after`, `compression_ratio`, `widths` (name -> outputs).

    Raises:
        ValueError: an unknown option, or a share that cannot be reached.

    Source: Li et al. 2017 (norms of filters); Fang et al. 2023, "DepGraph". Built in lesson 07.
    """
    if method not in METHODS or norm not in NORMS or share_of not in ("parameters", "channels"):
        raise ValueError(
            f"method={method!r}, norm={norm!r}, share_of={share_of!r}: choose a method of {', '.join(METHODS)}, "
            f"a norm of {', '.join(NORMS)}, and 'parameters' or 'channels'"
        )
    if not 0 <= target_sparsity < 1 or steps < 1:
        raise ValueError(f"target_sparsity={target_sparsity}, steps={steps}: a share in [0, 1) and at least one step")
    if quantized_layers(model):
        raise ValueError("this network is fake-quantized already; prune first, then quantize what is left")
    model = without_adapters(model)
    shape = image_shape_of(model, image_shape)
    made = copy.deepcopy(model)
    made.requires_grad_(True)
    if blocks and images is None:
        raise ValueError(f"blocks={blocks} needs images=...: which blocks can go is seen from what they do to images")
    for _ in range(blocks):
        drop_blocks(made, 1, images)  # type: ignore[arg-type]
        if train_fn is not None:
            train_fn(made)
    stages = steps if gradual else 1
    if method == "magnitude":
        zero_smallest(made, target_sparsity, stages, train_fn)
    elif target_sparsity > 0:
        ratio = target_sparsity
        if share_of == "parameters":
            ratio = channel_ratio(made, target_sparsity, shape, norm=norm, ignored=ignored, round_to=round_to)
        pruner = ChannelPruner(made, ratio, shape, norm=norm, steps=stages, ignored=ignored, round_to=round_to)
        for _ in range(stages):
            pruner.step()
            if train_fn is not None:
                train_fn(made)
    elif train_fn is not None and not blocks:
        train_fn(made)
    made.eval()
    return {"pruned_model": made, "metrics": _metrics(model, made, shape)}


def channel_ratio(model: nn.Module, target_sparsity: float, image_shape: Sequence[int], **options: Any) -> float:
    """Share of channels to remove so that this share of the parameters is gone: found by trying, on copies.

    Raises:
        ValueError: even the narrowest network keeps more.
    """
    before, low, high = parameters(model), 0.0, 0.98
    for _ in range(8):
        middle = (low + high) / 2
        trial = copy.deepcopy(model)
        ChannelPruner(trial, middle, image_shape, **options).step()
        low, high = (middle, high) if 1 - parameters(trial) / before < target_sparsity else (low, middle)
    if high >= 0.98:
        raise ValueError(f"target_sparsity={target_sparsity} leaves layers without channels; ask for less")
    return high


def parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def channels(model: nn.Module) -> int:
    """Number of outputs of all convolutions and dense layers; a head's outputs are classes and do not count."""
    return sum(len(layer.weight) for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear)))


def _metrics(before: nn.Module, after: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    total, left = parameters(before), sum(int((p != 0).sum()) for p in after.parameters() if p.dim() > 1)
    left += sum(p.numel() for p in after.parameters() if p.dim() <= 1)
    return {
        "sparsity": 1 - left / total,
        "parameters_before": total,
        "parameters_after": parameters(after),
        "macs_before": count_macs(before, shape),
        "macs_after": count_macs(after, shape),
        "compression_ratio": total / parameters(after),
        "widths": {n: len(m.weight) for n, m in after.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))},
    }
