"""Structured pruning: whole channels, neurons and attention heads go, and real smaller layers stay.

What else loses an input when a channel goes (the BatchNorm behind it, the next layer, whatever is added to it) is found by
Torch-Pruning's dependency graph. Lesson 07 does it on four channels by hand first.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.compression.blocks import drop_blocks
from course_utils.compression.deployment import without_adapters
from course_utils.compression.heads import PARTS, attentions, head_norms, keep_heads
from course_utils.compression.inputs import image_shape_of
from course_utils.compression.preparation import quantized_layers
from course_utils.compression.schedule import cubic_sparsity
from course_utils.compression.storage import channels_last
from course_utils.compression.tracing import count_macs
from course_utils.models import ExpandableHead

METHODS = ("channel", "magnitude")
NORMS = {"l1": 1, "l2": 2}


def prune_model(
    model: nn.Module,
    target_sparsity: float = 0.5,
    method: str = "channel",
    gradual: bool = True,
    train_fn: Callable[[nn.Module], Any] | None = None,
    *,
    image_shape: Sequence[int] | None = None,
    norm: str = "l2",
    steps: int = 4,
    share_of: str = "parameters",
    ignored: Sequence[str] = (),
    round_to: int = 1,
    blocks: int = 0,
    images: Tensor | None = None,
) -> dict[str, Any]:
    """Prune a copy of a network. Adapters are written into the copy's weights first.

    Args:
        target_sparsity: share to remove, 0 to below 1. Every layer keeps one channel at least.
        method: "channel" makes layers narrower. "magnitude" sets the smallest weights to zero and nothing else: the file
            and the arithmetic stay as large as before (the contrast of lesson 07).
        gradual: in `steps` steps on the cubic schedule; otherwise at once.
        train_fn: called with the network after every step, to fine-tune it in place. Without it, accuracy collapses.
        image_shape: (channels, height, width); default is the first usual size that the network takes.
        norm: "l1" or "l2", what a channel's importance is measured by.
        share_of: "parameters", or "channels" of every layer (half of the channels is three quarters of the parameters).
        ignored: names of modules that keep their outputs. The head always does.
        round_to: widths are multiples of this, as far as it goes.
        blocks: of a transformer to take out first, one by one, with `train_fn` behind each: the layers that stay get their share of
            `target_sparsity` afterwards. `images`, some hundreds of them, decide which.

    Returns:
        "pruned_model", a network in eval mode, and "metrics": `sparsity` (share of parameters gone, or set to zero),
        `parameters_before`, `parameters_after`, `macs_before`, `macs_after`, `compression_ratio`, `widths` (name -> outputs).

    Raises:
        ValueError: an unknown option, or a share that cannot be reached.

    Source: Li et al. 2017 (norms of filters); Fang et al. 2023, "DepGraph". Built in lesson 07.
    """
    if method not in METHODS or norm not in NORMS or share_of not in ("parameters", "channels"):
        raise ValueError(
            f"method={method!r}, norm={norm!r}, share_of={share_of!r}: choose a method of {', '.join(METHODS)}, "
            f"a norm of {', '.join(NORMS)}, and 'parameters' or 'channels'"
        )
    if not 0 <= target_sparsity < 1 or steps < 1:
        raise ValueError(f"target_sparsity={target_sparsity}, steps={steps}: a share in [0, 1) and at least one step")
    if quantized_layers(model):
        raise ValueError("this network is fake-quantized already; prune first, then quantize what is left")
    model = without_adapters(model)
    shape = image_shape_of(model, image_shape)
    made = copy.deepcopy(model)
    made.requires_grad_(True)
    if blocks and images is None:
        raise ValueError(f"blocks={blocks} needs images=...: which blocks can go is seen from what they do to images")
    for _ in range(blocks):
        drop_blocks(made, 1, images)  # type: ignore[arg-type]
        if train_fn is not None:
            train_fn(made)
    stages = steps if gradual else 1
    if method == "magnitude":
        _zero_smallest(made, target_sparsity, stages, train_fn)
    elif target_sparsity > 0:
        ratio = target_sparsity
        if share_of == "parameters":
            ratio = channel_ratio(made, target_sparsity, shape, norm=norm, ignored=ignored, round_to=round_to)
        pruner = ChannelPruner(made, ratio, shape, norm=norm, steps=stages, ignored=ignored, round_to=round_to)
        for _ in range(stages):
            pruner.step()
            if train_fn is not None:
                train_fn(made)
    elif train_fn is not None and not blocks:
        train_fn(made)
    made.eval()
    return {"pruned_model": made, "metrics": _metrics(model, made, shape)}


class ChannelPruner:
    """Makes a network narrower step by step on the cubic schedule, in place.

    Args:
        ratio: share that is gone after the last step: of the channels of every convolution, of the neurons of every hidden
            dense layer, and of the heads of every attention. A transformer's width, which all its blocks add to, stays.
        original: the unpruned network, if this one was pruned before: shares are counted of its widths, so that small
            steps do not add up their roundings. Then there is one step.

    Other arguments as in `prune_model`.
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
    ):
        import torch_pruning as tp

        self.model, self.norm = model, NORMS[norm]
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
            importance=tp.importance.GroupMagnitudeImportance(p=self.norm),
            pruning_ratio=ratio,
            pruning_ratio_dict=shares,
            iterative_steps=steps,
            iterative_pruning_ratio_scheduler=_cubic,
            ignored_layers=fixed,
            round_to=round_to if round_to > 1 else None,
            customized_pruners={ExpandableHead: _head_pruner(tp)},
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


