"""Sliding windows and reductions."""

from typing import Any, Final

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from quantize.onnx_graph import Node
from quantize.tflite.lower import NHWC, Lowerer
from quantize.tflite.ops.convolution import activation_code
from quantize.tflite.ops.depthwise import depthwise
from quantize.tflite.ops.padding import explicit_pads, padded_image, require_reach, same_or_valid
from quantize.tflite.ops.table import lowers

_LOWEST: Final = float(np.finfo(np.float32).min)
_LARGEST_WINDOW: Final = 7
_ROWS_AND_COLUMNS: Final = [1, 2]
"""Axes of NHWC."""
_FEWEST_ROWS: Final = 16
"""From so many rows on, a mean of their rounded means is the mean: the roundings average out."""


@lowers("MaxPool")
def max_pool(node: Node, lowerer: Lowerer) -> None:
    """MAX_POOL_2D on the input's grid. Pads that TFLite has no name for become the lowest number there is."""
    if len([name for name in node.outputs if name]) > 1:
        raise lowerer.refuse(node, "gives indices too; use the values only")
    kernel, strides, pads = _window(node, lowerer)
    grid = lowerer.quantiser(node.inputs[0])
    image = lowerer.image(node, grid)
    padding = same_or_valid(lowerer.shape(node.inputs[0])[2:], kernel, strides, [1, 1], pads)
    if padding is None:
        lowest = 0.0 if _is_clamped(lowerer, image) else _LOWEST  # XNNPACK takes PAD, and PADV2 not
        image, padding = padded_image(node, lowerer, image, pads, lowest), schema.Padding.VALID
    _pool(node, lowerer, "MAX_POOL_2D", image, (kernel, strides, padding))


def _is_clamped(lowerer: Lowerer, index: int) -> bool:
    """True for a float tensor that a ReLU has just written: it holds nothing below 0."""
    if lowerer.graph.tensors[index].dtype != np.float32:
        return False
    writer = next((op for op in reversed(lowerer.graph.operators) if index in op.outputs), None)
    if writer is None:
        return False
    clamps = (schema.ActivationFunctionType.RELU, schema.ActivationFunctionType.RELU6)
    return writer.code in ("RELU", "RELU6") or getattr(writer.options, "fusedActivationFunction", None) in clamps


@lowers("AveragePool")
def average_pool(node: Node, lowerer: Lowerer) -> None:
    """AVERAGE_POOL_2D on the input's grid. TFLite never counts padding; where ONNX does, zeros are put in beforehand.

    A count that neither rule gives is put right by a multiplication in float.
    """
    kernel, strides, pads = _window(node, lowerer)
    size = lowerer.shape(node.inputs[0])[2:]
    counts = _counts(node, lowerer, kernel, strides, pads)
    grid = lowerer.own_grid(node)
    padding = same_or_valid(size, kernel, strides, [1, 1], pads)
    included = bool(node.attributes.get("count_include_pad", 0))
    if padding is not None and (not any(pads) or not included):
        _mean_window(node, lowerer, lowerer.image(node, grid), (kernel, strides, padding))
        return
    uneven = bool((counts != kernel[0] * kernel[1]).any())
    if uneven:
        grid = None
    image = padded_image(node, lowerer, lowerer.image(node, grid), pads)
    if not uneven:
        _mean_window(node, lowerer, image, (kernel, strides, int(schema.Padding.VALID)))
        return
    options = _pool_options(kernel, strides, int(schema.Padding.VALID), schema.ActivationFunctionType.NONE)
    shape = tuple(lowerer.shape(node.output)[axis] for axis in NHWC)
    means = lowerer.emit("AVERAGE_POOL_2D", [image], shape, None, f"{node.output}_padded", options)
    factors = (kernel[0] * kernel[1] / counts).astype(np.float32)[None, :, :, None]
    times = schema.MulOptionsT()
    times.fusedActivationFunction = activation_code(node)
    inputs = [means, lowerer.add_constant(f"{node.name}_counts", factors)]
    lowerer.bind(node.output, lowerer.emit("MUL", inputs, shape, None, node.output, times), NHWC)


