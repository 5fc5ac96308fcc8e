"""Checks, points and hints: what a student calls after writing an exercise.

    kd_loss = check("02.1", kd_loss)    # reports; your function again, or the reference
    points("02.1")                      # what it earned
    hint("02.1")                        # the next of three hints

A check never stops a lesson: whatever the student's function does ends in a report. It leaves nothing behind:
the random states are restored, and nothing reaches the standard error stream, for which nbgrader would give 0 points.
"""

from __future__ import annotations

import html
import inspect
import linecache
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from course_utils.lessons import display, exercise, sandbox
from course_utils.lessons.exercise import Changed, Differs, Exercise, Wrong

SEED = 20240229  # every criterion starts from it, so a check gives the same report each time


@dataclass(frozen=True)
class Outcome:
    """How one criterion went: its name, whether it passed, and the diagnosis if it did not."""

    name: str
    passed: bool
    message: str = ""


@dataclass(frozen=True)
class Report:
    """How an exercise went.

    Attributes:
        exercise: the exercise.
        status: "passed", "partly", "wrong", "refused" or "not attempted".
        outcomes: one per criterion; empty if the function was never tried.
        message: what holds for the whole answer, such as why it was refused.
        printed: what the student's function printed while it was checked.
    """

    exercise: Exercise
    status: str
    outcomes: tuple[Outcome, ...] = ()
    message: str = ""
    printed: str = ""

    @property
    def points(self) -> float:
        """Points earned: the shares of the criteria that passed, an int where it is whole."""
        shares = [criterion.share for criterion in self.exercise.criteria]
        passed = [outcome.passed for outcome in self.outcomes]
        if not any(passed):
            return 0
        earned = sum(share for share, ok in zip(shares, passed, strict=True) if ok)
        earned = round(self.exercise.points * earned / sum(shares), 2)
        return int(earned) if earned == int(earned) else earned

    @property
    def borrowed(self) -> bool:
        """Whether the lesson goes on with the reference."""
        return self.status != "passed"


# What this kernel's student has done so far: the last report and the hints shown, by exercise id.
_reports: dict[str, Report] = {}
_hints_shown: dict[str, int] = {}


