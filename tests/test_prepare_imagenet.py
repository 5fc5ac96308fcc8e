"""data/prepare_imagenet.py: the right images under the right labels, and the same bytes however often it is killed."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from course_utils import datasets

SCRIPT = ROOT / "data" / "prepare_imagenet.py"
CLASSES = ("n01", "n02", "n03")
COUNTS = ["--train", "4", "--test", "2"]
FEW = ["--train", "3", "--test", "1", "--classes", "2", "--save-every", "3"]  # eight images


@pytest.fixture
def script(monkeypatch, tmp_path):
    """The script as a module, with an empty cache and no bars."""
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COURSE_DATA", raising=False)
    monkeypatch.setenv("CI", "1")
    spec = importlib.util.spec_from_file_location("prepare_imagenet", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def picture(value: int) -> Image.Image:
    """One brightness all over, so that it survives JPEG, grey and resampling: it is the image's name."""
    return Image.new("RGB", (40, 36), (value, value, value))


def value_of(label: int, number: int, test: bool = False) -> int:
    return 80 * label + 50 * test + number


def write_folder(root: Path, train: int = 6, test: int = 3, names=("train", "val")) -> Path:
    """Brightness says label, split and number; see `value_of`."""
    for is_test, (part, count) in enumerate(zip(names, (train, test), strict=True)):
        for label, name in enumerate(CLASSES):
            folder = root / part / name / "images"
            folder.mkdir(parents=True)
            for number in range(count):
                suffix = (".JPEG", ".png", ".ppm")[number % 3]
                picture(value_of(label, number, bool(is_test))).save(folder / f"{name}_{number}{suffix}")
            (folder.parent / "boxes.txt").write_text("not an image")
    return root


def read(out: Path) -> dict[str, np.ndarray]:
    with np.load(out, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def values(out: Path, split: str) -> list[list[int]]:
    """Brightness of the images of each class, in order; every image must have one brightness only."""
    arrays = read(out)
    x, y = arrays[f"{split}_x"], arrays[f"{split}_y"]
    assert x.dtype == np.uint8 and x.shape[1:] == (28, 28) and (x == x[:, :1, :1]).all()
    assert y.dtype == np.int64 and (np.diff(y) >= 0).all()
    return [x[y == label][:, 0, 0].tolist() for label in range(len(arrays["classes"]))]


def command(*words: str | Path) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, words)]


def run(*words: str | Path, **variables: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"CI": "1"} | variables
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=120, env=environment)


