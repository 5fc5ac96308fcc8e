"""Pruning: the right channels, real smaller layers, files without code, and fine-tuning that heals."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from core_helpers import digits
from test_compression_export import vit
from test_compression_integers import images, trained_cnn
from torch import nn
from torchvision.models import mobilenet_v3_small

from course_utils import compression, lora, models
from course_utils.compression.blocks import block_influence, block_names, drop_blocks
from course_utils.compression.channel_pruner import ChannelPruner
from course_utils.compression.heads import attentions, head_norms, keep_heads


def test_the_cubic_schedule():
    assert [round(compression.cubic_sparsity(step, 4, 0.8), 4) for step in range(6)] == [
        0,
        0.4625,
        0.7,
        0.7875,
        0.8,
        0.8,
    ]
    assert compression.cubic_sparsity(0, 4, 0.8, start=0.2) == pytest.approx(0.2)
    for arguments in ((1, 0, 0.5), (-1, 2, 0.5), (1, 2, 1.0), (1, 2, 0.2, 0.4)):
        with pytest.raises(ValueError):
            compression.cubic_sparsity(*arguments)


def test_norms_by_hand():
    weight = torch.tensor([[3.0, -4.0], [0.0, 1.0]])
    assert compression.channel_norms(weight, "l1").tolist() == [7, 1]
    assert compression.channel_norms(weight, "l2").tolist() == [5, 1]
    with pytest.raises(ValueError, match="norm='max' is unknown"):
        compression.channel_norms(weight, "max")


class Bypass(nn.Module):
    """`first` gives four channels that go around `inner`, and `last` reads the sum."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.inner, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        return self.last(torch.relu(x + self.inner(x)))


def test_what_shares_a_channel():
    network = Bypass()
    before = copy.deepcopy(network.state_dict())
    found = compression.shared_channels(network, "first", 2, (1, 8, 8))
    assert {(part.layer, part.side, part.places) for part in found} == {
        ("first", "outputs", (2,)), ("norm", "channels", (2,)), ("inner", "inputs", (2,)), ("inner", "outputs", (2,)),
        ("last", "inputs", (2,)),
    }  # fmt: skip
    assert found[0].layer == "first" and network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    chained = trained_cnn()
    last = [name for name, layer in chained.named_modules() if isinstance(layer, nn.Conv2d)][-1]
    parts = compression.shared_channels(chained, last, 1, (1, 8, 8))
    dense = next(part for part in parts if part.layer == "dense.0")
    pixels = chained.dense[0].in_features // chained.get_submodule(last).out_channels
    assert dense.side == "inputs" and dense.places == tuple(range(pixels, 2 * pixels))
    assert compression.shared_channels(chained, "dense.0", 0, (1, 8, 8))[-1].layer == "head"


def test_a_depthwise_convolution_loses_a_channel_and_one_in_groups_cannot():
    depthwise = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 2, 1))
    found = compression.shared_channels(depthwise, "0", 3, (1, 8, 8))
    assert [(part.layer, part.side, part.places) for part in found] == [
        ("0", "outputs", (3,)), ("1", "channels", (3,)), ("2", "inputs", (3,))
    ]  # fmt: skip
    grouped = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 2, 1))
    with pytest.raises(ValueError, match="1 works in 2 groups and loses a channel of each"):
        compression.shared_channels(grouped, "0", 3, (1, 8, 8))


def test_channels_of_what_cannot_be_followed():
    with pytest.raises(ValueError, match=r"does not take images of shape \(3, 8, 8\)"):
        compression.shared_channels(Bypass(), "first", 0, (3, 8, 8))
    with pytest.raises(ValueError, match="ask the one in floats"):
        compression.shared_channels(compression.prepare(trained_cnn(), (1, 8, 8)), "body.5", 0, (1, 8, 8))


