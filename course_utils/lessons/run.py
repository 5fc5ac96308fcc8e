"""Executing lessons: with papermill for `course run`, with stored outputs for `course build --execute`."""

from __future__ import annotations

import datetime
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import report
from .build import as_text, build, fresh_solution, sources
from .placeholders import Context
from .source import BuildError, Lesson, parameter_names, read, source_hash

if TYPE_CHECKING:
    from nbformat import NotebookNode

PRESETS = ("smoke", "quick", "full")
# A kernel warns on its own standard error that it talks to its runner over a local socket: noise among progress lines.
KERNEL_ARGUMENTS = ["--IPKernelApp.log_level=ERROR"]
KERNEL_START = 180  # seconds; a kernel on a loaded machine takes its time
LARGEST_NOTEBOOK = 1_000_000  # bytes of a committed, executed solution
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"


@dataclass(frozen=True)
class LessonRun:
    """What happened to one lesson. `message` says what failed; figures are (path relative to the report, alt text)."""

    slug: str
    title: str
    status: str  # "ok" or "failed"
    seconds: float
    message: str = ""
    notebook: str = ""
    page: str = ""
    figures: list[tuple[str, str]] = field(default_factory=list)
    cell_seconds: list[float] = field(default_factory=list)


def run(
    context: Context,
    wanted: list[str] | None = None,
    *,
    parameters: dict[str, Any] | None = None,
    output: Path | None = None,
    jobs: int = 1,
    together: int = 1,
    say: Callable[[str], None] = print,
) -> list[LessonRun]:
    """Executes lessons and leaves notebooks, pages, figures, timings and an index under `output`.

    parameters: what papermill sets, such as {"PRESET": "quick"}; a name that a lesson does not have fails the lesson.
    wanted: numbers or slugs; all lessons by default. output: `build` in the checkout by default.
    jobs: worker processes for the experiments of the full preset.
    together: lessons at a time, the longest first; below the full preset a lesson uses one core.
    A lesson that fails never stops the others: look at `status` of the results.
    """
    parameters = {"PRESET": "quick"} if parameters is None else parameters
    output = context.root / "build" if output is None else output
    paths = sources(context.root, wanted)
    results: list[LessonRun] = []
    for started, result in _one_by_one(paths, context, parameters, output, jobs, together):
        number = f"[{1 + paths.index(started)}/{len(paths)}]"
        if result is None:
            say(f"{number} {started.stem}: running in the {parameters.get('PRESET')} preset ...")
            continue
        say(f"{number} {result.slug}  {result.title}: {result.status}, {result.seconds / 60:.1f} min")
        if result.message:
            say(result.message)
        results.append(result)
    results.sort(key=lambda result: result.slug)
    _write_timings(output / "timings.json", results, parameters)
    index = report.write_index(results, output, preset=str(parameters.get("PRESET")))
    say(f"{sum(result.status == 'ok' for result in results)} of {len(results)} lessons ran; the report is {index}")
    return results


def _one_by_one(
    paths: list[Path], context: Context, parameters: dict[str, Any], output: Path, jobs: int, together: int
) -> Iterator[tuple[Path, LessonRun | None]]:
    """Each lesson's path, with None as it starts and with its result as it ends."""
    if together <= 1:
        for path in paths:
            yield path, None
            yield path, run_lesson(path, context, parameters, output, jobs=jobs)
        return
    minutes = context.machine_minutes or {}
    waiting = sorted(paths, key=lambda path: minutes.get(path.stem, 0.0))  # the last one starts first
    with ThreadPoolExecutor(together) as pool:
        running: dict[Future[LessonRun], Path] = {}
        while waiting or running:
            while waiting and len(running) < together:
                path = waiting.pop()
                yield path, None
                running[pool.submit(_in_its_own_process, path, context, parameters, output, jobs)] = path
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(done), done.result()


