"""How good scores are, and what a stream of tasks did to them, each number with its formula and source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from course_utils.methods import Method
from course_utils.metrics import pearson as plcc
from course_utils.metrics import spearman as srcc

__all__ = [
    "Interval", "RecordPredictions", "bootstrap_interval", "kendall", "mean_srcc", "plasticity_index", "plcc",
    "quality_summary", "rmse", "srcc", "stability_index",
]  # fmt: skip

PAIRS = 2**20  # compared at once by `kendall`: 8 MB an array, whatever the number of images


class Interval(NamedTuple):
    """An estimate and the bounds that it is between with the asked-for confidence."""

    estimate: float
    low: float
    high: float


def kendall(predicted: ArrayLike, target: ArrayLike) -> float:
    """KRCC, Kendall's tau-b: concordant less discordant pairs, over the geometric mean of the pairs without ties.

    `(n,)` each, compared pair by pair, some rows of pairs at a time: time grows with n^2 (seconds for 20,000 images),
    memory does not. NaN when one of them is constant or holds a NaN.

    Source: Kendall 1945, "The treatment of ties in ranking problems".
    """
    x, y = np.asarray(predicted, dtype=float), np.asarray(target, dtype=float)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"got shapes {x.shape} and {y.shape}; expected two vectors of the same length")
    if np.isnan(x).any() or np.isnan(y).any():
        return float("nan")
    rows = max(1, PAIRS // max(1, len(x)))
    # Sums of -1, 0 and 1 are exact in floats, so the result does not depend on how the rows are cut.
    untied_x = untied_y = concordant = np.float64(0)
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        first, second = np.sign(x[part, None] - x), np.sign(y[part, None] - y)  # (rows, n)
        untied_x, untied_y = untied_x + np.abs(first).sum(), untied_y + np.abs(second).sum()
        concordant = concordant + (first * second).sum()
    pairs = np.sqrt(untied_x * untied_y)
    return float(concordant / pairs) if pairs else float("nan")


def rmse(predicted: ArrayLike, target: ArrayLike) -> float:
    """Root-mean-squared error, in the unit of the scores: 0.1 is one point on a scale from 0 to 10.

    `(n,)` each; NaN without images. Correlations do not see that all scores are too high; this does.
    """
    x, y = np.asarray(predicted, dtype=float), np.asarray(target, dtype=float)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"got shapes {x.shape} and {y.shape}; expected two vectors of the same length")
    return float(np.sqrt(np.mean((x - y) ** 2))) if len(x) else float("nan")


def mean_srcc(R: ArrayLike) -> NDArray[np.float64]:
    """`(T,)`: after each task the mean SRCC over the tasks seen so far, `mean_{j <= i} R[i, j]`.

    Args:
        R: `(T, T)`, `history.accuracy` of a run with `QualityObjective`.

    Source: Zhang et al. 2023, "Continual learning for blind image quality assessment", mSRCC (there averaged over i too).
    """
    matrix = _matrix(R)
    return np.array([matrix[i, : i + 1].mean() for i in range(len(matrix))])


def plasticity_index(R: ArrayLike) -> float:
    """PI = mean over i of R[i, i]: how well a task is scored right after it was learned.

    Source: Zhang et al. 2023, PI.
    """
    return float(np.diag(_matrix(R)).mean())


def stability_index(predictions: Sequence[Sequence[ArrayLike | None]]) -> float:
    """SI = mean over i >= 1 of SI_i, with SI_i = mean_{j < i} SRCC(predictions now on task j, those right after task j).

    It asks whether a score is still what it was, not whether it is right. The published index also counts SI_0 = 1,
    before anything can have been forgotten: of two tasks a method that turns every ranking round (-1) would get 0, and
    one with SI_1 = 0.2 gets 0.6. That term is left out here. NaN for a single task.

    Args:
        predictions: `predictions[i][j]` is `(n_j,)`, the scores of task j's test images after task i; as
            `RecordPredictions` gives them.

    Source: Zhang et al. 2023, SI, without its first term. Built in lesson 06, exercise 06.7.
    """
    terms = []
    for i in range(1, len(predictions)):
        row = []
        for j in range(i):
            now, then = predictions[i][j], predictions[j][j]
            if now is None or then is None:
                raise ValueError(f"predictions on task {j} after task {i if now is None else j} were not recorded")
            row.append(srcc(now, then))
        terms.append(np.mean(row))
    return float(np.mean(terms)) if terms else float("nan")


def bootstrap_interval(
    metric: Callable[[NDArray[np.float64], NDArray[np.float64]], float],
    predicted: ArrayLike,
    target: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap: the metric on images drawn again and again with replacement.

    It covers the choice of test images. It does not cover what another seed of training would have given.

    Args:
        metric: such as `srcc`, `plcc` or `kendall`.
        predicted, target: `(n,)`.
        groups: `(n,)`, images that show the same thing; they are drawn together, because they are not independent.
        samples: number of drawings.
        confidence: share of the drawings between the bounds.

    Source: Efron & Tibshirani 1993, chapter 13.
    """
    x, y = np.asarray(predicted, dtype=float), np.asarray(target, dtype=float)
    if samples < 2 or not 0 < confidence < 1:
        raise ValueError(
            f"samples={samples}, confidence={confidence}: expected at least 2, and a share between 0 and 1"
        )
    names = np.arange(len(x)) if groups is None else np.asarray(groups)
    rows = [np.flatnonzero(names == name) for name in np.unique(names)]
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(samples):
        drawn = np.concatenate([rows[k] for k in generator.integers(0, len(rows), len(rows))])
        values.append(metric(x[drawn], y[drawn]))
    if np.isnan(values).all():  # every prediction is the same
        return Interval(metric(x, y), float("nan"), float("nan"))
    outside = (1 - confidence) / 2
    low, high = np.nanquantile(values, [outside, 1 - outside])
    return Interval(metric(x, y), float(low), float(high))


