"""From one source to two notebooks: `solutions/NN_slug.ipynb` (complete) and `notebooks/NN_slug.ipynb` (the student's).

A build is a pure function of the source, the exercises, the catalogue, `results/timings.json` and the outputs that the
solution notebook has stored. Building twice changes no byte: cell ids are hashes of (slug, position) and nothing
volatile is written.
"""

from __future__ import annotations

import ast
import hashlib
import html
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import nbgrader_export
from .placeholders import Context, fill, number, total_points
from .source import BuildError, Cell, Lesson, error, read, source_hash, stub, validate

if TYPE_CHECKING:
    from nbformat import NotebookNode

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
ANSWER_BOX = "*Write your answer here: double-click, type, shift-enter.*"
# Only on Colab, and only if it is missing, the package is installed. Colab's own torch, numpy and jax stay.
COLAB_INSTALL = """\
import importlib.util, sys
if "google.colab" in sys.modules and importlib.util.find_spec("course_utils") is None:
    %pip install -q --no-deps "git+{repository}"
"""
LARGEST_EXPECTED = 200_000  # bytes of a picture that a student's notebook carries


@dataclass(frozen=True)
class Built:
    """The two notebooks of a lesson as they stand on disk after a build (text of the .ipynb files)."""

    lesson: Lesson
    solution: str
    student: str
    stale: bool  # True if the solution's stored outputs are missing or belong to other code


def sources(root: Path, wanted: list[str] | None = None) -> list[Path]:
    """Source files under root/solutions in order; `wanted` picks by number or slug ("02", "2" or the whole slug).

    Raises BuildError if there is none, or if a wanted lesson does not exist.
    """
    found = sorted((root / "solutions").glob("[0-9][0-9]_*.py"))
    if not found:
        raise BuildError(f"no lesson in {root / 'solutions'}; run this in the course's checkout")
    chosen: list[Path] = []
    for name in wanted or []:
        matching = [path for path in found if name in (path.stem, path.stem[:2], path.stem[:2].lstrip("0"))]
        if not matching:
            raise BuildError(f"there is no lesson {name!r}; the lessons are {', '.join(path.stem for path in found)}")
        chosen += matching
    return chosen or found


def build(path: Path, context: Context) -> Built:
    """Reads, checks and builds one lesson in memory. Raises BuildError if the source breaks the grammar."""
    lesson = read(path)
    validate(lesson, context.lookup)
    total, stated = total_points(lesson, context.lookup), context.listing(lesson).points
    if total != stated:
        message = (
            f"exercises and reflections give {number(total)} points, the catalogue says {number(stated)}; correct one"
        )
        raise error(lesson, None, message)
    stored = _stored(path.with_suffix(".ipynb"), lesson)
    solution = _solution_notebook(lesson, context, stored)
    student = _student_notebook(lesson, context, stored)
    return Built(lesson, as_text(solution), as_text(student), stale=stored is None)


def fresh_solution(path: Path, context: Context) -> NotebookNode:
    """The solution notebook without stored outputs, to execute."""
    return _solution_notebook(read(path), context, None)


def write(built: Built, root: Path) -> list[Path]:
    """Writes both notebooks where they differ from what is there; returns the paths that changed."""
    changed: list[Path] = []
    for path, text in targets(built, root).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
            changed.append(path)
    return changed


def targets(built: Built, root: Path) -> dict[Path, str]:
    """Path -> text of both notebooks."""
    return {
        root / "solutions" / f"{built.lesson.slug}.ipynb": built.solution,
        root / "notebooks" / f"{built.lesson.slug}.ipynb": built.student,
    }


def differences(built: Built, root: Path) -> list[str]:
    """What `course build --check` reports: files that a build would change, byte for byte.

    A solution's stored outputs take part in the build, so they never count as a difference, unless they are stale.
    """
    problems: list[str] = []
    for path, text in targets(built, root).items():
        name = path.relative_to(root).as_posix()
        if not path.exists():
            problems.append(f"{name} is missing; run `course build {built.lesson.number}`")
        elif path.read_bytes() != text.encode("utf-8"):
            problems.append(
                f"{name} differs from its source; run `course build {built.lesson.number}` and never edit it by hand"
            )
    return problems


def as_text(notebook: NotebookNode) -> str:
    """The .ipynb text of a notebook, after nbformat has validated it."""
    import nbformat

    nbformat.validate(notebook)
    return nbformat.writes(notebook, version=4) + "\n"


def cell_id(lesson: Lesson, position: int, part: str = "") -> str:
    """Eight hexadecimal digits that depend on the lesson and the position of the cell in its source alone."""
    return hashlib.sha256(f"{lesson.slug}:{position}:{part}".encode()).hexdigest()[:8]


def set_up(lesson: Lesson, context: Context) -> str:
    """The set-up cell, the same in every lesson, at most 8 lines; it installs only if the course has an address."""
    install = COLAB_INSTALL.format(repository=context.repository) if context.repository else ""
    names = sorted(_imported(lesson.tagged("setup")[0].text))
    return f"""\
# @title Set-up
{install}from course_utils import {", ".join(names)}

course = start("{lesson.slug}", preset=PRESET)"""


def _imported(text: str) -> set[str]:
    """Names that the source's set-up cell imports from course_utils, with the four that every lesson needs."""
    names = {"start", "check", "hint", "points"}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "course_utils":
            names |= {alias.name for alias in node.names}
    return names


