"""Lesson 01: fine-tuning and joint training in three scenarios, the boundary step by step, learning rates, blur.

Digits in the smoke and quick presets; in full all of Fashion-MNIST, three seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from course_utils import Learner, datasets, methods, models, streams
from course_utils.lessons import display
from course_utils.lessons.experiment import Experiment, describe, modules
from course_utils.lessons.results import Results

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"data": "digits", "epochs": 10},
    "quick": {"data": "digits", "epochs": 20},
    "full": {"data": "fashion_mnist", "epochs": 5},
}
NUM_TASKS = 5
LR = 1e-3
HIDDEN = (100, 100)
LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
FRACTIONS = (0.0, 0.1, 0.3)  # of every task's training images that its neighbours get
TUNING_TASKS = 2  # tasks that may be looked at when a hyperparameter is chosen
SCENARIOS = {
    "class": streams.class_incremental,
    "task": streams.task_incremental,
    "domain": streams.domain_incremental,
}
# What the numbers come from; less than experiment.CORE, because no method but Joint is used.
CODE = modules("learner", "methods.joint", "models.mlp", "models.head", "objectives", "streams")


@cache
def load(name: str) -> Any:
    """The data set, once per process. Never a stand-in."""
    return datasets.load(name, allow_standin=False)


@cache
def _warm_up() -> None:
    """Two training steps for nothing: the first ones in a process take seconds, and would count as task 1's."""
    data = load("digits")
    stream = streams.class_incremental(data, 2, limit=2)
    Learner(models.build("mlp", data), steps_per_task=1, show_progress=False).fit(stream)


def make(config: Mapping[str, Any], seed: int) -> tuple[streams.TaskStream, Learner]:
    """The stream and the learner of a configuration: what differs between all runs of this lesson, in one place."""
    _warm_up()
    data = load(config["data"])
    stream = SCENARIOS[config["scenario"]](data, NUM_TASKS)
    if config.get("fraction"):
        stream = streams.blurry(stream, config["fraction"], seed=seed)
    learner = Learner(
        models.build("mlp", data, seed=seed, hidden=HIDDEN),
        [methods.Joint()] if config["method"] == "joint" else [],
        lr=config.get("lr", LR), batch_size=64, epochs=config["epochs"], seed=seed, show_progress=False,
    )  # fmt: skip
    return stream, learner


