"""The claims of lesson 01, as inequalities with margins over three seeds: quick runs live, full runs from the record.

Letters are those of the prose in `solutions/01_forgetting.py`.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import full_results

from course_utils import Learner, landscape, metrics, models, plots, streams
from course_utils.lessons import experiment, storage
from course_utils.lessons.exercises.lesson_01_choice import choose
from course_utils.lessons.exercises.lesson_01_scoring import scenario_accuracy
from course_utils.lessons.experiments import lesson_01 as lesson
from course_utils.lessons.experiments import lesson_01_figures as figures
from course_utils.lessons.results import Results

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def quick():
    """Experiment -> Results of the quick preset, with three seeds instead of one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks this small lose time on more
    found = {}
    for name in ("two_ways", "boundary", "scenarios", "blur", "design"):
        entry = lesson.EXPERIMENTS[name]
        records = {
            label: {seed: storage.from_json(experiment.run_one(entry, config, seed)) for seed in SEEDS}
            for label, config in entry.configurations("quick").items()
        }
        found[name] = Results(name, entry.title, "quick", records)
    torch.set_num_threads(threads)
    return found


@pytest.fixture(scope="module")
def full():
    """Experiment -> Results of the recorded full run."""
    return full_results("01_forgetting", lesson, "Fashion-MNIST")


@pytest.fixture(scope="module", params=["quick", "full"])
def both(request):
    """The same claim on digits and on Fashion-MNIST."""
    return request.getfixturevalue(request.param)


def matrices(results, label):
    return [np.array(record["accuracy"], dtype=float) for record in results.records[label].values()]


def acc(results, label):
    """ACC of every seed."""
    return np.array([metrics.average_accuracy(R) for R in matrices(results, label)])


def test_claim_a_fine_tuning_loses_the_old_tasks_and_joint_training_keeps_them(both):
    tuned, joint = both["two_ways"].values("fine-tuning", "overall"), both["two_ways"].values("joint", "overall")
    assert all(R[-1, :4].mean() < 0.05 for R in matrices(both["two_ways"], "fine-tuning"))
    assert (joint[:, -1] - tuned[:, -1]).min() >= 0.6


def test_claim_b_a_few_steps_of_task_2_undo_task_1(both):
    steps = both["boundary"].values("class", "steps")[0]
    old = both["boundary"].values("class", "old")  # (seeds, moments)
    assert old[:, 0].min() > 0.9  # before the first step it was there
    assert old[:, steps <= 40].min(axis=1).max() < 0.5
    assert both["boundary"].values("task", "old").min() > 0.85  # told the task, the same steps do little


def test_claim_b_in_the_full_run_after_about_a_dozen_steps(full):
    steps = full["boundary"].values("class", "steps")[0]
    first = [steps[old < 0.5].min() for old in full["boundary"].values("class", "old")]
    assert 8 <= min(first)
    assert max(first) <= 16


def test_claim_c_fine_tuning_learns_each_new_task(both):
    gains = [
        np.diag(tuned).mean() - np.diag(joint).mean()
        for tuned, joint in zip(*(matrices(both["two_ways"], way) for way in ("fine-tuning", "joint")), strict=True)
    ]
    assert min(gains) >= -0.01


def test_claim_c_on_fashion_mnist_by_more_than_five_points(full):
    tuned, joint = (np.mean([np.diag(R) for R in matrices(full["two_ways"], way)]) for way in ("fine-tuning", "joint"))
    assert tuned - joint > 0.05


def test_claim_d_forgetting_and_bwt(both):
    for R in matrices(both["two_ways"], "fine-tuning"):
        assert abs(metrics.forgetting(R) + metrics.backward_transfer(R)) < 1e-3


def test_claim_d_they_part_in_a_joint_run(full):
    assert max(metrics.forgetting(R) + metrics.backward_transfer(R) for R in matrices(full["two_ways"], "joint")) > 0.01


def test_claim_d_the_rule_for_a_column_where_they_part_holds(both):
    """A column that is brightest between the diagonal and the last row makes forgetting larger than minus BWT."""
    for R in matrices(both["two_ways"], "joint"):
        last = len(R) - 1
        brightest = [int(np.nanargmax(R[:, j])) for j in range(last)]
        if any(row not in (j, last) for j, row in enumerate(brightest)):
            assert metrics.forgetting(R) > -metrics.backward_transfer(R)
        assert metrics.backward_transfer(R) < 0


