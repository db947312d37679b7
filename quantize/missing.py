"""Scales that TFLite needs and NNCF gave none: calibrated on the same frames, put where a tensor stays in INT8.

NNCF leaves out the tensor between a layer and the activation behind it, gates, and whatever OpenVINO fuses. On the device that
tensor lies between two INT8 operators and has to be INT8 itself.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from onnx import helper

from edge.frame import GreyImage
from quantize.onnx_edit import GraphEditor, attributes_of, copy_of
from quantize.onnx_graph import plain_session

MOVES: Final = frozenset(
    {
        "Concat",
        "DepthToSpace",
        "Flatten",
        "GlobalMaxPool",
        "MaxPool",
        "Pad",
        "ReduceMax",
        "ReduceMin",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators that move values; `only_moves` tells whether one adds some of its own."""
_LAYERS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_ARITHMETIC: Final = frozenset({"Add", "Sub", "Mul"})
_FUNCTIONS: Final = frozenset(
    {
        "AveragePool",
        "Clip",
        "GlobalAveragePool",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Max",
        "Min",
        "PRelu",
        "ReduceMean",
        "ReduceSum",
        "Relu",
        "Resize",
        "Sigmoid",
        "Softmax",
        "Tanh",
    }
)
_INT8: Final = _LAYERS | _ARITHMETIC | _FUNCTIONS | MOVES
_TAKES_CLAMP: Final = _LAYERS | _ARITHMETIC | {"MaxPool", "AveragePool"}
_USEFUL: Final = {"HardSwish": (-3.0, np.inf), "Sigmoid": (-8.0, 8.0)}
"""Input interval outside of which a function is constant, for Sigmoid to a thirtieth of an INT8 step."""


@dataclass(frozen=True, slots=True)
class Range:
    """The real interval that an 8-bit quantiser spans."""

    low: float
    high: float

    def __or__(self, other: "Range") -> "Range":
        return Range(min(self.low, other.low), max(self.high, other.high))


def parameters_of(span: Range) -> tuple[float, int]:
    """Scale and uint8 zero point of an interval that holds 0, with 0 exactly on the grid."""
    low, high = min(span.low, 0.0), max(span.high, 0.0)
    scale = max((high - low) / 255.0, 1e-12)
    return scale, int(np.clip(round(-low / scale), 0, 255))


def only_moves(node: onnx.NodeProto, editor: GraphEditor) -> bool:
    """True for an operator whose output holds values of its inputs, or 0, and no others; a Pad may write another number."""
    if node.op_type != "Pad":
        return node.op_type in MOVES
    fill = editor.scalar(node.input[2]) if len(node.input) > 2 and node.input[2] else 0.0
    return attributes_of(node).get("mode", "constant") != "constant" or fill == 0.0


def quantise_missing(
    model: onnx.ModelProto, frames: Sequence[GreyImage], *, largest_weight: int = 127
) -> onnx.ModelProto:
    """Return a copy of a QDQ model with a pair on every tensor that an INT8 operator writes for another one.

    frames: preprocessed (height, width) uint8 images; a range is the mean over them of the smallest and largest value. Layers
    between two such tensors get INT8 weights, from −largest_weight to largest_weight, if NNCF left them in float.
    """
    result = copy_of(model)
    editor = GraphEditor(result.graph)
    tensors, pooled = missing_tensors(editor), _pooled_tensors(result)
    if tensors:
        ranges = measure(model, tensors, frames)
        ranges |= measure(model, [tensor for tensor in tensors if tensor in pooled], frames, extremes=True)
    consumers = editor.consumers()
    for tensor in tensors:
        span = _useful(ranges[tensor], consumers[tensor])
        scale, zero_point = parameters_of(span)
        editor.insert_pair(tensor, np.float32(scale), np.uint8(zero_point))
    _quantise_weights(editor, largest_weight)
    return result


def _quantise_weights(editor: GraphEditor, largest: int) -> None:
    """INT8 weights, symmetric, one scale an output channel, for layers from a quantised tensor to a quantised one."""
    producers, leads_on = editor.producers(), _leading_to_quantisers(editor)
    for node in [node for node in editor.graph.node if node.op_type in _LAYERS]:
        before = producers.get(node.input[0])
        weights = editor.array(node.input[1])
        if (
            weights is None
            or weights.ndim < 2
            or before is None
            or before.op_type != "DequantizeLinear"
            or node.output[0] not in leads_on
        ):
            continue
        axis = _channel_axis(node)
        others = tuple(place for place in range(weights.ndim) if place != axis)
        scale = (np.maximum(np.abs(weights).max(axis=others), 1e-12) / largest).astype(np.float32)
        along = [-1 if place == axis else 1 for place in range(weights.ndim)]
        integers = np.clip(np.rint(weights / scale.reshape(along)), -largest, largest).astype(np.int8)
        stem = f"{node.output[0]}_weights"
        names = [
            editor.add_constant(f"{stem}_integers", integers),
            editor.add_constant(f"{stem}_scale", scale),
            editor.add_constant(f"{stem}_zero", np.zeros(len(scale), np.int8)),
        ]
        made = helper.make_node(
            "DequantizeLinear", names, [f"{stem}_dequantised"], name=f"{stem}_dequantise", axis=axis
        )
        editor.insert(editor.place_of(node), [made])
        node.input[1] = f"{stem}_dequantised"


