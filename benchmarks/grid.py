"""What a step of the grid costs, side by side with the obvious ways, in one table from one run.

    python benchmarks/grid.py                     # R = 1, 8, 32; about three minutes on 2 cores
    python benchmarks/grid.py --repeats 32 --out results/benchmark_grid.json

Every row trains the same network (three 3x3 convolutions 16, 32, 64 with stride 2, dense 64, dense 2, batch 32, SGD) on
the same images. Times are milliseconds per repeat and step, the median of several rounds in which all rows take turns;
compile time is apart. The last column is the share of this machine's matrix-multiply peak, measured in the same run.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from course_utils import grid

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
os.environ.setdefault("OMP_NUM_THREADS", str(CORES))
grid.use_devices(CORES)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from course_utils.grid.network import Network, flatten, unflatten  # noqa: E402
from course_utils.grid.training import Layout, Program, trainer  # noqa: E402

BATCH, IMAGES, RATE = 32, 160, 0.01
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # PyTorch's rows run where jax's do
# Multiplications of a forward pass of one image; a training step takes three times as many (the gradient of the weights
# and of the inputs), but for the first layer, whose inputs need no gradient.
FIRST = 14 * 14 * 9 * 16
FORWARD = FIRST + 7 * 7 * 9 * 16 * 32 + 4 * 4 * 9 * 32 * 64 + 1024 * 64 + 64 * 2
FLOPS = 2 * BATCH * (3 * FORWARD - FIRST)
# Name, what to time (it may give the seconds itself), steps in it, seconds to compile.
Row = tuple[str, Callable[[], Any], int, float]


def jax_inputs(repeats: int) -> tuple[Any, ...]:
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (IMAGES, repeats, 28, 28), dtype=np.uint8)
    y = generator.integers(0, 2, (IMAGES, repeats), dtype=np.int32)
    return x, y, jax.random.split(jax.random.key(0), repeats)


def whole_task(name: str, repeats: int, form: str, layout: Layout, steps: int) -> Row:
    """The grid's own compiled task: scan over steps."""
    network = Network((16, 32, 64), 64, "stride", form)
    x, y, keys = jax_inputs(repeats)
    program = Program(network, "SL", steps, BATCH, steps)
    vectors = jax.vmap(lambda key: flatten(network.init(key)))(keys)
    put = layout.put
    arguments = (
        put(vectors),
        put(vectors),
        put(keys),
        put(x, 1),
        put(y, 1),
        put(np.zeros((repeats, 1, 2), np.int32)),
        put(np.zeros((1, 1, 28, 28), np.uint8), None),
        np.int32(0),
        np.float32([RATE, RATE]),
    )
    start = time.perf_counter()
    compiled = trainer(program, layout).lower(*arguments).compile()
    return name, lambda: jax.block_until_ready(compiled(*arguments)), steps, time.perf_counter() - start


def one_step(network: Network) -> Callable[..., Any]:
    """A plain SGD step of one repeat."""

    def step(vector: Any, x: Any, y: Any) -> Any:
        def loss(vector: Any) -> Any:
            _, logits = network.apply(unflatten(vector, network.layout), x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        return vector - RATE * jax.grad(loss)(vector)

    return step


def step_by_step(name: str, repeats: int, form: str, steps: int, loop: bool) -> Row:
    """One compiled step, called from Python: for all repeats at once (vmap), or for one after the other (loop)."""
    network = Network((16, 32, 64), 64, "stride", form)
    x, y, keys = jax_inputs(repeats)
    x, y = jnp.asarray(x[:BATCH].swapaxes(0, 1)), jnp.asarray(y[:BATCH].T)
    vectors = jax.vmap(lambda key: flatten(network.init(key)))(keys)
    step = one_step(network)
    start = time.perf_counter()
    if loop:
        compiled = jax.jit(step).lower(vectors[0], x[0], y[0]).compile()
        parts = [(vectors[r], x[r], y[r]) for r in range(repeats)]

        def run() -> None:
            current = [vector for vector, *_ in parts]
            for _ in range(steps):
                current = [compiled(vector, *rest) for vector, (_, *rest) in zip(current, parts, strict=True)]
            jax.block_until_ready(current)
    else:
        compiled = jax.jit(jax.vmap(step)).lower(vectors, x, y).compile()

        def run() -> None:
            current = vectors
            for _ in range(steps):
                current = compiled(current, x, y)
            jax.block_until_ready(current)

    return name, run, steps, time.perf_counter() - start


def torch_network() -> nn.Module:
    layers: list[nn.Module] = []
    for fewer, more in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(fewer, more, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 2))


