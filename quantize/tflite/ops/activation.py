"""Functions of one tensor: clamps, activations, and batch norms that stand alone."""

from typing import Any, Final

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from quantize.onnx_graph import Array, Node
from quantize.tflite.fuse import ACTIVATIONS, clamp_of, saturates
from quantize.tflite.graph import Quantiser
from quantize.tflite.lower import NHWC, Lowerer, Value
from quantize.tflite.ops.convolution import LARGEST_RESCALE
from quantize.tflite.ops.depthwise import depthwise
from quantize.tflite.ops.table import lowers

_UNARY: Final = {
    "Abs": "ABS",
    "Ceil": "CEIL",
    "Cos": "COS",
    "Exp": "EXP",
    "Floor": "FLOOR",
    "Log": "LOG",
    "Neg": "NEG",
    "Sin": "SIN",
    "Sqrt": "SQRT",
}
"""Functions that run in float."""
_FIXED: Final = {"Sigmoid": ("LOGISTIC", 256, -128), "Tanh": ("TANH", 128, 0), "Softmax": ("SOFTMAX", 256, -128)}
"""TFLite's INT8 form of these has one output quantiser only: scale 1/n, zero point."""
_UNIT_GRID: Final = Quantiser(np.asarray(1 / 255, np.float32), np.asarray(-128, np.int64))
"""0 to 1, both ends on the grid."""


@lowers("Relu", "Clip")
def clamp(node: Node, lowerer: Lowerer) -> None:
    """A clamp that could not be fused: a RELU of some kind in float, MAXIMUM and MINIMUM on the output's grid in INT8."""
    bounds = clamp_of(node, lowerer.plan.constants)
    if bounds is None:
        raise lowerer.refuse(node, "computed bounds; TFLite wants constants, freeze them")
    grid = lowerer.grid(node)
    value = lowerer.stored(node.inputs[0]) if grid is not None else lowerer.float_value(node.inputs[0])
    shape = lowerer.graph.tensors[value.index].shape
    if grid is not None and saturates(grid, bounds):  # a QUANTIZE does it, which XNNPACK takes, and RELU not
        lowerer.bind(node.output, value.index, value.order)
        return
    code = ACTIVATIONS.get(bounds)
    if code in ("RELU", "RELU6") or (code is not None and grid is None):
        lowerer.bind(node.output, lowerer.emit(code, [value.index], shape, grid, node.output), value.order)
        return
    index = value.index if grid is None else lowerer.on_grid(value.index, grid)
    for code, bound in (("MAXIMUM", bounds[0]), ("MINIMUM", bounds[1])):
        if np.isfinite(bound):
            limit = _limit(lowerer, f"{node.name}_{code}", bound, grid)
            options = schema.MaximumMinimumOptionsT()
            index = lowerer.emit_like(code, [index, limit], shape, f"{node.output}_{code}", options)
    lowerer.bind(node.output, index, value.order)


def _limit(lowerer: Lowerer, name: str, bound: float, grid: Quantiser | None) -> int:
    """A bound as a one-element constant; rounding first and clamping then gives what clamping first would."""
    value = np.asarray([bound])
    if grid is None:
        return lowerer.add_constant(name, value.astype(np.float32))
    return lowerer.add_constant(name, grid.quantise(value, np.dtype(np.int8)), grid)


@lowers(*_UNARY)
def unary(node: Node, lowerer: Lowerer) -> None:
    """A function of each value, in float."""
    options = getattr(schema, f"{node.op}OptionsT", lambda: None)()
    _function(node, lowerer, _UNARY[node.op], None, options)


@lowers("Sigmoid", "Tanh")
def fixed(node: Node, lowerer: Lowerer) -> None:
    """LOGISTIC and TANH; in INT8 only on the output grid that TFLite fixes."""
    _function(node, lowerer, _FIXED[node.op][0], _fixed_grid(node, lowerer))


