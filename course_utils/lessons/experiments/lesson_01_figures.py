"""Figures that only lesson 01 draws: two parabolas, two valleys, the classes in every task of a blurred stream."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from course_utils import landscape, plots, streams
from course_utils.plots.style import one_axes


def draw_parabolas(centers: tuple[float, float] = (-1.0, 2.0), curvatures: tuple[float, float] = (1.0, 2.0)) -> Figure:
    """Two tasks over one weight, gradient descent on the first and then on the second, and the joint minimum."""
    w = np.linspace(-3, 4, 200)
    figure, axes = one_axes(7, 3.8)
    weight, path, losses = -2.5, [], []
    for name, a, c, dashes, colour in zip("AB", centers, curvatures, ("-", "--"), plots.PALETTE, strict=False):
        axes.plot(w, c / 2 * (w - a) ** 2, dashes, color=colour, label=f"loss of task {name}")
        for _ in range(12):
            path.append(weight)
            losses.append(c / 2 * (weight - a) ** 2)
            weight -= 0.3 * c * (weight - a)
    axes.plot(path[:12], losses[:12], "o", color=plots.PALETTE[0], label="training on A")
    axes.plot(path[12:], losses[12:], "s", color=plots.PALETTE[1], label="then on B")
    total = sum(c / 2 * (w - a) ** 2 for a, c in zip(centers, curvatures, strict=True))
    axes.plot(w, total, ":", color="black", label="sum of both")
    joint = landscape.joint_minimum(centers, curvatures)
    axes.axvline(joint, color="black", linewidth=1)
    axes.annotate(
        "joint minimum", (joint, 0.97), (-5, 0), ("data", "axes fraction"), "offset points", ha="right", va="top"
    )
    axes.set(xlabel="weight w", ylabel="loss", ylim=(-0.3, 12), title="One weight, two tasks")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def draw_valleys(angle: float = 70, steps: int = 40, lr: float = 0.3, narrowness: float = 10) -> Figure:
    """Train on task A, then on task B, over two weights; the figure behind the sliders.

    Args:
        angle: between the two valleys, in degrees.
        steps: of gradient descent on task B.
        lr: learning rate.
        narrowness: how many times steeper a valley is across than along; 1 is a round bowl.
    """
    task_a = landscape.valley((-1.0, -0.5), 0, flat=1 / narrowness)
    task_b = landscape.valley((1.2, 1.0), angle, flat=1 / narrowness)
    first = landscape.descend(task_a, (-2.5, 1.6), lr, 60)
    second = landscape.descend(task_b, first[-1], lr, steps)
    joint = landscape.meeting_point([task_a, task_b])
    x, y = np.linspace(-3, 3, 121), np.linspace(-2, 2.4, 89)
    grid = np.stack(np.meshgrid(x, y), axis=-1)  # (rows, columns, 2)
    end = second[-1]
    return plots.landscape(
        x, y, task_a.loss(grid), task_b.loss(grid),
        f"loss A + loss B: fine-tuning {task_a.loss(end):.2f} + {task_b.loss(end):.2f}, "
        f"joint {task_a.loss(joint):.2f} + {task_b.loss(joint):.2f}",
        paths={"training on A": first, "then on B": second},
        minima={"A": task_a.centre.tolist(), "B": task_b.centre.tolist(), "joint": joint.tolist()},
        labels=("first weight", "second weight"),
    )  # fmt: skip


def draw_class_counts(stream: streams.TaskStream) -> Figure:
    """How many training images of every class each task of a stream holds."""
    counts = np.array([np.bincount(task.train.y.numpy(), minlength=stream.num_outputs) for task in stream])
    figure, axes = one_axes(7, 3)
    image = axes.imshow(counts, cmap="cividis", vmin=0, aspect="auto")
    for row, column in np.argwhere(counts > 0):
        bright = counts[row, column] > 0.55 * counts.max()
        axes.text(
            column, row, counts[row, column], ha="center", va="center", color="black" if bright else "white", fontsize=8
        )
    axes.set_xticks(range(stream.num_outputs), stream.class_names, rotation=30, ha="right")
    axes.set_yticks(range(len(stream)), [str(task.index + 1) for task in stream])
    axes.set(xlabel="class", ylabel="task", title=stream.title)
    axes.grid(False)
    figure.colorbar(image, ax=axes, label="training images")
    return figure
