"""The source of a lesson: reading `solutions/NN_slug.py` and checking its grammar.

A source is a py:percent file (read through jupytext). What a cell is for stands in its tags, never in its text:

    parameters setup            one of each, in this order
    exercise check hint         one exercise, belonging to the card `### Exercise 02.1 · title` above it
    reflection answer           a question (with `points=2` on its cell line), and the model answer right after it
    expected                    a code cell whose output the student sees folded, as "what you should see"
    widget claim                marks for tests and readers
    unstored                    a figure that the committed solution must not hold: it shows other people's data
    instructor                  dropped from the student's notebook, as is every other `answer`

`CONTRIBUTING.md` tells authors the same at length.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

ROLES = frozenset("parameters setup exercise check hint reflection answer widget claim instructor expected".split())
FLAGS = frozenset(["nbval-check-output", "nbval-skip", "raises-exception", "unstored"])
CELL_METADATA = frozenset(["tags", "points", "title"])
CARD = re.compile(r"^### Exercise (?P<id>\d\d\.\d+) · (?P<title>.+)$", re.MULTILINE)
SOLUTION, HIDDEN_TESTS = "SOLUTION", "HIDDEN TESTS"
SLUG = re.compile(r"^\d\d_[a-z0-9_]+$")


class BuildError(Exception):
    """A lesson breaks the grammar. The message names the file, the cell and what to do."""


class ExerciseFacts(Protocol):
    """What the builder needs to know of an exercise (course_utils.lessons.exercise.Exercise has more)."""

    @property
    def title(self) -> str: ...
    @property
    def difficulty(self) -> int: ...
    @property
    def minutes(self) -> int: ...
    @property
    def points(self) -> float: ...
    @property
    def hints(self) -> tuple[str, ...]: ...


Lookup = Callable[[str], ExerciseFacts]  # exercise id -> exercise; ValueError when there is none


@dataclass(frozen=True)
class Cell:
    """One cell of a source. `exercise` is the id of the exercise that it belongs to, if any."""

    position: int
    kind: str  # "code" or "markdown"
    text: str
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    exercise: str | None = None

    @property
    def points(self) -> float:
        """Points of a reflection, from its cell line."""
        return self.metadata.get("points", 0)


@dataclass(frozen=True)
class Lesson:
    """One source file, read."""

    path: Path
    cells: tuple[Cell, ...]

    @property
    def slug(self) -> str:
        return self.path.stem

    @property
    def number(self) -> str:
        return self.slug[:2]

    @property
    def cards(self) -> dict[str, str]:
        """Exercise id -> title, from the cards, in order."""
        found: dict[str, str] = {}
        for cell in self.cells:
            if cell.kind == "markdown" and (card := CARD.search(cell.text)):
                if card["id"] in found:
                    raise error(self, cell, f"exercise {card['id']} has a second card; give it a number of its own")
                found[card["id"]] = card["title"].strip()
        return found

    def tagged(self, tag: str) -> list[Cell]:
        return [cell for cell in self.cells if tag in cell.tags]


def error(lesson: Lesson, cell: Cell | None, message: str) -> BuildError:
    """A BuildError that says where: file, number of the cell (counted from 1) and its first line."""
    if cell is None:
        return BuildError(f"{lesson.path.name}: {message}")
    first = cell.text.strip().splitlines()[0][:60] if cell.text.strip() else "(empty)"
    return BuildError(f"{lesson.path.name}, cell {cell.position + 1} ({first!r}): {message}")


def read(path: Path) -> Lesson:
    """Reads a source file. Cells after a card belong to its exercise until the next heading of its level or above.

    Raises BuildError if the file's name is no slug or if the file has no cells.
    """
    import jupytext

    if not SLUG.match(path.stem):
        raise BuildError(f"{path.name}: a lesson is called NN_slug.py, for example 02_rehearsal_kd_gtsrb.py")
    notebook = jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent")
    cells: list[Cell] = []
    exercise: str | None = None
    for position, raw in enumerate(notebook.cells):
        if raw.cell_type == "markdown" and re.search(r"^#{1,3} ", raw.source, re.MULTILINE):
            card = CARD.search(raw.source)
            exercise = card["id"] if card else None
        # jupytext notes blank lines as metadata; they say nothing about the cell.
        metadata = {key: value for key, value in raw.metadata.items() if not key.startswith("lines_to_")}
        tags = tuple(metadata.pop("tags", ()))
        cells.append(Cell(position, raw.cell_type, raw.source, tags, metadata, exercise))
    if not cells:
        raise BuildError(f"{path.name}: no cells; a cell starts with a line `# %%` or `# %% [markdown]`")
    return Lesson(path, tuple(cells))


def source_hash(lesson: Lesson) -> str:
    """Hash of the code cells alone, so that a typo corrected in the prose never makes an executed solution stale."""
    code = [cell.text.strip() for cell in lesson.cells if cell.kind == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:16]


def regions(text: str, name: str, complain: Callable[[str], BuildError]) -> list[tuple[int, int]]:
    """Line numbers (first, last) of every `### BEGIN name` ... `### END name` in the text.

    `complain` makes the error that is raised for unbalanced or nested markers.
    """
    found: list[tuple[int, int]] = []
    begin: int | None = None
    for number, line in enumerate(text.splitlines()):
        if line.strip() == f"### BEGIN {name}":
            if begin is not None:
                raise complain(f"a second `### BEGIN {name}` before `### END {name}`; close the first one")
            begin = number
        elif line.strip() == f"### END {name}":
            if begin is None:
                raise complain(f"`### END {name}` without `### BEGIN {name}`; add the beginning")
            found.append((begin, number))
            begin = None
        elif f"BEGIN {name}" in line or f"END {name}" in line:
            raise complain(f"{line.strip()!r} is nearly a marker; write exactly `### BEGIN {name}` or `### END {name}`")
    if begin is not None:
        raise complain(f"`### BEGIN {name}` is never closed; add `### END {name}`")
    return found


def stub(lesson: Lesson, cell: Cell) -> str:
    """The student's text of a cell: solutions become a stub that raises, hidden tests disappear."""
    lines = cell.text.splitlines()
    for first, last in reversed(regions(cell.text, HIDDEN_TESTS, lambda message: error(lesson, cell, message))):
        del lines[first : last + 1]
    text = "\n".join(lines)
    for first, last in reversed(regions(text, SOLUTION, lambda message: error(lesson, cell, message))):
        indent = lines[first][: len(lines[first]) - len(lines[first].lstrip())]
        title = lesson.cards.get(cell.exercise or "", "")
        reason = json.dumps(f"Exercise {cell.exercise}: {title}", ensure_ascii=False)
        lines[first : last + 1] = [f"{indent}raise NotImplementedError({reason})"]
    return "\n".join(lines).rstrip()


