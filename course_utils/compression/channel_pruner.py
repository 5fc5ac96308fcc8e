"""Whole channels, neurons and attention heads go, and real smaller layers stay; Torch-Pruning follows what hangs together."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from course_utils.compression.heads import PARTS, attentions, head_norms, keep_heads
from course_utils.compression.importance import NORMS, importance_of
from course_utils.compression.schedule import cubic_sparsity
from course_utils.compression.storage import channels_last
from course_utils.models import ExpandableHead


class ChannelPruner:
    """Makes a network narrower step by step on the cubic schedule, in place.

    Args:
        ratio: share that is gone after the last step: of the channels of every convolution, of the neurons of every hidden
            dense layer, and of the heads of every attention. A transformer's width, which all its blocks add to, stays.
        norm: "l1" or "l2" of all that goes with a channel: its own weights, its BatchNorm, what the next layers read of it.
            Or "random": channels drawn with `seed`, a control that shows what norms are worth; heads are ranked by L2 then.
        own: rank by a channel's own weights only, see `importance.importance_of`.
        original: the unpruned network, if this one was pruned before: shares are counted of its widths, so that small
            steps do not add up their roundings. Then there is one step.

    Other arguments as in `prune_model`.

    Raises:
        ValueError: an unknown norm.
    """

    def __init__(
        self,
        model: nn.Module,
        ratio: float,
        image_shape: Sequence[int],
        *,
        norm: str = "l2",
        steps: int = 1,
        ignored: Sequence[str] = (),
        round_to: int = 1,
        original: nn.Module | None = None,
        own: bool = False,
        seed: int = 0,
    ):
        import torch_pruning as tp

        importance = importance_of(norm, own, seed)
        self.model, self.norm = model, NORMS.get(norm, 2)
        self.plan = _cubic(ratio, steps)
        self.done = 0
        heads = [module for module in model.modules() if isinstance(module, ExpandableHead)]
        fixed = _named(model, ignored) + heads
        if not heads:  # another library's network: its last dense layer gives the answers
            fixed += [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
        before = attentions(model if original is None else original)  # blocks may be missing in `model`
        self.attention = [(block, before[name].num_heads) for name, block in attentions(model).items()]
        fixed += [getattr(block, part) for block, _ in self.attention for part in PARTS] + _writers_of_residual(model)
        device = next(model.parameters()).device
        # Of the class token and the positions it says which dimension it would prune; their width stays.
        warnings.filterwarnings("ignore", module="torch_pruning")
        base = getattr(tp.pruner, "BasePruner", None) or tp.pruner.MetaPruner  # its older name
        shares = _one_stays(model, ratio) if original is None else _ratios_left(model, original, ratio)
        self.pruner = base(
            model.eval(),
            torch.rand(2, *image_shape, generator=torch.Generator().manual_seed(0)).to(device),
            importance=importance,
            pruning_ratio=ratio,
            pruning_ratio_dict=shares,
            iterative_steps=steps,
            iterative_pruning_ratio_scheduler=_cubic,
            ignored_layers=fixed,
            round_to=round_to if round_to > 1 else None,
            customized_pruners={ExpandableHead: head_pruner(tp)},
        )

    def step(self) -> None:
        """Take the next step of the schedule."""
        self.model.eval()
        self.pruner.step()
        self.done = min(self.done + 1, len(self.plan) - 1)
        for block, heads in self.attention:
            count = max(1, round(heads * (1 - self.plan[self.done])))
            if count < block.num_heads:
                keep_heads(block, head_norms(block, self.norm).topk(count).indices.tolist())
        channels_last(self.model)


def _cubic(target: float, steps: int) -> list[float]:
    return [cubic_sparsity(step, steps, target) for step in range(steps + 1)]


def _named(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    modules = dict(model.named_modules())
    wanted = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in wanted if name not in modules]
    if unknown:
        layers = [name for name, module in modules.items() if isinstance(module, (nn.Conv2d, nn.Linear))]
        raise ValueError(
            f"ignored names {', '.join(unknown)}, which the network does not have; it has {', '.join(layers)}"
        )
    return [modules[name] for name in wanted]


def _one_stays(model: nn.Module, ratio: float) -> dict[nn.Module, float]:
    """Layer -> share, for those that would lose their last channel: Torch-Pruning leaves such a layer whole."""
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    most = {layer: 1 - (1 + 1e-6) / len(layer.weight) for layer in layers}
    return {layer: share for layer, share in most.items() if share < ratio}


def _ratios_left(model: nn.Module, original: nn.Module, ratio: float) -> dict[nn.Module, float]:
    """Layer -> share of its present outputs that has to go, so that `ratio` of the original ones is gone."""
    found: dict[nn.Module, float] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            wanted = max(1, int(len(original.get_submodule(name).weight) * (1 - ratio) + 1e-6))  # type: ignore[arg-type]
            found[layer] = max(0.0, 1 - (wanted + 1e-6) / len(layer.weight))
    return found


def _writers_of_residual(model: Any) -> list[Any]:
    """Layers of a transformer that write into the sum that runs through all blocks."""
    first = [getattr(model, name, None) for name in ("patches", "lift")]  # of the ViT, of lesson 05's fusion
    return [m.down for m in model.modules() if hasattr(m, "up") and hasattr(m, "down")] + [
        layer for layer in first if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]


def head_pruner(tp: Any) -> Any:
    """How Torch-Pruning takes inputs from an `ExpandableHead`; its outputs are classes and stay."""

    class HeadPruner(tp.BasePruningFunc):
        def prune_in_channels(self, layer: ExpandableHead, idxs: list[int]) -> nn.Module:
            kept = [i for i in range(layer.num_features) if i not in set(idxs)]
            learns = layer.weight.requires_grad
            layer.weight = nn.Parameter(layer.weight.data[:, kept].clone(), requires_grad=learns)
            return layer

        def prune_out_channels(self, layer: ExpandableHead, idxs: list[int]) -> nn.Module:
            raise ValueError("the outputs of a head are classes; they cannot be pruned")

        def get_in_channels(self, layer: ExpandableHead) -> int:
            return layer.num_features

        def get_out_channels(self, layer: ExpandableHead) -> int:
            return layer.num_outputs

    return HeadPruner()
