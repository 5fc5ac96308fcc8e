"""What differs between classification and regression, in one small object each.

An objective knows the loss, how a student imitates a teacher, how to draw a label from the model's own
distribution (for the Fisher information of lesson 03) and the score. A method that asks its objective
works for every task type.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils import metrics


class Objective(Protocol):
    """What the learner and the methods ask of an objective. Shapes: out `(batch, outputs)`, y `(batch, ...)`."""

    name: str

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        """Mean loss of the batch, a scalar."""
        ...

    def distill(self, out: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """How far `out` is from the teacher's outputs, a scalar; zero with zero gradient when equal."""
        ...

    def sample(self, out: Tensor, generator: torch.Generator) -> Tensor:
        """One target per row, drawn from the model's own predictive distribution."""
        ...

    def score(self, out: Tensor, y: Tensor) -> float:
        """More is better: accuracy, or rank correlation."""
        ...


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 2.0) -> Tensor:
    """T^2 times KL(teacher || student) of the softened distributions, averaged over the batch.

    Softening by T divides the gradient by about T^2; the factor T^2 undoes it, so that the weight of
    this term means the same at every temperature.

    Args:
        student_logits, teacher_logits: `(batch, classes)`.
        temperature: T > 0; larger values show more of what the teacher thinks of the wrong classes.

    Source: Hinton, Vinyals & Dean 2015, section 2. Built in lesson 02, exercise 02.2.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student {tuple(student_logits.shape)} and teacher {tuple(teacher_logits.shape)} differ in shape; "
            "slice the student's logits to the classes that the teacher knows"
        )
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.softmax(teacher_logits / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean") * temperature**2


class Classification:
    """Cross-entropy; distillation as in Hinton et al. 2015; score = accuracy in [0, 1]."""

    name = "classification"

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(out, y)

    def distill(self, out: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return distillation_loss(out, teacher, temperature)

    def sample(self, out: Tensor, generator: torch.Generator) -> Tensor:
        probabilities = out.softmax(dim=1).cpu()  # the generator lives on the CPU, for the same draws everywhere
        return torch.multinomial(probabilities, 1, generator=generator).squeeze(1).to(out.device)

    def score(self, out: Tensor, y: Tensor) -> float:
        return (out.argmax(dim=1) == y).double().mean().item()


class Regression:
    """Mean squared error on `(batch, 1)` outputs; score = Spearman's rank correlation.

    The predictive distribution is a Gaussian of standard deviation `noise` around the output.
    Distillation is the mean squared distance to the teacher; the temperature has no meaning here.
    """

    name = "regression"

    def __init__(self, noise: float = 1.0):
        self.noise = noise

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(out, y.reshape(out.shape).to(out.dtype))

    def distill(self, out: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return F.mse_loss(out, teacher)

    def sample(self, out: Tensor, generator: torch.Generator) -> Tensor:
        return out + self.noise * torch.randn(out.shape, generator=generator, dtype=out.dtype).to(out.device)

    def score(self, out: Tensor, y: Tensor) -> float:
        return metrics.spearman(out.flatten().double().cpu().numpy(), y.flatten().double().cpu().numpy())
