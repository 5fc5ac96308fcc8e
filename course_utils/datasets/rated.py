"""A collection of photographs with scores as a map-style data set: what `EVADataset` and `AVADataset` share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from course_utils.datasets import cache
from course_utils.datasets.dataset import DataCorrupt, Dataset
from course_utils.datasets.photographs import PhotoFiles, read_photographs
from course_utils.datasets.scored import (
    FIELDS,
    SPLIT_SEED,
    Labels,
    ScoredSplit,
    reference_of,
    scored_dataset,
    split_labels,
)

SPLITS = ("train", "validation", "test", "all")


class RatedDataset:
    """Photographs with scores, read into memory once; works with `torch.utils.data.DataLoader`.

    `dataset[i]` is a dict of `image` (3, size, size) uint8, or what `transform` makes of it, `score`, `spread` (float
    in [0, 1]; NaN where unknown), `distribution` (levels,) and `image_id`.

    image_dir: a folder of images, a zip, or the first part of a zip cut into parts.
    label_file: see the subclass.
    split: "train", "validation", "test" or "all"; see `split_of`.
    image_size: side of the square images, pixels.
    transform: applied to each image in `__getitem__`, such as `quality.train_transform()`.
    on_problem: "skip" leaves unreadable images out and warns with names and counts; "refuse" raises DataCorrupt.
    sizes: "resize" brings files of several sizes to one and notes it; "skip" leaves out those that are not of the
        commonest size and warns with names and counts; "refuse" raises DataCorrupt.
    seed: of the split.
    limit: read at most this many images, the first of the split in the order of a hash of their names.
    by_split: order the images train, validation, test, so that `to_dataset` need not copy them.

    `report` is the `Report` of the files: what could not be used, and which image has which size.

    Raises DataNotFound, DataCorrupt or ValueError; the message names the file. TooLarge if the images do not fit into
    memory, before the first is decoded: 100,000 of 224x224 pixels are 15 GB.
    """

    name = "photographs"

    def __init__(
        self,
        image_dir: str | Path,
        label_file: str | Path,
        *,
        split: str = "all",
        image_size: int = 224,
        transform: Callable[[Any], Any] | None = None,
        on_problem: str = "skip",
        sizes: str = "resize",
        seed: int = SPLIT_SEED,
        limit: int | None = None,
        by_split: bool = False,
        **options: Any,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split={split!r} is unknown; choose one of {', '.join(SPLITS)}")
        if image_size < 16:
            raise ValueError(f"image_size={image_size}; a picture needs at least 16 pixels a side")
        if limit is not None and limit < 1:
            raise ValueError(f"limit={limit} leaves no images; use at least 1, or None for all")
        self.transform, self.image_size, self.split, self.seed = transform, image_size, split, seed
        labels = self.read_labels(Path(label_file).expanduser(), **options)
        self._test = frozenset(self._test_ids(**options))
        if split != "all":
            labels = labels.select(split_labels(labels, seed, tuple(self._test))[split])
        if limit is not None:
            labels = labels.select(np.argsort([_number(name) for name in labels.ids], kind="stable")[:limit])
        if by_split:
            labels = labels.select(np.concatenate(list(split_labels(labels, seed, tuple(self._test)).values())))
        files = PhotoFiles(image_dir)
        self.images, kept, self.report = read_photographs(files, labels.ids, image_size, on_problem, sizes)
        self.labels = labels.select(kept)

    def read_labels(self, label_file: Path, **options: Any) -> Labels:
        """The label file's content; each subclass has its formats."""
        raise NotImplementedError(f"{type(self).__name__} has no read_labels(): override it")

    def _test_ids(self, **options: Any) -> tuple[str, ...]:
        return ()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        import torch

        image: Any = torch.from_numpy(self.images[index].copy())
        return {
            "image": image if self.transform is None else self.transform(image),
            "score": np.float32(self.labels.score[index]),
            "spread": np.float32(self.labels.spread[index]),
            "distribution": self.labels.distribution[index].astype(np.float32),
            "image_id": self.labels.ids[index],
        }

    def scored_split(self) -> ScoredSplit:
        """Everything as arrays."""
        return to_split(self.images, self.labels)

    def to_dataset(self) -> Dataset:
        """The three published splits as a `datasets.Dataset`; needs split="all". Copies the images unless `by_split`.

        Raises ValueError if only one split was read, DataCorrupt if a split has no image.
        """
        if self.split != "all":
            raise ValueError(f"this holds the split {self.split!r} alone; read it with split='all' first")
        rows = split_labels(self.labels, self.seed, tuple(self._test))
        empty = [name for name, found in rows.items() if not len(found)]
        if empty:
            advice = ", or another list of test images" if self._test else ""
            raise DataCorrupt(
                f"{len(self)} readable images leave none for {', '.join(empty)}; give more images{advice}"
            )
        whole = self.scored_split()
        splits = {name: whole.select(_span(found)) for name, found in rows.items()}
        return scored_dataset(self.name, splits, self.labels.categories, "local")


def to_split(x: np.ndarray, labels: Labels, truth: np.ndarray | None = None) -> ScoredSplit:
    """Images and their labels as one split; images of one reference get one group number, in every data set the same."""
    nowhere = np.full(len(labels), np.nan, dtype=np.float32)
    return ScoredSplit(
        x=x,
        y=labels.category,
        group=np.array([_number(reference_of(name)) for name in labels.ids], dtype=np.int64),
        score=labels.score.astype(np.float32),
        spread=labels.spread.astype(np.float32),
        distribution=labels.distribution.astype(np.float32),
        truth=nowhere if truth is None else truth.astype(np.float32),
    )


def _span(rows: np.ndarray) -> Any:
    """Rows without a gap as a slice: that selects a view, and not a copy of gigabytes."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == len(rows) else rows


def _number(name: str) -> int:
    """A number for a name, the same on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def cached_dataset(
    name: str, kind: type[RatedDataset], images: Path, labels: Path, image_size: int, source: str, **options: Any
) -> Dataset:
    """The three splits of a collection at `image_size`, decoded once and then read from the cache."""
    watched = [labels, images, *sorted(images.glob("*.zip*"))] if images.is_dir() else [labels, images]
    watched += [Path(value) for value in options.values() if value is not None]
    key = f"{name}-v2-{image_size}-{cache.fingerprint(watched)}"
    arrays = cache.cached_arrays(
        key, lambda: as_arrays(kind(images, labels, image_size=image_size, by_split=True, **options).to_dataset())
    )
    return from_cached(name, arrays, source)


def from_cached(name: str, arrays: dict[str, np.ndarray], source: str) -> Dataset:
    """A scored data set from the arrays that the cache keeps."""
    splits = {split: ScoredSplit(*(arrays[f"{split}_{field}"] for field in FIELDS)) for split in SPLITS[:3]}
    return scored_dataset(name, splits, tuple(str(text) for text in arrays["classes"]), source)


def as_arrays(data: Dataset) -> dict[str, np.ndarray]:
    """The arrays of a scored data set, for the cache."""
    arrays = {f"{split}_{field}": getattr(getattr(data, split), field) for split in SPLITS[:3] for field in FIELDS}
    return {**arrays, "classes": np.array(data.classes)}
