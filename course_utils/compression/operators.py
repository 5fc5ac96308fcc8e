"""PyTorch's calls as ONNX nodes: one short function for each, found by the name of the call."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from course_utils.compression.export import ExportError, Graph
from course_utils.compression.tracing import Call

OPERATORS: dict[str, Callable[[Graph, Call], str]] = {}


def operator(*names: str) -> Callable[[Callable[[Graph, Call], str]], Callable[[Graph, Call], str]]:
    """Register a function for calls of these names."""

    def register(function: Callable[[Graph, Call], str]) -> Callable[[Graph, Call], str]:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register


def _pair(value: Any) -> list[int]:
    return [int(v) for v in value] if isinstance(value, (tuple, list)) else [int(value)] * 2


# ---- layers ------------------------------------------------------------------------------------------------------


@operator("conv2d")
def _conv2d(graph: Graph, call: Call) -> str:
    padding = call.argument(4, "padding", 0)
    if isinstance(padding, str):
        raise ExportError(f"padding={padding!r} in {call.module}: give numbers")
    x, weight = graph.name_of(call.args[0]), graph.name_of(call.args[1])
    return graph.node(
        "Conv",
        [x, weight, *graph.bias(call.argument(2, "bias"), x, weight)],
        kernel_shape=list(call.args[1].shape[2:]),
        strides=_pair(call.argument(3, "stride", 1)),
        pads=_pair(padding) * 2,
        dilations=_pair(call.argument(5, "dilation", 1)),
        group=int(call.argument(6, "groups", 1)),
    )


@operator("linear")
def _linear(graph: Graph, call: Call) -> str:
    x, weight, bias = graph.rows_of(call.args[0]), call.args[1], call.argument(2, "bias")
    if id(weight) in graph.weights:  # integers: the matrix the way round in which it is multiplied
        stored = graph.store_quantized(graph.weights[id(weight)], transposed=True)
    else:
        stored = graph.store(np.ascontiguousarray(weight.detach().float().cpu().numpy().T))
    return _as_rows(graph, call, graph.node("Gemm", [x, stored, *graph.bias(bias, x, stored)]))


def _as_rows(graph: Graph, call: Call, name: str) -> str:
    """Note that this name is the call's output as a matrix."""
    if call.output.dim() > 2:
        graph.rows[id(call.output)] = name
    return name


@operator("batch_norm")
def _batch_norm(graph: Graph, call: Call) -> str:
    x, mean, variance = call.args[:3]
    weight, bias = call.argument(3, "weight"), call.argument(4, "bias")
    inputs = [
        x,
        mean.new_ones(len(mean)) if weight is None else weight,
        mean.new_zeros(len(mean)) if bias is None else bias,
    ]
    names = [graph.name_of(value) for value in (*inputs, mean, variance)]
    return graph.node("BatchNormalization", names, epsilon=float(call.argument(7, "eps", 1e-5)))


@operator("layer_norm")
def _layer_norm(graph: Graph, call: Call) -> str:
    weight, bias = call.argument(2, "weight"), call.argument(3, "bias")
    axis = -len(call.argument(1, "normalized_shape"))
    x = graph.rows_of(call.args[0]) if axis == -1 else graph.name_of(call.args[0])
    names = [x, *(graph.name_of(value) for value in (weight, bias) if value is not None)]
    name = graph.node("LayerNormalization", names, axis=axis, epsilon=float(call.argument(4, "eps", 1e-5)))
    return _as_rows(graph, call, name) if axis == -1 else name


