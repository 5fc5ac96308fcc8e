"""Lesson 07: networks as small integers, with fewer channels, measured as the files they become, and kept small in a stream.

Digits in the smoke and quick presets; in full Fashion-MNIST.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from course_utils import Learner, compression, datasets, methods, metrics, models, streams
from course_utils.augment import Affine
from course_utils.lessons import storage
from course_utils.lessons.experiment import Experiment, describe, modules

NUM_TASKS = 5


@cache
def load(name: str) -> Any:
    """The data set, once per process. Never a stand-in in the place of a real one."""
    return datasets.load(name, allow_standin=False)


def loaders(config: Mapping[str, Any], seed: int = 0) -> tuple[Any, Any, Any]:
    """Training, validation and test images in batches; `limit` is the number of training images, None for all."""
    data = load(config["data"])
    train = compression.Batches(data.train.x, data.train.y, config["batch_size"], seed=seed)
    if config["limit"] is not None:
        order = torch.randperm(len(train.x), generator=torch.Generator().manual_seed(seed))[: config["limit"]]
        train = compression.Batches(train.x[order], train.y[order], config["batch_size"], seed=seed)
    held = [compression.Batches(part.x, part.y, 500, shuffle=False) for part in (data.validation, data.test)]
    return train, held[0], held[1]


# ---- a network to compress -------------------------------------------------------------------------------------------


def trained(config: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """The network of a configuration after joint training on all classes, in eval mode; a copy.

    Once per process, and in a checkout kept under `build/lesson_07/`: three experiments and the notebook start from it.
    """
    names = ("data", "limit", "network", "options", "epochs", "lr", "batch_size", "augmented")
    settings = {name: config[name] for name in names if name in config}
    return copy.deepcopy(_trained(json.dumps(settings, sort_keys=True), seed))


@cache
def _trained(settings: str, seed: int) -> nn.Module:
    config = json.loads(settings)
    model = models.build(config["network"], load(config["data"]), seed=seed, num_outputs=10, **config["options"])
    results = storage.results_folder()
    digest = hashlib.sha256(f"{settings} {seed} {torch.__version__}".encode()).hexdigest()[:16]
    place = None if results is None else results.parent / "build" / "lesson_07" / f"{digest}.pt"
    if place is not None and place.is_file():
        model.load_state_dict(torch.load(place, weights_only=True))
        return model.eval()
    train, _, _ = loaders(config, seed)
    moved = Affine(*config["augmented"]) if "augmented" in config else None
    compression.finetune(model, train, epochs=config["epochs"], lr=config["lr"], seed=seed, augment=moved)
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), place)
    return model.eval()


def shape_of(config: Mapping[str, Any]) -> tuple[int, ...]:
    """(channels, height, width) of the images."""
    return tuple(load(config["data"]).image_shape)


# ---- versions of it --------------------------------------------------------------------------------------------------


def rounded(
    network: nn.Module, config: Mapping[str, Any], train: Any, teacher: nn.Module, steps: int = 0, first: bool = False
) -> nn.Module:
    """8-bit integers: ranges from eight batches, then `steps` of training with rounded numbers; `first`: the first layer, too."""
    bits = compression.weight_bits()
    made = compression.prepare(network, shape_of(config), bits=bits, keep_first=not first).requires_grad_(True)
    compression.calibrate(made, islice(train, 8))
    if steps:
        compression.train_rounded(made, train, teacher=teacher, steps=steps, lr=config["lr"] / 2)
    return made.eval()


def narrower(network: nn.Module, ratio: float, config: Mapping[str, Any], train: Any, teacher: nn.Module) -> nn.Module:
    """A copy with `ratio` of the teacher's channels gone, mended by `heal` steps with the teacher."""
    made = copy.deepcopy(network).requires_grad_(True)
    compression.ChannelPruner(made, ratio, shape_of(config), original=teacher).step()
    compression.finetune(made, train, steps=config["heal"], lr=config["lr"], teacher=teacher)
    return made.eval()


