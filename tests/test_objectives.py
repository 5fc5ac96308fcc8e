"""Losses, distillation and sampling against NumPy, SciPy and plain torch."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch.nn import functional as F

from course_utils.objectives import Classification, Regression, distillation_loss


def logits(seed: int, *shape: int, std: float = 1.0) -> torch.Tensor:
    return std * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_distillation_is_t_squared_times_kl_of_teacher_to_student(temperature):
    student, teacher = logits(0, 6, 4), logits(1, 6, 4)
    p = scipy.special.softmax(teacher.numpy() / temperature, axis=1)
    q = scipy.special.softmax(student.numpy() / temperature, axis=1)
    expected = temperature**2 * scipy.stats.entropy(p, q, axis=1).mean()  # KL(p || q), a mean over rows
    assert distillation_loss(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-10)
    reverse = temperature**2 * scipy.stats.entropy(q, p, axis=1).mean()
    assert abs(expected - reverse) > 1e-3  # the test can tell the two directions apart


def gradient(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    student = student.clone().requires_grad_()
    distillation_loss(student, teacher, temperature).backward()
    return student.grad


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_gradient_of_distillation(temperature):
    student, teacher = logits(0, 6, 4), logits(1, 6, 4)
    difference = (student / temperature).softmax(1) - (teacher / temperature).softmax(1)
    assert torch.allclose(gradient(student, teacher, temperature), temperature * difference / len(student))


def test_gradient_norm_hardly_depends_on_the_temperature_for_small_logits():
    student, teacher = logits(0, 64, 10, std=0.1), logits(1, 64, 10, std=0.1)
    norms = np.array([gradient(student, teacher, t).norm().item() for t in range(1, 9)])
    assert norms.max() / norms.min() < 1.05
    without = norms / np.arange(1, 9) ** 2  # what it would be without the factor T^2
    assert without.max() / without.min() > 10


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_no_loss_and_no_gradient_when_student_equals_teacher(temperature):
    teacher = logits(0, 8, 5)
    assert abs(distillation_loss(teacher, teacher, temperature).item()) < 1e-12
    assert gradient(teacher, teacher, temperature).abs().max() < 1e-12
    assert gradient(logits(1, 8, 5), teacher, temperature).abs().max() > 1e-3


def test_teacher_gets_no_say_over_classes_it_does_not_know():
    with pytest.raises(ValueError, match="slice the student"):
        distillation_loss(logits(0, 3, 5), logits(1, 3, 4))


def test_classification_loss_and_score():
    out, y = logits(0, 50, 4), torch.arange(50) % 4
    log_p = scipy.special.log_softmax(out.numpy(), axis=1)
    assert Classification().loss(out, y).item() == pytest.approx(-log_p[np.arange(50), y.numpy()].mean())
    assert Classification().score(out, y) == np.mean(out.numpy().argmax(1) == y.numpy())


def test_regression_loss_does_not_broadcast_and_scores_by_rank():
    out, y = logits(0, 30, 1), logits(1, 30).float()
    objective = Regression()
    assert objective.loss(out, y).item() == pytest.approx(np.mean((out.numpy()[:, 0] - y.numpy()) ** 2), rel=1e-6)
    assert objective.score(out, y) == pytest.approx(scipy.stats.spearmanr(out[:, 0], y).statistic)
    assert objective.score(y.exp()[:, None], y) == pytest.approx(1.0)  # only the order counts
    assert objective.distill(out, out, 2.0).item() == 0.0
    assert objective.distill(out, out + 2, 2.0).item() == pytest.approx(4.0)


def test_sampled_labels_follow_the_softmax():
    out = torch.tensor([[0.0, 1.0, 2.0]])
    drawn = Classification().sample(out.repeat(6000, 1), torch.Generator().manual_seed(0))
    expected = 6000 * F.softmax(out, dim=1)[0].double().numpy()
    assert scipy.stats.chisquare(np.bincount(drawn, minlength=3), expected * 6000 / expected.sum()).pvalue > 1e-3


def test_sampled_targets_are_gaussian_around_the_output():
    out = torch.full((4000, 1), 3.0)
    drawn = Regression(noise=0.5).sample(out, torch.Generator().manual_seed(0))
    assert scipy.stats.kstest(drawn.flatten().numpy(), scipy.stats.norm(3.0, 0.5).cdf).pvalue > 1e-3


def test_sampling_repeats_with_its_generator():
    for objective in (Classification(), Regression()):
        out = logits(0, 20, 1 if isinstance(objective, Regression) else 4)
        a, b, c = (objective.sample(out, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
        assert torch.equal(a, b) and not torch.equal(a, c)
