"""Exercises 04.7 to 04.9: a fair comparison of forgetting, the directions of a matrix, and a budget of ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_utils.lessons.exercise import Criterion, Exercise, Wrong, close, diagnose, to_array

Answer = Callable[..., Any]

# ---- 04.7 at equal accuracy ------------------------------------------------------------------------------------------


def old_at_equal_new(new: Sequence[float], old: Sequence[float], target: float) -> float:
    """Accuracy on the old task when the new task's accuracy first reaches the target, between two looks interpolated.

    new, old: accuracy at the same moments of a training run, in order. NaN if `new` never reaches the target.
    Built in lesson 04, exercise 04.7.
    """
    for i, value in enumerate(new):
        if value >= target:
            if i == 0:
                return float(old[0])
            part = (target - new[i - 1]) / (value - new[i - 1])
            return float(old[i - 1] + part * (old[i] - old[i - 1]))
    return math.nan


def _between_two_looks(answer: Answer) -> None:
    new, old, target = [20.0, 50.0, 74.0, 90.0, 86.0], [96.0, 95.0, 83.0, 60.0, 41.0], 80.0
    actual = to_array(answer(new, old, target))
    diagnose(
        actual,
        {
            "This is the old accuracy at the end of training. The runs end at different accuracies on the new task: compare them "
            "where they are equal.": 41.0,
            "This is the first look at which the target is reached. It was reached a little earlier, between two looks: "
            "interpolate.": 60.0,
            "This is the last look before the target is reached. Interpolate between it and the next one.": 83.0,
            "The fraction is the wrong way round: the target lies 6 of the 16 points above the look before.": 83 - 10 / 16 * 23,
            "This is the middle between the two looks. The target lies 6 of the 16 points above the look before.": (83 + 60) / 2,
            "This is the *new* task's accuracy. Asked for is the old one's at that moment.": 80.0,
            "This is the best accuracy on the old task over the whole run.": 96.0,
            "This is how much of the old task was lost. Asked for is its accuracy at that moment.": 96 - (83 - 6 / 16 * 23),
        },
        expected=83 - 6 / 16 * 23,
    )  # fmt: skip
    close(
        actual,
        83 - 6 / 16 * 23,
        "The target, 80, lies 6/16 of the way from the look at 74 to the look at 90: the old accuracy has gone 6/16 of the way "
        "from 83 to 60.",
    )


def _the_first_time(answer: Answer) -> None:
    new, old = [30.0, 70.0, 50.0, 72.0, 80.0], [90.0, 80.0, 75.0, 70.0, 50.0]
    actual = to_array(answer(new, old, 60.0))
    diagnose(
        actual,
        {
            "Accuracy goes up and down. You find the second time at which the target is reached: take the first.": 75
            - 10 / 22 * 5,
            "Accuracy goes up and down. `np.interp` needs rising numbers, and sorting them mixes up the moments.": float(
                np.interp(60.0, np.sort(new), np.array(old)[np.argsort(new)])
            ),
        },
        expected=90 - 30 / 40 * 10,
    )
    close(
        actual,
        90 - 30 / 40 * 10,
        "The target, 60, is first reached 30/40 of the way from the first look to the second.",
    )


def _a_noisy_curve(answer: Answer) -> None:
    new = [36.0, 34.0, 60.0, 30.0, 52.0, 55.0, 57.0, 68.0, 73.0, 73.0, 72.0, 76.0]
    old = [90.0 - 3 * i for i in range(len(new))]
    message = (
        "Accuracy goes up and down. The target, 60, is reached exactly at the third look, and lost again afterwards."
    )
    actual = to_array(answer(new, old, 60.0))
    diagnose(
        actual,
        {
            f"{message} `np.interp` needs rising numbers: here it searches in the wrong place.": float(
                np.interp(60.0, new, old)
            ),
            f"{message} Yours is the last time at which it is reached: take the first.": 72 - 3 / 11 * 3,
        },
        expected=84.0,
    )
    close(actual, 84.0, message)


def _never_and_at_once(answer: Answer) -> None:
    found = answer([10.0, 60.0, 70.0], [90.0, 80.0, 70.0], 75.0)
    if found is None:
        raise Wrong("Where the target is never reached, return NaN (`float('nan')`). Yours returns nothing.")
    if not np.isnan(to_array(found)).all():
        raise Wrong(
            f"The new task never gets to 75, so there is nothing to compare: return NaN (`float('nan')`), not {found}."
        )
    close(
        answer([70.0, 80.0, 90.0], [90.0, 60.0, 50.0], 65.0),
        90.0,
        "The target, 65, lies below the first look. Nothing was looked at before it, so there is nothing to interpolate: return "
        "`old[0]`.",
    )
    close(answer([50.0, 70.0], [90.0, 60.0], 70.0), 60.0, "The target is reached exactly at the second look.")


# ---- 04.8 directions -------------------------------------------------------------------------------------------------


def _matrix(values: Sequence[float], rows: int = 7, columns: int = 5) -> Tensor:
    """A matrix with these singular values."""
    generator = torch.Generator().manual_seed(3)
    left, _ = torch.linalg.qr(torch.randn(rows, rows, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(columns, columns, generator=generator, dtype=torch.float64))
    count = len(values)
    return left[:, :count] @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right[:count]


def _held(answer: Answer) -> None:
    # squares 64, 16, 9, 9, 4 of 102: shares 0.627, 0.784, 0.873, 0.961, 1
    # values 8, 4, 3, 3, 2 of 20: shares 0.4, 0.6, 0.75, 0.9, 1
    values, energy = (8.0, 4.0, 3.0, 3.0, 2.0), 0.75
    actual = to_array(answer(_matrix(values), energy))
    diagnose(
        actual,
        {
            "Two directions hold 78 % of the energy, and you say three. Is it the sum of the singular values that you take? Energy "
            "is the sum of their *squares*.": 3,
            "One direction holds 63 % of the energy: less than the 75 % asked for. Does your count stop one too early, or do you compare "
            "energies with a share, without dividing by their sum?": 1,
            "You count all directions that the matrix has. Or do you add up from the smallest? Start with the largest.": 5,
            "This is a share, not a number of directions.": (64 + 16) / 102,
        },
        expected=2,
    )
    close(
        actual, 2, "The squares 64, 16, 9, 9, 4 sum to 102; the first two make 78 %, the first alone 63 %. So it is 2."
    )
    close(
        answer(_matrix((5.0, 5.0, 5.0, 5.0)), 0.5),
        2,
        "Four equal directions: two of them hold exactly half of the energy, and that is enough.",
    )


def _extremes(answer: Answer) -> None:
    found = to_array(answer(_matrix((6.0, 2.0, 1.0)), 1.0))
    if found.size == 1 and float(found) > 5:
        raise Wrong(
            "You find more directions than the matrix has. *At least* the share: reaching it exactly is enough."
        )
    close(
        found,
        3,
        "All of the energy of a matrix of rank 3 takes 3 directions. (Are you adding up numbers of the size of a rounding error?)",
    )
    close(answer(_matrix((6.0,)), 0.99), 1, "A matrix of rank 1 has all of its energy in one direction.")
    close(answer(_matrix((6.0, 2.0, 1.0)).float() * 1e-3, 0.9), 2, "The share does not depend on the matrix's scale.")
    close(answer(_matrix((6.0, 2.0, 1.0), 4, 9), 0.9), 2, "Wide matrices count like tall ones.")


def directions(matrix: Tensor, energy: float) -> int:
    """How many singular directions hold this share of a matrix's energy. See `course_utils.lora.directions`.

    Built in lesson 04, exercise 04.8.
    """
    from course_utils.lora import directions as counted

    return counted(matrix, energy)


# ---- 04.9 a budget of ranks ------------------------------------------------------------------------------------------

IMPORTANCE = {"query": 5.3, "value": 20.1, "up": 9.2, "down": 2.1}


def _by_quotients(importance: Mapping[str, float], budget: int, divisor: Callable[[int], float], start: int) -> Any:
    ranks = dict.fromkeys(importance, start)
    while sum(ranks.values()) < budget:
        ranks[max(ranks, key=lambda name: importance[name] / divisor(ranks[name]))] += 1
    return ranks


def _ranks(answer: Answer, importance: Mapping[str, float], budget: int, **options: Any) -> dict[str, int]:
    found = answer(dict(importance), budget, **options)
    if not isinstance(found, Mapping):
        raise Wrong(f"Return a dictionary, name of the layer -> rank; yours is a {type(found).__name__}.")
    if set(found) != set(importance):
        raise Wrong(f"Every layer needs a rank: expected {', '.join(importance)}, got {', '.join(map(str, found))}.")
    return dict(found)


def _budget_is_spent(answer: Answer) -> None:
    for budget in (4, 11, 40):
        found = _ranks(answer, IMPORTANCE, budget)
        if any(value != int(value) for value in found.values()):
            raise Wrong(f"Ranks are whole numbers; yours are {found}.")
        if sum(found.values()) == budget + len(found):
            raise Wrong(
                f"With a budget of {budget} you give out {sum(found.values())} ranks: the minimums come on top. They are part of it."
            )
        if sum(found.values()) != budget:
            raise Wrong(
                f"The budget is {budget}, and your ranks sum to {sum(found.values())}: {found}. Rounding shares does not spend a "
                "budget exactly. Give out one rank at a time."
            )
        if min(found.values()) < 1:
            raise Wrong(f"Every layer starts with rank 1; yours gives {found}.")


def _rule(answer: Answer) -> None:
    budget = 18
    expected = _by_quotients(IMPORTANCE, budget, lambda rank: 2 * rank + 1, 1)
    named = {
        "You divide by `rank + 1`: that favours important layers more than their share. The rule here is `2 * rank + 1`.": _by_quotients(
            IMPORTANCE, budget, lambda rank: rank + 1, 1
        ),
        "You divide by the rank, so a layer counts as if it had less than it has. The rule here is `2 * rank + 1`.": _by_quotients(
            IMPORTANCE, budget, lambda rank: rank, 1
        ),
        "Every rank beyond the first goes to the most important layer. After each rank, its claim has to sink: divide by "
        "`2 * rank + 1`.": _by_quotients(IMPORTANCE, budget, lambda rank: 1.0, 1),
        "All layers get the same: importance does not count.": {"query": 5, "value": 5, "up": 4, "down": 4},
        "These are whole shares, and what was left over went to the most important layer. Here each rank is given out by itself, to the "
        "largest `importance / (2 * rank + 1)`.": {"query": 2, "value": 11, "up": 4, "down": 1},
    }
    found = _ranks(answer, IMPORTANCE, budget)
    if found == expected:
        return
    for message, ranks in named.items():
        if found == ranks:
            raise Wrong(message)
    raise Wrong(
        f"With {IMPORTANCE} and a budget of {budget} the rule gives {expected}; you got {found}. After each rank, look for "
        "the largest `importance / (2 * rank + 1)` again."
    )


def _never_takes_back(answer: Answer) -> None:
    importance = {"a": 6.1, "b": 5.9, "c": 2.03, "d": 0.01}
    before = _ranks(answer, importance, 4)
    for budget in range(5, 30):
        now = _ranks(answer, importance, budget)
        smaller = [name for name in now if now[name] < before[name]]
        if smaller:
            raise Wrong(
                f"With a budget of {budget} layer {smaller[0]!r} gets rank {now[smaller[0]]}, with {budget - 1} it had "
                f"{before[smaller[0]]}. More to spend must take from nobody: give out one rank after the other."
            )
        before = now


def _minimum(answer: Answer) -> None:
    found = _ranks(answer, IMPORTANCE, 20, minimum=3)
    if min(found.values()) < 3:
        raise Wrong(f"With minimum=3 every layer gets at least rank 3; yours gives {found}.")
    expected = _by_quotients(IMPORTANCE, 20, lambda rank: 2 * rank + 1, 3)
    if found != expected:
        raise Wrong(f"With minimum=3 and a budget of 20 the rule gives {expected}; you got {found}.")


def allocate_ranks(importance: Mapping[str, float], budget: int, minimum: int = 1) -> dict[str, int]:
    """Spend a budget of ranks by importance. See `course_utils.lora.allocate_ranks`.

    Built in lesson 04, exercise 04.9.
    """
    from course_utils.lora import allocate_ranks as allocated

    return allocated(importance, budget, minimum=minimum)


EXERCISES = [
    Exercise(
        id="04.7",
        title="The old task at equal new accuracy",
        difficulty=3,
        minutes=15,
        points=2,
        reference=old_at_equal_new,
        criteria=[
            Criterion("interpolates between the looks before and after", _between_two_looks, share=2),
            Criterion("the first time counts", _the_first_time),
            Criterion("on a noisy curve, too", _a_noisy_curve),
            Criterion("never reached is NaN, at once is the first look", _never_and_at_once),
        ],
        hints=(
            "Walk along the looks. Which is the first one at which `new` is at least the target?",
            "Between the look before, i - 1, and this one, i, `new` rises from below the target to at least the target. What part of "
            "that rise lies below the target?",
            "`part = (target - new[i-1]) / (new[i] - new[i-1])`, and the answer is `old[i-1] + part * (old[i] - old[i-1])`. The first "
            "look has nothing before it.",
        ),
    ),
    Exercise(
        id="04.8",
        title="How many directions?",
        difficulty=2,
        minutes=10,
        points=2,
        reference=directions,
        forbidden=("course_utils.lora.ranks:directions",),
        criteria=[
            Criterion("as few directions as hold the share", _held, share=2),
            Criterion("all of the energy, one direction, any scale, any shape", _extremes),
        ],
        hints=(
            "`torch.linalg.svdvals(matrix)` gives the singular values, largest first. Their squares are the energies.",
            "`cumsum(0)` adds them up one after the other; divide by the sum of all. How many of these shares are below `energy`?",
            "`shares = squares.cumsum(0) / squares.sum()`; one more than `(shares < energy - 1e-6).sum()`. The 1e-6 keeps a share that "
            "is reached exactly from being missed by rounding.",
        ),
    ),
    Exercise(
        id="04.9",
        title="Spend a budget of ranks",
        difficulty=3,
        minutes=15,
        points=3,
        reference=allocate_ranks,
        forbidden=("course_utils.lora.ranks:allocate_ranks",),
        criteria=[
            Criterion("the budget is spent exactly, in whole ranks from 1", _budget_is_spent),
            Criterion("each rank goes to the largest importance / (2 * rank + 1)", _rule, share=2),
            Criterion("a larger budget takes from no layer", _never_takes_back),
            Criterion("the minimum can be chosen", _minimum),
        ],
        hints=(
            "Start with a dictionary of minimums. How many ranks are left to give out?",
            "In a loop over what is left: find the name with the largest quotient (`max(ranks, key=...)`), and add 1 to its rank.",
            "`ranks = dict.fromkeys(importance, minimum)`; then `budget - minimum * len(importance)` times: "
            "`ranks[max(ranks, key=lambda n: importance[n] / (2 * ranks[n] + 1))] += 1`.",
        ),
    ),
]
