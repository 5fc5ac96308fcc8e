"""GEM: no step may raise the loss on any past task's stored samples."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from course_utils.methods.agem import AGEM, flat_gradient, memory_gradient, set_gradient


def project(gradient: Tensor, references: Tensor, margin: float = 0.0) -> Tensor:
    """The gradient nearest to `gradient` whose dot product with every reference is not negative.

    The answer is `gradient + sum_k u_k reference_k` with u >= margin. The u solve a problem with one unknown per
    past task (the dual), which is a non-negative least-squares problem once written with a square root of the
    references' Gram matrix.

    Args:
        gradient: flat, `(parameters,)`.
        references: `(past tasks, parameters)`.
        margin: at least this much of every reference is added as soon as one constraint is violated.

    Source: Lopez-Paz & Ranzato 2017, eq. 8 to 11 (there solved with quadprog).
    """
    g, r = gradient.double(), references.double()
    if bool((r @ g >= 0).all()):
        return gradient
    scale = r.norm(dim=1).clamp(min=torch.finfo(r.dtype).tiny)  # unit length: tasks differ by orders of magnitude
    gram = (r / scale[:, None] @ (r / scale[:, None]).T).cpu().numpy()
    dots = (r / scale[:, None] @ g).cpu().numpy() + gram @ (margin * scale).cpu().numpy()
    values, vectors = np.linalg.eigh(gram)
    kept = values > 1e-12 * values.max()
    root = np.sqrt(values[kept])[:, None] * vectors[:, kept].T  # root^T root = gram
    target = -(vectors[:, kept].T @ dots) / np.sqrt(values[kept])
    extra = torch.from_numpy(nnls(root, target)[0]).to(r)
    return (g + (extra / scale + margin) @ r).to(gradient.dtype)


class GEM(AGEM):
    """Gradient episodic memory: one constraint per past task, one gradient on *all* its stored samples per step.

    A step takes longer with every task: t past tasks need t more backward passes.

    Args:
        memory: number of stored samples, over all tasks; class-balanced.
        margin: how much of every past gradient is added to a step that has to be changed; 0 only keeps from harm.
        seed: of the memory's own generator; default follows the learner's seed.

    Source: Lopez-Paz & Ranzato 2017. Built in lesson 03.
    """

    name = "gem"
    settings = ("memory", "margin", "seed")

    def __init__(self, memory=200, margin=0.0, seed=None):
        if margin < 0:
            raise ValueError(f"margin={margin} must be at least 0")
        super().__init__(memory, seed=seed)
        self.margin = margin

    def after_backward(self, learner, batch):
        if learner.task.index == 0 or len(self.buffer) == 0:
            return
        stored = self.buffer.all()
        past = [stored["task"] == index for index in stored["task"].unique()]
        references = [memory_gradient(learner, {k: v[mine] for k, v in stored.items()}) for mine in past]
        gradient = project(flat_gradient(learner.model), torch.stack(references), self.margin)
        set_gradient(learner.model, gradient)
