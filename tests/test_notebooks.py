"""Every notebook runs: solutions under nbval and papermill, students' unsolved; and what stored outputs must be."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import nbformat
import pytest
from helpers import ROOT, SLUGS, SOURCES, TINY, tiny
from nbclient import NotebookClient

from course_utils import cli
from course_utils.lessons import report, run
from course_utils.lessons.placeholders import of_checkout
from course_utils.lessons.source import BuildError, read, source_hash

SMOKE = {**os.environ, "COURSE_PRESET": "smoke"}


def committed(folder: str, slug: str):
    return nbformat.read(ROOT / folder / f"{slug}.ipynb", as_version=4)


def text_of(cell) -> str:
    """All that a code cell printed or displayed, as text."""
    outputs = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "\n".join(outputs)


# ---- solutions, as committed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=SLUGS)
def test_stored_outputs_are_of_this_code(path):
    course = committed("solutions", path.stem).metadata["course"]
    advice = f"run `course build {path.stem[:2]} --execute`"
    assert course.get("source_hash") == source_hash(read(path)), f"outputs are missing or stale; {advice}"
    assert course["preset"] == "full", f"outputs are of the {course['preset']} preset; {advice}"


@pytest.mark.parametrize("slug", SLUGS)
def test_cells_whose_output_nbval_compares_have_one(slug):
    """nbval passes such a cell when nothing is stored, so nothing would be compared."""
    for cell in committed("solutions", slug).cells:
        if "nbval-check-output" in cell.metadata.get("tags", ()):
            assert cell.outputs and cell.execution_count, f"no stored output: {cell.source[:60]!r}"


@pytest.mark.parametrize("slug", SLUGS)
def test_committed_solution_is_small_tidy_and_described(slug):
    notebook = committed("solutions", slug)
    assert (ROOT / "solutions" / f"{slug}.ipynb").stat().st_size <= run.LARGEST_NOTEBOOK
    assert "widgets" not in notebook.metadata
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            assert output.output_type != "error", f"an error is stored: {cell.source[:60]!r}"
            assert output.get("name") != "stderr", f"standard error is stored: {output.get('text')!r}"
            assert run.WIDGET_VIEW not in output.get("data", {}), "a widget's view without its widget"
    assert all(alt.strip() for _, alt in report.images(notebook)), (
        "a figure without alt text; use plots.show(fig, alt=...)"
    )
    executed = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    assert None not in executed and executed == sorted(executed), "cells were run out of order or not at all"


@pytest.mark.parametrize("slug", SLUGS)
def test_visible_code_cells_are_short(slug):
    """Median at most 8 lines, none above 30, in what the student sees unfolded."""
    lines = [
        len(cell.source.splitlines())
        for cell in committed("notebooks", slug).cells
        if cell.cell_type == "code" and not cell.metadata.get("jupyter", {}).get("source_hidden")
    ]
    assert statistics.median(lines) <= 8, f"median {statistics.median(lines)}"
    assert max(lines) <= 30, f"longest {max(lines)}"


# ---- running them ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("slug", SLUGS)
def test_solution_runs_under_nbval(slug):
    """In a process of its own: nbval replaces how pytest collects and reports."""
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600"]
    command += ["-p", "no:cacheprovider", "-q", f"solutions/{slug}.ipynb"]
    done = subprocess.run(command, cwd=ROOT, env=SMOKE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    code = [cell for cell in committed("solutions", slug).cells if cell.cell_type == "code"]
    assert f"{len(code)} passed" in done.stdout, done.stdout[-2000:]


def quick_run(slug: str):
    """The lesson's result in the quick preset, and the folder that it lies in.

    `.ci/run` executes all lessons with `make run` right before the tests, from the same clone. It names that folder in
    COURSE_RUN, and what lies there is looked at instead of being made a second time.
    """
    made = os.environ.get("COURSE_RUN")
    if made:
        content = json.loads((ROOT / made / "timings.json").read_text(encoding="utf-8"))
        assert content["parameters"] == {"PRESET": "quick"}
        (entry,) = [entry for entry in content["lessons"] if entry["slug"] == slug]
        return SimpleNamespace(**entry), ROOT / made
    output = ROOT / "build" / "test" / slug
    (result,) = run.run(of_checkout(ROOT), [slug], parameters={"PRESET": "quick"}, output=output, say=lambda line: None)
    return result, output


@pytest.mark.slow
@pytest.mark.parametrize("slug", SLUGS)
def test_lesson_runs_under_papermill_in_the_quick_preset(slug):
    """As `course run` does it, into build/test/: executed notebook, page, figures and timings.json."""
    result, output = quick_run(slug)
    assert result.status == "ok", result.message
    executed = nbformat.read(output / result.notebook, as_version=4)
    code = [cell.source for cell in committed("solutions", slug).cells if cell.cell_type == "code"]
    ran = [cell.source for cell in executed.cells if cell.cell_type == "code"]
    assert ran[1 - len(code) :] == code[1:]  # before them stand the parameters, and papermill's own
    page = (output / result.page).read_text(encoding="utf-8")
    assert report.remote_assets(page) == [] and "<script" not in page
    assert all(alt for _, alt in result.figures)
    assert len(result.cell_seconds) == len(executed.cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", SOURCES, ids=SLUGS)
def test_student_notebook_runs_unsolved(path, tmp_path):
    """No cell fails, every exercise is "not attempted" and earns nothing, and every stub raises with its id."""
    notebook = committed("notebooks", path.stem)
    cells = {cell.metadata["nbgrader"]["grade_id"]: cell for cell in notebook.cells if "nbgrader" in cell.metadata}
    cards = read(path).cards
    for identifier in cards:
        exercise = cells[f"exercise-{identifier.replace('.', '-')}"]
        # Called in the student's own kernel right after its definition: a stub that returns would count as an answer.
        names = re.findall(r"^(?:def|class) (\w+)", exercise.source, re.MULTILINE)
        assert names, f"exercise {identifier} defines no function"
        exercise.source += f"\n\n__import__('helpers').must_raise({names[-1]}, 'Exercise {identifier}:')"
    notebook.cells.append(nbformat.v4.new_code_cell("__import__('helpers').try_extremes(globals())"))
    client = NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env={**SMOKE, "PYTHONPATH": str(ROOT / "tests")})
    assert run.widget_errors(notebook) == []
    explored = sum("widgets.explore(" in cell.source for cell in notebook.cells)
    assert f"{explored} explorations drawn at their extremes" in text_of(notebook.cells[-1])
    for identifier in cards:
        check = cells[f"check-{identifier.replace('.', '-')}"]
        assert "not attempted" in text_of(check), f"exercise {identifier}: {text_of(check)}"
        (result,) = [output.data["text/plain"] for output in check.outputs if output.output_type == "execute_result"]
        assert float(result) == 0
        assert not any(output.get("name") == "stderr" for output in check.outputs), (
            "nbgrader gives 0 points to any stderr"
        )


# ---- the runner, on tiny lessons ---------------------------------------------------------------------------------

PLAIN = re.sub(r"# %% \[markdown\]\n# ### Exercise.*?(?=# %% \[markdown\]\n# ## After)", "", TINY, flags=re.DOTALL)
REMOTE = (
    '<link rel="stylesheet" href="https://example.org/s.css"><img src="//example.org/i.png" alt="a remote picture">'
)
FIGURE = f'''
# %%
from matplotlib.figure import Figure

from course_utils import plots

plots.show(Figure(figsize=(2, 1)), alt="An empty <pair> of axes")

# %%
from IPython.display import HTML

HTML("""{REMOTE}<script src='https://example.org/x.js'></script>""")
'''
WIDGET = """
# %%
import ipywidgets

