"""Lesson 07: real numbers as integers, layers with fewer channels, and what it saves."""

from __future__ import annotations

from course_utils.lessons.exercises import (
    lesson_07_channels,
    lesson_07_costs,
    lesson_07_integers,
    lesson_07_layers,
    lesson_07_observer,
)

_ROOMS = (lesson_07_integers, lesson_07_observer, lesson_07_layers, lesson_07_channels, lesson_07_costs)
EXERCISES = sorted(
    (exercise for room in _ROOMS for exercise in room.EXERCISES),
    key=lambda exercise: int(exercise.id.partition(".")[2]),
)
