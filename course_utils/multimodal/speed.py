"""The speed of the whole path from stored bytes to a step of the optimizer, part by part, before and after."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from course_utils.multimodal.contrastive import contrastive_loss, same_label

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
PATHS = ("one by one", "at once")
STAGES = ("assemble", "to float", "forward and loss", "backward", "optimizer")


@dataclass(frozen=True)
class Speed:
    """One line of the table: a setting, and what a step took with it.

    Attributes:
        setting: what was measured, in words.
        device: where.
        batch_size: images a step.
        milliseconds: part of the path -> median time of a step's part.
        images_per_second: of the whole step, from its median.
        loss: mean over the measured steps, so that a precision that ruins training is seen.
    """

    setting: str
    device: str
    batch_size: int
    milliseconds: dict[str, float]
    images_per_second: float
    loss: float

    def row(self, before: Speed | None = None) -> dict[str, Any]:
        """A flat row for a table, and how many times as fast as `before` it is."""
        times = {f"{stage} (ms)": round(ms, 2) for stage, ms in self.milliseconds.items()}
        row = {"setting": self.setting, "device": self.device, "batch": self.batch_size, **times}
        row["images/s"] = round(self.images_per_second)
        if before is not None:
            row["times as fast"] = round(self.images_per_second / before.images_per_second, 2)
        return row


def assemble(x: Tensor, index: Tensor, path: str = "at once") -> Tensor:
    """A batch of float images in [0, 1] from stored uint8 ones, `(N, C, H, W)` and `(n,)` -> `(n, C, H, W)`.

    "one by one" is what a data set class with a `__getitem__` and a collate function does: every image becomes floats
    by itself, then they are stacked. "at once" indexes the bytes and converts the batch: the same numbers.

    Raises:
        ValueError: an unknown path.
    """
    if path == "one by one":
        return torch.stack([x[i].float() / 255 for i in index.tolist()])
    if path == "at once":
        return x[index].float() / 255
    raise ValueError(f"path={path!r} is unknown; choose one of {', '.join(PATHS)}")


def measure(
    model: Any,
    x: Tensor,
    y: Tensor,
    text: Tensor,
    *,
    batch_size: int = 128,
    precision: str = "fp32",
    path: str = "at once",
    steps: int = 20,
    warm_up: int = 3,
    lr: float = 1e-3,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Train a copy of a `CLIP` for some steps and take the time of every part of a step, in this process.

    Medians, after a warm-up: the first steps allocate memory and choose algorithms. On a GPU every part ends with a
    synchronisation, which a real run does not have; so parts add up to a little more than an undisturbed step.

    Args:
        model: stays as it is.
        x, y, text: training samples: `(N, C, H, W)` uint8, `(N,)`, `(N, length)`.
        precision: "fp32", or "bf16" and "fp16" through autocast (fp16 with a loss scaler). Weights stay in fp32.
        path: see `assemble`.
        steps: measured steps.
        clock: seconds; for tests.

    Raises:
        ValueError: an unknown precision or path, no step, or more images a step than there are.

    Source: Micikevicius et al. 2017, "Mixed precision training". Built in lesson 05.
    """
    for name, value, choices in (("precision", precision, PRECISIONS), ("path", path, PATHS)):
        if value not in choices:
            raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(choices)}")
    if steps < 1 or warm_up < 0 or not 1 <= batch_size <= len(x):
        raise ValueError(
            f"steps={steps}, warm_up={warm_up}, batch_size={batch_size}: at least 1 step of 1 to {len(x)} images"
        )
    network = copy.deepcopy(model).train()
    device = next(network.parameters()).device
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16" and device.type == "cuda")
    generator = torch.Generator().manual_seed(seed)
    times: dict[str, list[float]] = {stage: [] for stage in STAGES}
    losses = []
    for step in range(warm_up + steps):
        index = torch.randperm(len(x), generator=generator)[:batch_size]
        moments = [_now(device, clock)]
        batch = x[index] if path == "at once" else assemble(x, index, path)
        labels, captions = y[index].to(device), text[index].to(device)
        moments.append(_now(device, clock))
        batch = batch.to(device)  # bytes travel, not floats: a quarter of the data
        batch = batch.float() / 255 if batch.dtype == torch.uint8 else batch
        moments.append(_now(device, clock))
        with _autocast(device, precision):
            image, words = network.encode_image(batch), network.encode_text(captions)
        # Softmax and logarithm in full precision; embeddings leave autocast as bf16.
        loss = contrastive_loss(_unit(image), _unit(words), network.head.scale, same_label(labels))
        moments.append(_now(device, clock))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        moments.append(_now(device, clock))
        scaler.step(optimizer)
        scaler.update()
        network.head.clamp()
        moments.append(_now(device, clock))
        if step >= warm_up:
            losses.append(loss.detach().item())
            for stage, (start, stop) in zip(STAGES, zip(moments, moments[1:], strict=False), strict=True):
                times[stage].append(stop - start)
    whole = statistics.median(map(sum, zip(*times.values(), strict=True)))
    return Speed(
        setting=f"{precision}, batch of {batch_size}, {path}",
        device=torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
        batch_size=batch_size,
        milliseconds={stage: 1000 * statistics.median(values) for stage, values in times.items()},
        images_per_second=batch_size / whole if whole > 0 else float("inf"),
        loss=statistics.fmean(losses),
    )


def compare(
    model: Any, x: Tensor, y: Tensor, text: Tensor, settings: Sequence[dict[str, Any]], **shared: Any
) -> list[dict]:
    """Rows of one table: `measure` with each of the settings, the first of which is "before".

    Args:
        settings: keyword arguments of `measure`, such as `[{"path": "one by one"}, {"precision": "bf16"}]`.
        **shared: arguments that all share.
    """
    if not settings:
        raise ValueError("settings=[] leaves nothing to measure; the first one is what the others are compared with")
    found = [measure(model, x, y, text, **{**shared, **setting}) for setting in settings]
    return [speed.row(found[0]) for speed in found]


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors.float(), dim=1)


def _autocast(device: torch.device, precision: str) -> AbstractContextManager:
    dtype = PRECISIONS[precision]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def _now(device: torch.device, clock: Callable[[], float]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()
