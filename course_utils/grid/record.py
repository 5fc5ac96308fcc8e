"""A run as a few thousand numbers, small enough to keep as JSON: what lesson 08 records of its long runs.

Tasks are taken together in bins, within each repeat; what is kept is one number for each bin and repeat, so that means,
intervals and paired differences over repeats can be computed from the record alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from course_utils.grid import analysis, plasticity
from course_utils.grid.clouds import coordinates
from course_utils.grid.results import GridResults
from course_utils.grid.transfer import mean_known

Array = NDArray[np.float64]
# What is left out because another measure says the same: own - expert, and the norm of a fixed number of weights.
LEFT_OUT = {"against_expert", "weight_norm", "forgetting"}
SPECTRUM = 20  # singular values that are kept
CLOUD = 24  # points that are kept of a picture


def digest(folder: str | Path, bins: int = 10, geometry_repeats: int = 8) -> dict[str, Any]:
    """The measures of a finished run, by bins of tasks.

    bins: as many bins of equal length as there can be up to this number. Geometry takes long; it is computed for the
    last task of each bin and for the first `geometry_repeats` repeats.

    Returns a dict, which the figures of lesson 08 are drawn from:
        first, last: `(B,)` first and last task of each bin, from 1.
        measures: name -> `(B, R)`, the mean over the tasks of a bin; NaN where nothing was measured. Those of
            `geometry_analysis` have fewer repeats.
        spectrum: `(B, K)` shares of the largest singular values of the representations of the bin's last task, mean
            over repeats.
        cloud: `(B, S, 2)` representations of the bin's last task in the first repeat, on their first two principal
            components; labels `(S,)`, 0 or 1.
        forgetting: `(R,)` mean over tasks at the end of the run.
    """
    results = GridResults(Path(folder))
    size = -(-results.num_tasks // bins)
    edges = [(start, min(start + size, results.num_tasks)) for start in range(0, results.num_tasks, size)]
    tables = {**analysis.cl_analysis(folder), **analysis.plasticity_analysis(folder)}
    forgetting = tables["forgetting"]["values"]
    measures = {
        name: binned(table["values"], edges)
        for name, table in tables.items()
        if name != "task" and name not in LEFT_OUT
    }
    lasts = [end - 1 for _, end in edges]
    geometry = analysis.geometry_analysis(
        folder, tasks=lasts, repeats=range(min(geometry_repeats, results.num_repeats))
    )
    measures |= {name: table["values"] for name, table in geometry.items() if name != "task"}
    features = [analysis.features(results, task, [task])[:, 0] for task in lasts]  # each (R, S, hidden)
    some = np.linspace(0, features[0].shape[1] - 1, min(CLOUD, features[0].shape[1])).astype(int)
    return {
        "first": [start + 1 for start, _ in edges],
        "last": [end for _, end in edges],
        "measures": {name: analysis.rounded(values) for name, values in measures.items()},
        "spectrum": analysis.rounded(np.stack([plasticity.spectrum(f)[:, :SPECTRUM].mean(axis=0) for f in features])),
        "cloud": analysis.rounded(np.stack([principal_plane(f[0])[some] for f in features])),
        "labels": [int(row >= features[0].shape[1] // 2) for row in some],
        "forgetting": analysis.rounded(mean_known(forgetting, axis=0)),
    }


def binned(values: ArrayLike, edges: list[tuple[int, int]]) -> Array:
    """`(T, R)` -> `(B, R)`: the mean over the tasks of each bin [start, end), NaN where all of them are NaN."""
    array = np.asarray(values, dtype=float)
    return np.stack([mean_known(array[start:end], axis=0) for start, end in edges])


def principal_plane(points: ArrayLike) -> Array:
    """Points `(S, n)` on their first two principal components, `(S, 2)`; zeros where they do not vary."""
    cloud = np.asarray(points, dtype=float)
    plane = np.zeros((len(cloud), 2))
    found = coordinates(cloud - cloud.mean(axis=0), 0.0)[:, :2]
    plane[:, : found.shape[1]] = found
    return plane
