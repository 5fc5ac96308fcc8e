"""Do our Learner and methods give the published numbers? Split-MNIST by the protocol of van de Ven et al. (2022).

    python benchmarks/reproduce.py --data mnist                    # or fashion_mnist, a folder of idx files, an .npz
    python benchmarks/reproduce.py --data fashion_mnist --seeds 1 --methods none er joint --scenarios class
    python benchmarks/reproduce.py --data fashion_mnist --table    # only prints what has been measured

Every finished run goes into results/reproduce_NAME.json at once. A run that is there with the same configuration is not
made again, so the program may be stopped at any time and started again. What differs from the protocol is in
benchmarks/README.md. The test images choose nothing: all settings are those of the publications.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gzip
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_utils import Learner, datasets, methods, models, progress, seeding, streams
from course_utils.datasets import DataCorrupt, DataNotFound, Dataset, Split, cache
from course_utils.lessons import codehash
from course_utils.methods.buffers import occurrence

ROOT = Path(__file__).resolve().parent.parent
STREAMS = {
    "class": streams.class_incremental,
    "task": streams.task_incremental,
    "domain": streams.domain_incremental,
}
CLASSES, TASKS = 10, 5
NETWORK = {"hidden": [400, 400], "lr": 1e-3, "batch_size": 128}
ITERATIONS = 2000  # per task
EXEMPLARS = 100  # per class
FISHER_IMAGES: int | None = None  # per task; None is the protocol's: all of them, about 12,000
EWC_STRENGTH = {"task": 1e5, "domain": 1e10, "class": 1e9}
SI_C = {"task": 10.0, "domain": 5e4, "class": 5e3}


# ---- what the protocol has and the package has not ------------------------------------------------------------------


def exemplar_rows(labels: Tensor, per_class: int, generator: torch.Generator) -> Tensor:
    """Rows of `per_class` random samples of every label, of all its samples where it has fewer. `(n,)` -> `(m,)`."""
    order = torch.randperm(len(labels), generator=generator)
    return order[occurrence(labels[order]) < per_class]


class Exemplars:
    """Put before a method with a memory: it stores 100 samples of every new class and gives none away later.

    The package's memories have a fixed size and thin out old classes; this one grows with the stream. In
    domain-incremental form a "class" is one of the original ones: a label within its task.
    """

    def __init__(self):
        super().__init__(memory=EXEMPLARS * CLASSES)

    def after_task(self, learner, task, data):
        rows = exemplar_rows(data.y, EXEMPLARS, seeding.generator(learner.seed, task.index, 20))
        super().after_task(learner, task, data.subset(rows))


class AGEM(Exemplars, methods.AGEM):
    """As in the package, with that memory; as many samples a reference gradient as current ones."""


class ER(Exemplars, methods.Replay):
    """Experience replay where task t counts 1/t and the replayed samples the rest: each task its share."""

    name = "er"

    def loss(self, learner, batch, out, loss):
        old = batch["replayed"]
        if not old.any():
            return loss
        out, share = learner.visible(out, batch["task"]), 1 / (learner.task.index + 1)
        current, replayed = (learner.objective.loss(out[rows], batch["y"][rows]) for rows in (~old, old))
        return share * current + (1 - share) * replayed


def padded_distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the softened student to the softened teacher, without T^2; scalar.

    The teacher gives no probability to the classes that it does not know: `(batch, all)`, `(batch, old)`.
    """
    target = (teacher / temperature).softmax(dim=1)
    answer = (student / temperature).log_softmax(dim=1)[:, : target.shape[1]]  # a target of zero adds nothing
    return -(target * answer).sum(dim=1).mean()


