"""`course grid run` and `course grid analyse`: every field of GridConfig is an option."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from course_utils.grid.config import CHOICES, GridConfig, GridError


def add_to(commands: Any) -> None:
    """Give the `course` command its subcommand `grid`."""
    grid = commands.add_parser("grid", help="run or analyse many repeats of a stream at once (JAX)")
    grid = grid.add_subparsers(required=True, metavar="run|analyse")
    run = grid.add_parser(
        "run",
        help="run an experiment, or what is left of it",
        description="Run an experiment, or what is left of it. What each setting means: course_utils/grid/config.py.",
    )
    for field in dataclasses.fields(GridConfig):
        _add_option(run, field)
    run.add_argument("--results", type=Path, metavar="FOLDER", help="of this run (default: build/grid/DATA/ALGORITHM)")
    run.add_argument("--dry-run", action="store_true", help="say what would be written, and stop")
    run.add_argument("--analyse", action="store_true", help="write all tables and plots at the end")
    run.set_defaults(action=_run)

    analyse = grid.add_parser("analyse", help="write all tables and plots of a results folder")
    analyse.add_argument("folder", type=Path, help="results/{dataset}/{algorithm}")
    analyse.add_argument("--output", type=Path, help="where to (default: FOLDER/analysis)")
    analyse.set_defaults(action=_analyse)


def _add_option(parser: argparse.ArgumentParser, field: dataclasses.Field[Any]) -> None:
    name, default = "--" + field.name.replace("_", "-"), field.default
    if field.name == "devices":
        parser.add_argument(
            name, type=int, help="local devices (default: as many as divide the repeats, all cores of a CPU)"
        )
    elif isinstance(default, bool):
        parser.add_argument(name, action=argparse.BooleanOptionalAction, default=default, help=f"default: {default}")
    elif field.name == "widths":
        parser.add_argument(name, type=int, nargs=3, default=default, help=f"default: {default}")
    else:
        choices = CHOICES.get(field.name)
        parser.add_argument(name, type=type(default), choices=choices, default=default, help=f"default: {default}")


def _run(options: argparse.Namespace) -> int:
    try:
        from course_utils.grid import data, experiment, size
    except ImportError as missing:
        raise GridError(
            f"the grid needs {missing.name}, which is not installed: pip install 'course_utils[jax]'"
        ) from None
    from course_utils.grid.network import Network

    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(GridConfig)}
    if values["devices"] is None:
        values["devices"] = experiment.best_devices(options.num_repeats)
    else:
        experiment.use_devices(values["devices"])
    config = GridConfig(**values)
    folder = options.results or experiment.results_folder(config)
    if options.dry_run:
        images = data.load(config)
        images.check(config)
        extent = size.estimate(config, Network.of(config, "patches"), len(images.names))
        print(f"{folder}: {config.algorithm} on {images.title} {extent}")
        return 0
    print(experiment.run(config, folder))
    if options.analyse:
        return _write(folder, None)
    return 0


def _analyse(options: argparse.Namespace) -> int:
    return _write(options.folder, options.output)


def _write(folder: Path, output: Path | None) -> int:
    from course_utils.grid.analysis import analyse

    for path in analyse(folder, output):
        print(path)
    return 0
