"""Figures and tables that only lesson 05 shows: similarity matrices, signs and sentences, attention, what words cost."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from course_utils import plots
from course_utils.lessons import display
from course_utils.lessons.results import Results, mean_and_spread
from course_utils.multimodal import Fusion, zero_shot
from course_utils.plots.style import GREY, PALETTE, one_axes, use_style

NETWORKS = {
    "vision + replay": "vision", "CLIP + replay": "CLIP", "CLIP + text-augmented replay": "CLIP", "fusion + replay": "fusion",
}  # fmt: skip


def draw_similarities(matrices: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str) -> Figure:
    """Cosines of images (rows) and captions (columns), one picture for each form of the loss; the diagonal is framed.

    Args:
        matrices: what was trained -> `(n, n)` cosines, and `(n,)` labels in order.
    """
    use_style()
    figure = Figure(figsize=(4.1 * len(matrices), 4.1), layout="constrained")
    axes_row = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axes, (name, (cosines, labels)) in zip(axes_row, matrices.items(), strict=True):
        picture = axes.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1)
        for i in range(len(cosines)):
            axes.add_patch(_frame(i))
        border = int(np.flatnonzero(np.diff(labels))[0]) + 0.5
        axes.axhline(border, color="black", linewidth=1)
        axes.axvline(border, color="black", linewidth=1)
        axes.set(title=name, xlabel="caption", xticks=[], yticks=[])
        axes.grid(visible=False)
    axes_row[0].set_ylabel("image")
    figure.colorbar(picture, ax=list(axes_row), shrink=0.8, label="cosine")
    figure.suptitle(title)
    return figure


def _frame(i: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((i - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.4)


def draw_stream(results: Results) -> Figure:
    """Class-incremental accuracy of every condition, with the floor and the ceiling."""
    values = {label: results.values(label, "acc") / 100 for label in results.labels}
    return plots.bars(values, f"Five tasks: {results.data_title}", floor="fine-tuning", ceiling="joint")


def draw_meaning(results: Results) -> Figure:
    """With the task told: rows, sentences and swapped sentences, with replay and without."""
    values = {label: results.values(label, "told") / 100 for label in results.labels}
    return plots.bars(
        values, f"The task told, after five tasks: {results.data_title}", xlabel="accuracy, task told (%)"
    )


def draw_signs(results: Results) -> Figure:
    """Held-out signs named among themselves, by one sentence and by all, with chance and what the plate alone gives."""
    figure, axes = one_axes(7, 2.9)
    ways = ("one sentence", "all sentences")
    for place, way in enumerate(ways):
        for row, label in enumerate(results.labels):
            runs = results.records[label].values()
            seeds = np.array([record[way]["held out, among themselves"] for record in runs], dtype=float)
            height = row + 0.36 * (place - 0.5)
            axes.barh(height, seeds.mean(), 0.34, color=PALETTE[place], alpha=0.7, label=way if row == 0 else None)
            axes.plot(seeds, np.full(len(seeds), height), "o", color="black", markeredgecolor="white", markersize=4.5)
            axes.annotate(f"mean {seeds.mean():.0f}", (1, height), (4, 0), textcoords="offset points", va="center")
    first = results.labels[0]
    for name, style in (("chance", ":"), ("plate", "--")):
        value = results.mean(first, name)
        axes.axvline(value, color=GREY, linestyle=style, label=f"{'the plate alone' if name == 'plate' else name}")
    axes.set_yticks(range(len(results.labels)), list(results.labels))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="held-out signs, named among themselves (%)", title=results.data_title, xlim=(0, 105))
    axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.24))
    return figure


def draw_held_out(data: Any, labels: Sequence[int], texts: Mapping[str, Sequence[str]]) -> Figure:
    """One test image of each held-out class above the first sentence about it."""
    use_style()
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    for axes, label in zip(figure.subplots(2, -(-len(labels) // 2)).flat, labels, strict=False):
        rows = np.flatnonzero(data.test.y == label)
        index = int(rows[data.test.x[rows].std(axis=(1, 2, 3)).argmax()])  # one with contrast: some are dark
        axes.imshow(_picture(data.test.x[index]))
        axes.axis("off")
        axes.set_title("\n".join(textwrap.wrap(texts[data.classes[label]][0], 30)), fontsize=7)
    figure.suptitle(f"Never shown in training, only described: {data.title}")
    return figure


def _picture(x: np.ndarray) -> np.ndarray:
    """`(C, H, W)` as imshow takes it, in colour."""
    image = np.moveaxis(np.asarray(x), 0, 2)
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def show_signs(results: Results) -> None:
    """The same signs among themselves and among all 43, signs that were shown, and retrieval; all sentences."""
    held = "all sentences"
    results.table(
        {
            "held out, among themselves (%)": lambda record: record[held]["held out, among themselves"],
            "held out, among all (%)": lambda record: record[held]["held out, among all"],
            "seen, among all (%)": lambda record: record[held]["seen, among all"],
            "text in the first 5 (%)": lambda record: 100 * record["recall"]["image to text"],
            "image in the first 5 (%)": lambda record: 100 * record["recall"]["text to image"],
        },
        digits=0,
        caption="Every class counts the same. Last two: retrieval among all signs, from an image to its text and back.",
    )


def draw_ranking(trained: Any, sentence: str, count: int = 8) -> Figure:
    """The test images of signs nearest to a typed sentence, best first; a red frame marks signs never shown in training.

    Args:
        trained: `lesson_05.Trained`.

    Raises:
        ValueError: no word of the sentence is known to the network.
    """
    data = trained.data
    images = zero_shot.image_embeddings(trained.model, torch.from_numpy(data.test.x))
    found = zero_shot.rank_images(trained.model, trained.tokenizer, sentence, images, len(images))
    use_style()
    figure = Figure(figsize=(9, 2.1), layout="constrained")
    shown: list[int] = []  # one image a class, or the first places would all be of one
    for match in found:
        if data.test.y[match.which] not in [data.test.y[i] for i in shown] and len(shown) < count:
            shown.append(match.which)
    cosine = {match.which: match.similarity for match in found}
    for axes, index in zip(figure.subplots(1, count), shown, strict=False):
        label = int(data.test.y[index])
        axes.imshow(_picture(data.test.x[index]))
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.set_title(f"{cosine[index]:.2f}", fontsize=9)
        axes.set_xlabel("\n".join(textwrap.wrap(data.classes[label], 16)), fontsize=7)
        unseen = label in trained.held_out
        for spine in axes.spines.values():
            spine.set(visible=unseen, color=PALETTE[1], linewidth=3)
    for axes in figure.axes[len(shown) :]:
        axes.axis("off")
    known = [word for word in sentence.lower().replace(",", " ").split() if word in trained.tokenizer.ids]
    figure.suptitle(f"{' '.join(known)}   ({data.title})", fontsize=9)
    return figure


def draw_attention(model: Fusion, x: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Images, and over each how much its patches look at the words of the class that the network names.

    Args:
        x: `(n, C, H, W)` uint8.
        names: of the classes, in the order of the head.
    """
    with zero_shot.evaluating(model):
        out, looked = model.attend(torch.from_numpy(x).float() / 255)
    answers = out.argmax(dim=1)
    use_style()
    figure = Figure(figsize=(1.5 * len(x), 3.3), layout="constrained")
    grid = figure.subplots(2, len(x))
    size = (x.shape[2], x.shape[3])
    owner = torch.as_tensor(looked.owner)
    even = {
        int(answer): float((owner == int(answer)).double().mean()) for answer in answers
    }  # if words got equal shares
    maps = [
        100 * (looked.maps(owner == int(answer), size)[i].numpy() - even[int(answer)])
        for i, answer in enumerate(answers)
    ]
    most = max(float(np.abs(found).max()) for found in maps)
    for i, found in enumerate(maps):
        grid[0, i].imshow(_picture(x[i]))
        overlay = grid[1, i].imshow(found, cmap="RdBu_r", vmin=-most, vmax=most)
        grid[0, i].set_title("\n".join(textwrap.wrap(names[int(answers[i])], 12)), fontsize=8)
        for axes in grid[:, i]:
            axes.axis("off")
    figure.colorbar(overlay, ax=list(grid[1]), label="points above\nan even share")
    figure.suptitle(title, fontsize=10)
    return figure


