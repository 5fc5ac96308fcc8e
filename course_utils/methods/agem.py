"""A-GEM: no step may raise the average loss on the memory."""

from __future__ import annotations

import torch
from torch import Tensor

from course_utils import seeding
from course_utils.methods.base import Method
from course_utils.methods.buffers import ClassBalanced
from course_utils.methods.replay import balance_labels, start_buffer


def project(gradient: Tensor, reference: Tensor) -> Tensor:
    """The gradient nearest to `gradient` that does not point against `reference`; both flat, `(parameters,)`.

    Unchanged where the dot product is not negative, else orthogonal to the reference.

    Source: Chaudhry et al. 2019, eq. 11. Built in lesson 03, exercise 03.5.
    """
    g, r = gradient.double(), reference.double()  # half a million products lose digits in single precision
    dot = g @ r
    if dot >= 0:
        return gradient
    return (g - dot / (r @ r) * r).to(gradient.dtype)


class AGEM(Method):
    """Averaged gradient episodic memory: project the gradient when it points against that of stored samples.

    Args:
        memory: number of stored samples, over all tasks; class-balanced.
        batch_size: stored samples per reference gradient, drawn anew from the whole memory for every step;
            default as many as current ones.
        seed: of the memory's own generator; default follows the learner's seed.

    Source: Chaudhry et al. 2019. Built in lesson 03.
    """

    name = "agem"
    settings: tuple[str, ...] = ("memory", "batch_size", "seed")

    def __init__(self, memory=200, batch_size=None, seed=None):
        self.buffer = ClassBalanced(memory)
        self.memory, self.batch_size, self.seed = memory, batch_size, seed

    def before_task(self, learner, task):
        start_buffer(self.buffer, learner, task, self.seed)

    def after_backward(self, learner, batch):
        if learner.task.index == 0 or len(self.buffer) == 0:
            return
        stored = self.buffer.sample(learner.batch_size if self.batch_size is None else self.batch_size)
        gradient = flat_gradient(learner.model)
        set_gradient(learner.model, project(gradient, memory_gradient(learner, stored)))

    def after_task(self, learner, task, data):
        self.buffer.add(data.fields, labels=balance_labels(learner, data.fields))

    def state_dict(self):
        return {"buffer": self.buffer.state_dict()}

    def load_state_dict(self, learner, state):
        self.buffer.load_state_dict(state["buffer"])


def memory_gradient(learner, stored: dict[str, Tensor]) -> Tensor:
    """Flat gradient of the task loss on stored samples. `.grad` is left alone: it holds the step to come."""
    stored = {name: value.to(learner.device) for name, value in stored.items()}
    generator = seeding.generator(learner.seed, learner.task.index, 7, learner.step)
    out = learner.visible(learner.model(learner.inputs(stored["x"], generator)), stored["task"])
    loss = learner.objective.loss(out, stored["y"])
    parameters = _trained(learner.model)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat([_flat(g, p) for g, p in zip(gradients, parameters, strict=True)])


def flat_gradient(model) -> Tensor:
    """All `.grad` in one vector, zeros where there is none; `(parameters,)`."""
    return torch.cat([_flat(p.grad, p) for p in _trained(model)])


def set_gradient(model, gradient: Tensor) -> None:
    """Undo `flat_gradient`: write a vector back into `.grad`."""
    parameters = _trained(model)
    parts = gradient.split([p.numel() for p in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        if parameter.grad is not None or part.any():  # a weight without gradient is left to no optimizer's decay
            parameter.grad = part.view_as(parameter).clone()


def _trained(model) -> list[torch.nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _flat(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter).flatten() if gradient is None else gradient.flatten()
