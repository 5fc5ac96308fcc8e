"""Exercises 07.8 to 07.10: when channels go, what it saves, and what to deploy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from course_utils.lessons.exercise import Criterion, Exercise, Wrong, close, diagnose, to_array

Answer = Callable[..., Any]


# ---- 07.8 when ---------------------------------------------------------------------------------------------------------


def _schedule(answer: Answer) -> None:
    steps = range(6)
    expected = [0.8 * (1 - (1 - step / 5) ** 3) for step in steps]
    diagnose(
        [to_array(answer(step, 5, 0.8)).item() for step in steps],
        {
            "This is a straight line. The cubic schedule removes much at first and little at the end.": [
                0.8 * s / 5 for s in steps
            ],
            "This starts slowly and cuts most at the end, when every channel is needed: the cube belongs to what is *left*, `(1 - step / steps)`.": [
                0.8 * (s / 5) ** 3 for s in steps
            ],
            "This is the share that is still there.": [1 - value for value in expected],
            "You fall from the target to 0: at step 0 nothing is gone yet.": [0.8 * (1 - s / 5) ** 3 for s in steps],
            "The power is 2. The schedule is cubic.": [0.8 * (1 - (1 - s / 5) ** 2) for s in steps],
            "The target is not used: at the end everything would be gone.": [1 - (1 - s / 5) ** 3 for s in steps],
        },
        expected=expected,
        rtol=1e-4,
    )
    close(
        [to_array(answer(s, 5, 0.8)).item() for s in steps], expected, "target * (1 - (1 - step / steps)^3).", rtol=1e-4
    )


def _afterwards(answer: Answer) -> None:
    late = to_array(answer(8, 5, 0.8)).item()
    if abs(late - 0.8 * (1 - (1 - 8 / 5) ** 3)) < 1e-6:
        raise Wrong(
            "Behind the last step the share goes on growing, above the target. From the last step on it stays at the target."
        )
    close(late, 0.8, "Behind the last step the share stays at the target.")


# ---- 07.9 what it costs ----------------------------------------------------------------------------------------------


def conv_macs(
    in_channels: int, out_channels: int, kernel: int, size: int, stride: int = 1, padding: int = 0, groups: int = 1
) -> int:
    """Multiplications of a convolution on a square image of `size` pixels. Built in lesson 07, exercise 07.9."""
    out = (size + 2 * padding - kernel) // stride + 1
    return out * out * out_channels * (in_channels // groups) * kernel * kernel


def _macs(answer: Answer) -> None:
    plain = to_array(answer(1, 8, 5, 28))  # no padding: 24 x 24 pixels
    diagnose(
        plain,
        {
            "Your output is one pixel too small: a kernel of 5 has 28 - 5 + 1 = 24 places in a row of 28, not 23.": 23
            * 23
            * 8
            * 25
        },
        expected=24 * 24 * 8 * 25,
    )
    found = to_array(answer(32, 64, 3, 14, 2, 1))
    expected = 7 * 7 * 64 * 32 * 9
    diagnose(
        found,
        {
            "You count pixels of the *input*, 14 x 14. With stride 2 the output has 7 x 7, and each of its pixels is computed once.": 14
            * 14
            * 64
            * 32
            * 9,
            "The kernel has 3 x 3 = 9 numbers, you count 3.": 7 * 7 * 64 * 32 * 3,
            "These are the parameters. They are used anew for every pixel of the output.": 64 * 32 * 9,
            "The input channels are missing: every output number sums over all of them.": 7 * 7 * 64 * 9,
            "The output channels are missing.": 7 * 7 * 32 * 9,
            "You count multiplications and additions apart. One MAC is both.": 2 * expected,
            "The output has 7 x 7 pixels, you count 7.": 7 * 64 * 32 * 9,
            "The padding is forgotten: the output has (14 + 2 - 3) // 2 + 1 = 7 pixels a side.": 6 * 6 * 64 * 32 * 9,
            "(14 + 2 - 3) / 2 + 1 is 7.5, but half a pixel does not exist: round down.": 7.5 * 7.5 * 64 * 32 * 9,
            "You round up, to 8 x 8 pixels. A kernel that does not fit any more is left out: round down.": 8
            * 8
            * 64
            * 32
            * 9,
        },
        expected=expected,
    )
    close(found, expected, "Pixels of the output * output channels * input channels * 9.")
    fits = (
        "You count 28 x 28 pixels. Size / stride is right only if the padding makes up for the kernel; with padding 0 a kernel "
        "of 5 has 24 places in a row of 28."
    )
    diagnose(
        plain,
        {
            fits: 28 * 28 * 8 * 25,
            "The kernel has 5 x 5 = 25 numbers here, you count 9 whatever `kernel` is.": 24 * 24 * 8 * 9,
            "You count 28 x 28 pixels and 9 numbers in the kernel. With padding 0 a kernel of 5 has 24 places in a row of 28, and 25 numbers.": 28
            * 28
            * 8
            * 9,
        },
        expected=24 * 24 * 8 * 25,
    )
    close(plain, 24 * 24 * 8 * 25, "conv_macs(1, 8, 5, 28): 24 * 24 pixels, 8 channels, 25 weights each.")
    close(answer(6, 10, 4, 11, 3, 1), 4 * 4 * 10 * 6 * 16, "conv_macs(6, 10, 4, 11, 3, 1): 4 * 4 * 10 * 6 * 16.")
    close(answer(6, 10, 1, 9, 2), 5 * 5 * 10 * 6, "conv_macs(6, 10, 1, 9, 2): 5 * 5 * 10 * 6.")


def _groups(answer: Answer) -> None:
    found = to_array(answer(32, 32, 3, 10, 1, 1, 32))
    diagnose(
        found,
        {
            "The groups are ignored: in a depthwise convolution each output reads one input channel, not 32.": 100
            * 32
            * 32
            * 9
        },
        expected=100 * 32 * 9,
    )
    close(found, 100 * 32 * 9, "An output channel reads in_channels / groups inputs.")
    close(answer(32, 64, 3, 10, 1, 1, 4), 100 * 64 * 8 * 9, "In 4 groups each output channel reads 32 / 4 = 8 inputs.")


def _half(answer: Answer) -> None:
    whole, half = to_array(answer(64, 128, 3, 7, 1, 1)).item(), to_array(answer(32, 64, 3, 7, 1, 1)).item()
    close(whole / half, 4.0, "With half of the channels in and out a convolution takes a quarter of the MACs.")


# ---- 07.10 what to deploy ---------------------------------------------------------------------------------------------


def front(sizes: Sequence[float], latencies: Sequence[float], accuracies: Sequence[float]) -> list[int]:
    """Positions of the candidates that no other one beats: nobody is at least as good in all three and better in one.

    Built in lesson 07, exercise 07.10.
    """
    rows = list(zip(sizes, latencies, (-a for a in accuracies), strict=True))

    def beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        return a != b and all(x <= y for x, y in zip(a, b, strict=True))

    return [i for i, row in enumerate(rows) if not any(beats(other, row) for other in rows)]


def _positions(answer: Answer, *lists: list[float]) -> list[int]:
    found = answer(*lists)
    if isinstance(found, tuple) and len(found) == 1 and isinstance(found[0], (np.ndarray, Tensor)):
        raise Wrong(
            "You return a tuple with one array in it, as `np.where(mask)` gives it. Return the array: add `[0]`."
        )
    if isinstance(found, Iterable) and not isinstance(found, (np.ndarray, Tensor, str)):
        found = list(found)  # a set or a generator, too
    values = to_array(found)
    if (
        values.dtype == float
        and values.ndim == 1
        and set(values.tolist()) <= {0.0, 1.0}
        and len(values) == len(lists[0]) > 2
    ):
        raise Wrong("You return True and False. Return the positions of those that stay, as a list of numbers.")
    if values.ndim != 1:
        raise Wrong("Return a flat list of positions, such as [0, 2].")
    return [int(value) for value in values]


def _front(answer: Answer) -> None:
    # 0: the original. 1: smaller, as fast, as good. 2: small, fast, worse. 3: beaten by 2. 4: fastest. 5: in the middle of all.
    sizes, latencies, accuracies = [8, 2, 1, 1.5, 3, 1.8], [4, 4, 2, 3, 1, 3.5], [92, 92, 90, 89, 88, 91]
    found = _positions(answer, sizes, latencies, [a / 100 for a in accuracies])
    named: dict[tuple[int, ...], str] = {
        (
            0,
            1,
            2,
            4,
            5,
        ): "Candidate 0 is as fast and as good as candidate 1, but four times as large: it is beaten. Better in *one* is enough, if the others are equal.",
        (
            1,
            2,
            4,
        ): "You keep the best in size, speed and accuracy only. Candidate 5 is best in nothing, and nobody beats it in everything.",
        (
            0,
            2,
            4,
        ): "You keep the first best in size, speed and accuracy only. Candidate 5 is best in nothing, and nobody beats it in everything.",
        (0, 3): "It is the other way round: these are the ones that are beaten.",
        (1, 2, 3, 4, 5): "Candidate 3 is larger, slower and worse than candidate 2.",
        (2, 3, 4): "Of accuracy more is better, of size and latency less.",
    }
    if tuple(sorted(found)) in named:
        raise Wrong(named[tuple(sorted(found))])
    if sorted(found) != [1, 2, 4, 5]:
        raise Wrong(f"Positions 1, 2, 4 and 5 are beaten by nobody; you got {found}.")


def _twins(answer: Answer) -> None:
    found = _positions(answer, [1, 1, 2], [1, 1, 2], [0.9, 0.9, 0.8])
    if found == [] or found == [2]:
        raise Wrong("Two candidates with the same numbers throw each other out. Equal is not better: keep both.")
    if sorted(found) != [0, 1]:
        raise Wrong(f"Candidates 0 and 1 are the same, and better than 2: expected [0, 1], you got {found}.")


EXERCISES = [
    Exercise(
        id="07.8",
        title="Much at first, little at the end",
        difficulty=2,
        minutes=8,
        points=2,
        reference="course_utils.compression.schedule:cubic_sparsity",
        criteria=[
            Criterion("cubic from 0 to the target", _schedule, share=2),
            Criterion("it stays at the target", _afterwards),
        ],
        hints=(
            "How much is left to do, as a share, after `step` of `steps`?",
            "`left = 1 - step / steps`, but never below 0. Its cube falls fast at first.",
            "`target * (1 - left ** 3)` with `left = 1 - min(step, steps) / steps`.",
        ),
    ),
    Exercise(
        id="07.9",
        title="What a convolution costs",
        difficulty=2,
        minutes=10,
        points=2,
        reference=conv_macs,
        forbidden=("course_utils.compression.tracing:count_macs",),
        criteria=[
            Criterion("one MAC for every weight and pixel of the output", _macs, share=2),
            Criterion("groups", _groups),
            Criterion("half of the channels, a quarter of the MACs", _half),
        ],
        hints=(
            "How many numbers does the output have, and how many products is each one a sum of?",
            "The output has `(size + 2 * padding - kernel) // stride + 1` pixels a side.",
            "`out * out * out_channels * (in_channels // groups) * kernel * kernel`.",
        ),
    ),
    Exercise(
        id="07.10",
        title="Nobody is better in everything",
        difficulty=3,
        minutes=12,
        points=2,
        reference=front,
        forbidden=("course_utils.compression.choice:pareto",),
        criteria=[
            Criterion("beaten candidates go, all others stay", _front, share=2),
            Criterion("twins both stay", _twins),
        ],
        hints=(
            "When would you never deploy a candidate? When another one is at least as good in all three, and ...?",
            "Write a small function that says whether candidate a beats candidate b. Negate the accuracy, so that less is better everywhere.",
            "`all(x <= y for ...) and any(x < y for ...)`; keep the candidates that nobody beats.",
        ),
    ),
]
