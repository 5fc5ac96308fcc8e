"""Plain nbgrader, through its own command line: it releases our student's notebook and grades it as our checks do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from helpers import ROOT, SOURCES

from course_utils.lessons import exercise
from course_utils.lessons.nbgrader_export import nbgrader_source
from course_utils.lessons.source import read

GRADED = [path.stem for path in SOURCES if read(path).cards]

# nbgrader stops a cell after 30 s by default, which is less than an experiment takes on a loaded machine.
CONFIG = """
c = get_config()
c.CourseDirectory.course_id = "continual-learning"
c.CourseDirectory.db_url = "sqlite:///gradebook.db"
c.ExecutePreprocessor.timeout = 900
c.ExecutePreprocessor.startup_timeout = 180
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError()"}
c.ClearSolutions.text_stub = "*Write your answer here: double-click, type, shift-enter.*"
"""


@dataclass(frozen=True)
class Course:
    """A course folder of nbgrader's with one assignment, released and graded."""

    folder: Path
    slug: str

    def grades(self, student: str) -> dict[str, tuple[float, float, bool]]:
        """grade id -> (points, of how many, has to be read by a person)."""
        from nbgrader.api import Gradebook

        with Gradebook(f"sqlite:///{self.folder}/gradebook.db") as gradebook:
            submission = gradebook.find_submission_notebook(self.slug, self.slug, student)
            return {
                grade.name: (grade.auto_score or 0.0, grade.max_score, grade.needs_manual_grade)
                for grade in submission.grades
            }


def nbgrader(folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "COURSE_PRESET": "smoke", "JUPYTER_CONFIG_DIR": str(folder / "config")}
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


@pytest.fixture(scope="module", params=GRADED)
def course(request, tmp_path_factory) -> Course:
    """Released from our solution; the reference and the untouched student's notebook are handed in and graded."""
    slug, folder = request.param, tmp_path_factory.mktemp("nbgrader")
    (folder / "nbgrader_config.py").write_text(CONFIG)
    solution = nbformat.read(ROOT / "solutions" / f"{slug}.ipynb", as_version=4)
    student = nbformat.read(ROOT / "notebooks" / f"{slug}.ipynb", as_version=4)
    handed_in = {
        f"source/{slug}": nbgrader_source(solution),
        f"submitted/reference/{slug}": solution,
        f"submitted/untouched/{slug}": student,
    }
    for name, notebook in handed_in.items():
        (folder / name).mkdir(parents=True)
        nbformat.write(notebook, folder / name / f"{slug}.ipynb")
    nbgrader(folder, "generate_assignment", slug)
    nbgrader(folder, "autograde", slug)
    return Course(folder, slug)


def expected_points(slug: str) -> dict[str, float]:
    cards = read(ROOT / "solutions" / f"{slug}.py").cards
    return {f"check-{identifier.replace('.', '-')}": exercise.find(identifier).points for identifier in cards}


@pytest.mark.slow
def test_reference_solutions_get_full_points(course):
    grades = course.grades("reference")
    checks = {name: grade[0] for name, grade in grades.items() if name.startswith("check-")}
    assert checks == expected_points(course.slug)
    assert {name for name, grade in grades.items() if grade[2]} == set(grades) - set(checks), (
        "only answers are for people"
    )


@pytest.mark.slow
def test_untouched_notebooks_get_nothing(course):
    grades = course.grades("untouched")
    assert {name: grade[0] for name, grade in grades.items()} == dict.fromkeys(grades, 0.0)
    assert set(expected_points(course.slug)) <= set(grades)
    assert not any(grade[2] for grade in grades.values()), "an untouched answer needs no reader"


@pytest.mark.slow
def test_points_in_the_gradebook_are_those_of_the_catalogue(course):
    from course_utils.lessons import catalogue

    assert sum(grade[1] for grade in course.grades("untouched").values()) == catalogue.find(course.slug).points


@pytest.mark.slow
def test_nbgraders_own_release_is_our_students_notebook(course):
    """The same cells with the same text; only the stub's message is ours."""
    ours = nbformat.read(ROOT / "notebooks" / f"{course.slug}.ipynb", as_version=4)
    theirs = nbformat.read(course.folder / "release" / course.slug / f"{course.slug}.ipynb", as_version=4)

    def texts(notebook):
        kept = [cell for cell in notebook.cells if cell.cell_type == "code" or "nbgrader" in cell.metadata]
        plain = [re.sub(r"NotImplementedError\(.*\)", "NotImplementedError()", cell.source) for cell in kept]
        return [(cell.id, text) for cell, text in zip(kept, plain, strict=True)]

    assert texts(theirs) == texts(ours)
