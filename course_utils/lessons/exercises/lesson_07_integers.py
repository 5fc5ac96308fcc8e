"""Exercises 07.1 to 07.4: numbers as integers, a scale and a zero point, and one scale for every channel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_utils.lessons.exercise import Criterion, Exercise, Wrong, close, diagnose, to_array

Answer = Callable[..., Any]


def pair(found: Any, what: str) -> tuple[Any, Any]:
    """The two parts of an answer.

    Raises:
        Wrong: the answer is not two things.
    """
    if found is None:
        raise Wrong("your function returns nothing: is there a `return`?")
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        raise Wrong(f"Return two things: {what}.")
    return found[0], found[1]


# ---- 07.1 quantize ---------------------------------------------------------------------------------------------------


def quantize(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """Real numbers as integers 0 to 255: `round(x / scale) + zero_point`, held within the range.

    Built in lesson 07, exercise 07.1.
    """
    return ((x / scale).round() + zero_point).clamp(0, 255)


def _quantized(answer: Answer) -> None:
    x, scale, zero = torch.tensor([-1.1, 0.0, 0.3, 0.9, 2.6, 4.4, 9.3]), 0.5, 10
    expected = torch.tensor([8.0, 10.0, 11.0, 12.0, 15.0, 19.0, 29.0])
    found = answer(x.clone(), scale, zero)
    steps = x / scale
    diagnose(
        found,
        {
            "You cut off what stands behind the point. 0.9 / 0.5 = 1.8 is nearer to 2 than to 1: round.": steps.trunc()
            + zero,
            "You round down. 0.9 / 0.5 = 1.8 is nearer to 2 than to 1: round to the nearest.": steps.floor() + zero,
            "Nothing is rounded: these are not integers yet.": steps + zero,
            "You multiply by the scale. The scale is the width of one step: how many steps are in x?": (
                x * scale
            ).round()
            + zero,
            "The zero point is subtracted. Zero has to become `zero_point`: add it. (It is subtracted on the way back.)": steps.round()
            - zero,
            "The zero point is subtracted, and the clamp hides it: 4.4 becomes 0. Zero has to become `zero_point`: add it.": (
                steps.round() - zero
            ).clamp(0, 255),
            "The zero point is missing: 0 has to become `zero_point`.": steps.round(),
            "The zero point is missing, and the clamp hides it: -1.1 and 0 both become 0. 0 has to become `zero_point`.": steps.round().clamp(
                0, 255
            ),
            "You clamp before you add the zero point. Hold the sum within 0 to 255.": steps.round().clamp(0, 255)
            + zero,
            "This is the way there and back: the numbers are real again. Return the integers.": steps.round() * scale,
            "You add the zero point before you divide by the scale. It counts steps, and does not belong to x.": (
                (x + zero) / scale
            ).round(),
        },
        expected=expected,
    )
    close(found, expected, "Divide by the scale, round, add the zero point.")


def _held(answer: Answer) -> None:
    x = torch.tensor([-9.0, -5.0, 100.0, 130.0])
    expected = torch.tensor([0.0, 0.0, 210.0, 255.0])
    found = answer(x, 0.5, 10)
    wrapped = torch.tensor([-8 % 256, 0, 210, 270 % 256])
    diagnose(
        found,
        {
            "8 bits hold 0 to 255. Here come numbers outside: what is too large becomes the largest, not more.": torch.tensor(
                [-8.0, 0.0, 210.0, 270.0]
            ),
            "Numbers outside of 0 to 255 wrap around: a bright pixel turns black. Clamp *before* you convert to 8 bits.": wrapped,
            "You clamp before you add the zero point. Hold the sum within 0 to 255.": torch.tensor(
                [10.0, 10.0, 210.0, 265.0]
            ),
            "You clamp to -128 to 127; these integers are unsigned: 0 to 255.": torch.tensor([-8.0, 0.0, 127.0, 127.0]),
        },
        expected=expected,
    )
    close(found, expected, "Integers are held within 0 to 255.")


# ---- 07.2 scale and zero point ---------------------------------------------------------------------------------------


def scale_and_zero_point(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point for 0 to 255 that hold `[low, high]` and 0. Built in lesson 07, exercise 07.2."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    return scale, round(-low / scale)


def _both(answer: Answer, low: float, high: float) -> np.ndarray:
    found = answer(low, high)
    if isinstance(found, (np.ndarray, Tensor)) and found.shape == (2,):  # both in one
        found = tuple(found)
    scale, zero = pair(found, "the scale, and the zero point")
    return np.array([float(to_array(scale)), float(to_array(zero))])


def _signed_range(answer: Answer) -> None:
    low, high = -1.0, 3.0
    scale = (high - low) / 255  # -low / scale is 63.75
    expected = np.array([scale, round(-low / scale)])
    diagnose(
        _both(answer, low, high),
        {
            "You divide by 256. Between 256 integers lie 255 steps.": [
                (high - low) / 256,
                round(-low * 256 / (high - low)),
            ],
            "The zero point is not rounded: then no integer stands for 0, and every padded pixel gets an error.": [
                scale,
                -low / scale,
            ],
            "The zero point has the wrong sign: `low` becomes the integer 0, so 0 lies `-low / scale` steps above it.": [
                scale,
                round(low / scale),
            ],
            "Your zero point is a real number, `-low`. Count it in steps: divide by the scale.": [scale, round(-low)],
            "You spread twice the largest magnitude: half of the integers on the negative side are never used.": [
                2 * high / 255,
                round(high / (2 * high / 255)),
            ],
            "You cut off what stands behind the point: `-low / scale` is 63.75 here, and 64 is nearer than 63. Round it.": [
                scale,
                math.floor(-low / scale),
            ],
            "The two are in the other order: return the scale first, then the zero point.": expected[::-1],
        },
        expected=expected,
        rtol=1e-4,
    )
    close(
        _both(answer, low, high), expected, "scale = (high - low) / 255, zero point = round(-low / scale).", rtol=1e-4
    )
    diagnose(
        _both(answer, low, 3.1),
        {
            "You round the zero point up: `-low / scale` is 62.2 for [-1, 3.1], and 62 is nearer than 63.": [
                4.1 / 255,
                63,
            ]
        },
        expected=[4.1 / 255, 62],
        rtol=1e-4,
    )
    close(_both(answer, low, 3.1), [4.1 / 255, 62], "For [-1, 3.1] the zero point is round(62.2).", rtol=1e-4)


def _zero_outside(answer: Answer) -> None:
    message = "0 has to lie in the range: padding and ReLU make zeros, and they have to be met exactly. Widen the range to hold 0 first."
    diagnose(
        _both(answer, 2.0, 6.0),
        {
            f"{message} Your zero point, -128 here, is not even one of the integers.": [4 / 255, round(-2 * 255 / 4)],
            f"{message} You only clamped the zero point: 0 now stands for 2.": [4 / 255, 0],
        },
        expected=[6 / 255, 0],
        rtol=1e-4,
    )
    close(_both(answer, 2.0, 6.0), [6 / 255, 0], f"[2, 6]: {message}", rtol=1e-4)
    close(_both(answer, -5.1, -0.1), [5.1 / 255, 255], f"[-5.1, -0.1]: {message}", rtol=1e-4)


def _zero_exact(answer: Answer) -> None:
    for low, high in ((-0.37, 1.91), (0.0, 7.3), (-2.2, 0.6)):
        scale, zero = _both(answer, low, high)
        back = scale * (min(max(round(0 / scale) + zero, 0), 255) - zero)
        if abs(back) > 1e-6 or zero != round(zero) or not 0 <= zero <= 255:
            raise Wrong(
                f"For [{low}, {high}] the number 0 does not come back as 0 (zero point {zero:g}, scale {scale:.4g}): "
                "the zero point has to be an integer from 0 to 255."
            )


# ---- 07.4 one scale a channel ----------------------------------------------------------------------------------------


def quantize_channels(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Integers -127 to 127 and one scale for every output channel, `(out, in, height, width)` -> the same, `(out,)`.

    Built in lesson 07, exercise 07.4.
    """
    scale = weight.abs().flatten(1).amax(dim=1) / 127
    return (weight / scale.view(-1, 1, 1, 1)).round(), scale


