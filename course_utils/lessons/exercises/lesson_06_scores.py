"""Exercises 06.1 to 06.5: rank correlation, a score from a direction, and the losses of pairs, lines and histograms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils.lessons.exercise import Criterion, Exercise, Wrong, close, diagnose, to_array
from course_utils.lessons.exercises.lesson_05_pairs import drawn

Answer = Callable[..., Any]

# ---- 06.1 rank correlation -------------------------------------------------------------------------------------------


def rank_correlation(predicted: Any, target: Any) -> float:
    """Spearman's correlation (SRCC): Pearson's correlation of the ranks; equal values share their mean rank.

    predicted, target: `(n,)`. Built in lesson 06, exercise 06.1.
    """

    def ranks(values: Any) -> np.ndarray:
        values = np.asarray(values, dtype=float)
        below = (values[None, :] < values[:, None]).sum(axis=1)
        equal = (values[None, :] == values[:, None]).sum(axis=1)
        return below + (equal + 1) / 2

    return float(np.corrcoef(ranks(predicted), ranks(target))[0, 1])


PREDICTED, TARGET = np.array([0.2, 0.9, 0.35, 0.3, 5.0, 0.6]), np.array([1.0, 5.0, 4.0, 2.0, 7.0, 8.0])


def _ordinal(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable") + 1.0


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def _without_ties(answer: Answer) -> None:
    x, y = PREDICTED, TARGET
    expected = _pearson(_ordinal(x), _ordinal(y))
    pairs = np.sign(x[:, None] - x) * np.sign(y[:, None] - y)
    gaps = _ordinal(x) - _ordinal(y)
    diagnose(
        answer(x.copy(), y.copy()),
        {
            "This is the correlation of the *values* (Pearson, PLCC): the one large prediction decides it. Replace every value "
            "by its rank first.": _pearson(x, y),
            "`argsort` is not the rank: it says which element comes at each place. The place of each element is its inverse: "
            "argsort twice.": _pearson(np.argsort(x), np.argsort(y)),
            "This counts pairs in the same order: Kendall's tau, another rank correlation. Correlate the ranks.": pairs.sum()
            / (len(x) * (len(x) - 1)),
            "This is a covariance: divide by the two standard deviations of the ranks.": np.mean(
                (_ordinal(x) - 3.5) * (_ordinal(y) - 3.5)
            ),
            "The 6 of Spearman's formula is missing: 1 - 6 * sum(d^2) / (n * (n^2 - 1)).": 1
            - (gaps**2).sum() / (len(x) * (len(x) ** 2 - 1)),
            "The sign is turned round: 1 means the same order, -1 the opposite one.": -expected,
        },
        expected=expected,
    )
    close(answer(x.copy(), y.copy()), expected, "Expected the correlation of the ranks of both.")


def _with_ties(answer: Answer) -> None:
    x, y = np.array([0.1, 0.4, 0.4, 0.4, 0.9, 0.8, 0.2, 0.2]), np.array([3.0, 1.0, 5.0, 5.0, 7.0, 6.0, 2.0, 4.0])
    a, b = _mean_ranks(x), _mean_ranks(y)
    expected = _pearson(a, b)
    lowest = [1.0 + (values[None, :] < values[:, None]).sum(axis=1) for values in (x, y)]
    highest = [1.0 * (values[None, :] <= values[:, None]).sum(axis=1) for values in (x, y)]
    dense = [np.unique(values, return_inverse=True)[1].astype(float) for values in (x, y)]
    diagnose(
        answer(x.copy(), y.copy()),
        {
            "Equal values get different ranks, by the accident of their place in the list. They share the mean of their ranks: "
            "three values at the ranks 3, 4 and 5 all get 4.": _pearson(_ordinal(x), _ordinal(y)),
            "Equal values get the lowest of their ranks. They share the *mean* of them.": _pearson(*lowest),
            "Equal values get the highest of their ranks. They share the *mean* of them.": _pearson(*highest),
            "Equal values share a rank, and the next value gets the next whole number, as if there were fewer images.": _pearson(
                *dense
            ),
            "The formula with 6 * sum(d^2) holds only without ties. Take Pearson's correlation of the ranks.": 1
            - 6 * ((a - b) ** 2).sum() / (8 * 63),
        },
        expected=expected,
    )
    close(answer(x.copy(), y.copy()), expected, "With ties: every value gets the mean rank of all values equal to it.")


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    below = (values[None, :] < values[:, None]).sum(axis=1)
    return below + ((values[None, :] == values[:, None]).sum(axis=1) + 1) / 2


def _monotone(answer: Answer) -> None:
    close(
        answer(np.exp(3 * TARGET), TARGET.copy()),
        1.0,
        "exp(3 * target) is in the same order as target, so their SRCC is 1, however bent the curve between them.",
    )


# ---- 06.2 a score from a direction -----------------------------------------------------------------------------------


def direction_score(embedding: Tensor, positive_vector: Tensor) -> Tensor:
    """Cosine of every embedding with the positive vector, mapped from [-1, 1] to [0, 1].

    embedding: `(n, dim)`. positive_vector: `(dim,)`. Both of any length. Returns `(n,)`. Built in lesson 06, exercise 06.2.
    """
    return (1 + F.normalize(embedding, dim=1) @ F.normalize(positive_vector, dim=0)) / 2


def _direction(answer: Answer) -> None:
    z, v = 3 * drawn(6, 4, seed=3), 2 * drawn(4, seed=4)
    cosine = F.normalize(z, dim=1) @ F.normalize(v, dim=0)
    expected = (1 + cosine) / 2
    actual = to_array(answer(z, v))
    if actual.shape == (6, 1):
        raise Wrong(
            "Return one number an image, shape (n,): a column (n, 1) compared with (n,) targets makes n x n pairs."
        )
    diagnose(
        actual,
        {
            "The embeddings are not normalised: a network could raise a score by making its vectors long.": (
                1 + z @ F.normalize(v, dim=0)
            )
            / 2,
            "The positive vector is not normalised: its length would be learned as a scale, and scores leave [0, 1].": (
                1 + F.normalize(z, dim=1) @ v
            )
            / 2,
            "Neither is normalised: this is a dot product, not a cosine.": (1 + z @ v) / 2,
            "This is the cosine, from -1 to 1. A quality is between 0 and 1: map the whole range.": cosine,
            "Negative cosines are cut off at 0, so every picture on the far side looks the same and gets no gradient. Map "
            "[-1, 1] to [0, 1] linearly.": cosine.clamp(min=0),
            "The sign is lost: pictures that point away from the positive vector are the worst, not the best.": cosine.abs(),
            "You normalise over the images (`dim=0`); a vector's numbers lie along `dim=1`.": (
                1 + F.normalize(z, dim=0) @ F.normalize(v, dim=0)
            )
            / 2,
        },
        expected=expected,
    )
    close(actual, expected, "Expected (1 + cosine) / 2 for every image.")


def _extremes(answer: Answer) -> None:
    v = drawn(5, seed=8)
    close(
        answer(torch.stack([0.1 * v, 9 * v, -4 * v]), 7 * v),
        [1.0, 1.0, 0.0],
        "A vector along the positive one scores 1, the opposite one 0, whatever their lengths.",
        atol=1e-5,
    )


# ---- 06.3 pairs ------------------------------------------------------------------------------------------------------


def ranking_loss(predictions: Tensor, targets: Tensor, margin: float) -> Tensor:
    """Mean over pairs with `target_i > target_j` of `max(0, margin - (prediction_i - prediction_j))`.

    predictions, targets: `(n,)`. 0 where no two targets differ. Built in lesson 06, exercise 06.3.
    """
    ahead = predictions[:, None] - predictions[None, :]
    better = targets[:, None] > targets[None, :]
    return (F.relu(margin - ahead) * better).sum() / better.sum().clamp(min=1)


def _pair_value(answer: Answer) -> None:
    p, y, margin = torch.tensor([0.31, 0.5, 0.42, 0.1, 0.78]), torch.tensor([0.2, 0.9, 0.2, 0.5, 0.6]), 0.15
    ahead, better = p[:, None] - p, y[:, None] > y
    equal = (y[:, None] == y) & ~torch.eye(5, dtype=torch.bool)

    def mean(terms: Tensor, pairs: Tensor) -> Tensor:
        return (terms * pairs).sum() / pairs.sum()

    hinge = F.relu(margin - ahead)
    expected = mean(hinge, better)
    diagnose(
        answer(p, y, margin),
        {
            "The margin is missing: two pictures may then get nearly the same score and nothing asks for more.": mean(
                F.relu(-ahead), better
            ),
            "The order is turned round: you punish the better picture for being ahead.": mean(
                F.relu(margin + ahead), better
            ),
            "The margin is subtracted: a pair in the wrong order by less than the margin would cost nothing.": mean(
                F.relu(-margin - ahead), better
            ),
            "The `max(0, ...)` is missing: pairs that are right by far would pay for pairs that are wrong.": mean(
                margin - ahead, better
            ),
            "You divide by all n * n pairs. Most of them are no pairs at all (i with itself, j before i): count those with "
            "target_i > target_j.": (hinge * better).sum() / 25,
            "Pairs with *equal* targets are counted too. They have no order, so nothing can be wrong about them.": mean(
                hinge, better | equal
            ),
            "`>=` counts pairs with equal targets, every image with itself among them. They have no order: `>`.": mean(
                hinge, y[:, None] >= y
            ),
            "You look at pairs with i before j in the batch only. Where the better image stands second, nothing is asked.": mean(
                hinge, better & torch.ones(5, 5, dtype=torch.bool).triu(1)
            ),
            "The terms are summed, so the loss grows with the square of the batch. Take the mean over the pairs.": (
                hinge * better
            ).sum(),
            "The terms are squared. The hinge is linear.": mean(hinge.square(), better),
        },
        expected=expected,
        rtol=1e-4,
    )
    close(answer(p, y, margin), expected, "Expected the mean hinge over the pairs with target_i > target_j.", rtol=1e-4)


def _no_pairs(answer: Answer) -> None:
    predictions = torch.tensor([0.1, 0.4, 0.2], requires_grad=True)
    loss = answer(predictions, torch.full((3,), 0.5), 0.1)
    value = to_array(loss)
    if np.isnan(value).any():
        raise Wrong(
            "A batch of equal targets has no pair, and yours divides by 0: one such batch turns every weight into NaN. Divide by "
            "`count.clamp(min=1)`."
        )
    close(value, 0.0, "Where no two targets differ, the loss is 0.")
    if not (isinstance(loss, Tensor) and loss.requires_grad):
        raise Wrong(
            "Where no two targets differ, your 0 is not computed from the predictions, and `.backward()` would stop with an error. "
            "A sum over no pairs is 0, too, and has a gradient."
        )


def _pushes_apart(answer: Answer) -> None:
    predictions = torch.tensor([0.6, 0.4], requires_grad=True)
    loss = answer(predictions, torch.tensor([0.2, 0.8]), 0.1)
    if not (isinstance(loss, Tensor) and loss.requires_grad):
        raise Wrong(
            "The loss has no gradient: keep it a tensor, without `.item()`, `float()`, `.detach()` and `no_grad`."
        )
    (gradient,) = torch.autograd.grad(loss, predictions, allow_unused=True)
    if gradient is None or not gradient[0] > 0 > gradient[1]:
        raise Wrong(
            "Image 2 is better and scored lower. A step down the gradient has to raise its score and lower the other."
        )


# ---- 06.4 the correlation as a loss ----------------------------------------------------------------------------------


def correlation_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """`(1 - r) / 2` with Pearson's correlation r: 0 on a rising line, 1 on a falling one.

    predictions, targets: `(n,)`. Built in lesson 06, exercise 06.4.
    """
    x, y = predictions - predictions.mean(), targets - targets.mean()
    r = (x * y).sum() / (x.norm() * y.norm() + 1e-8)
    return (1 - r) / 2


def _line_value(answer: Answer) -> None:
    p, y = torch.tensor([0.2, 0.5, 0.4, 0.9, 0.3]), torch.tensor([0.3, 0.35, 0.6, 0.7, 0.15])
    x, t = p - p.mean(), y - y.mean()
    r = (x * t).sum() / (x.norm() * t.norm())
    expected = (1 - r) / 2
    diagnose(
        answer(p, y),
        {
            "1 - r runs from 0 to 2: halve it.": 1 - r,
            "This is the correlation itself: going down its gradient makes predictions *worse*.": r,
            "This is minus the correlation: right in direction, but the loss of a perfect line is 0, not -1.": -r,
            "The means are not taken off: this is a cosine, and a constant prediction would look nearly perfect.": (
                1 - F.cosine_similarity(p, y, dim=0)
            )
            / 2,
            "r is squared, so a perfectly *wrong* order is as good as a right one.": 1 - r**2,
            "r is squared and halved: a perfectly wrong order is as good as a right one.": (1 - r**2) / 2,
            "This is (1 + r) / 2, which is 1 on a rising line: it would teach the network the opposite.": (1 + r) / 2,
            "You divide by the squared lengths of both: the square root is missing.": (
                1 - (x * t).sum() / (x.square().sum() * t.square().sum())
            )
            / 2,
            "Only the mean of the predictions is taken off; the targets keep theirs.": (
                1 - (x * y).sum() / (x.norm() * y.norm())
            )
            / 2,
            "Only the mean of the targets is taken off; the predictions keep theirs.": (
                1 - (p * t).sum() / (p.norm() * t.norm())
            )
            / 2,
            "This is a covariance: nothing keeps the predictions from growing without end. Divide by both standard deviations.": (
                1 - (x * t).mean()
            )
            / 2,
            "Sum and mean are mixed: the correlation is too large by a factor of n.": (
                1 - (x * t).sum() / (p.std(correction=0) * y.std(correction=0))
            )
            / 2,
            "You divide by standard deviations with n - 1 and average with n. Use one of the two for all three.": (
                1 - (x * t).mean() / (p.std() * y.std())
            )
            / 2,
        },
        expected=expected,
        rtol=1e-4,
    )
    close(answer(p, y), expected, "Expected (1 - r) / 2 with Pearson's r.", rtol=1e-4)


def _scale_free(answer: Answer) -> None:
    y = torch.tensor([0.1, 0.4, 0.35, 0.8])
    close(answer(5 * y + 3, y), 0.0, "5 * y + 3 is a rising line of y: the loss is 0.", atol=1e-4)
    close(answer(-y, y), 1.0, "-y is a falling line of y: the loss is 1.", atol=1e-4)


def _constant(answer: Answer) -> None:
    predictions = torch.full((4,), 0.5, requires_grad=True)
    loss = answer(predictions, torch.tensor([0.1, 0.4, 0.35, 0.8]))
    if not (isinstance(loss, Tensor) and loss.requires_grad):
        raise Wrong("The loss has no gradient: keep it a tensor, without `.item()`, NumPy and `no_grad`.")
    if not torch.isfinite(loss):
        raise Wrong(
            "A network that gives every picture the same score has no spread, and yours divides by 0. Add 1e-8 below the "
            "fraction line."
        )


# ---- 06.5 histograms -------------------------------------------------------------------------------------------------


def earth_movers_distance(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean over images of `sqrt(mean over levels of (CDF - CDF')^2)`.

    predicted, target: `(n, levels)`, rows sum to 1. Built in lesson 06, exercise 06.5.
    """
    gap = predicted.cumsum(dim=1) - target.cumsum(dim=1)
    return gap.square().mean(dim=1).sqrt().mean()


