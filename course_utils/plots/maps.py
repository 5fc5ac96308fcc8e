"""Figures with two axes of equal standing: matrices, pictures and loss landscapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from course_utils.plots.style import PALETTE, numbered, one_axes


def accuracy_heatmap(R: ArrayLike, title: str, task_names: Sequence[str] | None = None) -> Figure:
    """The accuracy matrix as a heat map with its numbers.

    Args:
        R: `(tasks, tasks)`, R[i, j] is the accuracy on task j after learning task i; NaN (not measured) stays empty.
        title: contains the data's title.
        task_names: by default 1, 2, ...
    """
    matrix = np.asarray(R, dtype=float)
    tasks = len(matrix)
    if matrix.shape != (tasks, tasks):
        raise ValueError(f"an accuracy matrix is square, got shape {matrix.shape}; for several seeds, pass their mean")
    figure, axes = one_axes(1.6 + 0.75 * tasks, 1.4 + 0.6 * tasks)
    image = axes.imshow(100 * matrix, cmap="cividis", vmin=0, vmax=100)
    for row, column in np.argwhere(~np.isnan(matrix)):
        value = 100 * matrix[row, column]
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", color="black" if value > 55 else "white")
    names = task_names or [str(task + 1) for task in range(tasks)]
    axes.set_xticks(range(tasks), names)
    axes.set_yticks(range(tasks), names)
    axes.set(xlabel="tested on task", ylabel="after learning task", title=title)
    axes.grid(False)
    figure.colorbar(image, ax=axes, label="accuracy (%)", shrink=0.85)
    return figure


def confusion_matrix(
    counts: ArrayLike,
    title: str,
    class_names: Sequence[str] | None = None,
    boundaries: Sequence[float] = (),
) -> Figure:
    """Which class is taken for which, in per cent of each true class.

    Args:
        counts: `(classes, classes)`, counts[i, j] test images of class i were called j. Rows without images stay empty.
        title: contains the data's title.
        class_names: written beside the rows when there are at most 20.
        boundaries: index of the first class of each later task; drawn as lines, so that
            a preference for the last task shows as a filled block.
    """
    table = np.asarray(counts, dtype=float)
    size = len(table)
    if table.shape != (size, size):
        raise ValueError(f"a confusion matrix is square, got shape {table.shape}")
    totals = table.sum(axis=1, keepdims=True)
    shares = np.divide(100 * table, totals, out=np.full_like(table, np.nan), where=totals > 0)
    figure, axes = one_axes(6, 5)
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=100, interpolation="nearest")
    for first in boundaries:
        axes.axhline(first - 0.5, color="white", linewidth=1)
        axes.axvline(first - 0.5, color="white", linewidth=1)
    if class_names is not None and size <= 20:
        axes.set_yticks(range(size), list(class_names))
        axes.set_xticks(range(size), list(class_names), rotation=90)
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    axes.grid(False)
    figure.colorbar(image, ax=axes, label="share of the true class (%)", shrink=0.85)
    return figure


def contact_sheet(sheet: ArrayLike, title: str) -> Figure:
    """A picture of many images, as `datasets.contact_sheet` makes it: uint8 `(height, width, 3)`."""
    picture = np.asarray(sheet)
    height, width = picture.shape[:2]
    figure, axes = one_axes(7, 7 * height / width + 0.4)
    axes.imshow(picture, interpolation="nearest")
    axes.set_title(title)
    axes.axis("off")
    return figure


def landscape(
    x: ArrayLike,
    y: ArrayLike,
    loss_a: ArrayLike,
    loss_b: ArrayLike,
    title: str,
    *,
    paths: Mapping[str, ArrayLike] | None = None,
    minima: Mapping[str, Sequence[float]] | None = None,
    labels: tuple[str, str] = ("first parameter", "second parameter"),
    names: tuple[str, str] = ("task A", "task B"),
) -> Figure:
    """The losses of two tasks over the same two parameters, and the way that training took.

    Args:
        x: `(columns,)` values of the first parameter. `y`: `(rows,)` of the second.
        loss_a: `(rows, columns)` loss of the first task, drawn as areas. `loss_b`: of the second, drawn as lines.
        title: what is shown.
        paths: label -> `(steps, 2)` points that training passed.
        minima: label -> the point `(x, y)` of a minimum.
        labels: of the two axes. `names`: of the two tasks.
    """
    figure, axes = one_axes(6.5, 4.6)
    filled = axes.contourf(x, y, np.asarray(loss_a), levels=14, cmap="Blues_r", alpha=0.8)
    lines = axes.contour(x, y, np.asarray(loss_b), levels=10, colors=PALETTE[1], linewidths=1)
    axes.clabel(lines, fontsize=7)
    figure.colorbar(filled, ax=axes, label=f"loss of {names[0]} (areas); {names[1]}: lines")
    for index, (label, path) in enumerate((paths or {}).items()):
        points = np.asarray(path, dtype=float)
        style = {**numbered(index + 2), "markevery": max(1, len(points) // 12)}
        axes.plot(points[:, 0], points[:, 1], label=label, **style)
    for label, point in (minima or {}).items():
        axes.plot(*point, "*", color="white", markeredgecolor="black", markersize=14)
        axes.annotate(label, (point[0], point[1]), (7, 7), textcoords="offset points", fontsize=9)
    if paths:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.14), ncols=2)
    axes.set(xlabel=labels[0], ylabel=labels[1], title=title)
    axes.grid(False)
    return figure
