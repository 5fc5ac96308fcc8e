"""Lesson 01, exercise 01.6: choosing a hyperparameter without the future and without the test set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from course_utils.lessons.exercise import Criterion, Exercise, Wrong, to_array

Candidates = Mapping[float, Mapping[str, np.ndarray]]


def choose(candidates: Candidates, seen: int) -> float:
    """The learning rate with the best validation accuracy on the tasks seen so far, after the last of them.

    Args:
        candidates: learning rate -> "validation": `(T, T)` accuracy matrix on validation images, and
            "test": `(T,)` accuracy on every task's test images at the end of the stream.
        seen: how many tasks have been seen; the score is the mean of the first `seen` entries of row `seen - 1`.

    Built in lesson 01, exercise 01.6.
    """
    return max(candidates, key=lambda lr: candidates[lr]["validation"][seen - 1, :seen].mean())


# Nine candidates, each the best by exactly one criterion: three tasks, two of them seen. An entry is a row of
# (V[0, 0], V[1, 0], V[1, 1], V[2, 0], V[2, 1], V[2, 2], mean on the test set).
# The right one stands inside: when all scores are NaN, `max` gives back the first.
RIGHT = 0.004
_ROWS = {
    0.001: (0.99, 0.50, 0.97, 0.40, 0.50, 0.99, 0.60),  # best diagonal: learns each task best, and forgets
    0.002: (0.90, 0.70, 0.80, 0.62, 0.62, 0.90, 0.95),  # best on the test set
    0.003: (0.90, 0.72, 0.80, 0.85, 0.85, 0.90, 0.72),  # best validation at the end: the future
    0.004: (0.90, 0.80, 0.84, 0.60, 0.60, 0.90, 0.70),  # right: the highest mean of row 2, columns 1 and 2
    0.005: (0.80, 0.40, 0.98, 0.40, 0.40, 0.60, 0.50),  # best on the latest task seen
    0.006: (0.30, 0.30, 0.40, 0.30, 0.30, 0.30, 0.30),  # worst
    0.007: (0.80, 0.815, 0.80, 0.50, 0.50, 0.50, 0.55),  # best on the first task alone
    0.008: (0.995, 0.40, 0.90, 0.40, 0.40, 0.40, 0.40),  # best right after the first task
    0.009: (0.99, 0.74, 0.86, 0.60, 0.60, 0.70, 0.65),  # best over all rows so far: counts what was since forgotten
}


def _candidates(future: bool = True) -> dict[float, dict[str, np.ndarray]]:
    found = {}
    for lr, (a, b, c, d, e, f, test) in _ROWS.items():
        last = [d, e, f] if future else [np.nan] * 3
        matrix = np.array([[a, np.nan, np.nan], [b, c, np.nan], last])
        found[lr] = {"validation": matrix, "test": np.full(3, test if future else np.nan)}
    return found


_MISTAKES = {
    0.001: "You chose by the diagonal: how well every task is learned, without what is forgotten afterwards. "
    "Take row `seen - 1`, which holds all tasks seen, after the latest of them.",
    0.002: "You chose by the test set. Whatever is chosen on test images can no longer be judged on them: "
    "use candidates[lr]['validation'].",
    0.003: "You chose by the last row: validation images, but of tasks that have not come yet. "
    "When you choose, only `seen` tasks exist: row `seen - 1`, columns up to `seen`.",
    0.005: "You look at the latest task alone. Then the highest learning rate often wins, and forgets the others: "
    "average over all tasks seen.",
    0.006: "You chose the lowest accuracy. Higher is better here; these are not losses.",
    0.007: "You look at the first task alone; average over all tasks seen.",
    0.008: "You look at the row after the first task. The tasks seen are in the row `seen - 1`.",
    0.009: "You average over older rows too, so accuracy that has been forgotten since still counts. "
    "Take row `seen - 1` alone: `[seen - 1, :seen]`.",
}  # fmt: skip


def _is_lr(answer: Any, candidates: Candidates) -> float:
    chosen = to_array(answer)
    if chosen.ndim:
        raise Wrong(f"Your function returns {chosen.size} numbers. Return the one learning rate that you choose.")
    lr = float(chosen)
    if lr in candidates:
        return lr
    if any(np.isclose(lr, record["validation"][1, :2].mean()) for record in candidates.values()):
        raise Wrong(
            "You return the best accuracy. Return the learning rate that reached it: the key of the dictionary."
        )
    if lr in range(len(candidates)):
        raise Wrong(
            f"You return {lr:g}: a place in the list. Return the learning rate itself, the key of the dictionary."
        )
    raise Wrong(f"Your function returns {lr:g}, which is none of the candidates {sorted(candidates)}.")


def _honest(answer: Callable[..., Any]) -> None:
    candidates = _candidates()
    lr = _is_lr(answer(candidates, 2), candidates)
    if lr != RIGHT:
        raise Wrong(_MISTAKES[lr])


def _future_unknown(answer: Callable[..., Any]) -> None:
    candidates = _candidates(future=False)  # the stream has not gone on yet
    lr = _is_lr(answer(candidates, 2), candidates)
    if lr != RIGHT:
        raise Wrong(
            "After two tasks, the rest of the matrix and the test scores do not exist yet (NaN). "
            f"Now you choose lr = {lr:g} instead of {RIGHT}, so your function used them."
        )


def _other_moments(answer: Callable[..., Any]) -> None:
    candidates = _candidates()
    if _is_lr(answer(candidates, 1), candidates) != 0.008:
        raise Wrong(
            "After one task, only V[0, 0] is known: the best there is lr = 0.008. Does your function use `seen`?"
        )
    if _is_lr(answer(candidates, 3), candidates) != 0.003:
        raise Wrong(
            "After all three tasks, the whole last row is known: the best there is lr = 0.003. Does your function use `seen`?"
        )
    backwards = dict(reversed(candidates.items()))
    if _is_lr(answer(backwards, 2), backwards) != RIGHT:
        raise Wrong("With the candidates in another order, your choice changes. Compare all of them.")


EXERCISES = [
    Exercise(
        id="01.6",
        title="Choose without the future",
        difficulty=2,
        minutes=12,
        points=3,
        reference=choose,
        criteria=[
            Criterion("the best on validation images of the tasks seen", _honest, share=2),
            Criterion("the same choice while the future is unknown", _future_unknown),
            Criterion("at any moment, in any order", _other_moments),
        ],
        hints=(
            "You stand after task number `seen`. Which row of the validation matrix exists by then, and which of its columns?",
            "One candidate's score is `candidates[lr]['validation'][seen - 1, :seen].mean()`.",
            "`max(candidates, key=...)` goes through the keys and gives back the key with the highest score.",
        ),
    )
]
