"""Lesson 08: every wrong answer meets its own diagnosis, right variants pass, and JAX's long errors come out short."""

from __future__ import annotations

import ast
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
import torch
from helpers import ROOT, Answers, assert_full_points, assert_its_own_message, case_names
from jax.flatten_util import ravel_pytree

from course_utils import grid
from course_utils.grid import convolution, plasticity
from course_utils.grid import data as grid_data
from course_utils.lessons import checking, exercise

ANSWERS = Answers()
WRONG, RIGHT, wrong, right = ANSWERS.wrong_ones, ANSWERS.right_ones, ANSWERS.wrong, ANSWERS.right
jit_but_first = functools.partial(jax.jit, static_argnums=0)

# ---- 08.1 many models, one function ------------------------------------------------------------------------------


def predict_closure(predict, params, x):
    return jax.vmap(lambda model: predict(model, x))(params)


def model(params, r):
    return jax.tree.map(lambda p: p[r], params)


def predict_loop(predict, params, x, models=None):
    return jnp.stack([predict(model(params, r), x) for r in range(models or len(params["slope"]))])


RIGHT += [
    ("08.1", predict_closure),
    ("08.1", jit_but_first(predict_closure)),
    ("08.1", lambda predict, params, x: np.asarray(jax.vmap(functools.partial(predict, x=x))(params))),
    ("08.1", lambda predict, params, x: jax.vmap(predict, ({name: 0 for name in params}, None))(params, x)),
    ("08.1", lambda predict, params, x: list(jax.lax.map(lambda model: predict(model, x), params))),  # one program, too
]
WRONG += [
    ("08.1", lambda predict, params, x: jax.vmap(predict)(params, x), "met one input only"),
    ("08.1", lambda predict, params, x: jax.vmap(predict, (0, None), 1)(params, x), "The inputs stand first"),
    ("08.1", lambda predict, params, x: predict(model(params, 0), x), "first model alone"),
    ("08.1", lambda predict, params, x: predict_closure(predict, params, x).mean(axis=0), "mean over the models"),
    ("08.1", lambda predict, params, x: jax.vmap(predict)(params, x[:, None]), "row r holds model r's outputs"),
    ("08.1", predict_loop, "that is a loop in Python"),
    ("08.1", lambda predict, params, x: predict_loop(jax.jit(predict), params, x), "that is a loop in Python"),
    ("08.1", lambda predict, params, x: predict(model(params, np.s_[:, None]), x), "parameters of all models at once"),
    ("08.1", functools.partial(predict_loop, models=3), "The number of models and of inputs may differ"),
    ("08.1", lambda predict, params, x: jax.vmap(lambda p: np.array(predict(p, x)))(params), "JAX cannot trace this"),
]

# ---- 08.2 a step is a function -----------------------------------------------------------------------------------


def _step(new=lambda p, g, lr: p - lr * g, of=jax.grad, result=lambda params, new: new):
    """A step with its gradient, what is made of it and what is returned to be broken."""

    def step(loss, params, x, y, lr):
        gradient = of(loss)(params, x, y)
        return result(params, jax.tree.map(lambda p, g: new(p, g, lr), params, gradient))

    return step


@right("08.2")
def step_comprehension(loss, params, x, y, lr):
    g = jax.grad(loss)(params, x, y)
    return {layer: {name: p - lr * g[layer][name] for name, p in part.items()} for layer, part in params.items()}


@right("08.2")
def step_optax(loss, params, x, y, lr):
    optimizer = optax.sgd(lr)
    updates, _ = optimizer.update(jax.value_and_grad(loss)(params, x, y)[1], optimizer.init(params))
    return optax.apply_updates(params, updates)


RIGHT.append(("08.2", _step(lambda p, g, lr: jnp.add(p, -g * lr), of=lambda loss: jax.jit(jax.grad(loss)))))


@wrong("08.2", "compute with a whole tree")
def step_tree_as_array(loss, params, x, y, lr):
    return params - lr * jax.grad(loss)(params, x, y)


@wrong("08.2", "writes into the dict")
def step_in_place(loss, params, x, y, lr):
    gradient, new = jax.grad(loss)(params, x, y), dict(params)  # a shallow copy: the inner dicts are the caller's
    for layer in new:
        for name in new[layer]:
            new[layer][name] -= lr * gradient[layer][name]
    return new


