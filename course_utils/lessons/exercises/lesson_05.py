"""Lesson 05: pairs of images and sentences, classes by their descriptions, and what a text may tell at test time."""

from __future__ import annotations

from course_utils.lessons.exercises import lesson_05_pairs, lesson_05_words

EXERCISES = [*lesson_05_pairs.EXERCISES, *lesson_05_words.EXERCISES]
