"""Experience replay: a few old samples in every batch."""

from __future__ import annotations

import torch

from course_utils import seeding
from course_utils.methods.base import Method
from course_utils.methods.buffers import Buffer, ClassBalanced, Reservoir
from course_utils.streams import Samples, join

POLICIES = ("class_balanced", "reservoir")


def make_buffer(memory: int, policy: str, distinct: bool = False) -> Buffer:
    """The memory called `policy`; an unknown name is an error that lists the choices."""
    if policy == "class_balanced":
        return ClassBalanced(memory, distinct=distinct)
    if policy == "reservoir":
        return Reservoir(memory)
    raise ValueError(f"policy={policy!r} is unknown; choose one of {', '.join(POLICIES)}")


def balance_labels(learner, fields: dict[str, torch.Tensor]) -> torch.Tensor:
    """What a class-balanced memory balances over: the class; in domain-incremental streams, where every task
    has the same labels, the class within its task; for regression the task. `(n,)` integers."""
    y, task = fields["y"], fields["task"]
    if y.is_floating_point():
        return task
    return y + task * learner.stream.num_outputs if learner.stream.scenario == "domain" else y


def start_buffer(buffer: Buffer, learner, task, seed: int | None) -> None:
    """At the first task: seed the memory, from the learner's seed unless it has one of its own; refuse a used one."""
    if task.index == 0:
        buffer.start(seeding.derive(learner.seed, 0, 4) if seed is None else seed)


class Replay(Method):
    """Rehearsal: store `memory` samples in all, and add stored ones to every batch from the second task on.

    Args:
        memory: number of stored samples, over all tasks.
        policy: "class_balanced" or "reservoir".
        batch_size: stored samples per batch; default as many as current ones.
        distinct: a class-balanced memory prefers samples of distinct groups (tracks).
        seed: of the memory's own generator; default follows the learner's seed.

    Source: Ratcliff 1990; Chaudhry et al. 2019, "On tiny episodic memories". Built in lesson 02.
    """

    name = "replay"
    settings = ("memory", "policy", "batch_size", "distinct", "seed")

    def __init__(self, memory=200, policy="class_balanced", batch_size=None, distinct=False, seed=None):
        self.buffer = make_buffer(memory, policy, distinct)
        self.memory, self.policy, self.batch_size, self.distinct, self.seed = memory, policy, batch_size, distinct, seed

    def before_task(self, learner, task):
        start_buffer(self.buffer, learner, task, self.seed)

    def batch(self, learner, batch):
        if learner.task.index == 0 or len(self.buffer) == 0:
            return batch
        stored = self.buffer.sample(learner.batch_size if self.batch_size is None else self.batch_size)
        stored["replayed"] = torch.ones(len(stored["y"]), dtype=torch.bool)
        stored["index"] = torch.full((len(stored["y"]),), -1)  # no row of the current task
        return join(batch, stored)

    def after_task(self, learner, task, data: Samples):
        self.buffer.add(data.fields, labels=balance_labels(learner, data.fields))

    def state_dict(self):
        return {"buffer": self.buffer.state_dict()}

    def load_state_dict(self, learner, state):
        self.buffer.load_state_dict(state["buffer"])