def validate(lesson: Lesson, lookup: Lookup) -> None:
    """Checks the whole grammar. Raises BuildError at the first thing that is wrong."""
    for cell in lesson.cells:
        _validate_cell(lesson, cell)
    _validate_frame(lesson)
    for identifier, title in lesson.cards.items():
        _validate_exercise(lesson, identifier, title, lookup)
    for cell in lesson.tagged("exercise"):
        if cell.exercise is None:
            raise error(lesson, cell, "an exercise without a card; put `### Exercise NN.n · title` above it")
    for cell in lesson.tagged("reflection"):
        _validate_reflection(lesson, cell)


def _validate_cell(lesson: Lesson, cell: Cell) -> None:
    for tag in cell.tags:
        if tag not in ROLES | FLAGS:
            raise error(lesson, cell, f"unknown tag {tag!r}; the tags are {', '.join(sorted(ROLES | FLAGS))}")
    for key in cell.metadata:
        if key not in CELL_METADATA:
            raise error(
                lesson, cell, f"unknown cell metadata {key!r}; a cell may have {', '.join(sorted(CELL_METADATA))}"
            )
    if cell.kind not in ("code", "markdown"):
        raise error(lesson, cell, f"a {cell.kind} cell; only code and markdown cells can be built")
    solutions = regions(cell.text, SOLUTION, lambda message: error(lesson, cell, message))
    hidden = regions(cell.text, HIDDEN_TESTS, lambda message: error(lesson, cell, message))
    if solutions and "exercise" not in cell.tags:
        raise error(lesson, cell, "a solution outside of an exercise; tag the cell `exercise`")
    if hidden and "check" not in cell.tags:
        raise error(lesson, cell, "hidden tests outside of a check; tag the cell `check`")
    if "exercise" in cell.tags and not solutions:
        raise error(
            lesson, cell, "an exercise without `### BEGIN SOLUTION` ... `### END SOLUTION`; mark what to leave out"
        )
    if cell.kind == "code":
        for text, version in ((cell.text, "the cell"), (stub(lesson, cell), "the student's version of the cell")):
            try:
                ast.parse(text)
            except SyntaxError as problem:
                raise error(
                    lesson, cell, f"{version} is not valid Python (line {problem.lineno}: {problem.msg})"
                ) from None


