"""Losses for scores: squared error with ranking, linear correlation, fidelity of comparisons, distance of histograms.

All scores are in [0, 1]. Each loss is a scalar, differentiable, with no loop over pairs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-8  # keeps square roots and divisions differentiable where they touch zero


def compute_ranking_loss(predictions: Tensor, targets: Tensor, margin: float = 0.1) -> Tensor:
    """Mean over all pairs with `target_i > target_j` of `max(0, margin - (prediction_i - prediction_j))`.

    Pairs with equal targets say nothing and are left out; without any pair the loss is 0 (and has a gradient, 0).

    Args:
        predictions, targets: `(n,)`.
        margin: how far apart the two predictions have to be.

    Source: Burges et al. 2005 for learning from pairs; the hinge of Joachims 2002. Built in lesson 06, exercise 06.3.
    """
    predictions, targets = _vectors(predictions, targets)
    ahead = predictions[:, None] - predictions[None, :]  # (n, n): by how much i is before j
    better = targets[:, None] > targets[None, :]
    return (F.relu(margin - ahead) * better).sum() / better.sum().clamp(min=1)


def cosine_similarity_loss(
    predictions: Tensor, targets: Tensor, margin: float = 0.1, ranking_weight: float = 0.1
) -> Tensor:
    """`MSE + ranking_weight * ranking loss`, the loss of a score that is a cosine mapped to [0, 1].

    Args:
        predictions, targets: `(n,)` in [0, 1].
    """
    predictions, targets = _vectors(predictions, targets)
    return F.mse_loss(predictions, targets) + ranking_weight * compute_ranking_loss(predictions, targets, margin)


def plcc_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """`(1 - r) / 2` with Pearson's correlation r: 0 for any rising line, 1 for a falling one, 0.5 for a constant.

    It is blind to the scale of the predictions and to their level.

    Args:
        predictions, targets: `(n,)`, at least two.

    Source: Li, Jiang & Jiang 2020, "Norm-in-norm loss with faster convergence and better performance for image quality
    assessment", which relates both. Built in lesson 06, exercise 06.4.
    """
    predictions, targets = _vectors(predictions, targets)
    if len(predictions) < 2:
        raise ValueError(f"a correlation needs at least two samples, got {len(predictions)}; use a larger batch")
    x, y = predictions - predictions.mean(), targets - targets.mean()
    r = (x * y).sum() / ((x.square().sum() + EPSILON).sqrt() * (y.square().sum() + EPSILON).sqrt())
    return (1 - r) / 2


def preference(scores: Tensor, spread: Tensor) -> Tensor:
    """Probability that image i gets a better vote than image j: `Phi((s_i - s_j) / sqrt(spread_i^2 + spread_j^2))`.

    Args:
        scores, spread: `(n,)`; spread is the standard deviation of single votes.

    Returns:
        `(n, n)`.

    Source: Thurstone 1927, case III.
    """
    difference = scores[:, None] - scores[None, :]
    deviation = (spread.square()[:, None] + spread.square()[None, :] + EPSILON).sqrt()
    return 0.5 * (1 + torch.erf(difference / deviation / math.sqrt(2)))


def fidelity_loss(predictions: Tensor, targets: Tensor, spread: Tensor) -> Tensor:
    """Mean over pairs i < j of `1 - sqrt(p g) - sqrt((1 - p)(1 - g))`.

    p and g are the probabilities that image i is preferred to j, by the predicted and by the true scores; both with the
    real spread of the votes, so that two pictures about which people disagree ask for little.

    Args:
        predictions, targets, spread: `(n,)`.

    Source: Tsai et al. 2007, "FRank: a ranking method with fidelity loss"; Zhang et al. 2021, "Uncertainty-aware blind
    image quality assessment in the laboratory and wild", eq. 4, for its use with scores.
    """
    predictions, targets = _vectors(predictions, targets)
    if spread.shape != targets.shape:
        raise ValueError(f"spread has shape {tuple(spread.shape)}, targets {tuple(targets.shape)}; give one an image")
    first, second = torch.triu_indices(len(targets), len(targets), offset=1, device=targets.device)
    if len(first) == 0:
        return predictions.sum() * 0
    p, g = preference(predictions, spread)[first, second], preference(targets, spread)[first, second]
    return (1 - (p * g + EPSILON).sqrt() - ((1 - p) * (1 - g) + EPSILON).sqrt()).mean()


def emd_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Earth mover's distance of histograms with r = 2: mean over images of `sqrt(mean_k (CDF_k - CDF'_k)^2)`.

    It compares *cumulative* sums, so that mass on a neighbouring level costs little and mass far away a lot.

    Args:
        predicted, target: `(n, levels)`, rows sum to 1.

    Source: Talebi & Milanfar 2018 (NIMA), eq. 1 with r = 2. Built in lesson 06, exercise 06.5.
    """
    if predicted.shape != target.shape or predicted.dim() != 2:
        raise ValueError(
            f"histograms of shapes {tuple(predicted.shape)} and {tuple(target.shape)}; expected (n, levels) for both"
        )
    gap = predicted.cumsum(dim=1) - target.cumsum(dim=1)
    return (gap.square().mean(dim=1) + EPSILON**2).sqrt().mean()


def _vectors(predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if predictions.dim() == 2 and predictions.shape[1] == 1:
        predictions = predictions[:, 0]  # a network's column of scores
    if predictions.dim() != 1 or predictions.shape != targets.shape:
        raise ValueError(
            f"predictions {tuple(predictions.shape)} and targets {tuple(targets.shape)}; expected (n,) for both. With "
            "(n, 1) and (n,) PyTorch would compare every image with every other"
        )
    return predictions, targets.to(predictions.dtype)
