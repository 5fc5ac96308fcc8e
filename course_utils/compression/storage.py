"""A smaller network as a file: the widths of its layers and its weights, without pickled code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from course_utils.compression.blocks import block_names
from course_utils.compression.heads import attentions
from course_utils.compression.preparation import quantized_layers

Widths = Mapping[str, tuple[int, ...]]


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all parameters and buffers: the specification of a pruned network."""
    return {name: tuple(value.shape) for name, value in [*model.named_parameters(), *model.named_buffers()]}


def resize(model: nn.Module, shapes: Widths) -> None:
    """Bring a network of the original widths to those of a pruned one, in place. Each tensor keeps its leading corner.

    Args:
        shapes: from `shapes_of` of the pruned network.

    Raises:
        ValueError: the specification is of another network, or of wider layers.
    """
    _drop_missing_blocks(model, shapes)
    own = shapes_of(model)
    differing = sorted(set(own) ^ set(shapes))
    wider = [n for n in own if n in shapes and (len(own[n]) != len(shapes[n]) or _wider(shapes[n], own[n]))]
    if differing or wider:
        raise ValueError(
            f"this specification does not fit: {', '.join((differing or wider)[:3])} "
            f"({'stand on one side only' if differing else 'would grow'}); build the network that was pruned"
        )
    dims = {id(block): block.query.out_features // block.num_heads for block in attentions(model).values()}
    for name, shape in shapes.items():
        if own[name] == tuple(shape):
            continue
        parent, _, attribute = name.rpartition(".")
        module = model.get_submodule(parent)
        value = getattr(module, attribute)
        kept = value.detach()[tuple(slice(size) for size in shape)].clone()
        if isinstance(value, nn.Parameter):
            kept = nn.Parameter(kept, requires_grad=value.requires_grad)
        setattr(module, attribute, kept)
    for module in model.modules():
        _tell(module)
    channels_last(model)
    for block in attentions(model).values():
        block.num_heads = block.query.out_features // dims[id(block)]


def channels_last(model: nn.Module) -> None:
    """Lay out the weights of all convolutions as the course's networks have them: another layout rounds differently."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            laid_out = torch.empty_like(module.weight.data, memory_format=torch.channels_last)
            module.weight.data = laid_out.copy_(module.weight.data)  # `contiguous` may keep other strides of size 1


def _drop_missing_blocks(model: nn.Module, shapes: Widths) -> None:
    """Whole blocks that the specification does not have become an `nn.Identity`, as `drop_blocks` leaves them."""
    missing = [name for name in block_names(model) if not any(tensor.startswith(f"{name}.") for tensor in shapes)]
    if len(missing) < len(block_names(model)):
        for name in missing:
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, nn.Identity())


def _wider(shape: tuple[int, ...], own: tuple[int, ...]) -> bool:
    return any(new > old for new, old in zip(shape, own, strict=True))


def _tell(module: nn.Module) -> None:
    """Let a layer's own numbers say what its tensors do."""
    if isinstance(module, nn.Conv2d):
        if module.groups == module.out_channels:  # depthwise: a group a channel, so groups go with the channels
            module.groups = len(module.weight)
        # Any other grouped convolution keeps its groups; each of them has lost the same number of channels.
        module.out_channels, module.in_channels = len(module.weight), module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
        module.num_features = len(module.running_mean)
    elif isinstance(module, nn.LayerNorm) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)


def save_pruned(model: nn.Module, path: str | Path) -> Path:
    """Write a pruned network: the shapes of its tensors, and the tensors.

    Raises:
        ValueError: it is fake-quantized; integers are kept as ONNX files.
    """
    if quantized_layers(model):
        raise ValueError(
            "this network is fake-quantized; write its integers with `export_onnx`, or save it before `prepare`"
        )
    path = Path(path)
    temporary = path.with_name(f"{path.name}.part")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    shapes = {name: list(shape) for name, shape in shapes_of(model).items()}
    state = {name: value.detach().cpu() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    torch.save({"shapes": shapes, "state": state}, temporary)
    os.replace(temporary, path)
    return path


@torch.no_grad()
def load_pruned(model: nn.Module, path: str | Path) -> nn.Module:
    """Read a pruned network into one of the original widths, which becomes as narrow, in place.

    Args:
        model: as it was built before pruning, with the head as wide as the saved one.

    Raises:
        ValueError: the file is not of this kind of network, or not a saved pruned network at all.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        shapes = {name: tuple(shape) for name, shape in saved["shapes"].items()}
        state: dict[str, Tensor] = saved["state"]
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a saved pruned network ({error}); write it with `save_pruned`") from error
    resize(model, shapes)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        value.copy_(state[name])
    return model


class _FullShape:
    """A hook that fills up the tensors of a state dict with zeros."""

    def __init__(self, shapes: Widths):
        self.shapes = dict(shapes)

    def __call__(self, module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
        for name, shape in self.shapes.items():
            value = state.get(prefix + name)
            if value is None or value.dim() != len(shape):
                continue
            room = [max(full - now, 0) for full, now in zip(shape, value.shape, strict=True)]
            if any(room):
                sides = [side for size in reversed(room) for side in (0, size)]
                state[prefix + name] = torch.nn.functional.pad(value, sides)


def keep_full_shape(model: nn.Module, shapes: Widths) -> None:
    """Let `model.state_dict()` fill up pruned tensors with zeros to these shapes: what a run saves fits the unpruned network.

    `resize` takes the zeros off again. `save_pruned` and `shapes_of` do not see them.
    """
    model._state_dict_hooks.clear()
    model._register_state_dict_hook(_FullShape(shapes))