def show_without_text(stream: Results) -> None:
    """The fusion network after the stream, with the text at test time and without it."""
    label = "fusion + replay"
    rows = [
        [name, *(mean_and_spread([run[key] for run in runs[label].values()]) for key in ("acc", "acc_without_text"))]
        for name, runs in stream.sides.items()
    ]  # fmt: skip
    header = ["fusion + replay", "ACC with text at test time (%)", "ACC without (%)"]
    display.table(header, rows, f"After five tasks. {stream.note()}")


def show_leak(results: Results) -> None:
    """Four ways to ask the same network."""
    ways = ("image alone", "all classes' text", "own caption", "blank image, own caption")
    results.table(
        {f"{way} (%)": way for way in ways}, caption="Accuracy on test images. Captions are drawn from the labels."
    )


def show_cost(cost: Results, stream: Results) -> None:
    """Accuracy, forgetting, size and speed of the networks with replay, one row a network."""
    recorded = cost.preset == "full" or (cost.full is not None and stream.full is not None)
    measured, source = (_full(results) if recorded else results.records for results in (cost, stream))
    record = next(iter(measured[cost.labels[0]].values()))
    rows = []
    for label, name in NETWORKS.items():
        runs = source[label].values()
        rows.append(
            [
                label,
                mean_and_spread([run["acc"] for run in runs]),
                mean_and_spread([run["forgetting"] for run in runs]),
                f"{record['parameters'][name] / 1e3:.0f}",
                f"{record['megabytes'][name]:.2f}",
                f"{record['training'][name]:.1f}",
                f"{record['answering'][name]:.1f}",
                f"{record['images_per_second'][name]:,.0f}",
            ]
        )
    header = ["", "ACC (%)", "forgetting (points)", "weights (thousands)", "size (MB)"]
    header += ["time of a training step\n(vision = 1)", "time of an answer\n(vision = 1)", "images per second"]
    whose = "Recorded full run" if recorded else "Your run"
    display.table(
        header,
        rows,
        f"{whose}; times on a CPU, taken in turns. CLIP reads its sentences once and keeps them; fusion reads them for each batch.",
    )


def _full(results: Results) -> Mapping[str, Mapping[int, dict[str, Any]]]:
    return results.full.values if results.full else results.records


def show_speed(results: Results) -> None:
    """A step of the pair on every device that was measured: where its time goes, and how many times as fast as the first."""
    for runs in _full(results).values():
        record = next(iter(runs.values()))
        if not record["rows"]:
            continue
        stages = [name for name in record["rows"][0] if name.endswith("(ms)")]
        header = ["", *stages, "images/s", "times as fast"]
        rows = [[row["setting"], *(f"{row[name]:.2f}" for name in stages), f"{row['images/s']:,}", f"{row['times as fast']:.2f}"] for row in record["rows"]]  # fmt: skip
        display.table(header, rows, f'{record["device"]}; medians of the steps. The first row is "before".')


def draw_memories(results: Results) -> Figure:
    """Class-incremental accuracy by what a memory of equal bytes holds; how many samples that is stands in the label."""
    values: dict[str, ArrayLike] = {}
    for label in results.labels:
        stored = round(results.mean(label, "stored"))
        values[f"{label} ({stored:,})" if stored else label] = results.values(label, "acc") / 100
    return plots.bars(values, f"Memories of equal bytes: {results.data_title}")
