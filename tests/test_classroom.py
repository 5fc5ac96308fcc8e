"""The classroom: starting a lesson, checks, points, hints, and what a check leaves behind."""

from __future__ import annotations

import logging
import os
import random
import sys
import warnings

import nbclient
import nbformat
import numpy as np
import pytest
import torch

from course_utils import check, datasets, hint, points, start
from course_utils.lessons import catalogue, checking, exercise, sandbox
from course_utils.lessons.exercise import Criterion, Exercise, Wrong, close, diagnose
from course_utils.lessons.exercises.lesson_00 import mean_accuracy as reference


@pytest.fixture(autouse=True)
def fresh_classroom():
    checking.forget()
    yield
    checking.forget()


def right(correct, total):
    return sum(correct) / sum(total)


def partly_right(correct, total):
    return sum(a / b for a, b in zip(correct, total, strict=True)) / len(total)


def blank(correct, total):
    raise NotImplementedError("Exercise 00.1: Accuracy over all tasks")


# ---- start -------------------------------------------------------------------------------------------------------


def test_start_prints_one_line_and_seeds_everything(capsys):
    course = start("00_start_here", preset="smoke")
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    for word in ("00 Start here", "smoke", course.device, torch.__version__, np.__version__):
        assert word in line
    drawn = random.random(), np.random.random(), torch.rand(1).item()
    start("00_start_here", preset="smoke")
    assert drawn == (random.random(), np.random.random(), torch.rand(1).item())
    assert course.settings.epochs == 1  # the lesson's own setting for this preset


def test_start_prints_no_path(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    start("00_start_here")
    assert str(tmp_path) not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("slug", "preset", "message"),
    [
        ("00_start_here", "quik", "preset='quik' does not exist; use one of smoke, quick, full"),
        ("00_start", "quick", "there is no lesson '00_start'; the lessons are 00_start_here, 01_forgetting"),
    ],
)
def test_start_names_the_valid_ones(slug, preset, message):
    with pytest.raises(ValueError, match=message):
        start(slug, preset=preset)


def test_catalogue_has_ten_lessons_in_order_and_its_points_are_the_exercises():
    numbers = [lesson.number for lesson in catalogue.LESSONS]
    assert numbers == [f"{number:02d}" for number in range(10)]
    assert catalogue.find("00").points == sum(task.points for task in exercise.of_lesson("00").values())
    assert exercise.of_lesson("09") == {}  # planned: no exercises yet, and no error


def toy_data(standin: bool):
    x = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
    made = datasets.from_arrays(train=(x, np.arange(40) % 4), test=(x, np.arange(40) % 4), name="toy")
    return type(made)("gtsrb", made.train, made.validation, made.test, made.classes, "standin" if standin else "local")


def test_data_comes_under_a_banner_that_says_what_it_is(monkeypatch, capsys):
    asked = {}

    def load(name, source, allow_standin):
        asked.update(name=name, source=source, allow_standin=allow_standin)
        warnings.warn("the publisher did not answer", datasets.StandInWarning, stacklevel=1)
        return toy_data(standin=True)

    monkeypatch.setattr(datasets, "load", load)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the warning became the banner
        data = start("00_start_here").data("gtsrb")
    text = capsys.readouterr().out
    assert "Not the real data" in text and "the publisher did not answer" in text and data.title in text
    assert asked == {"name": "gtsrb", "source": "auto", "allow_standin": True}
    start("00_start_here", preset="full").data("gtsrb")
    assert asked["allow_standin"] is False

    monkeypatch.setattr(datasets, "load", lambda *args, **kwargs: toy_data(standin=False))
    capsys.readouterr()
    start("00_start_here").data("gtsrb")
    text = capsys.readouterr().out
    assert "Not the real data" not in text and "(local)" in text and "40 test images" in text


# ---- check and points --------------------------------------------------------------------------------------------


def test_a_right_answer_comes_back_as_it_is(capsys):
    assert check("00.1", right) is right
    assert points("00.1") == 2 and isinstance(points("00.1"), int)
    text = capsys.readouterr().out
    assert "passed, 2 of 2 points" in text and "borrowed" not in text


def test_a_partly_right_answer_earns_part_and_borrows(capsys):
    assert check("00.1", partly_right) is reference
    assert points("00.1") == 0.5
    text = capsys.readouterr().out
    assert "partly right" in text and "unweighted mean" in text and "borrowed" in text


def test_a_blank_is_not_attempted_and_borrows(capsys):
    assert check("00.1", blank) is reference
    assert points("00.1") == 0
    text = capsys.readouterr().out
    assert "not attempted, 0 of 2" in text and "borrowed" in text and "NotImplementedError" not in text


