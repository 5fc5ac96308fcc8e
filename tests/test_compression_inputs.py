"""Compression: what it is given wrong is named before anything is trained, timed or written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_compression_integers import trained_cnn
from torch import nn

from course_utils import compression
from course_utils.compression.auto import AutoOptimizer
from course_utils.compression.choice import Constraints
from course_utils.compression.inputs import image_shape_of, repeatable

SHAPE = (1, 8, 8)


class Halves(nn.Module):
    """Answers from the two halves of an image: `chunk` gives two results."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        first, second = x.flatten(1).chunk(2, dim=1)
        return self.head(first) + self.head(second)


class Largest(Halves):
    def forward(self, x):
        return self.head(x.flatten(1).view(-1, 32, 2).max(dim=2)[0])


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.LSTM(8, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.layer(x[:, 0])[0][:, -1])


class Attentive(Recurrent):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layer(x[:, 0], x[:, 0], x[:, 0])[0].mean(dim=1))


class ThroughNumpy(Halves):
    def forward(self, x):
        return self.head(torch.from_numpy(x.flatten(1)[:, :32].numpy() * 2))


@pytest.mark.parametrize(
    ("network", "call"),
    [(Halves, "chunk"), (Largest, "max"), (Recurrent, "lstm"), (Attentive, "multi_head_attention_forward")],
)
def test_a_call_with_several_results_is_refused_and_no_constant_file_is_written(network, call, tmp_path):
    with pytest.raises(compression.ExportError, match=rf"'{call} \(several results\)'"):
        compression.export_onnx(network(), tmp_path / "file.onnx", SHAPE)
    assert not list(tmp_path.iterdir())


def test_an_answer_that_cannot_be_followed_is_refused(tmp_path):
    with pytest.raises(compression.ExportError, match="one constant answer"):
        compression.export_onnx(ThroughNumpy(), tmp_path / "file.onnx", SHAPE)
    assert not list(tmp_path.iterdir())


def test_a_half_network_can_be_exported_and_measured(tmp_path):
    network = trained_cnn()
    half = compression.quantize_model(network, dtype="float16")["quantized_model"]
    path = compression.export_onnx(half, tmp_path / "half.onnx", SHAPE)
    assert path.read_bytes() == compression.export_onnx(network, tmp_path / "same.onnx", SHAPE, half=True).read_bytes()
    rows = compression.benchmark_models({"fp32": network, "fp16": half}, memory=False, rounds=1, runs=1)
    assert rows["fp16"]["size_ratio"] > 1.2 and rows["fp16"]["macs"] == rows["fp32"]["macs"]
    assert next(half.parameters()).dtype == torch.float16  # the caller's network stays as it is
    assert half(torch.rand(2, *SHAPE)).dtype == torch.float32  # takes and gives 32 bits


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 8, 8), r"image_shape=\(3, 8, 8\): the network does not take such images"),
        ((1, 28, 28), r"image_shape=\(1, 28, 28\): the network does not take"),
        ((8, 8), r"image_shape=\(8, 8\): give \(channels, height, width\)"),
        ((1, 0, 8), "give .channels, height, width."),
    ],
)
def test_a_wrong_image_shape_is_named_everywhere(shape, message):
    network, batches = trained_cnn(), [(torch.zeros(4, *SHAPE), torch.zeros(4, dtype=torch.long))]
    for attempt in (
        lambda: compression.prune_model(network, 0.5, image_shape=shape),
        lambda: compression.quantize_model(network, batches, image_shape=shape),
        lambda: compression.benchmark_models({"a": network}, image_shape=shape),
        lambda: AutoOptimizer().optimize_model(network, batches, batches, image_shape=shape),
    ):
        with pytest.raises(ValueError, match=message):
            attempt()
    assert image_shape_of(network, SHAPE) == image_shape_of(network, None) == SHAPE


def test_loaders_that_can_be_run_through_only_once_are_refused():
    network, batches = trained_cnn(), [(torch.zeros(4, *SHAPE), torch.zeros(4, dtype=torch.long))]
    for attempt in (
        lambda: compression.quantize_model(network, (batch for batch in batches)),
        lambda: AutoOptimizer().optimize_model(network, (batch for batch in batches), batches),
        lambda: AutoOptimizer().optimize_model(network, batches, (batch for batch in batches)),
    ):
        with pytest.raises(ValueError, match="generator, which can be run through only once"):
            attempt()
    assert repeatable(batches) is batches

    class Endless:
        def __iter__(self):
            return iter(batches)

    with pytest.raises(ValueError, match="length is unknown; say steps="):
        compression.finetune(network, Endless())
    assert len(compression.finetune(network, Endless(), steps=2)) == 2
    with pytest.raises(ValueError, match="qat_epochs=-1"):
        compression.quantize_model(network, batches, qat_epochs=-1)


def test_numpy_batches_will_do():
    x, y = np.zeros((4, *SHAPE), dtype=np.uint8), np.arange(4)
    made = compression.quantize_model(trained_cnn(), [(x, y)], qat_epochs=1)["quantized_model"]
    assert 0 <= compression.accuracy(made, [(x, y)]) <= 1


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"min_accuracy": 95}, "min_accuracy=95: accuracies are shares"),
        ({"max_accuracy_drop": 2}, "max_accuracy_drop=2: accuracies are shares"),
        ({"max_size_mb": 0}, "max_size_mb=0: nothing is that small"),
        ({"max_latency_ms": -1.0}, "max_latency_ms=-1.0: nothing is that small"),
    ],
)
def test_impossible_constraints_are_named(rule, message):
    for make in (Constraints, AutoOptimizer):
        with pytest.raises(ValueError, match=message):
            make(**rule)


def test_single_values_where_lists_are_wanted_are_named(tmp_path):
    with pytest.raises(ValueError, match="precisions='int8'.*give lists"):
        AutoOptimizer(precisions="int8")
    with pytest.raises(ValueError, match="ratios=0.5.*give lists"):
        AutoOptimizer(ratios=0.5)
    with pytest.raises(ValueError, match="models is a list; give names"):
        compression.benchmark_models([trained_cnn()])
    (tmp_path / "model.onnx").write_bytes(b"not a network")
    with pytest.raises(ValueError, match="model.onnx is not an ONNX file"):
        compression.Deployed(tmp_path / "model.onnx")


def test_pruning_names_what_it_cannot_do(tmp_path):
    network = trained_cnn()
    with pytest.raises(ValueError, match="ignored names conv7, which the network does not have; it has body.1"):
        compression.prune_model(network, 0.5, ignored=["conv7"])
    kept = compression.prune_model(network, 0.5, ignored="body.1")["metrics"]["widths"]["body.1"]
    assert kept == network.body[1].out_channels
    made = compression.prepare(network, SHAPE)
    with pytest.raises(ValueError, match="fake-quantized already; prune first"):
        compression.prune_model(made, 0.5)
    with pytest.raises(ValueError, match="write its integers with `export_onnx`"):
        compression.save_pruned(made, tmp_path / "made.pt")


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_layer_keeps_its_last_channel_however_much_is_asked_for(steps):
    """Torch-Pruning leaves a layer whole that would lose all of its channels."""
    made = compression.prune_model(trained_cnn(), 0.99, share_of="channels", steps=steps, image_shape=SHAPE)
    widths = [width for name, width in made["metrics"]["widths"].items() if name.startswith("body")]
    assert widths and set(widths) == {1}
