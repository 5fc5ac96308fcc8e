"""The experiments of lesson 02: class-incremental traffic signs with 200 stored images and a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from course_utils import datasets, methods, metrics, models, streams
from course_utils.augment import Affine
from course_utils.learner import Learner
from course_utils.lessons.experiment import ONE_SEED, Experiment, describe, modules

# limit, limit_test: images a class (None: all). widths, num_features: of the small CNN.
_SMALL = {"optimizer": "adam", "weight_decay": 0.0, "schedule": "constant", "augment": False, "lr": 3e-3}
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {**_SMALL, "limit": 6, "limit_test": 4, "widths": [8, 8, 16], "num_features": 32, "epochs": 1, "batch_size": 16},
    "quick": {**_SMALL, "limit": 60, "limit_test": 20, "widths": [16, 32, 64], "num_features": 64, "epochs": 4, "batch_size": 32},
    "full": {
        "limit": None, "limit_test": None, "widths": [32, 64, 128], "num_features": 128, "epochs": 5, "batch_size": 64,
        "optimizer": "adamw", "weight_decay": 0.1, "schedule": "cosine", "augment": True, "lr": 2e-3,
    },
}  # fmt: skip
MEMORY, ALPHA, TEMPERATURE = 200, 0.5, 2.0  # as the field uses them on this data set


@cache
def load(standin: bool) -> Any:
    """GTSRB, loaded once a process."""
    return datasets.load("gtsrb", allow_standin=standin)


def make_stream(data: Any, config: Mapping[str, Any]) -> streams.TaskStream:
    """43 classes in five tasks of 9/9/9/8/8, or with `classes_per_task` the classic five of 8."""
    options = {key: config.get(key) for key in ("limit", "limit_test", "classes_per_task")}
    return streams.class_incremental(data, 5, **options)


def make_methods(config: Mapping[str, Any], using: Mapping[str, Any] | None = None) -> list[methods.Method]:
    """The methods that a configuration names; `using` may bring the student's own `distillation` and `align`."""
    own = using or {}
    made: list[Any] = []
    replay = None
    for name in config["methods"]:
        if name == "joint":
            made.append(methods.Joint())
        elif name == "replay":
            options = {key: config[key] for key in ("policy", "distinct", "replay_batch") if key in config}
            if "replay_batch" in options:
                options["batch_size"] = options.pop("replay_batch")
            replay = methods.Replay(memory=config["memory"], **options)
            made.append(replay)
        elif name == "distill":
            made.append(methods.Distill(config["alpha"], config["temperature"], distillation=own.get("distillation")))
        elif name == "gdumb":
            made.append(methods.GDumb(memory=config["memory"]))
        elif name == "align":
            made.append(methods.WeightAlign(own["align"]) if "align" in own else methods.WeightAlign())
        elif name == "finetune":
            made.append(methods.BalancedFinetune(replay, steps=config["finetune_steps"], lr=config["finetune_lr"]))
        else:
            raise ValueError(f"the configuration names an unknown method {name!r}")
    return made


def make_learner(data: Any, config: Mapping[str, Any], seed: int, using: Mapping[str, Any] | None = None) -> Learner:
    """The network and the learner of a configuration; the same network and first batches for every method."""
    model = models.build("small_cnn", data, seed=seed, widths=config["widths"], num_features=config["num_features"])
    # The network brings every image to mean 0 and deviation 1, so changes of light would be undone at once.
    augment = (
        Affine(10, translate=0.08, scale=0.15, shear=0.08, brightness=0, contrast=0) if config["augment"] else None
    )
    return Learner(
        model,
        make_methods(config, using),
        lr=config["lr"],
        batch_size=config["batch_size"],
        epochs=config["epochs"],
        seed=seed,
        augment=augment,
        schedule=config["schedule"],
        optimizer=config["optimizer"],
        weight_decay=config["weight_decay"],
        tracker=(using or {}).get("tracker"),
        show_progress=False,
    )


def confusion(learner: Learner, stream: streams.TaskStream) -> np.ndarray:
    """Test images counted by true (row) and predicted (column) class, in the order of the head."""
    counts = np.zeros((stream.num_outputs, stream.num_outputs), dtype=int)
    for task in stream:
        predicted = learner.predict(task.test.x).argmax(dim=1)
        np.add.at(counts, (task.test.y.numpy(), predicted.cpu().numpy()), 1)
    return counts