@lowers("Softmax")
def softmax(node: Node, lowerer: Lowerer) -> None:
    """SOFTMAX over the axis that is stored last."""
    rank = len(lowerer.shape(node.inputs[0]))
    axis = node.attributes.get("axis", -1) % rank
    grid = _fixed_grid(node, lowerer)
    value = lowerer.stored(node.inputs[0]) if grid else lowerer.float_value(node.inputs[0])
    order = value.order
    if order[-1] != axis:
        order = (*(other for other in order if other != axis), axis)
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    index = lowerer.arranged(value, order)
    shape = lowerer.graph.tensors[index].shape
    lowerer.bind(node.output, lowerer.emit("SOFTMAX", [index], shape, grid, node.output, options), order)


@lowers("Swish")
def swish(node: Node, lowerer: Lowerer) -> None:
    """x · sigmoid(alpha · x), in float; quantize/simplify.py writes it as two operators before quantisation."""
    value = lowerer.float_value(node.inputs[0])
    shape, index = lowerer.graph.tensors[value.index].shape, value.index
    alpha = float(node.attributes.get("alpha", 1.0))
    if alpha != 1.0:
        index = _times(lowerer, index, alpha, f"{node.name}_scaled")
    gate = lowerer.emit("LOGISTIC", [index], shape, None, f"{node.name}_gate")
    lowerer.bind(node.output, _binary(lowerer, "MUL", value.index, gate, node.output), value.order)


@lowers("LeakyRelu")
def leaky_relu(node: Node, lowerer: Lowerer) -> None:
    """LEAKY_RELU."""
    _leaky(node, lowerer, float(node.attributes.get("alpha", 0.01)))


@lowers("PRelu")
def prelu(node: Node, lowerer: Lowerer) -> None:
    """PRELU; one slope for all is a LEAKY_RELU."""
    slope = np.asarray(lowerer.constant(node, 1), np.float32)
    if slope.size == 1:
        _leaky(node, lowerer, float(slope.reshape(())))
        return
    rank = len(lowerer.shape(node.inputs[0]))
    weight = lowerer.plan.weights.get(node.inputs[1])
    own = lowerer.grid(node)
    by_channel = rank == 4 and slope.ndim >= 3 and slope.size == slope.shape[-3] == lowerer.shape(node.inputs[0])[1]
    if own is not None and by_channel and slope.min() >= 0:
        _prelu_int8(node, lowerer, slope.reshape(-1), own)
        return
    per_tensor = weight is not None and not weight.quantiser.scale.ndim
    grid = lowerer.grid(node) if per_tensor else None
    value = lowerer.stored(node.inputs[0]) if grid else lowerer.float_value(node.inputs[0])
    full = (1,) * (rank - slope.ndim) + slope.shape
    stored = weight.integers if weight is not None and grid else slope
    data = stored.reshape(full).transpose(value.order)
    while data.ndim > 1 and data.shape[0] == 1:  # the runtime wants the slopes without the batch axis
        data = data[0]
    name = f"{node.name}_slope"
    slopes = lowerer.add_constant(name, data, weight.quantiser if weight is not None and grid else None)
    shape = lowerer.graph.tensors[value.index].shape
    lowerer.bind(node.output, lowerer.emit("PRELU", [value.index, slopes], shape, grid, node.output), value.order)


def _prelu_int8(node: Node, lowerer: Lowerer, slope: Array, grid: Quantiser) -> None:
    """relu(x) − relu(−slope · x), for slopes from 0: both clamps are grids that begin at 0. XNNPACK takes it, and PRELU not."""
    index = lowerer.image(node, grid)
    source = lowerer.quantiser(node.inputs[0])
    assert source is not None
    shape = lowerer.graph.tensors[index].shape
    above = lowerer.on_grid(index, Quantiser(source.scale, np.asarray(-128, np.int64)))  # saturates at 0
    lowest = float(source.scale) * (int(source.zero_point) + 128)  # how far below 0 the input reaches
    finest = float(source.scale) * float(slope.max()) / 127.0 / LARGEST_RESCALE * 2.0
    step = max(lowest * float(slope.max()) / 255.0, float(grid.scale) * 2.0**-7, finest)
    below_grid = Quantiser(np.asarray(step, np.float32), np.asarray(-128, np.int64))  # saturates at 0
    scale = np.maximum(slope / 127.0, 1e-30).astype(np.float32)
    weights = -np.rint(slope / scale).reshape(1, 1, -1)
    below = depthwise(node, lowerer, index, weights, scale, np.zeros(len(slope)), below_grid)
    options = schema.SubOptionsT()
    options.fusedActivationFunction = schema.ActivationFunctionType.NONE
    lowerer.bind(node.output, lowerer.emit("SUB", [above, below], shape, grid, node.output, options), NHWC)


