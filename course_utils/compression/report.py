"""What compression brought, as figures and as a page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from course_utils.compression.choice import Candidate, pareto
from course_utils.plots.style import DPI, GREY, PALETTE, numbered, use_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = ("baseline", "quantized", "pruned", "combined")
COLUMNS = {
    "size_mb": ("size (MB)", ".3f"),
    "size_ratio": ("times smaller", ".1f"),
    "parameters": ("parameters", ",d"),
    "macs": ("MACs", ",d"),
    "latency_ms": ("latency (ms)", ".3f"),
    "latency_p95_ms": ("95 % (ms)", ".3f"),
    "speedup": ("times as fast", ".1f"),
    "fps": ("images/s", ",.0f"),
    "memory_mb": ("peak memory (MB)", ".1f"),
    "accuracy": ("accuracy", ".1%"),
    "integer_nodes": ("integer nodes", "d"),
}


def rows_of(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Label -> numbers, of what `benchmark_models` or `AutoOptimizer.optimize_model` returned.

    Raises:
        ValueError: neither of the two.
    """
    if set(KINDS) <= set(results):
        return {f"{kind}: {results[kind]['name']}": dict(results[kind]["metrics"]) for kind in KINDS}
    rows = {label: dict(row) for label, row in results.items() if isinstance(row, Mapping)}
    if not rows or not all("size_mb" in row and "latency_ms" in row for row in rows.values()):
        raise ValueError("results hold no sizes and times; give what benchmark_models or optimize_model returned")
    return rows


def plot_optimization_comparison(
    results: Mapping[str, Any], title: str = "", save_path: str | Path | None = None
) -> Figure:
    """Four panels: size, images a second, accuracy, and size against speed with accuracy as the colour.

    Args:
        results: from `benchmark_models` or `AutoOptimizer.optimize_model`; the first one is the baseline.
        title: contains the data's title.
        save_path: also write a PNG file.
    """
    rows = rows_of(results)
    use_style()
    figure = Figure(figsize=(10, 2.6 + 0.9 * len(rows)), layout="constrained")
    panels = figure.subplots(2, 2)
    labels = list(rows)
    scored = all(row.get("accuracy") is not None for row in rows.values())
    _bars(panels[0, 0], labels, [row["size_mb"] for row in rows.values()], "size of the file (MB)", "{:.2f}")
    _bars(panels[0, 1], labels, [row["fps"] for row in rows.values()], "images a second", "{:,.0f}")
    shares = [100 * row["accuracy"] if scored else 0.0 for row in rows.values()]
    _bars(panels[1, 0], labels, shares, "accuracy (%)" if scored else "accuracy (not measured)", "{:.1f}")
    for axes in (panels[0, 1], panels[1, 1]):
        axes.set_yticklabels([])
    panels[1, 1].clear()
    _scatter(figure, panels[1, 1], rows, shares if scored else None)
    figure.suptitle(title or "Before and after")
    return _saved(figure, save_path)


