"""Continual-learning metrics from an accuracy matrix, each with its formula and source.

`R` is a `(T, T)` array; `R[i, j]` is the score on task j after training on task i (both from 0),
NaN where it was not measured. Scores may be accuracies in [0, 1] or any score where more is better.
No function changes its argument. Built in lesson 01.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _matrix(R: ArrayLike) -> NDArray[np.float64]:
    array = np.array(R, dtype=float)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise ValueError(f"R has shape {array.shape}; expected (T, T), row i = after task i, column j = task j")
    return array


def average_accuracy(R: ArrayLike) -> float:
    """ACC = mean over j of R[T-1, j]: the average over all tasks after the last one.

    Source: Lopez-Paz & Ranzato 2017, eq. 2. Built in lesson 01, exercise 01.2.
    """
    return float(_matrix(R)[-1].mean())


def average_incremental_accuracy(R: ArrayLike) -> float:
    """Mean over i of the average accuracy on the tasks seen up to i, mean_{j <= i} R[i, j].

    Source: Rebuffi et al. 2017 (iCaRL), section 4.
    """
    matrix = _matrix(R)
    return float(np.mean([matrix[i, : i + 1].mean() for i in range(len(matrix))]))


def backward_transfer(R: ArrayLike) -> float:
    """BWT = 1/(T-1) sum_{j < T-1} (R[T-1, j] - R[j, j]); negative when learning on costs old tasks.

    NaN for a single task. Source: Lopez-Paz & Ranzato 2017, eq. 3. Built in lesson 01, exercise 01.3.
    """
    matrix = _matrix(R)
    if len(matrix) < 2:
        return float("nan")
    return float(np.mean(matrix[-1, :-1] - np.diag(matrix)[:-1]))


def forgetting(R: ArrayLike) -> float:
    """F = 1/(T-1) sum_{j < T-1} (max_{j <= i < T-1} R[i, j] - R[T-1, j]).

    The best score is looked for after task j was learned and before the last task, so F can be
    negative, and it equals -BWT when every task is at its best right after its own training.
    NaN for a single task. Source: Chaudhry et al. 2018 (RWalk), eq. 3. Built in lesson 01, exercise 01.4.
    """
    matrix = _matrix(R)
    last = len(matrix) - 1
    if last < 1:
        return float("nan")
    return float(np.mean([matrix[j:last, j].max() - matrix[last, j] for j in range(last)]))


def forward_transfer(R: ArrayLike, initial: ArrayLike) -> float:
    """FWT = 1/(T-1) sum_{j >= 1} (R[j-1, j] - initial[j]).

    Args:
        R: accuracy matrix with the entries just above the diagonal measured.
        initial: `(T,)` score of every task at random initialisation.

    Raises:
        ValueError: an entry R[j-1, j] was not measured. With a head that grows, a class has no
            output before its task, so the number would be 0 by construction and says nothing.

    Source: Lopez-Paz & Ranzato 2017, eq. 4.
    """
    matrix, start = _matrix(R), np.array(initial, dtype=float)
    if start.shape != (len(matrix),):
        raise ValueError(f"initial has shape {start.shape}; expected ({len(matrix)},), one score a task")
    above = np.diag(matrix, k=1)
    if np.isnan(above).any() or np.isnan(start[1:]).any():
        raise ValueError(
            "forward transfer needs R[j-1, j], the score on a task before it is trained; it was not measured. "
            "It has a meaning only where the outputs exist beforehand, as in domain-incremental streams"
        )
    return float(np.mean(above - start[1:])) if len(matrix) > 1 else float("nan")


def intransigence(R: ArrayLike, single: ArrayLike) -> float:
    """I = mean over j of (single[j] - R[j, j]): what remembering costs in learning the new task.

    Args:
        R: accuracy matrix.
        single: `(T,)` reference score of task j right after training on it: a joint run's diagonal,
            as in the source, or a network trained on task j alone.

    Source: Chaudhry et al. 2018 (RWalk), eq. 5 (there for each k; here the mean).
    """
    matrix, reference = _matrix(R), np.array(single, dtype=float)
    if reference.shape != (len(matrix),):
        raise ValueError(f"single has shape {reference.shape}; expected ({len(matrix)},), one score a task")
    return float(np.mean(reference - np.diag(matrix)))


def summary(R: ArrayLike, initial: ArrayLike | None = None, single: ArrayLike | None = None) -> dict[str, float]:
    """All metrics at once; NaN for one that the given measurements do not support.

    Returns:
        keys ACC, BWT, FWT, forgetting, intransigence, average_incremental_accuracy.
    """
    before = np.diag(_matrix(R), k=1)  # R[j-1, j]
    measured = initial is not None and not np.isnan([*before, *np.array(initial, dtype=float)[1:]]).any()
    return {
        "ACC": average_accuracy(R),
        "BWT": backward_transfer(R),
        "FWT": forward_transfer(R, initial) if initial is not None and measured else float("nan"),
        "forgetting": forgetting(R),
        "intransigence": float("nan") if single is None else intransigence(R, single),
        "average_incremental_accuracy": average_incremental_accuracy(R),
    }


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"got shapes {x.shape} and {y.shape}; expected two vectors of the same length")
    return x, y


def pearson(predicted: ArrayLike, target: ArrayLike) -> float:
    """PLCC, Pearson's linear correlation of two vectors; NaN when one of them is constant."""
    x, y = _pair(predicted, target)
    if len(x) == 0 or np.ptp(x) == 0 or np.ptp(y) == 0:  # asked before centring, whose rounding hides a constant
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    x, y = x / np.abs(x).max(), y / np.abs(y).max()  # squares of tiny or huge numbers leave the range of floats
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def spearman(predicted: ArrayLike, target: ArrayLike) -> float:
    """SRCC, Spearman's rank correlation: Pearson's of the ranks, ties sharing their mean rank.

    NaN when one of the vectors is constant or holds a NaN.
    """
    x, y = _pair(predicted, target)
    if np.isnan(x).any() or np.isnan(y).any():  # sorting would give a NaN a rank
        return float("nan")
    return pearson(_ranks(x), _ranks(y))


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)  # rank of the last of each group of equal values
    return (last - (counts - 1) / 2)[inverse]
