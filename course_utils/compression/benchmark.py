"""What a deployed network costs, measured: bytes, time, memory, and the accuracy of the very file that was timed."""

from __future__ import annotations

import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from course_utils.compression.export import export_onnx
from course_utils.compression.inputs import image_shape_of
from course_utils.compression.pruning import parameters
from course_utils.compression.runtime import INTEGER_NODES, Deployed, nodes_run
from course_utils.compression.tracing import count_macs

MEGABYTE = 1e6


def benchmark_models(
    models: Mapping[str, nn.Module | str | Path],
    test_loader: Iterable[Any] | None = None,
    device: str = "cpu",
    *,
    image_shape: Sequence[int] | None = None,
    batch_size: int = 1,
    threads: int = 1,
    rounds: int = 10,
    runs: int = 10,
    seconds: float = 1.0,
    memory: bool = True,
    folder: str | Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, Any]]:
    """Export, run and score several networks, and compare them on all counts.

    The networks take turns in rounds: whatever else the machine does then slows all of them alike. In each round a network
    first answers twice untimed, then `runs` times. Small networks are through with ten rounds in a blink, and whatever disturbs
    the machine just then would count as theirs: so rounds go on for some time.

    Args:
        models: label -> network (exported to ONNX here) or the path of an ONNX file. The first one is the baseline.
        test_loader: batches of (images, labels); without it there is no accuracy.
        device: "cpu": ONNX Runtime on `threads` cores. Anything else is refused, see `check_device`.
        image_shape: (channels, height, width); default is the first usual size that the first network takes.
        batch_size: images at once.
        rounds, seconds: at least so many rounds, and at least for so long.
        memory: also run every file in a process of its own, for its peak memory.
        folder: keep the exported files here.
        clock: seconds; for tests.

    Returns:
        label -> `size_mb` and `size_bytes` of the file, `parameters` and `macs` (None for a file), `latency_ms` (median of one
        batch), `latency_p95_ms`, `fps` (images a second), `memory_mb` (peak, above a process without a network),
        `accuracy` (share), `integer_nodes`, `size_ratio` and `speedup` against the baseline, `path`, `machine`.

    Raises:
        ValueError: nothing to measure, or a device that ONNX files are not run on here.

    Built in lesson 07.
    """
    if not isinstance(models, Mapping):
        raise ValueError(
            f"models is a {type(models).__name__}; give names with it: {{'fp32': model, 'int8': 'small.onnx'}}"
        )
    if not models or rounds < 1 or runs < 1 or batch_size < 1:
        raise ValueError(
            f"{len(models)} models, rounds={rounds}, runs={runs}, batch_size={batch_size}: at least one each"
        )
    check_device(device)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(folder if folder is not None else temporary)
        shape = _shape(models, image_shape)
        rows: dict[str, dict[str, Any]] = {}
        opened: dict[str, Deployed] = {}
        for number, (label, model) in enumerate(models.items()):
            path = (
                export_onnx(model, place / f"model_{number}.onnx", shape)
                if isinstance(model, nn.Module)
                else Path(model)
            )
            opened[label] = Deployed(path, threads)
            size = path.stat().st_size
            nodes = nodes_run(path)
            rows[label] = {
                "size_mb": size / MEGABYTE,
                "size_bytes": size,
                "parameters": parameters(model) if isinstance(model, nn.Module) else None,
                "macs": count_macs(model, shape) if isinstance(model, nn.Module) else None,
                "integer_nodes": sum(nodes[kind] for kind in INTEGER_NODES),
            }
        times = interleaved(opened, shape, batch_size, rounds, runs, seconds, clock)
        empty = _in_new_process("", shape, batch_size) if memory else 0
        for label, row in rows.items():
            row.update(timing(times[label], batch_size))
            row["accuracy"] = opened[label].accuracy(test_loader) if test_loader is not None else None
            taken = peak_memory(opened[label].path, shape, batch_size, empty) if memory else None
            row["memory_mb"] = None if taken is None else taken / MEGABYTE
            row["path"] = (
                str(opened[label].path) if folder is not None or not isinstance(models[label], nn.Module) else None
            )
            row["machine"] = machine(threads)
    return compared(rows)


def check_device(device: str) -> None:
    """Refuse to measure on anything but a CPU, and say what to do instead.

    A deployed file is what is measured here, and this course has never run its files on a GPU: there were none to try it on. A
    PyTorch network can be timed on one, with `in_pytorch` and `interleaved`; that, too, was only ever run on a CPU.

    Raises:
        ValueError: a device other than "cpu".
    """
    if device == "cpu":
        return
    trouble = (
        "" if torch.cuda.is_available() else ", and torch.cuda.is_available() is False: this machine has no CUDA GPU"
    )
    raise ValueError(
        f"device={device!r}: files are timed by ONNX Runtime on the 'cpu' only{trouble}. Use device='cpu'; to time PyTorch on a GPU "
        "use `interleaved({'fp32': in_pytorch(model, 'cuda'), 'fp16': in_pytorch(HalfModel(model), 'cuda')}, image_shape)`"
    )