def test_own_weights_rank_as_channel_norms_do():
    """The group's mean does not: what the next layer reads counts there, too."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        network[2].weight[:, network[0].weight.abs().sum(dim=(1, 2, 3)).argmin()] += 5  # a small channel that is read
    for norm, own in (("l1", True), ("l2", True), ("l1", False)):
        made = copy.deepcopy(network)
        ChannelPruner(made, 0.5, (1, 8, 8), norm=norm, own=own, ignored=("2",)).step()
        kept = compression.channel_norms(network[0].weight, norm).topk(3).indices.sort().values
        assert torch.equal(made[0].weight, network[0].weight[kept]) is own
    with pytest.raises(ValueError, match="norm='max' is unknown"):
        compression.importance_of("max")


@pytest.mark.parametrize(("layer", "channel", "text"), [("norm", 0, "no convolution"), ("first", 4, "has 4, counted")])
def test_channels_that_are_not_there(layer, channel, text):
    with pytest.raises(ValueError, match=text):
        compression.shared_channels(Bypass(), layer, channel, (1, 8, 8))


def test_chance_is_a_control_that_the_seed_decides():
    network = trained_cnn()
    widths, kept = [], []
    for norm, seed in (("l2", 0), ("random", 0), ("random", 0), ("random", 1)):
        made = copy.deepcopy(network)
        ChannelPruner(made, 0.5, (1, 8, 8), norm=norm, seed=seed).step()
        widths.append([len(layer.weight) for layer in made.modules() if isinstance(layer, nn.Conv2d)])
        kept.append(torch.cat([layer.weight.flatten() for layer in made.modules() if isinstance(layer, nn.Conv2d)][:1]))
    assert widths[0] == widths[1] == widths[2] == widths[3]
    assert torch.equal(kept[1], kept[2]) and not torch.equal(kept[1], kept[3]) and not torch.equal(kept[0], kept[1])
    with pytest.raises(ValueError, match="or 'random'"):
        ChannelPruner(copy.deepcopy(network), 0.5, (1, 8, 8), norm="chance")


def test_four_channels_as_by_hand():
    """Channels that say nothing go, with their BatchNorm and the next layer's inputs, and nobody notices."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(48, 2)
    )
    with torch.no_grad():
        for values in (network[0].weight, network[0].bias, network[1].weight, network[1].bias, network[1].running_mean):
            values[[1, 2]] = 0
        network[3].weight[:, [1, 2]] *= 0.01
    network.eval()
    expected = network(images())
    pruned = compression.prune_model(
        network, 0.5, gradual=False, share_of="channels", image_shape=(1, 8, 8), ignored=["3"]
    )
    made = pruned["pruned_model"]
    assert torch.equal(made[0].weight, network[0].weight[[0, 3]])
    assert torch.equal(made[3].weight, network[3].weight[:, [0, 3]]) and made[1].num_features == 2
    torch.testing.assert_close(made(images()), expected, rtol=1e-4, atol=1e-5)
    assert compression.parameters(network) > compression.parameters(made)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_the_smallest_norms_of_the_whole_group_go(norm):
    """A group is a convolution's channel and what reads it. One channel is made of few large weights, one of many small ones."""
    p = {"l1": 1, "l2": 2}[norm]
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 3, 3), nn.Flatten(), nn.Linear(48, 2)).eval()
    kept = {}
    with torch.no_grad():
        for channel in range(4):  # a single large weight: much in the square, little in the sum
            network[0].weight[channel] = 0
            network[0].weight[channel, 0, 1, 1] = 1.0 + 0.1 * channel
            network[1].weight[:, channel] = 0
        for channel in range(4, 8):
            network[0].weight[channel] = 0.2 + 0.01 * channel
            network[1].weight[:, channel] = 0.01
        weights = torch.cat([network[0].weight.flatten(1), network[1].weight.transpose(0, 1).flatten(1)], dim=1)
        for order in (1, 2):
            kept[order] = weights.abs().pow(order).sum(dim=1).topk(4).indices.sort().values
    assert kept[1].tolist() != kept[2].tolist()  # else the test could not tell one norm from the other
    options = {"gradual": False, "share_of": "channels", "image_shape": (1, 8, 8), "ignored": ["1"]}
    made = compression.prune_model(network, 0.5, norm=norm, **options)["pruned_model"]
    assert torch.equal(made[0].weight, network[0].weight[kept[p]])
    widths = compression.prune_model(trained_cnn(), 0.5, gradual=False, share_of="channels", norm=norm)["metrics"][
        "widths"
    ]
    assert widths == {"body.1": 3, "body.5": 4, "dense.0": 6}


