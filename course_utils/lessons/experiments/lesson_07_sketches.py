"""What one odd batch does to observers: a figure that only lesson 07 shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from course_utils import compression
from course_utils.plots.style import GREY, PALETTE, use_style

Range = tuple[float, float]


# ---- an observer -----------------------------------------------------------------------------------------------------


def error_of(x: Tensor, low: float, high: float) -> float:
    """The root mean square error of `x` in 8 bits with this range."""
    scale, zero_point = compression.scale_and_zero_point(low, high)
    back = compression.dequantize(compression.quantize(x, scale, zero_point), scale, zero_point)
    return float((back - x).square().mean().sqrt())


def smallest_and_largest(batches: Iterable[Tensor]) -> Range:
    """The range of everything ever seen."""
    ends = [(x.min().item(), x.max().item()) for x in batches]
    return min(low for low, _ in ends), max(high for _, high in ends)


def draw_outlier(batches: Sequence[Tensor], observe: Callable[[Sequence[Tensor]], Range], odd: int = 4) -> Figure:
    """Left the range of each batch and of two observers as they go on; right what the rounding of the other batches costs."""
    use_style()
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    places = range(1, len(batches) + 1)
    for place, x in zip(places, batches, strict=True):
        low, high = x.min().item(), x.max().item()
        left.bar(place, high - low, 0.6, low, color=PALETTE[3] if place == odd + 1 else GREY, alpha=0.6)
    kinds = {"smallest and largest ever": smallest_and_largest, "moving average": observe}
    ordinary = [x for number, x in enumerate(batches) if number != odd]
    costs = {}
    for number, (label, rule) in enumerate(kinds.items()):
        seen = np.array([rule(batches[:place]) for place in places])
        dashes, color = ("--", "-")[number], PALETTE[number]
        left.plot(places, seen[:, 1], dashes, color=color, marker="so"[number], markersize=4, label=label)
        left.plot(places, seen[:, 0], dashes, color=color, marker="so"[number], markersize=4)
        costs[label] = np.mean([error_of(x, *seen[-1]) for x in ordinary])
    costs["moving average,\nwithout the odd batch"] = np.mean([error_of(x, *observe(ordinary)) for x in ordinary])
    left.set(xlabel="batch", ylabel="activation", title="ranges: bars of batches, lines of observers", xticks=places)
    left.legend(loc="upper left")
    for number, cost in enumerate(costs.values()):
        right.barh(number, cost, 0.6, color=[*PALETTE[:2], GREY][number], alpha=0.8)
        right.annotate(f"{cost:.4f}", (cost, number), (4, 0), textcoords="offset points", va="center")
    right.set_yticks(range(len(costs)), list(costs))
    right.invert_yaxis()
    right.grid(axis="y", visible=False)
    right.set(xlabel="root mean square error of an activation", title="the other batches, in 8 bits")
    right.margins(x=0.25)
    return figure