def _stored(path: Path, lesson: Lesson) -> dict[str, NotebookNode] | None:
    """Cells of the solution notebook on disk by id, if they were executed from this very code; else None."""
    import nbformat

    if not path.exists():
        return None
    notebook = nbformat.read(path, as_version=4)
    if notebook.metadata.get("course", {}).get("source_hash") != source_hash(lesson):
        return None
    # Prose may have moved since: the n-th code cell is the n-th code cell, whatever its position is now.
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    positions = [cell.position for cell in lesson.cells if cell.kind == "code"]
    stored = {cell_id(lesson, position): cell for position, cell in zip(positions, code, strict=True)}
    return {**stored, "metadata": notebook.metadata["course"]}


def _solution_notebook(lesson: Lesson, context: Context, stored: dict[str, Any] | None) -> NotebookNode:
    cells = []
    for cell in lesson.cells:
        node = _node(lesson, cell, context, _text(lesson, cell, context))
        if stored is not None and cell.kind == "code":
            node.outputs, node.execution_count = stored[node.id].outputs, stored[node.id].execution_count
        cells.append(node)
    if stored is None:
        return _notebook(cells, {"slug": lesson.slug, "notebook": "solution"})
    cells[0].source += _recorded(stored["metadata"])
    return _notebook(cells, stored["metadata"])


def _recorded(course: dict[str, Any]) -> str:
    """The line under a solution's title that says where its outputs come from."""
    data = f", recorded runs on {course['data']}" if course.get("data") else ""
    return f"\n\n*Outputs below: `{course['preset']}` preset, {course['recorded']}{data}.*"


def _student_notebook(lesson: Lesson, context: Context, stored: dict[str, Any] | None) -> NotebookNode:
    cells = []
    for cell in lesson.cells:
        if "instructor" in cell.tags:
            continue
        if "answer" in cell.tags:
            # The model answer after a reflection leaves its place to the student's own.
            if nbgrader_export.reflection_of(lesson, cell) is not None:
                cells.append(_node(lesson, cell, context, ANSWER_BOX))
            continue
        text = _text(lesson, cell, context)
        if cell.kind == "code" and "setup" not in cell.tags:
            text = stub(lesson, replace(cell, text=text))
        cells.append(_node(lesson, cell, context, text))
        if "expected" in cell.tags and stored is not None:
            cells += _expected(lesson, cell, stored[cell_id(lesson, cell.position)])
    return _notebook(cells, {"slug": lesson.slug, "notebook": "student"})


def _notebook(cells: list[NotebookNode], course: dict[str, Any]) -> NotebookNode:
    from nbformat.v4 import new_notebook

    metadata = {"course": course, "kernelspec": KERNEL, "language_info": {"name": "python"}}
    return new_notebook(cells=cells, metadata=metadata)


def _text(lesson: Lesson, cell: Cell, context: Context) -> str:
    """The cell's text with everything generated filled in."""
    if cell.kind == "markdown":
        return fill(lesson, cell, cell.text, context)
    if "setup" in cell.tags:
        return set_up(lesson, context)
    if "hint" in cell.tags:
        # Folded, a cell shows its first line in JupyterLab and its title in Colab.
        return f"# @title Hint for exercise {cell.exercise}: run this cell, again for the next one\n{cell.text}"
    return cell.text


def _node(lesson: Lesson, cell: Cell, context: Context, text: str) -> NotebookNode:
    """One notebook cell with its id, its tags, its folding and nbgrader's metadata."""
    from nbformat.v4 import new_code_cell, new_markdown_cell

    metadata: dict[str, Any] = {}
    if cell.tags:
        metadata["tags"] = list(cell.tags)
    grading = nbgrader_export.metadata(lesson, cell, context.lookup)
    if grading is not None:
        metadata["nbgrader"] = grading
    if cell.kind == "code" and "hint" in cell.tags:
        metadata["jupyter"] = {"source_hidden": True}
    if cell.kind == "code" and {"hint", "setup"} & set(cell.tags):
        metadata["cellView"] = "form"
    new_cell = new_code_cell if cell.kind == "code" else new_markdown_cell
    return new_cell(text, id=cell_id(lesson, cell.position), metadata=metadata)


def _expected(lesson: Lesson, cell: Cell, executed: NotebookNode) -> list[NotebookNode]:
    """A folded markdown cell with the text or picture that the solution's cell showed; none if it showed nothing."""
    import base64

    from nbformat.v4 import new_markdown_cell

    parts: list[str] = []
    attachments: dict[str, dict[str, str]] = {}
    for output in executed.outputs:
        data = output.get("data", {})
        if "image/png" in data:
            size = len(base64.b64decode(data["image/png"]))
            if size > LARGEST_EXPECTED:
                message = (
                    f"the picture has {size} bytes, at most {LARGEST_EXPECTED}; draw it smaller or with a lower dpi"
                )
                raise error(lesson, cell, message)
            name = f"expected-{cell.position}-{len(attachments)}.png"
            attachments[name] = {"image/png": data["image/png"].strip()}
            alt = output.get("metadata", {}).get("image/png", {}).get("alt", "the expected figure")
            parts.append(f"![{alt.replace('[', '(').replace(']', ')')}](attachment:{name})")
        elif "text/plain" in data or output.output_type == "stream":
            text = data.get("text/plain", output.get("text", ""))
            parts.append(f"<pre>{html.escape(text.strip())}</pre>")
    if not parts:
        return []
    text = "\n\n".join(["<details>\n<summary>What you should see</summary>", *parts, "</details>"])
    node = new_markdown_cell(text, id=cell_id(lesson, cell.position, "expected"), metadata={"tags": ["expected"]})
    if attachments:
        node["attachments"] = attachments
    return [node]
