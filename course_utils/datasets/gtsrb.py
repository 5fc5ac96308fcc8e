"""German Traffic Sign Recognition Benchmark, 43 classes, read and downloaded through torchvision, 32x32 colour.

Source: J. Stallkamp, M. Schlipsing, J. Salmen, C. Igel, Man vs. computer: Benchmarking machine learning algorithms for
traffic sign recognition, Neural Networks 32, 2012. Data card: data/gtsrb.md.

Training images come in tracks: 30 frames of one sign as the car drives by. They are almost the same picture, so
validation is split by track and never by frame. No image is ever flipped: a flip turns "turn right" into "turn left".
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from course_utils.datasets import cache
from course_utils.datasets.dataset import DataCorrupt, Dataset, Split, choose_groups, own_group

CLASSES = (
    "speed limit 20",
    "speed limit 30",
    "speed limit 50",
    "speed limit 60",
    "speed limit 70",
    "speed limit 80",
    "end of speed limit 80",
    "speed limit 100",
    "speed limit 120",
    "no overtaking",
    "no overtaking by trucks",
    "priority at next crossing",
    "priority road",
    "yield",
    "stop",
    "no vehicles",
    "no trucks",
    "no entry",
    "danger",
    "curve left",
    "curve right",
    "double curve",
    "uneven road",
    "slippery road",
    "road narrows on the right",
    "road works",
    "traffic signals",
    "pedestrians",
    "children",
    "bicycles",
    "ice or snow",
    "wild animals",
    "end of all restrictions",
    "turn right ahead",
    "turn left ahead",
    "ahead only",
    "ahead or right",
    "ahead or left",
    "keep right",
    "keep left",
    "roundabout",
    "end of no overtaking",
    "end of no overtaking by trucks",
)
ARCHIVE = "gtsrb_torchvision_32x32.tar.xz"
SIZE = 32  # pixels; images of another size are resized (bilinear)
TRACKS_PER_CLASS = 100_000  # file names have five digits for the track, so group = class * 100,000 + track
CURE = "delete the folder and run `course data get gtsrb`"


class Listing(NamedTuple):
    """What the CSV files of the data set promise, in torchvision's order."""

    train: list[Path]
    train_y: np.ndarray  # (N,)
    train_track: np.ndarray  # (N,), numbered within a class
    test: list[Path]
    test_y: np.ndarray


def find() -> Path | None:
    """Root folder (torchvision's `root`) that holds `gtsrb/GTSRB`, or None. An archive is unpacked first, once.

    Raises DataCorrupt for a damaged archive.
    """
    for folder in cache.data_folders():
        if (folder / "gtsrb" / "GTSRB").is_dir():
            return folder
        archive = folder / "gtsrb" / ARCHIVE
        if archive.is_file():
            return _unpack(archive)
    return None


def download() -> Path:
    """Fetch the images from the publisher into the cache (torchvision checks their MD5 sums); returns the root.

    torchvision takes an existing folder for a finished one, so it works in a temporary folder that is renamed at the
    end: an interrupted download or unpacking is never mistaken for the data set.
    """
    from torchvision.datasets import GTSRB

    target = cache.cache_folder() / "downloads" / "gtsrb"
    if not cache.is_complete(target):
        with cache.new_folder(target) as folder:
            for split in ("train", "test"):
                GTSRB(str(folder), split=split, download=True)
            list_files(folder)
            for packed in (folder / "gtsrb").glob("*.zip"):
                packed.unlink()
    return target


def found_download() -> Path | None:
    """Root folder of an earlier `download()`, or None."""
    target = cache.cache_folder() / "downloads" / "gtsrb"
    return target if cache.is_complete(target) else None


def load(root: Path, source: str) -> Dataset:
    """Images (3, 32, 32): 26,640 for training, of which a tenth of the tracks for validation, and 12,630 for test."""
    arrays = cache.cached_arrays(f"gtsrb-v1-{_fingerprint(root)}", lambda: _read(root))
    train = Split(arrays["train_x"], arrays["train_y"], arrays["train_group"])
    test = Split(arrays["test_x"], arrays["test_y"], own_group(arrays["test_x"], len(CLASSES) * TRACKS_PER_CLASS))
    in_validation = choose_groups(train.y, train.group, fraction=0.1, seed=0)
    return Dataset(
        name="gtsrb",
        train=train.select(~in_validation),
        validation=train.select(in_validation),
        test=test,
        classes=CLASSES,
        source=source,
    )


