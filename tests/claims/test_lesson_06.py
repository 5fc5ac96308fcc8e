"""The claims of lesson 06, as inequalities with margins: full runs from the record, and what the quick preset must show, live.

Letters are those of the prose in `solutions/06_iqa.py`.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers import ROOT, full_results, watch_fits

from course_utils import quality
from course_utils.lessons import experiment
from course_utils.lessons.experiments import lesson_06 as lesson

EVA, BOTH = "EVA stand-in (procedural)", "EVA stand-in (procedural) then AVA stand-in (procedural)"


@pytest.fixture(scope="module")
def full():
    """Experiment -> Results of the recorded full run."""
    others = {"losses": EVA, "augment": EVA, "categories": f"{EVA} by category", "cost": "random pixels"}
    return full_results("06_iqa", lesson, BOTH, **others)


def test_every_record_says_stand_in():
    content = json.loads((ROOT / "results" / "06_iqa.json").read_text(encoding="utf-8"))
    for entry in content["experiments"].values():
        for condition in entry.values():
            for record in condition["seeds"].values():
                assert record["data"]["source"] == "standin" or record["data"]["title"] == "random pixels"


def test_the_strengths_are_the_best_of_their_candidates_on_validation_images(full):
    choice = full["choice"]
    naive = choice.mean("naive", "mean_srcc")
    for name, strengths in lesson.CANDIDATES.items():
        found = {strength: choice.mean(f"{name} {strength:g}", "mean_srcc") for strength in strengths}
        assert max(found, key=found.get) == lesson.CHOSEN[name]
        assert max(found.values()) > naive + 0.03
    test = {label: full["stream"].values(label, "mean_srcc")[0] for label in ("naive", "L2", "EWC")}
    assert test["L2"] < test["naive"] - 0.05 and test["EWC"] > test["naive"]  # claim C: too few to decide
    assert lesson.CHOSEN["EWC"] == min(lesson.CANDIDATES["EWC"])  # the prose says that it is the smallest


def test_a_choice_looks_at_validation_images_only(monkeypatch):
    seen = watch_fits(monkeypatch, lesson.Learner)
    config = lesson.EXPERIMENTS["choice"].configurations("smoke")["L2 1"]
    lesson._learned.cache_clear()
    lesson.run_choice(config, 0, None)
    assert [split for split, _ in seen] == ["validation"]


def test_graded_pictures_are_clean_at_level_zero_and_lose_quality_alike():
    pictures = lesson.graded(32).astype(float)
    assert (pictures[:, 0] == pictures[:1, 0]).all()
    assert (np.abs(pictures[:, -1] - pictures[:, 0]).mean(axis=(1, 2, 3, 4)) > 5).all()
    np.testing.assert_allclose(lesson.true_quality(), 1 - 0.9 * np.array(lesson.LEVELS))


def test_the_picture_of_the_bug_shows_it():
    """One level off and six levels off: nearly the same without the cumulative sum, nearly three times as much with it."""
    votes = torch.tensor([0, 0.1, 0.8, 0.1, 0, 0, 0, 0, 0, 0])[None]
    near, far = votes.roll(1, dims=1), votes.roll(6, dims=1)
    plain = [float((other - votes).square().mean().sqrt()) for other in (near, far)]
    cumulative = [float(quality.emd_loss(other, votes)) for other in (near, far)]
    assert plain[1] < 1.2 * plain[0] and cumulative[1] > 2.5 * cumulative[0]


def test_augmentation_that_lies_changes_contrast_or_sharpness_and_is_reproducible():
    x = torch.rand(24, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    first, again = (lesson.falsify(x, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again) and first.shape == x.shape
    assert (first.std(dim=(1, 2, 3)) < x.std(dim=(1, 2, 3)) + 1e-3).all()


def final(results, label, task):
    """SRCC on a task after the last one, one number a seed."""
    return results.accuracy(label)[:, -1, task]


def test_claim_a_mse_alone_is_enough_here(full):
    losses = full["losses"]
    mse = losses.values("mse", "mean_srcc")
    means = {label: losses.mean(label, "mean_srcc") for label in losses.labels}
    assert 0.765 < min(means.values()) and max(means.values()) < 0.795 and len(means) == 5
    assert max(means.values()) - min(means.values()) < 0.03
    for label in losses.labels:
        assert np.ptp(losses.values(label, "mean_srcc")) > 0.07
        if label != "mse":
            assert (losses.values(label, "mean_srcc") < mse).sum() == 2
    error = {label: losses.mean(label, lambda record: record["error"][0]) for label in ("mse", "plcc")}
    assert error["plcc"] > error["mse"] + 0.01


def test_claim_b_augmentation_that_lies_costs_more_than_the_honest_one_gives(full):
    none, honest, lying = (full["augment"].values(label, "mean_srcc") for label in lesson.AUGMENTATIONS)
    assert (honest - none).min() > 0.08 and (none - lying).min() > 0.15


def test_claim_c_a_score_is_forgotten_and_replay_keeps_it(full):
    stream = full["stream"]
    mean = {label: stream.values(label, "mean_srcc") for label in stream.labels}
    learned = stream.accuracy("naive")[:, 0, 0]
    assert (learned - final(stream, "naive", 0)).min() > 0.3 and final(stream, "naive", 0).min() > 0.36
    assert round(learned.mean(), 2) == 0.79 and round(final(stream, "naive", 0).mean(), 2) == 0.44
    assert final(stream, "L2", 0).min() > 0.6
    assert (stream.accuracy("L2")[:, 0, 1] - final(stream, "L2", 1)).min() > 0.07
    assert (mean["naive"] - mean["L2"]).min() > 0.02
    assert abs(mean["EWC"] - mean["naive"]).max() < 0.05 and (mean["EWC"] > mean["naive"]).sum() == 2
    packnet = stream.accuracy("PackNet (task told)")
    assert (packnet[:, 0, 0] == packnet[:, 1, 0]).all()
    assert (final(stream, "naive", 1) - packnet[:, 1, 1]).min() > 0.03
    for label in stream.labels:
        if label != "replay":
            assert (mean["replay"] - mean[label]).min() > 0.04, label
    assert (final(stream, "replay", 0) - learned).min() > 0.02


def test_stability_is_not_a_virtue_by_itself(full):
    stream = full["stream"]
    stable = {label: stream.mean(label, "stability_index") for label in ("naive", "replay", "PackNet (task told)")}
    assert round(stable["naive"], 2) == 0.44 and round((1 + stable["naive"]) / 2, 2) == 0.72
    assert round(stable["replay"], 2) == 0.82 and stable["PackNet (task told)"] > 0.999
    assert round(final(stream, "replay", 0).mean(), 2) == 0.83


def test_claim_d_naive_training_forgets_noise_and_not_blur(full):
    def falls(label, distortion):
        """Score of clean pictures less score at level 1: `(seeds, tasks)`."""
        scores = full["stream"].values(label, "graded")[:, :, lesson.DISTORTIONS.index(distortion)]
        return scores[:, :, 0] - scores[:, :, -1]

    noise = falls("naive", "noise")
    assert noise[:, 0].min() > 0.4 and noise[:, 1].max() < 0.1
    for name in ("blur", "contrast"):
        assert falls("naive", name)[:, 1].min() > 0.3
    for name in ("jpeg", "blocking"):
        assert falls("naive", name)[:, 0].max() < 0.2 and falls("naive", name)[:, 1].min() > 0.3
    assert falls("replay", "noise")[:, 1].min() > 0.5


def test_claim_e_new_contents_are_hardly_forgotten_with_the_one_seed_that_was_run(full):
    categories, stream = full["categories"], full["stream"]
    (forgotten,) = categories.values("naive", "forgetting")
    assert forgotten < 0.05 and stream.values("naive", "forgetting")[0] > 0.3
    assert categories.mean("naive", "stability_index") < stream.values("naive", "stability_index")[0] - 0.2
    assert categories.mean("replay", "mean_srcc") > categories.mean("joint", "mean_srcc") + 0.03


def test_claim_f_the_clock_is_kinder_than_the_multiplications(full):
    rows = full["cost"].records["three backbones"][0]["rows"]
    big, small = rows["resnet18"], rows["mobilenet_v3_small"]
    assert round(big["macs"] / small["macs"]) == 30
    assert 1.7 < big["milliseconds"] / small["milliseconds"] < 3
    drops = {name: record[0]["accuracy"] for name, record in full["backbones"].records.items()}
    lost = {name: matrix[0][0] - matrix[1][0] for name, matrix in drops.items()}
    lost["mobilenet_v3_small"] = -np.diff(full["stream"].accuracy("naive")[0, :, 0])[0]
    assert min(lost.values()) > 0.1 and max(lost, key=lost.get) == "resnet18"


def test_claims_c_and_d_in_the_quick_preset():
    """One seed: naive training loses on task 1 what replay keeps."""
    configs = lesson.EXPERIMENTS["stream"].configurations("quick")
    naive, replay = (
        experiment.run_one(lesson.EXPERIMENTS["stream"], configs[label], 0) for label in ("naive", "replay")
    )
    assert naive["accuracy"][1][0] < naive["accuracy"][0][0] - 0.1
    assert replay["accuracy"][1][0] > naive["accuracy"][1][0] + 0.2 and replay["mean_srcc"] > naive["mean_srcc"] + 0.1
