"""Exercise 07.3: an observer, the range of activations as a moving average over batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_utils.compression.observers import Observer
from course_utils.lessons.exercise import Criterion, Exercise, close, diagnose, to_array
from course_utils.lessons.exercises.lesson_07_integers import pair

Answer = Callable[..., Any]


def observe(batches: Iterable[Tensor], momentum: float = 0.1) -> tuple[float, float]:
    """The moving average of every batch's smallest and largest number; the first batches count alike.

    Built in lesson 07, exercise 07.3.
    """
    low = high = 0.0
    for number, x in enumerate(batches):
        weight = max(momentum, 1 / (number + 1))
        low += weight * (x.min().item() - low)
        high += weight * (x.max().item() - high)
    return low, high


LOWS, HIGHS = (-2.0, -6.0, -1.0, -3.0), (4.0, 9.0, 2.0, 6.0)


def _batches(count: int) -> list[Tensor]:
    """Batches of 3 x 4 numbers with those ends, each end somewhere else; the number nearest to 0 is 0.5."""
    found = []
    for number in range(count):
        x = torch.linspace(-0.5, 0.9, 12)
        x[(5 * number + 3) % 12], x[(5 * number + 6) % 12] = LOWS[number], HIGHS[number]
        found.append(x.view(3, 4))
    return found


def _found(answer: Answer, count: int, momentum: float) -> np.ndarray:
    low, high = pair(answer(_batches(count), momentum), "the lower end of the range, and the upper one")
    return np.array([to_array(low).item(), to_array(high).item()])


def _averages(weights: Iterable[float]) -> list[float]:
    """The ends after so many batches, each with its weight, from 0 on."""
    low = high = 0.0
    for weight, a, b in zip(weights, LOWS, HIGHS, strict=False):
        low, high = low + weight * (a - low), high + weight * (b - high)
    return [low, high]


def _one_batch(answer: Answer) -> None:
    found = _found(answer, 1, 0.1)
    smallest = _batches(1)[0].abs().min().item()
    diagnose(
        found,
        {
            "You start from 0, and the first batch moves the range by a tenth only. There is nothing before it: it counts whole.": [
                -0.2,
                0.4,
            ],
            "The first batch keeps nine tenths of itself. There is nothing before it: it counts whole.": [-1.8, 3.6],
            "The two are in the other order: return the lower end first.": [4, -2],
            "You take the largest magnitude for both ends. Half of the integers on the smaller side would never be used.": [
                -4,
                4,
            ],
            "You look at magnitudes. The range has a sign: the smallest number is -2.": [smallest, 4],
        },
        expected=[-2, 4],
        rtol=1e-4,
    )
    close(found, [-2, 4], "After one batch the range is that batch's smallest and largest number.", rtol=1e-4)


def _first_batches(answer: Answer) -> None:
    found = _found(answer, 3, 0.1)
    expected = [-3.0, 5.0]
    diagnose(
        found,
        {
            "This is the smallest and the largest number ever seen: one odd batch decides for good. Average the ends.": [
                -6,
                9,
            ],
            "The second batch weighs a tenth already, so the range hangs on the first one. "
            "The first batches count alike: the weight is `1 / (number + 1)` as long as that is more than `momentum`.": _averages(
                (1, 0.1, 0.1)
            ),
            "A new batch weighs 1 - momentum: you have the two sides exchanged. `momentum` is the weight of the *new* batch.": _averages(
                (1, 0.9, 0.9)
            ),
            "Only the last batch is left: every new one writes over the range.": [-1, 2],
            "Only the first batch counts.": [-2, 4],
            "You add the ends up. Divide by the number of batches, or move the range a part of the way only.": [-9, 15],
            "The second batch counts whole, as the first one did: numbers start at 0, so the weight is `1 / (number + 1)`.": _averages(
                (1, 1, 1 / 2)
            ),
        },
        expected=expected,
        rtol=1e-4,
    )
    close(
        found, expected, "Three batches with momentum 0.1 count alike: the mean of their ends is -3 and 5.", rtol=1e-4
    )


def _later_batches(answer: Answer) -> None:
    found = _found(answer, 4, 0.4)
    expected = _averages((1, 1 / 2, 0.4, 0.4))
    diagnose(
        found,
        {
            "All batches count alike: `momentum` is never used. From the third batch on 0.4 is more than 1/3, and is the weight.": _averages(
                (1, 1 / 2, 1 / 3, 1 / 4)
            ),
            "The fourth batch weighs 0.6, which is 1 - momentum. `momentum` itself is what a new batch weighs at least.": _averages(
                (1, 0.6, 0.6, 0.6)
            ),
            "You take the smaller one of the two weights. A late batch would count for nothing: take the larger one.": _averages(
                (1, 0.4, 1 / 3, 1 / 4)
            ),
        },
        expected=expected,
        rtol=1e-4,
    )
    close(
        found, expected, "With momentum 0.4 four batches have the weights 1, 1/2, 0.4 and 0.4, one after another.", rtol=1e-4
    )  # fmt: skip


EXERCISES = [
    Exercise(
        id="07.3",
        title="An observer",
        difficulty=2,
        minutes=10,
        points=2,
        reference=observe,
        forbidden=(Observer.__init__,),  # not `observe`: a decorator stands around it, whose code others share
        criteria=[
            Criterion("one batch: its smallest and its largest number", _one_batch),
            Criterion("the first batches count alike", _first_batches, share=2),
            Criterion("later ones count with the momentum", _later_batches),
        ],
        hints=(
            "Keep two numbers, and let every batch move each of them a part of the way to its own.",
            "`weight = max(momentum, 1 / (number + 1))`, with number 0 for the first batch: 1, then 1/2, then 1/3, ...",
            "`low += weight * (x.min().item() - low)`, and the same for `high` with `x.max()`. Start both at 0.",
        ),
    ),
]
