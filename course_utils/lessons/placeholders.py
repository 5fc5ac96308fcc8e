"""What the builder writes into markdown: `{{badges}}`, `{{card:02.1}}` and the other placeholders of a source."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from . import catalogue, exercise
from .source import Cell, Lesson, Lookup, error

PLACEHOLDER = re.compile(r"\{\{([a-z_]+)(?::(\d\d\.\d+))?\}\}")
NAMES = ("badges", "machine_minutes", "human_minutes", "points", "lesson_map", "card:NN.n")


@dataclass(frozen=True)
class Context:
    """Everything outside of the source that goes into a built notebook.

    root: the checkout. repository: the course's public address, or "" while it has none.
    machine_minutes: slug -> minutes measured in the quick preset (results/timings.json).
    """

    root: Path
    lookup: Lookup
    listings: tuple[catalogue.Lesson, ...]
    repository: str = ""
    machine_minutes: dict[str, float] | None = None

    def listing(self, lesson: Lesson) -> catalogue.Lesson:
        """The lesson's entry in the catalogue. Raises BuildError if it has none."""
        for listing in self.listings:
            if listing.slug == lesson.slug:
                return listing
        raise error(lesson, None, f"{lesson.slug} is not in the catalogue; add it to course_utils/lessons/catalogue.py")


def of_checkout(root: Path) -> Context:
    """The context of the course itself: its exercises, its catalogue, its address and its measured minutes."""
    from course_utils.repository import REPOSITORY

    return Context(root, exercise.find, catalogue.LESSONS, REPOSITORY, read_timings(root))


def read_timings(root: Path) -> dict[str, float]:
    """Minutes per slug from results/timings.json; empty while nothing has been measured."""
    path = root / "results" / "timings.json"
    if not path.exists():
        return {}
    lessons = json.loads(path.read_text(encoding="utf-8"))["lessons"]
    return {slug: entry["minutes"] for slug, entry in lessons.items()}


def total_points(lesson: Lesson, lookup: Lookup) -> float:
    """Points of all exercises and reflections of a lesson."""
    return sum(lookup(identifier).points for identifier in lesson.cards) + sum(
        cell.points for cell in lesson.tagged("reflection")
    )


def fill(lesson: Lesson, cell: Cell, text: str, context: Context) -> str:
    """The text with every placeholder replaced. Raises BuildError on a placeholder that does not exist."""

    def value(match: re.Match[str]) -> str:
        name, identifier = match[1], match[2]
        if name == "card" and identifier:
            return card(identifier, context.lookup)
        if name == "badges":
            return badges(lesson, context.repository)
        if name == "machine_minutes":
            return machine_minutes((context.machine_minutes or {}).get(lesson.slug))
        if name == "human_minutes":
            return str(context.listing(lesson).minutes)
        if name == "points":
            return number(context.listing(lesson).points)
        if name == "lesson_map":
            return lesson_map(context)
        raise error(lesson, cell, f"unknown placeholder {match[0]}; there are {', '.join(NAMES)}")

    filled = PLACEHOLDER.sub(value, text)
    # A placeholder that came out empty (badges without an address) leaves no hole of blank lines behind.
    return re.sub(r"\n{3,}", "\n\n", filled).strip()


def card(identifier: str, lookup: Lookup) -> str:
    """The line under an exercise's heading. The difficulty is said in words for those who cannot see the dots."""
    facts = lookup(identifier)
    dots = "●" * facts.difficulty + "○" * (5 - facts.difficulty)
    points = "1 point" if facts.points == 1 else f"{number(facts.points)} points"
    return f"Difficulty {dots} ({facts.difficulty} of 5) · about {facts.minutes} minutes · {points}"


def badges(lesson: Lesson, repository: str) -> str:
    """Links that open the lesson in Colab; nothing while the course has no public address.

    A slides badge joins them as soon as the lesson has a deck: a link to nothing helps nobody.
    """
    if not repository:
        return ""
    owner_and_name = "/".join(repository.rstrip("/").removesuffix(".git").split("/")[-2:])
    colab = "https://colab.research.google.com"
    links = [
        f"[![Open in Colab]({colab}/assets/colab-badge.svg)]"
        f"({colab}/github/{owner_and_name}/blob/main/notebooks/{lesson.slug}.ipynb)"
    ]
    deck = lesson.path.parent.parent / "slides" / f"{lesson.slug}.html"
    if deck.exists():
        links.append(f"[Slides]({repository.rstrip('/')}/blob/main/slides/{lesson.slug}.html)")
    return " ".join(links)


def machine_minutes(minutes: float | None) -> str:
    """Measured minutes as prose."""
    if minutes is None:
        return "not yet measured"
    return "under 1 minute" if minutes < 1 else f"about {round(minutes)} minute{'s' if round(minutes) > 1 else ''}"


def lesson_map(context: Context) -> str:
    """A table of all lessons; only those that exist are links."""
    rows = ["| lesson | the question it answers | minutes |", "| --- | --- | --- |"]
    for listing in context.listings:
        name = f"{listing.number} {listing.title}"
        exists = (context.root / "solutions" / f"{listing.slug}.py").exists()
        link = f"[{name}]({listing.slug}.ipynb)" if exists else f"{name} (planned)"
        rows.append(f"| {link} | {listing.question} | {listing.minutes if exists else ''} |")
    return "\n".join(rows)


def number(value: float) -> str:
    """2.0 as `2`, 2.5 as `2.5`."""
    return f"{value:g}"
