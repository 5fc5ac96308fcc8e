"""Settings of `course iqa train`, from a YAML file and from options; an error names the setting and the choices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BACKBONES = ("resnet18", "mobilenet_v3_small", "efficientnet_b0")
STRATEGIES = ("naive", "l2", "ewc", "packnet", "replay", "joint")
SCORES = ("cosine", "regression", "both", "distribution")
LOSSES = ("mse+rank", "mse", "plcc", "fidelity", "emd")
STREAMS = ("datasets", "categories", "eva")
TRACKERS = ("tensorboard", "none", "wandb")
PROBLEMS = ("skip", "refuse")
SIZES = ("resize", "skip", "refuse")


class ConfigError(ValueError):
    """A setting is unknown, of the wrong kind or impossible; the message names it and says what to write."""


def _setting(default: Any, text: str, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"text": text, "choices": choices})


@dataclass(frozen=True)
class IQAConfig:
    """Everything that a training run depends on. The texts below are the help of the options and of the template."""

    eva_image_dir: str | None = _setting(None, "folder of EVA's images, or its zip, or the first part of it")
    eva_label_file: str | None = _setting(None, "votes_filtered.csv, or a CSV with image_id and score")
    eva_categories_file: str | None = _setting(None, "image_content_category.csv; needed for stream: categories")
    ava_image_dir: str | None = _setting(None, "folder of AVA's images")
    ava_label_file: str | None = _setting(None, "AVA.txt, a JSON file of labels, or a folder of them")
    ava_test_list: str | None = _setting(
        None, "the official generic_test.jpgl: AVA's test images; null is a split by name"
    )
    demo: bool = _setting(False, "train on drawn photographs of known quality, without any data")
    stream: str = _setting(
        "datasets",
        "what follows what: data set after data set, or EVA's six categories, or EVA's part alone (your own photographs)",
        STREAMS,
    )
    backbone: str = _setting("mobilenet_v3_small", "the network", BACKBONES)
    weights: str | None = _setting(None, "pretrained weights: DEFAULT, IMAGENET1K_V1 or a .pth file; null is random")
    score: str = _setting("cosine", "how a score is read off the embedding", SCORES)
    loss: str = _setting("mse+rank", "what is minimised", LOSSES)
    cl_strategy: str = _setting("naive", "the continual-learning method", STRATEGIES)
    strength: float = _setting(1.0, "lambda of l2 and ewc")
    memory: int = _setting(100, "images that replay stores, over all tasks")
    epochs: int = _setting(10, "passes over each task")
    batch_size: int = _setting(32, "images per step")
    lr: float = _setting(1e-3, "learning rate of Adam")
    image_size: int = _setting(224, "side of the square images, pixels")
    limit: int | None = _setting(None, "at most this many images of each data set, or null")
    on_problem: str = _setting("skip", "unreadable images: leave them out with a warning, or refuse to train", PROBLEMS)
    sizes: str = _setting(
        "resize", "images of several sizes: bring them to one, leave out all but the commonest, or refuse", SIZES
    )
    seed: int = _setting(0, "of the weights, the batches and the augmentation")
    output_dir: str = _setting("build/iqa", "folder of checkpoint, results and logs")
    tracker: str = _setting("tensorboard", "where numbers are logged", TRACKERS)
    checkpoint_every: int = _setting(100, "steps between two checkpoints")

    def __post_init__(self) -> None:
        for setting in dataclasses.fields(self):
            value = getattr(self, setting.name)
            _check_kind(setting, value)
            choices = setting.metadata["choices"]
            if choices and value not in choices:
                raise ConfigError(f"{setting.name}: {value!r} is unknown; choose one of {', '.join(choices)}")
        for name, least in (
            ("epochs", 1),
            ("batch_size", 2),
            ("image_size", 32),
            ("memory", 1),
            ("checkpoint_every", 1),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: {getattr(self, name)} is too small; use at least {least}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit: {self.limit} leaves no images; use at least 1, or null for all")
        if self.strength < 0:
            raise ConfigError(f"strength: {self.strength} is negative; use 0 (no penalty) or more")
        if not 0 < self.lr < float("inf"):  # NaN, too
            raise ConfigError(f"lr: {self.lr} is not a learning rate; use a number above 0, such as 0.001")
        if (self.loss == "emd") != (self.score == "distribution"):
            raise ConfigError(
                f"loss: {self.loss!r} with score: {self.score!r}; the loss 'emd' and the score 'distribution' go together"
            )

    def check_data(self) -> None:
        """Raises ConfigError unless there is something to train on: paths, in pairs, that exist, or the demo."""
        if self.demo:
            return
        names = ("eva_image_dir", "eva_label_file", "ava_image_dir", "ava_label_file")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        wanted = {"datasets": names, "eva": names[:2], "categories": (*names[:2], "eva_categories_file")}[self.stream]
        missing = [name for name in wanted if getattr(self, name) is None]
        if missing:
            raise ConfigError(
                f"{', '.join(missing)}: not given ({len(given)} of the paths are); give them as options or in the config "
                "file, or train on drawn photographs with --demo"
            )
        chosen = [name for name in ("eva_categories_file", "ava_test_list") if getattr(self, name) is not None]
        for name in dict.fromkeys([*wanted, *chosen]):
            if not Path(getattr(self, name)).expanduser().exists():
                raise ConfigError(f"{name}: there is no {getattr(self, name)}; check the path, or use --demo")


def _check_kind(setting: dataclasses.Field[Any], value: Any) -> None:
    text = str(setting.type)
    if value is None and "None" in text:
        return
    kind = text.partition(" ")[0]
    good = {
        "str": isinstance(value, str),
        "bool": isinstance(value, bool),
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, (int, float)) and not isinstance(value, bool),
    }[kind]
    if not good:
        words = {"str": "text", "bool": "true or false", "int": "a whole number", "float": "a number"}[kind]
        hint = " (YAML reads 1e-3 as text: write 0.001 or 1.0e-3)" if kind == "float" and isinstance(value, str) else ""
        raise ConfigError(f"{setting.name}: {value!r} is not {words}{hint}; it is {setting.metadata['text']}")


def load_config(path: str | Path | None, overrides: Mapping[str, Any]) -> IQAConfig:
    """The settings of a YAML file, with those of the command line over them.

    Raises:
        ConfigError: no such file, not YAML, or a setting that is unknown or wrong; names the file and the setting.
    """
    values = {} if path is None else _read(Path(path).expanduser())
    values |= {name: value for name, value in overrides.items() if value is not None}
    try:
        return IQAConfig(**values)
    except ConfigError as error:
        raise ConfigError(str(error) if path is None else f"{path}, {error}") from None


def _read(path: Path) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        raise ConfigError(f"there is no config file {path}; `course iqa config {path}` writes one to start from")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}; expected lines of the form `epochs: 10`")
    known = [setting.name for setting in dataclasses.fields(IQAConfig)]
    unknown = [str(name) for name in values if name not in known]
    if unknown:
        import difflib

        near = difflib.get_close_matches(unknown[0], known, n=1)
        raise ConfigError(
            f"{path}: {', '.join(unknown)} is no setting{f', did you mean {near[0]}?' if near else ''} "
            f"There are {', '.join(known)}"
        )
    return values


def template() -> str:
    """A config file with every setting at its default, explained."""
    lines = ["# Settings of `course iqa train --config FILE`. An option on the command line wins over this file."]
    for setting in dataclasses.fields(IQAConfig):
        choices = setting.metadata["choices"]
        lines.append(f"# {setting.metadata['text']}" + (f": {', '.join(choices)}" if choices else ""))
        default: Any = setting.default
        value = str(default).lower() if isinstance(default, bool) else "null" if default is None else default
        lines.append(f"{setting.name}: {value}")
    return "\n".join(lines) + "\n"