def test_points_are_zero_before_the_first_check_and_follow_the_last():
    assert points("00.1") == 0
    check("00.1", right)
    check("00.1", partly_right)
    assert points("00.1") == 0.5


def test_an_exception_becomes_a_report_with_type_message_and_line(capsys):
    def dividing(correct, total):
        nothing = 0
        return sum(correct) / nothing  # the line to report

    assert check("00.1", dividing) is reference
    text = capsys.readouterr().out
    line = dividing.__code__.co_firstlineno + 2
    assert f"in line {line}" in text and "return sum(correct) / nothing" in text
    assert "ZeroDivisionError: division by zero" in text and "Traceback" not in text


@pytest.mark.parametrize(
    "error", [SystemExit(1), RecursionError("too deep"), AssertionError(), torch.cuda.OutOfMemoryError("no memory")]
)
def test_whatever_is_raised_the_lesson_goes_on(error, capsys):
    def raising(correct, total):
        raise error

    assert check("00.1", raising) is reference
    assert type(error).__name__ in capsys.readouterr().out


def test_an_interrupt_still_interrupts():
    def interrupted(correct, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check("00.1", interrupted)


def test_a_result_that_is_no_number_is_named(capsys):
    check("00.1", lambda correct, total: "83 %")
    assert "expected numbers, your function returned '83 %' (str)" in capsys.readouterr().out


@pytest.mark.parametrize("given", [0.83, None])
def test_something_that_is_not_a_function_is_named(given, capsys):
    assert check("00.1", given) is reference
    assert f"got {given!r}" in capsys.readouterr().out
    assert points("00.1") == 0


def test_calling_the_packages_own_solution_is_refused(capsys):
    def directly(correct, total):
        from course_utils.lessons.exercises.lesson_00 import mean_accuracy

        return mean_accuracy(correct, total)

    def hidden_behind_a_try(correct, total):
        helper = [reference]
        try:
            return helper[0](correct, total)
        except Exception:
            return 0

    for cheat in (directly, hidden_behind_a_try, reference):
        checking.forget()
        assert check("00.1", cheat) is reference
        assert points("00.1") == 0
        assert "calls the package's own `mean_accuracy`" in capsys.readouterr().out


def test_forbidden_covers_functions_by_name_and_methods_of_classes():
    class Package:
        def total(self, numbers):
            return sum(numbers)

    def criterion(answer):
        close(answer([1, 2]), 3, "add them")

    def with_statistics(numbers):
        import statistics

        return statistics.mean(numbers) * len(numbers)

    task = Exercise(
        "00.9", "Sum", 1, 1, 1, Package, [Criterion("sum", criterion)], ("a", "b", "c"), forbidden=["statistics:mean"]
    )
    assert checking.examine(task, lambda numbers: Package().total(numbers)).status == "refused"
    assert checking.examine(task, with_statistics).status == "refused"
    assert checking.examine(task, lambda numbers: sum(numbers)).status == "passed"


def changing(*criteria, reference=sum):
    """An exercise on a tensor; each criterion is `(answer, tensor) -> None`."""
    given = torch.tensor([3.0, 4.0])
    tried = [
        Criterion(f"{number}", lambda answer, try_it=try_it: try_it(answer, given))
        for number, try_it in enumerate(criteria)
    ]
    return Exercise("00.9", "Change", 1, 1, 4, reference, tried, ("a", "b", "c"))


def halve_in_place(x):
    x /= 2
    return x


def test_right_numbers_that_cost_the_caller_his_own_earn_no_full_points():
    def fair(answer, given):
        close(answer(given.clone()), given / 2, "halve it")

    report = checking.examine(changing(fair, fair), halve_in_place)
    assert (report.status, report.points) == ("partly", 2)
    assert report.outcomes[0].passed and "changes its argument `x` in place" in report.outcomes[1].message
    assert checking.examine(changing(fair, fair), lambda x: x / 2).status == "passed"


def test_a_change_in_place_explains_what_it_has_spoilt():
    def spoilt(answer, given):  # the argument is used again after the call
        before = given.clone()
        try:
            answer(given)
            diagnose(answer(given), {"this is a quarter": before / 4}, expected=before / 2)
            close(answer(given), before / 2, "halve it")
        finally:
            given.copy_(before)

    def raising(answer, given):
        answer(given.clone())
        raise ValueError("for authors")

    def unknown(answer, given):
        close(answer(given.clone()), given / 3, "a third")

    report = checking.examine(changing(spoilt, raising, unknown), halve_in_place)
    first, second, third = (outcome.message for outcome in report.outcomes)
    assert third == checking._in_place("x")
    assert first.startswith("this is a quarter") and first.endswith(checking._in_place("x"))
    assert second == checking._in_place("x")
    assert "for authors" in checking.examine(changing(raising), lambda x: x / 2).outcomes[0].message


@pytest.mark.parametrize(
    ("change", "name", "arguments"),
    [
        (lambda x: x.append(1), "x", ([1, 2],)),
        (lambda x: x.update(b=1), "x", ({"a": 1},)),
        (lambda x: x.update(a=2), "x", ({"a": 1},)),
        (lambda x: x.add(2), "x", ({1},)),
        (lambda x, y: np.copyto(y, x), "y", (np.ones(2), np.zeros(2))),
        (lambda x, *more: more[0].zero_(), "more", (1, torch.ones(2))),
        (lambda x: x[0].zero_(), "x", ([torch.ones(2)],)),
        (lambda x: x.numpy().fill(0), "x", (torch.ones(2),)),
    ],
)
def test_changes_of_tensors_arrays_and_containers_are_seen(change, name, arguments):
    changed: list[str] = []
    sandbox.watched(change, set(), [], changed)(*arguments)
    assert changed == [name]


def test_what_stays_the_same_is_not_called_changed():
    changed: list[str] = []
    look = sandbox.watched(lambda *values, **more: [*values, *more], set(), [], changed)
    nan, weights = torch.tensor([float("nan")]), torch.ones(2, requires_grad=True)
    look(
        nan,
        weights,
        weights.to(torch.bfloat16),
        [nan],
        {"a": nan},
        {1},
        np.array(["text"], dtype=object),
        "text",
        model=torch.nn.Linear(2, 1),
    )
    assert changed == []


def test_the_profiler_of_others_is_put_back():
    def mine(frame, event, argument):
        return None

    sys.setprofile(mine)
    try:
        check("00.1", right)
        check("00.1", blank)
        found = sys.getprofile()
    finally:
        sys.setprofile(None)
    assert found is mine


def test_running_the_check_cell_twice_keeps_the_report(capsys):
    lent = check("00.1", partly_right)
    capsys.readouterr()
    assert check("00.1", lent) is reference
    assert points("00.1") == 0.5
    assert "Run the cell with your own function again" in capsys.readouterr().out


def test_a_check_writes_nothing_to_standard_error(capfd):
    logger = logging.getLogger("student")
    logger.addHandler(logging.StreamHandler(sys.stderr))

    def noisy(correct, total):
        print("to stderr", file=sys.stderr)
        os.write(2, b"from C++\n")
        warnings.warn("a warning", stacklevel=1)
        logger.error("a log message")
        print("to stdout")
        return partly_right(correct, total)

    check("00.1", noisy)
    logger.error("after the check")
    out, err = capfd.readouterr()
    assert err == "after the check\n"  # silent while checking, and not for longer
    assert "Your function printed:\n    to stdout" in out


def test_a_check_restores_the_random_states_and_is_itself_seeded():
    seen = []

    def random_answer(correct, total):
        seen.append((random.random(), np.random.random(), torch.rand(1).item()))
        return right(correct, total)

    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    expected = random.Random(7).random()
    first = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    check("00.1", random_answer)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert first == after and random.random() == expected
    once = list(seen)
    seen.clear()
    check("00.1", random_answer)
    assert seen == once


def test_unknown_exercises_name_the_known_ones():
    for call in (lambda: check("00.7", right), lambda: points("00.7"), lambda: hint("00.7")):
        with pytest.raises(ValueError, match=r"no exercise '00.7'; this lesson has 00.1"):
            call()


# ---- hints and score ---------------------------------------------------------------------------------------------


def test_hints_come_one_by_one_stay_at_the_last_and_cost_nothing(capsys):
    hints = exercise.find("00.1").hints
    check("00.1", right)
    capsys.readouterr()
    for number in (0, 1, 2, 2):
        hint("00.1")
        text = capsys.readouterr().out
        assert f"Hint {number + 1} of 3" in text and hints[number].replace("`", "") in text.replace("`", "")
    hint("00.1", 1)
    assert "Hint 1 of 3" in capsys.readouterr().out
    assert points("00.1") == 2
    with pytest.raises(ValueError, match="steps are 1 to 3"):
        hint("00.1", 4)


def test_score_shows_status_points_and_what_is_borrowed(capsys):
    course = start("00_start_here", preset="smoke")
    stages = [
        (None, "not attempted  0 of 2  the reference"),
        (partly_right, "partly  0.5 of 2  the reference"),
        (right, "passed  2 of 2  -"),
    ]
    for answer, words in stages:
        if answer:
            check("00.1", answer)
        capsys.readouterr()
        course.score()
        lines = capsys.readouterr().out.splitlines()
        assert " ".join(lines[1].split()).endswith(" ".join(words.split()))
        assert lines[2].startswith("total")


def test_show_prints_the_source(capsys):
    course = start("00_start_here", preset="smoke")
    capsys.readouterr()
    course.show(reference)
    assert capsys.readouterr().out.startswith("def mean_accuracy(")


# ---- writing exercises -------------------------------------------------------------------------------------------


def test_diagnose_names_the_mistake_and_lets_the_right_answer_through():
    mistakes = {"you summed": 3.0, "you took the largest": 2.0}
    with pytest.raises(Wrong, match="you took the largest"):
        diagnose(torch.tensor(2.0), mistakes, expected=1.5)
    diagnose(1.5, mistakes, expected=1.5)
    diagnose(9.9, mistakes, expected=1.5)  # unknown mistakes are for `close`
    diagnose([2.0, 2.0], mistakes)  # another shape is another mistake


def test_an_input_that_cannot_show_a_mistake_is_the_authors_error():
    with pytest.raises(ValueError, match="cannot show the mistake 'you summed'"):
        diagnose(1.0, {"you summed": 1.5}, expected=1.5)


def test_close_tells_missing_returns_shapes_and_values_apart():
    close(np.array([1.0, np.nan]), [1.0, np.nan], "equal")
    for actual, message in (
        (None, "is there a `return`"),
        ([1.0], r"shape \(1,\), expected \(2,\)"),
        ([1.0, 3.0], "expected"),
    ):
        with pytest.raises(Wrong, match=message):
            close(actual, [1.0, 2.0], "wrong")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "1"}, "form '02.1'"),
        ({"difficulty": 6}, "1 to 5"),
        ({"hints": ("one",)}, "exactly three"),
        ({"points": 0}, "positive"),
    ],
)
def test_an_incomplete_exercise_is_refused(change, message):
    facts = dict(
        id="00.9", title="t", difficulty=1, minutes=1, points=1, reference=right,
        criteria=[Criterion("c", lambda answer: None)], hints=("a", "b", "c"),
    )  # fmt: skip
    Exercise(**facts)
    with pytest.raises(ValueError, match=message):
        Exercise(**{**facts, **change})


