"""Metrics of scores against scipy and by hand."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from course_utils import quality
from course_utils.quality import metrics


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    y = generator.random(60)
    return (y + 0.3 * generator.random(60)).round(1), y.round(1)  # with ties


def test_correlations_are_scipys(pair):
    assert quality.srcc(*pair) == pytest.approx(stats.spearmanr(*pair).statistic)
    assert quality.plcc(*pair) == pytest.approx(stats.pearsonr(*pair).statistic)
    assert quality.kendall(*pair) == pytest.approx(stats.kendalltau(*pair).statistic)


def test_kendall_at_the_edges():
    assert quality.kendall([1, 2, 3], [3, 2, 1]) == -1
    assert np.isnan(quality.kendall([1, 1], [1, 2])) and np.isnan(quality.kendall([1, np.nan], [1, 2]))
    with pytest.raises(ValueError, match="two vectors of the same length"):
        quality.kendall([1, 2], [1, 2, 3])


def kendall_at_once(x, y):
    """All pairs in one matrix, the plain definition."""
    first, second = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
    return float((first * second).sum() / np.sqrt(np.abs(first).sum() * np.abs(second).sum()))


@pytest.mark.parametrize("pairs", [1, 100, 1000, 10**6])
def test_kendall_in_parts_is_the_whole_to_the_last_bit(monkeypatch, pairs):
    monkeypatch.setattr(metrics, "PAIRS", pairs)
    generator = np.random.default_rng(4)
    for decimals in (0, 1, 2, 9):
        for n in (2, 7, 101):
            x, y = generator.random((2, n)).round(decimals)
            if np.ptp(x) and np.ptp(y):
                assert quality.kendall(x, y) == kendall_at_once(x, y)
                assert quality.kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)


def test_kendall_of_many_images_takes_little_memory():
    x, y = np.random.default_rng(5).random((2, 6000)).round(2)
    tracemalloc.start()
    found = quality.kendall(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80e6  # all pairs at once are 288 MB an array
    assert found == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)


def test_the_error_is_in_the_unit_of_the_scores(pair):
    assert quality.rmse([0.5, 0.7], [0.4, 0.8]) == pytest.approx(0.1)
    assert quality.rmse(pair[0] + 0.3, pair[0]) == pytest.approx(0.3)  # no correlation sees this
    assert quality.rmse(*pair) == pytest.approx(np.linalg.norm(pair[0] - pair[1]) / np.sqrt(60))
    assert np.isnan(quality.rmse([], [])) and np.isnan(quality.rmse([np.nan, 1], [0, 1]))
    with pytest.raises(ValueError, match="two vectors of the same length"):
        quality.rmse([[1.0]], [1.0])


R = np.array([[0.8, 0.1, 0.0], [0.5, 0.9, 0.2], [0.2, 0.6, 0.7]])


def test_numbers_of_a_stream_by_hand():
    np.testing.assert_allclose(quality.mean_srcc(R), [0.8, 0.7, 0.5])
    assert quality.plasticity_index(R) == pytest.approx(0.8)
    summary = quality.quality_summary(R)
    assert summary["mean_srcc"] == pytest.approx(0.5) and np.isnan(summary["stability_index"])
    assert summary["forgetting"] == pytest.approx((0.6 + 0.3) / 2)


def test_stability_without_the_flattering_term():
    generator = np.random.default_rng(1)
    p = [[generator.random(20) for _ in range(3)] for _ in range(3)]
    rho = lambda i, j: stats.spearmanr(p[i][j], p[j][j]).statistic  # noqa: E731
    expected = (rho(1, 0) + (rho(2, 0) + rho(2, 1)) / 2) / 2
    assert quality.stability_index(p) == pytest.approx(expected)
    turned = [[p[0][0], p[0][1]], [-p[0][0], p[1][1]]]
    assert quality.stability_index(turned) == pytest.approx(-1)
    assert np.isnan(quality.stability_index([[p[0][0]]]))
    with pytest.raises(ValueError, match="task 0 after task 1 were not recorded"):
        quality.stability_index([[p[0][0], None], [None, p[1][1]]])


def test_bootstrap_agrees_with_scipys_percentiles():
    generator = np.random.default_rng(2)
    y = generator.normal(size=200)
    x = y + generator.normal(size=200)
    found = quality.bootstrap_interval(quality.plcc, x, y, samples=1000)
    theirs = stats.bootstrap(
        (x, y), lambda a, b: stats.pearsonr(a, b).statistic, paired=True, vectorized=False, n_resamples=1000,
        method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert found.estimate == pytest.approx(stats.pearsonr(x, y).statistic)
    assert found.low == pytest.approx(theirs.low, abs=0.02) and found.high == pytest.approx(theirs.high, abs=0.02)
    assert found == quality.bootstrap_interval(quality.plcc, x, y, samples=1000)  # seeded


def test_images_of_one_group_are_drawn_together():
    """Every image copied eight times: the same information, and the interval must not shrink."""
    generator = np.random.default_rng(3)
    y = generator.normal(size=40)
    x = y + generator.normal(size=40)
    single = quality.bootstrap_interval(quality.srcc, x, y, samples=300)
    copied = np.repeat(x, 8), np.repeat(y, 8)
    grouped = quality.bootstrap_interval(quality.srcc, *copied, groups=np.repeat(np.arange(40), 8), samples=300)
    naive = quality.bootstrap_interval(quality.srcc, *copied, samples=300)
    assert grouped.high - grouped.low > 0.8 * (single.high - single.low) > 1.5 * (naive.high - naive.low)
    with pytest.raises(ValueError, match="samples=1"):
        quality.bootstrap_interval(quality.srcc, x, y, samples=1)
