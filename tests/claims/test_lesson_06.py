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
    others = {
        "losses": EVA,
        "augment": EVA,
        "scales": BOTH,
        "categories": f"{EVA} by category",
        "cost": "random pixels",
    }
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
        assert max(found.values()) > naive + 0.02
        assert len(choice.values(f"{name} {lesson.CHOSEN[name]:g}", "mean_srcc")) == 3


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


def test_claim_a_mse_alone_is_enough_for_one_data_set(full):
    losses = full["losses"]
    mse = losses.values("mse", "mean_srcc")
    means = {label: losses.mean(label, "mean_srcc") for label in losses.labels}
    assert 0.855 < min(means.values()) and max(means.values()) < 0.88 and len(means) == 5
    assert max(means.values()) - min(means.values()) < 0.02 and np.ptp(mse) > 0.05
    for label in set(losses.labels) - {"mse"}:
        assert (losses.values(label, "mean_srcc") < mse).sum() >= 2


def test_claim_b_mse_minds_two_scales_and_the_correlation_does_not(full):
    scales = full["scales"]

    def on_ava(label):
        return scales.values(label, "srcc")[:, 1]

    lost = {
        loss: on_ava(f"{loss}, one scale") - on_ava(f"{loss}, two scales")
        for loss in ("mse", "mse+rank", "plcc", "fidelity")
    }
    assert lost["mse"].min() > 0.13 and lost["plcc"].max() < 0.011 and lost["mse+rank"].min() > 0.12
    assert lost["fidelity"].max() < lost["mse"].min()
    assert scales.mean("plcc, one scale", "mean_srcc") < scales.mean("mse, one scale", "mean_srcc")
    gain = scales.values("plcc, two scales", "mean_srcc") - scales.values("mse, two scales", "mean_srcc")
    assert gain.min() > 0.07


def test_two_scales_change_one_data_set_and_batches_never_mix_them(monkeypatch):
    seen = []
    config = lesson.EXPERIMENTS["scales"].configurations("smoke")["mse, two scales"]
    original = lesson.OneSet.batch

    def watched(self, learner, batch):
        kept = original(self, learner, batch)
        seen.append((set(kept["set"].tolist()), len(kept["y"]), len(batch["y"])))
        return kept

    monkeypatch.setattr(lesson.OneSet, "batch", watched)
    lesson.run_scales(config, 0, None)
    assert seen and all(len(sets) == 1 and 2 * kept >= whole for sets, kept, whole in seen)
    assert {0, 1} == set.union(*(sets for sets, _, _ in seen))


def test_claim_c_augmentation_that_lies_costs_more_than_the_honest_one_gives(full):
    none, honest, lying = (full["augment"].values(label, "mean_srcc") for label in lesson.AUGMENTATIONS)
    assert (honest - none).min() > 0.12 and (none - lying).min() > 0.25


def test_claim_d_a_score_is_forgotten_and_replay_keeps_it(full):
    stream = full["stream"]
    mean = {label: stream.values(label, "mean_srcc") for label in stream.labels}
    learned = stream.accuracy("naive")[:, 0, 0]
    assert (learned - final(stream, "naive", 0)).min() > 0.38 and final(stream, "naive", 0).min() > 0.25
    assert round(learned.mean(), 2) == 0.87 and round(final(stream, "naive", 0).mean(), 2) == 0.41
    assert final(stream, "L2", 0).min() > 0.63 and (mean["L2"] - mean["naive"]).min() > 0.04
    assert (final(stream, "naive", 1) - final(stream, "L2", 1)).mean() > 0.01
    assert lesson.CHOSEN["L2"] == min(lesson.CANDIDATES["L2"])
    gain = mean["EWC"] - mean["naive"]
    assert 0 < gain.mean() < 0.02 and (gain < 0).sum() == 1
    packnet = stream.accuracy("PackNet (task told)")
    assert (packnet[:, 0, 0] == packnet[:, 1, 0]).all()
    assert packnet[:, 1, 1].mean() < final(stream, "naive", 1).mean() - 0.03
    assert (
        abs(final(stream, "replay", 0) - learned).max() < 0.05 and (learned - final(stream, "replay", 0)).max() < 0.03
    )
    assert (final(stream, "replay", 1) - final(stream, "naive", 1)).mean() > 0.01
    for label in stream.labels:
        if label != "joint":
            assert (mean["joint"] - mean[label]).min() > 0.02, label


