"""Lesson 04: low-rank adapters in a stream, and what a rank buys.

Digits and a tiny ViT in the smoke and quick presets; in full the ViT of 0.68 million weights on 1,000 training images of each
class of Fashion-MNIST.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch

from course_utils import Learner, datasets, lora, methods, metrics, models, seeding, streams
from course_utils.lessons.experiment import ONE_SEED, Experiment, describe, modules

NUM_TASKS = 5


@cache
def load(name: str) -> Any:
    """The data set, once per process. Never a stand-in."""
    return datasets.load(name, allow_standin=False)


class Told(methods.Method):
    """Watches, and changes nothing: accuracy on every task seen so far with the task told, after each task."""

    name = "told"

    def __init__(self) -> None:
        self.accuracy = np.full((NUM_TASKS, NUM_TASKS), np.nan)

    def after_task(self, learner: Learner, task: streams.Task, data: streams.Samples) -> None:
        for seen in learner.stream.tasks[: task.index + 1]:
            self.accuracy[task.index, seen.index] = told_accuracy(learner, seen)


def told_accuracy(learner: Learner, task: streams.Task) -> float:
    """Accuracy on test images when only the outputs of their own task compete."""
    start, stop = task.columns
    for method in learner.methods:
        method.before_eval(learner, task)
    found = learner.predict(task.test.x)[:, start:stop].argmax(dim=1).cpu() + start
    for method in learner.methods:
        method.after_eval(learner, task)
    return float((found == task.test.y).double().mean())


SCENARIOS = {"class": streams.class_incremental, "task": streams.task_incremental}


def make_methods(config: Mapping[str, Any]) -> list[methods.Method]:
    """The methods that a configuration names, "LoRA + replay" for instance; none for fine-tuning."""
    found: list[methods.Method] = []
    for name in config["method"].split(" + "):
        if name == "LoRA":
            options = {name: config.get(name) for name in ("start", "adapters", "identity")}
            found.append(lora.LoRA(config["rank"], config["alpha"], **options))  # type: ignore[arg-type]
        elif name == "replay":
            found.append(methods.Replay(config["memory"]))
        elif name == "joint":
            found.append(methods.Joint())
    return found


def learn(config: Mapping[str, Any], model: models.HeadedModel, seed: int) -> dict[str, Any]:
    """Learn the whole stream; scores on test images in per cent, also with the task told."""
    data = load(config["data"])
    stream = SCENARIOS[config["scenario"]](data, NUM_TASKS, limit=config["limit"])
    watch = Told()
    learner = Learner(
        model, [*make_methods(config), watch],
        lr=config["lr"], batch_size=64, epochs=config["epochs"], seed=seed, show_progress=False,
    )  # fmt: skip
    history = learner.fit(stream)
    count = lora.count_parameters(learner.model)
    return {
        "data": describe(data),
        "accuracy": history.accuracy,
        "told_accuracy": watch.accuracy,
        "acc": 100 * metrics.average_accuracy(history.accuracy),
        "forgetting": 100 * metrics.forgetting(history.accuracy),
        "told": 100 * metrics.average_accuracy(watch.accuracy),
        "told_forgetting": 100 * metrics.forgetting(watch.accuracy),
        "learned": 100 * float(np.diag(history.accuracy).mean()),  # each task just after it was learned
        "trainable": count.trainable,  # in the last task
        "total": count.total,
        "remarks": history.remarks,
    }


def run_stream(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """A stream learned from random weights."""
    return learn(config, models.build(config["model"], load(config["data"]), seed=seed, **config["options"]), seed)


def run_anywhere(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """The same on a GPU if there is one: for runs that take two cores hours. The record says on what."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = models.build(config["model"], load(config["data"]), seed=seed, **config["options"]).to(device)
    return {**learn(config, model, seed), "device": device_name()}


