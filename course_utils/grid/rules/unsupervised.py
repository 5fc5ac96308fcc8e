"""ul: the first convolution learns without labels, by Oja's subspace rule on the patches it sees.

E. Oja, Neural networks, principal components, and subspaces, International Journal of Neural Systems 1, 1989:
for inputs x (centred), outputs y = x W, the change x y^T - W y y^T turns the columns of W into an orthonormal basis of
the subspace of the first principal components. There are 9 pixels in a patch, so at most 9 of the features can be
independent; with more features than pixels the rule makes the rows of W orthonormal instead.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from course_utils.grid.network import Params, standardised

SIDE = 3  # pixels of a patch


def first_layer(params: Params, gradient: Params, images: jax.Array) -> Params:
    """The gradient with that of the first convolution replaced: minus Oja's change for its kernel, nothing for its bias.

    images: (N, 28, 28) uint8.
    """
    kernel = params["conv1"]["kernel"]
    weights = kernel.reshape(-1, kernel.shape[-1])  # (9, features)
    change = oja(cut_patches(images), weights)
    layer = {"kernel": -change.reshape(kernel.shape), "bias": jnp.zeros_like(params["conv1"]["bias"])}
    return {**gradient, "conv1": layer}


def cut_patches(images: jax.Array) -> jax.Array:
    """All 3x3 patches whose corners lie on even pixels, centred: (N * 169, 9) for images (N, 28, 28)."""
    x = standardised(images)[..., 0]
    rows, columns = (size - SIDE + 1 for size in x.shape[1:])
    cut = [x[:, i : i + rows : 2, j : j + columns : 2] for i in range(SIDE) for j in range(SIDE)]
    patches = jnp.stack(cut, axis=-1).reshape(-1, SIDE * SIDE)
    return patches - patches.mean(axis=0)


def oja(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Oja's change for inputs x (N, inputs) and weights (inputs, outputs), mean over the inputs."""
    y = x @ weights
    return (x.T @ y - weights @ (y.T @ y)) / len(x)