def _leaky(node: Node, lowerer: Lowerer, alpha: float) -> None:
    options = schema.LeakyReluOptionsT()
    options.alpha = alpha
    _function(node, lowerer, "LEAKY_RELU", lowerer.grid(node), options)


@lowers("Elu")
def elu(node: Node, lowerer: Lowerer) -> None:
    """ELU, in float."""
    if node.attributes.get("alpha", 1.0) != 1.0:
        raise lowerer.refuse(node, f"alpha {node.attributes['alpha']}; TFLite's ELU has 1, use a LeakyRelu")
    _function(node, lowerer, "ELU", None)


@lowers("HardSwish")
def hard_swish(node: Node, lowerer: Lowerer) -> None:
    """HARD_SWISH in float. In INT8 the product with a HardSigmoid: XNNPACK takes both of its operators, and HARD_SWISH not."""
    grid, source = lowerer.grid(node), lowerer.quantiser(node.inputs[0])
    gated = source is not None and _fits_gate(source, 1 / 6, _UNIT_GRID)
    if grid is None or source is None or not gated or len(lowerer.shape(node.inputs[0])) not in (2, 4):
        _function(node, lowerer, "HARD_SWISH", grid if gated else None, schema.HardSwishOptionsT())
        return
    gate = _gate(node, lowerer, 1 / 6, 0.5, source, _UNIT_GRID)
    index = lowerer.arranged(lowerer.stored(node.inputs[0]), gate.order)
    shape = lowerer.graph.tensors[index].shape
    options = schema.MulOptionsT()
    options.fusedActivationFunction = schema.ActivationFunctionType.NONE
    lowerer.bind(node.output, lowerer.emit("MUL", [index, gate.index], shape, grid, node.output, options), gate.order)


@lowers("HardSigmoid")
def hard_sigmoid(node: Node, lowerer: Lowerer) -> None:
    """clip(alpha · x + beta, 0, 1) as a sixth of a RELU6 in float.

    In INT8 a DEPTHWISE_CONV_2D of one weight, whose output grid (0 to 1, see quantize/qdq.py) clamps by saturation.
    """
    alpha, beta = float(node.attributes.get("alpha", 0.2)), float(node.attributes.get("beta", 0.5))
    grid, rank = lowerer.grid(node), len(lowerer.shape(node.inputs[0]))
    source = lowerer.quantiser(node.inputs[0])
    if (
        grid is not None
        and source is not None
        and rank in (2, 4)
        and alpha > 0
        and saturates(grid, (0.0, 1.0), slack=0.5)
        and _fits_gate(source, alpha, grid)
    ):
        gate = _gate(node, lowerer, alpha, beta, source, grid)
        lowerer.bind(node.output, gate.index, gate.order)
        return
    value = lowerer.float_value(node.inputs[0])
    index = value.index
    if abs(alpha * 6 - 1) > 1e-6:
        index = _times(lowerer, index, alpha * 6, f"{node.name}_scaled")
    offset = lowerer.add_constant(f"{node.name}_beta", np.asarray(beta * 6, np.float32))
    moved = _binary(lowerer, "ADD", index, offset, f"{node.name}_moved", "RELU6")
    lowerer.bind(node.output, _times(lowerer, moved, 1 / 6, node.output), value.order)