def _histogram_gradient(answer: Answer) -> None:
    p = torch.tensor([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]], requires_grad=True)
    loss = answer(p, torch.tensor([[0.3, 0.3, 0.4], [0.1, 0.4, 0.5]]))
    if not (isinstance(loss, Tensor) and loss.requires_grad):
        raise Wrong("No gradient reaches the prediction: keep it a tensor, without `.item()`, NumPy and `no_grad`.")


def _histogram_value(answer: Answer) -> None:
    p = torch.tensor([[0.1, 0.2, 0.4, 0.3], [0.7, 0.1, 0.1, 0.1], [0.0, 0.5, 0.5, 0.0]])
    q = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.1, 0.2, 0.3, 0.4], [0.0, 0.4, 0.6, 0.0]])
    gap, plain = (p - q).cumsum(dim=1), p - q
    found = answer(p, q)
    if to_array(found).shape == (3,):
        raise Wrong("You return one distance an image. A loss is one number: their mean.")
    expected = gap.square().mean(dim=1).sqrt().mean()
    diagnose(
        answer(p, q),
        {
            "The cumulative sum is missing: a vote that is one level off costs as much as one that is nine levels off. This very "
            "bug made a published model score every photograph between 4.7 and 5.3.": plain.square()
            .mean(dim=1)
            .sqrt()
            .mean(),
            "You accumulate over the images (`dim=0`). Levels lie along `dim=1`.": plain.cumsum(dim=0)
            .square()
            .mean(dim=1)
            .sqrt()
            .mean(),
            "The square root is missing: this is the square of the distance.": gap.square().mean(),
            "The square root stands outside the mean over images. Every image has a distance of its own; average those.": gap.square()
            .mean()
            .sqrt(),
            "You sum over the levels; their mean is asked for, so that the number of levels does not matter.": gap.square()
            .sum(dim=1)
            .sqrt()
            .mean(),
            "This is the distance with r = 1, the mean of absolute gaps. Square, average, root.": gap.abs().mean(),
            "The gaps are averaged with their signs, so they cancel.": gap.mean(dim=1).mean(),
        },
        expected=expected,
        rtol=1e-4,
    )
    close(answer(p, q), expected, "Expected the mean over images of sqrt(mean of squared gaps of the CDFs).", rtol=1e-4)


