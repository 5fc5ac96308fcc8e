"""What range does an activation have? Observers look at data and answer. Built in lesson 07, exercise 07.3."""

from __future__ import annotations

import torch
from torch import Tensor, nn

OBSERVERS = ("minmax", "average", "percentile")


class Observer(nn.Module):
    """The range of what it has been shown.

    Args:
        kind: "minmax", the smallest and largest number ever seen; "average", a moving average of every batch's smallest
            and largest, so that one odd image does not decide; "percentile", a moving average of every batch's quantiles,
            which cuts off the rarest large values for finer steps among the others.
        momentum: weight of a new batch in the averages.
        quantile: share of the numbers that "percentile" leaves out on each side.

    Raises:
        ValueError: an unknown kind.
    """

    low: Tensor
    high: Tensor
    batches: Tensor

    def __init__(self, kind: str = "average", momentum: float = 0.1, quantile: float = 0.0005):
        super().__init__()
        if kind not in OBSERVERS:
            raise ValueError(f"kind={kind!r} is unknown; choose one of {', '.join(OBSERVERS)}")
        self.kind, self.momentum, self.quantile = kind, momentum, quantile
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(0.0))
        self.register_buffer("batches", torch.tensor(0))

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Take a batch into account."""
        low, high = self._range(x.detach().float())
        if self.batches == 0:
            self.low.copy_(low)
            self.high.copy_(high)
        elif self.kind == "minmax":
            self.low.copy_(torch.minimum(self.low, low))
            self.high.copy_(torch.maximum(self.high, high))
        else:
            # The first batches count alike, as in a plain mean; later ones with the momentum.
            weight = max(self.momentum, 1 / (int(self.batches) + 1))
            self.low.lerp_(low, weight)
            self.high.lerp_(high, weight)
        self.batches += 1

    def _range(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.kind != "percentile":
            low, high = torch.aminmax(x)
            return low, high
        flat = x.flatten()
        last = len(flat) - 1
        place = round(self.quantile * last)  # `torch.quantile` refuses more than 16 million numbers
        return flat.kthvalue(place + 1).values, flat.kthvalue(last - place + 1).values

    def forget(self) -> None:
        """As new: for a calibration on other data."""
        self.low.zero_()
        self.high.zero_()
        self.batches.zero_()
