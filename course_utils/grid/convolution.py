"""A convolution that stays fast when every repeat has weights of its own.

XLA turns a convolution that is vmapped over its own weights into a grouped convolution, and has no fast code for those
on a CPU, nor for any convolution inside a `lax.scan`. A convolution is also a matrix product: cut out the patches, lay
them in rows, multiply by the kernel. Vmapped, that is a batched matrix product, which every device does well.

`patches` has the signature of `jax.lax.conv_general_dilated`, so `flax.nnx.Conv(conv_general_dilated=patches)` takes it
without a change to its parameters. Built in lesson 08, exercise 08.6.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Convolution = Callable[..., jax.Array]


def patches(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> jax.Array:
    """A two-dimensional convolution as patches by static slices and one matrix product.

    lhs: images (batch, height, width, channels). rhs: kernel (rows, columns, channels, features).
    Returns (batch, new height, new width, features), as `lax.conv_general_dilated` does for the same arguments.

    Raises NotImplementedError for dilations, groups and other layouts: the network of the grid needs none of them.
    """
    if feature_group_count != 1 or any(step != 1 for step in (*(lhs_dilation or ()), *(rhs_dilation or ()))):
        raise NotImplementedError("patches has no groups and no dilation; use convolution='lax'")
    if lhs.ndim != 4 or rhs.ndim != 4 or lhs.shape[3] != rhs.shape[2]:
        raise NotImplementedError(
            f"patches takes images (N, H, W, C) and a kernel (h, w, C, F), not {lhs.shape} and {rhs.shape}"
        )
    rows, columns, channels, features = rhs.shape
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], (rows, columns), window_strides, padding)
    padded = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
    height = (padded.shape[1] - rows) // window_strides[0] + 1
    width = (padded.shape[2] - columns) // window_strides[1] + 1
    down, right = window_strides
    cut = [
        padded[:, row : row + down * (height - 1) + 1 : down, column : column + right * (width - 1) + 1 : right]
        for row in range(rows)
        for column in range(columns)
    ]  # for each place in the kernel the pixels under it, (batch, height, width, channels)
    table = jnp.concatenate(cut, axis=-1).reshape(-1, rows * columns * channels)
    kernel = rhs.reshape(rows * columns * channels, features)
    product = jnp.matmul(table, kernel, precision=precision, preferred_element_type=preferred_element_type)
    return product.reshape(len(lhs), height, width, features)


STEPS = 2  # of a measurement
FORMS: dict[str, Convolution] = {"patches": patches, "lax": lax.conv_general_dilated}


def choose(num_repeats: int = 4, batch_size: int = 32) -> tuple[str, dict[str, float]]:
    """The faster form on this machine, and the seconds that each took: a short measurement, a second or two.

    It times the gradient of one convolution with weights of its own for each of `num_repeats` repeats, inside a
    `lax.scan`, because that is where the training of the grid runs it.
    """
    taken = {name: seconds(form, num_repeats, batch_size) for name, form in FORMS.items()}
    return min(taken, key=lambda name: taken[name]), taken


def seconds(form: Convolution, num_repeats: int, batch_size: int = 32) -> float:
    """The best of three runs of `STEPS` steps of gradient descent in a scan, without the compilation.

    One convolution, 16 to 32 features at stride 2 on 14x14 pixels, with weights of its own for every repeat (vmap).
    """
    images = jnp.ones((num_repeats, batch_size, 14, 14, 16))
    kernels = jnp.ones((num_repeats, 3, 3, 16, 32))

    def loss(kernel: jax.Array, x: jax.Array) -> jax.Array:
        out = form(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.mean(out**2)

    def train(kernel: jax.Array, x: jax.Array) -> jax.Array:
        return lax.scan(lambda k, _: (k - 0.1 * jax.grad(loss)(k, x), None), kernel, length=STEPS)[0]

    compiled = jax.jit(jax.vmap(train)).lower(kernels, images).compile()
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(compiled(kernels, images))
        best = min(best, time.perf_counter() - start)
    return best
