"""Lesson 00's experiment: one network learns five digits, then the other five. It takes a second or two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from course_utils import datasets, methods, models, streams
from course_utils.learner import Learner
from course_utils.lessons.experiment import Experiment, describe

PRESETS = {"smoke": {"epochs": 1}, "quick": {"epochs": 10}, "full": {"epochs": 10}}


def run(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """Train on digits 0-4, then on 5-9, and test on both after each: `accuracy` is `(2, 2)`."""
    data = datasets.load("digits")
    stream = streams.class_incremental(data, num_tasks=2)
    chosen = [methods.Joint()] if config["joint"] else []
    model = models.build("mlp", data, seed=seed)
    learner = Learner(model, chosen, epochs=config["epochs"], seed=seed, show_progress=False)
    history = learner.fit(stream)
    return {"accuracy": history.accuracy, "overall": history.overall, "data": describe(data)}


def conditions(preset: str) -> dict[str, dict[str, Any]]:
    """Fine-tuning on the second task alone, and joint training on both."""
    return {label: {"joint": label == "joint", **PRESETS[preset]} for label in ("fine-tuning", "joint")}


EXPERIMENTS = {
    "two_tasks": Experiment(
        "two_tasks",
        run,
        conditions,
        seeds={"smoke": [0], "quick": [0], "full": [0, 1, 2, 3, 4]},
        title="Digits 0-4, then 5-9",
    )
}
