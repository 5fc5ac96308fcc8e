"""A training run from its settings: stream, scorer, method, log, checkpoint, results. This is `course iqa train`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from course_utils import methods, tracking
from course_utils.datasets.ava import AVADataset
from course_utils.datasets.eva import EVADataset
from course_utils.learner import Learner
from course_utils.quality.config import ConfigError, IQAConfig
from course_utils.quality.metrics import RecordPredictions, bootstrap_interval, quality_summary, srcc
from course_utils.quality.models import build_scorer
from course_utils.quality.objective import QualityObjective, true_score
from course_utils.quality.streams import category_stream, dataset_stream
from course_utils.quality.transforms import QualityAugment
from course_utils.streams import TaskStream

DEMO = {"train": 360, "validation": 24, "test": 120}  # images of each family
DEMO_SIZE = 64
OWN = ("output_dir", "tracker", "checkpoint_every")  # settings that a resumed run may change


def strategy(name: str, strength: float = 1.0, memory: int = 100) -> list[Any]:
    """The methods of a `cl_strategy`; "naive" is none at all. PackNet is told the task of every test image.

    Raises:
        ConfigError: the name is unknown.
    """
    made: dict[str, Callable[[], list[Any]]] = {
        "naive": lambda: [],
        "l2": lambda: [methods.L2(strength)],
        "ewc": lambda: [methods.EWC(strength, samples=200)],
        "packnet": lambda: [methods.PackNet(prune=0.5, identity="given")],
        "replay": lambda: [methods.Replay(memory)],
        "joint": lambda: [methods.Joint()],
    }
    if name not in made:
        raise ConfigError(f"cl_strategy: {name!r} is unknown; choose one of {', '.join(made)}")
    return made[name]()


def load_stream(config: IQAConfig) -> TaskStream:
    """The stream that the settings describe, images in memory.

    Raises:
        ConfigError: nothing to train on. DataNotFound or DataCorrupt: files that are not there or not whole.
    """
    config.check_data()
    targets = QualityObjective(config.loss).targets
    if config.demo:
        from course_utils.datasets.standins import photos

        eva, ava = (photos.load(name, **DEMO, size=DEMO_SIZE) for name in ("eva", "ava"))
    else:
        common: dict[str, Any] = {
            "image_size": config.image_size,
            "on_problem": config.on_problem,
            "limit": config.limit,
        }
        assert config.eva_image_dir is not None and config.eva_label_file is not None  # check_data
        eva = EVADataset(
            config.eva_image_dir, config.eva_label_file, categories_file=config.eva_categories_file, **common
        ).to_dataset()
        if config.stream == "datasets":
            assert config.ava_image_dir is not None and config.ava_label_file is not None
            official = config.ava_test_list
            ava = AVADataset(config.ava_image_dir, config.ava_label_file, test_list=official, **common).to_dataset()
    if config.stream == "categories":
        return category_stream(eva, targets=targets)
    return dataset_stream([eva, ava], targets=targets)


def build_learner(
    config: IQAConfig, tracker: tracking.Tracker | None = None, show_progress: bool | None = None
) -> Learner:
    """The learner that the settings describe; its last method is a `RecordPredictions`."""
    model = build_scorer(config.backbone, config.seed, score=config.score, weights=config.weights)
    return Learner(
        model,
        [*strategy(config.cl_strategy, config.strength, config.memory), RecordPredictions()],
        lr=config.lr, batch_size=config.batch_size, epochs=config.epochs, seed=config.seed,
        objective=QualityObjective(config.loss), augment=QualityAugment(), tracker=tracker, show_progress=show_progress,
    )  # fmt: skip


def train(config: IQAConfig, *, resume: bool = False, show_progress: bool | None = None) -> dict[str, Any]:
    """Train, and write into `config.output_dir`: config.json, checkpoint.pt, model.pt, results.json and the log.

    Args:
        resume: go on from checkpoint.pt of an earlier call with the same settings. Without a checkpoint it starts anew.

    Returns:
        what results.json holds: keys data, standin, tasks, srcc (T, T), initial, steps, summary, intervals, remarks. It has no
        times and no paths: a run that was interrupted and resumed writes the same bytes as one that was not.

    Raises:
        ConfigError: the folder holds a run of other settings, or a finished or unfinished one while `resume` is False.
    """
    folder = Path(config.output_dir).expanduser()
    checkpoint = folder / "checkpoint.pt"
    _check_folder(config, folder, resume)
    stream = load_stream(config)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", dataclasses.asdict(config))
    tracker = tracking.open_tracker(
        config.tracker, config=dataclasses.asdict(config), directory=folder / "logs", name=config.cl_strategy
    )
    learner = build_learner(config, tracker, show_progress)
    if resume and checkpoint.is_file():
        learner.resume(checkpoint)
    learner.fit(stream, checkpoint=checkpoint, checkpoint_every=config.checkpoint_every)
    tracker.finish()
    results = summarise(stream, learner)
    _save_model(learner, folder / "model.pt")
    _write_json(folder / "results.json", results)
    return results


def summarise(stream: TaskStream, learner: Learner) -> dict[str, Any]:
    """The results of a finished run; see `train`."""
    history, recorder = learner.history, learner.methods[-1]
    last = recorder.predictions[-1]
    intervals = [
        bootstrap_interval(
            srcc,
            last[task.index],
            true_score(task.test.y).numpy(),
            groups=task.test.fields["group"].numpy(),
            samples=200,
        )
        for task in stream
    ]
    return {
        "data": stream.title,
        "standin": stream.standin,
        "tasks": [task.name for task in stream],
        "srcc": history.accuracy.tolist(),
        "initial": history.initial.tolist(),
        "steps": history.steps.tolist(),
        "summary": quality_summary(history.accuracy, recorder.predictions),
        "intervals": [list(interval) for interval in intervals],
        "remarks": list(history.remarks),
    }


def _check_folder(config: IQAConfig, folder: Path, resume: bool) -> None:
    saved = folder / "config.json"
    if not saved.is_file():
        return
    if not resume:
        raise ConfigError(f"output_dir: {folder} holds a run already; go on with --resume, or choose another folder")
    before = json.loads(saved.read_text(encoding="utf-8"))
    now = dataclasses.asdict(config)
    changed = [
        f"{name}: {before.get(name)!r} then, {now[name]!r} now"
        for name in now
        if name not in OWN and before.get(name) != now[name]
    ]
    if changed:
        raise ConfigError(f"{folder} holds a run of other settings ({'; '.join(changed)}); choose another output_dir")


def _save_model(learner: Learner, path: Path) -> None:
    import torch

    temporary = path.with_name(f"{path.name}.part")
    torch.save({name: value.cpu() for name, value in learner.model.state_dict().items()}, temporary)
    os.replace(temporary, path)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(part) for name, part in value.items()}
        if isinstance(value, list):
            return [plain(part) for part in value]
        return None if isinstance(value, float) and value != value else value

    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(json.dumps(plain(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
