"""The claims of lesson 02, as inequalities with margins over three seeds: quick runs live, full runs from the record.

Letters are those of the prose in `solutions/02_rehearsal_kd_gtsrb.py`.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import full_results

from course_utils.lessons import experiment, storage
from course_utils.lessons.experiments import lesson_02 as lesson
from course_utils.lessons.results import Results

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def quick():
    """The comparison in the quick preset, with three seeds instead of one; on real signs where there are any."""
    entry = lesson.EXPERIMENTS["methods"]
    configs = entry.configurations("quick")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    records = {
        label: {seed: storage.from_json(experiment.run_one(entry, configs[label], seed)) for seed in SEEDS}
        for label in ("fine-tuning", "distillation", "rehearsal", "GDumb", "joint")
    }
    torch.set_num_threads(threads)
    return Results("methods", entry.title, "quick", records)


@pytest.fixture(scope="module")
def full():
    """Experiment -> Results of the recorded full run."""
    return full_results("02_rehearsal_kd_gtsrb", lesson, "GTSRB")


@pytest.fixture(params=["quick", "full"])
def compared(request):
    """The comparison of the methods, live and recorded."""
    return request.getfixturevalue("quick") if request.param == "quick" else request.getfixturevalue("full")["methods"]


def final(results, label):
    """`(seeds,)` accuracy over all test images after the last task, in per cent."""
    return results.values(label, "final")


def test_claim_a_rehearsal_closes_most_of_the_gap(compared):
    floor, ceiling = final(compared, "fine-tuning"), final(compared, "joint")
    closed = (final(compared, "rehearsal") - floor) / (ceiling - floor)
    assert closed.min() > 0.6


def test_claim_b_a_teacher_without_images_stays_near_the_floor(compared):
    assert np.abs(final(compared, "distillation") - final(compared, "fine-tuning")).max() < 10


def test_claim_c_a_teacher_on_top_of_rehearsal_helps_in_the_full_run(full):
    gain = final(full["methods"], "rehearsal + distillation") - final(full["methods"], "rehearsal")
    assert gain.min() >= 1


def test_claim_d_the_stream_is_worth_more_than_the_memory_alone(compared):
    assert (final(compared, "rehearsal") - final(compared, "GDumb")).min() >= 10


def test_claim_e_recency_bias(compared):
    assert compared.values("fine-tuning", "to_last_task").min() > 90
    assert compared.values("rehearsal", "to_last_task").max() < 30


def test_claim_f_errors_of_rehearsal_lean_forward(compared):
    counts = np.array(compared.records["rehearsal"][0]["confusion"])
    task_of = np.repeat(np.arange(5), [9, 9, 9, 8, 8])
    true, predicted = np.indices(counts.shape)
    errors = counts * (true != predicted) * (task_of[true] < 4)
    assert errors[task_of[predicted] > task_of[true]].sum() > 1.5 * errors[task_of[predicted] < task_of[true]].sum()
    assert errors[task_of[predicted] == task_of[true]].sum() > 0.1 * errors.sum()


def test_claim_g_the_next_image_is_worth_less(full):
    sizes = {size: final(full["memory"], f"class-balanced, {size}")[0] for size in (50, 200, 800)}
    assert sizes[200] - sizes[50] > sizes[800] - sizes[200] > 0
    for size in sizes:
        behind = {
            key: (
                full["memory"].values(f"class-balanced, {size}", key) - full["memory"].values(f"reservoir, {size}", key)
            )[0]
            for key in ("final", "task_mean")
        }
        assert behind["task_mean"] > behind["final"] > 0


def test_claim_h_what_helps_two_hundred_images_and_what_does_not(full):
    further, base = full["further"], final(full["methods"], "rehearsal + distillation")
    per_track = final(further, "one image per track")
    assert (per_track - base).min() > 0
    assert per_track.min() > 88
    assert np.abs(final(further, "+ aligned weights") - per_track).max() < 1
    assert (per_track - final(further, "+ balanced fine-tuning")).min() >= 2
    old, new = further.values("one image per track", "head_norms").T
    assert (new < old).all()


def test_claim_i_a_light_teacher_helps_and_a_heavy_one_harms(full):
    plain = full["methods"].records["rehearsal"][0]["final"]  # the same seed
    taught = {label: final(full["distillation"], label)[0] for label in full["distillation"].labels}
    light = [value for label, value in taught.items() if not label.startswith("alpha 0.9")]
    heavy = [value for label, value in taught.items() if label.startswith("alpha 0.9")]
    assert min(light) > plain + 0.5
    assert max(heavy) < plain - 1
    temperature = max(abs(taught[f"alpha {a}, T 2"] - taught[f"alpha {a}, T 4"]) for a in ("0.1", "0.5", "0.9"))
    weight = min(taught[f"alpha 0.5, T {T}"] - taught[f"alpha 0.9, T {T}"] for T in (2, 4))
    assert weight > temperature


def test_the_first_task_is_the_same_for_all(compared):
    for seed in SEEDS:
        first = {
            label: compared.records[label][seed]["accuracy"][0][0] for label in compared.labels if label != "GDumb"
        }
        assert len(set(first.values())) == 1, first


def test_numbers_to_beat(full):
    assert final(full["methods"], "joint").mean() >= 96
    assert final(full["methods"], "rehearsal").min() >= 75
    assert final(full["classic"], "joint").min() > 88
    assert final(full["classic"], "rehearsal + distillation").min() > 64.2
