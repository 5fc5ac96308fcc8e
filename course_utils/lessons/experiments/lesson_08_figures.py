"""Figures and tables that only lesson 08 shows: repeats as dots, curves with intervals, one moment of a long stream."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from course_utils import plots
from course_utils.grid import convolution, transfer
from course_utils.lessons import display, storage
from course_utils.lessons.results import Results
from course_utils.plots.style import GREY, numbered, one_axes, use_style

Array = NDArray[np.float64]
EXPERT = {"color": "black", "linestyle": "--", "marker": "*", "label": "expert (fresh network)"}
NAMES = {
    "train_accuracy": "accuracy on its training images (%)",
    "dormant_fraction": "dormant units (%)",
    "effective_rank": "effective rank",
    "weight_rms": "RMS of the weights",
    "task_drift": "RMS change of the weights in a task",
    "capacity": "capacity (classes per feature)",
    "radius": "radius (relative to the centre)",
    "dimension": "dimension",
}


def series(record: Mapping[str, Any], name: str) -> Array:
    """A measure of a record, (bins, repeats)."""
    return np.array(record["measures"][name], dtype=float)


def bins(record: Mapping[str, Any]) -> list[str]:
    """The tasks of each bin: "3" or "11 to 20"."""
    ends = zip(record["first"], record["last"], strict=True)
    return [f"{first}" if first == last else f"{first} to {last}" for first, last in ends]


def middles(record: Mapping[str, Any]) -> Array:
    """Where each bin stands on an axis of tasks."""
    return (np.array(record["first"], dtype=float) + np.array(record["last"])) / 2


def per_repeat(record: Mapping[str, Any], name: str, which: slice = slice(None)) -> Array:
    """A measure averaged over (some) bins within each repeat, (R,); bins without a number are left out."""
    return transfer.mean_known(series(record, name)[which], axis=0)


# ---- one program, many repeats ---------------------------------------------------------------------------------------


def draw_losses(losses: ArrayLike, title: str) -> Figure:
    """Training loss of every repeat (R, steps), smoothed over ten steps, and their mean."""
    curves = np.asarray(losses, dtype=float)
    width = min(10, curves.shape[1])
    smooth = np.array([np.convolve(curve, np.ones(width) / width, mode="valid") for curve in curves])
    steps = np.arange(width, curves.shape[1] + 1)
    figure, axes = one_axes(6, 3)
    axes.plot(steps, smooth.T, color="#9CC9E5", linewidth=0.7)
    axes.plot(steps, smooth.mean(axis=0), color="black", linewidth=2.2, label=f"mean of {len(curves)} repeats")
    axes.axhline(np.log(2), color=GREY, linestyle=":", label="guessing, log 2")
    axes.set(xlabel="step", ylabel=f"training loss, mean of {width} steps", title=title)
    axes.legend()
    return figure


def draw_repeats(groups: Mapping[str, ArrayLike], title: str) -> Figure:
    """One dot for every repeat, the mean with its 95 % interval.

    groups: label -> shares (R,).
    """
    figure, axes = one_axes(6.4, 1 + 0.6 * len(groups))
    values = [100 * np.asarray(group, dtype=float) for group in groups.values()]
    for row, group in enumerate(values):
        axes.plot(group, np.full(len(group), row), "o", color=plots.PALETTE[row], alpha=0.6, markeredgewidth=0)
        known = transfer.spread(group)
        error = [[known["mean"] - known["low"]], [known["high"] - known["mean"]]]
        if len(group) > 1:
            axes.errorbar(known["mean"], row + 0.28, xerr=error, fmt="D", color="black", capsize=4, markersize=5)
    axes.set_yticks(range(len(values)), list(groups))
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set(xlabel="accuracy on the current task (%)", title=title)
    return figure


def timed_forms(forms: Mapping[str, convolution.Convolution], repeats: Sequence[int]) -> dict[str, list[float]]:
    """Milliseconds per repeat and step of training one convolution, for every form and number of repeats.

    forms: name -> a function with the signature of `jax.lax.conv_general_dilated`. What is timed is what the grid times
    before it starts, `convolution.seconds`.
    """
    steps = {count: count * convolution.STEPS for count in repeats}
    return {name: [1e3 * convolution.seconds(form, n) / steps[n] for n in repeats] for name, form in forms.items()}


def show_forms(found: Mapping[str, Sequence[float]], repeats: Sequence[int]) -> None:
    """The table of `timed_forms`: each form's time as a multiple of the last one's."""
    last = list(found.values())[-1]
    rows = [
        [name, *(f"{value / own:.1f}" for value, own in zip(values, last, strict=True))]
        for name, values in found.items()
    ]
    caption = f"Time per repeat and step on this machine; {list(found)[-1]} = 1."
    display.table(["", *(f"repeats: {count}" for count in repeats)], rows, caption)


def show_benchmark(repeats: int = 32) -> None:
    """The recorded table of benchmarks/grid.py for one number of repeats: the whole network, a training step."""
    folder = storage.results_folder()
    path = folder / "benchmark_grid.json" if folder else None
    if path is None or not path.is_file():
        print("No recorded benchmark here: `python benchmarks/grid.py` makes it.")
        return
    kept = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        [row["form"], f"{row['times_ours']:.1f}", f"{row['share_of_peak']:.0%}"]
        for row in kept["rows"]
        if row["repeats"] == repeats
    ]
    caption = (
        f"{repeats} repeats, the network of this lesson, one training step. The peak is the fastest product of two large "
        f"matrices in the same run. Recorded on {kept['machine']}."
    )
    display.table(["", "time, the grid = 1", "share of the peak"], rows, caption)


# ---- runs ------------------------------------------------------------------------------------------------------------


def show_runs(results: Results, rows: Mapping[str, tuple[str, slice]], caption: str) -> None:
    """One row per measure, one column per condition: mean over repeats and half its 95 % interval.

    rows: heading -> (measure, bins). A heading with "%" in it has shares in its row.
    """
    table = []
    for heading, (name, which) in rows.items():
        row = [heading]
        for label in results.labels:
            for records in results.sides.values():
                record = records[label][0] if label in records else {"measures": {}}
                there = name in record["measures"]
                row.append(plus_minus(percent(heading) * per_repeat(record, name, which)) if there else "-")
        table.append(row)
    header = ["", *(f"{label}\n{side}" for label in results.labels for side in results.sides)]
    display.table(header, table, f"{caption} Mean over repeats ± half of its 95 % interval. {note(results)}")


def percent(heading: str) -> int:
    """100 for what is named as per cent, 1 for the rest."""
    return 100 if "%" in heading else 1


def plus_minus(values: Array) -> str:
    """Mean over repeats ± half of its 95 % interval."""
    known = transfer.spread(values)
    digits = 1 if abs(known["mean"]) >= 1 else 3
    half = "" if len(values) < 2 else f" ± {known['high'] - known['mean']:.{digits}f}"
    return f"{known['mean']:.{digits}f}{half}"


def note(results: Results) -> str:
    """How many repeats each side has, and on what data."""
    parts = []
    for side, records in results.sides.items():
        record = next(iter(records.values()))[0]
        parts.append(
            f"{side.capitalize()}: {record['num_repeats']} repeats, {record['last'][-1]} tasks, {record['data']['title']}."
        )
    return " ".join(parts)


def draw_same_tasks(results: Results) -> Figure:
    """Accuracy of SL against the expert's on the first tasks, one dot a repeat: your run and the full run side by side."""
    use_style()
    figure = Figure(figsize=(3.4 * len(results.sides) + 0.4, 3.2), layout="constrained")
    for place, (side, records) in enumerate(results.sides.items()):
        record = records["SL"][0]
        own, expert = (100 * series(record, name)[0] for name in ("own", "expert"))
        axes = figure.add_subplot(1, len(results.sides), place + 1)
        ends = [min(own.min(), expert.min()) - 2, max(own.max(), expert.max()) + 2]
        axes.plot(ends, ends, "--", color=GREY, linewidth=1, label="equal")
        axes.plot(expert, own, "o", color=plots.PALETTE[0], alpha=0.6)
        axes.set(xlabel="expert (%)", ylabel="SL (%)", title=f"{side}, task {bins(record)[0]}")
        axes.text(0.04, 0.93, f"correlation {np.corrcoef(own, expert)[0, 1]:.2f}", transform=axes.transAxes, va="top")
    figure.suptitle(" | ".join(records["SL"][0]["data"]["title"] for records in results.sides.values()))
    return figure


