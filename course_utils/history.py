"""What a run measured: the accuracy matrix, seconds per task, losses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class History:
    """Results of one run over a stream of T tasks.

    Attributes:
        accuracy: `(T, T)`; `accuracy[i, j]` is the score on task j after training on task i, NaN = not measured.
        initial: `(T,)` score of each task before any training; NaN where the outputs do not exist yet.
        seconds: `(T,)` wall-clock seconds of training per task, memories and teachers included, evaluation not.
        steps: `(T,)` optimizer steps per task.
        sizes: `(T,)` number of evaluated samples per task.
        losses: per task, the minimised loss at every step.
        remarks: what a reader of the accuracies must know, for example that a method was told the task.
    """

    def __init__(self, num_tasks: int):
        self.accuracy: NDArray[np.float64] = np.full((num_tasks, num_tasks), np.nan)
        self.initial: NDArray[np.float64] = np.full(num_tasks, np.nan)
        self.seconds: NDArray[np.float64] = np.zeros(num_tasks)
        self.steps: NDArray[np.int64] = np.zeros(num_tasks, dtype=np.int64)
        self.sizes: NDArray[np.int64] = np.zeros(num_tasks, dtype=np.int64)
        self.losses: list[list[float]] = [[] for _ in range(num_tasks)]
        self.remarks: list[str] = []

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def overall(self) -> NDArray[np.float64]:
        """`(T,)` accuracy after each task over all samples of the tasks seen so far, large tasks counting more.

        The mean over tasks of a row of `accuracy` weighs every task the same. For accuracies only:
        a rank correlation cannot be pooled like this.
        """
        result = np.full(len(self), np.nan)
        for i in range(len(self)):
            if self.sizes[: i + 1].all():
                result[i] = np.average(self.accuracy[i, : i + 1], weights=self.sizes[: i + 1])
        return result

    def to_dict(self) -> dict[str, Any]:
        """Lists and numbers only, NaN as None, so that it is valid JSON; `from_dict` undoes it."""

        def plain(values: NDArray[Any]) -> Any:
            return [plain(v) if isinstance(v, np.ndarray) else (None if v != v else v.item()) for v in values]

        arrays = {name: plain(getattr(self, name)) for name in ("accuracy", "initial", "seconds", "steps", "sizes")}
        return {**arrays, "losses": [list(task) for task in self.losses], "remarks": list(self.remarks)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> History:
        history = cls(len(values["seconds"]))
        for name in ("accuracy", "initial", "seconds"):
            setattr(history, name, np.array(values[name], dtype=float))
        for name in ("steps", "sizes"):
            setattr(history, name, np.array(values[name], dtype=np.int64))
        history.losses = [list(task) for task in values["losses"]]
        history.remarks = list(values.get("remarks", []))
        return history
