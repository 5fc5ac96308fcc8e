"""The network of the grid: a Flax NNX module, split once into what it does (a function) and its weights (a pytree)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from course_utils.grid.config import GridConfig, GridError
from course_utils.grid.convolution import FORMS

Params = dict[str, dict[str, jax.Array]]  # {"conv1": {"kernel": ..., "bias": ...}, ..., "dense2": {...}}
READOUT = "dense2"


class CNN(nnx.Module):
    """Three 3x3 convolutions and two dense layers on 28x28 grey images, 2 logits.

    pooling "stride": convolutions with stride 2, 28 -> 14 -> 7 -> 4 pixels, all of them go to the dense layer.
    pooling "max": convolutions with stride 1, each followed by 3x3 max-pooling, 28 -> 9 -> 3 -> 1, then a mean over
    what is left.
    """

    def __init__(
        self, widths: tuple[int, int, int], hidden: int, pooling: str, convolution: str, rngs: nnx.Rngs
    ) -> None:
        self.pooling = pooling
        stride = 2 if pooling == "stride" else 1
        channels = (1, *widths)
        conv = functools.partial(
            nnx.Conv,
            kernel_size=(3, 3),
            strides=stride,
            padding=((1, 1), (1, 1)),  # not "SAME", which pads one side only at stride 2, unlike other libraries
            conv_general_dilated=FORMS[convolution],
            rngs=rngs,
        )
        self.conv1 = conv(channels[0], channels[1])
        self.conv2 = conv(channels[1], channels[2])
        self.conv3 = conv(channels[2], channels[3])
        self.dense1 = nnx.Linear(widths[2] * (16 if pooling == "stride" else 1), hidden, rngs=rngs)
        self.dense2 = nnx.Linear(hidden, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images (N, 28, 28, 1) -> representations (N, hidden) and logits (N, 2)."""
        for conv in (self.conv1, self.conv2, self.conv3):
            x = nnx.relu(conv(x))
            if self.pooling == "max":
                x = nnx.max_pool(x, (3, 3), (3, 3))
        x = x.mean(axis=(1, 2)) if self.pooling == "max" else x.reshape(len(x), -1)
        hidden = nnx.relu(self.dense1(x))
        return hidden, self.dense2(hidden)


@dataclass(frozen=True)
class Network:
    """The network as pure functions. Two networks with the same settings are equal, so compiled code is shared."""

    widths: tuple[int, int, int]
    hidden: int
    pooling: str
    convolution: str

    @classmethod
    def of(cls, config: GridConfig, convolution: str) -> Network:
        """The network of a configuration; convolution: "patches" or "lax", what "auto" has become."""
        return cls(config.widths, config.hidden, config.pooling, convolution)

    def init(self, key: jax.Array) -> Params:
        """Fresh weights for one repeat: kernels by Flax's default (LeCun normal), biases zero."""
        module = CNN(self.widths, self.hidden, self.pooling, self.convolution, nnx.Rngs(key))
        return nnx.to_pure_dict(nnx.state(module, nnx.Param))

    def apply(self, params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Representations (N, hidden) and logits (N, 2) of uint8 images (N, 28, 28)."""
        graph, state = self._split()
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state)(standardised(x))

    def _split(self) -> tuple[Any, Any]:
        module = nnx.eval_shape(
            lambda: CNN(self.widths, self.hidden, self.pooling, self.convolution, nnx.Rngs(0))
        )  # shapes alone: no weights are drawn
        return nnx.split(module)

    @functools.cached_property
    def layout(self) -> list[dict[str, Any]]:
        """Name, shape and offset of every array in the flat vector of D weights, in its order."""
        entries, offset = [], 0
        for path, leaf in jax.tree_util.tree_flatten_with_path(jax.eval_shape(self.init, jax.random.key(0)))[0]:
            entries.append({"name": "/".join(step.key for step in path), "shape": list(leaf.shape), "offset": offset})
            offset += int(np.prod(leaf.shape))
        return entries

    @property
    def num_weights(self) -> int:
        """D."""
        last = self.layout[-1]
        return last["offset"] + int(np.prod(last["shape"]))


def standardised(x: jax.Array) -> jax.Array:
    """uint8 (N, 28, 28) -> float32 (N, 28, 28, 1), black -1 and full brightness 1."""
    return x[..., None].astype(jnp.float32) / 127.5 - 1


def flatten(params: Params) -> jax.Array:
    """Weights (leading axes of none, one repeat) as one vector (D,): layers by name, in a layer bias before kernel, each
    array in C order. `Network.layout` says where each lies."""
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(params)])


def unflatten(vector: Any, layout: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The pytree of weights for vectors (..., D), NumPy or jax: each array (..., *shape). `layout`: of metadata.json."""
    size = layout[-1]["offset"] + int(np.prod(layout[-1]["shape"]))
    if vector.shape[-1] != size:
        raise GridError(f"vectors of {vector.shape[-1]} weights do not fit a layout of {size}")
    tree: dict[str, dict[str, Any]] = {}
    for entry in layout:
        layer, name = entry["name"].split("/")
        part = vector[..., entry["offset"] : entry["offset"] + int(np.prod(entry["shape"]))]
        tree.setdefault(layer, {})[name] = part.reshape(*vector.shape[:-1], *entry["shape"])
    return tree