def check(exercise_id: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Check an answer and show the report.

    Args:
        exercise_id: e.g. `"02.1"`.
        function: the student's function.

    Returns:
        `function` if it meets every criterion; otherwise the reference, under a banner that says so.

    Raises:
        ValueError: there is no such exercise.
    """
    task = exercise.find(exercise_id)
    reference = task.solution()
    if function is reference and exercise_id in _reports:
        # The check cell was run twice: the name now holds the reference that the first run lent.
        _show(_reports[exercise_id], note="Run the cell with your own function again before you check again.")
        return reference
    report = examine(task, function)
    _reports[exercise_id] = report
    _show(report)
    return reference if report.borrowed else function


def points(exercise_id: str) -> float:
    """Points that the last `check` of this exercise gave; 0 before the first. Hints cost nothing."""
    exercise.find(exercise_id)
    return _reports[exercise_id].points if exercise_id in _reports else 0


def hint(exercise_id: str, step: int | None = None) -> None:
    """Show the next hint of the exercise, or hint number `step` (1 to 3). Hints never cost points.

    Raises:
        ValueError: there is no such exercise or step.
    """
    hints = exercise.find(exercise_id).hints
    if step is None:
        step = min(_hints_shown.get(exercise_id, 0) + 1, len(hints))
    if step not in range(1, len(hints) + 1):
        raise ValueError(f"hint {step!r} of exercise {exercise_id} does not exist; steps are 1 to {len(hints)}")
    _hints_shown[exercise_id] = max(step, _hints_shown.get(exercise_id, 0))
    more = "Run this cell again for the next one." if step < len(hints) else "This is the last one."
    display.banner("hint", f"Hint {step} of {len(hints)}", f"{hints[step - 1]}\n{more}")


def last_report(exercise_id: str) -> Report | None:
    """The report of the last `check` of this exercise in this kernel; None before the first."""
    return _reports.get(exercise_id)


def forget() -> None:
    """Forget all reports and hints, as in a fresh kernel."""
    _reports.clear()
    _hints_shown.clear()


def examine(task: Exercise, function: Any) -> Report:
    """Try `function` against every criterion of `task`; shows nothing and leaves no trace."""
    if not callable(function):
        kind = type(function).__name__
        message = f"`check` got {function!r} ({kind}), expected your function itself: its name without brackets."
        return Report(task, "wrong", message=message)
    forbidden = sandbox.code_objects(map(exercise.resolve, (task.reference, *task.forbidden)))
    called: list[str] = []
    changed: list[str] = []
    ever_changed: list[str] = []
    observed = sandbox.watched(function, forbidden, called, changed)
    outcomes: list[Outcome] = []
    with sandbox.quiet() as output, sandbox.random_states_kept():
        for criterion in task.criteria:
            sandbox.seed_everything(SEED)
            changed.clear()
            try:
                criterion.function(observed)
            except NotImplementedError as error:
                if not any(outcome.passed for outcome in outcomes):
                    return Report(task, "not attempted", printed=output.getvalue())
                message = _explain(error, function)
            except Changed as wrong:
                message = str(wrong)
            except Differs as wrong:
                message = _in_place(changed[0]) if changed else str(wrong)
            except Wrong as wrong:  # perhaps only because an earlier call had changed what it was given
                message = "\n".join([str(wrong), *map(_in_place, changed[:1])])
            except (Exception, SystemExit) as error:
                message = _in_place(changed[0]) if changed else _explain(error, function)
            else:
                message = ""
            if called:
                text = f"This calls the package's own `{called[0]}`; write the formula yourself."
                return Report(task, "refused", message=text, printed=output.getvalue())
            outcomes.append(Outcome(criterion.name, not message, message))
            ever_changed += changed
    if ever_changed and all(outcome.passed for outcome in outcomes):  # right numbers, and the caller's are gone
        outcomes[-1] = Outcome(outcomes[-1].name, False, _in_place(ever_changed[0]))
    passed = [outcome.passed for outcome in outcomes]
    status = "passed" if all(passed) else "partly" if any(passed) else "wrong"
    return Report(task, status, tuple(outcomes), printed=output.getvalue())


def _in_place(name: str) -> str:
    return (
        f"Your function changes its argument `{name}` in place (as `/=`, `+=`, `{name}[...] = ...`, `.append` and names that end "
        f"in `_` do). Whoever called it still needs the old one: give the result a new name, or work on a copy."
    )


# ---- reports -----------------------------------------------------------------------------------------------------


def _explain(error: BaseException, function: Callable[..., Any]) -> str:
    """An exception in a student's words: its type, message, and the line of the student's code that led to it."""
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    own = getattr(getattr(inspect.unwrap(function), "__code__", None), "co_filename", None)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == own]
    if not frames:
        return f"Your function ran, but what it returned cannot be used: {what}"
    line = (linecache.getline(frames[-1].filename, frames[-1].lineno or 0) or frames[-1].line or "").strip()
    code = f" `{line}`" if line else ""
    return f"Your function stopped in line {frames[-1].lineno} of its cell:{code}\n{what}"


_HEADLINES = {
    "passed": "passed",
    "partly": "partly right",
    "wrong": "not right yet",
    "refused": "refused",
    "not attempted": "not attempted",
}


def _show(report: Report, note: str = "") -> None:
    """Show a report, and the banner about borrowing if the lesson goes on with the reference."""
    task = report.exercise
    symbol, _ = display.KINDS[report.status]
    earned = f"{report.points:g} of {task.points:g} points"
    title = f"Exercise {task.id} · {task.title}: {_HEADLINES[report.status]}, {earned}"
    plain, markup = [f"{symbol} {title}"], ""
    if report.message:
        plain.append(f"  {report.message}")
        markup += f"<p>{display.rich(report.message)}</p>"
    seen: set[str] = set()
    items = ""
    for outcome in report.outcomes:
        mark, _ = display.KINDS["passed" if outcome.passed else "wrong"]
        message = "the same as above" if outcome.message in seen else outcome.message
        seen |= {outcome.message} - {""}
        lines = [outcome.name, *message.splitlines()]
        plain.append(f"  {mark} " + "\n      ".join(lines))
        items += f"<li>{mark} {'<br>'.join(display.rich(line) for line in lines)}</li>"
    if items:
        markup += f'<ul style="list-style:none;padding-left:.5em">{items}</ul>'
    if report.printed and report.status not in ("passed", "not attempted"):
        lines = [line[:120] for line in report.printed.strip().splitlines()[:5]]
        plain += ["  Your function printed:", *(f"    {line}" for line in lines)]
        markup += f"<p>Your function printed:<br>{'<br>'.join(html.escape(line) for line in lines)}</p>"
    if note:
        plain.append(f"  {note}")
        markup += f"<p>{display.rich(note)}</p>"
    if report.borrowed:
        text = f"borrowed: the lesson goes on with the reference for {task.id}; your points stay as they are."
        plain.append(f"{display.KINDS['borrowed'][0]} {text}")
        markup += display.box("borrowed", text)
    display.show(display.box(report.status, title, markup), "\n".join(plain))