ipywidgets.interact(lambda x: 1 / (x - 3), x=(0, 6))
"""


def plain(root, slug, extra=""):
    """A tiny lesson without exercise; its one reflection gives the 3 points of the catalogue."""
    text = PLAIN.replace("points=1", "points=3").replace("00_start_here", slug).replace("{{badges}}", "$\\frac{1}{2}$")
    return tiny(root, text + extra, slug=slug)


@pytest.fixture(scope="module")
def three_lessons(tmp_path_factory):
    """(root, results, lines said) of three tiny lessons: a good one, one whose widget fails, one that raises."""
    root = tmp_path_factory.mktemp("course")
    lesson = plain(root, "00_start_here", FIGURE)
    plain(root, "01_forgetting", WIDGET)
    plain(root, "02_rehearsal_kd_gtsrb", '\n# %%\nraise RuntimeError("no more memory")\n')
    lines: list[str] = []
    results = run.run(lesson.context, parameters={"PRESET": "smoke"}, say=lines.append)
    return root, results, lines


@pytest.mark.slow
def test_a_failing_lesson_never_stops_the_others(three_lessons):
    root, results, lines = three_lessons
    assert [result.status for result in results] == ["ok", "failed", "failed"]
    assert "no more memory" in results[2].message and results[2].notebook
    assert lines[0].startswith("[1/3] 00_start_here") and lines[-1].startswith("1 of 3 lessons ran")
    assert (root / "build" / results[2].notebook).exists()


@pytest.mark.slow
def test_lessons_run_together_give_the_same(three_lessons, tmp_path):
    """In other processes, the longest first; results, report and folders are those of lessons run one by one."""
    root, alone, _ = three_lessons
    lines: list[str] = []
    context = plain(root, "00_start_here", FIGURE).context
    found = run.run(
        replace(context, machine_minutes={"01_forgetting": 2.0, "00_start_here": 1.0}),
        parameters={"PRESET": "smoke"}, output=tmp_path, together=2, say=lines.append,
    )  # fmt: skip
    assert [(result.slug, result.status, result.figures) for result in found] == [
        (result.slug, result.status, result.figures) for result in alone
    ]
    assert [line[:19] for line in lines[:2]] == ["[2/3] 01_forgetting", "[1/3] 00_start_here"]
    assert "no more memory" in found[2].message and lines[-1].startswith("1 of 3 lessons ran")
    assert {path.name for path in (tmp_path / "notebooks").iterdir()} == {
        path.name for path in (root / "build" / "notebooks").iterdir()
    }


@pytest.mark.slow
def test_a_lesson_whose_process_dies_takes_no_other_along(tmp_path):
    lesson = plain(tmp_path, "00_start_here")
    plain(tmp_path, "01_forgetting")
    killed = replace(lesson.context, lookup=dies)
    plain(tmp_path, "01_forgetting", "\n# %% [markdown]\n# {{card:00.1}}\n")
    results = run.run(killed, parameters={"PRESET": "smoke"}, together=2, say=lambda line: None)
    assert [result.status for result in results] == ["ok", "failed"]
    assert "was killed" in results[1].message and (tmp_path / "build" / "index.html").exists()


def dies(identifier: str):
    os._exit(9)


@pytest.mark.parametrize(
    "options", [["--together", "2", "--preset", "full"], ["--together", "2", "--record-timings"], ["--together", "0"]]
)
def test_lessons_together_are_refused_where_they_would_spoil_a_measurement(options, capsys):
    assert cli.main(["run", "00", *options]) == 2
    assert "--together" in capsys.readouterr().err


@pytest.mark.slow
def test_an_error_in_a_widgets_callback_fails_the_lesson(three_lessons):
    """papermill itself exits as if all were well."""
    assert "a widget's callback raised ZeroDivisionError" in three_lessons[1][1].message


@pytest.mark.slow
def test_report_is_self_contained_and_accessible(three_lessons):
    root, results, _ = three_lessons
    output = root / "build"
    index, page = (output / "index.html").read_text(), (output / results[0].page).read_text()
    for text in (index, page):
        assert report.remote_assets(text) == [] and "<script" not in text and '<html lang="en">' in text
    assert "a remote picture" in page and "<mfrac>" in page and "<msubsup>" in page and "Below 5$" in page
    assert results[0].figures == [("figures/00/01.png", "An empty <pair> of axes")]
    assert 'src="figures/00/01.png"' in index and 'alt="An empty &lt;pair&gt; of axes"' in index
    assert (output / "figures/00/01.png").read_bytes().startswith(b"\x89PNG")
    assert index.count('class="status-failed"') == 2 and "no more memory" in index
    for result in results:
        assert f'href="{result.notebook}"' in index and (output / result.notebook).exists()
        assert f'href="{result.page}"' in index and (output / result.page).exists()


@pytest.mark.slow
def test_executed_notebooks_hold_nothing_volatile(three_lessons):
    root, results, _ = three_lessons
    for result in results:
        notebook = nbformat.read(root / "build" / result.notebook, as_version=4)
        assert set(notebook.metadata) == {"course", "kernelspec", "language_info"}
        assert not any({"papermill", "execution"} & set(cell.metadata) for cell in notebook.cells)
        assert run.WIDGET_VIEW not in str(notebook.cells)


def test_remote_assets_are_found_and_links_are_not():
    assert len(report.remote_assets(REMOTE)) == 2
    assert report.remote_assets("<style>@import 'https://example.org/a.css';</style>")
    assert report.remote_assets("<style>a { background: url(//example.org/a.png) }</style>")
    assert report.remote_assets('<a href="https://example.org">x</a><img src="figures/a.png" alt="">') == []


def test_a_parameter_that_a_lesson_lacks_is_an_error(tmp_path):
    lesson = plain(tmp_path, "00_start_here")
    (result,) = run.run(lesson.context, parameters={"PRESETS": "smoke"}, say=lambda line: None)
    assert result.status == "failed" and "has no parameter PRESETS; its parameters cell sets PRESET" in result.message
    with pytest.raises(BuildError, match="there is no preset 'fast'; the presets are smoke, quick, full"):
        run.check_parameters(read(lesson.path), {"PRESET": "fast"})


@pytest.mark.slow
def test_execute_stores_outputs_with_the_hash_of_their_source(tmp_path):
    lesson = plain(tmp_path, "00_start_here", FIGURE)
    text = run.execute_solution(lesson.path, lesson.context, "smoke")
    notebook = nbformat.reads(text, as_version=4)
    assert notebook.metadata["course"]["source_hash"] == source_hash(read(lesson.path))
    assert notebook.metadata["course"]["preset"] == "smoke"
    assert "smoke preset" in text, "the environment variable did not reach the kernel"
    assert [alt for _, alt in report.images(notebook)] == ["An empty <pair> of axes"]
    failing = plain(tmp_path, "00_start_here", "\n# %%\n1 / 0\n")
    with pytest.raises(BuildError, match="00_start_here.py: a cell failed in the smoke preset"):
        run.execute_solution(failing.path, failing.context, "smoke")
