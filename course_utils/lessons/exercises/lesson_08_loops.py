"""Exercises 08.4 and 08.5: a task as one compiled loop, and the same for many repeats with data of their own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from course_utils.lessons.exercise import Criterion, Exercise, Wrong, close, diagnose, to_array
from course_utils.lessons.exercises.lesson_08_tracing import LEAKED, NEEDS_VALUES, counted, in_short, unrolled

Answer = Callable[..., Any]

# ---- 08.4 ------------------------------------------------------------------------------------------------------------


def train_task(step: Answer, params: Any, x: Any, y: Any, order: Any) -> tuple[Any, Any]:
    """A whole task as one loop that can be compiled: final parameters, and the loss of every step `(num_steps,)`.

    step: `(params, x, y)` -> (new params, loss), for one batch. x: `(N, ...)`, y: `(N,)`. order: `(num_steps,
    batch_size)`, the rows of each batch. Built in lesson 08, exercise 08.4.
    """
    return jax.lax.scan(lambda params, rows: step(params, x[rows], y[rows]), params, order)


def toy_step(params: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """A step that moves a weight half way to the mean of y / x; its loss is the distance before."""
    target = (y / x).mean()
    return {"w": params["w"] + 0.5 * (target - params["w"])}, jnp.abs(target - params["w"])


def _toy_data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = np.array([1.0, 2.0, 4.0, 5.0, 8.0, 10.0])
    y = x * np.array([1.0, 3.0, 5.0, 2.0, 7.0, 4.0])
    order = np.array([[5, 1], [0, 2], [3, 4], [2, 5]])
    return x, y, order


def toy_loop(x: np.ndarray, y: np.ndarray, order: np.ndarray, start: float = 0.0, carry: bool = True) -> Any:
    """The loop in plain Python: (final weight, losses)."""
    w, losses, final = start, [], start
    for rows in order:
        target = (y[rows] / x[rows]).mean()
        losses.append(abs(target - w))
        final = w + 0.5 * (target - w)
        w = final if carry else start
    return final, np.array(losses)


def two(result: Any) -> tuple[Any, Any]:
    """A student's (params, losses). Raises Wrong for anything else."""
    if result is None:
        raise Wrong("your function returns nothing: is there a `return`?")
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        got = "one array" if isinstance(result, jax.Array) else f"a {type(result).__name__}"
        if isinstance(result, (tuple, list)):
            got = f"{len(result)} things"
        raise Wrong(f"Return two things, the final parameters and the losses; your function returned {got}.")
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(result)):
        raise Wrong(LEAKED)
    params, losses = result
    if isinstance(losses, dict) and not isinstance(params, dict):
        raise Wrong("The two results are exchanged: first the final parameters, then the losses.")
    if not isinstance(params, dict) or set(params) != {"w"}:
        raise Wrong("The first result has not the structure of the parameters that came in.")
    return params["w"], losses


@in_short
def _like_the_loop(answer: Answer) -> None:
    x, y, order = _toy_data()
    final, losses = toy_loop(x, y, order)
    given = (toy_step, {"w": jnp.array(0.0)}, jnp.array(x), jnp.array(y), jnp.array(order))
    weight, found = two(answer(*given))
    if to_array(weight).shape == (len(order),):
        raise Wrong("The first result holds the parameters of every step. The last ones alone are asked for.")
    if to_array(found).shape == ():
        raise Wrong(
            "There is one loss; expected one for every step. What the loop's function returns second is stacked."
        )
    actual = np.append(to_array(found), to_array(weight))
    first_rows = np.tile(np.arange(2), (len(order), 1))
    diagnose(
        actual,
        {
            "The parameters are not carried on: every step starts from the first ones.": np.append(
                toy_loop(x, y, order, carry=False)[1], toy_loop(x, y, order, carry=False)[0]
            ),
            "The final parameters are those that came in: return what the loop carried to its end.": np.append(
                losses, 0.0
            ),
            "Every step has met the same first rows: `order` says which rows make a batch, one line for each step.": np.append(
                toy_loop(x, y, first_rows)[1], toy_loop(x, y, first_rows)[0]
            ),
            "Every step has met all images: a batch is `x[rows]` with one line of `order`.": np.append(
                toy_loop(x, y, np.tile(np.arange(6), (4, 1)))[1], toy_loop(x, y, np.tile(np.arange(6), (4, 1)))[0]
            ),
            "The losses are right and in reverse.": np.append(losses[::-1], final),
        },
        expected=np.append(losses, final),
    )
    close(
        actual, np.append(losses, final), "Four steps: the losses, then the final weight, differ from those of a loop."
    )