def run_stream(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """Learn the whole stream. A class-incremental network is also scored as if it were asked in the other scenarios."""
    stream, learner = make(config, seed)
    history = learner.fit(stream)
    record = history.to_dict()
    del record["losses"]
    record |= {"overall": history.overall, "data": describe(load(config["data"]))}
    if config["scenario"] == "class":
        from course_utils.lessons.exercises import lesson_01_scoring

        score = (using or {}).get("score", lesson_01_scoring.scenario_accuracy)
        test = streams.Samples.concat([task.test for task in stream])
        logits, size = learner.predict(test.x).cpu(), stream.num_outputs // len(stream)
        record["asked"] = {scenario: float(score(logits, test.y, size, scenario)) for scenario in SCENARIOS}
    return record


class Probe(methods.Method):
    """Scores two tasks after every few steps of the second: a method that only looks."""

    name = "probe"

    def __init__(self, every: int = 2, until: int = 60):
        self.every, self.until = every, until
        self.moments: list[int] = []
        self.scores: list[list[float]] = []

    def look(self, learner: Learner) -> None:
        self.moments.append(learner.step)
        self.scores.append([learner.score(task.test, task) for task in learner.stream])

    def batch(self, learner: Learner, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if learner.task.index == 1 and learner.step == 0:  # the head has grown, nothing of task 2 is learned yet
            self.look(learner)
        return batch

    def after_step(self, learner: Learner, batch: dict[str, torch.Tensor]) -> None:
        if learner.task.index == 1 and learner.step <= self.until and learner.step % self.every == 0:
            self.look(learner)


def run_boundary(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """The first steps of task 2, looked at every second one: accuracy on both tasks."""
    stream, learner = make(config, seed)
    probe = Probe()
    learner.methods.append(probe)
    history = learner.fit(stream.first(2))
    old, new = np.array(probe.scores).T
    return {
        "steps": probe.moments,
        "old": old,
        "new": new,
        "budget": int(history.steps[1]),
        "data": describe(load(config["data"])),
    }


def run_learning_rate(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """One learning rate: accuracy on the validation images after every task, on two halves of the test at the end."""
    stream, learner = make(config, seed)
    history = learner.fit(stream, evaluate="validation")
    halves = [[learner.score(task.test.subset(slice(half, None, 2)), task) for task in stream] for half in (0, 1)]
    return {
        "lr": config["lr"], "validation": history.accuracy, "test": halves[0], "fresh": halves[1],
        "data": describe(load(config["data"])),
    }  # fmt: skip


def run_design(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """The design task: a task-incremental run with other hidden layers and another learning rate."""
    _warm_up()
    data = load(config["data"])
    stream = SCENARIOS["task"](data, NUM_TASKS)

    def learner() -> Learner:
        model = models.build("mlp", data, seed=seed, hidden=config["hidden"])
        return Learner(model, lr=config["lr"], batch_size=64, epochs=config["epochs"], seed=seed, show_progress=False)

    seen = learner().fit(stream.first(TUNING_TASKS), evaluate="validation").accuracy
    history = learner().fit(stream)
    return {"accuracy": history.accuracy, "steps": history.steps, "validation": seen[-1].mean(), "data": describe(data)}


def _streams(scenarios: tuple[str, ...], preset: str) -> dict[str, dict[str, Any]]:
    ways = ("fine-tuning", "joint")
    return {
        (way if len(scenarios) == 1 else f"{scenario}, {way}"): {"scenario": scenario, "method": way, **PRESETS[preset]}
        for scenario in scenarios
        for way in ways
    }


def _boundary(preset: str) -> dict[str, dict[str, Any]]:
    return {s: {"scenario": s, "method": "fine-tuning", **PRESETS[preset]} for s in ("task", "domain", "class")}


def _learning_rates(preset: str) -> dict[str, dict[str, Any]]:
    common = {"scenario": "task", "method": "fine-tuning", **PRESETS[preset]}
    return {f"{lr:g}": {**common, "lr": lr} for lr in LEARNING_RATES}


def _blur(preset: str) -> dict[str, dict[str, Any]]:
    common = {"scenario": "class", "method": "fine-tuning", **PRESETS[preset]}
    return {f"{fraction:.0%}": {**common, "fraction": fraction} for fraction in FRACTIONS}


def _design(preset: str) -> dict[str, dict[str, Any]]:
    """The course's network and one wide layer, under a quarter of the lesson's budget."""
    common = {**PRESETS[preset], "epochs": PRESETS[preset]["epochs"] / 4}
    return {
        f"{' + '.join(map(str, hidden))} units, lr {lr:g}": {**common, "hidden": list(hidden), "lr": lr}
        for hidden in (HIDDEN, (400,))
        for lr in (3e-4, 1e-3)
    }


EXPERIMENTS = {
    "two_ways": Experiment("two_ways", run_stream, partial(_streams, ("class",)), title="Fine-tuning and joint training", code=CODE),
    "boundary": Experiment("boundary", run_boundary, _boundary, title="The first steps of task 2", code=CODE),
    "scenarios": Experiment("scenarios", run_stream, partial(_streams, ("task", "domain")), title="Two more scenarios", code=CODE),
    "learning_rate": Experiment("learning_rate", run_learning_rate, _learning_rates, title="Learning rates", code=CODE),
    "blur": Experiment("blur", run_stream, _blur, title="Blurred boundaries", code=CODE),
    "design": Experiment("design", run_design, _design, title="A wide layer", code=CODE),
}  # fmt: skip


# ---- what the lesson does with the records -----------------------------------------------------------------------


Records = Mapping[str, Mapping[int, dict[str, Any]]]  # label -> seed -> record


def three_ways(
    records: Records, choose: Callable[..., float], seen: int = TUNING_TASKS
) -> dict[str, dict[str, np.ndarray]]:
    """Choose the learning rate honestly, with future tasks and with test images; one choice per seed.

    Args:
        records: of the experiment "learning_rate".
        choose: `(candidates, seen) -> lr`, as in exercise 01.6.
        seen: how many tasks the honest choice may look at.

    Returns:
        way -> "lr", "reports" (accuracy on the half of the test that one may have looked at) and "fresh"
        (on the half that no choice has seen), each `(seeds,)`.
    """
    ways: dict[str, dict[str, list[float]]] = {}
    for seed in next(iter(records.values())):
        candidates = {seeds[seed]["lr"]: seeds[seed] for seeds in records.values()}
        known = {
            lr: {key: np.asarray(record[key]) for key in ("validation", "test")} for lr, record in candidates.items()
        }
        chosen = {
            f"validation, first {seen} task{'s' if seen > 1 else ''}": choose(known, seen),
            "validation, all tasks": choose(known, NUM_TASKS),
            "test, all tasks": max(known, key=lambda lr: known[lr]["test"].mean()),
        }
        for way, lr in chosen.items():
            row = ways.setdefault(way, {"lr": [], "reports": [], "fresh": []})
            row["lr"].append(float(lr))
            row["reports"].append(float(np.mean(candidates[float(lr)]["test"])))
            row["fresh"].append(float(np.mean(candidates[float(lr)]["fresh"])))
    return {way: {key: np.array(values) for key, values in row.items()} for way, row in ways.items()}


def show_choices(results: Results, choose: Callable[..., float], seen: int = TUNING_TASKS) -> None:
    """Show what `three_ways` gives, for your run and beside it for the recorded full run; means over seeds."""
    found = {side: three_ways(records, choose, seen) for side, records in results.sides.items()}
    rows = []
    for way in next(iter(found.values())):
        row = [way, *(", ".join(f"{lr:g}" for lr in ways[way]["lr"]) for ways in found.values())]
        for key in ("reports", "fresh"):
            row += [f"{100 * ways[way][key].mean():.1f}" for ways in found.values()]
        rows.append(row)
    columns = ("learning rate, per seed", "would report (%)", "on fresh images (%)")
    header = ["chosen on", *(f"{column}\n{side}" for column in columns for side in found)]
    display.table(header, rows, "Task-incremental fine-tuning, mean ACC after the fifth task. " + results.note())