def test_prune_model_keeps_its_promises():
    network, calls = trained_cnn(), []
    result = compression.prune_model(
        model=network, target_sparsity=0.5, method="channel", gradual=True, train_fn=lambda model: calls.append(compression.parameters(model))
    )  # fmt: skip
    metrics, made = result["metrics"], result["pruned_model"]
    assert len(calls) == 4 and calls == sorted(calls, reverse=True) and calls[0] > calls[-1]
    assert 1_040 - calls[0] > calls[0] - calls[3]  # cubic: much at first
    assert metrics["sparsity"] == pytest.approx(0.5, abs=0.12)
    assert metrics["parameters_before"] == compression.parameters(network) == 1_040
    assert metrics["parameters_after"] == compression.parameters(made) == calls[-1]
    assert metrics["macs_after"] == compression.count_macs(made, (1, 8, 8)) < metrics["macs_before"]
    assert not made.training and made(images()).shape == (24, 10)
    made.grow(12, torch.Generator())  # a pruned network goes on growing
    assert made(images()).shape == (24, 12)


def test_half_of_the_channels_is_a_quarter_of_a_convolution():
    network = models.build("small_cnn", digits(), num_outputs=10)
    metrics = compression.prune_model(network, 0.5, share_of="channels", image_shape=(1, 8, 8))["metrics"]
    assert metrics["widths"] == {"body.1": 16, "body.5": 32, "body.9": 64, "dense.0": 64}
    assert metrics["sparsity"] == pytest.approx(0.75, abs=0.01)
    rounded = compression.prune_model(network, 0.4, share_of="channels", image_shape=(1, 8, 8), round_to=8)["metrics"]
    assert all(width % 8 == 0 for width in rounded["widths"].values())


def test_magnitudes_alone_save_nothing():
    network = trained_cnn()
    result = compression.prune_model(
        network, 0.6, method="magnitude", train_fn=lambda model: model.head.weight.data.add_(1)
    )
    metrics = result["metrics"]
    assert metrics["sparsity"] == pytest.approx(0.6, abs=0.06) and metrics["compression_ratio"] == 1.0
    assert metrics["macs_after"] == metrics["macs_before"]
    limit = network.body[5].weight.abs().max()
    assert (result["pruned_model"].body[5].weight == 0).any() and limit > 0
    assert (result["pruned_model"].head.weight == 0).any()  # what was cut stays cut through fine-tuning


def test_wrong_options_are_named():
    network = trained_cnn()
    with pytest.raises(ValueError, match="choose a method of channel, magnitude"):
        compression.prune_model(network, method="filter")
    with pytest.raises(ValueError, match="a share in \\[0, 1\\)"):
        compression.prune_model(network, 1.0)
    with pytest.raises(ValueError, match="leaves layers without channels"):
        compression.prune_model(network, 0.9999, image_shape=(1, 8, 8))
    with pytest.raises(ValueError, match="which blocks can go is seen"):
        compression.prune_model(vit(), 0.1, blocks=1)
    with pytest.raises(ValueError, match="takes none of the usual sizes"):
        compression.find_image_shape(nn.Sequential(nn.Flatten(), nn.Linear(17, 2)))


def test_residual_networks_and_mobilenets_get_narrower(tmp_path):
    resnet = models.build("resnet18", digits(), num_outputs=10)
    made = compression.prune_model(resnet, 0.5, share_of="channels", gradual=False, image_shape=(1, 8, 8))[
        "pruned_model"
    ]
    assert made.conv1.out_channels == 32 and made.head.num_features == 256
    compression.Deployed(compression.export_onnx(made, tmp_path / "r.onnx", (1, 8, 8)))(images(2))
    mobile = mobilenet_v3_small(num_classes=5)
    metrics = compression.prune_model(mobile, 0.5, share_of="channels", gradual=False, image_shape=(3, 32, 32))[
        "metrics"
    ]
    assert metrics["compression_ratio"] > 3


# ---- transformers --------------------------------------------------------------------------------------------------


def test_a_head_that_says_nothing_goes_unnoticed():
    network, x = vit(width=24, num_heads=3), images(4, (1, 28, 28))
    for block in attentions(network).values():
        with torch.no_grad():
            block.out.weight[:, 8:16] = 0
            for layer in (block.query, block.key, block.value):
                layer.weight[8:16] = 0
        assert head_norms(block)[1] == 0 and len(head_norms(block)) == 3
    expected = network(x)
    for block in attentions(network).values():
        keep_heads(block, [0, 2])
        assert block.num_heads == 2 and block.query.out_features == 16 and block.out.in_features == 16
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="name at least one of the heads 0 to 1"):
        keep_heads(attentions(network)["blocks.0.attention"], [])


