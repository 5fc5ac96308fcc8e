"""Lesson 00: wrong answers meet their own diagnosis, right variants pass, and what the lesson claims holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from course_utils.lessons import checking, exercise
from course_utils.lessons.experiments import lesson_00


def mean_of_shares(correct, total):
    return sum(right / images for right, images in zip(correct, total, strict=True)) / len(total)


def sum_of_shares(correct, total):
    return sum(right / images for right, images in zip(correct, total, strict=True))


def per_task(correct, total):
    return sum(correct) / len(correct)


def in_per_cent(correct, total):
    return 100 * sum(correct) / sum(total)


def error_rate(correct, total):
    return 1 - sum(correct) / sum(total)


def upside_down(correct, total):
    return sum(total) / sum(correct)


def whole_division(correct, total):
    return sum(correct) // sum(total)


def last_task(correct, total):
    return correct[-1] / total[-1]


def in_place(correct, total):
    for task in range(1, len(correct)):
        correct[0] += correct[task]
    return correct[0] / sum(total)


def no_return(correct, total):
    sum(correct) / sum(total)  # noqa: B018


WRONG = {
    mean_of_shares: "unweighted mean",
    sum_of_shares: "does not divide by anything",
    per_task: "by the number of tasks",
    in_per_cent: "percentage",
    error_rate: "error rate",
    upside_down: "upside down",
    whole_division: "throws the fraction away",
    last_task: "last task alone",
    in_place: "changes the lists",
    no_return: "is there a `return`",
}


@pytest.mark.parametrize("answer", WRONG, ids=lambda answer: answer.__name__)
def test_a_wrong_answer_meets_its_own_message(answer):
    report = checking.examine(exercise.find("00.1"), answer)
    messages = [outcome.message for outcome in report.outcomes if not outcome.passed]
    assert report.status in ("wrong", "partly")
    assert report.points < 2
    assert any(WRONG[answer] in message for message in messages), messages
    others = [fragment for fragment in WRONG.values() if fragment != WRONG[answer]]
    assert not any(fragment in message for message in messages for fragment in others), messages


def with_numpy(correct, total):
    return np.sum(correct) / np.sum(total)


def with_torch(correct, total):
    return torch.as_tensor(correct).sum() / torch.as_tensor(total).sum()


def weighted_mean(correct, total):
    shares = [right / images for right, images in zip(correct, total, strict=True)]
    return np.average(shares, weights=total)


def with_a_loop(correct, total):
    right = images = 0
    for task in range(len(total)):
        right += correct[task]
        images += total[task]
    return right / images


@pytest.mark.parametrize("answer", [with_numpy, with_torch, weighted_mean, with_a_loop])
def test_a_right_variant_passes(answer):
    report = checking.examine(exercise.find("00.1"), answer)
    assert (report.status, report.points) == ("passed", 2), report


def test_the_claims_of_the_lesson_hold():
    """Fine-tuning gets under 10 % of the first digits right, joint training over 80 %; both learn the rest."""
    configs = lesson_00.conditions("quick")
    for seed in range(3):
        tuned = np.array(lesson_00.run(configs["fine-tuning"], seed, None)["accuracy"])
        joint = np.array(lesson_00.run(configs["joint"], seed, None)["accuracy"])
        assert tuned[0, 0] > 0.8
        assert tuned[1, 0] < 0.1
        assert tuned[1, 1] > 0.8
        assert joint[1].min() > 0.8
