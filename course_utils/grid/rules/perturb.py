"""pl: shrink and perturb. J. Ash, R. Adams, On warm-starting neural network training, NeurIPS 2020, equation 1.

Weights shrink towards zero, and a little of a fresh network is added: units that have died are moved, and what is
learned is kept where it is strong.

Per task it is applied before the first step of every task but the first, with a whole fresh network. Per step it is
applied after every step, with Gaussian noise of a fresh network's size, as in S. Dohare et al., Loss of plasticity in
deep continual learning, Nature 632, 2024 (use a shrink and a perturb of about 1e-5 then: the effect adds up over steps).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from course_utils.grid.network import Params


def shrink_and_perturb(params: Params, fresh: Params, shrink: float, perturb: float) -> Params:
    """(1 - shrink) * weights + perturb * fresh weights."""
    return jax.tree.map(lambda old, new: (1 - shrink) * old + perturb * new, params, fresh)


def noise(params: Params, key: jax.Array) -> Params:
    """Normal random numbers with the standard deviations of a fresh network's weights: 1 / sqrt(inputs) for a kernel, 0
    for a bias (LeCun et al. 1998)."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    scales = [0.0 if leaf.ndim == 1 else float(np.prod(leaf.shape[:-1])) ** -0.5 for leaf in leaves]
    drawn = [
        scale * jax.random.normal(k, leaf.shape) if scale else jnp.zeros_like(leaf)
        for k, leaf, scale in zip(keys, leaves, scales, strict=True)
    ]
    return jax.tree.unflatten(tree, drawn)
