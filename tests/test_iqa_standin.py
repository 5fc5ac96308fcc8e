"""The drawn photographs: deterministic, labelled, of known quality, and spoilt as their levels say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, stats

from course_utils import Learner, quality
from course_utils.datasets import eva
from course_utils.datasets.standins import photos
from course_utils.datasets.standins.photos import distortions, scenes


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))


def scene(category: int = 3, seed: int = 0) -> np.ndarray:
    return scenes.draw_scene(category, 64, np.random.default_rng([category, seed]))


def test_same_arguments_same_bytes_and_more_leave_the_others_alone(cache, tmp_path, monkeypatch):
    first = photos.load("ava", 12, 12, 12, seed=3)
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "other"))
    again, more = photos.load("ava", 12, 12, 12, seed=3), photos.load("ava", 24, 12, 12, seed=3)
    for split in ("train", "validation", "test"):
        for field in ("x", "y", "group", "score", "spread", "distribution", "truth"):
            assert np.array_equal(getattr(getattr(first, split), field), getattr(getattr(again, split), field))
    assert np.array_equal(more.train.x[:12], first.train.x)
    assert not np.array_equal(photos.load("ava", 12, 12, 12, seed=4).train.x, first.train.x)


def test_it_is_labelled_wherever_it_plays_a_part(cache):
    for name, title in (
        ("eva", "EVA stand-in (procedural)"),
        ("ava", "AVA stand-in (procedural)"),
        ("photos", "Photographs (procedural stand-in)"),
    ):
        data = photos.load(name, 12, 12, 12)
        assert data.standin and data.title == title and data.classes == eva.CATEGORIES
        assert len(data.train) == (24 if name == "photos" else 12)
    stream = quality.dataset_stream([photos.load("eva", 12, 12, 12), photos.load("ava", 12, 12, 12)])
    assert stream.standin and "stand-in" in stream.title


def test_scores_are_votes_about_a_known_quality(cache):
    data = photos.load("eva", 240, 12, 12).train
    assert stats.spearmanr(data.score, data.truth).statistic > 0.97
    assert np.abs(data.score - data.truth).mean() < 0.05
    np.testing.assert_allclose(data.distribution @ np.linspace(0, 1, 11), data.score, atol=1e-6)
    assert 0.1 < data.spread.mean() < 0.16 and data.truth.min() < 0.2 and data.truth.max() == 1
    counts = np.unique(data.group, return_counts=True)[1]
    assert (counts == 2).all() and np.bincount(data.y).tolist() == [40] * 6


def test_pictures_of_the_two_parts_never_coincide(cache):
    first, second = photos.load("eva", 24, 12, 12), photos.load("ava", 24, 12, 12)
    groups = [getattr(data, split).group for data in (first, second) for split in ("train", "validation", "test")]
    joined = np.concatenate([np.unique(group) for group in groups])
    assert len(np.unique(joined)) == len(joined)


def test_quality_falls_with_every_level():
    assert distortions.quality({}) == 1
    for name in distortions.DISTORTIONS:
        assert distortions.quality({name: 1}) == pytest.approx(0.1)
    assert distortions.quality({"blur": 0.5, "noise": 0.5}) == pytest.approx(0.55**2)


def sharpness(image) -> float:
    return float(np.abs(ndimage.laplace(image.astype(float).mean(axis=2))).mean())


def seams(image) -> float:
    """Steps across the borders of 4x4 blocks, over the steps within them."""
    steps = np.abs(np.diff(image.astype(float).mean(axis=2), axis=1))
    border = np.arange(steps.shape[1]) % 4 == 3
    return float(steps[:, border].mean() / (steps[:, ~border].mean() + 1e-6))


@pytest.mark.parametrize(
    ("name", "measure", "sign"),
    [
        ("blur", sharpness, -1),
        ("noise", sharpness, 1),
        ("contrast", lambda image: float(image.std()), -1),
        ("blocking", seams, 1),
        ("jpeg", lambda image: float(np.abs(image - scene()).mean()), 1),
    ],
)
def test_each_distortion_does_what_it_is_called(name, measure, sign):
    values = [
        measure(distortions.distort(scene(), {name: level}, np.random.default_rng(0)))
        for level in (0.0, 0.2, 0.5, 0.8, 1)
    ]
    assert all(sign * (later - earlier) > 0 for earlier, later in zip(values, values[1:], strict=False)), values


def test_unknown_levels_are_refused():
    with pytest.raises(ValueError, match="blur.*expected levels from 0 to 1"):
        distortions.distort(scene(), {"blur": 1.5}, np.random.default_rng(0))
    with pytest.raises(ValueError, match="fog"):
        distortions.distort(scene(), {"fog": 0.5}, np.random.default_rng(0))
    for options, message in (({"train": 10}, "train=10; expected a multiple of 12"), ({"size": 16}, "size=16")):
        with pytest.raises(ValueError, match=message):
            photos.load("eva", **options)
    with pytest.raises(ValueError, match="got 'koniq'"):
        photos.load("koniq")


def test_scenes_have_texture_and_say_nothing_about_quality():
    drawn = np.stack([scene(category, seed) for category in range(6) for seed in range(3)])
    assert drawn.shape == (18, 64, 64, 3) and drawn.min() >= 0 and drawn.max() <= 255
    assert min(sharpness(image) for image in drawn) > 4  # there is something that blur can take away
    assert len({image.tobytes() for image in drawn}) == 18


@pytest.mark.slow
def test_a_small_network_learns_the_order(cache):
    """The label is in the pixels: after 100 steps SRCC on new scenes is far from chance."""
    data = photos.load("eva", 360, 12, 120)
    stream = quality.dataset_stream([data])
    learner = Learner(
        quality.build_scorer("mobilenet_v3_small"), lr=1e-3, batch_size=32, steps_per_task=100,
        objective=quality.QualityObjective(), show_progress=False,
    )  # fmt: skip
    assert learner.fit(stream).accuracy[0, 0] > 0.3
