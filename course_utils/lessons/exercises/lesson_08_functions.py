"""Exercises 08.1 to 08.3: many models with one function, a step as a pure function, keys that survive a split."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from course_utils.lessons.exercise import Changed, Criterion, Exercise, Wrong, close, diagnose, to_array
from course_utils.lessons.exercises.lesson_08_tracing import counted, in_short, structure, unrolled

Answer = Callable[..., Any]


# ---- 08.1 ------------------------------------------------------------------------------------------------------------


def predict_all(predict: Answer, params: Any, x: Any) -> Any:
    """Outputs of R models on the same inputs, `(R, n)`.

    predict: outputs `(n,)` of one model's parameters on inputs `(n,)`. params: a pytree of arrays, each with a leading
    axis R. x: `(n,)`, the same for all models. Built in lesson 08, exercise 08.1.
    """
    return jax.vmap(predict, in_axes=(0, None))(params, x)


def line(params: Any, x: Any) -> Any:
    return params["slope"] * x + params["offset"]


SLOPES, OFFSETS, INPUTS = [1.0, 2.0, 3.0], [0.0, 5.0, 10.0], [1.0, 10.0, 100.0]


def one_line(params: Any, x: Any) -> Any:
    """`line`, which refuses the parameters of several models."""
    if jnp.ndim(params["slope"]) > 0:
        raise Wrong(
            f"`predict` has met the parameters of all models at once, of shape {jnp.shape(params['slope'])}. It is written for "
            "one model, and a network could not take that. `jax.vmap` hands it one model."
        )
    return line(params, x)


@in_short
def _same_inputs(answer: Answer) -> None:
    params = {"slope": jnp.array(SLOPES), "offset": jnp.array(OFFSETS)}
    x = jnp.array(INPUTS)
    expected = np.outer(SLOPES, INPUTS) + np.array(OFFSETS)[:, None]
    actual = answer(line, params, x)
    diagnose(
        actual,
        {
            "Each model has met one input only, model r the input number r. All models get all inputs: in `in_axes`, `None` "
            "says that an argument is not mapped over.": np.diag(expected),
            "The inputs stand first, the models second. The models' axis belongs in front: `(R, n)`.": expected.T,
            "This is the first model alone.": expected[0],
            "This is the mean over the models. Keep each model's own outputs.": expected.mean(axis=0),
        },
        expected=expected,
    )
    close(actual, expected, "Three lines on three inputs: row r holds model r's outputs.")


@in_short
def _called_once(answer: Answer) -> None:
    def given(models: int) -> tuple[Any, Any]:
        return {"slope": jnp.arange(float(models)), "offset": jnp.zeros(models)}, jnp.array([1.0, 2.0])

    for models in (2, 50):
        function, calls = counted(one_line)
        result = answer(function, *given(models))
        close(result, np.outer(np.arange(models), [1, 2]), "The number of models and of inputs may differ.")
    if calls[0] > 2 or unrolled(functools.partial(answer, one_line), given, "mul"):
        raise Wrong(
            "With 50 models `predict` runs 50 times, one after the other: that is a loop in Python. `jax.vmap` calls it once, "
            "with tracers in place of numbers, and computes all models together."
        )


# ---- 08.2 ------------------------------------------------------------------------------------------------------------


def sgd_step(loss: Answer, params: Any, x: Any, y: Any, lr: Any) -> Any:
    """One step of gradient descent as a pure function: new parameters, of the same structure.

    loss: `(params, x, y)` -> scalar. params: a pytree. lr: learning rate. Built in lesson 08, exercise 08.2.
    """
    gradient = jax.grad(loss)(params, x, y)
    return jax.tree.map(lambda p, g: p - lr * g, params, gradient)


def _squares(params: Any, x: Any, y: Any) -> Any:
    """Mean squared error of a line whose parameters lie in two layers of a nested dict."""
    return ((params["first"]["slope"] * x + params["second"]["offset"] - y) ** 2).mean()


X, Y, LR = np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 7.0]), 0.1


def _start() -> dict[str, dict[str, Any]]:
    return {"first": {"slope": jnp.array(1.0)}, "second": {"offset": jnp.array(0.5)}}


def _by_hand() -> tuple[np.ndarray, np.ndarray]:
    """Parameters (slope, offset) and their gradient, by the derivative written out."""
    start = np.array([1.0, 0.5])
    error = start[0] * X + start[1] - Y
    return start, np.array([(2 * error * X).mean(), (2 * error).mean()])


def pair(result: Any) -> np.ndarray:
    """(slope, offset) of a student's result. Raises Wrong where its structure is another."""
    if result is None:
        raise Wrong("your function returns nothing: is there a `return`?")
    if isinstance(result, tuple):
        raise Wrong(f"Return the new parameters alone; your function returned a tuple of {len(result)}.")
    if structure(result) != structure(_start()):
        raise Wrong(
            "The new parameters have another structure than the old ones. `jax.tree.map(function, params, gradient)` keeps it: "
            "it calls the function for every array of the tree."
        )
    leaves = [to_array(leaf) for leaf in jax.tree.leaves(result)]
    if any(leaf.size != 1 for leaf in leaves):
        raise Wrong(
            f"A parameter that was one number has come back with shape {next(leaf.shape for leaf in leaves if leaf.size != 1)}. "
            "The gradient is that of the loss of the whole batch, of the shape of the parameters."
        )
    return np.array([leaf.item() for leaf in leaves])