def test_claim_d_the_first_full_heat_map_has_such_a_column(full):
    R = matrices(full["two_ways"], "joint")[0]
    assert any(np.nanargmax(R[:, j]) not in (j, len(R) - 1) for j in range(len(R) - 1))


def test_claim_e_the_question_moves_the_score_of_the_same_network(both):
    asked = [record["asked"] for record in both["two_ways"].records["fine-tuning"].values()]
    assert min(one["task"] - one["class"] for one in asked) >= 0.4
    assert min(one["task"] for one in asked) - 0.5 > 0.2
    assert max(abs(one["class"] - 0.1 - 0.1) for one in asked) < 0.03
    assert min(one["domain"] for one in asked) > 0.65


def test_claim_e_the_domain_column_is_an_accident_of_the_class_order():
    """The network answers with task 5's classes alone; in another order of the classes, domain drops to guessing."""
    data, scores = lesson.load("digits"), {}
    for name, order in (("given", None), ("other", [2, 0, 6, 8, 7, 1, 5, 4, 9, 3])):
        stream = streams.class_incremental(data, 5, class_order=order)
        learner = Learner(models.build("mlp", data), epochs=20, show_progress=False)
        learner.fit(stream)
        test = streams.Samples.concat([task.test for task in stream])
        logits = learner.predict(test.x).cpu()
        assert (logits.argmax(dim=1) >= 8).double().mean() > 0.95
        scores[name] = scenario_accuracy(logits, test.y, 2, "domain")
    assert scores["given"] > 0.65
    assert scores["other"] < 0.56


def test_claim_f_the_order_of_the_scenarios(both):
    task, domain = (acc(both["scenarios"], f"{name}, fine-tuning").mean() for name in ("task", "domain"))
    in_class = acc(both["two_ways"], "fine-tuning").mean()
    assert task - domain >= 0.05
    assert domain - in_class >= 0.3
    assert in_class < 0.25  # "fine-tuning: 50 to 70 %" cannot be class-incremental


def test_forward_transfer_on_fashion_mnist_is_above_ten_points(full):
    for label in ("domain, fine-tuning", "domain, joint"):
        for record in full["scenarios"].records[label].values():
            assert metrics.forward_transfer(record["accuracy"], record["initial"]) > 0.1


def test_steps_per_task_are_constant_for_fine_tuning_and_grow_for_joint_training(both):
    for record in both["two_ways"].records["fine-tuning"].values():
        assert max(record["steps"]) - min(record["steps"]) <= 2  # digits' classes are not all of one size
    for record in both["two_ways"].records["joint"].values():
        assert record["steps"][4] >= 4.5 * record["steps"][0]


def test_claim_g_knowing_the_future_is_worth_points_nobody_can_have(full):
    ways = lesson.three_ways(full["learning_rate"].records, choose, seen=2)
    honest, future, test = (row["fresh"].mean() for row in ways.values())
    assert list(ways) == ["validation, first 2 tasks", "validation, all tasks", "test, all tasks"]
    assert future - honest > 0.02
    assert abs(test - future) < 0.01


def test_claim_h_a_third_task_closes_more_than_half_of_the_gap(full):
    fresh = {
        seen: [row["fresh"].mean() for row in lesson.three_ways(full["learning_rate"].records, choose, seen).values()]
        for seen in (2, 3)
    }
    assert fresh[3][0] - fresh[2][0] > 0.5 * (fresh[2][1] - fresh[2][0])


def test_claim_i_blur_saves_the_neighbour_and_nobody_else(both):
    sharp, blurred = matrices(both["blur"], "0%"), matrices(both["blur"], "10%")
    for before, after in zip(sharp, blurred, strict=True):
        assert after[-1].mean() - before[-1].mean() >= 0.08
        assert after[-1, :2].mean() < 0.1
        assert after[-1, 3] - before[-1, 3] > 0.3


