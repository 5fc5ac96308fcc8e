"""Pictures that several data sets have: what one of them holds out, no other may train on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import numpy as np

from course_utils.datasets import Dataset
from course_utils.datasets.memory import check_memory


def keep_apart(data: Sequence[Dataset]) -> tuple[list[Dataset], list[dict[str, int]]]:
    """The data sets without the pictures that another one holds out, and how many were left out of which split.

    EVA's photographs are AVA's. Split by the names of the images they agree; with AVA's official list of test images
    they do not, and each keeps the test images that it is published with. So a picture that is for testing anywhere is
    left out of all training and validation, and one that is for validation anywhere out of all training. Test images
    are never touched. What is left out is warned about, by count.

    Args:
        data: scored data sets.

    Returns:
        the data sets, unchanged where nothing had to go, and for each of them {"train": images left out, "validation":
        images left out}.

    Raises:
        ValueError: nothing is left to train on. TooLarge: the memory is not enough to copy what is kept.
    """
    kept, counts = [], []
    for place, one in enumerate(data):
        others = [other for number, other in enumerate(data) if number != place]
        tested = _union([other.test.group for other in others])
        held_out = _union([tested, *(other.validation.group for other in others)])
        stays = {
            "train": ~np.isin(one.train.group, held_out),
            "validation": ~np.isin(one.validation.group, tested),
        }
        left_out = {split: int((~rows).sum()) for split, rows in stays.items()}
        if not stays["train"].any():
            names = ", ".join(other.title for other in others)
            raise ValueError(
                f"all {len(one.train)} pictures that {one.title} trains on are held out in {names}; split both by the "
                "names of the images (`split_of`), not each on its own"
            )
        counts.append(left_out)
        kept.append(_without(one, stays, left_out) if any(left_out.values()) else one)
    return kept, counts


def _without(one: Dataset, stays: dict[str, np.ndarray], left_out: dict[str, int]) -> Dataset:
    total = len(one.train) + len(one.validation) + len(one.test)
    check_memory(total, one.image_shape[1], f"{one.title} without the pictures that are held out elsewhere")
    warnings.warn(
        f"{one.title}: {left_out['train']} of {len(one.train)} training and {left_out['validation']} of "
        f"{len(one.validation)} validation pictures are left out, because another data set of the stream holds them out",
        RuntimeWarning,
        stacklevel=4,
    )
    # The test split is copied too: as a view it would keep the block alive that all three were read into.
    return replace(
        one,
        train=one.train.select(stays["train"]),
        validation=one.validation.select(stays["validation"]),
        test=one.test.select(np.arange(len(one.test))),
    )


def _union(groups: Sequence[np.ndarray]) -> np.ndarray:
    return reduce(np.union1d, groups, np.empty(0, dtype=np.int64))
