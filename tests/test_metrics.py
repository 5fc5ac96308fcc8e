"""Metrics against matrices worked out by hand, and correlations against SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from course_utils import metrics

NAN = float("nan")
# The best score on task 1 comes last and task 2 loses ten points.
R = np.array([[80.0, NAN, NAN], [70.0, 90.0, NAN], [85.0, 80.0, 95.0]])
# Task 1 is at its best after task 2: forgetting is more than -BWT.
LATE_BEST = np.array([[50.0, NAN, NAN], [60.0, 70.0, NAN], [40.0, 65.0, 90.0]])
FULL = np.array([[90.0, 60.0, 55.0], [85.0, 92.0, 70.0], [80.0, 88.0, 94.0]])


def test_golden_matrices():
    assert metrics.average_accuracy(R) == pytest.approx((85 + 80 + 95) / 3)
    assert metrics.backward_transfer(R) == pytest.approx(((85 - 80) + (80 - 90)) / 2)  # -2.5
    assert metrics.forgetting(R) == pytest.approx(((80 - 85) + (90 - 80)) / 2)  # 2.5
    assert metrics.average_incremental_accuracy(R) == pytest.approx((80 + (70 + 90) / 2 + (85 + 80 + 95) / 3) / 3)
    assert metrics.backward_transfer(LATE_BEST) == pytest.approx(-7.5)
    assert metrics.forgetting(LATE_BEST) == pytest.approx(12.5)


def test_forgetting_is_minus_backward_transfer_when_the_first_score_is_the_best():
    falling = [[90, 0, 0], [80, 95, 0], [60, 70, 99]]
    assert metrics.forgetting(falling) == pytest.approx(-metrics.backward_transfer(falling)) == pytest.approx(27.5)


def test_forgetting_ignores_scores_from_before_a_task_was_learned():
    lucky = FULL.copy()
    lucky[0, 1] = 100.0  # task 2 before it was trained
    assert metrics.forgetting(lucky) == pytest.approx(((90 - 80) + (92 - 88)) / 2) == metrics.forgetting(FULL)


def test_forward_transfer():
    assert metrics.forward_transfer(FULL, [50, 52, 48]) == pytest.approx(((60 - 52) + (70 - 48)) / 2)


def test_forward_transfer_is_refused_where_it_was_not_measured():
    with pytest.raises(ValueError, match="not measured"):
        metrics.forward_transfer(R, [50, 52, 48])
    with pytest.raises(ValueError, match="not measured"):
        metrics.forward_transfer(FULL, [50, NAN, 48])
    with pytest.raises(ValueError, match=r"expected \(3,\)"):
        metrics.forward_transfer(FULL, [50, 52])


def test_intransigence():
    assert metrics.intransigence(FULL, [95, 93, 97]) == pytest.approx((5 + 1 + 3) / 3)
    assert metrics.intransigence(R, [80, 90, 95]) == 0.0
    with pytest.raises(ValueError, match=r"expected \(3,\)"):
        metrics.intransigence(R, [80, 90])


@pytest.mark.parametrize("missing", [(2, 0), (1, 1)])
def test_an_unmeasured_entry_makes_the_metric_nan(missing):
    holed = R.copy()
    holed[missing] = NAN
    assert math.isnan(metrics.backward_transfer(holed))
    assert math.isnan(metrics.forgetting(holed))
    assert math.isnan(metrics.average_incremental_accuracy(holed))
    assert math.isnan(metrics.average_accuracy(holed)) == (missing[0] == 2)


def test_forgetting_is_nan_when_a_score_in_between_was_not_measured():
    holed = R.copy()
    holed[1, 0] = NAN  # it might have been the best
    assert math.isnan(metrics.forgetting(holed))
    assert metrics.backward_transfer(holed) == metrics.backward_transfer(R)


def test_a_single_task_has_no_transfer_and_no_forgetting():
    assert metrics.average_accuracy([[70]]) == 70
    for metric in (metrics.backward_transfer, metrics.forgetting):
        assert math.isnan(metric([[70]]))
    assert math.isnan(metrics.forward_transfer([[70]], [10]))


def test_summary_has_every_metric_and_nan_for_what_was_not_measured():
    found = metrics.summary(FULL, initial=[50, 52, 48], single=[95, 93, 97])
    expected = {
        "ACC": (80 + 88 + 94) / 3, "BWT": -7.0, "FWT": 15.0, "forgetting": 7.0, "intransigence": 3.0,
        "average_incremental_accuracy": (90 + (85 + 92) / 2 + (80 + 88 + 94) / 3) / 3,
    }  # fmt: skip
    assert found == pytest.approx(expected)
    without = metrics.summary(R)
    assert math.isnan(without["FWT"]) and math.isnan(without["intransigence"])
    assert math.isnan(metrics.summary(R, initial=[NAN, NAN, NAN])["FWT"])
    assert math.isnan(metrics.summary(FULL, initial=[1, NAN, 1])["FWT"])


def test_summary_does_not_hide_a_wrong_argument():
    with pytest.raises(ValueError, match=r"expected \(3,\)"):
        metrics.summary(FULL, initial=[50, 52])


def test_no_metric_changes_its_arguments():
    matrix, initial = FULL.copy(), np.array([50.0, 52.0, 48.0])
    metrics.summary(matrix, initial=initial, single=initial)
    assert np.array_equal(matrix, FULL) and np.array_equal(initial, [50, 52, 48])


@pytest.mark.parametrize("wrong", [[1, 2, 3], np.ones((2, 3)), np.ones((2, 2, 2))])
def test_a_matrix_of_the_wrong_shape_is_refused(wrong):
    with pytest.raises(ValueError, match=r"expected \(T, T\)"):
        metrics.average_accuracy(wrong)


@pytest.mark.parametrize("levels", [3, 10, 10_000])  # few levels: many ties
@pytest.mark.parametrize("seed", range(5))
def test_correlations_agree_with_scipy(levels, seed):
    rng = np.random.default_rng(seed)
    a = rng.integers(0, levels, 40)
    b = a + rng.integers(0, levels, 40)
    assert metrics.pearson(a, b) == pytest.approx(scipy.stats.pearsonr(a, b).statistic, abs=1e-12)
    assert metrics.spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)


def test_a_constant_has_no_correlation_even_if_its_mean_is_rounded():
    constant = [0.1] * 3  # their mean is not 0.1 in floating point
    for correlation in (metrics.pearson, metrics.spearman):
        assert math.isnan(correlation(constant, [1.0, 2.0, 4.0]))
        assert math.isnan(correlation([1.0, 2.0, 4.0], constant))
        assert math.isnan(correlation([], []))


def test_a_nan_prediction_gets_no_rank():
    assert math.isnan(metrics.spearman([NAN, 1, 2, 3], [1, 2, 3, 4]))
    assert math.isnan(metrics.pearson([NAN, 1, 2, 3], [1, 2, 3, 4]))


def test_correlation_of_extreme_scales():
    a = np.array([1.0, 2.0, 4.0])
    for factor in (1e-200, 1e150):
        assert metrics.pearson(a * factor, a) == pytest.approx(1.0)


def test_vectors_of_different_length_are_refused():
    with pytest.raises(ValueError, match="same length"):
        metrics.pearson([1, 2], [1, 2, 3])
