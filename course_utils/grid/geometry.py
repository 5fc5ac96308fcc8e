"""Manifold geometry of the grid: how many classes (point clouds) a linear readout can hold, and which shape decides.

A manifold is the cloud of the features of one class, `(samples, features)`. Its classification capacity is the number
of manifolds per feature, P / N, up to which a random labelling of the manifolds is still linearly separable. Two views:

- `manifold_geometry`: mean-field theory, each manifold by itself, the way it looks in a crowd of others (Chung, Lee &
  Sompolinsky 2018, PRX 8, 031003; correlated centres as in Cohen, Chung, Lee & Sompolinsky 2020).
- `joint_geometry`: all manifolds together, with their correlations (GLUE: Chou et al. 2025).

Both ask a random direction t for its projection on the cone of the points that a readout has to keep on its side. That
quadratic program has a non-negative least squares problem as its dual, which `scipy.optimize.nnls` solves exactly.

With P = 2, one binary task, capacity is an average over two manifolds only: it is noisy, and differences between
single networks mean little. Average over repeats. `simulated_capacity` checks both by counting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.optimize
from numpy.typing import ArrayLike

from course_utils.grid.clouds import (
    TINY,
    Array,
    as_clouds,
    coordinates,
    mean_cosine,
    project_on_cone,
    simulated_capacity,
)

__all__ = [
    "JointGeometry",
    "ManifoldGeometry",
    "joint_geometry",
    "manifold_geometry",
    "simulated_capacity",
    "single_geometry",
]
_RESTARTS = 3  # of the search for directions that the centres share


@dataclass(frozen=True)
class ManifoldGeometry:
    """Mean-field geometry of P manifolds.

    Attributes:
        capacity: harmonic mean over manifolds, in manifolds per feature; 2 for points.
        radius: mean over manifolds, relative to the norm of the centre.
        dimension: mean over manifolds.
        centre_correlation: mean |cosine| of two centres, after the mean of the centres was subtracted.
        num_removed: number of directions shared by the centres that were projected out.
        capacities, radii, dimensions: `(P,)`, one number a manifold.
    """

    capacity: float
    radius: float
    dimension: float
    centre_correlation: float
    num_removed: int
    capacities: Array
    radii: Array
    dimensions: Array


@dataclass(frozen=True)
class JointGeometry:
    """Geometry of P manifolds together; the formulas stand in `joint_geometry`.

    Attributes:
        capacity: in manifolds per feature; never below P / N, N the rank of the features.
        radius: size of the variation that matters, relative to the centres.
        dimension: number of directions of that variation, per manifold.
        centre_alignment, axis_alignment, centre_axis_alignment: mean |cosine| of two different manifolds, in [0, 1];
            NaN where a manifold has no centre or no axis. For random directions about sqrt(2 / (pi N)), not 0.
        approx_capacity: (1 + radius^-2) / dimension; NaN for points, which have neither.
        inseparable: share of probes whose labelling no readout separates. Near 1 the capacity is at its floor.
    """

    capacity: float
    radius: float
    dimension: float
    centre_alignment: float
    axis_alignment: float
    centre_axis_alignment: float
    approx_capacity: float
    inseparable: float


def _probes(count: int, size: int, rng: np.random.Generator) -> Array:
    if count < 2:
        raise ValueError(f"num_probes={count}; expected 2 or more, better 200: the results are means over probes")
    return rng.standard_normal((count, size))


# --- each manifold by itself, in mean-field theory -------------------------------------------------------------------


def single_geometry(
    points: ArrayLike, kappa: float = 0.0, num_probes: int = 200, rng: np.random.Generator | None = None
) -> tuple[float, float, float]:
    """Mean-field capacity, radius and dimension of one manifold whose centre has norm 1.

    Args:
        points: `(samples, features)` relative to the centre, in units of its norm. The centre itself is one more
            coordinate, 1 for every point, orthogonal to the others.
        kappa: margin that the readout, of norm 1, has to keep.
        num_probes: Gaussian probes t; the errors of the results fall with its root.
        rng: source of the probes.

    With v the solution of min |v - t|^2 under v . s <= -kappa for all points s (the source has t and v with the other
    sign), and s(t) the anchor point, the one of the convex hull that pushes t to v, or where v = t the one nearest to t:
        1 / capacity = E |v - t|^2                    (PRX 2018, eqs. 16 and 17)
        radius^2 = E |s(t) - E s|^2                   (eq. 28)
        dimension = D (E cos(t, s(t)))^2              (as in the public analysis code; D the rank of the points)
    Radius and dimension leave the centre coordinate out. Points without extent have radius and dimension 0.
    """
    spatial = np.array(points, dtype=float)
    if spatial.ndim != 2 or 0 in spatial.shape or not np.isfinite(spatial).all():
        raise ValueError(f"points have shape {spatial.shape}; expected (samples, features) of finite numbers")
    generator = np.random.default_rng() if rng is None else rng
    return _anchor_geometry(coordinates(spatial, TINY * np.sqrt(len(spatial))), kappa, num_probes, generator)


def _anchor_geometry(
    spatial: Array, kappa: float, num_probes: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    rank = spatial.shape[1]
    cone = np.column_stack([spatial, np.ones(len(spatial))])  # (M, rank + 1)
    probes = _probes(num_probes, rank + 1, rng)
    anchors, lengths = np.empty((num_probes, rank)), np.empty(num_probes)
    for k, probe in enumerate(probes):
        # every point has centre coordinate 1, so a margin kappa shifts the probe along it and nothing else
        projection, _ = project_on_cone(cone, probe + kappa * np.eye(rank + 1)[-1])
        lengths[k] = projection @ projection
        if projection[-1] > 0:  # the sum of the coefficients: scaled to centre coordinate 1 this is a point of the hull
            anchors[k] = projection[:-1] / projection[-1]
        else:
            anchors[k] = spatial[np.argmax(spatial @ probe[:-1])]
    mean = lengths.mean()
    radius = np.sqrt(((anchors - anchors.mean(axis=0)) ** 2).sum(axis=1).mean())
    norms = np.linalg.norm(anchors, axis=1) * np.linalg.norm(probes[:, :-1], axis=1)
    cosine = (anchors * probes[:, :-1]).sum(axis=1) / np.where(norms > 0, norms, 1.0)
    return float(1 / mean) if mean > 0 else float("inf"), float(radius), float(rank * cosine.mean() ** 2)


def _shared_directions(centres: Array, rng: np.random.Generator) -> Array:
    """Orthonormal directions `(n, K)` shared by the rows of `centres` `(P, n)`: without them they are least correlated.

    For K = 1, 2, ... the sum of squared cosines that is left is minimised over subspaces of K dimensions, from several
    starts, of which the one that shortens no centre by much is kept; K is the one with the smallest mean |cosine|.
    K = 0, nothing removed, is allowed here, and K stays below P - 1, where no centres would be left.
    """
    count, size = centres.shape
    energy = np.cumsum(np.linalg.svd(centres, compute_uv=False) ** 2)
    most = min(int((energy < 0.95 * energy[-1]).sum()) + 10, count - 2, size - 1)
    found, best, lowest, rises = np.zeros((size, 0)), np.zeros((size, 0)), mean_cosine(centres, centres), 0
    previous = lowest
    for rank in range(1, most + 1):
        stability, candidate = -1.0, found
        for _ in range(_RESTARTS):
            start = np.column_stack([found, centres.T @ rng.standard_normal(count)])
            solution = scipy.optimize.minimize(
                _squared_cosines,
                start.ravel(),
                args=(centres,),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": 200, "ftol": 1e-7},
            )
            basis = np.linalg.qr(solution.x.reshape(size, rank))[0]
            left = np.linalg.norm(centres - centres @ basis @ basis.T, axis=1) / np.linalg.norm(centres, axis=1)
            if left.min() > stability:
                stability, candidate = float(left.min()), basis
        found = candidate
        rest = centres - centres @ found @ found.T
        cosine = mean_cosine(rest, rest)
        if cosine < lowest:
            best, lowest = found, cosine
        rises = rises + 1 if cosine > previous else 0
        previous = cosine
        if rises >= 3 and rank > 4:  # as the public code stops
            break
    return best


def _squared_cosines(flat: Array, centres: Array) -> tuple[float, Array]:
    """Sum of squared cosines of the centres without the column space of `flat`, and its gradient."""
    basis, triangle = np.linalg.qr(flat.reshape(centres.shape[1], -1))
    rest = centres - centres @ basis @ basis.T
    norms = np.maximum(np.linalg.norm(rest, axis=1, keepdims=True), np.finfo(float).tiny)
    unit = rest / norms
    cosines = unit @ unit.T
    pull = 4 * (cosines @ unit - unit * (cosines**2).sum(axis=1, keepdims=True)) / norms  # with respect to rest
    slope = -pull.T @ (centres @ basis)  # through the projector; orthogonal to the basis, because rest is
    gradient = scipy.linalg.solve_triangular(triangle, slope.T).T  # slope @ inv(triangle).T
    return float((cosines**2).sum()), np.asarray(gradient).ravel()


def manifold_geometry(
    manifolds: Sequence[ArrayLike], kappa: float = 0.0, num_probes: int = 200, rng: np.random.Generator | None = None
) -> ManifoldGeometry:
    """Mean-field capacity, radius and dimension of P manifolds, each by itself.

    The protocol of the public analysis code of the sources: subtract the mean of all samples, project out the
    directions that the centres share, divide each manifold by the norm of its centre, and take `single_geometry` of it.
    Our one liberty: nothing is projected out where that would not lower the correlation of the centres.

    Args:
        manifolds: P clouds `(samples, features)`, P >= 2; samples may differ. Variation along the centre itself counts
            as one more direction, so more samples than features are fine.
        kappa: margin, in units of the centre's norm.
        num_probes: Gaussian probes for each manifold; 200 give capacity to a few per cent.
        rng: source of probes and starts. The same seed gives the same numbers.

    Returns:
        `ManifoldGeometry`. A manifold whose centre cannot be told from the mean of all, such as one of a layer that
        died, gives NaN. For P = 2 the centres are opposite after the mean is gone, so their correlation is always 1.

    Raises:
        ValueError: fewer than two manifolds or probes, shapes that do not fit, or numbers that are not finite.

    Sources: Chung, Lee & Sompolinsky 2018; Cohen et al. 2020. Gaussian clouds of N = 5000 features, 50 samples and
    P = 100 have capacity 0.04, radius 1.47 and dimension 36.
    """
    rng = np.random.default_rng() if rng is None else rng
    clouds, rounding = as_clouds(manifolds)
    mean = np.concatenate(clouds).mean(axis=0)
    centres = np.array([cloud.mean(axis=0) for cloud in clouds])
    noise = rounding * np.sqrt(max((cloud**2).sum(axis=1).mean() for cloud in clouds))  # of a point
    _, size, axes = np.linalg.svd(centres - centres.mean(axis=0), full_matrices=False)
    axes = axes[size > noise]  # (at most P - 1, features)
    reduced = (centres - centres.mean(axis=0)) @ axes.T
    known = len(axes) > 0 and bool((np.linalg.norm(reduced, axis=1) > noise).all())
    shared = axes.T @ _shared_directions(reduced, rng) if known else np.zeros((len(mean), 0))
    results = np.full((len(clouds), 3), np.nan)
    for i, cloud in enumerate(clouds):
        rest = cloud - mean
        rest = rest - rest @ shared @ shared.T
        centre = rest.mean(axis=0)
        norm = np.linalg.norm(centre)
        if norm > noise:
            points = coordinates((rest - centre) / norm, float(noise / norm) * np.sqrt(len(rest)))
            results[i] = _anchor_geometry(points, kappa, num_probes, rng)
    capacities, radii, dimensions = results.T
    return ManifoldGeometry(
        capacity=float(1 / np.mean(1 / capacities)),
        radius=float(radii.mean()),
        dimension=float(dimensions.mean()),
        centre_correlation=mean_cosine(reduced, reduced) if known else float("nan"),
        num_removed=shared.shape[1],
        capacities=capacities,
        radii=radii,
        dimensions=dimensions,
    )


# --- all manifolds together ------------------------------------------------------------------------------------------


def joint_geometry(
    manifolds: Sequence[ArrayLike],
    num_probes: int = 200,
    rng: np.random.Generator | None = None,
    dichotomies: ArrayLike | None = None,
) -> JointGeometry:
    """Capacity and effective geometry of P manifolds together, correlations included (GLUE).

    Args:
        manifolds: P clouds `(samples, features)`, P >= 2; samples may differ. Nothing is subtracted: the readout has no
            bias. Subtract the mean of all samples beforehand to look at one that has.
        num_probes: pairs of a random probe t `(N,)` and a labelling y `(P,)`.
        rng: source of both. The same seed gives the same numbers, for a rotated or scaled copy too.
        dichotomies: `(K, P)` labellings of -1 and 1 from which each probe draws one; None draws from all 2^P. A binary
            task has [[1, -1], [-1, 1]].

    For each (t, y), p is the projection of t on the cone of all points y_i x, x from manifold i, with coefficients a.
    The anchor point of manifold i is s_i = sum a x / sum a over its points; where none has a coefficient, it is the
    point that comes nearest to having one, argmax of y_i x . (t - p). With s0_i = E s_i the centres, s1_i = s_i - s0_i
    the axes, S0 and S1 the matrices of their rows, G0 and G1 their Gram matrices, + the pseudo-inverse and b = S1 t:
        capacity = P / E |p|^2
        dimension = E [b' G1+ b] / P
        radius^2 = E [b' (G0 + G1)+ b] / (E [b' G1+ b] - E [b' (G0 + G1)+ b])
        alignments = means over i != j (and probes) of |cos(s0_i, s0_j)|, |cos(s1_i, s1_j)|, |cos(s0_i, s1_j)|
        approx_capacity = (1 + radius^-2) / dimension, near capacity for radius^2 dimension >> 1 and small alignments
    Capacity is the definition of Chou et al. 2025 (ICML, definition of manifold capacity). Dimension and radius are its
    estimators by Gram matrices. Their own code is not public, and public re-implementations differ in three things:
    whether cosines are taken without sign (here they are), whether the radius is a ratio of means or a mean of ratios
    (here of means) and what the anchor of a manifold without coefficients is (here as above, after PRX 2018).

    Returns:
        `JointGeometry`; all NaN for features that are all 0. Where a labelling is not separable, p = t: capacity
        reaches its floor, P / N with N the rank of the features, and the other numbers describe a failure, which `inseparable` tells.

    Raises:
        ValueError: manifolds as in `manifold_geometry`, or dichotomies that are not -1 and 1 for each manifold.
    """
    rng = np.random.default_rng() if rng is None else rng
    clouds, rounding = as_clouds(manifolds)
    count = len(clouds)
    choices = None if dichotomies is None else _labellings(dichotomies, count)
    ends = np.cumsum([len(cloud) for cloud in clouds])
    parts = [slice(end - len(cloud), end) for end, cloud in zip(ends, clouds, strict=True)]
    owner = np.repeat(range(count), [len(cloud) for cloud in clouds])
    points = np.concatenate(clouds)
    # (all samples, n): what is orthogonal to all points plays no part
    points = coordinates(points, rounding * float(np.linalg.norm(points)))
    if points.shape[1] == 0:
        return JointGeometry(*[float("nan")] * 8)
    points = points / np.sqrt((points**2).sum(axis=1).mean())
    probes = _probes(num_probes, points.shape[1], rng)
    # all results are of degree 2 in |t| and see the direction of t besides: its mean square N removes noise, not signal
    probes *= np.sqrt(points.shape[1]) / np.linalg.norm(probes, axis=1, keepdims=True)
    if choices is None:
        labels = rng.choice([-1.0, 1.0], size=(num_probes, count))
    else:
        labels = choices[rng.integers(len(choices), size=num_probes)]
    anchors = np.empty((num_probes, count, points.shape[1]))
    lengths, inseparable = np.empty(num_probes), np.zeros(num_probes)
    for k, (probe, label) in enumerate(zip(probes, labels, strict=True)):
        signed = points * label[owner, None]
        anchors[k], projection = _anchors(points, signed, parts, probe)
        lengths[k] = projection @ projection
        if _same(projection, probe):  # t is in the cone; with -t in it too the cone is the whole space
            inseparable[k] = _same(project_on_cone(signed, -probe)[0], -probe)
    return _summary(anchors, probes, lengths, inseparable)


def _anchors(points: Array, signed: Array, parts: list[slice], probe: Array) -> tuple[Array, Array]:
    """Anchor point of every manifold `(P, n)`, and the projection of the probe on the cone of the signed points."""
    projection, coefficients = project_on_cone(signed, probe)
    reach = signed @ (probe - projection)  # 0 for a point the projection leans on, below 0 for the others
    anchors = []
    for own in parts:
        total, hull = coefficients[own].sum(), coefficients[own] @ points[own]
        anchors.append(hull / total if total > 0 else points[own][np.argmax(reach[own])])
    return np.array(anchors), projection


def _same(first: Array, second: Array) -> bool:
    return bool(np.linalg.norm(first - second) < 1e-7 * np.linalg.norm(second))


def _labellings(dichotomies: ArrayLike, count: int) -> Array:
    choices = np.array(dichotomies, dtype=float)
    if choices.ndim != 2 or len(choices) == 0 or choices.shape[1] != count or not (np.abs(choices) == 1).all():
        raise ValueError(f"dichotomies {choices.tolist()} do not fit; expected (K, {count}) numbers that are -1 or 1")
    return choices


def _summary(anchors: Array, probes: Array, lengths: Array, inseparable: Array) -> JointGeometry:
    count = anchors.shape[1]
    centres = anchors.mean(axis=0)  # (P, n), of clouds whose points have norm 1 in the root mean square
    axes = anchors - centres  # (probes, P, n)
    axes[np.linalg.norm(axes, axis=-1) < TINY] = 0.0  # rounding is no direction
    along = np.einsum("kpn,kn->kp", axes, probes)
    gram = axes @ np.swapaxes(axes, 1, 2)  # (probes, P, P)

    def explained(grams: Array) -> float:
        return float(np.einsum("kp,kpq,kq->k", along, np.linalg.pinv(grams, 1e-12, hermitian=True), along).mean())

    spread, total = explained(gram), explained(gram + centres @ centres.T)
    radius = float(np.sqrt(total / (spread - total))) if spread > total else float("inf") if spread > 0 else 0.0
    dimension = spread / count
    return JointGeometry(
        capacity=float(count / lengths.mean()),
        radius=radius,
        dimension=dimension,
        centre_alignment=mean_cosine(centres, centres),
        axis_alignment=mean_cosine(axes, axes),
        centre_axis_alignment=mean_cosine(np.broadcast_to(centres, axes.shape), axes),
        approx_capacity=(1 + radius**-2) / dimension if dimension > 0 and radius > 0 else float("nan"),
        inseparable=float(inseparable.mean()),
    )
