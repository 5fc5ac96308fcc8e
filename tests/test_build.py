"""One source, two notebooks: the builder on a tiny lesson, and what is committed against its sources."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import pytest
from helpers import ROOT, SLUGS, SOURCES, TINY, tiny

from course_utils.lessons import catalogue
from course_utils.lessons.build import as_text, build, differences, sources, write
from course_utils.lessons.placeholders import of_checkout
from course_utils.lessons.source import SOLUTION, BuildError, Cell, Lesson, error, read, regions, source_hash


def student(built):
    return nbformat.reads(built.student, as_version=4)


def solution(built):
    return nbformat.reads(built.solution, as_version=4)


def by_grade_id(notebook):
    return {cell.metadata["nbgrader"]["grade_id"]: cell for cell in notebook.cells if "nbgrader" in cell.metadata}


# ---- the tiny lesson ---------------------------------------------------------------------------------------------


def test_building_twice_changes_no_byte(tmp_path):
    first, second = tiny(tmp_path / "one"), tiny(tmp_path / "elsewhere")
    built = build(first.path, first.context)
    assert len(write(built, tmp_path / "one")) == 2
    assert write(build(first.path, first.context), tmp_path / "one") == []
    again = build(second.path, second.context)
    assert (again.solution, again.student) == (built.solution, built.student)


def test_ids_depend_on_slug_and_position_alone(tmp_path):
    lesson = tiny(tmp_path)
    before = student(build(lesson.path, lesson.context))
    changed = tiny(tmp_path, TINY.replace("sum(values)", "float(sum(values))").replace("Why not", "Why never"))
    after = student(build(changed.path, changed.context))
    ids = [cell.id for cell in before.cells]
    assert [cell.id for cell in after.cells] == ids and len(set(ids)) == len(ids)
    solution_ids = {cell.id for cell in solution(build(changed.path, changed.context)).cells}
    assert set(ids) <= solution_ids


def test_student_gets_a_stub_in_place_and_nothing_of_the_solution(tmp_path):
    lesson = tiny(tmp_path)
    built = build(lesson.path, lesson.context)
    stub = by_grade_id(student(built))["exercise-00-1"].source
    assert stub == (
        'def mean(values):\n    """The mean of some numbers."""\n    if values:\n'
        '        raise NotImplementedError("Exercise 00.1: A mean")\n    return 0'
    )
    for secret in (
        "total_of_values",
        "assert mean",
        "HIDDEN",
        "SOLUTION",
        "model answer",
        "demonstration",
        "instructors",
    ):
        assert secret not in built.student, secret
        assert secret in built.solution, secret


def test_nbgrader_metadata_of_every_role(tmp_path):
    lesson = tiny(tmp_path)
    cells = by_grade_id(student(build(lesson.path, lesson.context)))
    rows = {
        name: (entry["grade"], entry["solution"], entry["locked"], entry.get("points"))
        for name, entry in ((name, cell.metadata["nbgrader"]) for name, cell in cells.items())
    }
    assert rows == {
        "parameters-00": (False, False, True, None),
        "setup-00": (False, False, True, None),
        "exercise-00-1": (False, True, False, None),
        "check-00-1": (True, False, True, 2),
        "question-00-1": (False, False, True, None),
        "answer-00-1": (True, True, False, 1),
    }
    assert {cell.metadata["nbgrader"]["schema_version"] for cell in cells.values()} == {3}


def test_set_up_cell_installs_only_where_there_is_an_address(tmp_path):
    def set_up(repository):
        lesson = tiny(tmp_path, repository=repository)
        return by_grade_id(student(build(lesson.path, lesson.context)))["setup-00"].source

    without, with_address = set_up(""), set_up("https://example.org/owner/name")
    assert "pip" not in without and without.count("\n") < 8 and with_address.count("\n") < 8
    assert '%pip install -q --no-deps "git+https://example.org/owner/name"' in with_address
    assert with_address.endswith(without.removeprefix("# @title Set-up\n"))


def test_placeholders_are_filled_and_badges_wait_for_an_address(tmp_path):
    lesson = tiny(tmp_path)
    built = build(lesson.path, lesson.context)
    assert "5 minutes for you, about 3 minutes for the machine, 3 points" in built.student
    assert "Difficulty ●●○○○ (2 of 5) · about 5 minutes · 2 points" in built.student
    assert "{{" not in built.student and "colab" not in built.student
    public = tiny(tmp_path, repository="https://example.org/owner/name")
    link = "colab.research.google.com/github/owner/name/blob/main/notebooks/00_start_here.ipynb"
    assert link in build(public.path, public.context).student


def test_hints_are_folded_in_both_front_ends(tmp_path):
    lesson = tiny(tmp_path)
    (hint,) = [
        cell for cell in student(build(lesson.path, lesson.context)).cells if "hint" in cell.metadata.get("tags", ())
    ]
    assert hint.metadata["jupyter"] == {"source_hidden": True} and hint.metadata["cellView"] == "form"
    assert hint.source.startswith("# @title ")


def store_outputs(lesson, outputs):
    """Writes the solution notebook as an execution would leave it, with `outputs` in the cell tagged expected."""
    notebook = solution(build(lesson.path, lesson.context))
    recorded = {
        "source_hash": source_hash(read(lesson.path)),
        "preset": "full",
        "recorded": "2026-01-02",
        "data": "gtsrb (local)",
    }
    notebook.metadata["course"].update(recorded)
    for cell in notebook.cells:
        if "expected" in cell.metadata.get("tags", ()):
            cell.outputs, cell.execution_count = outputs, 9
    lesson.path.with_suffix(".ipynb").write_text(as_text(notebook), encoding="utf-8")


def test_outputs_outlive_new_prose_and_not_new_code(tmp_path):
    lesson = tiny(tmp_path)
    assert build(lesson.path, lesson.context).stale
    store_outputs(lesson, [nbformat.v4.new_output("stream", name="stdout", text="seven < eight\n")])
    kept = build(lesson.path, lesson.context)
    head = "*Outputs below: `full` preset, 2026-01-02, recorded runs on gtsrb (local).*"
    assert solution(kept).cells[0].source.endswith(head) and head not in kept.student
    assert not kept.stale and "seven < eight" in str([cell.get("outputs") for cell in solution(kept).cells])

    prose = tiny(tmp_path, TINY.replace("# ## After it", "# ## After it\n\n# %% [markdown]\n# One more paragraph."))
    moved = build(prose.path, prose.context)
    (cell,) = [cell for cell in solution(moved).cells if cell.get("outputs")]
    assert not moved.stale and cell.metadata["tags"] == ["expected"] and cell.execution_count == 9

    code = tiny(tmp_path, TINY.replace("sum(values)", "sum(values) + 0"))
    changed = build(code.path, code.context)
    assert changed.stale and not any(cell.get("outputs") for cell in solution(changed).cells)
    assert "source_hash" not in solution(changed).metadata["course"]


def test_students_see_the_expected_text_and_picture(tmp_path):
    lesson = tiny(tmp_path)
    picture = nbformat.v4.new_output(
        "display_data", data={"image/png": "iVBORw0KGgo=", "text/plain": "x"}, metadata={"image/png": {"alt": "A dot"}}
    )
    store_outputs(lesson, [nbformat.v4.new_output("stream", name="stdout", text="seven < eight\n"), picture])
    (cell,) = [cell for cell in student(build(lesson.path, lesson.context)).cells if "attachments" in cell]
    assert cell.cell_type == "markdown" and "<summary>What you should see</summary>" in cell.source
    assert "seven &lt; eight" in cell.source
    (name,) = cell.attachments
    assert f"![A dot](attachment:{name})" in cell.source
    assert cell.attachments[name]["image/png"] == "iVBORw0KGgo="


def test_check_sees_one_changed_byte_and_a_missing_file(tmp_path):
    lesson = tiny(tmp_path)
    built = build(lesson.path, lesson.context)
    assert [problem for problem in differences(built, tmp_path) if "missing" in problem] == differences(built, tmp_path)
    write(built, tmp_path)
    assert differences(built, tmp_path) == []
    copy = tmp_path / "notebooks" / "00_start_here.ipynb"
    copy.write_bytes(copy.read_bytes().replace(b"Exercise 00.1:", b"Exercise 00.1;"))
    (problem,) = differences(built, tmp_path)
    assert "notebooks/00_start_here.ipynb differs" in problem


# what is done to the tiny lesson -> what the author reads
BROKEN = {
    "unknown tag": ('tags=["hint"]', 'tags=["hints"]', r"cell 7 .*unknown tag 'hints'; the tags are answer, check"),
    "unknown metadata": ('tags=["hint"]', 'tags=["hint"] pionts=2', r"unknown cell metadata 'pionts'"),
    "unclosed solution": ("        ### END SOLUTION\n", "", r"cell 5 .*BEGIN SOLUTION` is never closed"),
    "unopened solution": ("        ### BEGIN SOLUTION\n", "", r"END SOLUTION` without"),
    "nested solution": ("sum(values)\n", "sum(values)\n        ### BEGIN SOLUTION\n", r"a second `### BEGIN SOLUTION`"),
    "misspelt marker": ("### BEGIN SOLUTION", "# BEGIN SOLUTION", r"nearly a marker"),
    "unclosed tests": ("### END HIDDEN TESTS\n", "", r"cell 6 .*HIDDEN TESTS` is never closed"),
    "solution elsewhere": ('print("for', '### BEGIN SOLUTION\n### END SOLUTION\nprint("for', r"outside of an exercise"),
    "no solution": ('tags=["expected"]', 'tags=["exercise"]', r"an exercise without `### BEGIN SOLUTION`"),
    "tests elsewhere": ('tags=["check"]', 'tags=["claim"]', r"hidden tests outside of a check"),
    "no hint": ('tags=["hint"]', "", r"no hint cell"),
    "no card": ("### Exercise 00.1 · A mean", "### A mean", r"an exercise without a card"),
    "two cards": ("# ## After it", "# ### Exercise 00.1 · A mean", r"a second card"),
    "no card line": ("# {{card:00.1}}\n", "", r"add the line \{\{card:00.1\}\}"),
    "other title": ("00.1 · A mean", "00.1 · Means", r"the card says 'Means', the exercise says 'A mean'"),
    "unknown exercise": ("00.1", "00.7", r"there is no exercise '00.7'"),
    "other lesson": ("00.1", "01.1", r"its id starts with 00\."),
    "points not last": ('points("00.1")\n', 'points("00.1")\nprint()\n', r"end the cell in `points"),
    "check of another": ('check("00.1", mean)', 'check("00.2", mean)', r'never calls check\("00.1"'),
    "syntax": ("return 0", "return 0 0", r"not valid Python \(line 8"),
    "no parameters": ('tags=["parameters"]', "", r"0 cells tagged `parameters`"),
    "no PRESET": ("PRESET = os", "SETTING = os", r"say `PRESET = os.environ.get"),
    "other slug": ('start("00_start_here"', 'start("01_forgetting"', r"the set-up cell is generated"),
    "no answer": ('tags=["answer"]\n# The', "\n# The", r"a reflection without a model answer"),
    "no points": (" points=1", "", r"points on its cell line"),
    "other total": ("points=1", "points=2", r"give 4 points, the catalogue says 3"),
    "unknown placeholder": ("{{points}}", "{{point}}", r"cell 1 .*unknown placeholder \{\{point\}\}"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_source_is_named(tmp_path, name):
    old, new, message = BROKEN[name]
    assert old in TINY
    lesson = tiny(tmp_path, TINY.replace(old, new))
    with pytest.raises(BuildError, match=message) as raised:
        build(lesson.path, lesson.context)
    assert str(raised.value).startswith("00_start_here.py")


def test_missing_check_is_named(tmp_path):
    text = re.sub(r'# %% tags=\["check"\].*?(?=# %% tags=\["hint"\])', "", TINY, flags=re.DOTALL)
    lesson = tiny(tmp_path, text)
    with pytest.raises(BuildError, match="1 exercise cells and 0 check cells"):
        build(lesson.path, lesson.context)


def test_lessons_are_chosen_by_number_or_slug(tmp_path):
    lesson = tiny(tmp_path)
    assert sources(tmp_path, ["00"]) == sources(tmp_path, ["00_start_here"]) == sources(tmp_path) == [lesson.path]
    with pytest.raises(BuildError, match="there is no lesson '07'; the lessons are 00_start_here"):
        sources(tmp_path, ["07"])


# ---- what is committed -------------------------------------------------------------------------------------------


def test_catalogue_and_sources_name_the_same_lessons():
    assert SLUGS == [lesson.slug for lesson in catalogue.LESSONS if lesson.available]
    folders = {name: sorted(path.stem for path in (ROOT / name).glob("*.ipynb")) for name in ("solutions", "notebooks")}
    assert folders == {"solutions": SLUGS, "notebooks": SLUGS}


@pytest.mark.parametrize("path", SOURCES, ids=SLUGS)
def test_committed_notebooks_equal_their_source_byte_for_byte(path):
    assert differences(build(path, of_checkout(ROOT)), ROOT) == []


def solution_lines(lesson: Lesson, cell: Cell) -> list[list[str]]:
    """The stripped lines of each solution of a cell, without empty ones and comments."""
    lines = cell.text.splitlines()
    found = regions(cell.text, SOLUTION, lambda message: error(lesson, cell, message))
    blocks = [[line.strip() for line in lines[first + 1 : last]] for first, last in found]
    return [[line for line in block if line and not line.startswith("#")] for block in blocks]


@pytest.mark.parametrize("path", SOURCES, ids=SLUGS)
def test_no_solution_line_leaks(path):
    """The exercise's own cell holds no line of its solution, and no cell holds two lines of one in a row."""
    lesson = read(path)
    notebook = nbformat.read(ROOT / "notebooks" / f"{path.stem}.ipynb", as_version=4)
    texts = {cell.id: [line.strip() for line in cell.source.splitlines() if line.strip()] for cell in notebook.cells}
    stubs = by_grade_id(notebook)
    for cell in lesson.tagged("exercise"):
        own = texts[stubs[f"exercise-{cell.exercise.replace('.', '-')}"].id]
        visible = set(own)
        for block in solution_lines(lesson, cell):
            assert block, f"exercise {cell.exercise} has an empty solution"
            assert not visible & set(block), f"exercise {cell.exercise} shows {visible & set(block)}"
            for lines in texts.values():
                pairs = set(zip(lines, lines[1:], strict=False)) & set(zip(block, block[1:], strict=False))
                assert not pairs, f"the solution of {cell.exercise} is elsewhere in the student's notebook: {pairs}"
    assert not re.search(r"(BEGIN|END) (SOLUTION|HIDDEN)", (ROOT / "notebooks" / f"{path.stem}.ipynb").read_text())


