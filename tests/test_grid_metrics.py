"""Transfer and plasticity metrics of the grid against matrices worked out by hand, SciPy and plain loops."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from course_utils import metrics
from course_utils.grid import plasticity, transfer

NAN = float("nan")
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_warnings():
    """A NaN in the results is a result; NumPy's complaints about it would fill an analysis."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def full_matrix(tasks: int = 4, repeats: int = 3) -> np.ndarray:
    return np.random.default_rng(7).uniform(0.3, 1.0, size=(tasks, tasks, repeats))


# --- integrate -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "expected"), [("final", 0.8), ("mean", 0.625), ("median", 0.6), ("min", 0.5), ("max", 0.8)]
)
def test_integrate_by_hand(how, expected):
    assert transfer.integrate([0.5, 0.6, 0.6, 0.8], how) == pytest.approx(expected)


def test_area_under_the_curve_weighs_by_the_steps_between_log_points():
    # a line from 0 to 1 in ten steps, then flat for ninety: (10 * 0.5 + 90 * 1) / 100
    assert transfer.integrate([0.0, 1.0, 1.0], "auc", steps=[0, 10, 100]) == pytest.approx(0.95)
    assert transfer.integrate([0.7, 0.7, 0.7], "auc", steps=[3, 5, 11]) == pytest.approx(0.7)  # the unit is kept


@pytest.mark.parametrize("how", transfer.INTEGRATORS)
def test_integrate_reduces_the_first_axis_only(how):
    curve = RNG.uniform(size=(6, 2, 3))
    steps = np.arange(6) * 10
    result = transfer.integrate(curve, how, steps)
    assert result.shape == (2, 3)
    assert result[1, 2] == pytest.approx(float(transfer.integrate(curve[:, 1, 2], how, steps)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.1, 0.2], "last"), "choose one of"),
        (([], "mean"), "at least one log point"),
        (([0.1, 0.2], "auc"), "needs steps"),
        (([0.1, 0.2], "auc", [0, 1, 2]), "do not fit"),
        (([0.1, 0.2], "auc", [5, 5]), "do not fit"),
        (([0.1], "auc", [5]), "two log points"),
    ],
)
def test_integrate_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        transfer.integrate(*arguments)


# --- accuracy matrix -------------------------------------------------------------------------------------------------


def test_accuracy_matrix_puts_every_evaluated_task_in_its_column():
    first = np.array([[[0.1, 0.2], [0.3, 0.4]], [[0.5, 0.6], [0.7, 0.8]]])  # (L=2, R=2, tasks 0 and 2)
    second = np.array([[[0.9], [1.0]]])  # (L=1, R=2, task 1)
    matrix = transfer.accuracy_matrix([first, second], [[0, 2], [1]], num_tasks=3)
    assert matrix.shape == (2, 3, 2)  # two of three tasks trained
    np.testing.assert_array_equal(matrix[:, :, 0], [[0.5, NAN, 0.6], [NAN, 0.9, NAN]])
    np.testing.assert_array_equal(matrix[:, :, 1], [[0.7, NAN, 0.8], [NAN, 1.0, NAN]])


def test_accuracy_matrix_follows_the_order_of_eval_tasks_and_integrates():
    curve = RNG.uniform(size=(5, 2, 3))
    steps = [1, 2, 4, 8, 16]
    forward = transfer.accuracy_matrix([curve], [[0, 1, 2]], 3, "auc", steps)
    turned = transfer.accuracy_matrix([curve[..., ::-1]], [[2, 1, 0]], 3, "auc", steps)
    np.testing.assert_allclose(forward, turned)
    assert forward[0, 2, 1] == pytest.approx(scipy.integrate.trapezoid(curve[:, 1, 2], steps) / 15)


