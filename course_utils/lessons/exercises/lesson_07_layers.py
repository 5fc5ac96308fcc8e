"""Exercises 07.5 and 07.6: BatchNorm folded into a convolution, and rounding through which a gradient passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils.lessons.exercise import Criterion, Exercise, Wrong, close, diagnose, to_array
from course_utils.lessons.exercises.lesson_07_integers import pair

Answer = Callable[..., Any]


# ---- 07.5 fold -------------------------------------------------------------------------------------------------------


def fold(
    weight: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that also does the BatchNorm behind it. Built in lesson 07, exercise 07.5."""
    factor = gamma / torch.sqrt(variance + eps)
    return weight * factor.view(-1, 1, 1, 1), beta - mean * factor


def _layer() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    numbers = torch.rand(4, 3, generator=generator)
    return {
        "weight": torch.randn(3, 3, 3, 3, generator=generator),  # a vector of 3 fits any dimension
        "gamma": numbers[0] + 0.5,
        "beta": numbers[1] - 0.5,
        "mean": numbers[2],
        "variance": numbers[3] + 0.2,
    }


def _folded(answer: Answer) -> tuple[Any, Any]:
    layer = _layer()
    return pair(answer(*layer.values(), 0.1), "the weight, and the bias")


def _fold_weight(answer: Answer) -> None:
    layer = _layer()
    weight, gamma, variance = layer["weight"], layer["gamma"], layer["variance"]
    deviation = torch.sqrt(variance + 0.1)
    expected = weight * (gamma / deviation).view(-1, 1, 1, 1)
    found, _ = _folded(answer)
    diagnose(
        found,
        {
            "You divide by the variance. BatchNorm divides by the standard deviation: take the root.": weight
            * (gamma / (variance + 0.1)).view(-1, 1, 1, 1),
            "eps is left out: it is added to the variance, under the root.": weight
            * (gamma / variance.sqrt()).view(-1, 1, 1, 1),
            "eps stands outside the root. It is added to the variance.": weight
            * (gamma / (variance.sqrt() + 0.1)).view(-1, 1, 1, 1),
            "You scale *input* channels. BatchNorm scales what comes out: the first dimension of the weight.": weight
            * (gamma / deviation).view(1, -1, 1, 1),
            "You scale the columns of the kernel: with a vector of 3 broadcasting starts at the last dimension. Use `view(-1, 1, 1, 1)`.": weight
            * (gamma / deviation),
            "You scale the rows of the kernel: broadcasting starts at the last dimension, and `[:, None]` reaches the one before it only. Use `view(-1, 1, 1, 1)`.": weight
            * (gamma / deviation)[:, None],
            "gamma is missing.": weight / deviation.view(-1, 1, 1, 1),
            "Only gamma is there; the standard deviation is missing.": weight * gamma.view(-1, 1, 1, 1),
            "The weight is as it was: it has to be scaled by gamma / standard deviation.": weight,
        },
        expected=expected,
        rtol=1e-4,
    )
    close(found, expected, "Output channel c is multiplied by gamma[c] / sqrt(variance[c] + eps).", rtol=1e-4)


