"""Images by class, pairs of classes for every task and repeat, and the tensors of one task.

Nothing here is jax but the keys: the images stay on the host as uint8 until a task needs them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from course_utils.grid.config import GridConfig, GridError

SIZE = 28  # pixels
# What a key of a repeat is for: fold_in(repeat_key, USE). Tasks get fold_in(fold_in(repeat_key, TASK), task).
PAIRS, START, TASK, MEMORY = range(4)


@dataclass(frozen=True)
class ClassImages:
    """The images of a data set in equal numbers per class.

    train: uint8 (classes, train_images, 28, 28). test: uint8 (classes, test_images, 28, 28).
    names: of the classes. title: of the data set, saying so if it is a stand-in. folder: its results are kept under it.
    source: where the images came from, see `datasets.Dataset`.
    """

    train: np.ndarray
    test: np.ndarray
    names: tuple[str, ...]
    title: str
    folder: str
    source: str

    @property
    def standin(self) -> bool:
        """Whether the course drew these images itself in place of real ones."""
        return self.source == "standin"

    def check(self, config: GridConfig) -> None:
        """Raise GridError where the configuration asks for more than the data have."""
        classes = len(self.names)
        if config.num_tasks > classes // 2:
            raise GridError(
                f"num_tasks={config.num_tasks} needs {2 * config.num_tasks} classes, {self.folder} has {classes}; "
                f"use at most {classes // 2}"
            )

    def digest(self) -> str:
        """16 hexadecimal digits that change with any pixel: metadata.json keeps them, so that a run is never resumed
        on other images."""
        state = hashlib.sha256()
        for images in (self.train, self.test):
            state.update(str(images.shape).encode())
            state.update(np.ascontiguousarray(images).data)
        return state.hexdigest()[:16]


def load(config: GridConfig, *, allow_standin: bool = True) -> ClassImages:
    """The images that a configuration asks for, through `course_utils.datasets`: `data` is a name or an npz file.

    allow_standin: False raises `datasets.DataNotFound` where the real data cannot be had, instead of drawing some.
    Validation images count as training images: the grid chooses nothing by them. Raises GridError for images that are
    not 28x28 grey, and for classes with fewer images than `train_images` or `test_images`.
    """
    from course_utils import datasets

    if config.data.endswith(".npz"):
        data = datasets.from_npz(Path(config.data))
    elif config.data in datasets.names():
        data = datasets.load(config.data, allow_standin=allow_standin)
    else:
        raise GridError(
            f"data={config.data!r} is not a data set; use one of {', '.join(datasets.names())}, or the path of an npz file"
        )
    if data.train.x.shape[1:] != (1, SIZE, SIZE):
        raise GridError(
            f"{data.name} has images {data.train.x.shape[1:]}; the grid takes grey ones, (1, {SIZE}, {SIZE})"
        )
    learn_x = np.concatenate([data.train.x, data.validation.x])[:, 0]
    learn_y = np.concatenate([data.train.y, data.validation.y])
    classes = len(data.classes)
    return ClassImages(
        train=_per_class(learn_x, learn_y, classes, config.train_images, "train_images", data.name),
        test=_per_class(data.test.x[:, 0], data.test.y, classes, config.test_images, "test_images", data.name),
        names=tuple(data.classes),
        title=data.title,
        source=data.source,
        folder=Path(config.data).stem if config.data.endswith(".npz") else config.data,
    )


def _per_class(x: np.ndarray, y: np.ndarray, classes: int, count: int, field: str, name: str) -> np.ndarray:
    """The first `count` images of each class, (classes, count, 28, 28)."""
    found = np.bincount(y, minlength=classes)
    if found.min() < count:
        raise GridError(
            f"{field}={count}, but class {found.argmin()} of {name} has {found.min()} images; use at most {found.min()}"
        )
    order = np.argsort(y, kind="stable")
    first = np.concatenate([[0], np.cumsum(found)[:-1]])
    return x[order[first[:, None] + np.arange(count)]]


def repeat_keys(config: GridConfig) -> jax.Array:
    """A key for every repeat of the slice, (R,): fold_in(key(seed), number of the repeat among all repeats).

    A repeat has the same key in whatever slice it runs, so any split of the repeats gives the same numbers.
    """
    base = jax.random.key(config.seed)
    numbers = np.arange(config.first_repeat, config.first_repeat + config.num_repeats)
    return jax.vmap(jax.random.fold_in, (None, 0))(base, numbers)


def class_pairs(config: GridConfig, num_classes: int) -> np.ndarray:
    """Which classes every repeat meets in every task: int32 (R, T, 2), class A (label 0) first.

    Each repeat draws its own permutation of all classes: within a repeat no class comes twice.
    """
    keys = jax.vmap(jax.random.fold_in, (0, None))(repeat_keys(config), PAIRS)
    orders = np.asarray(jax.vmap(lambda key: jax.random.permutation(key, num_classes))(keys), dtype=np.int32)
    return orders[:, : 2 * config.num_tasks].reshape(config.num_repeats, config.num_tasks, 2)


def task_tensors(images: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One task's images and labels in canonical storage, samples first.

    images: (classes, n, 28, 28). pairs: of this task, (R, 2).
    Returns x uint8 (2 n, R, 28, 28) and y int32 (2 n, R): class A in the first half with label 0, then class B with 1.
    """
    chosen = images[pairs]  # (R, 2, n, 28, 28)
    repeats, _, count = chosen.shape[:3]
    x = chosen.transpose(1, 2, 0, 3, 4).reshape(2 * count, repeats, SIZE, SIZE)
    y = np.repeat(np.array([0, 1], dtype=np.int32), count)
    return np.ascontiguousarray(x), np.ascontiguousarray(np.broadcast_to(y[:, None], (2 * count, repeats)))


def batches(key: jax.Array, num_images: int, batch_size: int, num_steps: int) -> jax.Array:
    """Which images make each batch, int32 (num_steps, batch_size): every epoch a fresh permutation.

    What is left over at the end of an epoch, less than a batch, is dropped, as usual.
    """
    per_epoch = num_images // batch_size
    epochs = -(-num_steps // per_epoch)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(epochs))
    orders = jax.vmap(lambda key: jax.random.permutation(key, num_images))(keys)
    return orders[:, : per_epoch * batch_size].reshape(-1, batch_size)[:num_steps]


def scan_layout(x: jax.Array, order: jax.Array) -> jax.Array:
    """The images as `lax.scan` meets them: (num_batches, batch_size, R, 28, 28).

    x: canonical (N, R, 28, 28). order: (num_batches, batch_size, R), from `batches` for each repeat.
    Training takes one batch of this at a time, because the whole would be num_epochs times as big as x.
    """
    repeats = np.arange(x.shape[1])
    return x[order, repeats]


def subsample(config: GridConfig, pairs: np.ndarray) -> np.ndarray:
    """Which test images of every task keep their representations: int32 (T, S, R), positions in the canonical tensor.

    Half of them of class A, then half of class B, drawn without replacement for each class from a key of its own, so
    the same class gives the same images in whatever task it is met.
    """
    half = config.subsamples // 2
    repeats, tasks, _ = pairs.shape
    rows = np.empty((repeats, tasks, 2, half), dtype=np.int32)
    for label in np.unique(pairs):
        order = np.random.default_rng([config.seed, MEMORY, int(label)]).permutation(config.test_images)[:half]
        rows[pairs == label] = order
    rows += np.arange(2, dtype=np.int32)[:, None] * config.test_images
    return rows.reshape(repeats, tasks, 2 * half).transpose(1, 2, 0)