def device_name() -> str:
    """What this process would train on, with PyTorch's version."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{name}, torch {torch.__version__}"


def run_base(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """A stream learned from random weights, or from those of a base that was trained on other images before."""
    data = load(config["data"])
    model = models.build(config["model"], data, seed=seed, **config["options"])
    record: dict[str, Any] = {"base": None}
    if config["base"] is not None:
        other = lora.resized(load(config["base"]), data.image_shape)
        settings = {"epochs": config["base_epochs"], "lr": config["base_lr"], **config["options"]}
        lora.load_base(model, lora.pretrained_base(other, config["model"], show_progress=False, **settings))
        record["base"] = describe(other)
    return {**record, **learn(config, model, seed)}


# ---- one new task, watched ---------------------------------------------------------------------------------------------


@cache
def _dense_start(data: str, limit: int | None, model: str, options: str, lr: float, epochs: int, seed: int) -> Any:
    """Two tasks of half the classes each, and a network that has learned the first one."""
    stream = streams.task_incremental(load(data), 2, limit=limit, limit_test=200)
    network = models.build(model, load(data), seed=seed, **json.loads(options))
    learner = Learner(network, lr=lr, batch_size=64, epochs=epochs, seed=seed, show_progress=False)
    learner.fit(stream.first(1))
    network.grow(stream[1].outputs, seeding.generator(seed, 1, 3))
    return stream, network


def importance_of(config: Mapping[str, Any], network: Any, inputs: Any, targets: Any) -> dict[str, float]:
    """How much every layer matters to the new task before it is learned, from the first gradient on some of its images."""
    loss = torch.nn.functional.cross_entropy
    return lora.sensitivity(network, lora.layer_gradients(network, [(inputs, targets)], loss, config["patterns"]))


def rank_of_task(config: Mapping[str, Any], network: Any, inputs: Any, targets: Any) -> int:
    """One rank for all layers, by the directions of the same gradient."""
    loss = torch.nn.functional.cross_entropy
    return lora.task_rank(lora.layer_gradients(network, [(inputs, targets)], loss, config["patterns"]), 0.9)


def run_adapt(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """Learn half of the classes densely, then the other half with some of the weights; watch both on the way.

    Both are asked with the task told. `rank` None trains all weights, 0 the head alone.
    """
    shared = [config[name] for name in ("data", "limit", "model")]
    stream, first = _dense_start(
        *shared, json.dumps(config["options"]), config["first_lr"], config["epochs"], seed
    )  # fmt: skip
    network, new = copy.deepcopy(first), stream[1]
    learner = Learner(network, steps_per_task=1)  # for its inputs and its predictions; the loop below is its own
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    # All that the rules may look at is the new task's training data.
    sample = torch.randperm(len(new.train), generator=seeding.generator(seed, 1, 12))[:256]
    inputs, targets = learner.inputs(new.train.x[sample]), new.train.y[sample]
    ranks, importance = None, None
    if config["rank"] == 0:
        network.requires_grad_(False)
        network.head.requires_grad_(True)
    elif config["rank"] is not None:
        ranks = config["rank"]
        if ranks == "by importance":
            importance = importance_of(config, network, inputs, targets)
            ranks = lora.allocate_ranks(importance, config["budget"] * len(importance))
        elif ranks == "one for the task":
            ranks = rank_of_task(config, network, inputs, targets)
        lora.inject(network, config["patterns"], ranks, config["alpha"], seed=seed)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=config["lr"])
    generator = seeding.generator(seed, 1, 13)
    size = len(new.train)
    total = config["epochs"] * size // 64
    curve: dict[str, list[float]] = {"step": [], "new": [], "old": []}
    for step in range(total + 1):
        if step % max(1, total // config["looks"]) == 0:
            curve["step"].append(step)
            curve["new"].append(100 * told_accuracy(learner, new))
            curve["old"].append(100 * told_accuracy(learner, stream[0]))
        rows = torch.randint(size, (64,), generator=generator)
        out = network(learner.inputs(new.train.x[rows]))[:, slice(*new.columns)]
        loss = torch.nn.functional.cross_entropy(out, new.train.y[rows] - new.columns[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    record = {
        "data": describe(load(config["data"])), **curve,
        "trainable": lora.count_parameters(network).trainable,
        "ranks": ranks if isinstance(ranks, dict) else None,
        "rank": ranks if isinstance(ranks, int) else None,
        "importance": importance,
        "final_new": curve["new"][-1],
        "final_old": curve["old"][-1],
    }  # fmt: skip
    if config["rank"] is None:
        names = [f"{name}.weight" for name in lora.candidates(network)]
        updates = {name: (network.get_parameter(name).detach() - before[name]).flatten(1) for name in names}
        record["directions"] = {name: lora.directions(update, 0.9) for name, update in updates.items()}
        record["full_ranks"] = {f"{name}.weight": full for name, full in lora.full_ranks(network).items()}
        record["spectrum"] = torch.linalg.svdvals(updates[config["spectrum"]].double()).tolist()
    return record


def run_memory(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a few steps of training take, in megabytes, each measured in a process of its own."""
    names = ("rank", "alpha", "patterns", "batch_size", "options")
    took = lora.training_memory(config["model"], tuple(config["image_shape"]), **{name: config[name] for name in names})
    megabytes = {name: getattr(took, f"{name}_bytes") / 1e6 for name in ("gradient", "optimizer", "peak")}
    drawn = {"name": "random", "source": "random numbers", "title": "Random images"}
    return {"data": drawn, "trainable": took.trainable, "total": took.total, **megabytes}