WRONG += [
    ("08.2", _step(lambda p, g, lr: p + lr * g), "This goes uphill"),
    ("08.2", _step(lambda p, g, lr: g), "This is the gradient"),
    ("08.2", _step(lambda p, g, lr: -lr * g), "This is the step"),
    ("08.2", _step(lambda p, g, lr: p - g), "The learning rate is missing"),
    ("08.2", _step(lambda p, g, lr: p - lr * jnp.sign(g)), "Expected parameters minus learning rate times gradient"),
    ("08.2", _step(result=lambda old, new: {**old, "first": new["first"]}), "Only the first array moved"),
    ("08.2", _step(result=lambda old, new: {**old, "second": new["second"]}), "Only the last array moved"),
    ("08.2", _step(result=lambda old, new: old), "Nothing moved"),
    ("08.2", _step(result=lambda old, new: (new, 0.5)), "Return the new parameters alone"),
    ("08.2", _step(result=lambda old, new: print(new)), "is there a `return`"),
    ("08.2", _step(result=lambda old, new: jax.tree.leaves(new)), "have another structure than the old ones"),
    ("08.2", _step(of=lambda loss: jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))), "has come back with shape"),
    ("08.2", _step(lambda p, g, lr: p - float(lr) * g), "JAX cannot trace this"),
    ("08.2", _step(lambda p, g, lr: np.asarray(p) - lr * np.asarray(g)), "JAX cannot trace this"),
    ("08.2", _step(lambda p, g, lr: p - 0.1 * g), "Compiled, with learning rate 0.5"),
]

# ---- 08.3 keys that survive a split ------------------------------------------------------------------------------

fold, key = jax.random.fold_in, jax.random.key


def _keys(of, stack=jnp.stack):
    """An answer that makes one key after the other. of: (seed, first, slot) -> key."""
    return lambda seed, first, count: stack([of(seed, first, slot) for slot in range(count)])