@pytest.mark.parametrize(
    ("curves", "tasks", "num_tasks", "message"),
    [
        ([np.zeros((2, 3, 1))], [[0], [1]], 2, "one curve and one list"),
        ([], [], 2, "one curve and one list"),
        ([np.zeros((2, 3, 1))] * 2, [[0], [0]], 1, "no more than num_tasks"),
        ([np.zeros((2, 3, 2))], [[0]], 2, "expected"),
        ([np.zeros((2, 3))], [[0, 1, 2]], 3, "expected"),
        ([np.zeros((2, 3, 1)), np.zeros((2, 4, 1))], [[0], [1]], 2, "repeats of the first"),
        ([np.zeros((2, 3, 2))], [[1, 1]], 2, "different tasks"),
        ([np.zeros((2, 3, 1))], [[2]], 2, "from 0 to 1"),
        ([np.zeros((2, 3, 1))], [[-1]], 2, "from 0 to 1"),
    ],
)
def test_accuracy_matrix_refuses(curves, tasks, num_tasks, message):
    with pytest.raises(ValueError, match=message):
        transfer.accuracy_matrix(curves, tasks, num_tasks)


# --- transfer, remembering, zero-shot, forgetting --------------------------------------------------------------------


def test_transfer_by_hand():
    matrix = np.array([[[0.6], [0.1]], [[0.2], [0.9]]])
    np.testing.assert_allclose(transfer.transfer(matrix, [[0.9], [0.6]]), [[-0.3 / 1.5], [0.3 / 1.5]])
    np.testing.assert_allclose(transfer.transfer(np.swapaxes(matrix, 0, 1), [[0.9], [0.6]]), [[-0.2], [0.2]])


def test_transfer_is_zero_for_equals_odd_in_exchange_and_bounded():
    matrix = full_matrix()
    own = np.array([matrix[i, i] for i in range(4)])
    expert = RNG.uniform(size=own.shape)
    np.testing.assert_allclose(transfer.transfer(matrix, own), 0)
    exchanged = matrix.copy()
    exchanged[range(4), range(4)] = expert
    np.testing.assert_allclose(transfer.transfer(exchanged, own), -transfer.transfer(matrix, expert))
    assert (np.abs(transfer.transfer(matrix, expert)) <= 1).all()
    np.testing.assert_array_equal(transfer.transfer(np.zeros((1, 1, 2)), np.zeros((1, 2))), [[NAN, NAN]])
    np.testing.assert_array_equal(transfer.transfer(matrix, np.zeros((4, 3))), 1.0)


def test_remembering_in_the_last_row_is_backward_transfer():
    matrix = full_matrix()
    change = transfer.remembering(matrix)
    for repeat in range(3):
        assert np.nanmean(change[-1, :, repeat]) == pytest.approx(metrics.backward_transfer(matrix[..., repeat]))
    assert change[2, 1, 0] == pytest.approx(matrix[2, 1, 0] - matrix[1, 1, 0])
    rows, columns = np.indices((4, 4))
    np.testing.assert_array_equal(np.isnan(change[..., 0]), rows <= columns)


def test_zero_shot_keeps_what_was_not_trained_yet():
    matrix = full_matrix()
    raw, corrected = transfer.zero_shot(matrix), transfer.zero_shot(matrix, chance_corrected=True)
    rows, columns = np.indices((4, 4))
    np.testing.assert_array_equal(np.isnan(raw[..., 1]), columns <= rows)
    assert raw[0, 3, 1] == matrix[0, 3, 1]
    assert corrected[0, 3, 1] == pytest.approx(2 * matrix[0, 3, 1] - 1)
    assert transfer.zero_shot(np.full((1, 2, 1), 0.5), chance_corrected=True)[0, 1, 0] == 0.0


def test_zero_shot_of_a_run_that_stopped_early_has_all_later_tasks():
    matrix = full_matrix()[:2]
    assert np.isfinite(transfer.zero_shot(matrix)[..., 0]).sum() == 3 + 2


def test_forgetting_agrees_with_the_metric_of_the_course():
    matrix = full_matrix()
    result = transfer.forgetting(matrix)
    assert result.shape == (3, 3)
    for repeat in range(3):
        assert result[:, repeat].mean() == pytest.approx(metrics.forgetting(matrix[..., repeat]))