def versions(config: Mapping[str, Any], model: nn.Module, train: Any) -> dict[str, nn.Module]:
    """Name -> network; the first one is the original. Each cut starts from the one before."""
    made: dict[str, nn.Module] = {"fp32": model, "int8": rounded(model, config, train, model)}
    made["int8, first layer too"] = rounded(model, config, train, model, first=True)
    made["int8, trained"] = rounded(model, config, train, model, config["qat"])
    zeros = compression.prune_model(model, 0.5, "magnitude", gradual=False, image_shape=shape_of(config))
    made["half of the weights zero"] = zeros["pruned_model"]
    narrow = model
    for ratio in RATIOS:
        narrow = narrower(narrow, ratio, config, train, model)
        made[f"{ratio:.0%} pruned"] = narrow
        made[f"{ratio:.0%} pruned, int8"] = rounded(narrow, config, train, model)
        made[f"{ratio:.0%} pruned, int8 trained"] = rounded(narrow, config, train, model, config["qat"])
    return made


def run_front(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """A network and a dozen versions of it: the files' sizes, times relative to the first one, and accuracies."""
    train, validation, test = loaders(config, seed)
    model = trained(config, seed)
    return {
        "data": describe(load(config["data"])),
        **measured(versions(config, model, train), config, train, validation, test),
    }


def measured(
    made: Mapping[str, nn.Module], config: Mapping[str, Any], train: Any, validation: Any, test: Any, half: str = ""
) -> dict[str, Any]:
    """Write every network as a file, beside it the first one in 16 bits and as ONNX Runtime itself quantizes it, and measure.

    half: name of one more network to write in 16 bits, if any.
    """
    shape = shape_of(config)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        files = {
            name: compression.export_onnx(network, place / f"{number}.onnx", shape)
            for number, (name, network) in enumerate(made.items())
        }
        first = next(iter(made))
        halves = {"fp16": made[first]} | ({f"{half}, fp16": made[half]} if half else {})
        for number, (name, network) in enumerate(halves.items()):
            files[name] = compression.export_onnx(network, place / f"half_{number}.onnx", shape, half=True)
        calibration = [images for images, _ in islice(train, 8)]
        logging.disable(logging.WARNING)  # it advises to fold first; that it does not is what we look at
        try:
            library = compression.post_training_quantization(files[first], place / "ort.onnx", calibration)
        finally:
            logging.disable(logging.NOTSET)
        files["ONNX Runtime's int8"] = library
        same = {"image_shape": shape, "memory": False, "rounds": config["rounds"], "runs": config["runs"]}
        same["seconds"] = config.get("seconds", 0.0)
        rows = compression.benchmark_models(files, test, batch_size=1, **same)
        many = compression.benchmark_models(files, None, batch_size=32, **same)
        for name, path in files.items():
            network = {**made, **halves}.get(name, made[first])
            rows[name] |= {
                "speedup_32": many[name]["speedup"],
                "fps_32": many[name]["fps"],
                "validation": compression.Deployed(path).accuracy(validation),
                "parameters": compression.parameters(network),
                "macs": compression.count_macs(network, shape),
                "nodes": dict(compression.nodes_run(path)),
                "path": None,
            }
    return {"rows": rows, "machine": compression.machine(1)}


def run_half(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """30 % of the channels gone and the rest in 16 bits, as a leaflet has it."""
    train, validation, test = loaders(config, seed)
    model = trained(config, seed)
    made = {"fp32": model, "30% pruned": narrower(model, 0.3, config, train, model)}
    found = measured(made, config, train, validation, test, half="30% pruned")
    return {"data": describe(load(config["data"])), **found}


# ---- bits ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def with_bits(model: nn.Module, shape: tuple[int, ...], bits: int, per_channel: bool) -> nn.Module:
    """A copy whose weights are rounded to so many bits, BatchNorm folded first; one scale a channel, or one a layer."""
    made = copy.deepcopy(model).eval()
    compression.fold_batchnorm(made, shape)
    for parameter in made.parameters():
        if parameter.dim() > 1:
            rows = parameter.flatten(1) if per_channel else parameter.reshape(1, -1)
            scale = compression.channel_scales(rows, bits)[:, None]
            last = compression.levels(bits, signed=True)[1]
            parameter.copy_(((rows / scale).round().clamp(-last, last) * scale).view_as(parameter))
    return made


def run_bits(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """Accuracy in per cent by bits of the weights, without any training behind the rounding."""
    model, test, shape = trained(config, seed), loaders(config, seed)[2].first(config["images"]), shape_of(config)
    found = [100 * compression.accuracy(with_bits(model, shape, bits, config["per_channel"]), test) for bits in BITS]
    return {
        "data": describe(load(config["data"])),
        "bits": BITS,
        "accuracy": found,
        "fp32": 100 * compression.accuracy(model, test),
    }


# ---- a transformer -----------------------------------------------------------------------------------------------------


def run_vit(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """The same for a Vision Transformer: half of its blocks go, then half of the heads and neurons of those that stay."""
    train, validation, test = loaders(config, seed)
    model = trained(config, seed)
    made: dict[str, nn.Module] = {"fp32": model, "int8": rounded(model, config, train, model)}
    made["int8, trained"] = rounded(model, config, train, model, config["qat"])
    images = next(iter(train))[0]
    narrow = copy.deepcopy(model).requires_grad_(True)
    for _ in range(len(compression.block_names(model)) // 2):
        compression.drop_blocks(narrow, 1, images)
        compression.finetune(narrow, train, steps=config["heal"], lr=config["lr"], teacher=model)
    made["half of the blocks"] = copy.deepcopy(narrow).eval()
    pruner = compression.ChannelPruner(narrow, 0.5, shape_of(config), steps=2)
    for steps in (config["heal"], config["last"]):
        pruner.step()
        compression.finetune(narrow, train, steps=steps, lr=config["lr"], teacher=model)
    made["half of the blocks, half as wide"] = narrow.eval()
    made["half of the blocks, half as wide, int8"] = rounded(narrow, config, train, model)
    made["half of the blocks, half as wide, int8 trained"] = rounded(narrow, config, train, model, config["last"])
    return {
        "data": describe(load(config["data"])),
        **measured(made, config, train, validation, test),
    }


# ---- which channels, and which version -------------------------------------------------------------------------------


def run_norms(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """Accuracy in per cent by share of channels that is gone, right after the cut and once it is mended; chosen by one norm."""
    train, _, test = loaders(config, seed)
    test = test.first(config["images"])
    model, shape = trained(config, seed), shape_of(config)
    after: dict[str, list[float]] = {"cut": [], "mended": []}
    for ratio in RATIOS:
        made = copy.deepcopy(model).requires_grad_(True)
        compression.ChannelPruner(made, ratio, shape, norm=config["norm"], own=config["own"], seed=seed).step()
        after["cut"].append(100 * compression.accuracy(made.eval(), test))
        compression.finetune(made, train, steps=config["heal"], lr=config["lr"], teacher=model)
        after["mended"].append(100 * compression.accuracy(made.eval(), test))
    found = {"ratios": list(RATIOS), **after, "whole": 100 * compression.accuracy(model, test)}
    return {"data": describe(load(config["data"])), **found}


KINDS = ("baseline", "quantized", "pruned", "combined", "best")


def run_auto(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """What `AutoOptimizer` makes of a network, and what it chooses for which target from the same measurements."""
    train, validation, test = loaders(config, seed)
    model = trained(config, seed)
    optimizer = compression.AutoOptimizer(
        config["target"], epochs=config["mend"], lr=config["lr"], memory=False, **config["limits"]
    )
    found = optimizer.optimize_model(model, train, test, validation, image_shape=shape_of(config))
    measured = ("size_mb", "latency_ms", "accuracy", "size_ratio", "speedup", "macs", "parameters")
    kinds = {
        kind: {name: found[kind]["metrics"][name] for name in measured}
        | {
            "name": found[kind]["name"],
            "satisfied": found[kind]["satisfied"],
            "warnings": list(found[kind]["warnings"]),
        }
        for kind in KINDS
    }
    rows = {one.name: {name: getattr(one, name) for name in measured[:3]} for one in found["candidates"]}
    said = {"explanation": found["explanation"], "pareto": [one.name for one in found["pareto"]]}
    return {
        "data": describe(load(config["data"])),
        "kinds": kinds,
        "candidates": rows,
        **said,
        "hardware": found["hardware"],
    }


def run_passes(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """How well a network knows images that it was trained on, and others, in per cent: does it want more passes, or more images?"""
    model = trained(config, seed)
    train, validation, test = loaders(config, seed)
    parts = {"train": train.first(config["images"]), "validation": validation, "test": test}
    found = {name: 100 * compression.accuracy(model, part) for name, part in parts.items()}
    return {"data": describe(load(config["data"])), **found}


# ---- what MACs promise -------------------------------------------------------------------------------------------------


def run_macs(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """Untrained networks of several widths: MACs saved, and time saved, for one image and for 32 at once.

    A single dense layer tells what a call costs when next to nothing is computed; "work" is microseconds of one image by kind.
    """
    train = loaders(config, seed)[0]
    data, shape = load(config["data"]), shape_of(config)
    model = models.build(config["network"], data, seed=seed, num_outputs=10, **config["options"]).eval()
    made: dict[str, nn.Module] = {}
    for ratio in config["ratios"]:
        narrow = copy.deepcopy(model)
        if ratio:
            compression.ChannelPruner(narrow, ratio, shape, original=model).step()
        made[f"fp32 {ratio:.0%}"] = narrow.eval()
        made[f"int8 {ratio:.0%}"] = rounded(narrow, config, train, model)
    same = {"image_shape": shape, "memory": False, "rounds": config["rounds"], "runs": config["runs"]}
    same["seconds"] = config["seconds"]
    everything = {**made, "a call": nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 10)).eval()}
    with tempfile.TemporaryDirectory() as folder:
        one, many = (
            compression.benchmark_models(everything, None, batch_size=size, folder=folder, **same) for size in (1, 32)
        )
        files = {name: one[name]["path"] for name in made}
        times = compression.node_times(files, shape, rounds=config["rounds"], runs=config["profiled"])
        work = {name: compression.work_of(*found) for name, found in times.items()}
    macs = {name: compression.count_macs(network, shape) for name, network in made.items()}
    whole = macs[next(iter(made))]
    rows = {
        name: {"promised": whole / macs[name], "one image": one[name]["speedup"], "32 images": many[name]["speedup"]}
        for name in made
    }
    layers = conv_layers(model, shape)
    call = {"one image": 1 / one["a call"]["speedup"], "32 images": 1 / many["a call"]["speedup"]}
    return {
        "data": describe(data),
        "ratios": list(config["ratios"]),
        "rows": rows,
        "call": call,
        "layers": layers,
        "work": work,
    }


def conv_layers(model: nn.Module, shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """What exercise 07.9 needs to know of every convolution, in order."""
    found: list[dict[str, Any]] = []
    handles = []

    def look(name: str, layer: nn.Conv2d) -> None:
        def hook(_: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
            numbers = {"in_channels": layer.in_channels, "out_channels": layer.out_channels}
            numbers |= {"kernel": layer.kernel_size[0], "size": given[0].shape[-1], "stride": layer.stride[0]}
            found.append({"name": name, **numbers, "padding": int(layer.padding[0]), "groups": layer.groups})

        handles.append(layer.register_forward_hook(hook))

    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            look(name, layer)
    with torch.no_grad():
        model(torch.zeros(1, *shape))
    for handle in handles:
        handle.remove()
    return found


# ---- in a stream -------------------------------------------------------------------------------------------------------


def run_stream(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """Learn five tasks and deploy a file after each; accuracies are those of the files, in per cent."""
    data = load(config["data"])
    stream = streams.class_incremental(data, NUM_TASKS, limit=config["limit"])
    used: list[methods.Method] = [methods.Replay(config["memory"])] if config["memory"] else []
    if config["joint"]:
        used.append(methods.Joint())
    with tempfile.TemporaryDirectory() as temporary:
        compress = compression.Compress(
            config["sparsity"],
            enable_pruning=config["sparsity"] > 0,
            enable_quantization=config["quantize"] is not None,
            quantize=config["quantize"] or "end",
            finetune_steps=config["extra"],
            qat_steps=config["extra"] if config["quantize"] == "each task" else 0,
            folder=temporary,
        )
        learner = Learner(
            models.build("small_cnn", stream, seed=seed), [*used, compress], lr=config["lr"], batch_size=32,
            steps_per_task=config["steps"], seed=seed, show_progress=False,
        )  # fmt: skip
        learner.fit(stream)
        whole = models.build("small_cnn", stream, seed=seed, num_outputs=10)
        shape = tuple(stream.image_shape)
        files = {
            "fp32": compression.export_onnx(whole, Path(temporary) / "whole.onnx", shape),
            "deployed": Path(temporary) / f"task_{NUM_TASKS}.onnx",
        }
        last = compression.benchmark_models(files, None, image_shape=shape, memory=False, rounds=config["rounds"])
    matrix = compress.accuracy
    return {
        "data": describe(data),
        "accuracy": matrix,
        "acc": 100 * metrics.average_accuracy(matrix),
        "forgetting": 100 * metrics.forgetting(matrix),
        "learned": 100 * float(np.diag(matrix).mean()),
        "rows": compress.rows,
        "size_mb": last["deployed"]["size_mb"],
        "size_ratio": last["deployed"]["size_ratio"],
        "speedup": last["deployed"]["speedup"],
    }


# ---- conditions --------------------------------------------------------------------------------------------------------

RATIOS = (0.3, 0.5, 0.7)
BITS = [2, 3, 4, 5, 6, 7, 8]
CNN: dict[str, Any] = {"network": "small_cnn", "options": {}}
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"data": "digits", "limit": 300, "batch_size": 32, "epochs": 3, "lr": 2e-3, "heal": 3, "qat": 3, "rounds": 2, "runs": 2},
    "quick": {"data": "digits", "limit": None, "batch_size": 64, "epochs": 12, "lr": 2e-3, "heal": 60, "qat": 40, "rounds": 8, "runs": 10},
    "full": {"data": "fashion_mnist", "limit": None, "batch_size": 128, "epochs": 1.5, "lr": 2e-3, "heal": 120, "qat": 80, "rounds": 10, "runs": 10},
}  # fmt: skip
SECONDS = {"smoke": 0.0, "quick": 0.3, "full": 10.0}  # of measuring: a burst of somebody else's work must not decide
LIMITS = {
    "digits": (60, 1.0, 0.93),
    "fashion_mnist": (250, 1.0, 0.88),
}  # kilobytes, milliseconds, accuracy: the design task


def _front(preset: str) -> dict[str, dict[str, Any]]:
    return {"the small CNN": {**PRESETS[preset], **CNN, "seconds": SECONDS[preset]}}


def _bits(preset: str) -> dict[str, dict[str, Any]]:
    names = ("data", "limit", "batch_size", "epochs", "lr")
    same = {name: PRESETS[preset][name] for name in names} | CNN | {"images": 100 if preset == "smoke" else 2000}
    return {"one scale a layer": {**same, "per_channel": False}, "one scale a channel": {**same, "per_channel": True}}


NORMS = {
    "L1, own weights": ("l1", True),
    "L1, all that goes": ("l1", False),
    "L2, all that goes": ("l2", False),
    "chance": ("random", False),
}
MENDED = {"smoke": 0.2, "quick": 1.0, "full": 0.3}  # passes of an AutoOptimizer after every cut


def limits(data: str) -> dict[str, float]:
    """The design task's limits, as `AutoOptimizer` takes them."""
    size, latency, accuracy = LIMITS[data]
    return {"max_size_mb": size / 1000, "max_latency_ms": latency, "min_accuracy": accuracy}


MOVED = (10.0, 0.07, 0.1, 0.05, 0.1, 0.1)  # degrees and so on, see `Affine`
VITS: dict[str, dict[str, Any]] = {
    "smoke": {"options": {"patch_size": 4, "width": 16, "depth": 2, "num_heads": 2}, "last": 3},
    "quick": {"options": {"patch_size": 2, "width": 48, "depth": 4, "num_heads": 4}, "epochs": 15, "last": 120},
    "full": {"options": {}, "epochs": 7, "lr": 1e-3, "heal": 80, "last": 400},
}


def _vits(preset: str) -> dict[str, dict[str, Any]]:
    return {"the ViT": {**PRESETS[preset], "network": "vit", **VITS[preset]}}


def _norms(preset: str) -> dict[str, dict[str, Any]]:
    names = ("data", "limit", "batch_size", "epochs", "lr", "heal")
    same = {name: PRESETS[preset][name] for name in names} | CNN | {"images": 100 if preset == "smoke" else 10_000}
    return {title: {**same, "norm": norm, "own": own} for title, (norm, own) in NORMS.items()}


def _auto(preset: str) -> dict[str, dict[str, Any]]:
    """The lesson's network under the design task's limits, and one that is narrow from the start and has to be fast."""
    same = {
        **{name: PRESETS[preset][name] for name in ("data", "limit", "batch_size", "epochs", "lr")},
        "mend": MENDED[preset],
    }
    narrow = {"network": "small_cnn", "options": {"widths": [4, 8, 16], "num_features": 16}}
    return {
        "the small CNN": {**same, **CNN, "target": "size", "limits": limits(same["data"])},
        "a narrow CNN": {**same, **narrow, "target": "speed", "limits": {}},
    }


TWO_SEEDS = {"smoke": [0], "quick": [0], "full": [0, 1]}  # half an hour each


def _passes(preset: str) -> dict[str, dict[str, Any]]:
    """Longer than the ViT's training in `vit`: with the images as they are, and with images that are moved a little."""
    names = ("data", "limit", "batch_size", "network", "options", "lr", "epochs")
    same = {name: _vits(preset)["the ViT"][name] for name in names} | {"images": 100 if preset == "smoke" else 5000}
    longer = {"smoke": (1, 1), "quick": (30, 20), "full": (20, 10)}[preset]
    return {
        "the images as they are": {**same, "epochs": longer[0]},
        "moved images": {**same, "epochs": longer[1], "augmented": MOVED},
    }


def _macs(preset: str) -> dict[str, dict[str, Any]]:
    profiled = {"smoke": 5, "quick": 40, "full": 100}[preset]
    chosen = {
        **PRESETS[preset],
        **CNN,
        "ratios": [0.0, 0.25, 0.5, 0.75, 0.875],
        "profiled": profiled,
        "seconds": SECONDS[preset],
    }
    return {"untrained": chosen if preset != "smoke" else {**chosen, "ratios": [0.0, 0.875]}}


STREAMS: dict[str, dict[str, Any]] = {
    "smoke": {"data": "digits", "limit": 20, "memory": 50, "steps": 3, "extra": 2, "lr": 2e-3, "rounds": 2},
    "quick": {"data": "digits", "limit": None, "memory": 100, "steps": 30, "extra": 20, "lr": 2e-3, "rounds": 5},
    "full": {"data": "fashion_mnist", "limit": 500, "memory": 500, "steps": 64, "extra": 40, "lr": 1e-3, "rounds": 10},
}


def _streams(preset: str) -> dict[str, dict[str, Any]]:
    """Replay as it is, and compressed in two ways; with as many steps more as the cuts get; nothing, and everything."""
    same = {**STREAMS[preset], "sparsity": 0.0, "quantize": None, "joint": False}
    more = same["steps"] + same["extra"]
    return {
        "fine-tuning": {**same, "memory": 0},
        "replay": same,
        "replay, more steps": {**same, "steps": more},
        "replay, int8 at the end": {**same, "quantize": "end"},
        "replay, pruned and int8": {**same, "sparsity": 0.5, "quantize": "each task"},
        "joint": {
            **same,
            "memory": 0,
            "joint": True,
            "steps": 3 * same["steps"],
        },  # it has up to five tasks to go through
    }


# ---- for the notebook ------------------------------------------------------------------------------------------------


def workshop(preset: str, seed: int = 0) -> tuple[nn.Module, Any, Any, Any]:
    """The front's network in eval mode, and its training, validation and test images in batches."""
    config = _front(preset)["the small CNN"]
    return (trained(config, seed), *loaders(config, seed))


def activations(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What the network's first leaky ReLU gives, `(batch, channels, height, width)`."""
    found: list[torch.Tensor] = []
    layer = next(module for module in model.modules() if isinstance(module, nn.LeakyReLU))
    handle = layer.register_forward_hook(lambda _, given, out: found.append(out))
    with torch.no_grad():
        model(images)
    handle.remove()
    return found[0]


def odd_batches(model: nn.Module, loader: Any, count: int = 8, odd: int = 4) -> list[torch.Tensor]:
    """The activations of `count` batches; in one of them the first image is black but for a single white pixel."""
    found = []
    for number, (images, _) in enumerate(islice(loader, count)):
        if number == odd:
            images = images.clone()
            images[0] = 0
            images[0, :, images.shape[-2] // 2, images.shape[-1] // 2] = 1
        found.append(activations(model, images))
    return found


def folded(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """A copy with its BatchNorm folded."""
    made = copy.deepcopy(model).eval()
    compression.fold_batchnorm(made, shape)
    return made


def attempt(make: Callable[..., nn.Module], preset: str, split: str = "validation") -> dict[str, Any]:
    """The design task's referee: what `make(model, train, shape)` gives, as a file.

    split: whose images it is scored on; "test" once, when all is chosen.

    Returns:
        `kilobytes`, `milliseconds` (median of one image, one core), the accuracy under the name of the split, and `keeps`:
        whether all of `LIMITS` are kept.

    Raises:
        ValueError: another split, or a recipe that returns no network.
    """
    if split not in ("validation", "test"):
        raise ValueError(f"split={split!r}: choose by 'validation', and look at 'test' once")
    config = _front(preset)["the small CNN"]
    model, train, validation, test = workshop(preset)
    made, shape = make(model, train, shape_of(config)), shape_of(config)
    if not isinstance(made, nn.Module):
        raise ValueError(
            f"your recipe returns a {type(made).__name__}, not a network; of what `prune_model` and `quantize_model` return, take "
            "['pruned_model'] and ['quantized_model']"
        )
    images = validation if split == "validation" else test
    row = compression.benchmark_models({"yours": made}, images, image_shape=shape, memory=False)["yours"]
    size, latency, accuracy = LIMITS[config["data"]]
    found = {"kilobytes": row["size_bytes"] / 1000, "milliseconds": round(row["latency_ms"], 3), split: row["accuracy"]}
    keeps = found["kilobytes"] <= size and found["milliseconds"] <= latency and found[split] >= accuracy
    return {**found, "keeps": keeps}


_COMPRESSION = modules("models.cnn", "models.head", "models.vit", "compression", "augment")

EXPERIMENTS = {
    entry.name: entry
    for entry in (
        Experiment("front", run_front, _front, title="A dozen versions", code=_COMPRESSION),
        Experiment("half", run_half, _front, title="30 % pruned, 16 bits", code=_COMPRESSION),
        Experiment("bits", run_bits, _bits, title="Fewer bits", code=_COMPRESSION),
        Experiment("vit", run_vit, _vits, title="A transformer", code=_COMPRESSION),
        Experiment("macs", run_macs, _macs, title="What MACs promise", code=_COMPRESSION),
        Experiment("norms", run_norms, _norms, title="L1, L2 and chance", code=_COMPRESSION),
        Experiment("passes", run_passes, _passes, seeds=TWO_SEEDS, title="Longer", code=_COMPRESSION),
        Experiment("auto", run_auto, _auto, title="Choosing by itself", code=_COMPRESSION),
        Experiment("stream", run_stream, _streams, title="Small in a stream", code=(*_COMPRESSION, *modules("learner", "methods", "streams", "metrics"))),
    )
}  # fmt: skip
