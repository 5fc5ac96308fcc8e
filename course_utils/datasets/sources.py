"""Where `data/prepare_imagenet.py` takes images from: the Hugging Face Hub, image files, or arrays. Not for lessons.

A source gives (label, image) pairs in an order that never changes, and can start in the middle of it, so that a killed
run goes on where it stood. An image is made only when it is asked for: what is skipped costs no decoding.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from course_utils.datasets import cache
from course_utils.datasets.grey import grey28

SPLITS = ("train", "test")
TEST_NAMES = ("validation", "val", "valid", "test")  # what the labelled images that are not for training may be called
SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
BLOCK = 256  # rows of an .npz file in memory at a time

Record = tuple[int, Callable[[], np.ndarray]]  # label, and what makes the image, uint8 (28, 28)


class SourceError(ValueError):
    """A source lacks something or cannot be read; the message says what was expected and what to do."""


class Source(Protocol):
    """What a class below offers.

    name: of the source, kept with the result. classes: their names, in the order of their labels. listing: changes when
    the source changes, as far as that can be seen from outside; work begun on another listing must start anew.
    """

    name: str
    classes: tuple[str, ...]
    listing: str

    def records(self, split: str, seen: int, place: Any) -> Iterator[Record]:
        """The images of a split without the first `seen`. `place` is what `place(split)` said after those, or None."""

    def place(self, split: str) -> Any:
        """What helps `records` to find its way back to where it is now, fit for JSON; None if it needs no help."""


# ---- the Hub -----------------------------------------------------------------------------------------------------


class Hub:
    """A data set of the Hugging Face Hub with the columns `image` and `label`, streamed. Or a folder in its layout."""

    def __init__(self, name: str, revision: str | None = None) -> None:
        try:
            import datasets
        except ImportError:
            raise SourceError(
                f"--hub {name} needs the package `datasets`, which is not installed: run `pip install datasets`, "
                "or take the images from --folder or --npz"
            ) from None
        self.name, self.listing = f"hub:{name}" + (f"@{revision}" if revision else ""), ""
        try:
            found = datasets.load_dataset(name, revision=revision, streaming=True)
        except Exception as error:  # the package passes on errors of several others
            raise SourceError(
                f"cannot open {name} ({type(error).__name__}: {error}); check the network and the name. A gated data "
                "set wants your consent on its page and a login: run `hf auth login`, or set HF_TOKEN"
            ) from error
        test = next((split for split in TEST_NAMES if split in found), None)
        if "train" not in found or test is None:
            raise SourceError(
                f"{name} has the splits {', '.join(found)}; expected train, and one of {', '.join(TEST_NAMES)}"
            )
        self._splits = {}
        for split, data in (("train", found["train"]), ("test", found[test])):
            columns = data.features or {}
            if not {"image", "label"} <= set(columns):
                raise SourceError(f"{name} has the columns {', '.join(columns) or '?'}; expected image and label")
            # Encoded images: those that are skipped or not wanted are never decoded.
            self._splits[split] = data.cast_column("image", datasets.Image(decode=False))
        names = getattr(found["train"].features["label"], "names", None)
        if not names:
            raise SourceError(f"{name} does not name its classes; expected a label column of the type ClassLabel")
        self.classes = tuple(names)

    def records(self, split: str, seen: int, place: Any) -> Iterator[Record]:
        data = self._splits[split]
        try:
            if seen and place is not None and hasattr(data, "load_state_dict"):
                data.load_state_dict(place)  # opens the right file at once
            elif seen:
                data = data.skip(seen)  # reads, and throws away
            for row in data:
                label = row["label"]
                if label is None or not 0 <= label < len(self.classes):
                    raise SourceError(
                        f"{self.name}: an image of {split} has the label {label}; expected 0 to {len(self.classes) - 1}"
                    )
                yield int(label), partial(_encoded, row["image"], self.name)
        except SourceError:
            raise
        except Exception as error:  # the package passes on errors of several others
            raise SourceError(
                f"{self.name} broke off ({type(error).__name__}: {error}); run the same command again, it goes on there"
            ) from error

    def place(self, split: str) -> Any:
        data = self._splits[split]
        place = data.state_dict() if hasattr(data, "state_dict") else None  # `datasets` has it since 2.20
        try:
            json.dumps(place)
        except (TypeError, ValueError):
            return None
        return place


def _encoded(image: dict[str, Any], where: str) -> np.ndarray:
    content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
    return _picture(io.BytesIO(content), f"{where}: {image.get('path') or 'an image'}")


def _picture(file: Any, name: str) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(file) as picture:
            return grey28(picture)
    except (OSError, ValueError, SyntaxError) as error:  # Pillow's reports of a damaged file
        raise SourceError(f"{name} is not a readable image ({error}); replace it or take it away") from error


# ---- image files -------------------------------------------------------------------------------------------------


class Folder:
    """Image files in a folder for each class: in train/ and val/, or all together."""

    def __init__(self, root: Path, counts: dict[str, int], num_classes: int | None = None) -> None:
        if not root.is_dir():
            raise SourceError(f"--folder {root} is not a folder")
        self.name = f"folder:{root.resolve().name}"
        train = root / "train" if (root / "train").is_dir() else root
        tests = [root / name for name in TEST_NAMES if train != root and (root / name).is_dir()]
        test = tests[0] if tests else train
        self.classes = _subfolders(train)
        if len(self.classes) < 2:
            raise SourceError(f"{train} has {len(self.classes)} subfolders; expected one for each class")
        if _subfolders(test) != self.classes:
            raise SourceError(f"{train} and {test} differ in their subfolders; expected the same classes in both")
        self._files: dict[str, list[tuple[int, str]]] = {"train": [], "test": []}
        for label, name in enumerate(self.classes[:num_classes]):
            pools = {"train": _image_files(train / name)}
            pools["test"] = _image_files(test / name) if tests else pools["train"]
            for split, files in _choose(pools, counts, label, shared=not tests, where=str(train / name)).items():
                self._files[split] += [(label, file) for file in files]
        self.listing = hashlib.sha256(repr(self._files).encode()).hexdigest()[:16]

    def records(self, split: str, seen: int, place: Any) -> Iterator[Record]:
        for label, file in self._files[split][seen:]:
            yield label, partial(_picture, file, file)

    def place(self, split: str) -> Any:
        return None


def _subfolders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))


def _image_files(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _choose(pools: dict[str, list], counts: dict[str, int], label: int, shared: bool, where: str) -> dict[str, list]:
    """The images of a class to take for each split. Where both share a pool, the test images are taken first.

    What comes first in a folder may look alike, so the order is drawn, from a seed that depends on the label alone.
    """
    chosen = {}
    for split, pool in pools.items():
        before = counts["test"] if shared and split == "train" else 0
        end = before + counts[split]
        if len(pool) < end:
            wanted = f"{counts['train']} for training and {counts['test']} for test" if shared else f"{end} for {split}"
            raise SourceError(
                f"{where} has {len(pool)} images, but {wanted} are asked for; use smaller --train and --test"
            )
        order = np.random.default_rng([0, label]).permutation(len(pool))
        chosen[split] = [pool[index] for index in order[before:end]]
    return chosen


# ---- arrays ------------------------------------------------------------------------------------------------------


class Npz:
    """Images in an .npz file: train_x, train_y, test_x, test_y, or x, y. Never in memory as a whole, never unpickled."""

    def __init__(self, path: Path, counts: dict[str, int], num_classes: int | None = None) -> None:
        if not path.is_file():
            raise SourceError(f"--npz {path} is not a file")
        self._path, self.name, self.listing = path, f"npz:{path.name}", cache.fingerprint([path])
        keys, arrays = _all_but_images(path)
        apart = {"train_x", "train_y", "test_x", "test_y"} <= keys
        if not apart and not {"x", "y"} <= keys:
            found = ", ".join(sorted(keys))
            raise SourceError(f"{path} has the arrays {found}; expected train_x, train_y, test_x, test_y, or x, y")
        self._members = {split: f"{split}_x" if apart else "x" for split in SPLITS}
        labels = {split: arrays[f"{split}_y" if apart else "y"] for split in SPLITS}
        for split, y in labels.items():
            count = _header(path, self._members[split])[0][0]
            if y.dtype.kind not in "iu" or y.shape != (count,) or not count or y.min() < 0:
                raise SourceError(f"{path}: labels for {split} are {y.dtype} {y.shape}; expected ({count},), from 0 on")
        highest = int(labels["train"].max())
        names = arrays.get("classes", arrays.get("name", np.arange(highest + 1)))
        if names.ndim != 1 or len(names) <= highest:
            raise SourceError(f"{path} has names {names.shape} of classes, but labels up to {highest}")
        self.classes = tuple(str(name) for name in names)
        said = None if apart else arrays.get("split")
        if said is not None and said.shape != labels["train"].shape:
            raise SourceError(
                f"{path}: split has shape {said.shape}; expected {labels['train'].shape}, 0 or 1 an image"
            )
        self._rows: dict[str, list[tuple[int, int]]] = {"train": [], "test": []}
        for label in range(len(self.classes[:num_classes])):
            pools = {}
            for number, split in enumerate(SPLITS):
                of_class = labels[split] == label
                pools[split] = np.flatnonzero(of_class if said is None else of_class & (said == number)).tolist()
            shared = not apart and said is None
            for split, rows in _choose(pools, counts, label, shared, f"class {label} of {path}").items():
                self._rows[split] += [(row, label) for row in rows]
        for split in SPLITS:
            self._rows[split].sort()  # the file is read once, from front to back

    def records(self, split: str, seen: int, place: Any) -> Iterator[Record]:
        label_of = dict(self._rows[split][seen:])
        if not label_of:
            return
        first, last = min(label_of), max(label_of)
        for row, image in enumerate(_rows(self._path, self._members[split], first), first):
            if row in label_of:
                yield label_of[row], partial(_array, image)
            if row == last:
                return

    def place(self, split: str) -> Any:
        return None


def _all_but_images(path: Path) -> tuple[set[str], dict[str, np.ndarray]]:
    """Names of all arrays of an .npz file, and those that are small. Compares every byte with the file's checksums."""
    small = ("train_y", "test_y", "y", "split", "classes", "name")
    try:
        with zipfile.ZipFile(path) as packed:
            damaged = packed.testzip()
        if damaged:
            raise ValueError(f"{damaged} does not match its checksum")
        with np.load(path, allow_pickle=False) as file:
            return set(file.files), {key: file[key] for key in small if key in file.files}
    except Exception as error:  # zipfile, zlib and the array headers each have exceptions of their own
        raise SourceError(f"{path} is not a whole .npz file ({type(error).__name__}: {error})") from error


