"""Figures of the course: plain arrays in, a matplotlib `Figure` out.

    curves = {"fine-tuning": a, "replay": b, "joint": c}
    fig = plots.accuracy_curves(curves, title=data.title, floor="fine-tuning", ceiling="joint")
    plots.show(fig, alt="Accuracy after each task: replay lies between fine-tuning and joint training.")

Accuracies are shares between 0 and 1 and are drawn in per cent. Titles should contain the data's title, which says when
the data are a stand-in. A method has the same colour in every figure that names the same methods in the same order.
"""

from course_utils.plots.lines import accuracy_curves, add_prediction, bars, counts, sweep, training_time
from course_utils.plots.maps import accuracy_heatmap, confusion_matrix, contact_sheet, landscape
from course_utils.plots.style import DASHES, MARKERS, PALETTE, bundle, png, show, use_style

__all__ = [
    "DASHES",
    "MARKERS",
    "PALETTE",
    "accuracy_curves",
    "accuracy_heatmap",
    "add_prediction",
    "bars",
    "bundle",
    "confusion_matrix",
    "contact_sheet",
    "counts",
    "landscape",
    "png",
    "show",
    "sweep",
    "training_time",
    "use_style",
]