class LwF(methods.Distill):
    """Learning without forgetting where task t counts 1/t and the distillation, on current images, the rest."""

    name = "lwf"
    settings = ("temperature",)  # type: ignore[assignment]  # alpha is not used

    def loss(self, learner, batch, out, loss):
        if self.teacher is None:
            return loss
        with torch.no_grad():
            old = self.teacher(batch["input"])
        terms = []
        for start, stop in self.old_columns:
            seen = learner.task.outputs if learner.stream.scenario == "class" else stop
            terms.append(padded_distillation(out[:, start:seen], old[:, start:stop], self.temperature))
        share = 1 / (learner.task.index + 1)
        return share * loss + (1 - share) * torch.stack(terms).mean()


class EWC(methods.EWC):
    """As in the package; nobody needs the Fisher of the last task."""

    def after_task(self, learner, task, data):
        if task.index < len(learner.stream) - 1:
            super().after_task(learner, task, data)


class Joint(methods.Joint):
    """One fresh network, on all data, for as many iterations as the whole stream has. Trained once, at the end."""

    def steps(self, learner, task, data, steps):
        return steps * len(learner.stream) if task.index == len(learner.stream) - 1 else 0


METHODS: dict[str, Callable[[str], list[methods.Method]]] = {  # scenario -> methods of the Learner
    "none": lambda scenario: [],
    "ewc": lambda scenario: [EWC(EWC_STRENGTH[scenario], labels="all", samples=FISHER_IMAGES)],
    "online_ewc": lambda scenario: [EWC(EWC_STRENGTH[scenario], online=True, labels="all", samples=FISHER_IMAGES)],
    "si": lambda scenario: [methods.SI(2 * SI_C[scenario], damping=0.1)],  # their penalty has no 1/2
    "lwf": lambda scenario: [LwF(temperature=2.0)],
    "agem": lambda scenario: [AGEM()],
    "er": lambda scenario: [ER()],
    "joint": lambda scenario: [Joint()],
}

# ---- what was published, in per cent: mean, standard error, source ---------------------------------------------------

SOURCES = {
    "a": "van de Ven, Tuytelaars & Tolias 2022, Three types of incremental learning, table 2 (20 seeds)",
    "b": "van de Ven & Tolias 2018, arXiv 1809.10635, table 3 (20 seeds)",
    "c": "van de Ven & Tolias 2019, arXiv 1904.07734 (20 seeds)",
    "d": "Hsu et al. 2018, arXiv 1810.12488 (10 seeds, as reported): another protocol, 4 epochs a task and a memory of "
    "1,100 images",
}
# For one number per cell: [a] where we know it. LwF is compared with [b], whose weights 1/t it uses; the code of [a]
# adds the distillation unweighted. EWC in [b] had a narrow range of lambda (85.48 in task-incremental form): [c] widened it.
PUBLISHED: dict[tuple[str, str], tuple[float, float, str]] = {
    ("none", "class"): (19.89, 0.02, "a"),
    ("none", "task"): (85.15, 1.00, "b"),
    ("none", "domain"): (57.33, 1.66, "b"),
    ("ewc", "class"): (20.64, 0.52, "a"),
    ("ewc", "task"): (98.64, 0.22, "c"),
    ("ewc", "domain"): (63.95, 1.90, "c"),
    ("online_ewc", "class"): (19.90, 0.02, "b"),
    ("si", "class"): (21.20, 0.57, "a"),
    ("si", "task"): (99.14, 0.11, "b"),
    ("si", "domain"): (63.77, 1.18, "b"),
    ("lwf", "class"): (24.17, 0.51, "b"),
    ("lwf", "task"): (99.60, 0.03, "b"),
    ("lwf", "domain"): (71.02, 1.26, "b"),
    ("agem", "class"): (65.10, 3.64, "a"),
    ("er", "class"): (88.79, 0.20, "a"),
    ("er", "task"): (99.40, 0.08, "d"),
    ("er", "domain"): (95.16, 0.49, "d"),
    ("joint", "class"): (98.17, 0.04, "a"),
    ("joint", "task"): (99.64, 0.03, "b"),
    ("joint", "domain"): (98.41, 0.06, "b"),
}

# ---- data ------------------------------------------------------------------------------------------------------------

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
ARRAYS = ("x_train", "y_train", "x_test", "y_test")


