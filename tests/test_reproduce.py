"""The reproduction of the published protocol: its weights, memories and losses by hand, its files, its table."""

from __future__ import annotations

import gzip
import json
import math
import struct
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from core_helpers import Recorder, Scramble, fingerprints, make_learner, same, unique_stream, weights
from helpers import ROOT

from course_utils import methods
from course_utils.datasets import DataCorrupt, DataNotFound

sys.path.insert(0, str(ROOT / "benchmarks"))
import reproduce  # noqa: E402

SCENARIOS = ("class", "task", "domain")


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """No data set from anywhere else, no network, nothing remembered from another test."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    monkeypatch.setenv("COURSE_QUIET", "1")
    reproduce.load_data.cache_clear()
    reproduce.digest.cache_clear()


def images(count: int, side: int = 6, seed: int = 0):
    """Random images with the labels 0, 1, ..., 9, 0, ...; one bright pixel tells the label."""
    y = np.arange(count) % 10
    x = np.random.default_rng(seed).integers(0, 120, (count, side, side)).astype(np.uint8)
    x[np.arange(count), y % side, y // side] += 100
    return x, y.astype(np.uint8)


@pytest.fixture
def tiny(tmp_path):
    """An .npz as Keras has it: 20 training and 2 test images a class."""
    (x_train, y_train), (x_test, y_test) = images(200), images(20, seed=1)
    path = tmp_path / "tiny.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


def write_idx(raw, packed: bool):
    """MNIST's four files with 40 + 20 images of 28x28; returns the arrays."""
    raw.mkdir(parents=True)
    (x_train, y_train), (x_test, y_test) = images(40, 28), images(20, 28, seed=1)
    for prefix, x, y in (("train", x_train, y_train), ("t10k", x_test, y_test)):
        image_bytes = struct.pack(">BBBBIII", 0, 0, 8, 3, *x.shape) + x.tobytes()
        label_bytes = struct.pack(">BBBBI", 0, 0, 8, 1, len(y)) + y.tobytes()
        for name, content in (
            (f"{prefix}-images-idx3-ubyte", image_bytes),
            (f"{prefix}-labels-idx1-ubyte", label_bytes),
        ):
            path = raw / (f"{name}.gz" if packed else name)
            path.write_bytes(gzip.compress(content) if packed else content)
    return x_train, y_train, x_test, y_test


# ---- the losses, by hand -----------------------------------------------------------------------------------------


def log_softmax(row: list[float]) -> list[float]:
    total = math.log(sum(math.exp(value - max(row)) for value in row)) + max(row)
    return [value - total for value in row]


def competing(scenario: str, task_now: int, task_of: int) -> range:
    """Columns of the head for tasks of two classes."""
    return {"class": range(2 * task_now + 2), "task": range(2 * task_of, 2 * task_of + 2), "domain": range(2)}[scenario]


def cross_entropy(scenario: str, task_now: int, out, batch, rows: list[int]) -> float:
    total = 0.0
    for row in rows:
        columns = competing(scenario, task_now, int(batch["task"][row]))
        answer = log_softmax([float(out[row, column]) for column in columns])
        total -= answer[columns.index(int(batch["y"][row]))]
    return total / len(rows)