def run_gpu_memory(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """The same on a GPU, where PyTorch counts what it has allocated; not measured where there is none."""
    drawn = {"name": "random", "source": "random numbers", "title": "Random images"}
    if not torch.cuda.is_available():
        unknown = dict.fromkeys(("trainable", "gradient", "optimizer", "peak"), float("nan"))
        return {"data": drawn, **unknown, "device": device_name()}
    shape = tuple(config["image_shape"])
    names = ("rank", "alpha", "batch_size", "options")
    took = lora.training_memory(config["model"], shape, device="cuda", **{name: config[name] for name in names})
    megabytes = {name: getattr(took, f"{name}_bytes") / 1e6 for name in ("gradient", "optimizer", "peak")}
    return {"data": drawn, "trainable": took.trainable, **megabytes, "device": device_name()}


def run_serving(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """One batch with images for several tenants, answered in four ways, in turn; times relative to the base alone."""
    data = load(config["data"])
    network = models.build(config["model"], data, seed=seed, num_outputs=data.num_classes, **config["options"]).eval()
    generator = torch.Generator().manual_seed(seed)
    tenants = [f"tenant_{number}" for number in range(config["tenants"])]
    for number, name in enumerate(tenants):
        lora.inject(network, "blocks.*", config["rank"], config["alpha"], name=name, seed=number)
        for layer in lora.adapted(network).values():
            torch.nn.init.normal_(layer.lora_B[name], std=0.02, generator=generator)
    images = torch.from_numpy(data.test.x[: config["batch"]]).float() / 255
    whose = torch.randint(len(tenants), (len(images),), generator=generator)
    names = [tenants[i] for i in whose]
    merged = []
    for name in tenants:
        own = copy.deepcopy(network)
        lora.use(own, name)
        lora.fold(own)
        merged.append(own)

    def alone() -> torch.Tensor:
        lora.use(network, None)
        return network(images)

    def copies() -> torch.Tensor:
        return lora.by_tenant(names, lambda name, rows: merged[tenants.index(name)](images[rows]))

    def switch() -> torch.Tensor:
        return lora.by_tenant(names, lambda name, rows: lora.answer_as(network, name, images[rows]))

    mixed = lora.Tenants(network)

    def together() -> torch.Tensor:
        return mixed(images, names)

    ways = {"base alone": alone, "a merged copy each": copies, "switch adapters": switch, "one mixed batch": together}
    with torch.no_grad():
        answers = {name: way() for name, way in ways.items()}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(config["rounds"]):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - start)
    base = np.array(seconds["base alone"])
    adapter = lora.adapter_state_dict(network, tenants[0])
    floats = sum(value.numel() for name, value in adapter.items() if not name.endswith(".scale"))
    whole = sum(parameter.numel() for parameter in merged[0].parameters())
    return {
        "data": describe(data),
        "times": {name: float(np.median(np.array(values) / base)) for name, values in seconds.items()},
        "differs": {n: float((answers[n] - answers["a merged copy each"]).abs().max()) for n in ways if n != "base alone"},
        "scale_of_answers": float(answers["a merged copy each"].abs().max()),
        "kilobytes": {"one adapter": 4 * floats / 1e3, "one network": 4 * whole / 1e3},
    }  # fmt: skip


def run_choice(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """One setting on the first two tasks: accuracy on their validation images after the second, in per cent."""
    data = load(config["data"])
    stream = streams.class_incremental(data, NUM_TASKS, limit=config["limit"]).first(2)
    model = models.build(config["model"], data, seed=seed, **config["options"])
    learner = Learner(
        model, make_methods(config), lr=config["lr"], batch_size=64, epochs=config["epochs"], seed=seed,
        show_progress=False,
    )  # fmt: skip
    seen = learner.fit(stream, evaluate="validation").accuracy[-1]
    return {
        "data": describe(data),
        "validation": 100 * float(seen.mean()),
        "trainable": lora.count_parameters(learner.model).trainable,
    }


# ---- conditions -----------------------------------------------------------------------------------------------------

TINY_VIT = {"model": "vit", "options": {"patch_size": 2, "width": 32, "depth": 2}}
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"data": "digits", "limit": 40, "epochs": 1, "memory": 50, "lr": 3e-3, **TINY_VIT},
    "quick": {"data": "digits", "limit": None, "epochs": 10, "memory": 50, "lr": 3e-3, **TINY_VIT},
    "full": {
        "data": "fashion_mnist", "limit": 1000, "epochs": 3, "memory": 500, "lr": 1e-3,
        "model": "vit", "options": {"patch_size": 7},
    },
}  # fmt: skip
# Accuracies on the new task, in per cent, at which old ones are compared.
TARGETS = {"smoke": (15, 20), "quick": (60, 70, 75), "full": (75, 80, 85)}
ADAPTER = {"rank": 4, "alpha": 16.0, "adapters": "merged", "start": "dense"}
COMPARED = ("fine-tuning", "LoRA", "replay", "LoRA + replay", "joint")