def test_the_model_answer_of_the_design_task_reaches_the_goal(both):
    """Chosen by the validation images of two tasks, mean over seeds; compared on the test set with the course's network."""
    design = both["design"]
    validation = {label: design.mean(label, "validation") for label in design.labels}
    course = "100 + 100 units, lr 0.001"
    chosen = max(validation, key=validation.__getitem__)
    spread = max(acc(design, label).std(ddof=1) for label in (chosen, course))
    assert acc(design, chosen).mean() - acc(design, course).mean() > spread
    assert chosen.startswith("400 units")
    steps = [np.array(record["steps"]) for record in design.records[course].values()]
    budget = [np.array(record["steps"]) for record in both["scenarios"].records["task, fine-tuning"].values()]
    assert all((4 * (one - 1) <= whole).all() for one, whole in zip(steps, budget, strict=True))


# ---- the landscape's claims, which need no run -------------------------------------------------------------------


def total(angle, narrowness, steps=None):
    """Loss of both tasks at the joint minimum, or after `steps` of training on B; (A, B)."""
    a = landscape.valley((-1.0, -0.5), 0, flat=1 / narrowness)
    b = landscape.valley((1.2, 1.0), angle, flat=1 / narrowness)
    if steps is None:
        end = landscape.meeting_point([a, b])
    else:
        end = landscape.descend(b, landscape.descend(a, (-2.5, 1.6), 0.3, 60)[-1], 0.3, steps)[-1]
    return np.array([a.loss(end), b.loss(end)])


def test_a_few_steps_drop_to_the_floor_of_b_and_the_rest_costs_a_more_than_it_gains_b():
    early, late = total(70, 10, steps=6), total(70, 10, steps=200)
    assert total(70, 10, steps=0)[1] - early[1] > 5 * (early[1] - late[1])
    assert late[0] - early[0] > 2 * (early[1] - late[1])


def test_half_the_learning_rate_needs_about_twice_the_steps():
    a, b = landscape.valley((-1.0, -0.5), 0), landscape.valley((1.2, 1.0), 70)
    start = landscape.descend(a, (-2.5, 1.6), 0.3, 60)[-1]
    ends = [landscape.descend(b, start, lr, steps)[-1] for lr, steps in ((0.15, 40), (0.3, 20), (0.6, 10))]
    assert np.abs(np.diff(ends, axis=0)).max() < 0.02


def test_narrow_crossing_valleys_leave_room_and_round_or_parallel_ones_do_not():
    crossing = total(70, 50).sum()
    assert total(70, 1).sum() > 3 * crossing
    assert total(0, 50).sum() > 3 * crossing


@pytest.mark.parametrize("angle", [0, 70, 180])
@pytest.mark.parametrize("steps", [1, 40, 200])
@pytest.mark.parametrize(("lr", "narrowness"), [(0.05, 1), (0.3, 10), (0.9, 50)])
def test_the_widgets_callback_draws_at_every_extreme(angle, steps, lr, narrowness):
    assert plots.png(figures.draw_valleys(angle, steps, lr, narrowness)).startswith(b"\x89PNG")


def test_the_other_figures_draw():
    stream = streams.blurry(streams.class_incremental(lesson.load("digits")), 0.3)
    for figure in (figures.draw_parabolas(), figures.draw_class_counts(stream)):
        assert plots.png(figure).startswith(b"\x89PNG")


def test_the_choices_are_made_with_the_students_function(full, capsys):
    lesson.show_choices(full["learning_rate"], lambda candidates, seen: 0.03, seen=2)
    shown = capsys.readouterr().out
    assert "0.03, 0.03, 0.03" in shown
    assert "validation, first 2 tasks" in shown


def test_the_students_scoring_function_is_used():
    entry = lesson.EXPERIMENTS["two_ways"]
    config = entry.configurations("smoke")["fine-tuning"]
    own = entry.run(config, 0, {"score": lambda *arguments: 1 - scenario_accuracy(*arguments)})["asked"]
    reference = entry.run(config, 0, None)["asked"]
    assert own == pytest.approx({name: 1 - value for name, value in reference.items()})


def test_a_probe_changes_nothing():
    """The boundary experiment only looks: task 2 ends with the scores that the plain run has."""
    config = lesson.EXPERIMENTS["boundary"].configurations("smoke")["class"]
    stream, plain = lesson.make(config, seed=0)
    history = plain.fit(stream.first(2))
    _, watched = lesson.make(config, seed=0)
    watched.methods.append(lesson.Probe())
    np.testing.assert_array_equal(watched.fit(stream.first(2)).accuracy, history.accuracy)
