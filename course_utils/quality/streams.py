"""Streams of scores: data set after data set, or one content category after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from course_utils.datasets import Dataset
from course_utils.datasets.scored import ScoredSplit, rebin
from course_utils.quality.sharing import keep_apart
from course_utils.streams import Samples, Task, TaskStream

TARGETS = ("score", "spread", "distribution")
LEVELS = 10  # of every distribution in a stream
PARTS = ("train", "validation", "test")


def dataset_stream(
    data: Sequence[Dataset], *, targets: str = "score", limit: int | None = None, seed: int = 0
) -> TaskStream:
    """One data set after the other, as EVA then AVA; domain-incremental, with a score in [0, 1] as target.

    No picture is trained on in one data set and held out in another: such pictures are left out of training, with a
    warning that counts them (see `keep_apart`). `stream.info["left_out"]` has the counts, one dictionary for each data set.

    Args:
        data: scored data sets with images of one shape: `[datasets.load("eva"), datasets.load("ava")]`.
        targets: what `y` holds: "score" `(N,)`; "spread" `(N, 2)`, scores and their spreads; "distribution" `(N, 10)`.
            `QualityObjective(...).targets` says which one a loss needs.
        limit: at most this many training images a task, drawn with `seed`, whole groups together.

    Raises:
        ValueError: all that one data set trains on is held out in another, images of different shapes, unknown
            targets, or targets that the data set does not have.

    Built in lesson 06.
    """
    _one_shape(data)
    data, left_out = keep_apart(data)
    parts = [(one.title, {name: getattr(one, name) for name in PARTS}) for one in data]
    title = " then ".join(one.title for one in data)
    standin, info = any(one.standin for one in data), {"left_out": left_out}
    return _stream(parts, title, targets, limit, seed, standin=standin, info=info)


def category_stream(
    data: Dataset,
    *,
    order: Sequence[int] | None = None,
    targets: str = "score",
    limit: int | None = None,
    seed: int = 0,
) -> TaskStream:
    """One content category after the other, as EVA's six; domain-incremental, with a score in [0, 1] as target.

    Args:
        data: a scored data set with several categories.
        order: of the categories; default is index order.
        targets, limit, seed: as in `dataset_stream`.

    Raises:
        ValueError: there is only one category, a category is named twice, or a split has none of its images.

    Built in lesson 06.
    """
    _scored(data)
    wanted = list(range(data.num_classes)) if order is None else [int(category) for category in order]
    if len(wanted) < 2 or len(set(wanted)) < len(wanted) or not set(wanted) <= set(range(data.num_classes)):
        raise ValueError(
            f"order={wanted} of {data.title}, which has {data.num_classes} categories "
            f"({', '.join(data.classes)}); expected at least two different ones"
        )
    parts = []
    for category in wanted:
        split = {name: getattr(data, name).select(getattr(data, name).y == category) for name in PARTS}
        if not all(len(part) for part in split.values()):
            sizes = {name: len(part) for name, part in split.items()}
            raise ValueError(
                f"category {data.classes[category]!r} of {data.title} has {sizes} images; leave it out with order="
            )
        parts.append((data.classes[category], split))
    return _stream(parts, f"{data.title} by category", targets, limit, seed, standin=data.standin)


def _stream(
    parts: list[tuple[str, dict[str, Any]]],
    title: str,
    targets: str,
    limit: int | None,
    seed: int,
    standin: bool,
    info: dict[str, Any] | None = None,
) -> TaskStream:
    if targets not in TARGETS:
        raise ValueError(f"targets={targets!r} is unknown; choose one of {', '.join(TARGETS)}")
    outputs = LEVELS if targets == "distribution" else 1
    tasks = []
    for index, (name, splits) in enumerate(parts):
        if limit is not None:
            splits = {**splits, "train": _limited(splits["train"], limit, np.random.default_rng((seed, index)))}
        made = {part: _samples(splits[part], index, targets, name) for part in PARTS}
        tasks.append(Task(index, name, (), **made, outputs=outputs, columns=(0, outputs)))
    names = ("score",) if outputs == 1 else tuple(f"level {level}" for level in range(outputs))
    return TaskStream(tuple(tasks), "domain", names, title, objective="regression", standin=standin, info=info or {})


def _samples(split: ScoredSplit, task: int, targets: str, name: str) -> Samples:
    score = torch.from_numpy(split.score.copy())
    if targets == "spread":
        y = torch.stack([score, torch.from_numpy(split.spread.copy())], dim=1)
    elif targets == "distribution":
        y = torch.from_numpy(rebin(split.distribution.astype(np.float64), LEVELS).astype(np.float32))
    else:
        y = score
    if y.isnan().any():
        raise ValueError(
            f"{name} does not have the {targets} of all images; use targets='score', or labels with single votes"
        )
    images, group = torch.from_numpy(np.ascontiguousarray(split.x)), torch.from_numpy(split.group.copy())
    return Samples({"x": images, "y": y, "task": torch.full((len(y),), task), "group": group})


def _limited(split: ScoredSplit, limit: int, generator: np.random.Generator) -> ScoredSplit:
    """At most `limit` images, whole groups together, in their old order."""
    if limit < 1:
        raise ValueError(f"limit={limit} leaves no training images; use at least 1, or None for all")
    groups = generator.permutation(np.unique(split.group))
    rank = {group: place for place, group in enumerate(groups.tolist())}
    order = np.argsort([rank[group] for group in split.group.tolist()], kind="stable")
    return split.select(np.sort(order[:limit]))


def _scored(data: Dataset) -> None:
    if not isinstance(data.train, ScoredSplit):
        raise ValueError(
            f"{data.title} has classes and no scores; use datasets.load('eva'), 'ava' or 'photos', or an EVADataset's "
            "or AVADataset's to_dataset()"
        )


def _one_shape(data: Sequence[Dataset]) -> None:
    if not data:
        raise ValueError("a stream needs at least one data set")
    for one in data:
        _scored(one)
    shapes = {one.title: one.image_shape for one in data}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"images differ in shape: {shapes}; read all data sets at one image_size")