def _config(preset: str, method: str, **changes: Any) -> dict[str, Any]:
    adapter = ADAPTER if "LoRA" in method else {}
    return {**PRESETS[preset], "scenario": "class", "method": method, **adapter, **changes}


def _compared(preset: str) -> dict[str, dict[str, Any]]:
    return {method: _config(preset, method) for method in COMPARED}


LONG = {"limit": None, "epochs": 10}
RESNET = {"model": "resnet18", "options": {"stem": "strided"}, "limit": 1000, "epochs": 3}
# All convolutions but the first, whose kernel of 3 x 3 grey pixels has rank 9.
RESNET_LAYERS = [f"layer{stage}.{block}.conv{place}" for stage in (1, 2, 3, 4) for block in (0, 1) for place in (1, 2)]
RESNET_LAYERS += [f"layer{stage}.0.downsample.0" for stage in (2, 3, 4)]
RESNET_ADAPTER = {"rank": dict.fromkeys(RESNET_LAYERS, 16), "alpha": 32.0}


def _long(preset: str) -> dict[str, dict[str, Any]]:
    """The same comparison with all images and ten epochs: in full hours on two cores, minutes on a GPU."""
    changes = LONG if preset == "full" else {}
    return {method: _config(preset, method) | changes for method in COMPARED}


def _resnets(preset: str) -> dict[str, dict[str, Any]]:
    """A ResNet-18 in the ViT's place; a few images in the other presets."""
    size = RESNET if preset == "full" else {**RESNET, "limit": 4, "epochs": 1}
    return {
        method: _config(preset, method) | size | (RESNET_ADAPTER if "LoRA" in method else {})
        for method in COMPARED
        if method != "LoRA"
    }


def _long_resnets(preset: str) -> dict[str, dict[str, Any]]:
    changes = LONG if preset == "full" else {}
    return {method: config | changes for method, config in _resnets(preset).items()}


BASES = {
    "smoke": {"glyphs": {"base": "glyphs", "base_epochs": 0.05, "base_lr": 3e-3}},
    "quick": {"glyphs": {"base": "glyphs", "base_epochs": 3, "base_lr": 3e-3}},
    "full": {
        "glyphs": {"base": "glyphs", "base_epochs": 5, "base_lr": 1e-3},
        "Tiny-ImageNet": {"base": "tiny_imagenet_gray", "base_epochs": 5, "base_lr": 1e-3},
    },
}
NO_BASE = {"base": None, "base_epochs": 0, "base_lr": 0.0}


def _bases(preset: str) -> dict[str, dict[str, Any]]:
    """Where the frozen weights come from, with all weights trained beside it."""
    found = {"LoRA + replay, on random": _config(preset, "LoRA + replay", **NO_BASE) | {"start": "frozen"}}
    for name, base in BASES[preset].items():
        found[f"LoRA + replay, on {name}"] = _config(preset, "LoRA + replay", **base) | {"start": "frozen"}
        found[f"replay, from {name}"] = _config(preset, "replay", **base)
    return found