def run(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One stream learned with one set of methods, scored on test images."""
    data = load(config["standin"])
    stream = make_stream(data, config)
    learner = make_learner(data, config, seed, using)
    history = learner.fit(stream, evaluate=config.get("evaluate", "test"))
    counts = confusion(learner, stream)
    ends = np.cumsum([len(task.classes) for task in stream])
    last_task = counts[: ends[-2], ends[-2] :].sum() / counts[: ends[-2]].sum()
    record = {
        "data": describe(data),
        "accuracy": history.accuracy,
        "overall": history.overall,
        "final": 100 * float(history.overall[-1]),
        "task_mean": 100 * metrics.average_accuracy(history.accuracy),
        "forgetting": 100 * metrics.forgetting(history.accuracy),
        "to_last_task": 100 * float(last_task),  # old test images that are taken for a class of the last task
        "steps": history.steps,
        "seconds": np.round(history.seconds, 2),
    }
    if config.get("confusion") and seed == 0:
        record["confusion"] = counts
    norms = learner.model.head.weight.detach().norm(dim=1)
    record["head_norms"] = [float(n) for n in np.round([norms[: ends[-2]].mean(), norms[ends[-2] :].mean()], 4)]
    return record


def _base(preset: str, **changes: Any) -> dict[str, Any]:
    common = {
        **PRESETS[preset],
        "standin": preset != "full",
        "memory": MEMORY,
        "alpha": ALPHA,
        "temperature": TEMPERATURE,
        "methods": [],
    }
    if preset == "smoke":
        common["memory"] = 86
    return {**common, **changes}


def compared(preset: str, **changes: Any) -> dict[str, dict[str, Any]]:
    """The comparison of the lesson: the same budget and the same start for all."""
    named: dict[str, dict[str, Any]] = {
        "fine-tuning": {"methods": [], "confusion": True},
        "distillation": {"methods": ["distill"]},
        "rehearsal": {"methods": ["replay"], "confusion": True},
        "rehearsal + distillation": {"methods": ["replay", "distill"], "confusion": True},
        "GDumb": {"methods": ["gdumb"]},
        "joint": {"methods": ["joint"]},
    }
    if preset == "smoke":
        named = {label: named[label] for label in ("fine-tuning", "rehearsal", "rehearsal + distillation", "joint")}
    return {label: _base(preset, **config, **changes) for label, config in named.items()}


def classic(preset: str) -> dict[str, dict[str, Any]]:
    """The classic protocol, five tasks of 8 classes; classes 40 to 42 are left out."""
    chosen = compared(preset, classes_per_task=8)
    labels = ("fine-tuning", "rehearsal", "rehearsal + distillation", "joint")
    return {label: {**chosen[label], "confusion": False} for label in labels}


def memory_sweep(preset: str) -> dict[str, dict[str, Any]]:
    """How many stored images? And chosen how?"""
    sizes = {"smoke": (43, 86), "quick": (50, 200), "full": (50, 200, 800)}[preset]
    policies: dict[str, dict[str, Any]] = {"class-balanced": {}, "reservoir": {"policy": "reservoir"}}
    return {
        f"{policy}, {size}": _base(preset, methods=["replay"], memory=size, **options)
        for policy, options in policies.items()
        for size in sizes
    }


def distillation_sweep(preset: str) -> dict[str, dict[str, Any]]:
    """Rehearsal with a teacher of several weights and temperatures."""
    temperatures = (2.0, 4.0) if preset == "full" else (2.0,)
    return {
        f"alpha {alpha:g}, T {temperature:g}": _base(
            preset, methods=["replay", "distill"], alpha=alpha, temperature=temperature
        )
        for alpha in (0.1, 0.5, 0.9)
        for temperature in temperatures
    }


def further(preset: str) -> dict[str, dict[str, Any]]:
    """Rehearsal + distillation with one image per track, then each ingredient on top of that."""
    end: dict[str, Any] = {"finetune_steps": 200 if preset == "full" else 30, "finetune_lr": 3e-4}
    both = ["replay", "distill"]
    steps: dict[str, dict[str, Any]] = {
        "one image per track": {"methods": both},
        "+ aligned weights": {"methods": [*both, "align"]},
        "+ balanced fine-tuning": {"methods": [*both, "finetune"], **end},
    }
    return {label: _base(preset, distinct=True, **config) for label, config in steps.items()}


_CODE = modules(
    "learner", "streams", "objectives", "augment", "models.cnn", "models.head", "datasets.gtsrb",
    "methods.replay", "methods.buffers", "methods.distill", "methods.joint", "methods.gdumb",
    "methods.calibrate",
)  # fmt: skip

EXPERIMENTS = {
    entry.name: entry
    for entry in (
        Experiment("methods", run, compared, title="Methods, the same passes", code=_CODE),
        Experiment("classic", run, classic, seeds=ONE_SEED, title="The classic 5 x 8 protocol", code=_CODE),
        Experiment("memory", run, memory_sweep, seeds=ONE_SEED, title="Memory size and policy", code=_CODE),
        Experiment(
            "distillation", run, distillation_sweep, seeds=ONE_SEED, title="Strength and temperature", code=_CODE
        ),
        Experiment("further", run, further, title="How far do 200 images go?", code=_CODE),
    )
}