def test_forgetting_with_entries_that_were_not_evaluated():
    matrix = np.array([[0.9, NAN, NAN], [NAN, 0.8, NAN], [0.4, NAN, 0.7]])[..., None]
    np.testing.assert_allclose(transfer.forgetting(matrix), [[0.5], [NAN]])
    assert transfer.forgetting(np.ones((1, 2, 5))).shape == (0, 5)  # nothing can be forgotten yet


def test_against_expert():
    matrix = full_matrix()
    expert = RNG.uniform(size=(4, 3))
    np.testing.assert_allclose(transfer.against_expert(matrix, expert)[3, 1], matrix[3, 1] - expert[1])
    short = transfer.against_expert(matrix[:2], expert[:2])  # no expert of tasks 2 and 3 yet
    np.testing.assert_allclose(short[:, :2], matrix[:2, :2] - expert[:2])
    assert np.isnan(short[:, 2:]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: transfer.remembering(np.zeros((2, 2))), "T_trained, T_eval, R"),
        (lambda: transfer.forgetting(np.zeros((3, 2, 1))), "T_trained <= T_eval"),
        (lambda: transfer.zero_shot(np.zeros((0, 2, 1))), "1 <= T_trained"),
        (lambda: transfer.transfer(np.zeros((2, 2, 3)), np.zeros((2, 4))), "one score for each task and repeat"),
        (lambda: transfer.transfer(np.zeros((2, 2, 3)), np.zeros((1, 3))), "T from 2 to 2"),
        (lambda: transfer.against_expert(np.zeros((2, 3, 3)), np.zeros((4, 3))), "T from 2 to 3"),
    ],
)
def test_matrices_and_experts_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_no_metric_changes_its_argument():
    matrix, expert = full_matrix(), np.ones((4, 3))
    before = matrix.copy()
    transfer.transfer(matrix, expert), transfer.remembering(matrix), transfer.forgetting(matrix)
    transfer.zero_shot(matrix, True)[:] = 0
    transfer.integrate(matrix)[:] = 0
    np.testing.assert_array_equal(matrix, before)


# --- spread ----------------------------------------------------------------------------------------------------------


def test_spread_agrees_with_scipy():
    sample = RNG.normal(size=(3, 8))
    found = transfer.spread(sample, axis=1)
    for row in range(3):
        interval = scipy.stats.ttest_1samp(sample[row], 0).confidence_interval(0.95)
        assert found["low"][row] == pytest.approx(interval.low)
        assert found["high"][row] == pytest.approx(interval.high)
        assert found["se"][row] == pytest.approx(scipy.stats.sem(sample[row]))
        assert found["std"][row] == pytest.approx(np.std(sample[row], ddof=1))
        assert found["mean"][row] == pytest.approx(sample[row].mean())
    np.testing.assert_array_equal(found["n"], [8, 8, 8])
    np.testing.assert_allclose(transfer.spread(sample.T, axis=0)["high"], found["high"])
    wider = transfer.spread(sample, axis=1, confidence=0.99)
    assert (wider["high"] > found["high"]).all()


def test_spread_leaves_missing_repeats_out():
    found = transfer.spread([[1.0, NAN, 3.0, NAN], [NAN, 5.0, NAN, NAN], [NAN] * 4])
    np.testing.assert_array_equal(found["n"], [2, 1, 0])
    np.testing.assert_array_equal(found["mean"], [2.0, 5.0, NAN])
    np.testing.assert_allclose(found["std"], [math.sqrt(2), NAN, NAN])
    np.testing.assert_allclose(found["se"], [1.0, NAN, NAN])
    np.testing.assert_allclose(found["high"][0], 2 + 12.7062, atol=1e-4)  # t of one degree of freedom
    assert np.isnan(found["low"][1:]).all()


def test_spread_refuses():
    with pytest.raises(ValueError, match="no axis 2"):
        transfer.spread([[1.0]], axis=2)
    with pytest.raises(ValueError, match="between 0 and 1"):
        transfer.spread([1.0, 2.0], confidence=95)


# --- plasticity: features --------------------------------------------------------------------------------------------

