"""Data sets in one .npz file: how it is read, and your own grey images from one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from course_utils.datasets import cache
from course_utils.datasets.arrays import from_arrays
from course_utils.datasets.dataset import DataCorrupt, DataNotFound, Dataset, choose_groups, own_group

KEYS = "train_x, train_y, test_x, test_y, or x, y"
TEST_FRACTION = 0.2  # of every class, where a file does not say which images are for test


def read(path: Path, cure: str) -> dict[str, np.ndarray]:
    """All arrays of an .npz file. Nothing is ever unpickled: a file from a stranger cannot run code.

    A file that `cache.save_arrays` wrote is compared with its checksum, any other with the checksums of its zip format.

    Raises DataCorrupt, with `cure` as the last words, for a file that is damaged, cut short or not an .npz file.
    """
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise DataCorrupt(f"{path} holds a single array, as np.save writes it; expected an .npz file: {cure}")
        with file:
            names = file.files
            arrays = {} if cache.DIGEST in names else {name: file[name] for name in names}
        if cache.DIGEST in names:
            arrays = cache.load_arrays(path)
    except MemoryError:
        raise
    except DataCorrupt as error:
        message = str(error).replace("; delete it, it will be made again", f": {cure}")
        raise DataCorrupt(message) from error
    except OSError as error:
        if error.errno is not None:  # a missing permission or a failing disk is not the file's fault
            raise
        raise _broken(path, error, cure) from error
    except Exception as error:  # zipfile, zlib and the array headers each have exceptions of their own
        raise _broken(path, error, cure) from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # np.load hands out any other file of a zip as bytes
            raise DataCorrupt(f"{path} holds {name!r}, which is not an array; expected arrays only: {cure}")
    return arrays


def from_npz(path: str | Path, name: str | None = None) -> Dataset:
    """A data set of your own grey images, from one .npz file.

    path: a file with the arrays `train_x`, `train_y`, `test_x`, `test_y`, and if you like `validation_x`,
        `validation_y`; or with `x`, `y` alone. Images are (N, H, W) or (N, 1, H, W): uint8, or floats in [0, 1], or
        bool (Omniglot's strokes). Labels are (N,), whole numbers from 0 without a gap. Optional arrays: `classes` with
        a name for each label; `train_group`, `test_group`, `validation_group` or `group`, the same number for images
        that belong together; `split` (N,) beside `x`, `y`, 0 for training and 1 for test.
    name: of the data set; the file's name when not given.

    Where the file does not say which images are for test, a fifth of every class is, and where it has no validation
    images, a tenth of every class's training images are: drawn by a fixed seed, so the same file gives the same splits.

    Raises DataNotFound if there is no such file, DataCorrupt if it is damaged, and ValueError, naming the file and the
    array, for anything else than the above. Python objects in a file are refused, never unpickled.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataNotFound(f"there is no file {path}; expected an .npz file with {KEYS}")
    arrays = read(path, f"write it again with np.savez ({KEYS})")
    try:
        train, test, validation = _splits(arrays)
        return from_arrays(train, test, validation, name=name or path.stem, classes=_classes(arrays))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _splits(arrays: dict[str, np.ndarray]) -> tuple[tuple, tuple, tuple | None]:
    """Training, test and validation images of a file, each (x, y) or (x, y, group)."""
    parts = [split for split in ("train", "test", "validation") if {f"{split}_x", f"{split}_y"} & arrays.keys()]
    whole = {"x", "y"} & arrays.keys()
    if parts and whole:
        raise ValueError(f"has {_listed(arrays)}; expected either {KEYS}, not both")
    if parts:
        for split in ("train", "test", *parts):
            missing = [key for key in (f"{split}_x", f"{split}_y") if key not in arrays]
            if missing:
                raise ValueError(f"has {_listed(arrays)}, but no {' and no '.join(missing)}; expected {KEYS}")
        train, test = _part(arrays, "train_"), _part(arrays, "test_")
        return train, test, _part(arrays, "validation_") if "validation" in parts else None
    if len(whole) < 2:
        raise ValueError(f"has {_listed(arrays)}; expected {KEYS}")
    everything = _part(arrays, "")
    in_test = _test_mask(everything, arrays.get("split"))
    return tuple(part[~in_test] for part in everything), tuple(part[in_test] for part in everything), None


def _part(arrays: dict[str, np.ndarray], prefix: str) -> tuple[np.ndarray, ...]:
    x, y = arrays[f"{prefix}x"], arrays[f"{prefix}y"]
    if x.ndim == 4 and x.shape[1] != 1:
        layout = f"; {prefix}x.transpose(0, 3, 1, 2) has the right layout" if x.shape[3] == 1 else ""
        raise ValueError(
            f"{prefix}x has shape {x.shape}; expected grey images (N, H, W) or (N, 1, H, W){layout}. "
            "Colour images go in with datasets.from_arrays"
        )
    if x.ndim not in (3, 4):
        raise ValueError(f"{prefix}x has shape {x.shape}; expected grey images (N, H, W) or (N, 1, H, W)")
    if y.shape != (len(x),):
        raise ValueError(f"{prefix}y has shape {y.shape}; expected ({len(x)},), one label for each image of {prefix}x")
    if x.dtype == np.bool_:
        x = x.astype(np.uint8) * 255
    group = arrays.get(f"{prefix}group")
    if group is None:
        return x, y
    if group.shape != y.shape:
        raise ValueError(f"{prefix}group has shape {group.shape}; expected {y.shape}, one number for each image")
    return x, y, group


def _test_mask(everything: tuple[np.ndarray, ...], split: np.ndarray | None) -> np.ndarray:
    """Which images (N,) are for test."""
    x, y = everything[:2]
    if split is not None:
        if split.shape != y.shape or not np.isin(split, (0, 1)).all():
            raise ValueError(
                f"split is {split.dtype} {split.shape}; expected {y.shape}, 0 for training and 1 for test images"
            )
        in_test = split == 1
    else:
        in_test = choose_groups(y, own_group(x) if len(everything) == 2 else everything[2], TEST_FRACTION, seed=1)
    if not in_test.any() or in_test.all():
        raise ValueError(
            f"{in_test.sum()} of {len(y)} images would be for test, because a class is not cut when it has a single "
            "image or group; give test_x and test_y"
        )
    return in_test


def _classes(arrays: dict[str, np.ndarray]) -> list[str] | None:
    classes = arrays.get("classes")
    if classes is None:
        return None
    if classes.ndim != 1 or classes.dtype.kind != "U":
        raise ValueError(f"classes is {classes.dtype} {classes.shape}; expected texts (K,), a name for each label")
    return [str(text) for text in classes]


def _listed(arrays: dict[str, np.ndarray]) -> str:
    return f"the arrays {', '.join(sorted(arrays))}" if arrays else "no arrays"


def _broken(path: Path, error: Exception, cure: str) -> DataCorrupt:
    return DataCorrupt(
        f"{path} ({path.stat().st_size:,} bytes) is damaged, incomplete or not a plain .npz file "
        f"({type(error).__name__}: {error}): {cure}"
    )
