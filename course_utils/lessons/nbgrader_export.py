"""nbgrader's cell metadata (schema version 3), so that any institution can run plain nbgrader on the course.

The built solution notebook is what nbgrader calls the source, after `nbgrader_source` has taken the cells out of it
that students never see. What nbgrader then releases equals the code of our student's notebook (tests/test_nbgrader.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .source import Cell, Lesson, Lookup

if TYPE_CHECKING:
    from nbformat import NotebookNode

SCHEMA_VERSION = 3


def metadata(lesson: Lesson, cell: Cell, lookup: Lookup) -> dict[str, Any] | None:
    """The `nbgrader` entry of a cell's metadata, or None for a cell that nbgrader leaves alone.

    - exercise: the student writes here (solution), nothing is graded in place;
    - check: graded by its last value, locked, restored from the instructor's copy when it is graded;
    - answer after a reflection: the student's text, graded by hand;
    - parameters, setup and the question of a reflection: read-only.
    """
    if "exercise" in cell.tags:
        return _entry(f"exercise-{_dashed(cell.exercise)}", solution=True)
    if "check" in cell.tags:
        points = lookup(str(cell.exercise)).points
        return _entry(f"check-{_dashed(cell.exercise)}", grade=True, locked=True, points=points)
    if "reflection" in cell.tags:
        return _entry(f"question-{lesson.number}-{reflection_number(lesson, cell)}", locked=True)
    question = reflection_of(lesson, cell)
    if question is not None:
        name = f"answer-{lesson.number}-{reflection_number(lesson, question)}"
        return _entry(name, grade=True, solution=True, points=question.points)
    if "parameters" in cell.tags or "setup" in cell.tags:
        return _entry(f"{cell.tags[0]}-{lesson.number}", locked=True)
    return None


def reflection_of(lesson: Lesson, cell: Cell) -> Cell | None:
    """The reflection that an `answer` cell answers, if it stands right after one."""
    before = lesson.cells[cell.position - 1] if cell.position > 0 else None
    return before if before is not None and "answer" in cell.tags and "reflection" in before.tags else None


def reflection_number(lesson: Lesson, cell: Cell) -> int:
    """1 for the first reflection of a lesson."""
    return [reflection.position for reflection in lesson.tagged("reflection")].index(cell.position) + 1


def nbgrader_source(solution: NotebookNode) -> NotebookNode:
    """A copy of a built solution notebook to hand to `nbgrader generate_assignment`.

    Instructor cells and further answers are dropped: nbgrader has no word for a cell that students do not get.
    """
    from nbformat import from_dict

    notebook = from_dict(solution)
    notebook.cells = [
        cell
        for cell in solution.cells
        if "nbgrader" in cell.metadata or not {"instructor", "answer"} & set(cell.metadata.get("tags", ()))
    ]
    return notebook


def _entry(
    name: str, *, grade: bool = False, solution: bool = False, locked: bool = False, points: float | None = None
) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "grade_id": name,
        "grade": grade,
        "solution": solution,
        "locked": locked,
        "task": False,
    }
    return entry if points is None else {**entry, "points": points}


def _dashed(exercise: str | None) -> str:
    """`02.1` as nbgrader allows it in a grade id."""
    return str(exercise).replace(".", "-")
