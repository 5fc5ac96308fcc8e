"""The course's checkout as the tests see it, and a tiny lesson to build, break and run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from course_utils.lessons import catalogue
from course_utils.lessons.placeholders import Context

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "solutions").glob("[0-9][0-9]_*.py"))
SLUGS = [path.stem for path in SOURCES]

TINY = '''\
# %% [markdown]
# # Tiny
#
# {{badges}}
#
# {{human_minutes}} minutes for you, {{machine_minutes}} for the machine, {{points}} points. Below 5$ or $x_i^2$.

# %% tags=["parameters"]
import os

PRESET = os.environ.get("COURSE_PRESET", "quick")

# %% tags=["setup"]
from course_utils import check, hint, points, start

course = start("00_start_here", preset=PRESET)

# %% [markdown]
# ### Exercise 00.1 · A mean
#
# {{card:00.1}}


# %% tags=["exercise"]
def mean(values):
    """The mean of some numbers."""
    if values:
        ### BEGIN SOLUTION
        total_of_values = sum(values)
        return total_of_values / len(values)
        ### END SOLUTION
    return 0


# %% tags=["check"]
mean = check("00.1", mean)
### BEGIN HIDDEN TESTS
assert mean([4, 4]) >= 0
### END HIDDEN TESTS
points("00.1")

# %% tags=["hint"]
hint("00.1")

# %% [markdown]
# ## After it

# %% [markdown] tags=["reflection"] points=1
# Why not the median?

# %% [markdown] tags=["answer"]
# The model answer of the reflection.

# %% tags=["answer"]
print("a demonstration for the solution")

# %% tags=["expected"]
print("seven < eight")

# %% tags=["instructor"]
print("for instructors only")
'''


@dataclass(frozen=True)
class Tiny:
    """A checkout with one tiny lesson in it."""

    path: Path
    context: Context


def tiny(root: Path, text: str = TINY, *, slug: str = "00_start_here", repository: str = "") -> Tiny:
    """Writes a tiny lesson to root/solutions. Its one exercise gives 2 points, its reflection 1."""
    path = root / "solutions" / f"{slug}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    listings = tuple(
        catalogue.Lesson(name, name, "Why?", available=True, minutes=5, points=3)
        for name in ("00_start_here", "01_forgetting", "02_rehearsal_kd_gtsrb")
    )
    return Tiny(path, Context(root, lookup, listings, repository, {"00_start_here": 3.2}))


def lookup(identifier: str) -> SimpleNamespace:
    """The one exercise of the tiny lesson."""
    if identifier != "00.1":
        raise ValueError(f"there is no exercise {identifier!r}; this lesson has 00.1")
    return SimpleNamespace(title="A mean", difficulty=2, minutes=5, points=2, hints=("one", "two", "three"))


def must_raise(stub: object, message: str) -> None:
    """Calls a stub with as many arguments as it takes; it has to raise NotImplementedError with this beginning."""
    import inspect

    function = stub if inspect.isfunction(stub) else _unsolved_method(stub)
    parameters = inspect.signature(function).parameters.values()
    positional = [None for parameter in parameters if parameter.kind == parameter.POSITIONAL_OR_KEYWORD]
    keywords = {parameter.name: None for parameter in parameters if parameter.kind == parameter.KEYWORD_ONLY}
    try:
        function(*positional, **keywords)
    except NotImplementedError as error:
        assert str(error).startswith(message), f"the stub says {error}, expected {message}"
        return
    raise AssertionError(f"{message} the stub does not raise NotImplementedError")


def _unsolved_method(stub: object):
    """The method of a class that holds its stub."""
    import inspect

    for _, method in inspect.getmembers(stub, inspect.isfunction):
        if "NotImplementedError" in inspect.getsource(method):
            return method
    raise AssertionError(f"{stub} has no method that raises NotImplementedError")


def try_extremes(names):
    """Called in a lesson's kernel at its end: draws every `explore` at the minimum, default and maximum of each control.

    Every combination: a callback that fails when two sliders stand at their ends is as broken as any other.
    """
    from itertools import product

    from matplotlib.figure import Figure

    from course_utils.widgets import Exploration

    found = [value for value in names.values() if isinstance(value, Exploration)]
    for exploration in found:
        for values in product(*(control.extremes for control in exploration.controls.values())):
            figure = exploration.callback(**dict(zip(exploration.controls, values, strict=True)))
            assert isinstance(figure, Figure), (values, figure)
    print(f"{len(found)} explorations drawn at their extremes")


def full_results(slug: str, lesson, data_title: str, **others: str):
    """Experiment -> Results of a lesson's recorded full run, which must be complete, up to date and on real data.

    Args:
        others: experiment -> title of its data, where it is another one.
    """
    from course_utils.lessons import experiment
    from course_utils.lessons.results import Results

    found = {}
    cure = f"run `course run {slug[:2]} --preset full`"
    for name, entry in lesson.EXPERIMENTS.items():
        recorded = experiment.recorded(slug, entry)
        assert recorded is not None, f"{name} is not recorded; {cure}"
        assert not recorded.stale, f"{name}: {recorded.stale} are stale; {cure}"
        assert set(recorded.values) == set(entry.configurations("full")), name
        assert all(sorted(seeds) == list(entry.seeds["full"]) for seeds in recorded.values.values()), name
        found[name] = Results(name, entry.title, "full", recorded.values)
        assert found[name].data_title == others.get(name, data_title)
    return found


def watch_fits(monkeypatch, learner_class) -> list[tuple[str, int]]:
    """A list that grows by (split, number of tasks) whenever a learner is fitted: what a choice has looked at."""
    seen: list[tuple[str, int]] = []
    fit = learner_class.fit

    def watched(learner, stream, *, evaluate="test", **options):
        seen.append((evaluate, len(stream)))
        return fit(learner, stream, evaluate=evaluate, **options)

    monkeypatch.setattr(learner_class, "fit", watched)
    return seen


class Answers:
    """Wrong and right answers to a lesson's exercises, filled by the decorators `wrong` and `right`.

    Attributes:
        wrong_ones: (exercise, answer, a fragment of its message that no other answer meets).
        right_ones: (exercise, answer).
    """

    def __init__(self):
        self.wrong_ones: list[tuple[str, object, str]] = []
        self.right_ones: list[tuple[str, object]] = []

    def wrong(self, identifier: str, fragment: str):
        def add(answer):
            self.wrong_ones.append((identifier, answer, fragment))
            return answer

        return add

    def right(self, identifier: str):
        def add(answer):
            self.right_ones.append((identifier, answer))
            return answer

        return add


def case_names(cases) -> list[str]:
    """A readable name for every `(exercise, answer, ...)`."""
    return [f"{case[0]}-{getattr(case[1], '__name__', 'answer')}-{number}" for number, case in enumerate(cases)]


def assert_full_points(identifier: str, answer) -> None:
    """A right answer passes and gets every point."""
    from course_utils.lessons import checking, exercise

    report = checking.examine(exercise.find(identifier), answer)
    assert (report.status, report.points) == ("passed", exercise.find(identifier).points), report.outcomes


def assert_its_own_message(identifier: str, answer, fragment: str, wrong) -> None:
    """A wrong answer is met by the message with this fragment, and by no fragment of the exercise's other mistakes.

    Args:
        wrong: all `(identifier, answer, fragment)` of the lesson.
    """
    from course_utils.lessons import checking, exercise

    task = exercise.find(identifier)
    report = checking.examine(task, answer)
    messages = [outcome.message for outcome in report.outcomes if not outcome.passed]
    assert report.status in ("wrong", "partly")
    assert report.points < task.points
    # The first message is the one that a student reads first.
    assert fragment in messages[0], messages
    others = {text for number, _, text in wrong if number == identifier} - {fragment}
    assert not [text for text in others if text in messages[0]], messages
