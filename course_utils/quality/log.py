"""The learner's log under the names of what it holds: it says "accuracy" whatever the objective's score is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from course_utils.quality.results import measures
from course_utils.streams import TaskStream
from course_utils.tracking import Tracker


class QualityLog:
    """A tracker that passes everything on: `accuracy/task_1` as `srcc/task_1`, with `plcc/`, `kendall/` and `rmse/`.

    Each has the mean over the tasks seen so far beside it, such as `plcc/mean`.

    Args:
        tracker: what writes the numbers.
        stream: the one that is learned.
        recorder: the learner's `RecordPredictions`.
    """

    def __init__(self, tracker: Tracker, stream: TaskStream, recorder: Any) -> None:
        self.tracker, self.stream, self.recorder = tracker, stream, recorder

    def log(self, values: dict[str, float]) -> None:
        named = {name.replace("accuracy/", "srcc/"): value for name, value in values.items()}
        if "accuracy/mean" in values:  # a task has ended, and its predictions are recorded
            task = int(values["task"])
            for measure, row in measures(self.stream, self.recorder.predictions[task]).items():
                named |= {f"{measure}/task_{j + 1}": value for j, value in enumerate(row) if value == value}
                named[f"{measure}/mean"] = float(np.mean(row[: task + 1]))
        self.tracker.log(named)

    def matrix(self, name: str, values: NDArray[np.float64]) -> None:
        self.tracker.matrix(name.replace("accuracy_matrix", "srcc_matrix"), values)

    def finish(self) -> None:
        self.tracker.finish()