@in_short
def _traced_once(answer: Answer) -> None:
    x, y, _ = _toy_data()

    def given(steps: int) -> tuple[Any, ...]:
        return {"w": jnp.array(0.0)}, jnp.array(x), jnp.array(y), jnp.zeros((steps, 2), jnp.int32)

    calls = {}
    for steps in (4, 40):
        function, count = counted(toy_step)
        _, losses = two(answer(function, *given(steps)))
        if to_array(losses).shape != (steps,):
            raise Wrong(f"{steps} steps gave losses of shape {to_array(losses).shape}; expected ({steps},).")
        calls[steps] = count[0]
    if calls[40] > calls[4] or unrolled(functools.partial(answer, toy_step), given, "abs"):
        raise Wrong(
            "The 40 steps are a loop in Python. Compiled, it would be unrolled into 40 copies of the step. `jax.lax.scan` traces "
            "it once, however long the loop is."
        )


@in_short
def _compiles(answer: Answer) -> None:
    x, y, order = _toy_data()
    final, losses = toy_loop(x, y, order, start=3.0)

    def whole(start: Any, rows: Any) -> Any:
        return answer(toy_step, {"w": start}, jnp.array(x), jnp.array(y), rows)

    weight, found = two(jax.jit(whole)(jnp.array(3.0), jnp.array(order)))
    close(np.append(to_array(found), to_array(weight)), np.append(losses, final), "Compiled, starting from 3.")


# ---- 08.5 ------------------------------------------------------------------------------------------------------------


def train_grid(train: Answer, params: Any, x: Any, y: Any, order: Any) -> Any:
    """`train` for all repeats at once, compiled; what it returns with R in front.

    train: `(params, x, y, order)` of one repeat. params: arrays with a leading axis R. x: `(N, R, ...)` and y: `(N, R)`,
    samples first. order: `(R, num_steps, batch_size)`. Built in lesson 08, exercise 08.5.
    """
    return jax.jit(jax.vmap(train, in_axes=(0, 1, 1, 0)))(params, x, y, order)


def _toy_train(params: Any, x: Any, y: Any, order: Any) -> tuple[Any, Any]:
    return jax.lax.scan(lambda params, rows: toy_step(params, x[rows], y[rows]), params, order)


def _grid_data() -> tuple[np.ndarray, ...]:
    """Four repeats, four samples, four steps: a wrong axis shows in the numbers and not as an error."""
    generator = np.random.default_rng(5)
    x = generator.uniform(1, 2, (4, 4))
    y = generator.uniform(1, 9, (4, 4))
    order = generator.integers(0, 4, (4, 4, 2))
    return np.array([0.0, 1.0, 2.0, 3.0]), x, y, order


def _rows(start: np.ndarray, x: np.ndarray, y: np.ndarray, order: np.ndarray) -> np.ndarray:
    """One repeat after the other; x, y, order with the repeats in front: losses and final weight, (R, steps + 1)."""
    loops = [toy_loop(x[r], y[r], order[r], start[r]) for r in range(len(start))]
    return np.array([np.append(losses, final) for final, losses in loops])


