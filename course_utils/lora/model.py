"""Adapters for a whole network: put in, switch, merge, save alone, take out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_utils.lora.layer import LoRALayer, full_rank, is_plain

Ranks = int | Mapping[str, int]
ALWAYS_TRAINED = ("head",)


def candidates(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Name -> layer of everything that can carry an adapter: dense layers and plain convolutions, adapted or not yet."""
    found: dict[str, nn.Linear | nn.Conv2d] = {}
    inside = {f"{name}.base" for name in adapted(model)}
    for name, module in model.named_modules():
        layer = module.base if isinstance(module, LoRALayer) else module
        plain = isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and is_plain(layer))
        if plain and name and name not in inside:
            found[name] = layer
    return found


def adapted(model: nn.Module) -> dict[str, LoRALayer]:
    """Name -> layer of everything that carries adapters."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALayer)}


def adapters(model: nn.Module) -> list[str]:
    """Names of the adapters that the network has, in the order in which they came."""
    return list(dict.fromkeys(name for layer in adapted(model).values() for name in layer.scale))


def matching(model: nn.Module, patterns: str | Sequence[str] | None = None) -> list[str]:
    """Names of the candidates that a pattern fits, in the order of the network; None fits all.

    Args:
        patterns: with `*` for any text: "blocks.*.attention.query", "layer4.*".

    Raises:
        ValueError: a pattern that fits nothing.
    """
    names = list(candidates(model))
    if patterns is None:
        return names
    wanted = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"no layer is called {pattern!r}; layers that can be adapted: {', '.join(names) or 'none'}"
            )
    if not wanted:
        raise ValueError("patterns=[] names no layer; use None for all of them")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in wanted)]


def inject(
    model: nn.Module,
    patterns: str | Sequence[str] | None = None,
    rank: Ranks = 8,
    alpha: float = 8.0,
    *,
    name: str = "default",
    rank_stabilized: bool = False,
    seed: int = 0,
    trained: Sequence[str] = ALWAYS_TRAINED,
) -> list[str]:
    """Freeze a network and put an adapter beside some of its layers. Its outputs stay the same to the last bit.

    The adapter becomes the one in use. Injecting it again, with the same rank, changes nothing.

    Args:
        patterns: which layers, see `matching`; None is all dense layers and convolutions (the head is neither).
        rank: of every update, or name of the layer -> rank (`allocate_ranks`); then `patterns` may be left out.
        alpha: the update is scaled by `alpha / rank`.
        name: several adapters can stand side by side; `use` switches.
        rank_stabilized: scale by `alpha / sqrt(rank)` instead (Kalajdzievski 2023), so that large ranks learn as fast.
        seed: of the factors A.
        trained: modules that go on learning densely.

    Returns:
        Names of the layers that carry the adapter.

    Raises:
        ValueError: nothing fits, a rank is impossible for a layer, a name has a dot in it, or this adapter is there
            already with another rank or scale.

    Source: Hu et al. 2022, section 4. Built in lesson 04.
    """
    if not name or "." in name:
        raise ValueError(f"name={name!r} cannot be the name of an adapter; use text without dots")
    if alpha <= 0:
        raise ValueError(f"alpha={alpha} must be above 0")
    layers = candidates(model)
    if isinstance(rank, Mapping):
        unknown = sorted(set(rank) - set(layers))
        if unknown or not rank:
            raise ValueError(f"rank names {unknown or 'nothing'}; layers that can be adapted: {', '.join(layers)}")
        fitting = set(rank if patterns is None else matching(model, patterns))
        ranks = {layer: rank[layer] for layer in layers if layer in rank and layer in fitting}
    else:
        ranks = dict.fromkeys(matching(model, patterns), rank)
    scales = {layer: alpha / (math.sqrt(r) if rank_stabilized else r) if r else 0.0 for layer, r in ranks.items()}
    _check_new_adapter(model, name, ranks, scales)
    for parameter_name, parameter in model.named_parameters():
        if not parameter_name.startswith(tuple(f"{part}." for part in trained)) and "lora_" not in parameter_name:
            parameter.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for layer_name, r in ranks.items():
        layer = model.get_submodule(layer_name)
        if not isinstance(layer, LoRALayer):
            layer = LoRALayer(layers[layer_name])
            parent, _, attribute = layer_name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, layer)
        if name not in layer.scale:
            layer.train(layer.base.training)
            layer.add(name, r, scales[layer_name], generator)
    use(model, name)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.grad = None  # left from dense training: memory that nothing reads any more
    return list(ranks)


def _check_new_adapter(model: nn.Module, name: str, ranks: dict[str, int], scales: dict[str, float]) -> None:
    """Before anything is changed: every layer can take this rank and has no other adapter of this name."""
    layers, present = candidates(model), adapted(model)
    for layer_name, r in ranks.items():
        most = full_rank(layers[layer_name])
        if not 1 <= r <= most:
            raise ValueError(f"rank={r} is impossible for {layer_name}, whose full rank is {most}; use 1 to {most}")
        old = present.get(layer_name)
        if old is not None and name in old.scale and (old.rank(name), old.scale[name]) != (r, scales[layer_name]):
            raise ValueError(
                f"{layer_name} has an adapter {name!r} of rank {old.rank(name)} and scale {old.scale[name]:g}, not "
                f"rank {r} and scale {scales[layer_name]:g}; give the new one another name, or `remove` the old ones"
            )


def use(model: nn.Module, name: str | None) -> None:
    """Switch to an adapter, or with None to the base alone. What was merged is unmerged. Only this one takes gradients.

    Raises:
        ValueError: the network has no adapter of this name.
    """
    if name is not None:
        _layers_with(model, name)
    for layer in adapted(model).values():
        layer.use(name)


def in_use(model: nn.Module) -> str | None:
    """Name of the adapter that the network answers with."""
    return next((layer.active for layer in adapted(model).values() if layer.active is not None), None)


def _layers_with(model: nn.Module, name: str) -> dict[str, LoRALayer]:
    found = {layer_name: layer for layer_name, layer in adapted(model).items() if name in layer.scale}
    if not found:
        raise ValueError(f"the network has no adapter {name!r}; it has {', '.join(adapters(model)) or 'none'}")
    return found


def merge(model: nn.Module) -> None:
    """Compute with `W + scale * B A` in one weight: no slower than the base. Merging again changes nothing.

    The base's own weights are kept, so that `unmerge` is exact.

    Raises:
        FloatingPointError: the adapter holds NaN or inf; nothing is merged then.
    """
    _check_finite(model)
    for layer in adapted(model).values():
        layer.merge()


def unmerge(model: nn.Module) -> None:
    """Undo `merge`, to the last bit. Unmerging again changes nothing."""
    for layer in adapted(model).values():
        layer.unmerge()


def absorb(model: nn.Module) -> None:
    """Write the adapter in use into the base for good and set its B to zero: the next one learns on top.

    Source: Lialin et al. 2023, "ReLoRA", section 3.

    Raises:
        FloatingPointError: the adapter holds NaN or inf; nothing is changed then.
    """
    _check_finite(model)
    for layer in adapted(model).values():
        layer.absorb()


def _check_finite(model: nn.Module) -> None:
    for name, layer in adapted(model).items():
        try:
            layer.weight_with_update()
        except FloatingPointError as error:
            raise FloatingPointError(f"{error} in {name}: the base is left as it was") from error


def fold(model: nn.Module) -> None:
    """Take all adapters out and leave the one in use in the weights: a plain network of the old layout.

    It stays frozen but for the head; `model.requires_grad_(True)` lets it learn densely.
    """
    absorb(model)
    remove(model)


def remove(model: nn.Module) -> None:
    """Take all adapters out and leave the base as it is. See `fold`."""
    for name, layer in adapted(model).items():
        parent, _, attribute = name.rpartition(".")
        layer.base.train(layer.training)
        setattr(model.get_submodule(parent), attribute, layer.base)


def keep_apart(model: nn.Module, apart: bool = True) -> None:
    """Let `model.state_dict()` hold the base alone, under its old names; the adapters have `adapter_state_dict`."""
    for layer in adapted(model).values():
        layer.apart = apart


def adapter_state_dict(model: nn.Module, name: str | None = None) -> dict[str, Tensor]:
    """One adapter alone, a copy: "blocks.0.mlp.up.lora_A" -> A, the same for B, and ".scale" -> a number.

    Args:
        name: default is the adapter in use.
    """
    name = _name_or_active(model, name)
    state = {}
    for layer_name, layer in _layers_with(model, name).items():
        state[f"{layer_name}.lora_A"] = layer.lora_A[name].detach().clone()
        state[f"{layer_name}.lora_B"] = layer.lora_B[name].detach().clone()
        state[f"{layer_name}.scale"] = torch.tensor(layer.scale[name], dtype=torch.float64)
    return state


@torch.no_grad()
def load_adapter_state_dict(model: nn.Module, state: Mapping[str, Tensor], name: str | None = None) -> None:
    """Read what `adapter_state_dict` gave into an adapter of the same layers, ranks and scale. Unmerges.

    Args:
        name: of the adapter to fill; default is the one in use.

    Raises:
        ValueError: other layers, ranks or scales, or no adapter of this name; nothing is changed then.
    """
    name = _name_or_active(model, name)
    own = adapter_state_dict(model, name)
    differing = sorted(set(own) ^ set(state))
    if differing:
        raise ValueError(
            f"the saved adapter is not of the layers of {name!r}: {', '.join(differing[:4])} "
            f"({len(differing)} in all) stand on one side only; inject with the same patterns"
        )
    for key, value in own.items():
        if state[key].shape != value.shape:
            raise ValueError(
                f"{key}: saved with shape {tuple(state[key].shape)}, {name!r} has {tuple(value.shape)}; "
                "inject with the same rank"
            )
        if key.endswith(".scale") and not torch.isclose(state[key].double().cpu(), value):
            raise ValueError(
                f"{key}: saved with {state[key].item():g}, {name!r} has {value.item():g}; inject with the same alpha"
            )
    unmerge(model)
    for layer_name, layer in _layers_with(model, name).items():
        layer.lora_A[name].copy_(state[f"{layer_name}.lora_A"])
        layer.lora_B[name].copy_(state[f"{layer_name}.lora_B"])


def _name_or_active(model: nn.Module, name: str | None) -> str:
    name = in_use(model) if name is None else name
    if name is None:
        raise ValueError(f"no adapter is in use; name one of {', '.join(adapters(model)) or 'none: inject one first'}")
    return name


class ParameterCount(NamedTuple):
    """How many numbers learn, and how many there are (the adapters among them)."""

    trainable: int
    total: int

    @property
    def share(self) -> float:
        return self.trainable / self.total


def count_parameters(model: nn.Module) -> ParameterCount:
    """Trainable parameters and all parameters of a network."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return ParameterCount(sum(size for size, learns in sizes if learns), sum(size for size, _ in sizes))
