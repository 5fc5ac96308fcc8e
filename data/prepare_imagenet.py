#!/usr/bin/env python3
"""Write the data set imagenet_28_gray: ImageNet-1k as 28x28 grey, 600 training and 50 test images of each class.

    python data/prepare_imagenet.py                            # from the Hugging Face Hub, streamed, no login
    python data/prepare_imagenet.py --hub ILSVRC/imagenet-1k   # the gated original: accept its terms and log in first
    python data/prepare_imagenet.py --folder FOLDER            # from image files
    python data/prepare_imagenet.py --npz FILE                 # from arrays

Sources:
  --hub NAME     A data set of the Hub with the columns `image` and `label`. Nothing of it is kept but the result. The
                 default is benjamin-paine/imagenet-1k-64x64: ImageNet-1k at 64x64 by Benjamin Paine, with the splits
                 train (1,281,167 images), validation (50,000) and an unlabelled test. Test images here are those of
                 `validation` or `val`. Taken are the first images of each class in the order of the stream. Needs the
                 package `datasets`. Another one without login is evanarlian/imagenet_1k_resized_256 (256 pixels).
  --folder PATH  A folder for each class with image files in it, at any depth. PATH holds train/ and val/ (or
                 validation/, valid/, test/) with the class folders, or the class folders themselves: then a class
                 gives test images first and training images from the rest, in an order drawn from a fixed seed.
  --npz PATH     Arrays train_x, train_y, test_x, test_y, or x, y, chosen like files; `split` beside x, y says 0 for
                 training and 1 for test. uint8, (N, H, W), (N, 1, H, W), (N, 3, H, W) or (N, H, W, 3), of any size.

Every image: centre crop to a square, grey by the luma of ITU-R 601 (Pillow's mode "L"), area resampling to 28x28; see
course_utils/datasets/grey.py.

Memory stays bounded: images go into arrays on disk as they come. The run can be killed at any time. The same command
goes on where it stood and ends with the same bytes.

Not tried where this was written, for want of network: the Hub itself, its login, and its speed. Tried was the package
`datasets` 5.2 on a folder in the Hub's layout. The default's columns, splits and counts are from its page on the Hub
and from code that uses it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from course_utils import progress
from course_utils.datasets import cache, imagenet28
from course_utils.datasets.grey import SIZE
from course_utils.datasets.sources import SPLITS, Folder, Hub, Npz, Source, SourceError

HUB = "benjamin-paine/imagenet-1k-64x64"
SAVE_EVERY = 2000  # images between two notes of how far the work has come
NOTE = "progress.json"


def prepare(
    source: Source, classes: tuple[str, ...], counts: dict[str, int], out: Path, overwrite: bool, every: int
) -> None:
    """Write `out`, an .npz file with `train_x` uint8 (N, 28, 28), `train_y` int64 (N,), `test_x`, `test_y`, `classes`,
    and `recipe`, the choices that it was made by.

    Work in progress lies beside `out`. Raises SourceError for what the source lacks, or work of other choices.
    """
    recipe = {"source": source.name, "classes": len(classes), "version": 1, **counts}
    work = out.with_name(f"{out.name}.work")
    if out.is_file() and not overwrite:
        if _recipe_of(out) != recipe:
            raise SourceError(f"{out} was made otherwise ({_recipe_of(out)}); choose another --out, or say --overwrite")
        shutil.rmtree(work, ignore_errors=True)  # killed between its last two steps
        print(f"{out} is there already")
        return
    note = _open_work(work, recipe, source.listing, overwrite)
    for split in SPLITS:
        _fill(work, note, split, source, classes, every)
    arrays: dict[str, np.ndarray] = {"classes": np.array(classes), "recipe": np.array([json.dumps(recipe)])}
    for split in SPLITS:
        arrays[f"{split}_x"] = np.load(work / f"{split}_x.npy", mmap_mode="r")
        arrays[f"{split}_y"] = np.repeat(np.arange(len(classes), dtype=np.int64), counts[split])
    cache.save_arrays(work / out.name, arrays)
    os.replace(work / out.name, out)
    shutil.rmtree(work)
    print(f"{out}: {len(classes)} classes, {counts['train']} training and {counts['test']} test images of each")


def _recipe_of(out: Path) -> dict[str, Any]:
    try:
        with np.load(out, allow_pickle=False) as file:
            return json.loads(str(file["recipe"][0]))
    except Exception:  # not a file of this script, or a damaged one: either way not the one that is asked for
        return {"source": "unknown"}


def _open_work(work: Path, recipe: dict[str, Any], listing: str, overwrite: bool) -> dict[str, Any]:
    """The note of how far the work has come. Without one the arrays are made anew: a kill may have left half of one."""
    if (work / NOTE).is_file():
        note = json.loads((work / NOTE).read_text(encoding="utf-8"))
        if note["recipe"] == recipe and note["listing"] == listing:
            return note
        if note["recipe"] == recipe:
            print(f"{recipe['source']} has changed since the work began: starting anew", flush=True)
        elif not overwrite:
            raise SourceError(
                f"{work} holds unfinished work of other choices ({note['recipe']}); finish that, or say --overwrite"
            )
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    shapes = {split: (recipe["classes"] * recipe[split], SIZE, SIZE) for split in SPLITS}
    needed = 2 * sum(int(np.prod(shape)) for shape in shapes.values())  # the arrays, then the file made of them
    if shutil.disk_usage(work).free < needed:
        raise SourceError(f"{work} needs {needed / 1e9:.2f} GB of free disk; free some, or choose another --out")
    for split, shape in shapes.items():
        np.lib.format.open_memmap(work / f"{split}_x.npy", mode="w+", dtype=np.uint8, shape=shape).flush()
    start = {"seen": 0, "filled": [0] * recipe["classes"], "place": None, "done": False}
    note = {"recipe": recipe, "listing": listing, **{split: dict(start) for split in SPLITS}}
    _save(work, note)
    return note


def _fill(work: Path, note: dict[str, Any], split: str, source: Source, classes: tuple[str, ...], every: int) -> None:
    """Put the first images of each class into a split's array, class by class. Rows behind the note are written again."""
    at, count = note[split], note["recipe"][split]
    if at["done"]:
        return
    x = np.lib.format.open_memmap(work / f"{split}_x.npy", mode="r+")
    filled, seen = list(at["filled"]), at["seen"]
    left = len(classes) * count - sum(filled)
    with progress.bar(len(classes) * count, f"{split} images", initial=sum(filled)) as bar:
        for label, image in source.records(split, seen, at["place"]):
            seen += 1
            if label < len(classes) and filled[label] < count:
                x[label * count + filled[label]] = image()
                filled[label] += 1
                left -= 1
                bar.update()
            if not left:
                break
            if seen % every == 0:
                x.flush()
                at.update(seen=seen, filled=list(filled), place=source.place(split))
                _save(work, note)
    if left:
        label = int(np.argmin(filled))
        shutil.rmtree(work)  # the choices cannot be met, so this work is of no use
        raise SourceError(
            f"{source.name} has {filled[label]} images of {classes[label]!r} for {split}, {count} are asked for; "
            f"use --{split} {max(1, min(filled))}"
        )
    x.flush()
    at.update(seen=seen, filled=filled, place=None, done=True)
    _save(work, note)