def _fold_bias(answer: Answer) -> None:
    layer = _layer()
    gamma, beta, mean = layer["gamma"], layer["beta"], layer["mean"]
    factor = gamma / torch.sqrt(layer["variance"] + 0.1)
    expected = beta - mean * factor
    _, found = _folded(answer)
    diagnose(
        found,
        {
            "The mean is subtracted unscaled. BatchNorm subtracts it *before* it scales.": beta - mean,
            "The mean is left out: BatchNorm subtracts it.": beta,
            "The mean is added. BatchNorm subtracts it.": beta + mean * factor,
            "beta is scaled, too. It is added at the very end.": (beta - mean) * factor,
            "beta is missing.": -mean * factor,
            "In the bias eps is forgotten: the factor is the same as the weight's, with eps under the root.": beta
            - mean * gamma / layer["variance"].sqrt(),
            "In the bias eps is added to the root. Add it to the variance, as for the weight.": beta
            - mean * gamma / (layer["variance"].sqrt() + 0.1),
            "In the bias the mean is divided by the variance, not by its root. Use the factor of the weight.": beta
            - mean * gamma / (layer["variance"] + 0.1),
            "In the bias the mean is multiplied by gamma only. Divide it by the standard deviation, too: use the factor of the weight.": beta
            - mean * gamma,
            "In the bias the mean is divided by the standard deviation, but not multiplied by gamma. Use the factor of the weight.": beta
            - mean / torch.sqrt(layer["variance"] + 0.1),
        },
        expected=expected,
        rtol=1e-4,
    )
    close(
        found,
        expected,
        "What is left of BatchNorm for an input of 0: beta - mean * gamma / sqrt(variance + eps).",
        rtol=1e-4,
    )


def _fold_network(answer: Answer) -> None:
    layer = _layer()
    weight, gamma, beta, mean, variance = layer.values()
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(4))
    found = [torch.as_tensor(to_array(part), dtype=torch.float32) for part in _folded(answer)]
    both = F.batch_norm(F.conv2d(x, weight), mean, variance, gamma, beta, eps=0.1)
    close(
        F.conv2d(x, found[0], found[1]),
        both,
        "On random images the folded convolution differs from the convolution with its BatchNorm.",
        rtol=1e-3,
        atol=1e-4,
    )


# ---- 07.6 straight through -------------------------------------------------------------------------------------------


