"""Integers: affine quantization, observers, fake-quantized layers and folding, against PyTorch's own and ONNX Runtime."""

from __future__ import annotations

import copy

import pytest
import torch
from core_helpers import digits
from torch import nn
from torch.nn import functional as F

from course_utils import compression, models
from course_utils.compression.affine import levels
from course_utils.compression.fake import FakeQuantize, QuantConv2d, QuantLinear, set_state

RANGES = [(-1.0, 3.1), (2.0, 6.0), (-5.1, -0.1), (0.0, 7.3), (-0.37, 1.91), (0.0, 0.0)]


def images(count=24, shape=(1, 8, 8), seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def trained_cnn(**options):
    """A small CNN whose BatchNorm has seen something."""
    network = models.build("small_cnn", digits(), num_outputs=10, widths=(6, 8), num_features=12, **options)
    network.train()
    for seed in range(5):
        network(images(seed=seed))
    return network.eval()


# ---- numbers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("low,high", RANGES)
def test_zero_is_met_exactly_and_the_range_fits(low, high):
    scale, zero = compression.scale_and_zero_point(low, high)
    assert isinstance(zero, int) and 0 <= zero <= 255 and scale > 0
    ends = compression.dequantize(compression.quantize(torch.tensor([low, 0.0, high]), scale, zero), scale, zero)
    assert ends[1] == 0
    assert torch.allclose(ends, torch.tensor([low, 0.0, high]), atol=0.51 * scale)


@pytest.mark.parametrize("low,high", RANGES)
def test_there_and_back_is_pytorchs(low, high):
    x = low - 1 + (high - low + 2) * torch.rand(301, generator=torch.Generator().manual_seed(0))  # no ties
    scale, zero = compression.scale_and_zero_point(low, high)
    mine = compression.dequantize(compression.quantize(x, scale, zero), scale, zero)
    torch.testing.assert_close(mine, torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255))


def test_channels_have_scales_of_their_own():
    weight = torch.randn(5, 3, 2, 2) * torch.tensor([1.0, 0.01, 3, 0, 2]).view(-1, 1, 1, 1)
    scale = compression.channel_scales(weight)
    torch.testing.assert_close(scale, (weight.abs().amax(dim=(1, 2, 3)) / 127).clamp(min=1e-8 / 127))
    whole = weight / scale.view(-1, 1, 1, 1)
    assert whole.abs().max() <= 127 + 1e-4


def test_impossible_numbers_are_refused():
    assert levels(4, signed=False) == (0, 15) and levels(4, signed=True) == (-7, 7)
    with pytest.raises(ValueError, match="bits=9; integers of 2 to 8 bits"):
        levels(9, signed=True)
    for low, high in ((1.0, 0.0), (float("nan"), 1.0), (0.0, float("inf"))):
        with pytest.raises(ValueError, match="give a finite range"):
            compression.scale_and_zero_point(low, high)


# ---- observers -----------------------------------------------------------------------------------------------------


def test_observers_by_brute_force():
    batches = [torch.randn(1001, generator=torch.Generator().manual_seed(seed)) * (seed + 1) for seed in range(4)]
    seen = {kind: compression.Observer(kind, momentum=0.1) for kind in ("minmax", "average", "percentile")}
    for observer in seen.values():
        for batch in batches:
            observer.observe(batch)
    assert seen["minmax"].low == min(b.min() for b in batches) and seen["minmax"].high == max(b.max() for b in batches)
    # Fewer batches than 1 / momentum: a plain mean.
    assert seen["average"].high.item() == pytest.approx(sum(b.max().item() for b in batches) / 4, rel=1e-5)
    expected = sum(b.sort().values[-2].item() for b in batches) / 4  # 0.0005 of 1,000 rounds to one number left out
    assert seen["percentile"].high.item() in (
        pytest.approx(expected, rel=1e-5),
        pytest.approx(seen["average"].high.item(), rel=1e-5),
    )
    assert seen["percentile"].high <= seen["average"].high <= seen["minmax"].high
    seen["minmax"].forget()
    assert seen["minmax"].batches == 0
    with pytest.raises(ValueError, match="kind='max' is unknown; choose one of minmax, average, percentile"):
        compression.Observer("max")


def test_percentiles_cut_off_the_odd_one():
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    x[0] = 1000.0
    observer = compression.Observer("percentile", quantile=0.001)
    observer.observe(x)
    assert 2.8 < observer.high < 3.4 and -3.4 < observer.low < -2.8


