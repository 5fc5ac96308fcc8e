"""Losses with one or two weights, whose every step can be drawn: where forgetting is seen before any network is.

A task is a bowl, `loss(w) = 1/2 (w - centre)^T H (w - centre)`. With one weight the matrix H is a single number, the
curvature c: the course writes `c/2 (w - a)^2`. Used in lesson 01; lesson 03 protects weights with the same H.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Bowl:
    """The loss of one task over two weights.

    Attributes:
        centre: `(2,)` the weights that solve the task.
        hessian: `(2, 2)` symmetric positive definite; how fast the loss rises in every direction.
    """

    centre: Array
    hessian: Array

    def loss(self, w: ArrayLike) -> Array:
        """Loss at the points `w`, `(..., 2)` -> `(...)`."""
        offset = np.asarray(w, dtype=float) - self.centre
        return 0.5 * np.einsum("...i,ij,...j->...", offset, self.hessian, offset)

    def gradient(self, w: ArrayLike) -> Array:
        """Gradient at one point, `(2,)` -> `(2,)`."""
        return self.hessian @ (np.asarray(w, dtype=float) - self.centre)


def valley(centre: Sequence[float], angle: float, steep: float = 1.0, flat: float = 0.1) -> Bowl:
    """A bowl stretched along one direction.

    Args:
        centre: the lowest point.
        angle: direction of the valley's floor, in degrees from the first weight's axis.
        steep: curvature across the valley. `flat`: along its floor. Both positive.
    """
    if steep <= 0 or flat <= 0:
        raise ValueError(f"steep={steep}, flat={flat}: both curvatures must be positive, or there is no minimum")
    turn = np.deg2rad(angle)
    along = np.array([np.cos(turn), np.sin(turn)])
    across = np.array([-along[1], along[0]])
    return Bowl(np.asarray(centre, dtype=float), steep * np.outer(across, across) + flat * np.outer(along, along))


def descend(task: Bowl, start: ArrayLike, lr: float, steps: int) -> Array:
    """Gradient descent on one task: `(steps + 1, 2)` points, the start first."""
    points = [np.asarray(start, dtype=float)]
    for _ in range(steps):
        points.append(points[-1] - lr * task.gradient(points[-1]))
    return np.array(points)


def meeting_point(tasks: Sequence[Bowl]) -> Array:
    """The weights `(2,)` with the lowest sum of the tasks' losses: what joint training finds."""
    hessians = np.sum([task.hessian for task in tasks], axis=0)
    pulls = np.sum([task.hessian @ task.centre for task in tasks], axis=0)
    return np.asarray(np.linalg.solve(hessians, pulls), dtype=float)


def joint_minimum(centers: ArrayLike, curvatures: ArrayLike) -> float:
    """The weight with the lowest sum of the losses `c_k/2 (w - a_k)^2`: the mean of a_k, weighted by c_k.

    Args:
        centers: `(tasks,)` the a_k.
        curvatures: `(tasks,)` the c_k, positive.

    Built in lesson 01, exercise 01.1.
    """
    a, c = np.asarray(centers, dtype=float), np.asarray(curvatures, dtype=float)
    return float((c * a).sum() / c.sum())


def protected_minimum(task: Bowl, importance: ArrayLike, anchor: ArrayLike, strength: float) -> Array:
    """The weights `(2,)` with the lowest `loss of the task + strength/2 * sum importance * (w - anchor)^2`.

    Args:
        task: the new task.
        importance: `(2,)` how much each weight matters to the old task, not negative.
        anchor: `(2,)` the weights after the old task.
        strength: lambda, at least 0.

    Built in lesson 03, exercise 03.1.
    """
    pull = strength * np.diag(np.asarray(importance, dtype=float))
    right = task.hessian @ task.centre + pull @ np.asarray(anchor, dtype=float)
    return np.asarray(np.linalg.solve(task.hessian + pull, right), dtype=float)
