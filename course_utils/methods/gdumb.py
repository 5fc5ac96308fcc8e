"""GDumb: ignore the stream, keep a balanced memory, train from scratch on it."""

from __future__ import annotations

import copy

from course_utils.methods.base import Method
from course_utils.methods.replay import balance_labels, make_buffer, start_buffer
from course_utils.streams import Samples


class GDumb(Method):
    """Greedily balance a memory, then train a fresh model on the memory alone, for the task's usual steps.

    The question it asks (Prabhu, Torr & Dokania 2020): does a method do better with its memory and the stream
    than one that only looks at the memory? What it gives does not depend on any earlier training.

    Args:
        memory: number of stored samples, over all tasks.
        distinct: prefer samples of distinct groups (tracks).
        seed: of the memory's own generator; default follows the learner's seed.
    """

    name = "gdumb"
    settings = ("memory", "distinct", "seed")

    def __init__(self, memory=200, seed=None, distinct=False):
        if memory < 1:
            raise ValueError(f"memory={memory}: GDumb trains on its memory alone; give it at least 1 sample")
        self.buffer = make_buffer(memory, "class_balanced", distinct)
        self.memory, self.distinct, self.seed = memory, distinct, seed

    def before_task(self, learner, task):
        start_buffer(self.buffer, learner, task, self.seed)
        self.buffer.add(task.train.fields, labels=balance_labels(learner, task.train.fields))
        learner.model = copy.deepcopy(learner.initial_model)

    def train_set(self, learner, task, data):
        return Samples(self.buffer.all())

    def state_dict(self):
        return {"buffer": self.buffer.state_dict()}

    def load_state_dict(self, learner, state):
        self.buffer.load_state_dict(state["buffer"])
