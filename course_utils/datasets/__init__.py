"""Data sets of the course: real ones read from disk or fetched from their publishers, and labelled stand-ins.

    data = datasets.load("gtsrb")      # .train .validation .test, each with .x uint8 (N, C, H, W), .y and .group

`$COURSE_DATA` is searched first and only read. `$COURSE_OFFLINE=1` forbids downloads.
"""

from __future__ import annotations

import importlib
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from course_utils.datasets.arrays import from_arrays
from course_utils.datasets.cache import cache_folder, offline
from course_utils.datasets.dataset import DataCorrupt, DataNotFound, Dataset, Split, StandInWarning
from course_utils.datasets.npz import from_npz
from course_utils.datasets.sheet import contact_sheet

__all__ = [
    "DataCorrupt",
    "DataNotFound",
    "Dataset",
    "Split",
    "StandInWarning",
    "contact_sheet",
    "from_arrays",
    "from_npz",
    "get",
    "load",
    "names",
]

SOURCES = ("auto", "local", "download", "standin")
PUBLISHED = ("fashion_mnist", "gtsrb", "tiny_imagenet_gray")  # have a publisher to download from, through torchvision
DRAWN = ("glyphs", "photos", "signs")  # by the course
MADE = {"imagenet_28_gray": "python data/prepare_imagenet.py"}  # on the user's machine, by this command
BY_HAND = ("ava", "eva")  # put in place by the user: no publisher's download, or one that asks for many steps
# Real data set -> procedural stand-in.
STANDINS = {
    "ava": "photos",
    "eva": "photos",
    "gtsrb": "signs",
    "imagenet_28_gray": "glyphs",
    "tiny_imagenet_gray": "glyphs",
}
MODULES = {"imagenet_28_gray": "imagenet28", "tiny_imagenet_gray": "tiny_imagenet"}  # where it is not the name
NAMES = (
    "ava", "digits", "eva", "fashion_mnist", "glyphs", "gtsrb", "imagenet_28_gray", "photos", "signs",
    "tiny_imagenet_gray",
)  # fmt: skip
TIMEOUT = 30.0  # seconds without an answer after which a download counts as failed


def names() -> tuple[str, ...]:
    """The names that `load` knows."""
    return NAMES


def load(name: str, source: str = "auto", *, allow_standin: bool = True) -> Dataset:
    """Load a data set into memory.

    name: one of `names()`.
    source: "local" reads `$COURSE_DATA` and the cache; "download" fetches from the publisher into the cache (once);
        "standin" draws the procedural stand-in; "auto" tries the three in this order and warns with StandInWarning
        if it ends at a stand-in. `digits` comes with scikit-learn whatever the source.
    allow_standin: False makes "auto" raise DataNotFound instead of drawing a stand-in (the full preset does).

    Raises ValueError for an unknown name or source, DataNotFound where the data cannot be had, and DataCorrupt,
    whatever the source, for a damaged file: real data that are there but broken never give way to a stand-in.
    """
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}; the course has {', '.join(NAMES)}")
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r} for {name}; use one of {', '.join(SOURCES)}")
    if name in DRAWN:
        if source in ("local", "download"):
            raise ValueError(f"{name} is drawn by the course, there is nothing to {source}; use source='standin'")
        return _standin(name)
    if source == "standin":
        return _standin(name)
    if name == "digits":
        return _module("digits").load()
    if source == "download":
        return _download(name)
    data = _local(name)
    if data is not None:
        return data
    if source == "local":
        raise DataNotFound(f"{name} is not in {_searched()}; {_how_to_get(name)}")
    return _download_or_standin(name, allow_standin)


def get(name: str) -> str:
    """Fetch a data set so that later loads need no network; returns a report of where it lies and how much it holds.

    This is `course data get NAME`. What is already on this machine is not fetched again. Raises as `load` does.
    """
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}; the course has {', '.join(NAMES)}")
    if name == "digits":
        data, place = load(name), "ships with scikit-learn"
    elif name in DRAWN:
        data, place = load(name), f"drawn by the course, kept under {cache_folder()}"
    else:
        data = _local(name) or _download(name)
        module = _module(name)
        place = f"in {module.find() or module.found_download()}"
    return (
        f"{data.title}: {len(data.train):,} training, {len(data.validation):,} validation and {len(data.test):,} test "
        f"images {data.image_shape}, {data.num_classes} classes; {place}"
    )


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"course_utils.datasets.{MODULES.get(name, name)}")


def _local(name: str) -> Dataset | None:
    module = _module(name)
    root = module.find() or module.found_download()
    return None if root is None else module.load(root, "local")


def _download(name: str) -> Dataset:
    module = _module(name)
    root = module.found_download()
    if root is not None:
        return module.load(root, "download")
    if offline() and name not in (*MADE, *BY_HAND):
        raise DataNotFound(
            f"COURSE_OFFLINE forbids the download of {name}; unset it, "
            f"or put the files where COURSE_DATA points (layout: data/{name}.md)"
        )
    try:
        with _timeout(TIMEOUT):
            root = module.download()
    except (DataCorrupt, DataNotFound):
        raise
    except (OSError, RuntimeError) as error:  # torchvision reports a bad checksum or an unreachable host in these
        raise DataNotFound(
            f"the download of {name} failed ({type(error).__name__}: {error}); check the network and try again, "
            f"or put the files where COURSE_DATA points (layout: data/{name}.md)"
        ) from error
    return module.load(root, "download")


def _download_or_standin(name: str, allow_standin: bool) -> Dataset:
    try:
        return _download(name)
    except DataNotFound as error:
        if allow_standin and name in STANDINS:
            warnings.warn(
                f"{name} is not in {_searched()} and cannot be fetched ({error}): going on with the procedural "
                f"stand-in {STANDINS[name]!r}. Its numbers are not those of the real data.",
                StandInWarning,
                stacklevel=3,
            )
            return _standin(name)
        raise DataNotFound(
            f"{name} is not in {_searched()} and cannot be fetched ({error}); {_how_to_get(name)}"
        ) from error


def _standin(name: str) -> Dataset:
    if name not in (*DRAWN, *STANDINS):
        raise DataNotFound(f"{name} has no stand-in; {_how_to_get(name)}")
    drawing = importlib.import_module(f"course_utils.datasets.standins.{STANDINS.get(name, name)}")
    return drawing.load(name)  # it draws the part that it is to play


def _how_to_get(name: str) -> str:
    if name == "digits":
        return "load it with source='auto', it ships with scikit-learn"
    if name in MADE:
        return f"run `{MADE[name]}` in the course's folder (card: data/{name}.md)"
    if name in BY_HAND:
        return _module(name).LAYOUT
    advice = f"run `course data get {name}` on a machine with network"
    return advice if name in STANDINS else f"{advice}, or use the data set 'digits', which is always there"


def _searched() -> str:
    from course_utils.datasets.cache import data_folders

    return " or ".join(str(folder) for folder in data_folders())


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """A network that swallows packets must fail, not hang: torchvision sets no time limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
