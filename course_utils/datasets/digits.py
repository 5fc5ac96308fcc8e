"""Handwritten digits, 8x8 grey: the real data set that ships with scikit-learn, so it is always there.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998
(the test part, 1,797 images). Data card: data/digits.md.
"""

from __future__ import annotations

import numpy as np

from course_utils.datasets.dataset import Dataset, Split, choose_groups, own_group

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def load() -> Dataset:
    """1,797 images (1, 8, 8) in a fixed stratified split: about 1,197 training, 150 validation and 450 test images."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x = np.round(pixels * (255.0 / 16.0)).astype(np.uint8).reshape(-1, 1, 8, 8)  # grey levels are 0 to 16
    everything = Split(x, labels.astype(np.int64), own_group(x))
    in_test = choose_groups(everything.y, everything.group, fraction=0.25, seed=0)
    rest = everything.select(~in_test)
    in_validation = choose_groups(rest.y, rest.group, fraction=1 / 9, seed=1)
    return Dataset(
        name="digits",
        train=rest.select(~in_validation),
        validation=rest.select(in_validation),
        test=everything.select(in_test),
        classes=CLASSES,
        source="bundled",
    )
