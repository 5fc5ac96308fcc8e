"""Figures and tables that only lesson 06 shows: graded pictures, a sphere of embeddings, histograms, what a scorer likes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import rankdata

from course_utils import quality
from course_utils.lessons import display
from course_utils.lessons.experiments import lesson_06 as lesson
from course_utils.lessons.results import Results, mean_and_spread
from course_utils.plots.style import GREY, PALETTE, by_label, one_axes, use_style

STANDIN = "drawn photographs, a stand-in"
SHADES = 12  # of each colour in a shown picture: noise in full depth would make the notebooks twice as large
# Of all methods, so that each looks the same where the quick preset has only some of them.
LOOKS = by_label(["naive", "L2", "EWC", "PackNet (task told)", "replay", "joint"], floor="naive", ceiling="joint")
SEEN = ((0, 0), (1, 0), (1, 1))  # task 1 after it, task 1 after task 2, task 2
WISHES = ("liked most after task 1", "liked most after task 2", "rose most", "fell most")


def _title(results: Results) -> str:
    """What was seen, and whether it is the recorded run: the quick preset runs some experiments only in part."""
    return (
        f"{results.data_title}, recorded full run"
        if results.preset == "full" and not results.live
        else results.data_title
    )


def _picture(axes: Any, x: np.ndarray, title: str = "", size: float = 8) -> None:
    x = np.moveaxis(x, 0, 2)
    x = x / 255 if x.dtype == np.uint8 else x
    axes.imshow(np.round(SHADES * x) / SHADES, interpolation="nearest")
    axes.set_title(title, fontsize=size)
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)


def draw_graded(size: int = 64, scene: int = 2) -> Figure:
    """One scene, spoilt in five ways at four levels; the true quality stands above."""
    use_style()
    figure = Figure(figsize=(3.1, 3.9), layout="constrained")
    shown = (0, 1, 3, 5)  # of the levels; all six would make a large notebook
    grid = figure.subplots(len(lesson.DISTORTIONS), len(shown))
    for i, name in enumerate(lesson.DISTORTIONS):
        for axes, k in zip(grid[i], shown, strict=True):
            title = f"{lesson.true_quality()[k]:.2f}" if i == 0 else ""
            _picture(axes, lesson.graded(size)[i, k, scene], title, 10)
        grid[i, 0].set_ylabel(name)
    figure.suptitle(f"True quality\n({STANDIN})", fontsize=10)
    return figure


def draw_sphere(results: Results, score: np.ndarray) -> Figure:
    """Where the first task's test images lie after it: around the positive vector, and how long they were before.

    Args:
        score: `(n,)` mean votes of these images.
    """
    cosine, beside, length = np.array(results.records["naive"][0]["sphere"])[0].T
    use_style()
    figure = Figure(figsize=(7.4, 3.1), layout="constrained")
    left, right = figure.subplots(1, 2)
    angle = np.linspace(0, 2 * np.pi, 200)
    left.plot(np.cos(angle), np.sin(angle), color=GREY, linewidth=0.8)
    left.scatter(cosine, beside, c=score, cmap="cividis", s=14, vmin=0, vmax=1)
    left.annotate("", (1, 0), (0, 0), arrowprops={"arrowstyle": "->", "color": PALETTE[1], "linewidth": 2})
    left.text(0.98, 0.08, "positive vector", color=PALETTE[1], ha="right")
    left.set(aspect="equal", xlabel="cosine with the positive vector", ylabel="largest direction beside it")
    left.set_title("Seen in two of 64 dimensions")
    points = right.scatter(length, (1 + cosine) / 2, c=score, cmap="cividis", s=14, vmin=0, vmax=1)
    right.set(
        xscale="log", xlabel="length before it is brought to 1", ylabel="score", title="What the length would have said"
    )
    figure.colorbar(points, ax=right, label="mean vote")
    figure.suptitle(_title(results), fontsize=9)
    return figure


def draw_forgetting(results: Results) -> Figure:
    """SRCC on each part's test images, before training, after EVA's part and after AVA's; mean over seeds, seeds as dots."""
    use_style()
    figure = Figure(figsize=(8, 3.3), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    last = results.accuracy("naive").shape[1] - 1
    for task, (axes, name) in enumerate(zip(panels, ("EVA's part (task 1)", "AVA's part (task 2)"), strict=True)):
        for place, label in enumerate(results.labels):
            runs, look = results.accuracy(label)[:, :, task], LOOKS[label]
            x = np.arange(1, last + 2) + 0.03 * (place - 2.5)
            axes.plot(x, runs.mean(axis=0), **look)
            axes.plot(np.repeat(x[None], len(runs), axis=0).ravel(), runs.ravel(), ".", color=look["color"], alpha=0.5)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(title=name, xticks=[1, 2], xticklabels=["after task 1", "after task 2"], xlim=(0.8, 2.2))
    panels[0].set_ylabel("SRCC on test images")
    panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(_title(results), fontsize=9)
    return figure


def show_stream(results: Results) -> None:
    """Final mean SRCC, both tasks, stability and plasticity; methods that only the full run has stand in a table below."""
    columns: Mapping[str, Any] = {
        "mean SRCC": "mean_srcc",
        "SRCC, task 1": lambda record: record["accuracy"][-1][0],
        "SRCC, task 2": lambda record: record["accuracy"][-1][1],
        "plasticity": "plasticity_index",
        "stability": "stability_index",
    }
    caption = "After both tasks. PackNet is told the task of every test image."
    for part in (results, recorded_only(results)):
        if part.records:
            part.table(columns, digits=2, caption=caption)


def recorded_only(results: Results) -> Results:
    """The conditions that the recorded full run has and these results do not."""
    values = results.full.values if results.full else {}
    others = {label: dict(runs) for label, runs in values.items() if label not in results.records}
    return Results(results.name, results.title, "full", others, results.full, live=False)


def whole(results: Results) -> Results:
    """The recorded full run where there is one: for what the quick preset runs only in part."""
    if results.full is None:
        return results
    return Results(results.name, results.title, "full", dict(results.full.values), results.full, live=False)


def show_intervals(results: Results) -> None:
    """Seed by seed: the SRCC on task 1 after both, with the bootstrap's 95 % interval."""
    source = results.full.values if results.full else results.records
    seeds = list(next(iter(source.values())))
    rows = [
        [label, *("{:.2f} ({:.2f} to {:.2f})".format(*runs[seed]["interval"][0]) for seed in seeds)]
        for label, runs in source.items()
    ]
    whose = "Recorded full run" if results.full else "Your run"
    display.table(
        ["", *(f"seed {seed}" for seed in seeds)],
        rows,
        f"{whose}: SRCC on task 1 after both tasks, and 95 % of 200 drawings of its scenes.",
    )


def draw_curves(results: Results, labels: tuple[str, ...] = ("naive", "replay")) -> Figure:
    """What scorers say of graded pictures after each task, one panel a distortion, with the true quality."""
    use_style()
    figure = Figure(figsize=(7.6, 1.9 * len(labels) + 0.4), layout="constrained")
    grid = figure.subplots(len(labels), len(lesson.DISTORTIONS), sharey=True, squeeze=False)
    for row, label in enumerate(labels):
        scores = results.mean(label, "graded")  # (tasks, distortions, levels)
        for i, name in enumerate(lesson.DISTORTIONS):
            axes = grid[row, i]
            axes.plot(lesson.LEVELS, lesson.true_quality(), color="black", linewidth=1, label="true quality")
            axes.plot(lesson.LEVELS, scores[0, i], "--", color=PALETTE[0], label="after task 1")
            axes.plot(lesson.LEVELS, scores[1, i], "-", marker="o", color=PALETTE[1], label="after task 2")
            axes.set_ylim(0, 1)
            if row == 0:
                part = "both" if name == "contrast" else "task 1" if i < 2 else "task 2"
                axes.set_title(f"{name} ({part})", fontsize=9)
        grid[row, 0].set_ylabel(f"{label}\nscore")
    for axes in grid[-1]:
        axes.set_xlabel("level")
    grid[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(f"Twelve scenes, spoilt in one way: {_title(results)}", fontsize=9)
    return figure


def draw_levels(results: Results, size: int, distortion: str, scene: int, method: str) -> Figure:
    """One scene at five levels of one distortion; under each what the scorer gives after task 1 and after task 2."""
    i = lesson.DISTORTIONS.index(distortion)
    scores = np.array(results.records[method][0]["graded_scenes"])[:, i, :, scene]  # (tasks, levels)
    use_style()
    figure = Figure(figsize=(5.6, 3.1), layout="constrained")
    panels: Any = figure.subfigures(2, 1, height_ratios=(1, 1.2))
    top, bottom = panels
    shown = (0, 1, 2, 3, 5)
    for k, axes in zip(shown, top.subplots(1, len(shown)), strict=True):
        _picture(axes, lesson.graded(size)[i, k, scene], f"level {lesson.LEVELS[k]:g}")
    axes = bottom.subplots()
    axes.plot(lesson.LEVELS, lesson.true_quality(), color="black", linewidth=1, label="true quality")
    axes.plot(lesson.LEVELS, scores[0], "--", marker="s", color=PALETTE[0], label="after task 1")
    axes.plot(lesson.LEVELS, scores[1], "-", marker="o", color=PALETTE[1], label="after task 2")
    axes.set(ylim=(0, 1), xlabel=f"level of {distortion}", ylabel=f"score, {method}")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def draw_picks(results: Results, data: Any, wish: str, method: str, count: int = 5) -> Figure:
    """Test images of task 1: what the scorer likes, and where it changed its mind most.

    Args:
        data: the first task's data set, in the sizes of the results.
        wish: one of `WISHES`; rising and falling are of the rank among all test images.
    """
    then, now = np.array(results.records[method][0]["first"])
    change = rankdata(now) - rankdata(then)
    by = dict(zip(WISHES, (then, now, change, -change), strict=True))[wish]
    use_style()
    figure = Figure(figsize=(5.4, 2.2), layout="constrained")
    for axes, index in zip(figure.subplots(1, count), np.argsort(-by)[:count], strict=True):
        text = f"true {data.test.truth[index]:.2f}\ntask 1: {then[index]:.2f}\ntask 2: {now[index]:.2f}"
        _picture(axes, data.test.x[index], text)
    figure.suptitle(f"{method}, {wish}\n{_title(results)}", fontsize=8)
    return figure


def draw_histograms() -> Figure:
    """One histogram of votes, two predictions of it: with the cumulative sum the near one is cheaper, without it both cost the same."""
    levels = np.arange(1, 11)
    votes = np.array([0, 0.1, 0.8, 0.1, 0, 0, 0, 0, 0, 0])
    shown = {"votes": votes, "one level off": np.roll(votes, 1), "six levels off": np.roll(votes, 6)}
    target = torch.tensor(votes)[None]
    use_style()
    figure = Figure(figsize=(9, 3), layout="constrained")
    for place, (axes, (name, shares)) in enumerate(zip(figure.subplots(1, 3, sharey=True), shown.items(), strict=True)):
        other = torch.tensor(shares)[None]
        with_sum = float(quality.emd_loss(other, target))
        without = float((other - target).square().mean(dim=1).sqrt().mean())
        axes.bar(levels, shares, color=PALETTE[place], alpha=0.7)
        axes.plot(levels, shares.cumsum(), drawstyle="steps-post", color="black", linewidth=1)
        text = "" if place == 0 else f"\nwith the sum {with_sum:.2f}, without {without:.2f}"
        axes.set(xlabel="level of the vote", title=name + text, xticks=levels[::3])
    figure.axes[0].set_ylabel("share of the votes;\nline: cumulative")
    return figure


def draw_augmentations(size: int = 64, scene: int = 4) -> Figure:
    """One clean picture, changed in ways that leave its label true (above) and in ways that do not (below)."""
    clean = torch.from_numpy(lesson.graded(size)[0, 0, scene]).float()[None] / 255
    shift = quality.QualityAugment(shift=6, flip=False)
    same = {"as it is": clean, "mirrored": clean.flip(3)}
    for number in range(3):
        same[f"shifted ({number + 1})"] = shift(clean, torch.Generator().manual_seed(number))
    same["mirrored, shifted"] = shift(clean.flip(3), torch.Generator().manual_seed(9))
    changed = {name: change(clean, 0.7) for name, change in quality.FALSIFYING.items()}
    use_style()
    figure = Figure(figsize=(6.6, 3), layout="constrained")
    grid = figure.subplots(2, 6)
    for row, pictures in enumerate((same, changed)):
        for axes, (name, x) in zip(grid[row], pictures.items(), strict=True):
            _picture(axes, x[0].clamp(0, 1).numpy(), name, 8)
    grid[0, 0].set_ylabel("label true")
    grid[1, 0].set_ylabel("label false")
    figure.suptitle(f"A picture of quality 1 ({STANDIN})", fontsize=10)
    return figure


def draw_bars(results: Results, key: Any, xlabel: str) -> Figure:
    """One bar a condition, seeds as dots, whatever is lowest and highest."""
    figure, axes = one_axes(7, 0.9 + 0.45 * len(results.labels))
    for row, label in enumerate(results.labels):
        seeds = results.values(label, key)
        axes.barh(row, seeds.mean(), height=0.65, color=PALETTE[row % len(PALETTE)], alpha=0.7)
        axes.plot(seeds, np.full(len(seeds), row), "o", color="black", markeredgecolor="white", markersize=4.5)
        axes.annotate(f"{seeds.mean():.2f}", (max(0, np.nanmax(seeds, initial=0)), row), (6, 0), textcoords="offset points", va="center")  # fmt: skip
    axes.set_yticks(range(len(results.labels)), list(results.labels))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel=xlabel, title=_title(results))
    axes.margins(x=0.12)
    return figure


def draw_categories(results: Results) -> Figure:
    """Mean SRCC over the categories seen so far, after each of the six; the seeds' range as a band."""
    figure, axes = one_axes(7, 3)
    for label in results.labels:
        runs = np.array([quality.mean_srcc(matrix) for matrix in results.accuracy(label)])
        x, look = np.arange(1, runs.shape[1] + 1), LOOKS[label]
        axes.plot(x, runs.mean(axis=0), **look)
        axes.fill_between(x, runs.min(axis=0), runs.max(axis=0), color=look["color"], alpha=0.12, linewidth=0)
    axes.set(xlabel="categories learned", ylabel="mean SRCC, categories seen", title=_title(results))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def draw_scales(results: Results) -> Figure:
    """SRCC of each loss with one scale for both data sets and with two; seeds as dots."""
    figure, axes = one_axes(7, 3)
    losses = list(dict.fromkeys(label.split(", ")[0] for label in results.labels))
    for place, scales in enumerate(("one scale", "two scales")):
        for row, loss in enumerate(losses):
            label = f"{loss}, {scales}"
            if label not in results.labels:
                continue
            seeds, height = results.values(label, "mean_srcc"), row + 0.38 * (place - 0.5)
            name = f"{scales} for both data sets" if place == 0 else f"{scales}, one each"
            axes.barh(height, seeds.mean(), 0.36, color=PALETTE[place], alpha=0.7, label=name if row == 0 else None)
            axes.plot(seeds, np.full(len(seeds), height), "o", color="black", markeredgecolor="white", markersize=4.5)
            axes.annotate(f"{seeds.mean():.2f}", (max(0, np.nanmax(seeds)), height), (6, 0), textcoords="offset points", va="center")  # fmt: skip
    axes.set_yticks(range(len(losses)), losses)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="mean SRCC on the test images of both", title=_title(results))
    axes.margins(x=0.12)
    axes.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    return figure


