"""AVA, A large-scale database for Aesthetic Visual Analysis: 255,510 photographs with counts of votes from 1 to 10.

Source: N. Murray, L. Marchesotti, F. Perronnin, AVA: A large-scale database for aesthetic visual analysis, CVPR 2012.
Data card: data/ava.md. `AVA.txt` is the publisher's table; the JSON form is that of idealo/image-quality-assessment.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from course_utils.datasets import cache
from course_utils.datasets.dataset import DataCorrupt, DataNotFound, Dataset
from course_utils.datasets.photographs import image_name
from course_utils.datasets.rated import RatedDataset, cached_dataset
from course_utils.datasets.scored import Labels, from_histograms

LEVELS = 10  # ratings 1 to 10
COLUMNS = 15  # of AVA.txt: row, image, 10 counts, two tags, challenge
IMAGE_SIZE = 64
LABEL_FILES = ("AVA.txt", "labels.json", "labels.json.gz")
LAYOUT = (
    "put AVA.txt (or labels.json) and the folder images with the .jpg files into the folder ava where COURSE_DATA "
    "points (layout: data/ava.md)"
)


def find() -> Path | None:
    """The folder `ava` that holds labels and `images`, or None."""
    for folder in cache.data_folders():
        root = folder / "ava"
        if _label_file(root) is not None and (root / "images").is_dir():
            return root
    return None


def found_download() -> Path | None:
    """None: the files are put in place by hand and found by `find`."""
    return None


def download() -> Path:
    """Raises DataNotFound: AVA has no publisher's download; its copies differ, so you say which one you trust."""
    raise DataNotFound(f"ava is not fetched by the course, it has no official download: {LAYOUT}")


def load(root: Path, source: str) -> Dataset:
    """Images (3, 64, 64) with scores; the official test list (`generic_test.jpgl`) is kept where the folder has it."""
    labels = _label_file(root)
    assert labels is not None  # `find` saw it
    official = next(iter(sorted(root.rglob("generic_test.jpgl"))), None)
    return cached_dataset("ava", AVADataset, root / "images", labels, IMAGE_SIZE, source, test_list=official)


def _label_file(root: Path) -> Path | None:
    return next((root / name for name in LABEL_FILES if (root / name).is_file()), None)


class AVADataset(RatedDataset):
    """AVA's photographs with the distribution of their votes, or anything in its formats; see `RatedDataset`.

    label_file: `AVA.txt`; a JSON list of {"image_id": ..., "label": [10 counts]}, counts raw or normalised; a JSON
        dictionary {image: mean score from 1 to 10, or 10 counts}; or a folder, in which every .json and AVA.txt is read,
        however deep. JSON may be packed with gzip. A name may have the ending of its file, "953619.jpg".
    test_list: the official list of test images, a name a line with or without ending. Every other image is for training
        or validation then. In a stream with EVA `quality.dataset_stream` leaves out what one of them trains on and the
        other one holds out.
    """

    name = "ava"

    def read_labels(self, label_file: Path, **options: Any) -> Labels:
        if set(options) - {"test_list"}:
            raise TypeError(f"AVADataset has no option {', '.join(sorted(set(options) - {'test_list'}))}")
        return read_ava_labels(label_file)

    def _test_ids(self, test_list: str | Path | None = None, **options: Any) -> tuple[str, ...]:
        if test_list is None:
            return ()
        path = Path(test_list).expanduser()
        if not path.is_file():
            raise DataNotFound(
                f"there is no list of test images {path}; leave test_list out for the course's own split"
            )
        return tuple(
            image_name(Path(line.strip()).name)
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.strip()
        )