@functools.cache
def load_data(where: str) -> Dataset:
    """Ten classes of images, all training images in `train` and none in `validation`: the protocol chooses nothing.

    where: "mnist", a name that `datasets.load` knows, a folder with MNIST's four files (or torchvision's layout around
        them), or an .npz with x_train, y_train, x_test, y_test.

    Raises ValueError, DataNotFound or DataCorrupt, naming what was given and what was expected.
    """
    path = Path(where).expanduser()
    if where == "mnist":
        data = read_raw(find_mnist(), where)
    elif where in datasets.names():
        data = datasets.load(where, allow_standin=False)
    elif path.is_dir():
        data = read_raw(find_raw(path), data_name(where))
    elif path.suffix == ".npz":
        data = read_npz(path)
    else:
        raise ValueError(
            f"--data {where} is neither mnist, {', '.join(datasets.names())}, nor a folder with {FILES[0]} and the "
            "like, nor an .npz file"
        )
    classes = np.unique(data.test.y).tolist()
    if data.num_classes != CLASSES or len(classes) != CLASSES:
        raise ValueError(
            f"{where} has {data.num_classes} classes, {len(classes)} of them in the test set; "
            f"the protocol is {TASKS} tasks of two classes, with test images of all {CLASSES}"
        )
    parts = [data.train, data.validation]
    x, y, group = (np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "y", "group"))
    order = np.argsort(group, kind="stable")  # as published, whoever held out what
    return dataclasses.replace(data, train=Split(x, y, group).select(order), validation=data.train.select(order[:0]))


def data_name(where: str) -> str:
    """What the data are called in the records: never a path. `.../KMNIST/raw` is kmnist."""
    path = Path(where).expanduser().resolve()
    return re.sub(r"\W+", "_", (path.parent if path.name == "raw" else path).stem.lower())


def find_mnist() -> Path:
    """Folder of MNIST's four files, in torchvision's layout: `$COURSE_DATA`, the cache, or downloaded into the cache."""
    target = cache.cache_folder() / "downloads" / "mnist"
    for folder in (*cache.data_folders(), target):
        if (folder / "MNIST" / "raw").is_dir() and (folder != target or cache.is_complete(target)):
            return folder / "MNIST" / "raw"
    if cache.offline():
        raise DataNotFound(
            "MNIST is not here and COURSE_OFFLINE forbids the download: unset it, or put MNIST/raw/ with "
            f"{', '.join(FILES)} (or the same with .gz) into the folder that COURSE_DATA names"
        )
    from torchvision.datasets import MNIST

    try:
        with cache.new_folder(target) as folder:
            MNIST(str(folder), download=True)
    except (OSError, RuntimeError) as error:  # torchvision reports a bad checksum or an unreachable host in these
        raise DataNotFound(
            f"the download of MNIST failed ({type(error).__name__}: {error}); check the network and try again, "
            "or put its four files into MNIST/raw/ of the folder that COURSE_DATA names"
        ) from error
    return target / "MNIST" / "raw"


def find_raw(folder: Path) -> Path:
    """The one folder of idx files at or below `folder`: itself, raw/, or NAME/raw/."""
    found = [raw for raw in (folder, folder / "raw", *sorted(folder.glob("*/raw"))) if any(raw.glob(f"{FILES[0]}*"))]
    if len(found) != 1:
        held = " and ".join(str(raw.relative_to(folder)) for raw in found) or "nothing of the kind"
        raise DataNotFound(f"--data {folder} should lead to one folder with {FILES[0]} (or .gz); it holds {held}")
    return found[0]


