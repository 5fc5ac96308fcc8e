"""Continual-learning metrics of the grid: accuracy curves of many repeats in, one number per task and repeat out.

A matrix here is `(T_trained, T_eval, R)`: entry `[i, j, r]` is the accuracy of repeat r on task j after (or during)
training on task i, the orientation of `course_utils.metrics`, with NaN where it was not evaluated. The last axis holds
the repeats, which are independent runs: average within a repeat first, then ask `spread` how much repeats differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.integrate
import scipy.stats
from numpy.typing import ArrayLike, NDArray

INTEGRATORS = ("final", "mean", "auc", "min", "max", "median")


def integrate(curve: ArrayLike, how: str = "final", steps: ArrayLike | None = None) -> NDArray[np.float64]:
    """One number for a learning curve: reduces axis 0, the log points.

    Args:
        curve: `(L, ...)` values at L log points.
        how: "final" is what was reached; "mean", "median", "min" and "max" weigh all log points alike; "auc" is the
            area under the curve by trapezoids over `steps`, divided by the span, so it keeps the unit of the curve.
        steps: `(L,)` rising step numbers of the log points; needed for "auc" only.

    Returns:
        `(...)`. A NaN in the curve gives NaN, except with "final", which looks at the last log point alone.

    Raises:
        ValueError: an unknown `how`, an empty curve, or steps that do not fit.
    """
    values = np.array(curve, dtype=float)
    if values.ndim == 0 or len(values) == 0:
        raise ValueError(f"curve has shape {values.shape}; expected (L, ...) with at least one log point")
    if how == "final":
        return np.asarray(values[-1])
    if how == "auc":
        at = _steps(steps, len(values))
        return np.asarray(scipy.integrate.trapezoid(values, at, axis=0) / (at[-1] - at[0]))
    reductions: dict[str, Callable[..., Any]] = {"mean": np.mean, "median": np.median, "min": np.min, "max": np.max}
    if how not in reductions:
        raise ValueError(f"how={how!r} is unknown; choose one of {', '.join(INTEGRATORS)}")
    return np.asarray(reductions[how](values, axis=0))


def _steps(steps: ArrayLike | None, length: int) -> NDArray[np.float64]:
    if steps is None:
        raise ValueError('how="auc" needs steps, the (L,) step numbers of the log points')
    at = np.array(steps, dtype=float)
    if at.shape != (length,) or length < 2 or not (np.diff(at) > 0).all():
        raise ValueError(
            f"steps {at.tolist()} do not fit a curve of {length} log points; "
            'how="auc" needs one rising step number a log point, and two log points or more'
        )
    return at


def accuracy_matrix(
    curves: Sequence[ArrayLike],
    eval_tasks: Sequence[Sequence[int]],
    num_tasks: int,
    how: str = "final",
    steps: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Accuracy matrix from the curves of every trained task.

    Args:
        curves: for each trained task the learner's `(L, R, number of evaluated tasks)` accuracy.
        eval_tasks: for each trained task which tasks its last axis holds, from 0.
        num_tasks: number of tasks of the stream, the columns. A run that was stopped early has fewer rows.
        how: see `integrate`.
        steps: see `integrate`.

    Returns:
        `(T_trained, num_tasks, R)`; NaN where a task was not evaluated.

    Raises:
        ValueError: the lists disagree in length, a task is named twice or does not exist, or repeats differ.
    """
    arrays = [np.array(curve, dtype=float) for curve in curves]
    if not arrays or len(arrays) != len(eval_tasks) or len(arrays) > num_tasks:
        raise ValueError(
            f"got {len(arrays)} curves, {len(eval_tasks)} lists of evaluated tasks and num_tasks={num_tasks}; "
            "expected one curve and one list for each trained task, and no more than num_tasks"
        )
    matrix = np.full((len(arrays), num_tasks, arrays[0].shape[1] if arrays[0].ndim == 3 else 0), np.nan)
    for i, (curve, tasks) in enumerate(zip(arrays, eval_tasks, strict=True)):
        columns = [int(task) for task in tasks]
        if curve.ndim != 3 or curve.shape[1:] != (matrix.shape[2], len(columns)):
            raise ValueError(
                f"curve {i} has shape {curve.shape}; expected (L, {matrix.shape[2]}, {len(columns)}): "
                "log points, the repeats of the first curve, evaluated tasks"
            )
        if len(set(columns)) != len(columns) or any(not 0 <= task < num_tasks for task in columns):
            raise ValueError(f"eval_tasks[{i}]={columns}; expected different tasks from 0 to {num_tasks - 1}")
        matrix[i, columns] = integrate(curve, how, steps).T  # (evaluated tasks, R)
    return matrix


def _matrix(matrix: ArrayLike) -> NDArray[np.float64]:
    array = np.array(matrix, dtype=float)
    if array.ndim != 3 or not 0 < array.shape[0] <= array.shape[1]:
        raise ValueError(
            f"matrix has shape {array.shape}; expected (T_trained, T_eval, R) with 1 <= T_trained <= T_eval: "
            "row i = after task i, column j = task j"
        )
    return array