class RecordPredictions(Method):
    """Keeps the scores of every task's test images after every task, for `stability_index` and for bootstrap intervals.

    Put it last in the list of methods. `history.accuracy` has one number for each pair of tasks, this has one an image;
    it costs a second prediction on each test set.

    Args:
        split: "test" or "validation", the one that `fit(evaluate=...)` scores on.

    Attributes:
        predictions: `predictions[i][j]` is `(n_j,)` after task i, None where it was not measured.
    """

    name = "record predictions"
    settings = ("split",)

    def __init__(self, split: str = "test") -> None:
        if split not in ("test", "validation"):
            raise ValueError(f"split={split!r}; choose 'test' or 'validation'")
        self.split = split
        self.predictions: list[list[NDArray[np.float64] | None]] = []

    def before_task(self, learner, task):
        if learner.methods[-1] is not self:
            raise ValueError(
                "RecordPredictions must be the last of the methods: those behind it could still change the network "
                "that is scored (PackNet's masks)"
            )
        if task.index == 0:
            self.predictions = [[None] * len(learner.stream) for _ in learner.stream]

    def before_eval(self, learner, task):
        from course_utils.quality.objective import expected_score

        if learner.position == learner.step == 0:  # nothing is learned yet
            return
        out = learner.predict(getattr(task, self.split).x)
        self.predictions[learner.task.index][task.index] = expected_score(out).double().cpu().numpy()

    def state_dict(self):
        import torch

        return {"predictions": [[None if p is None else torch.from_numpy(p) for p in row] for row in self.predictions]}

    def load_state_dict(self, learner, state):
        self.predictions = [[None if p is None else p.numpy() for p in row] for row in state["predictions"]]


def quality_summary(R: ArrayLike, predictions: Sequence[Sequence[ArrayLike | None]] | None = None) -> dict[str, float]:
    """The numbers of a run: keys mean_srcc (after the last task), plasticity_index, stability_index, forgetting.

    stability_index is NaN without predictions; forgetting is `metrics.forgetting` of the SRCCs.
    """
    from course_utils.metrics import forgetting

    return {
        "mean_srcc": float(mean_srcc(R)[-1]),
        "plasticity_index": plasticity_index(R),
        "stability_index": float("nan") if predictions is None else stability_index(predictions),
        "forgetting": forgetting(R),
    }


def _matrix(R: ArrayLike) -> NDArray[np.float64]:
    matrix = np.asarray(R, dtype=float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"R has shape {matrix.shape}; expected (T, T), row i = after task i, column j = task j")
    return matrix