# ---- in a real kernel --------------------------------------------------------------------------------------------


def test_in_a_kernel_reports_are_html_nothing_goes_to_stderr_and_controls_redraw_the_figure(monkeypatch):
    for name in ("CI", "COURSE_STATIC"):
        monkeypatch.delenv(name, raising=False)
    cells = [
        "import os, sys\nfrom course_utils import check, points, plots, widgets\n"
        "def wrong(correct, total):\n    os.write(2, b'noise')\n    return sum(correct) / [0][0]\n"
        "wrong = check('00.1', wrong)\npoints('00.1')",
        "def draw(memory):\n    if memory > 200: raise ValueError('too large')\n"
        "    return plots.training_time({f'memory {memory}': [memory]}, 'Digits')\n"
        "shown = widgets.explore(draw, alt='Seconds.', memory=widgets.choice([50, 200, 1000]))",
        "shown.widgets['memory'].value = 200\nshown.values['memory']",
        "shown.widgets['memory'].value = 1000",
        "os.environ['COURSE_STATIC'] = '1'\n"
        "still = widgets.explore(draw, alt='Seconds.', memory=widgets.choice([50, 200]))",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = nbclient.NotebookClient(notebook, kernel_name="python3", timeout=120)
    with client.setup_kernel():
        for index in range(2):
            client.execute_cell(notebook.cells[index], index)
        first = notebook.cells[1].outputs[0]["data"]["image/png"]
        client.execute_cell(notebook.cells[2], 2)
        second = notebook.cells[1].outputs[0]["data"]["image/png"]
        client.execute_cell(notebook.cells[3], 3)
        client.execute_cell(notebook.cells[4], 4)
    outputs = [cell.outputs for cell in notebook.cells]
    assert not [out for cell in outputs for out in cell if out.output_type in ("stream", "error")]
    report, value = outputs[0]
    assert "ZeroDivisionError" in report["data"]["text/html"] and "in line 5" in report["data"]["text/plain"]
    assert value["data"]["text/plain"] == "0"
    assert outputs[1][1]["data"]["application/vnd.jupyter.widget-view+json"]
    assert first != second and outputs[2][0]["data"]["text/plain"] == "200"
    # a callback that fails says so where the figure stood
    assert "cannot be drawn: ValueError: too large" in outputs[1][0]["data"]["text/plain"]
    kinds = [set(out["data"]) for out in outputs[4]]
    assert kinds == [{"image/png", "text/plain"}, {"text/html", "text/plain"}]
    assert outputs[4][0]["metadata"]["image/png"]["alt"] == "Seconds."