def read_ava_labels(label_file: str | Path) -> Labels:
    """Distribution, mean and spread of every image; see `AVADataset`.

    Raises DataNotFound if there is no such file, DataCorrupt with file and image for what cannot be read.
    """
    path = Path(label_file).expanduser()
    if path.is_dir():
        return _from_folder(path)
    if not path.is_file():
        raise DataNotFound(f"there is no label file {path}; {LAYOUT}")
    pairs = _table(path) if path.suffix == ".txt" else _json(path)
    if not pairs:
        raise DataCorrupt(f"{path} holds no labels; expected AVA.txt, or JSON with image_id and label")
    return _labels(pairs, path)


def _labels(pairs: list[tuple[str, Any]], path: Path) -> Labels:
    ids = [name for name, _ in pairs]
    if len(set(ids)) < len(ids):
        raise DataCorrupt(f"{path} names {len(ids) - len(set(ids))} images more than once; expected one label an image")
    histograms = np.full((len(pairs), LEVELS), np.nan)
    means: dict[int, float] = {}
    for row, (name, label) in enumerate(pairs):
        if isinstance(label, (int, float)) and not isinstance(label, bool):
            if not 1 <= label <= LEVELS:
                raise DataCorrupt(f"{path}, image {name}: the mean score is {label}; expected 1 to {LEVELS}")
            means[row] = (label - 1) / (LEVELS - 1)
            continue
        histograms[row] = _counts(label, f"{path}, image {name}")
    labels = from_histograms(ids, np.where(np.isnan(histograms), 1.0, histograms))
    for row, mean in means.items():
        labels.score[row], labels.spread[row], labels.distribution[row], labels.votes[row] = mean, np.nan, np.nan, 0
    return labels


def _counts(label: Any, where: str) -> list[float]:
    good = isinstance(label, (list, tuple)) and len(label) == LEVELS
    good = good and all(isinstance(count, (int, float)) and count >= 0 for count in label) and sum(label) > 0
    if not good:
        text = repr(label)
        raise DataCorrupt(
            f"{where}: the label is {text if len(text) < 80 else text[:77] + '...'}; expected {LEVELS} counts or shares, "
            "none negative, not all zero"
        )
    return list(label)


def _table(path: Path) -> list[tuple[str, Any]]:
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != COLUMNS or not all(field.lstrip("-").isdigit() for field in fields[2:12]):
            raise DataCorrupt(
                f"{path}, line {number} has {len(fields)} fields: {line[:60]!r}; expected {COLUMNS} numbers: row, image, "
                "10 counts, two tags, challenge"
            )
        pairs.append((image_name(fields[1]), [int(field) for field in fields[2:12]]))
    return pairs


def _json(path: Path) -> list[tuple[str, Any]]:
    try:
        opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8")
        with opened as file:
            content = json.load(file)
    except (OSError, EOFError, ValueError) as error:
        raise DataCorrupt(f"{path} is not whole JSON ({error}); get it again") from error
    if isinstance(content, dict) and content.keys() & {"image_id", "label"}:  # one label a file, as nested folders have
        content = [content]
    if isinstance(content, dict):
        return [(image_name(name), label) for name, label in content.items()]
    if isinstance(content, list):
        wrong = [entry for entry in content if not isinstance(entry, dict) or not {"image_id", "label"} <= entry.keys()]
        if not wrong:
            return [(image_name(str(entry["image_id"])), entry["label"]) for entry in content]
        raise DataCorrupt(
            f"{path}: {len(wrong)} entries lack image_id or label, first {str(wrong[0])[:60]}; expected "
            '{"image_id": "953619", "label": [10 counts]} for every image'
        )
    raise DataCorrupt(f"{path} holds a {type(content).__name__}; expected a list or a dictionary of labels")


def _from_folder(folder: Path) -> Labels:
    files = sorted(path for path in folder.rglob("*") if path.name.endswith((".json", ".json.gz")))
    pairs = [pair for path in files for pair in _json(path)]
    pairs += [pair for path in sorted(folder.rglob("AVA.txt")) for pair in _table(path)]
    if not pairs:
        raise DataNotFound(f"{folder} holds no .json with labels and no AVA.txt; {LAYOUT}")
    return _labels(pairs, folder)
