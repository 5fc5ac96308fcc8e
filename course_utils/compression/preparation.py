"""A network made ready for integers: fake-quantized layers in the places of its own, ranges from representative data."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.compression.fake import FakeQuantize, QuantConv2d, QuantHead, QuantizedLayer, QuantLinear, set_state
from course_utils.compression.fold import fold_batchnorm
from course_utils.compression.tracing import Call, Trace, example, trace
from course_utils.models import ExpandableHead

PASSES_ON = ("batch_norm", "identity", "dropout", "contiguous")  # what may stand between a convolution and its ReLU
KEEPS = (
    "max_pool2d",
    "flatten",
    "view",
    "reshape",
    "identity",
    "dropout",
    "contiguous",
)  # gives only numbers that it was given
ROUNDS = ("conv2d", "linear")


def prepare(
    model: nn.Module,
    image_shape: Sequence[int],
    *,
    bits: int = 8,
    observer: str = "average",
    skip: Sequence[str] = (),
    keep_first: bool = True,
    symmetric: bool = False,
) -> nn.Module:
    """A copy whose BatchNorm is folded and whose convolutions and dense layers are fake-quantized. Calibrate it next.

    Args:
        bits: of the weights, 2 to 8 (`weight_bits` says what this processor multiplies exactly). Activations have 8.
        observer: how ranges are found, see `Observer`.
        skip: names of layers that stay floats.
        keep_first: let the first convolution stay one, too. It reads one or three channels: nine products a pixel are too
            few for integer kernels, which take seven times as long for it as float ones (lesson 07 measures it).

        symmetric: activations become int8 with zero point 0, and biases stay floats in the file. This is for TensorRT, which
            knows no other zero point; on a CPU it is slower and a little coarser than the default. Files made so were run by
            ONNX Runtime only, never by TensorRT.

    Raises:
        ValueError: a name in `skip` that no layer has.

    Built in lesson 07.
    """
    unknown = sorted(set(skip) - {name for name, _ in model.named_modules()})
    if unknown:
        raise ValueError(f"skip names {', '.join(unknown)}, which the network does not have")
    made = copy.deepcopy(model).eval()
    fold_batchnorm(made, image_shape)
    found = trace(made, example(tuple(image_shape), 2).to(next(made.parameters()).device))
    first = next((name for name, module in made.named_modules() if isinstance(module, nn.Conv2d)), None)
    for name, layer in list(made.named_modules()):
        if name in skip or (keep_first and name == first):
            continue
        parent, _, attribute = name.rpartition(".")
        replacement: nn.Module | None = None
        if isinstance(layer, nn.Conv2d):
            # Signed numbers are cut off at -128, not at 0: a ReLU is no part of their rounding, so it gets rounded numbers.
            rounds = symmetric or not _meets_relu(found, name, skip)
            replacement = QuantConv2d(layer, bits, observer, output=rounds, symmetric=symmetric)
        elif isinstance(layer, nn.Linear):
            replacement = QuantLinear(layer, bits, observer, symmetric=symmetric)
        elif isinstance(layer, ExpandableHead):
            replacement = QuantHead(layer, bits, observer, symmetric=symmetric)
        if replacement is not None:
            setattr(made.get_submodule(parent), attribute, replacement.to(layer.weight.device))
    set_state(made, "observe")
    return made


def _meets_relu(found: Trace, name: str, skip: Collection[str]) -> bool:
    """Whether a ReLU is all that reads a convolution's output, and a layer of integers reads that: it rounds for both."""
    call = next((call for call in found.calls if call.module == name and call.name == "conv2d"), None)
    while call is not None:
        readers = found.readers(call.output)
        if len(readers) != 1:
            return False
        if readers[0].name == "relu":
            return _is_rounded(found, readers[0], skip)
        call = readers[0] if readers[0].name in PASSES_ON else None
    return False


def _is_rounded(found: Trace, call: Call, skip: Collection[str]) -> bool:
    """Whether a layer of integers is among those that read what a call gives, possibly after a maximum or a flattening."""
    readers = found.readers(call.output)
    if any(reader.name in ROUNDS and reader.module not in skip for reader in readers):
        return True
    return any(_is_rounded(found, reader, skip) for reader in readers if reader.name in KEEPS)


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[Any]) -> None:
    """Show a prepared network representative data, so that it knows the range of every activation; then fix the ranges.

    What it has seen before is forgotten. The training or eval mode is kept.

    Args:
        batches: float images `(batch, C, H, W)` as the network gets them, or pairs of images and labels.

    Raises:
        ValueError: no data, or a network without fake-quantized layers.
    """
    quantizers = [module for module in model.modules() if isinstance(module, FakeQuantize)]
    if not quantizers:
        raise ValueError("this network has no fake-quantized layer; `prepare` it first")
    for quantizer in quantizers:
        quantizer.observer.forget()
    set_state(model, "observe")
    training, device = model.training, next(model.parameters()).device
    model.eval()
    count = 0
    for batch in batches:
        model(images_of(batch).to(device))
        count += 1
    model.train(training)
    if count == 0:
        raise ValueError("no batch to calibrate with; give representative images, some hundreds are enough")
    set_state(model, "fixed")


def images_of(batch: Any) -> Tensor:
    """The images of a batch that a loader gives: alone, or first in a tuple; uint8 becomes [0, 1]."""
    x = batch["x"] if isinstance(batch, dict) else batch[0] if isinstance(batch, (tuple, list)) else batch
    x = torch.as_tensor(x)
    return x.float() / 255 if x.dtype == torch.uint8 else x


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    """Name -> layer of everything that is fake-quantized."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLayer)}


def integer_weights(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Name -> (int8 weight, scale of every output channel) of a prepared network: what its file will hold."""
    from course_utils.compression.affine import channel_scales, levels

    found = {}
    for name, layer in quantized_layers(model).items():
        scale = channel_scales(layer.weight, layer.bits)
        shape = [-1, *[1] * (layer.weight.dim() - 1)]
        whole = (layer.weight.detach() / scale.view(shape)).round().clamp(*levels(layer.bits, signed=True))
        found[name] = (whole.to(torch.int8), scale)
    return found
