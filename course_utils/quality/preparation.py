"""Label files in one plain form: `course iqa prepare`."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path

import numpy as np

from course_utils.datasets.ava import read_ava_labels
from course_utils.datasets.eva import read_eva_labels
from course_utils.datasets.scored import Labels, split_of
from course_utils.quality.config import ConfigError


def prepare(
    label_file: str | Path,
    output: str | Path,
    categories_file: str | Path | None = None,
    scale: tuple[float, float] | None = None,
) -> str:
    """Write the labels of EVA or AVA, in any form that is published, as one file; returns a sentence about it.

    Args:
        label_file: EVA's `votes_filtered.csv`, a CSV of scores, `AVA.txt`, JSON, or a folder of JSON.
        output: ends in .csv, columns image_id, score (0 to 10), spread, votes, category, split; or in .json, a list of
            {"image_id", "label": shares of the levels}.
        categories_file: EVA's `image_content_category.csv`.
        scale: (lowest, highest) possible score of a CSV of scores, 0 to 10 by default; they are brought to 0 to 10.

    Raises:
        ConfigError: another ending, or a scale that runs backwards or that the labels have already. DataNotFound, DataCorrupt: as the readers.
    """
    path, target = Path(label_file).expanduser(), Path(output).expanduser()
    if target.suffix not in (".csv", ".json"):
        raise ConfigError(f"output: {target} ends in {target.suffix or 'nothing'}; write a .csv or a .json")
    if scale is not None and not (scale[0] < scale[1] and all(map(math.isfinite, scale))):
        raise ConfigError(f"scale: {scale[0]:g} to {scale[1]:g}; give the lowest possible score, then the highest")
    if path.suffix == ".csv":
        options = {} if scale is None else {"scale": scale}
        labels = read_eva_labels(path, categories_file, **options)
        if scale is not None and not np.isnan(labels.distribution).all():
            raise ConfigError(f"scale: {path.name} holds votes, which have a scale of their own; leave it out")
    elif scale is not None:
        raise ConfigError("scale: AVA's counts have a scale of their own; leave it out")
    else:
        labels = read_ava_labels(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.part")
    (_write_csv if target.suffix == ".csv" else _write_json)(labels, temporary)
    os.replace(temporary, target)
    splits = [split_of(name) for name in labels.ids]
    sizes = ", ".join(f"{splits.count(name):,} {name}" for name in ("train", "validation", "test"))
    return f"{target}: {len(labels):,} images ({sizes}), mean score {10 * labels.score.mean():.2f} of 10"


def _write_csv(labels: Labels, path: Path) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image_id", "score", "spread", "votes", "category", "split"])
        for row, name in enumerate(labels.ids):
            spread = "" if np.isnan(labels.spread[row]) else f"{10 * labels.spread[row]:.6g}"
            category = labels.categories[labels.category[row]]
            writer.writerow(
                [name, f"{10 * labels.score[row]:.6g}", spread, labels.votes[row], category, split_of(name)]
            )


def _write_json(labels: Labels, path: Path) -> None:
    if np.isnan(labels.distribution).any() or labels.distribution.shape[1] != 10:
        raise ConfigError(
            f"output: a .json holds shares of AVA's 10 levels, and these labels have {labels.distribution.shape[1]} levels "
            "or mean scores only; write a .csv"
        )
    entries = [
        {"image_id": name, "label": [round(float(share), 6) for share in labels.distribution[row]]}
        for row, name in enumerate(labels.ids)
    ]
    path.write_text(json.dumps(entries), encoding="utf-8")
