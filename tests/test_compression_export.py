"""Files: ONNX Runtime answers as PyTorch does, really computes with integers, and the bytes are counted."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from test_compression_integers import images, trained_cnn, trained_on_digits
from torch import nn
from torchvision.models import mobilenet_v3_small
from torchvision.models import resnet18 as torchvision_resnet18

from course_utils import compression, models
from course_utils.compression.tracing import BATCH, example, trace

GREY28 = SimpleNamespace(image_shape=(1, 28, 28))


def vit(**options):
    torch.manual_seed(0)
    options = {"patch_size": 7, "width": 24, "depth": 2, "num_heads": 2, **options}
    return models.build("vit", GREY28, num_outputs=10, **options).eval()


def calibrated(network, x, **options):
    made = compression.prepare(network, tuple(x.shape[1:]), bits=compression.weight_bits(), **options)
    compression.calibrate(made, x.split(8))
    return made.eval()


NETWORKS = {
    "small_cnn": lambda: (trained_cnn(), (1, 8, 8)),
    "no norm": lambda: (trained_cnn(norm="none", standardize=False), (1, 8, 8)),
    "group norm": lambda: (trained_cnn(norm="group"), (1, 8, 8)),
    "mlp": lambda: (models.build("mlp", GREY28, num_outputs=7), (1, 28, 28)),
    "resnet18": lambda: (
        models.build("resnet18", SimpleNamespace(image_shape=(3, 16, 16)), num_outputs=4),
        (3, 16, 16),
    ),
    "vit": lambda: (vit(), (1, 28, 28)),
    "vit, mean": lambda: (vit(pool="mean"), (1, 28, 28)),
}


# ---- tracing -------------------------------------------------------------------------------------------------------


def test_a_trace_knows_who_made_what_and_leaves_the_mode_alone():
    network = trained_cnn().train()
    found = trace(network, example((1, 8, 8)))
    assert network.training and all(module.training for module in network.modules())
    names = [call.name for call in found.calls]
    assert names[-6:] == ["leaky_relu", "flatten", "linear", "leaky_relu", "linear"][-6:] or names[-1] == "linear"
    conv = next(call for call in found.calls if call.name == "conv2d")
    assert conv.module == "body.1" and [call.name for call in found.readers(conv.output)] == ["max_pool2d"]
    assert found.producer(conv.output) is conv and found.producer(found.input) is None
    assert len(found.output) == BATCH


def test_what_happens_in_place_gets_a_name_of_its_own():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten())
    conv, relu, _ = trace(network, torch.rand(2, 1, 5, 5)).calls
    assert conv.output is not relu.output


def test_macs_by_hand():
    assert compression.count_macs(nn.Conv2d(2, 6, 3, stride=2, padding=1, groups=2), (2, 9, 9)) == 5 * 5 * 6 * 1 * 9
    assert compression.count_macs(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2)) == 60
    tokens, width, hidden = 17, 24, 96
    block = tokens * (4 * width**2 + 2 * width * hidden) + 2 * tokens**2 * width
    assert compression.count_macs(vit(), (1, 28, 28)) == 16 * 49 * width + 2 * block + width * 10


# ---- floats --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_floats_come_out_as_in_pytorch(name, tmp_path):
    network, shape = NETWORKS[name]()
    run = compression.Deployed(compression.export_onnx(network, tmp_path / "model.onnx", shape))
    for count in (1, 5, BATCH):
        x = images(count, shape)
        np.testing.assert_allclose(run(x), network.eval()(x).detach().numpy(), rtol=1e-3, atol=2e-4)


def test_torchvisions_mobilenet_is_exported(tmp_path):
    torch.manual_seed(0)
    network, x = mobilenet_v3_small(num_classes=6).eval(), images(2, (3, 32, 32))
    run = compression.Deployed(compression.export_onnx(network, tmp_path / "m.onnx", (3, 32, 32)))
    np.testing.assert_allclose(run(x), network(x).detach().numpy(), rtol=1e-3, atol=1e-5)


def test_a_call_that_has_no_place_is_named(tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.norm(x.flatten(1), dim=1)

    network = nn.Sequential()
    network.odd = Odd()
    with pytest.raises(compression.ExportError, match="'linalg_norm' in odd, which cannot be exported"):
        compression.export_onnx(network, tmp_path / "odd.onnx", (1, 4, 4))
    with pytest.raises(FileNotFoundError, match="write it with `export_onnx`"):
        compression.Deployed(tmp_path / "missing.onnx")


def test_halves_take_half_and_answer_nearly_the_same(tmp_path):
    network, x = vit(), images(5, (1, 28, 28))
    whole = compression.export_onnx(network, tmp_path / "whole.onnx", (1, 28, 28))
    half = compression.export_onnx(network, tmp_path / "half.onnx", (1, 28, 28), half=True)
    assert half.stat().st_size < 0.7 * whole.stat().st_size
    np.testing.assert_allclose(compression.Deployed(half)(x), network(x).detach().numpy(), atol=5e-3)
    nodes = compression.nodes_run(half)  # back to 32 bits when it is loaded: on a CPU nothing is faster
    assert nodes["Cast"] == 0 and nodes["Gemm"] + nodes["FusedGemm"] > 0


# ---- integers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_first,convolutions", [(True, 1), (False, 2)])
def test_the_cnn_runs_on_integers(keep_first, convolutions, tmp_path):
    network, x = trained_cnn(), images(40)
    made = calibrated(network, x, keep_first=keep_first)
    path = compression.export_onnx(made, tmp_path / "q.onnx", (1, 8, 8))
    nodes = compression.nodes_run(path)
    assert nodes["QLinearConv"] == convolutions and nodes["QGemm"] == 2
    assert nodes["Conv"] + nodes["FusedConv"] == 2 - convolutions
    assert nodes["BatchNormalization"] == 0
    answers, expected = compression.Deployed(path)(x), made(x).detach().numpy()
    head = compression.quantized_layers(made)["head"]
    step = head.input.parameters_of_range()[0] * head.rounded_weight().abs().sum(dim=1).max().item()
    assert np.abs(answers - expected).max() <= step  # a number on the edge may be rounded the other way, once
    assert np.abs(answers - expected).mean() < 0.05 * step
    kinds = {tensor.data_type for tensor in onnx.load(path).graph.initializer if len(tensor.dims) > 1}
    assert onnx.TensorProto.INT8 in kinds


def test_a_relu_network_has_zero_point_0_and_no_relu_left(tmp_path):
    """Zero point 0 cuts off what is negative, so ONNX Runtime drops the ReLU."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(384, 4)
    )  # fmt: skip
    x = images(32)
    made = calibrated(network, x, keep_first=False)
    path = compression.export_onnx(made, tmp_path / "relu.onnx", (1, 8, 8))
    nodes = compression.nodes_run(path)
    assert nodes["QLinearConv"] == 2 and nodes["QGemm"] == 1 and nodes["Relu"] == 0
    zeros = {
        name: int(layer.input.parameters_of_range()[1]) for name, layer in compression.quantized_layers(made).items()
    }
    assert set(zeros.values()) == {0}
    np.testing.assert_allclose(compression.Deployed(path)(x), made(x).detach().numpy(), atol=0.02)


