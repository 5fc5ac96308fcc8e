"""Every test runs without network and without a display, whoever starts it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# One thread: the tests' networks are so small that two cost time, on a busy machine ten times as much. Kernels inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Set before anything is imported; kernels and other subprocesses inherit them.
os.environ.setdefault("COURSE_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")
# nbgrader calls alembic by its name, so the environment's programs have to be found although nobody activated it.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def pytest_configure() -> None:
    """Figures are drawn into memory. An environment variable would also reach the kernels, which show theirs."""
    import matplotlib

    matplotlib.use("Agg")
