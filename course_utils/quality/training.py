"""A training run from its settings: stream, scorer, method, log, checkpoint, results. This is `course iqa train`."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from course_utils import methods, tracking
from course_utils.datasets.ava import AVADataset
from course_utils.datasets.dataset import DataCorrupt, DataNotFound
from course_utils.datasets.eva import EVADataset
from course_utils.datasets.memory import TooLarge
from course_utils.learner import Learner
from course_utils.quality.config import ConfigError, IQAConfig
from course_utils.quality.log import QualityLog
from course_utils.quality.metrics import RecordPredictions
from course_utils.quality.models import build_scorer
from course_utils.quality.objective import QualityObjective
from course_utils.quality.results import summarise
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
        ConfigError: nothing to train on, images that do not fit into memory, or data that make no such stream.
        DataNotFound or DataCorrupt: files that are not there or not whole.
    """
    config.check_data()
    with _said_as("limit, image_size", TooLarge, "try --limit or --image_size"):
        return _read_stream(config)


def _read_stream(config: IQAConfig) -> TaskStream:
    targets = QualityObjective(config.loss).targets
    if config.demo:
        from course_utils.datasets.standins import photos

        eva, ava = (photos.load(name, **DEMO, size=DEMO_SIZE) for name in ("eva", "ava"))
    else:
        common: dict[str, Any] = {
            "image_size": config.image_size,
            "on_problem": config.on_problem,
            "sizes": config.sizes,
            "limit": config.limit,
            "by_split": True,
        }
        assert config.eva_image_dir is not None and config.eva_label_file is not None  # check_data
        eva = EVADataset(
            config.eva_image_dir, config.eva_label_file, categories_file=config.eva_categories_file, **common
        ).to_dataset()
        if config.stream == "datasets":
            assert config.ava_image_dir is not None and config.ava_label_file is not None
            official = config.ava_test_list
            ava = AVADataset(config.ava_image_dir, config.ava_label_file, test_list=official, **common).to_dataset()
    with _said_as("stream", ValueError, "change the label files, --loss, --stream or --limit"):
        if config.stream == "categories":
            return category_stream(eva, targets=targets)
        return dataset_stream([eva] if config.stream == "eva" else [eva, ava], targets=targets)


@contextmanager
def _said_as(settings: str, kind: type[Exception] | tuple[type[Exception], ...], advice: str) -> Iterator[None]:
    """Errors of `kind` as a ConfigError that names the settings that lead to them; those of files stay what they are."""
    try:
        yield
    except (ConfigError, DataCorrupt, DataNotFound):
        raise
    except kind as error:
        raise ConfigError(f"{settings}: {error}; {advice}") from error


def build_learner(
    config: IQAConfig, tracker: tracking.Tracker | None = None, show_progress: bool | None = None
) -> Learner:
    """The learner that the settings describe; its last method is a `RecordPredictions`."""
    unreadable = (ValueError, OSError, EOFError, RuntimeError, pickle.UnpicklingError)  # what torch.load meets
    with _said_as("weights", unreadable, "give others with --weights, or leave it out for random ones"):
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
        what results.json holds: keys data, standin, tasks; srcc, plcc, kendall and rmse, each (T, T), row i = test images
        after task i; initial, steps, left_out, summary, intervals, remarks. It has no times and no paths: a run that was
        interrupted and resumed writes the same bytes as one that was not.

    Raises:
        ConfigError: the folder holds a run of other settings, or a finished or unfinished one while `resume` is False;
            settings that cannot be trained with: weights, memory, a learning rate at which the loss is not a number.
    """
    folder = Path(config.output_dir).expanduser()
    checkpoint = folder / "checkpoint.pt"
    _check_folder(config, folder, resume)
    stream = load_stream(config)
    images = {task.name: len(task.train) for task in stream}
    _check_images(images, folder)
    learner = build_learner(config, show_progress=show_progress)
    if resume and checkpoint.is_file():
        with _said_as("output_dir", ValueError, "or choose another output_dir"):
            learner.resume(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", {**dataclasses.asdict(config), "training_images": images})
    tracker = tracking.open_tracker(
        config.tracker, config=dataclasses.asdict(config), directory=folder / "logs", name=config.cl_strategy
    )
    learner.tracker = QualityLog(tracker, stream, learner.methods[-1])
    with _said_as("lr, strength", FloatingPointError, "use a smaller one and another --output_dir"):
        learner.fit(stream, checkpoint=checkpoint, checkpoint_every=config.checkpoint_every)
    tracker.finish()
    results = summarise(stream, learner)
    _save_model(learner, folder / "model.pt")
    _write_json(folder / "results.json", results)
    return results


def _check_folder(config: IQAConfig, folder: Path, resume: bool) -> None:
    saved = folder / "config.json"
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output_dir: {folder} is a file; choose another folder")
    if not saved.is_file():
        return
    if not resume:
        raise ConfigError(f"output_dir: {folder} holds a run already; go on with --resume, or choose another folder")
    # A setting that an older version did not have is at its default.
    before = dataclasses.asdict(IQAConfig()) | json.loads(saved.read_text(encoding="utf-8"))
    now = dataclasses.asdict(config)
    changed = [
        f"{name}: {before.get(name)!r} then, {now[name]!r} now"
        for name in now
        if name not in OWN and before.get(name) != now[name]
    ]
    if changed:
        raise ConfigError(f"{folder} holds a run of other settings ({'; '.join(changed)}); choose another output_dir")


def _check_images(images: dict[str, int], folder: Path) -> None:
    """Raises ConfigError if the run in `folder` had other training images: files came or went since."""
    saved = folder / "config.json"
    before = json.loads(saved.read_text(encoding="utf-8")).get("training_images", images) if saved.is_file() else images
    if before != images:
        raise ConfigError(
            f"output_dir: {folder} holds a run on {before} training images, and there are {images} now; put the files "
            "back as they were, or choose another folder"
        )


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
