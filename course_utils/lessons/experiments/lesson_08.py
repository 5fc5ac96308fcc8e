"""Lesson 08: streams of binary tasks in the grid, many repeats at once; with and without replay, short and long.

Glyphs, which the course draws, in the smoke and quick presets; in full Tiny-ImageNet at 28x28 grey. Every run is kept
under build/grid/lesson_08 in full, so that a killed run goes on where it was and a change of the analysis alone
trains nothing again.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from course_utils import grid
from course_utils.grid.data import ClassImages
from course_utils.grid.record import digest
from course_utils.lessons import codehash, storage
from course_utils.lessons.experiment import ONE_SEED, Experiment, modules

# Learning rate and amount of shrink-and-perturb: the best of `choice` (see `chosen`, and the claims).
RATE, AMOUNT = 0.1, 0.2
RATES = (0.01, 0.03, 0.1, 0.3)
AMOUNTS = (0.05, 0.1, 0.2, 0.4)
OTHER_REPEATS = 1000  # number of the first repeat used for choosing: other pairs of classes, other weights

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "data": "glyphs", "num_tasks": 3, "num_repeats": 4, "steps_per_task": 12, "log_frequency": 6,
        "train_images": 80, "subsamples": 20, "long_tasks": 4, "long_repeats": 2,
    },
    "quick": {
        "data": "glyphs", "num_tasks": 4, "num_repeats": 16, "steps_per_task": 40, "log_frequency": 40,
        "train_images": 80, "subsamples": 30, "long_tasks": 10, "long_repeats": 4,
    },
    "full": {
        "data": "tiny_imagenet_gray", "num_tasks": 20, "num_repeats": 32, "steps_per_task": 300, "log_frequency": 100,
        "train_images": 290, "subsamples": 50, "long_tasks": 100, "long_repeats": 8,
    },
}  # fmt: skip


@cache
def load(data: str, train_images: int) -> ClassImages:
    """The images by class, once per process. Never a stand-in, unless the drawn glyphs are what is asked for."""
    config = grid.GridConfig(data=data, train_images=train_images)
    return grid.load(config, allow_standin=data == "glyphs")


def make(config: Mapping[str, Any], seed: int) -> grid.GridConfig:
    """The configuration of a run."""
    values = {name: value for name, value in config.items() if name in FIELDS}
    return grid.GridConfig(
        **values, seed=seed, eval_tasks=20, convolution="patches", devices=grid.best_devices(values["num_repeats"])
    )


FIELDS = {field.name for field in dataclasses.fields(grid.GridConfig)}
# What decides the files that a run writes; the analysis does not.
TRAINING = tuple(
    f"course_utils.grid.{name}"
    for name in ("config", "convolution", "data", "experiment", "network", "rules", "storage", "training")
)


@contextmanager
def place(config: Mapping[str, Any], seed: int) -> Iterator[Path]:
    """Where the run is written: in the full preset a folder that stays, named by configuration and code."""
    checkout = storage.results_folder()
    if config.get("keep") and checkout is not None:
        code = [codehash.module_hash(name) for name in TRAINING]
        yield checkout.parent / "build" / "grid" / "lesson_08" / codehash.key({**config, "seed": seed}, code)
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / "run"


def _say_nothing(line: str) -> None:
    pass


def describe(images: ClassImages) -> dict[str, str]:
    """What a record says about the data."""
    return {"name": images.folder, "source": images.source, "title": images.title}


def run_stream(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """One algorithm on all repeats; accuracies are shares between 0 and 1. See `grid.digest` for the record."""
    images = load(config["data"], config["train_images"])
    settings = make(config, seed)
    with place(config, seed) as folder:
        grid.run(settings, folder, images=images, say=_say_nothing)
        kept = digest(folder)
    return {"data": describe(images), "algorithm": settings.algorithm, "num_repeats": settings.num_repeats, **kept}


# ---- the choice of learning rate and of shrink-and-perturb -----------------------------------------------------------


def held_out(images: ClassImages) -> ClassImages:
    """The training images alone: four fifths of each class to train on, the rest to judge by."""
    cut = images.train.shape[1] * 4 // 5
    return dataclasses.replace(images, train=images.train[:, :cut], test=images.train[:, cut:])


def run_choice(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """One candidate on other repeats, judged by held-out training images: no test image, no class pair of the results.

    A learning rate is judged by fresh networks, so that it favours no continual learner; an amount of
    shrink-and-perturb by the second half of the stream.
    """
    images = held_out(load(config["data"], config["train_images"]))
    counts = {"train_images": images.train.shape[1], "test_images": images.test.shape[1]}
    settings = dataclasses.replace(make({**config, **counts}, seed), eval_tasks=1, representations="none")
    with place(config, seed) as folder:
        grid.run(settings, folder, images=images, say=_say_nothing)
        table = grid.cl_analysis(folder)
    curve = table["expert" if settings.expert else "own"]["values"]  # (T, R)
    judged = curve if settings.expert else curve[len(curve) // 2 :]
    return {"data": describe(images), "validation": float(judged.mean()), "each": judged.mean(axis=0)}


def chosen(records: Mapping[str, Mapping[int, Mapping[str, Any]]], kind: str) -> float:
    """The candidate ("lr" or "perturb") with the best mean validation accuracy."""
    scores = {
        float(label.split()[1]): np.mean([record["validation"] for record in seeds.values()])
        for label, seeds in records.items()
        if label.startswith(kind)
    }
    return max(scores, key=lambda candidate: scores[candidate])


# ---- conditions ------------------------------------------------------------------------------------------------------


def _base(preset: str, **changes: Any) -> dict[str, Any]:
    settings = {name: value for name, value in PRESETS[preset].items() if name in FIELDS}
    rates = {"lr": RATE, "readout_lr": RATE, "expert_lr": RATE}
    return {**settings, **rates, "expert": False, "keep": preset == "full", **changes}


def _short(preset: str) -> dict[str, dict[str, Any]]:
    """A short stream with and without replay. The expert, a fresh network for each task, is trained beside SL."""
    return {"SL": _base(preset, expert=True), "SL + replay": _base(preset, er=True)}


def _long(preset: str) -> dict[str, dict[str, Any]]:
    """A long stream: SL, what may keep it plastic, and two further settings in full."""
    tasks = {"num_tasks": PRESETS[preset]["long_tasks"], "num_repeats": PRESETS[preset]["long_repeats"]}
    perturbed = {"pl": True, "shrink": AMOUNT, "perturb": AMOUNT}
    conditions = {
        "SL": _base(preset, **tasks, expert=True),
        "SL + shrink and perturb": _base(preset, **tasks, **perturbed),
    }
    if preset == "full":
        slower = RATES[RATES.index(RATE) - 1]
        conditions["SL, slower"] = _base(preset, **tasks, lr=slower, readout_lr=slower)
        conditions["SL, head reset"] = _base(preset, **tasks, head="reset")
    return conditions


def _choices(preset: str) -> dict[str, dict[str, Any]]:
    if preset != "full":
        return {"lr 0.1": _base(preset, **_CHOICE, expert=True)}
    rates = {
        f"lr {rate:g}": _base(preset, **_CHOICE, expert=True, **dict.fromkeys(("lr", "readout_lr", "expert_lr"), rate))
        for rate in RATES
    }
    amounts = {
        f"perturb {amount:g}": _base(preset, **{**_CHOICE, "num_tasks": 60}, pl=True, shrink=amount, perturb=amount)
        for amount in AMOUNTS
    }
    return rates | amounts


_CHOICE: dict[str, Any] = {"num_tasks": 20, "num_repeats": 4, "first_repeat": OTHER_REPEATS}
_CURVES = modules("grid.analysis", "grid.results", "grid.transfer")
_SHAPES = modules("grid.clouds", "grid.geometry", "grid.plasticity", "grid.record")

EXPERIMENTS = {
    entry.name: entry
    for entry in (
        Experiment("choice", run_choice, _choices, ONE_SEED, "Learning rate, shrink and perturb", (*TRAINING, *_CURVES)),
        Experiment("short", run_stream, _short, ONE_SEED, "A short stream", (*TRAINING, *_CURVES, *_SHAPES)),
        Experiment("long", run_stream, _long, ONE_SEED, "A long stream", (*TRAINING, *_CURVES, *_SHAPES)),
    )
}  # fmt: skip
