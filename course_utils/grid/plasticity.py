"""Plasticity metrics of the grid: what a network's features and weights say about its ability to go on learning.

Features are activations after the nonlinearity, `(..., S, H)`: S samples, H hidden units, any leading axes, such as
log points and repeats; every metric keeps the leading axes. Weights are flat vectors `(..., D)`. A slice with a number
that is not finite, from a run that diverged, gives NaN and leaves the other slices alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def _features(features: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
    """Features with bad slices set to 0, and which slices are bad."""
    array = np.array(features, dtype=float)
    if array.ndim < 2 or 0 in array.shape[-2:]:
        raise ValueError(f"features have shape {array.shape}; expected (..., samples, hidden), neither of them 0")
    bad = ~np.isfinite(array).all(axis=(-2, -1))
    array[bad] = 0.0
    return array, bad


def _mark(values: Array, bad: NDArray[np.bool_]) -> Array:
    return np.where(bad, np.nan, values)


def dormant_fraction(features: ArrayLike, tau: float = 0.0) -> Array:
    """Share of units whose activity, relative to their layer's, is at most tau.

    The activity of a unit is the mean of |activation| over samples, divided by the mean of that over the units of the
    layer. The choice of tau matters: 0 counts units that are silent on all samples, 0.025 and 0.1 also nearly silent ones.

    Returns:
        `(...)` in [0, 1]; 1.0 for a layer that is silent altogether.

    Raises:
        ValueError: features of a wrong shape, or a negative tau.

    Source: Sokar et al. 2023 (ReDo), section 3.
    """
    if tau < 0:
        raise ValueError(f"tau={tau}; expected 0 or more, such as 0.025")
    array, bad = _features(features)
    activity = np.abs(array).mean(axis=-2)  # (..., H)
    # activity / layer mean <= tau without the division, so that a silent layer counts as dormant
    return _mark((activity <= tau * activity.mean(axis=-1, keepdims=True)).mean(axis=-1), bad)


def active_fraction(features: ArrayLike) -> Array:
    """Share of the entries (a unit on a sample) that are not exactly 0; with a leaky ReLU that is nearly all of them.

    Returns:
        `(...)` in [0, 1]; 0.0 for features that are all 0.
    """
    array, bad = _features(features)
    return _mark((array != 0).mean(axis=(-2, -1)), bad)


def _shares(features: ArrayLike) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Singular values `(..., min(S, H))`, falling; their shares of the sum (0 for a zero matrix); bad slices."""
    array, bad = _features(features)
    values: Array = np.asarray(np.linalg.svd(array, compute_uv=False), dtype=float)
    total = values.sum(axis=-1, keepdims=True)
    return values, values / np.where(total > 0, total, 1.0), bad


def spectrum(features: ArrayLike) -> Array:
    """Singular values as shares of their sum, falling: `(..., min(S, H))`; zeros for a zero matrix."""
    _, shares, bad = _shares(features)
    return _mark(shares, bad[..., None])


def effective_rank(features: ArrayLike) -> Array:
    """exp of the entropy of the singular values divided by their sum: how many directions carry the features.

    Returns:
        `(...)` from 1, for a matrix of rank 1, to min(S, H), for one whose singular values are equal;
        0.0 for a zero matrix.

    Source: Roy & Vetterli 2007.
    """
    values, shares, bad = _shares(features)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=-1)  # 0 log 0 = 0
    return _mark(np.where(values[..., 0] > 0, np.exp(entropy), 0.0), bad)


def stable_rank(features: ArrayLike) -> Array:
    """||A||_F^2 / ||A||_2^2, the squared singular values in units of the largest; never above the rank.

    Not to be confused with `srank_99`, which goes by the same name in some reinforcement learning code.

    Returns:
        `(...)` from 1 to min(S, H); 0.0 for a zero matrix.

    Source: Rudelson & Vershynin 2007.
    """
    values, _, bad = _shares(features)
    largest = values[..., :1]
    relative = values / np.where(largest > 0, largest, 1.0)  # squares of tiny or huge numbers leave the range of floats
    return _mark((relative**2).sum(axis=-1), bad)


def srank_99(features: ArrayLike, delta: float = 0.01) -> Array:
    """Smallest k whose k largest singular values hold at least 1 - delta of the sum of all.

    Returns:
        `(...)` whole numbers as floats, from 1 to min(S, H); 0.0 for a zero matrix.

    Raises:
        ValueError: features of a wrong shape, or delta outside [0, 1).

    Source: Kumar et al. 2021 (implicit under-parameterization), srank_delta with delta = 0.01.
    """
    if not 0 <= delta < 1:
        raise ValueError(f"delta={delta}; expected a share from 0 up to 1, such as 0.01")
    values, shares, bad = _shares(features)
    # rounding must not ask for one more direction where the sum is met exactly
    missing = np.cumsum(shares, axis=-1) < 1 - delta - 1e-12
    return _mark(np.where(values[..., 0] > 0, missing.sum(axis=-1) + 1, 0).astype(float), bad)


def feature_norm(features: ArrayLike) -> Array:
    """Mean over samples of the L2 norm of a sample's features, in units of the activations; `(...)`."""
    array, bad = _features(features)
    return _mark(np.linalg.norm(array, axis=-1).mean(axis=-1), bad)


def _weights(weights: ArrayLike) -> Array:
    array = np.array(weights, dtype=float)
    if array.ndim < 1 or array.shape[-1] == 0:
        raise ValueError(f"weights have shape {array.shape}; expected (..., D), flat vectors of at least one weight")
    return array


def weight_norm(weights: ArrayLike) -> Array:
    """L2 norm of flat weight vectors `(..., D)`; `(...)`. It grows with the root of D: see `weight_rms`."""
    return np.asarray(np.linalg.norm(_weights(weights), axis=-1))


def weight_rms(weights: ArrayLike) -> Array:
    """Root mean square of the weights, comparable between networks of different size; `(...)`."""
    array = _weights(weights)
    return np.asarray(np.linalg.norm(array, axis=-1) / np.sqrt(array.shape[-1]))


def drift(before: ArrayLike, after: ArrayLike, relative: bool = False) -> Array:
    """How far weights moved: the root mean square of the difference, or its norm relative to the norm before.

    Args:
        before: `(..., D)`, such as the initial weights or those at the end of the previous task.
        after: `(..., D)`; the leading axes may broadcast, as `(R, D)` with `(L, R, D)`.
        relative: ||after - before|| / ||before|| instead of the RMS difference. inf where the weights were 0
            and moved, NaN where they were 0 and stayed.

    Returns:
        `(...)`, 0 or more.

    Raises:
        ValueError: the vectors differ in length, or the leading axes do not broadcast.
    """
    first, second = _weights(before), _weights(after)
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(f"weights have {first.shape[-1]} and {second.shape[-1]} numbers; expected the same network")
    try:
        norm = np.linalg.norm(second - first, axis=-1)
    except ValueError as error:
        raise ValueError(
            f"weights of shapes {first.shape} and {second.shape} do not broadcast; "
            "expected leading axes that match, such as (R, D) and (L, R, D)"
        ) from error
    if not relative:
        return np.asarray(norm / np.sqrt(first.shape[-1]))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(norm / np.linalg.norm(first, axis=-1))
