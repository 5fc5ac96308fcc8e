"""What a run shows, from its files alone: continual-learning metrics, plasticity and the geometry of representations.

    cl_analysis(folder)           accuracy over tasks against the expert, transfer, remembering, zero-shot, forgetting
    plasticity_analysis(folder)   dormant and active units, ranks, norms, drift
    geometry_analysis(folder)     capacity, radius, dimension and alignments of the classes' point clouds
    analyse(folder)               all three, as JSON and PNG files

Each analysis returns a table: "task" holds the trained tasks, every other key a measure over them, as `Measure`. The
metrics themselves, on plain arrays, are in `transfer`, `plasticity` and `geometry`. `plasticine_analysis` and
`glue_analysis` are other names for the second and the third.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from course_utils.grid import geometry, plasticity, transfer
from course_utils.grid.config import GridError
from course_utils.grid.results import GridResults

Array = NDArray[np.float64]
# A measure over tasks: mean over repeats, its standard error and 95 % interval, and the values themselves.
Measure = dict[str, Any]
Table = dict[str, Any]
PROBES = 50  # random directions for a geometry; more make it smoother and slower
TAUS = {"dormant_fraction": 0.0, "dormant_fraction_0.1": 0.1}  # a unit below this share of its layer's mean is dormant


def cl_analysis(folder: str | Path, how: str = "final") -> Table:
    """Continual-learning measures of a run, one value for every trained task.

    how: what stands for a learning curve, see `transfer.integrate`; also applied to the expert's.

    Keys: own (accuracy on the task just trained), expert, transfer, against_expert (own - expert), remembering (mean
    over earlier tasks of the change since each was trained), past (mean accuracy on earlier tasks), zero_shot (on tasks
    still to come), seen (mean accuracy on all tasks so far); without an expert its three keys are missing. "forgetting"
    is per task, at the end of the run. Averages over tasks are within a repeat, spreads over repeats.
    """
    results = GridResults(Path(folder))
    tasks = range(results.num_tasks)
    tables = [results.metrics(task) for task in tasks]
    steps = tables[0]["steps"]
    matrix = transfer.accuracy_matrix(
        [table["accuracy"] for table in tables],
        [table["eval_tasks"] for table in tables],
        results.config.num_tasks,
        how,
        steps,
    )
    own = np.array([matrix[task, task] for task in tasks])
    change = transfer.remembering(matrix)
    measures = {
        "own": own,
        "train_accuracy": np.stack([transfer.integrate(table["train_accuracy"], how, steps) for table in tables]),
        "remembering": transfer.mean_known(change, axis=1),
        "past": transfer.mean_known(np.array([_rows(matrix, task, 0, task) for task in tasks]), axis=1),
        "seen": transfer.mean_known(np.array([_rows(matrix, task, 0, task + 1) for task in tasks]), axis=1),
        "zero_shot": transfer.mean_known(transfer.zero_shot(matrix), axis=1),
        "forgetting": np.concatenate([transfer.forgetting(matrix), np.full_like(own[:1], np.nan)]),
    }
    if results.config.expert:
        expert = np.stack([transfer.integrate(results.expert(task)["test_acc"], how, steps) for task in tasks])
        measures |= {
            "expert": expert,
            "transfer": transfer.transfer(matrix, expert),
            "against_expert": own - expert,
        }
    return _table(list(tasks), measures)


def _rows(matrix: Array, task: int, first: int, last: int) -> Array:
    """Row `task` of the matrix with all columns but [first, last) made NaN."""
    row = np.full_like(matrix[task], np.nan)
    row[first:last] = matrix[task, first:last]
    return row


def plasticity_analysis(folder: str | Path) -> Table:
    """What is said to announce or explain a loss of plasticity, at the end of every task.

    On the representations of the current task's test images: dormant_fraction, dormant_fraction_0.1, active_fraction,
    effective_rank, stable_rank, srank_99, feature_norm. On the weights: weight_norm, weight_rms, task_drift (RMS change
    since the end of the task before), total_drift (since the end of the first task).
    """
    results = GridResults(Path(folder))
    _need_representations(results)
    tasks = list(range(results.num_tasks))
    found: dict[str, list[Array]] = {}
    first = before = np.array(results.vectors(0)[-1], dtype=float)
    for task in tasks:
        hidden = features(results, task, [task])[:, 0]  # (R, S, hidden)
        vector = np.array(results.vectors(task)[-1], dtype=float)
        values: dict[str, Array] = {name: plasticity.dormant_fraction(hidden, tau) for name, tau in TAUS.items()}
        ranks: tuple[Callable[..., Array], ...] = (
            plasticity.active_fraction,
            plasticity.effective_rank,
            plasticity.stable_rank,
            plasticity.srank_99,
            plasticity.feature_norm,
        )
        values |= {function.__name__: function(hidden) for function in ranks}
        values |= {
            "weight_norm": plasticity.weight_norm(vector),
            "weight_rms": plasticity.weight_rms(vector),
            "task_drift": plasticity.drift(before, vector),
            "total_drift": plasticity.drift(first, vector),
        }
        for name, value in values.items():
            found.setdefault(name, []).append(value)
        before = vector
    return _table(tasks, {name: np.stack(values) for name, values in found.items()})


def geometry_analysis(
    folder: str | Path,
    num_probes: int = PROBES,
    tasks: Sequence[int] | None = None,
    seed: int = 0,
    repeats: Sequence[int] | None = None,
) -> Table:
    """Geometry of the representations of a task's two classes, at the end of its training.

    Each class is a cloud of points. own_capacity, own_radius, own_dimension: mean over the two classes, each by itself
    in a crowd of random others (`geometry.manifold_geometry`). capacity, radius, dimension, centre_alignment,
    axis_alignment, centre_axis_alignment, approx_capacity: of the two together (`geometry.joint_geometry`). Two
    manifolds are few: single networks are noisy, look at the spread over repeats. A repeat whose representations are
    all zero has no geometry; it is left out, and `dead` is the share of such repeats.

    num_probes: random directions. tasks, repeats: those to look at; all of them unless given.
    """
    results = GridResults(Path(folder))
    _need_representations(results)
    tasks = range(results.num_tasks) if tasks is None else tasks
    repeats = range(results.config.num_repeats) if repeats is None else repeats
    names = [f"own_{name}" for name in ALONE] + list(JOINT) + ["dead"]
    found: dict[str, Array] = {name: np.full((len(tasks), len(repeats)), np.nan) for name in names}
    for row, task in enumerate(tasks):
        hidden = features(results, task, [task])[:, 0]  # (R, S, hidden): class A's samples, then class B's
        for column, repeat in enumerate(repeats):
            samples = hidden[repeat]
            dead = not samples.any()
            found["dead"][row, column] = dead
            if dead:
                continue
            rng = np.random.default_rng([seed, task, repeat])
            clouds = np.split(samples, 2)
            alone = geometry.manifold_geometry(clouds, num_probes=num_probes, rng=rng)
            joint = geometry.joint_geometry(clouds, num_probes=num_probes, rng=rng)
            for name in ALONE:
                found[f"own_{name}"][row, column] = getattr(alone, name)
            for name in JOINT:
                found[name][row, column] = getattr(joint, name)
    return _table(list(tasks), found)


ALONE = ("capacity", "radius", "dimension")
JOINT = (
    "capacity",
    "radius",
    "dimension",
    "centre_alignment",
    "axis_alignment",
    "centre_axis_alignment",
    "approx_capacity",
)
plasticine_analysis = plasticity_analysis
glue_analysis = geometry_analysis
ANALYSES: dict[str, Callable[..., Table]] = {
    "cl": cl_analysis,
    "plasticity": plasticity_analysis,
    "geometry": geometry_analysis,
}


def _need_representations(results: GridResults) -> None:
    if results.config.representations == "none":
        raise GridError(
            f"{results.folder} was run with representations='none'; compute them with recompute_representations, "
            "or run again with representations='last'"
        )


def features(results: GridResults, task: int, eval_tasks: Sequence[int]) -> Array:
    """Representations at the last log point of a task, (R, T_eval, S, hidden), of some of the evaluated tasks.

    They stay float32: the geometry tells rounding from variation by the type.
    """
    columns = results.task_metadata(task)["eval_tasks"]
    return np.array(results.representations(task)[-1][:, [columns.index(other) for other in eval_tasks]])


def _table(tasks: list[int], measures: Mapping[str, Array]) -> Table:
    """Each measure (T, R) with its mean over repeats and how sure that is."""
    table: Table = {"task": tasks}
    for name, values in measures.items():
        known = transfer.spread(values)
        table[name] = {key: known[key] for key in ("mean", "se", "low", "high")} | {"values": values}
    return table


def analyse(folder: str | Path, output: str | Path | None = None) -> list[Path]:
    """Write every table as JSON and every figure as PNG; returns their paths.

    output: folder for them, `folder/analysis` unless given. A run without representations gets the first table alone.
    """
    from course_utils.grid import figures

    results = GridResults(Path(folder))
    target = Path(output) if output is not None else results.folder / "analysis"
    target.mkdir(parents=True, exist_ok=True)
    names = ["cl"] if results.config.representations == "none" else list(ANALYSES)
    written = []
    for name in names:
        table = ANALYSES[name](results.folder)
        path = target / f"{name}.json"
        path.write_text(json.dumps(rounded(table), indent=1) + "\n", encoding="utf-8")
        picture = target / f"{name}.png"
        picture.write_bytes(figures.picture(name, table, f"{results.config.algorithm}, {results.title}"))
        written += [path, picture]
    return written


def rounded(value: Any) -> Any:
    """Arrays as lists with 5 digits, NaN as null: what JSON can hold."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return rounded(value.tolist())
    if isinstance(value, (list, tuple)):
        return [rounded(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if np.isfinite(value) else None
    return value