def _channel_axis(node: onnx.NodeProto) -> int:
    """Where a layer's weights have their output channels."""
    if node.op_type == "Gemm":
        return 0 if attributes_of(node).get("transB", 0) else 1
    return 0 if node.op_type == "Conv" else 1


def missing_tensors(editor: GraphEditor) -> list[str]:
    """Tensors that are written and read by INT8 operators and have no quantiser, in order.

    What leads to outputs only is a head, and stays in float.
    """
    consumers, outputs = editor.consumers(), editor.outputs()
    leads_on = _leading_to_quantisers(editor)
    inside = {node.output[0] for node in editor.graph.node if node.op_type == "DequantizeLinear"}
    found = []
    for node in editor.graph.node:
        if node.op_type not in _INT8:
            continue
        data = [name for name in node.input if name and name not in editor.constants]
        weights = {name for name in node.input[1:] if name in inside} if node.op_type in _LAYERS else set()
        if not all(name in inside for name in data) or not set(data) - weights:
            continue
        for tensor in node.output:
            readers = consumers.get(tensor, [])
            if any(reader.op_type == "QuantizeLinear" for reader in readers):
                continue
            if tensor in outputs or tensor not in leads_on:
                continue
            if node.op_type in _TAKES_CLAMP and len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
                inside.add(tensor)  # fused: never a tensor of its own
            elif only_moves(node, editor):
                inside.add(tensor)  # takes its input's quantiser
            else:
                found.append(tensor)
                inside.add(tensor)
    return found


def widen_pooled(model: onnx.ModelProto, frames: Sequence[GreyImage]) -> onnx.ModelProto:
    """Return a copy of a QDQ model whose pooled features have quantisers that no calibration frame exceeds.

    NNCF takes the mean over the frames of their largest values. Of a map that cuts a few pixels; of one value a channel it cuts
    half of the frames off, and what differs between frames is all that a classifier has.
    """
    result = copy_of(model)
    editor = GraphEditor(result.graph)
    pooled = _pooled_tensors(result)
    quantisers = [node for node in result.graph.node if node.op_type == "QuantizeLinear" and node.input[0] in pooled]
    ranges = measure(model, [node.input[0] for node in quantisers], frames, extremes=True)
    for node in quantisers:
        scale, zero_point = parameters_of(ranges[node.input[0]])
        stem = node.output[0]
        names = [
            editor.add_constant(f"{stem}.widened_scale", np.float32(scale)),
            editor.add_constant(f"{stem}.widened_zero_point", np.uint8(zero_point)),
        ]
        for reader in (node, *editor.consumers().get(stem, [])):
            del reader.input[1:]
            reader.input.extend(names)
    return result


def _pooled_tensors(model: onnx.ModelProto) -> set[str]:
    """Tensors of one value a channel: (N, C), (N, C, 1, 1)."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inferred.graph.value_info
    }
    return {name for name, shape in shapes.items() if len(shape) >= 2 and all(size == 1 for size in shape[2:])}


def measure(
    model: onnx.ModelProto, tensors: Sequence[str], frames: Sequence[GreyImage], *, extremes: bool = False
) -> dict[str, Range]:
    """Mean over the frames of the smallest and the largest value of each tensor; extremes: the smallest and largest of all."""
    if not tensors:
        return {}
    probed = copy_of(model)
    del probed.graph.output[:]
    names = []
    for index, tensor in enumerate(tensors):
        for op in ("ReduceMin", "ReduceMax"):
            name = f"edgekit_{op}_{index}"
            probed.graph.node.append(helper.make_node(op, [tensor], [name], name=name, keepdims=0))
            names.append(name)
    probed.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, []) for name in names)
    session = plain_session(probed)
    feed = session.get_inputs()[0].name
    values = np.array([session.run(names, {feed: frame[None, None]}) for frame in frames], np.float64)
    if extremes:
        return {
            tensor: Range(float(values[:, 2 * i].min()), float(values[:, 2 * i + 1].max()))
            for i, tensor in enumerate(tensors)
        }
    means = values.mean(axis=0)
    return {tensor: Range(float(means[2 * i]), float(means[2 * i + 1])) for i, tensor in enumerate(tensors)}


def _leading_to_quantisers(editor: GraphEditor) -> set[str]:
    """Tensors from which a quantiser can be reached."""
    leads_on: set[str] = set()
    for node in reversed(editor.graph.node):
        if node.op_type == "QuantizeLinear" or any(name in leads_on for name in node.output):
            leads_on.update(name for name in node.input if name not in editor.constants)
    return leads_on


def _useful(span: Range, readers: Iterable[onnx.NodeProto]) -> Range:
    """The part of a range that the functions reading it tell apart."""
    limits = [_limits(reader) for reader in readers]
    return Range(max(span.low, min(low for low, _ in limits)), min(span.high, max(high for _, high in limits)))


def _limits(reader: onnx.NodeProto) -> tuple[float, float]:
    if reader.op_type == "HardSigmoid":
        attributes = attributes_of(reader)
        alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
        return (-beta / alpha, (1.0 - beta) / alpha) if alpha > 0 else (-np.inf, np.inf)
    return _USEFUL.get(reader.op_type, (-np.inf, np.inf))