class Compare(methods.Method):
    """Put last: keeps the loss as it came in, and the same by `reference(learner, batch, out)`."""

    name = "compare"

    def __init__(self, reference):
        self.reference, self.pairs = reference, []

    def loss(self, learner, batch, out, loss):
        self.pairs.append((learner.task.index, float(loss.detach()), self.reference(learner, batch, out.detach())))
        return loss


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_replay_gives_every_task_its_share(scenario):
    def reference(learner, batch, out):
        now = learner.task.index
        old = [row for row in range(len(out)) if batch["replayed"][row]]
        new = [row for row in range(len(out)) if not batch["replayed"][row]]
        current = cross_entropy(scenario, now, out, batch, new)
        if now == 0:
            assert not old
            return current
        assert len(old) == len(new) == 8
        return {1: 1 / 2, 2: 1 / 3}[now] * current + {1: 1 / 2, 2: 2 / 3}[now] * cross_entropy(
            scenario, now, out, batch, old
        )

    stream, compare = unique_stream(scenario), Compare(reference)
    make_learner(stream, [reproduce.ER(), compare], steps=3).fit(stream)
    assert [task for task, _, _ in compare.pairs] == [0] * 3 + [1] * 3 + [2] * 3
    for _, value, expected in compare.pairs:
        assert value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_lwf_is_the_weighted_sum_with_a_padded_teacher(scenario):
    recorder = Recorder()

    def distillation(teacher, out, old: range, seen: range) -> float:
        total = 0.0
        for row in range(len(out)):
            target = [math.exp(v) for v in log_softmax([float(teacher[row, c]) / 2 for c in old])]
            target += [0.0] * (len(seen) - len(old))
            answer = log_softmax([float(out[row, c]) / 2 for c in seen])
            total -= sum(t * a for t, a in zip(target, answer, strict=True))
        return total / len(out)

    def reference(learner, batch, out):
        now = learner.task.index
        current = cross_entropy(scenario, now, out, batch, list(range(len(out))))
        if now == 0:
            return current
        with torch.no_grad():
            teacher = recorder.before[now](batch["input"])  # as it was before the head grew
        if scenario == "class":
            terms = [distillation(teacher, out, range(2 * now), range(2 * now + 2))]
        elif scenario == "task":
            terms = [distillation(teacher, out, range(2 * t, 2 * t + 2), range(2 * t, 2 * t + 2)) for t in range(now)]
        else:
            terms = [distillation(teacher, out, range(2), range(2))]
        return current / (now + 1) + now / (now + 1) * sum(terms) / len(terms)

    stream, compare = unique_stream(scenario), Compare(reference)
    make_learner(stream, [recorder, *reproduce.METHODS["lwf"](scenario), compare], steps=3).fit(stream)
    assert [task for task, _, _ in compare.pairs] == [0] * 3 + [1] * 3 + [2] * 3
    for _, value, expected in compare.pairs:
        assert value == pytest.approx(expected, rel=1e-5)


# ---- the memories ------------------------------------------------------------------------------------------------


class Watch(methods.Method):
    """Put last: what a memory holds after every task."""

    name = "watch"

    def __init__(self, buffer):
        self.buffer, self.seen = buffer, []

    def after_task(self, learner, task, data):
        held = self.buffer.all()
        self.seen.append({name: value.clone() for name, value in held.items()})