def _weights() -> Tensor:
    weight = torch.randn(3, 3, 3, 3, generator=torch.Generator().manual_seed(7))  # a scale fits any dimension
    weight[1] *= 0.01  # one channel a hundred times smaller than the others
    weight[2, 0, 0, 0] = -3.7  # the largest magnitude is negative
    return weight


def _channels(answer: Answer) -> tuple[np.ndarray, np.ndarray]:
    whole, scale = pair(answer(_weights()), "the integers, and the scales")
    return to_array(whole), to_array(scale)


def _scales(answer: Answer) -> None:
    weight = _weights()
    sizes = weight.abs().flatten(1)
    _, scale = _channels(answer)
    if scale.size == 3 and scale.ndim > 1:
        scale = scale.ravel()
    if scale.ndim == 0:
        raise Wrong(
            "This is one scale for all channels. The second channel is a hundred times smaller than the others: "
            "with their scale all of its weights round to 0 or 1."
        )
    diagnose(
        scale,
        {
            "There is one scale for an *input* channel. Output channels come first in the shape: take the maximum over all else.": weight.abs().amax(
                dim=(0, 2, 3)
            )
            / 127,
            "There is one scale for a *column* of the kernel. Output channels come first in the shape: take the maximum over dimensions 1, 2 and 3.": weight.abs().amax(
                dim=(0, 1, 2)
            )
            / 127,
            "There is one scale for a *row* of the kernel. Output channels come first in the shape: take the maximum over dimensions 1, 2 and 3.": weight.abs().amax(
                dim=(0, 1, 3)
            )
            / 127,
            "You take the largest number instead of the largest magnitude: in the last channel that is -3.7, which would not fit.": weight.flatten(
                1
            ).amax(1)
            / 127,
            "You divide by 255. Signed numbers of 8 bits reach 127 on each side.": sizes.amax(1) / 255,
            "You divide by 128: the largest weight would become 128, which does not fit into -127 to 127.": sizes.amax(
                1
            )
            / 128,
            "You spread from smallest to largest over 255 steps. Weights are symmetric: the zero point is 0, the largest magnitude becomes 127.": (
                weight.flatten(1).amax(1) - weight.flatten(1).amin(1)
            )
            / 255,
            "You return 127 divided by the largest magnitude: that is how many steps one unit has. The scale is the width of a step.": 127
            / sizes.amax(1),
            "You use the mean magnitude: every weight above it would be cut off.": sizes.mean(1) / 127,
        },
        expected=sizes.amax(1) / 127,
        rtol=1e-4,
    )
    close(scale, sizes.amax(1) / 127, "One scale an output channel: its largest magnitude divided by 127.", rtol=1e-4)


