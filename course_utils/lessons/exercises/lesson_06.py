"""Lesson 06: scores instead of classes, the losses that order them, and a protocol that does not flatter."""

from __future__ import annotations

from course_utils.lessons.exercises import lesson_06_protocol, lesson_06_scores

EXERCISES = [*lesson_06_scores.EXERCISES, *lesson_06_protocol.EXERCISES]