def show_cost(cost: Results, stream: Results, backbones: Results) -> None:
    """What the backbones cost, and how they score after both tasks, without a method; one row each."""
    recorded = all(results.full or results.preset == "full" for results in (cost, stream, backbones))
    sources = [(results.full.values if results.full else results.records) if recorded else results.records for results in (cost, stream, backbones)]  # fmt: skip
    measured = next(iter(sources[0][cost.labels[0]].values()))["rows"]
    runs = {"mobilenet_v3_small": sources[1]["naive"], **sources[2]}
    rows = []
    for name, row in measured.items():
        memory = row["memory_bytes"]
        rows.append(
            [
                name,
                f"{row['parameters'] / 1e6:.2f} M",
                f"{row['macs'] / 1e6:,.0f} M",
                f"{row['milliseconds']:.1f}",
                f"{row['slow_milliseconds']:.1f}",
                "not measured" if memory < 0 or not recorded else f"{memory / 1e6:.0f}",
                *(mean_and_spread([r["accuracy"][i][j] for r in runs[name].values()], 2) for i, j in SEEN),
            ]
        )
    header = ["", "parameters", "MACs", "time (ms)", "95th percentile (ms)", "memory (MB)"]
    header += ["SRCC task 1\nafter task 1", "SRCC task 1\nafter task 2", "SRCC task 2\nafter task 2"]
    whose = "Recorded full run" if recorded else "Your run"
    display.table(
        header, rows, f"{whose}; one image of 64 x 64, one thread of a CPU, taken in turns. SRCC: naive training."
    )


def show_data(*parts: Any) -> None:
    """A banner that says what the pictures are."""
    sizes = "; ".join(
        f"{part.title}: {len(part.train):,} training, {len(part.validation):,} validation, {len(part.test):,} test pictures"
        for part in parts
    )
    text = f"{sizes}. Each {' x '.join(map(str, parts[0].image_shape))}. EVA and AVA themselves can be used with `course iqa train`."
    display.banner("stand-in", "Not the real data: drawn photographs", text)