@pytest.mark.parametrize("slug", SLUGS)
def test_student_notebooks_hold_no_output(slug):
    notebook = nbformat.read(ROOT / "notebooks" / f"{slug}.ipynb", as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    assert "widgets" not in notebook.metadata


def headings(text: str) -> set[str]:
    """Anchors of the headings of a markdown text, as Jupyter and the project's host write them."""
    titles = re.findall(r"^#{1,6} +(.+?)\s*$", text, re.MULTILINE)
    return {title.replace(" ", "-") for title in titles} | {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles
    }


def documents() -> dict[Path, str]:
    """Path -> markdown of everything a reader can follow a link in."""
    found = {}
    for folder in ("notebooks", "solutions"):
        for path in (ROOT / folder).glob("*.ipynb"):
            cells = nbformat.read(path, as_version=4).cells
            found[path] = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for path in [*ROOT.glob("*.md"), *(ROOT / "data").glob("*.md")]:
        found[path] = path.read_text(encoding="utf-8")
    return found


@pytest.mark.parametrize("path,text", documents().items(), ids=lambda value: getattr(value, "name", ""))
def test_internal_links_resolve(path, text):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", text) + re.findall(r'(?:href|src)="([^"]+)"', text)
    for link in links:
        if re.match(r"[a-z]+:", link):  # another site, or an attachment
            continue
        target, _, anchor = link.partition("#")
        if target:
            assert (path.parent / target).exists(), f"{path.name} links to {link}, which does not exist"
        if anchor and (not target or target.endswith(".md")):
            page = (path.parent / target).read_text(encoding="utf-8") if target else text
            assert anchor in headings(page), f"{path.name} links to {link}: there is no such heading"


@pytest.mark.parametrize("path", SOURCES, ids=SLUGS)
def test_sources_are_plain_python(path):
    """A source runs as a script too: no magics, which jupytext would turn into comments."""
    text = path.read_text(encoding="utf-8")
    ast.parse(text)
    assert not re.search(r"^# ?[%!](?!%)", text, re.MULTILINE), "a magic or a shell command"


def test_pictures_of_other_peoples_data_are_not_stored():
    import nbformat

    from course_utils.lessons import run

    def output():
        data = {"image/png": "AAAA", "text/plain": "[figure] signs"}
        return nbformat.v4.new_output("display_data", data=data, metadata={"image/png": {"alt": "signs"}})

    kept = nbformat.v4.new_code_cell("1", outputs=[output()])
    dropped = nbformat.v4.new_code_cell("2", outputs=[output()], metadata={"tags": ["unstored"]})
    run.withhold(notebook := nbformat.v4.new_notebook(cells=[kept, dropped]))
    assert "image/png" in notebook.cells[0].outputs[0].data
    assert notebook.cells[1].outputs[0].data == {"text/plain": notebook.cells[1].outputs[0].data["text/plain"]}
    assert "not ours to publish" in notebook.cells[1].outputs[0].data["text/plain"]
