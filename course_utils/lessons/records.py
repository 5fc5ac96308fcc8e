"""Making the records: every missing full run of a lesson, in worker processes, stored one by one.

    records.run_full("02_rehearsal_kd_gtsrb", jobs=2)

What is already recorded with a valid key is not run again, so a killed or extended run goes on where it stood.
"""

from __future__ import annotations

import importlib
import multiprocessing
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.lessons import catalogue, experiment, storage
from course_utils.lessons.experiment import Experiment
from course_utils.lessons.storage import RecordError

__all__ = ["RecordError", "run_full"]


@dataclass(frozen=True)
class _Job:
    """One run: what to do (by name, so that it can be sent to a worker) and where its record goes."""

    module: str
    experiment: str
    label: str
    config: dict[str, Any]
    key: str
    seed: int

    def __str__(self) -> str:
        return f"{self.experiment} · {self.label} · seed {self.seed}"


def run_full(
    slug: str,
    jobs: int = 2,
    only: Collection[str] | None = None,
    *,
    module: str | None = None,
    folder: Path | None = None,
) -> int:
    """Run and store every full run of a lesson that has no valid record. Prints one line per finished run.

    Args:
        slug: the lesson.
        jobs: worker processes; with more than one, each uses a single torch thread. 1 runs in this process.
        only: names of the experiments to run; all by default.
        module: where to find `EXPERIMENTS`, if not in the lesson's own module (tests).
        folder: where the results file lies, if not in the checkout's `results/`.

    Returns:
        How many runs were made and stored.

    Raises:
        ValueError: unknown lesson or experiment.
        RecordError: no checkout to write to, or some runs failed; those that succeeded are stored.
    """
    slug = catalogue.find(slug).slug if module is None else slug
    folder = folder or storage.results_folder()
    if folder is None:
        raise RecordError("there is no checkout of the course here, so there is no results/ folder to record into")
    found = importlib.import_module(module) if module else experiment.lesson_module(slug)
    known: dict[str, Experiment] = getattr(found, "EXPERIMENTS", {})
    unknown = set(only or ()) - set(known)
    if unknown:
        raise ValueError(f"lesson {slug} has no experiment {sorted(unknown)}; it has {', '.join(known) or 'none'}")
    todo = [
        _Job(str(getattr(found, "__name__", "")), name, label, config, key, seed)
        for name, entry in known.items()
        if only is None or name in only
        for label, config, key, seed in experiment.missing(slug, entry, folder)
    ]
    failed: list[str] = []
    for number, (job, outcome, seconds) in enumerate(_outcomes(todo, jobs), start=1):
        if isinstance(outcome, Exception):
            failed.append(f"{job}: {type(outcome).__name__}: {outcome}")
        else:
            storage.store(slug, job.experiment, job.label, job.config, job.key, job.seed, outcome, folder)
        word = "FAILED" if isinstance(outcome, Exception) else f"{seconds:.0f} s"
        print(f"[{number}/{len(todo)}] {slug} · {job} · {word}", flush=True)
    if failed:
        raise RecordError(f"{len(failed)} of {len(todo)} runs failed:\n  " + "\n  ".join(failed))
    return len(todo)


def _outcomes(todo: list[_Job], jobs: int) -> Iterator[tuple[_Job, dict[str, Any] | Exception, float]]:
    """Each job with its record or the exception that it ended with, and its seconds, as they finish."""
    if jobs <= 1 or len(todo) <= 1:
        for job in todo:
            start = time.perf_counter()
            try:
                outcome: dict[str, Any] | Exception = _work(job)
            except Exception as problem:  # one bad run must not cost the others
                outcome = problem
            yield job, outcome, time.perf_counter() - start
        return
    # "spawn": a forked process inherits torch's threads in an unusable state.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(todo)), mp_context=context, initializer=_one_thread) as pool:
        futures: dict[Future[dict[str, Any]], _Job] = {pool.submit(_work, job): job for job in todo}
        for future in as_completed(futures):
            error = future.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            result = error or future.result()
            seconds = 0.0 if isinstance(result, Exception) else float(result["wall_seconds"])
            yield futures[future], result, seconds


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _work(job: _Job) -> dict[str, Any]:
    """Run one job; in a worker process, everything is found again by its name."""
    entry: Experiment = importlib.import_module(job.module).EXPERIMENTS[job.experiment]
    return experiment.run_one(entry, job.config, job.seed)
