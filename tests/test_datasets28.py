"""The 28x28 grey data sets of many classes: glyphs, Tiny-ImageNet, ImageNet, your own .npz file, and the grey they share."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import subprocess
import sys
import urllib.error
import zipfile
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from course_utils import datasets
from course_utils.datasets import cache, grey, imagenet28, npz, tiny_imagenet
from course_utils.datasets.standins import glyphs

REAL = Path(os.environ.get("COURSE_DATA", "nowhere"))
WNIDS = ("n03", "n01", "n02")  # not sorted: labels follow the file, not the alphabet
WORDS = {"n01": "cat, true cat", "n02": "dog", "n03": "reel", "n04": "not among the classes"}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """An empty COURSE_DATA, an empty cache, and no network."""
    data, kept = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    monkeypatch.setenv("COURSE_DATA", str(data))
    monkeypatch.setenv("COURSE_CACHE", str(kept))
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    return data, kept


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """A cache that holds the glyphs with their usual counts."""
    folder = tmp_path_factory.mktemp("drawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_CACHE", str(folder))
        glyphs.load()
    return folder


# --- grey -----------------------------------------------------------------------------------------------------------


def area_means(square: np.ndarray, size: int = 28) -> list[list[int]]:
    """Area resampling by the definition: exact fractions, pixel by pixel, halves rounded up."""
    side = len(square)
    step = Fraction(side, size)

    def share(part: int, pixel: int) -> Fraction:
        return max(Fraction(0), min(step * (part + 1), Fraction(pixel + 1)) - max(step * part, Fraction(pixel)))

    shares = [[(j, share(i, j)) for j in range(side) if share(i, j)] for i in range(size)]
    result = []
    for rows in shares:
        line = []
        for columns in shares:
            total = sum(a * b * int(square[i, j]) for i, a in rows for j, b in columns)
            line.append(int(total / step**2 + Fraction(1, 2)))
        result.append(line)
    return result


@pytest.mark.parametrize("side", [17, 28, 29, 56, 64])
def test_area_resampling_is_the_mean_over_each_area(side):
    square = np.random.default_rng(side).integers(0, 256, (side, side), dtype=np.uint8)
    square[0] = 255
    assert grey.area_mean(square).tolist() == area_means(square)


def test_no_image_is_changed_at_its_own_size():
    square = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    assert np.array_equal(grey.grey28(Image.fromarray(square)), square)


def test_halves_are_rounded_up_always():
    """Bankers' rounding, numpy's, would darken and brighten in turns."""
    square = np.zeros((56, 56), dtype=np.uint8)
    square[::2, ::2] = np.arange(28) * 4 + 2  # each mean ends in one half
    assert grey.area_mean(square)[0].tolist() == [number + 1 for number in range(28)]


@pytest.mark.parametrize(
    ("colour", "luma"), [((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29), ((10, 200, 30), 124)]
)
def test_grey_is_the_luma_of_itu_r_601(colour, luma):
    assert round(0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]) == luma
    assert (grey.grey28(Image.new("RGB", (40, 40), colour)) == luma).all()


@pytest.mark.parametrize(("width", "height"), [(90, 28), (28, 91), (57, 30)])
def test_the_middle_square_is_taken(width, height):
    pixels = np.full((height, width), 200, dtype=np.uint8)
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    pixels[top : top + side, left : left + side] = 7
    assert (grey.grey28(Image.fromarray(pixels)) == 7).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_pictures_of_every_usual_mode_are_taken(mode):
    picture = Image.new("RGB", (30, 30), (0, 0, 0))
    picture.paste((255, 255, 255), (15, 0, 30, 30))
    result = grey.grey28(picture.convert(mode))
    assert result[:, :13].max() <= 1 and result[:, 15:].min() >= 254


def test_sixteen_bits_are_refused_rather_than_cut_off():
    with pytest.raises(ValueError, match="I;16"):
        grey.grey28(Image.fromarray(np.full((28, 28), 3000, dtype=np.uint16)))


# --- glyphs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    return tmp_path


def test_glyphs_have_their_usual_counts(drawn, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(drawn))
    data = datasets.load("glyphs")
    assert data.image_shape == (1, 28, 28) and data.num_classes == 200 and len(set(data.classes)) == 200
    for split, count in ((data.train, 100), (data.validation, 20), (data.test, 50)):
        assert np.array_equal(np.bincount(split.y), np.full(200, count))
    assert data.standin and data.name == "glyphs" and data.title == "Glyphs (procedural stand-in)"
    groups = np.concatenate([split.group for split in (data.train, data.validation, data.test)])
    assert len(set(groups.tolist())) == len(groups) == 34_000


def test_no_glyph_is_drawn_twice(drawn, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(drawn))
    data = datasets.load("glyphs")
    images = np.concatenate([data.train.x, data.validation.x, data.test.x])
    assert len({image.tobytes() for image in images}) == len(images)


def test_the_same_arguments_draw_the_same_bytes(tmp_path, monkeypatch):
    found = []
    for name in ("one", "two"):
        monkeypatch.setenv("COURSE_CACHE", str(tmp_path / name))
        found.append(glyphs.draw(5, 4, 3, seed=7, validation_images=2))
    first, second = found
    for split in ("train", "validation", "test"):
        assert np.array_equal(getattr(first, split).x, getattr(second, split).x)
    other = glyphs.draw(5, 4, 3, seed=8, validation_images=2)
    assert not np.array_equal(first.train.x, other.train.x)


def test_asking_for_more_leaves_the_others_as_they_are(empty_cache):
    few = glyphs.draw(3, 4, 3, validation_images=2)
    more = glyphs.draw(6, 9, 5, validation_images=3)
    for split, count in (("train", 4), ("validation", 2), ("test", 3)):
        small, large = getattr(few, split), getattr(more, split)
        for label in range(3):
            assert np.array_equal(small.x[small.y == label], large.x[large.y == label][:count])


def test_a_second_load_of_glyphs_draws_nothing(empty_cache, monkeypatch):
    first = glyphs.draw(3, 4, 3)
    monkeypatch.setattr(glyphs, "_draw", lambda *_: pytest.fail("drawn again"))
    assert np.array_equal(glyphs.draw(3, 4, 3).train.x, first.train.x)


def test_prototypes_fill_their_box_and_are_never_a_dot_or_a_dash():
    for label in range(500):
        strokes = glyphs.prototype(3, label)
        assert strokes.shape[1:] == (glyphs.POINTS, 2) and 2 <= len(strokes) <= 4 and np.isfinite(strokes).all()
        low, high = strokes.min(axis=(0, 1)), strokes.max(axis=(0, 1))
        assert np.allclose(low, -high) and np.isclose(high.max(), 1) and high.max() <= 1 + 1e-9
    seen = {glyphs.prototype(3, label).tobytes() for label in range(500)}
    assert len(seen) == 500


def test_a_glyph_that_is_a_dot_is_not_divided_by_zero(monkeypatch):
    monkeypatch.setattr(glyphs, "_stroke", lambda generator: np.zeros((glyphs.POINTS, 2)))
    monkeypatch.setattr(glyphs, "STROKES", (1, 1))
    with np.errstate(all="raise"):
        assert np.array_equal(glyphs.prototype(0, 0), np.zeros((1, glyphs.POINTS, 2)))


def test_ink_lies_where_the_stroke_runs_and_not_elsewhere():
    """A horizontal line at height 10 of a pen of radius 1: full ink on it, nothing five pixels off."""
    along = np.linspace(4, 23, 200)
    stroke = np.stack([along, np.full(200, 10.0)], axis=1)[None, None]
    (ink,) = glyphs._ink(stroke, np.full((1, 1, 1), 1.0))
    assert ink.shape == (28, 28) and (ink[10, 6:22] > 0.55).all() and ink.max() <= 1
    assert ink[:6].max() < 0.01 and ink[15:].max() < 0.01 and ink[:, 27].max() < 0.01
    assert np.array_equal(ink.sum(axis=1).argsort()[-1:], [10])


def test_a_class_can_be_learned_and_not_by_its_brightness(drawn, monkeypatch):
    """Nearest mean image over 40 classes: far above chance with the pixels, at chance with the image's mean brightness."""
    monkeypatch.setenv("COURSE_CACHE", str(drawn))
    data = datasets.load("glyphs")

    def accuracy(features) -> float:
        keep, test = data.train.y < 40, data.test.y < 40
        x, y = features(data.train.x[keep]), data.train.y[keep]
        means = np.stack([x[y == label].mean(axis=0) for label in range(40)])
        probe = features(data.test.x[test])
        distance = ((probe[:, None] - means) ** 2).sum(axis=2)
        return float((distance.argmin(axis=1) == data.test.y[test]).mean())

    def pixels(x):
        flat = x.reshape(len(x), -1).astype(np.float32)
        flat -= flat.mean(axis=1, keepdims=True)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    assert accuracy(pixels) > 0.25  # chance is 0.025
    assert accuracy(lambda x: x.reshape(len(x), -1).mean(axis=1, keepdims=True)) < 0.08


