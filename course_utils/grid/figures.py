"""Figures of a run: one panel a measure, mean over repeats with its 95 % interval, over the tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_utils.plots.style import DASHES, PALETTE, png, use_style

# Panels of each figure: title with unit -> the measures drawn in it, each with its label.
PANELS: dict[str, dict[str, dict[str, str]]] = {
    "cl": {
        "Accuracy on the current task, %": {
            "own": "learner",
            "expert": "expert (fresh network)",
            "train_accuracy": "learner, training images",
        },
        "Accuracy on other tasks, %": {"past": "earlier tasks", "zero_shot": "tasks to come"},
        "Change since trained, mean over earlier tasks, %": {"remembering": "remembering"},
        "Transfer, (learner - expert) / (learner + expert), %": {"transfer": "transfer"},
    },
    "plasticity": {
        "Dormant units, %": {"dormant_fraction": "dormant, tau 0", "dormant_fraction_0.1": "dormant, tau 0.1"},
        "Active entries, %": {"active_fraction": "active"},
        "Rank of the representations": {
            "effective_rank": "effective rank",
            "stable_rank": "stable rank",
            "srank_99": "srank_99",
        },
        "Norm of the representations": {"feature_norm": "feature norm"},
        "Norm of the weights": {"weight_norm": "weight norm"},
        "RMS change of the weights": {"task_drift": "in this task", "total_drift": "since the first task"},
    },
    "geometry": {
        "Capacity, classes per feature": {"own_capacity": "each class in a crowd", "capacity": "the two together"},
        "Radius, relative to the centre": {"own_radius": "each class in a crowd", "radius": "the two together"},
        "Dimension": {"own_dimension": "each class in a crowd", "dimension": "the two together"},
        "Alignment of the two classes, |cosine|": {
            "centre_alignment": "centres",
            "axis_alignment": "axes",
            "centre_axis_alignment": "centres with axes",
        },
        "Repeats with dead representations, %": {"dead": "dead"},
    },
}


def draw(name: str, table: Mapping[str, Any], title: str = "") -> Figure:
    """The figure of an analysis: "cl", "plasticity" or "geometry", for the table that it returns."""
    use_style()
    panels = {
        heading: {key: label for key, label in lines.items() if key in table} for heading, lines in PANELS[name].items()
    }
    panels = {heading: lines for heading, lines in panels.items() if lines}
    columns = 2 if len(panels) < 5 else 3
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (heading, lines) in zip(grid.flat, panels.items(), strict=False):
        _panel(axes, heading, lines, table)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    if name == "cl":
        for axes in list(grid.flat)[:2]:
            axes.axhline(50, color="#595959", linewidth=1, linestyle=":")
            axes.annotate(
                "chance", (1, 50), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="#595959"
            )
    figure.suptitle(title)
    return figure


def _panel(axes: Axes, heading: str, lines: Mapping[str, str], table: Mapping[str, Any]) -> None:
    scale = 100 if "%" in heading else 1
    for place, (key, label) in enumerate(lines.items()):
        measure = {part: scale * np.asarray(table[key][part], dtype=float) for part in ("mean", "low", "high")}
        tasks = np.asarray(table["task"]) + 1
        axes.plot(tasks, measure["mean"], color=PALETTE[place], linestyle=DASHES[place], label=label)
        axes.fill_between(tasks, measure["low"], measure["high"], color=PALETTE[place], alpha=0.15, linewidth=0)
    axes.set_title(heading, fontsize=10)
    axes.set_xlabel("task")
    if len(lines) > 1:
        axes.legend(fontsize=8)


def picture(name: str, table: Mapping[str, Any], title: str = "") -> bytes:
    """`draw` as a PNG file."""
    return png(draw(name, table, title))
