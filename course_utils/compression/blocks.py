"""A transformer with fewer blocks: every block adds to what came before, so one can go and the rest still fits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def block_names(model: nn.Module) -> list[str]:
    """Names of the blocks that a transformer still has; none for other networks."""
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.Sequential):
        return []
    return [f"blocks.{name}" for name, block in blocks.named_children() if not isinstance(block, nn.Identity)]


@torch.no_grad()
def block_influence(model: nn.Module, images: Tensor) -> dict[str, float]:
    """How far every block turns the tokens: 1 minus the mean cosine between what enters and what leaves.

    Args:
        images: `(batch, C, H, W)`, some hundreds of representative ones.

    Source: Men et al. 2024, "ShortGPT", eq. 1.
    """
    found: dict[str, float] = {}
    handles = []

    def look(name: str) -> None:
        def hook(_: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
            found[name] = 1 - F.cosine_similarity(given[0], out, dim=-1).mean().item()

        handles.append(model.get_submodule(name).register_forward_hook(hook))

    for name in block_names(model):
        look(name)
    training = model.training
    model.eval()
    model(images.to(next(model.parameters()).device))
    model.train(training)
    for handle in handles:
        handle.remove()
    return found


def drop_blocks(model: nn.Module, count: int, images: Tensor) -> list[str]:
    """Take out the blocks that turn the tokens least, in place; each leaves an `nn.Identity`, so names stay.

    Returns:
        Names of what was taken out.

    Raises:
        ValueError: not that many blocks are there, or none would be left.
    """
    names = block_names(model)
    if not 0 <= count < max(1, len(names)):
        raise ValueError(f"count={count} of {len(names)} blocks: at least one has to stay")
    dropped = []
    for _ in range(count):  # one by one: without the first, the others have another influence
        influence = block_influence(model, images)
        name = min(influence, key=lambda n: influence[n])
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, nn.Identity())
        dropped.append(name)
    return dropped
