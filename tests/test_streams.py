"""Streams: which sample goes where, under which label, and which outputs count."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from core_helpers import digit_stream, digits, fingerprints, regression_stream, unique_stream

from course_utils import datasets, streams
from course_utils.streams import Samples


@dataclass(frozen=True)
class Signs:
    """43 classes of four one-pixel images each; the pixel is the class."""

    name: str = "signs43"
    title: str = "43 classes"
    standin: bool = True
    num_classes: int = 43

    @property
    def classes(self):
        return tuple(f"class {c}" for c in range(43))

    def _split(self, count):
        y = np.repeat(np.arange(43), count)
        return datasets.Split(y.astype(np.uint8).reshape(-1, 1, 1, 1), y.astype(np.int64), np.arange(len(y)))

    @property
    def train(self):
        return self._split(4)

    @property
    def validation(self):
        return self._split(1)

    @property
    def test(self):
        return self._split(2)


def pixels(samples: Samples) -> list[int]:
    return samples.x.flatten().tolist()


def test_43_classes_in_5_tasks_are_9_9_9_8_8_in_index_order():
    stream = streams.class_incremental(Signs(), num_tasks=5)
    assert [len(task.classes) for task in stream] == [9, 9, 9, 8, 8]
    assert [c for task in stream for c in task.classes] == list(range(43))
    assert [task.outputs for task in stream] == [9, 18, 27, 35, 43] and stream.num_outputs == 43
    assert [task.columns for task in stream] == [(0, 9), (9, 18), (18, 27), (27, 35), (35, 43)]
    assert stream.standin and stream.title == "43 classes" and stream.image_shape == (1, 1, 1)


def test_the_tasks_partition_every_split():
    stream = streams.class_incremental(Signs(), num_tasks=5)
    for name, count in (("train", 4), ("validation", 1), ("test", 2)):
        found = [pixel for task in stream for pixel in pixels(getattr(task, name))]
        assert sorted(found) == sorted(np.repeat(np.arange(43), count).tolist())


def test_classes_per_task_leaves_the_rest_out():
    stream = streams.class_incremental(Signs(), num_tasks=5, classes_per_task=8)
    assert [len(task.classes) for task in stream] == [8] * 5 and stream.num_outputs == 40
    assert max(pixel for task in stream for pixel in pixels(task.test)) == 39


@pytest.mark.parametrize("make", [streams.class_incremental, streams.task_incremental])
def test_labels_are_positions_in_the_order_of_appearance(make):
    order = list(np.random.default_rng(0).permutation(43))
    stream = make(Signs(), num_tasks=5, class_order=order)
    assert stream.class_names == tuple(f"class {c}" for c in order)
    for task in stream:
        assert pixels(task.train) == [order[y] for y in task.train.y.tolist()]  # the pixel is the original class
        assert task.columns[0] <= task.train.y.min() and task.train.y.max() < task.columns[1]
        assert set(task.train.fields["task"].tolist()) == {task.index}


def test_domain_incremental_reuses_labels_from_zero():
    stream = streams.domain_incremental(Signs(), num_tasks=5)
    starts = [0, 9, 18, 27, 35]
    for task, start in zip(stream, starts, strict=True):
        assert pixels(task.train) == [y + start for y in task.train.y.tolist()]
        assert (task.columns, task.outputs) == ((0, 9), 9)
    assert len(stream.class_names) == 9


def test_explicit_splits_may_leave_classes_out():
    stream = streams.class_incremental(Signs(), class_splits=[(40, 2), (7,)])
    assert [task.classes for task in stream] == [(40, 2), (7,)]
    assert sorted(set(zip(pixels(stream[0].train), stream[0].train.y.tolist(), strict=True))) == [(2, 1), (40, 0)]
    assert set(stream[1].train.y.tolist()) == {2}


def test_limit_keeps_that_many_training_images_a_class_and_no_others():
    full, few = (streams.class_incremental(digits(), num_tasks=5, limit=n, seed=1) for n in (None, 7))
    again, other = (streams.class_incremental(digits(), num_tasks=5, limit=7, seed=s) for s in (1, 2))
    for i in range(5):
        assert Counter(few[i].train.y.tolist()) == {2 * i: 7, 2 * i + 1: 7}
        assert set(fingerprints(few[i].train.x)) <= set(fingerprints(full[i].train.x))
        assert len(few[i].test) == len(full[i].test)
        assert torch.equal(few[i].train.x, again[i].train.x) and not torch.equal(few[i].train.x, other[i].train.x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_tasks": 30}, "num_tasks=30 needs 60 classes, digits has 10; use at most 5"),
        ({"num_tasks": 3, "classes_per_task": 4}, "needs 12 classes, digits has 10; use at most 2"),
        ({"num_tasks": 0}, "at least 1"),
        ({"num_tasks": 2, "classes_per_task": 0}, "at least 1"),
        ({"class_splits": [(0, 1), (1, 2)]}, "distinct"),
        ({"class_splits": [(0, 10)]}, r"among 0\.\.9"),
        ({"class_splits": [(0, 1), ()]}, "empty task"),
        ({"class_splits": [(0, 1)], "num_tasks": 5}, "leave out num_tasks"),
        ({"class_order": [0] * 10}, "distinct"),
        ({"limit": 0}, "a limit of 0 leaves no train images"),
    ],
)
def test_impossible_requests_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        streams.class_incremental(digits(), **options)


def test_unknown_scenario_and_impossible_prefix():
    stream = digit_stream()
    with pytest.raises(ValueError, match="class, task, domain"):
        streams.TaskStream(stream.tasks, "online", (), "")
    assert [task.index for task in stream.first(2)] == [0, 1]
    for count in (0, 4):
        with pytest.raises(ValueError, match="use 1 to 3"):
            stream.first(count)


def test_fields_need_one_row_a_sample():
    with pytest.raises(ValueError, match="one row a sample"):
        Samples({"x": torch.zeros(3), "y": torch.zeros(2)})


def test_join_wants_every_field_of_the_batch():
    batch = {"x": torch.zeros(2, 1), "y": torch.zeros(2)}
    joined = streams.join(batch, {"x": torch.ones(1, 1), "y": torch.ones(1), "more": torch.ones(1)})
    assert joined["x"].tolist() == [[0], [0], [1]] and joined["y"].tolist() == [0, 0, 1] and set(joined) == {"x", "y"}
    with pytest.raises(ValueError, match=r"lack \['y'\]"):
        streams.join(batch, {"x": torch.ones(1, 1)})


@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.9])
def test_blurry_loses_and_doubles_no_sample(scenario, fraction):
    sharp = unique_stream(scenario, num_tasks=3, per_class=11)
    blurred = streams.blurry(sharp, fraction, seed=1)
    before = [fingerprints(task.train.x) for task in sharp]
    after = [fingerprints(task.train.x) for task in blurred]
    assert sorted(sum(before, [])) == sorted(sum(after, []))
    label = {
        h: y
        for task, hashes in zip(sharp, before, strict=True)
        for h, y in zip(hashes, task.train.y.tolist(), strict=True)
    }
    home = {h: task.index for task, hashes in zip(sharp, before, strict=True) for h in hashes}
    for task, hashes in zip(blurred, after, strict=True):
        assert [label[h] for h in hashes] == task.train.y.tolist()
        assert [home[h] for h in hashes] == task.train.fields["task"].tolist()
        assert all(abs(home[h] - task.index) <= 1 for h in hashes)  # only neighbours give
        assert task.outputs > task.train.y.max()  # the head is wide enough for what the task holds
        assert torch.equal(task.test.x, sharp[task.index].test.x)
    left = [1 - np.isin(b, a).mean() for b, a in zip(before, after, strict=True)]
    assert left == pytest.approx([fraction] * 3, abs=1 / len(before[0]))
    middle = Counter(home[h] for h in after[1])
    assert middle[0] == round(fraction * len(before[0])) and middle[2] == round(fraction * len(before[2]))


def test_blurry_of_one_task_and_of_an_impossible_fraction():
    single = unique_stream().first(1)
    assert sorted(fingerprints(streams.blurry(single, 0.5)[0].train.x)) == sorted(fingerprints(single[0].train.x))
    for fraction in (-0.1, 1.0):
        with pytest.raises(ValueError, match="at least 0 and below 1"):
            streams.blurry(single, fraction)


def test_streams_from_arrays_for_regression():
    stream = regression_stream()
    assert (stream.scenario, stream.objective, stream.num_outputs, len(stream)) == ("domain", "regression", 1, 3)
    for task in stream:
        assert task.train.x.dtype == torch.float32  # NumPy's float64 would not fit the networks' weights
        assert (len(task.train), len(task.validation), len(task.test)) == (54, 6, 40)
        together = torch.cat([task.train.x, task.validation.x])
        assert len(torch.unique(together, dim=0)) == 60  # the held-out tenth is not trained on


def test_streams_from_arrays_for_classification():
    x, y = np.zeros((20, 1, 2, 2), dtype=np.uint8), np.arange(20) % 4
    part = {"train": (x, y), "test": (x, y), "validation": (x[:5], y[:5])}
    stream = streams.from_arrays([part, part], name="mine", objective="classification")
    assert stream.num_outputs == 4 and len(stream[0].train) == 20 and len(stream[1].validation) == 5
    assert stream.title == "mine" and stream[0].train.x.dtype == torch.uint8