def test_a_transformer_loses_heads_and_neurons_and_keeps_its_width():
    network = vit(width=32, num_heads=4)
    made = compression.prune_model(network, 0.5, share_of="channels", steps=2)["pruned_model"]
    assert made.blocks[0].mlp.up.out_features == 64 and made.blocks[0].attention.num_heads == 2
    assert made.positions.shape == network.positions.shape and made.head.num_features == 32
    assert made(images(2, (1, 28, 28))).shape == (2, 10)


def test_the_least_important_heads_go():
    network = vit(width=32, num_heads=4)
    with torch.no_grad():
        for block in attentions(network).values():
            for head, size in enumerate((0.1, 5.0, 0.2, 4.0)):
                rows = slice(8 * head, 8 * head + 8)
                for layer in (block.query, block.key, block.value):
                    layer.weight[rows] *= size
                block.out.weight[:, rows] *= size
    made = compression.prune_model(network, 0.5, share_of="channels", gradual=False)["pruned_model"]
    rows = torch.cat([torch.arange(8, 16), torch.arange(24, 32)])
    for name, block in attentions(made).items():
        assert torch.equal(block.value.weight, attentions(network)[name].value.weight[rows])


def test_blocks_that_turn_nothing_go():
    network, x = vit(depth=3), images(4, (1, 28, 28))
    with torch.no_grad():
        for layer in (network.blocks[1].attention.out, network.blocks[1].mlp.down):
            layer.weight.zero_()
            layer.bias.zero_()
    expected = network(x)
    assert min(block_influence(network, x), key=block_influence(network, x).get) == "blocks.1"
    assert drop_blocks(network, 1, x) == ["blocks.1"] and block_names(network) == ["blocks.0", "blocks.2"]
    torch.testing.assert_close(network(x), expected)
    with pytest.raises(ValueError, match="count=2 of 2 blocks"):
        drop_blocks(network, 2, x)


# ---- files ---------------------------------------------------------------------------------------------------------


def mobilenet():
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(0)
    return mobilenet_v3_small(num_classes=5)


def resnet():
    return models.build("resnet18", SimpleNamespace(image_shape=(3, 16, 16)), num_outputs=4)


SAVED = {
    "small_cnn": (trained_cnn, (1, 8, 8)),
    "vit": (lambda: vit(width=32, num_heads=4, depth=3), (1, 28, 28)),
    "resnet18": (resnet, (3, 16, 16)),
    "mobilenet_v3_small": (mobilenet, (3, 32, 32)),  # depthwise convolutions: as many groups as channels
}


@pytest.mark.parametrize("name", list(SAVED))
def test_a_pruned_network_is_saved_as_widths_and_weights(name, tmp_path):
    build, shape = SAVED[name]
    options = {"blocks": 1, "images": images(4, shape)} if name == "vit" else {}
    made = compression.prune_model(build(), 0.5, share_of="channels", image_shape=shape, **options)["pruned_model"]
    path = compression.save_pruned(made, tmp_path / "small.pt")
    torch.load(path, weights_only=True)  # tensors, numbers and names: no code
    again = compression.load_pruned(build(), path).eval()
    assert torch.equal(again(images(3, shape)), made(images(3, shape)))
    assert compression.shapes_of(again) == compression.shapes_of(made)
    run = compression.Deployed(compression.export_onnx(again, tmp_path / "small.onnx", shape))
    torch.testing.assert_close(
        torch.tensor(run(images(3, shape))), made(images(3, shape)).detach(), rtol=1e-3, atol=1e-4
    )
    with pytest.raises(ValueError, match="this specification does not fit"):
        compression.load_pruned(models.build("mlp", digits(), num_outputs=10), path)
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a saved pruned network"):
        compression.load_pruned(build(), tmp_path / "broken.pt")


def _mobilenet():
    torch.manual_seed(0)
    return mobilenet_v3_small(num_classes=5).eval()


def _grouped():
    torch.manual_seed(0)
    grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
    return nn.Sequential(nn.Conv2d(3, 16, 3), grouped, nn.ReLU(), nn.Conv2d(16, 4, 3), nn.Flatten(), nn.LazyLinear(3))


