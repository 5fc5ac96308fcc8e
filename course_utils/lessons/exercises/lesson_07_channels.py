"""Exercises 07.7 to 07.10: which channels go and what goes with them, when, what it saves, and what to deploy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_utils.lessons.exercise import Criterion, Exercise, Wrong, close, diagnose, to_array

Answer = Callable[..., Any]


# ---- 07.7 channels go ------------------------------------------------------------------------------------------------


def remove_channels(first: Tensor, bias: Tensor, second: Tensor, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `keep` channels with the largest L1 norms stay, in their order; the next layer loses the inputs of the others.

    first: `(channels, in, 3, 3)`, bias: `(channels,)`, second: `(out, channels, 3, 3)`. Built in lesson 07, exercise 07.7.
    """
    norms = first.abs().flatten(1).sum(dim=1)
    kept = norms.topk(keep).indices.sort().values
    return first[kept], bias[kept], second[:, kept]


def _four_channels() -> tuple[Tensor, Tensor, Tensor]:
    """Channel 3 is the largest; channel 1 is large, too, but cancels out; the bias and the inputs have other orders."""
    first = torch.zeros(4, 3, 3, 3)
    first[0] = 0.1  # L1 2.7
    first[1, 1] = 0.5
    first[1, 2] = -0.5  # L1 9, but a sum of 0
    first[2] = 0.2  # L1 5.4
    first[3] = 0.4  # L1 10.8
    second = torch.arange(4 * 4 * 9.0).view(4, 4, 3, 3)
    second[:, [1, 3]] += 200
    return first, torch.tensor([10.0, 1.0, 2.0, 3.0]), second


def _six_channels() -> tuple[Tensor, Tensor, Tensor]:
    """By L1 norms channels 2 and 4 are the smallest, by L2 norms 0 and 4, by the largest weights 0 and 3."""
    first = torch.empty(6, 2, 3, 3)
    first[0] = 0.3  # L1 5.4, L2 1.27
    first[1] = 0.5  # L1 9, L2 2.12
    first[2] = 0.02
    first[2, 0, 0, 0] = 4.0  # L1 4.34, L2 4.00
    first[3] = 0.4  # L1 7.2, L2 1.70
    first[4, 0] = 0.55
    first[4, 1] = 0.0  # L1 4.95, L2 1.65
    first[5] = 0.45  # L1 8.1, L2 1.91
    second = torch.randn(6, 6, 3, 3, generator=torch.Generator().manual_seed(5))
    return first, torch.zeros(6), second


def _positions_kept(found: np.ndarray, first: Tensor) -> list[int] | None:
    """Which channels of `first` an answer holds, in its order; None if it holds something else."""
    if found.shape[1:] != first.shape[1:]:
        return None
    same = [[i for i, channel in enumerate(first) if np.allclose(row, channel)] for row in found]
    return [places[0] for places in same] if all(same) else None


def _removed(answer: Answer, keep: int = 2, channels: Answer = _four_channels) -> tuple[Any, Any, Any]:
    found = answer(*channels(), keep)
    if found is None:
        raise Wrong("your function returns nothing: is there a `return`?")
    if not isinstance(found, (tuple, list)) or len(found) != 3:
        raise Wrong("Return three tensors: the first weight, its bias, and the second weight.")
    return found[0], found[1], found[2]


def _who_stays(answer: Answer) -> None:
    first, bias, _ = _four_channels()
    found, _, _ = _removed(answer)
    actual = to_array(found)
    if actual.shape == (4, 3, 3, 3):
        raise Wrong(
            "All four channels are still there: setting them to zero makes nothing smaller. Index the channels that stay."
        )
    kept = _positions_kept(actual, first)
    named: dict[tuple[int, ...], str] = {
        (0, 2): "You keep the *smallest* channels.",
        (
            2,
            3,
        ): "You add the weights with their signs: channel 1 has large weights that cancel out. Take magnitudes first.",
        (0, 1): "You keep the first channels, whatever they hold.",
        (
            1,
            2,
        ): "You have summed over the output channels: these are norms of the three *inputs*. Sum over dimensions 1, 2 and 3.",
        (0, 3): "The bias has a say in your norms. The L1 norm of a channel is that of its weights only.",
    }
    if kept is not None and tuple(sorted(kept)) in named:
        raise Wrong(named[tuple(sorted(kept))])
    if kept == [3, 1]:
        raise Wrong(
            "The channels that stay have changed places. Keep their order, or the next layer reads the wrong ones."
        )
    close(actual, first[[1, 3]], "By their L1 norms (2.7, 9, 5.4, 10.8) channels 1 and 3 stay.")
    _which_norm(answer)


