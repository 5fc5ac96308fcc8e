"""The multilayer perceptron of the course."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from course_utils.models.head import ExpandableHead, HeadedModel


class MLP(HeadedModel):
    """Dense layers with ReLU on the flattened image, and an expandable head.

    Args:
        image_shape: (channels, height, width); flattened on entry.
        hidden: widths of the hidden layers; the last one feeds the head.
    """

    def __init__(self, image_shape: tuple[int, int, int], hidden: Sequence[int] = (100, 100)):
        super().__init__()
        if not hidden:
            raise ValueError("hidden=() leaves no layer to feed the head; give at least one width, such as (100,)")
        sizes = [math.prod(image_shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for size, width in zip(sizes, hidden, strict=False):
            layers += [nn.Linear(size, width), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = ExpandableHead(sizes[-1])

    def features(self, x: Tensor) -> Tensor:  # (batch, C, H, W) -> (batch, hidden[-1])
        return self.body(x)
