"""Figures and tables that only lesson 07 shows: integers beside real numbers, ranges, bits, MACs, and the front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from torch import Tensor

from course_utils import compression, plots
from course_utils.compression import Candidate
from course_utils.lessons import display
from course_utils.lessons.results import Results, mean_and_spread
from course_utils.plots.style import GREY, MARKERS, PALETTE, one_axes, use_style

# ---- integers --------------------------------------------------------------------------------------------------------


def draw_integers(x: Tensor, whole: Tensor, scale: float, zero_point: int) -> Figure:
    """A small block of real numbers, the integers that stand for them, and what is lost on the way, `(rows, columns)`."""
    use_style()
    figure = Figure(figsize=(10, 3.3), layout="constrained")
    error = scale * (whole - zero_point) - x
    panels = [("real numbers", x, "{:.2f}"), ("integers, 0 to 255", whole, "{:.0f}"), ("error, in steps", error / scale, "{:+.2f}")]  # fmt: skip
    for axes, (title, values, form) in zip(figure.subplots(1, 3), panels, strict=True):
        numbers = values.detach().numpy()
        shown = axes.imshow(numbers, cmap="viridis" if "error" not in title else "RdBu_r")
        middle = (shown.norm.vmin + shown.norm.vmax) / 2
        for (i, j), value in np.ndenumerate(numbers):
            dark = value < middle if "error" not in title else abs(value) > 0.35
            axes.text(
                j, i, form.format(value), ha="center", va="center", fontsize=9, color="white" if dark else "black"
            )
        if "error" in title:
            shown.set_clim(-0.5, 0.5)
        axes.set(title=title, xticks=[], yticks=[])
        axes.grid(visible=False)
    figure.suptitle(f"scale {scale:.4f}, zero point {zero_point}")
    return figure


def draw_ranges(weight: Tensor, title: str) -> Figure:
    """The largest magnitude of every output channel, sorted, and the one that a single scale has to cover."""
    figure, axes = one_axes(7, 2.8)
    sizes = weight.detach().abs().flatten(1).amax(dim=1).sort().values.numpy()
    axes.bar(np.arange(1, len(sizes) + 1), sizes, color=PALETTE[0], alpha=0.8, label="a channel's own range")
    axes.axhline(sizes[-1], color=PALETTE[1], linestyle="--", label="the range of one scale for all")
    axes.set(xlabel="output channels, sorted", ylabel="largest magnitude", title=title)
    axes.legend(loc="upper left", ncols=2)
    axes.set_ylim(0, 1.35 * sizes[-1])
    return figure


def draw_bits(results: Results, bits: int | None = None) -> Figure:
    """Accuracy by bits of the weights, one scale a layer and one a channel; dots are seeds."""
    figure, axes = one_axes(7, 3.4)
    for number, label in enumerate(results.labels):
        levels = results.values(label, "bits")[0]
        seeds = results.values(label, "accuracy")
        color = PALETTE[number]
        axes.plot(
            levels, seeds.mean(axis=0), marker=MARKERS[number], color=color, linestyle=("-", "--")[number], label=label
        )
        for values in seeds:
            axes.plot(levels, values, ".", color=color, markersize=4)
        if bits is not None:
            place = int(np.flatnonzero(levels == bits)[0])
            value = seeds.mean(axis=0)[place]
            others = [results.mean(other, "accuracy")[place] for other in results.labels if other != label]
            above = value > min(others) or (value == min(others) and number)
            axes.annotate(
                f"{value:.1f} %", (bits, value), (8, 8 if above else -16), textcoords="offset points", color=color
            )
    if bits is not None:
        axes.axvline(bits, color=GREY, linewidth=1, linestyle=":")
    axes.axhline(results.mean(results.labels[0], "fp32"), color=GREY, linestyle="-.", linewidth=1.2, label="floats")
    axes.set(
        xlabel="bits of a weight",
        ylabel="accuracy (%)",
        ylim=(0, 105),
        title=f"No training behind it: {results.data_title}",
    )
    axes.legend(loc="lower right")
    return figure


def draw_staircase(fake_quantize: Callable[..., Tensor]) -> Figure:
    """What a fake quantization to few steps gives, and the gradient that it lets through."""
    x = torch.linspace(-0.6, 3.4, 801, requires_grad=True)
    out = fake_quantize(x, 0.0125, 0)
    (slope,) = torch.autograd.grad(out.sum(), x)
    coarse = ((x.detach() / 0.5).round().clamp(0, 6)) * 0.5
    use_style()
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    place = x.detach().numpy()
    left.plot(place, place, color=GREY, linestyle=":", label="x")
    left.plot(place, coarse.numpy(), color=PALETTE[0], label="7 levels (almost 3 bits)")
    left.plot(place, out.detach().numpy(), color=PALETTE[1], linestyle="--", label="256 levels (8 bits)")
    left.set(xlabel="x", ylabel="there and back", title="forward: a staircase")
    left.legend()
    right.plot(place, slope.numpy(), color=PALETTE[1])
    right.set(xlabel="x", ylabel="gradient", ylim=(-0.1, 1.3), title="backward: as if nothing had been rounded")
    return figure


def draw_schedule(schedule: Callable[[int, int, float], float], target: float = 0.5, steps: int = 5) -> Figure:
    """The share of channels that is gone after each step, beside a straight line."""
    figure, axes = one_axes(6, 2.8)
    places = list(range(steps + 3))
    axes.plot(
        places, [100 * schedule(step, steps, target) for step in places], marker="o", color=PALETTE[0], label="cubic"
    )
    straight = [100 * target * min(step / steps, 1) for step in places]
    axes.plot(places, straight, marker="s", linestyle="--", color=GREY, label="straight")
    axes.set(xlabel="step", ylabel="channels that are gone (%)", title=f"{steps} steps to {target:.0%}")
    axes.legend(loc="lower right")
    return figure


# ---- what was measured -------------------------------------------------------------------------------------------------


def rows_of(results: Results) -> dict[str, dict[str, float]]:
    """Version -> means over seeds of everything that is a number."""
    (label,) = results.labels
    runs = [record["rows"] for record in results.records[label].values()]
    return {
        name: {
            key: float(np.mean([run[name][key] for run in runs]))
            for key, value in runs[0][name].items()
            if isinstance(value, (int, float))
        }
        for name in runs[0]
    }


def show_versions(results: Results, names: Sequence[str] | None = None, caption: str = "") -> None:
    """A row a version: size, speed for one image and for 32, accuracy and what was lost. A table for each side: yours, recorded."""
    for side, records in results.sides.items():
        (label,) = results.labels
        runs = [record["rows"] for record in records[label].values()]
        base = np.array([run["fp32"]["accuracy"] for run in runs])
        rows = []
        for name in names or runs[0]:
            accuracy = np.array([run[name]["accuracy"] for run in runs])
            row = [name, _mean([run[name]["size_mb"] for run in runs], 3)]
            row += [_mean([run[name][key] for run in runs]) for key in ("size_ratio", "speedup", "speedup_32")]
            row += [f"{runs[0][name]['integer_nodes']}", _mean(100 * accuracy), _mean(100 * (accuracy - base))]
            rows.append(row)
        header = ["", "file (MB)", "times smaller", "times as fast,\none image", "times as fast,\n32 images"]
        header += ["integer\nnodes", "accuracy (%)", "points against fp32"]
        machine = next(iter(records[label].values()))["machine"]
        note = results.note() if side == list(results.sides)[-1] else ""
        display.table(header, rows, " ".join(f"{side.capitalize()}; {machine}. {caption} {note}".split()))


def in_words(results: Results, name: str, key: str = "speedup") -> str:
    """One number of one version, on every side: "1.6 times (your run), 4.9 times (full run)"."""
    (label,) = results.labels
    found = {
        side: np.mean([run["rows"][name][key] for run in records[label].values()])
        for side, records in results.sides.items()
    }
    return ", ".join(f"{value:.1f} times ({side})" for side, value in found.items())


def _mean(values: Any, digits: int = 1) -> str:
    """With its spread, unless so many digits are wanted that there is no room for it."""
    return mean_and_spread(values, digits) if digits == 1 else f"{np.mean(values):.{digits}f}"


def candidates(results: Results, scored: str = "validation") -> list[Candidate]:
    """Versions as `compression.choose` wants them, means over seeds; accuracy on validation images unless told otherwise."""
    return [Candidate(name, row["size_mb"], row["latency_ms"], row[scored]) for name, row in rows_of(results).items()]


def version(pruned: int, numbers: str) -> str:
    """The name of a version, from what the sliders say."""
    name = f"{pruned}% pruned" if pruned else ""
    if numbers == "fp32":
        return name or "fp32"
    return f"{name}, {numbers}" if name else numbers.replace(" ", ", ")


def draw_front(results: Results, chosen: str | None = None) -> Figure:
    """Accuracy against size and against speed; those on the Pareto front are filled, a ring marks the chosen one."""
    rows = rows_of(results)
    found = candidates(results, "accuracy")
    front = {candidate.name for candidate in compression.pareto(found)}
    use_style()
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = [
        ("size_mb", "size of the file (MB), less is better"),
        ("speedup", "times as fast as fp32, one image, more is better"),
    ]
    for axes, (key, xlabel) in zip(figure.subplots(1, 2), panels, strict=True):
        for inside, look in ((False, {"color": GREY, "fillstyle": "none"}), (True, {"color": PALETTE[0]})):
            points = [(row[key], 100 * row["accuracy"]) for name, row in rows.items() if (name in front) is inside]
            label = "on the Pareto front" if inside else "beaten by another one"
            axes.plot(*np.array(points).reshape(-1, 2).T, "o", markersize=8, label=label, **look)
        if chosen is not None:
            ring = {"markersize": 15, "fillstyle": "none", "markeredgewidth": 2, "color": PALETTE[1], "label": "chosen"}
            axes.plot(rows[chosen][key], 100 * rows[chosen]["accuracy"], "o", **ring)
        if key == "size_mb":
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel=xlabel, ylabel="accuracy (%)")
        axes.margins(x=0.1, y=0.1)
    text = ""
    if chosen is not None:
        row = rows[chosen]
        text = f"{chosen}: {row['size_ratio']:.1f} times smaller, {row['speedup']:.1f} times as fast, {100 * row['accuracy']:.1f} %\n"
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(f"{text}{results.data_title}", fontsize=10)
    return figure


def draw_stream(results: Results) -> Figure:
    """Accuracy of the deployed file after five tasks, with the floor and the ceiling."""
    values = {label: results.values(label, "acc") / 100 for label in results.labels}
    return plots.bars(
        values, f"Five tasks, the deployed files: {results.data_title}", floor="fine-tuning", ceiling="joint"
    )


def deployed_rows(results: Results) -> dict[str, list[dict[str, Any]]]:
    """Three ways to deploy -> what `Compress.rows` held after every task, the first seed's."""
    labels = ("replay", "replay, int8 at the end", "replay, pruned and int8")
    return {label: next(iter(results.records[label].values()))["rows"] for label in labels}


