"""Tiny-ImageNet as 28x28 grey, 200 classes: read from one array file, or made from Stanford's archive.

Source: Y. Le, X. Yang, Tiny ImageNet Visual Recognition Challenge, CS231n, Stanford University, 2015; the images are
from O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 115, 2015. Data card:
data/tiny_imagenet_gray.md.

The archive's 64x64 JPEGs become grey and 28x28 as `course_utils.datasets.grey` says. Its own test images have no
published labels, so the published validation images are the test set here, and validation is taken from training.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from course_utils import progress
from course_utils.datasets import cache, npz
from course_utils.datasets.dataset import DataCorrupt, Dataset, Split, choose_groups
from course_utils.datasets.grey import SIZE, grey28

FOLDER = "tiny-imagenet"
FILE = "tiny_imagenet200_28x28_gray.npz"
ARCHIVE = "tiny-imagenet-200.zip"
URL = f"http://cs231n.stanford.edu/{ARCHIVE}"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
SIDE = 64  # pixels of an image in the archive
NUM_CLASSES = 200
COUNTS = {"train": 500, "val": 50}  # images of each class in the archive
VALIDATION_FRACTION = 0.1
CURE = "delete it and run `course data get tiny_imagenet_gray`"


def find() -> Path | None:
    """The array file, or None. Where only Stanford's archive is there, it is converted first, once.

    Raises DataCorrupt for a damaged archive.
    """
    for folder in cache.data_folders():
        if (folder / FOLDER / FILE).is_file():
            return folder / FOLDER / FILE
        for archive in (folder / FOLDER / ARCHIVE, folder / ARCHIVE):
            if archive.is_file():
                return _converted(archive)
    return None


def download() -> Path:
    """Fetch Stanford's archive (torchvision checks its MD5 sum), convert it and keep the array file; returns its path."""
    from torchvision.datasets.utils import download_url

    target = _download_folder()
    if not cache.is_complete(target):
        with cache.new_folder(target) as folder:
            download_url(URL, str(folder), ARCHIVE, MD5)
            cache.save_arrays(folder / FILE, convert(folder / ARCHIVE))
            (folder / ARCHIVE).unlink()
    return target / FILE


def found_download() -> Path | None:
    """The array file of an earlier `download()`, or None."""
    target = _download_folder()
    return target / FILE if cache.is_complete(target) else None


def load(path: Path, source: str) -> Dataset:
    """Images (1, 28, 28). A tenth of every class's training images is for validation (stratified, seeded).

    path: the array file, with `x` uint8 (N, 28, 28), `y` (N,), `split` (N,), 0 for the published training images and 1
        for the published validation images, and `name` (200,) of the classes.
    """
    arrays = npz.read(path, CURE)
    _check(arrays, path)
    x, y = arrays["x"][:, None], arrays["y"].astype(np.int64)
    is_test = arrays["split"] == 1
    everything = Split(x, y, np.arange(len(x), dtype=np.int64))  # no two images belong together
    train = everything.select(~is_test)
    in_validation = choose_groups(train.y, train.group, VALIDATION_FRACTION, seed=0)
    return Dataset(
        name="tiny_imagenet_gray",
        train=train.select(~in_validation),
        validation=train.select(in_validation),
        test=everything.select(is_test),
        classes=tuple(str(name) for name in arrays["name"]),
        source=source,
    )


