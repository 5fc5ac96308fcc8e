"""pl: shrink and perturb. J. Ash, R. Adams, On warm-starting neural network training, NeurIPS 2020, equation 1.

Weights shrink towards zero, and a little of a fresh network is added: units that have died are moved, and what is
learned is kept where it is strong. Per task it is applied before the first step of each task but the first; per step
after every step, as in S. Dohare et al., Loss of plasticity in deep continual learning, Nature 632, 2024 (use a shrink
and a perturb of about 1e-5 then: the effect adds up over the steps).
"""

from __future__ import annotations

import jax

from course_utils.grid.network import Network, Params


def shrink_and_perturb(network: Network, params: Params, key: jax.Array, shrink: float, perturb: float) -> Params:
    """(1 - shrink) * weights + perturb * fresh weights. Biases start at zero, so they only shrink."""
    fresh = network.init(key)
    return jax.tree.map(lambda old, new: (1 - shrink) * old + perturb * new, params, fresh)
