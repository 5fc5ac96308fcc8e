"""Results on disk: complete or absent, the same bytes after any interruption, read without trust."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from course_utils import grid
from course_utils.grid import data, size, storage
from course_utils.grid.network import Network

from .helpers import config, contents, images, run

OPTIONS = {"er": True, "pl": True, "steps_per_task": 7}  # a step after the last log point


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run."""
    return run(tmp_path_factory.mktemp("finished") / "results", OPTIONS)


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_shapes_and_files(finished):
    results = grid.GridResults(finished)
    assert results.num_tasks == 3 and results.config == config(**OPTIONS) and results.title == "Patterns (made up)"
    assert sorted(path.name for path in finished.iterdir()) == ["task_000", "task_001", "task_002"]
    assert sorted(path.name for path in results.path(1).iterdir()) == [
        "binary_labels.npy",
        "expert_metrics.pkl",
        "final_weights.npy",
        "metadata.json",
        "metrics.pkl",
        "representations.npy",
        "weights.npy",
    ]
    metrics = results.metrics(1)
    assert metrics["loss"].shape == metrics["accuracy"].shape == (2, 4, 3) and metrics["train_loss"].shape == (2, 4)
    assert metrics["eval_tasks"] == [0, 1, 2] and metrics["steps"] == [3, 6] and metrics["task"] == 1
    assert results.representations(1).shape == (2, 4, 3, 6, 7) and results.labels(1).shape == (2, 4, 3, 6)
    assert (results.labels(1)[..., :3] == 0).all() and (results.labels(1)[..., 3:] == 1).all()
    assert {name: array.shape[:2] for name, array in results.weights(1)["conv1"].items()} == {
        "bias": (2, 4),
        "kernel": (2, 4),
    }
    metadata = results.task_metadata(1)
    assert metadata["task_class_pairs"] == results.pairs[:, 1].tolist() and metadata["data"]["standin"] is True
    assert metadata["computed"]["convolution"] == "patches" and metadata["computed"]["jax"] == jax.__version__


def test_one_task_follows_from_the_last(finished):
    """The weights with which task 1 begins are those with which task 0 ended: no step is lost between log points."""
    results = grid.GridResults(finished)
    final = np.load(results.path(0) / "final_weights.npy")
    assert np.abs(final - results.vectors(0)[-1]).max() > 1e-5  # the seventh step
    # A run without the later tasks and one that stops there end alike.
    assert (final == np.load(finished / "task_000" / "final_weights.npy")).all()


def test_metrics_are_those_of_the_saved_weights(finished):
    results = grid.GridResults(finished)
    network = Network.of(results.config, "patches")
    from course_utils.grid.network import unflatten

    for repeat, other in ((0, 0), (3, 2)):
        vector = np.asarray(results.vectors(2)[1, repeat])
        x, y = data.task_tensors(images().test, results.pairs[:, other])
        hidden, logits = network.apply(unflatten(vector, results.metadata["weights"]), x[:, repeat])
        assert results.metrics(2)["accuracy"][1, repeat, other] == pytest.approx(
            np.mean(logits.argmax(1) == y[:, repeat])
        )
        rows = data.subsample(results.config, results.pairs)[other, :, repeat]
        np.testing.assert_allclose(results.representations(2)[1, repeat, other], hidden[rows], rtol=1e-4, atol=1e-5)


def test_representations_can_be_computed_again_and_more_of_them(finished):
    results = grid.GridResults(finished)
    np.testing.assert_array_equal(grid.recompute_representations(results, 1, images()), results.representations(1))
    more = grid.recompute_representations(results, 1, images(), points=[1], eval_tasks=[2, 0])
    np.testing.assert_array_equal(more[0, :, 0], results.representations(1)[1, :, 2])
    assert more.shape == (1, 4, 2, 6, 7)
    with pytest.raises(grid.GridError, match="not the images of"):
        grid.recompute_representations(results, 1, images(seed=1))


def test_preloaded_or_not_the_numbers_are_the_same(finished, tmp_path):
    chunked = run(tmp_path / "chunked", {**OPTIONS, "preload": False})
    for name, found in contents(finished).items():
        if "metadata" not in name:
            assert (chunked / name).read_bytes() == found, name