@operator("group_norm")
def _group_norm(graph: Graph, call: Call) -> str:
    x, groups = call.args[0], call.argument(1, "num_groups")
    weight, bias = call.argument(2, "weight"), call.argument(3, "bias")
    flat = groups == x.shape[1] and x.dim() == 4  # one channel a group: nothing to bring together first
    name = graph.name_of(x) if flat else graph.reshape(graph.name_of(x), (0, groups, x[0].numel() // groups))
    ones, zeros = graph.store(np.ones(groups, np.float32)), graph.store(np.zeros(groups, np.float32))
    epsilon = float(call.argument(4, "eps", 1e-5))
    name = graph.node("InstanceNormalization", [name, ones, zeros], epsilon=epsilon)
    if not flat:
        name = graph.reshape(name, x.shape)
    ends = (1,) * (x.dim() - 2)
    for operation, value in (("Mul", weight), ("Add", bias)):
        if value is not None:
            name = graph.node(operation, [name, graph.name_of(value.view(-1, *ends))])
    return name


@operator("scaled_dot_product_attention")
def _attention(graph: Graph, call: Call) -> str:
    query, key, value = call.args[:3]
    options = {"attn_mask": (3, None), "dropout_p": (4, 0.0), "is_causal": (5, False)}
    if any(call.argument(place, name, default) for name, (place, default) in options.items()):
        raise ExportError(f"attention in {call.module} has a mask or dropout, which cannot be exported")
    scale = call.kwargs.get("scale") or 1 / math.sqrt(query.shape[-1])
    turned = graph.node("Transpose", [graph.name_of(key)], perm=[*range(key.dim() - 2), key.dim() - 1, key.dim() - 2])
    scores = graph.node("MatMul", [graph.node("Mul", [graph.name_of(query), graph.name_of(scale)]), turned])
    return graph.node("MatMul", [graph.node("Softmax", [scores], axis=-1), graph.name_of(value)])


# ---- activations and pooling -------------------------------------------------------------------------------------


def _same(onnx_name: str, **attributes: Any) -> Callable[[Graph, Call], str]:
    return lambda graph, call: graph.node(onnx_name, [graph.name_of(call.args[0])], **attributes)


for _names, _onnx in (
    ("relu", "Relu"),
    ("sigmoid", "Sigmoid"),
    ("tanh", "Tanh"),
    ("hardswish", "HardSwish"),
    ("neg", "Neg"),
):
    OPERATORS[_names] = _same(_onnx)
OPERATORS["hardsigmoid"] = _same("HardSigmoid", alpha=1 / 6, beta=0.5)


@operator("leaky_relu")
def _leaky_relu(graph: Graph, call: Call) -> str:
    slope = float(call.argument(1, "negative_slope", 0.01))
    return graph.node("LeakyRelu", [graph.name_of(call.args[0])], alpha=slope)


@operator("gelu")
def _gelu(graph: Graph, call: Call) -> str:
    name = graph.node("Gelu", [graph.rows_of(call.args[0])], approximate=call.kwargs.get("approximate", "none"))
    return _as_rows(graph, call, name)


@operator("softmax")
def _softmax(graph: Graph, call: Call) -> str:
    return graph.node("Softmax", [graph.name_of(call.args[0])], axis=int(call.argument(1, "dim", -1)))


@operator("max_pool2d")
def _max_pool2d(graph: Graph, call: Call) -> str:
    kernel = call.argument(1, "kernel_size")
    return graph.node(
        "MaxPool",
        [graph.name_of(call.args[0])],
        kernel_shape=_pair(kernel),
        strides=_pair(call.argument(2, "stride") or kernel),
        pads=_pair(call.argument(3, "padding", 0)) * 2,
        ceil_mode=int(call.argument(5, "ceil_mode", False)),
    )


@operator("adaptive_avg_pool2d")
def _adaptive_avg_pool2d(graph: Graph, call: Call) -> str:
    if tuple(call.output.shape[2:]) != (1, 1):
        raise ExportError(f"adaptive pooling to {tuple(call.output.shape[2:])} in {call.module}: only 1x1 is exported")
    return graph.node("GlobalAveragePool", [graph.name_of(call.args[0])])


@operator("mean")
def _mean(graph: Graph, call: Call) -> str:
    axes = call.argument(1, "dim")
    whole = [int(a) % call.args[0].dim() for a in (axes if isinstance(axes, (tuple, list)) else [axes])]
    keep = int(call.argument(2, "keepdim", False))
    return graph.node("ReduceMean", [graph.name_of(call.args[0]), graph.whole(whole)], keepdims=keep)


@operator("normalize")
def _normalize(graph: Graph, call: Call) -> str:
    return graph.node("LpNormalization", [graph.name_of(call.args[0])], axis=int(call.argument(2, "dim", 1)), p=2)


@operator("fake_quantize_per_tensor_affine")
def _fake_quantize(graph: Graph, call: Call) -> str:
    x, scale, zero_point, low, high = call.args
    return graph.quantize(graph.name_of(x), float(scale), int(zero_point), int(low), int(high))


# ---- shapes ------------------------------------------------------------------------------------------------------


@operator("flatten", "unflatten", "view", "reshape", "unsqueeze", "squeeze", "view_as")
def _reshape(graph: Graph, call: Call) -> str:
    x, out = call.args[0], call.output
    written = id(x) in graph.names
    if out.dim() == 2 and out.shape[1] == x.shape[-1]:
        return graph.rows_of(x)
    if x.dim() == 2 and written and out.shape[-1] == x.shape[1]:
        return _as_rows(graph, call, graph.name_of(x))  # the same rows; a reshape only if somebody needs it
    return graph.reshape(graph.name_of(x) if written else graph.rows_of(x), out.shape)


@operator("transpose")
def _transpose(graph: Graph, call: Call) -> str:
    dims, order = call.args[0].dim(), list(range(call.args[0].dim()))
    first, second = (int(d) % dims for d in call.args[1:3])
    order[first], order[second] = order[second], order[first]
    return graph.node("Transpose", [graph.name_of(call.args[0])], perm=order)


@operator("permute")
def _permute(graph: Graph, call: Call) -> str:
    order = call.args[1:] if isinstance(call.args[1], int) else call.args[1]
    return graph.node("Transpose", [graph.name_of(call.args[0])], perm=[int(d) % len(order) for d in order])


@operator("getitem")
def _getitem(graph: Graph, call: Call) -> str:
    index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    name = graph.name_of(call.args[0])
    for axis in reversed(range(len(index))):  # from the back: an index takes its axis away
        part = index[axis]
        if isinstance(part, int):
            name = graph.node("Gather", [name, graph.store(np.asarray(part, np.int64))], axis=axis)
        elif isinstance(part, slice) and part != slice(None):
            ends = [part.start or 0, np.iinfo(np.int64).max if part.stop is None else part.stop]
            limits = [graph.whole([end]) for end in (*ends, axis, part.step or 1)]
            name = graph.node("Slice", [name, *limits])
        elif not isinstance(part, slice):
            raise ExportError(f"indexing with {part!r} in {call.module}: only numbers and slices are exported")
    return name


@operator("cat")
def _cat(graph: Graph, call: Call) -> str:
    names = [graph.name_of(part) for part in call.args[0]]
    return graph.node("Concat", names, axis=int(call.argument(1, "dim", 0)))


@operator("contiguous", "to", "float", "clone", "detach", "dropout", "identity")
def _unchanged(graph: Graph, call: Call) -> str:
    return graph.name_of(call.args[0])


@operator("masked_fill")
def _masked_fill(graph: Graph, call: Call) -> str:
    mask = call.args[1]
    if graph.known(mask):
        raise ExportError(f"the mask in {call.module} depends on the images; only a fixed one is exported")
    value = call.argument(2, "value")
    return graph.node("Where", [graph.store(mask.cpu().numpy()), graph.name_of(value), graph.name_of(call.args[0])])


# ---- arithmetic --------------------------------------------------------------------------------------------------


@operator("add")
def _add(graph: Graph, call: Call) -> str:
    first, second = call.args[:2]
    if all(id(value) in graph.rows for value in (first, second)) and first.shape == second.shape:
        return _as_rows(graph, call, graph.node("Add", [graph.rows_of(first), graph.rows_of(second)]))
    return graph.node("Add", [graph.name_of(first), graph.name_of(second)])


def _binary(onnx_name: str) -> Callable[[Graph, Call], str]:
    return lambda graph, call: graph.node(onnx_name, [graph.name_of(value) for value in call.args[:2]])


for _name, _onnx in (("sub", "Sub"), ("mul", "Mul"), ("div", "Div"), ("matmul", "MatMul")):
    OPERATORS[_name] = _binary(_onnx)
