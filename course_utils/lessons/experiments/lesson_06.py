"""Lesson 06: a score instead of a class, data set after data set, and what makes a scorer change its mind.

Drawn photographs in every preset: few of 32 x 32 pixels in smoke, more of 64 x 64 in quick and full.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils import Learner, methods, quality
from course_utils.datasets.standins import photos
from course_utils.datasets.standins.photos.distortions import distort
from course_utils.datasets.standins.photos.distortions import quality as quality_left
from course_utils.datasets.standins.photos.scenes import draw_scene
from course_utils.lessons.experiment import ONE_SEED, Experiment, describe, modules
from course_utils.streams import Samples

FAMILIES = ("eva", "ava")
DISTORTIONS = ("blur", "noise", "contrast", "jpeg", "blocking")  # the first two are EVA's, the last two AVA's
LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SCENES = 12  # two of each content category
LOOKED_AT = ("naive", "replay")  # methods whose scorers are asked about graded pictures


def load(name: str, preset: Mapping[str, Any]) -> Any:
    """One family of drawn photographs in the preset's sizes, from the cache after the first time."""
    return photos.load(name, preset["train"], preset["validation"], preset["test"], size=preset["size"])


@cache
def graded(size: int) -> np.ndarray:
    """The same scenes, each spoilt in one way at one level: uint8 `(distortions, levels, scenes, 3, size, size)`."""
    result = np.empty((len(DISTORTIONS), len(LEVELS), SCENES, 3, size, size), np.uint8)
    for scene in range(SCENES):
        picture = draw_scene(scene % 6, size, np.random.default_rng([60, scene]))
        for i, name in enumerate(DISTORTIONS):
            for k, level in enumerate(LEVELS):
                spoilt = distort(picture, {name: level}, np.random.default_rng([61, scene]))
                result[i, k, scene] = spoilt.transpose(2, 0, 1)
    return result


def true_quality() -> np.ndarray:
    """The quality that every level leaves, whatever the distortion: `(levels,)`."""
    return np.array([quality_left({"blur": level}) for level in LEVELS])


class Watch(quality.RecordPredictions):
    """Records predictions, and if asked, after each task, what the scorer says of graded pictures and where it puts test images.

    Attributes:
        graded: per task `(distortions, levels, scenes)` scores.
        sphere: per task `(n, 3)` of the first task's test images: the cosine with the positive vector, the largest direction
            beside it, and the length before it was brought to 1.
    """

    def __init__(self, size: int, split: str = "test", look: bool = False) -> None:
        super().__init__(split)
        self.size, self.look = size, look
        self.graded: list[np.ndarray] = []
        self.sphere: list[np.ndarray] = []

    def before_eval(self, learner, task):
        super().before_eval(learner, task)
        if not self.look or task.index > 0 or learner.position == learner.step == 0:
            return
        pictures = graded(self.size)
        out = learner.predict(torch.from_numpy(pictures.reshape(-1, *pictures.shape[3:])))
        self.graded.append(quality.expected_score(out).numpy().reshape(pictures.shape[:3]))
        self.sphere.append(on_sphere(learner.model, getattr(task, self.split).x))


def on_sphere(model: Any, x: Tensor) -> np.ndarray:
    """Where embeddings lie, `(n, 3)`: see `Watch.sphere`."""
    training = model.training
    model.eval()
    with torch.no_grad():
        inputs = ((x.float() / 255 - model.mean) / model.std).contiguous(memory_format=torch.channels_last)
        raw = model.project(model.body(inputs).mean(dim=(2, 3)))
        positive = F.normalize(model.head.positive_vector[0], dim=0)
    model.train(training)
    unit = F.normalize(raw, dim=1)
    cosine = unit @ positive
    rest = unit - cosine[:, None] * positive  # what the score does not see
    _, _, directions = torch.linalg.svd(rest - rest.mean(dim=0), full_matrices=False)
    return torch.stack([cosine, rest @ directions[0], raw.norm(dim=1)], dim=1).numpy()


def falsify(x: Tensor, generator: torch.Generator) -> Tensor:
    """Contrast jitter or a resize of random strength for every image: usual elsewhere, false here."""
    draws = torch.rand(2, len(x), generator=generator).tolist()
    changes = (quality.FALSIFYING["contrast jitter"], quality.FALSIFYING["resize"])
    return torch.cat(
        [
            changes[int(2 * which)](image[None], round(strength, 3))
            for image, which, strength in zip(x, *draws, strict=True)
        ]
    )


