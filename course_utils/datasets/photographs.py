"""Photographs on disk: found by their names in folders, in a zip or in a zip cut into parts, and read to one size.

Collections of this kind are never whole: files are missing, cut short, or pages of a web server under a picture's
name. Nothing of that passes silently: every such file is named in a `Report`. Photographs also come in many sizes; which
image has which is in the report too, and the caller chooses what becomes of them.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, cast

import numpy as np

from course_utils import progress
from course_utils.datasets.dataset import DataCorrupt, DataNotFound
from course_utils.datasets.memory import check_memory

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
SMALLEST = 10  # pixels; AVA's mirrors hold pictures of one pixel in place of deleted ones
PART = re.compile(r"(.+\.zip)\.(\d{3})")
CHOICES = ("skip", "refuse")
SIZES = ("resize", "skip", "refuse")


class MixedSizes(UserWarning):
    """Photographs of several sizes were brought to one."""


def image_name(text: str) -> str:
    """Name of an image without the ending of an image file: "m0.jpg" is "m0", and "a.b" stays "a.b"."""
    ending = next((ending for ending in ENDINGS if text.lower().endswith(ending)), "")
    return text[: len(text) - len(ending)]


@dataclass
class Report:
    """What was wrong with the files of a collection.

    missing, truncated, not_images, too_small: names of the images concerned.
    other_size: names that were left out because they are not of the commonest size and the caller chose so.
    sizes: (width, height) of the readable files -> names of the images that have it.
    """

    missing: list[str] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)
    not_images: list[str] = field(default_factory=list)
    too_small: list[str] = field(default_factory=list)
    other_size: list[str] = field(default_factory=list)
    sizes: dict[tuple[int, int], list[str]] = field(default_factory=dict)

    KINDS = ("missing", "truncated", "not_images", "too_small", "other_size")

    @property
    def problems(self) -> int:
        """Number of images that cannot be used."""
        return sum(len(getattr(self, kind)) for kind in self.KINDS)

    @property
    def commonest(self) -> tuple[int, int]:
        """(width, height) that most of the readable files have; the one read first, of two as common."""
        return max(self.sizes, key=lambda size: len(self.sizes[size]))

    @property
    def mixed(self) -> str:
        """Which images are not of the commonest size, counted and named; empty when all are of one size."""
        if len(self.sizes) < 2:
            return ""
        common, total = self.commonest, sum(map(len, self.sizes.values()))
        others = [f"{name} {w}x{h}" for (w, h), names in self.sizes.items() if (w, h) != common for name in names]
        return (
            f"{len(self.sizes)} sizes among {total} readable images, {len(others)} are not {common[0]}x{common[1]}: "
            + _first(others)
        )

    def __str__(self) -> str:
        lines = []
        for kind in self.KINDS:
            names = getattr(self, kind)
            if names:
                lines.append(f"{len(names)} {kind.replace('_', ' ')}: {_first(names)}")
        return "; ".join([*lines, *filter(None, [self.mixed])]) or "every image is there and readable"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


class PhotoFiles:
    """The image files of a collection by name (without folder and ending).

    source: a folder (searched with its subfolders; zip files and parts in it count), a .zip, or the first part of a
        zip cut into parts (`EVA_together.zip.001`).

    Raises DataNotFound if there is no such place or no image in it, DataCorrupt for a damaged or incomplete archive.
    """

    def __init__(self, source: str | Path) -> None:
        self.source = Path(source).expanduser()
        if not self.source.exists():
            raise DataNotFound(f"there is no {self.source}; expected a folder of images or a zip of them")
        self.open_by_name: dict[str, Callable[[], IO[bytes]]] = {}
        for archive in self._archives():
            self._add_archive(archive)
        if self.source.is_dir():
            for path in sorted(self.source.rglob("*")):
                if path.suffix.lower() in ENDINGS:
                    self.open_by_name[path.stem] = partial(_open, path)
        if not self.open_by_name:
            raise DataNotFound(f"{self.source} holds no image ({', '.join(ENDINGS)}) and no zip of images")

    def __contains__(self, name: str) -> bool:
        return name in self.open_by_name

    def __len__(self) -> int:
        return len(self.open_by_name)

    def read(self, name: str) -> bytes:
        """The file's bytes; FileNotFoundError if the collection has no image of this name."""
        if name not in self.open_by_name:
            raise FileNotFoundError(name)
        with self.open_by_name[name]() as file:
            return file.read()

    def _archives(self) -> list[list[Path]]:
        """Every archive as the list of its parts."""
        if self.source.is_file():
            match = PART.fullmatch(self.source.name)
            return [_all_parts(self.source.parent, match[1])] if match else [[self.source]]
        whole = [[path] for path in sorted(self.source.glob("*.zip"))]
        cut = sorted({match[1] for path in self.source.iterdir() if (match := PART.fullmatch(path.name))})
        joined = {path[0].name for path in whole}
        return whole + [_all_parts(self.source, name) for name in cut if name not in joined]

    def _add_archive(self, parts: list[Path]) -> None:
        try:
            packed = zipfile.ZipFile(parts[0] if len(parts) == 1 else cast(IO[bytes], _Joined(parts)))
        except (zipfile.BadZipFile, OSError) as error:
            names = parts[0].name if len(parts) == 1 else f"{parts[0].name} to {parts[-1].name}"
            raise DataCorrupt(
                f"{parts[0].parent}: {names} ({sum(part.stat().st_size for part in parts):,} bytes) do not make a whole "
                f"zip archive ({error}); a part is missing or cut short: get it again from the publisher"
            ) from error
        for member in packed.namelist():
            if member.lower().endswith(ENDINGS) and "__MACOSX" not in member:
                self.open_by_name[Path(member).stem] = partial(packed.open, member)


