"""Where a file's time goes: ONNX Runtime's own profiler, node by node, beside the call as a whole."""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from course_utils.compression.runtime import INTEGER_NODES, Deployed

KINDS_OF_WORK = ("multiplying", "pooling, activations", "to and fro", "the call")
MULTIPLY = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", *INTEGER_NODES}
CONVERT = {"QuantizeLinear", "DequantizeLinear", "ReorderInput", "ReorderOutput", "Transpose", "Cast"}
FREE = "Reshape"  # computes nothing: what the profiler writes down for it is what the profiler itself takes


@dataclass(frozen=True)
class Node:
    """One node that ONNX Runtime runs: its kind, its name, and microseconds of one run."""

    kind: str
    name: str
    microseconds: float


def node_times(
    path: str | Path, image_shape: Sequence[int], batch_size: int = 1, threads: int = 1, runs: int = 200
) -> tuple[list[Node], float]:
    """Time of every node, in the order in which they run, and of a whole call without a profiler.

    The profiler takes two or three microseconds of every node for itself: as much as a Reshape, which computes nothing, so that
    is taken off. It counts in whole microseconds, so runs are averaged, without the slowest quarter: something else ran then.

    Args:
        runs: with the profiler, and as many without it, in turn.

    Returns:
        The nodes, and the time of a call in microseconds, averaged in the same way. The call is longer than the sum of its nodes by what it takes to
        enter it and to go from node to node.

    Raises:
        ValueError: no run.

    Built in lesson 07.
    """
    if runs < 1:
        raise ValueError(f"runs={runs}: at least one")
    x = np.random.default_rng(0).random((batch_size, *image_shape), dtype=np.float32)
    plain, whole = Deployed(path, threads), []
    with tempfile.TemporaryDirectory() as folder:
        watched = Deployed(path, threads, profile=Path(folder) / "profile")
        for _ in range(runs):
            plain(x)  # after the other file's turn: untimed
            started = time.perf_counter()
            plain(x)
            whole.append(time.perf_counter() - started)
            watched(x)
        events = json.loads(Path(watched.session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"], event["name"].removesuffix("_kernel_time")].append(event["dur"])
    means = {node: _without_slowest(found) for node, found in times.items()}
    own = min((mean for (kind, _), mean in means.items() if kind == FREE), default=min(means.values()))
    nodes = [Node(kind, name, max(0.0, mean - own)) for (kind, name), mean in means.items()]
    return nodes, 1e6 * _without_slowest(whole)


def _without_slowest(times: Sequence[float]) -> float:
    return float(np.mean(sorted(times)[: -(-3 * len(times) // 4)]))


def work_of(nodes: Sequence[Node], call: float) -> dict[str, float]:
    """Microseconds by kind of work; they sum to `call`, unless the nodes alone take longer.

    "multiplying" is what MACs count: convolutions and dense layers. "to and fro" turns numbers into integers and back, and
    images into the order in which a node wants them. "the call" is what no node takes.
    """
    found = dict.fromkeys(KINDS_OF_WORK, 0.0)
    for node in nodes:
        multiplies = (
            node.kind in MULTIPLY and "BatchNorm" not in node.name
        )  # it makes a BatchNorm one, of one product a pixel
        kind = "multiplying" if multiplies else "to and fro" if node.kind in CONVERT else "pooling, activations"
        found[kind] += node.microseconds
    found["the call"] = max(0.0, call - sum(found.values()))
    return found