def _in_its_own_process(path: Path, context: Context, parameters: dict[str, Any], output: Path, jobs: int) -> LessonRun:
    """A process for each lesson: one that dies takes no other along."""
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            return alone.submit(run_lesson, path, context, parameters, output, jobs=jobs).result()
    except BrokenProcessPool:
        message = (
            "the process that ran this lesson was killed; was there enough memory? Run it alone: course run "
            + path.stem[:2]
        )
        return LessonRun(path.stem, path.stem, "failed", 0.0, message)


def run_lesson(path: Path, context: Context, parameters: dict[str, Any], output: Path, *, jobs: int = 1) -> LessonRun:
    """Builds a lesson from its source, executes the solution notebook with papermill and renders it."""
    import nbformat
    import papermill

    start = time.perf_counter()
    executed = output / "notebooks" / f"{path.stem}.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    executed.unlink(missing_ok=True)  # a run that fails early must not leave an earlier run's notebook
    title, message = path.stem, ""
    try:
        title = context.listing(read(path)).title
        built = build(path, context)
        check_parameters(built.lesson, parameters)
        if parameters.get("PRESET") == "full":
            from . import records

            records.run_full(path.stem, jobs=jobs)
        # Without the outputs of the committed notebook, and so without the line that says where those come from.
        executed.write_text(as_text(fresh_solution(path, context)), encoding="utf-8")
        papermill.execute_notebook(
            str(executed),
            str(executed),
            parameters=parameters,
            cwd=str(context.root),
            kernel_name="python3",
            progress_bar=False,
            start_timeout=KERNEL_START,
            extra_arguments=KERNEL_ARGUMENTS,
        )
        message = "\n".join(widget_errors(nbformat.read(executed, as_version=4)))
    except Exception as problem:  # whatever a lesson does, the others still run
        message = f"{type(problem).__name__}: {problem}".strip()
    seconds = time.perf_counter() - start
    status = "failed" if message else "ok"
    if not executed.exists():
        return LessonRun(path.stem, title, status, seconds, message)
    notebook = nbformat.read(executed, as_version=4)
    cell_seconds = [round(cell.metadata.get("papermill", {}).get("duration") or 0.0, 2) for cell in notebook.cells]
    tidy(notebook)
    executed.write_text(as_text(notebook), encoding="utf-8")
    page = report.write_page(notebook, output / "notebooks" / f"{path.stem}.html", title=f"{path.stem[:2]} {title}")
    figures = report.write_figures(notebook, output, path.stem)
    return LessonRun(
        path.stem,
        title,
        status,
        seconds,
        message,
        notebook=executed.relative_to(output).as_posix(),
        page=page.relative_to(output).as_posix(),
        figures=figures,
        cell_seconds=cell_seconds,
    )


def check_parameters(lesson: Lesson, parameters: dict[str, Any]) -> None:
    """Papermill only warns of a parameter that a notebook does not have, and runs something else: here an error."""
    known = parameter_names(lesson.tagged("parameters")[0].text)
    unknown = sorted(set(parameters) - known)
    if unknown:
        have = ", ".join(sorted(known))
        raise BuildError(f"{lesson.path.name} has no parameter {', '.join(unknown)}; its parameters cell sets {have}")
    if parameters.get("PRESET", "quick") not in PRESETS:
        raise BuildError(f"there is no preset {parameters['PRESET']!r}; the presets are {', '.join(PRESETS)}")


