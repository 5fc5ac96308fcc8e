"""The course's look, and how a figure reaches the screen.

Colours are Okabe and Ito's, which colour-blind readers can tell apart, and every line also has its own dashes
and marker. No pyplot state: a figure that is not shown costs nothing.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure

from course_utils.screen import in_notebook

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito (2008), without the yellow that is too pale on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DPI = 96  # an executed notebook with twenty such figures stays below 1 MB
GREY = "#595959"


def use_style() -> None:
    """Set matplotlib's defaults to the course's: no remote style sheets or fonts. Every figure function calls it."""
    matplotlib.rcParams.update(
        {
            "font.family": "DejaVu Sans",
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "legend.frameon": False,
            "figure.dpi": DPI,
            "lines.linewidth": 1.8,
            "lines.markersize": 5,
        }
    )


def show(figure: Figure, alt: str) -> None:
    """Show a figure with a text alternative, which screen readers speak and tests ask for.

    Outside a notebook the text alternative is printed.

    Raises:
        ValueError: `alt` is empty.
    """
    content, metadata = bundle(figure, alt)
    if not in_notebook():
        print(content["text/plain"])
        return
    from IPython.display import display

    display(content, metadata=metadata, raw=True)


def bundle(figure: Figure, alt: str) -> tuple[dict[str, str], dict[str, Any]]:
    """A figure as Jupyter shows it: data by MIME type, and metadata with the text alternative."""
    if not alt.strip():
        raise ValueError("a figure needs alt='...': one sentence that says what it shows")
    picture = base64.b64encode(png(figure)).decode()
    return {"image/png": picture, "text/plain": f"[figure] {alt}"}, {"image/png": {"alt": alt}}


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, without transparency: an eighth less to store. The same figure gives the same bytes."""
    from PIL import Image

    drawn, buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    Image.open(drawn).convert("RGB").save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def one_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure (inches) with one pair of axes, in the course's style."""
    use_style()
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def numbered(index: int) -> dict[str, Any]:
    """Colour, dashes and marker of line number `index`."""
    place = index % len(PALETTE)
    return {"color": PALETTE[place], "linestyle": DASHES[place], "marker": MARKERS[place]}


def by_label(labels: Sequence[str], floor: str | None = None, ceiling: str | None = None) -> dict[str, dict[str, Any]]:
    """Colour, dashes, marker and legend of every label.

    `floor`, the fine-tuning run, is grey and dotted: what forgetting costs without any method.
    `ceiling`, the joint run, is black and dashed: what all data at once reach.

    Raises:
        ValueError: floor or ceiling is not one of the labels.
    """
    for role, name in (("floor", floor), ("ceiling", ceiling)):
        if name is not None and name not in labels:
            raise ValueError(f"{role}={name!r} is not one of {', '.join(labels)}")
    others = [label for label in labels if label not in (floor, ceiling)]
    styles = {label: {**numbered(index), "label": label} for index, label in enumerate(others)}
    if floor is not None:
        styles[floor] = {"color": GREY, "linestyle": ":", "marker": "x", "label": f"{floor} (floor)"}
    if ceiling is not None:
        styles[ceiling] = {"color": "black", "linestyle": "--", "marker": "*", "label": f"{ceiling} (ceiling)"}
    return styles