def _shape(models: Mapping[str, nn.Module | str | Path], image_shape: Sequence[int] | None) -> tuple[int, ...]:
    network = next((model for model in models.values() if isinstance(model, nn.Module)), None)
    if network is not None:
        return image_shape_of(network, image_shape)
    if image_shape is not None:
        return tuple(image_shape)
    first = Deployed(Path(str(next(iter(models.values())))))
    return tuple(first.session.get_inputs()[0].shape[1:])


def interleaved(
    opened: Mapping[str, Callable[[Any], Any]],
    image_shape: Sequence[int],
    batch_size: int = 1,
    rounds: int = 10,
    runs: int = 10,
    seconds: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Label -> seconds of `runs` calls in each round, all networks in turn, see `benchmark_models`."""
    x = np.random.default_rng(0).random((batch_size, *image_shape), dtype=np.float32)
    times: dict[str, list[float]] = {label: [] for label in opened}
    done, end = 0, time.monotonic() + seconds
    while done < rounds or time.monotonic() < end:
        done += 1
        for label, network in opened.items():
            network(x)
            network(x)
            for _ in range(runs):
                started = clock()
                network(x)
                times[label].append(clock() - started)
    return times


def in_pytorch(model: nn.Module, device: str = "cpu") -> Callable[[Any], Tensor]:
    """A network as `interleaved` times it, run by PyTorch itself: images go to the device, and the answer is waited for."""
    network = copy.deepcopy(model).to(device).eval()

    def answer(x: Any) -> Tensor:
        with torch.no_grad():
            return network(torch.as_tensor(x).to(device)).cpu()

    return answer


def timing(seconds: Sequence[float], batch_size: int = 1) -> dict[str, float]:
    """`latency_ms` (median), `latency_p95_ms` and `fps` (images a second at the median)."""
    median = statistics.median(seconds)
    ordered = sorted(seconds)
    late = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    fps = batch_size / median if median > 0 else float("inf")
    return {"latency_ms": 1000 * median, "latency_p95_ms": 1000 * late, "fps": fps}


def compared(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Add `size_ratio` and `speedup`: how many times smaller and faster than the first row."""
    base = next(iter(rows.values()))
    for row in rows.values():
        row["size_ratio"] = base["size_bytes"] / row["size_bytes"]
        row["speedup"] = base["latency_ms"] / row["latency_ms"] if row["latency_ms"] > 0 else float("inf")
    return rows


def machine(threads: int = 1) -> str:
    """What was measured on, in words without names of hosts."""
    found = [
        flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp") if flag in cpu_flags()
    ]
    return f"{platform.machine()} CPU ({', '.join(found) or 'no vector instructions known'}), {threads} of {os.cpu_count()} cores"


def cpu_flags() -> frozenset[str]:
    """The processor's instruction sets as Linux names them; empty where they cannot be read."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    lines = [line for line in text.splitlines() if line.lower().startswith(("flags", "features"))]
    return frozenset(lines[0].partition(":")[2].split()) if lines else frozenset()


def weight_bits(flags: Collection[str] | None = None) -> int:
    """Bits of weights that this processor multiplies exactly: 8, or 7 on x86 without VNNI.

    There, products of unsigned 8-bit and signed 8-bit numbers are added in pairs in 16 bits, which overflows and is cut off.

    Args:
        flags: instruction sets; default is this machine's.
    """
    known = cpu_flags() if flags is None else flags
    x86 = bool({"sse2", "avx2", "avx512f"}.intersection(known))
    return 7 if x86 and not {"avx512_vnni", "avx_vnni", "amx_int8"}.intersection(known) else 8


# ---- memory, in a process of its own -------------------------------------------------------------------------------


def peak_memory(path: str | Path, image_shape: Sequence[int], batch_size: int = 1, empty: int | None = None) -> int:
    """Bytes that opening a file and answering takes at the most, above a process that has loaded the libraries only.

    Args:
        empty: what that other process takes, if it is known; otherwise it is measured, too.

    Raises:
        RuntimeError: the process failed; its last lines say why.
    """
    with_file = _in_new_process(path, image_shape, batch_size)
    return max(0, with_file - (_in_new_process("", image_shape, batch_size) if empty is None else empty))


def _in_new_process(path: str | Path, image_shape: Sequence[int], batch_size: int) -> int:
    root = str(Path(__file__).resolve().parents[2])
    code = f"import sys; sys.path.insert(0, {root!r}); from course_utils.compression import process; process.main(sys.argv[1])"
    config = json.dumps({"path": str(path), "shape": [batch_size, *image_shape]})
    settings = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # freed blocks go back at once, as in lora.memory
    done = subprocess.run(
        [sys.executable, "-c", code, config], env=settings, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"the measuring process failed: {' '.join(done.stderr.splitlines()[-3:])}")
    return json.loads(done.stdout.splitlines()[-1])


def profile_hardware() -> dict[str, Any]:
    """What this machine brings: `cores`, `instructions` that matter here, `memory_gb` (None if unknown), `gpu` (a name or None)."""
    useful = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None
    return {
        "cores": os.cpu_count(),
        "instructions": sorted(cpu_flags().intersection(useful)),
        "memory_gb": None if pages is None else round(pages / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