def _open(path: Path) -> IO[bytes]:
    return open(path, "rb")


def _all_parts(folder: Path, name: str) -> list[Path]:
    parts = sorted(folder.glob(f"{name}.[0-9][0-9][0-9]"))
    numbers = [int(part.suffix[1:]) for part in parts]
    if numbers != list(range(1, len(numbers) + 1)):
        lacking = sorted(set(range(1, numbers[-1] + 1)) - set(numbers))
        raise DataCorrupt(f"{folder} has the parts {numbers} of {name}, without {lacking}: get the missing parts")
    return parts


class _Joined(io.RawIOBase):
    """Several files read as one, so that 700 MB need not be copied to join them."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self.files = [open(part, "rb") for part in parts]
        self.ends = np.cumsum([part.stat().st_size for part in parts]).tolist()
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.ends[-1]}[whence]
        self.position = max(0, start + offset)
        return self.position

    def readinto(self, buffer) -> int:
        number = int(np.searchsorted(self.ends, self.position, side="right"))
        if number == len(self.files):
            return 0
        file, start = self.files[number], self.ends[number - 1] if number else 0
        file.seek(self.position - start)
        data = file.read(len(buffer))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    def close(self) -> None:
        for file in self.files:
            file.close()
        super().close()


def read_photograph(content: bytes, size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """An image file as uint8 (3, size, size), and its own (width, height).

    The shorter side is brought to `size` and the middle is cut out: squeezing a picture into a square would change its
    composition, which is part of what was judged. Raises ValueError with "truncated", "not an image" or "too small".
    """
    from PIL import Image, ImageOps

    try:
        image = Image.open(io.BytesIO(content))
    except Exception as error:  # Pillow's decoders each have exceptions of their own
        raise ValueError("not an image") from error
    if min(image.size) <= SMALLEST:
        raise ValueError("too small")
    try:
        image.load()
    except Exception as error:
        raise ValueError("truncated") from error
    upright = ImageOps.exif_transpose(image)  # a phone that was held upright says so beside the pixels
    fitted = ImageOps.fit(upright.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    return np.asarray(fitted).transpose(2, 0, 1), upright.size


def read_photographs(
    files: PhotoFiles, names: Sequence[str], size: int, on_problem: str = "skip", sizes: str = "resize"
) -> tuple[np.ndarray, np.ndarray, Report]:
    """Read images by name.

    on_problem: "skip" leaves out what cannot be read and warns once, with names and counts; "refuse" raises.
    sizes: what to do with files of several sizes. "resize" brings all to (size, size) and notes it in one line; "skip"
        leaves out those that are not of the commonest size, with a warning; "refuse" raises.

    Returns uint8 (n, 3, size, size), the positions (n,) in `names` of what was read, and the report.
    Raises DataCorrupt under "refuse", or if not a single image could be read; TooLarge, before anything is decoded, if
    the images would not fit into memory; ValueError for another `on_problem` or `sizes`.
    """
    for setting, value, choices in (("on_problem", on_problem, CHOICES), ("sizes", sizes, SIZES)):
        if value not in choices:
            raise ValueError(f"{setting}={value!r} is unknown; choose one of {', '.join(choices)}")
    there = sum(name in files for name in names)
    check_memory(there, size, str(files.source))
    # One block from the beginning: stacking a list at the end would hold every image twice.
    x = np.empty((there, 3, size, size), dtype=np.uint8)
    kept, report = _decode(files, names, x)
    if report.problems:
        found = f"{report.problems} of {len(names)} images in {files.source} cannot be used: {report}"
        if on_problem == "refuse" or not kept:
            raise DataCorrupt(f"{found}. Get these files again, or pass on_problem='skip' to leave them out")
        warnings.warn(f"{found}. They are left out", RuntimeWarning, stacklevel=3)
    if report.mixed:
        kept = _one_size(files, names, x, kept, report, sizes)
    return x[: len(kept)], np.array(kept, dtype=np.int64), report


def _decode(files: PhotoFiles, names: Sequence[str], x: np.ndarray) -> tuple[list[int], Report]:
    """Fill `x` from its start with what can be read; the positions of that in `names`, and the report."""
    kinds = {"truncated": "truncated", "not an image": "not_images", "too small": "too_small"}
    report, kept = Report(), list[int]()
    with progress.bar(len(names), "reading photographs") as bar:
        for position, name in enumerate(names):
            try:
                image, measures = read_photograph(files.read(name), x.shape[2])
            except (FileNotFoundError, KeyError):
                report.missing.append(name)
            except (zipfile.BadZipFile, EOFError):
                report.truncated.append(name)
            except ValueError as problem:
                getattr(report, kinds[str(problem)]).append(name)
            else:
                report.sizes.setdefault(measures, []).append(name)
                x[len(kept)] = image
                kept.append(position)
            bar.update()
    return kept, report


def _one_size(
    files: PhotoFiles, names: Sequence[str], x: np.ndarray, kept: list[int], report: Report, sizes: str
) -> list[int]:
    """What the caller wants done with files of several sizes; under "skip" `x` is moved together. Returns `kept`."""
    where = f"{files.source}: {report.mixed}"
    if sizes == "refuse":
        raise DataCorrupt(
            f"{where}. Bring them to one size, or pass sizes='resize' to do it here or 'skip' to leave them out"
        )
    if sizes == "resize":
        side = x.shape[2]
        warnings.warn(f"{where}. All are brought to {side}x{side} pixels", MixedSizes, stacklevel=4)
        return kept
    common = set(report.sizes[report.commonest])
    rows = [row for row, position in enumerate(kept) if names[position] in common]
    report.other_size += [names[position] for position in kept if names[position] not in common]
    for new, old in enumerate(rows):
        x[new] = x[old]
    warnings.warn(f"{where}. They are left out", RuntimeWarning, stacklevel=4)
    return [kept[row] for row in rows]
