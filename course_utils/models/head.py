"""A linear head that grows: old rows keep their bits, new rows are drawn from a generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ExpandableHead(nn.Module):
    """Linear read-out whose number of outputs can grow. Built in lesson 02.

    Starts with no outputs. `weight` is `(num_outputs, num_features)`, `bias` `(num_outputs,)`.
    """

    def __init__(self, num_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(0, num_features))
        self.bias = nn.Parameter(torch.empty(0))

    @property
    def num_features(self) -> int:
        return self.weight.shape[1]

    @property
    def num_outputs(self) -> int:
        return self.weight.shape[0]

    def forward(self, features: Tensor) -> Tensor:  # (batch, num_features) -> (batch, num_outputs)
        return nn.functional.linear(features, self.weight, self.bias)

    def grow(self, num_outputs: int, generator: torch.Generator) -> None:
        """Widen to `num_outputs`. Old rows stay bit-identical; dtype and device are kept.

        New rows get PyTorch's default for a linear layer, U(-b, b) with b = 1 / sqrt(num_features).
        The parameters are new objects afterwards: an optimizer built earlier does not know them.

        Raises:
            ValueError: `num_outputs` is smaller than the head is now.
        """
        old = self.num_outputs
        if num_outputs < old:
            raise ValueError(f"the head has {old} outputs and cannot shrink to {num_outputs}")
        if num_outputs == old:
            return
        bound = 1.0 / math.sqrt(self.num_features)
        # Drawn on the CPU, so that the same seed gives the same rows on every device.
        new = torch.empty(num_outputs - old, self.num_features + 1).uniform_(-bound, bound, generator=generator)
        new = new.to(self.weight)
        trained = self.weight.requires_grad  # a frozen teacher stays frozen
        with torch.no_grad():
            self.weight = nn.Parameter(torch.cat([self.weight, new[:, :-1]]), requires_grad=trained)
            self.bias = nn.Parameter(torch.cat([self.bias, new[:, -1]]), requires_grad=trained)


class HeadedModel(nn.Module):
    """Features and an expandable head; the networks of the course derive from this."""

    head: ExpandableHead

    @property
    def num_outputs(self) -> int:
        return self.head.num_outputs

    def features(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def grow(self, num_outputs: int, generator: torch.Generator) -> None:
        """Widen the head to `num_outputs`, see `ExpandableHead.grow`."""
        self.head.grow(num_outputs, generator)