def draw_gap(results: Results, against: str) -> Figure:
    """Accuracy on the task just trained minus the expert's, in points: mean over repeats of the differences within each.

    against: the condition beside which the expert was trained; its tasks are those of every condition.
    """
    figure, axes = one_axes(7, 3.6)
    expert = series(results.records[against][0], "expert")
    for place, label in enumerate(results.labels):
        record = results.records[label][0]
        gap = 100 * (series(record, "own") - expert)
        _line(axes, middles(record), gap, {**numbered(place), "label": label}, place)
    axes.axhline(0, color=EXPERT["color"], linestyle=EXPERT["linestyle"], label=EXPERT["label"])
    axes.set(
        xlabel="task",
        ylabel="learner - expert (points)",
        title=f"Accuracy on the task just trained: {results.data_title}",
    )
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def show_choice(choice: Results, kind: str, caption: str) -> None:
    """Held-out accuracy of every candidate, "lr" or "perturb": mean over repeats ± half of its 95 % interval."""
    rows = []
    for label in choice.labels:
        record = choice.records[label][0]
        if label.startswith(kind):
            rows.append([label.split()[1], plus_minus(100 * np.array(record["each"], dtype=float))])
    count = len(record["each"])
    note = f"{caption} {count} other repeats of {choice.data_title}; mean ± half of the 95 % interval."
    display.table(["learning rate" if kind == "lr" else "shrink and perturb", "held-out images (%)"], rows, note)


