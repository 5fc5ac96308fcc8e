"""Lesson 03: methods that protect weights, in three scenarios; the choice of lambda; how good a Fisher estimate is; costs.

Digits in the smoke and quick presets; in full all of Fashion-MNIST, up to five seeds. The network is lesson 01's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch

from course_utils import Learner, datasets, methods, metrics, models, seeding, streams
from course_utils.lessons.experiment import ONE_SEED, Experiment, describe, modules

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"data": "digits", "epochs": 4, "memory": 50, "samples": 60},
    "quick": {"data": "digits", "epochs": 12, "memory": 50, "samples": 200},
    "full": {"data": "fashion_mnist", "epochs": 2, "memory": 200, "samples": 1000},
}
NUM_TASKS = 5
HIDDEN = (100, 100)
TUNING_TASKS = 2  # tasks that may be looked at when lambda is chosen
SCENARIOS = {
    "task": streams.task_incremental,
    "domain": streams.domain_incremental,
    "class": streams.class_incremental,
}
# Lambdas to choose from. Importances differ by orders of magnitude between methods, so each has its own range.
GRIDS: dict[str, tuple[float, ...]] = {
    "L2": (1e-3, 1e-2, 1e-1, 1e0, 1e1),
    "EWC": (1e1, 1e2, 1e3, 1e4, 1e5, 1e6),
    "online EWC": (1e1, 1e2, 1e3, 1e4, 1e5, 1e6),
    "SI": (1e0, 1e1, 1e2, 1e3, 1e4),
    "MAS": (1e-2, 1e-1, 1e0, 1e1, 1e2),
}


@cache
def load(name: str) -> Any:
    """The data set, once per process. Never a stand-in."""
    return datasets.load(name, allow_standin=False)


@cache
def _warm_up() -> None:
    """Two training steps for nothing: the first ones in a process take seconds, and would count as task 1's."""
    data = load("digits")
    Learner(models.build("mlp", data), steps_per_task=1, show_progress=False).fit(
        streams.class_incremental(data, 2, limit=2)
    )


def make_method(config: Mapping[str, Any]) -> methods.Method | None:
    """The method that a configuration names, or None for fine-tuning."""
    strength, memory, samples = config.get("strength", 0.0), config["memory"], config["samples"]
    identity = {"task": None, "domain": "given", "class": "inferred"}[config["scenario"]]
    makers = {
        "fine-tuning": lambda: None,
        "L2": lambda: methods.L2(strength),
        "EWC": lambda: methods.EWC(strength, labels="all", samples=samples),
        "online EWC": lambda: methods.EWC(strength, online=True, labels="all", samples=samples),
        "SI": lambda: methods.SI(strength),
        "MAS": lambda: methods.MAS(strength, samples=samples),
        "PackNet": lambda: methods.PackNet(identity=identity),
        "A-GEM": lambda: methods.AGEM(memory),
        "GEM": lambda: methods.GEM(memory),
        "rehearsal": lambda: methods.Replay(memory),
        "distillation": lambda: methods.Distill(config.get("alpha", 0.5)),
        "joint": lambda: methods.Joint(),
    }
    return makers[config["method"]]()


def make(config: Mapping[str, Any], seed: int) -> tuple[streams.TaskStream, Learner]:
    """The stream and the learner of a configuration: what differs between all runs of this lesson, in one place."""
    _warm_up()
    data = load(config["data"])
    used = [make_method({**config, "method": name}) for name in config["method"].split(" + ")]
    learner = Learner(
        models.build("mlp", data, seed=seed, hidden=HIDDEN), [method for method in used if method is not None],
        lr=1e-3, batch_size=64, epochs=config["epochs"], seed=seed, show_progress=False,
    )  # fmt: skip
    return SCENARIOS[config["scenario"]](data, NUM_TASKS), learner


