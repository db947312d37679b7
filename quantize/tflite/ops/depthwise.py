"""A depthwise convolution with weights of our own: what XNNPACK takes in place of operators that it does not."""

from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from quantize.onnx_graph import Array, Node
from quantize.tflite.graph import Quantiser
from quantize.tflite.lower import Lowerer
from quantize.tflite.ops.convolution import smallest_scale


def depthwise(
    node: Node,
    lowerer: Lowerer,
    index: int,
    weights: Array,
    scale: Array,
    offset: Array,
    grid: Quantiser,
    *,
    strides: Sequence[int] = (1, 1),
    activation: int = schema.ActivationFunctionType.NONE,
) -> int:
    """The sum of weight · x over a window of each channel of an INT8 NHWC tensor, plus an offset, rounded once.

    weights: integers up to 127, (height, width, channels), in units of `scale`, (channels,). offset: real, (channels,). No
    padding. Where x is all but nothing beside the offset or the output's grid, weights round to 0.
    """
    tensor = lowerer.graph.tensors[index]
    assert tensor.quantiser is not None
    height, width, channels = weights.shape
    zeros = np.zeros(channels, np.int64)
    stored = np.maximum(scale, smallest_scale(offset, tensor.quantiser, grid)).astype(np.float32)
    integers = np.rint(weights * (scale / stored)).astype(np.int8)
    bias_scale = (tensor.quantiser.scale * stored).astype(np.float32)
    bias = np.rint(offset / bias_scale).astype(np.int32)
    inputs = [
        index,
        lowerer.add_constant(f"{node.output}_weights", integers[None], Quantiser(stored, zeros, 3)),
        lowerer.add_constant(f"{node.output}_offset", bias, Quantiser(bias_scale, zeros, 0)),
    ]
    options = schema.DepthwiseConv2DOptionsT()
    options.depthMultiplier = options.dilationHFactor = options.dilationWFactor = 1
    options.strideH, options.strideW = strides
    options.padding = schema.Padding.VALID
    options.fusedActivationFunction = activation
    batch, rows, columns, _ = tensor.shape
    shape = (batch, (rows - height) // strides[0] + 1, (columns - width) // strides[1] + 1, channels)
    return lowerer.emit("DEPTHWISE_CONV_2D", inputs, shape, grid, f"{node.output}_scaled", options)