FEATURE_METRICS = [
    plasticity.dormant_fraction,
    plasticity.active_fraction,
    plasticity.effective_rank,
    plasticity.stable_rank,
    plasticity.srank_99,
    plasticity.feature_norm,
]
RANKS = [plasticity.effective_rank, plasticity.stable_rank, plasticity.srank_99]


@pytest.mark.parametrize("rank", RANKS)
def test_ranks_of_known_matrices(rank):
    assert rank(np.eye(7)) == pytest.approx(7)
    assert rank(np.outer(RNG.normal(size=20), RNG.normal(size=6))) == pytest.approx(1)
    assert rank(np.zeros((5, 3))) == 0.0
    projector = np.zeros((10, 8))
    projector[:4, :4] = scipy.stats.ortho_group.rvs(4, random_state=1)
    assert rank(projector) == pytest.approx(4)


@pytest.mark.parametrize("rank", RANKS)
def test_ranks_do_not_see_scale_rotation_or_transposition_and_stay_in_range(rank):
    matrix = RNG.normal(size=(12, 6)) * [3, 2, 1, 1, 0.1, 0.01]
    value = rank(matrix)
    assert 1 <= value <= 6
    for other in (1e200 * matrix, 1e-200 * matrix, matrix.T, matrix @ scipy.stats.ortho_group.rvs(6, random_state=0)):
        assert rank(other) == pytest.approx(float(value))


def test_the_three_ranks_differ_where_they_should():
    values = np.array([100.0, 1.0, 1.0])  # of the sum: 0.98, 0.0098, 0.0098
    matrix = np.diag(values)
    share = values / values.sum()
    assert plasticity.effective_rank(matrix) == pytest.approx(math.exp(scipy.stats.entropy(share)))
    assert plasticity.stable_rank(matrix) == pytest.approx(
        np.linalg.norm(matrix, "fro") ** 2 / np.linalg.norm(matrix, 2) ** 2
    )
    assert plasticity.stable_rank(matrix) == pytest.approx(1.0002)
    assert plasticity.srank_99(matrix) == 2.0
    assert plasticity.srank_99(matrix, delta=0.05) == 1.0
    assert plasticity.srank_99(matrix, delta=0.001) == 3.0


def test_the_spectrum_is_shares_of_the_singular_values():
    matrices = np.stack([np.diag([6.0, 3.0, 1.0]), np.zeros((3, 3)), np.full((3, 3), np.nan)])
    np.testing.assert_allclose(plasticity.spectrum(matrices), [[0.6, 0.3, 0.1], [0, 0, 0], [np.nan] * 3])
    shares = plasticity.spectrum(np.random.default_rng(3).normal(size=(2, 9, 4)))
    assert shares.shape == (2, 4) and (np.diff(shares) <= 0).all()
    np.testing.assert_allclose(shares.sum(axis=-1), 1)


def test_srank_counts_a_share_that_is_met_exactly():
    assert plasticity.srank_99(np.diag([99.0, 1.0])) == 1.0
    for size in range(2, 120):  # the sum of the shares is met up to rounding
        assert plasticity.srank_99(np.eye(size), delta=1 / size) == size - 1
    assert plasticity.srank_99(np.diag([98.9, 1.1])) == 2.0


def test_dormant_units_by_hand():
    features = np.array([[4.0, 0.0, 0.2, -2.0], [4.0, 0.0, 0.0, 2.0]])  # mean |a|: 4, 0, 0.1, 2; of the layer 1.525
    assert plasticity.dormant_fraction(features) == 0.25
    assert plasticity.dormant_fraction(features, tau=0.1) == 0.5  # 0.1 / 1.525 = 0.066
    assert plasticity.dormant_fraction(features, tau=0.06) == 0.25
    assert plasticity.dormant_fraction(features, tau=2.0) == 0.75
    assert plasticity.dormant_fraction(features, tau=3.0) == 1.0
    assert plasticity.dormant_fraction(-1e-3 * features, tau=0.1) == 0.5  # relative to the layer, and of |a|
    assert plasticity.dormant_fraction(np.zeros((4, 3))) == 1.0
    assert plasticity.active_fraction(features) == pytest.approx(5 / 8)
    assert plasticity.active_fraction(np.zeros((4, 3))) == 0.0


