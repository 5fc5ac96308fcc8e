"""Losses of scores against slow, obvious references, and the objective that chooses among them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.stats import norm

from course_utils import quality
from course_utils.objectives import Regression


@pytest.fixture
def scores() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Predictions, targets with ties, and spreads of 24 images, in double precision."""
    generator = torch.Generator().manual_seed(0)
    p, y, s = torch.rand(3, 24, generator=generator, dtype=torch.float64)
    return p, (y * 8).round() / 8, 0.05 + 0.2 * s


def test_ranking_loss_by_loops(scores):
    p, y, _ = (part.tolist() for part in scores)
    terms = [max(0.0, 0.1 - (p[i] - p[j])) for i in range(24) for j in range(24) if y[i] > y[j]]
    assert quality.compute_ranking_loss(*scores[:2], 0.1).item() == pytest.approx(sum(terms) / len(terms))


def test_squared_error_with_ranking(scores):
    p, y, _ = scores
    expected = ((p - y) ** 2).mean() + 0.1 * quality.compute_ranking_loss(p, y, 0.1)
    torch.testing.assert_close(quality.cosine_similarity_loss(p, y), expected)
    torch.testing.assert_close(quality.cosine_similarity_loss(p[:, None], y), expected)  # a network's column


def test_plcc_loss_by_scipy(scores):
    p, y, _ = scores
    r = stats.pearsonr(p, y).statistic
    assert quality.plcc_loss(p, y).item() == pytest.approx((1 - r) / 2, abs=1e-7)
    assert quality.plcc_loss(3 * y + 1, y).item() == pytest.approx(0, abs=1e-6)
    assert quality.plcc_loss(-y, y).item() == pytest.approx(1, abs=1e-6)
    assert quality.plcc_loss(torch.full_like(y, 0.3), y).item() == pytest.approx(0.5)


def test_fidelity_loss_by_loops(scores):
    p, y, s = (part.tolist() for part in scores)
    total, count = 0.0, 0
    for i in range(24):
        for j in range(i + 1, 24):
            deviation = math.sqrt(s[i] ** 2 + s[j] ** 2)  # each image's own spread: not s_i * s_j, as in a public copy
            a, g = norm.cdf((p[i] - p[j]) / deviation), norm.cdf((y[i] - y[j]) / deviation)
            total += 1 - math.sqrt(a * g) - math.sqrt((1 - a) * (1 - g))
            count += 1
    assert quality.fidelity_loss(*scores).item() == pytest.approx(total / count, abs=1e-5)
    assert quality.fidelity_loss(scores[1], scores[1], scores[2]).item() == pytest.approx(0, abs=1e-5)


def test_disagreement_asks_for_less(scores):
    p, y, s = scores
    assert quality.fidelity_loss(p, y, 10 * s) < 0.2 * quality.fidelity_loss(p, y, s)


def test_emd_by_loops():
    generator = np.random.default_rng(0)
    p, q = generator.dirichlet(np.ones(10), size=(2, 5))
    total = 0.0
    for a, b in zip(p, q, strict=True):
        carried = [sum(a[: k + 1]) - sum(b[: k + 1]) for k in range(10)]
        total += math.sqrt(sum(gap**2 for gap in carried) / 10)
    assert quality.emd_loss(torch.from_numpy(p), torch.from_numpy(q)).item() == pytest.approx(total / 5)
    # With the first power it is the classic distance, which scipy knows.
    one = abs(np.cumsum(p[0] - q[0])).sum()
    assert one == pytest.approx(stats.wasserstein_distance(range(10), range(10), p[0], q[0]))


@pytest.mark.parametrize("loss", ["mse+rank", "mse", "plcc", "fidelity", "emd"])
def test_gradients_are_right_and_finite_at_the_optimum(loss):
    generator = torch.Generator().manual_seed(1)
    objective = quality.QualityObjective(loss)
    y = torch.rand(6, generator=generator, dtype=torch.float64)
    spread = torch.full((6,), 0.1, dtype=torch.float64)
    shares = torch.rand(6, 10, generator=generator, dtype=torch.float64).softmax(dim=1)
    target = {"score": y, "spread": torch.stack([y, spread], dim=1), "distribution": shares}[objective.targets]
    width = 10 if loss == "emd" else 1
    out = torch.rand(6, width, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda o: objective.loss(o, target), (out,), atol=1e-4)
    best = (shares.log() if loss == "emd" else y[:, None]).clone().requires_grad_()
    objective.loss(best, target).backward()
    assert torch.isfinite(best.grad).all()
    constant = torch.full((6, width), 0.5, dtype=torch.float64, requires_grad=True)
    objective.loss(constant, target).backward()
    assert torch.isfinite(constant.grad).all()


def test_batches_without_pairs_give_zero_not_nan():
    p = torch.rand(4, requires_grad=True)
    quality.compute_ranking_loss(p, torch.full((4,), 0.5)).backward()
    assert torch.equal(p.grad, torch.zeros(4))
    assert quality.fidelity_loss(p[:1], torch.rand(1), torch.rand(1)).item() == 0


def test_wrong_shapes_are_named_before_they_broadcast():
    with pytest.raises(ValueError, match=r"compare every image with every other"):
        quality.compute_ranking_loss(torch.rand(4, 2), torch.rand(4))
    with pytest.raises(ValueError, match=r"spread has shape \(3,\)"):
        quality.fidelity_loss(torch.rand(4), torch.rand(4), torch.rand(3))
    with pytest.raises(ValueError, match=r"expected \(n, levels\)"):
        quality.emd_loss(torch.rand(4, 10), torch.rand(4, 11))
    with pytest.raises(ValueError, match="at least two samples, got 1"):
        quality.plcc_loss(torch.rand(1), torch.rand(1))


# ---- the objective ---------------------------------------------------------------------------------------------------


def test_the_objective_is_a_regression_for_every_method():
    objective = quality.QualityObjective(noise=0.2)
    assert isinstance(objective, Regression) and objective.noise == 0.2  # so EWC takes a Gaussian
    out, y = torch.rand(9, 1), torch.rand(9)
    assert objective.score(out, y) == pytest.approx(stats.spearmanr(out[:, 0], y).statistic)
    drawn = objective.sample(out, torch.Generator().manual_seed(0))
    assert drawn.shape == out.shape
    assert objective.distill(out, out, 2.0) == 0


def test_scores_of_every_kind_of_target():
    shares = torch.tensor([[0.5, 0.5, *[0.0] * 8], [0.0] * 9 + [1.0]])
    torch.testing.assert_close(quality.true_score(shares), torch.tensor([1 / 18, 1.0]))
    torch.testing.assert_close(
        quality.expected_score((shares + 1e-9).log()), torch.tensor([1 / 18, 1.0]), atol=1e-5, rtol=0
    )
    assert quality.true_score(torch.tensor([[0.3, 0.1]])).tolist() == pytest.approx([0.3])


def test_targets_that_do_not_fit_say_what_to_build():
    for loss, needed in (("fidelity", "targets='spread'"), ("emd", "targets='distribution'.*score='distribution'")):
        with pytest.raises(ValueError, match=needed):
            quality.QualityObjective(loss).loss(torch.rand(4, 1), torch.rand(4))
    with pytest.raises(ValueError, match="loss='hinge' is unknown; choose one of mse.rank, mse"):
        quality.QualityObjective("hinge")