@pytest.mark.parametrize(
    "bad",
    [
        {"num_classes": 1},
        {"num_classes": 2.0},
        {"train_images": 0},
        {"test_images": -1},
        {"validation_images": 0},
        {"seed": -1},
        {"seed": True},
    ],
)
def test_counts_of_glyphs_that_cannot_be_are_named(empty_cache, bad):
    (field,) = bad
    with pytest.raises(ValueError, match=f"{field}={bad[field]!r}; expected a whole number"):
        glyphs.draw(**bad)


@pytest.mark.parametrize("source", ["local", "download"])
def test_glyphs_are_nowhere_to_be_fetched(folders, source):
    with pytest.raises(ValueError, match="glyphs is drawn by the course"):
        datasets.load("glyphs", source)


# --- Tiny-ImageNet: the array file ----------------------------------------------------------------------------------


def tiny_arrays(train: int = 20, test: int = 3) -> dict[str, np.ndarray]:
    """200 classes. Pixel (0, 0) is the label, pixel (0, 1) 1 for test, pixel (0, 2) the number within class and split."""
    rows = [
        (label, split, number) for label in range(200) for split, n in ((0, train), (1, test)) for number in range(n)
    ]
    columns = np.array(rows)
    x = np.zeros((len(rows), 28, 28), dtype=np.uint8)
    x[:, 0, :3] = columns
    names = np.array([f"name {label}" for label in range(200)])
    return {"x": x, "y": columns[:, 0], "split": columns[:, 1].astype(np.uint8), "name": names, "wnid": names}