@pytest.mark.parametrize("method", ["er", "agem"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_hundred_exemplars_of_every_class_seen(scenario, method):
    data = reproduce.load_data("digits")
    assert np.bincount(data.train.y).min() > 100
    stream = reproduce.STREAMS[scenario](data, num_tasks=5)
    (keeper,) = reproduce.METHODS[method](scenario)
    watch = Watch(keeper.buffer)
    make_learner(stream, [keeper, watch], steps=1).fit(stream)
    earlier: set[str] = set()
    for index, held in enumerate(watch.seen):
        classes = held["y"] + (2 * held["task"] if scenario == "domain" else 0)
        assert Counter(classes.tolist()) == dict.fromkeys(range(2 * index + 2), 100)
        assert len(set(held["group"].tolist())) == len(held["group"])  # no image twice
        now = set(fingerprints(held["x"]))
        assert earlier <= now
        earlier = now
    own = {image: int(y) for image, y in zip(fingerprints(torch.as_tensor(data.train.x)), data.train.y, strict=True)}
    final = zip(fingerprints(held["x"]), classes.tolist(), strict=True)
    assert all(own[image] == label for image, label in final)


def test_exemplars_are_drawn_at_random_and_by_the_seed():
    labels = torch.arange(60) % 2

    def rows(seed):
        return reproduce.exemplar_rows(labels, 5, torch.Generator().manual_seed(seed))

    assert torch.equal(rows(0), rows(0)) and not torch.equal(rows(0).sort().values, rows(1).sort().values)
    times = Counter(row for seed in range(600) for row in rows(seed).tolist())
    expected = 600 * 5 / 30  # of 600 draws, each row is in a sixth; standard deviation 9.1
    assert len(times) == 60 and all(abs(count - expected) < 50 for count in times.values())
    few = reproduce.exemplar_rows(torch.tensor([0, 1, 1]), 2, torch.Generator())
    assert sorted(few.tolist()) == [0, 1, 2]


# ---- the other methods -------------------------------------------------------------------------------------------


def test_no_fisher_after_the_last_task_changes_nothing_else():
    stream, ours, package = unique_stream("class"), reproduce.EWC(100.0), methods.EWC(100.0)
    results = []
    for method in (ours, package):
        learner = make_learner(stream, [method])
        learner.fit(stream)
        results.append(weights(learner.model))
    assert same(*results) and (len(ours.terms), len(package.terms)) == (2, 3)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_joint_is_trained_once_on_everything(scenario):
    stream, recorder = unique_stream(scenario), Recorder()

    def train(*before):
        learner = make_learner(stream, [*before, reproduce.Joint(), recorder], steps=8)
        return learner.fit(stream), weights(learner.model)

    history, plain = train()
    assert history.steps.tolist() == [0, 0, 24]
    assert [len(batches) for batches in recorder.batches] == [0, 0, 24]
    used = torch.cat([batch["x"] for batch in recorder.batches[2]])
    everything = torch.cat([task.train.x for task in stream])  # 72 images, 192 places
    assert set(fingerprints(used)) == set(fingerprints(everything))
    assert same(plain, train(Scramble())[1])  # fresh, whatever was there before


def test_settings_are_those_of_the_protocol(tiny):
    """Typed here again from params/param_values.py of the authors' code."""
    ewc, si = {"task": 1e5, "domain": 1e10, "class": 1e9}, {"task": 10, "domain": 50_000, "class": 5_000}
    for scenario in SCENARIOS:
        (separate,), (online,) = reproduce.METHODS["ewc"](scenario), reproduce.METHODS["online_ewc"](scenario)
        assert separate.strength == online.strength == ewc[scenario]
        assert separate.labels == online.labels == "all" and online.online and not separate.online
        (method,) = reproduce.METHODS["si"](scenario)
        assert method.strength / 2 == si[scenario] and method.damping == 0.1
    stream = reproduce.STREAMS["class"](reproduce.load_data(str(tiny)), num_tasks=5)
    learner = reproduce.make_learner(stream, reproduce.configuration(str(tiny), "class", "agem", 3, 2000))
    assert [tuple(p.shape) for p in learner.model.parameters()][:4] == [(400, 36), (400,), (400, 400), (400,)]
    assert (learner.batch_size, learner.lr, learner.seed, learner.steps_per_task) == (128, 1e-3, 3, 2000)
    assert learner.keep_optimizer and learner.optimizer_name == "adam" and learner.methods[0].batch_size is None
    assert [task.classes for task in stream] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]


# ---- data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layout", ["mnist", "root", "raw", "npz"])
def test_mnist_is_read_as_it_was_written(tmp_path, packed, layout):
    raw = tmp_path / "data" / "MNIST" / "raw"
    arrays = write_idx(raw, packed)
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez(tmp_path / "MNIST.npz", **dict(zip(names, arrays, strict=True)))
    where = {"mnist": "mnist", "root": raw.parents[1], "raw": raw, "npz": tmp_path / "MNIST.npz"}[layout]
    data = reproduce.load_data(str(where))
    assert np.array_equal(data.train.x[:, 0], arrays[0]) and np.array_equal(data.train.y, arrays[1])
    assert np.array_equal(data.test.x[:, 0], arrays[2]) and np.array_equal(data.test.y, arrays[3])
    assert len(data.validation) == 0 and data.num_classes == 10
    assert reproduce.data_name(str(where)) == ("data" if layout == "root" else "mnist")
    assert len(reproduce.digest(str(where))) == 16


def test_the_digest_sees_one_pixel(tiny, tmp_path):
    held = dict(np.load(tiny))
    held["x_test"][3, 2, 1] ^= 1
    np.savez(tmp_path / "other.npz", **held)
    assert reproduce.digest(str(tiny)) != reproduce.digest(str(tmp_path / "other.npz"))


def test_no_training_image_is_held_out():
    from course_utils import datasets

    data, whole = datasets.load("digits"), reproduce.load_data("digits")
    parts = np.concatenate([data.train.x, data.validation.x])
    assert len(whole.train) == len(parts) and np.array_equal(whole.test.x, data.test.x)
    assert Counter(fingerprints(torch.as_tensor(parts))) == Counter(fingerprints(torch.as_tensor(whole.train.x)))


def test_bad_data_say_what_was_expected(tmp_path, tiny):
    raw = tmp_path / "data" / "MNIST" / "raw"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataNotFound, match="COURSE_OFFLINE forbids the download"):
        reproduce.load_data("mnist")
    write_idx(raw, packed=True)
    labels = raw / "t10k-labels-idx1-ubyte.gz"
    whole = labels.read_bytes()
    labels.write_bytes(whole[:-6])
    with pytest.raises(DataCorrupt, match=r"cannot read .*t10k-labels-idx1-ubyte\.gz"):
        reproduce.load_data("mnist")
    labels.write_bytes(gzip.compress(gzip.decompress(whole)[:-3]))
    with pytest.raises(DataCorrupt, match="t10k-labels-idx1-ubyte|labels"):
        reproduce.load_data("mnist")
    labels.unlink()
    with pytest.raises(DataNotFound, match="lacks t10k-labels-idx1-ubyte"):
        reproduce.load_data("mnist")
    with pytest.raises(DataNotFound, match="nothing of the kind"):
        reproduce.load_data(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="--data fashion is neither mnist"):
        reproduce.load_data("fashion")
    with pytest.raises(DataNotFound, match=r"none\.npz does not exist"):
        reproduce.load_data(str(tmp_path / "none.npz"))

    held = dict(np.load(tiny))
    np.savez(tmp_path / "short.npz", **{k: v for k, v in held.items() if k != "y_test"})
    with pytest.raises(DataCorrupt, match="lacks y_test"):
        reproduce.load_data(str(tmp_path / "short.npz"))
    np.savez(tmp_path / "eight.npz", **{k: v[held[f"y_{k[2:]}"] < 8] for k, v in held.items()})
    with pytest.raises(ValueError, match=r"eight\.npz has 8 classes"):
        reproduce.load_data(str(tmp_path / "eight.npz"))
    (tmp_path / "broken.npz").write_bytes(tiny.read_bytes()[:500])
    with pytest.raises(DataCorrupt, match=r"cannot read .*broken\.npz"):
        reproduce.load_data(str(tmp_path / "broken.npz"))