@in_short
def _downhill(answer: Answer) -> None:
    start, gradient = _by_hand()
    actual = pair(answer(_squares, _start(), jnp.array(X), jnp.array(Y), LR))
    diagnose(
        actual,
        {
            "This goes uphill: subtract the gradient.": start + LR * gradient,
            "This is the gradient. Return the parameters after a step along it.": gradient,
            "This is the step. Return the parameters after it.": -LR * gradient,
            "The learning rate is missing: a whole gradient was subtracted.": start - gradient,
            "Only the first array moved. The step is for every array of the tree.": [
                start[0] - LR * gradient[0],
                start[1],
            ],
            "Only the last array moved. The step is for every array of the tree.": [
                start[0],
                start[1] - LR * gradient[1],
            ],
            "Nothing moved: these are the parameters that came in.": start,
        },
        expected=start - LR * gradient,
    )
    close(actual, start - LR * gradient, "Expected parameters minus learning rate times gradient.")


@in_short
def _pure(answer: Answer) -> None:
    params = _start()
    first, second = params["first"], params["second"]
    answer(_squares, params, jnp.array(X), jnp.array(Y), LR)
    before = pair(_start())
    same = params["first"] is first and params["second"] is second
    if not same or (pair({"first": first, "second": second}) != before).any():
        raise Changed(
            "Your function writes into the dict it was given. Compiled code runs that line once, while it is traced, and never "
            "again: what it left behind is a leaked tracer. Build a new tree."
        )


@in_short
def _compiles(answer: Answer) -> None:
    start, gradient = _by_hand()

    def step(params: Any, lr: Any) -> Any:
        return answer(_squares, params, jnp.array(X), jnp.array(Y), lr)

    result = jax.jit(step)(_start(), 0.5)
    close(pair(result), start - 0.5 * gradient, "Compiled, with learning rate 0.5.")


# ---- 08.3 ------------------------------------------------------------------------------------------------------------


