"""SL: supervised learning by backpropagation of the cross-entropy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from course_utils.grid.network import Network, Params


def gradient(
    network: Network, params: Params, images: jax.Array, labels: jax.Array, weights: jax.Array
) -> tuple[Params, jax.Array, jax.Array]:
    """The gradient of the weighted mean cross-entropy, that mean, and the weighted mean accuracy."""

    def loss(params: Params) -> tuple[jax.Array, jax.Array]:
        _, logits = network.apply(params, images)
        return mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels), weights), logits

    (value, logits), descent = jax.value_and_grad(loss, has_aux=True)(params)
    return descent, value, mean((logits.argmax(-1) == labels).astype(jnp.float32), weights)


def mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """The mean of values (N,) with weights (N,)."""
    return (values * weights).sum() / weights.sum()
