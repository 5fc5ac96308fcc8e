"""L2: every weight matters the same."""

from __future__ import annotations

import torch

from course_utils.methods.quadratic import Quadratic


class L2(Quadratic):
    """Stay close to the weights after the last task, in every direction alike: the baseline for all importances.

    Not weight decay: that pulls to zero, this to the old weights.

    Args:
        strength: lambda; the penalty is lambda/2 times the squared distance.

    Built in lesson 03.
    """

    name = "l2"

    def __init__(self, strength: float = 1.0):
        super().__init__(strength, online=True, decay=0.0)  # ones after every task, not a growing sum of ones

    def importance(self, learner, task, data):
        return {name: torch.ones_like(p) for name, p in learner.model.named_parameters() if p.requires_grad}