def list_files(root: Path) -> Listing:
    """Every image that the CSV files under `root` name. Raises DataCorrupt if one of them, or a class, is missing."""
    folder = root / "gtsrb" / "GTSRB"
    train, train_y, train_track = [], [], []
    for label in range(len(CLASSES)):
        class_folder = folder / "Training" / f"{label:05d}"
        names = sorted(row["Filename"] for row in _rows(class_folder / f"GT-{label:05d}.csv"))
        present = {path.name for path in class_folder.glob("*.ppm")}
        if present != set(names):
            raise DataCorrupt(
                f"{class_folder} has {len(present)} images, its GT-{label:05d}.csv names {len(names)}; "
                f"the folder is incomplete: {CURE}"
            )
        train += [class_folder / name for name in names]
        train_y += [label] * len(names)
        train_track += [_track(class_folder / name) for name in names]
    table = root / "gtsrb" / "GT-final_test.csv"
    rows = _rows(table)
    test_folder = folder / "Final_Test" / "Images"
    present = {path.name for path in test_folder.glob("*.ppm")}
    missing = [row["Filename"] for row in rows if row["Filename"] not in present]
    if missing:
        raise DataCorrupt(f"{test_folder} lacks {len(missing)} images that {table} names, first {missing[0]}: {CURE}")
    test_y = [_label(row["ClassId"], table) for row in rows]
    return Listing(
        train,
        np.array(train_y, dtype=np.int64),
        np.array(train_track, dtype=np.int64),
        [test_folder / row["Filename"] for row in rows],
        np.array(test_y, dtype=np.int64),
    )


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise DataCorrupt(f"{path} is missing; the folder is incomplete: {CURE}")
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=";", skipinitialspace=True))
    if not rows or not {"Filename", "ClassId"} <= rows[0].keys() or any(row["ClassId"] is None for row in rows):
        raise DataCorrupt(f"{path} is not a table with columns Filename and ClassId separated by ';': {CURE}")
    return rows


def _label(text: str, path: Path) -> int:
    if not text.isdigit() or int(text) >= len(CLASSES):
        raise DataCorrupt(f"{path} holds the class {text!r}; expected 0 to {len(CLASSES) - 1}: {CURE}")
    return int(text)


def _track(path: Path) -> int:
    track, _, frame = path.stem.partition("_")
    if not (track.isdigit() and frame.isdigit() and int(track) < TRACKS_PER_CLASS):
        raise DataCorrupt(f"{path} is not named track_frame.ppm (for example 00004_00029.ppm): {CURE}")
    return int(track)


def _fingerprint(root: Path) -> str:
    """Changes when a class folder gains or loses an image. Does not list 39,000 files: a second load is quick."""
    folder = root / "gtsrb" / "GTSRB"
    parts = [folder / "Training" / f"{label:05d}" for label in range(len(CLASSES))]
    parts += [folder / "Final_Test" / "Images", root / "gtsrb" / "GT-final_test.csv"]
    for part in parts:
        if not part.exists():
            raise DataCorrupt(f"{part} is missing; the folder is incomplete: {CURE}")
    return cache.fingerprint(parts)


def _unpack(archive: Path) -> Path:
    root = cache.cache_folder() / "unpacked" / f"gtsrb-{cache.fingerprint([archive])}"
    if not cache.is_complete(root):
        with cache.new_folder(root) as folder:
            cache.unpack_tar(archive, folder)
            if not (folder / "gtsrb" / "GTSRB").is_dir():
                raise DataCorrupt(
                    f"{archive} holds no folder gtsrb/GTSRB (torchvision's layout); get the archive again"
                )
    return root


def _read(root: Path) -> dict[str, np.ndarray]:
    from torchvision.datasets import GTSRB

    listing = list_files(root)
    return {
        "train_x": _images(GTSRB(str(root), split="train"), listing.train, listing.train_y),
        "train_y": listing.train_y,
        "train_group": listing.train_y * TRACKS_PER_CLASS + listing.train_track,
        "test_x": _images(GTSRB(str(root), split="test"), listing.test, listing.test_y),
        "test_y": listing.test_y,
    }


def _images(dataset, files: list[Path], labels: np.ndarray) -> np.ndarray:
    """All images of a torchvision GTSRB data set as uint8 (N, 3, 32, 32)."""
    from PIL.Image import Resampling
    from tqdm.auto import tqdm

    if len(dataset) != len(files):
        raise DataCorrupt(f"torchvision finds {len(dataset)} images beside {files[0]}, expected {len(files)}: {CURE}")
    x = np.empty((len(files), 3, SIZE, SIZE), dtype=np.uint8)
    for index in tqdm(range(len(files)), desc="reading GTSRB", leave=False, disable=None):
        try:
            image, label = dataset[index]
        except (OSError, ValueError, SyntaxError) as error:  # Pillow's reports of a damaged file
            raise DataCorrupt(f"{files[index]} is not a readable image ({error}): {CURE}") from error
        if label != labels[index]:
            raise DataCorrupt(f"{files[index]}: torchvision says class {label}, expected {labels[index]}: {CURE}")
        if image.size != (SIZE, SIZE):
            image = image.resize((SIZE, SIZE), Resampling.BILINEAR)
        x[index] = np.asarray(image).transpose(2, 0, 1)
    return x