def test_the_ceiling_gets_twice_the_passes_and_no_other_condition_does():
    configs = lesson.EXPERIMENTS["stream"].configurations("full")
    epochs = {label: config["epochs"] for label, config in configs.items()}
    assert epochs.pop("joint") == 20 and set(epochs.values()) == {10}


def test_stability_is_not_a_virtue_by_itself(full):
    stream, categories = full["stream"], full["categories"]
    stable = stream.mean("naive", "stability_index")
    assert round(stable, 2) == 0.36 and round((1 + stable) / 2, 2) == 0.68
    assert round(categories.mean("naive", "stability_index"), 2) == 0.64
    assert categories.mean("PackNet (task told)", "stability_index") > 0.999
    assert round(categories.mean("naive", "mean_srcc"), 2) == 0.88
    assert round(categories.mean("PackNet (task told)", "mean_srcc"), 2) == 0.78


def test_claim_e_naive_training_forgets_noise_and_not_blur(full):
    def falls(label, distortion):
        """Score of clean pictures less score at level 1: `(seeds, tasks)`."""
        scores = full["stream"].values(label, "graded")[:, :, lesson.DISTORTIONS.index(distortion)]
        return scores[:, :, 0] - scores[:, :, -1]

    noise = falls("naive", "noise")
    assert noise[:, 0].min() > 0.5 and noise[:, 1].max() < 0.15
    for name in ("blur", "contrast"):
        assert falls("naive", name)[:, 1].min() > 0.6
    for name in ("jpeg", "blocking"):
        assert falls("naive", name)[:, 0].max() < 0.25 and falls("naive", name)[:, 1].min() > 0.45
    assert falls("replay", "noise")[:, 1].min() > 0.6


def test_claim_f_new_contents_are_hardly_forgotten(full):
    categories, stream = full["categories"], full["stream"]
    assert categories.values("naive", "forgetting").max() < 0.08 and stream.values("naive", "forgetting").min() > 0.38
    first = categories.accuracy("naive")[:, :, 0]
    assert (first[:, -1] - first[:, 0]).min() > 0.19
    fourth = {
        label: [quality.mean_srcc(matrix)[3] for matrix in categories.accuracy(label)] for label in ("naive", "replay")
    }
    assert max(fourth["naive"]) < 0.78 and min(fourth["replay"]) > 0.84
    mean = {label: categories.mean(label, "mean_srcc") for label in categories.labels}
    assert min(mean, key=mean.get) == "PackNet (task told)" and max(mean, key=mean.get) == "joint"
    assert 0.015 < mean["replay"] - mean["naive"] < 0.035 and abs(mean["L2"] - mean["naive"]) < 0.01
    assert (categories.values("naive", "mean_srcc") - categories.values("EWC", "mean_srcc")).min() > 0.04


def test_claim_g_the_clock_is_kinder_than_the_multiplications(full):
    rows = full["cost"].records["three backbones"][0]["rows"]
    big, small = rows["resnet18"], rows["mobilenet_v3_small"]
    assert round(big["macs"] / small["macs"]) == 30
    assert 1.7 < big["milliseconds"] / small["milliseconds"] < 3
    lost = {name: -np.diff(full["backbones"].accuracy(name)[:, :, 0])[:, 0] for name in full["backbones"].labels}
    lost["mobilenet_v3_small"] = -np.diff(full["stream"].accuracy("naive")[:, :, 0])[:, 0]
    assert min(values.min() for values in lost.values()) > 0.38 and lost["resnet18"].min() > 0.6
    assert all(len(values) == 3 for values in lost.values())
    assert rows["resnet18"]["parameters"] == max(row["parameters"] for row in rows.values())


def test_claims_d_and_e_in_the_quick_preset():
    """One seed: naive training loses on task 1 what replay keeps."""
    configs = lesson.EXPERIMENTS["stream"].configurations("quick")
    naive, replay = (
        experiment.run_one(lesson.EXPERIMENTS["stream"], configs[label], 0) for label in ("naive", "replay")
    )
    assert naive["accuracy"][1][0] < naive["accuracy"][0][0] - 0.1
    assert replay["accuracy"][1][0] > naive["accuracy"][1][0] + 0.2 and replay["mean_srcc"] > naive["mean_srcc"] + 0.1