def _mean_window(node: Node, lowerer: Lowerer, image: int, window: tuple[list[int], list[int], int]) -> None:
    """AVERAGE_POOL_2D. In INT8 without padding a DEPTHWISE_CONV_2D of equal weights: XNNPACK takes it, and that one not.

    It also rounds to the output's grid at once, and may rescale.
    """
    kernel, strides, padding = window
    source, grid = lowerer.graph.tensors[image], lowerer.grid(node)
    if grid is None or source.quantiser is None or padding != schema.Padding.VALID or max(kernel) > _LARGEST_WINDOW:
        _pool(node, lowerer, "AVERAGE_POOL_2D", image, window)
        return
    channels = source.shape[3]
    scale = np.full(channels, 1 / (127 * kernel[0] * kernel[1]))
    weights, nothing = np.full((*kernel, channels), 127), np.zeros(channels)
    activation = activation_code(node)
    index = depthwise(node, lowerer, image, weights, scale, nothing, grid, strides=strides, activation=activation)
    lowerer.bind(node.output, index, NHWC)


def _window(node: Node, lowerer: Lowerer) -> tuple[list[int], list[int], list[int]]:
    """Kernel, strides and pads [top, left, bottom, right], the extra rows of ceil_mode among the latter."""
    if len(lowerer.shape(node.inputs[0])) != 4:
        raise lowerer.refuse(node, f"{len(lowerer.shape(node.inputs[0])) - 2}-D pooling; only 2-D is lowered")
    kernel = list(node.attributes["kernel_shape"])
    if any(dilation != 1 for dilation in node.attributes.get("dilations", [1, 1])):
        raise lowerer.refuse(node, "dilated pooling; TFLite has none, use a stride or a dilated convolution")
    strides = list(node.attributes.get("strides", [1, 1]))
    pads = explicit_pads(node, lowerer, kernel, strides, [1, 1])
    require_reach(node, lowerer, kernel, [1, 1], pads)
    for axis in range(2):
        size, out = (lowerer.shape(name)[axis + 2] for name in (node.inputs[0], node.output))
        if (out - 1) * strides[axis] >= pads[axis] + size:  # ONNX drops it, but its shape inference does not
            raise lowerer.refuse(node, "a last window of nothing but padding; pool without ceil_mode")
        reach = (out - 1) * strides[axis] + kernel[axis]
        pads[axis + 2] += max(reach - (size + pads[axis] + pads[axis + 2]), 0)
    return kernel, strides, pads


def _counts(node: Node, lowerer: Lowerer, kernel: list[int], strides: list[int], pads: list[int]) -> Any:
    """How many values ONNX divides by at each place of an AveragePool's output."""
    given = explicit_pads(node, lowerer, kernel, strides, [1, 1])
    included = bool(node.attributes.get("count_include_pad", 0))
    sides = []
    for axis in range(2):
        size, out = lowerer.shape(node.inputs[0])[axis + 2], lowerer.shape(node.output)[axis + 2]
        counted = np.zeros(pads[axis] + size + pads[axis + 2])
        first, last = (0, pads[axis] + size + given[axis + 2]) if included else (pads[axis], pads[axis] + size)
        counted[first:last] = 1
        starts = np.arange(out) * strides[axis]
        sides.append(np.array([counted[start : start + kernel[axis]].sum() for start in starts]))
    return np.maximum(sides[0][:, None] * sides[1][None, :], 1)


def _pool_options(kernel: list[int], strides: list[int], padding: int, activation: int) -> Any:
    options = schema.Pool2DOptionsT()
    options.padding = padding
    options.filterHeight, options.filterWidth = kernel
    options.strideH, options.strideW = strides
    options.fusedActivationFunction = activation
    return options


def _pool(node: Node, lowerer: Lowerer, code: str, image: int, window: tuple[list[int], list[int], int]) -> None:
    options = _pool_options(*window, activation_code(node))
    shape = tuple(lowerer.shape(node.output)[axis] for axis in NHWC)
    lowerer.bind(node.output, lowerer.emit_like(code, [image], shape, node.output, options), NHWC)