# --- image files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", ["val", "validation", "test"])
def test_files_in_train_and_val(script, tmp_path, test):
    root, out = write_folder(tmp_path / "images", names=("train", test)), tmp_path / "out.npz"
    assert script.main(["--folder", str(root), *COUNTS, "--out", str(out)]) == 0
    assert read(out)["classes"].tolist() == list(CLASSES)
    for label, (train, held) in enumerate(zip(values(out, "train"), values(out, "test"), strict=True)):
        assert len(set(train)) == len(train) == 4 and len(set(held)) == len(held) == 2
        assert set(train) <= {value_of(label, number) for number in range(6)}
        assert set(held) <= {value_of(label, number, True) for number in range(3)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out.npz"]


@pytest.mark.parametrize("inside", ["", "train"])
def test_one_folder_of_classes_gives_both_splits_without_overlap(script, tmp_path, inside):
    root = write_folder(tmp_path / "images", names=("train", "unused"))
    out = tmp_path / "out.npz"
    folder = root if inside else root / "train"
    if inside:
        assert not [name for name in ("val", "validation", "valid", "test") if (root / name).exists()]
    assert script.main(["--folder", str(folder), *COUNTS, "--out", str(out)]) == 0
    for label, (train, held) in enumerate(zip(values(out, "train"), values(out, "test"), strict=True)):
        assert sorted(train + held) == [value_of(label, number) for number in range(6)]


def test_the_order_of_files_is_drawn(script, tmp_path):
    """Sorted names often keep similar pictures together; the first ones must not all be training images."""
    root, out = write_folder(tmp_path / "images", train=30, test=1), tmp_path / "out.npz"
    assert script.main(["--folder", str(root / "train"), "--train", "20", "--test", "10", "--out", str(out)]) == 0
    for label, held in enumerate(values(out, "test")):
        numbers = sorted(value - value_of(label, 0) for value in held)
        assert numbers != list(range(10)) and numbers != list(range(20, 30))


def test_pixels_are_cropped_grey_and_averaged_over_areas(script, tmp_path):
    """Blocks of 2x2 pixels in a wide picture: each becomes one pixel, by the weights of ITU-R 601."""
    generator = np.random.default_rng(0)
    pictures = {}
    for label, name in enumerate(CLASSES):
        for number in range(3):
            pixels = generator.integers(0, 256, (56, 90, 3), dtype=np.uint8)
            pictures[label, number] = pixels
            (tmp_path / "images" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    out = tmp_path / "out.npz"
    assert script.main(["--folder", str(tmp_path / "images"), "--train", "2", "--test", "1", "--out", str(out)]) == 0
    arrays = read(out)
    for label in range(3):
        found = np.concatenate([arrays[f"{split}_x"][arrays[f"{split}_y"] == label] for split in ("train", "test")])
        for number in range(3):
            luma = pictures[label, number][:, 17:73].astype(float) @ [0.299, 0.587, 0.114]
            expected = np.round(luma).reshape(28, 2, 28, 2).mean(axis=(1, 3))
            assert min(np.abs(image - expected).max() for image in found) <= 1  # one of rounding


def test_the_result_is_the_data_set(script, tmp_path, monkeypatch):
    """Without --out it lies where the course looks."""
    root = write_folder(tmp_path / "images", train=12)
    assert script.main(["--folder", str(root), "--train", "10", "--test", "2"]) == 0
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    data = datasets.load("imagenet_28_gray")
    assert data.source == "local" and data.classes == CLASSES
    assert (len(data.train), len(data.validation), len(data.test)) == (27, 3, 6)
    assert np.array_equal(data.test.x[:, 0, 0, 0] // 80, data.test.y)


def test_the_usual_counts(script):
    options = script._options([])
    assert (options.train, options.test, options.classes) == (600, 50, "all")
    assert options.hub == "benjamin-paine/imagenet-1k-64x64" and not options.folder and not options.npz


def test_fewer_classes_are_the_first_ones(script, tmp_path):
    root, out = write_folder(tmp_path / "images"), tmp_path / "out.npz"
    assert script.main(["--folder", str(root), *COUNTS, "--classes", "2", "--out", str(out)]) == 0
    assert read(out)["classes"].tolist() == ["n01", "n02"] and len(values(out, "train")) == 2


def test_the_same_images_give_the_same_bytes_wherever_they_lie(script, tmp_path):
    outs = []
    for name in ("a", "b"):
        root = write_folder(tmp_path / name / "images")
        outs.append(tmp_path / f"{name}.npz")
        assert script.main(["--folder", str(root), *COUNTS, "--out", str(outs[-1])]) == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()
    with zipfile.ZipFile(outs[0]) as packed:  # no time of day is in the file
        assert {member.date_time for member in packed.infolist()} == {(1980, 1, 1, 0, 0, 0)}


# --- killed and resumed ---------------------------------------------------------------------------------------------


def held_at(pipe: Path, process: subprocess.Popen) -> int:
    """Waits until the process reads the pipe; returns the writing end. As long as that is open, the process waits."""
    for _ in range(3000):
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads it yet
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
    pytest.fail("it never got there")


def test_killed_again_and_again_and_resumed_to_the_same_bytes(script, tmp_path):
    """A pipe in place of an image holds the run exactly there, until SIGKILL ends it."""
    root, whole, out = write_folder(tmp_path / "images"), tmp_path / "whole.npz", tmp_path / "out.npz"
    words = ("--folder", root, *COUNTS, "--save-every", "3")
    assert run(*words, "--out", whole).returncode == 0
    chosen = script.Folder(root, {"train": 4, "test": 2})._files
    progress = []
    for split, position in (("train", 1), ("train", 10), ("test", 4)):
        path = Path(chosen[split][position][1])
        content = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        process = subprocess.Popen(command(*words, "--out", out), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        writing = held_at(path, process)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        os.close(writing)
        process.stdout.close()
        assert not out.exists()
        note = json.loads((tmp_path / "out.npz.work" / "progress.json").read_text())
        progress.append((note["train"]["seen"], note["test"]["seen"]))
        path.unlink()
        path.write_bytes(content)
    # Saved after every third image: what was done after that is done again.
    assert progress == [(0, 0), (9, 0), (12, 3)]
    done = run(*words, "--out", out)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "out.npz.work").exists()


SWEEP = """
import importlib.util, os, pathlib, shutil, signal, sys
import numpy
spec = importlib.util.spec_from_file_location("prepare_imagenet", sys.argv[1])
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
from course_utils.datasets import sources
out, words = pathlib.Path(sys.argv[2]), sys.argv[3:]
whole = pathlib.Path(str(out) + ".whole")

def main(name):
    return script.main([*words, "--out", str(name)])

def dying(deadline):
    # Calls die before or after they do their work, in turns.
    count = [0]
    def wrap(module, name):
        call = getattr(module, name)
        def wrapped(*args, **kwargs):
            for before in (True, False):
                count[0] += 1
                if count[0] == deadline:
                    os.kill(os.getpid(), signal.SIGKILL)
                if before:
                    result = call(*args, **kwargs)
            return result
        setattr(module, name, wrapped)
    wrap(os, "replace"), wrap(shutil, "rmtree"), wrap(numpy, "savez"), wrap(sources, "grey28")
    wrap(numpy.lib.format, "open_memmap"), wrap(numpy.memmap, "flush"), wrap(script, "_recipe_of")

assert main(whole) == 0
deadline, again = 0, 0
while True:
    deadline += 1
    child = os.fork()
    if not child:
        dying(deadline)
        os._exit(main(out))
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, status
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
    again += out.exists()
    assert main(out) == 0, deadline
    assert out.read_bytes() == whole.read_bytes(), deadline
    assert not [path for path in out.parent.iterdir() if ".work" in path.name or ".partial" in path.name], deadline
    out.unlink()
assert out.read_bytes() == whole.read_bytes()
print("killed", deadline - 1, "complete", again)
"""


def sweep(tmp_path: Path, *words: str | Path, **variables: str) -> tuple[int, int]:
    """Kill a run at every single step that it takes, each time run it again, compare bytes.

    Returns how often it was killed, and how often its result was complete by then.
    """
    done = subprocess.run(
        [sys.executable, "-c", SWEEP, str(SCRIPT), str(tmp_path / "out.npz"), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"CI": "1"} | variables,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    numbers = done.stdout.splitlines()[-1].split()
    return int(numbers[1]), int(numbers[3])


def test_killed_at_every_step_of_a_run_over_files(tmp_path):
    root = write_folder(tmp_path / "images")
    killed, complete = sweep(tmp_path, "--folder", root, *FEW)
    assert killed >= 2 * (8 + 7) and complete >= 2  # 8 images, some saves, and the end


# --- the Hub --------------------------------------------------------------------------------------------------------

FAKE = '''
"""Stands in for the package `datasets`, and for the network. Brightness says label and number, as in the tests."""
import io, json, os, signal
import PIL.Image

LOG = os.environ.get("FAKE_LOG")


class Image:
    def __init__(self, decode=True):
        self.decode = decode


class Label:
    names = ["n01", "n02", "n03"]


class Stream:
    def __init__(self, split, rows, start=0, decode=True):
        self.split, self.rows, self.start, self.decode, self.at = split, rows, start, decode, None
        self.features = {"image": Image(), "label": Label()}
        if os.environ.get("FAKE_STATE", "yes") == "yes":
            self.state_dict = lambda: {"next": self.at}
            self.load_state_dict = self._load

    def _load(self, state):
        self.start = state["next"]

    def cast_column(self, name, kind):
        assert name == "image"
        return Stream(self.split, self.rows, self.start, kind.decode)

    def skip(self, count):
        return Stream(self.split, self.rows, self.start + count, self.decode)

    def __iter__(self):
        assert not self.decode, "decoded by the package: images that are not kept cost time"
        for number in range(self.start, len(self.rows)):
            label, value = self.rows[number]
            self.at = number + 1
            if LOG:
                with open(LOG, "a") as file:
                    file.write(f"{self.split} {number}\\n")
            if f"{self.split} {number}" == os.environ.get("FAKE_DIE"):
                os.kill(os.getpid(), signal.SIGKILL)
            if f"{self.split} {number}" == os.environ.get("FAKE_BREAK"):
                raise ConnectionError("the line went dead")
            content = io.BytesIO()
            PIL.Image.new("RGB", (64, 64), (value,) * 3).save(content, "JPEG")
            yield {"image": {"bytes": content.getvalue(), "path": None}, "label": label}


def load_dataset(name, revision=None, streaming=False):
    assert streaming
    if name == "gated/set":
        raise PermissionError("gated: ask for access")
    if LOG:
        with open(LOG, "a") as file:
            file.write(f"open {name} {revision}\\n")
    numbers = [(label, number) for number in range(8) for label in (2, 0, 1)]
    train = [(label, 80 * label + number) for label, number in numbers]
    held = [(label, 80 * label + 50 + number) for label, number in numbers[:9]]
    if name == "unlabelled/set":
        held = [(-1, value) for _, value in held]
    splits = {"train": Stream("train", train), "validation": Stream("validation", held)}
    splits["test"] = Stream("test", [(-1, 255)] * 9)
    if name == "val/set":
        splits["val"] = splits.pop("validation")
    if name == "alone/set":
        splits = {"train": splits["train"]}
    for split in splits.values():
        if name == "columns/set":
            split.features = {"jpg": None, "cls": None}
        if name == "nameless/set":
            split.features = {"image": Image(), "label": None}
    return splits
'''


def before_others(folder: Path) -> str:
    """PYTHONPATH with a folder at its front."""
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture
def hub(tmp_path) -> dict[str, str]:
    """Variables of a process that finds the fake package."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "datasets.py").write_text(FAKE)
    return {"PYTHONPATH": before_others(tmp_path / "packages"), "FAKE_LOG": str(tmp_path / "log")}


def log(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().splitlines()


def test_the_hub_is_streamed_until_there_is_enough(tmp_path, hub):
    out = tmp_path / "out.npz"
    done = run(*COUNTS, "--out", out, **hub)
    assert done.returncode == 0, done.stderr
    # The first images of each class, in the order of the stream; test images are those with labels.
    assert values(out, "train") == [[value_of(label, number) for number in range(4)] for label in range(3)]
    assert values(out, "test") == [[value_of(label, number, True) for number in range(2)] for label in range(3)]
    assert read(out)["classes"].tolist() == list(CLASSES)
    streamed = log(tmp_path)
    assert streamed[0] == "open benjamin-paine/imagenet-1k-64x64 None"
    assert streamed[1:] == [f"train {number}" for number in range(12)] + [f"validation {number}" for number in range(6)]


def test_another_data_set_and_revision_of_the_hub(tmp_path, hub):
    assert run("--hub", "val/set", "--revision", "v1", *COUNTS, "--out", tmp_path / "out.npz", **hub).returncode == 0
    assert log(tmp_path)[0] == "open val/set v1"
    assert values(tmp_path / "out.npz", "test")[0] == [50, 51]
    # The file says what it was made of.
    assert "hub:val/set@v1" in str(read(tmp_path / "out.npz")["recipe"])


def test_fewer_classes_of_the_hub(tmp_path, hub):
    assert run(*COUNTS, "--classes", "2", "--out", tmp_path / "out.npz", **hub).returncode == 0
    assert [row[0] for row in values(tmp_path / "out.npz", "train")] == [0, 80]


@pytest.mark.parametrize("state", ["yes", "no"])
def test_a_stream_killed_in_the_middle_goes_on_there(tmp_path, hub, state):
    """With the package's own notes of the place, and by skipping where an old package has none."""
    words = (*COUNTS, "--save-every", "2")
    assert run(*words, "--out", tmp_path / "whole.npz", **hub).returncode == 0
    out = tmp_path / "out.npz"
    for place, first in (("train 9", "train 0"), ("validation 5", "train 8")):
        (tmp_path / "log").unlink()
        done = run(*words, "--out", out, **hub, FAKE_DIE=place, FAKE_STATE=state)
        assert done.returncode == -signal.SIGKILL and not out.exists()
        assert log(tmp_path)[1] == first and log(tmp_path)[-1] == place
    (tmp_path / "log").unlink()
    assert run(*words, "--out", out, **hub, FAKE_STATE=state).returncode == 0
    assert log(tmp_path)[1:] == ["validation 4", "validation 5"]
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_killed_at_every_step_of_a_stream(tmp_path, hub):
    killed, complete = sweep(tmp_path, *FEW, **hub)
    assert killed >= 2 * (8 + 7) and complete >= 2


def test_a_broken_line_is_said_and_the_run_goes_on_later(tmp_path, hub):
    out = tmp_path / "out.npz"
    done = run(*COUNTS, "--save-every", "2", "--out", out, **hub, FAKE_BREAK="train 7")
    assert done.returncode == 1 and "the line went dead" in done.stderr and "run the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    assert run(*COUNTS, "--save-every", "2", "--out", out, **hub).returncode == 0
    assert values(out, "train")[0] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("gated/set", "hf auth login"),
        ("alone/set", "has the splits train; expected train, and one of validation"),
        ("columns/set", "has the columns jpg, cls; expected image and label"),
        ("nameless/set", "ClassLabel"),
        ("unlabelled/set", "has the label -1; expected 0 to 2"),
    ],
)
def test_what_is_wrong_with_a_data_set_of_the_hub_is_named(tmp_path, hub, name, named):
    done = run("--hub", name, *COUNTS, "--out", tmp_path / "out.npz", **hub)
    assert done.returncode == 1 and named in done.stderr and name in done.stderr and "Traceback" not in done.stderr


def test_a_stream_with_too_few_images_says_how_many_there_are(tmp_path, hub):
    out = tmp_path / "out.npz"
    done = run("--train", "9", "--test", "2", "--out", out, **hub)
    assert done.returncode == 1 and "8 images of 'n01' for train, 9 are asked for; use --train 8" in done.stderr
    # The advice can be followed at once.
    assert run("--train", "8", "--test", "2", "--out", out, **hub).returncode == 0


def test_without_the_package_it_says_how_to_install_it(tmp_path):
    (tmp_path / "datasets.py").write_text("raise ModuleNotFoundError(\"No module named 'datasets'\", name='datasets')")
    done = run("--out", tmp_path / "out.npz", PYTHONPATH=before_others(tmp_path))
    assert done.returncode == 1 and "pip install datasets" in done.stderr and "--folder" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out.npz.work").exists()


def test_local_images_do_not_need_the_package(tmp_path):
    (tmp_path / "datasets.py").write_text("raise ImportError('imported')")
    root = write_folder(tmp_path / "images")
    done = run("--folder", root, *COUNTS, "--out", tmp_path / "out.npz", PYTHONPATH=before_others(tmp_path))
    assert done.returncode == 0, done.stderr


def test_the_real_package_on_a_folder_in_the_hubs_layout(script, tmp_path):
    """Only where `datasets` is installed, which the course does not ask for."""
    package = pytest.importorskip("datasets")
    features = package.Features({"image": package.Image(), "label": package.ClassLabel(names=list(CLASSES))})
    (tmp_path / "set" / "data").mkdir(parents=True)
    rows = [(number % 3, number // 3) for number in range(24)]
    for split, files in (("train", (rows[:10], rows[10:])), ("validation", (rows[:9],)), ("test", (rows[:3],))):
        for part, some in enumerate(files):
            encoded = []
            for label, number in some:
                content = io.BytesIO()
                picture(value_of(label, number, split != "train")).save(content, "JPEG")
                label = -1 if split == "test" else label
                encoded.append({"image": {"bytes": content.getvalue(), "path": None}, "label": label})
            file = tmp_path / "set" / "data" / f"{split}-0000{part}-of-0000{len(files)}.parquet"
            package.Dataset.from_list(encoded, features=features).to_parquet(str(file), batch_size=4)
    killed, _ = sweep(tmp_path, "--hub", tmp_path / "set", *COUNTS, "--save-every", "3")
    assert killed >= 2 * (18 + 6)
    assert values(tmp_path / "out.npz", "train") == [
        [value_of(label, number) for number in range(4)] for label in range(3)
    ]


# --- arrays ---------------------------------------------------------------------------------------------------------


def write_npz(
    path: Path, shape: tuple[int, ...] = (40, 36), per_class: int = 6, compressed: bool = False, **more
) -> Path:
    """Images of 3 classes in turns; brightness says label and number."""
    label, number = np.arange(3 * per_class) % 3, np.arange(3 * per_class) // 3
    x = np.broadcast_to((80 * label + number).astype(np.uint8)[(...,) + (None,) * len(shape)], (len(label), *shape))
    (np.savez_compressed if compressed else np.savez)(path, **({"x": x, "y": label} | more))
    return path


@pytest.mark.parametrize("shape", [(40, 36), (1, 28, 28), (3, 30, 30), (30, 50, 3), (20, 20, 1)])
@pytest.mark.parametrize("compressed", [True, False])
def test_arrays_of_every_layout(script, tmp_path, shape, compressed):
    path, out = write_npz(tmp_path / "in.npz", shape, compressed=compressed), tmp_path / "out.npz"
    assert script.main(["--npz", str(path), *COUNTS, "--out", str(out)]) == 0
    for label, (train, held) in enumerate(zip(values(out, "train"), values(out, "test"), strict=True)):
        assert sorted(train + held) == [value_of(label, number) for number in range(6)]
    assert read(out)["classes"].tolist() == ["0", "1", "2"]


def test_arrays_already_apart_and_named(script, tmp_path):
    x = np.arange(18, dtype=np.uint8)[:, None, None].repeat(28, 1).repeat(28, 2)
    path, out = tmp_path / "in.npz", tmp_path / "out.npz"
    names = np.array(["a", "b", "c"])
    y = np.arange(18) % 3
    np.savez(path, train_x=x, train_y=y, test_x=x + 100, test_y=y, classes=names)
    assert script.main(["--npz", str(path), *COUNTS, "--out", str(out)]) == 0
    assert read(out)["classes"].tolist() == ["a", "b", "c"]
    for label, (train, held) in enumerate(zip(values(out, "train"), values(out, "test"), strict=True)):
        assert {value % 3 for value in train} == {label} and max(train) < 18
        assert {(value - 100) % 3 for value in held} == {label} and min(held) >= 100


def test_arrays_that_say_what_is_for_test(script, tmp_path):
    said = (np.arange(18) >= 12).astype(np.uint8)  # numbers 4 and 5
    path, out = write_npz(tmp_path / "in.npz", split=said), tmp_path / "out.npz"
    assert script.main(["--npz", str(path), *COUNTS, "--out", str(out)]) == 0
    assert [sorted(row) for row in values(out, "test")] == [
        [value_of(label, 4), value_of(label, 5)] for label in range(3)
    ]


def test_killed_at_every_step_of_a_run_over_arrays(tmp_path):
    path = write_npz(tmp_path / "in.npz", compressed=True)
    killed, _ = sweep(tmp_path, "--npz", path, *FEW)
    assert killed >= 2 * (8 + 7)


def test_arrays_are_never_in_memory_as_a_whole(script, tmp_path):
    path = write_npz(tmp_path / "in.npz", (100, 100), per_class=700)
    assert path.stat().st_size > 20e6
    words = ["--npz", str(path), "--train", "600", "--test", "90", "--out", str(tmp_path / "out.npz")]
    tracemalloc.start()
    try:
        assert script.main(words) == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8e6, f"{peak / 1e6:.1f} MB at a time"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"x": np.zeros((18, 28, 28))}, "x is float64"),
        ({"x": np.zeros((18, 784), dtype=np.uint8)}, r"x is uint8 \(18, 784\)"),
        ({"x": np.asfortranarray(np.zeros((18, 28, 28), dtype=np.uint8))}, "Fortran"),
        ({"y": np.zeros(17, dtype=int)}, r"labels for train are int64 \(17,\)"),
        ({"y": np.arange(18) % 3 - 1}, "from 0 on"),
        ({"y": np.array(["a", "b", "c"] * 6)}, "labels for train are <U1"),
        ({"y": np.arange(18) % 2 * 2}, "class 1 of .* has 0 images"),
        ({"split": np.zeros(3)}, r"split has shape \(3,\)"),
        ({"split": np.zeros(18)}, "has 0 images"),
        ({"classes": np.array(["a", "b"])}, "labels up to 2"),
    ],
)
def test_what_is_wrong_with_arrays_is_named(script, tmp_path, capsys, change, named):
    path = write_npz(tmp_path / "in.npz", **change)
    assert script.main(["--npz", str(path), *COUNTS, "--out", str(tmp_path / "out.npz")]) == 1
    message = capsys.readouterr().err
    assert str(path) in message
    assert re.search(named, message), message
    assert not (tmp_path / "out.npz.work").exists()


