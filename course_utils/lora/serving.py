"""Many adapters, one base: answer a batch whose images belong to different tenants, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from course_utils.lora.layer import LoRALayer
from course_utils.lora.model import adapted, adapters, in_use, use


def mixed_update(x: Tensor, A: Tensor, B: Tensor, which: Tensor, scale: Tensor) -> Tensor:
    """What each sample's own adapter adds to a dense layer's output, all samples at once.

    Args:
        x: `(batch, tokens, in)` input of the layer.
        A: `(tenants, rank, in)`. B: `(tenants, out, rank)`.
        which: `(batch,)` tenant of every sample.
        scale: `(tenants,)`.

    Returns:
        `(batch, tokens, out)`: `scale * B (A x)` with the sample's tenant in all three.

    Built in lesson 04, exercise 04.11.
    """
    low = x @ A[which].transpose(1, 2)  # (batch, tokens, rank)
    return scale[which, None, None] * low @ B[which].transpose(1, 2)


class Tenants:
    """A network and copies of all its adapters, laid out for batches that mix them.

    Adapters that are trained on afterwards are not noticed: make a new one then. The network is used as it is; while it
    answers, its own adapters are switched off.

    Args:
        model: with adapters on dense layers; their ranks and layers may differ.

    Raises:
        ValueError: no adapter, or one on a convolution.

    Source: the idea of S-LoRA and Punica (both 2023), without their GPU kernels. Built in lesson 04.
    """

    def __init__(self, model: nn.Module):
        self.model, self.names = model, adapters(model)
        if not self.names:
            raise ValueError("the network has no adapters; `inject` one for every tenant first")
        self.stacks: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        for name, layer in adapted(model).items():
            if not isinstance(layer.base, nn.Linear):
                raise ValueError(
                    f"{name} is a convolution; mixed batches work for dense layers: inject with patterns that leave it out"
                )
            self.stacks[name] = self._stack(layer)

    @torch.no_grad()
    def _stack(self, layer: LoRALayer) -> tuple[Tensor, Tensor, Tensor]:
        """All tenants' factors in two tensors, filled with zeros up to the largest rank; what is missing adds nothing."""
        weight, most = layer.base.weight, max(layer.rank(name) for name in layer.scale)
        A = weight.new_zeros(len(self.names), most, weight.shape[1])
        B = weight.new_zeros(len(self.names), weight.shape[0], most)
        for place, name in enumerate(self.names):
            if name in layer.scale:
                rank = layer.rank(name)
                A[place, :rank], B[place, :, :rank] = layer.lora_A[name], layer.lora_B[name]
        return A, B, weight.new_tensor([layer.scale.get(name, 0.0) for name in self.names])

    @torch.no_grad()
    def __call__(self, x: Tensor, names: Sequence[str]) -> Tensor:
        """Outputs `(batch, ...)` of images `(batch, ...)`, every one with the adapter that is named for it.

        Raises:
            ValueError: an unknown tenant, or not one name an image.
        """
        if len(names) != len(x):
            raise ValueError(f"{len(x)} images and {len(names)} names; give one name an image")
        unknown = sorted(set(names) - set(self.names))
        if unknown:
            raise ValueError(f"there is no tenant {unknown[0]!r}; there are {', '.join(self.names)}")
        which = torch.tensor([self.names.index(name) for name in names], device=x.device)
        current, layers = in_use(self.model), adapted(self.model)
        use(self.model, None)
        hooks = [
            layers[name].register_forward_hook(
                lambda _, inputs, out, stack=stack: out + _as_tokens(inputs[0], stack, which).view_as(out)
            )
            for name, stack in self.stacks.items()
        ]
        try:
            return self.model(x)
        finally:
            for hook in hooks:
                hook.remove()
            use(self.model, current)


def _as_tokens(x: Tensor, stack: tuple[Tensor, Tensor, Tensor], which: Tensor) -> Tensor:
    A, B, scale = stack
    return mixed_update(x.reshape(len(x), -1, x.shape[-1]), A, B, which, scale)


def answer_as(model: nn.Module, name: str, x: Tensor) -> Tensor:
    """Outputs with one adapter; the one in use before is in use again afterwards."""
    current = in_use(model)
    use(model, name)
    try:
        return model(x)
    finally:
        use(model, current)


def by_tenant(names: Sequence[str], answer: Callable[[str, Tensor], Tensor]) -> Tensor:
    """Answer a mixed batch tenant by tenant and put the answers back in order.

    Args:
        names: of the tenant of every sample.
        answer: `(name, rows) -> outputs` of these samples.
    """
    places: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        places.setdefault(name, []).append(row)
    rows = [torch.tensor(found) for found in places.values()]
    answers = torch.cat([answer(name, found) for name, found in zip(places, rows, strict=True)])
    return answers[torch.cat(rows).argsort()]
