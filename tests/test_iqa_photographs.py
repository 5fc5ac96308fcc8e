"""Photographs on disk: folders, zips and zips in parts; what cannot be read is named and counted, skipped or refused."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from course_utils import datasets, quality
from course_utils.datasets import memory, photographs
from course_utils.datasets.dataset import DataCorrupt, DataNotFound
from course_utils.datasets.photographs import MixedSizes, PhotoFiles, read_photograph, read_photographs


def jpeg(colour=(200, 30, 60), size=(40, 30), noise=0) -> bytes:
    pixels = np.full((size[1], size[0], 3), colour, dtype=np.int64)
    if noise:
        pixels = pixels + np.random.default_rng(noise).integers(-60, 60, pixels.shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path) -> Path:
    """Good images of two sizes, and one of each kind of trouble."""
    root = tmp_path / "images"
    (root / "deeper").mkdir(parents=True)
    (root / "a.jpg").write_bytes(jpeg())
    (root / "deeper" / "b.JPG").write_bytes(jpeg(size=(64, 64)))
    (root / "cut.jpg").write_bytes(jpeg(noise=1, size=(200, 200))[:4000])
    (root / "page.jpg").write_bytes(b"<html>404 not found</html>")
    (root / "dot.jpg").write_bytes(jpeg(size=(1, 1)))
    (root / "notes.txt").write_text("no image")
    return root


NAMES = ["a", "b", "cut", "page", "dot", "gone", "gone2"]


def test_problems_are_named_counted_and_left_out(folder):
    with pytest.warns(RuntimeWarning, match="5 of 7 images") as caught:
        x, kept, report = read_photographs(PhotoFiles(folder), NAMES, 32)
    assert x.shape == (2, 3, 32, 32) and x.dtype == np.uint8 and kept.tolist() == [0, 1]
    assert (report.missing, report.truncated, report.not_images, report.too_small) == (
        ["gone", "gone2"],
        ["cut"],
        ["page"],
        ["dot"],
    )
    assert report.sizes == {(40, 30): ["a"], (64, 64): ["b"]} and report.problems == 5
    text = str(caught[0].message)
    for part in (
        "2 missing: gone, gone2",
        "1 truncated: cut",
        "1 not images: page",
        "1 too small: dot",
        "2 sizes among 2 readable images, 1 are not 40x30: b 64x64",
    ):
        assert part in text


def test_refuse_stops_and_says_how_to_go_on(folder):
    with pytest.raises(DataCorrupt, match="2 missing: gone, gone2.*on_problem='skip'"):
        read_photographs(PhotoFiles(folder), NAMES, 32, "refuse")
    x, _, report = read_photographs(PhotoFiles(folder), ["a", "b"], 32, "refuse")
    assert len(x) == 2 and not report.problems
    with pytest.raises(ValueError, match="on_problem='ignore' is unknown; choose one of skip, refuse"):
        read_photographs(PhotoFiles(folder), ["a"], 32, "ignore")
    with pytest.raises(DataCorrupt, match="1 of 1 images"):
        read_photographs(PhotoFiles(folder), ["gone"], 32)


@pytest.fixture
def mixed(tmp_path) -> Path:
    """Seven readable images of four sizes; the commonest is neither the first nor the largest."""
    for number, size in enumerate([(64, 64), (40, 30), (40, 30), (30, 40), (40, 30), (50, 50), (64, 64)]):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(size=size, noise=number + 1))
    return tmp_path


def test_mixed_sizes_are_named_and_brought_to_one(mixed):
    names = [str(number) for number in range(7)]
    with pytest.warns(
        MixedSizes, match="4 sizes among 7 readable images, 4 are not 40x30: 0 64x64, 6 64x64, 3 30x40, "
    ):
        x, kept, report = read_photographs(PhotoFiles(mixed), names, 32, "refuse")
    assert len(x) == 7 and kept.tolist() == list(range(7)) and report.problems == 0
    assert report.sizes == {(64, 64): ["0", "6"], (40, 30): ["1", "2", "4"], (30, 40): ["3"], (50, 50): ["5"]}


def test_mixed_sizes_are_left_out_or_refused_as_chosen(mixed):
    names = ["0", "1", "gone", "2", "3", "4", "5", "6"]
    with pytest.warns(RuntimeWarning, match="4 are not 40x30.*They are left out"):
        x, kept, report = read_photographs(PhotoFiles(mixed), names, 32, sizes="skip")
    assert kept.tolist() == [1, 3, 5] and report.other_size == ["0", "3", "5", "6"] and report.missing == ["gone"]
    for image, name in zip(x, ["1", "2", "4"], strict=True):
        assert np.array_equal(image, read_photograph((mixed / f"{name}.jpg").read_bytes(), 32)[0])
    with pytest.raises(DataCorrupt, match="4 sizes among 7 .*, 4 are not 40x30: .*pass sizes='resize'"):
        read_photographs(PhotoFiles(mixed), [name for name in names if name != "gone"], 32, sizes="refuse")
    with pytest.raises(ValueError, match="sizes='crop' is unknown; choose one of resize, skip, refuse"):
        read_photographs(PhotoFiles(mixed), names, 32, sizes="crop")


def test_images_of_one_size_are_nothing_to_speak_of(mixed, recwarn):
    for sizes in ("resize", "skip", "refuse"):
        x, _, report = read_photographs(PhotoFiles(mixed), ["1", "2", "4"], 32, "refuse", sizes)
        assert len(x) == 3 and str(report) == "every image is there and readable"
    assert not recwarn.list


def test_what_does_not_fit_into_memory_is_refused_before_it_is_decoded(mixed, monkeypatch):
    names = [*map(str, range(7)), "gone"]  # what is not there needs no memory
    need = 7 * 3 * 32 * 32
    monkeypatch.setattr(memory, "free_memory", lambda: int(need / memory.SHARE) + 1)
    with pytest.warns(RuntimeWarning, match="1 missing"):
        assert len(read_photographs(PhotoFiles(mixed), names, 32)[0]) == 7
    monkeypatch.setattr(memory, "free_memory", lambda: int(need / memory.SHARE) - 1)
    monkeypatch.setattr(photographs, "read_photograph", None)
    with pytest.raises(memory.TooLarge, match=r"7 images of 32x32 pixels.*limit, here at most 6\).*here at most 31\)"):
        read_photographs(PhotoFiles(mixed), names, 32)


def test_the_whole_of_ava_is_told_how_much_it_needs(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 16 * 10**9)
    with pytest.raises(memory.TooLarge, match=r"255,510 images of 224x224 pixels need 38.5 GB, and 16.0 GB are free"):
        memory.check_memory(255_510, 224, "AVA")
    memory.check_memory(255_510, 96, "AVA")
    monkeypatch.setattr(memory, "free_memory", lambda: None)  # a system that does not say
    memory.check_memory(255_510, 224, "AVA")


def test_free_memory_is_the_tighter_of_machine_and_container(tmp_path, monkeypatch):
    texts = {"info": "MemTotal: 900 kB\nMemAvailable: 500 kB\n", "max": "400000\n", "used": "300000\n"}
    for name, text in {**texts, "stat": "anon 5\ninactive_file 50000\n"}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "info")
    monkeypatch.setattr(memory, "GROUPS", (tuple(tmp_path / name for name in ("max", "used", "stat")),))
    assert memory.free_memory() == 150_000  # files that were read can be given up
    (tmp_path / "max").write_text("max\n")
    assert memory.free_memory() == 512_000


def test_reading_holds_every_image_once(mixed):
    """A list that is stacked at its end would take twice the block."""
    names = [str(number % 7) for number in range(700)]
    tracemalloc.start()
    with pytest.warns(MixedSizes):
        x, _, _ = read_photographs(PhotoFiles(mixed), names, 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert x.nbytes == 700 * 3 * 64 * 64 and peak < 1.3 * x.nbytes


def test_the_middle_is_cut_out_not_squeezed():
    pixels = np.zeros((60, 120, 3), np.uint8)
    pixels[:, 30:90] = 255  # the middle square is white
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    image, size = read_photograph(file.getvalue(), 32)
    assert size == (120, 60) and image.min() > 200  # some black at the very edge, from interpolation


def write_parts(root: Path, count: int = 7, name: str = "EVA_together") -> list[Path]:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(6):
            archive.writestr(f"EVA_together/{number}.jpg", jpeg(colour=(number * 40, 100, 50), noise=number + 1))
    content = packed.getvalue()
    size = -(-len(content) // count)
    root.mkdir(parents=True, exist_ok=True)
    paths = []
    for part in range(count):
        paths.append(root / f"{name}.zip.{part + 1:03d}")
        paths[-1].write_bytes(content[part * size : (part + 1) * size])
    return paths


def test_a_zip_in_seven_parts_is_read_without_joining(tmp_path):
    parts = write_parts(tmp_path / "images")
    whole = tmp_path / "whole.zip"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    names = [str(number) for number in range(6)]
    expected, _, _ = read_photographs(PhotoFiles(whole), names, 32, "refuse")
    for source in (tmp_path / "images", parts[0]):
        x, _, _ = read_photographs(PhotoFiles(source), names, 32, "refuse")
        assert np.array_equal(x, expected)
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [part.name for part in parts]


def test_a_missing_or_cut_part_is_named(tmp_path):
    parts = write_parts(tmp_path)
    content = parts[6].read_bytes()
    parts[6].write_bytes(content[: len(content) // 2])
    with pytest.raises(
        DataCorrupt, match=r"EVA_together\.zip\.001 to EVA_together\.zip\.007 .* do not make a whole zip"
    ):
        PhotoFiles(tmp_path)
    parts[3].unlink()
    with pytest.raises(DataCorrupt, match=r"without \[4\]"):
        PhotoFiles(tmp_path)


def test_an_empty_or_missing_place_is_an_error(tmp_path):
    with pytest.raises(DataNotFound, match="holds no image"):
        PhotoFiles(tmp_path)
    with pytest.raises(DataNotFound, match="there is no"):
        PhotoFiles(tmp_path / "nowhere")


# ---- the data sets ---------------------------------------------------------------------------------------------------


@pytest.fixture
def collection(tmp_path) -> Path:
    """An `eva` and an `ava` folder as a user would put them in place, 60 images, two of EVA's missing."""
    rows, names = ["image_id=user_id=score"], [str(number) for number in range(100, 160)]
    generator = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for place, name in enumerate(names):
            rows += [f"{name}=E{user}={vote}" for user, vote in enumerate(generator.integers(0, 11, 5))]
            if place > 1:
                archive.writestr(f"EVA_together/{name}.jpg", jpeg(noise=place))
    content = (tmp_path / "all.zip").read_bytes()
    (tmp_path / "eva" / "images").mkdir(parents=True)
    for part in range(3):
        size = -(-len(content) // 3)
        path = tmp_path / "eva" / "images" / f"EVA_together.zip.{part + 1:03d}"
        path.write_bytes(content[part * size : (part + 1) * size])
    (tmp_path / "all.zip").unlink()
    (tmp_path / "eva" / "data").mkdir()
    (tmp_path / "eva" / "data" / "votes_filtered.csv").write_text("\n".join(rows) + "\n")
    sorts = "".join(f'"{name}","{place % 6 + 1}"\n' for place, name in enumerate(names))
    (tmp_path / "eva" / "data" / "image_content_category.csv").write_text('\ufeff"image_id","sort"\n' + sorts)
    (tmp_path / "ava" / "images").mkdir(parents=True)
    lines = []
    for place, name in enumerate(names):
        (tmp_path / "ava" / "images" / f"{name}.jpg").write_bytes(jpeg(noise=place + 1))
        counts = " ".join(str(count) for count in generator.integers(1, 30, 10))
        lines.append(f"{place + 1} {name} {counts} 1 2 3")
    (tmp_path / "ava" / "AVA.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_load_finds_both_in_place(collection, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(collection))
    monkeypatch.setenv("COURSE_CACHE", str(collection / "cache"))
    with pytest.warns(RuntimeWarning, match="2 missing: 100, 101"):
        eva = datasets.load("eva")
    ava = datasets.load("ava")
    assert (eva.title, ava.title, eva.standin) == ("EVA", "AVA", False)
    assert len(eva.train) + len(eva.validation) + len(eva.test) == 58 and eva.classes[0] == "animals"
    assert eva.image_shape == ava.image_shape == (3, 64, 64)
    stream = quality.dataset_stream(
        [eva, ava]
    )  # the same pictures, and no test image of one is trained on in the other
    assert [task.name for task in stream] == ["EVA", "AVA"] and stream[1].train.y.dtype == torch.float32
    again = datasets.load("eva")  # from the cache
    assert np.array_equal(again.train.x, eva.train.x) and np.array_equal(again.test.score, eva.test.score)
    assert "58" not in datasets.get("ava") and "AVA" in datasets.get("ava")


def test_map_style_items_work_with_a_data_loader(collection):
    data = quality.AVADataset(
        collection / "ava" / "images",
        collection / "ava" / "AVA.txt",
        image_size=32,
        transform=quality.train_transform(),
    )
    assert len(data) == 60
    item = data[3]
    assert item["image_id"] == "103" and item["image"].dtype == torch.float32 and item["image"].max() <= 1
    batch = next(iter(torch.utils.data.DataLoader(data, batch_size=8)))
    assert batch["image"].shape == (8, 3, 32, 32) and batch["score"].shape == (8,)
    assert batch["distribution"].shape == (8, 10)
    torch.testing.assert_close(batch["distribution"] @ torch.linspace(0, 1, 10), batch["score"])


def test_splits_of_a_data_set_do_not_overlap_and_can_be_limited(collection):
    place = collection / "ava" / "images", collection / "ava" / "AVA.txt"
    parts = {split: quality.AVADataset(*place, split=split, image_size=32) for split in ("train", "validation", "test")}
    names = [name for part in parts.values() for name in part.labels.ids]
    assert len(names) == len(set(names)) == 60
    few = quality.AVADataset(*place, image_size=32, limit=10)
    assert len(few) == 10 and set(few.labels.ids) <= set(names)
    with pytest.raises(ValueError, match="split='dev' is unknown; choose one of train, validation, test, all"):
        quality.AVADataset(*place, split="dev")
    with pytest.raises(ValueError, match="holds the split 'test' alone"):
        parts["test"].to_dataset()
    official = collection / "generic_test.jpgl"
    official.write_text("105.jpg\n107\n")
    data = quality.AVADataset(*place, image_size=32, test_list=official).to_dataset()
    assert len(data.test) == 2
    with pytest.raises(TypeError, match="AVADataset has no option test_file"):
        quality.AVADataset(*place, test_file=official)
    with pytest.raises(DataNotFound, match="list of test images"):
        quality.AVADataset(*place, test_list=collection / "no.jpgl")


def test_eva_refuses_what_is_missing_if_asked(collection):
    place = collection / "eva" / "images", collection / "eva" / "data" / "votes_filtered.csv"
    with pytest.raises(DataCorrupt, match="2 missing: 100, 101"):
        quality.EVADataset(*place, image_size=32, on_problem="refuse")
    with pytest.warns(RuntimeWarning, match="2 of 60 images"):
        data = quality.EVADataset(*place, image_size=32)
    assert len(data) == 58 and data.report.missing == ["100", "101"]