RIGHT += [
    ("08.3", _keys(lambda seed, first, slot: fold(key(seed), first + slot))),
    ("08.3", _keys(lambda seed, first, slot: fold(key(first + slot), seed))),
    ("08.3", _keys(lambda seed, first, slot: fold(jax.random.PRNGKey(seed), first + slot), np.array)),
    ("08.3", lambda seed, first, count: jax.vmap(fold, (None, 0))(jax.random.PRNGKey(seed), first + np.arange(count))),
    ("08.3", lambda seed, first, count: jax.vmap(functools.partial(fold, key(seed)))(jnp.arange(first, first + count))),
]
WRONG += [
    ("08.3", lambda seed, first, count: print(key(seed)), "is there a `return`"),
    ("08.3", _keys(lambda seed, first, slot: fold(key(seed), first + slot), list), "makes one array of a list"),
    ("08.3", lambda seed, first, count: fold(key(seed), first), "Expected one key for each repeat"),
    ("08.3", lambda seed, first, count: seed + first + np.arange(count), "Expected one key for each repeat"),
    ("08.3", _keys(lambda seed, first, slot: key(np.random.randint(2**30))), "gave different keys"),
    ("08.3", _keys(lambda seed, first, slot: key(seed)), "six copies of one run"),
    ("08.3", _keys(lambda seed, first, slot: fold(key(seed), (first + slot) // 4)), "Six repeats got only"),
    ("08.3", lambda seed, first, count: jax.random.split(key(seed), count), "`first` is not used"),
    ("08.3", _keys(lambda seed, first, slot: fold(fold(key(seed), first), slot)), "when they are asked for alone"),
    ("08.3", _keys(lambda seed, first, slot: fold(key(0), first + slot)), "Every seed gives the same keys"),
    ("08.3", _keys(lambda seed, first, slot: key(seed + first + slot)), "You make one number of two"),
    ("08.3", _keys(lambda seed, first, slot: key(2 * seed + first + slot)), "You make one number of two"),
]

# ---- 08.4 a task in one call -------------------------------------------------------------------------------------


def _task(body=lambda step, start, p, x, y, rows: step(p, x[rows], y[rows]), result=lambda start, p, found: (p, found)):
    """A scan with what happens in it and what is returned to be broken. start: the parameters that came in."""

    def task(step, params, x, y, order):
        return result(params, *jax.lax.scan(lambda p, rows: body(step, params, p, x, y, rows), params, order))

    return task


def task_fori(step, params, x, y, order, steps=None):
    steps = steps or len(order)

    def body(i, carried):
        params, loss = step(carried[0], x=jnp.take(x, order[i], axis=0), y=y[order[i]])
        return params, carried[1].at[i].set(loss)

    return jax.lax.fori_loop(0, steps, body, (params, jnp.zeros(steps)))


def task_gathered(step, params, x, y, order):
    """All batches cut out beforehand, two steps in each turn of the loop, a list returned."""
    return list(jax.lax.scan(lambda p, batch: step(p, *batch), params, (x[order], y[order]), unroll=2))


RIGHT += [("08.4", task_fori), ("08.4", task_gathered), ("08.4", jit_but_first(_task()))]


def task_loop(step, params, x, y, order):
    losses = []
    for rows in order:
        params, loss = step(params, x[rows], y[rows])
        losses.append(loss)
    return params, jnp.stack(losses)


def task_appends(step, params, x, y, order, losses=list):
    found = []

    def body(params, rows):
        params, loss = step(params, x[rows], y[rows])
        found.append(loss)
        return params, None

    return jax.lax.scan(body, params, order)[0], losses(found)


def _parameters_stacked(step, start, p, x, y, rows):
    new, loss = step(p, x[rows], y[rows])
    return new, (new, loss)


@wrong("08.4", "has not the structure of the parameters")
def task_returns_all_it_carries(step, params, x, y, order):
    def body(carried, _):
        params, i = carried
        params, loss = step(params, x[order[i]], y[order[i]])
        return (params, i + 1), loss

    return jax.lax.scan(body, (params, 0), length=len(order))


WRONG += [
    ("08.4", _task(result=lambda start, p, losses: print(losses)), "is there a `return`"),
    ("08.4", _task(result=lambda start, p, losses: losses), "Return two things"),
    ("08.4", _task(result=lambda start, p, losses: (start, p, losses)), "Return two things"),
    ("08.4", _task(result=lambda start, p, losses: (losses, p)), "two results are exchanged"),
    ("08.4", _task(_parameters_stacked, lambda start, p, found: found), "holds the parameters of every step"),
    ("08.4", _task(result=lambda start, p, losses: (p, losses[-1])), "There is one loss"),
    ("08.4", _task(lambda step, start, p, x, y, rows: step(start, x[rows], y[rows])), "are not carried on"),
    ("08.4", _task(result=lambda start, p, losses: (start, losses)), "are those that came in"),
    ("08.4", _task(lambda step, start, p, x, y, rows: step(p, x[: len(rows)], y[: len(rows)])), "the same first rows"),
    ("08.4", _task(lambda step, start, p, x, y, rows: step(p, x, y)), "Every step has met all images"),
    ("08.4", _task(result=lambda start, p, losses: (p, losses[::-1])), "right and in reverse"),
    ("08.4", _task(_parameters_stacked, lambda start, p, found: (p, found[1] / 2)), "differ from those of a loop"),
    ("08.4", task_loop, "The 40 steps are a loop in Python"),
    ("08.4", lambda *given: task_loop(*given[:-1], np.asarray(given[-1])), "The 40 steps are a loop in Python"),
    ("08.4", lambda step, *given: task_loop(jax.jit(step), *given), "The 40 steps are a loop in Python"),
    ("08.4", functools.partial(task_fori, steps=4), "steps gave losses of shape"),
    ("08.4", task_appends, "A tracer has leaked"),
    ("08.4", functools.partial(task_appends, losses=jnp.stack), "A tracer has leaked"),
    ("08.4", _task(lambda step, start, p, x, y, rows: step(p, np.asarray(x)[rows], y[rows])), "JAX cannot trace this"),
    ("08.4", lambda step, params, *given: _task()(step, {"w": jnp.array(0.0)}, *given), "Compiled, starting from 3"),
]

# ---- 08.5 from one to 32 -----------------------------------------------------------------------------------------


def _grid(in_axes=(0, 1, 1, 0), out_axes=0, compiled=jax.jit, change=lambda *given: given):
    def train_grid(train, params, x, y, order):
        return compiled(jax.vmap(train, in_axes, out_axes))(*change(params, x, y, order))

    return train_grid


def grid_map(train, params, x, y, order):
    """One repeat after the other, in one program."""
    return jax.lax.map(lambda given: train(*given), (params, x.swapaxes(0, 1), y.T, order))


def grid_loop(train, params, x, y, order):
    runs = [train(model(params, r), x[:, r], y[:, r], order[r]) for r in range(len(order))]
    return jax.tree.map(lambda *parts: jnp.stack(parts), *runs)


RIGHT += [
    ("08.5", jit_but_first(grid_map)),
    ("08.5", _grid(0, change=lambda p, x, y, order: (p, jnp.moveaxis(x, 1, 0), y.T, order))),
    ("08.5", _grid(0, change=lambda p, x, y, order: (p, np.asarray(x).swapaxes(0, 1), np.asarray(y).T, order))),
    ("08.5", lambda train, *given: _grid([{"w": 0}, 1, 1, 0], compiled=lambda mapped: mapped)(jax.jit(train), *given)),
]
WRONG += [
    ("08.5", _grid(0), "over axis 0 of x and y"),
    ("08.5", _grid((0, 0, 1, 0)), "over axis 0 of x. Samples"),
    ("08.5", _grid((0, 1, 0, 0)), "over axis 0 of y. Samples"),
    ("08.5", _grid((0, 1, 1, 1)), "over axis 1 of `order`"),
    ("08.5", _grid((0, 1, 1, None), change=lambda p, x, y, order: (p, x, y, order[0])), "used the rows of one"),
    ("08.5", _grid((0, 1, 1, None)), "walked through the rows of all"),
    ("08.5", _grid(out_axes=(0, 1)), "losses have the steps in front"),
    ("08.5", _grid((None, 1, 1, 0)), "expected the repeats in front"),
    ("08.5", lambda train, *given: jax.jit(train)(*given), "differ from the same four one after the other"),
    ("08.5", lambda *given: _grid()(*given)[1], "Return two things"),
    ("08.5", grid_loop, "The 20 repeats are a loop in Python"),
    ("08.5", lambda train, *given: grid_loop(jax.jit(train), *given), "The 20 repeats are a loop in Python"),
    ("08.5", _grid(compiled=lambda function: function), "it is not compiled"),
]

# ---- 08.6 a convolution as a matrix product ----------------------------------------------------------------------

AROUND = ((0, 0), (1, 1), (1, 1), (0, 0))
PLACES = [(i, j) for i in range(3) for j in range(3)]
LAYOUT = ("NHWC", "HWIO", "NHWC")


@right("08.6")
def patches_stacked(x, stride):
    n, height, width, channels = x.shape
    padded = jnp.zeros((n, height + 2, width + 2, channels)).at[:, 1:-1, 1:-1].set(x)
    stacked = jnp.stack([padded[:, i:, j:][:, :height:stride, :width:stride] for i, j in PLACES], axis=3)
    return stacked.reshape(*stacked.shape[:3], 9 * channels)


@right("08.6")
def patches_taken(x, stride):
    """Rows and columns by arrays of indices, and no slice at all."""
    rows, columns = (np.arange(0, side, stride)[:, None] + np.arange(3) for side in x.shape[1:3])
    found = jnp.pad(x, AROUND)[:, rows[:, None, :, None], columns[None, :, None, :]]
    return found.reshape(*found.shape[:3], -1)


@right("08.6")
@functools.partial(jax.jit, static_argnums=1)
def patches_mapped(x, stride):
    """Places by vmap: one gather, no loop."""

    def cut(image, top, left):
        return jax.lax.dynamic_slice(image, (top, left, 0), (3, 3, x.shape[3])).ravel()

    over = jax.vmap(jax.vmap(jax.vmap(cut, (None, None, 0)), (None, 0, None)), (0, None, None))
    return over(jnp.pad(x, AROUND), jnp.arange(0, x.shape[1], stride), jnp.arange(0, x.shape[2], stride))


def _patches(pad=AROUND, places=PLACES, mode="constant", size=lambda side, stride: side, numpy=jnp):
    def patches(x, stride):
        padded = numpy.pad(x, pad, mode=mode)
        height, width = (size(side, stride) for side in x.shape[1:3])
        return jnp.concatenate([padded[:, i : i + height : stride, j : j + width : stride] for i, j in places], axis=-1)

    return patches


def patches_library(x, stride):
    return jax.lax.conv_general_dilated_patches(x, (3, 3), (stride, stride), ((1, 1), (1, 1)), dimension_numbers=LAYOUT)


@wrong("08.6", "There is a convolution in it")
def patches_library_sorted(x, stride):
    found = patches_library(x, stride)
    return found.reshape(*found.shape[:3], x.shape[3], 9).swapaxes(3, 4).reshape(found.shape)


@wrong("08.6", "There is a loop over places")
def patches_one_by_one(x, stride):
    padded, (rows, columns) = jnp.pad(x, AROUND), (range(0, side, stride) for side in x.shape[1:3])
    cut = [[padded[:, i : i + 3, j : j + 3].reshape(len(x), -1) for j in columns] for i in rows]
    return jnp.stack([jnp.stack(row, axis=1) for row in cut], axis=1)


@wrong("08.6", "There is a loop over places")
def patches_scanned(x, stride):
    padded, (height, width) = jnp.pad(x, AROUND), (-(-side // stride) for side in x.shape[1:3])

    def cut(place):
        row, column = stride * (place // width), stride * (place % width)
        return jax.lax.dynamic_slice(padded, (0, row, column, 0), (len(x), 3, 3, x.shape[3])).reshape(len(x), -1)

    return jnp.moveaxis(jax.lax.map(cut, jnp.arange(height * width)), 0, 1).reshape(len(x), height, width, -1)


@wrong("08.6", "the patches times the kernel are not")
def patches_numbered(x, stride):
    """Pixels by their number in the padded image, counted in rows as long as the image is *high*."""
    n, height, width, channels = x.shape
    pixels = jnp.pad(x, AROUND).reshape(n, -1, channels)
    first = np.arange(0, height, stride)[:, None] * (height + 2) + np.arange(0, width, stride)
    return jnp.concatenate([pixels[:, first + i * (height + 2) + j] for i, j in PLACES], axis=-1)


WRONG += [
    ("08.6", _patches(((0, 0),) * 4, size=lambda side, stride: side - 2), "the border is missing"),
    ("08.6", lambda x, stride: _patches()(x, 1), "yours are all there"),
    ("08.6", lambda x, stride: _patches()(x, stride).reshape(*x.shape[:3], 9, -1), "for every place."),
    ("08.6", patches_library, "channels of one pixel stand together"),
    ("08.6", _patches(places=[(i, j) for j, i in PLACES]), "Rows and columns of a patch are exchanged"),
    ("08.6", _patches(((0, 0), (0, 2), (0, 2), (0, 0))), "too far down and to the right"),
    ("08.6", _patches(((0, 0), (2, 0), (2, 0), (0, 0))), "too far up and to the left"),
    ("08.6", _patches(places=PLACES[::-1]), "turned by half a turn"),
    ("08.6", _patches(places=[(2 - i, j) for i, j in PLACES]), "Each patch has the right pixels, in another order"),
    ("08.6", _patches(mode="edge"), "other pixels than those under a 3x3 kernel"),
    ("08.6", _patches(size=lambda side, stride: side // stride * stride), "Images of 7 x 5 pixels at stride"),
    ("08.6", _patches(numpy=np), "JAX cannot trace this"),
]

# ---- 08.7 how sure are R repeats? --------------------------------------------------------------------------------

t = scipy.stats.t.ppf


def _interval(
    numbers=lambda first, second: (first - second).mean(axis=0),
    factor=lambda n: t(0.975, n - 1),
    spread=lambda d: d.std(ddof=1) / np.sqrt(d.size),
    result=lambda mean, half: (mean, mean - half, mean + half),
):
    """An interval with any of its parts to be replaced."""

    def interval(first, second):
        d = numbers(first, second)
        return result(d.mean(), factor(d.size) * spread(d))

    return interval


def _of_a_test(test):
    def interval(first, second):
        found = test(first.mean(axis=0), second.mean(axis=0))
        return [(first - second).mean(), *found.confidence_interval(0.95)]

    return interval


RIGHT += [
    ("08.7", _of_a_test(scipy.stats.ttest_rel)),
    ("08.7", _interval(spread=scipy.stats.sem, result=lambda mean, half: mean + half * np.array([0, -1, 1]))),
    ("08.7", _interval(lambda a, b: (jnp.array(a) - jnp.array(b)).mean(axis=0))),  # in float32
    (
        "08.7",
        _interval(lambda a, b: torch.tensor(a - b).mean(dim=0), lambda n: t(0.975, 4), lambda d: d.std() / 5**0.5),
    ),
]


@wrong("08.7", "Take the difference within each repeat first")
def interval_of_unrelated(first, second):
    a, b = first.mean(axis=0), second.mean(axis=0)
    half = t(0.975, len(a) - 1) * np.hypot(scipy.stats.sem(a), scipy.stats.sem(b))
    return (a - b).mean(), (a - b).mean() - half, (a - b).mean() + half


WRONG += [
    ("08.7", _interval(lambda a, b: (a - b).ravel()), "The tasks of a repeat share one network"),
    ("08.7", _interval(lambda a, b: (a - b).ravel(), lambda n: 1.96), "and 1.96 is the normal distribution's"),
    ("08.7", _interval(lambda a, b: (a - b).mean(axis=1)), "The spread is that over tasks"),
    ("08.7", _of_a_test(scipy.stats.ttest_ind), "and most of the spread is gone"),
    ("08.7", _interval(factor=lambda n: 1, spread=lambda d: d.std(ddof=1)), "where single repeats lie"),
    ("08.7", _interval(factor=lambda n: 1), "plus and minus one standard error"),
    ("08.7", _interval(spread=lambda d: d.std() / np.sqrt(len(d))), "`ddof=1`"),
    ("08.7", _interval(factor=lambda n: 1.96), "1.96 is for a spread that is known"),
    ("08.7", _interval(factor=lambda n: t(0.975, n)), "= 4 degrees of freedom here"),
    # Degrees of freedom of two groups, counted on the wrong axis: 6 tasks - 2.
    ("08.7", lambda a, b: _interval(factor=lambda n: t(0.975, len(a) - 2))(a, b), "Ten copies of the same tasks"),
    ("08.7", _interval(factor=lambda n: t(0.95, n - 1)), "leaves 5 % on each side"),
    ("08.7", lambda first, second: _of_a_test(scipy.stats.ttest_rel)(second, first), "The sign is turned"),
    ("08.7", _interval(lambda a, b: np.array((a - b).mean())), "The interval has no width, or is NaN"),
    ("08.7", _interval(spread=lambda d: d.mean().std()), "The interval has no width, or is NaN"),
    ("08.7", _interval(result=lambda mean, half: (mean, half)), "Return three numbers"),
    ("08.7", _interval(result=lambda mean, half: (mean - half, mean, mean + half)), "each a mean over its tasks"),
]

# ---- 08.8 shrink and perturb -------------------------------------------------------------------------------------


def _perturb(new, result=lambda tree: tree):
    return lambda params, fresh, s, p: result(jax.tree.map(lambda a, b: new(a, b, s, p), params, fresh))


@right("08.8")
def perturb_comprehension(params, fresh, shrink, perturb):
    return {
        layer: {name: old - shrink * old + perturb * fresh[layer][name] for name, old in part.items()}
        for layer, part in params.items()
    }


def perturb_flat(params, fresh, shrink, perturb):
    flat, back = ravel_pytree(params)
    return back(flat * (1 - shrink) + perturb * ravel_pytree(fresh)[0])


RIGHT += [
    ("08.8", perturb_flat),
    ("08.8", jax.jit(_perturb(lambda a, b, s, p: jnp.subtract(a, s * a) + p * b))),
    ("08.8", _perturb(lambda a, b, s, p: np.asarray(a) * (1 - s) + np.asarray(b) * p)),
]
WRONG += [
    ("08.8", _perturb(lambda a, b, s, p: s * a + p * b), "are multiplied by `shrink`"),
    ("08.8", _perturb(lambda a, b, s, p: a + p * b), "Nothing shrinks"),
    ("08.8", _perturb(lambda a, b, s, p: (1 - s) * a), "Nothing is perturbed"),
    ("08.8", _perturb(lambda a, b, s, p: (1 - s) * (a + p * b)), "The sum is shrunk"),
    ("08.8", _perturb(lambda a, b, s, p: (1 - s) * a + s * b), "`perturb` is not used"),
    ("08.8", _perturb(lambda a, b, s, p: (1 - p) * a + p * b), "This mixes with 1 - perturb"),
    ("08.8", _perturb(lambda a, b, s, p: (1 - s) * b + p * a), "Old and fresh weights are exchanged"),
    ("08.8", _perturb(lambda a, b, s, p: (1 - p) * a + s * b), "Expected (1 - shrink) * old + perturb * fresh"),
    ("08.8", _perturb(lambda a, b, s, p: (1 - s) * a + p * b, jax.tree.leaves), "another structure than the weights"),
    ("08.8", _perturb(lambda a, b, s, p: (1 - s) * a + p * b, print), "is there a `return`"),
]

# ---- 08.9 effective rank -----------------------------------------------------------------------------------------


def singular(features):
    return np.linalg.svd(features, compute_uv=False)


def plain_entropy(p):
    return -(p * np.log(p)).sum()


def _rank(values=singular, shares=lambda s: s / s.sum(), entropy=lambda p: plain_entropy(p[p > 0]), result=np.exp):
    return lambda features: result(entropy(shares(values(features))))


RIGHT += [
    ("08.9", _rank(lambda f: np.sqrt(np.clip(np.linalg.eigvalsh(f.T @ f), 0, None)))),  # of the Gram matrix
    ("08.9", _rank(entropy=scipy.stats.entropy)),
    ("08.9", _rank(lambda features: jnp.linalg.svd(jnp.array(features))[1])),  # in float32
    ("08.9", _rank(lambda features: torch.linalg.svdvals(torch.tensor(features)).numpy())),
    ("08.9", _rank(entropy=lambda p: -(p * np.log2(p + 1e-12)).sum(), result=np.exp2)),
]


@wrong("08.9", "All images give the same features")
def rank_leaves_out_silent_units(features):
    """Units are left out where directions should be; the rest is rounded."""
    return _rank(shares=lambda s: np.round(s / s.sum(), 6), entropy=plain_entropy)(features[:, features.any(axis=0)])


WRONG += [
    ("08.9", _rank(result=lambda entropy: entropy), "This is the entropy"),
    ("08.9", _rank(lambda features: singular(features) ** 2), "*squared* singular values"),
    ("08.9", _rank(shares=lambda s: s), "are not divided by their sum"),
    ("08.9", _rank(result=lambda entropy: np.exp(-entropy)), "exponential of minus the entropy"),
    ("08.9", _rank(entropy=lambda p: scipy.stats.entropy(p, base=2)), "base 2 and the exponential to the base e"),
    ("08.9", np.linalg.matrix_rank, "This counts singular values that are not zero"),
    ("08.9", lambda features: (singular(features) ** 2).sum() / singular(features)[0] ** 2, "the stable rank"),
    ("08.9", _rank(shares=lambda s: s / s.max()), "shares are those of the largest"),
    ("08.9", _rank(entropy=lambda p: (p**2).sum(), result=lambda total: 1 / total), "1 over the sum of squared shares"),
    ("08.9", _rank(lambda features: singular(features - features.mean(axis=0))), "Expected exp of the entropy"),
    ("08.9", _rank(entropy=lambda p: -p * np.log(p)), "Return one number"),
    ("08.9", _rank(result=print), "is there a `return`"),
    ("08.9", _rank(entropy=plain_entropy), "0 log 0 is 0"),
    ("08.9", _rank(entropy=plain_entropy, result=lambda h: np.nan_to_num(np.exp(h))), "Two units that speak"),
    ("08.9", jax.jit(_rank(jnp.linalg.svdvals, entropy=lambda p: -(p * jnp.log(p))[p > 0].sum())), "JAX cannot trace"),
]

# ---- 08.10 a grid on a budget ------------------------------------------------------------------------------------

SETTINGS = {
    "data": "tiny_imagenet_gray", "num_tasks": 50, "steps_per_task": 300, "num_repeats": 32, "log_frequency": 300,
    "eval_tasks": 5, "representations": "last",
}  # fmt: skip


def _design(**changes):
    return lambda: grid.GridConfig(**(SETTINGS | changes))


RIGHT += [
    ("08.10", _design(num_repeats=27, representations="log")),
    ("08.10", _design(num_repeats=40, eval_tasks=2, devices=4, convolution="lax")),
    ("08.10", _design(num_repeats=27, log_frequency=150, eval_tasks=1, subsamples=10)),
    ("08.10", _design(num_repeats=28, eval_tasks=0, subsamples=20, first_repeat=32, seed=3)),
    ("08.10", _design(representations="all", repeat_axis="map", preload=False, lr=0.1)),
]
WRONG += [
    ("08.10", lambda: print(grid.GridConfig(**SETTINGS)), "is there a `return`"),
    ("08.10", lambda: dict(SETTINGS), "Return a `grid.GridConfig`"),
    ("08.10", _design(num_repeats=26.1), "GridConfig refuses this"),
    ("08.10", _design(log_frequency=50 * 300), "GridConfig refuses this"),
    ("08.10", _design(steps_per_task=100, log_frequency=100), "The question is fixed"),
    ("08.10", _design(data="glyphs"), "The question is fixed"),
    ("08.10", _design(pl=True), "The grid is for SL alone"),
    ("08.10", _design(num_repeats=1), "One repeat has no spread"),
    ("08.10", _design(num_repeats=25), "repeats the interval is"),  # enough by 1.96 * 2.5 / sqrt(25)
    ("08.10", _design(num_repeats=100, eval_tasks=1), "repeats are sure enough"),
    ("08.10", _design(expert=False), "Without the expert"),
    ("08.10", _design(representations="none"), "Dormant units and ranks are read from representations"),
    ("08.10", _design(log_frequency=299), "the end of a task is not logged"),
    ("08.10", _design(log_frequency=30), "repeats, log points per task"),
    ("08.10", _design(eval_tasks=0), "the representations on"),
]

# ---- the tests ---------------------------------------------------------------------------------------------------

TASKS = exercise.of_lesson("08")


@pytest.mark.parametrize(("identifier", "answer", "fragment"), WRONG, ids=case_names(WRONG))
def test_a_wrong_answer_meets_its_own_message(identifier, answer, fragment):
    assert_its_own_message(identifier, answer, fragment, WRONG)


@pytest.mark.parametrize(("identifier", "answer"), RIGHT, ids=case_names(RIGHT))
def test_a_right_variant_passes(identifier, answer):
    assert_full_points(identifier, answer)


def test_every_exercise_has_four_wrong_answers_and_three_right_ones():
    assert len(TASKS) == 10 and sum(task.points for task in TASKS.values()) == 20
    for identifier in TASKS:
        assert len({text for number, _, text in WRONG if number == identifier}) >= 4
        assert sum(number == identifier for number, _ in RIGHT) >= 3


def written_messages(program: ast.AST):
    """The fixed words of all sentences in the checks: texts of four words or more, without docstrings and the cards."""
    if isinstance(program, ast.Constant) and isinstance(program.value, str) and program.value.count(" ") > 2:
        yield program.value
    elif isinstance(program, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in program.values)
    elif not (isinstance(program, ast.Assign) and ast.unparse(program.targets[0]) == "EXERCISES"):
        for part in ast.iter_child_nodes(program):
            if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)):
                yield from written_messages(part)


def test_every_message_is_met_by_a_wrong_answer():
    around_others = ["is the same run as repeat", "It would write"]
    fragments = [fragment for _, _, fragment in WRONG] + around_others
    for path in (ROOT / "course_utils/lessons/exercises").glob("lesson_08_*.py"):
        for message in written_messages(ast.parse(path.read_text(encoding="utf-8"))):
            if message.count(" ") > 2:
                assert any(fragment in message for fragment in fragments), f"{path.name}: no wrong answer for {message}"


LONG = [
    ("08.2", _step(lambda p, g, lr: p - float(lr) * g)),
    ("08.4", _task(lambda step, start, p, x, y, rows: step(p, x[rows], y[rows])[::-1])),
    ("08.5", _grid(0)),
    ("08.5", _grid((0, 1, 1, 3))),
]


@pytest.mark.parametrize(("identifier", "answer"), LONG, ids=case_names(LONG))
def test_an_error_of_jax_comes_out_in_a_few_lines(identifier, answer):
    report = checking.examine(TASKS[identifier], answer)
    messages = [outcome.message for outcome in report.outcomes]
    assert any("Your function stopped in line" in message for message in messages)  # the place in the student's cell
    assert all(len(message.splitlines()) <= 4 and "docs.jax.dev" not in message for message in messages), messages


@pytest.mark.parametrize("identifier", TASKS)
def test_a_blank_answer_is_not_attempted(identifier):
    def blank(*arguments):
        raise NotImplementedError(f"Exercise {identifier}: …")

    report = checking.examine(TASKS[identifier], blank)
    assert (report.status, report.points) == ("not attempted", 0)


def keys_of_the_grid(seed, first, count):
    return grid_data.repeat_keys(grid.GridConfig(seed=seed, first_repeat=first, num_repeats=count))


def patches_of_the_grid(x, stride):
    channels = x.shape[3]
    every_pixel = jnp.eye(9 * channels).reshape(3, 3, channels, -1)
    return convolution.patches(x, every_pixel, (stride, stride), ((1, 1), (1, 1)))


CALLS = [(identifier, lambda *given, task=task: task.solution()(*given)) for identifier, task in TASKS.items()] + [
    ("08.3", keys_of_the_grid),
    ("08.6", patches_of_the_grid),
    ("08.9", _rank(plasticity.spectrum)),
]


@pytest.mark.parametrize(("identifier", "answer"), CALLS, ids=case_names(CALLS))
def test_calling_the_packages_own_is_refused(identifier, answer):
    report = checking.examine(TASKS[identifier], answer)
    assert (report.status, report.points) == ("refused", 0)


@pytest.mark.parametrize("identifier", TASKS)
def test_the_reference_meets_every_criterion(identifier):
    for criterion in TASKS[identifier].criteria:
        criterion.function(TASKS[identifier].solution())


@pytest.mark.parametrize("identifier", TASKS)
def test_a_check_writes_nothing_to_the_standard_error_stream(identifier, capfd):
    for answers in (WRONG, RIGHT):
        checking.check(identifier, next(answer for number, answer, *_ in answers if number == identifier))
    checking.forget()
    output = capfd.readouterr()
    assert output.err == "" and "passed" in output.out
