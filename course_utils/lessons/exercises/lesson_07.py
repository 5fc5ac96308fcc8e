"""Lesson 07: real numbers as integers, layers with fewer channels, and what it saves."""

from __future__ import annotations

from course_utils.lessons.exercises import lesson_07_channels, lesson_07_integers, lesson_07_layers

EXERCISES = [*lesson_07_integers.EXERCISES, *lesson_07_layers.EXERCISES, *lesson_07_channels.EXERCISES]
