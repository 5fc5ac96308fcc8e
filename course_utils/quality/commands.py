"""`course iqa train`, `prepare`, `compare` and `config`: every setting of IQAConfig is an option."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from course_utils.quality.config import BACKBONES, ConfigError, IQAConfig, load_config, template


def add_to(commands: Any) -> None:
    """Give the `course` command its subcommand `iqa`."""
    iqa = commands.add_parser("iqa", help="train image quality scorers on a stream, prepare labels, compare models")
    iqa = iqa.add_subparsers(required=True, metavar="train|prepare|compare|config")
    train = iqa.add_parser("train", help="train on EVA then AVA, on EVA's categories, or on drawn photographs (--demo)")
    train.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings; options win over it")
    train.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")
    for setting in dataclasses.fields(IQAConfig):
        _add_option(train, setting)
    train.set_defaults(action=_train)

    prepare = iqa.add_parser("prepare", help="write EVA's or AVA's labels as one plain file")
    prepare.add_argument("label_file", type=Path, help="votes_filtered.csv, AVA.txt, a JSON file or a folder of them")
    prepare.add_argument("--categories_file", type=Path, help="EVA's image_content_category.csv")
    prepare.add_argument(
        "--scale", type=float, nargs=2, metavar=("LOWEST", "HIGHEST"), help="of a CSV of scores, if it is not 0 to 10"
    )
    prepare.add_argument("--output", type=Path, required=True, help="a .csv or a .json")
    prepare.set_defaults(action=_prepare)

    compare = iqa.add_parser("compare", help="parameters, MACs, time and memory of the backbones on this machine")
    compare.add_argument("--image_size", type=int, default=224, help="pixels, default: 224")
    compare.add_argument("--runs", type=int, default=20, help="timed passes, default: 20")
    compare.add_argument(
        "--memory", action=argparse.BooleanOptionalAction, default=True, help="measure it in fresh processes"
    )
    compare.add_argument("--backbone", choices=BACKBONES, action="append", help="this one only; may be repeated")
    compare.set_defaults(action=_compare)

    config = iqa.add_parser("config", help="write a config file with every setting explained")
    config.add_argument("file", type=Path, nargs="?", help="default: print it")
    config.set_defaults(action=_config)


def _add_option(parser: argparse.ArgumentParser, setting: dataclasses.Field[Any]) -> None:
    """An option whose default is None, so that what is not given leaves the config file alone."""
    name, text = f"--{setting.name}", f"{setting.metadata['text']} (default: {setting.default})"
    choices = setting.metadata["choices"] or None
    kind = str(setting.type).partition(" ")[0]
    if kind == "bool":
        parser.add_argument(name, action=argparse.BooleanOptionalAction, default=None, help=text)
    else:
        of = {"int": int, "float": float, "str": str}[kind]
        parser.add_argument(name, type=of, choices=choices, default=None, help=text.replace("%", "%%"))


def _train(options: argparse.Namespace) -> int:
    overrides = {setting.name: getattr(options, setting.name) for setting in dataclasses.fields(IQAConfig)}
    config = load_config(options.config, overrides)
    config.check_data()
    from course_utils.quality import training

    results = training.train(config, resume=options.resume)
    print(f"{results['data']}: {config.cl_strategy}, {config.backbone}; test images after each task")
    print(_table(results))
    for task, counts in zip(results["tasks"], results["left_out"], strict=False):
        if any(counts.values()):
            held = " and ".join(f"{count} {split}" for split, count in counts.items())
            print(f"left out of {task}, because another task holds them out: {held} images")
    summary = ", ".join(f"{name} {value:.3f}" for name, value in results["summary"].items())
    print(
        f"{summary}\nwritten to {config.output_dir}; look at the log with: tensorboard --logdir {config.output_dir}/logs"
    )
    return 0


def _table(results: dict[str, Any]) -> str:
    """One line for each pair of tasks: what was learned last, what is scored, and the four measures."""
    width = max(map(len, results["tasks"]))
    lines = [f"  {'after':<{width}}  {'test images of':<{max(width, 14)}}   SRCC   PLCC   KRCC   RMSE"]
    for i, after in enumerate(results["tasks"]):
        for j, scored in enumerate(results["tasks"]):
            numbers = "  ".join(f"{results[name][i][j]:5.3f}" for name in ("srcc", "plcc", "kendall", "rmse"))
            lines.append(f"  {after:<{width}}  {scored:<{max(width, 14)}}  {numbers}")
    return "\n".join(lines)


def _prepare(options: argparse.Namespace) -> int:
    from course_utils.quality.preparation import prepare

    scale = None if options.scale is None else (options.scale[0], options.scale[1])
    print(prepare(options.label_file, options.output, options.categories_file, scale))
    return 0


def _compare(options: argparse.Namespace) -> int:
    if options.image_size < 32 or options.runs < 1:
        raise ConfigError(f"image_size: {options.image_size} must be at least 32, runs: {options.runs} at least 1")
    from course_utils.quality import comparison

    backbones = options.backbone or BACKBONES
    print(comparison.table(comparison.compare_models(backbones, options.image_size, options.runs, options.memory)))
    return 0


def _config(options: argparse.Namespace) -> int:
    if options.file is None:
        print(template(), end="")
    elif options.file.exists():
        raise ConfigError(f"{options.file} exists already; choose another name, or delete it first")
    else:
        options.file.parent.mkdir(parents=True, exist_ok=True)
        options.file.write_text(template(), encoding="utf-8")
        print(f"{options.file} written; change it, then: course iqa train --config {options.file}")
    return 0