def write_tiny(data: Path, arrays: dict[str, np.ndarray]) -> Path:
    path = data / tiny_imagenet.FOLDER / tiny_imagenet.FILE
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


def test_tiny_imagenet_labels_pixels_and_splits(folders):
    write_tiny(folders[0], tiny_arrays())
    data = datasets.load("tiny_imagenet_gray")
    assert data.source == "local" and data.image_shape == (1, 28, 28) and data.classes[7] == "name 7"
    assert data.title == "Tiny-ImageNet 28x28 grey" and not data.standin
    for split, count, is_test in ((data.train, 18, 0), (data.validation, 2, 0), (data.test, 3, 1)):
        assert np.array_equal(np.bincount(split.y), np.full(200, count))
        assert np.array_equal(split.x[:, 0, 0, 0], split.y) and (split.x[:, 0, 0, 1] == is_test).all()
    # No training image is lost, and none is in both splits.
    for label in (0, 199):
        numbers = [part.x[part.y == label][:, 0, 0, 2] for part in (data.train, data.validation)]
        assert sorted(np.concatenate(numbers)) == list(range(20))
    groups = np.concatenate([data.train.group, data.validation.group, data.test.group])
    assert sorted(groups) == list(range(200 * 23))


def test_tiny_imagenets_validation_is_drawn_and_always_the_same(folders):
    write_tiny(folders[0], tiny_arrays())
    first, again = datasets.load("tiny_imagenet_gray"), datasets.load("tiny_imagenet_gray")
    assert np.array_equal(first.validation.group, again.validation.group)
    numbers = first.validation.x[:, 0, 0, 2]
    assert len(set(numbers)) == 20  # over 200 classes every place is drawn at some time


@pytest.mark.parametrize("damage", ["cut", "bytes changed", "not a zip", "empty", "one array", "objects", "text file"])
def test_damaged_array_file_is_named_and_never_replaced_by_the_standin(folders, damage, monkeypatch):
    path = write_tiny(folders[0], tiny_arrays())
    content = path.read_bytes()
    half = len(content) // 2
    if damage == "one array":
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    elif damage == "objects":
        np.savez(path, **(tiny_arrays() | {"name": np.array([{"a": 1}] * 200, dtype=object)}))
    elif damage == "text file":
        with zipfile.ZipFile(path, "a") as packed:
            packed.writestr("notes.txt", "hello")
    else:
        changed = content[: half - 20] + bytes(byte ^ 255 for byte in content[half - 20 : half]) + content[half:]
        bad = {"cut": content[:-100], "bytes changed": changed, "not a zip": b"<html>", "empty": b""}[damage]
        path.write_bytes(bad)
    monkeypatch.setattr(glyphs, "load", lambda name: pytest.fail("the stand-in was drawn"))
    for source in ("auto", "local"):
        with pytest.raises(datasets.DataCorrupt, match="tiny_imagenet200_28x28_gray.npz") as error:
            datasets.load("tiny_imagenet_gray", source)
        assert "course data get tiny_imagenet_gray" in str(error.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"x": np.zeros((4600, 32, 32), dtype=np.uint8)}, r"x is uint8 \(4600, 32, 32\)"),
        ({"x": np.zeros((4600, 28, 28), dtype=np.float32)}, "x is float32"),
        ({"y": np.zeros(4600)}, "y is float64"),
        ({"y": np.zeros(9, dtype=np.int64)}, r"y is int64 \(9,\)"),
        ({"y": np.full(4600, 200)}, "0 to 199"),
        ({"y": np.zeros(4600, dtype=np.int64)}, "has 0 training images of class 1"),
        ({"split": np.full(4600, 2)}, "split be 0 or 1"),
        ({"split": np.zeros(4600, dtype=np.uint8)}, "has 0 test images of class 0"),
        ({"name": np.array(["a", "b"])}, "200 texts"),
        ({"split": None}, "lacks the arrays split"),
    ],
)
def test_array_file_of_something_else_is_named(folders, change, named):
    arrays = {key: value for key, value in (tiny_arrays() | change).items() if value is not None}
    write_tiny(folders[0], arrays)
    with pytest.raises(datasets.DataCorrupt, match=named):
        datasets.load("tiny_imagenet_gray", "local")


@pytest.mark.real_data
@pytest.mark.skipif(
    not (REAL / tiny_imagenet.FOLDER / tiny_imagenet.FILE).is_file(), reason="COURSE_DATA has no Tiny-ImageNet"
)
def test_the_real_tiny_imagenet():
    data = datasets.load("tiny_imagenet_gray", "local")
    with np.load(REAL / tiny_imagenet.FOLDER / tiny_imagenet.FILE, allow_pickle=False) as file:
        x, y, split, wnid = file["x"], file["y"], file["split"], file["wnid"]
    assert (len(data.train), len(data.validation), len(data.test)) == (52_200, 5_800, 10_000)
    assert data.classes[0] == "Egyptian cat" and wnid[0] == "n02124075"
    for part, published in ((data.train, 0), (data.validation, 0), (data.test, 1)):
        assert np.array_equal(part.x[:, 0], x[part.group]) and np.array_equal(part.y, y[part.group])
        assert (split[part.group] == published).all()
    assert np.array_equal(np.bincount(data.validation.y), np.full(200, 29))


