"""Knowledge distillation: the model of one task ago as a teacher (Learning without Forgetting)."""

from __future__ import annotations

import copy

import torch

from course_utils.methods.base import Method


class Distill(Method):
    """Stay close to the previous model's answers on the old outputs, for every input in the batch.

    The loss becomes `alpha * KD + (1 - alpha) * loss`. The teacher is copied before the head grows, is in
    eval mode and never changes.

    Args:
        alpha: weight of the distillation term, 0 (plain training) to 1.
        temperature: T of the softened distributions.
        distillation: `(student, teacher, temperature) -> scalar`; default is the objective's own.

    Source: Li & Hoiem 2016 (LwF), Hinton et al. 2015. Built in lesson 02.
    """

    name = "distill"
    settings = ("alpha", "temperature")

    def __init__(self, alpha=0.5, temperature=2.0, distillation=None):
        if not 0 <= alpha <= 1 or temperature <= 0:
            raise ValueError(f"alpha={alpha} must be in [0, 1] and temperature={temperature} above 0")
        self.alpha, self.temperature, self.distillation = alpha, temperature, distillation
        self.teacher = None
        self.old_columns: list[tuple[int, int]] = []

    def before_task(self, learner, task):
        self.teacher = None  # the first task has none, in a second run of this object neither
        if task.index > 0:
            self.teacher = frozen_copy(learner.model)
            self.old_columns = learner.old_columns(task)

    def loss(self, learner, batch, out, loss):
        if self.teacher is None or self.alpha == 0:
            return loss
        with torch.no_grad():
            old = self.teacher(batch["input"])  # (batch, old outputs)
        distill = self.distillation or learner.objective.distill
        terms = [distill(out[:, a:b], old[:, a:b], self.temperature) for a, b in self.old_columns]
        return self.alpha * torch.stack(terms).mean() + (1 - self.alpha) * loss

    def state_dict(self):
        teacher = None if self.teacher is None else self.teacher.state_dict()
        return {"teacher": teacher, "old_columns": [list(pair) for pair in self.old_columns]}

    def load_state_dict(self, learner, state):
        self.old_columns = [(a, b) for a, b in state["old_columns"]]
        self.teacher = None
        if state["teacher"] is not None:
            self.teacher = frozen_copy(learner.initial_model)
            self.teacher.grow(len(state["teacher"]["head.bias"]), torch.Generator())
            self.teacher.load_state_dict(state["teacher"])


def frozen_copy(model):
    """A copy in eval mode whose parameters take no gradient."""
    return copy.deepcopy(model).eval().requires_grad_(False)
