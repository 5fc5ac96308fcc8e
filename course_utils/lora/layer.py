"""One layer with adapters: a frozen dense or convolutional layer, and a low-rank update beside it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def full_rank(layer: nn.Linear | nn.Conv2d) -> int:
    """The largest rank that an update of this layer can have: the smaller side of its `(out, in * kernel)` matrix."""
    return min(len(layer.weight), layer.weight[0].numel())


def adapter_cost(layer: nn.Linear | nn.Conv2d) -> int:
    """Parameters that an adapter has for every unit of rank: `out + in * kernel`."""
    return len(layer.weight) + layer.weight[0].numel()


def is_plain(layer: nn.Conv2d) -> bool:
    """Whether this convolution can be adapted: without groups, and padded with zeros."""
    return layer.groups == 1 and layer.padding_mode == "zeros"


class LoRALayer(nn.Module):
    """`base(x) + scale * B(A(x))`, where only A and B of the adapter in use learn. Built in lesson 04.

    For a dense layer A is `(rank, in)` and B `(out, rank)`. For a convolution A is `(rank, in, height, width)`, a
    convolution to `rank` channels with the base's stride, padding and dilation, and B is `(out, rank, 1, 1)`, one of 1x1.
    Either way the update of the weight is `scale * B A`, a matrix `(out, in * height * width)` of at most this rank.

    The base is never written to by training, merging and unmerging: a merged layer keeps `W + scale * B A` as a second
    weight and computes with that one. So unmerging restores every bit.

    Attributes:
        base: the layer that was there before; it takes no gradient.
        lora_A, lora_B: name of the adapter -> its factors.
        scale: name -> `alpha / rank`, or `alpha / sqrt(rank)`.
        active: name of the adapter in use, or None for the base alone.
        merged_weight: None, or the weight with the active update in it.
        apart: let `state_dict` hold the base alone, under the names that it had without adapters.

    Raises:
        ValueError: a convolution with groups or with padding other than zeros.

    Source: Hu et al. 2022, "LoRA: Low-rank adaptation of large language models", eq. 3.
    """

    merged_weight: Tensor | None

    def __init__(self, base: nn.Linear | nn.Conv2d):
        super().__init__()
        if isinstance(base, nn.Conv2d) and not is_plain(base):
            raise ValueError(
                f"a convolution with groups={base.groups} and padding_mode={base.padding_mode!r} cannot be adapted; "
                "only groups=1 and zero padding are, so leave it out of the patterns"
            )
        self.base = base.requires_grad_(False)
        self.lora_A, self.lora_B = nn.ParameterDict(), nn.ParameterDict()
        self.scale: dict[str, float] = {}
        self.active: str | None = None
        self.apart = False
        self.register_buffer("merged_weight", None, persistent=False)

    def rank(self, name: str) -> int:
        return len(self.lora_A[name])

    def add(self, name: str, rank: int, scale: float, generator: torch.Generator) -> None:
        """A new adapter that changes nothing yet, and use it. A is drawn on the CPU: the same on every device."""
        if not 1 <= rank <= full_rank(self.base):
            raise ValueError(f"rank={rank} is impossible: this layer allows 1 to {full_rank(self.base)}")
        weight = self.base.weight
        ones = (1,) * (weight.dim() - 2)
        self.lora_A[name] = nn.Parameter(weight.new_empty(rank, *weight.shape[1:]))
        self.lora_B[name] = nn.Parameter(weight.new_zeros(len(weight), rank, *ones))
        self.scale[name] = scale
        self.reset(name, generator)
        self.use(name)

    @torch.no_grad()
    def reset(self, name: str, generator: torch.Generator) -> None:
        """As new: A from Kaiming's uniform distribution with a = sqrt(5), which is U(-b, b), b = 1 / sqrt(in * kernel); B zero."""
        self.unmerge()
        bound = math.sqrt(6 / ((1 + 5) * self.base.weight[0].numel()))
        self.lora_A[name].copy_(torch.empty(self.lora_A[name].shape).uniform_(-bound, bound, generator=generator))
        self.lora_B[name].zero_()

    def use(self, name: str | None) -> None:
        """Answer with this adapter (None, or one that this layer lacks: with the base alone). Only it takes gradients."""
        self.unmerge()
        self.active = name if name in self.scale else None
        for other in self.scale:
            for factor in (self.lora_A[other], self.lora_B[other]):
                factor.requires_grad_(other == self.active)

    def forward(self, x: Tensor) -> Tensor:
        if self.merged_weight is not None:
            return self._compute(x, self.merged_weight, self.base.bias)
        out = self.base(x)
        if self.active is None:
            return out
        low = self._compute(x, self.lora_A[self.active])  # (batch, ..., rank), or (batch, rank, height, width)
        up = F.conv2d if isinstance(self.base, nn.Conv2d) else F.linear
        return out + up(self.scale[self.active] * low, self.lora_B[self.active])  # scaled where it is small

    def _compute(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if isinstance(self.base, nn.Conv2d):
            return F.conv2d(x, weight, bias, self.base.stride, self.base.padding, self.base.dilation)
        return F.linear(x, weight, bias)

    def update(self, name: str) -> Tensor:
        """What an adapter adds to the weight: `scale * B A` in the weight's shape."""
        matrix = self.lora_B[name].flatten(1) @ self.lora_A[name].flatten(1)  # (out, in * kernel)
        return self.scale[name] * matrix.view(self.base.weight.shape)

    @torch.no_grad()
    def weight_with_update(self) -> Tensor:
        """`W + scale * B A` for the adapter in use.

        Raises:
            FloatingPointError: the adapter holds NaN or inf.
        """
        weight = self.base.weight.detach().clone()  # in the base's memory format: another one rounds differently
        if self.active is None:
            return weight
        weight += self.update(self.active)
        if not weight.isfinite().all():
            raise FloatingPointError(f"adapter {self.active!r} holds NaN or inf")
        return weight

    def merge(self) -> None:
        """Compute with one weight from now on: as fast as the base. Merging again changes nothing."""
        if self.merged_weight is None and self.active is not None:
            self.merged_weight = self.weight_with_update()

    def unmerge(self) -> None:
        """Compute with base and adapter apart again. Unmerging again changes nothing."""
        self.merged_weight = None

    @torch.no_grad()
    def absorb(self) -> None:
        """Write the update in use into the base for good, and let its adapter start again from B = 0."""
        if self.active is not None:
            self.base.weight.copy_(self.weight_with_update())
            self.unmerge()
            self.lora_B[self.active].zero_()

    def state_dict(self, *args: Any, **options: Any) -> Any:
        """Base and adapters; of a layer with `apart`, the base under the names that it had before."""
        return self.base.state_dict(*args, **options) if self.apart else super().state_dict(*args, **options)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        self.unmerge()  # what was merged is not what is loaded
        super()._load_from_state_dict(*args, **options)

    def extra_repr(self) -> str:
        adapters = ", ".join(f"{name}: rank {self.rank(name)}" for name in self.scale)
        return (
            f"{adapters or 'no adapter'}; in use: {self.active}{', merged' if self.merged_weight is not None else ''}"
        )
