"""Exercise 07.7: which channels go, and what goes with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_utils.lessons.exercise import Criterion, Exercise, Wrong, close, to_array

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


EXERCISES = [
    Exercise(
        id="07.7",
        title="Four channels, two go",
        difficulty=3,
        minutes=15,
        points=3,
        reference=remove_channels,
        forbidden=("course_utils.compression.importance:channel_norms",),
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
]
