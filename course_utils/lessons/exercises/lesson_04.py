"""Lesson 04: the layer, its place in a network, what its rank buys, and many tenants."""

from __future__ import annotations

from course_utils.lessons.exercises import lesson_04_layer, lesson_04_network, lesson_04_ranks

EXERCISES = [
    *lesson_04_layer.EXERCISES,
    *lesson_04_network.EXERCISES,
    *lesson_04_ranks.EXERCISES,
    *lesson_04_network.TENANTS,
]