def repeat_keys(seed: int, first: int, count: int) -> Any:
    """Keys of the repeats first, ..., first + count - 1, `(count,)`: each is fold_in(key(seed), number of the repeat).

    A repeat has the same key in whatever slice it is asked for. Built in lesson 08, exercise 08.3.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), first + jnp.arange(count))


def key_numbers(keys: Any, count: int) -> np.ndarray:
    """The bits of keys, `(count, words)`, of an array of new-style keys or of old-style ones."""
    if keys is None:
        raise Wrong("your function returns nothing: is there a `return`?")
    if not isinstance(keys, (jax.Array, np.ndarray)):
        raise Wrong(
            f"Expected an array of keys; your function returned a {type(keys).__name__}. Keys come from `jax.random`, and "
            "`jnp.stack` makes one array of a list of them."
        )
    bits = jax.random.key_data(keys) if jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) else keys
    if bits.dtype != jnp.uint32 or bits.ndim != 2 or len(bits) != count:
        raise Wrong(
            f"Expected one key for each repeat, {count} in all; got an array of shape {keys.shape} and type {keys.dtype}. Keys "
            "come from `jax.random`."
        )
    return np.asarray(bits)


@in_short
def _different(answer: Answer) -> None:
    keys = key_numbers(answer(0, 0, 6), 6)
    if (keys != key_numbers(answer(0, 0, 6), 6)).any():
        raise Wrong("Two calls with the same arguments gave different keys. A key comes from its arguments alone.")
    distinct = len(np.unique(keys, axis=0))
    if distinct == 1:
        raise Wrong("All six repeats got the same key: they would be six copies of one run.")
    if distinct < 6:
        raise Wrong(f"Six repeats got only {distinct} different keys.")


@in_short
def _slices(answer: Answer) -> None:
    whole = key_numbers(answer(7, 0, 6), 6)
    front, back = key_numbers(answer(7, 0, 2), 2), key_numbers(answer(7, 2, 4), 4)
    if (back[:2] == front).all():
        raise Wrong(
            "Repeats 2 and 3 got the keys of repeats 0 and 1: `first` is not used, and both machines run the same."
        )
    if not (front == whole[:2]).all() or not (back == whole[2:]).all():
        raise Wrong(
            "Repeats 2 to 5 get other keys when they are asked for alone than among all six: the numbers would depend on how "
            "the work is split. A key may depend on the seed and on the repeat's own number, and on nothing else."
        )


@in_short
def _seeds(answer: Answer) -> None:
    table = {(seed, r): tuple(key_numbers(answer(seed, r, 1), 1)[0]) for seed in range(4) for r in range(4)}
    if len({table[seed, 0] for seed in range(4)}) == 1:
        raise Wrong("Every seed gives the same keys: `seed` is not used.")
    for (seed, r), (other, s) in itertools.combinations(table, 2):
        if table[seed, r] == table[other, s]:
            same = f"Repeat {r} of seed {seed} is the same run as repeat {s} of seed {other}."
            if seed == other:
                raise Wrong(same)
            raise Wrong(
                f"{same} You make one number of two, as by adding them, and seeds share runs. `jax.random.fold_in(key, number)` "
                "mixes a number into a key instead."
            )


EXERCISES = [
    Exercise(
        id="08.1",
        title="Many models, one function",
        difficulty=1,
        minutes=5,
        points=1,
        reference=predict_all,
        criteria=[
            Criterion("every model on all inputs, models first", _same_inputs, share=2),
            Criterion("`predict` is called once, however many models there are", _called_once),
        ],
        hints=(
            "`jax.vmap(f)` maps over the first axis of every argument. Which argument has no axis for the models?",
            "`in_axes` has one entry for each argument of `predict`: an axis to map over, or `None`.",
            "`jax.vmap(predict, in_axes=(0, None))` is a function of `params` and `x`. Call it.",
        ),
    ),
    Exercise(
        id="08.2",
        title="A step is a function",
        difficulty=2,
        minutes=10,
        points=2,
        reference=sgd_step,
        criteria=[
            Criterion("parameters minus learning rate times gradient, for every array", _downhill, share=2),
            Criterion("what comes in stays as it is", _pure),
            Criterion("it can be compiled, the learning rate too", _compiles),
        ],
        hints=(
            "There is no `loss.backward()` and no `.grad`. `jax.grad(loss)` is a function with the arguments of `loss`.",
            "`jax.grad(loss)(params, x, y)` has the structure of `params`. Combine the two trees, array by array.",
            "`jax.tree.map(lambda p, g: p - lr * g, params, gradient)` is what to return.",
        ),
    ),
    Exercise(
        id="08.3",
        title="Keys that survive a split",
        difficulty=2,
        minutes=10,
        points=2,
        reference=repeat_keys,
        forbidden=("course_utils.grid.data:repeat_keys",),
        criteria=[
            Criterion("a key of its own for every repeat", _different),
            Criterion("the same key in whatever slice the repeat is asked for", _slices, share=2),
            Criterion("seeds and repeats do not collide", _seeds),
        ],
        hints=(
            "What may the key of repeat 5 depend on? Not on how many repeats run beside it.",
            "`jax.random.key(seed)` is the base. `jax.random.fold_in(base, number)` gives a new key for every number.",
            "The numbers are `first + jnp.arange(count)`. `jax.vmap(jax.random.fold_in, in_axes=(None, 0))` maps over them.",
        ),
    ),
]
