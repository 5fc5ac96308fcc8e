"""Lesson 03, exercises 03.4 and 03.7: two more importances, along the way (SI) and without labels (MAS)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from course_utils.lessons.exercise import Criterion, Exercise, Wrong, close, diagnose, to_array
from course_utils.lessons.exercises.lesson_03_networks import flat, image_gradients, leaves_the_network_alone

Array = NDArray[np.float64]

# ---- 03.4 the path integral ----------------------------------------------------------------------------------------


def si_importance(gradients: Array, weights: Array, damping: float) -> Array:
    """Synaptic Intelligence's importance `(params,)` of the weights of one task.

    Args:
        gradients: `(steps, params)` of the task's loss, row k at `weights[k]`.
        weights: `(steps + 1, params)`; the first row before step 1.
        damping: xi, more than 0.

    Source: Zenke, Poole & Ganguli 2017, eq. 3 to 5. Built in lesson 03, exercise 03.4.
    """
    credit = -(gradients * np.diff(weights, axis=0)).sum(axis=0)
    return np.asarray(np.maximum(credit, 0) / ((weights[-1] - weights[0]) ** 2 + damping))


def _walk() -> tuple[Array, Array]:
    """A path of 12 steps of 4 weights; downhill on the whole for the first three, uphill for the last."""
    rng = np.random.default_rng(6)
    moves = rng.normal(size=(12, 4))
    weights = np.concatenate([np.zeros((1, 4)), np.cumsum(moves, axis=0)]) + rng.normal(size=4)
    gradients = -moves * np.array([1.0, 0.4, 2.0, -0.7]) + 0.5 * rng.normal(size=(12, 4))
    return gradients, weights


def _credit(answer: Callable[..., Any]) -> None:
    gradients, weights = (part[..., :3] for part in _walk())  # the three weights that earn credit
    xi = 0.3
    moves, moved = np.diff(weights, axis=0), weights[-1] - weights[0]
    path = -(gradients * moves).sum(axis=0)
    bottom = moved**2 + xi
    squares = gradients**2
    actual = answer(gradients.copy(), weights.copy(), xi)
    diagnose(
        actual,
        {
            "All zero. Either the sign is wrong, so that every credit was cut off at zero: downhill, gradient and step point "
            "against each other, and the minus makes it a credit. Or your steps are zero: an `old` that is only another "
            "name (or a view) of the weights moves along with them, so new minus old is always 0. "
            "Public code of SI has had that bug.": np.zeros(3),
            "The sign is wrong: a weight that took the loss down gets a negative importance. Downhill, gradient and step "
            "point against each other; the minus makes it a credit.": -path / bottom,
            "You add up squared gradients, as the Fisher does. The path integral multiplies each gradient with the step that "
            "was taken there.": squares.sum(axis=0) / bottom,
            "You average squared gradients, as the Fisher does. The path integral multiplies each gradient with the step that "
            "was taken there.": squares.mean(axis=0) / bottom,
            "You multiply the summed gradient with the whole way. The sum comes after the product: every gradient belongs "
            "to its own step.": np.maximum(-gradients.sum(axis=0) * moved, 0) / bottom,
            "You multiply each gradient with the step before it. Row k of `gradients` belongs to the step from `weights[k]` "
            "to `weights[k + 1]`.": np.maximum(-(gradients[1:] * moves[:-1]).sum(axis=0), 0) / bottom,
            "You multiply the gradient with the weight instead of the step that the weight took.": np.maximum(
                -(gradients * weights[:-1]).sum(axis=0), 0
            )
            / bottom,
            "You sum over the weights as well, so all of them get the credit of all. Keep one sum for each weight: "
            "`axis=0`.": path.sum() / bottom,
            "You average over the steps. The credit is a sum: twice as many steps take twice as much loss away.": path
            / len(moves)
            / bottom,
            "You cut off every uphill step. Steps that raised the loss count against the weight: sum first, and cut off what "
            "is left.": np.maximum(-gradients * moves, 0).sum(axis=0) / bottom,
            "You count uphill steps as credit, too: the absolute value must not stand inside the sum.": np.abs(
                gradients * moves
            ).sum(axis=0)
            / bottom,
            "The way is not squared in the denominator. Loss over way squared is a curvature, which is what the penalty "
            "needs.": path / (np.abs(moved) + xi),
            "The way is not squared in the denominator, so a weight that went down divides by a negative number. Loss over "
            "way squared is a curvature.": path / (moved + xi),
            "You divide by the length of the path, every step there and back. What counts is how far the weight is from its "
            "start at the end: `weights[-1] - weights[0]`.": path / (np.abs(moves).sum(axis=0) ** 2 + xi),
            "You divide by the sum of the squared steps. What counts is how far the weight is from its start at the end: "
            "`weights[-1] - weights[0]`.": path / ((moves**2).sum(axis=0) + xi),
            "The damping stands outside the fraction. It belongs into the denominator, where it keeps a weight that did not "
            "move from dividing by zero.": path / moved**2 + xi,
            "The damping multiplies the denominator. It is added: a weight that did not move must not divide by "
            "zero.": path / (moved**2 * xi),
            "The damping is not there: a weight that did not move divides by zero.": path / moved**2,
            "The damping is squared together with the way. Square the way, then add the damping.": path
            / (moved + xi) ** 2,
            "You do not divide. This is the loss that each weight took away; over the squared way it becomes a "
            "curvature.": path,
        },
        expected=path / bottom,
    )
    close(actual, path / bottom, "Expected `max(0, -sum g (w_new - w_old)) / ((w_end - w_start)^2 + damping)`.")


def _never_negative(answer: Callable[..., Any]) -> None:
    gradients, weights = _walk()
    xi = 0.3
    path = -(gradients * np.diff(weights, axis=0)).sum(axis=0)  # the last is negative
    bottom = (weights[-1] - weights[0]) ** 2 + xi
    actual = to_array(answer(gradients.copy(), weights.copy(), xi))
    if actual.shape != (4,):
        raise Wrong(f"Your result has shape {actual.shape}, expected (4,): one number for each weight.")
    if (actual[:3] < 0).all():
        raise Wrong(
            "Weights that took loss away get a negative importance: the sign is wrong. Step and gradient point apart."
        )
    if np.isclose(actual[3], np.abs(path[3]) / bottom[3]):
        raise Wrong(
            "The fourth weight raised the loss, and gets a positive importance: that is an absolute value. Weights that did "
            "harm are not worth protecting: `np.maximum(..., 0)`."
        )
    if (actual < 0).any():
        raise Wrong(
            f"An importance is negative ({actual.min():.3g}): the penalty would push that weight *away* from its anchor, "
            "without end. Cut off at zero: `np.maximum(..., 0)`."
        )
    if actual[3] != 0:
        raise Wrong(
            f"The fourth weight raised the loss over its path: its importance is 0, you return {actual[3]:.3g}."
        )


def _adds_up(answer: Callable[..., Any]) -> None:
    """Small steps down a bowl: the credits of all weights together are the drop of the loss."""
    curvature, w = np.array([4.0, 1.0, 0.25]), np.array([2.0, -1.0, 3.0])
    path = [w]
    for _ in range(300):
        path.append(path[-1] - 0.01 * curvature * path[-1])
    weights, xi = np.array(path), 0.05
    drop = 0.5 * (curvature * (weights[0] ** 2 - weights[-1] ** 2)).sum()
    result = to_array(answer(curvature * weights[:-1], weights.copy(), xi))
    credits = float((result * ((weights[-1] - weights[0]) ** 2 + xi)).sum())
    if abs(credits - drop) > 0.03 * drop:
        raise Wrong(
            f"Going down a bowl in small steps, the loss fell by {drop:.2f}, but the credits of all weights add up to "
            f"{credits:.2f} (importance times denominator). The path integral leaves nothing of the drop over."
        )


PATH_INTEGRAL = Exercise(
    id="03.4",
    title="The path integral",
    difficulty=3,
    minutes=15,
    points=2,
    reference=si_importance,
    forbidden=("course_utils.methods.si:SI",),
    criteria=[
        Criterion("credit for the loss taken away, over the squared way", _credit, share=2),
        Criterion("never negative", _never_negative),
        Criterion("the credits of all weights add up to the drop of the loss", _adds_up),
    ],
    hints=(
        "In one small step the loss changes by gradient times step. Which sign has that product when the loss falls?",
        "There are two different ways in it. On top, every step with its own gradient; below, only from the first row of "
        "`weights` to the last.",
        "`steps = weights[1:] - weights[:-1]`, `credit = -(gradients * steps).sum(axis=0)`. Divide `np.maximum(credit, 0)` "
        "by `(weights[-1] - weights[0]) ** 2 + damping`.",
    ),
)

# ---- 03.7 MAS ------------------------------------------------------------------------------------------------------


def mas_importance(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Memory Aware Synapses: the mean over images of |d ||f(x)||^2 / d weight|, in eval mode.

    Args:
        model: gives outputs `(n, outputs)`; left in the mode in which it comes.
        x: `(n, ...)` images. No labels.

    Returns:
        name -> tensor of the parameter's shape.

    Source: Aljundi et al. 2018, eq. 2 and 4. Built in lesson 03, exercise 03.7.
    """
    training = model.training
    model.eval()
    parameters = dict(model.named_parameters())
    importance = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for image in x:
        gradients = torch.autograd.grad(model(image[None]).square().sum(), list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            importance[name] += gradient.abs() / len(x)
    model.train(training)
    return importance


def _sensitivity(answer: Callable[..., Any]) -> None:
    torch.manual_seed(21)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).eval(), 2 * torch.randn(6, 3)

    def of(function: Callable[[Tensor], Tensor]) -> Array:  # (n, parameters)
        return image_gradients(model, x, function)

    g = of(lambda out: out.square().sum())
    guess = "You use a loss with the predicted class as its label. MAS needs no label at all: it asks how far the outputs move."
    mistakes = {
        "The absolute value stands outside the mean: you take it of the batch's gradient, in which images have cancelled. "
        "Take it image by image.": np.abs(g.mean(axis=0)),
        "The absolute value stands outside the sum: you take it of the gradient of all images together, in which images have "
        "cancelled. Take it image by image, then the mean.": np.abs(g.sum(axis=0)),
        "You square the gradient, as the Fisher does. MAS takes its absolute value.": (g**2).mean(axis=0),
        "There is no absolute value: positive and negative gradients cancel, and an importance can be negative.": g.mean(
            axis=0
        ),
        "This is the gradient of the norm. MAS takes the *squared* norm, `out.square().sum()`.": np.abs(
            of(lambda out: out.norm())
        ).mean(axis=0),
        "You sum over the images: the importance then grows with the data set. Take the mean.": np.abs(g).sum(axis=0),
        "You take the mean over the outputs; the squared norm is their sum of squares.": np.abs(g).mean(axis=0) / 3,
        "You halve the squared norm.": np.abs(g).mean(axis=0) / 2,
        "You differentiate the largest output. The squared norm asks all outputs.": np.abs(
            of(lambda out: out.max())
        ).mean(axis=0),
        "You differentiate the sum of the outputs. There outputs that grow and outputs that shrink cancel: square them "
        "first.": np.abs(of(lambda out: out.sum())).mean(axis=0),
        "You put a softmax in front. MAS takes the outputs as they are, the logits.": np.abs(
            of(lambda out: out.softmax(dim=1).square().sum())
        ).mean(axis=0),
        guess: np.abs(of(lambda out: -out.log_softmax(dim=1).max())).mean(axis=0),
        "You never clear the gradients: `backward()` adds each image's gradient to those of the images before. "
        "Use `model.zero_grad()` before every image, or `torch.autograd.grad`.": np.abs(np.cumsum(g, axis=0)).mean(
            axis=0
        ),
        "Only the last image counts: every turn of the loop overwrites the one before. Add with `+=`.": np.abs(g[-1]),
    }
    actual = flat(answer(model, x), model, len(x))
    diagnose(actual, mistakes, expected=np.abs(g).mean(axis=0), rtol=1e-3, atol=1e-5)
    text = "Expected the mean over images of |gradient of the squared norm of the output|."
    close(actual, np.abs(g).mean(axis=0), text, rtol=1e-3, atol=1e-5)


SENSITIVITY = Exercise(
    id="03.7",
    title="MAS",
    difficulty=2,
    minutes=15,
    points=2,
    reference=mas_importance,
    forbidden=("course_utils.methods.mas:MAS", "course_utils.methods.fisher:per_sample_gradients"),
    criteria=[
        Criterion("the mean over images of the gradient's absolute value", _sensitivity, share=2),
        Criterion("measured in eval mode; the network stays as it was", leaves_the_network_alone),
    ],
    hints=(
        "It is your Fisher with two changes: what is differentiated, and what stands in the place of the square.",
        "For each image: the gradient of the squared norm of its output for all parameters, then its absolute value. The mean "
        "comes last.",
        "`torch.autograd.grad(model(image[None]).square().sum(), list(model.parameters()))` for one image. Add "
        "`gradient.abs() / len(x)` to each entry. `model.eval()` before, `model.train(training)` after.",
    ),
)
