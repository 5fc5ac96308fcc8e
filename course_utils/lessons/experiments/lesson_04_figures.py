"""Figures and tables that only lesson 04 shows: an update in numbers, ranks, learned against forgotten, memory, tenants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from course_utils import plots
from course_utils.lessons import display
from course_utils.lessons.results import Results, mean_and_spread
from course_utils.plots.style import DASHES, GREY, MARKERS, PALETTE, one_axes, use_style

DENSE, ADAPTED = PALETTE[1], PALETTE[0]
STARTS = {
    "LoRA + replay, on random": "LoRA on random weights",
    "LoRA + replay, on task 1": "LoRA on what task 1 taught",
    "replay, from random": "all weights, from random",
}
ENDS = ("head alone", "all weights")


def part(results: Results, *patterns: str) -> Results:
    """The conditions whose labels fit one of the patterns, `*` for any text, in their own order."""

    def chosen(entries: Mapping[str, Any]) -> dict[str, Any]:
        return {label: entry for label, entry in entries.items() if any(fnmatchcase(label, p) for p in patterns)}

    full = results.full and replace(results.full, values=chosen(results.full.values))
    return replace(results, records=chosen(results.records), full=full)


def sweep_of(results: Results) -> Results:
    """From the head alone over the ranks to all weights, at the preset's learning rate."""
    ranks = [label for label in results.labels if label.startswith("rank ") and "," not in label]
    return part(results, ENDS[0], *ranks, ENDS[1])


def rates_of(results: Results) -> Results:
    """All weights and rank 4, with every learning rate."""
    return part(results, "all weights*", "rank 4", "rank 4, lr*")


def places_of(results: Results) -> Results:
    """About equally many trained weights, or an equal sum of ranks, in different places."""
    return part(results, "rank 4", "attention*", "MLP*", "ranks by importance", "one rank for the task")


def draw_update(weight: np.ndarray, B: np.ndarray, A: np.ndarray) -> Figure:
    """A weight, its low-rank update and their sum, with the numbers written into the squares."""
    update = B @ A
    use_style()
    figure = Figure(figsize=(7.4, 2.9), layout="constrained")
    panels = {"W": weight, f"B A, rank {np.linalg.matrix_rank(update)}": update, "W + B A": weight + update}
    most = max(np.abs(values).max() for values in panels.values())
    for place, (title, values) in enumerate(panels.items()):
        axes = figure.add_subplot(1, 3, place + 1)
        axes.imshow(values, cmap="PuOr", vmin=-most, vmax=most)
        for (row, column), value in np.ndenumerate(values):
            dark = abs(value) > 0.6 * most
            axes.text(column, row, f"{value:g}", ha="center", va="center", color="white" if dark else "black")
        axes.set(title=title, xticks=[], yticks=[], xlabel="inputs", ylabel="outputs" if place == 0 else "")
        axes.grid(False)
    return figure


