"""Lesson 01, exercises 01.1 to 01.4: the joint minimum of two tasks, and the metrics of the accuracy matrix.

The other four stand in `lesson_01_scoring.py`, `lesson_01_choice.py` and `lesson_01_data.py`; `EXERCISES` has all eight.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from course_utils.lessons.exercise import Changed, Criterion, Exercise, Wrong, close, diagnose
from course_utils.lessons.exercises import lesson_01_choice, lesson_01_data, lesson_01_scoring

Answer = Callable[..., float]
NAN = np.nan

# ---- 01.1 the joint minimum --------------------------------------------------------------------------------------

_LAST = (
    "This is the minimum of the last task alone: where fine-tuning ends up. "
    "The joint minimum is a compromise between all tasks."
)
_NOT_DIVIDED = "You add up curvature times centre, and never divide by the sum of the curvatures."
_BY_TASKS = "You divide by the number of tasks. The weights are the curvatures, so divide by the sum of the curvatures."
_PLAIN = (
    "This is the plain mean of the centres. A steep task loses more when the weight moves away from its centre, "
    "so it must pull harder: weight every centre by its curvature."
)


def _equal_pull(answer: Answer) -> None:
    actual = answer([-1.0, 3.0], [2.0, 2.0])
    mistakes = {
        _LAST: 3.0,
        "This is the minimum of the first task alone. The joint minimum is a compromise between all tasks.": -1.0,
        _NOT_DIVIDED: 4.0,
        _BY_TASKS: 2.0,
    }
    diagnose(actual, mistakes, expected=1.0)
    close(actual, 1.0, "Two tasks of the same curvature with centres at -1 and 3 meet half way, at 1.")


def _steep_pulls(answer: Answer) -> None:
    actual = answer([1.0, 4.0], [3.0, 1.0])
    mistakes = {
        _PLAIN: 2.5,
        "Here the flat task pulls harder than the steep one: you divide by the curvature. "
        "Set the derivative of the sum to zero and see where each c ends up.": (1 / 3 + 4) / (1 / 3 + 1),
        _BY_TASKS: 3.5,
        _NOT_DIVIDED: 7.0,
        "You weight by the squared curvature. The derivative of c/2 (w - a)^2 is c (w - a): c appears once.": 1.3,
        _LAST: 4.0,
    }
    diagnose(actual, mistakes, expected=1.75)
    close(actual, 1.75, "Centres 1 and 4 with curvatures 3 and 1: 3 (w - 1) + 1 (w - 4) = 0 at w = 1.75.")


def _any_number(answer: Answer) -> None:
    centers, curvatures = np.array([-2.0, 0.5, 4.0]), np.array([1.0, 4.0, 0.5])
    actual = answer(centers, curvatures)
    if centers.tolist() != [-2.0, 0.5, 4.0] or curvatures.tolist() != [1.0, 4.0, 0.5]:
        raise Wrong("Your function changes the arrays it is given. Compute from them without writing into them.")
    first_two = "Only the first two tasks count in your answer. Sum over all of them, however many there are."
    diagnose(actual, {first_two: 0.0, _PLAIN: 2.5 / 3}, expected=2 / 5.5)
    close(actual, 2 / 5.5, "Three tasks, as arrays: the same formula, summed over all tasks.")


# ---- 01.2 to 01.4: metrics ---------------------------------------------------------------------------------------

# Lower triangle only, as class- and task-incremental streams measure it. Task 1 recovers a little at the end, and task 2
# is at its best only after task 3: then forgetting is not minus BWT.
LOWER = np.array(
    [[0.90, NAN, NAN, NAN], [0.60, 0.80, NAN, NAN], [0.30, 0.86, 0.96, NAN], [0.35, 0.50, 0.70, 0.99]],
)
# Every entry measured, as in a domain-incremental stream; task 3 is never better than before it was learned.
FULL = np.array([[0.95, 0.48, 0.88], [0.70, 0.92, 0.55], [0.65, 0.80, 0.84]])

_UNTOUCHED = "Your function writes into the matrix it is given. Read from it, or copy it first: `R = R.copy()`."
_ALL_NAN = (
    "Your result is NaN: tasks that were not measured yet (NaN above the diagonal) are in your mean. "
    "Take only the entries that the formula names."
)


_NOT_LAST = "This is the mean over the tasks except the last. ACC counts every task, the last one too."


def _kept(answer: Answer, matrix: np.ndarray) -> object:
    given = matrix.copy()
    actual = answer(given)
    if not np.array_equal(given, matrix, equal_nan=True):
        raise Changed(_UNTOUCHED)
    return actual


def _acc_lower(answer: Answer) -> None:
    actual = _kept(answer, LOWER)
    diagonal, rows = np.diag(LOWER), [LOWER[i, : i + 1].mean() for i in range(4)]
    mistakes = {
        "This is the mean of the diagonal: every task just after it was learned. That hides all forgetting. "
        "ACC looks at all tasks after the last one.": diagonal.mean(),
        "This averages every measured entry, old rows too. ACC is about the end of the stream: one row.": np.nanmean(
            LOWER
        ),
        "This is the last column: the last task alone. Rows are 'after learning', columns are 'tested on'; "
        "you need the last row.": 0.99,
        "This is the first column: task 1 as time goes on. You need the last row.": LOWER[:, 0].mean(),
        "This is the average incremental accuracy: the mean over time of the mean accuracy. ACC is its last term.": np.mean(
            rows
        ),
        _NOT_LAST: LOWER[-1, :-1].mean(),
        "This is a percentage. The course writes accuracy as a share between 0 and 1.": 100 * LOWER[-1].mean(),
        _ALL_NAN: NAN,
    }
    diagnose(actual, mistakes, expected=LOWER[-1].mean())
    close(actual, LOWER[-1].mean(), "Mean of the last row.")


def _acc_full(answer: Answer) -> None:
    actual = _kept(answer, FULL)
    mistakes = {
        "This averages the whole matrix, with tasks that were not even trained yet. "
        "ACC is the mean of the last row only.": FULL.mean(),
        _NOT_LAST: FULL[-1, :-1].mean(),
        "This is the last column, which includes scores from before the last task was learned. "
        "You need the last row.": FULL[:, -1].mean(),
    }
    diagnose(actual, mistakes, expected=FULL[-1].mean())
    close(actual, FULL[-1].mean(), "A matrix with every entry measured: still the mean of the last row.")
    close(answer(np.array([[0.8]])), 0.8, "With a single task, ACC is its accuracy.")


_T_NOT_T_MINUS_1 = (
    "You divide by the number of tasks T. The last task had no time to be forgotten, so there are only T - 1 terms; "
    "divide by T - 1. (The code published with the GEM paper divides by T as well.)"
)


def _bwt_lower(answer: Answer) -> None:
    actual = _kept(answer, LOWER)
    change = LOWER[-1] - np.diag(LOWER)  # (tasks,), the last is 0
    best = np.array([np.nanmax(LOWER[:3, j]) for j in range(3)])
    pairs = [LOWER[i, j] - LOWER[j, j] for i in range(4) for j in range(i)]
    mistakes = {
        "The sign is turned: this is 'just learned' minus 'at the end'. Backward transfer is 'at the end' minus "
        "'just learned', so forgetting makes it negative.": -change[:3].mean(),
        _T_NOT_T_MINUS_1: change.mean(),
        "This subtracts the best accuracy that a task ever had: that is (minus) forgetting, the next exercise. "
        "BWT compares with the accuracy just after the task was learned, R[j, j].": (LOWER[-1, :3] - best).mean(),
        "This averages over all pairs of rows and tasks (the definition of Diaz-Rodriguez et al. 2018). "
        "The one used here looks at the last row only.": np.mean(pairs),
        "You forgot to divide: this is the sum over the old tasks, not their mean.": change.sum(),
        "This is how task 1 changed. Average over all tasks except the last.": change[0],
        "This compares neighbouring rows, one task later. BWT compares the last row with the diagonal.": np.mean(
            [LOWER[j + 1, j] - LOWER[j, j] for j in range(3)]
        ),
        _ALL_NAN: NAN,
    }
    diagnose(actual, mistakes, expected=change[:3].mean())
    close(actual, change[:3].mean(), "Mean over the tasks before the last of R[T-1, j] - R[j, j].")


def _bwt_full(answer: Answer) -> None:
    actual = _kept(answer, FULL)
    right = (FULL[-1, :2] - np.diag(FULL)[:2]).mean()
    mistakes = {
        "This compares with the first row: the accuracy after task 1, when most tasks were unknown. "
        "Compare with the diagonal, R[j, j].": (FULL[-1, :2] - FULL[0, :2]).mean(),
        _T_NOT_T_MINUS_1: right * 2 / 3,
    }
    diagnose(actual, mistakes, expected=right)
    close(actual, right, "Only the diagonal and the last row count, whatever else was measured.")


def _bwt_positive(answer: Answer) -> None:
    gains = np.array([[0.5, NAN], [0.7, 0.9]])
    never = "Your result cannot be positive, but backward transfer can: here learning task 2 helped task 1."
    actual = answer(gains)
    diagnose(
        actual,
        {never: 0.0, "The sign is turned: here learning task 2 helped task 1, so BWT is +0.2.": -0.2},
        expected=0.2,
    )
    close(actual, 0.2, "Task 1 rose from 0.5 to 0.7 while task 2 was learned.")


def _best(matrix: np.ndarray, j: int) -> float:
    return matrix[j : len(matrix) - 1, j].max()


def _forgetting_lower(answer: Answer) -> None:
    actual = _kept(answer, LOWER)
    drops = np.array([_best(LOWER, j) - LOWER[-1, j] for j in range(3)])
    right = drops.mean()
    bwt = (LOWER[-1] - np.diag(LOWER))[:3].mean()
    mistakes = {
        "This is minus BWT: it compares with the accuracy just after the task was learned. Forgetting compares with the "
        "best accuracy that the task had up to then: task 2 was better after task 3 than after task 2.": -bwt,
        "You divide by the number of tasks T. The last task cannot be forgotten yet: divide by T - 1.": drops.sum() / 4,
        "The sign is turned: forgetting is what was lost, 'best' minus 'at the end', and positive when accuracy fell.": -right,
        "You forgot to divide: this is the sum over the old tasks, not their mean.": drops.sum(),
        "This takes the mean of the earlier scores instead of the best of them.": np.mean(
            [LOWER[j:3, j].mean() - LOWER[-1, j] for j in range(3)]
        ),
        "Your result is NaN: `max` over a column that holds NaN is NaN. Start at row j, where task j was first "
        "measured.": NAN,
    }
    diagnose(actual, mistakes, expected=right)
    close(actual, right, "Mean over the tasks before the last of max(R[j..T-2, j]) - R[T-1, j].")


def _forgetting_full(answer: Answer) -> None:
    matrix = np.array([[0.95, 0.97, 0.90], [0.70, 0.92, 0.55], [0.65, 0.80, 0.84]])
    actual = _kept(answer, matrix)
    right = np.mean([0.95 - 0.65, 0.92 - 0.80])
    mistakes = {
        "Task 2 scored 0.97 before it was learned, and you take that as its best. What was never learned cannot be "
        "forgotten: start at row j.": np.mean([0.95 - 0.65, 0.97 - 0.80]),
    }
    diagnose(actual, mistakes, expected=right)
    close(actual, right, "Scores from before a task was learned do not count.")


def _forgetting_negative(answer: Answer) -> None:
    matrix = np.array([[0.6, NAN, NAN], [0.5, 0.9, NAN], [0.8, 0.7, 0.9]])  # task 1 is at its best at the end
    actual = answer(matrix)
    mistakes = {
        "The last row is among the rows that you take the best of, so a task that got better counts as 'nothing "
        "forgotten' instead of as a gain. Look for the best before the last task: rows j to T - 2.": 0.1,
    }
    diagnose(actual, mistakes, expected=0.0)
    close(actual, 0.0, "Task 1 gains 0.2 at the end and task 2 loses 0.2: together 0.")


EXERCISES = [
    Exercise(
        id="01.1",
        title="The joint minimum",
        difficulty=1,
        minutes=8,
        points=1,
        reference="course_utils.landscape:joint_minimum",
        criteria=[
            Criterion("equal curvatures: half way", _equal_pull),
            Criterion("a steeper task pulls harder", _steep_pulls, share=2),
            Criterion("any number of tasks, as lists or arrays", _any_number),
        ],
        hints=(
            "At the minimum of the sum, the derivative of the sum is zero. What is the derivative of c/2 (w - a)^2?",
            "The derivatives are c (w - a). Set their sum over the tasks to zero, and bring w to one side.",
            "w times the sum of the c equals the sum of the c times a. Arrays help: "
            "`np.asarray(curvatures) * np.asarray(centers)`.",
        ),
    ),
    Exercise(
        id="01.2",
        title="Average accuracy",
        difficulty=1,
        minutes=5,
        points=1,
        reference="course_utils.metrics:average_accuracy",
        forbidden=("course_utils.metrics:summary",),
        criteria=[
            Criterion("a lower triangle: the tasks after the last one", _acc_lower, share=2),
            Criterion("a full matrix, and a single task", _acc_full),
        ],
        hints=(
            "Which row of R holds the scores at the end of the stream?",
            "`R[-1]` is the last row: after the last task, on every task. All of it is measured.",
            "The mean of an array is `array.mean()`.",
        ),
    ),
    Exercise(
        id="01.3",
        title="Backward transfer",
        difficulty=2,
        minutes=8,
        points=2,
        reference="course_utils.metrics:backward_transfer",
        forbidden=("course_utils.metrics:summary", "course_utils.metrics:forgetting"),
        criteria=[
            Criterion("at the end minus just learned, over the old tasks", _bwt_lower, share=2),
            Criterion("only the diagonal and the last row count", _bwt_full),
            Criterion("positive when later tasks help", _bwt_positive),
        ],
        hints=(
            "Two numbers per task: just after it was learned, R[j, j], and at the end, R[T-1, j]. "
            "For the last task they are the same, so leave it out.",
            "`np.diag(R)` is 'just learned' for all tasks, `R[-1]` is 'at the end'. Both have T entries; you want T - 1.",
            "`(R[-1] - np.diag(R))` holds all the differences, in the right direction. "
            "Cut off the last with `[:-1]`, then take the mean.",
        ),
    ),
    Exercise(
        id="01.4",
        title="Forgetting",
        difficulty=3,
        minutes=12,
        points=2,
        reference="course_utils.metrics:forgetting",
        forbidden=("course_utils.metrics:summary", "course_utils.metrics:backward_transfer"),
        criteria=[
            Criterion("the best so far minus the end, over the old tasks", _forgetting_lower, share=2),
            Criterion("scores from before a task was learned do not count", _forgetting_full),
            Criterion("a task that ends at its best counts as a gain", _forgetting_negative),
        ],
        hints=(
            "For task j, look down column j: from the row where it was learned to the row before the last. "
            "What was its best score there?",
            "Those rows are `R[j : T - 1, j]`, with T = len(R). Loop over the tasks before the last.",
            "Collect `R[j : T - 1, j].max() - R[T - 1, j]` for every j in range(T - 1), and return the mean.",
        ),
    ),
    *lesson_01_scoring.EXERCISES,
    *lesson_01_choice.EXERCISES,
    *lesson_01_data.EXERCISES,
]
