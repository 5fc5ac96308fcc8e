"""What hangs together: when one channel goes, which layers lose an output or an input. Torch-Pruning's graph, as a list."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from course_utils.compression.channel_pruner import head_pruner
from course_utils.compression.preparation import quantized_layers
from course_utils.models import ExpandableHead

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


@dataclass(frozen=True)
class Part:
    """What one layer loses: its name in the network, which of its "outputs" or "inputs".

    Of a normalization or a depthwise convolution, whose outputs are its inputs, "channels".
    """

    layer: str
    side: str
    places: tuple[int, ...]


def shared_channels(model: nn.Module, layer: str, channel: int, image_shape: Sequence[int]) -> list[Part]:
    """All convolutions, dense layers and normalizations that lose something with one output channel. Nothing is changed.

    Args:
        layer: its name in `model.named_modules()`.
        channel: counted from 0.
        image_shape: (channels, height, width) of an image, to follow what the network does with it.

    Returns:
        The layers that share the channel, that one first. A layer may be there twice: one that a residual block goes
        around loses an input *and* an output.

    Raises:
        ValueError: no such layer, no such channel, images that the network does not take, or a convolution in groups on the
            way: it loses a channel of every group, so one channel cannot go alone.

    Source: Fang et al. 2023, "DepGraph", section 3.2. Drawn in lesson 07.
    """
    import torch_pruning as tp

    network = copy.deepcopy(model).eval().requires_grad_(True)
    names = {module: name for name, module in network.named_modules()}
    wanted = dict(network.named_modules()).get(layer)
    if not isinstance(wanted, (nn.Conv2d, nn.Linear)):
        if quantized_layers(network):
            raise ValueError("this network is fake-quantized already; ask the one in floats")
        known = [name for module, name in names.items() if isinstance(module, (nn.Conv2d, nn.Linear))]
        raise ValueError(f"layer={layer!r} is no convolution or dense layer; the network has {', '.join(known)}")
    if not 0 <= channel < len(wanted.weight):
        raise ValueError(f"channel={channel}: {layer} has {len(wanted.weight)}, counted from 0")
    example = torch.rand(2, *image_shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            network(example)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the network does not take images of shape {tuple(image_shape)}: {error}") from error
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
            groups = getattr(part, "groups", 1)
            if 1 < groups < getattr(part, "in_channels", 1):
                raise ValueError(
                    f"{names[part]} works in {groups} groups and loses a channel of each; one cannot go alone"
                )
            if groups > 1 or not isinstance(part, (*LAYERS, ExpandableHead)):
                side = "channels"
            found.append(Part(names[part], side, tuple(int(place) for place in places)))
    return found
