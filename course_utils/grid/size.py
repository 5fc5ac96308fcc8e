"""What a run will write and hold, said before it starts, and refused where it cannot fit."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import jax

from course_utils.grid.config import GridConfig, GridError
from course_utils.grid.network import Network

FLOAT = 4  # bytes
PIXELS = 28 * 28


@dataclass(frozen=True)
class Size:
    """Bytes. task_on_disk: of one task's folder. device: peak on all devices together. host: peak in memory."""

    task_on_disk: int
    tasks: int
    device: int
    host: int
    preloaded: int  # test images of all evaluated tasks, part of `device` when they are preloaded

    def __str__(self) -> str:
        return (
            f"will write {readable(self.tasks * self.task_on_disk)} ({self.tasks} tasks of {readable(self.task_on_disk)}) "
            f"and hold about {readable(self.device)} on the device and {readable(self.host)} in memory"
        )


def readable(count: float) -> str:
    """Bytes as people say them: 3.2 GB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def estimate(config: GridConfig, network: Network, num_classes: int) -> Size:
    """What a run of this configuration takes."""
    repeats, logs, evaluated = config.num_repeats, config.num_logs, len(config.evaluated(0))
    points, weights = len(config.representation_points), network.num_weights
    log = logs * repeats * weights * FLOAT
    hidden = points * repeats * evaluated * config.subsamples * (config.hidden * FLOAT + 1)
    metrics = 2 * logs * repeats * (evaluated + 1) * FLOAT + (4 * logs * repeats * FLOAT if config.expert else 0)
    final = repeats * weights * FLOAT if config.steps_per_task % config.log_frequency else 0
    pixels = num_classes * (config.train_images + config.test_images) * PIXELS
    train = 2 * config.train_images * repeats * PIXELS
    preloaded = evaluated * 2 * config.test_images * repeats * PIXELS
    memory = num_classes * config.replay_images * PIXELS * config.devices if config.er else 0
    batch = config.batch_size + (config.replay_batch_size if config.er else 0)
    at_once = repeats if config.repeat_axis == "vmap" else config.devices * config.repeat_chunk
    # Activations of a batch with their patches, 9 times as wide, kept for the backward pass.
    area = (28 * 28, 14 * 14, 7 * 7) if config.pooling == "stride" else (28 * 28, 28 * 28, 9 * 9)
    widths = (1, *config.widths)
    activations = sum(side * 10 * width * FLOAT for side, width in zip(area, widths[:3], strict=True))
    working = at_once * max(3 * batch, 2 * config.test_images) * activations
    device = (
        log
        + train
        + memory
        + working
        + 4 * repeats * weights * FLOAT
        + (preloaded if config.preload else preloaded // evaluated)
    )
    return Size(log + hidden + metrics + final, config.num_tasks, device, pixels + 3 * log + 2 * hidden, preloaded)


def check(size: Size, folder: Path, tasks_left: int) -> None:
    """Raise GridError where the disk under `folder` or the memory of this machine cannot hold the run."""
    folder = Path(folder).absolute()
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(place).free
    wanted = tasks_left * size.task_on_disk
    if wanted > 0.95 * free:
        raise GridError(
            f"the run would write {readable(wanted)}, {place} has {readable(free)} free; log less often "
            "(log_frequency), keep fewer representations (representations='last', subsamples, eval_tasks), "
            "or take another folder"
        )
    on_device = jax.default_backend() != "cpu"
    memory, needed = available_memory(), size.host + (0 if on_device else size.device)
    if memory is not None and needed > 0.9 * memory:
        raise GridError(
            f"the run needs about {readable(needed)} of memory, {readable(memory)} are free; use fewer repeats at once "
            "(run slices: num_repeats with first_repeat), fewer log points, eval_tasks, or preload=False"
        )
    if on_device:
        limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in jax.local_devices()]
        if all(limits) and size.device > 0.9 * sum(limits):
            raise GridError(
                f"the run needs about {readable(size.device)} on the device, which has {readable(sum(limits))}; use fewer "
                "repeats at once, repeat_axis='map', preload=False or fewer log points"
            )


def available_memory() -> int | None:
    """Bytes of memory that are free now, within the limits of a container; None where this cannot be known."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            free = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        try:
            free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (ValueError, OSError, AttributeError):
            return None
    return free