def _validate_frame(lesson: Lesson) -> None:
    """One parameters cell, then one set-up cell, each of the form that the builder and papermill rely on."""
    for role in ("parameters", "setup"):
        if len(lesson.tagged(role)) != 1:
            raise error(lesson, None, f"{len(lesson.tagged(role))} cells tagged `{role}`; a lesson has exactly one")
    parameters, setup = lesson.tagged("parameters")[0], lesson.tagged("setup")[0]
    if setup.position < parameters.position:
        raise error(lesson, setup, "the set-up cell uses PRESET; move it below the parameters cell")
    if "PRESET" not in parameter_names(parameters.text):
        raise error(lesson, parameters, 'say `PRESET = os.environ.get("COURSE_PRESET", "quick")` here')
    calls = [node for node in ast.walk(ast.parse(setup.text)) if isinstance(node, ast.Call)]
    if [ast.unparse(call) for call in calls] != [f"start('{lesson.slug}', preset=PRESET)"]:
        raise error(
            lesson, setup, f'the set-up cell is generated; write `course = start("{lesson.slug}", preset=PRESET)`'
        )


def _validate_exercise(lesson: Lesson, identifier: str, title: str, lookup: Lookup) -> None:
    own = [cell for cell in lesson.cells if cell.exercise == identifier]
    card = own[0]
    if not identifier.startswith(lesson.number + "."):
        raise error(
            lesson, card, f"exercise {identifier} in lesson {lesson.number}; its id starts with {lesson.number}."
        )
    if f"{{{{card:{identifier}}}}}" not in card.text:
        raise error(lesson, card, f"add the line {{{{card:{identifier}}}}}, which shows difficulty, minutes and points")
    try:
        exercise = lookup(identifier)
    except ValueError as problem:
        raise error(lesson, card, f"{problem}; declare it in course_utils/lessons/exercises/") from None
    if exercise.title != title:
        raise error(lesson, card, f"the card says {title!r}, the exercise says {exercise.title!r}; make them the same")
    if not exercise.points > 0:
        raise error(lesson, card, f"exercise {identifier} gives {exercise.points} points; give it at least one")
    if len(exercise.hints) != 3:
        raise error(lesson, card, f"exercise {identifier} has {len(exercise.hints)} hints; a ladder has three steps")
    tasks = [cell for cell in own if "exercise" in cell.tags]
    checks = [cell for cell in own if "check" in cell.tags]
    if len(tasks) != 1 or len(checks) != 1:
        raise error(lesson, card, f"{len(tasks)} exercise cells and {len(checks)} check cells; a card has one of each")
    if checks[0].position < tasks[0].position:
        raise error(lesson, checks[0], "the check comes before its exercise; move it below")
    if f'check("{identifier}"' not in checks[0].text:
        raise error(lesson, checks[0], f'the check never calls check("{identifier}", ...)')
    if checks[0].text.rstrip().splitlines()[-1] != f'points("{identifier}")':
        raise error(lesson, checks[0], f'end the cell in `points("{identifier}")`: its value is the grade')
    if not any("hint" in cell.tags and f'hint("{identifier}"' in cell.text for cell in own):
        raise error(lesson, card, f'no hint cell; add one, tagged `hint`, with hint("{identifier}")')


def _validate_reflection(lesson: Lesson, cell: Cell) -> None:
    if cell.kind != "markdown" or not cell.points > 0:
        raise error(lesson, cell, "a reflection is a markdown cell with points on its cell line, such as points=2")
    after = lesson.cells[cell.position + 1] if cell.position + 1 < len(lesson.cells) else None
    if after is None or after.kind != "markdown" or "answer" not in after.tags:
        raise error(
            lesson, cell, "a reflection without a model answer; put a markdown cell tagged `answer` right after it"
        )


def parameter_names(text: str) -> set[str]:
    """Names that a parameters cell assigns: what papermill may set."""
    names: set[str] = set()
    for node in ast.parse(text).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        names.update(target.id for target in targets if isinstance(target, ast.Name))
    return names
