"""From a PyTorch network to an ONNX file, written node by node.

The network is run once (`trace`), and every call becomes one or a few nodes. A fake quantization becomes a pair of
QuantizeLinear and DequantizeLinear, and a fake-quantized weight is stored as int8: ONNX Runtime sees the pairs around a
convolution and runs it on integers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from course_utils.compression.half import HalfModel
from course_utils.compression.tracing import BATCH, Call, example, trace

OPSET = 20  # the first one with Gelu; ONNX Runtime 1.17 and later read it
INPUT, OUTPUT = "image", "logits"


class ExportError(ValueError):
    """The network calls something that has no place in the exported graph."""


def export_onnx(
    model: nn.Module,
    path: str | Path,
    image_shape: Sequence[int],
    *,
    half: bool = False,
    example_input: Tensor | None = None,
) -> Path:
    """Write a network as an ONNX file with one input, `image` `(batch, *image_shape)`, and one output, `logits`.

    The number of images stays free. Fake-quantized layers become integers in the file, see the module's text.

    Args:
        model: any module whose calls are known here: the course's networks, torchvision's ResNets and MobileNetV3. Of a
            `HalfModel` the weights are stored in 16 bits.
        image_shape: (channels, height, width).
        half: store weights as 16-bit floats. They are turned back into 32 bits when the file is loaded: half the size,
            the same speed.
        example_input: to trace with; default is random images. Its number of images has to be `tracing.BATCH`.

    Raises:
        ExportError: a call that cannot be exported; the message names it and the module that makes it.

    Built in lesson 07.
    """
    import onnx
    from onnx import helper

    if isinstance(model, HalfModel):
        model, half = copy.deepcopy(model.model).float(), True
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    x = example(tuple(image_shape)).to(device) if example_input is None else example_input
    found = trace(model, x)
    graph = Graph(found.input, half)
    for call in found.calls:
        graph.add(call)
    if not graph.known(found.output):
        raise ExportError(
            "the answer could not be followed from the images to the end, so the file would hold one constant answer; a call on "
            f"the way is not PyTorch's own, or leaves it for NumPy. What was followed: {', '.join(dict.fromkeys(c.name for c in found.calls))}"
        )
    last = graph.name_of(found.output)
    graph.nodes.append(helper.make_node("Identity", [last], [OUTPUT]))
    made = helper.make_graph(
        graph.nodes,
        type(model).__name__,
        [helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, ["batch", *x.shape[1:]])],
        [helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["batch", *found.output.shape[1:]])],
        initializer=graph.initializers,
    )
    # An old version of the format: whoever reads it needs no newer library than the one that reads the operators.
    file = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(file)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.SerializeToString())
    return path


class Graph:
    """Nodes and stored numbers of a file that is being written. The same node is written once.

    Attributes:
        names: id of a tensor that depends on the images -> its name in the file.
        rows: id of a tensor of more than two dimensions -> name of the same numbers as a matrix, one row a token. Dense
            layers and all that works on single tokens stay matrices from one to the next; a reshape is written only where
            somebody asks for the tensor itself.
        scales: name of a dequantized tensor -> its scales.
        signed: names of dequantized activations that are int8.
        weights: id of a fake-quantized parameter -> the call that made it.
        repeated: id of a parameter that is repeated for every image -> the call.
    """

    def __init__(self, x: Tensor, half: bool = False):
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.names: dict[int, str] = {id(x): INPUT}
        self.rows: dict[int, str] = {}
        self.scales: dict[str, np.ndarray] = {}
        self.signed: set[str] = set()
        self.weights: dict[int, Call] = {}
        self.repeated: dict[int, Call] = {}
        self.half = half
        self._stored: dict[Any, str] = {}
        self._written: dict[Any, str] = {}

    def add(self, call: Call) -> None:
        """Write the nodes of one call, if it depends on the images."""
        from course_utils.compression.operators import OPERATORS

        if not any(self.known(tensor) for tensor in call.tensors()):
            if call.name.startswith("fake_quantize"):
                self.weights[id(call.output)] = call
            elif call.name == "expand" and call.output.shape[0] == BATCH:
                self.repeated[id(call.output)] = call
            return  # computed from parameters alone: a stored number
        if call.name not in OPERATORS:
            where = f" in {call.module}" if call.module else ""
            raise ExportError(
                f"the network calls {call.name!r}{where}, which cannot be exported; known: {', '.join(sorted(OPERATORS))}"
            )
        name = OPERATORS[call.name](self, call)
        if id(call.output) not in self.rows:
            self.names[id(call.output)] = name

    def known(self, tensor: Tensor) -> bool:
        """Whether a tensor was computed from the images."""
        return id(tensor) in self.names or id(tensor) in self.rows

    def rows_of(self, tensor: Tensor) -> str:
        """Name of a computed tensor as a matrix, `(rows, width)`."""
        if id(tensor) not in self.rows:
            name = self.name_of(tensor)
            self.rows[id(tensor)] = name if tensor.dim() == 2 else self.reshape(name, (0, tensor.shape[-1]))
        return self.rows[id(tensor)]

    def name_of(self, value: Any) -> str:
        """Name of what a call was given: a tensor that was computed, or a number that is stored."""
        if isinstance(value, Tensor):
            if id(value) not in self.names and id(value) in self.rows:
                self.names[id(value)] = self.reshape(self.rows[id(value)], value.shape)
            if id(value) in self.names:
                return self.names[id(value)]
            if id(value) in self.weights:
                return self.store_quantized(self.weights[id(value)])
            if id(value) in self.repeated:
                return self.repeat(self.repeated[id(value)])
            return self.store(value.detach().float().cpu().contiguous().numpy())
        return self.store(np.asarray(value, dtype=np.float32))

    def node(self, operator: str, inputs: Sequence[str], domain: str = "", **attributes: Any) -> str:
        """Write a node with one output, and give its name."""
        from onnx import helper

        key = (operator, tuple(inputs), repr(sorted(attributes.items())))
        if key not in self._written:
            name = f"{operator}_{len(self.nodes)}"
            self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, domain=domain, **attributes))
            self._written[key] = name
        return self._written[key]

    def store(self, values: np.ndarray) -> str:
        """Store numbers once, however often they are used."""
        from onnx import numpy_helper

        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._stored:
            name = f"stored_{len(self._stored)}"
            narrow = self.half and values.dtype == np.float32 and values.size > 1
            kept = values.astype(np.float16) if narrow else values
            self.initializers.append(numpy_helper.from_array(kept, f"{name}_half" if narrow else name))
            self._stored[key] = self.node("Cast", [f"{name}_half"], to=1) if narrow else name
        return self._stored[key]

    def whole(self, values: Sequence[int]) -> str:
        """Store integers, such as a shape."""
        return self.store(np.asarray(values, dtype=np.int64))

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        """To a shape whose first number counts images, or rows of all images, and stays free."""
        return self.node("Reshape", [name, self.whole([-1, *shape[1:]])])

    # ------------------------------------------------------------------ integers

    def store_quantized(self, call: Call, transposed: bool = False) -> str:
        """A fake-quantized parameter as int8 numbers with their scale, dequantized in the file.

        Args:
            call: `fake_quantize_per_channel_affine` of a parameter, symmetric.
            transposed: store the matrix the other way round.
        """
        weight, scale, zero_point, axis, low, high = call.args
        if call.name != "fake_quantize_per_channel_affine" or bool(zero_point.any()):
            raise ExportError("a weight has to be fake-quantized per channel and symmetric (zero point 0)")
        scale = scale.detach().cpu().double()
        shape = [-1 if place == axis else 1 for place in range(weight.dim())]
        whole = (weight.detach().cpu().double() / scale.view(shape)).round().clamp(low, high).to(torch.int8)
        if transposed:
            whole, axis = whole.T, 1 - axis
        scales = scale.float().numpy()
        zeros = self.store(np.zeros(len(scales), dtype=np.int8))
        inputs = [self.store(np.ascontiguousarray(whole.numpy())), self.store(scales), zeros]
        name = self.node("DequantizeLinear", inputs, axis=int(axis))
        self.scales[name] = scales
        return name

    def quantize(self, name: str, scale: float, zero_point: int, low: int, high: int) -> str:
        """A pair of QuantizeLinear and DequantizeLinear: 8 bits between them."""
        types = {(0, 255): np.uint8, (-128, 127): np.int8}
        if (low, high) not in types:
            raise ExportError(f"activations of {low}..{high} are not 8 bits; the file's integers have 8")
        scales = np.asarray(scale, dtype=np.float32)
        pair = [self.store(scales), self.store(np.asarray(zero_point, dtype=types[low, high]))]
        out = self.node("DequantizeLinear", [self.node("QuantizeLinear", [name, *pair]), *pair])
        self.scales[out] = scales
        if low < 0:
            self.signed.add(out)
        return out

    def bias(self, bias: Tensor | None, x: str, weight: str) -> list[str]:
        """The name of a bias, or none. Between integers it has the product of the two scales and 32 bits."""
        if bias is None:
            return []
        if x not in self.scales or weight not in self.scales or x in self.signed:  # TensorRT dequantizes no 32 bits
            return [self.name_of(bias)]
        scales = (self.scales[x].astype(np.float64) * self.scales[weight]).astype(np.float32)
        whole = np.rint(bias.detach().cpu().double().numpy() / scales.astype(np.float64))
        limits = np.iinfo(np.int32)
        zeros = self.store(np.zeros(len(scales), dtype=np.int32))
        inputs = [self.store(np.clip(whole, limits.min, limits.max).astype(np.int32)), self.store(scales), zeros]
        return [self.node("DequantizeLinear", inputs, axis=0)]

    def repeat(self, call: Call) -> str:
        """A parameter repeated for every image, such as the class token."""
        images = self.node("Slice", [self.node("Shape", [INPUT]), self.whole([0]), self.whole([1])])
        shape = self.node("Concat", [images, self.whole(call.output.shape[1:])], axis=0)
        return self.node("Expand", [self.name_of(call.args[0]), shape])
