"""The ten lessons of the course: the one list that the lesson map, the builder and `start` read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Lesson:
    """One lesson.

    Attributes:
        slug: file name without its ending, `NN_words`; unique.
        title: as printed in the notebook's first line.
        question: the question it answers.
        available: False while the lesson is only planned; planned lessons are listed, never linked.
        minutes: minutes a student needs, exercises included; 0 while planned.
        points: sum of the points of its exercises and reflections; 0 while planned.
    """

    slug: str
    title: str
    question: str
    available: bool = False
    minutes: int = 0
    points: int = 0

    @property
    def number(self) -> str:
        """The two digits that start the slug, e.g. `"02"`."""
        return self.slug[:2]


LESSONS: tuple[Lesson, ...] = (
    Lesson(
        "00_start_here",
        "Start here",
        "What will I learn, and does my machine work?",
        available=True,
        minutes=20,
        points=2,
    ),
    Lesson(
        "01_forgetting",
        "Forgetting",
        "Why do networks forget, and how do we measure it?",
        available=True,
        minutes=150,
        points=20,
    ),
    Lesson(
        "02_rehearsal_kd_gtsrb",
        "Rehearsal and distillation on traffic signs",
        "How far do 200 stored images and a teacher go?",
        available=True,
        minutes=150,
        points=24,
    ),
    Lesson(
        "03_ewc",
        "Protecting weights",
        "Can we protect weights instead of storing data?",
        available=True,
        minutes=150,
        points=17,
    ),
    Lesson(
        "04_lora",
        "Low-rank adaptation",
        "Can we adapt with 1 to 10 % of the weights?",
        available=True,
        minutes=180,
        points=22,
    ),
    Lesson(
        "05_clip",
        "Images and language",
        "Does language help a vision model to remember?",
        available=True,
        minutes=180,
        points=22,
    ),
    Lesson(
        "06_iqa",
        "Image quality",
        "What if the target is a score, not a class?",
        available=True,
        minutes=180,
        points=22,
    ),
    Lesson(
        "07_compression",
        "Compression",
        "How small and fast can it get before it forgets?",
        available=True,
        minutes=200,
        points=24,
    ),
    Lesson(
        "08_jax_grid",
        "Many repeats at once",
        "What do 32 repeats at once teach that one run cannot?",
        available=True,
        minutes=180,
        points=24,
    ),
    Lesson("09_full_stack", "The full stack", "What would you deploy?"),
)


def find(lesson: str) -> Lesson:
    """The lesson with this slug or two-digit number.

    Raises:
        ValueError: there is none; the message lists the slugs.
    """
    for entry in LESSONS:
        if lesson in (entry.slug, entry.number):
            return entry
    known = ", ".join(entry.slug for entry in LESSONS)
    raise ValueError(f"there is no lesson {lesson!r}; the lessons are {known}")
