"""Figures that compare methods: curves over tasks, sweeps over a setting, bars and training times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from course_utils.plots.style import GREY, PALETTE, by_label, numbered, one_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def accuracy_curves(
    curves: Mapping[str, ArrayLike],
    title: str,
    *,
    floor: str | None = None,
    ceiling: str | None = None,
    ylabel: str = "accuracy on all classes seen (%)",
    xlabel: str = "tasks learned",
) -> Figure:
    """Accuracy after each task, one line per method: mean over seeds, with the seeds' range as a band.

    Args:
        curves: label -> `(seeds, tasks)` or `(tasks,)` shares between 0 and 1.
        title: contains the data's title.
        floor: label of the fine-tuning run, `ceiling`: of the joint run; drawn in grey and black.
        ylabel, xlabel: of the axes.
    """
    figure, axes = one_axes(7, 4)
    styles = by_label(list(curves), floor, ceiling)
    for label, values in curves.items():
        _mean_and_range(axes, None, 100 * _rows(values), styles[label])
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, ylim=(0, 102))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def sweep(
    x: Sequence[float],
    curves: Mapping[str, ArrayLike],
    title: str,
    *,
    xlabel: str,
    ylabel: str = "accuracy on all classes seen (%)",
    floor: float | None = None,
    ceiling: float | None = None,
    chosen: float | None = None,
    log: bool = False,
) -> Figure:
    """Accuracy against a setting such as the memory's size.

    Args:
        x: values of the setting.
        curves: label -> `(seeds, len(x))` or `(len(x),)` shares between 0 and 1.
        title: contains the data's title.
        xlabel: the setting and its unit.
        floor: accuracy of fine-tuning, a share. `ceiling`: of joint training.
        chosen: value of the setting to mark with a vertical line, as a slider does.
        log: logarithmic horizontal axis.
    """
    figure, axes = one_axes(7, 4)
    for index, (label, values) in enumerate(curves.items()):
        rows = 100 * _rows(values)
        _mean_and_range(axes, np.asarray(x, dtype=float), rows, {**numbered(index), "label": label})
    _bounds(axes, floor, ceiling)
    if chosen is not None:
        axes.axvline(chosen, color=GREY, linewidth=1)
    if log:
        axes.set_xscale("log")
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.minorticks_off()
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, ylim=(0, 102))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def bars(
    values: Mapping[str, ArrayLike],
    title: str,
    *,
    floor: str | None = None,
    ceiling: str | None = None,
    xlabel: str = "accuracy on all classes (%)",
    percent: bool = True,
) -> Figure:
    """One bar per method: mean over seeds, every seed as a dot.

    Args:
        values: label -> one value per seed (or a single number).
        title: contains the data's title.
        floor: label of the fine-tuning run, `ceiling`: of the joint run; their means are also drawn across.
        xlabel: what is measured, and its unit.
        percent: values are shares, drawn in per cent. False draws them as they are.
    """
    scale = 100 if percent else 1
    figure, axes = one_axes(7, 0.9 + 0.45 * len(values))
    styles = by_label(list(values), floor, ceiling)
    for row, (label, seeds) in enumerate(values.items()):
        points = scale * np.atleast_1d(np.asarray(seeds, dtype=float))
        style = styles[label]
        axes.barh(row, points.mean(), height=0.65, color=style["color"], alpha=0.7)
        axes.plot(points, np.full(len(points), row), "o", color="black", markeredgecolor="white", markersize=4.5)
        place = (max(points.max(), 0), row)
        # White behind the number: the ceiling's line may pass there.
        behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
        axes.annotate(f"{points.mean():.1f}", place, (6, 0), textcoords="offset points", va="center", bbox=behind)
        if label in (floor, ceiling):
            axes.axvline(points.mean(), color=style["color"], linestyle=style["linestyle"], linewidth=1.2)
    axes.set_yticks(range(len(values)), [styles[label]["label"] for label in values])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel=xlabel, title=title)
    axes.margins(x=0.12)
    return figure


def counts(values: Mapping[str, ArrayLike], title: str, *, xlabel: str, ylabel: str) -> Figure:
    """Whole numbers side by side, one group of bars for each position.

    Args:
        values: label -> `(positions,)` counts.
        title: contains the data's title.
        xlabel, ylabel: with units.
    """
    figure, axes = one_axes(7, 3)
    width = 0.8 / len(values)
    for index, (label, heights) in enumerate(values.items()):
        rows = np.asarray(heights)
        places = np.arange(len(rows)) + (index - (len(values) - 1) / 2) * width
        axes.bar(
            places, rows, width, label=label, color=PALETTE[index % len(PALETTE)], hatch=("", "///", "...")[index % 3]
        )
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside right upper")
    return figure


def training_time(
    seconds: Mapping[str, ArrayLike], title: str, *, floor: str | None = None, ceiling: str | None = None
) -> Figure:
    """Seconds of training per task, one line per method.

    Args:
        seconds: label -> `(seeds, tasks)` or `(tasks,)` seconds.
        title: contains the data's title.
        floor: label of the fine-tuning run, `ceiling`: of the joint run; only for their usual looks.
    """
    figure, axes = one_axes(7, 3.6)
    styles = by_label(list(seconds), floor, ceiling)
    for label, values in seconds.items():
        plain = {**styles[label], "label": label}  # they bound the accuracy, not the time
        _mean_and_range(axes, None, _rows(values), plain)
    axes.set(xlabel="task", ylabel="training time (s)", title=title)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def add_prediction(figure: Figure, share: float | None) -> Figure:
    """Draw a reader's prediction (a share, or None for none) across a figure of accuracies in per cent."""
    if share is not None:
        axes = figure.axes[0]
        axes.axhline(100 * share, color=PALETTE[3], linewidth=1.2)
        axes.annotate(
            "your prediction",
            (0.01, 100 * share),
            (0, 3),
            axes.get_yaxis_transform(),
            "offset points",
            color=PALETTE[3],
        )
    return figure


def _rows(values: ArrayLike) -> np.ndarray:
    """`(seeds, points)`, also when there is one seed only."""
    return np.atleast_2d(np.asarray(values, dtype=float))


def _mean_and_range(axes: Axes, x: np.ndarray | None, rows: np.ndarray, style: dict[str, Any]) -> None:
    """The mean of `rows`, `(seeds, points)`, as a line, and their range as a band. Points count from 1 without `x`."""
    x = np.arange(1, rows.shape[1] + 1) if x is None else x
    if len(x) != rows.shape[1]:
        raise ValueError(f"{style['label']!r} has {rows.shape[1]} points, expected {len(x)}, one per horizontal value")
    axes.plot(x, rows.mean(axis=0), **style)
    if len(rows) > 1:
        axes.fill_between(x, rows.min(axis=0), rows.max(axis=0), color=style["color"], alpha=0.18, linewidth=0)


def _bounds(axes: Axes, floor: float | None, ceiling: float | None) -> None:
    """Horizontal lines at the accuracy of fine-tuning and of joint training (shares)."""
    if floor is not None:
        axes.axhline(100 * floor, color=GREY, linestyle=":", label="fine-tuning (floor)")
    if ceiling is not None:
        axes.axhline(100 * ceiling, color="black", linestyle="--", label="joint (ceiling)")