# --- Tiny-ImageNet: Stanford's archive ------------------------------------------------------------------------------


@pytest.fixture
def small_archive(monkeypatch):
    monkeypatch.setattr(tiny_imagenet, "NUM_CLASSES", 3)
    monkeypatch.setattr(tiny_imagenet, "COUNTS", {"train": 12, "val": 2})


def jpeg(colour: int, mode: str = "RGB", side: int = 64) -> bytes:
    """A picture of one brightness: JPEG keeps that exactly."""
    content = io.BytesIO()
    Image.new(mode, (side, side), (colour,) * 3 if mode == "RGB" else colour).save(content, "JPEG", quality=95)
    return content.getvalue()


def archive_members() -> dict[str, bytes]:
    """The archive's layout with 3 classes. Brightness: training images 80 label + number, validation 80 label + 60 + number."""
    members = {}
    notes = []
    for label, wnid in enumerate(WNIDS):
        for number in range(12):
            members[f"train/{wnid}/images/{wnid}_{number}.JPEG"] = jpeg(
                80 * label + number, "L" if number == 3 else "RGB"
            )
        members[f"train/{wnid}/{wnid}_boxes.txt"] = f"{wnid}_0.JPEG\t0\t0\t63\t63\n".encode()
    for number in range(6):  # classes in turns, as published
        label = number % 3
        members[f"val/images/val_{number}.JPEG"] = jpeg(80 * label + 60 + number)
        notes.append(f"val_{number}.JPEG\t{WNIDS[label]}\t0\t0\t63\t63\n")
        members[f"test/images/test_{number}.JPEG"] = jpeg(255)
    members["val/val_annotations.txt"] = "".join(notes).encode()
    members["wnids.txt"] = "\n".join(WNIDS).encode()
    members["words.txt"] = "".join(f"{wnid}\t{word}\n" for wnid, word in WORDS.items()).encode()
    return members