def draw_over_tasks(results: Results, lines: Mapping[str, tuple[str, str]], title: str, ylabel: str) -> Figure:
    """Accuracies over the stream: mean over repeats, with bars of its 95 % interval.

    lines: legend -> (condition, measure). The expert's line is black, chance is dotted.
    """
    figure, axes = one_axes(7, 3.3)
    for place, (legend, (label, name)) in enumerate(lines.items()):
        record = results.records[label][0]
        style = EXPERT if name == "expert" else numbered(place)
        _line(axes, middles(record), 100 * series(record, name), {**style, "label": legend}, place)
    axes.axhline(50, color=GREY, linestyle=":", label="guessing")
    _within(axes)
    axes.set(xlabel="task", ylabel=ylabel, title=title)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _line(axes: Axes, x: Array, values: Array, style: dict[str, Any], place: int = 0) -> None:
    """The mean of values (bins, repeats) as a line, its 95 % intervals as bars; `place` keeps the bars of lines apart."""
    known = transfer.spread(values)
    apart = 0.06 * (place - 1) * (x[1] - x[0] if len(x) > 1 else 1)
    axes.plot(x + apart, known["mean"], **style)
    if values.shape[1] > 1:
        half = known["mean"] - known["low"]
        axes.errorbar(x + apart, known["mean"], yerr=half, fmt="none", ecolor=style["color"], elinewidth=0.9, capsize=2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _within(axes: Axes) -> None:
    """An axis of per cent shows nothing beyond them: the interval of a few repeats may reach far outside."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0), min(high, 102))


def draw_measures(results: Results, names: Sequence[str], title: str) -> Figure:
    """A panel for each measure, a line for each condition."""
    use_style()
    columns = 2 if len(names) in (2, 4) else 3
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.1 * columns, 2.3 * rows + 0.6), layout="constrained")
    for index, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, index + 1)
        scale = percent(NAMES[name])
        for place, label in enumerate(results.labels):
            record = results.records[label][0]
            _line(axes, middles(record), scale * series(record, name), {**numbered(place), "label": label}, place)
        if scale == 100:
            _within(axes)
        if name == "capacity":  # a collapsed network has several times the others'
            axes.set_yscale("log")
        axes.set(title=NAMES[name], xlabel="task")
        axes.title.set_fontsize(9)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.suptitle(title)
    return figure


def draw_moment(results: Results, label: str, moment: int, against: str = "SL") -> Figure:
    """One time in a long stream: accuracy so far, the spectrum, the two classes as clouds, their geometry.

    moment: the bin. against: the condition with the expert.
    """
    record, first = results.records[label][0], results.records[against][0]
    use_style()
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    axes = figure.subplots(2, 2)
    x = middles(record)
    style = numbered(list(results.labels).index(label))
    _line(axes[0, 0], x, 100 * series(record, "own"), {**style, "label": label})
    _line(axes[0, 0], x, 100 * series(first, "expert"), EXPERT, 2)
    _within(axes[0, 0])
    axes[0, 0].set(title="accuracy on the current task (%)", xlabel="task")
    axes[0, 0].legend(fontsize=8)
    spectrum = 100 * np.array(record["spectrum"], dtype=float)
    numbers = np.arange(1, spectrum.shape[1] + 1)
    axes[0, 1].plot(numbers, spectrum[0], color=GREY, linestyle=":", label=f"task {record['last'][0]}")
    axes[0, 1].plot(numbers, spectrum[moment], **{**style, "marker": "."}, label=f"task {record['last'][moment]}")
    axes[0, 1].set(title="spectrum of the representations", xlabel="singular value", ylabel="share of their sum (%)")
    axes[0, 1].set_ylim(0, 1.1 * np.nanmax(spectrum))
    axes[0, 1].legend(fontsize=8)
    cloud, labels = np.array(record["cloud"][moment], dtype=float), np.array(record["labels"])
    for value, marker in ((0, "o"), (1, "s")):
        points = cloud[labels == value]
        axes[1, 0].plot(
            points[:, 0], points[:, 1], marker, color=plots.PALETTE[value], alpha=0.5, label=f"class {'AB'[value]}"
        )
    axes[1, 0].set(
        title=f"one repeat, test images of task {record['last'][moment]}",
        xlabel="first component",
        ylabel="second component",
    )
    axes[1, 0].legend(fontsize=8)
    for place, name in enumerate(("capacity", "radius", "dimension")):
        values = series(record, name)
        relative = values / np.nanmean(values[0])
        _line(axes[1, 1], x, relative, {**numbered(place + 2), "label": name}, place)
    axes[1, 1].set(title="geometry, relative to the first tasks", xlabel="task")
    axes[1, 1].legend(fontsize=8)
    for panel in (axes[0, 0], axes[1, 1]):
        panel.axvline(x[moment], color=GREY, linewidth=1)
    figure.suptitle(f"{label}: task {bins(record)[moment]} of {record['last'][-1]}, {results.data_title}")
    return figure