@in_short
def _each_its_own(answer: Answer) -> None:
    start, x, y, order = _grid_data()
    weight, losses = two(answer(_toy_train, {"w": jnp.array(start)}, jnp.array(x), jnp.array(y), jnp.array(order)))
    if to_array(losses).shape != (4, 4) or to_array(weight).shape != (4,):
        raise Wrong(
            f"Weights of shape {to_array(weight).shape} and losses {to_array(losses).shape}; expected the repeats in front, (4,) and "
            "(4, 4)."
        )
    actual = np.column_stack([to_array(losses), to_array(weight)])
    expected = _rows(start, x.T, y.T, order)
    crossed = np.column_stack([expected[:, :-1].T, expected[:, -1]])
    diagnose(
        actual,
        {
            "You map over axis 0 of x and y. Here samples come first: the repeats are axis 1.": _rows(
                start, x, y, order
            ),
            "You map over axis 0 of x. Samples come first: the repeats are axis 1 of x, as they are of y.": _rows(
                start, x, y.T, order
            ),
            "You map over axis 0 of y. Samples come first: the repeats are axis 1 of y, as they are of x.": _rows(
                start, x.T, y, order
            ),
            "You map over axis 1 of `order`. There the repeats come first.": _rows(
                start, x.T, y.T, order.swapaxes(0, 1)
            ),
            "All repeats have used the rows of one: `order` has a first axis for the repeats.": _rows(
                start, x.T, y.T, np.stack([order[0]] * 4)
            ),
            "Every repeat has walked through the rows of all: you do not map over `order`. Its first axis is that of the repeats.": _rows(
                start, x.T, y.T, np.stack([order.reshape(4, 8)] * 4)
            ),
            "The losses have the steps in front. Repeats belong there: leave `out_axes` alone.": crossed,
        },
        expected=expected,
    )
    close(actual, expected, "Four repeats at once differ from the same four one after the other.")


@in_short
def _one_call(answer: Answer) -> None:
    def given(repeats: int) -> tuple[Any, ...]:
        x, order = jnp.ones((3, repeats)), jnp.zeros((repeats, 5, 2), jnp.int32)
        return {"w": jnp.zeros(repeats)}, x, x, order

    calls = {}
    for repeats in (2, 20):
        function, count = counted(_toy_train)
        answer(function, *given(repeats))
        calls[repeats] = count[0]
    whole = functools.partial(answer, _toy_train)
    if calls[20] > calls[2] or unrolled(whole, given, "scan"):
        raise Wrong("The 20 repeats are a loop in Python. `jax.vmap` makes one program for all.")
    try:
        program = jax.make_jaxpr(whole)(*given(2))
    except NEEDS_VALUES:  # NumPy in front of the compiled call is allowed, and hides the program
        return
    if any(equation.primitive.name == "scan" for equation in program.eqns):
        raise Wrong("`train` runs for all repeats, but it is not compiled. Put `jax.jit` around the mapped function.")


EXERCISES = [
    Exercise(
        id="08.4",
        title="A task in one call",
        difficulty=4,
        minutes=15,
        points=3,
        reference=train_task,
        criteria=[
            Criterion("the numbers of a plain loop", _like_the_loop, share=2),
            Criterion("`step` is traced once, however many steps there are", _traced_once, share=2),
            Criterion("it can be compiled", _compiles),
        ],
        hints=(
            "A compiled loop needs a function of (what is carried on, one line of what is looped over). What is carried here?",
            "`jax.lax.scan(body, params, order)` calls `body(params, rows)` for every line of `order`. `body` returns the new "
            "params and what is to be stacked.",
            "`step` already returns (new params, loss), just what `body` has to return for `x[rows]` and `y[rows]`.",
        ),
    ),
    Exercise(
        id="08.5",
        title="From one to 32",
        difficulty=2,
        minutes=10,
        points=2,
        reference=train_grid,
        criteria=[
            Criterion("each repeat with its own weights, images and order", _each_its_own, share=2),
            Criterion("one program, however many repeats", _one_call),
        ],
        hints=(
            "Write down the shape of each argument. On which axis are the repeats?",
            "`in_axes` has one entry for each of params, x, y, order. Two of them are not 0.",
            "`jax.jit(jax.vmap(train, in_axes=(0, 1, 1, 0)))` is a function of the four arguments.",
        ),
    ),
]
