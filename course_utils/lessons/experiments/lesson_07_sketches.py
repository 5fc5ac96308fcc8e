"""Sketches that only lesson 07 shows: what an odd batch does to observers, which channels hang together, which of them go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from course_utils import compression
from course_utils.lessons.results import Results
from course_utils.plots.style import GREY, PALETTE, numbered, use_style

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


# ---- four channels ---------------------------------------------------------------------------------------------------


class Chain(nn.Module):
    """Two convolutions, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = (
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 3, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.norm(self.first(x))))


class Bypass(nn.Module):
    """The same with a residual block in between: what `first` gives also goes around `inner`, and is added."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.inner, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        return self.second(torch.relu(x + self.inner(x)))


def draw_four_channels(channel: int = 2) -> Figure:
    """What goes along with one of four channels, in a chain and with a residual block: as the dependency graph finds it."""
    use_style()
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    networks = {"a chain": Chain(), "a residual block": Bypass()}
    for axes, (title, network) in zip(figure.subplots(1, 2, width_ratios=(3, 4)), networks.items(), strict=True):
        parts = compression.shared_channels(network, "first", channel, (2, 8, 8))
        start, right = 0.0, dict[str, float]()
        layers: dict[str, Any] = dict(network.named_children())
        for name, layer in layers.items():
            gone = {part.side: part.places for part in parts if part.layer == name}
            wide = 1 if isinstance(layer, nn.BatchNorm2d) else layer.in_channels
            for i, j in np.ndindex(len(layer.weight), wide):
                goes = i in gone.get("outputs", gone.get("channels", ())) or j in gone.get("inputs", ())
                look: dict[str, Any] = {"facecolor": PALETTE[1] if goes else "#D9D9D9", "hatch": "///" if goes else ""}
                axes.add_patch(Rectangle((start + j, 3 - i), 0.92, 0.92, edgecolor="white", **look))
            axes.text(
                start + wide / 2,
                -0.5,
                f"{name}\n{' x '.join(map(str, layer.weight.shape))}",
                ha="center",
                va="top",
                fontsize=9,
            )
            if right:
                axes.annotate("", (start - 0.1, 2), (max(right.values()) + 0.1, 2), arrowprops={"arrowstyle": "->"})
            right[name], start = start + wide, start + wide + 1.3
        if "inner" in right:
            before, behind = right["norm"] + 0.6, right["inner"] + 0.55
            axes.plot([before, before, behind, behind], [2, 4.7, 4.7, 2.3], color=PALETTE[0], linestyle="--")
            axes.plot(behind, 2, "o", markersize=15, color="white", markeredgecolor=PALETTE[0], zorder=3)
            axes.text(behind, 2, "+", ha="center", va="center", color=PALETTE[0], fontsize=13, zorder=4)
        axes.set(xlim=(-0.5, start), ylim=(-2.0, 5.2), title=title)
        axes.set_axis_off()
    figure.suptitle(
        f"Rows are outputs, columns inputs. Hatched: what goes with channel {channel} of “first”, counted from 0"
    )
    return figure


def draw_norms(results: Results) -> Figure:
    """What is left right after a cut, and once it is mended, by what the channels were ranked by; dots are seeds."""
    use_style()
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for axes, key, said in zip(
        figure.subplots(1, 2), ("cut", "mended"), ("right after the cut", "mended"), strict=True
    ):
        for number, label in enumerate(results.labels):
            gone = 100 * np.array(next(iter(results.records[label].values()))["ratios"])
            seeds = results.values(label, key)
            axes.plot(gone, seeds.mean(axis=0), label=label, **numbered(number))
            for values in seeds if len(seeds) > 1 else ():
                axes.plot(gone, values, ".", color=PALETTE[number], markersize=4)
        whole = results.mean(results.labels[0], "whole")
        axes.axhline(whole, color=GREY, linestyle="-.", linewidth=1.2, label="nothing cut")
        axes.set(xlabel="channels that are gone (%)", ylabel="accuracy (%)", title=said)
    figure.axes[0].set_ylim(0, 105)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.suptitle(f"{results.data_title}, {results.preset} run")
    return figure