def test_a_capped_run_measures_what_the_whole_measures(finished, tmp_path):
    capped = grid.GridResults(run(tmp_path / "capped", {**OPTIONS, "eval_tasks": 1}))
    whole = grid.GridResults(finished)
    for task in range(3):
        metrics = capped.metrics(task)
        assert len(metrics["eval_tasks"]) == 2 and task in metrics["eval_tasks"]
        np.testing.assert_array_equal(metrics["accuracy"], whole.metrics(task)["accuracy"][:, :, metrics["eval_tasks"]])


PROGRAM = """
import sys, time
from tests.grid.helpers import config, images
from course_utils import grid
from course_utils.grid import storage
slow = float(sys.argv[2])
real = storage.json.dump
def dump(*arguments, **options):  # the last moment of writing takes long enough to be hit
    time.sleep(slow)
    real(*arguments, **options)
storage.json.dump = dump
print("ready", flush=True)
grid.run(config(er=True, pl=True, steps_per_task=7), sys.argv[1], images=images(), say=lambda line: None, show=False)
"""


def start(folder: Path, slow: float) -> subprocess.Popen:
    """The program at work, its imports done."""
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(slow)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        env={**os.environ, "CI": "1"},
    )
    assert program.stdout is not None and program.stdout.readline() == b"ready\n"
    program.stdout.close()
    return program


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_bytes(finished, tmp_path):
    moments, folder = random.Random(0), tmp_path / "killed"
    kills = torn = 0
    for attempt in range(4):
        program = start(folder, slow=0.5)
        if attempt == 0:
            time.sleep(moments.uniform(0.1, 2))  # while it compiles or trains
        else:  # while it writes: the half-written folder is there
            deadline = time.monotonic() + 120
            while not list(folder.glob(".task_*.part/*")) and program.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.4))
        program.kill()
        kills += program.wait() == -signal.SIGKILL
        torn += bool(list(folder.glob(".task_*.part")))
    assert kills == 4 and torn >= 1
    assert start(folder, slow=0).wait() == 0
    assert contents(folder) == contents(finished)


def test_resumed_after_each_task_it_ends_with_the_same_bytes(finished, tmp_path):
    for kept in (1, 2, 3):
        part = tmp_path / str(kept)
        for task in range(kept):
            shutil.copytree(finished / f"task_{task:03d}", part / f"task_{task:03d}")
        lines = []
        grid.run(config(**OPTIONS), part, images=images(), say=lines.append, show=False)
        assert contents(part) == contents(finished)
        assert any(f"{kept} tasks are" in line for line in lines), lines


def test_a_truncated_file_is_named(copy):
    path = copy / "task_001" / "weights.npy"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(
        grid.GridError, match=r"task_001/weights.npy has \d+ bytes, \d+ were written; delete .*task_001"
    ):
        run(copy, OPTIONS)


def test_a_changed_file_is_named(copy):
    path = copy / "task_001" / "weights.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(grid.GridError, match=r"task_001/weights.npy is not what was written"):
        run(copy, OPTIONS)


def test_a_missing_file_a_missing_task_and_broken_metadata_are_named(copy):
    (copy / "task_002" / "metadata.json").write_text('{"format": 1')
    with pytest.raises(grid.GridError, match=r"task_002/metadata.json is damaged"):
        run(copy, OPTIONS)
    (copy / "task_002" / "metadata.json").write_text('{"format": 99}')
    with pytest.raises(grid.GridError, match=r"was not written by this version"):
        run(copy, OPTIONS)
    (copy / "task_002" / "metadata.json").unlink()
    with pytest.raises(grid.GridError, match=r"task_002 is not the folder of a task"):
        run(copy, OPTIONS)
    (copy / "task_001" / "metrics.pkl").unlink()
    with pytest.raises(grid.GridError, match=r"task_001/metrics.pkl is missing"):
        run(copy, OPTIONS)
    shutil.rmtree(copy / "task_001")
    with pytest.raises(grid.GridError, match=r"has task_002 but not task_001"):
        run(copy, OPTIONS)


def test_a_foreign_folder_is_refused_and_left_alone(copy):
    before = contents(copy)
    with pytest.raises(grid.GridError, match=r"another experiment: l2: 0.0 here, 0.5 there"):
        run(copy, {**OPTIONS, "l2": 0.5})
    with pytest.raises(grid.GridError, match=r"another experiment: the images of the data set"):
        run(copy, OPTIONS, images(seed=1))
    assert contents(copy) == before


