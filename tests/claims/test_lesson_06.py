"""The claims of lesson 06, as inequalities with margins: full runs from the record, and what the quick preset must show, live.

Letters are those of the prose in `solutions/06_iqa.py`.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers import ROOT, full_results

from course_utils import quality
from course_utils.lessons import experiment
from course_utils.lessons.experiments import lesson_06 as lesson
from course_utils.lessons.experiments import lesson_06_figures as figures

EVA, BOTH = "EVA stand-in (procedural)", "EVA stand-in (procedural) then AVA stand-in (procedural)"


@pytest.fixture(scope="module")
def full():
    """Experiment -> Results of the recorded full run."""
    others = {"losses": EVA, "augment": EVA, "categories": f"{EVA} by category", "cost": "random pixels"}
    return full_results("06_iqa", lesson, BOTH, **others)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_record_says_stand_in():
    content = json.loads((ROOT / "results" / "06_iqa.json").read_text(encoding="utf-8"))
    for entry in content["experiments"].values():
        for condition in entry.values():
            for record in condition["seeds"].values():
                assert record["data"]["source"] == "standin" or record["data"]["title"] == "random pixels"


def test_the_strengths_are_the_best_of_their_candidates_on_validation_images(full):
    choice = full["choice"]
    for name, strengths in lesson.CANDIDATES.items():
        found = {strength: choice.mean(f"{name} {strength:g}", "mean_srcc") for strength in strengths}
        assert max(found, key=found.get) == lesson.CHOSEN[name]
    assert lesson.CHOSEN["EWC"] == min(lesson.CANDIDATES["EWC"])  # the prose says that it is the smallest


def test_a_choice_looks_at_validation_images_only(monkeypatch):
    seen = []
    fit = lesson.Learner.fit
    monkeypatch.setattr(
        lesson.Learner,
        "fit",
        lambda learner, stream, *, evaluate="test", **options: seen.append(evaluate) or fit(learner, stream, evaluate=evaluate, **options),
    )  # fmt: skip
    config = lesson.EXPERIMENTS["choice"].configurations("smoke")["L2 1"]
    lesson._learned.cache_clear()
    lesson.run_choice(config, 0, None)
    assert seen == ["validation"]


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
