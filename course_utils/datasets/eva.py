"""EVA, the Explainable Visual Aesthetics data set: 4,070 photographs from AVA, each with 30 to 46 votes from 0 to 10.

Source: C. Kang, G. Valenzise, F. Dufaux, EVA: An Explainable Visual Aesthetics Dataset, ATQAM/MAST 2020. Data card:
data/eva.md. The publisher's tables use "=" as delimiter, except `image_content_category.csv`: comma, quoted, with a
byte order mark. Names of images are texts.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from course_utils.datasets import cache
from course_utils.datasets.dataset import DataCorrupt, DataNotFound, Dataset
from course_utils.datasets.photographs import image_name
from course_utils.datasets.rated import RatedDataset, cached_dataset
from course_utils.datasets.scored import Labels, from_histograms

CATEGORIES = (
    "animals", "architecture and city", "human", "natural and rural", "still life", "other",
)  # fmt: skip  # sort 1 to 6
LEVELS = 11  # scores 0 to 10
VOTES, CONTENT = "votes_filtered.csv", "image_content_category.csv"
IMAGE_SIZE = 64
LAYOUT = (
    f"put the publisher's data/{VOTES}, data/{CONTENT} and the parts images/EVA_together.zip.001 to .007 into the "
    "folder eva where COURSE_DATA points (layout: data/eva.md)"
)


def find() -> Path | None:
    """The folder `eva` that holds the votes (or a `labels.csv`) and images, or None."""
    for folder in cache.data_folders():
        root = folder / "eva"
        if _label_file(root) is not None and _images(root) is not None:
            return root
    return None


def found_download() -> Path | None:
    """None: the files are put in place by hand and found by `find`."""
    return None


def download() -> Path:
    """Raises DataNotFound: the course does not fetch 700 MB from a repository that may move; the message says how to."""
    raise DataNotFound(f"eva is not fetched by the course: {LAYOUT}")


def load(root: Path, source: str) -> Dataset:
    """Images (3, 64, 64) with scores, in the published splits; unreadable images are left out with a warning."""
    labels, images = _label_file(root), _images(root)
    assert labels is not None and images is not None  # `find` saw them
    content = next((path for path in (root / CONTENT, root / "data" / CONTENT) if path.is_file()), None)
    return cached_dataset("eva", EVADataset, images, labels, IMAGE_SIZE, source, categories_file=content)


def _label_file(root: Path) -> Path | None:
    places = (root / VOTES, root / "data" / VOTES, root / "labels.csv")
    return next((path for path in places if path.is_file()), None)


def _images(root: Path) -> Path | None:
    for folder in (root / "images", root):
        if folder.is_dir() and any(
            True for name in ("*.zip", "*.zip.001", "*.jpg", "*.png") for _ in folder.glob(name)
        ):
            return folder
    return None


class EVADataset(RatedDataset):
    """EVA's photographs with their scores, or any folder of images with a CSV of scores; see `RatedDataset`.

    label_file: `votes_filtered.csv` or `votes.csv` as published; or a plain CSV with the columns image_id and score
        (and if you like spread and category). The scores of a plain CSV may run over any range up to `scale`.
    categories_file: `image_content_category.csv`; without it every image is in one category. Images that it does not
        name get the last category, "other".
    scale: (lowest, highest) possible score of a plain CSV.

    In all of them a name may have the ending of its file: "m0.jpg" is the image "m0".
    """

    name = "eva"

    def read_labels(self, label_file: Path, **options: Any) -> Labels:
        return read_eva_labels(label_file, **options)


def read_eva_labels(
    label_file: str | Path, categories_file: str | Path | None = None, scale: tuple[float, float] = (0.0, 10.0)
) -> Labels:
    """Mean score, spread, histogram and category of every image; see `EVADataset`.

    Raises DataNotFound if a file is not there, DataCorrupt with file and line for one that is not what it should be.
    """
    path = _existing(label_file)
    content = None if categories_file is None else read_categories(categories_file)
    with open(path, "rb") as file:
        voted = b"=" in file.readline()
    labels = _from_votes(path) if voted else _from_scores(path, scale)
    if content is not None:
        category = np.array([content.get(name, len(CATEGORIES) - 1) for name in labels.ids], dtype=np.int64)
    elif len(labels.categories) > 1:
        return labels
    else:
        category = labels.category
    names = CATEGORIES if content is not None else labels.categories
    return Labels(labels.ids, labels.score, labels.spread, labels.distribution, category, labels.votes, names)


def read_categories(path: str | Path) -> dict[str, int]:
    """`image_content_category.csv`: name of an image -> index into CATEGORIES (the file's `sort` less 1)."""
    path = _existing(path)
    content = {}
    for line, row in _rows(path, ",", ("image_id", "sort")):
        if row["sort"] not in {str(number + 1) for number in range(len(CATEGORIES))}:
            raise DataCorrupt(f"{path}, line {line}: sort is {row['sort']!r}; expected 1 to {len(CATEGORIES)}")
        content[image_name(row["image_id"])] = int(row["sort"]) - 1
    return content


def _from_votes(path: Path) -> Labels:
    counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(LEVELS))
    for line, row in _rows(path, "=", ("image_id", "user_id", "score")):
        try:
            score = float(row["score"])
        except ValueError:
            score = -1.0
        if score not in range(LEVELS):
            raise DataCorrupt(f"{path}, line {line}: the score is {row['score']!r}; expected a whole number 0 to 10")
        counts[image_name(row["image_id"])][int(score)] += 1
    return from_histograms(list(counts), np.stack(list(counts.values())))


