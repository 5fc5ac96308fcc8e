"""Where a file's time goes: ONNX Runtime's own profiler, node by node, beside the call as a whole."""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from course_utils.compression.runtime import INTEGER_NODES, Deployed

KINDS_OF_WORK = ("multiplying", "pooling, activations", "to and fro", "the call")
MULTIPLY = {"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", *INTEGER_NODES}
CONVERT = {"QuantizeLinear", "DequantizeLinear", "ReorderInput", "ReorderOutput", "Transpose", "Cast"}
WARM = 2  # calls of every turn that do not count: the other files' numbers fill the caches
TINY = 8  # nodes of the file that tells what the profiler itself takes


@dataclass(frozen=True)
class Node:
    """One node that ONNX Runtime runs: its kind, its name, and microseconds of one run."""

    kind: str
    name: str
    microseconds: float


def node_times(
    files: Mapping[str, str | Path],
    image_shape: Sequence[int],
    batch_size: int = 1,
    threads: int = 1,
    rounds: int = 10,
    runs: int = 20,
) -> dict[str, tuple[list[Node], float]]:
    """Time of every node of several files, and of a whole call without a profiler. The files take turns in rounds.

    Of what the profiler writes down for a node, about two microseconds are its own. They are measured in the same rounds, with
    nodes that compute next to nothing, and taken off. It counts in whole microseconds, so runs are averaged, without the
    slowest quarter: something else ran then. A single node is known to about a microsecond; sums are better.

    Args:
        files: label -> path of an ONNX file.
        image_shape: (channels, height, width).
        rounds, runs: `runs` calls in each round, with the profiler and without, after two that do not count.

    Returns:
        label -> (nodes in the order in which they run, microseconds of a call). The call takes longer than its nodes by what it
        needs to enter the library and to go from node to node.

    Raises:
        ValueError: nothing to measure, or images of a shape that a file does not take.

    Source: ONNX Runtime's profiler (`SessionOptions.enable_profiling`). Built in lesson 07.
    """
    if not files or min(batch_size, threads, rounds, runs) < 1:
        raise ValueError(
            f"{len(files)} files, batch_size={batch_size}, threads={threads}, rounds={rounds}, runs={runs}: at least one each"
        )
    x = np.random.default_rng(0).random((batch_size, *image_shape), dtype=np.float32)
    calls: dict[str, list[float]] = {label: [] for label in files}
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        plain = {label: Deployed(path, threads) for label, path in files.items()}
        for label, run in plain.items():
            _must_take(run, label, x)
        watched = {
            label: Deployed(path, threads, profile=place / f"{n}") for n, (label, path) in enumerate(files.items())
        }
        tiny = Deployed(_tiny(place / "tiny.onnx"), threads, profile=place / "tiny")
        for _ in range(rounds):
            for label, run in plain.items():
                for number in range(WARM + runs):
                    started = time.perf_counter()
                    run(x)
                    if number >= WARM:
                        calls[label].append(time.perf_counter() - started)
                for _ in range(WARM + runs):
                    watched[label](x)
            for _ in range(WARM + runs):
                tiny(np.zeros((1, 1), dtype=np.float32))
        own = float(np.mean([node.microseconds for node in _nodes(_events(tiny), runs)]))
        nodes = {label: _nodes(_events(run), runs, own) for label, run in watched.items()}
    return {label: (nodes[label], 1e6 * without_slowest(times)) for label, times in calls.items()}


def _must_take(run: Deployed, label: str, x: np.ndarray) -> None:
    try:
        run(x)
    except Exception as error:
        wanted = run.session.get_inputs()[0].shape
        raise ValueError(
            f"{label} takes images of shape {wanted[1:]}, image_shape is {list(x.shape[1:])}; give the file's own"
        ) from error


def _tiny(path: Path) -> Path:
    """A file whose nodes compute next to nothing, one number each."""
    import onnx
    from onnx import TensorProto, helper

    names = [f"x{number}" for number in range(TINY + 1)]
    nodes = [helper.make_node("Tanh", [given], [made]) for given, made in zip(names, names[1:], strict=False)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in (names[0], names[-1])]
    graph = helper.make_graph(nodes, "tiny", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def _events(run: Deployed) -> list[dict[str, Any]]:
    return json.loads(Path(run.session.end_profiling()).read_text(encoding="utf-8"))


def _nodes(events: Iterable[Mapping[str, Any]], runs: int, own: float = 0.0) -> list[Node]:
    """Every node's mean microseconds less `own`, of the profiler's events: turns of `WARM` calls that do not count and `runs` that do."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"], event["name"].removesuffix("_kernel_time")].append(event["dur"])
    return [
        Node(kind, name, max(0.0, without_slowest([t for n, t in enumerate(found) if n % (WARM + runs) >= WARM]) - own))
        for (kind, name), found in times.items()
    ]


def without_slowest(times: Sequence[float]) -> float:
    """The mean of the faster three quarters."""
    return float(np.mean(sorted(times)[: -(-3 * len(times) // 4)]))


def work_of(nodes: Sequence[Node], call: float) -> dict[str, float]:
    """Microseconds by kind of work; they sum to `call`, unless the nodes alone take longer. For convolutional networks.

    "multiplying" is what MACs count: convolutions and dense layers. "to and fro" turns numbers into integers and back, and
    images into the order in which a node wants them. "the call" is what no node takes.
    """
    found = dict.fromkeys(KINDS_OF_WORK, 0.0)
    for node in nodes:
        # ONNX Runtime makes a BatchNorm that stands alone a convolution with one product a number.
        multiplies = node.kind in MULTIPLY and not node.name.endswith("_bn_nchwc")
        kind = "multiplying" if multiplies else "to and fro" if node.kind in CONVERT else "pooling, activations"
        found[kind] += node.microseconds
    found["the call"] = max(0.0, call - sum(found.values()))
    return found
