"""A small grid on made-up images, and four devices on one CPU for all tests of the grid."""

from __future__ import annotations

import jax
import numpy as np

from course_utils import grid
from course_utils.grid.data import ClassImages

DEVICES = 4
grid.use_devices(DEVICES)
jax.devices()  # jax starts here, with four devices, while tests are collected: a lesson's test would give it one a core

SMALL = {
    "data": "digits",  # a name only: the images come from `images`
    "num_tasks": 3,
    "num_repeats": 4,
    "train_images": 12,
    "test_images": 6,
    "replay_images": 4,
    "replay_batch_size": 4,
    "batch_size": 8,
    "steps_per_task": 6,
    "log_frequency": 3,
    "subsamples": 6,
    "widths": (4, 5, 6),
    "hidden": 7,
    "convolution": "patches",
}


def config(**changes) -> grid.GridConfig:
    return grid.GridConfig(**{**SMALL, **changes})


def images(classes: int = 8, train: int = 12, test: int = 6, noise: float = 60, seed: int = 0) -> ClassImages:
    """Classes that are patterns with noise."""
    generator = np.random.default_rng(seed)
    patterns = generator.integers(0, 256, (classes, 1, 28, 28))

    def draw(count: int) -> np.ndarray:
        return (patterns + noise * generator.standard_normal((classes, count, 28, 28))).clip(0, 255).astype(np.uint8)

    names = tuple(f"pattern {k}" for k in range(classes))
    return ClassImages(draw(train), draw(test), names, "Patterns (made up)", "patterns", "standin")


def run(folder, changes=None, data=None):
    """The folder of a finished run, without a word."""
    return grid.run(config(**(changes or {})), folder, images=data or images(), say=lambda line: None, show=False)


def contents(folder) -> dict[str, bytes]:
    """Every file under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