# ---- runs, records, table ----------------------------------------------------------------------------------------


def start(tiny, output, *more: str) -> int:
    return reproduce.main(["--data", str(tiny), "--output", str(output), "--iterations", "3", *more])


@pytest.mark.filterwarnings("ignore:the penalty of")  # three iterations at the protocol's lambda
def test_from_the_command_to_the_table_and_again(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reproduce, "FISHER_IMAGES", 10)
    output = tmp_path / "results" / "runs.json"
    assert start(tiny, output, "--seeds", "1") == 0
    printed = capsys.readouterr().out
    runs = json.loads(output.read_text())["runs"]
    ran = [(entry["config"]["method"], entry["config"]["scenario"]) for entry in runs]
    assert sorted(ran) == sorted((method, scenario) for method in reproduce.METHODS for scenario in SCENARIOS)
    for entry in runs:
        assert entry["accuracy"] == pytest.approx(np.mean(entry["accuracy_matrix"][-1])) and 0 <= entry["accuracy"] <= 1
        assert entry["steps"] == ([0, 0, 0, 0, 15] if entry["config"]["method"] == "joint" else [3] * 5)
        assert f"| {100 * entry['accuracy']:.2f} (1 seed) |" in printed
        assert entry["code"] == reproduce.code(entry["config"]["method"])
    assert str(tmp_path) not in output.read_text() and list(output.parent.iterdir()) == [output]

    # Again, with one seed more: only that is run; and then nothing, not even by the table.
    made, real = [], reproduce.run
    monkeypatch.setattr(reproduce, "run", lambda where, config: made.append(config) or real(where, config))
    choice = ("--methods", "none", "er", "--scenarios", "class", "--seeds", "2")
    assert start(tiny, output, *choice) == 0
    assert [(config["method"], config["seed"]) for config in made] == [("none", 1), ("er", 1)]
    before = output.read_bytes()
    assert start(tiny, output, *choice) == 0 and start(tiny, output, "--table") == 0
    assert len(made) == 2 and output.read_bytes() == before
    assert capsys.readouterr().out.count("(2 seeds)") == 3 * 2

    output.write_bytes(before[:-40])
    assert start(tiny, output, *choice) == 1 and "not a file of this program" in capsys.readouterr().err
    assert output.read_bytes() == before[:-40]