AUGMENTATIONS: dict[str, Any] = {
    "none": None,
    "mirror and shift": quality.QualityAugment(),
    "contrast and resize": falsify,
}


def make(config: Mapping[str, Any], seed: int, split: str = "test") -> tuple[Any, Learner]:
    """The stream and the learner of a configuration; the learner's last method is a `Watch`."""
    objective = quality.QualityObjective(config["loss"])
    if config["stream"] == "categories":
        stream = quality.category_stream(load("eva", config), targets=objective.targets)
    else:
        names = FAMILIES if config["stream"] == "datasets" else (config["stream"],)
        stream = quality.dataset_stream([load(name, config) for name in names], targets=objective.targets)
    score = "distribution" if config["loss"] == "emd" else "cosine"
    model = quality.build_scorer(config["backbone"], seed=seed, score=score)
    used = quality.strategy(config["method"], config["strength"], config["memory"])
    look = split == "test" and config["method"] in LOOKED_AT and config["stream"] == "datasets"
    learner = Learner(
        model, [*used, Watch(config["size"], split, look)], lr=config["lr"], batch_size=config["batch_size"],
        epochs=config["epochs"], seed=seed, objective=objective, augment=AUGMENTATIONS[config["augment"]], show_progress=False,
    )  # fmt: skip
    return stream, learner


