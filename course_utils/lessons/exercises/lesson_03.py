"""Lesson 03, exercises 03.1 and 03.2: the minimum of a protected task, and the quadratic penalty.

The other five stand in `lesson_03_fisher.py`, `lesson_03_importance.py` and `lesson_03_limits.py`; `EXERCISES` has all
seven.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from course_utils.lessons.exercise import Criterion, Exercise, Wrong, close, diagnose, to_array
from course_utils.lessons.exercises import lesson_03_fisher, lesson_03_importance, lesson_03_limits

Array = NDArray[np.float64]
Weights = dict[str, Tensor]

# ---- 03.1 a penalty by hand ----------------------------------------------------------------------------------------


def ewc_minimum(hessian_b: Array, centre_b: Array, fisher_a: Array, centre_a: Array, strength: float) -> Array:
    """The weights with the lowest `1/2 (w - c_b)^T H_b (w - c_b) + strength/2 * sum F_a (w - c_a)^2`.

    Args:
        hessian_b: `(2, 2)` curvature of task B's loss. `centre_b`: `(2,)` its minimum.
        fisher_a: `(2,)` importances for task A. `centre_a`: `(2,)` the weights after A.
        strength: lambda, at least 0.

    Returns:
        `(2,)`.

    Built in lesson 03, exercise 03.1.
    """
    pull = strength * np.diag(fisher_a)
    return np.asarray(np.linalg.solve(hessian_b + pull, hessian_b @ centre_b + pull @ centre_a))


_SYSTEM = "Set the derivative to zero: `H_b (w - c_b) + strength * F_a (w - c_a) = 0`, and solve it for w."


def _minimum(answer: Callable[..., Any]) -> None:
    H, b = np.array([[2.0, 0.8], [0.8, 1.0]]), np.array([3.0, -1.0])
    fisher, a, strength = np.array([0.5, 2.0]), np.array([-1.0, 2.0]), 4.0
    F, solve = np.diag(fisher), np.linalg.solve
    steep = np.diag(H)
    expected = solve(H + strength * F, H @ b + strength * F @ a)
    actual = answer(H, b, fisher, a, strength)
    diagnose(
        actual,
        {
            "The strength is in the matrix, but not on the right-hand side: you hold the weights harder, and hold them to "
            "the wrong place. Every `F_a` stands with its strength, also in front of `c_a`.": solve(
                H + strength * F, H @ b + F @ a
            ),
            "The strength is on the right-hand side, but not in the matrix. Every `F_a` stands with its strength, also "
            "where it multiplies w.": solve(H + F, H @ b + strength * F @ a),
            "The strength has no effect in your formula: this is the minimum at strength 1.": solve(
                H + F, H @ b + F @ a
            ),
            "Your strength is twice what was asked. Both terms carry a factor 1/2, and the derivative of each square brings "
            "a 2: they cancel in the penalty as they do in the loss.": solve(
                H + 2 * strength * F, H @ b + 2 * strength * F @ a
            ),
            "Your strength is half of what was asked. The derivative of `strength/2 * F (w - c)^2` is "
            "`strength * F (w - c)`: the 1/2 is gone.": solve(H + strength / 2 * F, H @ b + strength / 2 * F @ a),
            "This is the mean of the two centres. Each task pulls with its curvature, and the steeper one wins.": (
                a + b
            )
            / 2,
            "All weights are held equally hard: this is the L2 penalty. `fisher_a` says which weight matters to task A.": solve(
                H + strength * np.eye(2), H @ b + strength * a
            ),
            "You divide element by element, so you use only the diagonal of H_b. Its other entries couple the two weights: "
            "moving one shifts the best place of the other. Solve a linear system.": (steep * b + strength * fisher * a)
            / (steep + strength * fisher),
            "The right-hand side is right, but then you divide element by element. Its matrix is not diagonal: "
            "use `np.linalg.solve`.": (H @ b + strength * fisher * a) / (steep + strength * fisher),
            "`H_b + fisher_a` adds the vector to every row of the matrix. The importances belong on the diagonal: "
            "`np.diag(fisher_a)`.": solve(H + strength * fisher, H @ b + strength * fisher * a),
            "The centres are swapped: task B's curvature pulls towards task A's centre.": solve(
                H + strength * F, H @ a + strength * F @ b
            ),
            "This is the minimum of task B alone: what fine-tuning finds. The penalty pulls it towards task A.": b,
            "These are the weights of task A: nothing was learned of task B.": a,
        },
        expected=expected,
    )
    close(actual, expected, _SYSTEM)


def _no_strength_and_much(answer: Callable[..., Any]) -> None:
    H, b, fisher, a = (
        np.array([[1.0, -0.6], [-0.6, 2.0]]),
        np.array([2.0, 1.0]),
        np.array([3.0, 0.2]),
        np.array([0.0, -1]),
    )
    close(answer(H, b, fisher, a, 0.0), b, "At strength 0 there is no penalty: task B's own minimum is the answer.")
    close(answer(H, b, fisher, a, 1e9), a, "At a huge strength the weights stay where task A left them.", atol=1e-4)
    # Without importance the first weight is free: it goes to the best place that the second one leaves it.
    free = np.array([b[0] - H[0, 1] / H[0, 0] * (a[1] - b[1]), a[1]])
    actual = answer(H, b, np.array([0.0, 1.0]), a, 1e9)
    close(actual, free, "A weight of importance 0 is free: only task B decides about it.", atol=1e-4)


def _flat_at_the_answer(answer: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    for strength in (0.3, 1.0, 25.0):
        root = rng.normal(size=(2, 2))
        H, b, a, fisher = (
            root @ root.T + 0.1 * np.eye(2),
            rng.normal(size=2),
            rng.normal(size=2),
            rng.uniform(0.1, 2, 2),
        )
        w = to_array(answer(H, b, fisher, a, strength))
        if w.shape != (2,):
            raise Wrong(f"Your result has shape {w.shape}, expected (2,): one number for each weight.")
        slope = H @ (w - b) + strength * fisher * (w - a)
        if np.abs(slope).max() > 1e-6:
            raise Wrong(
                f"At a minimum the derivative is zero. At your answer it is {slope.round(3).tolist()} "
                f"(strength {strength:g}). {_SYSTEM}"
            )


# ---- 03.2 the quadratic penalty ------------------------------------------------------------------------------------


def _weights(rows: int = 4) -> tuple[Weights, Weights, Weights]:
    """Weights, anchors and importances of a layer and of a head whose old part has 4 rows."""
    generator = torch.Generator().manual_seed(8)
    shapes = {"body.weight": (5, 3), "head.weight": (4, 5), "head.bias": (4,)}
    anchors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    importance = {name: 2 * torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    weights = {}
    for name, anchor in anchors.items():
        value = anchor + torch.randn(anchor.shape, generator=generator)
        if name.startswith("head."):
            value = torch.cat([value, 1 + torch.rand((rows - 4, *anchor.shape[1:]), generator=generator)])
        weights[name] = value.requires_grad_()
    return weights, anchors, importance


def _sum(function: Callable[[Tensor, Tensor, Tensor], Tensor], *parts: Weights) -> Tensor:
    """The sum of a function of (weights, anchors, importance) over all names and entries."""
    return torch.stack([function(*(part[name].detach() for part in parts)).sum() for name in parts[0]]).sum()


def _penalty_value(answer: Callable[..., Any]) -> None:
    weights, anchors, importance = parts = _weights()
    strength = 3.0
    total = _sum(lambda w, a, f: f * (w - a) ** 2, *parts)
    count = sum(w.numel() for w in weights.values())
    each = [(importance[n] * (weights[n] - anchors[n]) ** 2).sum().detach() for n in weights]
    mean_each = torch.stack([t / weights[n].numel() for t, n in zip(each, weights, strict=True)]).sum()
    actual = answer(*parts, strength)
    diagnose(
        actual,
        {
            "The factor 1/2 is missing. It is a convention, but lambda means nothing without it: everybody's 100 would be "
            "your 50.": strength * total,
            "You take a mean over the weights. Then lambda depends on the size of the network; the penalty is a sum.": strength
            / 2
            * total
            / count,
            "You take a mean over each tensor: a weight of a small tensor then counts more than one of a large tensor. Sum "
            "over all weights.": strength / 2 * mean_each,
            "The importance is squared. `(importance * (w - anchor))**2` squares both: square only the difference.": strength
            / 2
            * _sum(lambda w, a, f: (f * (w - a)) ** 2, *parts),
            "You take the absolute difference. The penalty is a bowl, like the loss that it stands for: square it.": strength
            / 2
            * _sum(lambda w, a, f: f * (w - a).abs(), *parts),
            "The difference is not squared: moves up and down cancel, and a large negative move would be rewarded.": strength
            / 2
            * _sum(lambda w, a, f: f * (w - a), *parts),
            "You square the difference of what was summed. Square every weight's own difference, then sum.": strength
            / 2
            * torch.stack([(importance[n] * (weights[n] - anchors[n])).sum() ** 2 for n in weights]).sum(),
            "The importance is not there: this holds all weights equally hard, the L2 penalty.": strength
            / 2
            * _sum(lambda w, a, f: (w - a) ** 2, *parts),
            "The anchor is not there: you pull the weights towards zero, as weight decay does, and not towards where the old "
            "task left them.": strength / 2 * _sum(lambda w, a, f: f * w**2, *parts),
            "The strength is squared. It multiplies the penalty once.": strength**2 / 2 * total,
            "The strength is not there.": total / 2,
            "The sign is wrong: this rewards a weight for leaving its anchor.": -strength / 2 * total,
            "Only the first tensor is counted: the `return` stands inside the loop.": strength / 2 * each[0],
            "Only the last tensor is counted: every turn of the loop overwrites the sum. Add with `+=`.": strength
            / 2
            * each[-1],
        },
        expected=strength / 2 * total,
        rtol=1e-4,
    )
    close(actual, strength / 2 * total, "Expected `strength/2 * sum importance * (w - anchor)^2`.", rtol=1e-4)


def _penalty_gradient(answer: Callable[..., Any]) -> None:
    weights, anchors, importance = _weights()
    strength = 0.5
    loss = answer(weights, anchors, importance, strength)
    if not isinstance(loss, Tensor):
        raise Wrong(
            f"You return a {type(loss).__name__}. A plain number has no gradient, so the penalty would never move a weight: "
            "keep it a tensor, without `.item()` and `float(...)`."
        )
    if not loss.requires_grad:
        raise Wrong(
            "The result is a tensor without gradient, so the penalty would never move a weight. Is there a `.detach()`, "
            "`.data` or `torch.no_grad()` on the weights?"
        )
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    for name, gradient in zip(weights, gradients, strict=True):
        expected = strength * importance[name] * (weights[name] - anchors[name]).detach()
        actual = torch.zeros_like(expected) if gradient is None else gradient
        close(actual, expected, f"The gradient of `{name}` should be strength * importance * (w - anchor).", rtol=1e-4)


def _penalty_grown(answer: Callable[..., Any]) -> None:
    weights, anchors, importance = _weights(rows=6)
    strength = 2.0
    old = {name: weights[name][: len(anchor)].detach() for name, anchor in anchors.items()}
    last = {name: weights[name][-len(anchor) :].detach() for name, anchor in anchors.items()}
    expected = strength / 2 * _sum(lambda w, a, f: f * (w - a) ** 2, old, anchors, importance)
    new = torch.stack([weights[name][4:].detach().square().sum() for name in ("head.weight", "head.bias")]).sum()
    shared = strength / 2 * (importance["body.weight"] * (old["body.weight"] - anchors["body.weight"]) ** 2).sum()
    rows = "the head has grown from 4 rows to 6. Only the old rows have an anchor: `weights[name][: len(anchor)]`"
    try:
        actual = answer(weights, anchors, importance, strength)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, NotImplementedError):
            raise
        raise Wrong(f"Your function stopped with `{error}`: {rows}.") from None
    diagnose(
        actual,
        {
            "The new rows are pulled towards zero. They have no anchor yet and must be free to learn: count the old rows only.": expected
            + strength / 2 * new,
            "You leave out every tensor that has grown, so the old classes' rows are not protected either. "
            "Count their old rows.": shared,
            "You compare the last rows with the anchors. A head grows at its end: the first rows are the old ones.": strength
            / 2
            * _sum(lambda w, a, f: f * (w - a) ** 2, last, anchors, importance),
        },
        expected=expected,
        rtol=1e-4,
    )
    close(actual, expected, f"Here {rows}.", rtol=1e-4)


EXERCISES = [
    Exercise(
        id="03.1",
        title="A penalty by hand",
        difficulty=2,
        minutes=10,
        points=2,
        reference=ewc_minimum,
        forbidden=("course_utils.landscape:protected_minimum",),
        criteria=[
            Criterion("the minimum of loss and penalty together", _minimum, share=2),
            Criterion(
                "strength 0 ends in B, a huge one in A, importance 0 leaves a weight free", _no_strength_and_much
            ),
            Criterion("the derivative is zero at the answer", _flat_at_the_answer),
        ],
        hints=(
            "At the minimum the two pulls cancel. What is the derivative of each term with respect to w?",
            "`H_b (w - c_b) + strength * F_a (w - c_a) = 0`. Bring everything with w to the left, the rest to the right. "
            "As a matrix the importances are `np.diag(fisher_a)`.",
            "With `pull = strength * np.diag(fisher_a)`, solve `(hessian_b + pull) w = hessian_b @ centre_b + pull @ centre_a` "
            "by `np.linalg.solve(left, right)`.",
        ),
    ),
    Exercise(
        id="03.2",
        title="The quadratic penalty",
        difficulty=1,
        minutes=8,
        points=1,
        reference="course_utils.methods.quadratic:penalty",
        criteria=[
            Criterion("half the strength times the weighted sum of squared differences", _penalty_value, share=2),
            Criterion("its gradient reaches the weights", _penalty_gradient),
            Criterion("rows of the head that came later do not count", _penalty_grown),
        ],
        hints=(
            "It is exercise 03.1's penalty with more weights. Which rows of a grown head have an anchor?",
            "Loop over `anchors.items()`, cut the weight to its first `len(anchor)` rows, and add up.",
            "One term is `(importance[name] * (weights[name][: len(anchor)] - anchor) ** 2).sum()`. Return strength / 2 times "
            "the sum of all terms, as a tensor.",
        ),
    ),
    *lesson_03_fisher.EXERCISES,
    lesson_03_importance.PATH_INTEGRAL,
    *lesson_03_limits.EXERCISES,
    lesson_03_importance.SENSITIVITY,
]
