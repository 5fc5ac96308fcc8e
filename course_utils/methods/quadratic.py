"""The quadratic penalty that L2, EWC, SI and MAS share. They differ in one function, `importance`."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from course_utils.methods.base import Method
from course_utils.methods.fisher import Weights


def penalty(weights: Weights, anchors: Weights, importance: Weights, strength: float) -> Tensor:
    """`strength / 2 * sum importance * (weight - anchor)^2`, a scalar.

    Args:
        weights: name -> tensor. A head that grew has more rows than its anchor: only the old ones count.
        anchors, importance: name -> tensor of the shape that the parameter had.
        strength: the lambda of the papers; it means the same at every batch size.

    Source: Kirkpatrick et al. 2017, eq. 3. Built in lesson 03, exercise 03.2.
    """
    terms = [(importance[name] * (_old(weights[name], a) - a).square()).sum() for name, a in anchors.items()]
    return strength / 2 * torch.stack(terms).sum()


def _old(weight: Tensor, anchor: Tensor) -> Tensor:
    return weight if weight.shape == anchor.shape else weight[: len(anchor)]


class Quadratic(Method):
    """Pull every weight back to where an old task left it, the important ones harder.

    Args:
        strength: lambda; 0 is fine-tuning.
        online: keep one running importance, anchored at the latest weights, instead of one pair per past task.
            Memory and time then stay constant.
        decay: of the running importance, `decay * old + new`; only with `online`.

    Raises:
        ValueError: a negative strength or a decay outside [0, 1].
        FloatingPointError: while training, the penalty is no longer finite: steps beyond the stable range. Where a
            task ends before that, a RuntimeWarning says the same.
    """

    name = "quadratic"
    settings: tuple[str, ...] = ("strength", "online", "decay")

    def __init__(self, strength: float = 1.0, online: bool = False, decay: float = 1.0):
        if strength < 0 or not 0 <= decay <= 1:
            raise ValueError(f"strength={strength} must be at least 0 and decay={decay} in [0, 1]")
        self.strength, self.online, self.decay = float(strength), online, float(decay)
        self.terms: list[tuple[Weights, Weights]] = []  # (importance, anchor), the oldest first
        self.began = 0.0  # the loss that the current task began with, penalty included

    def importance(self, learner, task, data) -> Weights:
        """How much each weight matters to the task just learned: name -> tensor of its shape, nowhere negative."""
        raise NotImplementedError(f"{type(self).__name__} is a Quadratic without importance(): override it")

    def before_task(self, learner, task):
        if task.index == 0:
            self.terms, self.began = [], 0.0

    def loss(self, learner, batch, out, loss):
        if self.strength == 0 or not self.terms:
            return loss
        total = self._penalty(learner)
        if not total.isfinite():
            raise FloatingPointError(self._explain(learner, total))
        if learner.step == 0:
            self.began = (loss + total).item()
        return loss + total

    def after_task(self, learner, task, data):
        self._check_end(learner)
        new = self.importance(learner, task, data)
        anchor = {name: p.detach().clone() for name, p in learner.model.named_parameters() if name in new}
        if self.online and self.terms:
            old = self.terms[0][0]
            new = {name: self.decay * _pad(old[name], value) + value for name, value in new.items()}
        self.terms = [(new, anchor)] if self.online else [*self.terms, (new, anchor)]

    def _penalty(self, learner) -> Tensor:
        weights = dict(learner.model.named_parameters())
        return torch.stack([penalty(weights, anchor, f, self.strength) for f, anchor in self.terms]).sum()

    def _check_end(self, learner) -> None:
        """The last step may have overflowed, and a short task may end before a diverging penalty does."""
        if self.strength == 0 or not self.terms:
            return
        with torch.no_grad():
            total = self._penalty(learner)
        if not total.isfinite():
            raise FloatingPointError(self._explain(learner, total))
        if self._overshoot(learner) > 1 and total > 10 * self.began:  # no minimiser makes its own objective worse
            warnings.warn(self._explain(learner, total), RuntimeWarning, stacklevel=2)

    def _overshoot(self, learner) -> float:
        """How far beyond the anchor a gradient step ends, plus one: lr times the largest curvature of the penalty."""
        summed: Weights = {}
        for importance, _ in self.terms:  # the penalties of separate tasks add up
            for name, value in importance.items():
                summed[name] = value + _pad(summed[name], value) if name in summed else value
        return learner.lr * self.strength * max(float(value.max()) for value in summed.values())

    def _explain(self, learner, total: Tensor) -> str:
        return (
            f"the penalty of {self.name} is {total.item():.3g} at step {learner.step} of task {learner.task.index + 1}: "
            f"lr * strength * largest importance = {self._overshoot(learner):.3g}. A gradient step "
            "overshoots the anchor where this is above 1 and diverges above 2: "
            f"lower strength={self.strength:g} or lr={learner.lr:g}"
        )

    def state_dict(self):
        return {"terms": [[dict(importance), dict(anchor)] for importance, anchor in self.terms], "began": self.began}

    def load_state_dict(self, learner, state):
        move = learner.device
        self.terms = [
            ({k: v.to(move) for k, v in importance.items()}, {k: v.to(move) for k, v in anchor.items()})
            for importance, anchor in state["terms"]
        ]
        self.began = state["began"]


def _pad(old: Tensor, like: Tensor) -> Tensor:
    """`old` with zeros for the rows that came later."""
    if old.shape == like.shape:
        return old
    wide = torch.zeros_like(like)
    wide[: len(old)] = old
    return wide
