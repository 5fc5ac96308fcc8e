"""Loss of plasticity, replay and geometry on Tiny-ImageNet with the grid: the full runs of lesson 08.

    python benchmarks/grid_tiny_imagenet.py select     # learning rate and shrink-and-perturb, never on a test image
    python benchmarks/grid_tiny_imagenet.py run        # the long runs, resumable: stop and start as you like
    python benchmarks/grid_tiny_imagenet.py summary    # results/grid_tiny_imagenet.json from the files of the runs

Settings are chosen on other repeats (other pairs of classes, other weights), trained on four fifths of each class's
training images and judged by the rest. `--folder` says where the runs are kept (default: build/grid/lesson_08).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from course_utils import grid
from course_utils.grid.data import ClassImages

RESULTS = Path(__file__).parents[1] / "results" / "grid_tiny_imagenet.json"
SELECTION = Path(__file__).parents[1] / "results" / "grid_tiny_imagenet_selection.json"
OTHER_REPEATS = 1000  # number of the first repeat used for choosing
RATES = (0.01, 0.03, 0.1, 0.3)
PERTURBS = (0.05, 0.1, 0.2, 0.4)
LONG, SHORT = 100, 20  # tasks

COMMON: dict[str, Any] = {
    "data": "tiny_imagenet_gray",
    "num_repeats": 8,
    "train_images": 290,
    "test_images": 50,
    "steps_per_task": 300,
    "log_frequency": 50,
    "eval_tasks": 20,
    "subsamples": 50,
    "convolution": "patches",
}


def runs() -> dict[str, grid.GridConfig]:
    """The runs by name, with the settings that `select` has chosen."""
    chosen = json.loads(SELECTION.read_text())
    rate = chosen["expert_lr"]["best"]
    amount = chosen["perturb"]["best"]
    devices = grid.best_devices(COMMON["num_repeats"])
    plain = grid.GridConfig(
        **COMMON,
        num_tasks=LONG,
        devices=devices,
        lr=rate,
        readout_lr=rate,
        expert_lr=rate,
        shrink=amount,
        perturb=amount,
    )
    slower = RATES[max(RATES.index(rate) - 1, 0)]
    alone = dataclasses.replace(plain, expert=False)
    short = dataclasses.replace(plain, num_tasks=SHORT)
    return {
        "SL_20": short,
        "SL_20_er": dataclasses.replace(short, er=True, expert=False),
        "SL_100": plain,
        "SL_100_pl": dataclasses.replace(alone, pl=True),
        "SL_100_slower": dataclasses.replace(alone, lr=slower, readout_lr=slower),
        "SL_100_reset": dataclasses.replace(alone, head="reset"),
    }


def held_out(images: ClassImages) -> ClassImages:
    """The training images alone: four fifths of each class to train on, the rest to judge by."""
    cut = images.train.shape[1] * 4 // 5
    return dataclasses.replace(images, train=images.train[:, :cut], test=images.train[:, cut:])


def own_accuracy(folder: Path, expert: bool = False) -> np.ndarray:
    """Accuracy on each task at the end of its training, (T, R)."""
    results = grid.GridResults(folder)
    if expert:
        return np.stack([results.expert(task)["test_acc"][-1] for task in range(results.num_tasks)])
    curves = [results.metrics(task) for task in range(results.num_tasks)]
    return np.stack([table["accuracy"][-1][:, table["eval_tasks"].index(table["task"])] for table in curves])


def select(folder: Path) -> None:
    """Choose the learning rate by fresh networks, then shrink-and-perturb by the second half of 60 tasks."""
    images = held_out(grid.load(grid.GridConfig(**COMMON)))
    count = images.train.shape[1]
    base = grid.GridConfig(
        **{**COMMON, "train_images": count, "test_images": images.test.shape[1], "num_repeats": 4, "eval_tasks": 1},
        first_repeat=OTHER_REPEATS,
        representations="none",
        devices=grid.best_devices(4),
    )
    found: dict[str, Any] = {}
    scores = {}
    for rate in RATES:
        config = dataclasses.replace(base, num_tasks=SHORT, lr=rate, readout_lr=rate, expert_lr=rate)
        path = grid.run(config, folder / "select" / f"lr_{rate}", images=images)
        scores[rate] = float(own_accuracy(path, expert=True).mean())
    found["expert_lr"] = {"best": max(scores, key=lambda rate: scores[rate]), "accuracy": scores}
    rate = found["expert_lr"]["best"]
    amounts = {}
    for amount in PERTURBS:
        config = dataclasses.replace(
            base, num_tasks=60, expert=False, pl=True, shrink=amount, perturb=amount, lr=rate, readout_lr=rate
        )
        path = grid.run(config, folder / "select" / f"pl_{amount}", images=images)
        amounts[amount] = float(own_accuracy(path)[30:].mean())
    found["perturb"] = {"best": max(amounts, key=lambda amount: amounts[amount]), "accuracy": amounts}
    SELECTION.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def run(folder: Path, names: list[str]) -> None:
    """Run what is asked for, or all, and keep how long it took beside the runs."""
    todo = runs()
    images = grid.load(next(iter(todo.values())))
    for name in names or todo:
        start, cpu = time.perf_counter(), os.times()
        grid.run(todo[name], folder / name, images=images)
        spent = os.times()
        seconds = {"wall": time.perf_counter() - start, "processor": spent.user + spent.system - cpu.user - cpu.system}
        if seconds["wall"] > 60:  # not a run that was finished before
            with open(folder / "seconds.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps({"run": name, **{key: round(value) for key, value in seconds.items()}}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("select", "run", "summary"))
    parser.add_argument("names", nargs="*", help="of runs (default: all)")
    parser.add_argument("--folder", type=Path, default=Path("build/grid/lesson_08"))
    options = parser.parse_args()
    if options.action == "select":
        select(options.folder)
    elif options.action == "run":
        run(options.folder, options.names)
    else:
        from course_utils.grid import analysis

        summary = analysis.summary({name: options.folder / name for name in runs() if (options.folder / name).exists()})
        RESULTS.write_text(json.dumps(summary, indent=1) + "\n")
        print(RESULTS)


if __name__ == "__main__":
    main()