def _scarce(preset: str) -> dict[str, dict[str, Any]]:
    """The same starts with a tenth of the images and of the memory: in full 100 images a class, ten epochs."""
    scarce = {"limit": 100, "epochs": 10, "memory": 50} if preset == "full" else {}
    found = {
        "replay, from random": _config(preset, "replay", **NO_BASE) | scarce,
        "LoRA + replay, on random": _config(preset, "LoRA + replay", **NO_BASE) | scarce | {"start": "frozen"},
    }
    for name, base in BASES[preset].items():
        found[f"LoRA + replay, on {name}"] = _config(preset, "LoRA + replay", **base) | scarce | {"start": "frozen"}
    return found


def _kinds(preset: str) -> dict[str, dict[str, Any]]:
    """One adapter or many, on the best base that the preset has; the task told, or guessed."""
    base = list(BASES[preset].values())[-1]
    told = {"scenario": "task", "start": "frozen"}
    found = {"all weights, task told": _config(preset, "fine-tuning", **base) | {"scenario": "task"}}
    for name, kind in (("one shared", "shared"), ("one, merged each time", "merged"), ("one per task", "per_task")):
        found[f"{name}, task told"] = _config(preset, "LoRA", **base) | {**told, "adapters": kind}
    guess = {"start": "frozen", "adapters": "per_task", "identity": "inferred"}
    found["one per task, task guessed"] = _config(preset, "LoRA", **base) | guess
    return found


def _adapt(preset: str, rank: int | str | None, **changes: Any) -> dict[str, Any]:
    name = "data", "limit", "epochs", "lr", "model", "options"
    settings = {key: value for key, value in PRESETS[preset].items() if key in name}
    return {
        **settings, "first_lr": settings["lr"], "rank": rank, "alpha": ADAPTER["alpha"], "patterns": ["blocks.*"], "budget": 4,
        "looks": 3 if preset == "smoke" else 10, "spectrum": "blocks.0.mlp.up.weight", **changes,
    }  # fmt: skip


# A unit of rank costs a block 8 widths in the attention, 10 in the MLP, 18 in all: about 72 widths each.
PLACES = {"attention": ("blocks.*.attention.*", 9), "MLP": ("blocks.*.mlp.*", 7)}
RANKS = {"smoke": (4,), "quick": (1, 4, 16), "full": (1, 4, 16)}
DENSE_RATES = {"smoke": (), "quick": (0.1,), "full": (0.1, 0.3)}
ADAPTER_RATES = {"smoke": (), "quick": (0.1,), "full": (0.3, 3)}


def _adaptations(preset: str) -> dict[str, dict[str, Any]]:
    """A second task: the head alone, every rank, all weights; other learning rates; other places for the ranks."""
    lr = PRESETS[preset]["lr"]
    found = {"head alone": _adapt(preset, 0)}
    found |= {f"rank {rank}": _adapt(preset, rank) for rank in RANKS[preset]}
    found["all weights"] = _adapt(preset, None)
    found |= {f"all weights, lr x {factor:g}": _adapt(preset, None, lr=factor * lr) for factor in DENSE_RATES[preset]}
    found |= {f"rank 4, lr x {factor:g}": _adapt(preset, 4, lr=factor * lr) for factor in ADAPTER_RATES[preset]}
    for name, (pattern, rank) in PLACES.items():
        found[f"{name} alone, rank {rank}"] = _adapt(preset, rank, patterns=[pattern])
    found["ranks by importance"] = _adapt(preset, "by importance")
    found["one rank for the task"] = _adapt(preset, "one for the task")
    return found


MEASURED = {"ViT": ("vit", {}), "ResNet-18": ("resnet18", {"stem": "strided"})}


def _memories(preset: str) -> dict[str, dict[str, Any]]:
    """All weights and adapters, a usual batch and a single image; in full two networks."""
    found = {}
    for name in MEASURED if preset == "full" else ("ViT",):
        model, options = MEASURED[name]
        for batch in (64,) if preset == "smoke" else (64, 1):
            for label, rank in (("all weights", None), ("rank 4", 4)):
                found[f"{name}, batch of {batch}, {label}"] = {
                    "model": model, "options": options, "image_shape": [1, 28, 28], "batch_size": batch, "rank": rank,
                    "alpha": ADAPTER["alpha"], "patterns": None,
                }  # fmt: skip
    return found


