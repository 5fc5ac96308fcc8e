"""What a file deployed in a stream is worth: its score on every task so far, and what it costs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from course_utils.compression.benchmark import MEGABYTE, interleaved, peak_memory, timing
from course_utils.compression.preparation import images_of
from course_utils.compression.runtime import Deployed
from course_utils.streams import Samples


def scores(learner: Any, run: Deployed, index: int, split: str) -> list[float]:
    """The learner's own score of a file on tasks 0 to `index`, one a task."""
    found = []
    for task in learner.stream.tasks[: index + 1]:
        samples: Samples = getattr(task, split)
        parts = [torch.as_tensor(run(images_of(part))) for part in samples.x.split(256)]
        out = learner.visible(torch.cat(parts), samples.fields["task"])
        found.append(learner.objective.score(out, samples.y))
    return found


def costs(
    run: Deployed, whole: bytes, image_shape: tuple[int, ...], timed: bool = True, memory: bool = False
) -> dict[str, float]:
    """Size and, if asked for, time and memory of a file; ratios against `whole`, the bytes of another file.

    Returns:
        `size_ratio`; if timed, what `timing` gives and `speedup`; with memory `memory_mb`.
    """
    row = {"size_ratio": len(whole) / run.path.stat().st_size}
    if timed:
        with tempfile.TemporaryDirectory() as temporary:
            (first := Path(temporary) / "whole.onnx").write_bytes(whole)
            times = interleaved({"whole": Deployed(first), "": run}, image_shape)
        row.update(timing(times[""]))
        row["speedup"] = timing(times["whole"])["latency_ms"] / row["latency_ms"]
    if memory:
        row["memory_mb"] = peak_memory(run.path, image_shape) / MEGABYTE
    return row
