"""Exercise 08.6: the patches that turn a convolution into a matrix product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from course_utils.lessons.exercise import Criterion, Exercise, Wrong, diagnose, to_array
from course_utils.lessons.exercises.lesson_08_tracing import in_short, operations

Answer = Callable[..., Any]
Array = np.ndarray
SIDE = 3


def cut_patches(x: Any, stride: int) -> Any:
    """The 3x3 patches that a convolution with one pixel of zeros around the image sees: `(n, height, width, 9 * channels)`.

    x: `(n, H, W, channels)`. height and width are H / stride and W / stride, rounded up. A patch is in the order of a
    kernel `(3, 3, channels, features)`: row by row, in a row column by column, in a pixel channel by channel.
    Built in lesson 08, exercise 08.6.
    """
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    cut = [padded[:, i : i + height : stride, j : j + width : stride] for i in range(SIDE) for j in range(SIDE)]
    return jnp.concatenate(cut, axis=-1)


def _one_by_one(x: Array, stride: int, before: int = 1) -> Array:
    """The patches, one after the other: `(n, h, w, 3, 3, C)`. before: pixels of zeros above and to the left."""
    n, height, width, channels = x.shape
    padded = np.zeros((n, height + 4, width + 4, channels))
    padded[:, before : before + height, before : before + width] = x
    rows, columns = -(-height // stride), -(-width // stride)
    patches = np.zeros((n, rows, columns, SIDE, SIDE, channels))
    for row in range(rows):
        for column in range(columns):
            top, left = row * stride, column * stride
            patches[:, row, column] = padded[:, top : top + SIDE, left : left + SIDE]
    return patches


def _images(side: int = 6) -> Array:
    return np.random.default_rng(8).normal(size=(2, side, side, 2))


@in_short
def _patches(answer: Answer) -> None:
    x = _images()
    for stride in (1, 2):
        patches = _one_by_one(x, stride)
        size = 6 // stride
        expected = patches.reshape(2, size, size, 18)
        actual = to_array(answer(jnp.array(x), stride))
        if actual.shape[1:3] in ((4, 4), (2, 2)):
            raise Wrong(
                f"Of 6 x 6 pixels {actual.shape[1]} x {actual.shape[2]} patches are left: the border is missing. Put one pixel of "
                "zeros around the images first, with `jnp.pad`."
            )
        if actual.shape == (2, 6, 6, 18) and stride == 2:
            raise Wrong("With stride 2 every second row and column of patches is left out; yours are all there.")
        if actual.shape != expected.shape:
            raise Wrong(
                f"Images (2, 6, 6, 2) at stride {stride} gave {actual.shape}; expected {expected.shape}: a patch of 9 pixels with 2 "
                "channels for every place."
            )
        mistakes = {
            "The entries of a patch are in another order: in a kernel (3, 3, C, F) the channels of one pixel stand together.": np.moveaxis(
                patches, -1, 3
            ).reshape(expected.shape),
            "Rows and columns of a patch are exchanged: the kernel goes row by row.": patches.swapaxes(3, 4).reshape(
                expected.shape
            ),
            "The zeros are on one side only: every patch is centred one pixel too far down and to the right.": _one_by_one(
                x, stride, before=0
            ).reshape(expected.shape),
            "The zeros are on one side only: every patch is centred one pixel too far up and to the left.": _one_by_one(
                x, stride, before=2
            ).reshape(expected.shape),
            "The patches are turned by half a turn. Networks do not flip their kernels: cut from the top left.": patches[
                :, :, :, ::-1, ::-1
            ].reshape(expected.shape),
        }
        diagnose(actual, mistakes, expected=expected, rtol=1e-4)
        if not np.allclose(actual, expected, rtol=1e-4, atol=1e-5):
            if np.allclose(np.sort(actual, axis=-1), np.sort(expected, axis=-1), rtol=1e-4, atol=1e-5):
                raise Wrong(
                    "Each patch has the right pixels, in another order: row by row, column by column, channel by channel."
                )
            raise Wrong(f"At stride {stride} the patches hold other pixels than those under a 3x3 kernel.")


@in_short
def _is_the_convolution(answer: Answer) -> None:
    generator = np.random.default_rng(9)
    x, kernel = generator.normal(size=(2, 7, 5, 3)), generator.normal(size=(3, 3, 3, 4))  # odd sizes, as 7 -> 4
    for stride in (1, 2):
        expected = jax.lax.conv_general_dilated(
            jnp.array(x),
            jnp.array(kernel),
            (stride, stride),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        found = to_array(answer(jnp.array(x), stride))
        if found.shape != (*expected.shape[:3], 27):
            raise Wrong(
                f"Images of 7 x 5 pixels at stride {stride} gave {found.shape}; expected {(*expected.shape[:3], 27)}."
            )
        if not np.allclose(found @ kernel.reshape(27, 4), expected, rtol=1e-3, atol=1e-3):
            raise Wrong(
                f"Of images of 7 x 5 pixels, at stride {stride}, the patches times the kernel are not what "
                "`jax.lax.conv_general_dilated` gives."
            )


@in_short
def _no_convolution(answer: Answer) -> None:
    found, larger = (operations(lambda x: answer(x, 2), jnp.array(_images(side))) for side in (6, 12))
    if "conv_general_dilated" in found:
        raise Wrong(
            "There is a convolution in it. `conv_general_dilated_patches` cuts patches by a grouped convolution, the very thing "
            "to get rid of. Slices are enough."
        )
    if {"scan", "while"} & set(found) or len(larger) > len(found):
        raise Wrong(
            "There is a loop over places in it. Nine slices of the whole batch are enough: one for each place in the kernel."
        )


EXERCISES = [
    Exercise(
        id="08.6",
        title="A convolution as a matrix product",
        difficulty=4,
        minutes=20,
        points=3,
        reference=cut_patches,
        forbidden=("course_utils.grid.convolution:patches",),
        criteria=[
            Criterion("the pixels under the kernel, in the kernel's order", _patches, share=2),
            Criterion("times the kernel they give the convolution", _is_the_convolution),
            Criterion("no convolution and no loop in the program", _no_convolution),
        ],
        hints=(
            "Do not cut patch by patch. For one place in the kernel, say the top left, which pixels lie under it, for all "
            "patches at once?",
            "Pad first. Then for row i and column j of the kernel it is a slice of the padded images that starts at (i, j) and "
            "goes in steps of `stride`. Nine slices, put side by side along the last axis.",
            "`padded[:, i : i + height : stride, j : j + width : stride]` with the height and width of `x`, for i in 0 to 2 and "
            "inside it j in 0 to 2; then `jnp.concatenate(cut, axis=-1)`.",
        ),
    )
]