def read_raw(raw: Path, name: str) -> Dataset:
    """MNIST's four idx files, plain or .gz, through torchvision's readers."""
    from torchvision.datasets.mnist import read_image_file, read_label_file

    arrays = []
    with tempfile.TemporaryDirectory() as scratch:
        for file in FILES:
            path = raw / file if (raw / file).is_file() else raw / f"{file}.gz"
            if not path.is_file():
                raise DataNotFound(f"{raw} lacks {file} (or .gz); expected {', '.join(FILES)}")
            try:
                plain = path
                if path.suffix == ".gz":
                    plain = Path(scratch) / file
                    plain.write_bytes(gzip.decompress(path.read_bytes()))
                arrays.append((read_image_file if "images" in file else read_label_file)(str(plain)).numpy())
            except Exception as error:  # gzip, zlib and torchvision's asserts and reshapes: many ways to fail
                raise DataCorrupt(
                    f"cannot read {path} ({type(error).__name__}: {error}); expected a whole idx file: "
                    "delete it and get it again"
                ) from error
    return from_four(arrays, name, str(raw))


def read_npz(path: Path) -> Dataset:
    """The layout in which Keras distributes MNIST."""
    if not path.is_file():
        raise DataNotFound(f"--data {path} does not exist; expected an .npz with {', '.join(ARRAYS)}")
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataCorrupt(f"cannot read {path} ({error}); expected an .npz with {', '.join(ARRAYS)}") from error
    missing = [name for name in ARRAYS if name not in held]
    if missing:
        raise DataCorrupt(f"{path} holds {sorted(held)} and lacks {', '.join(missing)}")
    return from_four([held[name] for name in ARRAYS], data_name(str(path)), str(path))


def from_four(arrays: list[np.ndarray], name: str, place: str) -> Dataset:
    try:
        return datasets.from_arrays(train=(arrays[0], arrays[1]), test=(arrays[2], arrays[3]), name=name)
    except (ValueError, TypeError) as error:
        raise DataCorrupt(f"{place}: {error}") from error


@functools.cache
def digest(where: str) -> str:
    """Tells apart data of the same name."""
    data, total = load_data(where), hashlib.sha256()
    for split in (data.train, data.test):
        total.update(split.x.tobytes())
        total.update(split.y.tobytes())
    return total.hexdigest()[:16]


# ---- one run ---------------------------------------------------------------------------------------------------------


def configuration(where: str, scenario: str, method: str, seed: int, iterations: int) -> dict[str, Any]:
    """All that decides a run's result, as JSON gives it back."""
    settings = {m.name: {key: getattr(m, key) for key in m.settings} for m in METHODS[method](scenario)}
    values = {
        "data": data_name(where), "images": digest(where), "scenario": scenario, "method": method, "seed": seed,
        "iterations": iterations, "network": NETWORK, "settings": settings,
    }  # fmt: skip
    return json.loads(json.dumps(values))


def make_learner(stream: streams.TaskStream, config: dict[str, Any]) -> Learner:
    """The network and the loop of the protocol: plain Adam, whose state is kept from task to task."""
    network = dict(config["network"])
    model = models.build("mlp", stream, seed=config["seed"], hidden=network.pop("hidden"))
    return Learner(
        model, METHODS[config["method"]](config["scenario"]), **network, steps_per_task=config["iterations"],
        seed=config["seed"], keep_optimizer=True, show_progress=False,
    )  # fmt: skip


def run(where: str, config: dict[str, Any]) -> dict[str, Any]:
    """Train and score once. On one thread: two are slower for a network of this size, and other runs need them.

    A run that diverges gives only its configuration and the "problem".
    """
    torch.set_num_threads(1)
    stream = STREAMS[config["scenario"]](load_data(where), num_tasks=TASKS)
    learner = make_learner(stream, config)
    wall, processor = time.perf_counter(), time.process_time()
    try:
        history = learner.fit(stream)
    except FloatingPointError as problem:
        return {"config": config, "problem": str(problem)}
    values = history.to_dict()
    return {
        "config": config,
        "accuracy": float(history.accuracy[-1].mean()),
        "accuracy_matrix": values["accuracy"],
        "steps": values["steps"],
        "seconds": round(time.perf_counter() - wall, 1),
        "processor_seconds": round(time.process_time() - processor, 1),
        "date": date.today().isoformat(),
        "machine": machine(),
    }


