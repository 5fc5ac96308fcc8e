"""One batch for many tenants: the same answers as one by one, in order, and nothing left behind."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from course_utils import lora, models


def network(tenants=("a", "b", "c"), ranks=(2, 2, 2), patterns="blocks.*", seed=0):
    """A tiny ViT with one trained-looking adapter per tenant."""
    data = SimpleNamespace(image_shape=(1, 8, 8))
    model = models.build("vit", data, num_outputs=5, patch_size=4, width=16, depth=2).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, rank in zip(tenants, ranks, strict=True):
        lora.inject(model, patterns, rank, 4.0, name=name, seed=len(name))
        for layer in lora.adapted(model).values():
            torch.nn.init.normal_(layer.lora_B[name], std=0.1, generator=generator)
    return model


def images(count=6):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def one_by_one(model, x, names):
    return torch.cat([lora.answer_as(model, name, x[i : i + 1]) for i, name in enumerate(names)])


NAMES = ["c", "a", "a", "b", "c", "b"]


@pytest.mark.parametrize("ranks", [(2, 2, 2), (1, 4, 2)])
def test_a_mixed_batch_gives_every_image_its_own_tenants_answer(ranks):
    model = network(ranks=ranks)
    expected = one_by_one(model, images(), NAMES)
    torch.testing.assert_close(lora.Tenants(model)(images(), NAMES), expected)
    assert (one_by_one(model, images(), ["a"] * 6) - expected).abs().max() > 0.01  # the tenants do differ


def test_a_tenant_that_adapts_fewer_layers_than_others():
    model = network(("a",), (2,))
    lora.inject(model, "blocks.1.mlp.*", 3, 4.0, name="b")
    for layer in lora.adapted(model).values():
        if "b" in layer.lora_B:
            torch.nn.init.normal_(layer.lora_B["b"], std=0.1)
    names = ["b", "a", "b", "a", "a", "b"]
    torch.testing.assert_close(lora.Tenants(model)(images(), names), one_by_one(model, images(), names))


def test_the_network_is_left_as_it_was():
    model = network()
    lora.use(model, "b")
    before = model(images())
    lora.Tenants(model)(images(), NAMES)
    assert lora.in_use(model) == "b"
    assert torch.equal(model(images()), before)
    assert not any(layer._forward_hooks for layer in lora.adapted(model).values())


def test_nothing_is_left_behind_after_an_error():
    model = network()
    with pytest.raises(RuntimeError):
        lora.Tenants(model)(torch.rand(6, 3, 8, 8), NAMES)  # three channels instead of one
    assert lora.in_use(model) == "c"
    assert not any(layer._forward_hooks for layer in lora.adapted(model).values())


def test_what_cannot_be_served_is_refused_with_a_reason():
    with pytest.raises(ValueError, match="no adapters"):
        lora.Tenants(models.build("mlp", SimpleNamespace(image_shape=(1, 8, 8)), num_outputs=2))
    with pytest.raises(ValueError, match="patches is a convolution"):
        lora.Tenants(network(patterns=None))
    tenants = lora.Tenants(network())
    with pytest.raises(ValueError, match="no tenant 'd'; there are a, b, c"):
        tenants(images(1), ["d"])
    with pytest.raises(ValueError, match="6 images and 1 names"):
        tenants(images(), ["a"])


def test_tenant_by_tenant_puts_the_answers_back_in_order():
    x = torch.arange(5.0)
    asked = []

    def answer(name, rows):
        asked.append((name, rows.tolist()))
        return x[rows] + (100 if name == "b" else 0)

    assert lora.by_tenant(["a", "b", "a", "b", "b"], answer).tolist() == [0, 101, 2, 103, 104]
    assert asked == [("a", [0, 2]), ("b", [1, 3, 4])]
