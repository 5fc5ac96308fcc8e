"""Affine quantization: real numbers as 8-bit integers, a scale and a zero point. Built in lesson 07, exercises 07.1, 07.2 and 07.4."""

from __future__ import annotations

import torch
from torch import Tensor


def levels(bits: int, signed: bool) -> tuple[int, int]:
    """Smallest and largest integer: `0..2^bits - 1`, or symmetric around 0 for signed ones (-128 is left out).

    Raises:
        ValueError: fewer than 2 bits or more than 8.
    """
    if bits not in range(2, 9):
        raise ValueError(f"bits={bits}; integers of 2 to 8 bits are supported")
    return (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def scale_and_zero_point(low: float, high: float, quant_min: int = 0, quant_max: int = 255) -> tuple[float, int]:
    """Scale and zero point that spread `[low, high]` over the integers `quant_min..quant_max`.

    The range is first widened to hold 0, so that 0 is met exactly: padding, and every ReLU, produces zeros. A range
    of non-negative numbers gets the zero point `quant_min`.

    Args:
        low, high: smallest and largest real number.

    Raises:
        ValueError: `low` above `high`, or a number that is not finite.

    Source: Jacob et al. 2018, section 2.1. Built in lesson 07, exercise 07.2.
    """
    if not (low <= high and abs(low) < float("inf") and abs(high) < float("inf")):
        raise ValueError(f"low={low}, high={high}: give a finite range, smallest number first")
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        return 1.0, quant_min  # nothing but zeros: any scale will do
    scale = (high - low) / (quant_max - quant_min)
    zero_point = round(quant_min - low / scale)
    return scale, min(max(zero_point, quant_min), quant_max)


def quantize(x: Tensor, scale: float, zero_point: int, quant_min: int = 0, quant_max: int = 255) -> Tensor:
    """`round(x / scale) + zero_point`, held within `quant_min..quant_max`: integers of `x`'s shape (int32)."""
    return ((x / scale).round() + zero_point).clamp(quant_min, quant_max).to(torch.int32)


def dequantize(q: Tensor, scale: float, zero_point: int) -> Tensor:
    """`scale * (q - zero_point)`: the real numbers that the integers stand for."""
    return scale * (q - zero_point).float()


def channel_scales(weight: Tensor, bits: int = 8) -> Tensor:
    """One symmetric scale for every output channel, `(out, ...)` -> `(out,)`: its largest magnitude is the last integer.

    Source: Krishnamoorthi 2018. Built in lesson 07, exercise 07.4.
    """
    largest = weight.detach().abs().flatten(1).amax(dim=1)
    return largest.clamp(min=1e-8) / levels(bits, signed=True)[1]