def test_the_transformer_runs_on_integers(tmp_path):
    network, x = vit(), images(40, (1, 28, 28))
    made = calibrated(network, x)
    path = compression.export_onnx(made, tmp_path / "q.onnx", (1, 28, 28))
    nodes = compression.nodes_run(path)
    assert nodes["QGemm"] == 2 * 6 + 1  # query, key, value, out, up, down, and the head
    assert nodes["Gemm"] == 0
    answers, expected = compression.Deployed(path)(x), made(x).detach().numpy()
    assert np.abs(answers - expected).mean() < 0.02 * expected.std()
    assert compression.signal_to_noise(network(x), torch.as_tensor(answers)) > 15


def test_symmetric_activations_have_zero_point_0_and_int8_everywhere(tmp_path):
    """TensorRT knows no other zero point (NVIDIA/TensorRT#2774, #4698). It is not here: ONNX Runtime runs the file."""
    network, train, test = trained_on_digits(epochs=3)
    files, score = {}, {}
    for name, symmetric in (("default", False), ("symmetric", True)):
        path = tmp_path / f"{name}.onnx"
        made = compression.quantize_model(
            network, train, qat_epochs=0, path=path, symmetric=symmetric, keep_first=False
        )
        files[name], score[name] = path, compression.Deployed(path).accuracy(test)
        x = images(40)
        answers, expected = compression.Deployed(path)(x), made["quantized_model"](x).detach()
        assert compression.signal_to_noise(expected, torch.as_tensor(answers)) > 25
    assert score["symmetric"] > score["default"] - 0.02 and score["default"] > 0.8
    assert compression.nodes_run(files["symmetric"])["QLinearConv"] == 2
    kinds = {name: zero_points(path) for name, path in files.items()}
    assert kinds["symmetric"] == {(onnx.TensorProto.INT8, True)}
    assert (onnx.TensorProto.UINT8, False) in kinds["default"]


