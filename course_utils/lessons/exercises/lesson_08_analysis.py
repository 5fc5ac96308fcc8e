"""Exercises 08.7 to 08.10: an interval over repeats, shrink and perturb, effective rank, a grid under a budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from course_utils import grid
from course_utils.lessons.exercise import Criterion, Exercise, Wrong, close, diagnose, to_array
from course_utils.lessons.exercises.lesson_08_tracing import in_short, structure

Answer = Callable[..., Any]

# ---- 08.7 ------------------------------------------------------------------------------------------------------------


def paired_interval(first: Any, second: Any) -> tuple[float, float, float]:
    """Mean of first - second and its 95 % interval (mean, low, high) over repeats.

    first, second: accuracies `(T, R)` of two algorithms; repeat r has met the same tasks in both. Tasks of a repeat
    share a network: they are averaged before. Built in lesson 08, exercise 08.7.
    """
    difference = (np.asarray(first) - np.asarray(second)).mean(axis=0)  # (R,)
    repeats = len(difference)
    half = scipy.stats.t.ppf(0.975, repeats - 1) * difference.std(ddof=1) / np.sqrt(repeats)
    return difference.mean(), difference.mean() - half, difference.mean() + half


def _table() -> tuple[np.ndarray, np.ndarray]:
    """Two algorithms on 6 tasks, 5 repeats: repeats differ much, the algorithms little and always in one direction."""
    generator = np.random.default_rng(87)
    level = 0.75 + 0.06 * generator.standard_normal(5) + 0.05 * generator.standard_normal((6, 5))
    gap = 0.02 + 0.01 * generator.standard_normal(5) + 0.03 * generator.standard_normal((6, 5))
    return level + gap, level


def _three(result: Any) -> np.ndarray:
    values = to_array(result)
    if values.shape != (3,):
        raise Wrong(f"Return three numbers (mean, low, high); got shape {values.shape}.")
    if np.isnan(values).any() or values[1] == values[2]:
        raise Wrong(
            "The interval has no width, or is NaN: its spread is that of one single number. Average over the tasks alone "
            "(axis 0), then take the spread of the 5 numbers that are left."
        )
    return values


def around(mean: float, half: float) -> np.ndarray:
    return np.array([mean, mean - half, mean + half])


@in_short
def _interval(answer: Answer) -> None:
    first, second = _table()
    pairs = (first - second).mean(axis=0)
    pooled = (first - second).ravel()
    per_task = (first - second).mean(axis=1)
    mean, n, t = pairs.mean(), len(pairs), scipy.stats.t.ppf
    apart = np.sqrt(first.mean(axis=0).var(ddof=1) / n + second.mean(axis=0).var(ddof=1) / n)
    expected = around(mean, t(0.975, n - 1) * pairs.std(ddof=1) / np.sqrt(n))
    pooled_se = pooled.std(ddof=1) / np.sqrt(len(pooled))
    actual = _three(answer(first, second))
    mistakes = {
        "All 30 numbers count as independent. The tasks of a repeat share one network and one draw of classes: average them "
        "first; what is left to count is 5 repeats.": around(mean, t(0.975, len(pooled) - 1) * pooled_se),
        "All 30 numbers count as independent (and 1.96 is the normal distribution's). Average over the tasks of a repeat "
        "first.": around(mean, 1.96 * pooled_se),
        "The spread is that over tasks. How sure you are is decided by the repeats: average over axis 0.": around(
            mean, t(0.975, 5) * per_task.std(ddof=1) / np.sqrt(6)
        ),
        "The two algorithms are taken as unrelated. Repeat r has met the same classes in both: take the difference within "
        "each repeat, and most of the spread is gone.": around(mean, t(0.975, 2 * n - 2) * apart),
        "The two algorithms are taken as unrelated. Take the difference within each repeat first.": around(
            mean, t(0.975, n - 1) * apart
        ),
        "This is mean plus and minus the standard deviation: where single repeats lie, not how well the mean is known.": around(
            mean, pairs.std(ddof=1)
        ),
        "This is mean plus and minus one standard error, which holds the truth two times in three. For 95 % multiply it by "
        "Student's t.": around(mean, pairs.std(ddof=1) / np.sqrt(n)),
        "The standard deviation is too small: of a sample divide by n - 1, `ddof=1`. (torch does that by itself, NumPy does "
        "not.)": around(mean, t(0.975, n - 1) * pairs.std() / np.sqrt(n)),
        "1.96 is for a spread that is known. Estimated from 5 repeats it is uncertain itself: `scipy.stats.t.ppf(0.975, R - 1)` "
        "is 2.78.": around(mean, 1.96 * pairs.std(ddof=1) / np.sqrt(n)),
        "Student's t has R - 1 = 4 degrees of freedom here; you took 5.": around(
            mean, t(0.975, n) * pairs.std(ddof=1) / np.sqrt(n)
        ),
        "`ppf(0.95)` leaves 5 % on each side. For 95 % in the middle it is 0.975.": around(
            mean, t(0.95, n - 1) * pairs.std(ddof=1) / np.sqrt(n)
        ),
        "The sign is turned: first minus second.": -expected[[0, 2, 1]],
    }
    diagnose(actual, mistakes, expected=expected)
    close(actual, expected, "Expected (mean, low, high) of the 5 repeats' differences, each a mean over its tasks.")


@in_short
def _more_tasks_add_no_certainty(answer: Answer) -> None:
    """Ten copies of the same tasks hold no new information about repeats."""
    first, second = _table()
    once, often = answer(first, second), answer(np.tile(first, (10, 1)), np.tile(second, (10, 1)))
    once, often = _three(once), _three(often)
    if not np.allclose(once, often, rtol=1e-4, atol=1e-6):
        raise Wrong(
            "Ten copies of the same tasks made the interval another one. It depends on the spread over repeats alone."
        )


# ---- 08.8 ------------------------------------------------------------------------------------------------------------

OLD, FRESH = (
    {"a": {"kernel": 2.0, "bias": -4.0}, "b": {"kernel": 10.0}},
    {"a": {"kernel": 1.0, "bias": 3.0}, "b": {"kernel": 7.0}},
)


@in_short
def _perturbed(answer: Answer) -> None:
    def given(tree: Any) -> Any:
        return jax.tree.map(lambda value: jnp.array([value]), tree)

    result = answer(given(OLD), given(FRESH), 0.2, 0.5)
    if result is None:
        raise Wrong("your function returns nothing: is there a `return`?")
    if structure(result) != structure(OLD):
        raise Wrong(
            "The result has another structure than the weights. `jax.tree.map(function, params, fresh)` keeps it."
        )
    actual = np.array([to_array(leaf).item() for leaf in jax.tree.leaves(result)])
    old, fresh = (np.array(jax.tree.leaves(tree)) for tree in (OLD, FRESH))
    diagnose(
        actual,
        {
            "The old weights are multiplied by `shrink`. They shrink *by* that share.": 0.2 * old + 0.5 * fresh,
            "Nothing shrinks: this is the old weights plus a share of the fresh ones.": old + 0.5 * fresh,
            "Nothing is perturbed: a share of the fresh weights is missing.": 0.8 * old,
            "The sum is shrunk. Only the old weights shrink.": 0.8 * (old + 0.5 * fresh),
            "`perturb` is not used: this is a mean of old and fresh weights.": 0.8 * old + 0.2 * fresh,
            "This mixes with 1 - perturb. The two settings are independent of each other.": 0.5 * old + 0.5 * fresh,
            "Old and fresh weights are exchanged.": 0.8 * fresh + 0.5 * old,
        },
        expected=0.8 * old + 0.5 * fresh,
    )
    close(actual, 0.8 * old + 0.5 * fresh, "Expected (1 - shrink) * old + perturb * fresh, for every array.")


# ---- 08.9 ------------------------------------------------------------------------------------------------------------


@in_short
def _rank(answer: Answer) -> None:
    generator = np.random.default_rng(89)
    features = np.linalg.qr(generator.normal(size=(12, 5)))[0] * np.array([4.0, 3.0, 2.0, 1.0, 0.5])
    s = np.array([4.0, 3.0, 2.0, 1.0, 0.5])
    p, q = s / s.sum(), s**2 / (s**2).sum()
    expected = np.exp(-(p * np.log(p)).sum())
    actual = to_array(answer(features))
    if actual.shape != ():
        raise Wrong(f"Return one number; got shape {actual.shape}.")
    diagnose(
        actual,
        {
            "This is the entropy. Its exponential counts directions: equal shares of five give 5.": np.log(expected),
            "The shares are those of the *squared* singular values. Roy and Vetterli take the singular values themselves.": np.exp(
                -(q * np.log(q)).sum()
            ),
            "The singular values are not divided by their sum: shares add up to 1.": np.exp(-(s * np.log(s)).sum()),
            "This is the exponential of minus the entropy.": 1 / expected,
            "The logarithm is to the base 2 and the exponential to the base e. Take the same base for both.": np.exp(
                -(p * np.log2(p)).sum()
            ),
            "This counts singular values that are not zero: the rank, which does not see that some directions hardly count.": 5.0,
            "This is the stable rank, the squared singular values in units of the largest.": (s**2).sum() / s[0] ** 2,
            "The shares are those of the largest singular value, not of their sum.": np.exp(
                -((s / s[0]) * np.log(s / s[0])).sum()
            ),
            "This is 1 over the sum of squared shares, another measure of the same thing.": 1 / (p**2).sum(),
        },
        expected=expected,
        rtol=1e-4,
    )
    close(actual, expected, "Expected exp of the entropy of the shares of singular values 4, 3, 2, 1, 0.5.", rtol=1e-4)


@in_short
def _silent_units(answer: Answer) -> None:
    features = np.zeros((6, 4))
    features[0, 0] = features[1, 1] = 2.0
    actual = to_array(answer(features))
    if np.isnan(actual).any():
        raise Wrong(
            "Two of four units are silent, and the result is NaN: 0 log 0 is 0, but `np.log(0)` is -inf. Leave out the "
            "directions whose share is 0."
        )
    close(actual, 2.0, "Two units that speak with the same strength, two that are silent: two directions.", rtol=1e-4)
    close(answer(np.full((6, 4), 3.0)), 1.0, "All images give the same features: one direction.", rtol=1e-3)


# ---- 08.10 -----------------------------------------------------------------------------------------------------------

DEVIATION, WIDEST, MOST_BYTES, MOST_REPEATS, TASKS, STEPS = 2.5, 1.0, 1_000_000_000, 40, 50, 300


def design() -> grid.GridConfig:
    """A grid on 50 tasks of Tiny-ImageNet that can see a difference of one point and writes less than 1 GB."""
    return grid.GridConfig(
        data="tiny_imagenet_gray", num_tasks=TASKS, num_repeats=32, steps_per_task=STEPS, log_frequency=STEPS,
        eval_tasks=5, representations="last",
    )  # fmt: skip


def _config(answer: Answer) -> grid.GridConfig:
    try:
        config = answer()
    except grid.GridError as error:
        raise Wrong(f"GridConfig refuses this: {error}") from None
    if config is None:
        raise Wrong("your function returns nothing: is there a `return`?")
    if not isinstance(config, grid.GridConfig):
        raise Wrong(f"Return a `grid.GridConfig`; your function returned a {type(config).__name__}.")
    given = (config.data, config.num_tasks, config.steps_per_task)
    if given != ("tiny_imagenet_gray", TASKS, STEPS):
        raise Wrong(
            f"The question is fixed: {TASKS} tasks of tiny_imagenet_gray, {STEPS} steps each. You have {given}."
        )
    if config.algorithm != f"SL_{TASKS}_tasks":
        raise Wrong(f"The grid is for SL alone: leave out er, pl, ul and l2. Yours is {config.algorithm}.")
    return config


def _certain(answer: Answer) -> None:
    repeats = _config(answer).num_repeats
    if repeats < 2:
        raise Wrong("One repeat has no spread: nothing says how sure it is.")
    half = scipy.stats.t.ppf(0.975, repeats - 1) * DEVIATION / np.sqrt(repeats)
    if half > WIDEST:
        raise Wrong(f"With {repeats} repeats the interval is ± {half:.2f} points; at most ± {WIDEST:g} was asked for. It is "
                    "t * 2.5 / sqrt(repeats).")  # fmt: skip
    if repeats > MOST_REPEATS:
        raise Wrong(f"{repeats} repeats are sure enough, and more work than was given: at most {MOST_REPEATS}.")


def _analysable(answer: Answer) -> None:
    config = _config(answer)
    if not config.expert:
        raise Wrong(
            "Without the expert nothing says whether later tasks are harder or the network learns worse: expert=True."
        )
    if config.representations == "none":
        raise Wrong(
            "Dormant units and ranks are read from representations: representations='last' keeps those of each task's end."
        )
    if config.log_steps[-1] != STEPS:
        raise Wrong(f"The last log point is step {config.log_steps[-1]} of {STEPS}: the end of a task is not logged. {STEPS} has to be "
                    "a multiple of log_frequency.")  # fmt: skip


def _small(answer: Answer) -> None:
    from course_utils.grid.network import Network
    from course_utils.grid.size import estimate

    config = _config(answer)
    size = estimate(config, Network.of(config, "patches"), num_classes=200)
    total = size.tasks * size.task_on_disk
    if total > MOST_BYTES:
        weights = 4 * config.num_logs * config.num_repeats * Network.of(config, "patches").num_weights
        hidden = size.task_on_disk - weights
        worse = (
            f"the weights of {config.num_repeats} repeats, log points per task: {config.num_logs} (log_frequency)"
            if weights > hidden
            else f"the representations on {len(config.evaluated(0))} tasks (eval_tasks, representations, subsamples)"
        )
        raise Wrong(f"It would write {total / 1e9:.2f} GB, {MOST_BYTES / 1e9:.2f} GB were given. Most of it: {worse}.")


EXERCISES = [
    Exercise(
        id="08.7",
        title="How sure are R repeats?",
        difficulty=3,
        minutes=15,
        points=2,
        reference=paired_interval,
        criteria=[
            Criterion("mean of the differences and its 95 % interval over repeats", _interval, share=3),
            Criterion(
                "more tasks of the same repeats do not make it surer by themselves", _more_tasks_add_no_certainty
            ),
        ],
        hints=(
            "How many independent numbers are there: T times R, or R? And what do both algorithms share within a repeat?",
            "`first - second`, then the mean over tasks: R numbers. Their mean, and their standard deviation / sqrt(R) times "
            "Student's t.",
            "With `d = (first - second).mean(axis=0)` the half width is "
            "`scipy.stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))`.",
        ),
    ),
    Exercise(
        id="08.8",
        title="Shrink and perturb",
        difficulty=1,
        minutes=4,
        points=1,
        reference="course_utils.grid.rules.perturb:shrink_and_perturb",
        criteria=[Criterion("(1 - shrink) of the old weights plus a share of fresh ones, for every array", _perturbed)],
        hints=(
            "Two trees of the same structure go in, one comes out.",
            "For one array it is `(1 - shrink) * old + perturb * new`.",
            "`jax.tree.map` takes a function of two arguments and two trees.",
        ),
    ),
    Exercise(
        id="08.9",
        title="Effective rank",
        difficulty=3,
        minutes=10,
        points=2,
        reference="course_utils.grid.plasticity:effective_rank",
        forbidden=("course_utils.grid.plasticity:spectrum",),
        criteria=[
            Criterion("the exponential of the entropy of the singular values' shares", _rank, share=3),
            Criterion("silent units do not break it", _silent_units),
        ],
        hints=(
            "If k directions carry the same, their shares are 1 / k. What is the entropy of that, and its exponential?",
            "`np.linalg.svd(features, compute_uv=False)` gives the singular values. Divide by their sum.",
            "`p = s / s.sum()`, then `p = p[p > 0]`, then `np.exp(-(p * np.log(p)).sum())`.",
        ),
    ),
    Exercise(
        id="08.10",
        title="A grid on a budget",
        difficulty=3,
        minutes=12,
        points=2,
        reference=design,
        criteria=[
            Criterion("enough repeats to see one point, and not more than you can pay", _certain),
            Criterion("its files answer the question about every task", _analysable),
            Criterion("it fits on the disk", _small),
        ],
        hints=(
            "How many repeats does ± 1 point need? Everything else follows from what that many repeats write.",
            "Weights are written at every log point, representations for every evaluated task. The question needs the end of "
            "each task only.",
            "`log_frequency=300` logs once a task, `eval_tasks=5` evaluates six tasks, and 27 repeats are the fewest.",
        ),
    ),
]