def _expert(expert: ArrayLike, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(T_eval, R)`, NaN for tasks whose expert was not trained."""
    array = np.array(expert, dtype=float)
    trained, evaluated, repeats = matrix.shape
    if array.ndim != 2 or array.shape[1] != repeats or not trained <= len(array) <= evaluated:
        raise ValueError(
            f"expert has shape {array.shape}; expected (T, {repeats}) with T from {trained} to {evaluated}: "
            "one score for each task and repeat"
        )
    return np.concatenate([array, np.full((evaluated - len(array), repeats), np.nan)])


def _diagonal(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([matrix[i, i] for i in range(len(matrix))])  # (T_trained, R)


def transfer(matrix: ArrayLike, expert: ArrayLike) -> NDArray[np.float64]:
    """(R_ii - E_i) / (R_ii + E_i): how learning task i profits or suffers from the tasks before it.

    Above 0 the learner is better on the task it just trained than an expert, a fresh network trained on that task alone;
    below 0 it has lost plasticity or carries interference. Task 0 measures the difference in set-up alone.

    Args:
        matrix: accuracy matrix.
        expert: `(T, R)` score of the expert of each task, integrated over its curve in the same way as the matrix.

    Returns:
        `(T_trained, R)` in [-1, 1] for scores that are not negative; NaN where both scores are 0.
    """
    array = _matrix(matrix)
    reference = _expert(expert, array)[: len(array)]
    total = _diagonal(array) + reference
    return (_diagonal(array) - reference) / np.where(total == 0, np.nan, total)


def remembering(matrix: ArrayLike) -> NDArray[np.float64]:
    """R_ij - R_jj for i > j: accuracy on task j after task i minus the accuracy just after task j.

    Its mean over the last row is backward transfer (Lopez-Paz & Ranzato 2017, eq. 3).

    Returns:
        `(T_trained, T_eval, R)`, NaN for i <= j and where task j was not evaluated.
    """
    array = _matrix(matrix)
    change = np.full_like(array, np.nan)
    for j in range(len(array)):
        change[j + 1 :, j] = array[j + 1 :, j] - array[j, j]
    return change


def zero_shot(matrix: ArrayLike, chance_corrected: bool = False) -> NDArray[np.float64]:
    """R_ij for j > i: accuracy on tasks that were not trained yet.

    Args:
        matrix: accuracy matrix of binary tasks.
        chance_corrected: give 2 A - 1, which is 0 for guessing between two classes, 1 for perfect and
            below 0 for worse than guessing.

    Returns:
        `(T_trained, T_eval, R)`, NaN for j <= i and where task j was not evaluated.
    """
    array = _matrix(matrix)
    rows, columns = np.indices(array.shape[:2])
    scores = np.where(np.expand_dims(columns > rows, -1), array, np.nan)
    return 2 * scores - 1 if chance_corrected else scores


def forgetting(matrix: ArrayLike) -> NDArray[np.float64]:
    """max_{j <= i < last} R_ij - R_last,j: the best accuracy a task ever had minus what is left at the end.

    Per task and repeat what `course_utils.metrics.forgetting` averages (Chaudhry et al. 2018, eq. 3); here entries
    that were not evaluated are left out of the maximum. The last task cannot be forgotten and has no row.

    Returns:
        `(T_trained - 1, R)`; NaN where task j was not evaluated at the end or never before.
    """
    array = _matrix(matrix)
    last = len(array) - 1
    best = [np.fmax.reduce(array[j:last, j], axis=0) for j in range(last)]  # fmax ignores NaN without a warning
    return np.array(best).reshape(last, array.shape[2]) - array[last, :last]


def against_expert(matrix: ArrayLike, expert: ArrayLike) -> NDArray[np.float64]:
    """R_ij - E_j: the distance to an expert of task j at every time of the stream, in units of accuracy.

    Args:
        matrix: accuracy matrix.
        expert: `(T, R)` with T from T_trained to T_eval; see `transfer`.

    Returns:
        `(T_trained, T_eval, R)`, NaN where a task was not evaluated or has no expert.
    """
    array = _matrix(matrix)
    return array - _expert(expert, array)


def mean_known(values: ArrayLike, axis: int) -> NDArray[np.float64]:
    """The mean along an axis of what was measured: NaN is left out, and is the result where there is nothing else."""
    array = np.array(values, dtype=float)
    present = ~np.isnan(array)
    count = present.sum(axis=axis)
    return np.asarray(np.where(present, array, 0).sum(axis=axis) / np.where(count > 0, count, np.nan))


def spread(values: ArrayLike, axis: int = -1, confidence: float = 0.95) -> dict[str, NDArray[np.float64]]:
    """Mean over repeats with what is known about its error; NaN counts as a repeat that is missing.

    Args:
        values: numbers with the repeats along `axis`. Average over tasks before, not here: tasks of one repeat share
            a network and are not independent.
        axis: the axis of the repeats.
        confidence: of the interval.

    Returns:
        arrays without that axis: "mean"; "std" (ddof 1); "se", std / sqrt(n); "n", the repeats that were counted;
        "low" and "high", Student's t interval of the mean with n - 1 degrees of freedom. With one repeat only mean and
        n are numbers, with none only n; the others are NaN.

    Raises:
        ValueError: no such axis, or a confidence outside (0, 1).
    """
    array = np.array(values, dtype=float)
    if not -array.ndim <= axis < array.ndim:
        raise ValueError(f"values have shape {array.shape} and no axis {axis}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}; expected a number between 0 and 1, such as 0.95")
    present = ~np.isnan(array)
    n = present.sum(axis=axis)
    mean = mean_known(array, axis)
    squares = np.where(present, (array - np.expand_dims(mean, axis)) ** 2, 0).sum(axis=axis)
    std = np.sqrt(squares / np.where(n > 1, n - 1, np.nan))
    se = std / np.sqrt(np.maximum(n, 1))
    half = scipy.stats.t.ppf((1 + confidence) / 2, np.maximum(n - 1, 1)) * se
    return {"mean": mean, "std": std, "se": se, "n": n, "low": mean - half, "high": mean + half}
