"""Which rank? Spend a budget of ranks over layers by importance, or choose one rank by a task's complexity."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

import torch
from torch import Tensor, nn

from course_utils.lora.layer import full_rank
from course_utils.lora.model import adapted, candidates, matching


def allocate_ranks(
    importance: Mapping[str, float], budget: int, *, minimum: int = 1, maximum: int | Mapping[str, int] | None = None
) -> dict[str, int]:
    """Spend a budget of ranks exactly: shares in proportion to importance, whole numbers, with bounds.

    Every layer starts with `minimum`. Each further rank goes to the layer with the largest
    `importance / (2 * rank + 1)`: the one that is furthest below its share. Seats in a parliament are shared out so
    (Sainte-Laguë). A layer that matters more never gets less, unless its maximum stops it; a larger budget takes from
    no layer; the order of the layers does not matter (equal claims are settled by name).

    Args:
        importance: name of the layer -> a number from 0, such as `sensitivity` gives.
        budget: the sum of all ranks. For a fair comparison with a uniform rank r take `r * len(importance)`.
        minimum: rank that every layer gets.
        maximum: rank that no layer exceeds, for all or by name; `full_ranks(model)` are those that make sense.

    Returns:
        name -> rank, in the order of `importance`; `inject(model, rank=...)` takes it.

    Raises:
        ValueError: a budget that the bounds do not allow, a negative importance, one that is not finite, or none.

    Source: the budget is AdaLoRA's (Zhang et al. 2023), the sum of ranks over all layers. AdaLoRA prunes to it while
    training; this rule decides before, so that the layers stay as they are. Built in lesson 04.
    """
    wrong = {name: value for name, value in importance.items() if not (math.isfinite(value) and value >= 0)}
    if wrong or not importance:
        raise ValueError(f"importance={wrong or dict(importance)}: give every layer a finite number from 0")
    most = {name: maximum[name] if isinstance(maximum, Mapping) else (maximum or budget) for name in importance}
    low, high = minimum * len(importance), sum(most.values())
    if minimum < 0 or min(most.values()) < minimum or not low <= budget <= high:
        raise ValueError(
            f"budget={budget} does not fit {len(importance)} layers of rank {minimum} to {max(most.values())}: "
            f"together they take {low} to {high}"
        )
    if not any(importance.values()):  # nothing is known: all alike
        importance = dict.fromkeys(importance, 1.0)
    ranks = dict.fromkeys(importance, minimum)
    for _ in range(budget - low):
        open_layers = [name for name in ranks if ranks[name] < most[name]]
        # Of equal claims the one with fewer ranks, so that layers without any importance share alike what is left.
        chosen = min(open_layers, key=lambda name: (-importance[name] / (2 * ranks[name] + 1), ranks[name], name))
        ranks[chosen] += 1
    return ranks


def full_ranks(model: nn.Module, patterns: str | Sequence[str] | None = None) -> dict[str, int]:
    """Name of the layer -> the largest rank that an update of it can have."""
    layers = candidates(model)
    return {name: full_rank(layers[name]) for name in matching(model, patterns)}


def layer_gradients(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    patterns: str | Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """The mean gradient of the loss with respect to layers' weights, frozen ones too. The network stays as it is.

    Args:
        batches: of `(inputs, targets)` from the task to come; the inputs as the network takes them.
        loss: `(outputs, targets) -> mean loss`.
        patterns: which layers, see `matching`.

    Returns:
        name -> `(out, in * kernel)`.

    Raises:
        ValueError: there is no batch, or adapters are merged: then the base is not what the network computes with.
    """
    if any(layer.merged_weight is not None for layer in adapted(model).values()):
        raise ValueError("the adapters are merged; unmerge them before the gradient of the base is measured")
    layers = {name: candidates(model)[name] for name in matching(model, patterns)}
    training, learns = model.training, {name: layer.weight.requires_grad for name, layer in layers.items()}
    sums = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    count = 0
    model.eval()  # running statistics stay as they are
    try:
        for layer in layers.values():
            layer.weight.requires_grad_(True)
        for inputs, targets in batches:
            value = loss(model(inputs), targets)
            gradients = torch.autograd.grad(value, [layer.weight for layer in layers.values()])
            for name, gradient in zip(layers, gradients, strict=True):
                sums[name] += gradient * len(targets)
            count += len(targets)
    finally:
        for name, layer in layers.items():
            layer.weight.requires_grad_(learns[name])
        model.train(training)
    if count == 0:
        raise ValueError("there is no batch to measure the gradient on")
    return {name: value.flatten(1) / count for name, value in sums.items()}


def sensitivity(model: nn.Module, gradients: Mapping[str, Tensor]) -> dict[str, float]:
    """How much the loss would change without a weight, `|weight * gradient|`, averaged over each layer's weights.

    The average, not the sum: otherwise large layers would win by their size.

    Args:
        gradients: from `layer_gradients`.

    Source: Zhang et al. 2023, "AdaLoRA", section 3.2, there with moving averages in training. Built in lesson 04.
    """
    layers = candidates(model)
    return {n: float((layers[n].weight.detach().flatten(1) * g).abs().mean()) for n, g in gradients.items()}


def directions(matrix: Tensor, energy: float = 0.9) -> int:
    """How many singular directions hold this share of a matrix's energy, the sum of its squared singular values.

    Args:
        matrix: `(rows, columns)`: a gradient, or the update that dense training made. More dimensions are flattened.
        energy: share, above 0 to 1.

    Returns:
        The smallest rank whose best approximation holds the share; 0 for a matrix of zeros.

    Source: Saha et al. 2021, "Gradient projection memory", choose the bases that they keep so. Built in lesson 04.
    """
    if not 0 < energy <= 1:
        raise ValueError(f"energy={energy} must be above 0 and at most 1")
    squares = torch.linalg.svdvals(matrix.detach().double().flatten(1)).square()
    if not squares.any():
        return 0
    held = squares.cumsum(0) / squares.sum()
    return int((held < energy - 1e-12).sum()) + 1  # a share is reached in spite of rounding


def task_rank(
    gradients: Mapping[str, Tensor], energy: float = 0.9, *, minimum: int = 1, maximum: int | None = None
) -> int:
    """One rank for a task: the median over layers of the directions that hold most of the gradient's energy.

    A task whose gradient lies in few directions gets a small rank. One step's gradient is the update that a first step
    makes; pass the updates of a dense run instead to ask what it needed in the end.

    Args:
        gradients: name -> matrix, from `layer_gradients`.
        energy: see `directions`.
        minimum, maximum: bounds of what is returned.
    """
    if not gradients:
        raise ValueError("there is no gradient to choose a rank from")
    wanted = math.ceil(median(directions(matrix, energy) for matrix in gradients.values()))
    return max(minimum, wanted if maximum is None else min(wanted, maximum))
