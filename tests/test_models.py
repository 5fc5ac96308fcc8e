"""Networks against functional PyTorch, and the head that grows."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from core_helpers import same, weights
from torch import nn
from torch.nn import functional as F

from course_utils import models

SIGNS = SimpleNamespace(image_shape=(3, 32, 32))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_growing_keeps_old_rows_and_old_logits_bit_identical():
    head = models.ExpandableHead(16)
    head.grow(3, generator())
    with torch.no_grad():  # small integers: their sums are exact, whatever order the kernel adds them in
        head.weight.copy_(torch.randint(-8, 9, (3, 16), generator=generator()).float())
        head.bias.copy_(torch.tensor([1.0, -2.0, 3.0]))
    features = torch.randint(-8, 9, (32, 16), generator=generator(1)).float()
    weight, bias, logits = head.weight.clone(), head.bias.clone(), head(features)
    head.grow(7, generator(2))
    assert head.num_outputs == 7 and head(features).shape == (32, 7)
    assert torch.equal(head.weight[:3], weight) and torch.equal(head.bias[:3], bias)
    assert torch.equal(head(features)[:, :3], logits)
    assert head.weight[3:].abs().min() > 0  # the new rows are drawn, not zero


def test_new_rows_follow_pytorchs_default_for_a_linear_layer():
    head, reference = models.ExpandableHead(64), nn.Linear(64, 2000)
    head.grow(2000, generator())
    bound = 1 / 8  # 1 / sqrt(64)
    for mine, theirs in ((head.weight, reference.weight), (head.bias, reference.bias)):
        assert mine.abs().max() <= bound and mine.abs().max() > 0.99 * bound
        assert mine.std().item() == pytest.approx(theirs.std().item(), rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_growing_keeps_dtype(dtype):
    head = models.ExpandableHead(4).to(dtype)
    head.grow(2, generator())
    assert head.weight.dtype == head.bias.dtype == dtype


def test_growing_keeps_the_device():
    head = models.ExpandableHead(4).to("meta")  # a device that every machine has
    head.grow(2, generator())
    assert head.weight.device.type == head.bias.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_new_rows_are_the_same_on_a_gpu():
    heads = [models.ExpandableHead(4), models.ExpandableHead(4).cuda()]
    for head in heads:
        head.grow(2, generator())
    assert torch.equal(heads[0].weight, heads[1].weight.cpu())


def test_a_frozen_head_stays_frozen():
    head = models.ExpandableHead(4).requires_grad_(False)
    head.grow(2, generator())
    assert not head.weight.requires_grad and not head.bias.requires_grad


def test_a_head_cannot_shrink_and_growing_by_nothing_changes_nothing():
    head = models.ExpandableHead(4)
    head.grow(3, generator())
    weight = head.weight
    head.grow(3, generator())
    assert head.weight is weight
    with pytest.raises(ValueError, match="3 outputs and cannot shrink to 2"):
        head.grow(2, generator())


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 9, 7)])
def test_small_cnn_is_what_its_docstring_says(shape, standardize):
    data = SimpleNamespace(image_shape=shape)
    model = models.build("small_cnn", data, num_outputs=5, widths=(4, 6), num_features=7, standardize=standardize)
    model.eval()
    state = model.state_dict()
    convolutions = [name.removesuffix(".weight") for name, value in state.items() if value.dim() == 4]
    norms = [name.removesuffix(".running_mean") for name in state if name.endswith("running_mean")]
    for norm in norms:  # running statistics that are not the identity
        state[f"{norm}.running_mean"].uniform_(-0.1, 0.1, generator=generator())
        state[f"{norm}.running_var"].uniform_(0.5, 2.0, generator=generator())
    x = h = torch.rand(3, *shape, generator=generator())
    if standardize:
        pixels = x.double().flatten(1)
        spread = (pixels.var(dim=1, correction=0) + 1e-5).sqrt()
        h = ((pixels - pixels.mean(dim=1, keepdim=True)) / spread[:, None]).reshape(x.shape).float()
    for convolution, norm in zip(convolutions, norms, strict=True):
        h = F.max_pool2d(F.conv2d(h, state[f"{convolution}.weight"], padding=1), 2, ceil_mode=True)
        statistics = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        h = F.batch_norm(h, *statistics, state[f"{norm}.weight"], state[f"{norm}.bias"])
        h = torch.where(h > 0, h, 0.1 * h)
    h = F.linear(h.flatten(1), state["dense.0.weight"], state["dense.0.bias"])
    h = torch.where(h > 0, h, 0.1 * h)
    assert len(convolutions) == 2 and torch.allclose(model.features(x), h, atol=1e-5)
    assert torch.allclose(model(x), h @ state["head.weight"].T + state["head.bias"], atol=1e-5)


def test_brightness_and_contrast_of_the_whole_image_do_not_matter_when_standardized():
    model = models.build("small_cnn", SIGNS, num_outputs=3, widths=(4,)).eval()
    x = torch.rand(4, 3, 32, 32, generator=generator())
    assert torch.allclose(model(x), model(0.5 * x + 0.2), atol=1e-3)
    plain = models.build("small_cnn", SIGNS, num_outputs=3, widths=(4,), standardize=False).eval()
    assert not torch.allclose(plain(x), plain(0.5 * x + 0.2), atol=1e-3)


def test_default_cnn_has_the_size_counted_by_hand():
    convolutions = 9 * (3 * 32 + 32 * 64 + 64 * 128) + 2 * (32 + 64 + 128)
    dense = 128 * 4 * 4 * 128 + 128
    model = models.build("small_cnn", SIGNS, num_outputs=43)
    assert sum(p.numel() for p in model.parameters()) == convolutions + dense + 43 * 129


@pytest.mark.parametrize("norm", ["group", "none"])
def test_networks_without_batch_norm_have_no_running_statistics(norm):
    model = models.build("small_cnn", SIGNS, num_outputs=2, widths=(8, 16), norm=norm)
    x = torch.rand(4, 3, 32, 32, generator=generator())
    assert not list(model.buffers())
    assert torch.equal(model.train()(x), model.eval()(x))


def test_mlp_is_what_its_docstring_says():
    model = models.build("mlp", SIGNS, num_outputs=4, hidden=(9, 5))
    state = model.state_dict()
    x = torch.rand(3, 3, 32, 32, generator=generator())
    h = torch.relu(x.flatten(1) @ state["body.1.weight"].T + state["body.1.bias"])
    h = torch.relu(h @ state["body.3.weight"].T + state["body.3.bias"])
    assert torch.allclose(model.features(x), h, atol=1e-5)
    assert torch.allclose(model(x), h @ state["head.weight"].T + state["head.bias"], atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "small_cnn"])
def test_same_seed_same_bytes(name):
    first, again, other = (weights(models.build(name, SIGNS, seed=s, num_outputs=3)) for s in (4, 4, 5))
    assert same(first, again)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    inner = [name for name, value in first.items() if name.startswith("body") and value.dim() > 1]
    assert inner and not any(torch.equal(first[name], other[name]) for name in inner)


def test_building_leaves_every_global_generator_alone(monkeypatch):
    def forbidden(seed):
        raise AssertionError("torch.manual_seed reseeds the GPUs as well, and nothing puts their state back")

    monkeypatch.setattr(torch, "manual_seed", forbidden)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    models.build("small_cnn", SIGNS, seed=7, num_outputs=3)
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    assert torch.equal(before[0], after[0]) and np.array_equal(before[1], after[1]) and before[2] == after[2]


def test_wrong_names_are_met_with_the_choices():
    with pytest.raises(ValueError, match="mlp, resnet18, small_cnn, vit"):
        models.build("resnet", SIGNS)
    with pytest.raises(ValueError, match="batch, group, none"):
        models.build("small_cnn", SIGNS, norm="layer")
    with pytest.raises(ValueError, match="at least one width"):
        models.build("mlp", SIGNS, hidden=())
