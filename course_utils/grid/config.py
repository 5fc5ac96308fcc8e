"""What a grid experiment is: one frozen dataclass, checked when it is made, kept in every metadata.json."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RULES = ("SL",)  # learning rules, each a file of the same name in lower case under course_utils/grid/rules
OPTIONS = ("er", "pl", "ul", "l2")  # in the order in which they follow in the name of the algorithm
CHOICES: dict[str, tuple[str, ...]] = {
    "rule": RULES,
    "head": ("keep", "reset"),
    "pooling": ("stride", "max"),
    "perturb_every": ("task", "step"),
    "convolution": ("auto", "patches", "lax"),
    "repeat_axis": ("auto", "vmap", "map"),
    "representations": ("log", "all", "last", "none"),
}


class GridError(ValueError):
    """A configuration, a results folder or a machine that cannot do what was asked; the message says what to change."""


@dataclass(frozen=True)
class GridConfig:
    """A grid experiment: `num_tasks` binary tasks in a row, `num_repeats` times at once.

    Every field is checked when the object is made; GridError names the field and what to do. What depends on the data
    (enough classes, enough images) is checked by `data.ClassImages.check`, as soon as the data are there.
    """

    data: str = "glyphs"  # a name that course_utils.datasets knows, or the path of an npz file
    num_tasks: int = 10
    num_repeats: int = 32
    first_repeat: int = 0  # number of the first repeat of this slice: repeats k to k + num_repeats - 1 of all there are
    seed: int = 0

    # Algorithm: its name is {rule}_{num_tasks}_tasks[_er][_pl][_ul][_l2].
    rule: str = "SL"
    er: bool = False  # experience replay
    pl: bool = False  # shrink and perturb
    ul: bool = False  # the first layer learns without labels
    l2: float = 0.0  # added to the gradient: l2 * weights
    head: str = "keep"  # or "reset": the read-out starts every task at zero
    replay_images: int = 20  # images of each class in the replay memory
    replay_batch_size: int = 32  # replayed in every step
    shrink: float = 0.1  # weights become (1 - shrink) * weights + perturb * fresh weights
    perturb: float = 0.1
    perturb_every: str = "task"  # or "step"
    ul_lr: float = 1e-3

    # Training.
    steps_per_task: int = 300
    batch_size: int = 32
    lr: float = 0.03  # of the features: everything but the read-out
    readout_lr: float = 0.03
    momentum: float = 0.0
    expert: bool = True  # train the expert baseline too
    expert_lr: float = 0.03  # of all its layers

    # Network.
    widths: tuple[int, int, int] = (16, 32, 64)  # features of the three convolutions
    hidden: int = 64  # units of the dense layer: the representation
    pooling: str = "stride"  # convolutions with stride 2; "max": stride 1, 3x3 max-pooling, then a global average

    # Data of a task.
    train_images: int = 80  # of each class
    test_images: int = 50

    # What is logged.
    log_frequency: int = 30  # steps between log points
    eval_tasks: int = 0  # evaluate so many tasks at most, spread evenly, and the current one; 0: all of them
    representations: str = "log"  # at log-spaced log points, "all" of them, the "last" or "none"
    subsamples: int = 50  # test images of each task whose representations are kept, half of each class

    # How it is computed.
    devices: int = 1  # local devices to spread the repeats over
    convolution: str = "auto"  # "patches" or "lax"; "auto" measures both for a moment
    repeat_axis: str = "auto"  # "vmap", or "map" in chunks of `repeat_chunk`; "auto": "map" on a CPU, else "vmap"
    repeat_chunk: int = 1
    preload: bool = True  # keep the test images of all evaluated tasks on the device

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "widths", tuple(self.widths) if isinstance(self.widths, (list, tuple)) else self.widths
        )
        for name, least in MINIMUM.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise GridError(f"{name}={value!r}; expected a whole number, {least} or more")
        for name, (low, high) in RANGE.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise GridError(f"{name}={value!r}; expected a number from {low:g} to {high:g}")
            object.__setattr__(self, name, float(value))
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise GridError(f"{name}={getattr(self, name)!r}; expected one of {', '.join(map(repr, allowed))}")
        for name in ("er", "pl", "ul", "expert", "preload"):
            if not isinstance(getattr(self, name), bool):
                raise GridError(f"{name}={getattr(self, name)!r}; expected True or False")
        if not isinstance(self.data, str) or not self.data:
            raise GridError(f"data={self.data!r}; expected the name of a data set or the path of an npz file")
        widths = self.widths
        if len(widths) != 3 or any(isinstance(w, bool) or not isinstance(w, int) or w < 1 for w in widths):
            raise GridError(f"widths={widths!r}; expected three whole numbers, the features of the three convolutions")
        self._check_together()

    def _check_together(self) -> None:
        if self.num_repeats % self.devices:
            fits = max(d for d in range(1, self.devices + 1) if self.num_repeats % d == 0)
            more = math.ceil(self.num_repeats / self.devices) * self.devices
            raise GridError(
                f"num_repeats={self.num_repeats} cannot be shared equally by devices={self.devices}; "
                f"use devices={fits} or num_repeats={more}"
            )
        if self.log_frequency > self.steps_per_task:
            raise GridError(
                f"log_frequency={self.log_frequency} is more than steps_per_task={self.steps_per_task}: nothing would be "
                f"logged; use log_frequency={self.steps_per_task} or less"
            )
        if self.batch_size > 2 * self.train_images:
            raise GridError(
                f"batch_size={self.batch_size} is more than the {2 * self.train_images} training images of a task; "
                f"use batch_size={2 * self.train_images} or less, or more train_images"
            )
        if self.subsamples % 2 or self.subsamples > 2 * self.test_images:
            raise GridError(
                f"subsamples={self.subsamples}; expected an even number, at most {2 * self.test_images}: "
                "half of them of each class of a task"
            )
        if self.er and self.replay_images > self.train_images:
            raise GridError(
                f"replay_images={self.replay_images} is more than train_images={self.train_images}; "
                f"use replay_images={self.train_images} or less"
            )

    @property
    def algorithm(self) -> str:
        """The name of the algorithm and of its results folder, as "SL_100_tasks_er_pl"."""
        options = "".join(f"_{name}" for name in OPTIONS if getattr(self, name))
        return f"{self.rule}_{self.num_tasks}_tasks{options}"

    @property
    def num_logs(self) -> int:
        """L, the log points of a task: after every `log_frequency` steps; steps after the last are not logged."""
        return self.steps_per_task // self.log_frequency

    @property
    def log_steps(self) -> list[int]:
        """The number of steps done at each log point."""
        return [self.log_frequency * (point + 1) for point in range(self.num_logs)]

    @property
    def representation_points(self) -> list[int]:
        """The log points whose representations are kept: doubling from the first ("log"), always with the last."""
        last = self.num_logs - 1
        if self.representations == "log":
            return sorted({2**power - 1 for power in range(last.bit_length() + 1) if 2**power - 1 < last} | {last})
        return {"all": list(range(last + 1)), "last": [last], "none": []}[self.representations]

    def evaluated(self, task: int) -> list[int]:
        """The tasks evaluated while `task` is trained, in order; the same number of them for every task."""
        if not self.eval_tasks or self.eval_tasks + 1 >= self.num_tasks:
            return list(range(self.num_tasks))
        last = self.num_tasks - 1
        anchors = {round(k * last / max(self.eval_tasks - 1, 1)) for k in range(self.eval_tasks)}
        spare = next(k for k in range(self.num_tasks) if k not in anchors)  # so that the number stays the same
        return sorted(anchors | {spare if task in anchors else task})

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {**dataclasses.asdict(self), "widths": list(self.widths)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GridConfig:
        """The configuration of a metadata.json. Raises GridError for a field that is unknown or missing."""
        names = {field.name for field in dataclasses.fields(cls)}
        if set(values) != names:
            unknown, missing = sorted(set(values) - names), sorted(names - set(values))
            raise GridError(f"not a configuration of this version: unknown fields {unknown}, missing fields {missing}")
        return cls(**values)

    def differences(self, other: GridConfig) -> list[str]:
        """The fields in which two configurations differ, each as "name: ours, theirs"."""
        ours, theirs = self.to_dict(), other.to_dict()
        return [f"{name}: {ours[name]!r} here, {theirs[name]!r} there" for name in ours if ours[name] != theirs[name]]


MINIMUM = {
    "num_tasks": 1,
    "num_repeats": 1,
    "first_repeat": 0,
    "seed": 0,
    "replay_images": 1,
    "replay_batch_size": 1,
    "steps_per_task": 1,
    "batch_size": 1,
    "hidden": 1,
    "train_images": 1,
    "test_images": 1,
    "log_frequency": 1,
    "eval_tasks": 0,
    "subsamples": 2,
    "devices": 1,
    "repeat_chunk": 1,
}
RANGE = {
    "l2": (0.0, 10.0),
    "shrink": (0.0, 1.0),
    "perturb": (0.0, 10.0),
    "ul_lr": (0.0, 10.0),
    "lr": (0.0, 10.0),
    "readout_lr": (0.0, 10.0),
    "momentum": (0.0, 0.999),
    "expert_lr": (0.0, 10.0),
}
