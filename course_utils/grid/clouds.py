"""Clouds of points and the cones they span: what the manifold geometry of the grid is computed with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.optimize
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
TINY = 1e-9  # relative to the size of the data: below it a length is rounding


def as_clouds(manifolds: Sequence[ArrayLike]) -> tuple[list[Array], float]:
    """Checked copies of the manifolds, `(samples, features)` each, and the relative size of what is rounding in them.

    Features saved as float32 have full rank by their rounding alone; a readout that lives on it would mean nothing.
    """
    given = [np.asarray(manifold) for manifold in manifolds]
    clouds = [np.array(manifold, dtype=float) for manifold in given]
    shapes = [cloud.shape for cloud in clouds]
    if len(clouds) < 2 or any(len(shape) != 2 or 0 in shape or shape[1] != shapes[0][-1] for shape in shapes):
        raise ValueError(
            f"manifolds have shapes {shapes[:6]}; expected two or more of (samples, features) with the same features"
        )
    if not all(np.isfinite(cloud).all() for cloud in clouds):
        raise ValueError("manifolds hold numbers that are not finite; leave out repeats whose training diverged")
    precision = max(float(np.finfo(array.dtype).eps) if array.dtype.kind == "f" else 0.0 for array in given)
    return clouds, max(TINY, 10 * precision)


def coordinates(points: Array, least: float) -> Array:
    """The rows of `points` in an orthonormal basis of their span, `(M, rank)`: same lengths and angles, fewer columns.

    Directions whose singular value is not above `least` are dropped. The sign of each axis is fixed by the data, so that
    a rotated copy has the same coordinates and meets the same probes.
    """
    _, size, axes = np.linalg.svd(points, full_matrices=False)
    reduced = points @ axes[size > least].T  # keeps the zeros of a silent sample exact, which U S does not
    sign = np.sign(reduced[np.abs(reduced).argmax(axis=0), range(reduced.shape[1])])
    return np.asarray(reduced * sign)


def project_on_cone(generators: ArrayLike, probe: ArrayLike) -> tuple[Array, Array]:
    """The point nearest to `probe` in the cone {sum_k a_k g_k, a >= 0}, and its coefficients.

    The remainder, probe - projection, is the solution of the primal quadratic program min |v - probe|^2 subject to
    g_k . v <= 0 for all k (Moreau's decomposition), so the coefficients a are its Lagrange multipliers.

    Args:
        generators: `(K, n)`, one g_k a row.
        probe: `(n,)`.

    Returns:
        projection `(n,)` and coefficients `(K,)`. The projection is unique, the coefficients need not be.
    """
    rows, target = np.asarray(generators, dtype=float), np.asarray(probe, dtype=float)
    if rows.ndim != 2 or target.shape != rows.shape[1:]:
        raise ValueError(f"generators {rows.shape} and probe {target.shape} do not fit; expected (K, n) and (n,)")
    coefficients, _ = scipy.optimize.nnls(rows.T, target, maxiter=50 * max(rows.shape))
    return np.asarray(coefficients @ rows), np.asarray(coefficients)


def mean_cosine(first: Array, second: Array) -> float:
    """Mean |cosine| of row i of the one and row j of the other over i != j and all leading axes, `(..., P, n)`.

    Rows of length 0 have no direction and are left out; NaN if that leaves nothing.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = [rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in (first, second)]
    cosines = unit[0] @ np.swapaxes(unit[1], -1, -2)  # (..., P, P)
    values = np.abs(cosines[..., ~np.eye(cosines.shape[-1], dtype=bool)])
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def simulated_capacity(
    manifolds: Sequence[ArrayLike], num_trials: int = 50, rng: np.random.Generator | None = None
) -> float:
    """P / n*, where n* random features are just enough to separate a random labelling every second time.

    No theory: each trial projects the manifolds at random to n features, labels them at random and asks a linear
    program for a readout without bias. n* is found by bisection and interpolated between its two whole neighbours.
    Slow, and meant as a check of the other functions on small data; isolated points have P / n* = 2 (Cover 1965).

    Args:
        manifolds: as in `joint_geometry`.
        num_trials: trials for each n; the share that is separable has an error of 0.5 / sqrt(num_trials).
        rng: source of projections and labels.

    Returns:
        capacity in manifolds per feature; NaN if even all features separate less than half of the labellings.
    """
    rng = np.random.default_rng() if rng is None else rng
    clouds, rounding = as_clouds(manifolds)
    owner = np.repeat(range(len(clouds)), [len(cloud) for cloud in clouds])
    points = np.concatenate(clouds)
    points = coordinates(points, rounding * float(np.linalg.norm(points)))
    most = points.shape[1]

    def share(n: int) -> float:
        hits = 0
        for _ in range(num_trials):
            seen = points @ rng.standard_normal((most, n))
            signed = seen * rng.choice([-1.0, 1.0], size=len(clouds))[owner, None]
            bound = scipy.optimize.linprog(np.zeros(n), -signed, -np.ones(len(signed)), bounds=(None, None))
            hits += bound.status == 0  # 2 is infeasible
        return hits / num_trials

    low, share_low, high = 0, 0.0, most
    share_high = share(most) if most else 0.0
    if share_high < 0.5:
        return float("nan")
    while high - low > 1:
        middle = (low + high) // 2
        value = share(middle)
        if value < 0.5:
            low, share_low = middle, value
        else:
            high, share_high = middle, value
    return len(clouds) / (low + (0.5 - share_low) / (share_high - share_low))
