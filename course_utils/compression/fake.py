"""Layers that compute as integers would, in floats that can learn. Built in lesson 07, exercise 07.6."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.compression.affine import channel_scales, levels, scale_and_zero_point
from course_utils.compression.observers import Observer

STATES = ("observe", "learn", "fixed", "off")


class FakeQuantize(nn.Module):
    """Round an activation to the 8-bit numbers it will have. The gradient passes as if nothing had been rounded.

    A range without negative numbers (behind a ReLU) gets the zero point 0. Any other, such as that of a leaky ReLU, gets
    the zero point that its own negative side asks for: unsigned integers either way, which a CPU multiplies fastest.
    With `symmetric` it is int8 with zero point 0 whatever the range; behind a ReLU half of these integers are never used.

    Attributes:
        state: "observe", look and change nothing (calibration); "learn", look and round (training: the range follows);
            "fixed", round with the range as it is; "off", neither.

    Source: Jacob et al. 2018, section 3; the straight-through gradient is Bengio et al. 2013's.
    """

    def __init__(self, bits: int = 8, observer: str = "average", symmetric: bool = False):
        super().__init__()
        self.bits, self.state, self.symmetric = bits, "observe", symmetric
        self.observer = Observer(observer)

    def forward(self, x: Tensor) -> Tensor:
        if self.state == "off":
            return x
        looks = self.state == "observe" or (self.state == "learn" and self.training)
        if looks:
            self.observer.observe(x)
        if self.state == "observe":
            return x
        scale, zero_point = self.parameters_of_range()
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, *self._limits())

    def _limits(self) -> tuple[int, int]:
        # A file's int8 holds -128, too: a number below the range is cut off there.
        return (
            (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1) if self.symmetric else levels(self.bits, signed=False)
        )

    def parameters_of_range(self) -> tuple[float, int]:
        """Scale and zero point of the range seen so far.

        Raises:
            RuntimeError: nothing has been seen yet.
        """
        if self.observer.batches == 0:
            raise RuntimeError("this layer has seen no data; call `calibrate` before you quantize")
        low, high = self.observer.low.item(), self.observer.high.item()
        if self.symmetric:
            largest = max(-low, high)
            return (largest / levels(self.bits, signed=True)[1] if largest > 0 else 1.0), 0
        return scale_and_zero_point(low, high, *self._limits())


class QuantizedLayer(nn.Module):
    """A convolution or a dense layer with fake-quantized weights and inputs: the base of the two below.

    Attributes:
        weight, bias: parameters, taken over from the layer that it replaces.
        input: fake quantization of what comes in.
        output: the same for what goes out; None where floats, or a ReLU, follow.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        layer: nn.Module,
        bits: int = 8,
        observer: str = "average",
        output: bool = False,
        symmetric: bool = False,
    ):
        super().__init__()
        bias = layer.bias
        self.weight = nn.Parameter(layer.weight.detach().clone())  # type: ignore[operator]
        self.bias = nn.Parameter(bias.detach().clone()) if isinstance(bias, Tensor) else None
        self.bits = bits
        self.input = FakeQuantize(8, observer, symmetric)
        self.output = FakeQuantize(8, observer, symmetric) if output else None
        self.quantizes_weights = False

    def rounded_weight(self) -> Tensor:
        """The weight as its integers give it back, one scale an output channel."""
        if not self.quantizes_weights:
            return self.weight
        scale = channel_scales(self.weight, self.bits)
        zeros = torch.zeros(len(scale), dtype=torch.int32, device=scale.device)
        return torch.fake_quantize_per_channel_affine(self.weight, scale, zeros, 0, *levels(self.bits, signed=True))


class QuantConv2d(QuantizedLayer):
    """A convolution on integers; `(batch, in, height, width)` -> `(batch, out, ...)`."""

    def __init__(
        self,
        layer: nn.Conv2d,
        bits: int = 8,
        observer: str = "average",
        output: bool = True,
        symmetric: bool = False,
    ):
        super().__init__(layer, bits, observer, output, symmetric)
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise ValueError(
                f"padding={layer.padding!r}, {layer.padding_mode!r}: only zeros, given as numbers, are supported"
            )
        self.stride, self.padding = layer.stride, layer.padding
        self.dilation, self.groups = layer.dilation, layer.groups

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        out = F.conv2d(x, self.rounded_weight(), self.bias, self.stride, self.padding, self.dilation, self.groups)
        return out if self.output is None else self.output(out)


class QuantLinear(QuantizedLayer):
    """A dense layer on integers; `(..., in)` -> `(..., out)`. Its output stays a float.

    Rows of all images are brought together first: a product of two matrices is what integer kernels compute.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2) if x.dim() > 2 else x
        out = F.linear(self.input(rows), self.rounded_weight(), self.bias)
        return out.unflatten(0, x.shape[:-1]) if x.dim() > 2 else out


class QuantHead(QuantLinear):
    """The same in the place of an `ExpandableHead`. It cannot grow: the network that learns on is the one in floats."""

    @property
    def num_outputs(self) -> int:
        return len(self.weight)


def set_state(model: nn.Module, state: str) -> None:
    """Bring every fake quantization to a state, see `FakeQuantize`. Weights are rounded in "learn" and "fixed".

    Raises:
        ValueError: an unknown state.
    """
    if state not in STATES:
        raise ValueError(f"state={state!r} is unknown; choose one of {', '.join(STATES)}")
    for module in model.modules():
        if isinstance(module, FakeQuantize):
            module.state = state
        elif isinstance(module, QuantizedLayer):
            module.quantizes_weights = state in ("learn", "fixed")
