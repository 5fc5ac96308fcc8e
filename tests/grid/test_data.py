"""Pairs of classes, the tensors of a task, batches: who meets what, when."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from course_utils import datasets
from course_utils.grid import GridError, data

from .helpers import config, images


def test_no_class_comes_twice_in_a_repeat_and_repeats_differ():
    pairs = data.class_pairs(config(num_tasks=10, num_repeats=16), 20)
    assert pairs.shape == (16, 10, 2)
    assert all(sorted(repeat.reshape(-1)) == list(range(20)) for repeat in pairs)
    assert len({repeat.tobytes() for repeat in pairs}) == 16
    fewer = data.class_pairs(config(num_tasks=4, num_repeats=16), 20)
    assert (fewer == pairs[:, :4]).all()  # a shorter run meets the same tasks


def test_a_slice_of_repeats_meets_the_same_pairs_with_the_same_keys():
    whole, part = config(num_repeats=8), config(num_repeats=3, first_repeat=4)
    assert (data.class_pairs(whole, 8)[4:7] == data.class_pairs(part, 8)).all()
    keys = [jax.random.key_data(data.repeat_keys(which)) for which in (whole, part)]
    assert (keys[0][4:7] == keys[1]).all()
    assert (data.class_pairs(config(seed=1, num_repeats=8), 8) != data.class_pairs(whole, 8)).any()


def test_canonical_storage_has_samples_first_and_class_a_as_0():
    stock, pairs = images(), np.array([[5, 2], [0, 7], [2, 5]])
    x, y = data.task_tensors(stock.train, pairs)
    assert x.shape == (24, 3, 28, 28) and x.dtype == np.uint8 and y.shape == (24, 3)
    for repeat, (a, b) in enumerate(pairs):
        assert (x[y[:, repeat] == 0, repeat] == stock.train[a]).all()
        assert (x[y[:, repeat] == 1, repeat] == stock.train[b]).all()


def test_every_epoch_is_another_permutation():
    order = np.asarray(data.batches(jax.random.key(0), 10, 3, 8))
    assert order.shape == (8, 3)
    epochs = order[:6].reshape(2, 9)
    assert all(len(set(epoch)) == 9 for epoch in epochs) and (epochs[0] != epochs[1]).any()
    assert (np.asarray(data.batches(jax.random.key(0), 10, 3, 5)) == order[:5]).all()
    assert (np.asarray(data.batches(jax.random.key(1), 10, 3, 8)) != order).any()


def test_the_scan_layout_is_the_same_images_batch_by_batch():
    x, _ = data.task_tensors(images().train, np.array([[0, 1], [2, 3]]))
    keys = jax.random.split(jax.random.key(0), 2)
    order = jax.vmap(lambda key: data.batches(key, 24, 8, 6), out_axes=-1)(keys)
    laid = data.scan_layout(x, order)
    assert laid.shape == (6, 8, 2, 28, 28)
    for repeat in range(2):
        first_epoch = np.asarray(laid[:3, :, repeat]).reshape(24, -1)
        assert sorted(map(bytes, first_epoch)) == sorted(map(bytes, x[:, repeat].reshape(24, -1)))


def test_subsamples_are_half_of_each_class_and_follow_the_class():
    asked = config(num_repeats=8)
    pairs = data.class_pairs(asked, 8)
    rows = data.subsample(asked, pairs)
    assert rows.shape == (3, 6, 8)
    assert (rows[:, :3] < 6).all() and (rows[:, 3:] >= 6).all() and rows.max() < 12
    of_class = {}
    for repeat, task, side in np.ndindex(8, 3, 2):
        mine = tuple(rows[task, 3 * side : 3 * side + 3, repeat] - 6 * side)
        assert len(set(mine)) == 3
        assert of_class.setdefault(int(pairs[repeat, task, side]), mine) == mine


def test_the_grid_takes_28x28_grey_images_with_enough_of_each_class(tmp_path):
    for wrong, message in (
        ({"data": "digits"}, r"images \(1, 8, 8\); the grid takes grey ones"),
        ({"data": "no_such"}, r"data='no_such' is not a data set; use one of"),
    ):
        with pytest.raises(GridError, match=message):
            data.load(config(**wrong))
    generator = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 9)
    arrays = {
        f"{split}_{part}": v
        for split in ("train", "test")
        for part, v in (("x", generator.integers(0, 256, (36, 28, 28), dtype=np.uint8)), ("y", y))
    }
    np.savez(tmp_path / "mine.npz", **arrays)
    loaded = data.load(config(data=str(tmp_path / "mine.npz"), num_tasks=2, train_images=8, replay_images=2))
    assert loaded.train.shape == (4, 8, 28, 28) and loaded.test.shape == (4, 6, 28, 28) and loaded.folder == "mine"
    assert all((loaded.test[k] == arrays["test_x"][y == k][:6]).all() for k in range(4))
    with pytest.raises(GridError, match=r"test_images=10, but class 0 of mine has 9 images; use at most 9"):
        data.load(config(data=str(tmp_path / "mine.npz"), num_tasks=2, test_images=10, train_images=8))


def test_glyphs_are_the_offline_default():
    assert "glyphs" in datasets.names()
    loaded = data.load(config(data="glyphs"))
    assert loaded.standin and len(loaded.names) == 200 and "stand-in" in loaded.title


def test_a_standin_can_be_refused_and_a_file_of_ones_own_is_none(tmp_path, monkeypatch):
    for name in ("COURSE_DATA", "COURSE_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    with pytest.raises(datasets.DataNotFound, match="course data get tiny_imagenet_gray"):
        data.load(config(data="tiny_imagenet_gray"), allow_standin=False)
    x, y = np.zeros((60, 28, 28), np.uint8), np.repeat(np.arange(6), 10)
    np.savez(tmp_path / "mine.npz", train_x=x, train_y=y, test_x=x, test_y=y)
    loaded = data.load(config(data=str(tmp_path / "mine.npz"), train_images=8), allow_standin=False)
    assert loaded.source == "arrays" and not loaded.standin