def _bars(axes: Axes, labels: Sequence[str], values: Sequence[float], xlabel: str, form: str) -> None:
    for place, value in enumerate(values):
        axes.barh(place, value, height=0.65, color=PALETTE[place % len(PALETTE)], alpha=0.8)
        axes.annotate(form.format(value), (value, place), (4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(xlabel)
    axes.margins(x=0.18)


def _scatter(figure: Figure, axes: Axes, rows: Mapping[str, Mapping[str, Any]], shares: Sequence[float] | None) -> None:
    sizes, speeds = [row["size_mb"] for row in rows.values()], [row["fps"] for row in rows.values()]
    if shares is None:
        axes.scatter(sizes, speeds, color=PALETTE[0], s=60)
    else:
        points = axes.scatter(sizes, speeds, c=shares, cmap="viridis", s=70, edgecolors="black", linewidths=0.6)
        figure.colorbar(points, ax=axes, label="accuracy (%)")
    for number, (label, size, speed) in enumerate(zip(rows, sizes, speeds, strict=True)):
        above = 7 if number % 2 == 0 else -13
        axes.annotate(label.partition(":")[0], (size, speed), (6, above), textcoords="offset points", fontsize=8)
    axes.set(xlabel="size of the file (MB), less is better", ylabel="images a second, more is better")
    _spread(axes, sizes, "x")
    _spread(axes, speeds, "y")
    axes.margins(x=0.25, y=0.2)


def _spread(axes: Axes, values: Sequence[float], side: str) -> None:
    """A logarithmic axis with plain numbers where values differ much, a linear one where they do not."""
    if min(values) <= 0 or max(values) / min(values) <= 5:
        return
    axes.set(**{f"{side}scale": "log"})
    axis = axes.xaxis if side == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def plot_efficiency_over_tasks(
    history: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Mapping[str, Any]]],
    title: str = "",
    save_path: str | Path | None = None,
) -> Figure:
    """Size, speed, accuracy and forgetting of what is deployed after every task of a stream.

    Speed is how many times as fast a file is as the network before any cut, measured in turns; where a run lacks that ratio,
    milliseconds are drawn for all.

    Args:
        history: `Compress.rows`, or label -> rows of several runs.
        title: contains the data's title.
        save_path: also write a PNG file.

    Raises:
        ValueError: no row.
    """
    runs = dict(history) if isinstance(history, Mapping) else {"deployed": history}
    if not runs or not all(runs.values()):
        raise ValueError("history is empty; give Compress.rows after a fit")
    use_style()
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    panels = figure.subplots(2, 2).ravel()
    ratios = all(row.get("speedup") is not None for rows in runs.values() for row in rows)
    speed = ("speedup", "times as fast as uncut", 1) if ratios else ("latency_ms", "latency (ms)", 1)
    wanted = [("size_mb", "size of the file (MB)", 1), speed]
    wanted += [("accuracy", "accuracy on all tasks seen (%)", 100), ("forgetting", "forgetting (points)", 100)]
    for axes, (key, ylabel, factor) in zip(panels, wanted, strict=True):
        for number, (label, rows) in enumerate(runs.items()):
            found = [(row["task"], factor * row[key]) for row in rows if row.get(key) is not None]
            if found:
                axes.plot(*zip(*found, strict=True), label=label, **numbered(number))
        axes.set(xlabel="tasks learned", ylabel=ylabel)
        low, high = axes.get_ylim()
        axes.set_ylim(min(0, low), high + 0.05 * (high - min(0, low)))
        axes.set_xticks(sorted({row["task"] for rows in runs.values() for row in rows}))
    if len(runs) > 1:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(3, len(runs)))
    figure.suptitle(title or "What is deployed after every task")
    return _saved(figure, save_path)


def plot_front(
    candidates: Sequence[Candidate], title: str = "", chosen: str | None = None, save_path: str | Path | None = None
) -> Figure:
    """Accuracy against size and against latency, with those on the Pareto front filled.

    Args:
        candidates: measured together.
        chosen: name of the one that is marked.
    """
    use_style()
    figure = Figure(figsize=(10, 4), layout="constrained")
    front = {candidate.name for candidate in pareto(candidates)}
    for axes, key, xlabel in zip(
        figure.subplots(1, 2), ("size_mb", "latency_ms"), ("size of the file (MB)", "latency (ms)"), strict=True
    ):
        for candidate in candidates:
            inside = candidate.name in front
            place = (getattr(candidate, key), 100 * candidate.accuracy)
            color = PALETTE[1] if candidate.name == chosen else PALETTE[0] if inside else GREY
            axes.plot(*place, "o", color=color, fillstyle="full" if inside else "none", markersize=9 if inside else 6)
            if inside:
                above = 7 if len(axes.texts) % 2 == 0 else -13  # in turn: neighbours are often close
                axes.annotate(candidate.name, place, (5, above), textcoords="offset points", fontsize=8)
        axes.set(xlabel=f"{xlabel}, less is better", ylabel="accuracy (%)")
        _spread(axes, [getattr(candidate, key) for candidate in candidates], "x")
        axes.margins(x=0.25, y=0.15)
    figure.suptitle(title or "Filled: nobody is smaller, faster and more accurate at once")
    return _saved(figure, save_path)


