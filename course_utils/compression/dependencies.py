"""What hangs together: when one channel goes, which layers lose an output or an input. Torch-Pruning's graph, as a list."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from course_utils.compression.channel_pruner import head_pruner
from course_utils.models import ExpandableHead


@dataclass(frozen=True)
class Part:
    """What one layer loses: its name in the network, "outputs", "inputs" or, of a normalization, "channels", and which of them."""

    layer: str
    side: str
    places: tuple[int, ...]


def shared_channels(model: nn.Module, layer: str, channel: int, image_shape: Sequence[int]) -> list[Part]:
    """Everything that has to go along with one output channel of a convolution or a dense layer. Nothing is changed.

    Args:
        layer: its name in `model.named_modules()`.
        channel: counted from 0.
        image_shape: (channels, height, width) of an image, to follow what the network does with it.

    Returns:
        The layers that share the channel, that one first. A layer may be there twice: one that a residual block goes
        around loses an input *and* an output.

    Raises:
        ValueError: no such layer, or no such channel.

    Source: Fang et al. 2023, "DepGraph", section 3.2. Drawn in lesson 07.
    """
    import torch_pruning as tp

    network = copy.deepcopy(model).eval().requires_grad_(True)
    names = {module: name for name, module in network.named_modules()}
    wanted = dict(network.named_modules()).get(layer)
    if not isinstance(wanted, (nn.Conv2d, nn.Linear)):
        known = [name for module, name in names.items() if isinstance(module, (nn.Conv2d, nn.Linear))]
        raise ValueError(f"layer={layer!r} is no convolution or dense layer; the network has {', '.join(known)}")
    if not 0 <= channel < len(wanted.weight):
        raise ValueError(f"channel={channel}: {layer} has {len(wanted.weight)}, counted from 0")
    example = torch.rand(2, *image_shape, generator=torch.Generator().manual_seed(0))
    graph = tp.DependencyGraph().build_dependency(
        network, example_inputs=example, customized_pruners={ExpandableHead: head_pruner(tp)}
    )
    outputs = tp.prune_conv_out_channels if isinstance(wanted, nn.Conv2d) else tp.prune_linear_out_channels
    group = graph.get_pruning_group(wanted, outputs, idxs=[channel])
    found = []
    for dependency, places in group:
        part = dependency.target.module
        if part in names:  # sums and activations have nothing to lose
            side = "inputs" if graph.is_in_channel_pruning_fn(dependency.handler) else "outputs"
            if not isinstance(part, (nn.Conv2d, nn.Linear, ExpandableHead)):
                side = "channels"
            found.append(Part(names[part], side, tuple(int(place) for place in places)))
    return found
