"""Where a run writes its numbers: Weights & Biases, TensorBoard, or nowhere. One small interface.

No tracker makes a network call unless asked to: Weights & Biases runs offline, into a folder that
`wandb sync` can upload later, unless `online=True`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

TRACKERS = ("none", "wandb", "tensorboard")


class Tracker(Protocol):
    def log(self, values: dict[str, float]) -> None:
        """Record named numbers at the next step."""
        ...

    def matrix(self, name: str, values: NDArray[np.float64]) -> None:
        """Record a `(T, T)` matrix as a table; NaN entries are left empty."""
        ...

    def finish(self) -> None:
        """Write everything out; the tracker is not used afterwards."""
        ...


class NoTracker:
    """Records nothing."""

    def log(self, values: dict[str, float]) -> None:
        pass

    def matrix(self, name: str, values: NDArray[np.float64]) -> None:
        pass

    def finish(self) -> None:
        pass


class WandbTracker:
    """A Weights & Biases run in `directory`, offline unless `online` is asked for."""

    def __init__(self, project: str, config: dict[str, Any], directory: Path, online: bool, name: str | None):
        if not online:
            # Even offline, W&B's writer process reports its own health to its makers unless told not to.
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        directory.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(console="off", silent=True)
        self.wandb = wandb
        self.run = wandb.init(
            project=project, config=config, dir=str(directory), name=name, settings=settings,
            mode="online" if online else "offline",
        )  # fmt: skip
        self.directory = Path(self.run.dir).parent

    def log(self, values: dict[str, float]) -> None:
        self.run.log(values)

    def matrix(self, name: str, values: NDArray[np.float64]) -> None:
        rows = [[None if v != v else float(v) for v in row] for row in values]
        columns: list[str | int] = [f"task {j + 1}" for j in range(values.shape[1])]
        self.run.log({name: self.wandb.Table(columns=columns, data=rows)})

    def finish(self) -> None:
        self.run.finish()
        self.wandb.teardown()  # finish alone returns before an offline run's file is written


class TensorBoardTracker:
    """TensorBoard event files in `directory`."""

    def __init__(self, config: dict[str, Any], directory: Path):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(directory))
        self.writer.add_text("config", str(config))
        self.step = 0

    def log(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, self.step)
        self.step += 1

    def matrix(self, name: str, values: NDArray[np.float64]) -> None:
        head = "| |" + "|".join(f"task {j + 1}" for j in range(values.shape[1])) + "|"
        rule = "|" + "---|" * (values.shape[1] + 1)
        rows = [
            f"|after {i + 1}|" + "|".join("" if v != v else f"{v:.3f}" for v in row) + "|"
            for i, row in enumerate(values)
        ]
        self.writer.add_text(name, "\n".join([head, rule, *rows]), self.step)

    def finish(self) -> None:
        self.writer.close()


def open_tracker(
    kind: str = "none",
    *,
    project: str = "continual-learning-hands-on",
    config: dict[str, Any] | None = None,
    directory: str | Path = "runs",
    name: str | None = None,
    online: bool | None = None,
) -> Tracker:
    """Open a tracker.

    Args:
        kind: "none", "wandb" or "tensorboard".
        config: settings to record with the run.
        directory: where the files go.
        name: of the run.
        online: let Weights & Biases upload. Default: only if you ask with `WANDB_MODE=online`.

    Raises:
        ValueError: the kind is unknown.
        ImportError: the tracker's package is not installed; the message says which.
    """
    if kind not in TRACKERS:
        raise ValueError(f"tracker {kind!r} is unknown; choose one of {', '.join(TRACKERS)}")
    if kind == "none":
        return NoTracker()
    try:
        if kind == "tensorboard":
            return TensorBoardTracker(config or {}, Path(directory) / (name or "run"))
        wanted = os.environ.get("WANDB_MODE") == "online" if online is None else online
        return WandbTracker(project, config or {}, Path(directory), wanted, name)
    except ImportError as error:
        raise ImportError(
            f"tracker {kind!r} needs a package that is not installed ({error}); pip install {kind}"
        ) from error
