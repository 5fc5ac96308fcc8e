"""ImageNet-1k as 28x28 grey, read from the file that `data/prepare_imagenet.py` writes.

Source: O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 115, 2015. Data card:
data/imagenet_28_gray.md. Its terms do not allow this project to pass on images, so every user makes the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from course_utils.datasets import cache, npz
from course_utils.datasets.dataset import DataCorrupt, DataNotFound, Dataset, Split, choose_groups, own_group
from course_utils.datasets.grey import SIZE

FILE = Path("imagenet_28_gray") / "imagenet_28_gray.npz"
COMMAND = "python data/prepare_imagenet.py"
VALIDATION_FRACTION = 0.1


def find() -> Path | None:
    """The file, or None."""
    for folder in cache.data_folders():
        if (folder / FILE).is_file():
            return folder / FILE
    return None


def found_download() -> Path | None:
    """None: the file is made by a script and is found by `find`."""
    return None


def download() -> Path:
    """Raises DataNotFound with the command that makes the file: it takes hours, so it never starts by itself."""
    raise DataNotFound(f"imagenet_28_gray is made once, by `{COMMAND}` in the course's folder")


def load(path: Path, source: str) -> Dataset:
    """Images (1, 28, 28). A tenth of every class's training images is for validation (stratified, seeded).

    path: an .npz file with `train_x` uint8 (N, 28, 28), `train_y` (N,), `test_x`, `test_y` and `classes` (K,).
    """
    arrays = npz.read(path, f"delete it and run `{COMMAND}` again")
    _check(arrays, path)
    # No two images belong together.
    train_x, test_x = arrays["train_x"][:, None], arrays["test_x"][:, None]
    train = Split(train_x, arrays["train_y"].astype(np.int64), own_group(train_x))
    test = Split(test_x, arrays["test_y"].astype(np.int64), own_group(test_x, len(train)))
    in_validation = choose_groups(train.y, train.group, VALIDATION_FRACTION, seed=0)
    return Dataset(
        name="imagenet_28_gray",
        train=train.select(~in_validation),
        validation=train.select(in_validation),
        test=test,
        classes=tuple(str(name) for name in arrays["classes"]),
        source=source,
    )


def _check(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Raise DataCorrupt unless these are the arrays that `load` expects."""
    cure = f"expected what `{COMMAND}` writes; your own images go in with datasets.from_npz"
    missing = {"train_x", "train_y", "test_x", "test_y", "classes"} - arrays.keys()
    if missing:
        raise DataCorrupt(f"{path} lacks the arrays {', '.join(sorted(missing))}; {cure}")
    classes = arrays["classes"]
    if classes.ndim != 1 or classes.dtype.kind != "U" or len(classes) < 2:
        raise DataCorrupt(f"{path}: classes is {classes.dtype} {classes.shape}, not two or more texts; {cure}")
    for split, least in (("train", 2), ("test", 1)):
        x, y = arrays[f"{split}_x"], arrays[f"{split}_y"]
        if x.dtype != np.uint8 or x.ndim != 3 or x.shape[1:] != (SIZE, SIZE):
            raise DataCorrupt(f"{path}: {split}_x is {x.dtype} {x.shape}, not uint8 (N, {SIZE}, {SIZE}); {cure}")
        if y.dtype.kind not in "iu" or y.shape != (len(x),):
            raise DataCorrupt(f"{path}: {split}_y is {y.dtype} {y.shape}, not whole numbers ({len(x)},); {cure}")
        if len(y) == 0 or y.min() < 0 or y.max() >= len(classes):
            raise DataCorrupt(f"{path}: {split}_y does not run from 0 to {len(classes) - 1}; {cure}")
        found = np.bincount(y, minlength=len(classes))
        if found.min() < least:
            label = found.argmin()
            raise DataCorrupt(f"{path} has {found[label]} {split} images of class {label}, not {least} or more; {cure}")
