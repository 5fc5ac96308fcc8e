"""`start`: what the set-up cell of every lesson calls, and the `Course` that it gives back."""

from __future__ import annotations

import inspect
import os
import platform
import random
import textwrap
import warnings
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from course_utils import progress
from course_utils.lessons import catalogue, checking, display, exercise, experiment, storage
from course_utils.lessons.experiment import Experiment
from course_utils.lessons.results import Results

PRESETS = ("smoke", "quick", "full")


def start(slug: str, preset: str = "quick", seed: int = 0) -> Course:
    """Begin a lesson: seed Python, NumPy and torch, pick the device, and print one line about this machine.

    Args:
        slug: the lesson's file name without its ending, e.g. `"02_rehearsal_kd_gtsrb"`.
        preset: "smoke" (seconds), "quick" (about a minute) or "full" (real data, several seeds, recorded).
        seed: for what the notebook itself draws; experiments take their own seeds.

    Raises:
        ValueError: unknown lesson or preset; the message names the valid ones.
    """
    lesson = catalogue.find(slug)
    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r} does not exist; use one of {', '.join(PRESETS)}")
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    # Apple's GPU is left out on purpose: for networks this small it is slower than the CPU beside it.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if preset != "full":
        # The quick networks are so small that a second thread gains little, and on a busy machine costs several times over.
        torch.set_num_threads(1)
    # Only the name of the folder's setting is printed: stored outputs must not show anyone's paths.
    folder = "COURSE_DATA" if os.environ.get("COURSE_DATA") else "data/cache"
    offline = ", offline" if os.environ.get("COURSE_OFFLINE", "") not in ("", "0") else ""
    print(
        f"{lesson.number} {lesson.title} | {preset} preset, seed {seed} | {device} | Python "
        f"{platform.python_version()}, torch {torch.__version__}, numpy {np.__version__} | data: {folder}{offline}"
    )
    module = experiment.lesson_module(lesson.slug)
    settings = getattr(module, "PRESETS", {}).get(preset, {})
    return Course(lesson, preset, seed, device, SimpleNamespace(**settings))


