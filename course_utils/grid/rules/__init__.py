"""Learning rules and what can be added to them, one file each.

A rule is a pure function of one repeat that says in which direction the weights go down:

    gradient(network, params, images, labels, weights) -> (gradient, loss, accuracy)

images (N, 28, 28) uint8, labels (N,) 0 or 1, weights (N,) of each image in the mean. `vmap`, `scan`, keys, replay and
optimisation happen outside, so a new rule is one file here, `sl.py` for SL, and its name in `config.RULES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import jax

from course_utils.grid.network import Network, Params

Rule = Callable[[Network, Params, jax.Array, jax.Array, jax.Array], tuple[Any, jax.Array, jax.Array]]


def find(name: str) -> Rule:
    """The learning rule of a name in `config.RULES`."""
    return importlib.import_module(f"{__name__}.{name.lower()}").gradient
