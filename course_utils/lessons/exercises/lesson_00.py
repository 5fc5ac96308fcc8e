"""Lesson 00: one toy exercise, to meet the check, the hints and the points."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from course_utils.lessons.exercise import Changed, Criterion, Exercise, close, diagnose


def mean_accuracy(correct: Sequence[int], total: Sequence[int]) -> float:
    """Accuracy over the test images of all tasks together, between 0 and 1.

    Args:
        correct: images that were classified right, one count per task.
        total: test images, one count per task.

    Built in lesson 00, exercise 00.1.
    """
    return float(np.sum(correct) / np.sum(total))


_UNWEIGHTED = (
    "This is the unweighted mean of the tasks' accuracies: a small task counts as much as a large one. "
    "Here every image counts the same, so divide all right images by all images."
)


def _one_task(answer: Callable[..., float]) -> None:
    actual = answer([30], [40])
    diagnose(
        actual,
        {
            "This is a percentage. The course writes accuracy as a share between 0 and 1.": 75.0,
            "This is the error rate: the share that went wrong. Accuracy is the share that went right.": 0.25,
            "This counts the right images. Accuracy divides that count by how many images there are.": 30,
            "This is upside down: the number of images is divided by the number right. "
            "Divide the images that are right by all images.": 40 / 30,
            "This is 0 because `//` throws the fraction away; use `/`.": 0,
        },
        expected=0.75,
    )
    close(actual, 0.75, "With a single task, 30 right out of 40 images are an accuracy of 0.75.")


def _weighted(answer: Callable[..., float]) -> None:
    actual = answer([90, 10], [100, 20])  # shares 0.9 and 0.5
    diagnose(
        actual,
        {
            _UNWEIGHTED: 0.7,
            "This adds the two tasks' accuracies and does not divide by anything, so it can pass 1.": 1.4,
            "This divides the right images by the number of tasks, not by the number of images.": 50,
            "This is the accuracy of the last task alone.": 0.5,
            "This is the accuracy of the first task alone.": 0.9,
        },
        expected=100 / 120,
    )
    close(actual, 100 / 120, "90 of 100 and 10 of 20 images are right: 100 of 120 in all.")


def _inputs(answer: Callable[..., float]) -> None:
    correct, total = np.array([3, 0, 8]), np.array([4, 2, 10])
    actual = answer(correct, total)
    if correct.tolist() != [3, 0, 8] or total.tolist() != [4, 2, 10]:
        raise Changed("Your function changes the lists it is given. Compute from them without writing into them.")
    diagnose(actual, {_UNWEIGHTED: (3 / 4 + 0 / 2 + 8 / 10) / 3}, expected=11 / 16)
    close(actual, 11 / 16, "Arrays with any number of tasks should work, one with nothing right among them.")


EXERCISES = [
    Exercise(
        id="00.1",
        title="Accuracy over all tasks",
        difficulty=1,
        minutes=5,
        points=2,
        reference=mean_accuracy,
        criteria=[
            Criterion("one task: the share of its images that are right", _one_task, share=0.5),
            Criterion("two tasks of different size: every image counts the same", _weighted, share=1),
            Criterion("any number of tasks, as lists or arrays, left as they were", _inputs, share=0.5),
        ],
        hints=(
            "How many images are there in all tasks together? How many of them are right?",
            "Add up `correct` first, add up `total` first, and divide once, at the end.",
            "`sum(correct)` is the number of right images over all tasks. What do you divide it by?",
        ),
    )
]
