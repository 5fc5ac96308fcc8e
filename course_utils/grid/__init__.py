"""The vmapped JAX grid: many repeats of a stream of binary tasks at once, everything logged, resumable.

    config = grid.GridConfig(data="glyphs", num_tasks=10, num_repeats=32)
    folder = grid.run(config)
    results = grid.GridResults(folder)
    grid.cl_analysis(folder)

Needs the extra `jax`: pip install "course_utils[jax]". Built in lesson 08.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "GridConfig": "config",
    "GridError": "config",
    "ClassImages": "data",
    "digest": "record",
    "load": "data",
    "run": "experiment",
    "best_devices": "experiment",
    "results_folder": "experiment",
    "use_devices": "experiment",
    "GridResults": "results",
    "recompute_representations": "results",
    "analyse": "analysis",
    "cl_analysis": "analysis",
    "plasticity_analysis": "analysis",
    "plasticine_analysis": "analysis",
    "geometry_analysis": "analysis",
    "glue_analysis": "analysis",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
