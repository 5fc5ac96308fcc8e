"""The network, its flat weights, and the two forms of a convolution."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from course_utils.grid import GridError
from course_utils.grid.convolution import choose, patches
from course_utils.grid.network import Network, flatten, standardised, unflatten

from .helpers import config


@pytest.mark.parametrize("side", [28, 14, 7])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 3)])
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((1, 1), (1, 1)), ((0, 2), (1, 0))])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 2)])
def test_patches_are_the_convolution(side, strides, padding, kernel):
    keys = jax.random.split(jax.random.key(side), 3)
    x = jax.random.normal(keys[0], (2, side, side, 3))
    k = jax.random.normal(keys[1], (*kernel, 3, 4))

    def gradients(form):
        def loss(x, k):
            out = form(x, k, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
            return jnp.sum(jnp.sin(out)), out

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(x, k)

    ours, theirs = gradients(patches), gradients(lax.conv_general_dilated)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), ours, theirs)
    assert ours[0][1].shape == theirs[0][1].shape


def test_patches_refuse_what_they_cannot_do():
    x, k = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 2, 4))
    with pytest.raises(NotImplementedError, match="no groups"):
        patches(x, k, (1, 1), "SAME", feature_group_count=2)
    with pytest.raises(NotImplementedError, match="no dilation"):
        patches(x, jnp.ones((3, 3, 4, 4)), (1, 1), "SAME", rhs_dilation=(2, 2))
    with pytest.raises(NotImplementedError, match="not .1, 8, 8, 4. and .3, 3, 2, 4."):
        patches(x, k, (1, 1), "SAME")


def test_flax_takes_patches_without_a_change_to_its_parameters():
    plain = nnx.Conv(2, 5, (3, 3), strides=2, rngs=nnx.Rngs(0))
    ours = nnx.Conv(2, 5, (3, 3), strides=2, rngs=nnx.Rngs(0), conv_general_dilated=patches)
    x = jax.random.normal(jax.random.key(1), (3, 9, 9, 2))
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(plain)), nnx.to_pure_dict(nnx.state(ours)))
    np.testing.assert_allclose(plain(x), ours(x), rtol=1e-5, atol=1e-5)


def test_vmapped_over_weights_a_convolution_is_grouped_and_patches_are_not():
    x, k = jnp.ones((4, 2, 8, 8, 3)), jnp.ones((4, 3, 3, 3, 5))

    def text(form):
        run = jax.vmap(lambda x, k: form(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
        return jax.jit(run).lower(x, k).as_text()

    assert "feature_group_count = 4" in text(lax.conv_general_dilated)
    assert "convolution" not in text(patches) and "dot_general" in text(patches)


def test_the_form_is_chosen_by_measuring():
    form, seconds = choose(num_repeats=2, batch_size=4)
    assert set(seconds) == {"patches", "lax"} and form == min(seconds, key=seconds.get) and min(seconds.values()) > 0


@pytest.mark.parametrize("pooling", ["stride", "max"])
def test_the_two_forms_are_one_network(pooling):
    asked = config(pooling=pooling)
    params = Network.of(asked, "lax").init(jax.random.key(0))
    x = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    (h1, l1), (h2, l2) = (Network.of(asked, form).apply(params, x) for form in ("lax", "patches"))
    assert h1.shape == (5, 7) and l1.shape == (5, 2) and (h1 >= 0).all()
    np.testing.assert_allclose(h1, h2, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(l1, l2, rtol=1e-4, atol=1e-5)


def test_the_default_network_has_the_documented_shapes():
    layout = {entry["name"]: tuple(entry["shape"]) for entry in Network((16, 32, 64), 64, "stride", "lax").layout}
    assert layout == {
        "conv1/bias": (16,),
        "conv1/kernel": (3, 3, 1, 16),
        "conv2/bias": (32,),
        "conv2/kernel": (3, 3, 16, 32),
        "conv3/bias": (64,),
        "conv3/kernel": (3, 3, 32, 64),
        "dense1/bias": (64,),
        "dense1/kernel": (1024, 64),
        "dense2/bias": (2,),
        "dense2/kernel": (64, 2),
    }
    assert Network((16, 32, 64), 64, "stride", "lax").num_weights == 89_026


def test_flat_weights_give_the_pytree_back_with_any_leading_axes():
    network = Network.of(config(), "patches")
    params = jax.vmap(network.init)(jax.random.split(jax.random.key(0), 3))
    vectors = jax.vmap(flatten)(params)
    assert vectors.shape == (3, network.num_weights)
    jax.tree.map(np.testing.assert_array_equal, unflatten(vectors, network.layout), params)
    deep = unflatten(np.asarray(vectors)[None, :, None], network.layout)
    assert deep["conv2"]["kernel"].shape == (1, 3, 1, 3, 3, 4, 5) and isinstance(deep["conv2"]["kernel"], np.ndarray)
    with pytest.raises(GridError, match="do not fit"):
        unflatten(vectors[:, 1:], network.layout)


def test_pixels_are_standardised():
    assert standardised(np.array([[[0, 255]]], dtype=np.uint8)).reshape(-1).tolist() == [-1, 1]
