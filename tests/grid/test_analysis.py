"""Analysis from files alone: known matrices in, the numbers that follow by hand out; every figure and name is there."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from course_utils import grid
from course_utils.grid import analysis, figures, geometry, plasticity, storage

from .helpers import images, run

# Accuracy (T, T_eval) of two repeats after each of three tasks, and the expert's.
FIRST = [[0.9, 0.5, 0.4], [0.6, 0.8, 0.5], [0.5, 0.7, 1.0]]
SECOND = [[0.7, 0.5, 0.6], [0.8, 0.6, 0.5], [0.9, 0.6, 0.8]]
EXPERT = [[0.9, 0.9, 0.5], [0.7, 0.8, 0.8]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("analysis") / "results", {"num_repeats": 2})


@pytest.fixture
def known(finished, tmp_path):
    """A run whose accuracies are those above."""
    folder = tmp_path / "known"
    for task in range(3):
        source = grid.GridResults(finished)
        metrics = source.metrics(task)
        metrics["accuracy"] = np.array([np.full((2, 3), 0.5), [FIRST[task], SECOND[task]]])
        expert = source.expert(task)
        expert["test_acc"] = np.array([[0.1, 0.1], [EXPERT[0][task], EXPERT[1][task]]])
        arrays = {name: source_array(source, task, name) for name in ("weights", "representations", "binary_labels")}
        metadata = {
            key: value for key, value in source.task_metadata(task).items() if key not in ("format", "task", "files")
        }
        storage.write_task(folder, task, arrays, {"metrics": metrics, "expert_metrics": expert}, metadata)
    return folder


def source_array(results, task, name):
    return np.array(storage.read_arrays(results.path(task), name))


def test_continual_learning_measures_by_hand(known):
    table = analysis.cl_analysis(known)
    assert table["task"] == [0, 1, 2]

    def values(name):
        return table[name]["values"]

    np.testing.assert_allclose(values("own"), [[0.9, 0.7], [0.8, 0.6], [1.0, 0.8]])
    np.testing.assert_allclose(values("expert"), [[0.9, 0.7], [0.9, 0.8], [0.5, 0.8]])
    np.testing.assert_allclose(values("transfer"), [[0, 0], [-0.1 / 1.7, -0.2 / 1.4], [0.5 / 1.5, 0]], atol=1e-12)
    np.testing.assert_allclose(values("against_expert"), [[0, 0], [-0.1, -0.2], [0.5, 0]], atol=1e-12)
    np.testing.assert_allclose(
        values("remembering"), [[np.nan] * 2, [-0.3, 0.1], [(-0.4 - 0.1) / 2, (0.2 + 0) / 2]], atol=1e-12
    )
    np.testing.assert_allclose(values("past"), [[np.nan] * 2, [0.6, 0.8], [0.6, 0.75]])
    np.testing.assert_allclose(values("seen"), [[0.9, 0.7], [0.7, 0.7], [2.2 / 3, 2.3 / 3]])
    np.testing.assert_allclose(values("zero_shot"), [[0.45, 0.55], [0.5, 0.5], [np.nan] * 2])
    np.testing.assert_allclose(values("forgetting"), [[0.4, -0.1], [0.1, 0], [np.nan] * 2], atol=1e-12)
    assert table["own"]["mean"] == pytest.approx([0.8, 0.7, 0.9])
    assert table["own"]["se"] == pytest.approx([0.1, 0.1, 0.1])  # two repeats 0.2 apart
    mean = analysis.cl_analysis(known, how="mean")
    np.testing.assert_allclose(mean["own"]["values"][0], [0.7, 0.6])
    np.testing.assert_allclose(mean["expert"]["values"][0], [0.5, 0.4])


def test_a_run_without_expert_has_no_measure_of_it(tmp_path):
    table = analysis.cl_analysis(run(tmp_path / "alone", {"num_repeats": 1, "expert": False}))
    assert "expert" not in table and "transfer" not in table and "own" in table
    assert np.isnan(table["own"]["se"]).all()  # one run is an anecdote


def test_plasticity_is_of_the_current_task_at_its_end(finished):
    table = analysis.plasticity_analysis(finished)
    results = grid.GridResults(finished)
    for task in range(3):
        features = results.representations(task)[-1][:, task]
        np.testing.assert_allclose(table["effective_rank"]["values"][task], plasticity.effective_rank(features))
        np.testing.assert_allclose(table["dormant_fraction"]["values"][task], plasticity.dormant_fraction(features))
        vector = results.vectors(task)[-1]
        np.testing.assert_allclose(table["weight_norm"]["values"][task], np.linalg.norm(vector, axis=-1), rtol=1e-6)
        before = results.vectors(max(task - 1, 0))[-1]
        moved = np.sqrt(((vector - before) ** 2).mean(-1))
        np.testing.assert_allclose(table["task_drift"]["values"][task], moved, rtol=1e-5, atol=1e-9)
    assert (table["total_drift"]["mean"][1:] > 0).all()


def test_geometry_is_of_the_two_classes_of_the_current_task(finished):
    table = analysis.geometry_analysis(finished, num_probes=20, tasks=[2])
    features = np.array(grid.GridResults(finished).representations(2)[-1][1, 2])
    rng = np.random.default_rng([0, 2, 1])
    clouds = [features[:3], features[3:]]
    alone = geometry.manifold_geometry(clouds, num_probes=20, rng=rng)
    joint = geometry.joint_geometry(clouds, num_probes=20, rng=rng)
    assert table["task"] == [2] and table["own_capacity"]["values"][0, 1] == pytest.approx(alone.capacity)
    assert table["capacity"]["values"][0, 1] == pytest.approx(joint.capacity)
    assert table["dead"]["mean"].tolist() == [0.0]


def test_dead_representations_are_counted_and_not_measured(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "dead")
    path = folder / "task_000" / "representations.npy"
    array = np.load(path)
    array[:, 0] = 0
    np.save(path, array)
    table = analysis.geometry_analysis(folder, num_probes=10, tasks=[0])
    assert table["dead"]["values"].tolist() == [[1.0, 0.0]] and np.isnan(table["capacity"]["values"][0, 0])
    assert np.isfinite(table["capacity"]["mean"]).all()
    assert analysis.plasticity_analysis(folder)["dormant_fraction"]["values"][0, 0] == 1


def test_one_call_writes_every_table_and_figure(finished, tmp_path):
    written = grid.analyse(finished, tmp_path / "out")
    assert sorted(path.name for path in written) == [
        "cl.json", "cl.png", "geometry.json", "geometry.png", "plasticity.json", "plasticity.png",
    ]  # fmt: skip
    for path in written:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000
        else:
            table = json.loads(path.read_text())  # NaN would not be JSON that others read
            assert "NaN" not in path.read_text() and table["task"] == [0, 1, 2]
    assert {path.name for path in grid.analyse(finished)} == {path.name for path in written}
    assert (finished / "analysis" / "cl.png").exists()
    grid.run(
        grid.GridResults(finished).config, finished, images=images(), say=lambda line: None
    )  # it is still a results folder


def test_every_panel_shows_its_measures(finished):
    for name, function in analysis.ANALYSES.items():
        table = function(finished)
        drawn = {key for lines in figures.PANELS[name].values() for key in lines}
        assert drawn <= set(table), name
        figure = figures.draw(name, table, "a title")
        labels = {axes.get_xlabel() for axes in figure.axes if axes.get_visible()}
        assert labels == {"task"} and figure.get_suptitle() == "a title"


def test_the_other_names_are_the_same_functions():
    assert grid.plasticine_analysis is grid.plasticity_analysis and grid.glue_analysis is grid.geometry_analysis


def test_without_representations_it_says_what_to_do(tmp_path):
    folder = run(tmp_path / "none", {"num_repeats": 2, "representations": "none"})
    for function in (grid.plasticity_analysis, grid.geometry_analysis):
        with pytest.raises(grid.GridError, match="representations='none'; compute them with recompute_representations"):
            function(folder)
    assert [path.name for path in grid.analyse(folder)] == ["cl.json", "cl.png"]


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(grid.GridError, match=f"{tmp_path} holds no results: task_000 is missing"):
        grid.cl_analysis(tmp_path)