class Course:
    """A lesson that has been started.

    Attributes:
        slug: the lesson's.
        preset: "smoke", "quick" or "full".
        seed: the notebook's.
        device: "cuda" or "cpu".
        settings: the lesson's own settings under this preset, by attribute.
    """

    def __init__(self, lesson: catalogue.Lesson, preset: str, seed: int, device: str, settings: SimpleNamespace):
        self.lesson = lesson
        self.slug = lesson.slug
        self.preset = preset
        self.seed = seed
        self.device = device
        self.settings = settings

    def __repr__(self) -> str:
        return f"Course({self.slug!r}, preset={self.preset!r}, device={self.device!r})"

    def data(self, name: str, source: str = "auto") -> Any:
        """`datasets.load(name, source)`, under a banner that says whether the data are real, and if not, why.

        The full preset takes no stand-in: it raises `datasets.DataNotFound`, which says how to fetch the data.
        """
        from course_utils import datasets

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            data = datasets.load(name, source, allow_standin=self.preset != "full")
        reasons = [
            _without_paths(str(entry.message))
            for entry in caught
            if issubclass(entry.category, datasets.StandInWarning)
        ]
        for entry in caught:
            if not issubclass(entry.category, datasets.StandInWarning):
                warnings.warn_explicit(entry.message, entry.category, entry.filename, entry.lineno)
        sizes = f"{len(data.train):,} training, {len(data.validation):,} validation and {len(data.test):,} test images"
        shape = " x ".join(map(str, data.image_shape))
        facts = f"{data.num_classes} classes, {sizes}, each {shape} (channels, height, width)."
        if data.standin:
            display.banner("stand-in", f"Not the real data: {data.title}", "\n".join([*reasons, facts]))
        else:
            display.banner("info", f"Data: {data.title} ({data.source})", facts)
        return data

    def experiment(
        self, name: str, using: Mapping[str, Callable[..., Any]] | None = None, live: bool | None = None
    ) -> Results:
        """Run an experiment of this lesson; in the full preset, read what is recorded and run only what is missing.

        Args:
            name: the experiment's.
            using: your own functions, by the names that the experiment knows. Recorded runs were made with the
                package's, which do the same as any that passed its check.
            live: True runs here even in the full preset, and records nothing.

        Raises:
            ValueError: the lesson has no such experiment; the message lists those it has.
        """
        entry = experiment.find(self.slug, name)
        live = self.preset != "full" if live is None else live
        if live:
            records = self._run(entry, using)
            return Results(name, entry.title, self.preset, records, experiment.recorded(self.slug, entry))
        self._fill(entry)
        full = experiment.recorded(self.slug, entry)
        if full is None:  # nowhere to record: an installation without a checkout
            return Results(name, entry.title, self.preset, self._run(entry, using))
        return Results(name, entry.title, self.preset, full.values, full, live=False)

    def recorded(self, name: str) -> Results | None:
        """The recorded full run of an experiment, for sliders and figures; None unless all its conditions are there."""
        entry = experiment.find(self.slug, name)
        full = experiment.recorded(self.slug, entry)
        if full is None or set(full.values) != set(entry.configurations("full")):
            return None
        return Results(name, entry.title, "full", full.values, full, live=False)

    def show(self, thing: Any) -> None:
        """Show the source of a function or class of the package."""
        display.source(textwrap.dedent(inspect.getsource(inspect.unwrap(thing))).rstrip())

    def score(self) -> None:
        """Show a table of this lesson's exercises: how each stands, its points, and what is borrowed."""
        rows, earned, possible = [], 0.0, 0.0
        for task in exercise.of_lesson(self.slug).values():
            report = checking.last_report(task.id)
            points = report.points if report else 0
            status = report.status if report else "not attempted"
            borrowed = "the reference" if report is None or report.borrowed else "-"
            rows.append([f"{task.id} {task.title}", status, f"{points:g} of {task.points:g}", borrowed])
            earned, possible = earned + points, possible + task.points
        rows.append(["total", "", f"{earned:g} of {possible:g}", ""])
        display.table(["exercise", "status", "points", "borrowed"], rows)

    def _run(
        self, entry: Experiment, using: Mapping[str, Callable[..., Any]] | None
    ) -> dict[str, dict[int, dict[str, Any]]]:
        """Every condition with every seed of this preset: label -> seed -> record."""
        configs, seeds = entry.configurations(self.preset), entry.seeds[self.preset]
        found: dict[str, dict[int, dict[str, Any]]] = {label: {} for label in configs}
        with progress.bar(len(configs) * len(seeds), entry.title or entry.name) as bar:
            for label, config in configs.items():
                for seed in seeds:
                    bar.set_postfix_str(label)
                    # through JSON's form and back, so that live and recorded runs are the same kind of thing
                    found[label][seed] = storage.from_json(experiment.run_one(entry, config, seed, using))
                    bar.update()
        return found

    def _fill(self, entry: Experiment) -> None:
        """Run and store the full runs that have no valid record, if there is a results folder to store them in."""
        if storage.results_folder() is None:
            return
        todo = list(experiment.missing(self.slug, entry))
        if not todo:
            return
        with progress.bar(len(todo), f"{entry.title or entry.name}: full runs not yet recorded") as bar:
            for label, config, key, seed in todo:
                record = experiment.run_one(entry, config, seed)
                storage.store(self.slug, entry.name, label, config, key, seed, record)
                bar.update()


def _without_paths(text: str) -> str:
    """`text` with the data folders by their settings' names: stored outputs must not show anyone's paths."""
    from course_utils.datasets import cache_folder

    text = text.replace(str(cache_folder()), "data/cache")
    folder = os.environ.get("COURSE_DATA")
    return text.replace(folder, "$COURSE_DATA") if folder else text