def _which_norm(answer: Answer) -> None:
    first, _, _ = _six_channels()
    found, _, _ = _removed(answer, 4, _six_channels)
    actual = to_array(found)
    kept = _positions_kept(actual, first)
    named: dict[tuple[int, ...], str] = {
        (
            1,
            2,
            3,
            5,
        ): "You sort by the L2 norm, the squares of the weights (or its root). The L1 norm sums their magnitudes.",
        (1, 2, 4, 5): "You sort by the largest single weight. The L1 norm is the sum of all magnitudes.",
    }
    if kept is not None and tuple(sorted(kept)) in named:
        raise Wrong(named[tuple(sorted(kept))])
    if kept is not None and len(kept) != 4:
        raise Wrong(f"Of six channels {len(kept)} stayed, and `keep` was 4. Keep as many as `keep` says.")
    close(
        actual,
        first[[0, 1, 3, 5]],
        "Of six L1 norms (5.4, 9, 4.34, 7.2, 4.95, 8.1) the four largest stay, in their order.",
    )


def _bias_goes(answer: Answer) -> None:
    _, found, _ = _removed(answer)
    actual = to_array(found)
    if actual.shape == (4,):
        raise Wrong("The bias still has four numbers: a channel that goes takes its own along.")
    close(actual, [1.0, 3.0], "The bias keeps the numbers of the channels that stay.")


def _next_layer(answer: Answer) -> None:
    _, _, second = _four_channels()
    _, _, found = _removed(answer)
    actual = to_array(found)
    if actual.shape == (4, 4, 3, 3):
        raise Wrong(
            "The next layer still expects four inputs: it reads what the first one puts out, so it loses the same channels."
        )
    if actual.shape == (2, 4, 3, 3):
        raise Wrong("You cut *outputs* of the next layer. It loses inputs: the second dimension of its weight.")
    close(actual, second[:, [1, 3]], "The next layer keeps its inputs 1 and 3: `second[:, kept]`.")


def _same_answer(answer: Answer) -> None:
    first, bias, second = _four_channels()
    first[[0, 2]], bias[[0, 2]] = 0, 0  # two channels that say nothing
    found = answer(first, bias, second, 2)
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def both(parts: Any) -> Tensor:
        tensors = [torch.as_tensor(to_array(part), dtype=torch.float32) for part in parts]
        return torch.conv2d(torch.conv2d(x, tensors[0], tensors[1]).relu(), tensors[2])

    close(
        both(found),
        both((first, bias, second)),
        "Channels that were zero went, and still the answers changed.",
        rtol=1e-3,
    )


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
        id="07.7",
        title="Four channels, two go",
        difficulty=3,
        minutes=15,
        points=3,
        reference=remove_channels,
        forbidden=("course_utils.compression.pruning:channel_norms",),
        criteria=[
            Criterion("the largest L1 norms stay", _who_stays, share=2),
            Criterion("the bias goes along", _bias_goes),
            Criterion("the next layer loses its inputs", _next_layer, share=2),
            Criterion("channels of zeros go unnoticed", _same_answer),
        ],
        hints=(
            "Which three tensors know about a channel of the first layer?",
            "`first.abs().flatten(1).sum(dim=1)` gives four norms, `topk(keep).indices` the largest. Sort the indices.",
            "`first[kept]`, `bias[kept]` and `second[:, kept]`.",
        ),
    ),
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