class RoundStraight(torch.autograd.Function):
    """Round; let the gradient pass as if nothing had happened."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def fake_quantize(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """There and back through the integers 0 to 255, with a gradient of 1 inside their range and 0 outside.

    Built in lesson 07, exercise 07.6.
    """
    whole = RoundStraight.apply(x / scale) + zero_point
    return (whole.clamp(0, 255) - zero_point) * scale


def _points() -> Tensor:
    return torch.tensor([-2.0, -0.52, 0.0, 0.13, 0.77, 11.9, 20.0], requires_grad=True)


SCALE, ZERO = 0.1, 100  # from -10 to 15.5


def _outside() -> Tensor:
    return torch.tensor([-12.0, -10.4, -9.6, 0.31, 0.52, 15.2, 15.8, 24.0, 30.0], requires_grad=True)


def _fake_values(answer: Answer) -> None:
    for x in (_points(), _outside()):
        steps = x.detach() / SCALE
        whole = (steps.round() + ZERO).clamp(0, 255)
        expected = (whole - ZERO) * SCALE
        diagnose(
            answer(x, SCALE, ZERO),
            {
                "These are the integers. Go back to real numbers: subtract the zero point, multiply by the scale.": whole,
                "Nothing is rounded: x comes out as it went in.": x,
                "The zero point is not subtracted on the way back.": whole * SCALE,
                "Nothing is clamped: 8 bits hold 0 to 255.": (steps.round()) * SCALE,
                "The zero point is left out on both ways: whatever is negative becomes 0.": steps.round().clamp(0, 255)
                * SCALE,
                "You clamp, but do not round.": ((steps + ZERO).clamp(0, 255) - ZERO) * SCALE,
            },
            expected=expected,
        )
        close(answer(x, SCALE, ZERO), expected, "Quantize as in 07.1, then (q - zero_point) * scale.")


def _fake_gradient(answer: Answer) -> None:
    x = _outside()
    out = answer(x, SCALE, ZERO)
    if not (isinstance(out, Tensor) and out.requires_grad):
        raise Wrong(
            "No gradient arrives: keep to tensors, without `.item()`, `.detach()` around everything and `no_grad`."
        )
    (found,) = torch.autograd.grad(out.sum(), x, allow_unused=True)
    inside = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    if found is None:
        raise Wrong("No gradient arrives at x.")
    diagnose(
        found,
        {
            "The gradient is 0 everywhere: `round` is a staircase, flat between its steps, so nothing would ever learn. "
            "In the backward pass, pretend that nothing was rounded.": torch.zeros_like(x),
            "The gradient also passes where the number was cut off. There the output does not move with x: it has to be 0.": torch.ones_like(
                x
            ),
            "Your range forgets the zero point: it reaches from 0 to 255 * scale, here from 0 to 25.5. "
            "With a zero point of 100 it reaches from -10 to 15.5.": ((x >= 0) & (x <= 255 * SCALE)).float(),
            "Your range begins right, but its upper end forgets the zero point: 255 stands for (255 - zero_point) * scale.": (
                (x >= -ZERO * SCALE) & (x <= 255 * SCALE)
            ).float(),
            "The gradient is multiplied by the scale. There and back is a slope of 1: the division and the product cancel.": inside
            * SCALE,
            "The gradient is divided by the scale. There and back is a slope of 1: the division and the product cancel.": inside
            / SCALE,
            "It is the other way round: gradient where the number is cut off, none inside.": 1 - inside,
        },
        expected=inside,
    )
    close(found, inside, "Gradient 1 where 0 <= x / scale + zero_point <= 255, otherwise 0.")


def _fake_learns(answer: Answer) -> None:
    weight = torch.tensor([0.0], requires_grad=True)
    for step in range(60):
        out = answer(weight, SCALE, ZERO)
        if not (isinstance(out, Tensor) and out.requires_grad):
            raise Wrong("A weight cannot learn through it: the result carries no gradient.")
        loss = (out - 1.23).square().sum()
        (slope,) = torch.autograd.grad(loss, weight, allow_unused=True)
        if slope is None:
            raise Wrong("A weight cannot learn through it: no gradient arrives.")
        if step == 0 and not slope.any():  # 0 lies inside the range, and is not yet 1.23
            raise Wrong(
                "A weight that should learn to become 1.23 stays at 0: its gradient is 0, that of rounding itself. Nothing is learned."
            )
        weight = (weight - 0.1 * slope).detach().requires_grad_()
    if abs(answer(weight, SCALE, ZERO).item() - 1.23) > 0.6 * SCALE:
        raise Wrong(
            f"A weight that should learn to become 1.23 ended at {answer(weight, SCALE, ZERO).item():.3f}: the gradient leads astray."
        )


EXERCISES = [
    Exercise(
        id="07.5",
        title="BatchNorm disappears",
        difficulty=2,
        minutes=12,
        points=2,
        reference=fold,
        forbidden=("course_utils.compression.fold:folded_weights",),
        criteria=[
            Criterion("the weight, channel by channel", _fold_weight),
            Criterion("the bias", _fold_bias),
            Criterion("the same output on images", _fold_network),
        ],
        hints=(
            "Write BatchNorm as `factor * (y - mean) + beta`, with y the convolution's output. What is the factor?",
            "`factor = gamma / torch.sqrt(variance + eps)`. It multiplies output channels: `factor.view(-1, 1, 1, 1)`.",
            "`weight * factor.view(-1, 1, 1, 1)` and `beta - mean * factor`.",
        ),
    ),
    Exercise(
        id="07.6",
        title="A gradient through rounding",
        difficulty=4,
        minutes=15,
        points=3,
        reference=fake_quantize,
        criteria=[
            Criterion("there and back through 8 bits", _fake_values),
            Criterion("gradient 1 inside the range, 0 outside", _fake_gradient),
            Criterion("a weight learns through it", _fake_learns),
        ],
        hints=(
            "What is the derivative of `round`? What would you like it to be?",
            "`x + (x.round() - x).detach()` has the value of `round` and the gradient of x. `clamp` has the right gradient already.",
            "`steps = x / scale`, `whole = steps + (steps.round() - steps).detach() + zero_point`, then clamp, subtract the zero point, "
            "multiply by the scale.",
        ),
    ),
]
