"""Benchmark, choice and report: the numbers by hand, a known clock, and a choice that flips with what is measured."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections import Counter

import pytest
import torch
from core_helpers import digits
from helpers import ROOT
from test_compression_integers import images, trained_cnn
from torch import nn

from course_utils import compression, lora, models
from course_utils.compression import benchmark, profiling, report
from course_utils.compression.auto import AutoOptimizer
from course_utils.compression.choice import Candidate, Constraints, choose, pareto
from course_utils.compression.profiling import Node
from course_utils.plots import png


def loaders(count=400):
    data = digits()
    return (
        compression.Batches(data.train.x[:count], data.train.y[:count], 64),
        compression.Batches(data.test.x[:200], data.test.y[:200], 200, shuffle=False),
    )


class Clock:
    """Every timed call takes 10 ms, the first five of all 50."""

    def __init__(self):
        self.readings, self.now = 0, 0.0

    def __call__(self) -> float:
        self.now += 0.0 if self.readings % 2 == 0 else 0.05 if self.readings < 10 else 0.01
        self.readings += 1
        return self.now


# ---- measuring -----------------------------------------------------------------------------------------------------


def test_every_number_of_the_benchmark(tmp_path):
    network, (_, test) = trained_cnn(), loaders()
    path = compression.export_onnx(network, tmp_path / "same.onnx", (1, 8, 8))
    small = compression.prune_model(network, 0.5, image_shape=(1, 8, 8), gradual=False)["pruned_model"]
    rows = compression.benchmark_models(
        {"fp32": network, "file": path, "pruned": small},
        test,
        rounds=1,
        runs=100,
        seconds=0,
        clock=Clock(),
        folder=tmp_path,
    )
    whole, file = rows["fp32"], rows["file"]
    assert list(rows) == ["fp32", "file", "pruned"]
    assert whole["parameters"] == compression.parameters(network) and file["parameters"] is None
    assert whole["macs"] == compression.count_macs(network, (1, 8, 8)) > rows["pruned"]["macs"]
    assert (
        file["size_bytes"] == path.stat().st_size == whole["size_bytes"]
        and file["size_mb"] == path.stat().st_size / 1e6
    )
    assert whole["latency_ms"] == pytest.approx(10) and whole["fps"] == pytest.approx(100)
    assert whole["latency_p95_ms"] == pytest.approx(10) and whole["speedup"] == 1.0
    assert rows["pruned"]["size_ratio"] == whole["size_bytes"] / rows["pruned"]["size_bytes"] > 1
    assert file["accuracy"] == whole["accuracy"] == compression.accuracy(network, test)
    assert whole["integer_nodes"] == 0 and whole["memory_mb"] > 0
    assert "CPU" in whole["machine"] and "of" in whole["machine"]


def test_median_and_percentile_of_a_batch():
    timed = compression.timing([0.01] * 90 + [0.05] * 10, batch_size=4)
    assert timed == pytest.approx({"latency_ms": 10, "latency_p95_ms": 50, "fps": 400})


def test_networks_take_turns():
    turns: list[str] = []
    calls = {name: (lambda x, name=name: turns.append(name)) for name in "ab"}
    times = compression.interleaved(calls, (1, 2, 2), rounds=2, runs=3)
    assert turns == (["a"] * 5 + ["b"] * 5) * 2  # two untimed calls before three timed ones
    assert all(len(values) == 6 for values in times.values())


def test_pytorch_itself_can_take_its_turn(tmp_path):
    network, x = trained_cnn(), images(4)
    run = {"runtime": compression.Deployed(compression.export_onnx(network, tmp_path / "m.onnx", (1, 8, 8)))}
    run["pytorch"] = compression.in_pytorch(network)
    torch.testing.assert_close(run["pytorch"](x.numpy()), network(x))
    assert {len(times) for times in compression.interleaved(run, (1, 8, 8), rounds=1, runs=2).values()} == {2}


def test_weights_have_the_bits_that_a_processor_multiplies_exactly():
    assert compression.weight_bits({"sse2", "avx2", "avx512_vnni"}) == 8
    assert compression.weight_bits({"sse2", "avx2"}) == 7
    assert compression.weight_bits({"asimddp"}) == compression.weight_bits(set()) == 8
    assert compression.weight_bits() in (7, 8)


def test_peak_memory_is_that_of_a_process_of_its_own(tmp_path):
    data = digits()
    big = models.build("mlp", data, num_outputs=10, hidden=(2000, 2000))
    path = compression.export_onnx(big, tmp_path / "big.onnx", (1, 8, 8))
    small = compression.export_onnx(trained_cnn(), tmp_path / "small.onnx", (1, 8, 8))
    assert compression.peak_memory(path, (1, 8, 8)) > compression.peak_memory(small, (1, 8, 8)) + 8_000_000
    with pytest.raises(RuntimeError, match="the measuring process failed"):
        compression.peak_memory(tmp_path / "missing.onnx", (1, 8, 8))


def test_the_baseline_of_the_process_is_subtracted(monkeypatch, tmp_path):
    path = compression.export_onnx(trained_cnn(), tmp_path / "small.onnx", (1, 8, 8))
    assert compression.peak_memory(path, (1, 8, 8)) < 40_000_000  # with the libraries it would be more
    monkeypatch.setattr(benchmark, "_in_new_process", lambda path, shape, batch_size: 170 if path else 100)
    assert compression.peak_memory(path, (1, 8, 8)) == 70


def test_the_accuracy_is_that_of_the_file(monkeypatch, trained):
    """A file that answers otherwise than its network: what is deployed is what is scored."""
    network, (_, test) = trained, loaders()
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.head.weight.neg_()
    monkeypatch.setattr(benchmark, "export_onnx", lambda model, *rest, **options: compression.export_onnx(other, *rest))
    expected = compression.accuracy(other, test)
    assert expected < compression.accuracy(network, test) - 0.5
    row = compression.benchmark_models({"a": network}, test, rounds=1, runs=1, memory=False)["a"]
    assert row["accuracy"] == pytest.approx(expected)


def test_what_cannot_be_measured_is_told():
    with pytest.raises(ValueError, match="0 models"):
        compression.benchmark_models({})
    with pytest.raises(ValueError, match="device='cuda'.*Use device='cpu'"):
        compression.benchmark_models({"a": trained_cnn()}, device="cuda")


def test_the_measuring_process_and_the_room_load_no_torch():
    code = "import sys; from course_utils import compression; from course_utils.compression import process; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_public_name_loads():
    for name in compression.__all__:
        assert getattr(compression, name) is not None and name in dir(compression)
    with pytest.raises(AttributeError, match="has no attribute 'shrink'"):
        compression.shrink  # noqa: B018


# ---- choosing ------------------------------------------------------------------------------------------------------

BASE = Candidate("fp32", 8.0, 4.0, 0.92)
INT8 = Candidate("int8", 2.0, 2.0, 0.915)
SLOW = Candidate("int8", 2.0, 5.0, 0.915)
HALF = Candidate("fp16", 4.0, 4.1, 0.92)
TINY = Candidate("int8 pruned 75%", 0.3, 0.5, 0.80)


def test_the_front_by_hand():
    assert pareto([BASE, INT8, HALF, TINY]) == [BASE, INT8, HALF, TINY]
    worse = Candidate("worse", 2.5, 2.0, 0.915)
    assert worse not in pareto([BASE, INT8, worse]) and pareto([INT8, INT8]) == [INT8, INT8]


@pytest.mark.parametrize(
    "target,expected", [("speed", "int8"), ("size", "int8"), ("accuracy", "fp16"), ("balanced", "int8")]
)
def test_every_target_has_its_choice(target, expected):
    choice = choose([BASE, INT8, HALF, TINY], target, Constraints(max_accuracy_drop=0.02))
    assert choice.candidate.name == expected and choice.satisfied
    assert choose([BASE, INT8, HALF, TINY], "size").candidate is TINY  # nothing was asked for


def test_the_choice_flips_when_integers_are_slow():
    rules = Constraints(max_accuracy_drop=0.02)
    assert choose([BASE, INT8], "speed", rules).candidate is INT8
    assert choose([BASE, SLOW], "speed", rules).candidate is BASE
    small = choose([BASE, SLOW], "size", rules)
    assert (
        small.candidate is SLOW and "slower than fp32: 5 ms against 4" in small.explanation
    )  # never without saying so


def test_constraints_that_cannot_be_met_are_said_to_be_broken():
    choice = choose([BASE, INT8, TINY], "balanced", Constraints(max_size_mb=0.25, min_accuracy=0.9))
    assert not choice.satisfied and "None did: this one comes closest" in choice.explanation
    assert choice.candidate is INT8 and choice.warnings == ("2 MB, at most 0.25 were asked for",)
    quick = choose([BASE, INT8, TINY], "accuracy", Constraints(max_latency_ms=1.0))
    assert quick.candidate is TINY and quick.satisfied
    with pytest.raises(ValueError, match="target='fast' is unknown"):
        choose([BASE], "fast")
    with pytest.raises(ValueError, match="no candidate"):
        choose([])


# ---- the optimizer -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    train, _ = loaders()
    network = models.build("small_cnn", digits(), num_outputs=10, widths=(8, 16), num_features=32)
    compression.finetune(network, train, epochs=4, lr=5e-3)
    return network


def test_rounds_go_on_for_so_long():
    """A few rounds of small networks are over in a blink, and one disturbance would be all that was measured."""
    calls = {"a": lambda x: x, "b": lambda x: x}
    few = compression.interleaved(calls, (1, 2, 2), rounds=2, runs=3)
    many = compression.interleaved(calls, (1, 2, 2), rounds=2, runs=3, seconds=0.05)
    assert {len(times) for times in few.values()} == {6}
    assert len(many["a"]) == len(many["b"]) > 30


def test_time_of_every_node(tmp_path):
    """The nodes are those that run, each file has its own, and the profiler's share is off."""
    files = {}
    for width in (8, 96):
        network = models.SmallCNN((1, 16, 16), widths=(width, width)).eval()
        files[f"{width}"] = compression.export_onnx(
            nn.Sequential(network.body), tmp_path / f"{width}.onnx", (1, 16, 16)
        )
    found = compression.node_times(files, (1, 16, 16), rounds=2, runs=20)
    assert list(found) == ["8", "96"]
    for label, (nodes, call) in found.items():
        assert Counter(node.kind for node in nodes) == compression.nodes_run(files[label])
        work = compression.work_of(nodes, call)
        assert tuple(work) == compression.KINDS_OF_WORK and call > 0 and work["multiplying"] > 0