def write_archive(path: Path, members: dict[str, bytes] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in (archive_members() if members is None else members).items():
            packed.writestr(f"tiny-imagenet-200/{name}", content)
    return path


def check_small(data) -> None:
    assert data.classes == ("reel", "cat, true cat", "dog")  # the order of wnids.txt
    assert (len(data.train), len(data.validation), len(data.test)) == (33, 3, 6)
    for split, first, numbers in (
        (data.train, 0, range(12)),
        (data.validation, 0, range(12)),
        (data.test, 60, range(6)),
    ):
        assert (split.x == split.x[:, :, :1, :1]).all()
        rest = split.x[:, 0, 0, 0].astype(int) - 80 * split.y - first
        assert set(rest) <= set(numbers)
        if split is data.test:
            assert np.array_equal(rest % 3, split.y) and len(set(rest)) == 6
    learned = np.concatenate([data.train.x[:, 0, 0, 0], data.validation.x[:, 0, 0, 0]])
    assert sorted(learned) == [80 * label + number for label in range(3) for number in range(12)]


@pytest.mark.parametrize("place", ["tiny-imagenet/tiny-imagenet-200.zip", "tiny-imagenet-200.zip"])
def test_stanfords_archive_is_converted_once_and_course_data_is_only_read(folders, small_archive, place, monkeypatch):
    archive = write_archive(folders[0] / place)
    before = {path: path.read_bytes() for path in folders[0].rglob("*") if path.is_file()}
    data = datasets.load("tiny_imagenet_gray")
    assert data.source == "local"
    check_small(data)
    assert (
        {path: path.read_bytes() for path in folders[0].rglob("*") if path.is_file()}
        == before
        == {archive: before[archive]}
    )
    assert not list(folders[1].rglob(f"*{cache.PARTIAL}*"))
    monkeypatch.setattr(tiny_imagenet, "convert", lambda path: pytest.fail("converted again"))
    assert np.array_equal(datasets.load("tiny_imagenet_gray").train.x, data.train.x)


def test_images_are_made_small_as_promised(folders, small_archive):
    """By the definition of area resampling, on what Pillow reads from the JPEG."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=90)
    members = archive_members() | {"val/images/val_4.JPEG": content.getvalue()}
    write_archive(folders[0] / "tiny-imagenet-200.zip", members)
    data = datasets.load("tiny_imagenet_gray")
    seen = np.asarray(Image.open(io.BytesIO(content.getvalue())).convert("L"))
    assert area_means(seen) in data.test.x[data.test.y == 1][:, 0].tolist()


def test_images_are_sorted_by_number_and_not_by_name(small_archive, tmp_path):
    arrays = tiny_imagenet.convert(write_archive(tmp_path / "a.zip"))
    order = arrays["x"][(arrays["y"] == 0) & (arrays["split"] == 0)][:, 0, 0]
    assert order.tolist() == list(range(12))  # 10 and 11 come last, not after 1


def test_the_array_file_is_preferred_to_the_archive(folders):
    write_tiny(folders[0], tiny_arrays())
    (folders[0] / tiny_imagenet.FOLDER / tiny_imagenet.ARCHIVE).write_bytes(b"not even a zip")
    assert datasets.load("tiny_imagenet_gray").num_classes == 200


@pytest.mark.parametrize("damage", ["cut", "byte changed", "not a zip", "empty"])
def test_damaged_archive_is_named(folders, small_archive, damage):
    archive = write_archive(folders[0] / "tiny-imagenet-200.zip")
    content = bytearray(archive.read_bytes())
    if damage == "byte changed":
        content[content.index(jpeg(81)) + 300] ^= 255
    archive.write_bytes(
        {"cut": bytes(content[:-500]), "not a zip": b"<html>404", "empty": b""}.get(damage, bytes(content))
    )
    for source in ("auto", "local"):
        with pytest.raises(datasets.DataCorrupt, match="tiny-imagenet-200.zip") as error:
            datasets.load("tiny_imagenet_gray", source)
        assert "course data get tiny_imagenet_gray" in str(error.value)
    if damage == "byte changed":
        assert "n01_1.JPEG" in str(error.value)
    assert not list(folders[1].rglob("*.npz"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"train/n01/images/n01_5.JPEG": None}, "train has 11 images of the class n01; expected 12"),
        ({"val/images/val_3.JPEG": None}, "val_3.JPEG is missing"),
        ({"wnids.txt": None}, "wnids.txt is missing"),
        ({"words.txt": b"n01 no tab\n"}, "words.txt is not a table"),
        ({"val/val_annotations.txt": b""}, "val_annotations.txt is not a table"),
        ({"val/val_annotations.txt": b"val_0.JPEG\tn09\t0\n"}, "names the class 'n09'"),
        ({"wnids.txt": b"n01\nn02\n"}, "names 2 different classes; expected 3"),
        ({"train/n09/images/n09_0.JPEG": jpeg(3)}, "is of the class 'n09'"),
        ({"train/n01/images/n01_x.JPEG": jpeg(3)}, "n01_x.JPEG is not named"),
        ({"train/n02/images/n02_4.JPEG": jpeg(3)[:200]}, "n02_4.JPEG is not a readable image"),
        ({"train/n02/images/n02_4.JPEG": b"text"}, "n02_4.JPEG is not a readable image"),
        ({"train/n02/images/n02_4.JPEG": jpeg(3, side=32)}, r"n02_4.JPEG .*\(32, 32\) pixels, expected \(64, 64\)"),
    ],
)
def test_what_is_wrong_in_an_archive_is_named(folders, small_archive, change, named):
    members = {name: content for name, content in (archive_members() | change).items() if content is not None}
    write_archive(folders[0] / "tiny-imagenet-200.zip", members)
    with pytest.raises(datasets.DataCorrupt, match=named):
        datasets.load("tiny_imagenet_gray", "auto")


def test_a_run_killed_while_converting_leaves_nothing_that_is_trusted(folders, small_archive):
    write_archive(folders[0] / "tiny-imagenet-200.zip")
    code = (
        "import os, signal\n"
        "from course_utils import datasets\n"
        "from course_utils.datasets import tiny_imagenet\n"
        "tiny_imagenet.NUM_CLASSES, tiny_imagenet.COUNTS = 3, {'train': 12, 'val': 2}\n"
        "import numpy\n"
        "def dying(file, **arrays):\n"
        "    file.write(b'half of a file'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "numpy.savez = dying\n"
        "datasets.load('tiny_imagenet_gray', 'local')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == -9, done.stderr
    assert list((folders[1] / "unpacked").iterdir())
    check_small(datasets.load("tiny_imagenet_gray", "local"))


def test_download_fetches_checks_converts_and_keeps(folders, small_archive, monkeypatch):
    import torchvision.datasets.utils

    monkeypatch.delenv("COURSE_OFFLINE")
    calls = []

    def fake(url, root, filename, md5):
        calls.append((url, filename, md5))
        write_archive(Path(root) / filename)

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", fake)
    data = datasets.load("tiny_imagenet_gray")
    assert data.source == "download"
    check_small(data)
    address = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    assert calls == [(address, "tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de")]
    assert not list(folders[1].rglob("*.zip"))
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    assert datasets.load("tiny_imagenet_gray").source == "local" and len(calls) == 1
    assert "33 training, 3 validation and 6 test images (1, 28, 28)" in datasets.get("tiny_imagenet_gray")
    kept = tiny_imagenet.found_download()
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    with pytest.raises(datasets.DataCorrupt, match="course data get tiny_imagenet_gray"):
        datasets.load("tiny_imagenet_gray")


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Nothing."""


@pytest.fixture
def publisher(tmp_path):
    """A web server on this machine that has the small archive; its address."""
    write_archive(tmp_path / "web" / "tiny-imagenet-200.zip")
    handler = partial(QuietHandler, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/tiny-imagenet-200.zip"
        server.shutdown()


def test_a_fetched_archive_is_kept_only_with_the_right_checksum(
    folders, small_archive, publisher, tmp_path, monkeypatch
):
    """Through torchvision's own code."""
    monkeypatch.delenv("COURSE_OFFLINE")
    monkeypatch.setattr(tiny_imagenet, "URL", publisher)
    with pytest.raises(datasets.DataNotFound, match="corrupted"):  # the fake is not Stanford's
        datasets.load("tiny_imagenet_gray", "download")
    assert tiny_imagenet.found_download() is None and not list(folders[1].rglob("*.npz"))
    archive = tmp_path / "web" / "tiny-imagenet-200.zip"
    monkeypatch.setattr(tiny_imagenet, "MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    check_small(datasets.load("tiny_imagenet_gray", "download"))


def test_an_interrupted_download_is_not_taken_for_the_data_set(folders, monkeypatch):
    import torchvision.datasets.utils

    monkeypatch.delenv("COURSE_OFFLINE")

    def half(url, root, filename, md5):
        (Path(root) / filename).write_bytes(b"half")
        raise urllib.error.URLError("connection lost")

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", half)
    for _ in range(2):
        with pytest.raises(datasets.DataNotFound, match="connection lost"):
            datasets.load("tiny_imagenet_gray", "download")
        assert tiny_imagenet.find() is None and tiny_imagenet.found_download() is None


# --- ImageNet -------------------------------------------------------------------------------------------------------


def imagenet_arrays(train: int = 10, test: int = 2) -> dict[str, np.ndarray]:
    """Three classes; pixel (0, 0) is the label, pixel (0, 1) the number within its class."""
    arrays: dict[str, np.ndarray] = {"classes": np.array(["tench", "goldfish", "shark"])}
    for split, count in (("train", train), ("test", test)):
        y = np.repeat(np.arange(3), count)
        x = np.zeros((len(y), 28, 28), dtype=np.uint8)
        x[:, 0, 0], x[:, 0, 1] = y, np.tile(np.arange(count), 3)
        arrays |= {f"{split}_x": x, f"{split}_y": y}
    return arrays


def write_imagenet(data: Path, arrays: dict[str, np.ndarray]) -> Path:
    path = data / "imagenet_28_gray" / "imagenet_28_gray.npz"
    cache.save_arrays(path, arrays)
    return path


@pytest.mark.parametrize("where", [0, 1])
def test_imagenet_is_read_from_course_data_or_the_cache(folders, where):
    write_imagenet(folders[where], imagenet_arrays())
    data = datasets.load("imagenet_28_gray")
    assert data.source == "local" and data.classes == ("tench", "goldfish", "shark") and data.image_shape == (1, 28, 28)
    assert (len(data.train), len(data.validation), len(data.test)) == (27, 3, 6)
    for split in (data.train, data.validation, data.test):
        assert np.array_equal(split.x[:, 0, 0, 0], split.y)
    assert np.array_equal(np.bincount(data.validation.y), [1, 1, 1])
    pairs = {tuple(image[0, 0, :2]) for part in (data.train, data.validation) for image in part.x}
    assert len(pairs) == 30
    assert data.title == "ImageNet 28x28 grey"


def test_missing_imagenet_names_the_command_that_makes_it(folders, drawn, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(drawn))
    command = "python data/prepare_imagenet.py"
    for options in ({"source": "local"}, {"source": "download"}, {"allow_standin": False}):
        with pytest.raises(datasets.DataNotFound, match=command) as error:
            datasets.load("imagenet_28_gray", **options)
        assert "course data get" not in str(error.value)
    with pytest.raises(datasets.DataNotFound, match=command):
        datasets.get("imagenet_28_gray")
    with pytest.warns(datasets.StandInWarning, match=command):
        data = datasets.load("imagenet_28_gray")
    assert data.standin and data.title == "ImageNet 28x28 grey stand-in (procedural)" and data.num_classes == 200
    script = Path(__file__).resolve().parent.parent / command.split()[1]
    assert script.is_file()


def test_missing_tiny_imagenet_ends_at_the_standin_with_a_warning(folders, drawn, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(drawn))
    with pytest.warns(datasets.StandInWarning, match="COURSE_OFFLINE"):
        data = datasets.load("tiny_imagenet_gray")
    assert data.standin and data.name == "tiny_imagenet_gray"
    assert data.title == "Tiny-ImageNet 28x28 grey stand-in (procedural)"
    with pytest.raises(datasets.DataNotFound, match="course data get tiny_imagenet_gray"):
        datasets.load("tiny_imagenet_gray", allow_standin=False)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"train_x": np.zeros((30, 32, 32), dtype=np.uint8)}, r"train_x is uint8 \(30, 32, 32\)"),
        ({"test_y": np.zeros(5, dtype=np.int64)}, r"test_y is int64 \(5,\)"),
        ({"train_y": np.full(30, 3)}, "0 to 2"),
        ({"test_y": np.zeros(6, dtype=np.int64)}, "has 0 test images of class 1"),
        ({"classes": np.arange(3)}, "classes is int64"),
        ({"classes": None}, "lacks the arrays classes"),
    ],
)
def test_imagenet_file_of_something_else_is_named(folders, change, named):
    write_imagenet(folders[0], {key: value for key, value in (imagenet_arrays() | change).items() if value is not None})
    with pytest.raises(datasets.DataCorrupt, match=named) as error:
        datasets.load("imagenet_28_gray")
    assert imagenet28.COMMAND in str(error.value)


