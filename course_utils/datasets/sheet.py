"""A contact sheet: a few images of every class on one picture."""

from __future__ import annotations

import numpy as np

from course_utils.datasets.dataset import Dataset

GAP = 2  # pixels between two images
BACKGROUND = 255


def contact_sheet(
    data: Dataset, per_class: int = 1, columns: int | None = None, *, split: str = "train", scale: int = 1
) -> np.ndarray:
    """The first `per_class` images of each class of a split as one picture, uint8 (height, width, 3).

    Classes follow each other in order, left to right and top to bottom. Images of a class come from different groups
    (tracks) where it has enough of them. `columns` is counted in images; by default the sheet is about square. `scale`
    repeats every pixel. Raises ValueError for counts below 1 or an unknown split.
    """
    if per_class < 1 or scale < 1 or (columns is not None and columns < 1):
        raise ValueError(f"per_class={per_class}, columns={columns}, scale={scale}: each must be at least 1")
    if split not in ("train", "validation", "test"):
        raise ValueError(f"unknown split {split!r}; use train, validation or test")
    images = getattr(data, split)
    chosen = np.concatenate([_spread(images.y, images.group, label, per_class) for label in range(data.num_classes)])
    if columns is None:
        columns = per_class * max(1, round(len(chosen) ** 0.5 / per_class))
    _, height, width = data.image_shape
    rows = -(-len(chosen) // columns)
    sheet = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), BACKGROUND, dtype=np.uint8)
    for position, index in enumerate(chosen):
        top = GAP + (position // columns) * (height + GAP)
        left = GAP + (position % columns) * (width + GAP)
        sheet[top : top + height, left : left + width] = _rgb(images.x[index])
    return sheet.repeat(scale, axis=0).repeat(scale, axis=1)


def _spread(y: np.ndarray, group: np.ndarray, label: int, count: int) -> np.ndarray:
    """Indices of up to `count` images of a class, each from another group as long as there are new groups."""
    of_class = np.flatnonzero(y == label)
    _, first = np.unique(group[of_class], return_index=True)
    first = np.sort(first)
    rest = np.setdiff1d(np.arange(len(of_class)), first)
    return of_class[np.concatenate([first, rest])[:count]]


def _rgb(image: np.ndarray) -> np.ndarray:
    """(C, H, W) with one or three channels to (H, W, 3); of any other number of channels, the first."""
    channels = image if len(image) == 3 else np.repeat(image[:1], 3, axis=0)
    return channels.transpose(1, 2, 0)