def _integers(answer: Answer) -> None:
    weight = _weights()
    expected = (weight / (weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 127)).round()
    whole, _ = _channels(answer)
    scale = weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 127
    diagnose(
        whole,
        {
            "Nothing is rounded: these are not integers yet.": weight / scale,
            "These are real numbers again. Return the integers; the scale stands beside them.": expected * scale,
            "You cut off what stands behind the point instead of rounding.": (weight / scale).trunc(),
            "You round down: 1.6 becomes 1 and -1.4 becomes -2. Round to the nearest.": (weight / scale).floor(),
            "There is a zero point in it. Weights are symmetric: 0 stays 0.": expected + 128,
            "The scales are right, but you divide *input* channels by them. Use `scale.view(-1, 1, 1, 1)`.": (
                weight / scale.view(1, -1, 1, 1)
            ).round(),
            "The scales are right, but you divide the kernel's columns by them: broadcasting starts at the last dimension. Use `scale.view(-1, 1, 1, 1)`.": (
                weight / scale.flatten()
            ).round(),
        },
        expected=expected,
    )
    close(whole, expected, "Each weight divided by its own channel's scale, rounded.")


EXERCISES = [
    Exercise(
        id="07.1",
        title="A real number as an integer",
        difficulty=1,
        minutes=6,
        points=1,
        reference=quantize,
        forbidden=("course_utils.compression.affine:quantize",),
        criteria=[
            Criterion("divide, round, add the zero point", _quantized),
            Criterion("8 bits hold 0 to 255", _held),
        ],
        hints=(
            "How many steps of width `scale` lie between 0 and x? Which integer stands for 0?",
            "`(x / scale).round()` counts the steps. Which number has to be added, and what if the sum is 300?",
            "`((x / scale).round() + zero_point).clamp(0, 255)`.",
        ),
    ),
    Exercise(
        id="07.2",
        title="Scale and zero point",
        difficulty=2,
        minutes=10,
        points=2,
        reference=scale_and_zero_point,
        forbidden=("course_utils.compression.affine:scale_and_zero_point",),
        criteria=[
            Criterion("256 integers over the range", _signed_range),
            Criterion("a range without 0 is widened", _zero_outside),
            Criterion("0 comes back as 0", _zero_exact),
        ],
        hints=(
            "From 0 to 255 there are 255 steps. What does `low` become, and where is 0 then?",
            "First `low = min(low, 0)` and `high = max(high, 0)`.",
            "`scale = (high - low) / 255`, `zero_point = round(-low / scale)`.",
        ),
    ),
    Exercise(
        id="07.4",
        title="One scale for every channel",
        difficulty=2,
        minutes=10,
        points=2,
        reference=quantize_channels,
        forbidden=(
            "course_utils.compression.affine:channel_scales",
            "course_utils.compression.preparation:integer_weights",
        ),
        criteria=[
            Criterion("a scale for every output channel", _scales),
            Criterion("integers from -127 to 127", _integers),
        ],
        hints=(
            "Which of the four dimensions counts output channels? Over which ones is the maximum taken?",
            "`weight.abs().flatten(1).amax(dim=1)` is the largest magnitude of every output channel.",
            "Divide it by 127 for the scale. Then divide the weight by `scale.view(-1, 1, 1, 1)` and round.",
        ),
    ),
]
