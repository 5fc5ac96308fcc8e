"""How much time does the Learner cost? Against a loop written by hand, and against Avalanche if asked for.

    python benchmarks/learner.py                     # the bare loop and ours
    python benchmarks/learner.py --with-avalanche    # sets up Avalanche 0.6 in build/avalanche first (needs network)

Prints a Markdown table and writes it to results/benchmark_learner.json. Contenders take turns within every repeat;
a ratio is the median over repeats of (contender / bare loop in the same environment, same repeat), with quartiles.
Times are processor time on one thread; the first task, without replay, is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
from datetime import date
from pathlib import Path

from contenders import BATCH, MEMORY, MODELS, STEPS, TASKS

ROOT = Path(__file__).resolve().parent.parent
AVALANCHE = ROOT / "build" / "avalanche"
VERSION = "avalanche-lib==0.6.0"


class Worker:
    """One process that measures runs on demand, in the environment of the given interpreter."""

    def __init__(self, python: Path | str):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.process = subprocess.Popen(
            [str(python), str(ROOT / "benchmarks" / "contenders.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip
        self.torch = ""

    def run(self, contender: str, task: str, model: str) -> float:
        self.process.stdin.write(f"{contender} {task} {model}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(
                f"the worker stopped at {contender} {task} {model}; run benchmarks/contenders.py to see why"
            )
        values = json.loads(answer)
        self.torch = values["torch"]
        return values["seconds"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def install_avalanche() -> Path:
    """An environment made once: Avalanche and what it needs, on top of the packages of this one, torch included."""
    python = AVALANCHE / ("Scripts" if os.name == "nt" else "bin") / "python"
    ready = AVALANCHE / "ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(AVALANCHE)], check=True)
        where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        packages = Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())
        # pip finds this environment's packages through the .pth file, and downloads only what they lack.
        (packages / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", VERSION], check=True)
        ready.write_text(VERSION)
    return python


def measure(repeats: int, with_avalanche: bool) -> dict:
    here = Worker(sys.executable)
    there = Worker(install_avalanche()) if with_avalanche else None
    turns = [("bare", here), ("ours", here)]
    if there:
        turns += [("bare_there", there), ("avalanche", there)]
    rows = []
    for task in ("fine-tuning", "replay"):
        for model in MODELS:
            seconds: dict[str, list[float]] = {name: [] for name, _ in turns}
            for repeat in range(repeats + 1):
                for name, worker in turns if repeat % 2 else reversed(turns):
                    taken = worker.run(name.removesuffix("_there"), task, model)
                    if repeat:  # the first one warms up
                        seconds[name].append(taken)
            steps = STEPS[model] * (TASKS - 1)
            row = {"task": task, "model": model, "ms_per_step": {}, "ratio": {}, "quartiles": {}}
            for name, values in seconds.items():
                row["ms_per_step"][name] = 1000 * statistics.median(values) / steps
            for name, reference in (("ours", "bare"), ("avalanche", "bare_there")):
                if name in seconds:
                    ratios = [a / b for a, b in zip(seconds[name], seconds[reference], strict=True)]
                    row["ratio"][name] = statistics.median(ratios)
                    row["quartiles"][name] = statistics.quantiles(ratios, n=4)[::2]
            rows.append(row)
            print(f"{task}, {model}: " + ", ".join(f"{k} {v:.2f}x" for k, v in row["ratio"].items()), file=sys.stderr)
    versions = {"python": platform.python_version(), "torch": here.torch}
    if there:
        versions |= {"avalanche": VERSION.partition("==")[2], "torch_of_avalanche": there.torch}
        there.close()
    here.close()
    return {
        "date": date.today().isoformat(), "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread used",
        "versions": versions, "repeats": repeats, "batch": BATCH, "memory": MEMORY, "rows": rows,
    }  # fmt: skip


def table(results: dict) -> str:
    """The results as Markdown."""
    lines = [
        "| task | model | bare loop, ms a step | ours, ms a step | ours / bare | Avalanche / bare |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in results["rows"]:
        ratios = [
            f"{row['ratio'][name]:.2f} ({row['quartiles'][name][0]:.2f} to {row['quartiles'][name][1]:.2f})"
            if name in row["ratio"]
            else "not measured"
            for name in ("ours", "avalanche")
        ]
        ms = row["ms_per_step"]
        lines.append(f"| {row['task']} | {row['model']} | {ms['bare']:.2f} | {ms['ours']:.2f} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--with-avalanche", action="store_true", help="install and measure Avalanche as well")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "benchmark_learner.json")
    arguments = parser.parse_args()
    results = measure(arguments.repeats, arguments.with_avalanche)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