def _gpu_memories(preset: str) -> dict[str, dict[str, Any]]:
    """Recorded where a GPU was at hand; a notebook shows the record."""
    return {
        f"{name}, batch of {batch}, {label}": {
            "model": model, "options": options | ({"patch_size": 7} if model == "vit" else {}), "image_shape": [1, 28, 28],
            "batch_size": batch, "rank": rank, "alpha": ADAPTER["alpha"],
        }
        for name, (model, options) in MEASURED.items()
        for batch in (1, 64, 1024)
        for label, rank in (("all weights", None), ("rank 4", 4))
    }  # fmt: skip


def _servings(preset: str) -> dict[str, dict[str, Any]]:
    settings = {name: PRESETS[preset][name] for name in ("data", "model", "options")}
    return {
        f"{tenants} tenants": {
            **settings,
            "tenants": tenants,
            "rank": 4,
            "alpha": 16.0,
            "batch": 64,
            "rounds": 5 if preset == "smoke" else 30,
        }
        for tenants in ((2,) if preset == "smoke" else (4, 32))
    }


def _choices(preset: str) -> dict[str, dict[str, Any]]:
    """Learning rates with all weights and with adapters, and ranks."""
    lr = PRESETS[preset]["lr"]
    found = {}
    for factor in (0.3, 1, 3) if preset != "smoke" else (1,):
        found[f"replay, lr x {factor}"] = _config(preset, "replay") | {"lr": factor * lr}
        found[f"LoRA + replay, rank 4, lr x {factor}"] = _config(preset, "LoRA + replay") | {"lr": factor * lr}
    if preset == "full":
        for rank in (2, 8):
            found[f"LoRA + replay, rank {rank}, lr x 1"] = _config(preset, "LoRA + replay") | {"rank": rank}
    return found


_LORA = ("lora.layer", "lora.model")
_TRAINING = ("learner", "streams", "objectives", "models.head", "methods.joint", "methods.replay", "methods.buffers")
_STREAM = modules(*_TRAINING, "models.vit", *_LORA, "lora.method")
_RESNET = modules(*_TRAINING, "models.resnet", *_LORA, "lora.method")
_ADAPT = modules("learner", "streams", "objectives", "models.head", "models.vit", *_LORA, "lora.ranks")

EXPERIMENTS = {
    entry.name: entry
    for entry in (
        Experiment("stream", run_stream, _compared, title="Five tasks, a ViT", code=_STREAM),
        Experiment("long", run_anywhere, _long, title="All images, ten epochs, a ViT", code=_STREAM),
        Experiment("resnet", run_anywhere, _resnets, title="Five tasks, a ResNet-18", code=_RESNET),
        Experiment("resnet_long", run_anywhere, _long_resnets, seeds=ONE_SEED, title="All images, ten epochs, a ResNet-18", code=_RESNET),
        Experiment("bases", run_base, _bases, title="What the adapters stand on", code=(*_STREAM, *modules("lora.pretraining"))),
        Experiment("scarce", run_base, _scarce, title="The same with few images", code=(*_STREAM, *modules("lora.pretraining"))),
        Experiment("kinds", run_base, _kinds, title="One adapter or many", code=(*_STREAM, *modules("lora.pretraining"))),
        Experiment("adapt", run_adapt, _adaptations, title="One new task, in many ways", code=_ADAPT),
        Experiment("memory", run_memory, _memories, seeds=ONE_SEED, title="Memory in training", code=(*modules("lora.memory", "models.vit", "models.resnet"), *modules(*_LORA))),
        Experiment("gpu_memory", run_gpu_memory, _gpu_memories, seeds=ONE_SEED, title="Memory in training, on a GPU", code=(*modules("lora.memory", "models.vit", "models.resnet"), *modules(*_LORA))),
        Experiment("serving", run_serving, _servings, seeds=ONE_SEED, title="Many tenants", code=(*modules("lora.serving", "models.vit"), *modules(*_LORA))),
        Experiment("choice", run_choice, _choices, seeds=ONE_SEED, title="The choice of learning rate and rank", code=_STREAM),
    )
}  # fmt: skip


def thousands(record: Mapping[str, Any]) -> float:
    """Trained weights of a record, in thousands: a column of the lesson's tables."""
    return float(record["trainable"]) / 1000


def total_thousands(record: Mapping[str, Any]) -> float:
    """All weights of a record, adapters among them, in thousands."""
    return float(record["total"]) / 1000
