"""Photographs, drawn, whose quality is known: the stand-in for EVA and AVA.

    data = datasets.load("photos")                    # both families
    data = datasets.load("eva", source="standin")     # blur, noise, contrast
    data = datasets.load("ava", source="standin")     # JPEG, blocking, contrast

It is not a copy of them: EVA and AVA ask how beautiful a photograph is, this asks how well it is preserved. Numbers measured on it
say nothing about the real data, so `Dataset.standin` is true and titles say so. Data card: data/photos.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from course_utils import progress
from course_utils.datasets import cache
from course_utils.datasets.dataset import Dataset
from course_utils.datasets.eva import CATEGORIES
from course_utils.datasets.rated import as_arrays, from_cached
from course_utils.datasets.scored import ScoredSplit, scored_dataset
from course_utils.datasets.standins.photos.distortions import FAMILIES, distort, quality
from course_utils.datasets.standins.photos.scenes import draw_scene

VERSIONS = 2  # pictures of one scene, at different levels
FAMILY_OF = {"eva": ("optics",), "ava": ("compression",), "photos": ("optics", "compression")}
LEVELS = {"eva": (0, 10), "ava": (1, 10), "photos": (1, 10)}  # lowest and highest vote
DEFAULTS = {"train": 720, "validation": 120, "test": 300}  # images of one family
VOTERS = 30  # people who judge a picture
DISAGREEMENT = 0.14  # deviation of one vote from the true quality, share of the scale: about AVA's
CLEAN = 0.1  # share of pictures without any distortion


def load(
    name: str = "photos",
    train: int = DEFAULTS["train"],
    validation: int = DEFAULTS["validation"],
    test: int = DEFAULTS["test"],
    *,
    size: int = 64,
    seed: int = 0,
) -> Dataset:
    """Draw the data set, or read it from the cache. Images (3, size, size), splits are `ScoredSplit`s.

    name: "eva" or "ava", the part it plays, or "photos" for both families together.
    train, validation, test: images of each family, a multiple of 12: two versions of a scene in six categories.
    size: side of a picture, pixels.

    The score of an image is the mean of 30 drawn votes; `.truth` is the quality that its levels leave. The same
    arguments give the same bytes on the same machine. Raises ValueError for a name or counts that cannot be.
    """
    counts = {"train": train, "validation": validation, "test": test}
    unit = VERSIONS * len(CATEGORIES)
    if name not in FAMILY_OF:
        raise ValueError(f"the photographs play {', '.join(FAMILY_OF)}; got {name!r}")
    for split, count in counts.items():
        if count < unit or count % unit:
            raise ValueError(f"{split}={count}; expected a multiple of {unit}: {VERSIONS} versions in 6 categories")
    if size < 32:
        raise ValueError(f"size={size}; the scenes need at least 32 pixels")
    key = f"photos-{_code_version()}-{name}-{train}-{validation}-{test}-{size}-{seed}"
    arrays = cache.cached_arrays(key, lambda: as_arrays(_draw_all(name, counts, size, seed)))
    return from_cached(name, arrays, "standin")


def draw_levels(family: str, generator: np.random.Generator) -> dict[str, float]:
    """Distortion levels of one picture: none, one, or one and a weaker second one, from the family's three."""
    if generator.random() < CLEAN:
        return {}
    names = list(generator.permutation(FAMILIES[family]))
    levels = {str(names[0]): float(generator.uniform(0.05, 1))}
    if generator.random() < 0.4:
        levels[str(names[1])] = float(generator.uniform(0.05, 0.5))
    return levels


def _draw_all(name: str, counts: Mapping[str, int], size: int, seed: int) -> Dataset:
    total = sum(counts.values()) * len(FAMILY_OF[name])
    splits = {}
    with progress.bar(total, f"drawing {name}'s stand-in") as bar:
        for number, (split, count) in enumerate(counts.items()):
            parts = [_draw(name, family, number, count, size, seed, bar) for family in FAMILY_OF[name]]
            splits[split] = ScoredSplit(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    return scored_dataset(name, splits, CATEGORIES, "standin")


def _draw(name: str, family: str, split: int, count: int, size: int, seed: int, bar: Any) -> tuple[np.ndarray, ...]:
    """The fields of a `ScoredSplit`, in order."""
    low, high = LEVELS[name]
    place = list(FAMILIES).index(family)
    x, category, group, truth = np.empty((count, 3, size, size), np.uint8), [], [], []
    histograms = np.zeros((count, high - low + 1))
    for scene in range(count // VERSIONS):
        label = scene % len(CATEGORIES)
        # A generator of its own for every scene: asking for more scenes leaves the others as they are.
        generator = np.random.default_rng([seed, place, split, scene])
        picture = draw_scene(label, size, generator)
        for version in range(VERSIONS):
            row, levels = scene * VERSIONS + version, draw_levels(family, generator)
            x[row] = distort(picture, levels, generator).transpose(2, 0, 1)
            votes = low + (high - low) * generator.normal(quality(levels), DISAGREEMENT, VOTERS)
            histograms[row] = np.bincount(
                np.clip(np.rint(votes), low, high).astype(int) - low, minlength=high - low + 1
            )
            category.append(label)
            group.append(((seed * len(FAMILIES) + place) * 3 + split) * 1_000_000 + scene)
            truth.append(quality(levels))
            bar.update()
    level = np.linspace(0, 1, high - low + 1)
    shares = histograms / VOTERS
    score = shares @ level
    spread = np.sqrt(np.maximum(shares @ level**2 - score**2, 0))
    floats = (array.astype(np.float32) for array in (score, spread, shares, np.array(truth)))
    return x, np.array(category, np.int64), np.array(group, np.int64), *floats


def _code_version() -> str:
    """Changes with the drawing code, so that the cache never serves pictures of an older version."""
    code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.sha256(code).hexdigest()[:12]