@pytest.mark.parametrize("damage", ["cut", "byte changed", "not a zip", "other arrays", "missing"])
def test_damaged_arrays_are_named(script, tmp_path, capsys, damage):
    path = write_npz(tmp_path / "in.npz")
    content = bytearray(path.read_bytes())
    if damage == "other arrays":
        np.savez(path, images=np.zeros(3))
    elif damage == "missing":
        path.unlink()
    else:
        changed = bytes(content[:9000]) + bytes([content[9000] ^ 1]) + bytes(content[9001:])
        path.write_bytes({"cut": content[:-30], "byte changed": changed, "not a zip": b"<html>"}[damage])
    assert script.main(["--npz", str(path), *COUNTS, "--out", str(tmp_path / "out.npz")]) == 1
    assert "in.npz" in capsys.readouterr().err and not (tmp_path / "out.npz").exists()


# --- choices and mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--train", "1"], "--train 1: expected 2 or more"),
        (["--test", "0"], "--test 0: expected 1 or more"),
        (["--classes", "1"], "--classes 1: expected a whole number, 2 or more, or all"),
        (["--classes", "some"], "--classes some"),
        (["--save-every", "0"], "--save-every 0"),
        (["--folder", "a", "--npz", "b"], "not allowed with"),
    ],
)
def test_impossible_options_are_named(script, capsys, words, named):
    with pytest.raises(SystemExit) as error:
        script.main(words)
    assert error.value.code == 2 and named in capsys.readouterr().err


