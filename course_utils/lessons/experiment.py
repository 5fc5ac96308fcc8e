"""Experiments: what a lesson runs, several conditions by several seeds, live or from the recorded full run.

A lesson declares them in `course_utils/lessons/experiments/lesson_NN.py`:

    def run(config, seed, using):           # -> a record: numbers, lists, NaN for what was not measured
        ...
        return {"accuracy": history.accuracy, "overall": history.overall, "data": describe(data)}

    EXPERIMENTS = {"methods": Experiment("methods", run, conditions={"fine-tuning": {...}, "joint": {...}})}
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from course_utils.lessons import catalogue, codehash, storage

Config = Mapping[str, Any]
Run = Callable[[dict[str, Any], int, Mapping[str, Any] | None], Mapping[str, Any]]


def modules(*names: str) -> tuple[str, ...]:
    """Full names of the package's modules, for `Experiment.code`: `modules("learner", "models.cnn")`."""
    return tuple(f"course_utils.{name}" for name in names)


# Modules that nearly every experiment's numbers come from.
CORE = modules("learner", "methods", "models", "objectives", "streams", "metrics")
ONE_SEED: Mapping[str, Sequence[int]] = {"smoke": [0], "quick": [0], "full": [0]}


def _default_seeds() -> dict[str, Sequence[int]]:
    return {"smoke": [0], "quick": [0], "full": [0, 1, 2]}


@dataclass(frozen=True)
class Experiment:
    """Conditions to compare, and how to run one of them.

    Attributes:
        name: as in `course.experiment(name)`.
        run: `(config, seed, using) -> record`; a function at the top level of the lesson's experiments module.
            `using` holds the student's own functions by name, or is None. The record holds numbers, text,
            lists, arrays (NaN is allowed) and mappings of them.
        conditions: label -> configuration, or a function of the preset that returns this.
        seeds: preset -> seeds.
        title: for tables and progress bars.
        code: modules whose code the numbers depend on, beside `run` and what it uses in its own module.
            A change in them makes the records stale; name no more than needed.
    """

    name: str
    run: Run
    conditions: Mapping[str, Config] | Callable[[str], Mapping[str, Config]]
    seeds: Mapping[str, Sequence[int]] = field(default_factory=_default_seeds)
    title: str = ""
    code: Sequence[str] = CORE

    def configurations(self, preset: str) -> dict[str, dict[str, Any]]:
        """Label -> configuration under this preset."""
        chosen = self.conditions(preset) if callable(self.conditions) else self.conditions
        return {label: dict(config) for label, config in chosen.items()}

    def key(self, config: Config) -> str:
        """The key that a record of this configuration has as long as the code does not change."""
        own = codehash.function_hash(self.run.__module__, self.run.__name__)
        return codehash.key(config, [own, *(codehash.module_hash(name) for name in self.code)])


def describe(data: Any) -> dict[str, str]:
    """What a record says about a `datasets.Dataset`: its name, source and title."""
    return {"name": data.name, "source": data.source, "title": data.title}


def lesson_module(lesson: str) -> ModuleType | None:
    """`course_utils.lessons.experiments.lesson_NN` of a lesson (slug or number), or None if it has none."""
    name = f"course_utils.lessons.experiments.lesson_{catalogue.find(lesson).number}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None


def find(lesson: str, name: str) -> Experiment:
    """The lesson's experiment of this name.

    Raises:
        ValueError: there is none; the message lists the lesson's experiments.
    """
    known: Mapping[str, Experiment] = getattr(lesson_module(lesson), "EXPERIMENTS", {})
    if name not in known:
        raise ValueError(f"lesson {lesson} has no experiment {name!r}; it has {', '.join(known) or 'none'}")
    return known[name]


def run_one(
    experiment: Experiment, config: Config, seed: int, using: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """One record, as JSON would give it back, with `"wall_seconds"` added."""
    start = time.perf_counter()
    record = dict(experiment.run(dict(config), seed, using))
    record.setdefault("wall_seconds", round(time.perf_counter() - start, 2))
    return storage.to_json(record)


def recorded(slug: str, experiment: Experiment, folder: Path | None = None) -> Recorded | None:
    """What the lesson's results file has of this experiment's full run, stale or not; None if it has nothing."""
    content = storage.read(slug, folder)
    entries = (content or {}).get("experiments", {}).get(experiment.name)
    if not content or not entries:
        return None
    configs = experiment.configurations("full")
    # A label that the experiment no longer has is stale too; it is left out.
    found = {label: entries[label] for label in configs if label in entries}
    if not found:
        return None
    stale = tuple(label for label, entry in found.items() if entry["key"] != experiment.key(configs[label]))
    values = {
        label: {int(seed): storage.from_json(record) for seed, record in entry["seeds"].items()}
        for label, entry in found.items()
    }
    return Recorded(values, stale, content["recorded"], content["hardware"])


@dataclass(frozen=True)
class Recorded:
    """A full run from a results file: label -> seed -> record, labels whose key no longer fits, date, machine."""

    values: dict[str, dict[int, dict[str, Any]]]
    stale: tuple[str, ...]
    date: str
    hardware: str


def missing(
    slug: str, experiment: Experiment, folder: Path | None = None
) -> Iterator[tuple[str, dict[str, Any], str, int]]:
    """(label, configuration, key, seed) of every full run that is not recorded, or only with a stale key."""
    entries = (storage.read(slug, folder) or {}).get("experiments", {}).get(experiment.name, {})
    for label, config in experiment.configurations("full").items():
        key = experiment.key(config)
        entry = entries.get(label, {"key": None, "seeds": {}})
        have: Iterable[str] = entry["seeds"] if entry["key"] == key else ()
        for seed in experiment.seeds["full"]:
            if str(seed) not in have:
                yield label, config, key, seed