def test_a_unit_silent_on_half_of_the_samples_is_not_dormant():
    features = np.ones((10, 2))
    features[:5, 0] = 0.0
    assert plasticity.dormant_fraction(features) == 0.0
    assert plasticity.active_fraction(features) == 0.75


def test_feature_norm_is_the_mean_length_of_a_sample():
    assert plasticity.feature_norm([[3.0, 4.0], [0.0, 1.0]]) == pytest.approx((5 + 1) / 2)
    assert plasticity.feature_norm(np.zeros((4, 3))) == 0.0


@pytest.mark.parametrize("metric", FEATURE_METRICS)
def test_feature_metrics_keep_leading_axes_and_their_slices_apart(metric):
    features = np.maximum(RNG.normal(size=(2, 3, 9, 5)), 0) * (RNG.uniform(size=(2, 3, 1, 5)) > 0.4)
    features[1, 2] = 0.0
    result = metric(features)
    assert result.shape == (2, 3)
    for index in np.ndindex(2, 3):
        assert result[index] == pytest.approx(float(metric(features[index])))
    features[0, 1, 4, 2] = np.inf
    broken = metric(features)
    assert np.isnan(broken[0, 1])
    assert np.isfinite(np.delete(broken.ravel(), 1)).all()
    assert metric(features.astype(np.float32)[0, 0]) == pytest.approx(float(result[0, 0]), rel=1e-5)


@pytest.mark.parametrize("metric", FEATURE_METRICS)
def test_feature_metrics_refuse_what_is_no_matrix(metric):
    for bad in (np.zeros(3), np.zeros((0, 3)), np.zeros((3, 0)), 1.0):
        with pytest.raises(ValueError, match="expected"):
            metric(bad)


def test_thresholds_out_of_range_are_refused():
    with pytest.raises(ValueError, match="tau=-0.1"):
        plasticity.dormant_fraction(np.eye(2), tau=-0.1)
    for delta in (-0.1, 1.0):
        with pytest.raises(ValueError, match="delta"):
            plasticity.srank_99(np.eye(2), delta=delta)


# --- plasticity: weights ---------------------------------------------------------------------------------------------


def test_weight_norms_by_hand():
    weights = np.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(plasticity.weight_norm(weights), [5.0, 0.0])
    np.testing.assert_allclose(plasticity.weight_rms(weights), [math.sqrt(12.5), 0.0])
    twice = np.concatenate([weights, weights], axis=1)  # a larger network of the same weights
    np.testing.assert_allclose(plasticity.weight_rms(twice), plasticity.weight_rms(weights))


def test_drift_by_hand():
    before, after = [3.0, 4.0], [6.0, 8.0]
    assert plasticity.drift(before, after) == pytest.approx(math.sqrt((9 + 16) / 2))
    assert plasticity.drift(before, after, relative=True) == pytest.approx(1.0)
    assert plasticity.drift(after, before, relative=True) == pytest.approx(0.5)  # relative to the first
    assert plasticity.drift(before, before) == 0.0
    assert plasticity.drift([0.0], [1.0], relative=True) == math.inf
    assert np.isnan(plasticity.drift([0.0], [0.0], relative=True))


def test_drift_broadcasts_a_reference_over_log_points():
    start, course = RNG.normal(size=(3, 10)), RNG.normal(size=(4, 3, 10))
    result = plasticity.drift(start, course)
    assert result.shape == (4, 3)
    assert result[2, 1] == pytest.approx(np.sqrt(np.mean((course[2, 1] - start[1]) ** 2)))


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="same network"):
        plasticity.drift(np.zeros(3), np.zeros(1))  # NumPy would broadcast it
    with pytest.raises(ValueError, match="do not broadcast"):
        plasticity.drift(np.zeros((2, 5)), np.zeros((3, 5)))
    for bad in (np.zeros(0), 1.0):
        with pytest.raises(ValueError, match="at least one weight"):
            plasticity.weight_rms(bad)