def test_a_file_of_other_choices_is_not_replaced_unasked(script, tmp_path, capsys):
    root, out = write_folder(tmp_path / "images"), tmp_path / "out.npz"
    words = ["--folder", str(root), "--out", str(out)]
    assert script.main([*words, *COUNTS]) == 0
    before = out.read_bytes()
    assert script.main([*words, *COUNTS]) == 0 and "is there already" in capsys.readouterr().out
    assert script.main([*words, "--train", "3", "--test", "2"]) == 1
    assert "was made otherwise" in capsys.readouterr().err and out.read_bytes() == before
    assert script.main([*words, "--train", "3", "--test", "2", "--overwrite"]) == 0
    assert len(values(out, "train")[0]) == 3


def half_done(script, root: Path, out: Path) -> Path:
    """Leaves work that broke off at a damaged file; returns that file."""
    victim = Path(script.Folder(root, {"train": 4, "test": 2})._files["train"][6][1])
    content = victim.read_bytes()
    victim.write_bytes(content[: len(content) // 2])
    assert script.main(["--folder", str(root), *COUNTS, "--save-every", "2", "--out", str(out)]) == 1
    assert (out.with_name("out.npz.work") / "progress.json").is_file() and not out.exists()
    return victim


def test_a_damaged_image_is_named(script, tmp_path, capsys):
    victim = half_done(script, write_folder(tmp_path / "images"), tmp_path / "out.npz")
    assert str(victim) in capsys.readouterr().err


def test_unfinished_work_of_other_choices_is_not_thrown_away_unasked(script, tmp_path, capsys):
    root, out = write_folder(tmp_path / "images"), tmp_path / "out.npz"
    victim = half_done(script, root, out)
    words = ["--folder", str(root), "--train", "3", "--test", "2", "--out", str(out)]
    assert script.main(words) == 1
    assert "unfinished work of other choices" in capsys.readouterr().err
    picture(7).save(victim, "PNG")
    assert script.main([*words, "--overwrite"]) == 0


def test_work_starts_anew_when_the_files_have_changed(script, tmp_path, capsys):
    """The advice on a damaged image is to take it away: then others are chosen, and nothing chosen before may remain."""
    root, out = write_folder(tmp_path / "images", train=9), tmp_path / "out.npz"
    half_done(script, root / "train", out).unlink()
    words = ["--folder", str(root / "train"), *COUNTS]
    assert script.main([*words, "--out", str(out)]) == 0
    assert "starting anew" in capsys.readouterr().out
    assert script.main([*words, "--out", str(tmp_path / "fresh.npz")]) == 0
    assert out.read_bytes() == (tmp_path / "fresh.npz").read_bytes()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda root: [path.unlink() for path in (root / "val" / "n02").rglob("*_*")], "has 0 images"),
        (lambda root: (root / "val" / "n02").rename(root / "val" / "n09"), "differ in their subfolders"),
        (lambda root: [path.rename(root / path.name) for path in (root / "train").glob("n0[12]")], "1 subfolders"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(script, tmp_path, capsys, change, named):
    root = write_folder(tmp_path / "images")
    change(root)
    assert script.main(["--folder", str(root), *COUNTS, "--out", str(tmp_path / "out.npz")]) == 1
    assert named in capsys.readouterr().err


def test_too_many_images_or_classes_are_named(script, tmp_path, capsys):
    root = write_folder(tmp_path / "images")
    words = ["--folder", str(root), "--out", str(tmp_path / "out.npz")]
    assert script.main([*words, "--train", "7", "--test", "2"]) == 1
    assert "has 6 images, but 7 for train are asked for" in capsys.readouterr().err
    assert script.main(["--folder", str(root / "train"), "--train", "5", "--test", "2"]) == 1
    assert "has 6 images, but 5 for training and 2 for test are asked for" in capsys.readouterr().err
    assert script.main([*words, *COUNTS, "--classes", "4"]) == 1
    assert "--classes 4, but folder:images has 3 classes" in capsys.readouterr().err
    assert script.main(["--folder", str(tmp_path / "nothing"), *COUNTS]) == 1
    assert "is not a folder" in capsys.readouterr().err


def test_a_full_disk_is_noticed_before_the_work(script, tmp_path, capsys, monkeypatch):
    """Writing to a mapped file on a full disk would kill the process without a word."""
    usage = script.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(script.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    root = write_folder(tmp_path / "images")
    assert script.main(["--folder", str(root), *COUNTS, "--out", str(tmp_path / "out.npz")]) == 1
    assert "free disk" in capsys.readouterr().err