def _header(path: Path, member: str) -> tuple[tuple[int, ...], int]:
    """Shape of an array of images in an .npz file, and where its first image begins in its member of the zip."""
    with zipfile.ZipFile(path) as packed, packed.open(f"{member}.npy") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        start = file.tell()
    grey = len(shape) == 3 or (len(shape) == 4 and (shape[1] in (1, 3) or shape[3] in (1, 3)))
    if dtype != np.uint8 or fortran or not grey:
        raise SourceError(
            f"{path}: {member} is {dtype} {shape}{', in Fortran order' if fortran else ''}; expected uint8 images "
            "(N, H, W), (N, 1, H, W), (N, 3, H, W) or (N, H, W, 3), in C order"
        )
    return shape, start


def _rows(path: Path, member: str, first: int) -> Iterator[np.ndarray]:
    """The images of an array from number `first` on, read a block at a time."""
    shape, start = _header(path, member)
    size = int(np.prod(shape[1:]))
    with zipfile.ZipFile(path) as packed, packed.open(f"{member}.npy") as file:
        file.seek(start + first * size)
        for row in range(first, shape[0], BLOCK):
            count = min(BLOCK, shape[0] - row)
            yield from np.frombuffer(file.read(count * size), dtype=np.uint8).reshape(count, *shape[1:])


def _array(image: np.ndarray) -> np.ndarray:
    """An image (H, W), (C, H, W) or (H, W, C) with C 1 or 3."""
    from PIL import Image

    if image.ndim == 3 and image.shape[0] in (1, 3):
        image = image.transpose(1, 2, 0)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    return grey28(Image.fromarray(np.ascontiguousarray(image)))
