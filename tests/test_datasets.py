"""Loading data: the right images under the right labels, and no damaged or half-written file ever believed."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import struct
import subprocess
import sys
import tarfile
import urllib.error
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from course_utils import datasets
from course_utils.datasets import cache, fashion_mnist, gtsrb
from course_utils.datasets.dataset import choose_groups

REAL = Path(os.environ.get("COURSE_DATA", "nowhere"))


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """An empty COURSE_DATA, an empty cache, and no network."""
    data, kept = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    monkeypatch.setenv("COURSE_DATA", str(data))
    monkeypatch.setenv("COURSE_CACHE", str(kept))
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    return data, kept


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """A cache for all tests that end at the stand-in: it is drawn once."""
    return tmp_path_factory.mktemp("drawn")


def write_gtsrb(root: Path, tracks: int = 3, frames: int = 4, side: int = 32) -> None:
    """A tiny GTSRB in torchvision's layout. Red is the class, green the track, blue the frame; left is darker."""
    base = root / "gtsrb" / "GTSRB"
    for label in range(43):
        folder = base / "Training" / f"{label:05d}"
        folder.mkdir(parents=True)
        names = []
        for track in range(tracks):
            for frame in range(frames):
                names.append(f"{track:05d}_{frame:05d}.ppm")
                write_ppm(folder / names[-1], (label * 2, track, frame), side)
        rows = "".join(f"{name};32;32;5;5;27;27;{label}\n" for name in names)
        header = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
        (folder / f"GT-{label:05d}.csv").write_text(header + rows)
    images = base / "Final_Test" / "Images"
    images.mkdir(parents=True)
    rows = []
    for number in range(43):
        label = 42 - number
        write_ppm(images / f"{number:05d}.ppm", (label * 2, 0, 0), side)
        rows.append(f"{number:05d}.ppm;32;32;5;5;27;27;{label}\n")
    (root / "gtsrb" / "GT-final_test.csv").write_text(header + "".join(rows))