def test_seeds_come_first(tiny, tmp_path):
    choice = ("--methods", "none", "er", "--scenarios", "class", "task", "--seeds", "2")
    assert start(tiny, tmp_path / "runs.json", *choice) == 0
    runs = reproduce.read_runs(tmp_path / "runs.json")
    assert [entry["config"]["seed"] for entry in runs] == [0] * 4 + [1] * 4
    assert len({json.dumps(entry["accuracy_matrix"]) for entry in runs}) > 4  # seeds, methods, scenarios differ


@pytest.mark.slow
def test_another_process_gives_the_same(tiny):
    """Two jobs, one run: a second process would cost another import of PyTorch."""
    config = reproduce.configuration(str(tiny), "class", "er", 1, 3)
    here, there = (next(reproduce.finished(str(tiny), [config], jobs)) for jobs in (1, 2))
    same_for_all = ("config", "accuracy", "accuracy_matrix", "steps")
    assert [here[key] for key in same_for_all] == [there[key] for key in same_for_all]


class Diverge(methods.Method):
    name = "diverge"

    def loss(self, learner, batch, out, loss):
        return loss * math.nan


def test_a_run_that_diverges_is_told_and_not_kept(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(reproduce.METHODS, "ewc", lambda scenario: [Diverge()])
    output = tmp_path / "runs.json"
    assert start(tiny, output, "--methods", "ewc", "none", "--scenarios", "class", "--seeds", "1") == 1
    assert "ewc        seed 0: failed: the loss is nan" in capsys.readouterr().out
    assert [entry["config"]["method"] for entry in reproduce.read_runs(output)] == ["none"]


def entry(tiny, scenario, method, seed, accuracy, iterations=2000, **more):
    config = reproduce.configuration(str(tiny), scenario, method, seed, iterations) | more
    return {
        "config": config, "accuracy": accuracy, "processor_seconds": 10.0 * (seed + 1), "machine": "an abacus",
        "code": reproduce.code(method),
    }  # fmt: skip


def cells(text: str, method: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {method} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_table_gives_mean_error_and_what_was_published(tiny, monkeypatch):
    runs = [entry(tiny, "class", "er", seed, value) for seed, value in enumerate((0.5, 0.6, 0.7))]
    runs += [entry(tiny, "task", "er", 0, 0.987), entry(tiny, "class", "none", 0, 0.1995)]
    text = reproduce.table(runs)
    # 50, 60, 70: standard deviation 10, divided by the root of 3.
    published = ["88.79 ± 0.20 [a]", "99.40 ± 0.08 [d]"]
    assert cells(text, "er") == ["60.00 ± 5.77 (3 seeds)", published[0], "98.70 (1 seed)", published[1], "15"]
    assert cells(text, "none") == ["19.95 (1 seed)", "19.89 ± 0.02 [a]", "-", "85.15 ± 1.00 [b]", "10"]
    assert text.splitlines()[0].count("published, MNIST") == 2 and "class-incremental, tiny" in text
    assert "domain-incremental" not in text and "| agem |" not in text
    assert "- [a] van de Ven" in text and "- [d] Hsu" in text and "- [c]" not in text
    assert "Fisher on" not in text
    monkeypatch.setattr(reproduce, "FISHER_IMAGES", 1000)
    assert "Fisher on 1,000 images" in reproduce.table([*runs, entry(tiny, "class", "ewc", 0, 0.2)])
    assert "measured on an abacus" in text and "other" not in text.replace("another protocol", "")


def test_the_table_mixes_nothing(tiny):
    runs = [entry(tiny, "class", "er", 0, 0.5), entry(tiny, "class", "er", 1, 0.9, iterations=500)]
    runs.append(entry(tiny, "class", "er", 2, 0.9, settings={"er": {"memory": 5}}))
    text = reproduce.table(runs)
    assert cells(text, "er")[0] == "50.00 (1 seed)" and "2 runs of other settings" in text
    assert cells(reproduce.table(runs, 500), "er")[0] == "90.00 (1 seed)"
    assert "no runs with 7 iterations" in reproduce.table(runs, 7)
    stale = {**entry(tiny, "class", "er", 1, 0.5), "code": "0" * 16}
    assert "1 of 2 runs were made by other code" in reproduce.table([runs[0], stale])
    with pytest.raises(ValueError, match="2 different sets of images"):
        reproduce.table([runs[0], entry(tiny, "class", "none", 0, 0.2, images="else")])


def test_published_numbers_have_a_source():
    for (method, scenario), (mean, error, source) in reproduce.PUBLISHED.items():
        assert method in reproduce.METHODS and scenario in SCENARIOS and source in reproduce.SOURCES
        assert 10 <= mean <= 100 and 0 < error < 5
    # Only what was published about this method in this form: sums to the number of figures in the sources' tables.
    assert Counter(source for _, _, source in reproduce.PUBLISHED.values()) == {"a": 6, "b": 10, "c": 2, "d": 2}


def test_the_code_of_a_run_is_that_of_its_method():
    codes = {method: reproduce.code(method) for method in reproduce.METHODS}
    assert codes["ewc"] == codes["online_ewc"] == reproduce.code("ewc")
    assert len(set(codes.values())) == len(codes) - 1


def test_the_page_with_the_table_shows_the_recorded_runs():
    """`results/reproduce_fashion_mnist.md` is what `--table` prints, three seeds of everything, five of A-GEM."""
    folder = reproduce.ROOT / "results"
    page = (folder / "reproduce_fashion_mnist.md").read_text(encoding="utf-8")
    runs = reproduce.read_runs(folder / "reproduce_fashion_mnist.json")
    assert page.strip() == reproduce.table(runs).strip()
    counts = {key: len(entries) for key, entries in reproduce.select(runs, reproduce.ITERATIONS).items()}
    assert set(counts) == {(method, scenario) for method in reproduce.METHODS for scenario in reproduce.STREAMS}
    assert min(counts.values()) >= 3 and counts["agem", "class"] >= 5
