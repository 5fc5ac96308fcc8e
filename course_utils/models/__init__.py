"""The networks of the course: a feature extractor and a head that grows with the stream.

Every network follows one protocol, so that the learner and the methods need no special cases:

- `forward(x)` maps `(batch, channels, height, width)` in [0, 1] to logits `(batch, num_outputs)`;
- `features(x)` gives what the head sees, `(batch, num_features)`;
- `head` is an `ExpandableHead`; `num_outputs` is its width; `grow(num_outputs, generator)` widens it.
"""

from __future__ import annotations

from typing import Any

import torch

from course_utils.models.cnn import SmallCNN
from course_utils.models.head import ExpandableHead, HeadedModel
from course_utils.models.mlp import MLP
from course_utils.models.resnet import ResNet18
from course_utils.models.vit import ViT

__all__ = ["MLP", "ExpandableHead", "HeadedModel", "ResNet18", "SmallCNN", "ViT", "build"]

_MODELS: dict[str, type[HeadedModel]] = {"small_cnn": SmallCNN, "mlp": MLP, "vit": ViT, "resnet18": ResNet18}


def build(name: str, data: Any, seed: int = 0, num_outputs: int = 0, **options: Any) -> HeadedModel:
    """Build a network for a data set or a stream.

    Args:
        name: "small_cnn", "mlp", "vit" or "resnet18".
        data: anything with `image_shape` = (channels, height, width): a `Dataset` or a `TaskStream`.
        seed: the weights are drawn from this seed; the same seed gives the same bytes. The global
            random state is left as it was.
        num_outputs: width of the head at the start. With 0 the learner grows it task by task.
        **options: passed to the network (`widths`, `norm`, `hidden`, `patch_size`, `stem`, ...).

    Raises:
        ValueError: the name is unknown.
    """
    if name not in _MODELS:
        raise ValueError(f"no model is called {name!r}; choose one of {', '.join(sorted(_MODELS))}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs' generators for good
        model = _MODELS[name](tuple(data.image_shape), **options)
        if num_outputs:
            model.grow(num_outputs, torch.Generator().manual_seed(seed))
    return model
