"""The same network asked twice: all classes compete, or only those of the image's own task."""

from __future__ import annotations

import numpy as np

from course_utils import Learner, methods, streams


class Told(methods.Method):
    """Watches, and changes nothing: accuracy on every task seen so far with the task told, after each task.

    Attributes:
        accuracy: `(tasks, tasks)`, row i after task i; NaN above the diagonal. Empty before the first task.
    """

    name = "told"

    def __init__(self) -> None:
        self.accuracy = np.empty((0, 0))

    def after_task(self, learner: Learner, task: streams.Task, data: streams.Samples) -> None:
        if len(self.accuracy) == 0:
            self.accuracy = np.full((len(learner.stream), len(learner.stream)), np.nan)
        for seen in learner.stream.tasks[: task.index + 1]:
            self.accuracy[task.index, seen.index] = told_accuracy(learner, seen)


def told_accuracy(learner: Learner, task: streams.Task) -> float:
    """Accuracy on test images, in [0, 1], when only the outputs of their own task compete."""
    start, stop = task.columns
    found = learner.predict(task.test.x)[:, start:stop].argmax(dim=1).cpu() + start
    return float((found == task.test.y).double().mean())