def zero_points(path):
    """(type, are they zero) of the zero points of all QuantizeLinear and DequantizeLinear."""
    graph = onnx.load(path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    pairs = [stored[node.input[2]] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) > 6
    return {(tensor.data_type, not onnx.numpy_helper.to_array(tensor).any()) for tensor in pairs}


def test_a_symmetric_relu_network_rounds_in_front_of_the_relu(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)
    )
    x = images(32)
    made = calibrated(network, x, keep_first=False, symmetric=True)
    path = compression.export_onnx(made, tmp_path / "relu.onnx", (1, 8, 8))
    assert compression.nodes_run(path)["QLinearConv"] == 2
    np.testing.assert_allclose(compression.Deployed(path)(x), made(x).detach().numpy(), atol=0.02)
    assert zero_points(path) == {(onnx.TensorProto.INT8, True)}


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_torchvisions_networks_run_on_integers(name, tmp_path):
    torch.manual_seed(0)
    shape = (3, 32, 32)
    network = (
        mobilenet_v3_small(num_classes=6) if name == "mobilenet_v3_small" else torchvision_resnet18(num_classes=6)
    ).eval()
    x = images(24, shape)
    made = calibrated(network, x)
    path = compression.export_onnx(made, tmp_path / "q.onnx", shape)
    convolutions = sum(isinstance(module, nn.Conv2d) for module in network.modules())
    nodes = compression.nodes_run(path)
    assert nodes["QLinearConv"] == convolutions - 1 and nodes["Conv"] + nodes["FusedConv"] == 1  # the first one
    answers = torch.as_tensor(compression.Deployed(path)(x))
    assert compression.signal_to_noise(made(x).detach(), answers) > 20


@pytest.mark.parametrize("kind", ["skipped", "a BatchNorm"])
def test_a_convolution_rounds_for_itself_where_no_integers_follow_its_relu(kind, tmp_path):
    """What reads the ReLU stays floats, or changes the numbers first: the convolution in front stays an integer one all the same."""
    torch.manual_seed(0)
    between = [nn.MaxPool2d(2), nn.BatchNorm2d(8)] if kind == "a BatchNorm" else []
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), *between, nn.Conv2d(8, 8, 3)
    ).eval()
    if between:
        network[5].weight.data.fill_(-1.0)  # cannot be folded through the maximum
    x = images(16, (1, 16, 16))
    made = calibrated(network, x, skip=[] if between else ["4"])
    path = compression.export_onnx(made, tmp_path / "a.onnx", (1, 16, 16))
    assert compression.nodes_run(path)["QLinearConv"] == (2 if between else 1)


def test_sizes_of_files_are_those_of_their_integers(tmp_path):
    network = models.build("small_cnn", GREY28, num_outputs=10).eval()
    count = compression.parameters(network)
    whole = compression.export_onnx(network, tmp_path / "32.onnx", (1, 28, 28)).stat().st_size
    made = calibrated(network, images(16, (1, 28, 28)))
    small = compression.export_onnx(made, tmp_path / "8.onnx", (1, 28, 28)).stat().st_size
    assert 4 * count <= whole < 4 * count + 8_000
    assert count <= small < count + 14_000 and whole / small > 3.7


def test_the_librarys_own_quantization(tmp_path):
    network, x = trained_cnn(), images(40)
    whole = compression.export_onnx(network, tmp_path / "32.onnx", (1, 8, 8))
    path = compression.post_training_quantization(whole, tmp_path / "8.onnx", x.split(8))
    nodes = compression.nodes_run(path)
    assert nodes["QLinearConv"] == 2 and nodes["QGemm"] == 2
    answers = torch.as_tensor(compression.Deployed(path)(x))
    assert compression.signal_to_noise(network(x), answers) > 12


def test_what_cannot_become_integers_is_told(tmp_path):
    class Four(nn.Module):
        def forward(self, x):
            return torch.fake_quantize_per_tensor_affine(x, 0.1, 0, 0, 15)

    with pytest.raises(compression.ExportError, match="activations of 0..15 are not 8 bits"):
        compression.export_onnx(Four(), tmp_path / "four.onnx", (1, 4, 4))


def test_scoring_a_file(tmp_path):
    network, x = trained_cnn(), images(40)
    labels = network(x).argmax(dim=1)
    run = compression.Deployed(compression.export_onnx(network, tmp_path / "m.onnx", (1, 8, 8)))
    assert run.accuracy([(x, labels)]) == 1.0
    assert run.accuracy([{"x": x, "y": (labels + 1) % 10}]) == 0.0
    with pytest.raises(ValueError, match="no image to score"):
        run.accuracy([])