# ---- to places -----------------------------------------------------------------------------------------------------------

PLACES = (
    ("tiny board", "int8 only, kilobytes of memory", "fp32 (the converter quantizes it itself)", "TensorFlow Lite Micro", "onnx2tf -i fp32.onnx -oiqt"),
    ("edge device, Raspberry Pi", "int8 on Arm", "int8", "ONNX Runtime", "scp small.onnx board: && ssh board pip install onnxruntime"),
    ("phone", "int8", "int8", "ONNX Runtime Mobile", "python -m onnxruntime.tools.convert_onnx_models_to_ort small.onnx"),
    ("server with an NVIDIA GPU", "fp16; int8 with zero points of 0 only", "fp32", "TensorRT", "trtexec --onnx=fp32.onnx --fp16 --saveEngine=small.plan"),
    ("browser", "int8 or fp32", "int8", "ONNX Runtime Web", "npm install onnxruntime-web; await ort.InferenceSession.create('small.onnx')"),
)  # fmt: skip


def show_places() -> None:
    """Where a file can go, which one, and the command that takes it there."""
    header = ["to", "numbers", "file", "runs in", "command"]
    display.table(
        header,
        [list(row) for row in PLACES],
        "From documentation, not run for this lesson. TensorRT refuses the zero points of our int8 files.",
    )
