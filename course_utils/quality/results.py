"""What a run found, as plain numbers: all four measures of every task after every task, intervals, remarks."""

from __future__ import annotations

from typing import Any

import numpy as np

from course_utils.learner import Learner
from course_utils.quality.metrics import bootstrap_interval, kendall, plcc, quality_summary, rmse, srcc
from course_utils.quality.objective import true_score
from course_utils.streams import Task, TaskStream

MEASURES = {"plcc": plcc, "kendall": kendall, "rmse": rmse}  # beside the SRCC, which the learner keeps itself


def summarise(stream: TaskStream, learner: Learner) -> dict[str, Any]:
    """The results of a finished run; see `quality.train`. The learner's last method is a `RecordPredictions`."""
    history, recorder = learner.history, learner.methods[-1]
    last = recorder.predictions[-1]
    intervals = [
        bootstrap_interval(srcc, last[task.index], truth(task), groups=task.test.fields["group"].numpy(), samples=200)
        for task in stream
    ]
    rows = [measures(stream, row) for row in recorder.predictions]
    return {
        "data": stream.title,
        "standin": stream.standin,
        "tasks": [task.name for task in stream],
        "srcc": history.accuracy.tolist(),
        **{name: [row[name] for row in rows] for name in MEASURES},
        "initial": history.initial.tolist(),
        "steps": history.steps.tolist(),
        "left_out": stream.info.get("left_out", []),
        "summary": quality_summary(history.accuracy, recorder.predictions),
        "intervals": [list(interval) for interval in intervals],
        "remarks": list(history.remarks),
    }


def measures(stream: TaskStream, predictions: Any) -> dict[str, list[float]]:
    """Every measure of MEASURES on the test images of every task, NaN where there is no prediction.

    predictions: one row of `RecordPredictions.predictions`, `(n_j,)` for each task j.
    """
    pairs = [(row, truth(task)) for row, task in zip(predictions, stream, strict=True)]
    return {
        name: [float("nan") if row is None else measure(row, y) for row, y in pairs]
        for name, measure in MEASURES.items()
    }


def truth(task: Task) -> np.ndarray:
    """Mean votes of a task's test images, `(n,)` in [0, 1]."""
    return true_score(task.test.y).numpy()
