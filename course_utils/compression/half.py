"""A network in 16-bit floats."""

from __future__ import annotations

import copy

from torch import Tensor, nn


class HalfModel(nn.Module):
    """A network in 16-bit floats, for GPUs and for storage: takes and gives 32-bit floats."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = copy.deepcopy(model).half()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.half()).float()
