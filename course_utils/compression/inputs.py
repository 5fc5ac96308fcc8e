"""What the functions of this room are given: images of a shape that the network takes, loaders that can be run through again."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

SIDES = (28, 32, 64, 224, 8, 16, 48, 96, 128)  # of images, tried in this order


def image_shape_of(model: nn.Module, image_shape: Sequence[int] | None) -> tuple[int, int, int]:
    """The shape that was given, once the network has answered for it; without one, `find_image_shape`.

    Raises:
        ValueError: it is not (channels, height, width), or the network does not take such images.
    """
    if image_shape is None:
        return find_image_shape(model)
    shape = tuple(int(size) for size in image_shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"image_shape={tuple(image_shape)}: give (channels, height, width), as in (1, 28, 28)")
    trouble = _refusal(model, shape)
    if trouble is not None:
        raise ValueError(f"image_shape={shape}: the network does not take such images ({trouble})")
    return shape[0], shape[1], shape[2]


def find_image_shape(model: nn.Module) -> tuple[int, int, int]:
    """(channels, height, width) of images that a network takes: the first usual size for which it answers.

    Raises:
        ValueError: it takes none of them.
    """
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    dense = next((module for module in model.modules() if isinstance(module, nn.Linear)), None)
    channels = first.in_channels if first is not None else None
    for side in SIDES:
        for count in (channels,) if channels else (1, 3):
            if channels is None and dense is not None and dense.in_features != count * side * side:
                continue
            if _refusal(model, (count, side, side)) is None:
                return count, side, side
    raise ValueError(f"the network takes none of the usual sizes {SIDES}; give image_shape=(channels, height, width)")


def _refusal(model: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Why a network does not answer for images of a shape, in its own words; None if it does."""
    weight = next(model.parameters(), None)
    try:
        with torch.no_grad():
            copy.deepcopy(model).eval()(torch.zeros(2, *shape, device=None if weight is None else weight.device))
    except (RuntimeError, ValueError, IndexError) as error:
        return str(error).splitlines()[0]
    return None


def repeatable(loader: Iterable[Any], what: str = "train_loader") -> Iterable[Any]:
    """The loader itself.

    Raises:
        ValueError: it can be run through only once, as a generator can.
    """
    if iter(loader) is loader:
        raise ValueError(
            f"{what} is a {type(loader).__name__}, which can be run through only once, and calibration and training both start "
            "from its beginning; give a DataLoader, `compression.Batches(x, y)` or a list of batches"
        )
    return loader
