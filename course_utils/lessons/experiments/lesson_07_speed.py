"""Figures and tables of lesson 07 about time: what MACs promise, where it goes, and what an optimizer chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from course_utils import compression
from course_utils.lessons import display
from course_utils.lessons.results import Results, mean_and_spread
from course_utils.plots.style import GREY, MARKERS, PALETTE, use_style

HATCHES = ("", "///", "...", "xx")


def draw_macs(results: Results) -> Figure:
    """Times faster as the MACs promise, and as measured, by share of channels that are gone."""
    (label,) = results.labels
    ratios = next(iter(results.records[label].values()))["ratios"]

    def mean(name: str, key: str) -> float:
        return results.mean(label, lambda record: record["rows"][name][key])

    def call(batch: str) -> float:
        return results.mean(label, lambda record: record["call"][batch])

    use_style()
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    for axes, batch in zip(figure.subplots(1, 2, sharey=True), ("one image", "32 images"), strict=True):
        promised = [mean(f"fp32 {ratio:.0%}", "promised") for ratio in ratios]
        axes.plot([100 * r for r in ratios], promised, color=GREY, linestyle=":", marker="x", label="MACs promise")
        for number, kind in enumerate(("fp32", "int8")):
            measured = [mean(f"{kind} {ratio:.0%}", batch) for ratio in ratios]
            axes.plot([100 * r for r in ratios], measured, color=PALETTE[number], marker=MARKERS[number], linestyle=("-", "--")[number], label=f"{kind}, measured")  # fmt: skip
        axes.axhline(
            1 / call(batch),
            color=GREY,
            linewidth=1,
            label="one dense layer instead of all",
        )
        axes.set(xlabel="channels that are gone (%)", title=batch, yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    figure.axes[0].set_ylabel("times as fast")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(f"Times as fast as the whole network in fp32: untrained networks, {results.data_title}")
    return figure


def show_layers(results: Results, macs: Callable[..., int]) -> None:
    """Every convolution's shape, its MACs by the given function, and with half of the channels."""
    (label,) = results.labels
    rows = []
    for layer in next(iter(results.records[label].values()))["layers"]:
        given = {name: value for name, value in layer.items() if name != "name"}
        inputs = max(1, layer["in_channels"] // 2)
        half = {**given, "in_channels": inputs, "out_channels": layer["out_channels"] // 2}
        shape = f"{layer['in_channels']} -> {layer['out_channels']}, {layer['size']} x {layer['size']} pixels"
        rows.append(
            [layer["name"], shape, f"{macs(**given):,}", f"{macs(**half):,}", f"{macs(**given) / macs(**half):.1f}"]
        )
    display.table(["layer", "", "MACs", "half of the channels", "times fewer"], rows, results.data_title)


def draw_work(results: Results) -> Figure:
    """What the time of one image goes into, by version, as a share of the whole network's time in fp32; means over seeds."""
    (label,) = results.labels
    records = list(results.records[label].values())
    ratios = [ratio for ratio in records[0]["ratios"] if ratio not in (0.25, 0.75)]
    names = [f"{kind} {ratio:.0%}" for ratio in ratios for kind in ("fp32", "int8")]
    shares = {}
    for kind in compression.KINDS_OF_WORK:
        found = [[r["work"][name][kind] / sum(r["work"]["fp32 0%"].values()) for name in names] for r in records]
        shares[kind] = 100 * np.mean(found, axis=0)
    figure, (left, right) = _two_panels(len(names))
    total = sum(shares.values())
    for axes, scale in ((left, 1.0), (right, 100 / total)):
        start = np.zeros(len(names))
        for number, (kind, values) in enumerate(shares.items()):
            look = {"color": PALETTE[number], "alpha": 0.8, "hatch": HATCHES[number], "edgecolor": "white"}
            axes.barh(range(len(names)), values * scale, 0.7, left=start, label=kind, **look)
            start = start + values * scale
    for place, value in enumerate(total):
        left.annotate(f"{value:.0f}", (value, place), (4, 0), textcoords="offset points", va="center")
    left.set_yticks(range(len(names)), [f"{name.partition(' ')[0]}, {name.partition(' ')[2]} gone" for name in names])
    left.set(xlabel="time of one image (% of the whole network's)", xlim=(0, 1.12 * max(total)))
    right.set(xlabel="its parts (%)", xlim=(0, 100))
    left.invert_yaxis()
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(f"Where the time goes: {results.data_title}")
    return figure


def _two_panels(rows: int) -> tuple[Figure, Any]:
    use_style()
    figure = Figure(figsize=(10, 1.6 + 0.3 * rows), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes in panels:
        axes.grid(axis="y", visible=False)
    return figure, panels


# ---- chosen by itself ------------------------------------------------------------------------------------------------


def show_choices(results: Results) -> None:
    """What integers alone did for two networks, and what the optimizer chose: a table for each side, yours and the recorded."""
    for side, records in results.sides.items():
        rows = []
        for label, runs in records.items():
            found = list(runs.values())
            faster = [r["candidates"]["fp32"]["latency_ms"] / r["candidates"]["int8"]["latency_ms"] for r in found]
            best = [r["kinds"]["best"] for r in found]
            names = "; ".join(dict.fromkeys(one["name"] for one in best))
            numbers = [mean_and_spread([one[key] for one in best]) for key in ("size_ratio", "speedup")]
            lost = [
                100 * (one["accuracy"] - r["kinds"]["baseline"]["accuracy"]) for one, r in zip(best, found, strict=True)
            ]
            rows.append([label, mean_and_spread(faster), names, *numbers, mean_and_spread(lost)])
        header = [
            "",
            "int8, nothing else:\ntimes as fast",
            "chosen",
            "times smaller",
            "times as fast",
            "points against fp32",
        ]
        note = results.note() if side == list(results.sides)[-1] else ""
        display.table(header, rows, note or f"{side.capitalize()}.")