@pytest.mark.parametrize("damage", ["cut", "byte changed", "checksum replaced"])
def test_damaged_imagenet_file_is_named_with_the_command(folders, damage):
    path = write_imagenet(folders[0], imagenet_arrays(train=40))
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-200])
    elif damage == "byte changed":
        content[3000] ^= 1
        path.write_bytes(content)
    else:
        np.savez(path, **imagenet_arrays(), **{cache.DIGEST: np.zeros(32, dtype=np.uint8)})
    with pytest.raises(datasets.DataCorrupt, match="imagenet_28_gray.npz") as error:
        datasets.load("imagenet_28_gray")
    assert f"delete it and run `{imagenet28.COMMAND}` again" in str(error.value)


# --- from_npz -------------------------------------------------------------------------------------------------------


def some(count: int = 60, shape: tuple[int, ...] = (28, 28), classes: int = 3) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {"x": generator.integers(0, 256, (count, *shape), dtype=np.uint8), "y": np.arange(count) % classes}


def saved(tmp_path: Path, **arrays) -> Path:
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    return path


def parts(train: dict, test: dict, **more) -> dict[str, np.ndarray]:
    return {"train_x": train["x"], "train_y": train["y"], "test_x": test["x"], "test_y": test["y"], **more}


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28), (1, 20, 30), (9, 7)])
def test_npz_with_training_and_test_images(tmp_path, shape):
    train, test = some(60, shape), some(12, shape)
    data = datasets.from_npz(saved(tmp_path, **parts(train, test)))
    height, width = shape[-2:]
    assert data.image_shape == (1, height, width) and data.name == "mine" == data.title and data.source == "arrays"
    assert np.array_equal(data.test.x.reshape(12, *shape), test["x"]) and np.array_equal(data.test.y, test["y"])
    assert np.array_equal(np.bincount(data.validation.y), [2, 2, 2]) and len(data.train) == 54
    for split in (data.train, data.validation):
        assert np.array_equal(split.x.reshape(-1, *shape), train["x"][split.group])
    assert not set(data.train.group) & set(data.validation.group)


