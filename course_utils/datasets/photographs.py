"""Photographs on disk: found by their names in folders, in a zip or in a zip cut into parts, and read to one size.

Collections of this kind are never whole: files are missing, cut short, or pages of a web server under a picture's
name. Nothing of that passes silently: every such file is named in a `Report`.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, cast

import numpy as np

from course_utils import progress
from course_utils.datasets.dataset import DataCorrupt, DataNotFound

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
SMALLEST = 10  # pixels; AVA's mirrors hold pictures of one pixel in place of deleted ones
PART = re.compile(r"(.+\.zip)\.(\d{3})")
CHOICES = ("skip", "refuse")


@dataclass
class Report:
    """What was wrong with the files of a collection.

    missing, truncated, not_images, too_small: names of the images concerned.
    sizes: (width, height) of the readable files -> how many. They are all brought to one size.
    """

    missing: list[str] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)
    not_images: list[str] = field(default_factory=list)
    too_small: list[str] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)

    KINDS = ("missing", "truncated", "not_images", "too_small")

    @property
    def problems(self) -> int:
        """Number of images that cannot be used."""
        return sum(len(getattr(self, kind)) for kind in self.KINDS)

    def __str__(self) -> str:
        lines = []
        for kind in self.KINDS:
            names = getattr(self, kind)
            if names:
                shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
                lines.append(f"{len(names)} {kind.replace('_', ' ')}: {shown}")
        if len(self.sizes) > 1:
            lines.append(f"{len(self.sizes)} sizes among {sum(self.sizes.values())} readable images")
        return "; ".join(lines) or "every image is there and readable"


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
    fitted = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    return np.asarray(fitted).transpose(2, 0, 1), image.size


def read_photographs(
    files: PhotoFiles, names: Sequence[str], size: int, on_problem: str = "skip"
) -> tuple[np.ndarray, np.ndarray, Report]:
    """Read images by name.

    on_problem: "skip" leaves out what cannot be read and warns once, with names and counts; "refuse" raises.

    Returns uint8 (n, 3, size, size), the positions (n,) in `names` of what was read, and the report.
    Raises DataCorrupt under "refuse", or if not a single image could be read; ValueError for another `on_problem`.
    """
    if on_problem not in CHOICES:
        raise ValueError(f"on_problem={on_problem!r} is unknown; choose one of {', '.join(CHOICES)}")
    kinds = {"truncated": "truncated", "not an image": "not_images", "too small": "too_small"}
    report, kept, images = Report(), [], []
    with progress.bar(len(names), "reading photographs") as bar:
        for position, name in enumerate(names):
            try:
                image, measures = read_photograph(files.read(name), size)
            except (FileNotFoundError, KeyError):
                report.missing.append(name)
            except (zipfile.BadZipFile, EOFError):
                report.truncated.append(name)
            except ValueError as problem:
                getattr(report, kinds[str(problem)]).append(name)
            else:
                report.sizes[measures] += 1
                kept.append(position)
                images.append(image)
            bar.update()
    if report.problems:
        found = f"{report.problems} of {len(names)} images in {files.source} cannot be used: {report}"
        if on_problem == "refuse" or not kept:
            raise DataCorrupt(f"{found}. Get these files again, or pass on_problem='skip' to leave them out")
        warnings.warn(f"{found}. They are left out", RuntimeWarning, stacklevel=3)
    x = np.stack(images) if images else np.empty((0, 3, size, size), dtype=np.uint8)
    return x, np.array(kept, dtype=np.int64), report
