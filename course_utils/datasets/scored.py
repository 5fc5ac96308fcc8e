"""Images with a score: what EVA, AVA and their stand-in give beyond a class, and splits that never share an image.

Scores are normalised to [0, 1] whatever the voting scale was, so that one network can learn from several data sets.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from course_utils.datasets.dataset import Dataset, Split

FRACTIONS = {"test": 0.2, "validation": 0.1}  # the rest is for training
SPLIT_SEED = 2020  # of the published splits: the year of EVA
FIELDS = ("x", "y", "group", "score", "spread", "distribution", "truth")  # of a ScoredSplit, in order
TID_NAME = re.compile(r"(i\d\d)_\d\d_\d")  # TID2013: reference image, distortion, level


@dataclass(frozen=True)
class ScoredSplit(Split):
    """Images with their mean score and, where known, how people disagreed.

    y: int64 (N,), the content category, an index into `Dataset.classes`; not what is to be predicted.
    score: float32 (N,), mean score in [0, 1].
    spread: float32 (N,), standard deviation of the single votes, in the same unit; NaN where it is not known.
    distribution: float32 (N, levels), share of the votes on each level, lowest first, rows sum to 1; NaN if not known.
    truth: float32 (N,), the quality that votes only estimate; known for the stand-in, NaN for photographs.
    """

    score: np.ndarray
    spread: np.ndarray
    distribution: np.ndarray
    truth: np.ndarray

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("score", "spread", "truth"):
            values = getattr(self, field)
            if values.shape != (len(self.x),) or values.dtype != np.float32:
                raise ValueError(
                    f"ScoredSplit.{field} is {values.dtype} {values.shape}; expected float32 ({len(self.x)},), one an image"
                )
        if self.distribution.ndim != 2 or len(self.distribution) != len(self.x):
            raise ValueError(
                f"ScoredSplit.distribution has shape {self.distribution.shape}; expected ({len(self.x)}, levels)"
            )
        if len(self) and not (0 <= self.score.min() and self.score.max() <= 1):
            raise ValueError(
                f"scores run from {self.score.min():.3g} to {self.score.max():.3g}; expected 0 to 1: divide by the "
                "range of the voting scale first"
            )

    def select(self, indices: np.ndarray) -> ScoredSplit:
        return ScoredSplit(*(getattr(self, field)[indices] for field in FIELDS))


@dataclass(frozen=True)
class Labels:
    """What a label file says, one row an image, in the file's order.

    ids: names of the images without ending, texts: "0012" and "12" are two images.
    score, spread: float64 (N,), distribution: float64 (N, levels), as in `ScoredSplit`.
    category: int64 (N,), index into `categories`.
    votes: int64 (N,), number of votes, 0 where it is not known.
    """

    ids: tuple[str, ...]
    score: np.ndarray
    spread: np.ndarray
    distribution: np.ndarray
    category: np.ndarray
    votes: np.ndarray
    categories: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: np.ndarray) -> Labels:
        """The rows at `rows` (integers or a mask), in that order."""
        picked = np.arange(len(self))[rows]
        ids = tuple(self.ids[row] for row in picked)
        arrays = {
            name: getattr(self, name)[picked] for name in ("score", "spread", "distribution", "category", "votes")
        }
        return Labels(ids=ids, categories=self.categories, **arrays)


def from_histograms(
    ids: Sequence[str],
    histograms: np.ndarray,
    *,
    category: np.ndarray | None = None,
    categories: Sequence[str] = ("photographs",),
) -> Labels:
    """Labels from votes per level.

    histograms: (N, levels), counts or shares, lowest level first; a row must have a positive sum.
    """
    total = histograms.sum(axis=1)
    shares = histograms / total[:, None]
    level = np.linspace(0, 1, histograms.shape[1])
    mean = shares @ level
    spread = np.sqrt(np.maximum(shares @ level**2 - mean**2, 0))
    # A sum of 1 with fractions in it is a normalised row: how many voted is not known.
    normalised = (histograms != np.rint(histograms)).any(axis=1)
    counts = np.where(normalised, 0, np.rint(total)).astype(np.int64)
    labels = np.zeros(len(ids), dtype=np.int64) if category is None else category
    return Labels(tuple(ids), mean, spread, shares, labels, counts, tuple(categories))


def rebin(distribution: np.ndarray, levels: int) -> np.ndarray:
    """A histogram on another number of levels over the same range, (N, old) -> (N, levels); the mean stays.

    EVA's scale has 11 levels and AVA's 10. The share of a level that falls between two new ones is divided between
    them by its distance to each, so no mean moves. (A spread grows by a little.)
    """
    old = distribution.shape[1]
    place = np.linspace(0, levels - 1, old)
    below = np.minimum(place.astype(np.int64), levels - 2)
    part = place - below
    matrix = np.zeros((old, levels))
    matrix[np.arange(old), below] = 1 - part
    matrix[np.arange(old), below + 1] += part
    return distribution @ matrix


def reference_of(image_id: str) -> str:
    """What the picture shows: the undistorted image it was made from (TID2013: "I04_01_2" and "i04_17_5"), or itself."""
    match = TID_NAME.fullmatch(image_id.lower())
    return match[1] if match else image_id


def split_of(image_id: str, seed: int = SPLIT_SEED) -> str:
    """ "train", "validation" or "test": the published split, a function of the image's name and nothing else.

    EVA's photographs are taken from AVA and keep their names. A split that is drawn for each data set on its own puts
    some of EVA's test images into AVA's training set; this one cannot. All distorted versions of one picture go
    together. A share of 20 % is for test and 10 % for validation.

    Built in lesson 06, exercise 06.8.
    """
    digest = hashlib.sha256(f"{seed}:{reference_of(image_id)}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < FRACTIONS["test"]:
        return "test"
    return "validation" if place < FRACTIONS["test"] + FRACTIONS["validation"] else "train"


def split_labels(labels: Labels, seed: int = SPLIT_SEED, test_ids: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Rows of each split, {"train": (n,), ...}. `test_ids`, where given, are the publisher's own test images."""
    fixed = set(test_ids)
    place = np.array([_place(image_id, seed, fixed) for image_id in labels.ids], dtype=object)
    return {name: np.flatnonzero(place == name) for name in ("train", "validation", "test")}


def _place(image_id: str, seed: int, test_ids: set[str]) -> str:
    if not test_ids:
        return split_of(image_id, seed)
    if image_id in test_ids:
        return "test"
    return "validation" if split_of(image_id, seed) == "validation" else "train"


def scored_dataset(name: str, splits: dict[str, ScoredSplit], classes: tuple[str, ...], source: str) -> Dataset:
    """A `Dataset` of three scored splits. Raises ValueError if an image's group is in two of them."""
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = np.intersect1d(splits[first].group, splits[second].group)
        if len(shared):
            raise ValueError(
                f"{name}: {len(shared)} groups of images are in {first} and in {second}, first {shared[0]}; "
                "a picture must be in one split only"
            )
    return Dataset(name=name, classes=classes, source=source, **splits)
