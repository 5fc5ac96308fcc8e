"""Streams of tasks: what a learner sees, in which order, and which outputs it may use.

A `TaskStream` is a tuple of `Task`s with uint8 tensors in memory. The three scenarios of van de Ven &
Tolias (2019) differ only in the labels and in the columns of the head that count:

- class-incremental: new classes every task, the head grows, all classes seen so far compete;
- task-incremental: the same labels, but the task is known at test time: only its own columns compete;
- domain-incremental: every task uses the same labels 0..k-1, the inputs change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

SCENARIOS = ("class", "task", "domain")


@dataclass(frozen=True)
class Samples:
    """Tensors that travel together, one row a sample: x, y, task, group and whatever else a lesson adds."""

    fields: dict[str, Tensor]

    def __post_init__(self) -> None:
        sizes = {name: len(value) for name, value in self.fields.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"every field needs one row a sample; got {sizes}")

    @property
    def x(self) -> Tensor:  # (N, ...) uint8 images or float inputs
        return self.fields["x"]

    @property
    def y(self) -> Tensor:  # (N,) class positions in the head, or float targets
        return self.fields["y"]

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def __getitem__(self, index: Any) -> dict[str, Tensor]:
        """The batch, a dict of tensors, at these rows."""
        return {name: value[index] for name, value in self.fields.items()}

    def subset(self, index: Any) -> Samples:
        return Samples(self[index])

    @staticmethod
    def concat(parts: Sequence[Samples]) -> Samples:
        """All rows of all parts, in order."""
        names = parts[0].fields
        return Samples({name: torch.cat([part.fields[name] for part in parts]) for name in names})


def join(batch: dict[str, Tensor], extra: dict[str, Tensor]) -> dict[str, Tensor]:
    """`batch` with the rows of `extra` behind it, for the fields of `batch`."""
    missing = set(batch) - set(extra)
    if missing:
        raise ValueError(f"the added samples lack {sorted(missing)}; a batch can only be joined field by field")
    return {name: torch.cat([value, extra[name].to(value.device)]) for name, value in batch.items()}


@dataclass(frozen=True)
class Task:
    """One task of a stream.

    Attributes:
        index: position in the stream, from 0.
        classes: the original labels of its classes (empty for regression).
        train, validation, test: `Samples` with fields x, y, task, group.
        outputs: width of the head once this task is learned.
        columns: (start, stop) of the head's columns that belong to this task.
    """

    index: int
    name: str
    classes: tuple[int, ...]
    train: Samples
    validation: Samples
    test: Samples
    outputs: int
    columns: tuple[int, int]


@dataclass(frozen=True)
class TaskStream:
    """A sequence of tasks and how they are to be evaluated.

    Attributes:
        scenario: "class", "task" or "domain".
        class_names: names in the order of the head's columns.
        title: for plots and banners; says when the data are a stand-in.
        objective: "classification" or "regression".
    """

    tasks: tuple[Task, ...]
    scenario: str
    class_names: tuple[str, ...]
    title: str
    objective: str = "classification"
    standin: bool = False
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise ValueError(f"scenario={self.scenario!r} is unknown; choose one of {', '.join(SCENARIOS)}")

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def __getitem__(self, index: int) -> Task:
        return self.tasks[index]

    def first(self, count: int) -> TaskStream:
        """The first `count` tasks: what may be looked at when choosing hyperparameters."""
        if not 1 <= count <= len(self):
            raise ValueError(f"first({count}) of a stream of {len(self)} tasks; use 1 to {len(self)}")
        return replace(self, tasks=self.tasks[:count])

    @property
    def image_shape(self) -> tuple[int, ...]:
        return tuple(self.tasks[0].train.x.shape[1:])

    @property
    def num_outputs(self) -> int:
        """Width of the head after the last task."""
        return self.tasks[-1].outputs


def class_incremental(data: Any, num_tasks: int | None = None, **options: Any) -> TaskStream:
    """New classes every task; all classes seen so far compete at test time.

    Args:
        data: a `Dataset`.
        num_tasks: the classes are spread as evenly as possible, larger tasks first: 43 classes in 5 tasks
            are 9/9/9/8/8. Default 5.
        classes_per_task: fixes the size instead; classes left over are not used (GTSRB's classic 5 x 8).
        class_splits: explicit classes of every task, such as `[(0, 1), (2, 3)]`.
        class_order: order in which classes appear; default is index order.
        limit: at most this many training images a class, drawn with `seed`.
        limit_test: the same for test images; for quick looks only, a result is over all test images.
        seed: only used by the limits.

    Raises:
        ValueError: the data have too few classes, or a class is named twice.
    """
    return _from_classes(data, "class", num_tasks, **options)


def task_incremental(data: Any, num_tasks: int | None = None, **options: Any) -> TaskStream:
    """As `class_incremental`, but the task is known at test time: only its own classes compete."""
    return _from_classes(data, "task", num_tasks, **options)


def domain_incremental(data: Any, num_tasks: int | None = None, **options: Any) -> TaskStream:
    """As `class_incremental`, but every task reuses the labels 0..k-1: "is it the first or the second of its pair?"."""
    return _from_classes(data, "domain", num_tasks, **options)


def _class_splits(
    data: Any,
    num_tasks: int | None,
    classes_per_task: int | None,
    class_splits: Sequence[Sequence[int]] | None,
    class_order: Sequence[int] | None,
) -> list[list[int]]:
    total = data.num_classes
    if class_splits is not None:
        if num_tasks is not None or classes_per_task is not None or class_order is not None:
            raise ValueError(
                "class_splits names every task's classes; leave out num_tasks, classes_per_task and class_order"
            )
        splits = [[int(c) for c in split] for split in class_splits]
    else:
        order = list(range(total)) if class_order is None else [int(c) for c in class_order]
        count = num_tasks if num_tasks is not None else 5
        each = classes_per_task if classes_per_task is not None else 2
        if count < 1 or each < 1:
            raise ValueError(f"num_tasks={num_tasks}, classes_per_task={classes_per_task}: both must be at least 1")
        if count * each > len(order):
            raise ValueError(
                f"num_tasks={count} needs {count * each} classes, {data.name} has {len(order)}; "
                f"use at most {len(order) // each}"
            )
        if classes_per_task is not None:
            sizes = [classes_per_task] * count
        else:
            sizes = [len(order) // count + (i < len(order) % count) for i in range(count)]
        ends = np.cumsum(sizes)
        splits = [order[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    used = [c for split in splits for c in split]
    if not splits or not all(splits):
        raise ValueError("class_splits has an empty task; give every task at least one class")
    if len(set(used)) != len(used) or not set(used) <= set(range(total)):
        raise ValueError(f"classes must be distinct and among 0..{total - 1} of {data.name}; got {used}")
    return splits


def _from_classes(
    data: Any,
    scenario: str,
    num_tasks: int | None = None,
    *,
    classes_per_task: int | None = None,
    class_splits: Sequence[Sequence[int]] | None = None,
    class_order: Sequence[int] | None = None,
    limit: int | None = None,
    limit_test: int | None = None,
    seed: int = 0,
) -> TaskStream:
    limits = {"train": limit, "validation": None, "test": limit_test}
    for name, most in limits.items():
        if most is not None and most < 1:
            raise ValueError(f"a limit of {most} leaves no {name} images; use at least 1 a class, or None for all")
    splits = _class_splits(data, num_tasks, classes_per_task, class_splits, class_order)
    widest = max(len(split) for split in splits)
    tasks, start = [], 0
    for index, split in enumerate(splits):
        stop = start + len(split)
        first = 0 if scenario == "domain" else start
        label = {c: first + position for position, c in enumerate(split)}
        parts = {name: _select(getattr(data, name), label, index, most, seed) for name, most in limits.items()}
        columns, outputs = ((0, widest), widest) if scenario == "domain" else ((start, stop), stop)
        names = [data.classes[c] for c in split]
        title = ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]}"
        tasks.append(Task(index, title, tuple(split), **parts, outputs=outputs, columns=columns))
        start = stop
    if scenario == "domain":
        class_names = tuple(f"position {i}" for i in range(widest))
    else:
        class_names = tuple(data.classes[c] for split in splits for c in split)
    return TaskStream(tuple(tasks), scenario, class_names, data.title, standin=data.standin)


def _select(split: Any, label: dict[int, int], task: int, limit: int | None, seed: int) -> Samples:
    rows = np.flatnonzero(np.isin(split.y, list(label)))
    if limit is not None:
        rng = np.random.default_rng((seed, task))
        per_class = [rng.permutation(rows[split.y[rows] == c])[:limit] for c in label]
        rows = np.sort(np.concatenate(per_class))
    y = np.array([label[int(c)] for c in split.y[rows]], dtype=np.int64)
    return _samples(split.x[rows], y, task, split.group[rows])


def _samples(x: Any, y: Any, task: int, group: Any = None) -> Samples:
    inputs, targets = torch.as_tensor(np.ascontiguousarray(x)), torch.as_tensor(np.ascontiguousarray(y))
    if inputs.is_floating_point():
        inputs = inputs.float()  # NumPy's default is float64, the networks' is float32
    groups = torch.arange(len(inputs)) if group is None else torch.as_tensor(np.ascontiguousarray(group))
    return Samples({"x": inputs, "y": targets, "task": torch.full((len(inputs),), task), "group": groups})


def from_arrays(
    parts: Sequence[dict[str, tuple[Any, Any]]], *, name: str = "mine", objective: str = "regression"
) -> TaskStream:
    """A domain-incremental stream from arrays: one dict a task with "train", "test" and perhaps "validation".

    Args:
        parts: `{"train": (x, y), "test": (x, y)}` a task. x is `(N, ...)`, uint8 images or floats; y is `(N,)`:
            floats for regression, labels from 0 for classification. Without "validation" a tenth of train serves.
        objective: "regression" or "classification".
    """
    tasks = []
    labels = max((int(np.max(p["train"][1])) + 1 for p in parts), default=1) if objective == "classification" else 1
    for index, part in enumerate(parts):
        made = {key: _samples(*value, index) for key, value in part.items()}
        if "validation" not in made:
            order = np.random.default_rng(index).permutation(len(made["train"]))
            held = max(1, len(order) // 10)
            made["validation"] = made["train"].subset(torch.as_tensor(np.sort(order[:held])))
            made["train"] = made["train"].subset(torch.as_tensor(np.sort(order[held:])))
        tasks.append(Task(index, f"task {index + 1}", (), **made, outputs=labels, columns=(0, labels)))
    return TaskStream(tuple(tasks), "domain", tuple(f"output {i}" for i in range(labels)), name, objective=objective)


def blurry(stream: TaskStream, fraction: float, seed: int = 0) -> TaskStream:
    """The stream with blurred boundaries: each task gives a fraction of its training samples to its neighbours.

    Half of them go to the task before and half to the task after (all to the only neighbour at the ends).
    Tests and validation stay as they are. Except in domain-incremental form a class can so appear before
    its own task, and the head must be wide enough: `outputs` of a task covers the labels it holds.

    Args:
        fraction: 0 (sharp boundaries) to less than 1.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction={fraction} must be at least 0 and below 1")
    rng = np.random.default_rng(seed)
    pools: list[list[Samples]] = [[] for _ in stream]
    for task in stream:
        order = torch.as_tensor(rng.permutation(len(task.train)))
        leaving = round(fraction * len(order))
        neighbours = [i for i in (task.index - 1, task.index + 1) if 0 <= i < len(stream)]
        for part, neighbour in zip(
            np.array_split(order[:leaving].numpy(), max(1, len(neighbours))), neighbours, strict=False
        ):
            pools[neighbour].append(task.train.subset(torch.as_tensor(part)))
        pools[task.index].append(task.train.subset(order[leaving:] if neighbours else order))
    tasks, outputs = [], 0
    for task, pool in zip(stream, pools, strict=True):
        train = Samples.concat(pool)
        grows = stream.scenario != "domain"
        outputs = max(outputs, task.outputs, int(train.y.max()) + 1) if grows else task.outputs
        tasks.append(replace(task, train=train, outputs=outputs))
    return replace(stream, tasks=tuple(tasks), title=f"{stream.title}, {fraction:.0%} blurred")
