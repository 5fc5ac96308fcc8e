"""Two remedies against recency bias, applied after a task: align the weights, fine-tune on balanced data."""

from __future__ import annotations

import torch

from course_utils import seeding
from course_utils.methods.base import Method


def align_weights(weight: torch.Tensor, num_old: int) -> torch.Tensor:
    """Scale the new rows of a head so that their mean norm equals that of the old rows.

    Args:
        weight: `(outputs, features)`.
        num_old: the first `num_old` rows belong to old classes.

    Returns:
        A new `(outputs, features)` tensor; old rows unchanged.

    Source: Zhao et al. 2020, "Maintaining discrimination and fairness in class incremental learning", eq. 4.
    Built in lesson 02, exercise 02.6.
    """
    norms = weight.norm(dim=1)
    aligned = weight.clone()
    aligned[num_old:] *= norms[:num_old].mean() / norms[num_old:].mean()
    return aligned


class WeightAlign(Method):
    """After every task but the first: `align_weights` on the head. Does nothing in other than class-incremental streams.

    Args:
        align: `(weight, num_old) -> weight`, by default `align_weights`.
    """

    name = "weight_align"

    def __init__(self, align=align_weights):
        self.align = align

    def after_task(self, learner, task, data):
        if task.index > 0 and learner.stream.scenario == "class":
            head = learner.model.head
            with torch.no_grad():
                head.weight.copy_(self.align(head.weight, learner.stream[task.index - 1].outputs))


class BalancedFinetune(Method):
    """After every task but the first: a few steps on the balanced memory alone, at a small learning rate.

    Put it behind the `Replay` whose memory it uses, so that the memory already holds the new classes.

    Args:
        replay: the `Replay` method whose memory is used.
        steps: optimizer steps.
        lr: learning rate.
        part: "head" trains the read-out alone, "all" the whole network.

    Source: the second stage of EEIL (Castro et al. 2018) and of BiC-like methods.
    """

    name = "balanced_finetune"
    settings = ("num_steps", "lr", "part")

    def __init__(self, replay, steps=100, lr=1e-4, part="all"):
        if part not in ("head", "all"):
            raise ValueError(f"part={part!r}; choose 'head' or 'all'")
        self.replay, self.num_steps, self.lr, self.part = replay, steps, lr, part

    def after_task(self, learner, task, data):
        if task.index == 0 or len(self.replay.buffer) == 0:
            return
        learner.model.eval()  # the running statistics of BatchNorm stay as the task left them
        parameters = (learner.model.head if self.part == "head" else learner.model).parameters()
        optimizer = torch.optim.Adam(list(parameters), lr=self.lr)
        for step in range(self.num_steps):
            batch = self.replay.buffer.sample(learner.batch_size)
            generator = seeding.generator(learner.seed, task.index, 1, step)
            out = learner.model(learner.inputs(batch["x"].to(learner.device), generator))
            loss = learner.objective.loss(
                learner.visible(out, batch["task"].to(learner.device)), batch["y"].to(learner.device)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
