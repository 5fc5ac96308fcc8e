"""Your own data: arrays in the usual layouts become a `Dataset`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from course_utils.datasets.dataset import Dataset, Split, choose_groups, own_group

LAYOUTS = "(N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3"


def from_arrays(
    train: tuple,
    test: tuple,
    validation: tuple | None = None,
    name: str = "mine",
    classes: Sequence[str] | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """Make a data set of your own arrays.

    train, test, validation: (x, y) or (x, y, group). x is uint8, or float in [0, 1], of shape (N, H, W),
        (N, H, W, C) or (N, C, H, W) with C 1 or 3. y is (N,), whole numbers from 0. group is (N,), the same number for
        images that belong together (frames of one video, photographs of one person): a group is never cut by the split.
    classes: names, one for each label; "0", "1", ... when not given.
    validation_fraction: share of every class held out of `train`, seeded with `seed`, when no validation is given.

    Raises ValueError or TypeError naming the array, what it is and what was expected. Built in lesson 01.
    """
    train_split = _split(train, "train")
    test_split = _split(test, "test")
    if validation is not None:
        validation_split = _split(validation, "validation")
    else:
        if not 0.0 < validation_fraction < 1.0:
            raise ValueError(f"validation_fraction={validation_fraction}; expected a number between 0 and 1")
        held_out = choose_groups(train_split.y, train_split.group, validation_fraction, seed)
        if not held_out.any():
            raise ValueError(
                "train has a single image or group in every class, none can be held out; give validation=(x, y)"
            )
        train_split, validation_split = train_split.select(~held_out), train_split.select(held_out)
    labels = np.concatenate([train_split.y, validation_split.y, test_split.y])
    if classes is None:
        classes = [str(label) for label in range(int(labels.max()) + 1)]
    elif isinstance(classes, str):
        raise TypeError(f"classes={classes!r} is one text; expected a list of names, one for each label")
    absent = sorted(set(range(len(classes))) - set(train_split.y.tolist()))
    if absent:
        raise ValueError(
            f"train has no image of the labels {absent[:10]}; labels must be 0 to {len(classes) - 1} without a gap"
        )
    return Dataset(name, train_split, validation_split, test_split, tuple(classes), source="arrays")


def _split(pair: tuple, name: str) -> Split:
    if not isinstance(pair, (tuple, list)) or len(pair) not in (2, 3):
        raise TypeError(f"{name} is {type(pair).__name__}; expected (x, y) or (x, y, group)")
    x = _images(np.asarray(pair[0]), name)
    y = _whole_numbers(np.asarray(pair[1]), len(x), f"{name} labels")
    if y.min() < 0:
        raise ValueError(f"{name} labels start at {y.min()}; expected whole numbers from 0")
    group = own_group(x) if len(pair) == 2 else _whole_numbers(np.asarray(pair[2]), len(x), f"{name} groups")
    return Split(x, y, group)


def _images(x: np.ndarray, name: str) -> np.ndarray:
    """uint8 (N, C, H, W), contiguous."""
    if x.ndim == 3:
        x = x[:, None]  # (N, H, W): grey
    elif x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"{name} images have shape {x.shape}; expected {LAYOUTS}")
    if x.size == 0:
        raise ValueError(f"{name} has no images, its shape is {x.shape}")
    if x.dtype == np.uint8:
        return np.ascontiguousarray(x)
    if not np.issubdtype(x.dtype, np.floating):
        raise TypeError(f"{name} images are {x.dtype}; expected uint8 (0 to 255) or floats in [0, 1]")
    low, high = float(x.min()), float(x.max())
    if not (low >= 0.0 and high <= 1.0):  # false for NaN, too
        raise ValueError(
            f"{name} images run from {low:.4g} to {high:.4g}; expected floats in [0, 1], or uint8 0 to 255"
        )
    return np.ascontiguousarray(np.round(x * 255.0).astype(np.uint8))


def _whole_numbers(values: np.ndarray, count: int, name: str) -> np.ndarray:
    if values.shape != (count,):
        raise ValueError(f"{name} have shape {values.shape}; expected ({count},), one for each image")
    if not np.issubdtype(values.dtype, np.integer):
        if not (np.issubdtype(values.dtype, np.floating) and np.array_equal(values, np.round(values))):
            raise TypeError(f"{name} are {values.dtype}; expected whole numbers (not names, one-hot rows or fractions)")
    return values.astype(np.int64)