def convert(archive: Path) -> dict[str, np.ndarray]:
    """What the array file holds, made from Stanford's archive: `x`, `y`, `split`, `wnid`, `name`.

    Classes are numbered as in the archive's wnids.txt; images are sorted by class, training images before the others.
    Raises DataCorrupt, naming the archive and the file in it, for anything damaged, missing or of another shape.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            return _read_archive(packed)
    except DataCorrupt as error:
        raise DataCorrupt(f"{archive}: {error}: {CURE}") from error
    except OSError as error:
        if error.errno is not None:  # a missing permission or a failing disk is not the archive's fault
            raise
        raise _broken(archive, error) from error
    except Exception as error:  # zipfile and zlib each have exceptions of their own
        raise _broken(archive, error) from error


def _download_folder() -> Path:
    return cache.cache_folder() / "downloads" / "tiny_imagenet_gray"


def _converted(archive: Path) -> Path:
    root = cache.cache_folder() / "unpacked" / f"tiny_imagenet_gray-{cache.fingerprint([archive])}"
    if not cache.is_complete(root):
        with cache.new_folder(root) as folder:
            cache.save_arrays(folder / FILE, convert(archive))
    return root / FILE


def _read_archive(packed: zipfile.ZipFile) -> dict[str, np.ndarray]:
    wnids = [row[0] for row in _rows(packed, "wnids.txt", 1)]
    if len(wnids) != NUM_CLASSES or len(set(wnids)) != NUM_CLASSES:
        raise DataCorrupt(f"wnids.txt names {len(set(wnids))} different classes; expected {NUM_CLASSES}")
    words = {row[0]: row[1] for row in _rows(packed, "words.txt", 2)}
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    files = _training_files(packed, label_of) + _validation_files(packed, label_of)
    files.sort()  # by class, training images first, then by number
    x = np.empty((len(files), SIZE, SIZE), dtype=np.uint8)
    with progress.bar(len(files), "converting Tiny-ImageNet") as bar:
        for index, (_, _, _, file) in enumerate(files):
            x[index] = _image(packed, file)
            bar.update()
    y, split = (np.array([row[column] for row in files], dtype=np.int64) for column in (0, 1))
    for number, (part, count) in enumerate(COUNTS.items()):
        found = np.bincount(y[split == number], minlength=NUM_CLASSES)
        if (found != count).any():
            label = int((found != count).argmax())
            raise DataCorrupt(f"{part} has {found[label]} images of the class {wnids[label]}; expected {count}")
    names = [words.get(wnid, wnid) for wnid in wnids]
    return {"x": x, "y": y, "split": split.astype(np.uint8), "wnid": np.array(wnids), "name": np.array(names)}


def _training_files(packed: zipfile.ZipFile, label_of: dict[str, int]) -> list[tuple[int, int, int, str]]:
    """(label, 0, number, file) of every training image, tiny-imagenet-200/train/WNID/images/WNID_NUMBER.JPEG."""
    found = []
    for file in packed.namelist():
        parts = file.split("/")
        if len(parts) == 5 and parts[1] == "train" and parts[3] == "images" and parts[4]:
            if parts[2] not in label_of:
                raise DataCorrupt(f"{file} is of the class {parts[2]!r}, which wnids.txt does not name")
            found.append((label_of[parts[2]], 0, _number(file), file))
    return found


def _validation_files(packed: zipfile.ZipFile, label_of: dict[str, int]) -> list[tuple[int, int, int, str]]:
    """(label, 1, number, file) of every image that val/val_annotations.txt names."""
    found = []
    for row in _rows(packed, "val/val_annotations.txt", 2):
        if row[1] not in label_of:
            raise DataCorrupt(f"val/val_annotations.txt names the class {row[1]!r}, which wnids.txt does not name")
        file = f"tiny-imagenet-200/val/images/{row[0]}"
        found.append((label_of[row[1]], 1, _number(file), file))
    return found


def _number(file: str) -> int:
    number = file.rpartition("_")[2].partition(".")[0]
    if not number.isdigit():
        raise DataCorrupt(f"{file} is not named NAME_NUMBER.JPEG")
    return int(number)


def _rows(packed: zipfile.ZipFile, file: str, columns: int) -> list[list[str]]:
    """Lines of a table, split at tabs."""
    lines = _content(packed, f"tiny-imagenet-200/{file}").decode("utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line.strip()]
    if not rows or min(len(row) for row in rows) < columns:
        raise DataCorrupt(f"{file} is not a table of at least {columns} columns separated by tabs")
    return rows


def _image(packed: zipfile.ZipFile, file: str) -> np.ndarray:
    from PIL import Image

    content = _content(packed, file)
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.size != (SIDE, SIDE):
                raise ValueError(f"it has {image.size} pixels, expected {(SIDE, SIDE)}")
            return grey28(image)
    except (OSError, ValueError, SyntaxError) as error:  # Pillow's reports of a damaged file
        raise DataCorrupt(f"{file} is not a readable image ({error})") from error


def _content(packed: zipfile.ZipFile, file: str) -> bytes:
    try:
        return packed.read(file)  # compares the file with its checksum
    except KeyError:
        raise DataCorrupt(f"{file} is missing") from None
    except Exception as error:
        raise DataCorrupt(f"{file} is damaged ({type(error).__name__}: {error})") from error


def _check(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Raise DataCorrupt unless these are the arrays that `load` expects."""
    missing = {"x", "y", "split", "name"} - arrays.keys()
    if missing:
        raise DataCorrupt(f"{path} lacks the arrays {', '.join(sorted(missing))}: {CURE}")
    x, y, split, name = (arrays[key] for key in ("x", "y", "split", "name"))
    if x.dtype != np.uint8 or x.ndim != 3 or x.shape[1:] != (SIZE, SIZE):
        raise DataCorrupt(f"{path}: x is {x.dtype} {x.shape}; expected uint8 (N, {SIZE}, {SIZE}): {CURE}")
    for key, array in (("y", y), ("split", split)):
        if array.dtype.kind not in "iu" or array.shape != (len(x),):
            raise DataCorrupt(
                f"{path}: {key} is {array.dtype} {array.shape}; expected whole numbers ({len(x)},): {CURE}"
            )
    if name.shape != (NUM_CLASSES,) or name.dtype.kind != "U":
        raise DataCorrupt(f"{path}: name is {name.dtype} {name.shape}; expected {NUM_CLASSES} texts: {CURE}")
    if len(x) == 0 or y.min() < 0 or y.max() >= NUM_CLASSES or not np.isin(split, (0, 1)).all():
        raise DataCorrupt(f"{path}: y must run from 0 to {NUM_CLASSES - 1}, and split be 0 or 1: {CURE}")
    for part, number, least in (("training", 0, 2), ("test", 1, 1)):
        found = np.bincount(y[split == number], minlength=NUM_CLASSES)
        if found.min() < least:
            label = found.argmin()
            raise DataCorrupt(
                f"{path} has {found[label]} {part} images of class {label}; expected {least} or more: {CURE}"
            )


def _broken(archive: Path, error: Exception) -> DataCorrupt:
    return DataCorrupt(
        f"{archive} ({archive.stat().st_size:,} bytes) is damaged or incomplete ({type(error).__name__}: {error}): {CURE}"
    )
