"""Traffic signs, drawn: 43 classes with the names, shapes, colours and pictograms of GTSRB, in tracks like there.

A stand-in for lessons without network. It is not a copy of GTSRB: numbers measured on it say nothing about the
real data, so `Dataset.standin` is true and titles say so. Data card: data/signs.md.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from course_utils import progress
from course_utils.datasets import cache
from course_utils.datasets.dataset import Dataset, Split
from course_utils.datasets.gtsrb import CLASSES, TRACKS_PER_CLASS
from course_utils.datasets.standins.camera import SIZE, Difficulty, Scene, draw_scene, photograph
from course_utils.datasets.standins.faces import draw_face

FRAMES = 5  # images in a track
SPLITS = ("train", "validation", "test")


def load(
    name: str = "signs",
    train_per_class: int = 90,
    validation_per_class: int = 10,
    test_per_class: int = 30,
    seed: int = 0,
) -> Dataset:
    """Draw the data set, or read it from the cache. Images (3, 32, 32).

    name: "signs", or the data set it stands in for ("gtsrb").
    train_per_class, validation_per_class: multiples of FRAMES, because a track is never cut.
    test_per_class: test images are single photographs, each of another scene.

    The same arguments give the same bytes on the same machine. Raises ValueError for counts that cannot be.
    """
    for split, count in (("train", train_per_class), ("validation", validation_per_class)):
        if count < FRAMES or count % FRAMES:
            raise ValueError(
                f"{split}_per_class={count}; expected a multiple of {FRAMES}, the images in a track, above 0"
            )
    if test_per_class < 1:
        raise ValueError(f"test_per_class={test_per_class}; expected at least 1")
    frames = {"train": FRAMES, "validation": FRAMES, "test": 1}
    tracks = {
        "train": train_per_class // FRAMES,
        "validation": validation_per_class // FRAMES,
        "test": test_per_class,
    }
    key = f"signs-{_code_version()}-{train_per_class}-{validation_per_class}-{test_per_class}-{seed}"
    arrays = cache.cached_arrays(key, lambda: _draw(tracks, frames, seed))
    splits = {split: Split(*(arrays[f"{split}_{field}"] for field in ("x", "y", "group"))) for split in SPLITS}
    return Dataset(name=name, classes=CLASSES, source="standin", **splits)


def _frames(scene: Scene, frames: int, generator: np.random.Generator, hard: Difficulty) -> np.ndarray:
    # A single photograph is taken at any distance.
    moments = np.linspace(0, 1, frames) if frames > 1 else generator.random(1)
    return np.stack([photograph(scene, float(moment), generator, hard) for moment in moments])


def _draw(tracks: dict[str, int], frames: dict[str, int], seed: int) -> dict[str, np.ndarray]:
    hard = Difficulty()
    counts = {split: len(CLASSES) * tracks[split] * frames[split] for split in SPLITS}
    arrays: dict[str, np.ndarray] = {}
    for split in SPLITS:
        arrays[f"{split}_x"] = np.empty((counts[split], 3, SIZE, SIZE), dtype=np.uint8)
        arrays[f"{split}_y"] = np.repeat(np.arange(len(CLASSES)), tracks[split] * frames[split]).astype(np.int64)
    with progress.bar(len(CLASSES), "drawing traffic signs") as bar:
        for label in range(len(CLASSES)):
            face = draw_face(label)
            for number, split in enumerate(SPLITS):
                for track in range(tracks[split]):
                    # A generator of its own for every track: asking for more tracks leaves the others as they are.
                    generator = np.random.default_rng([seed, number, label, track])
                    scene = draw_scene(face, generator, hard)
                    first = (label * tracks[split] + track) * frames[split]
                    arrays[f"{split}_x"][first : first + frames[split]] = _frames(scene, frames[split], generator, hard)
            bar.update()
    for number, split in enumerate(SPLITS):
        within_class = np.tile(np.repeat(np.arange(tracks[split]), frames[split]), len(CLASSES))
        group = (arrays[f"{split}_y"] * len(SPLITS) + number) * TRACKS_PER_CLASS + within_class
        arrays[f"{split}_group"] = group.astype(np.int64)
    return arrays


def _code_version() -> str:
    """Changes with the drawing code, so that the cache never serves pictures of an older version."""
    folder = Path(__file__).parent
    code = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
    return hashlib.sha256(code).hexdigest()[:12]