def run_stream(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """Learn the whole stream; SRCC on test images. What a process has run once it knows."""
    return dict(_learned(json.dumps(config, sort_keys=True), seed, "test"))


def run_choice(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """The same on validation images, after the last task, when all of them have been seen: to choose a strength by."""
    found = _learned(json.dumps(config, sort_keys=True), seed, "validation")
    return {name: found[name] for name in ("data", "accuracy", "mean_srcc")}


@cache
def _learned(settings: str, seed: int, split: str) -> dict[str, Any]:
    config = json.loads(settings)
    stream, learner = make(config, seed, split)
    history = learner.fit(stream, evaluate=split)
    watch = learner.methods[-1]
    last = watch.predictions[-1]
    truths = [quality.true_score(getattr(task, split).y).numpy() for task in stream]
    groups = [getattr(task, split).fields["group"].numpy() for task in stream]
    first = [row[0] for row in watch.predictions]
    record = {
        "data": _described(stream, config),
        "accuracy": history.accuracy,
        "initial": history.initial,
        "seconds": history.seconds,
        **quality.quality_summary(history.accuracy, watch.predictions),
        "plcc": [quality.plcc(p, y) for p, y in zip(last, truths, strict=True)],
        "error": [float(np.sqrt(np.mean((p - y) ** 2))) for p, y in zip(last, truths, strict=True)],
        "interval": [
            list(quality.bootstrap_interval(quality.srcc, p, y, groups=g, samples=200))
            for p, y, g in zip(last, truths, groups, strict=True)
        ],
    }
    if watch.look:
        record["graded"] = np.round([scores.mean(axis=2) for scores in watch.graded], 3)  # (tasks, distortions, levels)
    if watch.look and seed == 0:  # single images: one seed is enough for figures
        record["first"] = np.round(first, 3)  # (tasks, n): the first task's images, scored after each task
        record["graded_scenes"] = np.round(watch.graded, 3)[..., :6]
        record["sphere"] = np.round(watch.sphere, 3)
    return record


def _described(stream: Any, config: Mapping[str, Any]) -> dict[str, str]:
    found = describe(load("eva" if config["stream"] == "categories" else config["stream"], config)) if config["stream"] != "datasets" else {"name": "eva, ava", "source": "standin"}  # fmt: skip
    return {**found, "title": stream.title}


class OneSet(methods.Method):
    """Keeps of every batch the samples of one data set, the larger part: scores of two sets are never compared."""

    def batch(self, learner, batch):
        keep = batch["set"] == round(batch["set"].float().mean().item())
        return {name: value[keep] for name, value in batch.items()}


def run_scales(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """Both data sets at once, the second one's scores multiplied by `scale`; SRCC on each one's own test images."""
    objective = quality.QualityObjective(config["loss"])
    stream = quality.dataset_stream([load(name, config) for name in FAMILIES], targets=objective.targets)
    parts = []
    for task, scale in zip(stream, (1.0, config["scale"]), strict=True):
        same = torch.zeros(len(task.train), dtype=torch.long)
        parts.append(Samples({**task.train.fields, "y": task.train.y * scale, "task": same, "set": same + task.index}))
    whole = dataclasses.replace(stream, tasks=(dataclasses.replace(stream[0], train=Samples.concat(parts)),))
    learner = Learner(
        quality.build_scorer(config["backbone"], seed=seed, score="cosine"), [OneSet()], lr=config["lr"],
        batch_size=2 * config["batch_size"], epochs=2 * config["epochs"], seed=seed, objective=objective,
        augment=AUGMENTATIONS[config["augment"]], show_progress=False,
    )  # fmt: skip
    learner.fit(whole)
    found = [
        quality.srcc(
            quality.expected_score(learner.predict(task.test.x)).numpy(), quality.true_score(task.test.y).numpy()
        )
        for task in stream
    ]
    return {"data": _described(stream, config), "srcc": found, "mean_srcc": float(np.mean(found))}


def run_cost(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """The three backbones side by side on this machine's CPU, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        costs = quality.compare_models(image_size=config["size"], runs=config["runs"], memory=config["measure_memory"])
    finally:
        torch.set_num_threads(threads)
    rows = {
        cost.backbone: {
            "parameters": cost.parameters, "macs": cost.macs, "milliseconds": cost.milliseconds,
            "slow_milliseconds": cost.slow_milliseconds, "memory_bytes": cost.memory_bytes,
        }
        for cost in costs
    }  # fmt: skip
    return {"data": {"name": "none", "source": "none", "title": "random pixels"}, "rows": rows}


def attempt(used: Callable[[], list[Any]], seed: int, split: str = "validation") -> float:
    """The design task: mean SRCC after both tasks of a small stream with methods of your own.

    used: makes the methods anew; split: "validation" to choose, "test" to report.
    """
    stream, learner = make({**DESIGN, **BASE}, seed, split)
    learner.methods[:-1] = used()
    return float(quality.mean_srcc(learner.fit(stream, evaluate=split).accuracy)[-1])


# ---- conditions --------------------------------------------------------------------------------------------------------

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"size": 32, "train": 24, "validation": 12, "test": 12, "epochs": 1, "batch_size": 16, "lr": 1e-3},
    "quick": {"size": 64, "train": 480, "validation": 60, "test": 120, "epochs": 3, "batch_size": 16, "lr": 2e-3},
    "full": {"size": 64, "train": 720, "validation": 120, "test": 300, "epochs": 10, "batch_size": 32, "lr": 1e-3},
}
BASE = {
    "stream": "datasets", "backbone": "mobilenet_v3_small", "method": "naive", "strength": 1.0, "memory": 100,
    "loss": "mse+rank", "augment": "mirror and shift",
}  # fmt: skip
DESIGN = {
    "size": 64,
    "train": 300,
    "validation": 60,
    "test": 120,
    "epochs": 4,
    "batch_size": 24,
    "lr": 3e-3,
}  # the task
CANDIDATES = {"L2": (0.01, 0.1, 1.0), "EWC": (0.01, 0.1, 1.0)}
CHOSEN = {"L2": 0.01, "EWC": 0.1}  # by the experiment `choice`
SHORT = {"smoke": 1, "quick": 0.25, "full": 15}  # epochs on a category, which has a sixth of the pictures
STRICT = 0.5  # what strict judges make of every score


def _config(preset: str, **changes: Any) -> dict[str, Any]:
    return {**PRESETS[preset], **BASE, **changes}


def _methods(preset: str, **same: Any) -> dict[str, dict[str, Any]]:
    """The methods, what is below and what is above them; those that protect weights in full only, for the sake of time.

    Joint training begins anew with every task. In full it gets twice the passes, to be a ceiling.
    """
    ceiling = {"epochs": 2 * PRESETS[preset]["epochs"]} if preset == "full" else {}
    found = {
        "naive": _config(preset, **same),
        "L2": _config(preset, **same, method="l2", strength=CHOSEN["L2"]),
        "EWC": _config(preset, **same, method="ewc", strength=CHOSEN["EWC"]),
        "PackNet (task told)": _config(preset, **same, method="packnet"),
        "replay": _config(preset, **same, method="replay"),
        "joint": _config(preset, **{**same, "method": "joint", **ceiling}),
    }
    return {name: config for name, config in found.items() if preset == "full" or name in ("naive", "replay", "joint")}


def _stream(preset: str) -> dict[str, dict[str, Any]]:
    """EVA's part, then AVA's: the same contents, other distortions."""
    return _methods(preset)


def _categories(preset: str) -> dict[str, dict[str, Any]]:
    """Six tasks of one family: other contents, the same distortions. The strengths are those of the other stream."""
    found = _methods(preset, stream="categories", epochs=SHORT[preset])
    return {name: config for name, config in found.items() if preset != "quick" or name != "joint"}


def _choice(preset: str) -> dict[str, dict[str, Any]]:
    """The candidates; naive training is strength 0 of both."""
    return {"naive": _config(preset)} | {
        f"{name} {strength:g}": _config(preset, method=name.lower(), strength=strength)
        for name, strengths in CANDIDATES.items()
        for strength in strengths
    }


def _losses(preset: str) -> dict[str, dict[str, Any]]:
    """In quick two of them, for a few steps: the lesson shows the recorded run."""
    if preset == "quick":
        return {name: _config(preset, stream="eva", loss=name, epochs=0.5) for name in ("mse", "mse+rank")}
    return {name: _config(preset, stream="eva", loss=name) for name in ("mse", "mse+rank", "plcc", "fidelity", "emd")}


def _scales(preset: str) -> dict[str, dict[str, Any]]:
    """Both data sets at once, judged alike and with AVA's judges twice as strict. In quick two conditions, of few steps."""
    names = ("mse", "mse+rank", "plcc", "fidelity")
    found = {f"{name}, one scale": _config(preset, loss=name, scale=1.0) for name in names}
    found |= {f"{name}, two scales": _config(preset, loss=name, scale=STRICT) for name in names}
    if preset == "quick":
        return {name: found[name] | {"epochs": 0.5} for name in ("mse, two scales", "plcc, two scales")}
    return found


def _backbones(preset: str) -> dict[str, dict[str, Any]]:
    """In quick as in smoke, to see that they train."""
    sizes = "smoke" if preset == "quick" else preset
    return {name: _config(sizes, backbone=name) for name in ("resnet18", "efficientnet_b0")}


def _augment(preset: str) -> dict[str, dict[str, Any]]:
    return {name: _config(preset, stream="eva", augment=name) for name in AUGMENTATIONS}


def _cost(preset: str) -> dict[str, dict[str, Any]]:
    runs = {"smoke": 1, "quick": 3, "full": 30}[preset]
    return {"three backbones": {"size": 64, "runs": runs, "measure_memory": preset == "full"}}


_CODE = modules(
    "learner", "streams", "objectives", "models.head", "methods.joint", "methods.buffers", "methods.ewc", "methods.l2",
    "methods.packnet", "quality.losses", "quality.metrics", "quality.models", "quality.objective", "quality.sharing",
    "quality.streams", "quality.training", "quality.transforms", "datasets.standins.photos",
)  # fmt: skip

EXPERIMENTS = {
    entry.name: entry
    for entry in (
        Experiment("stream", run_stream, _stream, title="EVA's part, then AVA's", code=_CODE),
        Experiment("choice", run_choice, _choice, title="Strengths, on validation images", code=_CODE),
        Experiment("losses", run_stream, _losses, title="Five losses, one data set", code=_CODE),
        Experiment("scales", run_scales, _scales, title="Two scales", code=_CODE),
        Experiment("augment", run_stream, _augment, title="Augmentation, true and false", code=_CODE),
        Experiment("categories", run_stream, _categories, title="Six contents, one after the other", code=_CODE),
        Experiment("backbones", run_stream, _backbones, title="Other backbones", code=_CODE),
        Experiment("cost", run_cost, _cost, seeds=ONE_SEED, title="What the backbones cost", code=modules("quality.comparison", "quality.models")),
    )
}  # fmt: skip