def _fits_gate(source: Quantiser, alpha: float, grid: Quantiser) -> bool:
    """True when a depthwise convolution can rescale alpha · x to `grid`."""
    return float(source.scale) * alpha / 127.0 < LARGEST_RESCALE * float(grid.scale)


def _gate(node: Node, lowerer: Lowerer, alpha: float, beta: float, source: Quantiser, grid: Quantiser) -> Value:
    """alpha · x + beta of an INT8 tensor, clamped by what `grid` holds."""
    value = lowerer.stored(node.inputs[0])
    image = len(value.order) == 4
    index = lowerer.arranged(value, NHWC) if image else value.index
    stored = lowerer.graph.tensors[index].shape
    if not image:
        index = lowerer.reshaped(index, (stored[0], 1, 1, stored[1]))
    shape = lowerer.graph.tensors[index].shape
    channels = shape[3]
    scale = np.full(channels, alpha / 127.0, np.float32)
    made = depthwise(node, lowerer, index, np.full((1, 1, channels), 127), scale, np.full(channels, beta), grid)
    if not image:
        made = lowerer.reshaped(made, stored)
    return Value(made, NHWC if image else value.order)


@lowers("BatchNormalization")
def batch_normalization(node: Node, lowerer: Lowerer) -> None:
    """MUL and ADD, in float; quantize/simplify.py makes a convolution of it before quantisation."""
    if node.attributes.get("training_mode", 0) or len([name for name in node.outputs if name]) > 1:
        raise lowerer.refuse(node, "in training mode; export the network after .eval()")
    scale, bias, mean, variance = (np.asarray(lowerer.constant(node, i), np.float64) for i in range(1, 5))
    if np.any(variance + float(node.attributes.get("epsilon", 1e-5)) <= 0):
        raise lowerer.refuse(node, "a variance below 0; train the network again")
    factor = scale / np.sqrt(variance + float(node.attributes.get("epsilon", 1e-5)))
    value = lowerer.float_value(node.inputs[0])
    shape = [-1 if axis == 1 else 1 for axis in value.order]
    index = value.index
    for code, name, data in (("MUL", "factor", factor), ("ADD", "offset", bias - mean * factor)):
        constant = lowerer.add_constant(f"{node.name}_{name}", data.reshape(shape).astype(np.float32))
        index = _binary(lowerer, code, index, constant, f"{node.output}_{name}")
    lowerer.bind(node.output, index, value.order)


def _function(node: Node, lowerer: Lowerer, code: str, grid: Quantiser | None, options: Any = None) -> None:
    value = lowerer.stored(node.inputs[0]) if grid is not None else lowerer.float_value(node.inputs[0])
    shape = lowerer.graph.tensors[value.index].shape
    lowerer.bind(node.output, lowerer.emit(code, [value.index], shape, grid, node.output, options), value.order)


def _fixed_grid(node: Node, lowerer: Lowerer) -> Quantiser | None:
    """The output's grid when it is the one TFLite fixes for this function, to a relative 1e-6; else None: float."""
    grid = lowerer.grid(node)
    _, steps, zero_point = _FIXED[node.op]
    if grid is None or int(grid.zero_point) != zero_point or abs(float(grid.scale) * steps - 1.0) > 1e-6:
        return None
    return grid


def _binary(lowerer: Lowerer, code: str, one: int, other: int, name: str, activation: str = "NONE") -> int:
    """A float operator on two tensors of one order."""
    options = getattr(schema, f"{code.capitalize()}OptionsT")()
    options.fusedActivationFunction = getattr(schema.ActivationFunctionType, activation)
    shape = np.broadcast_shapes(lowerer.graph.tensors[one].shape, lowerer.graph.tensors[other].shape)
    return lowerer.emit(code, [one, other], shape, None, name, options)


def _times(lowerer: Lowerer, index: int, factor: float, name: str) -> int:
    return _binary(lowerer, "MUL", index, lowerer.add_constant(f"{name}_by", np.asarray(factor, np.float32)), name)