class Evil:
    def __reduce__(self):
        return os.system, ("echo evil",)


def test_tables_are_read_by_a_restricted_reader(tmp_path, capfd):
    path = tmp_path / "metrics.pkl"
    for content, message in (
        (pickle.dumps({"a": Evil()}), r"refused: it asks for (posix|nt).system"),
        (pickle.dumps({"a": Path("x")}), r"refused: it asks for pathlib"),
        (pickle.dumps({"a": eval}), r"refused: it asks for builtins.eval"),
        (pickle.dumps([1]), r"holds a list, not a table"),
        (b"nonsense", r"metrics.pkl is damaged"),
        (pickle.dumps({"a": 1})[:-1], r"metrics.pkl is damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(grid.GridError, match=message):
            storage.read_table(path)
    assert "evil" not in capfd.readouterr().out
    good = {"array": np.arange(6.0).reshape(2, 3), "number": np.float32(2), "list": [1, "two", None, (3, {4})]}
    for protocol in (4, 5):
        path.write_bytes(pickle.dumps(good, protocol=protocol))
        back = storage.read_table(path)
        assert (back["array"] == good["array"]).all() and back["number"] == 2 and back["list"] == good["list"]
    np.save(tmp_path / "x.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(grid.GridError, match="is damaged"):
        storage.read_arrays(tmp_path, "x")


def test_the_size_said_before_is_the_size_written(tmp_path):
    for number, changes in enumerate(
        ({}, {"representations": "none", "expert": False}, {"eval_tasks": 1, "steps_per_task": 8})
    ):
        asked = config(**changes)
        said = size.estimate(asked, Network.of(asked, "patches"), 8)
        folder = run(tmp_path / str(number), changes)
        for task in range(3):
            arrays = [p for p in (folder / f"task_{task:03d}").iterdir() if p.suffix != ".json"]
            written = sum(path.stat().st_size for path in arrays)
            assert 0 <= written - said.task_on_disk < 2500  # the headers


def test_what_cannot_fit_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    lines = []
    free = shutil.disk_usage(tmp_path)._replace(free=50_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(grid.GridError, match=r"would write .* has 50 kB free; log less often"):
        grid.run(config(), tmp_path / "a", images=images(), say=lines.append, show=False)
    assert any("will write" in line for line in lines) and not (tmp_path / "a").exists()
    monkeypatch.undo()
    monkeypatch.setattr(size, "available_memory", lambda: 10_000)
    with pytest.raises(grid.GridError, match=r"of memory, 10 kB are free; use fewer repeats at once"):
        grid.run(config(), tmp_path / "a", images=images(), say=lines.append, show=False)
    assert not (tmp_path / "a").exists()


MEMORY = """
import resource, sys, shutil
from tests.grid.helpers import config, images
from course_utils import grid
tasks = int(sys.argv[2])
asked = config(num_tasks=tasks, num_repeats=8, eval_tasks=2, preload=False, train_images=100, test_images=50, widths=(16, 32, 64),
               hidden=64, expert=False)
grid.run(asked, sys.argv[1], images=images(classes=80, train=100, test=50), say=lambda line: None, show=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_tasks(tmp_path):
    """4 against 40 tasks of the same data, evaluated tasks capped: what 36 more tasks leave in memory, if anything, is
    less than two of them take (one task: 1.3 MB of images, 5.7 MB of weights)."""
    peaks = []
    for tasks in (4, 40):
        program = [sys.executable, "-c", MEMORY, str(tmp_path / str(tasks)), str(tasks)]
        done = subprocess.run(
            program,
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "CI": "1"},
        )
        peaks.append(int(done.stdout) / 1024)
    assert len(list((tmp_path / "40").iterdir())) == 40
    assert peaks[1] - peaks[0] < 14, peaks


def test_metadata_is_json_that_people_can_read(finished):
    text = (finished / "task_000" / "metadata.json").read_text()
    assert text.count("\n") > 50 and json.loads(text)["algorithm"] == "SL_3_tasks_er_pl"
    assert str(Path.home()) not in text and "/tmp" not in text