def widget_errors(notebook: NotebookNode) -> list[str]:
    """Errors of widgets' callbacks: they go to an Output widget, and every runner exits as if all were well."""
    states = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    outputs = [output for widget in states.values() for output in widget.get("state", {}).get("outputs", ())]
    outputs += [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [
        f"a widget's callback raised {output['ename']}: {output['evalue']}"
        for output in outputs
        if output.get("output_type") == "error"
    ]


def tidy(notebook: NotebookNode) -> None:
    """Removes, in place, what is volatile or dead in a stored notebook: timings, widgets, progress bars.

    A widget's view without its kernel shows "model not found"; the static figure beside it stays.
    """
    notebook.metadata.pop("widgets", None)
    notebook.metadata.pop("papermill", None)
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        for key in ("execution", "papermill"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _volatile(output)]


def _volatile(output: NotebookNode) -> bool:
    """A widget's view, or a progress bar drawn with carriage returns."""
    if output.output_type == "stream":
        return output.name == "stderr" and "\r" in output.text
    return WIDGET_VIEW in output.get("data", {})


def withhold(notebook: NotebookNode) -> None:
    """Takes, in place, the pictures out of cells tagged `unstored`: what is committed must not hold other people's data."""
    for cell in notebook.cells:
        if "unstored" in cell.metadata.get("tags", ()):
            cell.outputs = [_without_picture(output) for output in cell.outputs]


def _without_picture(output: NotebookNode) -> NotebookNode:
    """The output with its picture replaced by a sentence: data sets that we may use, but not hand on."""
    if "image/png" not in output.get("data", {}):
        return output
    note = "This picture is not stored with the course: it shows images that are not ours to publish. Run the cell."
    text = f"{output.data.get('text/plain', '[figure]')}\n{note}"
    return type(output)({**output, "data": {"text/plain": text}, "metadata": {}})


def execute_solution(path: Path, context: Context, preset: str) -> str:
    """Executes a lesson's solution notebook in a preset; returns its text with outputs and its source's hash.

    Raises BuildError if a cell or a widget's callback raises, or if the notebook is too large for a repository.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    built = build(path, context)
    check_parameters(built.lesson, {"PRESET": preset})
    if preset == "full":
        from . import records

        records.run_full(path.stem)
    notebook = fresh_solution(path, context)
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        startup_timeout=KERNEL_START,
        extra_arguments=KERNEL_ARGUMENTS,
        record_timing=False,
        resources={"metadata": {"path": str(context.root)}},
    )
    try:
        client.execute(env={**os.environ, "COURSE_PRESET": preset})
    except CellExecutionError as problem:
        raise BuildError(f"{path.name}: a cell failed in the {preset} preset.\n{problem}") from None
    problems = widget_errors(notebook)
    if problems:
        raise BuildError(f"{path.name}: {problems[0]}")
    tidy(notebook)
    withhold(notebook)
    notebook.metadata["course"] = {
        "slug": path.stem,
        "notebook": "solution",
        "source_hash": source_hash(built.lesson),
        "preset": preset,
        "recorded": datetime.date.today().isoformat(),
        "data": _data_of_record(context.root / "results" / f"{path.stem}.json"),
    }
    text = as_text(notebook)
    if len(text.encode("utf-8")) > LARGEST_NOTEBOOK:
        raise BuildError(
            f"{path.name}: {len(text):,} bytes executed, at most {LARGEST_NOTEBOOK:,}; draw smaller figures"
        )
    return text


def _data_of_record(path: Path) -> str:
    """Title and source of every data set that a lesson's recorded runs used, or "" if it has none."""
    if not path.exists():
        return ""
    data = json.loads(path.read_text(encoding="utf-8"))["data"]
    return ", ".join(f"{entry['title']} ({entry['source']})" for entry in data.values())


def record_timings(context: Context, results: list[LessonRun]) -> Path:
    """Writes the minutes of successful lessons to results/timings.json, which the lessons' headers are built from."""
    path = context.root / "results" / "timings.json"
    lessons = json.loads(path.read_text(encoding="utf-8"))["lessons"] if path.exists() else {}
    for result in results:
        if result.status == "ok":
            lessons[result.slug] = {"minutes": round(result.seconds / 60, 1)}
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    ledger = {
        "preset": "quick",
        "machine": machine,
        "recorded": datetime.date.today().isoformat(),
        "lessons": dict(sorted(lessons.items())),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(ledger, indent=1) + "\n", encoding="utf-8")
    return path


def _write_timings(path: Path, results: list[LessonRun], parameters: dict[str, Any]) -> None:
    """The ledger of one run, with seconds per cell."""
    ledger = {"parameters": parameters, "lessons": [asdict(result) for result in results]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(ledger, indent=1) + "\n", encoding="utf-8")
