"""Compression in a stream: narrower after every task, quantized with all tasks' samples, resumable, with other methods."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from core_helpers import digit_stream, interrupted, make_learner, same, weights
from test_multimodal_fusion import network as fusion_network
from test_multimodal_stream import DIGITS, WORDS, text_stream
from test_multimodal_stream import network as clip_network
from torch import nn

from course_utils import compression, lora, methods, models, multimodal, streams
from course_utils.compression import watching
from course_utils.compression.deployment import ImageClassifier
from course_utils.learner import Learner

QUICK = {"finetune_steps": 4, "track_efficiency": False, "batch_size": 8}


def learner(stream, wanted, *, widths=(8,), steps=12, **options):
    network = models.build("small_cnn", stream, widths=widths, num_features=16)
    settings = {"batch_size": 8, "lr": 0.01, "show_progress": False, "steps_per_task": steps, **options}
    return Learner(network, wanted, **settings)


def test_the_network_gets_narrower_on_the_cubic_schedule_and_goes_on_learning(tmp_path):
    stream = digit_stream()
    compress = compression.Compress(0.5, quantize="each task", folder=tmp_path, **QUICK)
    run = learner(stream, [methods.Replay(30), compress])
    history = run.fit(stream)
    gone = [compression.cubic_sparsity(step, 3, 0.5) for step in (1, 2, 3)]
    assert [row["sparsity"] for row in compress.rows] == pytest.approx(gone)
    assert run.model.body[1].out_channels == 4 and run.model.dense[0].out_features == 8
    assert run.model.num_outputs == 10 and run.model.head.num_features == 8
    assert not np.isnan(history.accuracy[np.tril_indices(3)]).any()
    assert sorted(path.name for path in tmp_path.glob("*.onnx")) == ["task_1.onnx", "task_2.onnx", "task_3.onnx"]
    assert compress.deployed == tmp_path / "task_3.onnx"
    assert [row["kind"] for row in compress.rows] == ["qint8"] * 3
    assert history.remarks == ["Compress: 4 more steps after every cut"]


def test_the_files_answers_are_what_is_scored(tmp_path):
    stream = digit_stream()
    compress = compression.Compress(0.25, folder=tmp_path, **QUICK)
    learner(stream, [methods.Replay(30), compress]).fit(stream)
    run = compression.Deployed(tmp_path / "task_3.onnx")
    for task in stream:
        right = run(task.test.x.float() / 255).argmax(axis=1) == task.test.y.numpy()
        assert compress.accuracy[2, task.index] == pytest.approx(right.mean())
    assert np.isnan(compress.accuracy[0, 1]) and [row["kind"] for row in compress.rows] == [
        "float32",
        "float32",
        "qint8",
    ]
    last = compress.rows[-1]
    assert last["size_mb"] == (tmp_path / "task_3.onnx").stat().st_size / 1e6
    assert last["accuracy"] == pytest.approx(compress.accuracy[2].mean())
    matrix = compress.accuracy
    assert last["forgetting"] == pytest.approx(np.mean([np.nanmax(matrix[:2, j]) - matrix[2, j] for j in range(2)]))
    assert compression.nodes_run(tmp_path / "task_3.onnx")["QGemm"] == 2


def test_ranges_come_from_samples_of_all_tasks(monkeypatch):
    shown = []
    calibrate = compression.stream.calibrate
    monkeypatch.setattr(
        compression.stream,
        "calibrate",
        lambda model, parts: shown.append(torch.cat(list(parts))) or calibrate(model, parts),
    )
    stream = digit_stream()
    run = learner(stream, [methods.Replay(30), compression.Compress(0.25, **QUICK)])
    run.fit(stream)
    buffer = run.methods[0].buffer.all()
    assert set(buffer["task"].tolist()) == {0, 1, 2}
    stored = {image.numpy().tobytes() for image in buffer["x"]}
    assert {image.numpy().tobytes() for image in shown[0]} == stored


def test_in_front_of_replay_it_adds_the_current_task_itself():
    stream = digit_stream()
    compress = compression.Compress(0.25, **QUICK)
    run = learner(stream, [compress, methods.Replay(30)])
    run.fit(stream.first(1))
    run.stream, run.task = stream, stream[1]
    memory = compress._memory(run, stream[1].train, 1)
    assert set(memory.fields["task"].tolist()) == {0, 1}


def test_without_a_memory_it_says_what_it_was_calibrated_on():
    stream = digit_stream()
    run = learner(stream, [compression.Compress(0.25, **QUICK)])
    assert "Compress: no memory, so it was fine-tuned and calibrated on the last task alone" in run.fit(stream).remarks


def test_cutting_once_at_the_end_and_not_at_all():
    stream = digit_stream()
    once = compression.Compress(0.5, prune_per_task=False, **QUICK)
    learner(stream, [methods.Replay(30), once]).fit(stream)
    assert [row["sparsity"] for row in once.rows] == [0, 0, 0.5]
    never = compression.Compress(enable_pruning=False, quantization_dtype="float16", **QUICK)
    run = learner(stream, [methods.Replay(30), never])
    run.fit(stream)
    plain = learner(stream, [methods.Replay(30)])
    plain.fit(stream)
    assert same(weights(run.model), weights(plain.model))  # only copies are quantized
    assert never.rows[-1]["kind"] == "float16" and never.rows[-1]["size_mb"] < never.rows[0]["size_mb"]
    off = compression.Compress(enable_pruning=False, enable_quantization=False, **QUICK)
    learner(stream, [off]).fit(stream)
    assert [row["kind"] for row in off.rows] == ["float32"] * 3


def test_training_with_rounded_numbers_changes_only_the_copy():
    stream = digit_stream()
    runs = []
    for steps in (0, 6):
        run = learner(stream, [methods.Replay(30), compression.Compress(0.25, qat_steps=steps, **QUICK)])
        run.fit(stream)
        runs.append(run)
    assert same(weights(runs[0].model), weights(runs[1].model))


@pytest.mark.parametrize("scenario", ["task", "domain"])
def test_other_scenarios(scenario):
    stream = digit_stream(scenario)
    compress = compression.Compress(0.5, **QUICK)
    history = learner(stream, [methods.Replay(30), compress], steps=20).fit(stream)
    seen = np.tril_indices(3)
    assert np.abs(compress.accuracy[seen] - history.accuracy[seen]).max() < 0.35  # rounding apart, the same network
    assert np.isfinite(compress.accuracy[seen]).all()


@pytest.mark.parametrize("position,step", [(1, 5), (2, 0), (2, 5)])
def test_a_saved_run_resumes_to_the_same_bytes(position, step, tmp_path):
    stream = digit_stream()

    def build():
        return learner(stream, [methods.Replay(30), compression.Compress(0.5, **QUICK)], steps=10)

    whole = build()
    whole.fit(stream)
    interrupted(build(), stream, tmp_path / "run.pt", 5, position, step)
    again = build()
    again.resume(tmp_path / "run.pt")
    history = again.fit(stream)
    assert same(dict(again.model.named_parameters()), dict(whole.model.named_parameters()))
    assert np.array_equal(history.accuracy, whole.history.accuracy, equal_nan=True)
    assert again.methods[1].rows == whole.methods[1].rows
    assert np.array_equal(again.methods[1].accuracy, whole.methods[1].accuracy, equal_nan=True)


def _with_adapters(compress_first):
    adapters, compress = lora.LoRA(2, adapters="merged"), compression.Compress(0.5, **QUICK)
    both = [compress, adapters] if compress_first else [adapters, compress]
    return learner(digit_stream(), [methods.Replay(30), *both], steps=10), compress


@pytest.mark.parametrize("compress_first", [True, False])
@pytest.mark.parametrize(("position", "step"), [(1, 0), (1, 5), (2, 0), (2, 5)])
def test_a_run_with_adapters_resumes_to_the_same_bytes_or_refuses_to_be_saved(compress_first, position, step, tmp_path):
    stream = digit_stream()
    first = _with_adapters(compress_first)[0]
    if step and not compress_first:
        with pytest.raises(ValueError, match="put Compress in front of LoRA in the list"):
            interrupted(first, stream, tmp_path / "run.pt", 5, position, step)
        return
    whole, watched = _with_adapters(compress_first)
    whole.fit(stream)
    every = 5 if compress_first else None
    interrupted(first, stream, tmp_path / "run.pt", every, position, step)
    again, resumed = _with_adapters(compress_first)
    again.resume(tmp_path / "run.pt")
    again.fit(stream)
    assert again.model.body[1].out_channels == 4
    assert same(dict(again.model.named_parameters()), dict(whole.model.named_parameters()))
    assert resumed.rows == watched.rows
    assert np.array_equal(again.history.accuracy, whole.history.accuracy, equal_nan=True)


def test_memory_is_measured_when_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(watching, "peak_memory", lambda path, shape: asked.append((path.is_file(), shape)) or 3_000_000)
    stream = digit_stream().first(2)
    compress = compression.Compress(0.5, track_memory=True, **QUICK)
    learner(stream, [methods.Replay(30), compress]).fit(stream)
    assert [row["memory_mb"] for row in compress.rows] == [3.0, 3.0] and asked == [(True, (1, 8, 8))] * 2
    assert "memory_mb" not in _rows_without_memory(stream)[-1]


def _rows_without_memory(stream):
    compress = compression.Compress(0.5, **QUICK)
    learner(stream, [methods.Replay(30), compress]).fit(stream)
    return compress.rows


def test_memory_of_a_deployed_file_is_that_of_a_process_of_its_own():
    stream = digit_stream().first(1)
    compress = compression.Compress(0.0, track_memory=True, **QUICK)
    learner(stream, [compress]).fit(stream)
    assert 0 < compress.rows[0]["memory_mb"] < 40  # the libraries alone take more


def test_the_same_seed_gives_the_same_network():
    stream = digit_stream()
    found = []
    for _ in range(2):
        run = learner(stream, [methods.Replay(30), compression.Compress(0.5, qat_steps=3, **QUICK)])
        run.fit(stream)
        found.append((weights(run.model), run.methods[1].accuracy.tolist()[-1]))
    assert same(found[0][0], found[1][0]) and found[0][1] == found[1][1]


# ---- with other methods --------------------------------------------------------------------------------------------


def test_with_merged_adapters():
    stream = digit_stream()
    compress = compression.Compress(0.5, **QUICK)
    run = learner(stream, [methods.Replay(30), lora.LoRA(2, adapters="merged"), compress])
    run.fit(stream)
    assert run.model.body[1].out_channels == 4
    assert compress.rows[-1]["kind"] == "qint8" and np.isfinite(compress.accuracy[2]).all()


@pytest.mark.parametrize("other", [methods.Distill(), methods.DERpp(20), methods.Joint()], ids=lambda m: m.name)
def test_with_methods_that_keep_or_replace_the_network(other):
    stream = digit_stream()
    compress = compression.Compress(0.5, **QUICK)
    run = learner(stream, [other, compress])
    run.fit(stream)
    assert run.model.body[1].out_channels == 4 and np.isfinite(compress.accuracy[2]).all()


def test_a_transformer_in_a_stream():
    stream = digit_stream()
    network = models.build("vit", stream, patch_size=4, width=16, depth=2, num_heads=2)
    compress = compression.Compress(0.5, **QUICK)
    Learner(network, [methods.Replay(30), compress], steps_per_task=8, batch_size=8, show_progress=False).fit(stream)
    assert network.blocks[0].attention.num_heads == 1 and network.blocks[0].mlp.up.out_features == 32
    assert np.isfinite(compress.accuracy[2]).all()


def test_the_image_tower_of_a_pair_is_deployed(tmp_path):
    stream = text_stream()
    network = clip_network(stream)
    compress = compression.Compress(0.5, folder=tmp_path, **QUICK)
    wanted = [methods.Replay(20), multimodal.Contrastive(), compress]
    Learner(network, wanted, steps_per_task=6, batch_size=8, show_progress=False).fit(stream)
    made = compression.deployable(network)
    assert isinstance(made, ImageClassifier) and compression.parameters(made) < compression.parameters(network)
    x = stream[0].test.x[:6].float() / 255
    with torch.no_grad():
        torch.testing.assert_close(made(x), network.eval()(x), rtol=1e-4, atol=1e-4)
    assert compression.Deployed(compress.deployed)(x).shape == (6, stream.num_outputs)


@pytest.mark.parametrize(("model", "gone"), [("small_cnn", 0.4), ("mlp", 0)])
def test_a_row_says_how_much_of_a_tower_is_really_gone(model, gone, tmp_path):
    """The last dense layer of a tower keeps its width, and the MLP's tower has no other: nothing can be cut there."""
    stream = text_stream()
    options = {"widths": (8,), "num_features": 4} if model == "small_cnn" else {"hidden": (16,)}
    text = {"width": 16, "num_heads": 2, "depth": 1}
    network = multimodal.build_clip(stream, DIGITS, WORDS, model, 0, dim=8, text=text, **options)
    compress = compression.Compress(0.5, folder=tmp_path, **QUICK)
    wanted = [methods.Replay(20), multimodal.Contrastive(), compress]
    history = Learner(network, wanted, steps_per_task=6, batch_size=8, show_progress=False).fit(stream)
    last = compress.rows[-1]
    assert last["sparsity"] == 0.5
    assert ("Compress: no layer could be made narrower" in " ".join(history.remarks)) == (gone == 0)
    if gone == 0:
        assert last["channels_gone"] == 0 and last["parameters"] == compress.rows[0]["parameters"]
        return
    widths = {name: len(m.weight) for name, m in network.image.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert widths == {"body.1": 4, "dense.0": 4}  # of 8 and 4
    assert last["channels_gone"] == pytest.approx(4 / 12)
    assert last["parameters"] < compress.rows[0]["parameters"]
    nodes = compression.nodes_run(compress.deployed)
    assert nodes["QGemm"] > 0


def test_fusion_is_deployed_with_its_text_read(tmp_path):
    stream = text_stream()
    network = fusion_network(stream)
    compress = compression.Compress(0.5, folder=tmp_path, **QUICK)
    Learner(network, [methods.Replay(20), compress], steps_per_task=6, batch_size=8, show_progress=False).fit(stream)
    floats = compression.Deployed(compression.export_onnx(network, tmp_path / "floats.onnx", (1, 8, 8)))
    x = stream[0].test.x[:6].float() / 255
    np.testing.assert_allclose(floats(x), network.eval()(x).detach().numpy(), rtol=1e-3, atol=1e-4)
    assert compression.nodes_run(compress.deployed)["QGemm"] > 0


def test_what_does_not_go_together_is_refused():
    stream = digit_stream()
    for wanted, message in (
        ([methods.EWC(1.0)], "Compress and ewc: ewc knows weights by their place"),
        ([lora.LoRA(2, adapters="shared")], "use adapters='merged'"),
    ):
        with pytest.raises(ValueError, match=message):
            learner(stream, [*wanted, compression.Compress(0.5, **QUICK)]).fit(stream)
    with pytest.raises(ValueError, match="keep_optimizer=True"):
        learner(stream, [compression.Compress(0.5, **QUICK)], keep_optimizer=True).fit(stream)
    learner(stream, [methods.EWC(1.0), compression.Compress(enable_pruning=False, **QUICK)]).fit(stream)
    with pytest.raises(ValueError, match="choose end or each task, and qint8 or float16"):
        compression.Compress(quantize="never")
    with pytest.raises(ValueError, match="target_sparsity=1.0"):
        compression.Compress(1.0)


def test_regression_streams_are_compressed_too():
    rng = np.random.default_rng(0)
    x = rng.random((60, 1, 8, 8), dtype=np.float32)
    y = x.mean(axis=(1, 2, 3))
    stream = streams.from_arrays([{"train": (x, y), "test": (x[:20], y[:20])}] * 2)
    compress = compression.Compress(0.5, **QUICK)
    learner(stream, [methods.Replay(20), compress]).fit(stream)
    assert np.isfinite(compress.accuracy[1]).all()


def test_efficiency_is_tracked_and_told(capsys):
    stream = digit_stream()
    compress = compression.Compress(0.5, **{**QUICK, "track_efficiency": True})
    with pytest.raises(ValueError, match="nothing has been deployed yet"):
        compress.get_efficiency_summary()
    learner(stream, [methods.Replay(30), compress]).fit(stream)
    summary = compress.get_efficiency_summary()
    assert summary["fps"] > 0 and summary["size_ratio"] > 1 and "speedup" in summary
    compress.print_efficiency_report()
    assert capsys.readouterr().out.count("\n| ") >= 4
    assert make_learner(stream) is not None


def test_the_memory_of_derpp_is_used_though_it_holds_other_fields():
    stream = digit_stream()
    compress = compression.Compress(0.5, **QUICK)
    history = learner(stream, [methods.DERpp(30), compress]).fit(stream)
    assert not [remark for remark in history.remarks if "no memory" in remark]
    drawn = compress._memory(learner(stream, []), stream[0].train, 0)
    assert drawn is stream[0].train  # nobody stores anything


def test_ratios_are_against_the_network_before_any_cut_also_when_every_task_is_quantized(tmp_path):
    stream = digit_stream()
    compress = compression.Compress(0.5, quantize="each task", folder=tmp_path, **{**QUICK, "track_efficiency": True})
    run = learner(stream, [methods.Replay(30), compress])
    run.fit(stream)
    whole = compression.export_onnx(
        models.build("small_cnn", stream, widths=(8,), num_features=16, num_outputs=stream[0].outputs),
        tmp_path / "whole.onnx",
        stream.image_shape,
    )
    for row in compress.rows:
        assert row["size_ratio"] == pytest.approx(whole.stat().st_size / (1e6 * row["size_mb"]), rel=0.02)
        assert row["speedup"] > 0
    assert compress.get_efficiency_summary() == compress.rows[-1]
    again = compression.Compress(0.5, **QUICK)
    again.load_state_dict(run, compress.state_dict())
    assert again.whole == compress.whole


def test_a_split_that_there_is_not_is_named_at_once():
    with pytest.raises(ValueError, match="evaluate='tset' is no split; choose one of train, validation, test"):
        compression.Compress(evaluate="tset")
    with pytest.raises(ValueError, match="nothing has been deployed yet"):
        compression.Compress().print_efficiency_report()