def torch_inputs(repeats: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y, _ = jax_inputs(repeats)
    images, labels = torch.tensor(x[:BATCH]).swapaxes(0, 1).contiguous(), torch.tensor(y[:BATCH]).T.long().contiguous()
    return images.to(DEVICE), labels.to(DEVICE)


def finished() -> None:
    """A GPU works on after the call: its time ends when it has nothing left to do."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def torch_loop(repeats: int, steps: int) -> Callable[[], None]:
    """Eager PyTorch, one model after the other."""
    x, y = torch_inputs(repeats)
    models = [torch_network().to(DEVICE) for _ in range(repeats)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=RATE) for model in models]

    def run() -> None:
        for _ in range(steps):
            for model, optimizer, images, labels in zip(models, optimizers, x, y, strict=True):
                loss = nn.functional.cross_entropy(model(images[:, None].float() / 127.5 - 1), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        finished()

    return run


def torch_vmap(repeats: int, steps: int) -> Callable[[], None]:
    """torch.func: the gradient of a functional model, vmapped over stacked weights."""
    x, y = torch_inputs(repeats)
    models = [torch_network().to(DEVICE) for _ in range(repeats)]
    params, _ = torch.func.stack_module_state(models)
    skeleton = torch_network().to(DEVICE)

    def loss(params: dict[str, torch.Tensor], images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        out = torch.func.functional_call(skeleton, params, (images[:, None].float() / 127.5 - 1,))
        return nn.functional.cross_entropy(out, labels)

    gradient = torch.func.vmap(torch.func.grad(loss))

    def run() -> None:
        current = {name: value.detach() for name, value in params.items()}
        for _ in range(steps):
            found = gradient(current, x, y)
            current = {name: value - RATE * found[name] for name, value in current.items()}
        finished()

    return run


TORCH = {"a loop over models": torch_loop, "torch.func vmap": torch_vmap}


def torch_process(pipe: Connection, repeats: int, steps: int) -> None:
    """Time PyTorch in a process of its own, whenever asked: the threads of jax and of PyTorch disturb each other."""
    ways = {}
    while True:
        try:
            way, threads = pipe.recv()
        except EOFError:
            return
        torch.set_num_threads(threads)
        if way not in ways:
            ways[way] = TORCH[way](repeats, steps)
            ways[way]()
        start = time.perf_counter()
        ways[way]()
        pipe.send(time.perf_counter() - start)


@contextmanager
def torch_rows(repeats: int, steps: int) -> Iterator[list[Row]]:
    """The rows of PyTorch, each with one thread and with all: how many suit it best is not ours to say."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=torch_process, args=(there, repeats, steps))
    process.start()
    there.close()

    def ask(way: str, threads: int) -> float:
        here.send((way, threads))
        return here.recv()

    counts = sorted({1, CORES}) if DEVICE == "cpu" else [1]
    yield [
        (f"PyTorch, {way}, threads: {threads}", functools.partial(ask, way, threads), steps, 0.0)
        for way in TORCH
        for threads in counts
    ]
    here.close()
    process.join()


def matmul_peak() -> Row:
    """2048 x 2048 in float32; `steps` is 1 and `FLOPS` is not its count."""
    a = jax.random.normal(jax.random.key(0), (2048, 2048))
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(a))
    return "peak", lambda: jax.block_until_ready(product(a)), 1, 0.0


def rows(repeats: int) -> list[Row]:
    spread = max(d for d in range(1, min(jax.local_device_count(), repeats) + 1) if repeats % d == 0)
    ours = Layout.of(grid.GridConfig(num_repeats=repeats, devices=spread))
    return [
        whole_task(f"the grid: patches, {ours.repeat_axis}, devices: {spread}", repeats, "patches", ours, 20),
        whole_task("patches, map, devices: 1", repeats, "patches", Layout(1, "map"), 10),
        whole_task("patches, vmap, devices: 1", repeats, "patches", Layout(1, "vmap"), 10),
        whole_task("lax.conv, vmap in a scan", repeats, "lax", Layout(1, "vmap"), 2),
        step_by_step("lax.conv, vmap, a call a step", repeats, "lax", 2, loop=False),
        step_by_step("lax.conv, a loop over one model", repeats, "lax", 3, loop=True),
    ]


def measure(todo: list[Row], rounds: int) -> dict[str, float]:
    """Median seconds of each row; in every round all rows take their turn, after one to warm up."""
    taken: dict[str, list[float]] = {name: [] for name, *_ in todo}
    for number in range(rounds + 1):
        for name, run, _, _ in todo:
            start = time.perf_counter()
            own = run()
            if number:
                taken[name].append(own if isinstance(own, float) else time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def table(all_repeats: list[int], rounds: int) -> dict[str, Any]:
    """Measure everything and print the table; returns it for JSON."""
    peak_row = matmul_peak()
    kept: dict[str, Any] = {"machine": machine(), "batch": BATCH, "mflop_per_step": FLOPS / 1e6, "rows": []}
    print(machine())
    for repeats in all_repeats:
        with torch_rows(repeats, 3) as theirs:
            todo = [*rows(repeats), *theirs]
            seconds = measure([*todo, peak_row], rounds)
        peak = 2 * 2048**3 / seconds["peak"]
        each = {name: seconds[name] / steps / repeats for name, _, steps, _ in todo}
        ours = each[todo[0][0]]
        print(f"\nR = {repeats}; matrix products of 2048 x 2048: {peak / 1e9:.0f} GFLOP/s")
        print(
            "| form | ms per repeat and step | times ours | compile, s | share of peak |\n| --- | ---: | ---: | ---: | ---: |"
        )
        for name, _, _, compile_seconds in todo:
            share = FLOPS / each[name] / peak
            print(
                f"| {name} | {1e3 * each[name]:.2f} | {each[name] / ours:.1f} | {compile_seconds:.1f} | {share:.0%} |"
            )
            kept["rows"].append(
                {
                    "repeats": repeats,
                    "form": name,
                    "times_ours": round(each[name] / ours, 2),
                    "share_of_peak": round(share, 3),
                    "compile_seconds": round(compile_seconds, 1),
                }
            )
    return kept


def processor() -> str:
    """The CPU's model, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> str:
    device = jax.local_devices()[0]
    name = device.device_kind if device.platform != "cpu" else processor()
    packages = ", ".join(f"{package} {version(package)}" for package in ("jax", "flax", "torch"))
    return f"{name}, {jax.local_device_count()} devices, {CORES} cores; Python {platform.python_version()}, {packages}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the ratios as JSON")
    options = parser.parse_args()
    torch.set_num_threads(CORES)
    kept = table(options.repeats, options.rounds)
    if options.out:
        options.out.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