def _saved(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        figure.savefig(path, dpi=DPI, facecolor="white")
    return figure


# ---- pages -------------------------------------------------------------------------------------------------------


def create_efficiency_report(
    results: Mapping[str, Any], path: str | Path | None = None, title: str = "Efficiency report", notes: str = ""
) -> str:
    """A table of all that was measured, and what follows from it, in Markdown; with `path`, as Markdown and HTML files.

    Args:
        results: from `benchmark_models` or `AutoOptimizer.optimize_model`.
        path: `report.md` (or `report`) writes `report.md` and `report.html`.
        notes: a paragraph below the table.

    Returns:
        The Markdown text.
    """
    rows = rows_of(results)
    lines = [f"# {title}", "", markdown_table([{"model": label, **row} for label, row in rows.items()]), ""]
    base, *others = rows.values()
    for label, row in list(rows.items())[1:]:
        lines.append(f"- **{label}**: {_sentence(base, row)}")
    if "explanation" in results:
        lines += ["", f"**Chosen:** {results['explanation']}"]
    machines = {row["machine"] for row in rows.values() if row.get("machine")}
    if machines:
        lines += ["", f"Measured on: {'; '.join(sorted(machines))}. Sizes are bytes on disk."]
    if notes:
        lines += ["", notes]
    text = "\n".join(lines).rstrip() + "\n"
    if path is not None:
        target = Path(path).with_suffix("")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_suffix(".md").write_text(text, encoding="utf-8")
        target.with_suffix(".html").write_text(_page(title, rows, lines), encoding="utf-8")
    return text


def _sentence(base: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    smaller, faster = base["size_mb"] / row["size_mb"], base["latency_ms"] / row["latency_ms"]
    words = [f"{smaller:.1f} times smaller" if smaller >= 1 else f"{1 / smaller:.1f} times larger"]
    words.append(f"{faster:.1f} times as fast" if faster >= 1 else f"{1 / faster:.1f} times slower")
    if base.get("accuracy") is not None and row.get("accuracy") is not None:
        words.append(f"{100 * (row['accuracy'] - base['accuracy']):+.1f} points of accuracy")
    return ", ".join(words)


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table; columns in which nothing was measured are left out."""
    names = {key: COLUMNS[key][0] if key in COLUMNS else key for row in rows for key in row}
    shown = [
        key
        for key in names
        if any(row.get(key) is not None for row in rows) and key not in ("path", "machine", "size_bytes")
    ]
    head = f"| {' | '.join(names[key] for key in shown)} |\n| {' | '.join('---' for _ in shown)} |"
    return "\n".join([head, *(f"| {' | '.join(_cell(key, row.get(key)) for key in shown)} |" for row in rows)])


def _cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    if key in COLUMNS:
        return format(value, COLUMNS[key][1])
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _page(title: str, rows: Mapping[str, Mapping[str, Any]], lines: Sequence[str]) -> str:
    """The same in HTML: one file that loads nothing."""
    shown = [key for key in COLUMNS if any(row.get(key) is not None for row in rows.values())]
    head = "".join(f"<th>{html.escape(COLUMNS[key][0])}</th>" for key in shown)
    body = "".join(
        f"<tr><td>{html.escape(label)}</td>{''.join(f'<td>{_cell(key, row.get(key))}</td>' for key in shown)}</tr>"
        for label, row in rows.items()
    )
    text = "".join(f"<p>{html.escape(line.replace('**', '').removeprefix('- '))}</p>" for line in lines[4:] if line)
    style = "body{font-family:sans-serif;margin:2em}td,th{padding:.3em .8em;text-align:right}td:first-child{text-align:left}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{style}</style></head><body><h1>{html.escape(title)}</h1>"
        f"<table><tr><th>model</th>{head}</tr>{body}</table>{text}</body></html>\n"
    )
