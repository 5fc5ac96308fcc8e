"""What training costs in memory, measured in a fresh process: parameters, optimizer state, peak."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any


@dataclass(frozen=True)
class TrainingMemory:
    """What a few steps of training took.

    Attributes:
        trainable, total: numbers of parameters.
        gradient_bytes: of all `.grad` after a step.
        optimizer_bytes: of the optimizer's tensors of the parameters' shapes: for Adam, two numbers a weight.
        peak_bytes: the most memory that the process held, without what a process holds that has loaded PyTorch and the
            batch but has no network. On a GPU, the most that PyTorch had allocated.
    """

    trainable: int
    total: int
    gradient_bytes: int
    optimizer_bytes: int
    peak_bytes: int


def training_memory(
    model: str,
    image_shape: tuple[int, int, int],
    *,
    rank: int | Mapping[str, int] | None = None,
    alpha: float = 8.0,
    patterns: Sequence[str] | None = None,
    batch_size: int = 64,
    steps: int = 3,
    num_outputs: int = 10,
    device: str = "cpu",
    options: Mapping[str, Any] | None = None,
) -> TrainingMemory:
    """Train a network with Adam for a few steps, each time in a new process, and say what it took.

    In a process that has trained before, the allocator keeps freed memory and the peak is another run's. The peak comes
    from the kernel's `VmHWM`, with an allocator that gives freed blocks of 64 KiB and more back at once: the holes that it
    keeps otherwise are larger than what LoRA saves. `ru_maxrss` would not do: on Linux a child inherits its parent's.

    Args:
        model: name for `models.build`; `options` are its options.
        rank: None trains all weights; otherwise as in `inject`, with `alpha` and `patterns`.
        device: "cpu" or "cuda".

    Raises:
        ValueError: a number of steps or images below 1.
        RuntimeError: the process failed; its last lines say why.

    Built in lesson 04.
    """
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps={steps} and batch_size={batch_size} must be at least 1")
    config = {
        "model": model, "image_shape": list(image_shape), "rank": dict(rank) if isinstance(rank, Mapping) else rank,
        "alpha": alpha, "patterns": None if patterns is None else list(patterns), "batch_size": batch_size,
        "steps": steps, "num_outputs": num_outputs, "device": device, "options": dict(options or {}),
    }  # fmt: skip
    measured, baseline = _in_new_process(config), _in_new_process({**config, "steps": 0})
    return TrainingMemory(**{**measured, "peak_bytes": measured["peak_bytes"] - baseline["peak_bytes"]})


def _in_new_process(config: dict[str, Any]) -> dict[str, int]:
    root = str(Path(__file__).resolve().parents[2])
    code = f"import sys; sys.path.insert(0, {root!r}); from course_utils.lora import memory; memory.main(sys.argv[1])"
    command = [sys.executable, "-c", code, json.dumps(config)]
    settings = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # read by glibc, ignored elsewhere
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the measuring process failed: {' '.join(done.stderr.splitlines()[-3:])}")
    return json.loads(done.stdout.splitlines()[-1])


def main(text: str) -> None:
    """In the new process: build, train, print what it took as JSON. With 0 steps there is no network."""
    import torch

    from course_utils import models  # noqa: F401  loaded in the baseline too

    config = json.loads(text)
    device = torch.device(config["device"])
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(config["batch_size"], *config["image_shape"], generator=generator).to(device)
    y = torch.randint(0, config["num_outputs"], (config["batch_size"],), generator=generator).to(device)
    # The first step loads a hundred megabytes of PyTorch's own code, which are nobody's training memory.
    small = torch.nn.Linear(4, 2).to(device)
    small(x.new_zeros(2, 4)).sum().backward()
    torch.optim.Adam(small.parameters()).step()
    took = {"trainable": 0, "total": 0, "gradient_bytes": 0, "optimizer_bytes": 0}
    if config["steps"]:
        took = _train(config, x, y)
    print(json.dumps({**took, "peak_bytes": peak_bytes(device.type)}))


def _train(config: dict[str, Any], x: Any, y: Any) -> dict[str, int]:
    import torch

    from course_utils import models
    from course_utils.lora.model import count_parameters, inject

    data = SimpleNamespace(image_shape=config["image_shape"])
    model = models.build(config["model"], data, num_outputs=config["num_outputs"], **config["options"]).to(x.device)
    if config["rank"] is not None:
        inject(model, config["patterns"], config["rank"], config["alpha"])
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained)
    for _ in range(config["steps"]):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    count = count_parameters(model)
    moments = [t for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t) and t.dim() > 0]
    return {
        "trainable": count.trainable,
        "total": count.total,
        "gradient_bytes": sum(p.grad.numel() * p.grad.element_size() for p in model.parameters() if p.grad is not None),
        "optimizer_bytes": sum(t.numel() * t.element_size() for t in moments),
    }


def peak_bytes(device: str = "cpu") -> int:
    """The most memory that this process has held so far, in bytes."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    import resource  # not on Windows, where this measurement cannot be made

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes


def as_row(memory: TrainingMemory) -> dict[str, float]:
    """For tables: thousands of parameters, and megabytes."""
    row = asdict(memory)
    numbers = {f"{key} (thousand)": row[key] / 1e3 for key in ("trainable", "total")}
    return {**numbers, **{f"{key.removesuffix('_bytes')} (MB)": row[key] / 2**20 for key in row if "bytes" in key}}