def write_ppm(path: Path, colour: tuple[int, int, int], side: int) -> None:
    pixels = np.zeros((side, side, 3), dtype=np.uint8) + np.array(colour, dtype=np.uint8)
    pixels[:, side // 2 :] += 100
    Image.fromarray(pixels).save(path)


def write_archive(data: Path, scratch: Path) -> Path:
    write_gtsrb(scratch)
    archive = data / "gtsrb" / gtsrb.ARCHIVE
    archive.parent.mkdir()
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(scratch / "gtsrb", arcname="gtsrb")
    return archive


@pytest.fixture
def small_fashion(monkeypatch):
    monkeypatch.setattr(fashion_mnist, "COUNTS", {"train": 240, "test": 20})


def write_fashion(data: Path, packed: bool = True) -> Path:
    """Fashion-MNIST's four files, 240 + 20 images whose pixels are ten times their label."""
    raw = data / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for split, count in (("train", 240), ("test", 20)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.zeros((count, 28, 28), dtype=np.uint8) + labels[:, None, None] * 10
        image_bytes = struct.pack(">BBBBIII", 0, 0, 8, 3, count, 28, 28) + images.tobytes()
        label_bytes = struct.pack(">BBBBI", 0, 0, 8, 1, count) + labels.tobytes()
        for name, content in zip(fashion_mnist.FILES[split], (image_bytes, label_bytes), strict=True):
            if packed:
                (raw / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (raw / name).write_bytes(content)
    return raw


def run_and_die(code: str) -> None:
    """Run code in a process of its own that must kill itself with status 9, without any clean-up."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 9, done.stderr


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- digits ---------------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_own_images_split_without_overlap():
    from sklearn.datasets import load_digits

    data = datasets.load("digits")
    assert data.image_shape == (1, 8, 8) and data.num_classes == 10
    assert data.source == "bundled" and not data.standin and data.title == "Digits"
    sizes = [len(data.train), len(data.validation), len(data.test)]
    assert sum(sizes) == 1797 and np.abs(np.array(sizes) - (1197, 150, 450)).max() <= 10
    original = load_digits()
    seen = np.zeros(1797, dtype=int)
    for split in (data.train, data.validation, data.test):
        seen[split.group] += 1
        assert np.array_equal(split.y, original.target[split.group])
        # Back to 17 grey levels without loss.
        assert np.array_equal(np.round(split.x[:, 0] * (16 / 255)), original.images[split.group])
        share = np.bincount(split.y, minlength=10) / len(split)
        assert np.abs(share - 0.1).max() < 0.02
    assert (seen == 1).all()


def test_digits_come_out_the_same_every_time():
    assert np.array_equal(datasets.load("digits").test.x, datasets.load("digits").test.x)


# --- GTSRB ----------------------------------------------------------------------------------------------------------


def test_gtsrb_labels_pixels_and_tracks(folders):
    write_gtsrb(folders[0])
    data = datasets.load("gtsrb", "local")
    assert data.source == "local" and data.title == "GTSRB" and data.image_shape == (3, 32, 32)
    assert len(data.train) + len(data.validation) == 43 * 12 and len(data.test) == 43
    for split in (data.train, data.validation, data.test):
        assert np.array_equal(split.x[:, 0, 0, 0], split.y * 2)
    for split in (data.train, data.validation):
        assert np.array_equal(split.group % gtsrb.TRACKS_PER_CLASS, split.x[:, 1, 0, 0])
        assert np.array_equal(split.group // gtsrb.TRACKS_PER_CLASS, split.y)
    # Not flipped: the left half is still the darker one. A flip would turn "turn right" into "turn left".
    assert (data.train.x[..., 31].astype(int) - data.train.x[..., 0] == 100).all()


def test_gtsrb_validation_takes_whole_tracks_of_every_class(folders):
    write_gtsrb(folders[0], tracks=12)
    data = datasets.load("gtsrb", "local")
    assert not set(data.train.group) & set(data.validation.group)
    assert not set(data.test.group) & (set(data.train.group) | set(data.validation.group))
    for label in range(43):
        assert len(set(data.validation.group[data.validation.y == label])) == 1  # a tenth of twelve
        assert len(set(data.train.group[data.train.y == label])) == 11
    _, frames = np.unique(data.validation.group, return_counts=True)
    assert (frames == 4).all()


def test_gtsrb_images_of_another_size_are_resized(folders):
    write_gtsrb(folders[0], tracks=2, frames=1, side=48)
    data = datasets.load("gtsrb", "local")
    assert data.image_shape == (3, 32, 32)
    assert np.array_equal(data.train.x[:, 0, 0, 0], data.train.y * 2)


def test_gtsrb_archive_is_unpacked_into_the_cache_and_course_data_is_only_read(folders, tmp_path):
    data_folder, kept = folders
    write_archive(data_folder, tmp_path / "scratch")
    before = tree(data_folder)
    first = datasets.load("gtsrb", "local")
    assert tree(data_folder) == before
    assert list((kept / "arrays").glob("gtsrb-*.npz"))
    assert not list(kept.rglob(f"*{cache.PARTIAL}*"))
    again = datasets.load("gtsrb", "local")
    assert np.array_equal(first.train.x, again.train.x) and np.array_equal(first.train.group, again.train.group)


def test_second_load_reads_the_cache_and_not_the_images(folders, monkeypatch):
    write_gtsrb(folders[0])
    first = datasets.load("gtsrb", "local")
    monkeypatch.setattr(gtsrb, "_read", lambda root: pytest.fail("the images were read again"))
    assert np.array_equal(datasets.load("gtsrb", "local").test.x, first.test.x)


def test_changed_data_are_read_again(folders):
    write_gtsrb(folders[0])
    datasets.load("gtsrb", "local")
    table = folders[0] / "gtsrb" / "GT-final_test.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    assert len(datasets.load("gtsrb", "local").test) == 42


@pytest.mark.parametrize("damage", ["truncated", "bytes changed", "not an archive", "empty"])
def test_corrupt_archive_is_named_and_never_replaced_by_the_standin(folders, tmp_path, damage):
    archive = write_archive(folders[0], tmp_path / "scratch")
    content = archive.read_bytes()
    half = len(content) // 2
    archive.write_bytes(
        {
            "truncated": content[:half],
            "bytes changed": content[:half] + bytes(64) + content[half + 64 :],
            "not an archive": b"<html>404</html>",
            "empty": b"",
        }[damage]
    )
    for source in ("auto", "local"):
        with pytest.raises(datasets.DataCorrupt, match=gtsrb.ARCHIVE):
            datasets.load("gtsrb", source)
    assert not list(folders[1].rglob("*.ppm"))


@pytest.mark.parametrize("compression", ["", "gz", "xz"])
@pytest.mark.parametrize("damage", ["header of the second file", "cut after the first file"])
def test_archive_that_seems_to_end_early_is_refused(tmp_path, compression, damage):
    """tarfile itself stops at such a place without a word, and would leave a folder that is only half there."""
    whole, archive, target = tmp_path / "whole.tar", tmp_path / f"bad.tar.{compression}", tmp_path / "target"
    with tarfile.open(whole, "w") as tar:
        for name in ("first", "second", "third"):
            member = tarfile.TarInfo(name)
            member.size = 512
            tar.addfile(member, io.BytesIO(b"x" * 512))
    content = whole.read_bytes()
    second = 1024  # a header block and a block of content for each file
    bad = content[:second] + (b"" if damage.startswith("cut") else bytes([255] * 100) + content[second + 100 :])
    pack = {"": bytes, "gz": gzip.compress, "xz": lzma.compress}[compression]
    target.mkdir()
    archive.write_bytes(pack(bad))
    with pytest.raises(datasets.DataCorrupt, match="bad.tar"):
        cache.unpack_tar(archive, target)
    archive.write_bytes(pack(content))
    cache.unpack_tar(archive, target)
    assert sorted(path.name for path in target.iterdir()) == ["first", "second", "third"]


@pytest.mark.parametrize("bad", ["../outside.txt", "/absolute.txt", "link"])
def test_archive_cannot_write_outside_its_folder(tmp_path, bad):
    archive, target = tmp_path / "bad.tar", tmp_path / "target"
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo(bad)
        if bad == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(member)
    target.mkdir()
    with pytest.raises(datasets.DataCorrupt, match="bad.tar"):
        cache.unpack_tar(archive, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.tar", "target"]
    assert not list(target.iterdir())


def test_archive_of_something_else_is_refused(folders, tmp_path):
    archive = folders[0] / "gtsrb" / gtsrb.ARCHIVE
    archive.parent.mkdir()
    (tmp_path / "notes.txt").write_text("nothing here")
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(tmp_path / "notes.txt", arcname="notes.txt")
    with pytest.raises(datasets.DataCorrupt, match="gtsrb/GTSRB"):
        datasets.load("gtsrb", "local")


def test_run_killed_while_unpacking_leaves_nothing_that_is_trusted(folders, tmp_path):
    write_archive(folders[0], tmp_path / "scratch")
    run_and_die(
        "import os, pathlib\n"
        "from course_utils import datasets\n"
        "write, count = pathlib.Path.write_bytes, [0]\n"
        "def dying(self, data):\n"
        "    count[0] += 1\n"
        "    if count[0] == 200: os._exit(9)\n"
        "    return write(self, data)\n"
        "pathlib.Path.write_bytes = dying\n"
        "datasets.load('gtsrb', 'local')\n"
    )
    assert 100 < len(list(folders[1].rglob("*.ppm"))) < 43 * 12  # it did die half-way
    data = datasets.load("gtsrb", "local")
    assert len(data.train) + len(data.validation) == 43 * 12


def test_half_unpacked_folder_without_marker_is_replaced(folders, tmp_path):
    archive = write_archive(folders[0], tmp_path / "scratch")
    half = folders[1] / "unpacked" / f"gtsrb-{cache.fingerprint([archive])}"
    (half / "gtsrb" / "GTSRB" / "Training" / "00000").mkdir(parents=True)
    (half / "leftover").write_text("from a killed run")
    assert len(datasets.load("gtsrb", "local").test) == 43
    assert not (half / "leftover").exists() and cache.is_complete(half)


@pytest.mark.parametrize(
    ("victim", "named"),
    [
        ("gtsrb/GTSRB/Training/00007/00001_00002.ppm", "00007"),
        ("gtsrb/GTSRB/Training/00007/GT-00007.csv", "GT-00007.csv"),
        ("gtsrb/GTSRB/Final_Test/Images/00005.ppm", "00005.ppm"),
        ("gtsrb/GT-final_test.csv", "GT-final_test.csv"),
    ],
)
def test_missing_file_is_named(folders, victim, named):
    write_gtsrb(folders[0])
    (folders[0] / victim).unlink()
    with pytest.raises(datasets.DataCorrupt, match=named) as error:
        datasets.load("gtsrb", "auto")
    assert "course data get gtsrb" in str(error.value)


def test_truncated_image_is_named(folders):
    write_gtsrb(folders[0])
    victim = folders[0] / "gtsrb/GTSRB/Training/00003/00002_00001.ppm"
    victim.write_bytes(victim.read_bytes()[:700])
    with pytest.raises(datasets.DataCorrupt, match="00002_00001.ppm"):
        datasets.load("gtsrb", "local")
    assert not list((folders[1] / "arrays").glob("*"))


@pytest.mark.parametrize(
    "content", ["Filename;ClassId\n00000.ppm;43\n", "Filename;ClassId\n00000.ppm;x\n", "nonsense\n", ""]
)
def test_nonsense_table_is_named(folders, content):
    write_gtsrb(folders[0])
    (folders[0] / "gtsrb" / "GT-final_test.csv").write_text(content)
    with pytest.raises(datasets.DataCorrupt, match="GT-final_test.csv"):
        datasets.load("gtsrb", "local")


def test_the_43_class_names():
    names = gtsrb.CLASSES
    assert len(names) == len(set(names)) == 43
    assert (names[0], names[5], names[14], names[33], names[34], names[38], names[42]) == (
        "speed limit 20",
        "speed limit 80",
        "stop",
        "turn right ahead",
        "turn left ahead",
        "keep right",
        "end of no overtaking by trucks",
    )


# --- Fashion-MNIST --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_fashion_mnist_reads_torchvisions_files(folders, small_fashion, packed):
    write_fashion(folders[0], packed)
    before = tree(folders[0])
    data = datasets.load("fashion_mnist")
    assert tree(folders[0]) == before
    assert data.source == "local" and data.title == "Fashion-MNIST" and data.image_shape == (1, 28, 28)
    assert (len(data.train), len(data.validation), len(data.test)) == (220, 20, 20)
    assert np.array_equal(np.bincount(data.validation.y), np.full(10, 2))
    for split in (data.train, data.validation, data.test):
        assert np.array_equal(split.x[:, 0, 3, 3], split.y * 10)
    assert len(set(data.train.group) | set(data.validation.group) | set(data.test.group)) == 260


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
@pytest.mark.parametrize("damage", ["truncated", "not gzip", "missing"])
def test_damaged_gz_is_named(folders, small_fashion, file, damage):
    victim = write_fashion(folders[0]) / file
    if damage == "truncated":
        victim.write_bytes(victim.read_bytes()[:-12])
    elif damage == "not gzip":
        victim.write_bytes(b"<html>")
    else:
        victim.unlink()
    with pytest.raises(datasets.DataCorrupt, match=file) as error:
        datasets.load("fashion_mnist", "auto")
    assert "course data get fashion_mnist" in str(error.value)


@pytest.mark.parametrize("damage", ["truncated", "wrong shape", "wrong labels"])
def test_damaged_raw_file_is_named(folders, small_fashion, damage):
    raw = write_fashion(folders[0], packed=False)
    images, labels = raw / "train-images-idx3-ubyte", raw / "train-labels-idx1-ubyte"
    if damage == "truncated":
        images.write_bytes(images.read_bytes()[:-100])
    elif damage == "wrong shape":
        images.write_bytes(struct.pack(">BBBBIII", 0, 0, 8, 3, 240, 14, 56) + images.read_bytes()[16:])
    else:
        labels.write_bytes(labels.read_bytes()[:-1] + b"\x0b")
    with pytest.raises(datasets.DataCorrupt, match="train-"):
        datasets.load("fashion_mnist", "local")


# --- where data come from -------------------------------------------------------------------------------------------


def test_offline_auto_falls_back_to_the_standin_with_a_warning(folders, drawn, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(drawn))
    monkeypatch.setattr(gtsrb, "download", lambda: pytest.fail("COURSE_OFFLINE=1 and still a download"))
    with pytest.warns(datasets.StandInWarning, match="COURSE_OFFLINE"):
        data = datasets.load("gtsrb")
    assert data.standin and data.source == "standin" and data.name == "gtsrb"
    assert data.title == "GTSRB stand-in (procedural)" and data.classes == gtsrb.CLASSES


def test_failed_download_falls_back_with_the_reason(folders, drawn, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(drawn))
    monkeypatch.delenv("COURSE_OFFLINE")

    def no_network() -> Path:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(gtsrb, "download", no_network)
    with pytest.warns(datasets.StandInWarning, match="no route to host"):
        assert datasets.load("gtsrb").standin
    with pytest.raises(datasets.DataNotFound, match="no route to host"):
        datasets.load("gtsrb", "download")


def test_full_preset_refuses_the_standin(folders):
    with pytest.raises(datasets.DataNotFound, match="course data get gtsrb"):
        datasets.load("gtsrb", allow_standin=False)


def test_local_never_falls_back(folders):
    with pytest.raises(datasets.DataNotFound, match="course data get gtsrb"):
        datasets.load("gtsrb", "local")


@pytest.mark.parametrize("name", ["gtsrb", "fashion_mnist"])
def test_offline_refuses_downloads(folders, name):
    with pytest.raises(datasets.DataNotFound, match="COURSE_OFFLINE"):
        datasets.load(name, "download")
    with pytest.raises(datasets.DataNotFound, match="COURSE_OFFLINE"):
        datasets.get(name)


@pytest.mark.parametrize("source", ["auto", "standin"])
def test_fashion_mnist_has_no_standin_and_says_what_to_use(folders, source):
    with pytest.raises(datasets.DataNotFound, match="digits"):
        datasets.load("fashion_mnist", source)


def test_real_data_are_preferred_and_silent(folders):
    write_gtsrb(folders[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not datasets.load("gtsrb").standin


def test_interrupted_download_is_not_taken_for_the_data_set(folders, monkeypatch):
    """torchvision believes any folder of the right name; a killed download must not become one."""
    import torchvision.datasets

    monkeypatch.delenv("COURSE_OFFLINE")

    def half(root, split, download):
        (Path(root) / "gtsrb" / "GTSRB" / "Training" / "00000").mkdir(parents=True)
        raise urllib.error.URLError("connection lost")

    monkeypatch.setattr(torchvision.datasets, "GTSRB", half)
    for _ in range(2):
        with pytest.raises(datasets.DataNotFound, match="connection lost"):
            datasets.load("gtsrb", "download")
        assert gtsrb.find() is None and gtsrb.found_download() is None


def test_finished_download_is_kept_and_found_offline(folders, monkeypatch):
    import torchvision.datasets

    real_class, calls = torchvision.datasets.GTSRB, []

    def fake(root, split, download=False):
        if not download:
            return real_class(root, split=split)
        if not calls:
            write_gtsrb(Path(root))
        calls.append(split)

    monkeypatch.delenv("COURSE_OFFLINE")
    monkeypatch.setattr(torchvision.datasets, "GTSRB", fake)
    assert "43 test" in datasets.get("gtsrb")
    assert calls == ["train", "test"]
    assert datasets.load("gtsrb", "download").source == "download"
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    data = datasets.load("gtsrb", "local")
    assert data.source == "local" and len(data.test) == 43 and len(calls) == 2


def test_get_reports_counts_and_place(folders):
    write_gtsrb(folders[0])
    report = datasets.get("gtsrb")
    assert "344 training, 172 validation and 43 test" in report
    assert str(folders[0]) in report


def test_unknown_names_list_the_known_ones(folders):
    with pytest.raises(ValueError, match="gtsrb"):
        datasets.load("cifar")
    with pytest.raises(ValueError, match="standin"):
        datasets.load("gtsrb", "internet")
    with pytest.raises(ValueError, match="fashion_mnist"):
        datasets.get("cifar")


def test_course_data_with_a_typo_is_an_error(monkeypatch):
    monkeypatch.setenv("COURSE_DATA", "/no/such/folder")
    with pytest.raises(FileNotFoundError, match="COURSE_DATA=/no/such/folder"):
        datasets.load("gtsrb")


# --- the cache of arrays --------------------------------------------------------------------------------------------


def test_arrays_survive_the_cache_bit_for_bit(tmp_path):
    arrays = {"a": np.arange(12).reshape(3, 4), "b": np.zeros((0, 3), dtype=np.uint8)}
    cache.save_arrays(tmp_path / "some.npz", arrays)
    loaded = cache.load_arrays(tmp_path / "some.npz")
    assert loaded.keys() == arrays.keys()
    for key, array in arrays.items():
        assert loaded[key].dtype == array.dtype and np.array_equal(loaded[key], array)


def test_every_changed_or_missing_byte_is_noticed(tmp_path):
    path = tmp_path / "some.npz"
    cache.save_arrays(path, {"a": np.arange(500)})
    content = path.read_bytes()
    start = content.index(np.arange(500).tobytes()[:64])
    flipped = bytearray(content)
    flipped[start + 100] ^= 1
    for bad in (bytes(flipped), content[:-1], content[: len(content) // 2], b""):
        path.write_bytes(bad)
        with pytest.raises(datasets.DataCorrupt, match="some.npz"):
            cache.load_arrays(path)


def test_arrays_without_their_checksum_are_refused(tmp_path):
    np.savez(tmp_path / "plain.npz", a=np.arange(3))
    with pytest.raises(datasets.DataCorrupt, match="plain.npz"):
        cache.load_arrays(tmp_path / "plain.npz")
    swapped = {"a": np.arange(3), cache.DIGEST: np.zeros(32, dtype=np.uint8)}
    np.savez(tmp_path / "swapped.npz", **swapped)
    with pytest.raises(datasets.DataCorrupt, match="checksum"):
        cache.load_arrays(tmp_path / "swapped.npz")


def test_damaged_cache_is_made_again_with_a_warning(folders):
    cache.cached_arrays("numbers", lambda: {"a": np.arange(9)})
    path = folders[1] / "arrays" / "numbers.npz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.warns(RuntimeWarning, match="numbers.npz"):
        arrays = cache.cached_arrays("numbers", lambda: {"a": np.arange(9)})
    assert np.array_equal(arrays["a"], np.arange(9))
    assert np.array_equal(cache.load_arrays(path)["a"], np.arange(9))


def test_run_killed_while_caching_leaves_nothing_that_is_trusted(folders):
    write_gtsrb(folders[0])
    run_and_die(
        "import os, numpy\n"
        "from course_utils import datasets\n"
        "def dying(file, **arrays):\n"
        "    file.write(b'half of a file'); file.flush(); os._exit(9)\n"
        "numpy.savez = dying\n"
        "datasets.load('gtsrb', 'local')\n"
    )
    assert not list((folders[1] / "arrays").glob("*.npz")) and list((folders[1] / "arrays").iterdir())
    assert len(datasets.load("gtsrb", "local").test) == 43


def test_old_leftovers_are_swept_and_young_ones_left_alone(tmp_path):
    old, young = tmp_path / f"x{cache.PARTIAL}1", tmp_path / f"x{cache.PARTIAL}2"
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (0, 0))
    cache.save_arrays(tmp_path / "some.npz", {"a": np.arange(3)})
    assert not old.exists() and young.exists()


def test_cache_that_cannot_be_written_costs_time_not_the_lesson(folders):
    folders[1].write_text("a file where the cache should be")
    with pytest.warns(RuntimeWarning, match="cannot keep"):
        arrays = cache.cached_arrays("numbers", lambda: {"a": np.arange(4)})
    assert np.array_equal(arrays["a"], np.arange(4))


# --- from_arrays ----------------------------------------------------------------------------------------------------


def some(count: int = 40, shape: tuple[int, ...] = (6, 5), classes: int = 4, seed: int = 0):
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 256, (count, *shape), dtype=np.uint8)
    return x, np.arange(count) % classes


@pytest.mark.parametrize(
    ("shape", "image_shape"),
    [
        ((6, 5), (1, 6, 5)),
        ((6, 5, 3), (3, 6, 5)),
        ((6, 5, 1), (1, 6, 5)),
        ((3, 6, 5), (3, 6, 5)),
        ((1, 6, 5), (1, 6, 5)),
    ],
)
def test_usual_layouts(shape, image_shape):
    x, y = some(shape=shape)
    data = datasets.from_arrays(train=(x, y), test=(x, y), name="cats")
    assert data.image_shape == image_shape and data.source == "arrays" and data.title == "cats"
    expected = x.reshape(40, *image_shape) if shape[-1] not in (1, 3) or len(shape) == 2 else x.transpose(0, 3, 1, 2)
    assert np.array_equal(data.test.x, expected)
    # The group says which of the original images it is.
    assert np.array_equal(data.validation.x, expected[data.validation.group])
    assert np.array_equal(data.validation.y, y[data.validation.group])


def test_floats_become_uint8():
    x, y = some()
    data = datasets.from_arrays(train=(x / 255, y), test=((x / 255).astype(np.float32), y))
    assert np.array_equal(data.test.x[:, 0], x)


def test_validation_is_stratified_seeded_and_disjoint():
    x, y = some(count=200)
    data = datasets.from_arrays(train=(x, y), test=(x, y), validation_fraction=0.2, seed=3)
    assert np.array_equal(np.bincount(data.validation.y), [10, 10, 10, 10])
    assert sorted([*data.train.group, *data.validation.group]) == list(range(200))
    same = datasets.from_arrays(train=(x, y), test=(x, y), validation_fraction=0.2, seed=3)
    other = datasets.from_arrays(train=(x, y), test=(x, y), validation_fraction=0.2, seed=4)
    assert np.array_equal(data.validation.group, same.validation.group)
    assert not np.array_equal(data.validation.group, other.validation.group)


def test_groups_are_never_cut():
    x, y = some(count=120, classes=3)
    group = np.arange(120) // 12 * 3 + y  # runs of images that belong together
    data = datasets.from_arrays(train=(x, y, group), test=(x, y))
    assert set(data.validation.y) == {0, 1, 2}
    assert not set(data.train.group) & set(data.validation.group)


def test_given_validation_is_kept():
    x, y = some()
    data = datasets.from_arrays(train=(x, y), validation=(x[:8], y[:8]), test=(x, y), classes=["a", "b", "c", "d"])
    assert len(data.train) == 40 and len(data.validation) == 8 and data.classes == ("a", "b", "c", "d")


X, Y = some()
BAD = {
    "not a pair": (dict(train=X), TypeError, "expected \\(x, y\\)"),
    "flat images": (dict(train=(X.reshape(40, -1), Y)), ValueError, "shape \\(40, 30\\)"),
    "five dimensions": (dict(train=(X[:, None, None], Y)), ValueError, "expected \\(N, H, W\\)"),
    "four channels": (dict(train=(some(shape=(6, 5, 4))[0], Y)), ValueError, "C 1 or 3"),
    "no images": (dict(train=(X[:0], Y[:0])), ValueError, "no images"),
    "wide integers": (dict(train=(X.astype(np.int64), Y)), TypeError, "int64; expected uint8"),
    "floats to 255": (dict(train=(X.astype(float), Y)), ValueError, "expected floats in \\[0, 1\\]"),
    "not a number": (dict(train=(np.where(X > 250, np.nan, X / 255), Y)), ValueError, "nan"),
    "labels too few": (dict(train=(X, Y[:-1])), ValueError, "\\(39,\\); expected \\(40,\\)"),
    "one-hot labels": (dict(train=(X, np.eye(4)[Y])), ValueError, "\\(40, 4\\); expected \\(40,\\)"),
    "labels as text": (dict(train=(X, Y.astype(str))), TypeError, "whole numbers"),
    "labels with halves": (dict(train=(X, Y + 0.5)), TypeError, "whole numbers"),
    "negative labels": (dict(train=(X, Y - 1)), ValueError, "start at -1"),
    "labels from one": (dict(train=(X, Y + 1)), ValueError, "no image of the labels \\[0\\]"),
    "unknown test label": (dict(train=(X, Y), classes=["a", "b", "c", "d"], test=(X, Y + 1)), ValueError, "1 to 4"),
    "test of another size": (dict(train=(X, Y), test=(X[:, :4], Y)), ValueError, "one \\(C, H, W\\)"),
    "classes as one text": (dict(train=(X, Y), classes="abcd"), TypeError, "list of names"),
    "fraction too large": (dict(train=(X, Y), validation_fraction=1.5), ValueError, "between 0 and 1"),
    "one image a class": (dict(train=(X[:4], Y[:4])), ValueError, "give validation"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays_are_explained(case):
    arguments, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        datasets.from_arrays(**({"test": (X, Y)} | arguments))


def test_a_class_with_one_group_stays_in_training():
    y = np.array([0] * 10 + [1] * 10)
    group = np.array([0] * 10 + [1] * 5 + [2] * 5)
    held_out = choose_groups(y, group, fraction=0.5, seed=0)
    assert not held_out[:10].any() and held_out[10:].sum() == 5


# --- contact sheet --------------------------------------------------------------------------------------------------


def test_contact_sheet_shows_classes_in_order_and_different_groups():
    x = np.zeros((24, 4, 4), dtype=np.uint8) + np.arange(24, dtype=np.uint8)[:, None, None]
    y = np.repeat([0, 1, 2], 8)
    group = np.arange(24) // 4
    data = datasets.from_arrays(train=(x, y, group), validation=(x, y), test=(x, y))
    sheet = datasets.contact_sheet(data, per_class=2, columns=2)
    assert sheet.shape == (2 + 3 * 6, 2 + 2 * 6, 3) and sheet.dtype == np.uint8
    assert [[int(sheet[3 + 6 * row, 3 + 6 * column, 0]) for column in range(2)] for row in range(3)] == [
        [0, 4],
        [8, 12],
        [16, 20],
    ]
    assert datasets.contact_sheet(data, scale=3).shape[0] == 3 * datasets.contact_sheet(data).shape[0]
    with pytest.raises(ValueError, match="per_class=0"):
        datasets.contact_sheet(data, per_class=0)


# --- the real thing -------------------------------------------------------------------------------------------------


def has_gtsrb() -> bool:
    return (REAL / "gtsrb" / gtsrb.ARCHIVE).is_file() or (REAL / "gtsrb" / "GTSRB").is_dir()


@pytest.mark.real_data
@pytest.mark.skipif(not has_gtsrb(), reason="COURSE_DATA has no GTSRB")
def test_real_gtsrb_equals_torchvisions():
    from torchvision.datasets import GTSRB

    data = datasets.load("gtsrb", "local")
    assert len(data.train) + len(data.validation) == 26_640 and len(data.test) == 12_630
    groups, frames = np.unique(np.concatenate([data.train.group, data.validation.group]), return_counts=True)
    assert (frames == 30).all() and len(groups) == 888
    assert not set(data.train.group) & set(data.validation.group)
    assert set(data.train.y) == set(data.validation.y) == set(range(43))
    assert 0.08 < len(data.validation) / 26_640 < 0.13
    counts = np.bincount(np.concatenate([data.train.y, data.validation.y]))
    assert counts.max() / counts.min() == pytest.approx(10)
    published = GTSRB(str(gtsrb.find()), split="test")
    for index in (0, 1, 777, 6000, 12_629):
        image, label = published[index]
        assert np.array_equal(np.asarray(image.resize((32, 32))).transpose(2, 0, 1), data.test.x[index])
        assert label == data.test.y[index]


@pytest.mark.real_data
@pytest.mark.skipif(not (REAL / "FashionMNIST").is_dir(), reason="COURSE_DATA has no Fashion-MNIST")
def test_real_fashion_mnist():
    data = datasets.load("fashion_mnist", "local")
    assert (len(data.train), len(data.validation), len(data.test)) == (55_000, 5_000, 10_000)
    assert np.array_equal(np.bincount(data.validation.y), np.full(10, 500))
    assert data.train.x.mean() == pytest.approx(255 * 0.286, abs=0.5)  # the mean that every tutorial quotes


@pytest.mark.parametrize("complete", [True, False])
def test_a_folder_that_another_process_finished_at_the_last_moment_is_taken(tmp_path, monkeypatch, complete):
    """Between the look at the target and the renaming, the other one may have put its own folder there."""
    target = tmp_path / "data"
    replace = cache.os.replace

    def late(source, destination):
        target.mkdir()
        (target / (cache.MARKER if complete else "half")).write_text("theirs")
        replace(source, destination)  # onto a folder that is not empty

    monkeypatch.setattr(cache.os, "replace", late)
    if complete:
        with cache.new_folder(target) as folder:
            (folder / "mine").write_text("mine")
        assert (target / cache.MARKER).read_text() == "theirs"
    else:
        with pytest.raises(OSError), cache.new_folder(target):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
