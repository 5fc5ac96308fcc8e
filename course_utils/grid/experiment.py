"""A whole experiment: task after task, trained, tested, written, forgotten; resumed where it was interrupted."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from course_utils import progress
from course_utils.grid import convolution, data, size, storage
from course_utils.grid.config import GridConfig, GridError
from course_utils.grid.data import ClassImages
from course_utils.grid.network import Network
from course_utils.grid.training import EXPERT, PERTURB, Layout, Program, TaskLog, evaluator, starter, trainer

__all__ = ["best_devices", "results_folder", "run", "use_devices"]

Say = Callable[[str], None]


def results_folder(config: GridConfig, root: str | Path = "build/grid") -> Path:
    """Where the results of a configuration lie: root/{dataset}/{algorithm}, with the slice where it is not the first."""
    name = Path(config.data).stem if config.data.endswith(".npz") else config.data
    part = f"_from_{config.first_repeat}" if config.first_repeat else ""
    return Path(root) / name / (config.algorithm + part)


def use_devices(count: int) -> None:
    """Let jax see this machine's CPU as `count` devices, which compute side by side. Call it before jax is used.

    Raises GridError if jax has started already, with another number. Without effect where jax has an accelerator.
    """
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        if jax.default_backend() == "cpu" and jax.local_device_count() < count:
            raise GridError(
                f"jax has started with {jax.local_device_count()} devices, it is too late for {count}; "
                "restart the kernel and call use_devices first"
            ) from None


def best_devices(num_repeats: int) -> int:
    """How many local devices to spread the repeats over: as many as divide them evenly.

    Where jax has not started yet, its CPU becomes one device a core, so that the cores compute side by side.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # jax has started: take what there is
        jax.config.update("jax_num_cpu_devices", cores)
    most = min(jax.local_device_count(), num_repeats)
    return max(devices for devices in range(1, most + 1) if num_repeats % devices == 0)


def run(
    config: GridConfig,
    folder: str | Path | None = None,
    *,
    images: ClassImages | None = None,
    say: Say = print,
    show: bool | None = None,
) -> Path:
    """Run an experiment, or what is left of it, and give the folder of its results.

    folder: of the results; `results_folder(config)` unless given. What is finished there is checked and not done again.
    images: the data, if they are loaded already. say: where lines go. show: a progress bar (None: unless CI is set).

    Raises GridError for a configuration that the data or the machine cannot do, and for a folder that is damaged or
    holds another experiment. A run that is killed and started again ends with the same bytes.
    """
    images = images or data.load(config)
    images.check(config)
    folder = Path(folder) if folder is not None else results_folder(config)
    digest = images.digest()
    finished = storage.finished_tasks(folder, config, digest)
    if finished == config.num_tasks:
        say(f"{folder}: all {finished} tasks are there")
        return folder
    chosen = _earlier_choice(folder) if finished else None
    form = chosen or (convolution.choose()[0] if config.convolution == "auto" else config.convolution)
    network = Network.of(config, form)
    extent = size.estimate(config, network, len(images.names))
    say(f"{config.algorithm} on {images.title}, {config.num_repeats} repeats: {extent}")
    size.check(extent, folder, config.num_tasks - finished)
    grid = _Grid.of(config, images, network)
    vectors = _last_weights(folder / storage.task_name(finished - 1)) if finished else None
    state = grid.layout.put(vectors) if vectors is not None else grid.fresh(data.START)
    if finished:
        say(f"{finished} tasks are finished; going on with task {finished}")
    with progress.bar(config.num_tasks, config.algorithm, show, initial=finished) as bar:
        for task in range(finished, config.num_tasks):
            state = grid.run_task(task, state, folder, digest)
            bar.update()
    return folder


def _earlier_choice(folder: Path) -> str:
    return storage.read_metadata(folder / storage.task_name(0))["computed"]["convolution"]


def _last_weights(folder: Path) -> np.ndarray:
    """The weights (R, D) with which a finished task ended."""
    if (folder / "final_weights.npy").exists():
        return storage.read_arrays(folder, "final_weights", mmap=False)
    return np.array(storage.read_arrays(folder, "weights")[-1])