@lowers("GlobalMaxPool")
def global_max_pool(node: Node, lowerer: Lowerer) -> None:
    """MAX_POOL_2D of the whole image, on the input's grid."""
    image = lowerer.image(node, lowerer.quantiser(node.inputs[0]))
    size = list(lowerer.shape(node.inputs[0])[2:])
    _pool(node, lowerer, "MAX_POOL_2D", image, (size, [1, 1], int(schema.Padding.VALID)))


@lowers("GlobalAveragePool")
def global_average_pool(node: Node, lowerer: Lowerer) -> None:
    """MEAN over all axes but batch and channels."""
    _reduce(node, lowerer, "MEAN", list(range(2, len(lowerer.shape(node.inputs[0])))), keep=True)


@lowers("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")
def reduction(node: Node, lowerer: Lowerer) -> None:
    """MEAN, SUM, REDUCE_MAX, REDUCE_MIN over constant axes; the last two stay on the input's grid."""
    rank = len(lowerer.shape(node.inputs[0]))
    given: Any = node.attributes.get("axes")
    if given is None:
        computed = lowerer.optional(node, 1)
        given = None if computed is None else computed.tolist()
    if not given and node.attributes.get("noop_with_empty_axes", 0):
        lowerer.alias(node.output, lowerer.stored(node.inputs[0]))
        return
    axes = sorted(axis % rank for axis in given) if given else list(range(rank))
    code = {"ReduceMean": "MEAN", "ReduceSum": "SUM", "ReduceMax": "REDUCE_MAX", "ReduceMin": "REDUCE_MIN"}[node.op]
    _reduce(node, lowerer, code, axes, keep=bool(node.attributes.get("keepdims", 1)))


def _reduce(node: Node, lowerer: Lowerer, code: str, axes: list[int], *, keep: bool) -> None:
    source = lowerer.quantiser(node.inputs[0])
    grid = source if code.startswith("REDUCE") else lowerer.grid(node)
    stored = lowerer.stored(node.inputs[0])
    options = schema.ReducerOptionsT()
    options.keepDims = keep
    where = sorted(stored.order.index(axis) for axis in axes)
    left = [axis for axis in stored.order if keep or axis not in axes]
    order = tuple(sorted(left).index(axis) for axis in left)
    shape = tuple(1 if axis in axes else lowerer.shape(node.inputs[0])[axis] for axis in left)
    if grid is not None:
        index = stored.index
    elif code == "MEAN" and source is not None and stored.order == NHWC and where == _ROWS_AND_COLUMNS:
        index, where = _mean_of_columns(node, lowerer, stored.index, keep=keep)
    else:
        index = lowerer.float_value(node.inputs[0]).index
    inputs = [index, lowerer.integers(f"{node.name}_axes", where)]
    lowerer.bind(node.output, lowerer.emit(code, inputs, shape, grid, node.output, options), order)


def _mean_of_columns(node: Node, lowerer: Lowerer, image: int, *, keep: bool) -> tuple[int, list[int]]:
    """What is left to average, in float, of an INT8 image whose mean stays float, and its axes: the mean of each row.

    Those are rounded to the image's own grid, so that not all of a large image is read as float32. A small image is.
    """
    batch, height, _, channels = lowerer.graph.tensors[image].shape
    if height < _FEWEST_ROWS:
        return lowerer.float_value(node.inputs[0]).index, _ROWS_AND_COLUMNS
    options = schema.ReducerOptionsT()
    options.keepDims = keep
    shape = (batch, height, 1, channels) if keep else (batch, height, channels)
    inputs = [image, lowerer.integers(f"{node.name}_columns", _ROWS_AND_COLUMNS[1:])]
    means = lowerer.emit_like("MEAN", inputs, shape, f"{node.output}_of_rows", options)
    name = f"{node.output}_of_rows_float"
    index = lowerer.emit("DEQUANTIZE", [means], shape, None, name, schema.DequantizeOptionsT())
    return index, _ROWS_AND_COLUMNS[:1]