def test_npz_may_bring_validation_images_names_and_a_name(tmp_path):
    train, test, validation = some(30), some(12), some(9)
    path = saved(
        tmp_path,
        **parts(train, test, classes=np.array(["a", "b", "c"])),
        validation_x=validation["x"],
        validation_y=validation["y"],
    )
    data = datasets.from_npz(str(path), name="letters")
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 9, 12)
    assert data.name == "letters" and data.classes == ("a", "b", "c")
    assert np.array_equal(data.validation.x[:, 0], validation["x"])


def test_npz_of_x_and_y_is_split_by_class_the_same_way_every_time(tmp_path):
    arrays = some(300)
    path = saved(tmp_path, **arrays)
    data, again = datasets.from_npz(path), datasets.from_npz(path)
    assert np.array_equal(np.bincount(data.test.y), [20, 20, 20])  # a fifth of every class
    assert np.array_equal(np.bincount(data.validation.y), [8, 8, 8])  # a tenth of the rest
    seen = {}
    for name in ("train", "validation", "test"):
        split = getattr(data, name)
        assert np.array_equal(split.x, getattr(again, name).x)
        for image, label in zip(split.x[:, 0], split.y, strict=True):
            seen[image.tobytes()] = label
    assert len(seen) == 300  # nothing lost, nothing in two splits
    assert all(seen[image.tobytes()] == label for image, label in zip(arrays["x"], arrays["y"], strict=True))


def test_npz_may_say_what_is_for_test(tmp_path):
    arrays = some(60)
    said = (np.arange(60) >= 45).astype(np.uint8)
    data = datasets.from_npz(saved(tmp_path, **arrays, split=said))
    assert np.array_equal(data.test.x[:, 0], arrays["x"][45:])


def test_npz_groups_are_never_cut(tmp_path):
    arrays = some(300)
    group = np.arange(300) // 3 % 20 * 3 + arrays["y"]  # 20 groups of 5 images a class
    data = datasets.from_npz(saved(tmp_path, **arrays, group=group))
    sets = [set(split.group) for split in (data.train, data.validation, data.test)]
    assert len(sets[0] | sets[1] | sets[2]) == 60 == sum(map(len, sets))


@pytest.mark.parametrize("kind", ["bool", "float32", "float64", "float16"])
def test_strokes_in_bool_or_floats_become_brightness(tmp_path, kind):
    """Omniglot is kept in either."""
    strokes = np.random.default_rng(0).random((60, 28, 28)) < 0.2
    data = datasets.from_npz(saved(tmp_path, x=strokes.astype(kind), y=some()["y"]))
    assert data.train.x.dtype == np.uint8 and set(np.unique(data.train.x)) == {0, 255}
    assert {image.tobytes() for image in data.test.x[:, 0] == 255} <= {image.tobytes() for image in strokes}


