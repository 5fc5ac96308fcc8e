"""Lesson 08: from one model to many, keys, compiled loops, patches, and how sure many repeats are."""

from __future__ import annotations

from course_utils.lessons.exercises import lesson_08_analysis, lesson_08_functions, lesson_08_loops, lesson_08_patches

EXERCISES = [
    *lesson_08_functions.EXERCISES,
    *lesson_08_loops.EXERCISES,
    *lesson_08_patches.EXERCISES,
    *lesson_08_analysis.EXERCISES,
]