def _head_pruner(tp: Any) -> Any:
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


def channel_ratio(model: nn.Module, target_sparsity: float, image_shape: Sequence[int], **options: Any) -> float:
    """Share of channels to remove so that this share of the parameters is gone: found by trying, on copies.

    Raises:
        ValueError: even the narrowest network keeps more.
    """
    before, low, high = parameters(model), 0.0, 0.98
    for _ in range(8):
        middle = (low + high) / 2
        trial = copy.deepcopy(model)
        ChannelPruner(trial, middle, image_shape, **options).step()
        low, high = (middle, high) if 1 - parameters(trial) / before < target_sparsity else (low, middle)
    if high >= 0.98:
        raise ValueError(f"target_sparsity={target_sparsity} leaves layers without channels; ask for less")
    return high


def channel_norms(weight: Tensor, norm: str = "l2") -> Tensor:
    """Importance of every output channel, `(out, ...)` -> `(out,)`: the norm of all its weights.

    Source: Li et al. 2017, section 3.1. Built in lesson 07, exercise 07.7.
    """
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r} is unknown; choose one of {', '.join(NORMS)}")
    return weight.detach().flatten(1).norm(p=NORMS[norm], dim=1)


def parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def channels(model: nn.Module) -> int:
    """Number of outputs of all convolutions and dense layers; a head's outputs are classes and do not count."""
    return sum(len(layer.weight) for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear)))


def _zero_smallest(model: nn.Module, target: float, steps: int, train_fn: Callable[[nn.Module], Any] | None) -> None:
    """The smallest weights of all layers together become zero; what is zero stays zero through fine-tuning."""
    tensors = [p for p in model.parameters() if p.dim() > 1]
    for step in range(1, steps + 1):
        share = cubic_sparsity(step, steps, target)
        sizes = torch.cat([p.detach().abs().flatten() for p in tensors])
        count = round(share * len(sizes))
        limit = sizes.kthvalue(count).values if count else sizes.new_tensor(-1.0)
        masks = [p.detach().abs() > limit for p in tensors]
        _apply(tensors, masks)
        if train_fn is not None:
            train_fn(model)
            _apply(tensors, masks)


@torch.no_grad()
def _apply(tensors: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    for tensor, mask in zip(tensors, masks, strict=True):
        tensor.mul_(mask)


def _metrics(before: nn.Module, after: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    total, left = parameters(before), sum(int((p != 0).sum()) for p in after.parameters() if p.dim() > 1)
    left += sum(p.numel() for p in after.parameters() if p.dim() <= 1)
    return {
        "sparsity": 1 - left / total,
        "parameters_before": total,
        "parameters_after": parameters(after),
        "macs_before": count_macs(before, shape),
        "macs_after": count_macs(after, shape),
        "compression_ratio": total / parameters(after),
        "widths": {n: len(m.weight) for n, m in after.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))},
    }
