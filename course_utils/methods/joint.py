"""Joint training: the ceiling."""

from __future__ import annotations

import copy

from course_utils.methods.base import Method
from course_utils.streams import Samples


class Joint(Method):
    """A fresh model, trained on the union of all tasks so far: what no memory limit would allow.

    With `epochs=` it gets the same number of epochs as everyone else, over more data, so its time per task
    grows with the stream; with `steps_per_task=` the same number of steps. It starts every task from
    the learner's initial weights, so that it is a reference and not itself a continual learner.
    """

    name = "joint"

    def before_task(self, learner, task):
        if task.index > 0:
            learner.model = copy.deepcopy(learner.initial_model)

    def train_set(self, learner, task, data):
        return Samples.concat([past.train for past in learner.stream.tasks[: task.index]] + [data])

    def steps(self, learner, task, data, steps):
        return learner.budget(len(data))