def run_stream(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """Learn the whole stream; scores on test images in per cent. A class-incremental network is also asked with the
    task told."""
    stream, learner = make(config, seed)
    history = learner.fit(stream)
    accuracy = history.accuracy
    last = NUM_TASKS - 1
    record = {
        "data": describe(load(config["data"])),
        "accuracy": accuracy,
        "acc": 100 * metrics.average_accuracy(accuracy),
        "bwt": 100 * metrics.backward_transfer(accuracy),
        "forgetting": 100 * metrics.forgetting(accuracy),
        "learned": 100 * float(np.diag(accuracy).mean()),  # each task just after it was learned
        "old": 100 * float(accuracy[last, :last].mean()),  # tasks 1 to 4 at the end
        "new": 100 * float(accuracy[last, last]),
        "remarks": history.remarks,
    }
    if config["scenario"] == "class":
        record["told"] = 100 * float(np.mean([_told(learner, task) for task in stream]))
    for method in learner.methods:
        if isinstance(method, methods.PackNet):
            owner = torch.cat([value.flatten() for name, value in method.owner.items() if name.startswith("body")])
            record["owned"] = torch.bincount(owner.long(), minlength=NUM_TASKS + 1).tolist()
    return record


def _told(learner: Learner, task: streams.Task) -> float:
    """Accuracy when only the task's own outputs compete."""
    for method in learner.methods:
        method.before_eval(learner, task)
    out = learner.predict(task.test.x)[:, slice(*task.columns)].argmax(dim=1).cpu() + task.columns[0]
    for method in learner.methods:
        method.after_eval(learner, task)
    return float((out == task.test.y).double().mean())


def run_choice(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """One lambda on the first two tasks: accuracy on their validation images after the second, in per cent."""
    stream, learner = make(config, seed)
    try:
        seen = learner.fit(stream.first(TUNING_TASKS), evaluate="validation").accuracy[-1]
    except FloatingPointError:  # a lambda that diverges is a bad choice, not a failed experiment
        seen = np.zeros(TUNING_TASKS)
    return {
        "strength": config["strength"], "validation": 100 * float(seen.mean()), "each": 100 * seen,
        "data": describe(load(config["data"])),
    }  # fmt: skip


def run_cost(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """Time of every task as a multiple of fine-tuning's, both timed in turn; bytes that the method keeps at the end."""
    seconds: dict[str, list[np.ndarray]] = {"fine-tuning": [], config["method"]: []}
    kept = 0
    for _ in range(config["rounds"]):
        for method in seconds:
            stream, learner = make({**config, "method": method}, seed)
            history = learner.fit(stream)
            seconds[method].append(history.seconds)
            kept = sum(size_of(used.state_dict()) for used in learner.methods)
    typical = {method: np.median(runs, axis=0) for method, runs in seconds.items()}
    ratio = typical[config["method"]] / typical["fine-tuning"]
    return {
        "ratio": np.round(ratio, 3), "first": float(ratio[0]), "last": float(ratio[-1]), "kilobytes": kept / 1000,
        "data": describe(load(config["data"])),
    }  # fmt: skip


def size_of(state: Any) -> int:
    """Bytes of all tensors in a nested state."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(size_of(value) for value in state.values())
    return sum(size_of(value) for value in state) if isinstance(state, list | tuple) else 0


# ---- how good is an estimate of the Fisher diagonal? ----------------------------------------------------------------


def squared_sum(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """The square of the summed gradient: one backward pass over all images, then squared. Not a Fisher diagonal."""
    return squared_batch_mean(model, x, y, batch_size=len(x), reduction="sum")


def squared_batch_mean(
    model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, batch_size: int = 64, reduction: str = "mean"
) -> dict[str, torch.Tensor]:
    """The square of every batch's mean gradient, averaged over batches. Not a Fisher diagonal either."""
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    batches = list(zip(x.split(batch_size), y.split(batch_size), strict=True))
    for images, labels in batches:
        loss = torch.nn.functional.cross_entropy(model(images), labels, reduction=reduction)
        for name, gradient in zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True):
            total[name] += gradient.square() / len(batches)
    return total


def run_fisher(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """Five classes learned; then the exact Fisher diagonal beside four that go by its name, on the same images."""
    _warm_up()
    data = load(config["data"])
    stream = streams.class_incremental(data, 2)
    model = models.build("mlp", data, seed=seed, hidden=HIDDEN)
    learner = Learner(model, lr=1e-3, batch_size=64, epochs=config["epochs"], seed=seed, show_progress=False)
    learner.fit(stream.first(1))
    drawn = torch.randperm(len(stream[0].train), generator=seeding.generator(seed, 0, 9))[: config["samples"]]
    images = stream[0].train.subset(drawn)
    x, y = learner.inputs(images.x), images.y
    model.eval()
    sampled = (using or {}).get("fisher_diagonal")
    estimates = {
        "exact": methods.fisher_diagonal(learner, images, "all"),
        "sampled label": sampled(model, x, seeding.generator(seed, 0, 8)) if sampled else methods.fisher_diagonal(learner, images, "sampled"),
        "true label": methods.fisher_diagonal(learner, images, "empirical"),
        "square of the batch mean": squared_batch_mean(model, x, y),
        "square of the sum": squared_sum(model, x, y),
    }  # fmt: skip
    flat = {name: torch.cat([v.flatten() for v in value.values()]).double() for name, value in estimates.items()}
    exact = flat["exact"]
    # Border pixels are always black: their weights have no gradient in any estimate, and would only flatter the ranks.
    alive = exact > 0
    shown = torch.nonzero(alive).flatten()[
        torch.randperm(int(alive.sum()), generator=seeding.generator(seed, 0, 10))[:200]
    ]
    record: dict[str, Any] = {"data": describe(data), "estimates": {}}
    for name, values in flat.items():
        entry: dict[str, Any] = {
            "magnitude": float(values.sum() / exact.sum()),
            "rank": metrics.spearman(values[alive].numpy(), exact[alive].numpy()),
        }
        if seed == 0:
            entry["shown"] = [float(f"{v:.3g}") for v in values[shown]]
        record["estimates"][name] = entry
    return record


# ---- conditions -----------------------------------------------------------------------------------------------------

# Lambda by preset, scenario and method: the best mean validation accuracy of `choice` (see `chosen`, and the claims).
CHOSEN: dict[str, dict[str, dict[str, float]]] = {
    "quick": {
        "task": {"L2": 1e-3, "EWC": 1e1, "online EWC": 1e1, "SI": 1e0, "MAS": 1e-2},
        "domain": {"L2": 1e-1, "EWC": 1e3, "online EWC": 1e3, "SI": 1e2, "MAS": 1e0},
        "class": {"L2": 1e1, "EWC": 1e5, "online EWC": 1e5, "SI": 1e4, "MAS": 1e1},
    },
    "full": {
        "task": {"L2": 1e-1, "EWC": 1e6, "online EWC": 1e6, "SI": 1e2, "MAS": 1e2},
        "domain": {"L2": 1e0, "EWC": 1e3, "online EWC": 1e3, "SI": 1e4, "MAS": 1e0},
        "class": {"L2": 1e-3, "EWC": 1e6, "online EWC": 1e6, "SI": 1e4, "MAS": 1e2},
    },
}
CHOSEN["smoke"] = CHOSEN["quick"]
PENALTIES = tuple(GRIDS)
COMPARED = ("fine-tuning", *PENALTIES, "PackNet", "A-GEM", "GEM", "rehearsal", "joint")


def _config(preset: str, scenario: str, method: str, **changes: Any) -> dict[str, Any]:
    strength = CHOSEN[preset][scenario].get(method)
    lam = {} if strength is None else {"strength": strength}
    return {**PRESETS[preset], "scenario": scenario, "method": method, **lam, **changes}


def _compared(preset: str) -> dict[str, dict[str, Any]]:
    names = COMPARED if preset != "smoke" else ("fine-tuning", "EWC", "PackNet", "A-GEM", "joint")
    return {f"{scenario}, {method}": _config(preset, scenario, method) for scenario in SCENARIOS for method in names}


def _choices(preset: str) -> dict[str, dict[str, Any]]:
    """Every method and scenario in full; in quick EWC alone, task- and class-incremental."""
    everything = [(s, m) for s in SCENARIOS for m in PENALTIES]
    pairs = everything if preset == "full" else [("task", "EWC"), ("class", "EWC")]
    return {
        f"{scenario}, {method}, {strength:g}": _config(preset, scenario, method, strength=strength)
        for scenario, method in pairs
        for strength in GRIDS[method]
    }


def _sweep(preset: str) -> dict[str, dict[str, Any]]:
    exponents = {"smoke": (2, 4), "quick": (0, 2, 4, 6, 8), "full": range(9)}[preset]
    return {
        f"{scenario}, {10.0**exponent:g}": _config(preset, scenario, "EWC", strength=10.0**exponent)
        for scenario in ("task", "class")
        for exponent in exponents
    }


def _costs(preset: str) -> dict[str, dict[str, Any]]:
    few = {"smoke": ("EWC",), "quick": ("EWC", "online EWC", "SI", "A-GEM", "GEM", "joint")}
    names = few.get(preset, [name for name in COMPARED if name != "fine-tuning"])
    return {name: _config(preset, "domain", name, rounds=3 if preset == "full" else 1) for name in names}


def _design(preset: str) -> dict[str, dict[str, Any]]:
    """Domain-incremental, no stored image: the penalties, distillation, and both."""
    both = "online EWC + distillation"
    names = ("fine-tuning", *PENALTIES, "distillation", both) if preset == "full" else ("fine-tuning", "EWC", both)
    made = {name: _config(preset, "domain", name) for name in names}
    made[both]["strength"] = CHOSEN[preset]["domain"]["online EWC"]
    return made


_CODE = modules(
    "learner", "streams", "objectives", "models.mlp", "models.head", "methods.joint", "methods.replay",
    "methods.buffers", "methods.distill", "methods.fisher", "methods.quadratic", "methods.l2", "methods.ewc",
    "methods.si", "methods.mas", "methods.packnet", "methods.agem", "methods.gem",
)  # fmt: skip
_PENALTY_CODE = modules(
    "learner", "streams", "objectives", "models.mlp", "models.head", "methods.fisher", "methods.quadratic",
    "methods.l2", "methods.ewc", "methods.si", "methods.mas",
)  # fmt: skip
_FIVE = {"smoke": [0], "quick": [0], "full": [0, 1, 2, 3, 4]}

EXPERIMENTS = {
    entry.name: entry
    for entry in (
        Experiment("fisher", run_fisher, lambda preset: {"estimates": PRESETS[preset]}, title="Five Fishers", code=_PENALTY_CODE),
        Experiment("choice", run_choice, _choices, title="The choice of lambda", code=_PENALTY_CODE),
        Experiment("methods", run_stream, _compared, seeds=_FIVE, title="Methods in three scenarios", code=_CODE),
        Experiment("sweep", run_stream, _sweep, title="EWC with every lambda", code=_PENALTY_CODE),
        Experiment("cost", run_cost, _costs, seeds=ONE_SEED, title="Time and memory", code=_CODE),
        Experiment("design", run_stream, _design, title="Without storing an image", code=(*_PENALTY_CODE, "course_utils.methods.distill")),
    )
}  # fmt: skip


# ---- what the lesson does with the records ---------------------------------------------------------------------------

Records = Mapping[str, Mapping[int, dict[str, Any]]]  # label -> seed -> record


def chosen(records: Records, scenario: str, method: str) -> float:
    """The lambda with the best mean validation accuracy over seeds; the smallest of equals."""
    scores = {
        next(iter(seeds.values()))["strength"]: np.mean([record["validation"] for record in seeds.values()])
        for label, seeds in records.items()
        if label.startswith(f"{scenario}, {method}, ")
    }
    return min(scores, key=lambda strength: (-scores[strength], strength))