def _built(name):
    if name == "resnet18":
        return models.build("resnet18", SimpleNamespace(image_shape=(3, 32, 32)), num_outputs=5).eval()
    network = _mobilenet() if name == "mobilenet_v3_small" else _grouped()
    network(torch.zeros(1, 3, 32, 32))
    return network


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "groups of four"])
def test_networks_with_groups_are_reloaded_and_run_as_files(name, tmp_path):
    shape, x = (3, 32, 32), images(3, (3, 32, 32))
    network = _built(name)
    made = compression.prune_model(network, 0.5, share_of="channels", gradual=False, image_shape=shape)["pruned_model"]
    assert compression.parameters(made) < 0.5 * compression.parameters(network)
    again = compression.load_pruned(network, compression.save_pruned(made, tmp_path / "small.pt")).eval()
    assert torch.equal(again(x), made(x))
    for layer, other in zip(again.modules(), made.modules(), strict=True):
        if isinstance(layer, nn.Conv2d):
            numbers = (layer.groups, layer.in_channels, layer.out_channels)
            assert numbers == (other.groups, other.in_channels, other.out_channels)
    run = compression.Deployed(compression.export_onnx(made, tmp_path / "small.onnx", shape))
    np.testing.assert_allclose(run(x), made(x).detach().numpy(), rtol=1e-3, atol=1e-4)


def test_a_network_with_adapters_is_pruned_without_them():
    network, x = vit(), images(4, (1, 28, 28))
    lora.inject(network, rank=2)
    with torch.no_grad():
        for layer in lora.model.adapted(network).values():
            layer.lora_B["default"].normal_(0, 0.1)
    before = network.eval()(x)
    made = compression.prune_model(network, 0.0)["pruned_model"]
    torch.testing.assert_close(made(x), before, rtol=1e-4, atol=1e-5)  # what the adapter had learned is in it
    assert not lora.model.adapted(made) and all(p.requires_grad for p in made.parameters())
    narrow = compression.prune_model(network, 0.5, share_of="channels", gradual=False)["pruned_model"]
    assert narrow.blocks[0].mlp.up.out_features == 48
    assert lora.model.adapters(network) == ["default"] and torch.equal(network(x), before)  # the caller's stays


def test_a_state_dict_can_be_filled_up_and_cut_again():
    network = trained_cnn()
    full = compression.shapes_of(network)
    made = copy.deepcopy(network)
    ChannelPruner(made, 0.5, (1, 8, 8)).step()
    narrow = compression.shapes_of(made)
    compression.keep_full_shape(made, full)
    state = made.state_dict()
    again = copy.deepcopy(network)
    again.load_state_dict(state)  # fits the unpruned network, and computes the same
    torch.testing.assert_close(again.eval()(images()), made.eval()(images()))
    compression.resize(again, narrow)
    assert torch.equal(again.eval()(images()), made(images()))


# ---- healing -------------------------------------------------------------------------------------------------------


def test_fine_tuning_with_a_teacher_heals():
    data = digits()
    loader = compression.Batches(data.train.x, data.train.y, 64)
    test = compression.Batches(data.test.x, data.test.y, 256, shuffle=False)
    network = models.build("small_cnn", data, num_outputs=10, widths=(16, 32), num_features=64)
    compression.finetune(network, loader, epochs=3, lr=5e-3)
    before = compression.accuracy(network, test)

    def heal(model):
        compression.finetune(model, loader, epochs=1, lr=5e-3, teacher=network)

    cut, healed = (
        compression.prune_model(network, 0.5, share_of="channels", image_shape=(1, 8, 8), train_fn=function, steps=2)[
            "pruned_model"
        ]
        for function in (None, heal)
    )
    assert compression.accuracy(healed, test) > max(before - 0.06, compression.accuracy(cut, test) + 0.1)


def test_fine_tuning_tells_what_is_wrong():
    network = trained_cnn()
    with pytest.raises(ValueError, match="make no step"):
        compression.finetune(network, [], steps=0)
    with pytest.raises(ValueError, match="the loader gives no batch"):
        compression.finetune(network, [], steps=2)
    with pytest.raises(ValueError, match="one label an image"):
        compression.Batches(torch.zeros(3, 1, 2, 2), torch.zeros(2))
    with pytest.raises(FloatingPointError, match="lower lr"):
        compression.finetune(network, [(images() * float("nan"), torch.zeros(24, dtype=torch.long))], steps=1)
