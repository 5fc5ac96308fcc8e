"""Adapters: what they promise, on every network of the course."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from core_helpers import same, weights
from torch import nn
from torch.nn import functional as F

from course_utils import lora, models

DATA = SimpleNamespace(image_shape=(1, 12, 12))
NETWORKS = {
    "vit": {"patch_size": 4, "width": 16, "depth": 2, "num_heads": 2},
    "resnet18": {"stem": "strided"},
    "small_cnn": {"widths": (6, 8), "num_features": 12},
    "mlp": {"hidden": (16, 12)},
}
PATTERNS = {
    "vit": ["patches", "blocks.*.attention.query", "blocks.1.mlp.*"],
    "resnet18": ["conv1", "layer1.0.*", "layer2.0.downsample.0", "layer4.1.conv2"],
    "small_cnn": None,
    "mlp": ["body.1", "body.3"],
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def network(name: str, seed: int = 0) -> models.HeadedModel:
    return models.build(name, DATA, seed=seed, num_outputs=3, **NETWORKS[name])


def images(count: int = 5) -> torch.Tensor:
    return torch.rand(count, 1, 12, 12, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def scramble(model: nn.Module, adapter: str = "default", seed: int = 1) -> None:
    """Factors as training would leave them: B is not zero any more."""
    generator = torch.Generator().manual_seed(seed)
    for layer in lora.adapted(model).values():
        if adapter in layer.scale:
            for factor in (layer.lora_A[adapter], layer.lora_B[adapter]):
                factor.copy_(0.1 * torch.randn(factor.shape, generator=generator))


def adapted_network(name: str, rank: int = 2, **options) -> models.HeadedModel:
    model = network(name).eval()
    lora.inject(model, PATTERNS[name], rank, **options)
    scramble(model, options.get("name", "default"))
    return model


# ---------------------------------------------------------------- one layer, by hand


@pytest.mark.parametrize("stabilized", [False, True])
def test_a_dense_layer_computes_the_papers_equation(stabilized):
    model = nn.Sequential(nn.Linear(5, 4)).double()
    lora.inject(model, "0", rank=3, alpha=6, rank_stabilized=stabilized)
    scramble(model)
    layer, x = model[0], torch.rand(7, 5).double()
    scale = 6 / math.sqrt(3) if stabilized else 6 / 3
    weight = layer.base.weight.clone()
    for i in range(4):
        for j in range(5):
            weight[i, j] = weight[i, j] + scale * sum(
                layer.lora_B["default"][i, k] * layer.lora_A["default"][k, j] for k in range(3)
            )
    assert torch.allclose(model(x), x @ weight.T + layer.base.bias, atol=1e-12)
    assert torch.allclose(layer.base.weight + layer.update("default"), weight, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"dilation": 2, "padding": 2},
        {"stride": (1, 2), "padding": (0, 1)},
        {"bias": False},
    ],
)
def test_a_convolution_computes_with_the_low_rank_filter(options):
    model = nn.Sequential(nn.Conv2d(3, 6, (3, 2), **options)).double()
    lora.inject(model, "0", rank=2, alpha=5)
    scramble(model)
    layer, x = model[0], torch.rand(2, 3, 8, 9).double()
    b, a = layer.lora_B["default"][:, :, 0, 0], layer.lora_A["default"]
    weight = layer.base.weight + 2.5 * torch.einsum("or,rcij->ocij", b, a)
    geometry = {key: value for key, value in options.items() if key != "bias"}
    assert torch.allclose(model(x), F.conv2d(x, weight, layer.base.bias, **geometry), atol=1e-12)


def test_dense_layers_take_any_leading_dimensions():
    model = nn.Sequential(nn.Linear(5, 4))
    lora.inject(model, rank=2)
    scramble(model)
    x = torch.rand(2, 3, 6, 5)
    assert torch.allclose(model(x).reshape(-1, 4), model(x.reshape(-1, 5)), atol=1e-6)


def test_factors_start_as_documented():
    model = nn.Sequential(nn.Linear(400, 300), nn.Conv2d(16, 64, 5))
    lora.inject(model, rank=50, seed=3)
    for layer in model:
        a, bound = layer.lora_A["default"], 1 / 20  # 1 / sqrt(400), for both layers
        reference = nn.init.kaiming_uniform_(torch.empty(a.shape), a=math.sqrt(5))
        assert a.abs().max() <= bound and a.abs().max() > 0.99 * bound
        assert a.std().item() == pytest.approx(reference.std().item(), rel=0.03)
        assert not layer.lora_B["default"].any()
    assert not torch.equal(model[0].lora_A["default"][0], model[0].lora_A["default"][1])


# ---------------------------------------------------------------- guarantees, for every network


@every_network
def test_injection_changes_no_bit_of_the_outputs_and_of_the_base(name):
    model, x = network(name).eval(), images()
    before, out, state = torch.get_rng_state(), model(x), weights(model)
    names = lora.inject(model, PATTERNS[name], rank=2, seed=5)
    assert torch.equal(model(x), out) and torch.equal(torch.get_rng_state(), before)
    assert set(names) == set(lora.adapted(model)) and names
    after = {key.replace(".base.", "."): value for key, value in weights(model).items() if "lora_" not in key}
    assert same(after, state)
    again, other = network(name), network(name)
    lora.inject(again, PATTERNS[name], rank=2, seed=5)
    lora.inject(other, PATTERNS[name], rank=2, seed=6)
    assert same(weights(again), weights(model)) and not same(weights(other), weights(model))


@every_network
def test_only_adapters_and_head_get_gradients(name):
    model = network(name)
    lora.inject(model, PATTERNS[name], rank=2)
    scramble(model)
    model(images()).square().sum().backward()
    with_gradient = {key for key, p in model.named_parameters() if p.grad is not None}
    expected = {f"{layer}.lora_{f}.default" for layer in lora.adapted(model) for f in "AB"}
    assert with_gradient == expected | {"head.weight", "head.bias"}
    count = lora.count_parameters(model)
    costs = sum(2 * lora.adapter_cost(layer.base) for layer in lora.adapted(model).values())
    head = sum(p.numel() for p in model.head.parameters())
    assert count.trainable == costs + head
    assert count.total == costs + sum(p.numel() for p in network(name).parameters())
    assert count.share == count.trainable / count.total


@every_network
@pytest.mark.parametrize("stabilized", [False, True])
def test_merged_equals_unmerged_and_unmerging_restores_every_bit(name, stabilized):
    model, x = adapted_network(name, rank_stabilized=stabilized).double(), images().double()
    state, out = weights(model), model(x)
    plain = network(name).eval().double()(x)
    assert (out - plain).abs().max() > 1e-4  # the adapters do something
    lora.merge(model)
    merged = model(x)
    assert (merged - out).abs().max() <= 1e-6 * out.abs().max()
    assert not torch.equal(merged, out) or name == "mlp"  # it did go another way
    lora.merge(model)
    assert torch.equal(model(x), merged)  # not twice
    lora.unmerge(model)
    assert same(weights(model), state) and torch.equal(model(x), out)
    lora.unmerge(model)
    assert same(weights(model), state) and torch.equal(model(x), out)


@every_network
def test_a_merged_network_runs_no_adapter(name):
    model, x = adapted_network(name), images()
    lora.merge(model)
    before = model(x)
    scramble(model, seed=2)  # merged means: the factors are not read any more
    assert torch.equal(model(x), before)


@every_network
def test_the_update_has_at_most_the_rank(name):
    model = adapted_network(name, rank=2)
    for layer in lora.adapted(model).values():
        singular = torch.linalg.svdvals(layer.update("default").detach().double().flatten(1))
        assert singular[1] > 1e-6 * singular[0] and (singular[2:] < 1e-5 * singular[0]).all()


@every_network
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_broken_adapter_is_refused_and_nothing_is_touched(name, broken):
    model = adapted_network(name)
    last = list(lora.adapted(model))[-1]
    with torch.no_grad():
        lora.adapted(model)[last].lora_B["default"].flatten()[0] = broken
    state = weights(model)
    for call in (lora.merge, lora.absorb, lora.fold):
        with pytest.raises(FloatingPointError, match=f"adapter 'default' holds NaN or inf in {last}"):
            call(model)
        assert str(weights(model)) == str(state) and last in lora.adapted(model)
        assert all(layer.merged_weight is None for layer in lora.adapted(model).values())


@every_network
def test_injecting_again_changes_nothing_and_another_rank_is_refused(name):
    model = adapted_network(name)
    state = weights(model)
    lora.inject(model, PATTERNS[name], 2, seed=7)
    assert same(weights(model), state)
    first = next(iter(lora.adapted(model)))
    with pytest.raises(ValueError, match=rf"{first} has an adapter 'default' of rank 2 and scale 4, not rank 1"):
        lora.inject(model, PATTERNS[name], 1)
    with pytest.raises(ValueError, match="not rank 2 and scale 8"):
        lora.inject(model, PATTERNS[name], 2, alpha=16)
    assert same(weights(model), state)


@every_network
def test_copies_and_whole_state_dicts_work(name):
    model, x = adapted_network(name), images()
    out = model(x)
    duplicate = copy.deepcopy(model)
    assert torch.equal(duplicate(x), out)
    scramble(duplicate, seed=9)
    assert torch.equal(model(x), out) and not torch.equal(duplicate(x), out)
    fresh = network(name, seed=8).eval()
    lora.inject(fresh, PATTERNS[name], 2, seed=8)
    lora.merge(fresh)
    fresh.load_state_dict(model.state_dict())  # what was merged belonged to other weights
    assert torch.equal(fresh(x), out)
    wider = network(name)
    lora.inject(wider, PATTERNS[name], 3)
    with pytest.raises(RuntimeError, match="size mismatch"):
        wider.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        network(name).load_state_dict(model.state_dict())
    lora.keep_apart(model)
    network(name).load_state_dict(model.state_dict())
    assert same(weights(model), weights(network(name)))


@every_network
def test_folding_leaves_a_plain_network_that_answers_alike(name):
    model, x = adapted_network(name).double(), images().double()
    out = model(x)
    lora.merge(model)
    merged = model(x)
    lora.fold(model)
    assert not lora.adapted(model) and weights(model).keys() == weights(network(name)).keys()
    assert torch.equal(model(x), merged) and torch.allclose(model(x), out, rtol=1e-9, atol=1e-9)
    assert {k for k, p in model.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
    taken = adapted_network(name)
    lora.remove(taken)
    assert same(weights(taken), weights(network(name)))


@every_network
def test_absorbing_starts_the_next_adapter_on_top(name):
    model, x = adapted_network(name), images()
    lora.merge(model)
    merged = model(x)
    lora.absorb(model)
    assert torch.equal(model(x), merged)
    state = weights(model)
    lora.absorb(model)
    assert same(weights(model), state)
    assert all(not layer.lora_B["default"].any() for layer in lora.adapted(model).values())


# ---------------------------------------------------------------- several side by side


@every_network
def test_adapters_side_by_side_do_not_touch_each_other(name):
    model, x = network(name).eval(), images()
    base = model(x)
    lora.inject(model, PATTERNS[name], 2, name="first")
    scramble(model, "first", seed=1)
    first = model(x)
    lora.inject(model, None, 1, name="second")  # in more layers, with another rank
    assert torch.equal(model(x), base)  # new, so it is the base
    scramble(model, "second", seed=2)
    second = model(x)
    assert lora.adapters(model) == ["first", "second"] and lora.in_use(model) == "second"
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    before = lora.adapter_state_dict(model, "first")
    model(x).square().sum().backward()
    optimizer.step()
    assert same(lora.adapter_state_dict(model, "first"), before)
    assert not torch.equal(model(x), second)
    model.head.load_state_dict(network(name).head.state_dict())
    lora.merge(model)
    for wanted, out in (("first", first), (None, base), ("first", first)):
        lora.use(model, wanted)
        assert lora.in_use(model) == wanted and torch.equal(model(x), out)
        trained = {key.rpartition(".")[2] for key, p in model.named_parameters() if p.requires_grad and "lora_" in key}
        assert trained == ({wanted} if wanted else set())
    with pytest.raises(ValueError, match="no adapter 'third'; it has first, second"):
        lora.use(model, "third")
    assert torch.equal(model(x), first)


@every_network
def test_an_adapter_travels_alone(name, tmp_path):
    model, x = adapted_network(name), images()
    out = model(x)
    torch.save(lora.adapter_state_dict(model), tmp_path / "adapter.pt")
    state = torch.load(tmp_path / "adapter.pt", weights_only=True)
    assert sum(v.numel() for v in state.values() if v.dim()) == sum(
        2 * lora.adapter_cost(layer.base) for layer in lora.adapted(model).values()
    )
    fresh = network(name).eval()
    lora.inject(fresh, PATTERNS[name], 2, name="guest", seed=5)
    lora.merge(fresh)
    lora.load_adapter_state_dict(fresh, state)
    assert torch.equal(fresh(x), out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 3}, r"saved with shape \(2, 144\), 'default' has \(3, 144\); inject with the same rank"),
        ({"alpha": 2.0}, "saved with 4, 'default' has 1; inject with the same alpha"),
        ({"patterns": "body.1"}, r"body.3.lora_A, body.3.lora_B, body.3.scale \(3 in all\).*same patterns"),
    ],
)
def test_a_saved_adapter_of_another_shape_is_refused(change, message):
    state = lora.adapter_state_dict(adapted_network("mlp"))
    model = network("mlp")
    lora.inject(model, **{"rank": 2, **change})
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        lora.load_adapter_state_dict(model, state)
    assert same(weights(model), before)
    with pytest.raises(ValueError, match="no adapter 'other'; it has default"):
        lora.load_adapter_state_dict(model, state, "other")
    with pytest.raises(ValueError, match="inject one first"):
        lora.adapter_state_dict(network("mlp"))


# ---------------------------------------------------------------- where adapters go


def test_patterns_choose_layers_and_a_useless_one_lists_them():
    model = network("vit")
    assert lora.matching(model, "blocks.*.attention.query") == [f"blocks.{i}.attention.query" for i in range(2)]
    assert lora.matching(model, ["blocks.1.mlp.down", "patches"]) == ["patches", "blocks.1.mlp.down"]
    assert lora.matching(model) == list(lora.candidates(model)) and len(lora.matching(model)) == 13
    state = weights(model)
    with pytest.raises(
        ValueError, match="no layer is called 'blocks.*.atention.*'; .*patches, blocks.0.attention.query"
    ):
        lora.inject(model, ["patches", "blocks.*.atention.*"])
    with pytest.raises(ValueError, match="names no layer"):
        lora.inject(model, [])
    assert same(weights(model), state) and all(p.requires_grad for p in model.parameters())
    lora.inject(model, rank=2)
    assert lora.matching(model) == lora.matching(network("vit"))  # adapted layers keep their names


def test_the_head_and_grouped_convolutions_are_no_candidates():
    assert list(lora.candidates(network("mlp"))) == ["body.1", "body.3"]
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, padding_mode="reflect"), nn.Conv2d(4, 4, 3))
    assert list(lora.candidates(model)) == ["2"]
    with pytest.raises(ValueError, match="groups=2"):
        lora.LoRALayer(model[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 17}, "rank=17 is impossible for body.1, whose full rank is 16; use 1 to 16"),
        ({"rank": 0}, "rank=0 is impossible"),
        ({"rank": {"body.1": 2, "body.2": 3}}, r"rank names \['body.2'\]; .*body.1, body.3"),
        ({"rank": {}}, "rank names nothing"),
        ({"name": "task.2"}, "without dots"),
        ({"alpha": 0.0}, "alpha=0.0"),
    ],
)
def test_impossible_adapters_are_refused_before_anything_changes(options, message):
    model = network("mlp")
    with pytest.raises(ValueError, match=message):
        lora.inject(model, **options)
    assert not lora.adapted(model) and all(p.requires_grad for p in model.parameters())


def test_ranks_by_name():
    model = network("mlp")
    assert lora.inject(model, rank={"body.3": 5, "body.1": 2}) == ["body.1", "body.3"]
    assert {name: layer.rank("default") for name, layer in lora.adapted(model).items()} == {"body.1": 2, "body.3": 5}
    assert lora.adapted(model)["body.3"].scale["default"] == 8 / 5
    assert lora.inject(network("mlp"), "body.1", rank={"body.3": 5, "body.1": 2}) == ["body.1"]


def test_the_head_still_grows_and_learns():
    model = adapted_network("mlp")
    model.grow(6, torch.Generator().manual_seed(0))
    assert model.head.weight.requires_grad and model(images()).shape == (5, 6)


def test_adapters_follow_dtype_and_device():
    model = nn.Sequential(nn.Linear(4, 4, dtype=torch.bfloat16))
    lora.inject(model, rank=1)
    assert model[0].lora_A["default"].dtype == torch.bfloat16
    lora.merge(model)
    model.to("meta")  # a device that every machine has
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"meta"}
