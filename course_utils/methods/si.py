"""Synaptic Intelligence: the importance is what each weight's path did for the loss, kept while training."""

from __future__ import annotations

import torch

from course_utils.methods.quadratic import Quadratic


class SI(Quadratic):
    """Credit every weight with the loss that its own moves took away.

    Over a task the path integral `path = -sum g * (theta_new - theta_old)` sums to about the drop of the loss.
    The importance is `max(0, path) / ((theta_end - theta_start)^2 + damping)`, added up over tasks, around the
    latest weights. g is the gradient of the task's own loss, without any penalty.

    Args:
        strength: lambda; the c of the paper is lambda / 2.
        damping: xi; keeps weights that hardly moved from getting a huge importance.

    Source: Zenke, Poole & Ganguli 2017, eq. 3 to 5. Built in lesson 03, exercise 03.4.
    """

    name = "si"
    settings = ("strength", "damping")

    def __init__(self, strength=1.0, damping=0.1):
        if damping <= 0:
            raise ValueError(f"damping={damping}: a weight that did not move would divide by zero; give more than 0")
        super().__init__(strength, online=True)
        self.damping = float(damping)
        self.start, self.before, self.gradient, self.path = {}, {}, {}, {}

    def loss(self, learner, batch, out, loss):
        weights = {name: p for name, p in learner.model.named_parameters() if p.requires_grad}
        if learner.step == 0:  # the head has grown
            self.start = {name: p.detach().clone() for name, p in weights.items()}  # a view would move along
            self.path = {name: torch.zeros_like(p) for name, p in weights.items()}
        gradients = torch.autograd.grad(
            learner.task_loss, list(weights.values()), retain_graph=True, materialize_grads=True
        )  # zeros for a weight that the loss does not depend on
        self.gradient = dict(zip(weights, gradients, strict=True))
        self.before = {name: p.detach().clone() for name, p in weights.items()}
        return super().loss(learner, batch, out, loss)

    def after_step(self, learner, batch):
        weights = dict(learner.model.named_parameters())
        for name, gradient in self.gradient.items():
            self.path[name] -= gradient * (weights[name].detach() - self.before[name])

    def importance(self, learner, task, data):
        weights = dict(learner.model.named_parameters())
        return {
            name: path.clamp(min=0) / ((weights[name].detach() - self.start[name]).square() + self.damping)
            for name, path in self.path.items()
        }

    def state_dict(self):
        return {**super().state_dict(), "start": self.start, "path": {k: v.clone() for k, v in self.path.items()}}

    def load_state_dict(self, learner, state):
        super().load_state_dict(learner, state)
        self.start = {name: value.to(learner.device) for name, value in state["start"].items()}
        self.path = {name: value.to(learner.device) for name, value in state["path"].items()}