def _from_scores(path: Path, scale: tuple[float, float]) -> Labels:
    low, high = scale
    ids, score, spread, category = [], [], [], []
    for line, row in _rows(path, ",", ("image_id", "score")):
        try:
            value = float(row["score"])
            spread.append(float(row.get("spread") or "nan") / (high - low))
        except ValueError:
            raise DataCorrupt(f"{path}, line {line}: {row['score']!r} is no number; expected a score") from None
        if not low <= value <= high:
            raise DataCorrupt(
                f"{path}, line {line}: the score {value:g} is outside {low:g} to {high:g}; pass scale=(lowest, highest), "
                "or bring the file to 0 to 10 with `course iqa prepare ... --scale LOWEST HIGHEST`"
            )
        ids.append(image_name(row["image_id"]))
        score.append((value - low) / (high - low))
        category.append(row.get("category") or "photographs")
    repeated = len(ids) - len(set(ids))
    if repeated:
        raise DataCorrupt(f"{path} names {repeated} images more than once; expected one row an image")
    names = tuple(sorted(set(category), key=lambda name: (CATEGORIES.index(name) if name in CATEGORIES else 99, name)))
    index = np.array([names.index(name) for name in category], dtype=np.int64)
    unknown = np.full((len(ids), LEVELS), np.nan)
    return Labels(tuple(ids), np.array(score), np.array(spread), unknown, index, np.zeros(len(ids), np.int64), names)


def _existing(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataNotFound(f"there is no label file {path}; {LAYOUT}")
    return path


def _rows(path: Path, delimiter: str, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """(line number, row) of a table that has these columns. The byte order mark is not part of the first name."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter)
            rows = [(reader.line_num, row) for row in reader]
            names = list(reader.fieldnames or [])
    except UnicodeDecodeError as error:
        raise DataCorrupt(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    lacking = [column for column in columns if column not in names]
    if lacking or not rows:
        raise DataCorrupt(
            f"{path} has {len(rows)} rows and the columns {', '.join(names) or 'none'}, without "
            f"{', '.join(lacking) or 'a row'}; expected {delimiter!r} between columns that include {', '.join(columns)}"
        )
    for line, row in rows:
        if any(row[column] is None or row[column] == "" for column in columns):
            raise DataCorrupt(f"{path}, line {line} is cut short: {dict(row)}; expected {', '.join(columns)}")
    return rows