# ---- fake quantization ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "activation,zero", [(F.relu, True), (lambda x: F.leaky_relu(x, 0.1), False)], ids=["relu", "leaky"]
)
def test_activations_behind_a_relu_have_zero_point_0(activation, zero):
    quantizer = FakeQuantize()
    x = activation(torch.randn(500, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(quantizer(x), x)  # while it looks it changes nothing
    quantizer.state = "fixed"
    scale, zero_point = quantizer.parameters_of_range()
    assert (zero_point == 0) == zero
    assert (quantizer(x) - x).abs().max() <= 0.501 * scale
    assert len(quantizer(x).unique()) <= 256


def test_the_gradient_goes_straight_through_inside_the_range():
    quantizer = FakeQuantize()
    quantizer(torch.tensor([-1.0, 2.0]))
    quantizer.state = "fixed"
    x = torch.tensor([-3.0, -0.5, 0.2, 1.9, 5.0], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_a_range_that_was_never_seen_is_an_error():
    quantizer = FakeQuantize()
    quantizer.state = "fixed"
    with pytest.raises(RuntimeError, match="has seen no data; call `calibrate`"):
        quantizer(torch.ones(3))
    with pytest.raises(ValueError, match="state='on' is unknown"):
        set_state(nn.Linear(2, 2), "on")


@pytest.mark.parametrize("bits", [8, 4])
def test_layers_compute_with_rounded_weights(bits):
    torch.manual_seed(0)
    conv, x = nn.Conv2d(3, 5, 3, stride=2, padding=1, groups=1), torch.rand(2, 3, 9, 9)
    layer = QuantConv2d(conv, bits, output=False)
    torch.testing.assert_close(layer(x), conv(x))
    set_state(layer, "fixed")
    scale = compression.channel_scales(conv.weight, bits)
    weight = torch.fake_quantize_per_channel_affine(
        conv.weight, scale, torch.zeros(5, dtype=torch.int32), 0, *levels(bits, True)
    )
    low, high = 0.0, x.max().item()
    rounded = torch.fake_quantize_per_tensor_affine(x, high / 255, 0, 0, 255) if low == 0 else x
    torch.testing.assert_close(layer(x), F.conv2d(rounded, weight, conv.bias, 2, 1), rtol=1e-4, atol=1e-4)
    assert all(len(channel.unique()) <= 2**bits for channel in layer.rounded_weight())


def test_a_dense_layer_takes_tokens():
    dense, x = nn.Linear(6, 4), torch.randn(2, 3, 6)
    layer = QuantLinear(dense)
    torch.testing.assert_close(layer(x), dense(x))
    set_state(layer, "fixed")
    assert layer(x).shape == (2, 3, 4)
    assert compression.signal_to_noise(dense(x), layer(x)) > 25


def test_other_padding_is_refused():
    with pytest.raises(ValueError, match="only zeros, given as numbers"):
        QuantConv2d(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"))


# ---- folding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["small_cnn", "resnet18"])
def test_folding_keeps_every_number(name):
    torch.manual_seed(0)
    network = trained_cnn() if name == "small_cnn" else models.build("resnet18", digits(), num_outputs=10)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.uniform_(-1, 1)
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    folded = copy.deepcopy(network).eval()
    assert compression.fold_batchnorm(folded, (1, 8, 8)) == []
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    x = images()
    torch.testing.assert_close(folded(x), network.eval()(x), rtol=1e-3, atol=1e-3)


def test_a_negative_factor_behind_a_pooling_is_not_folded():
    network = trained_cnn()
    with torch.no_grad():
        network.body[3].weight[0] = -0.5
    folded, x = copy.deepcopy(network), images()
    assert compression.fold_batchnorm(folded, (1, 8, 8)) == ["body.3"]
    torch.testing.assert_close(folded(x), network(x))


def test_a_convolution_that_others_read_is_not_folded():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

        def forward(self, x):
            y = self.conv(x)
            return (self.norm(y) + y).flatten(1)

    network, x = Shared().eval(), images()
    network.norm.weight.data.fill_(3.0)
    before = network(x)
    assert compression.fold_batchnorm(network, (1, 8, 8)) == ["norm"]
    torch.testing.assert_close(network(x), before)


# ---- whole networks ------------------------------------------------------------------------------------------------


def test_prepare_replaces_layers_and_leaves_the_network_alone():
    network = trained_cnn()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    made = compression.prepare(network, (1, 8, 8))
    assert list(compression.quantized_layers(made)) == ["body.5", "dense.0", "head"]  # the first convolution stays
    assert list(
        compression.quantized_layers(compression.prepare(network, (1, 8, 8), keep_first=False, skip=["head"]))
    ) == [
        "body.1",
        "body.5",
        "dense.0",
    ]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(ValueError, match="skip names body.99"):
        compression.prepare(network, (1, 8, 8), skip=["body.99"])


def test_a_convolution_before_a_relu_rounds_once():
    network = models.build("resnet18", digits(), num_outputs=10)
    layers = compression.quantized_layers(compression.prepare(network, (1, 8, 8)))
    assert layers["layer1.0.conv1"].output is None  # BatchNorm and a ReLU follow
    assert layers["layer1.0.conv2"].output is not None  # added to something first


def test_calibration_gives_ranges_and_forgets_the_ones_before():
    made = compression.prepare(trained_cnn(), (1, 8, 8))
    compression.calibrate(made, images().split(8))
    first = compression.quantized_layers(made)["body.5"].input.observer.high.item()
    compression.calibrate(made, [(images() * 0.5, None)])
    second = compression.quantized_layers(made)["body.5"].input.observer
    assert second.batches == 1 and first > 0
    with pytest.raises(ValueError, match="no batch to calibrate with"):
        compression.calibrate(made, [])
    with pytest.raises(ValueError, match="`prepare` it first"):
        compression.calibrate(nn.Linear(2, 2), [torch.ones(1, 2)])


def test_the_integers_are_what_the_layers_round_to():
    made = compression.prepare(trained_cnn(), (1, 8, 8))
    compression.calibrate(made, images().split(8))
    for name, (whole, scale) in compression.integer_weights(made).items():
        layer = compression.quantized_layers(made)[name]
        assert whole.dtype == torch.int8
        shape = [-1, *[1] * (whole.dim() - 1)]
        torch.testing.assert_close(whole * scale.view(shape), layer.rounded_weight(), rtol=1e-5, atol=1e-6)


def trained_on_digits(epochs):
    """A small CNN after so many passes over the digits, with the loaders of its training and its test images."""
    data = digits()
    train = compression.Batches(data.train.x, data.train.y, 64)
    test = compression.Batches(data.test.x, data.test.y, 256, shuffle=False)
    network = models.build("small_cnn", data, num_outputs=10, widths=(8, 16), num_features=32)
    compression.finetune(network, train, epochs=epochs, lr=5e-3)
    return network, train, test


def test_quantize_model_keeps_its_promises(tmp_path):
    network, loader, test = trained_on_digits(epochs=2)
    result = compression.quantize_model(
        network, loader, dtype="qint8", qat_epochs=0.5, device="cpu", path=tmp_path / "q.onnx"
    )
    assert set(result) == {"quantized_model", "metrics", "path"}
    metrics = result["metrics"]
    assert {"compression_ratio", "sizes", "original_size_mb", "quantized_size_mb"} <= set(metrics)
    assert metrics["sizes"]["quantized"] == (tmp_path / "q.onnx").stat().st_size
    assert metrics["compression_ratio"] == pytest.approx(metrics["sizes"]["original"] / metrics["sizes"]["quantized"])
    assert len(metrics["losses"]) == round(0.5 * len(loader) + 0.49)
    before, after = compression.accuracy(network, test), compression.accuracy(result["quantized_model"], test)
    assert before > 0.8 and after > before - 0.05
    assert compression.Deployed(tmp_path / "q.onnx").accuracy(test) == pytest.approx(after, abs=0.01)
    half = compression.quantize_model(network, dtype="float16")
    assert half["metrics"]["compression_ratio"] > 1.6 and half["path"] is None
    torch.testing.assert_close(half["quantized_model"](images()), network.eval()(images()), rtol=0.05, atol=0.05)
    with pytest.raises(ValueError, match="dtype='int4' is unknown; choose one of qint8, float16"):
        compression.quantize_model(network, loader, dtype="int4")
    with pytest.raises(ValueError, match="ranges of activations come from data"):
        compression.quantize_model(network)


def test_training_with_few_bits_recovers_what_rounding_lost():
    data = digits()
    loader = compression.Batches(data.train.x, data.train.y, 64)
    test = compression.Batches(data.test.x, data.test.y, 256, shuffle=False)
    network = models.build("small_cnn", data, num_outputs=10, widths=(8, 16), num_features=32)
    compression.finetune(network, loader, epochs=4, lr=5e-3)
    after, learned = (
        compression.quantize_model(network, loader, qat_epochs=epochs, bits=2, lr=2e-3)["quantized_model"]
        for epochs in (0, 3)
    )
    assert compression.accuracy(learned, test) > compression.accuracy(after, test) + 0.05
