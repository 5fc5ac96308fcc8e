"""Figures and tables that only lesson 03 shows: a protected valley, five Fishers, one table for three scenarios."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from course_utils import landscape, plots
from course_utils.lessons import display
from course_utils.lessons.experiments import lesson_03 as lesson
from course_utils.lessons.results import Results
from course_utils.plots.style import GREY, use_style

PENALTIES = ("EWC", "L2")


def draw_protection(penalty: str = "EWC", strength: float = 1.0, angle: float = 0) -> Figure:
    """Train on task B from A's minimum, held by a penalty; the figure behind the sliders.

    Args:
        penalty: "EWC" (importance = the diagonal of A's curvature) or "L2" (1 for both weights).
        strength: lambda.
        angle: of A's valley, in degrees from the first weight's axis.
    """
    task_a, task_b = landscape.valley((-1.2, -0.6), angle), landscape.valley((1.2, 1.0), 70)
    importance = np.diag(task_a.hessian) if penalty == "EWC" else np.ones(2)
    pull = strength * importance
    lr = 0.9 / (1 + pull.max())  # the steepest direction of B has curvature 1: no step overshoots
    points = [task_a.centre]
    for _ in range(round(40 / lr)):
        points.append(points[-1] - lr * (task_b.gradient(points[-1]) + pull * (points[-1] - task_a.centre)))
    x, y = np.linspace(-3, 3, 121), np.linspace(-2, 2.4, 89)
    grid = np.stack(np.meshgrid(x, y), axis=-1)  # (rows, columns, 2)
    end, joint = points[-1], landscape.meeting_point([task_a, task_b])
    figure = plots.landscape(
        x, y, task_a.loss(grid), task_b.loss(grid),
        f"loss A + loss B: {penalty} {task_a.loss(end):.2f} + {task_b.loss(end):.2f}, "
        f"joint {task_a.loss(joint):.2f} + {task_b.loss(joint):.2f}",
        paths={f"training on B with {penalty}": np.array(points)},
        minima={"A": task_a.centre.tolist(), "B": task_b.centre.tolist(), "joint": joint.tolist()},
        labels=("first weight", "second weight"),
    )  # fmt: skip
    cost = 0.5 * (importance * (grid - task_a.centre) ** 2).sum(axis=-1)
    figure.axes[0].contour(x, y, cost, levels=[0.05, 0.2, 0.6], colors="black", linewidths=1.2, linestyles=":")
    return figure


def draw_estimates(results: Results) -> Figure:
    """Every weight's estimate against its exact Fisher value, one panel per estimator; seed 0, 200 weights."""
    estimates = results.records["estimates"][0]["estimates"]
    exact = np.array(estimates["exact"]["shown"])
    use_style()
    figure = Figure(figsize=(8, 6), layout="constrained")
    names = [name for name in estimates if name != "exact"]
    for index, name in enumerate(names):
        axes = figure.add_subplot(2, 2, index + 1)
        values = np.array(estimates[name]["shown"])
        seen = (exact > 0) & (values > 0)
        axes.loglog(exact[seen], values[seen], plots.MARKERS[index], color=plots.PALETTE[index], alpha=0.6)
        ends = np.array([exact[seen].min(), exact[seen].max()])
        axes.plot(ends, ends, "--", color=GREY, label="equal")
        axes.set(title=name, xlabel="exact Fisher of a weight", ylabel="estimate")
        axes.legend(loc="upper left")
    figure.suptitle(f"{results.data_title}: 200 weights, one seed")
    return figure


def show_estimates(results: Results) -> None:
    """Rank correlation with the exact diagonal and relative size of every estimate; your run beside the full run."""
    rows = []
    for name in next(iter(results.records["estimates"].values()))["estimates"]:
        row = [name]
        for key, digits in (("rank", 2), ("magnitude", 3)):
            for records in results.sides.values():
                found = [record["estimates"][name][key] for record in records["estimates"].values()]
                row.append(f"{np.mean(found):.{digits}f}" if np.mean(found) < 100 else f"{np.mean(found):,.0f}")
        rows.append(row)
    header = ["", *(f"{name}\n{side}" for name in ("rank correlation", "sum, exact = 1") for side in results.sides)]
    display.table(header, rows, f"Against the exact diagonal, over weights that are not dead. {results.note()}")


def show_methods(results: Results, key: str, caption: str) -> None:
    """One row per method, one column per scenario, for one entry of the records; your run beside the full run."""
    names = list(dict.fromkeys(label.split(", ", 1)[1] for label in results.labels))
    rows = []
    for name in names:
        row = [name]
        for scenario in lesson.SCENARIOS:
            for records in results.sides.values():
                values = np.array([record[key] for record in records.get(f"{scenario}, {name}", {}).values()])
                spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
                row.append(f"{values.mean():.1f}{spread}" if len(values) else "-")
        rows.append(row)
    header = ["", *(f"{scenario}\n{side}" for scenario in lesson.SCENARIOS for side in results.sides)]
    display.table(header, rows, f"{caption} {results.note()}")


def show_choice(results: Results, scenario: str, method: str) -> None:
    """Validation accuracy for every lambda, the chosen one marked; your run beside the full run."""
    rows = []
    for strength in lesson.GRIDS[method]:
        row = [f"{strength:g}"]
        for records in results.sides.values():
            values = [record["validation"] for record in records[f"{scenario}, {method}, {strength:g}"].values()]
            mark = "  chosen" if lesson.chosen(records, scenario, method) == strength else ""
            row.append(f"{np.mean(values):.1f}{mark}")
        rows.append(row)
    caption = f"{method}, {scenario}-incremental: accuracy on validation images of tasks 1 and 2, after task 2 (%)."
    display.table(["lambda", *results.sides], rows, f"{caption} {results.note()}")


def draw_sweep(sweep: Results, methods: Results, asked: str = "class") -> Figure:
    """EWC with every lambda: all tasks, the old ones, the last one; with floor and ceiling of the scenario."""
    strengths = [float(label.split(", ")[1]) for label in sweep.labels if label.startswith(f"{asked}, ")]

    def curve(key: str) -> np.ndarray:  # (seeds, lambdas), shares
        return np.array([sweep.values(f"{asked}, {strength:g}", key) for strength in strengths]).T / 100

    floor, ceiling = (methods.mean(f"{asked}, {name}", "acc") / 100 for name in ("fine-tuning", "joint"))
    figure = plots.sweep(
        strengths, {"all five tasks": curve("acc"), "tasks 1 to 4": curve("old"), "task 5": curve("new")},
        f"{sweep.data_title}, {asked}-incremental EWC", xlabel="lambda",
        ylabel="accuracy on test images after task 5 (%)", floor=floor, ceiling=ceiling, log=True,
    )  # fmt: skip
    figure.axes[0].set_ylim(-3, 103)
    return figure


def draw_matrix(results: Results, scenario: str, strength: float) -> Figure:
    """Accuracy matrix of EWC with one lambda, the mean over seeds of recorded runs."""
    mean = results.accuracy(f"{scenario}, {strength:g}").mean(axis=0)
    return plots.accuracy_heatmap(mean, f"{results.data_title}, {scenario}-incremental EWC, lambda {strength:g}")


def draw_owned(results: Results, scenario: str = "task") -> Figure:
    """Share of the hidden layers' weights that every task owns after the last one."""
    owned = results.values(f"{scenario}, PackNet", "owned").mean(axis=0)
    shares = owned / owned.sum()
    labelled = {f"task {task}": share for task, share in enumerate(shares[1:], start=1)} | {"free": shares[0]}
    return plots.bars(labelled, f"PackNet, {results.data_title}", xlabel="share of the hidden layers' parameters (%)")
