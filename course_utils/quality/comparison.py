"""What a scorer costs: parameters, multiplications, time and memory, measured side by side."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from course_utils.quality.models import BACKBONES, build_scorer


@dataclass(frozen=True)
class ModelCost:
    """One line of the table.

    Attributes:
        backbone: name.
        parameters: trainable numbers of the whole scorer.
        macs: multiply-accumulate operations for one image, of convolutions and linear layers.
        milliseconds: median time for one image, batch of one.
        slow_milliseconds: 95th percentile of it.
        memory_bytes: peak memory that weights and one forward pass add to a fresh process; -1 where it cannot be measured.
        image_size: side of the square image, pixels.
        threads: of the CPU.
    """

    backbone: str
    parameters: int
    macs: int
    milliseconds: float
    slow_milliseconds: float
    memory_bytes: int
    image_size: int
    threads: int


def compare_models(
    backbones: Sequence[str] = BACKBONES, image_size: int = 224, runs: int = 20, memory: bool = True
) -> list[ModelCost]:
    """Measure scorers on this machine's CPU.

    Args:
        image_size: side of the image, pixels; 224 is what published numbers refer to.
        runs: timed passes, in turns over the backbones, so that a busy moment of the machine hits all of them.
        memory: measure it too; a fresh process for each backbone and each baseline, a few seconds.

    Raises:
        ValueError: an unknown backbone, a size below 32, or fewer than 1 run.

    Built in lesson 06.
    """
    if image_size < 32 or runs < 1:
        raise ValueError(f"image_size={image_size} must be at least 32 and runs={runs} at least 1")
    models = {name: build_scorer(name).eval() for name in backbones}
    image = torch.rand(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    times: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for run in range(runs + 3):
            for name, model in models.items():
                start = time.perf_counter()
                model(image)
                if run >= 3:  # the first passes allocate and choose kernels
                    times[name].append(1000 * (time.perf_counter() - start))
    baseline = peak_memory(None, image_size) if memory else 0
    table = []
    for name, model in models.items():
        ordered = sorted(times[name])
        table.append(
            ModelCost(
                backbone=name,
                parameters=sum(parameter.numel() for parameter in model.parameters()),
                macs=count_macs(model, image_size),
                milliseconds=statistics.median(ordered),
                slow_milliseconds=ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))],
                memory_bytes=peak_memory(name, image_size) - baseline if memory and baseline >= 0 else -1,
                image_size=image_size,
                threads=torch.get_num_threads(),
            )
        )
    return table


def table(costs: Sequence[ModelCost]) -> str:
    """The comparison as Markdown."""
    lines = [
        "| Model | Parameters | MACs | Inference Time | 95th percentile | Peak memory |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for cost in costs:
        memory = "not measured" if cost.memory_bytes < 0 else f"{cost.memory_bytes / 1e6:.0f} MB"
        lines.append(
            f"| {cost.backbone} | {cost.parameters / 1e6:.2f} M | {cost.macs / 1e6:,.0f} M | {cost.milliseconds:.1f} ms | "
            f"{cost.slow_milliseconds:.1f} ms | {memory} |"
        )
    size, threads = costs[0].image_size, costs[0].threads
    return "\n".join([*lines, "", f"One image of {size}x{size} pixels, CPU, {threads} thread{'s' * (threads > 1)}."])


def count_macs(model: nn.Module, image_size: int) -> int:
    """Multiply-accumulate operations of convolutions and linear layers for one image; the model is left as it was.

    A convolution does `kernel height * width * input channels / groups` of them for each number that it puts out.
    """
    total = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            total += output.numel() * height * width * module.in_channels // module.groups
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, image_size, image_size))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return total


def peak_memory(backbone: str | None, image_size: int) -> int:
    """Peak resident memory of a fresh process that scores one image, bytes; None scores none. -1 without `resource`."""
    root = str(Path(__file__).resolve().parents[2])
    call = "from course_utils.quality import comparison; comparison.main(sys.argv[1])"
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {root!r}); {call}",
        json.dumps([backbone, image_size]),
    ]
    # Without a fixed threshold glibc keeps freed memory for itself, more in one run than in another.
    done = subprocess.run(
        command, env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"the measuring process failed: {' '.join(done.stderr.splitlines()[-3:])}")
    return int(done.stdout.split()[-1])


def main(text: str) -> None:
    """In the fresh process: score one image, print the peak."""
    import torchvision  # noqa: F401  in the baseline too

    from course_utils.lora.memory import peak_bytes

    backbone, image_size = json.loads(text)
    torch.set_num_threads(1)
    with torch.inference_mode():
        nn.Conv2d(3, 4, 3)(torch.zeros(1, 3, 32, 32))  # PyTorch's own code is nobody's memory
        if backbone is not None:
            build_scorer(backbone).eval()(torch.zeros(1, 3, image_size, image_size))
    try:
        print(peak_bytes())
    except ImportError:  # Windows
        print(-1)
