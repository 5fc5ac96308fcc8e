"""What an exercise is: its card, its criteria, its hints, and the helpers that criteria are written with.

A lesson's exercises stand in `course_utils/lessons/exercises/lesson_NN.py` as `EXERCISES`, a list.
A criterion is a name (what is required) and a function that takes the student's function and raises `Wrong`,
with a diagnosis, if the requirement is not met:

    def weights_by_size(mean_accuracy):
        actual = mean_accuracy([90, 10], [100, 20])
        diagnose(actual, {"this is the mean of the two accuracies: ...": 0.7}, expected=100 / 120)
        close(actual, 100 / 120, "the answer is the share of all images that were right")
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from course_utils.lessons import catalogue


class Wrong(Exception):
    """A requirement is not met. The message says what was done and what it should be: a student reads it."""


class Changed(Wrong):
    """An argument was changed in place, and the message says so; to any other `Wrong` the report adds it."""


class Differs(Wrong):
    """A value is another than expected, and no mistake is known that gives it; where an argument was changed, that comes first."""


@dataclass(frozen=True)
class Criterion:
    """One requirement of an exercise.

    Attributes:
        name: what is required, as the report shows it.
        function: takes the student's function, returns nothing, raises `Wrong` with a diagnosis.
        share: its part of the exercise's points, relative to the other criteria.
    """

    name: str
    function: Callable[[Callable[..., Any]], None]
    share: float = 1.0


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        id: lesson and number, e.g. `"02.1"`.
        title: as in the card's heading.
        difficulty: 1 (warm-up) to 5.
        minutes: how long a student needs.
        points: what passing every criterion earns.
        reference: the right answer: a callable, or `"module:name"` of the package's own, imported when needed.
        criteria: requirements, in the order in which they are tried and reported.
        hints: three, from a nudge to nearly the answer.
        forbidden: more callables (or `"module:name"`) that the answer may not call; the reference always is one.
    """

    id: str
    title: str
    difficulty: int
    minutes: int
    points: float
    reference: Callable[..., Any] | str
    criteria: Sequence[Criterion]
    hints: tuple[str, str, str]
    forbidden: Sequence[Callable[..., Any] | str] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d\d\.\d+", self.id):
            raise ValueError(f"exercise id {self.id!r} is not of the form '02.1'")
        if self.difficulty not in range(1, 6):
            raise ValueError(f"exercise {self.id}: difficulty={self.difficulty}, expected 1 to 5")
        if len(self.hints) != 3:
            raise ValueError(f"exercise {self.id} has {len(self.hints)} hints; write exactly three")
        if not self.criteria or self.points <= 0:
            raise ValueError(f"exercise {self.id} needs at least one criterion and a positive number of points")

    def solution(self) -> Callable[..., Any]:
        """The reference implementation."""
        return resolve(self.reference)


def resolve(target: Callable[..., Any] | str) -> Callable[..., Any]:
    """A callable, given itself or `"module:name"`."""
    if not isinstance(target, str):
        return target
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


@cache
def of_lesson(number: str) -> dict[str, Exercise]:
    """The exercises of a lesson (`"02"` or its slug) by id, in order; empty if the lesson has none.

    Raises:
        ValueError: unknown lesson, or two exercises with one id.
    """
    number = catalogue.find(number).number
    name = f"course_utils.lessons.exercises.lesson_{number}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:  # the lesson's own imports fail: that is not "no exercises"
            raise
        return {}
    exercises = {exercise.id: exercise for exercise in module.EXERCISES}
    if len(exercises) != len(module.EXERCISES):
        raise ValueError(f"{name} has two exercises with the same id")
    return exercises


def find(exercise_id: str) -> Exercise:
    """The exercise with this id.

    Raises:
        ValueError: there is none; the message lists the lesson's exercises.
    """
    known = of_lesson(str(exercise_id)[:2])
    if exercise_id not in known:
        raise ValueError(f"there is no exercise {exercise_id!r}; this lesson has {', '.join(known) or 'none'}")
    return known[exercise_id]


# ---- helpers for criteria ----------------------------------------------------------------------------------------


def to_array(value: Any) -> np.ndarray:
    """A float64 array of a number, list, array or tensor (detached, on the CPU).

    Raises:
        Wrong: nothing was returned, or what was returned is not numbers.
    """
    if value is None:
        raise Wrong("your function returns nothing: is there a `return`?")
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise Wrong(f"expected numbers, your function returned {_brief(value)} ({type(value).__name__})") from None


def close(actual: Any, expected: Any, message: str, *, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Require `actual` to equal `expected` in shape and, within the tolerances, in value. NaN equals NaN.

    Raises:
        Wrong: with a note on a missing return or the shape, or `message` and both values.
    """
    left, right = to_array(actual), to_array(expected)
    if left.shape != right.shape:
        raise Differs(f"{message}\nYour result has shape {left.shape}, expected {right.shape}.")
    if not np.allclose(left, right, rtol=rtol, atol=atol, equal_nan=True):
        raise Differs(f"{message}\nYou got {_brief(left)}, expected {_brief(right)}.")


def diagnose(
    actual: Any, mistakes: Mapping[str, Any], *, expected: Any = None, rtol: float = 1e-5, atol: float = 1e-6
) -> None:
    """Compare a result with what known wrong formulas give, and name the mistake that gives the same.

    Args:
        actual: what the student's function returned.
        mistakes: message -> value that the mistake leads to. The first that matches is raised.
        expected: the right value; if `actual` equals it, no mistake is looked for.

    Raises:
        Wrong: with the message of the matching mistake.
        ValueError: a mistake has the same value as `expected`, so this input cannot tell them apart.
    """
    result = to_array(actual)

    def same(left: np.ndarray, right: np.ndarray) -> bool:
        return left.shape == right.shape and np.allclose(left, right, rtol=rtol, atol=atol, equal_nan=True)

    if expected is not None:
        for message, value in mistakes.items():
            if same(to_array(expected), to_array(value)):
                raise ValueError(f"this input cannot show the mistake {message!r}: it gives the expected value")
        if same(result, to_array(expected)):
            return
    for message, value in mistakes.items():
        if same(result, to_array(value)):
            raise Wrong(message)


def _brief(value: Any) -> str:
    """A value in at most 80 characters; a single number as a person writes it: 0 and 2.5, not 0. and 2.5."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        text = f"{value.item():.6g}"
    elif isinstance(value, np.ndarray):
        text = np.array2string(value, precision=4, threshold=8, separator=", ").replace("\n", "")
    else:
        text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