def _far_costs_more(answer: Answer) -> None:
    eye = torch.eye(5)
    near, far = float(to_array(answer(eye[:1], eye[1:2]))), float(to_array(answer(eye[:1], eye[4:])))
    if not far > 1.5 * near > 0:
        raise Wrong(
            "All votes on level 1: a prediction of level 5 must cost more than one of level 2. Accumulate over the levels."
        )


EXERCISES = [
    Exercise(
        id="06.1",
        title="Ranks by hand",
        difficulty=2,
        minutes=12,
        points=3,
        reference=rank_correlation,
        forbidden=("course_utils.metrics:spearman",),
        criteria=[
            Criterion("the correlation of the ranks", _without_ties),
            Criterion("equal values share their mean rank", _with_ties),
            Criterion("a bent curve in the same order is 1", _monotone),
        ],
        hints=(
            "The smallest value has rank 1. How many values are smaller than the third one?",
            "`(values[None, :] < values[:, None]).sum(axis=1)` counts the smaller ones; equal values (itself among them) share the "
            "places behind them.",
            "rank = smaller + (equal + 1) / 2, then `np.corrcoef(ranks(predicted), ranks(target))[0, 1]`.",
        ),
    ),
    Exercise(
        id="06.2",
        title="A direction that means good",
        difficulty=1,
        minutes=8,
        points=2,
        reference=direction_score,
        criteria=[
            Criterion("the cosine with the positive vector, in [0, 1]", _direction, share=2),
            Criterion("lengths do not count", _extremes),
        ],
        hints=(
            "What is the dot product of two vectors of length 1?",
            "`torch.nn.functional.normalize(embedding, dim=1)` and, for the one vector, `dim=0`.",
            "`(1 + cosine) / 2` takes -1 to 0 and 1 to 1.",
        ),
    ),
    Exercise(
        id="06.3",
        title="Every pair in order",
        difficulty=3,
        minutes=15,
        points=3,
        reference=ranking_loss,
        forbidden=("course_utils.quality.losses:compute_ranking_loss",),
        criteria=[
            Criterion("the mean hinge over pairs with an order", _pair_value, share=2),
            Criterion("equal targets only: 0, not NaN", _no_pairs),
            Criterion("its gradient puts the pair in order", _pushes_apart),
        ],
        hints=(
            "`predictions[:, None] - predictions[None, :]` holds all differences at once. Which entries count?",
            "`better = targets[:, None] > targets[None, :]` is True for the pairs with an order; multiply with it, and divide by its "
            "sum.",
            "`(relu(margin - ahead) * better).sum() / better.sum().clamp(min=1)`.",
        ),
    ),
    Exercise(
        id="06.4",
        title="A correlation to go down",
        difficulty=2,
        minutes=10,
        points=2,
        reference=correlation_loss,
        forbidden=("course_utils.quality.losses:plcc_loss",),
        criteria=[
            Criterion("(1 - r) / 2", _line_value, share=2),
            Criterion("any rising line is perfect", _scale_free),
            Criterion("a constant prediction is no accident", _constant),
        ],
        hints=(
            "Take the mean off both first. What is the cosine of what is left?",
            "`(x * y).sum() / (x.norm() * y.norm())`: what happens when all predictions are equal?",
            "`r = (x * y).sum() / (x.norm() * y.norm() + 1e-8)`, then `(1 - r) / 2`.",
        ),
    ),
    Exercise(
        id="06.5",
        title="Find the bug: moving earth",
        difficulty=2,
        minutes=10,
        points=2,
        reference=earth_movers_distance,
        forbidden=("course_utils.quality.losses:emd_loss",),
        criteria=[
            Criterion("the distance of the cumulative histograms", _histogram_value, share=2),
            Criterion("far costs more than near", _far_costs_more),
            Criterion("a gradient reaches the prediction", _histogram_gradient),
        ],
        hints=(
            "How much earth has to cross the border between level k and level k + 1?",
            "The earth that crosses a border is a difference of two *cumulative* sums.",
            "`gap = predicted.cumsum(dim=1) - target.cumsum(dim=1)`, then square, mean over levels, root, mean over images.",
        ),
    ),
]