def machine() -> str:
    """Processor, threads and versions."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else []
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "numpy")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor}, {os.cpu_count()} cores, 1 thread; Python {platform.python_version()}, {', '.join(versions)}"


def code(method: str) -> str:
    """Hash of the code that a run of this method uses: the package's, and `run` here with all that it calls."""
    shared = ["learner", "streams", "objectives", "models.mlp", "models.head"]
    shared += ["methods.fisher", "methods.buffers", "methods.replay"]
    used = {base.__module__ for m in METHODS[method]("class") for base in type(m).__mro__}
    used = {name for name in used if name.startswith("course_utils.")} | {f"course_utils.{name}" for name in shared}
    hashes = [codehash.module_hash(name) for name in used]
    return codehash.key({}, [*hashes, codehash.function_hash("reproduce", "run")])


# ---- all runs --------------------------------------------------------------------------------------------------------


def read_runs(path: Path) -> list[dict[str, Any]]:
    """What has been measured; nothing if the file is not there yet."""
    if not path.is_file():
        return []
    try:
        return json.loads(path.read_text(encoding="utf-8"))["runs"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a file of this program ({error!r}); move it away and start again") from error


def add_run(path: Path, run: dict[str, Any]) -> None:
    """Add a run, one a line. The file is read again, for a second program may write it, and replaced as a whole."""
    lines = [json.dumps(entry) for entry in [*read_runs(path), run]]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.part-{os.getpid()}")
    temporary.write_text('{"runs": [\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8")
    os.replace(temporary, path)


def finished(where: str, todo: list[dict[str, Any]], jobs: int) -> Iterator[dict[str, Any]]:
    """The runs, as they finish. With one job here, else in `jobs` processes, each of which loads the data once."""
    if jobs == 1:
        yield from (run(where, config) for config in todo)
        return
    pool = ProcessPoolExecutor(min(jobs, len(todo)) or 1, mp_context=get_context("spawn"))
    try:
        for future in as_completed([pool.submit(run, where, config) for config in todo]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def measure(where: str, wanted: list[dict[str, Any]], path: Path, jobs: int) -> int:
    """Make the runs that are not in the file yet; returns how many of them failed, which are not kept."""
    done = [entry["config"] for entry in read_runs(path)]
    todo, failed = [config for config in wanted if config not in done], 0
    codes = {config["method"]: code(config["method"]) for config in todo}  # now: files may change while this runs
    print(f"{len(wanted)} runs wanted, {len(wanted) - len(todo)} of them in {path.name} already", flush=True)
    with progress.bar(len(todo), "runs") as bar:
        for entry in finished(where, todo, jobs):
            if "problem" in entry:
                failed += 1
                told = f"failed: {entry['problem']}"
            else:
                add_run(path, {**entry, "code": codes[entry["config"]["method"]]})
                told = f"{100 * entry['accuracy']:.2f} %, {entry['seconds']:.0f} s"
            config = entry["config"]
            bar.write(f"{config['scenario']:6} {config['method']:10} seed {config['seed']}: {told}", file=sys.stdout)
            sys.stdout.flush()  # a log is read while the program runs
            bar.update(1)
    return failed


# ---- the table -------------------------------------------------------------------------------------------------------


def select(runs: list[dict[str, Any]], iterations: int) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """(method, scenario) -> runs of today's configuration.

    Raises ValueError if they are of different images: their mean would be of nothing.
    """
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in runs:
        config = entry["config"]
        method, scenario = config["method"], config["scenario"]
        if method not in METHODS:
            continue
        settings = {m.name: {key: getattr(m, key) for key in m.settings} for m in METHODS[method](scenario)}
        today = json.loads(json.dumps([iterations, NETWORK, settings]))
        if [config["iterations"], config["network"], config["settings"]] == today:
            found.setdefault((method, scenario), []).append(entry)
    images = {entry["config"]["images"] for entries in found.values() for entry in entries}
    if len(images) > 1:
        raise ValueError(f"the runs are of {len(images)} different sets of images; keep one in the file")
    return found


def mean_and_error(values: list[float]) -> str:
    """Mean ± standard error of the mean, as in the publications; one value has no error."""
    if len(values) == 1:
        return f"{values[0]:.2f} (1 seed)"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values) / len(values) ** 0.5:.2f} ({len(values)} seeds)"


def table(runs: list[dict[str, Any]], iterations: int = ITERATIONS) -> str:
    """Mean accuracy over the tasks after the last one, in per cent, beside what was published for MNIST; Markdown."""
    found = select(runs, iterations)
    if not found:
        return f"no runs with {iterations} iterations a task and today's settings"
    shown = [scenario for scenario in STREAMS if any(key[1] == scenario for key in found)]
    data = next(iter(found.values()))[0]["config"]["data"]
    heads = [f"{scenario}-incremental, {data} | published, MNIST" for scenario in shown]
    lines = [f"| method | {' | '.join(heads)} | processor seconds a run |"]
    lines.append("| --- |" + " ---: |" * (2 * len(shown) + 1))
    for method in METHODS:
        cells: list[str] = []
        for scenario in shown:
            ours = [100 * entry["accuracy"] for entry in found.get((method, scenario), [])]
            mean, error, source = PUBLISHED.get((method, scenario), (0.0, 0.0, ""))
            cells += [mean_and_error(ours) if ours else "-", f"{mean:.2f} ± {error:.2f} [{source}]" if source else "-"]
        of_method = [entry for scenario in shown for entry in found.get((method, scenario), [])]
        if of_method:
            seconds = statistics.median(entry["processor_seconds"] for entry in of_method)
            lines.append(f"| {method} | {' | '.join(cells)} | {seconds:.0f} |")
    lines += ["", "± is the standard error of the mean over seeds. Published: as follows."]
    used = {PUBLISHED[key][2] for key in found if key in PUBLISHED}
    lines += [f"- [{key}] {text}" for key, text in SOURCES.items() if key in used]
    if FISHER_IMAGES and any("ewc" in method for method, _ in found):
        lines.append(f"- ewc, online_ewc: Fisher on {FISHER_IMAGES:,} images a task, where the protocol takes all")
    entries = [entry for of_key in found.values() for entry in of_key]
    lines += [f"- measured on {text}" for text in sorted({entry["machine"] for entry in entries})]
    current = {method: code(method) for method, _ in found}
    stale = sum(entry["code"] != current[entry["config"]["method"]] for entry in entries)
    if stale:
        lines.append(f"- {stale} of {len(entries)} runs were made by other code than today's")
    if len(runs) > len(entries):
        lines.append(f"- {len(runs) - len(entries)} runs of other settings are in the file and not in this table")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist", help="mnist, fashion_mnist, a folder of idx files, or an .npz")
    parser.add_argument("--scenarios", nargs="+", choices=list(STREAMS), default=list(STREAMS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--iterations", type=int, default=ITERATIONS, help="per task (protocol: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--output", type=Path, help="default: results/reproduce_NAME.json")
    parser.add_argument("--table", action="store_true", help="measure nothing, print the table")
    options = parser.parse_args(arguments)
    if min(options.seeds, options.iterations, options.jobs) < 1:
        parser.error("--seeds, --iterations and --jobs must be at least 1")
    path = options.output or ROOT / "results" / f"reproduce_{data_name(options.data)}.json"
    failed = 0
    try:
        if not options.table:
            wanted = [
                configuration(options.data, scenario, method, seed, options.iterations)
                for seed in range(options.seeds)  # outermost, so that the table fills evenly
                for method in options.methods
                for scenario in options.scenarios
            ]
            failed = measure(options.data, wanted, path, options.jobs)
        print(table(read_runs(path), options.iterations))
    except (ValueError, FileNotFoundError) as problem:  # what was given, expected, and what to do is in the message
        print(f"reproduce: {problem}", file=sys.stderr)
        return 1
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
