"""How much a channel matters: the norm of its weights, or, as a control, nothing but chance. Built in lesson 07."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NORMS = {"l1": 1, "l2": 2}


def channel_norms(weight: Tensor, norm: str = "l2") -> Tensor:
    """Importance of every output channel, `(out, ...)` -> `(out,)`: the norm of all its weights.

    Source: Li et al. 2017, section 3.1. Built in lesson 07, exercise 07.7.
    """
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r} is unknown; choose one of {', '.join(NORMS)}")
    return weight.detach().flatten(1).norm(p=NORMS[norm], dim=1)


def importance_of(norm: str, own: bool = False, seed: int = 0) -> Any:
    """What Torch-Pruning ranks channels by.

    Args:
        norm: "l1" sums magnitudes, "l2" squares; of all layers that lose something with a channel, and their mean counts.
            "random" draws.
        own: count the channel's own weights only, as `channel_norms` does.

    Raises:
        ValueError: an unknown norm.

    Source: Li et al. 2017 (own weights); Fang et al. 2023, section 3.3 (the group).
    """
    import torch_pruning as tp

    if norm == "random":
        return RandomImportance(seed)
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r} is unknown; choose one of {', '.join(NORMS)}, or 'random'")
    return tp.importance.GroupMagnitudeImportance(p=NORMS[norm], group_reduction="first" if own else "mean")


class RandomImportance:
    """Every channel's importance is drawn: what pruning loses without any idea of which channels matter.

    Called by Torch-Pruning with a group of layers that share their channels; gives one number for each channel.
    """

    def __init__(self, seed: int = 0):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, group: Any, **_: Any) -> Tensor:
        return torch.rand(len(group[0].idxs), generator=self.generator)
