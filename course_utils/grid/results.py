"""Reading a finished or growing results folder: configuration, metrics, weights as a pytree, representations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from course_utils.grid import storage
from course_utils.grid.config import GridConfig, GridError
from course_utils.grid.data import ClassImages


@dataclass(frozen=True)
class GridResults:
    """The results of one run, read from files alone.

    folder: results/{dataset}/{algorithm}. Raises GridError where it holds no task.
    """

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        if not (self.folder / storage.task_name(0) / storage.METADATA).exists():
            raise GridError(f"{self.folder} holds no results: {storage.task_name(0)} is missing")

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """Of task 0; what differs between tasks is in `task_metadata`."""
        return self.task_metadata(0)

    @cached_property
    def config(self) -> GridConfig:
        """The configuration of the run."""
        return GridConfig.from_dict(self.metadata["config"])

    @cached_property
    def num_tasks(self) -> int:
        """How many tasks are finished, without a gap."""
        task = 0
        while self.path(task).is_dir():
            task += 1
        return task

    @property
    def num_repeats(self) -> int:
        """R."""
        return self.config.num_repeats

    @property
    def title(self) -> str:
        """Of the data set, saying so if it is a stand-in."""
        return self.metadata["data"]["title"]

    @cached_property
    def pairs(self) -> np.ndarray:
        """Classes of every repeat and task, (R, T, 2)."""
        return np.array(self.metadata["all_class_pairs"], dtype=np.int32)

    def path(self, task: int) -> Path:
        """The folder of a task."""
        return self.folder / storage.task_name(task)

    def task_metadata(self, task: int) -> dict[str, Any]:
        """metadata.json of a task."""
        return storage.read_metadata(self.path(task))

    def metrics(self, task: int) -> dict[str, Any]:
        """loss and accuracy (L, R, T_eval), train_loss and train_accuracy (L, R), eval_tasks, steps, task."""
        return storage.read_table(self.path(task) / "metrics.pkl")

    def expert(self, task: int) -> dict[str, np.ndarray]:
        """train_loss, train_acc, test_loss, test_acc, each (L, R). Raises GridError if no expert was trained."""
        return storage.read_table(self.path(task) / "expert_metrics.pkl")

    def vectors(self, task: int) -> np.ndarray:
        """Flat weights (L, R, D), a read-only view of the file."""
        return storage.read_arrays(self.path(task), "weights")

    def weights(self, task: int) -> dict[str, dict[str, np.ndarray]]:
        """Weights as the pytree of the network, every array with leading (L, R)."""
        from course_utils.grid.network import unflatten

        return unflatten(self.vectors(task), self.metadata["weights"])

    def representations(self, task: int) -> np.ndarray:
        """(P, R, T_eval, S, hidden) at the log points `task_metadata(task)["representation_points"]`."""
        return storage.read_arrays(self.path(task), "representations")

    def labels(self, task: int) -> np.ndarray:
        """Binary labels of the representations, (P, R, T_eval, S)."""
        return storage.read_arrays(self.path(task), "binary_labels")


def recompute_representations(
    results: GridResults,
    task: int,
    images: ClassImages,
    points: Sequence[int] | None = None,
    eval_tasks: Sequence[int] | None = None,
) -> np.ndarray:
    """Representations from saved weights, (P, R, T_eval, S, hidden): those of a run that did not keep them, or more.

    points: log points; those that the run kept unless given. eval_tasks: tasks whose test images are shown, any of them.
    Raises GridError if `images` are not those of the run.
    """
    from course_utils.grid import data
    from course_utils.grid.network import Network
    from course_utils.grid.training import Layout, evaluator

    config, metadata = results.config, results.task_metadata(task)
    if images.digest() != metadata["data"]["images"]:
        raise GridError(f"these are not the images of {results.folder}; load them with data.load(results.config)")
    points = metadata["representation_points"] if points is None else list(points)
    eval_tasks = metadata["eval_tasks"] if eval_tasks is None else list(eval_tasks)
    network = Network.of(config, metadata["computed"]["convolution"])
    layout = Layout(1, metadata["computed"]["repeat_axis"], config.repeat_chunk)
    vectors = layout.put(np.ascontiguousarray(results.vectors(task)[points].swapaxes(0, 1)))
    rows = data.subsample(config, results.pairs)
    hidden = []
    for other in eval_tasks:
        x, y = data.task_tensors(images.test, results.pairs[:, other])
        *_, found = evaluator(network, layout)(vectors, layout.put(x, 1), layout.put(y, 1), layout.put(rows[other], 1))
        hidden.append(np.asarray(found).swapaxes(0, 1))
    return np.stack(hidden, axis=2)