def draw_spectrum(results: Results, rank: int = 4) -> Figure:
    """What dense training changed in one layer: its singular values, and the share of energy that a rank holds."""
    values = results.values("all weights", "spectrum")  # (seeds, singular values)
    held = np.cumsum(values**2, axis=1) / np.sum(values**2, axis=1, keepdims=True)
    numbers = np.arange(1, values.shape[1] + 1)
    use_style()
    figure = Figure(figsize=(7.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.bar(
        numbers, values.mean(axis=0), color=[ADAPTED if n <= rank else "#c8c8c8" for n in numbers], width=0.9
    )  # fmt: skip
    left.set(title=f"the first {rank} of {len(numbers)} directions", xlabel="singular value", ylabel="size")
    right.plot(numbers, 100 * held.mean(axis=0), color=ADAPTED)
    right.axvline(rank, color=GREY, linewidth=1)
    share = 100 * held.mean(axis=0)[rank - 1]
    right.plot([rank], [share], "o", color=ADAPTED)
    right.annotate(
        f"{share:.0f} %", (rank, share), (8, -12), textcoords="offset points"
    )  # fmt: skip
    right.set(title="energy that they hold together", xlabel="rank", ylabel="share (%)", ylim=(0, 102))
    figure.suptitle(f"What training all weights changed in one layer: {results.data_title}")
    return figure


def draw_ranks(results: Results, rank: int = 4) -> Figure:
    """Accuracy on the new and on the old task against the number of trained weights, from the head alone to all."""
    figure, axes = one_axes(7, 3.6)
    x = np.array([results.mean(label, "trainable") for label in results.labels])
    for place, (key, name) in enumerate((("final_new", "new task"), ("final_old", "old task"))):
        rows = np.array([results.values(label, key) for label in results.labels])  # (conditions, seeds)
        axes.plot(
            x, rows.mean(axis=1), color=PALETTE[place], linestyle=DASHES[place], marker=MARKERS[place], label=name
        )
        axes.fill_between(x, rows.min(axis=1), rows.max(axis=1), color=PALETTE[place], alpha=0.18, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(x, [_short(label) for label in results.labels], rotation=35, ha="right")
    axes.minorticks_off()
    chosen = f"rank {rank}"
    if chosen in results.labels:
        axes.axvline(results.mean(chosen, "trainable"), color=GREY, linewidth=1)
        count, whole = results.mean(chosen, "trainable"), results.mean("all weights", "trainable")
        axes.set_title(
            f"{chosen}: {count:,.0f} trained weights ({100 * count / whole:.0f} % of all), new {results.mean(chosen, 'final_new'):.0f} %, "
            f"old {results.mean(chosen, 'final_old'):.0f} %"
        )
    axes.set(xlabel="trained weights (logarithmic)", ylabel="accuracy, task told (%)")
    figure.suptitle(f"Second task of two: {results.data_title}", fontsize=10)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _short(label: str) -> str:
    return label.replace("rank ", "") if label.startswith("rank") else label


def draw_frontier(results: Results) -> Figure:
    """Every run as a path: from an untouched old task at the top left, to the right as the new one is learned."""
    figure, axes = one_axes(7, 4)
    for place, label in enumerate(results.labels):
        new, old = results.mean(label, "new"), results.mean(label, "old")
        dense = label.startswith("all weights")
        same = [other for other in results.labels if other.startswith("all weights") == dense]  # by their dashes
        axes.plot(
            new, old, color=DENSE if dense else ADAPTED, linestyle=DASHES[same.index(label)],
            marker=MARKERS[place % len(MARKERS)], markersize=3.5, label=label,
        )  # fmt: skip
    axes.set(
        xlabel="accuracy on the new task (%)", ylabel="accuracy on the old task (%)",
        title=f"Learned and forgotten, task told: {results.data_title}",
    )  # fmt: skip
    low, high = axes.get_ylim()
    if high - low < 20:  # nothing has happened yet: do not zoom into the noise
        axes.set_ylim((low + high) / 2 - 10, (low + high) / 2 + 10)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def show_equal(results: Results, at_equal: Callable[..., float], targets: Sequence[float]) -> None:
    """Accuracy on the old task when the new one first reaches each target; your run beside the full run."""
    rows = []
    for label in results.labels:
        row = [label]
        for target in targets:
            for records in results.sides.values():
                values = [at_equal(record["new"], record["old"], target) for record in records.get(label, {}).values()]
                row.append(_mean_or_dash(np.array(values, dtype=float)))
        rows.append(row)
    header = ["", *(f"new task at {target:g} %\n{side}" for target in targets for side in results.sides)]
    caption = "Accuracy on the old task at that moment (%); - where a seed never gets there."
    display.table(header, rows, f"{caption} {results.note()}")


def _mean_or_dash(values: np.ndarray) -> str:
    if len(values) == 0 or np.isnan(values).any():
        return "-"
    return mean_and_spread(values)


def draw_allocation(results: Results, label: str = "ranks by importance") -> Figure:
    """The rank of every layer under the budget, the first seed's; the uniform rank across."""
    ranks = next(iter(results.records[label].values()))["ranks"]
    figure, axes = one_axes(7, 3.2)
    kinds = [name.split(".", 2)[2] for name in ranks]
    colours = {kind: PALETTE[place] for place, kind in enumerate(dict.fromkeys(kinds))}
    axes.bar(range(len(ranks)), list(ranks.values()), color=[colours[kind] for kind in kinds])
    for kind, colour in colours.items():
        axes.bar(0, 0, color=colour, label=kind)
    uniform = sum(ranks.values()) / len(ranks)
    axes.axhline(uniform, color=GREY, linestyle="--", label=f"uniform rank {uniform:g}")
    per_block = len(kinds) // len({name.split(".")[1] for name in ranks})
    middles = np.arange(0, len(ranks), per_block) + (per_block - 1) / 2
    axes.set_xticks(middles, [str(block) for block in range(1, len(middles) + 1)])
    axes.set(xlabel="block", ylabel="rank", title=f"Ranks by importance, equal budget: {results.data_title}, one seed")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def draw_starts(stream: Results, bases: Results) -> Figure:
    """Class-incremental accuracy with replay, by what the network knew before and by what was trained."""
    values = {
        STARTS["LoRA + replay, on random"]: bases.values("LoRA + replay, on random", "acc"),
        STARTS["LoRA + replay, on task 1"]: stream.values("LoRA + replay", "acc"),
    }
    for label in bases.labels:
        if label.startswith("LoRA") and label not in STARTS:
            values[f"LoRA on a base of {label.split(', on ')[1]}"] = bases.values(label, "acc")
    values[STARTS["replay, from random"]] = stream.values("replay", "acc")
    for label in bases.labels:
        if label.startswith("replay"):
            values[f"all weights, from a base of {label.split(', from ')[1]}"] = bases.values(label, "acc")
    values["joint, from random"] = stream.values("joint", "acc")
    values["fine-tuning, no replay"] = stream.values("fine-tuning", "acc")
    return plots.bars(
        {label: entry / 100 for label, entry in values.items()}, f"Replay on five tasks: {stream.data_title}",
        floor="fine-tuning, no replay", ceiling="joint, from random",
    )  # fmt: skip


RUNS = {
    "stream": "ViT, short", "long": "ViT, long", "resnet": "ResNet-18, short", "resnet_long": "ResNet-18, long",
}  # fmt: skip


def show_longer(runs: Mapping[str, Results]) -> None:
    """Network and length of training down, methods across: class-incremental ACC and, in brackets, with the task told."""
    methods = runs["stream"].labels
    rows = []
    for name, results in runs.items():
        row = [RUNS[name]]
        for method in methods:
            known = method in results.labels
            cells = [mean_and_spread(results.values(method, key)) for key in ("acc", "told")] if known else []
            row.append(f"{cells[0]} ({cells[1]})" if known else "-")
        rows.append(row)
    counts = "; ".join(
        f"{RUNS[name]}: {len(results.values(results.labels[0], 'acc'))}" for name, results in runs.items()
    )
    caption = "Class-incremental ACC in per cent, in brackets with the task told; mean ± s.d. over seeds. Seeds: "
    whose = "Recorded full runs" if all(results.preset == "full" for results in runs.values()) else "Your runs"
    display.table(["", *methods], rows, f"{caption}{counts}. {whose} on {runs['stream'].data_title}.")


def draw_memory(results: Results) -> Figure:
    """Peak memory of training, by what it holds: weights, gradients, optimizer state, and the rest, activations most of it."""
    figure, axes = one_axes(7.4, 0.8 + 0.42 * len(results.labels))
    parts = ("weights", "gradients", "optimizer state", "activations and scratch")
    for row, label in enumerate(results.labels):
        record = next(iter(results.records[label].values()))
        known = [4 * record["total"] / 1e6, record["gradient"], record["optimizer"]]
        start = 0.0
        for place, value in enumerate([*known, max(0.0, record["peak"] - sum(known))]):
            axes.barh(
                row, value, left=start, color=PALETTE[place], hatch=("", "///", "...", "")[place],
                edgecolor="white", label=parts[place] if row == 0 else None,
            )  # fmt: skip
            start += value
        axes.annotate(f"{record['peak']:.0f}", (start, row), (5, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(results.labels)), list(results.labels))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.1)
    axes.set(xlabel="peak memory of training (MB)", title="Adam, 28x28 grey images, each in a process of its own")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def show_serving(results: Results) -> None:
    """Time of one mixed batch in every way, as a multiple of the base's; your run beside the full run."""
    ways = list(next(iter(next(iter(results.records.values())).values()))["times"])
    rows = []
    for way in ways:
        row = [way]
        for label in results.labels:
            for records in results.sides.values():
                found = [record["times"][way] for record in records.get(label, {}).values()]
                row.append(f"{np.mean(found):.1f}" if found else "-")
        rows.append(row)
    header = ["", *(f"{label}\n{side}" for label in results.labels for side in results.sides)]
    display.table(header, rows, f"Time of a batch of 64 images, times that of the base alone. {results.note()}")
