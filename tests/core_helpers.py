"""Small streams, learners and spies that the tests of the core share."""

from __future__ import annotations

import copy
import functools
import hashlib
from collections import Counter

import numpy as np
import pytest
import torch

from course_utils import datasets, methods, models, streams
from course_utils.learner import Learner

CNN = {"widths": (4,), "num_features": 8}  # BatchNorm included
MLP = {"hidden": (16,)}


@functools.cache
def digits():
    return datasets.load("digits")


@functools.cache
def digit_stream(scenario: str = "class", num_tasks: int = 3, limit: int | None = 12):
    make = {
        "class": streams.class_incremental,
        "task": streams.task_incremental,
        "domain": streams.domain_incremental,
    }[scenario]
    return make(digits(), num_tasks=num_tasks, limit=limit)


@functools.cache
def unique_stream(scenario: str = "class", num_tasks: int = 3, per_class: int = 12):
    """Random images, no two alike in any split: an image's hash is its identity."""
    rng = np.random.default_rng(0)
    classes = 2 * num_tasks

    def part(count):
        y = np.repeat(np.arange(classes), count)
        return rng.integers(0, 256, (len(y), 1, 6, 6), dtype=np.uint8), y

    data = datasets.from_arrays(train=part(per_class), validation=part(3), test=part(3), name="unique")
    make = {
        "class": streams.class_incremental,
        "task": streams.task_incremental,
        "domain": streams.domain_incremental,
    }[scenario]
    return make(data, num_tasks=num_tasks)


@functools.cache
def regression_stream(num_tasks: int = 3):
    """y = w . x with a w that turns from task to task, in NumPy's own float64."""
    rng = np.random.default_rng(0)
    parts = []
    for index in range(num_tasks):
        w = np.array([np.cos(index), np.sin(index), 1.0, 0.0])
        x, x_test = rng.normal(size=(60, 4)), rng.normal(size=(40, 4))
        parts.append({"train": (x, x @ w), "test": (x_test, x_test @ w)})
    return streams.from_arrays(parts, name="turning plane")


def make_learner(stream, wanted=(), *, model="mlp", model_seed=0, steps=8, **options) -> Learner:
    net = models.build(model, stream, seed=model_seed, **(CNN if model == "small_cnn" else MLP))
    if "epochs" not in options:
        options["steps_per_task"] = steps
    return Learner(net, wanted, **{"batch_size": 8, "lr": 0.01, "show_progress": False, **options})


def weights(model) -> dict[str, torch.Tensor]:
    """A copy of everything the model consists of, running statistics included."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b) -> bool:
    """Whether two nested states are equal to the last bit; NaN equals NaN."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return a == b


def fitted_weights(stream, wanted=(), **options) -> dict[str, torch.Tensor]:
    learner = make_learner(stream, wanted, **options)
    learner.fit(stream)
    return weights(learner.model)


def fingerprints(x: torch.Tensor) -> list[str]:
    """One hash an image."""
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in x]


def counts(labels: torch.Tensor) -> dict[int, int]:
    return dict(Counter(labels.tolist()))


class Recorder(methods.Method):
    """Keeps the batches as the loss sees them. Put it last."""

    name = "recorder"

    def __init__(self):
        self.batches: list[list[dict]] = []
        self.before: list = []  # the model before each task, before its head grows

    def before_task(self, learner, task):
        self.before.append(copy.deepcopy(learner.model))
        self.batches.append([])

    def batch(self, learner, batch):
        self.batches[-1].append({name: value.clone() for name, value in batch.items()})
        return batch


class Scramble(methods.Method):
    """Ruins the weights before every task but the first: whoever starts afresh does not notice."""

    name = "scramble"

    def before_task(self, learner, task):
        if task.index > 0:
            with torch.no_grad():
                for parameter in learner.model.parameters():
                    parameter.add_(1.0)


class Stop(Exception):
    """The machine went down."""


def interrupted(learner, stream, path, every, position, step):
    """Fit until the file of (position, step) is written, then fail."""
    save = learner.save

    def save_and_stop(target):
        save(target)
        if (learner.position, learner.step) == (position, step):
            raise Stop

    learner.save = save_and_stop
    with pytest.raises(Stop):
        learner.fit(stream, checkpoint=path, checkpoint_every=every)
