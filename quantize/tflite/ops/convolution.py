"""Conv, ConvTranspose, Gemm and MatMul: layers with weights."""

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from quantize.onnx_graph import Array, Node
from quantize.tflite.graph import QuantisedConstant, Quantiser
from quantize.tflite.lower import NHWC, Lowerer
from quantize.tflite.ops.columns import Columns, columns_as_channels
from quantize.tflite.ops.padding import explicit_pads, padded_image, require_reach, same_or_valid
from quantize.tflite.ops.table import lowers

_INT32_MAX: Final = 2**31 - 1
_LARGEST_BIAS: Final = 2.0**30
_SMALLEST_RESCALE: Final = 2.0**-31
LARGEST_RESCALE: Final = 2.0**8
"""Outside of these XNNPACK does not take an operator's product of scales (input · weight / output)."""


@lowers("Conv")
def conv(node: Node, lowerer: Lowerer) -> None:
    """CONV_2D, or DEPTHWISE_CONV_2D when every input channel has its own filters. Kernels go from OIHW to OHWI or 1HWO."""
    layer = _Layer.read(node, lowerer, channel_axis=0)
    out_channels, _, height, width = layer.shape
    channels, groups = lowerer.shape(node.inputs[0])[1], node.attributes.get("group", 1)
    depthwise = groups == channels and groups > 1
    strides, dilations = node.attributes.get("strides", [1, 1]), node.attributes.get("dilations", [1, 1])
    pads = explicit_pads(node, lowerer, (height, width), strides, dilations)
    require_reach(node, lowerer, (height, width), dilations, pads)
    size = lowerer.shape(node.inputs[0])[2:]
    padding = same_or_valid(size, (height, width), strides, dilations, pads)
    image = lowerer.image(node, layer.grid)
    columns = None
    if layer.grid is not None and groups == 1 and max(dilations) == 1:
        columns = columns_as_channels(size, channels, (height, width), strides, pads)
    if columns is not None:
        layer, strides, padding = layer.on_columns(columns), [strides[0], 1], columns.padding
        batch, rows, row, depth = lowerer.graph.tensors[image].shape
        image = lowerer.reshaped(image, (batch, rows, row // columns.count, depth * columns.count))
    elif padding is None:
        image, padding = padded_image(node, lowerer, image, pads), schema.Padding.VALID
    weights, bias = layer.write(node, lowerer, (1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
    options: Any
    if depthwise:
        options = schema.DepthwiseConv2DOptionsT()
        options.depthMultiplier = out_channels // channels
    else:
        options = schema.Conv2DOptionsT()
    options.padding = padding
    options.strideH, options.strideW = strides
    options.dilationHFactor, options.dilationWFactor = dilations
    options.fusedActivationFunction = activation_code(node)
    layer.emit(node, lowerer, "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", [image, weights, bias], options)


@lowers("ConvTranspose")
def conv_transpose(node: Node, lowerer: Lowerer) -> None:
    """TRANSPOSE_CONV. Dilation is written into the kernel, groups into zeros, other pads than SAME are cut off behind it.

    Kernels go from IOHW to OHWI. Padding p of a transposed convolution cuts p rows off its full output.
    """
    layer = _Layer.read(node, lowerer, channel_axis=1)
    _, _, rows, columns = lowerer.shape(node.inputs[0])
    strides, dilations = node.attributes.get("strides", [1, 1]), node.attributes.get("dilations", [1, 1])
    out = lowerer.shape(node.output)
    groups = node.attributes.get("group", 1)
    if node.attributes.get("auto_pad", "NOTSET").startswith("SAME") and any(node.attributes.get("output_padding", [])):
        raise lowerer.refuse(node, "auto_pad with output_padding, which runtimes read differently; write the pads out")
    kernel = [(layer.shape[axis + 2] - 1) * dilations[axis] + 1 for axis in range(2)]
    begins, full = [], []
    for axis, size in enumerate((rows, columns)):
        begin, reach = _transposed_begin(node, axis, size, kernel[axis], strides[axis], out[axis + 2])
        begins.append(begin)
        full.append(max(reach, begin + out[axis + 2]))
        kernel[axis] += max(begin + out[axis + 2] - reach, 0)  # rows beyond the kernel's reach: zeros in the kernel
    same = all(
        size * stride == out[axis + 2]
        and max((size - 1) * stride + kernel[axis] - out[axis + 2], 0) // 2 == begins[axis]
        and kernel[axis] >= stride
        for axis, (size, stride) in enumerate(zip((rows, columns), strides, strict=True))
    )
    written = (out[2], out[3]) if same else tuple(full)
    weights, bias = layer.spread(groups, dilations, kernel).write(node, lowerer, (1, 2, 3, 0))
    size = lowerer.integers(f"{node.name}_size", (out[0], *written, out[1]))
    options = schema.TransposeConvOptionsT()
    options.padding = schema.Padding.SAME if same else schema.Padding.VALID
    options.strideH, options.strideW = strides
    options.fusedActivationFunction = activation_code(node)
    inputs = [size, weights, lowerer.image(node, layer.grid), bias]
    shape = (out[0], *written, out[1])
    index = lowerer.emit("TRANSPOSE_CONV", inputs, shape, layer.grid, f"{node.output}_full", options)
    if written != out[2:]:
        corner = lowerer.integers(f"{node.name}_begin", (0, *begins, 0))
        extent = (out[0], out[2], out[3], out[1])
        inputs = [index, corner, lowerer.integers(f"{node.name}_extent", extent)]
        index = lowerer.emit_like("SLICE", inputs, extent, node.output, schema.SliceOptionsT())
    lowerer.bind(node.output, index, NHWC)


def _transposed_begin(node: Node, axis: int, size: int, kernel: int, stride: int, out: int) -> tuple[int, int]:
    """Rows cut off at the start, and the length of the full output."""
    reach = (size - 1) * stride + kernel
    auto = node.attributes.get("auto_pad", "NOTSET")
    extra = node.attributes.get("output_padding", [0, 0])[axis]
    if auto in ("SAME_UPPER", "SAME_LOWER") or "output_shape" in node.attributes:
        total = max(reach + extra - out, 0)
        return (total // 2 if auto == "SAME_UPPER" else total - total // 2), reach
    pads = node.attributes.get("pads", [0, 0, 0, 0])
    return (0 if auto == "VALID" else pads[axis]), reach


@lowers("Gemm")
def gemm(node: Node, lowerer: Lowerer) -> None:
    """FULLY_CONNECTED: y = alpha · x · Wᵀ + beta · b, weights (out, in)."""
    attributes = node.attributes
    transposed = bool(attributes.get("transB", 0))
    layer = _Layer.read(node, lowerer, channel_axis=0 if transposed else 1, rank=2)
    layer = layer.scaled(float(attributes.get("alpha", 1.0)), float(attributes.get("beta", 1.0)))
    _fully_connected(node, lowerer, layer, (0, 1) if transposed else (1, 0), bool(attributes.get("transA", 0)))


@lowers("MatMul")
def matmul(node: Node, lowerer: Lowerer) -> None:
    """FULLY_CONNECTED with constant weights. Two activations are attention, which is refused."""
    if not any(map(lowerer.is_constant, node.inputs)):
        raise lowerer.refuse(
            node, "multiplies two activations (attention); only layers with constant weights are lowered"
        )
    layer = _Layer.read(node, lowerer, channel_axis=1, rank=2)
    _fully_connected(node, lowerer, layer, (1, 0), transposed=False)


def _fully_connected(node: Node, lowerer: Lowerer, layer: "_Layer", order: tuple[int, int], transposed: bool) -> None:
    rank = len(lowerer.shape(node.inputs[0]))
    if rank < 2:
        raise lowerer.refuse(node, "a vector without batch axis; give it rank 2")
    weights, bias = layer.write(node, lowerer, order)
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = activation_code(node)
    options.keepNumDims = rank > 2
    straight = tuple(range(rank))
    value = lowerer.stored(node.inputs[0]) if layer.grid is not None else lowerer.float_value(node.inputs[0])
    image = lowerer.arranged(value, (1, 0) if transposed else straight)
    layer.emit(node, lowerer, "FULLY_CONNECTED", [image, weights, bias], options, order=straight)


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """Weights and bias of a layer, and the grid it writes when it runs in INT8.

    It does so when its output and input are quantised and its weights are symmetric INT8 with one scale, or one an output
    channel: all that TFLite expresses. channel_axis: where ONNX has the output channels.
    """

    kernel: Array
    bias: Array | None
    quantised: QuantisedConstant | None
    grid: Quantiser | None
    channel_axis: int
    groups: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.kernel.shape

    @classmethod
    def read(cls, node: Node, lowerer: Lowerer, *, channel_axis: int, rank: int = 4) -> "_Layer":
        kernel = np.asarray(lowerer.constant(node, 1), np.float32)
        if kernel.ndim != rank:
            what = f"{kernel.ndim - 2}-D convolution; only 2-D is lowered" if rank == 4 else "weights are no matrix"
            raise lowerer.refuse(node, f"{what}; reshape the network to images" if rank == 4 else what)
        bias = lowerer.optional(node, 2) if node.op != "MatMul" else None
        groups = node.attributes.get("group", 1) if node.op == "ConvTranspose" else 1
        weight = lowerer.plan.weights.get(node.inputs[1])
        grid = lowerer.grid(node)
        if weight is None or not _is_symmetric(weight, channel_axis):
            grid = None
        if grid is not None and weight is not None:
            source = lowerer.quantiser(node.inputs[0])
            assert source is not None
            if float(source.scale) * float(weight.quantiser.scale.max()) >= LARGEST_RESCALE * float(grid.scale):
                grid = None
        return cls(kernel, None if bias is None else np.asarray(bias, np.float32), weight, grid, channel_axis, groups)

    def scaled(self, alpha: float, beta: float) -> "_Layer":
        """The layer with weights times alpha and bias times beta (Gemm)."""
        if alpha == 1.0 and beta == 1.0:
            return self
        weight = self.quantised
        if weight is not None and alpha > 0:
            scale = np.asarray(weight.quantiser.scale * np.float32(alpha), np.float32)
            weight = replace(weight, quantiser=replace(weight.quantiser, scale=scale))
        bias = None if self.bias is None else np.asarray(self.bias * np.float32(beta))
        grid = self.grid if alpha > 0 else None
        return replace(self, kernel=np.asarray(self.kernel * np.float32(alpha)), bias=bias, quantised=weight, grid=grid)

    def spread(self, groups: int, dilations: list[int], kernel: list[int]) -> "_Layer":
        """A transposed convolution's weights without groups and dilation, zeros in between; kernel: its final size."""
        weight = self.quantised
        if weight is not None:
            quantiser = weight.quantiser
            if quantiser.scale.ndim:
                scales, zeros = np.tile(quantiser.scale, groups), np.tile(quantiser.zero_point, groups)
                quantiser = Quantiser(scales, zeros, 1)
            weight = QuantisedConstant(_spread(weight.integers, groups, dilations, kernel), quantiser)
        return replace(self, kernel=_spread(self.kernel, groups, dilations, kernel), quantised=weight)

    def on_columns(self, columns: Columns) -> "_Layer":
        """The layer for an image whose columns are channels."""
        weight = self.quantised
        if weight is not None:
            weight = replace(weight, integers=columns.arrange(weight.integers))
        return replace(self, kernel=columns.arrange(self.kernel), quantised=weight)

    def write(self, node: Node, lowerer: Lowerer, order: tuple[int, ...]) -> tuple[int, int]:
        """Append weights and bias; INT8 weights and INT32 bias for a layer in INT8.

        order: ONNX axes in TFLite's order. The bias scale is input scale times weight scale, so that it adds to the
        accumulator directly (TFLite's quantisation specification).
        """
        name = f"{node.inputs[1]}_{node.name}"
        axis = order.index(self.channel_axis)
        channels = self.kernel.shape[self.channel_axis]
        bias = self._bias(node, lowerer, channels)
        if self.grid is None or self.quantised is None:
            weights = lowerer.add_constant(name, self.kernel.transpose(order))
            return weights, lowerer.add_constant(f"{node.name}_bias", bias)
        source = lowerer.quantiser(node.inputs[0])
        assert source is not None
        scale = np.broadcast_to(self.quantised.quantiser.scale, (channels,)).astype(np.float64)
        smallest = smallest_scale(bias, source, self.grid)
        integers = self.quantised.integers.transpose(order)
        if np.any(scale < smallest):  # a dead channel: its weights round to what they are, nothing
            wanted = np.maximum(scale, smallest)
            shape = [-1 if place == axis else 1 for place in range(len(order))]
            integers = np.rint(integers * (scale / wanted).reshape(shape)).astype(np.int8)
            scale = wanted
        stored = scale.astype(np.float32)
        bias_scale = source.scale * stored
        rounded = np.clip(np.rint(bias.astype(np.float64) / bias_scale), -_INT32_MAX, _INT32_MAX).astype(np.int32)
        zeros = np.zeros(channels, np.int64)
        return (
            lowerer.add_constant(name, integers, Quantiser(stored, zeros, axis)),
            lowerer.add_constant(f"{node.name}_bias", rounded, Quantiser(bias_scale.astype(np.float32), zeros, 0)),
        )

    def emit(
        self,
        node: Node,
        lowerer: Lowerer,
        code: str,
        inputs: list[int],
        options: Any,
        order: tuple[int, ...] = NHWC,
    ) -> None:
        """Append the layer and bind its output."""
        shape = tuple(lowerer.shape(node.output)[axis] for axis in order)
        index = lowerer.emit(code, inputs, shape, self.grid, node.output, options)
        lowerer.bind(node.output, index, order)

    def _bias(self, node: Node, lowerer: Lowerer, channels: int) -> Array:
        if self.bias is None:
            return np.zeros(channels, np.float32)
        if self.bias.size not in (1, channels) or (self.bias.size == channels and self.bias.shape[-1] != channels):
            raise lowerer.refuse(
                node, f"a bias of shape {self.bias.shape} for {channels} channels; give one value a channel"
            )
        return np.broadcast_to(self.bias.reshape(-1), (channels,))


def smallest_scale(bias: Array, source: Quantiser, grid: Quantiser) -> Array:
    """The smallest weight scale with which a bias fits INT32 and XNNPACK takes the operator."""
    smallest = np.maximum(np.abs(bias) / _LARGEST_BIAS, float(grid.scale) * _SMALLEST_RESCALE)
    return np.asarray(smallest / float(source.scale))


def _is_symmetric(weight: QuantisedConstant, channel_axis: int) -> bool:
    """True for INT8 weights around 0 with one scale, or one an output channel."""
    if weight.integers.dtype != np.int8 or np.any(weight.quantiser.zero_point != 0):
        return False
    return not weight.quantiser.scale.ndim or weight.quantiser.axis == channel_axis


def _spread(kernel: Array, groups: int, dilations: list[int], size: list[int]) -> Array:
    inputs, outputs, height, width = kernel.shape
    spread = np.zeros((inputs, outputs * groups, *size), kernel.dtype)
    each = inputs // groups
    rows, columns = (slice(0, (n - 1) * d + 1, d) for n, d in zip((height, width), dilations, strict=True))
    for group in range(groups):
        taken, given = slice(group * each, (group + 1) * each), slice(group * outputs, (group + 1) * outputs)
        spread[taken, given, rows, columns] = kernel[taken]
    return spread


def activation_code(node: Node) -> int:
    """The schema's number of the activation fused behind a node."""
    return int(getattr(schema.ActivationFunctionType, node.activation or "NONE"))