@dataclass(frozen=True)
class _Grid:
    """An experiment that is going on: what stays the same from task to task."""

    config: GridConfig
    images: ClassImages
    network: Network
    layout: Layout
    keys: jax.Array  # (R,)
    pairs: np.ndarray  # (R, T, 2)
    rows: np.ndarray  # (T, S, R), whose representations are kept
    memory: jax.Array  # replay memory, the same on every device
    tests: dict[int, tuple[jax.Array, jax.Array, jax.Array]]  # preloaded test sets

    @classmethod
    def of(cls, config: GridConfig, images: ClassImages, network: Network) -> _Grid:
        layout = Layout.of(config)
        pairs = data.class_pairs(config, len(images.names))
        stored = (
            images.train[:, : config.replay_images] if config.er else np.zeros((1, 1, data.SIZE, data.SIZE), np.uint8)
        )
        return cls(
            config,
            images,
            network,
            layout,
            layout.put(data.repeat_keys(config)),
            pairs,
            data.subsample(config, pairs),
            layout.put(stored, None),
            {},
        )

    def fold(self, keys: jax.Array, number: int) -> jax.Array:
        return jax.vmap(jax.random.fold_in, (0, None))(keys, number)

    def fresh(self, number: int, keys: jax.Array | None = None) -> jax.Array:
        """Fresh weights for every repeat, (R, D)."""
        keys = self.fold(self.keys if keys is None else keys, number)
        return self.layout.put(starter(self.network)(keys))

    def run_task(self, task: int, state: jax.Array, folder: Path, digest: str) -> jax.Array:
        """Train, test and write one task; gives the weights (R, D) it ends with."""
        config = self.config
        images, classes = data.task_tensors(self.images.train, self.pairs[:, task])
        x, y = self.layout.put(images, 1), self.layout.put(classes, 1)
        keys = self.fold(self.fold(self.keys, data.TASK), task)
        log = self._train(Program.of(config, self.network), state, keys, x, y, task, (config.lr, config.readout_lr))
        loss, accuracy, hidden, labels = self._test(log.weights, config.evaluated(task))
        tables: dict[str, Any] = {
            "metrics": {
                "loss": loss,
                "accuracy": accuracy,
                "train_loss": _host(log.train_loss),
                "train_accuracy": _host(log.train_accuracy),
                "eval_tasks": config.evaluated(task),
                "steps": config.log_steps,
                "task": task,
            }
        }
        arrays = {"weights": _host(log.weights)}
        if config.representation_points:
            arrays |= {"representations": hidden, "binary_labels": labels}
        if config.steps_per_task % config.log_frequency:
            arrays["final_weights"] = np.asarray(log.final)
        if config.expert:
            tables["expert_metrics"] = self._expert(keys, x, y, task)
        storage.write_task(folder, task, arrays, tables, self._metadata(task, digest))
        return log.final

    def _train(
        self, program: Program, state: jax.Array, keys: jax.Array, x: Any, y: Any, task: int, rates: tuple[float, float]
    ) -> TaskLog:
        fresh = self.fresh(PERTURB, keys) if program.perturb_every == "task" else state
        pairs = self.pairs if program.replayed else self.pairs[:, :1]  # the same program for any number of tasks
        arguments = (self.layout.put(pairs), self.memory, np.int32(task), np.array(rates, np.float32))
        return trainer(program, self.layout)(state, fresh, keys, x, y, *arguments)

    def _expert(self, keys: jax.Array, x: Any, y: Any, task: int) -> dict[str, np.ndarray]:
        """Fresh weights, plain SGD, the current task alone, the same tensors."""
        start = self.fresh(0, self.fold(keys, EXPERT))
        rate = self.config.expert_lr
        log = self._train(
            Program.expert(self.config, self.network), start, self.fold(keys, EXPERT), x, y, task, (rate, rate)
        )
        loss, accuracy, *_ = self._test(log.weights, [task])
        return {
            "train_loss": _host(log.train_loss),
            "train_acc": _host(log.train_accuracy),
            "test_loss": loss[:, :, 0],
            "test_acc": accuracy[:, :, 0],
        }

    def _test(self, weights: jax.Array, tasks: list[int]) -> tuple[np.ndarray, ...]:
        """Loss and accuracy (L, R, T_eval), representations (P, R, T_eval, S, hidden) and labels (P, R, T_eval, S).

        One task after the other, all with the same compiled code: preloaded or not, the numbers are the same.
        """
        measure = evaluator(self.network, self.layout)
        points = self.config.representation_points
        losses, accuracies, hiddens, labels = [], [], [], []
        for task in tasks:
            x, y, rows = self._test_set(task)
            loss, accuracy, hidden = measure(weights, x, y, rows)
            losses.append(_host(loss))
            accuracies.append(_host(accuracy))
            hiddens.append(_host(hidden)[points])
            chosen = np.take_along_axis(np.asarray(y), np.asarray(rows), axis=0).T.astype(np.uint8)  # (R, S)
            labels.append(np.broadcast_to(chosen, (len(points), *chosen.shape)))
        return np.stack(losses, 2), np.stack(accuracies, 2), np.stack(hiddens, 2), np.stack(labels, 2)

    def _test_set(self, task: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Test images, labels and rows of a task on the devices."""
        if task in self.tests:
            return self.tests[task]
        x, y = data.task_tensors(self.images.test, self.pairs[:, task])
        test_set = (self.layout.put(x, 1), self.layout.put(y, 1), self.layout.put(self.rows[task], 1))
        if self.config.preload:
            self.tests[task] = test_set
        return test_set

    def _metadata(self, task: int, digest: str) -> dict[str, Any]:
        config = self.config
        return {
            "algorithm": config.algorithm,
            "config": config.to_dict(),
            "data": {
                "title": self.images.title,
                "standin": self.images.standin,
                "images": digest,
                "classes": list(self.images.names),
            },
            "task_class_pairs": self.pairs[:, task].tolist(),
            "all_class_pairs": self.pairs.tolist(),
            "eval_tasks": config.evaluated(task),
            "log_steps": config.log_steps,
            "representation_points": config.representation_points,
            "weights": self.network.layout,
            "computed": {
                "convolution": self.network.convolution,
                "repeat_axis": self.layout.repeat_axis,
                "backend": jax.default_backend(),
                "device": jax.local_devices()[0].device_kind,
                **{name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")},
            },
        }


def _host(array: jax.Array) -> np.ndarray:
    """(R, L, ...) on the device -> (L, R, ...) on the host."""
    return np.ascontiguousarray(np.asarray(array).swapaxes(0, 1))