def test_a_nodes_mean_leaves_out_what_does_not_count():
    """Of a turn of 2 + 4 calls the first two, of what is left the slowest quarter; and what the profiler takes."""
    turn = [900, 800, 10, 12, 14, 500]
    events = [{"cat": "Session", "name": "model_run", "dur": 7}]
    events += [{"cat": "Node", "name": "c1_kernel_time", "dur": t, "args": {"op_name": "Conv"}} for t in turn * 2]
    events += [{"cat": "Node", "name": "r_kernel_time", "dur": 1, "args": {"op_name": "Reshape"}}] * 12
    events += [{"cat": "Node", "name": "c1_fence_before", "dur": 99, "args": {"op_name": "Conv"}}]
    assert profiling._nodes(events, 4, 2.0) == [Node("Conv", "c1", 10.0), Node("Reshape", "r", 0.0)]


def test_what_cannot_be_profiled(tmp_path):
    path = compression.export_onnx(trained_cnn(), tmp_path / "a.onnx", (1, 8, 8))
    with pytest.raises(ValueError, match=r"a takes images of shape \[1, 8, 8\], image_shape is \[3, 8, 8\]"):
        compression.node_times({"a": path}, (3, 8, 8))
    for options in ({"runs": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="at least one each"):
            compression.node_times({"a": path}, (1, 8, 8), **options)
    with pytest.raises(ValueError, match="0 files"):
        compression.node_times({}, (1, 8, 8))


def test_a_convolution_with_its_batchnorm_folded_multiplies(tmp_path):
    """ONNX Runtime gives it the BatchNorm's name."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.MaxPool2d(2), nn.Conv2d(16, 16, 3)).eval()
    path = compression.export_onnx(network, tmp_path / "a.onnx", (1, 12, 12))
    nodes, _ = compression.node_times({"a": path}, (1, 12, 12), rounds=1)["a"]
    (folded,) = [node for node in nodes if "BatchNorm" in node.name]
    assert folded.kind == "Conv" and compression.work_of([Node(folded.kind, folded.name, 5.0)], 5.0)["multiplying"] == 5


def test_kinds_of_work_by_hand():
    nodes = [
        Node("Conv", "Conv_1", 50.0), Node("QLinearConv", "Conv_2", 20.0), Node("Conv", "BatchNormalization_3_bn_nchwc", 3.0),
        Node("MaxPool", "m", 4.0), Node("QuantizeLinear", "q", 2.0), Node("ReorderOutput", "r", 1.0),
    ]  # fmt: skip
    names = compression.KINDS_OF_WORK
    assert compression.work_of(nodes, 100.0) == dict(zip(names, (70.0, 7.0, 3.0, 20.0), strict=True))
    assert compression.work_of(nodes, 10.0)["the call"] == 0.0


def pretend(**milliseconds):
    """Measures for real, then puts other latencies in: by precision."""

    def measure(files, test_loader, **options):
        rows = compression.benchmark_models(
            files, test_loader, **{**options, "memory": False, "rounds": 1, "runs": 1, "seconds": 0}
        )
        for name, row in rows.items():
            row["latency_ms"] = milliseconds[name.split()[0]]
        return rows

    return measure


def test_auto_optimizer_returns_all_kinds(trained, tmp_path):
    train, test = loaders()
    optimizer = AutoOptimizer(target_metric="balanced", device="cpu", ratios=(0.5,), epochs=0.5, max_accuracy_drop=0.1)
    results = optimizer.optimize_model(model=trained, train_loader=train, test_loader=test, folder=tmp_path)
    assert {"baseline", "quantized", "pruned", "combined", "best", "choice", "candidates", "pareto", "hardware"} <= set(
        results
    )
    assert [results[kind]["name"].count("pruned") for kind in ("baseline", "quantized", "pruned", "combined")] == [
        0,
        0,
        1,
        1,
    ]
    for kind in ("baseline", "quantized", "pruned", "combined"):
        entry = results[kind]
        assert entry["model"](images(3)).shape == (3, 10)
        assert entry["metrics"]["accuracy"] == pytest.approx(compression.accuracy(entry["model"], test), abs=0.03)
    sizes = {kind: results[kind]["metrics"]["size_bytes"] for kind in ("baseline", "quantized", "pruned", "combined")}
    assert sizes["combined"] < sizes["quantized"] < sizes["baseline"] and sizes["combined"] < sizes["pruned"]
    assert "chosen on the images that it is scored on" in results["explanation"]
    assert len(results["candidates"]) == 6 and results["hardware"]["cores"] >= 1
    assert len(list(tmp_path.glob("*.onnx"))) == 6


@pytest.mark.parametrize("int8,expected", [(1.0, "int8"), (9.0, "fp32")])
def test_auto_optimizer_goes_by_what_it_measures(trained, int8, expected):
    train, test = loaders(128)
    optimizer = AutoOptimizer(
        "speed", ratios=(), epochs=0.5, max_accuracy_drop=0.2, measure=pretend(fp32=4.0, fp16=4.5, int8=int8)
    )
    results = optimizer.optimize_model(trained, train, test, validation_loader=test)
    assert results["best"]["name"] == expected and "chosen on" not in results["explanation"]


def invented(numbers):
    """Measures nothing: name -> (milliseconds, accuracy), accuracies by the loader that is scored, first validation, then test."""
    seen = []

    def measure(files, loader, **options):
        seen.append(loader)
        rows = {}
        for name in files:
            milliseconds, accuracies = numbers[name]
            size = 1e6 if name == "fp32" else 2e5
            row = {"size_bytes": size, "size_mb": size / 1e6, "latency_ms": milliseconds, "fps": 1000 / milliseconds}
            rows[name] = row | {"accuracy": accuracies[len(seen) - 1]}
        return rows

    return measure, seen


def test_every_kind_says_what_is_wrong_with_it(trained):
    train, test = loaders(64)
    numbers = {"fp32": (1.0, [0.76]), "int8": (0.5, [0.75])}
    numbers |= {"fp32 pruned 50%": (0.8, [0.70]), "int8 pruned 50%": (2.0, [0.10])}
    measure, _ = invented(numbers)
    optimizer = AutoOptimizer("size", ratios=(0.5,), precisions=("int8",), epochs=0.1, measure=measure)
    results = optimizer.optimize_model(trained, train, test)
    assert results["best"]["name"] == "int8" and results["best"]["satisfied"] and results["best"]["warnings"] == ()
    combined = results["combined"]
    assert not combined["satisfied"] and combined["choice"].candidate.name == combined["name"] == "int8 pruned 50%"
    assert combined["warnings"] == (
        "66.0 points of accuracy lost, at most 2 were allowed",
        "slower than fp32: 2 ms against 1",
    )
    assert not results["pruned"]["satisfied"] and "6.0 points of accuracy lost" in results["pruned"]["warnings"][0]
    assert results["baseline"]["satisfied"] and results["baseline"]["warnings"] == ()
    assert results["choice"] is results["best"]["choice"]


def test_the_choice_is_made_on_validation_images_and_checked_on_test_images(trained):
    train, test = loaders(64)
    validation = compression.Batches(test.x[:20], test.y[:20], 20, shuffle=False)
    measure, seen = invented({"fp32": (1.0, [0.75, 0.76]), "int8": (0.5, [0.76, 0.10])})
    optimizer = AutoOptimizer("speed", ratios=(), precisions=("int8",), epochs=0.1, measure=measure)
    results = optimizer.optimize_model(trained, train, test, validation)
    assert seen == [validation, test]
    best = results["best"]
    assert best["name"] == "int8"  # test images would have said fp32
    assert best["metrics"]["accuracy"] == 0.10 and not best["satisfied"] and not results["choice"].satisfied
    assert best["warnings"] == ("on the test images 66.0 points of accuracy lost, at most 2 were allowed",)
    assert "-66.0 points of accuracy on the test images; note: on the test" in results["explanation"]
    measure, _ = invented({"fp32": (1.0, [0.75, 0.76]), "int8": (0.5, [0.76, 0.75])})
    optimizer = AutoOptimizer("speed", ratios=(), precisions=("int8",), epochs=0.1, measure=measure)
    results = optimizer.optimize_model(trained, train, test, validation)
    assert results["best"]["satisfied"] and "-1.0 points of accuracy on the test images" in results["explanation"]


def test_a_kind_that_was_not_made_is_the_baseline_and_says_so(trained):
    train, test = loaders(64)
    measure, _ = invented({"fp32": (1.0, [0.76])})
    results = AutoOptimizer(ratios=(), precisions=("fp32",), measure=measure).optimize_model(trained, train, test)
    for kind, label in (("quantized", "quantized"), ("pruned", "pruned"), ("combined", "both quantized and pruned")):
        assert results[kind]["name"] == "fp32"
        assert results[kind]["warnings"][0].startswith(f"nothing {label} was made with precisions=('fp32',), ratios=()")
    assert results["baseline"]["warnings"] == results["best"]["warnings"] == ()


def test_a_network_with_adapters_is_optimized_and_quantized_without_them():
    train, test = loaders(64)
    network = models.build("vit", digits(), num_outputs=10, patch_size=4, width=16, depth=2, num_heads=2).eval()
    lora.inject(network, rank=2)
    with torch.no_grad():
        for layer in lora.model.adapted(network).values():
            layer.lora_B["default"].normal_(0, 0.1)
    x = images(4)
    before = network(x)
    optimizer = AutoOptimizer(ratios=(0.5,), epochs=0.5, measure=pretend(fp32=1.0, fp16=1.0, int8=1.0))
    results = optimizer.optimize_model(network, train, test, image_shape=(1, 8, 8))
    torch.testing.assert_close(results["baseline"]["model"](x), before, rtol=1e-4, atol=1e-5)
    made = compression.quantize_model(network, train, qat_epochs=0, image_shape=(1, 8, 8))["quantized_model"]
    assert compression.signal_to_noise(before, made(x)) > 15
    assert lora.model.adapters(network) == ["default"] and torch.equal(network(x), before)


def test_a_transformer_loses_blocks_too():
    train, test = loaders(64)
    network = models.build("vit", digits(), num_outputs=10, patch_size=4, width=16, depth=4, num_heads=2)
    for depth, left in ((True, 2), (False, 4)):
        optimizer = AutoOptimizer(
            "size", ratios=(0.5,), precisions=("fp32",), depth=depth, epochs=0.5, measure=pretend(fp32=1.0)
        )
        results = optimizer.optimize_model(network, train, test, image_shape=(1, 8, 8))
        made = results["pruned"]["model"]
        assert len(compression.block_names(made)) == left
        assert results["pruned"]["metrics"]["parameters"] < 0.6 * results["baseline"]["metrics"]["parameters"]


def test_auto_optimizer_refuses_what_it_does_not_know(monkeypatch):
    with pytest.raises(ValueError, match="choose a target of speed, size, accuracy, balanced"):
        AutoOptimizer("latency")
    with pytest.raises(ValueError, match="give shares in \\[0, 1\\), ascending"):
        AutoOptimizer(ratios=(0.5, 0.25))
    for there_is, said in ((False, True), (True, False)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there_is=there_is: there_is)
        with pytest.raises(
            ValueError, match="device='cuda': files are timed by ONNX Runtime.*Use device='cpu'"
        ) as caught:
            AutoOptimizer(device="cuda")
        assert ("this machine has no CUDA GPU" in str(caught.value)) == said


# ---- the report ----------------------------------------------------------------------------------------------------


def rows():
    base = {"size_bytes": 4e6, "size_mb": 4.0, "parameters": 1_000_000, "macs": None, "integer_nodes": 0}
    base |= {
        "latency_ms": 2.0,
        "latency_p95_ms": 2.5,
        "fps": 500.0,
        "accuracy": 0.92,
        "memory_mb": 9.0,
        "machine": "a CPU",
    }
    small = {
        **base,
        "size_bytes": 5e5,
        "size_mb": 0.5,
        "latency_ms": 0.5,
        "fps": 2000.0,
        "accuracy": 0.91,
        "integer_nodes": 5,
    }
    slow = {**small, "size_mb": 5.0, "latency_ms": 4.0, "accuracy": None}
    return {"fp32": base, "int8 <b>": small, "odd": slow}


def test_four_panels(tmp_path):
    found = rows()
    figure = compression.plot_optimization_comparison(found, "digits (test)", save_path=tmp_path / "c.png")
    del found["odd"]
    scored = compression.plot_optimization_comparison(found, "digits (test)")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    labels = [axes.get_xlabel() for axes in scored.axes[:4]]
    assert labels[:3] == ["size of the file (MB)", "images a second", "accuracy (%)"] and "less is better" in labels[3]
    assert scored.get_suptitle() == "digits (test)" and len(scored.axes) == 5  # with the colour bar
    assert "accuracy (not measured)" in [axes.get_xlabel() for axes in figure.axes]
    assert png(scored).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="give what benchmark_models"):
        compression.plot_optimization_comparison({"a": {"size": 3}})


def test_tasks_and_front_are_drawn():
    history = [{"task": i, "size_mb": 1 / i, "accuracy": 0.9, "forgetting": 0.1, "latency_ms": None} for i in (1, 2, 3)]
    figure = compression.plot_efficiency_over_tasks({"a": history, "b": history}, "digits")
    lines = {axes.get_ylabel(): len(axes.lines) for axes in figure.axes}
    assert lines == {
        "size of the file (MB)": 2, "latency (ms)": 0, "accuracy on all tasks seen (%)": 2, "forgetting (points)": 2
    }  # fmt: skip
    faster = compression.plot_efficiency_over_tasks([{**row, "speedup": 2.0} for row in history])
    assert "times as fast as uncut" in {axes.get_ylabel() for axes in faster.axes if axes.lines}
    many = compression.plot_efficiency_over_tasks({f"run {number}": history for number in range(9)})
    assert len(many.legends[0].texts) == 9
    with pytest.raises(ValueError, match="history is empty"):
        compression.plot_efficiency_over_tasks([])
    front = compression.plot_front([BASE, INT8, HALF], chosen="int8")
    assert [len(axes.lines) for axes in front.axes] == [3, 3]


def test_the_report_says_what_was_measured(tmp_path):
    text = compression.create_efficiency_report(rows(), tmp_path / "report.md", title="Small", notes="A note.")
    assert text == (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| fp32 | 4.000 | 1,000,000 |" in text and "macs" not in text.lower().replace("machine", "")
    assert "**int8 <b>**: 8.0 times smaller, 4.0 times as fast, -1.0 points of accuracy" in text
    assert "**odd**: 1.2 times larger, 2.0 times slower" in text
    assert "Measured on: a CPU" in text and text.rstrip().endswith("A note.")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "int8 &lt;b&gt;" in page and not re.search(r"(?:src|href)=", page)
    assert page.count("<tr>") == 4 and "A note." in page
    assert json.dumps(report.rows_of(rows()))


def test_an_optimizers_results_are_reported(trained):
    train, test = loaders(128)
    measure = pretend(fp32=4.0, fp16=4.5, int8=1.0)
    results = AutoOptimizer("size", ratios=(0.5,), epochs=0.3, max_accuracy_drop=0.9, measure=measure).optimize_model(
        trained, train, test
    )
    text = compression.create_efficiency_report(results)
    assert "| baseline: fp32 |" in text and "**Chosen:** " in text and "pruned 50% for size" in text
    assert torch.is_tensor(results["best"]["model"](images(1)))
    compression.plot_optimization_comparison(results)


def test_ratios_are_those_of_the_first_row():
    rows = {
        "whole": {"size_bytes": 800, "latency_ms": 6.0},
        "small": {"size_bytes": 100, "latency_ms": 2.0},
        "slow": {"size_bytes": 1600, "latency_ms": 12.0},
    }
    found = benchmark.compared(rows)
    assert [row["size_ratio"] for row in found.values()] == [1, 8, 0.5]
    assert [row["speedup"] for row in found.values()] == [1, 3, 0.5]
