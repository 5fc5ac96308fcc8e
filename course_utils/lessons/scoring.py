"""`course check NOTEBOOK`: runs a student's notebook and prints what its checks give."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from .placeholders import number
from .run import KERNEL_ARGUMENTS
from .source import BuildError

if TYPE_CHECKING:
    from nbformat import NotebookNode


def print_score(path: Path) -> bool:
    """Executes the notebook in the smoke preset (unless COURSE_PRESET says otherwise) and prints points per exercise.

    The notebook on disk is left as it is. Returns True if every exercise earns all of its points.
    Raises BuildError if the file is no notebook of this course.
    """
    rows = scores(execute(path))
    for identifier, earned, possible, note in rows:
        print(f"{identifier:>6}  {number(earned):>4} of {number(possible):<4}  {note}".rstrip())
    earned, possible = sum(row[1] for row in rows), sum(row[2] for row in rows)
    print(f" total  {number(earned):>4} of {number(possible):<4}  (reflections are graded by people)")
    return earned == possible


def execute(path: Path) -> NotebookNode:
    """The notebook, executed to its end in memory: a cell that fails does not keep the later ones from counting."""
    import nbformat
    from nbclient import NotebookClient

    if not path.is_file() or path.suffix != ".ipynb":
        raise BuildError(f"{path} is not a notebook; give the path of an .ipynb file of this course")
    notebook = nbformat.read(path, as_version=4)
    if not graded_cells(notebook):
        raise BuildError(f"{path} has no checks; take a lesson from notebooks/ and solve it")
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        allow_errors=True,
        extra_arguments=KERNEL_ARGUMENTS,
        resources={"metadata": {"path": str(path.resolve().parent)}},
    )
    client.execute(env={"COURSE_PRESET": "smoke", **os.environ})
    return notebook


def graded_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The check cells of a notebook, known by nbgrader's metadata."""
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and cell.metadata.get("nbgrader", {}).get("grade", False)
    ]


def scores(notebook: NotebookNode) -> list[tuple[str, float, float, str]]:
    """(exercise id, points earned, points possible, note) of each check in an executed notebook."""
    rows: list[tuple[str, float, float, str]] = []
    for cell in graded_cells(notebook):
        identifier = cell.metadata["nbgrader"]["grade_id"].removeprefix("check-").replace("-", ".")
        possible = cell.metadata["nbgrader"]["points"]
        earned, note = 0.0, "the check did not run to its end"
        for output in cell.outputs:
            if output.output_type == "error":
                note = f"{output.ename}: {output.evalue}"
            elif output.output_type == "execute_result":
                earned = float(output.data["text/plain"])
                note = "" if earned == possible else "see the report in the notebook"
        if "not attempted" in str([output.get("data", output.get("text", "")) for output in cell.outputs]):
            note = "not attempted"
        rows.append((identifier, earned, possible, note))
    return rows