def test_grey_levels_in_floats_are_rounded(tmp_path):
    x = np.full((30, 28, 28), 0.505)  # 128.775 of 255
    data = datasets.from_npz(saved(tmp_path, x=x, y=some(30)["y"]))
    assert (data.train.x == 129).all()


class Bomb:
    """Unpickling it would make a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_npz_is_never_unpickled(tmp_path):
    trap = tmp_path / "trap"
    path = saved(tmp_path, x=some()["x"], y=np.array([Bomb(str(trap))] * 60, dtype=object))
    with pytest.raises(datasets.DataCorrupt, match="allow_pickle"):
        datasets.from_npz(path)
    path.write_bytes(pickle.dumps(Bomb(str(trap))))
    with pytest.raises(datasets.DataCorrupt, match="mine.npz"):
        datasets.from_npz(path)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({}, "has no arrays"),
        ({"images": np.zeros(3)}, "has the arrays images; expected train_x"),
        ({"x": some()["x"]}, "has the arrays x; expected"),
        ({"train_x": some()["x"], "train_y": some()["y"]}, "no test_x and no test_y"),
        ({**parts(some(), some()), "validation_x": some()["x"]}, "no validation_y"),
        ({**parts(some(), some()), **some()}, "not both"),
        (some(shape=(28, 28, 3)), r"x has shape \(60, 28, 28, 3\); expected grey images"),
        (some(shape=(3, 28, 28)), "from_arrays"),
        (some(shape=(28, 28, 1)), r"transpose\(0, 3, 1, 2\)"),
        (some(shape=(784,)), r"x has shape \(60, 784\)"),
        (some() | {"y": np.arange(59)}, r"y has shape \(59,\); expected \(60,\)"),
        (some() | {"y": np.eye(3)[np.arange(60) % 3]}, r"y has shape \(60, 3\)"),
        (some() | {"y": np.arange(60) % 3 + 0.5}, "whole numbers"),
        (some() | {"y": np.array(["a", "b", "c"] * 20)}, "whole numbers"),
        (some() | {"y": np.arange(60) % 3 - 1}, "start at -1"),
        (some() | {"y": np.arange(60) % 3 + 1}, r"no image of the labels \[0\]"),
        (some() | {"y": np.arange(60)}, "give test_x and test_y"),
        (some() | {"x": some()["x"].astype(np.int16)}, "int16"),
        (some() | {"x": some()["x"].astype(np.float32)}, r"floats in \[0, 1\]"),
        (some() | {"x": np.full((60, 28, 28), np.nan)}, "nan"),
        (some() | {"x": np.full((60, 28, 28), 1j)}, "complex"),
        (some(0), "x"),
        (some() | {"split": np.full(60, 2)}, "0 for training and 1 for test"),
        (some() | {"split": np.zeros(60, dtype=int)}, "0 of 60 images would be for test"),
        (some() | {"classes": np.array(["a"])}, "labels run"),
        (some() | {"classes": np.arange(3)}, "classes is int64"),
        (some() | {"group": np.arange(3)}, "group has shape"),
        (parts(some(), some(shape=(20, 20))), "one"),
    ],
)
def test_what_is_wrong_in_an_npz_is_named(tmp_path, arrays, named):
    path = saved(tmp_path, **arrays)
    with pytest.raises(ValueError, match=named) as error:
        datasets.from_npz(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("damage", ["cut", "byte changed", "not a zip", "empty", "one array", "encrypted"])
def test_a_damaged_npz_is_named(tmp_path, damage):
    path = saved(tmp_path, **some())
    content = bytearray(path.read_bytes())
    if damage == "one array":
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    elif damage == "encrypted":
        for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            content[content.index(mark) + offset] |= 1
        path.write_bytes(content)
    else:
        changed = bytes(content[:5000]) + bytes([content[5000] ^ 1]) + bytes(content[5001:])
        path.write_bytes({"cut": content[:-100], "byte changed": changed, "not a zip": b"<html>", "empty": b""}[damage])
    with pytest.raises(datasets.DataCorrupt, match="mine.npz"):
        datasets.from_npz(path)


def test_a_header_that_promises_too_much_is_an_error_not_a_crash(tmp_path):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (60, 28, 9999), }"
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(100)
    with zipfile.ZipFile(tmp_path / "mine.npz", "w") as packed:
        packed.writestr("x.npy", member)
    with pytest.raises(datasets.DataCorrupt, match="mine.npz"):
        datasets.from_npz(tmp_path / "mine.npz")


def test_a_missing_npz_is_named(tmp_path):
    for path in (tmp_path / "nothing.npz", tmp_path):
        with pytest.raises(datasets.DataNotFound, match=str(path)):
            datasets.from_npz(path)


def test_a_missing_permission_is_not_called_damage(tmp_path, monkeypatch):
    path = saved(tmp_path, **some())

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(npz.np, "load", refuse)
    with pytest.raises(PermissionError):
        datasets.from_npz(path)


def test_from_npz_reads_what_the_course_writes(tmp_path):
    path = tmp_path / "imagenet.npz"
    cache.save_arrays(path, imagenet_arrays())
    data = datasets.from_npz(path)
    assert data.classes == ("tench", "goldfish", "shark") and len(data.test) == 6
