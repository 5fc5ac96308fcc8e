"""The digest of a run: bins of tasks within each repeat, small, JSON, and what the analysis says of the same files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from course_utils import grid
from course_utils.grid import analysis, record

from .helpers import images, run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("record") / "results", {"num_tasks": 5, "num_repeats": 2}, images(classes=10))


@pytest.fixture(scope="module")
def kept(finished):
    return json.loads(json.dumps(grid.digest(finished, bins=2, geometry_repeats=1)))


def test_bins_are_means_of_their_tasks_within_each_repeat(finished, kept):
    assert (kept["first"], kept["last"]) == ([1, 4], [3, 5])
    for name in ("own", "expert", "transfer"):
        values = analysis.cl_analysis(finished)[name]["values"]
        expected = [values[:3].mean(axis=0), values[3:].mean(axis=0)]
        np.testing.assert_allclose(kept["measures"][name], expected, rtol=1e-4)
    past = analysis.cl_analysis(finished)["past"]["values"]  # NaN for the first task: nothing is past
    np.testing.assert_allclose(kept["measures"]["past"][0], past[1:3].mean(axis=0), rtol=1e-4)
    forgetting = analysis.cl_analysis(finished)["forgetting"]["values"]
    np.testing.assert_allclose(kept["forgetting"], forgetting[:-1].mean(axis=0), rtol=1e-4, atol=1e-6)


def test_where_nothing_was_measured_there_is_null(finished):
    single = grid.digest(finished, bins=5, geometry_repeats=1)
    assert single["measures"]["past"][0] == [None, None] and single["measures"]["zero_shot"][4] == [None, None]
    assert single["first"] == single["last"] == [1, 2, 3, 4, 5]


def test_geometry_is_of_the_last_task_of_a_bin_and_of_some_repeats(finished, kept):
    table = analysis.geometry_analysis(finished, tasks=[2, 4], repeats=[0])
    for name in ("capacity", "own_radius", "dead"):
        np.testing.assert_allclose(
            np.array(kept["measures"][name], dtype=float),
            np.array(analysis.rounded(table[name]["values"]), dtype=float),
            rtol=1e-4,
        )
    both = analysis.geometry_analysis(finished, tasks=[2, 4])
    np.testing.assert_allclose(both["capacity"]["values"][:, :1], table["capacity"]["values"])


def test_spectrum_and_cloud_are_of_the_last_task_of_a_bin(finished, kept):
    results = grid.GridResults(finished)
    for place, task in enumerate((2, 4)):
        features = results.representations(task)[-1][:, task].astype(float)  # (R, S, hidden)
        shares = [np.linalg.svd(sample, compute_uv=False) for sample in features]
        expected = np.mean([share / share.sum() for share in shares], axis=0)[: record.SPECTRUM]
        np.testing.assert_allclose(kept["spectrum"][place], expected, rtol=1e-3, atol=1e-6)
        cloud = np.array(kept["cloud"][place])
        centred = features[0] - features[0].mean(axis=0)
        variances = np.sort(np.linalg.eigvalsh(centred.T @ centred))[::-1][:2]
        np.testing.assert_allclose((cloud**2).sum(axis=0), variances, rtol=1e-3)  # all six samples are kept
    assert kept["labels"] == [0, 0, 0, 1, 1, 1]


def test_it_is_small_and_leaves_out_what_is_said_twice(kept):
    assert len(json.dumps(kept)) < 8000
    assert not record.LEFT_OUT & set(kept["measures"])


def test_infinite_numbers_and_flat_clouds():
    assert analysis.rounded([1.0, np.inf, np.nan]) == [1.0, None, None]
    np.testing.assert_array_equal(record.principal_plane(np.ones((4, 3))), np.zeros((4, 2)))
    assert record.principal_plane(np.arange(4.0)[:, None]).shape == (4, 2)  # one feature
    line = record.principal_plane(np.outer(np.arange(3.0), [3.0, 4.0, 0.0]))
    np.testing.assert_allclose(np.abs(line), [[5, 0], [0, 0], [5, 0]], atol=1e-12)
