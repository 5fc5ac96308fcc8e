"""What a network computes, call by call: recorded once, used for export, for counting and for folding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

BATCH = 13  # a prime that no layer has as its width: in a recorded shape it can only be the number of images


@dataclass(frozen=True)
class Call:
    """One call of PyTorch that made a tensor.

    Attributes:
        name: of the function: "conv2d", "linear", "add", "flatten", ...
        args, kwargs: as they were given; tensors are the very objects that flowed through the network.
        output: the tensor that it returned.
        module: name of the module that called it.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor
    module: str

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by its place or by its name."""
        return self.args[place] if place < len(self.args) else self.kwargs.get(name, default)

    def tensors(self) -> list[Tensor]:
        """Every tensor among the arguments, in lists and tuples too."""
        found: list[Tensor] = []
        for value in (*self.args, *self.kwargs.values()):
            found += [v for v in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(v, Tensor)]
        return found


@dataclass(frozen=True)
class Trace:
    """A forward pass. Every tensor stays alive with it, so that `id` tells them apart."""

    calls: tuple[Call, ...]
    input: Tensor
    output: Tensor

    def producer(self, tensor: Tensor) -> Call | None:
        """The call that made a tensor; None for the input and for parameters."""
        return next((call for call in self.calls if call.output is tensor), None)

    def readers(self, tensor: Tensor) -> list[Call]:
        """The calls that read a tensor."""
        return [call for call in self.calls if any(given is tensor for given in call.tensors())]


class _Recorder(TorchFunctionMode):
    def __init__(self, place: list[str]):
        super().__init__()
        self.calls: list[Call] = []
        self.place = place

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        output = function(*args, **kwargs)
        name = _plain_name(function)
        # Reading an attribute (`x.shape`, `p.requires_grad`) comes here too; only a transposed one is computed.
        if isinstance(output, Tensor) and name not in ("get", "data", "grad"):
            if any(output is given for given in args):
                output = output.detach()  # in place: from here on another tensor, though its memory is the same
            self.calls.append(Call(name, tuple(args), kwargs, output, self.place[-1]))
        elif isinstance(output, (tuple, list)):  # each by itself: nothing that depends on the images may be overlooked
            parts = [part for part in output if isinstance(part, Tensor)]
            self.calls += [
                Call(f"{name} (several results)", tuple(args), kwargs, part, self.place[-1]) for part in parts
            ]
        return output


def _plain_name(function: Callable[..., Any]) -> str:
    name = function.__name__.strip("_")
    if name == "get":
        name = (resolve_name(function) or ".get").split(".")[-2]  # "torch.Tensor.T.__get__"
    # `a + b`, `a.add(b)` and `a += b` are one thing.
    return {"radd": "add", "iadd": "add", "rmul": "mul", "imul": "mul", "truediv": "div", "rsub": "sub"}.get(name, name)


@contextmanager
def _places(model: nn.Module) -> Iterator[list[str]]:
    """The name of the module that is running, last in the list."""
    stack = [""]
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda _, __, name=name: stack.append(name)))
        handles.append(module.register_forward_hook(lambda _, __, ___: _drop_last(stack)))
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()


def _drop_last(stack: list[str]) -> None:
    stack.pop()


def trace(model: nn.Module, x: Tensor) -> Trace:
    """Run a network once in eval mode and write down every call that makes a tensor. The mode is restored.

    Args:
        x: `(batch, ...)` inputs in the network's own form (floats in [0, 1] for the course's networks).

    Built in lesson 07.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), _places(model) as place, _Recorder(place) as recorder:
            output = model(x)
    finally:
        for module, training in modes.items():
            module.training = training
    return Trace(tuple(recorder.calls), x, output)


def example(image_shape: tuple[int, ...] | list[int], batch: int = BATCH) -> Tensor:
    """Inputs to trace with, `(batch, *image_shape)` in [0, 1], the same every time."""
    return torch.rand(batch, *image_shape, generator=torch.Generator().manual_seed(0))


def count_macs(model: nn.Module, image_shape: tuple[int, ...]) -> int:
    """Multiplications with an addition for one image: of convolutions, dense layers and matrix products.

    A convolution takes `out_height * out_width * out_channels * in_channels / groups * kernel_height * kernel_width`.
    What is left out (normalisation, activations, pooling) moves memory rather than multiplies. Built in lesson 07.
    """
    found = trace(model, example(image_shape, 1).to(next(model.parameters()).device))
    return sum(_macs(call) for call in found.calls)


def _macs(call: Call) -> int:
    if call.name == "conv2d":
        weight = call.argument(1, "weight")
        return call.output.shape[2:].numel() * weight.numel() * len(call.output)
    if call.name == "linear":
        return call.output.numel() * call.argument(1, "weight").shape[1]
    if call.name == "scaled_dot_product_attention":
        query, key, value = call.args[:3]
        return query.numel() * key.shape[-2] + call.output.numel() * value.shape[-2]
    if call.name in ("matmul", "bmm"):
        return call.output.numel() * call.args[0].shape[-1]
    return 0
