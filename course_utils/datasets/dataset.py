"""What every data set of the course looks like, however it was obtained: three splits of uint8 images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# How a data set is called in plot titles and banners: (the real one, its procedural stand-in).
TITLES = {
    "ava": ("AVA", "AVA stand-in (procedural)"),
    "digits": ("Digits", "Digits stand-in (procedural)"),
    "eva": ("EVA", "EVA stand-in (procedural)"),
    "fashion_mnist": ("Fashion-MNIST", "Fashion-MNIST stand-in (procedural)"),
    "glyphs": ("Glyphs", "Glyphs (procedural stand-in)"),
    "gtsrb": ("GTSRB", "GTSRB stand-in (procedural)"),
    "imagenet_28_gray": ("ImageNet 28x28 grey", "ImageNet 28x28 grey stand-in (procedural)"),
    "photos": ("Photographs", "Photographs (procedural stand-in)"),
    "signs": ("Traffic signs", "Traffic signs (procedural stand-in)"),
    "tiny_imagenet_gray": ("Tiny-ImageNet 28x28 grey", "Tiny-ImageNet 28x28 grey stand-in (procedural)"),
}


class DataNotFound(FileNotFoundError):
    """The data set is neither on this machine nor to be had from its publisher now; the message says how to get it."""


class DataCorrupt(ValueError):
    """A file is there but damaged, cut short or not what its name promises; the message names the file and the cure."""


class StandInWarning(UserWarning):
    """Procedural images were used in place of a real data set."""


@dataclass(frozen=True)
class Split:
    """Images with their labels.

    x: uint8 (N, C, H, W), 0 is black and 255 is full brightness.
    y: int64 (N,), index into `Dataset.classes`.
    group: int64 (N,), images with the same number show the same thing (GTSRB: frames of one track). A split into
        training and validation must never cut through a group.
    """

    x: np.ndarray
    y: np.ndarray
    group: np.ndarray

    def __post_init__(self) -> None:
        if self.x.ndim != 4 or self.x.dtype != np.uint8:
            raise ValueError(f"Split.x is {self.x.dtype} {self.x.shape}; expected uint8 (N, C, H, W)")
        for field, values in (("y", self.y), ("group", self.group)):
            if values.shape != (len(self.x),) or values.dtype != np.int64:
                raise ValueError(
                    f"Split.{field} is {values.dtype} {values.shape}; expected int64 ({len(self.x)},), one an image"
                )

    def __len__(self) -> int:
        return len(self.x)

    def select(self, indices: np.ndarray) -> Split:
        """The images at `indices` (integers or a mask (N,)), in that order, as a new split."""
        return Split(self.x[indices], self.y[indices], self.group[indices])


@dataclass(frozen=True)
class Dataset:
    """A data set in memory.

    source says where the images came from: "local" (a file on this machine), "download" (fetched from the publisher
    just now), "bundled" (ships with a library), "standin" (drawn by this package) or "arrays" (yours).
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        for split_name in ("train", "validation", "test"):
            split: Split = getattr(self, split_name)
            if split.x.shape[1:] != self.train.x.shape[1:]:
                raise ValueError(
                    f"{self.name}: {split_name} images have shape {split.x.shape[1:]}, "
                    f"training images {self.train.x.shape[1:]}; all splits must have one (C, H, W)"
                )
            if len(split) and not (0 <= split.y.min() and split.y.max() < len(self.classes)):
                raise ValueError(
                    f"{self.name}: {split_name} labels run from {split.y.min()} to {split.y.max()}; "
                    f"expected 0 to {len(self.classes) - 1}, one number for each of the {len(self.classes)} classes"
                )

    @property
    def standin(self) -> bool:
        """True when the images are drawn by this package instead of photographed: say so wherever you show a result."""
        return self.source == "standin"

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.train.x.shape[1:]
        return channels, height, width

    @property
    def title(self) -> str:
        """Name for plot titles and banners; names the stand-in as such."""
        real, standin = TITLES.get(self.name, (self.name, f"{self.name} stand-in (procedural)"))
        return standin if self.standin else real

    def __repr__(self) -> str:
        return (
            f"Dataset({self.title!r}, train={len(self.train)}, validation={len(self.validation)}, "
            f"test={len(self.test)}, classes={self.num_classes}, image_shape={self.image_shape}, "
            f"source={self.source!r})"
        )


def own_group(x: np.ndarray, start: int = 0) -> np.ndarray:
    """Group numbers (N,) for images that are all unrelated: each one is its own group."""
    return np.arange(start, start + len(x), dtype=np.int64)


def choose_groups(y: np.ndarray, group: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Mask (N,) of the images to hold out: about `fraction` of the groups of every class, never part of a group.

    At least one group of every class is held out and at least one stays; a class with a single group stays whole.
    The choice depends only on the arguments. Where no two images belong together this is an ordinary stratified split.
    """
    generator = np.random.default_rng(seed)
    held_out = np.zeros(len(y), dtype=bool)
    for label in np.unique(y):
        of_class = np.flatnonzero(y == label)
        groups = np.unique(group[of_class])  # sorted, so the order of the images does not matter
        count = min(max(1, round(fraction * len(groups))), len(groups) - 1)
        chosen = generator.permutation(groups)[:count]
        held_out[of_class[np.isin(group[of_class], chosen)]] = True
    return held_out