def _save(work: Path, note: dict[str, Any]) -> None:
    """A rename happens completely or not at all."""
    temporary = work / f"{NOTE}.new"
    temporary.write_text(json.dumps(note), encoding="utf-8")
    os.replace(temporary, work / NOTE)


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--hub", default=HUB, metavar="NAME", help=f"a data set of the Hugging Face Hub, default {HUB}")
    where.add_argument("--folder", type=Path, metavar="PATH", help="a folder of image files")
    where.add_argument("--npz", type=Path, metavar="PATH", help="a file of arrays")
    parser.add_argument(
        "--revision", help="of the data set of the Hub: a branch, tag or commit; default its main branch"
    )
    parser.add_argument("--train", type=int, default=600, help="training images of each class, default 600")
    parser.add_argument("--test", type=int, default=50, help="test images of each class, default 50")
    parser.add_argument("--classes", default="all", help="how many classes, the first ones; default all")
    parser.add_argument("--out", type=Path, help="default: where the course looks, in its cache folder")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that was made by other choices")
    parser.add_argument("--save-every", type=int, default=SAVE_EVERY, help="images between notes of progress")
    options = parser.parse_args(words)
    for name, least in (("train", 2), ("test", 1), ("save_every", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)}: expected {least} or more")
    if options.classes != "all" and not (options.classes.isdigit() and int(options.classes) >= 2):
        parser.error(f"--classes {options.classes}: expected a whole number, 2 or more, or all")
    return options


def main(words: list[str] | None = None) -> int:
    options = _options(sys.argv[1:] if words is None else words)
    counts = {"train": options.train, "test": options.test}
    num_classes = None if options.classes == "all" else int(options.classes)
    out = options.out or cache.cache_folder() / imagenet28.FILE
    try:
        source: Source
        if options.folder:
            source = Folder(options.folder, counts, num_classes)
        elif options.npz:
            source = Npz(options.npz, counts, num_classes)
        else:
            source = Hub(options.hub, options.revision)
        if num_classes is not None and num_classes > len(source.classes):
            raise SourceError(f"--classes {num_classes}, but {source.name} has {len(source.classes)} classes")
        out.parent.mkdir(parents=True, exist_ok=True)
        prepare(source, source.classes[:num_classes], counts, out, options.overwrite, options.save_every)
    except (SourceError, OSError) as problem:
        print(f"prepare_imagenet: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("prepare_imagenet: stopped; the same command goes on where it stood", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
