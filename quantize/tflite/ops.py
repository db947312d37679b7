"""The table from ONNX operator to TFLite lowering; one short function an operator."""

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from quantize.onnx_graph import Node
from quantize.tflite.graph import Quantiser
from quantize.tflite.lower import TO_NCHW, Lowerer, Lowering
from quantize.tflite.plan import activation_of

LOWERINGS: Final[dict[str, Lowering]] = {}
_INT32_MAX: Final = 2**31 - 1


def lowers(*operators: str) -> Callable[[Lowering], Lowering]:
    """Register a lowering for ONNX operators."""

    def register(lowering: Lowering) -> Lowering:
        for operator in operators:
            LOWERINGS[operator] = lowering
        return lowering

    return register


@lowers("Pixels")
def pixels(node: Node, lowerer: Lowerer) -> None:
    """The normalised uint8 image: QUANTIZE moves the zero point only (p − 128), DEQUANTIZE gives (p − c) / s."""
    image = lowerer.tensor(node.inputs[0])
    quantised = node.output in lowerer.plan.quantised
    code, options = (
        ("QUANTIZE", schema.QuantizeOptionsT()) if quantised else ("DEQUANTIZE", schema.DequantizeOptionsT())
    )
    lowerer.emit(code, [image], lowerer.output(node), options)


@lowers("Quantize")
def quantize(node: Node, lowerer: Lowerer) -> None:
    """A quantiser that stands alone: float → INT8, or INT8 → INT8 on another grid."""
    lowerer.emit("QUANTIZE", [lowerer.tensor(node.inputs[0])], lowerer.output(node), schema.QuantizeOptionsT())


@lowers("Conv")
def conv(node: Node, lowerer: Lowerer) -> None:
    """CONV_2D, or DEPTHWISE_CONV_2D when every input channel has its own filters. Kernels go from OIHW to OHWI or 1HWO."""
    kernel_shape = lowerer.plan.shapes[node.inputs[1]]
    if len(kernel_shape) != 4:
        raise lowerer.refuse(node, f"{len(kernel_shape) - 2}-D convolution; only 2-D is supported")
    channels, groups = lowerer.plan.shapes[node.inputs[0]][1], node.attributes.get("group", 1)
    depthwise = groups == channels and groups > 1
    if groups > 1 and not depthwise:
        raise lowerer.refuse(
            node, f"{groups} groups of {channels // groups} channels; plain and depthwise are supported"
        )
    strides, dilations = node.attributes.get("strides", [1, 1]), node.attributes.get("dilations", [1, 1])
    image, padding = _padded(node, lowerer, kernel_shape[2:], strides, dilations)
    order, axis = ((1, 2, 3, 0), 3) if depthwise else ((0, 2, 3, 1), 0)
    weights, bias = _weights(node, lowerer, order, axis)
    options: Any
    if depthwise:
        options = schema.DepthwiseConv2DOptionsT()
        options.depthMultiplier = kernel_shape[0] // channels
    else:
        options = schema.Conv2DOptionsT()
    options.padding = padding
    options.strideH, options.strideW = strides
    options.dilationHFactor, options.dilationWFactor = dilations
    options.fusedActivationFunction = _activation(node)
    lowerer.write(node, "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", [image, weights, bias], options)


@lowers("Gemm")
def gemm(node: Node, lowerer: Lowerer) -> None:
    """FULLY_CONNECTED: y = x · Wᵀ + b, weights (out, in)."""
    attributes = node.attributes
    if attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
        raise lowerer.refuse(node, "only alpha = beta = 1 without transA is supported")
    order = (0, 1) if attributes.get("transB", 0) else (1, 0)
    weights, bias = _weights(node, lowerer, order, 0)
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = _activation(node)
    lowerer.write(node, "FULLY_CONNECTED", [lowerer.input(node), weights, bias], options)


@lowers("Add", "Sub", "Mul")
def arithmetic(node: Node, lowerer: Lowerer) -> None:
    """ADD, SUB, MUL with broadcasting; constants of rank 4 change layout like activations."""
    image = len(lowerer.plan.shapes[node.output]) == 4
    for name in node.inputs:
        shape = lowerer.plan.shapes[name]
        if image and len(shape) != 4 and math.prod(shape) > 1:
            raise lowerer.refuse(node, f"{name!r} broadcasts with a rank of its own; give it rank 4")
        if lowerer.is_constant(name) and lowerer.runs_in_int8(node):
            raise lowerer.refuse(node, f"constant {name!r} has no quantiser")
    options = getattr(schema, f"{node.op}OptionsT")()
    options.fusedActivationFunction = _activation(node)
    inputs = [lowerer.input(node, index) for index in range(2)]
    lowerer.write(node, node.op.upper(), inputs, options)


@lowers("Concat")
def concat(node: Node, lowerer: Lowerer) -> None:
    """CONCATENATION; in INT8 every input must share the output's quantiser (quantize/qdq.py sees to it)."""
    if lowerer.runs_in_int8(node):
        own = lowerer.plan.quantised[node.output]
        if odd := [name for name in node.inputs if not lowerer.plan.quantised[name].same_as(own)]:
            raise lowerer.refuse(node, f"input {odd[0]!r} has another scale than the output")
    options = schema.ConcatenationOptionsT()
    options.axis = lowerer.axis(node.output, node.attributes["axis"])
    lowerer.write(node, "CONCATENATION", [lowerer.input(node, i) for i in range(len(node.inputs))], options)


@lowers("Relu", "Clip")
def activation(node: Node, lowerer: Lowerer) -> None:
    """A RELU or RELU6 that could not be fused."""
    code = activation_of(node, lowerer.plan.constants)
    if code is None:
        raise lowerer.refuse(node, "only Clip(0, 6) and Clip(0, ∞) are supported")
    lowerer.write(node, code, [lowerer.input(node)])


@lowers("Sigmoid")
def sigmoid(node: Node, lowerer: Lowerer) -> None:
    """LOGISTIC, in float: TFLite's INT8 one has a fixed output scale of 1/256, which ties probabilities."""
    if node.output in lowerer.plan.quantised:
        raise lowerer.refuse(node, "a quantised Sigmoid would have another scale than the graph's")
    lowerer.write(node, "LOGISTIC", [lowerer.float_tensor(node.inputs[0])])


@lowers("MaxPool", "AveragePool")
def pool(node: Node, lowerer: Lowerer) -> None:
    """MAX_POOL_2D and AVERAGE_POOL_2D."""
    kernel = node.attributes["kernel_shape"]
    if len(kernel) != 2 or len(node.outputs) > 1 or node.attributes.get("ceil_mode", 0):
        raise lowerer.refuse(node, "only 2-D pooling with one output and floor rounding is supported")
    if any(dilation != 1 for dilation in node.attributes.get("dilations", [1, 1])):
        raise lowerer.refuse(node, "dilated pooling is not supported")
    strides = node.attributes.get("strides", [1, 1])
    pads = node.attributes.get("pads", [0, 0, 0, 0])
    padding = _same_or_valid(lowerer.plan.shapes[node.inputs[0]][2:], kernel, strides, [1, 1], pads)
    if padding is None or node.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise lowerer.refuse(node, f"pads {pads} are neither none nor TFLite's SAME")
    if node.op == "AveragePool" and node.attributes.get("count_include_pad", 0) and any(pads):
        raise lowerer.refuse(node, "count_include_pad is not supported")
    if lowerer.runs_in_int8(node):
        _require_same_scale(node, lowerer)
    options = schema.Pool2DOptionsT()
    options.padding = padding
    options.filterHeight, options.filterWidth = kernel
    options.strideH, options.strideW = strides
    options.fusedActivationFunction = _activation(node)
    code = "MAX_POOL_2D" if node.op == "MaxPool" else "AVERAGE_POOL_2D"
    lowerer.write(node, code, [lowerer.input(node)], options)


@lowers("ReduceMean", "GlobalAveragePool")
def mean(node: Node, lowerer: Lowerer) -> None:
    """MEAN over the named axes."""
    rank = len(lowerer.plan.shapes[node.inputs[0]])
    if node.op == "GlobalAveragePool":
        axes, keep = list(range(2, rank)), True
    else:
        given = node.attributes.get("axes")
        if given is None and len(node.inputs) > 1 and node.inputs[1]:
            given = lowerer.constant(node, 1).tolist()
        axes, keep = list(given) if given else list(range(rank)), bool(node.attributes.get("keepdims", 1))
    where = sorted(lowerer.axis(node.inputs[0], axis) for axis in axes)
    if rank == 4 and not keep and len(lowerer.plan.shapes[node.output]) > 1 and where != [1, 2]:
        raise lowerer.refuse(node, "a mean that drops axes must be over height and width")
    options = schema.ReducerOptionsT()
    options.keepDims = keep
    index = lowerer.add_constant(f"{node.name}_axes", np.array(where, np.int32))
    lowerer.write(node, "MEAN", [lowerer.input(node), index], options)


@lowers("Resize")
def resize(node: Node, lowerer: Lowerer) -> None:
    """RESIZE_BILINEAR or RESIZE_NEAREST_NEIGHBOR, for the coordinate rules that TFLite has too."""
    before, after = lowerer.shape(node.inputs[0]), lowerer.shape(node.output)
    if len(before) != 4 or before[0] != after[0] or before[3] != after[3]:
        raise lowerer.refuse(node, "only height and width can be resized")
    mode = node.attributes.get("mode", "nearest")
    rule = node.attributes.get("coordinate_transformation_mode", "half_pixel")
    if rule == "pytorch_half_pixel" and min(after[1:3]) > 1:
        rule = "half_pixel"
    rounding = node.attributes.get("nearest_mode", "round_prefer_floor") if mode == "nearest" else ""
    options: Any
    if mode == "linear" and rule in ("half_pixel", "align_corners", "asymmetric"):
        code, options = "RESIZE_BILINEAR", schema.ResizeBilinearOptionsT()
        options.halfPixelCenters, options.alignCorners = rule == "half_pixel", rule == "align_corners"
    elif mode == "nearest" and rule == "asymmetric" and rounding == "floor":
        code, options = "RESIZE_NEAREST_NEIGHBOR", schema.ResizeNearestNeighborOptionsT()
        options.halfPixelCenters = options.alignCorners = False
    else:
        raise lowerer.refuse(
            node, f"{mode} {rounding} interpolation with {rule} coordinates has no exact form in TFLite"
        )
    if rule != "align_corners" and (odd := _uneven_scales(node, lowerer)):
        raise lowerer.refuse(node, f"scale {odd[0]:.6g} is not the ratio of the sizes, which TFLite resizes by")
    if node.attributes.get("antialias", 0):
        raise lowerer.refuse(node, "antialias has no form in TFLite")
    if lowerer.runs_in_int8(node):
        _require_same_scale(node, lowerer)
    size = lowerer.add_constant(f"{node.name}_size", np.array(after[1:3], np.int32))
    lowerer.write(node, code, [lowerer.input(node), size], options)


@lowers("Flatten", "Reshape", "Squeeze", "Unsqueeze")
def reshape(node: Node, lowerer: Lowerer) -> None:
    """RESHAPE; an image that leaves NHWC is transposed back to ONNX's order first, unless it is a single pixel or channel."""
    source, target = node.inputs[0], node.output
    if lowerer.runs_in_int8(node):
        _require_same_scale(node, lowerer)
    before, shape = lowerer.shape(source), lowerer.shape(target)
    if before != shape and _is_image(shape):
        raise lowerer.refuse(node, f"the reshape to {lowerer.plan.shapes[target]} enters image layout")
    index = lowerer.input(node)
    if before != shape and _is_image(before):
        turned = lowerer.add_temporary(f"{target}_nchw", lowerer.plan.shapes[source], index)
        order = lowerer.add_constant(f"{target}_order", np.array(TO_NCHW, np.int32))
        lowerer.emit("TRANSPOSE", [index, order], turned, schema.TransposeOptionsT())
        index = turned
    options = schema.ReshapeOptionsT()
    options.newShape = list(shape)
    size = lowerer.add_constant(f"{target}_shape", np.array(shape, np.int32))
    lowerer.write(node, "RESHAPE", [index, size], options)


def _uneven_scales(node: Node, lowerer: Lowerer) -> list[float]:
    """Scales of a Resize that do not lead to a whole size; ONNX samples by them, not by the ratio of the sizes."""
    given = node.inputs[2] if len(node.inputs) > 2 else ""
    if not given:
        return []
    before, after = lowerer.plan.shapes[node.inputs[0]], lowerer.plan.shapes[node.output]
    scales = zip(node.attributes.get("axes", range(4)), lowerer.constant(node, 2).tolist(), strict=False)
    return [scale for axis, scale in scales if not math.isclose(before[axis] * scale, after[axis], rel_tol=1e-6)]


def _is_image(shape: tuple[int, ...]) -> bool:
    """True when NHWC and NCHW put this shape's values in different orders."""
    return len(shape) == 4 and 1 not in (shape[3], shape[1] * shape[2])


def _padded(
    node: Node, lowerer: Lowerer, kernel: tuple[int, ...], strides: list[int], dilations: list[int]
) -> tuple[int, int]:
    """The convolution's input and TFLite padding; pads that are neither SAME nor none become an operator of their own."""
    auto = node.attributes.get("auto_pad", "NOTSET")
    if auto not in ("NOTSET", "VALID"):
        raise lowerer.refuse(node, f"auto_pad {auto} is not supported; write the pads out")
    pads = node.attributes.get("pads", [0, 0, 0, 0])
    image = lowerer.input(node)
    padding = _same_or_valid(lowerer.plan.shapes[node.inputs[0]][2:], kernel, strides, dilations, pads)
    if padding is not None:
        return image, padding
    _, height, width, channels = lowerer.shape(node.inputs[0])
    top, left, bottom, right = pads
    amounts = lowerer.add_constant(
        f"{node.name}_pads", np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
    )
    padded = lowerer.add_temporary(
        f"{node.name}_padded", (1, height + top + bottom, width + left + right, channels), image
    )
    lowerer.emit("PAD", [image, amounts], padded, schema.PadOptionsT())
    return padded, schema.Padding.VALID


def _same_or_valid(
    size: tuple[int, ...], kernel: Any, strides: list[int], dilations: list[int], pads: list[int]
) -> int | None:
    """TFLite's name for explicit pads (top, left, bottom, right); None when it has none.

    SAME gives ceil(size / stride) outputs and puts the odd row of padding at the end.
    """
    if not any(pads):
        return int(schema.Padding.VALID)
    for axis in range(2):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        total = max((-(-size[axis] // strides[axis]) - 1) * strides[axis] + reach - size[axis], 0)
        if (pads[axis], pads[axis + 2]) != (total // 2, total - total // 2):
            return None
    return int(schema.Padding.SAME)


def _weights(node: Node, lowerer: Lowerer, order: tuple[int, ...], axis: int) -> tuple[int, int]:
    """Constant weights and bias of a layer; INT8 weights and INT32 bias when it runs in INT8.

    order: ONNX axes in TFLite's order. axis: TFLite's output-channel axis. The bias scale is input scale times weight
    scale, so that it adds to the accumulator directly (TFLite's quantisation specification).
    """
    name = node.inputs[1]
    kernel = lowerer.constant(node, 1).astype(np.float32).transpose(order)
    channels = kernel.shape[axis]
    has_bias = len(node.inputs) > 2 and node.inputs[2]
    given = lowerer.constant(node, 2).astype(np.float32).reshape(-1) if has_bias else np.zeros(1, np.float32)
    if given.size not in (1, channels):
        raise lowerer.refuse(node, f"a bias of {given.size} values for {channels} channels")
    bias = np.broadcast_to(given, (channels,))
    if not lowerer.runs_in_int8(node):
        return (
            lowerer.add_constant(f"{name}_{node.name}", np.ascontiguousarray(kernel)),
            lowerer.add_constant(f"{node.name}_bias", bias),
        )
    weight = lowerer.plan.weights.get(name)
    if weight is None:
        raise lowerer.refuse(node, f"weights {name!r} are float between INT8 activations")
    if np.any(weight.quantiser.zero_point != 0):
        raise lowerer.refuse(node, "weights have a zero point; TFLite wants symmetric ones")
    if weight.quantiser.scale.ndim and weight.quantiser.axis % len(order) != order[axis]:
        raise lowerer.refuse(
            node, f"weights have a scale along axis {weight.quantiser.axis}, not one an output channel"
        )
    scale = np.broadcast_to(weight.quantiser.scale, (channels,)).astype(np.float32)
    integers = np.ascontiguousarray(weight.integers.transpose(order))
    bias_scale = lowerer.plan.quantised[node.inputs[0]].scale * scale
    rounded = np.clip(np.rint(bias.astype(np.float64) / bias_scale), -_INT32_MAX, _INT32_MAX).astype(np.int32)
    zeros = np.zeros(channels, np.int64)
    return (
        lowerer.add_constant(f"{name}_{node.name}", integers, Quantiser(scale, zeros, axis)),
        lowerer.add_constant(f"{node.name}_bias", rounded, Quantiser(bias_scale.astype(np.float32), zeros, 0)),
    )


def _require_same_scale(node: Node, lowerer: Lowerer) -> None:
    source, target = (lowerer.plan.quantised[name] for name in (node.inputs[0], node.output))
    if not source.same_as(target):
        raise lowerer.refuse(node, "input and output have different scales; TFLite cannot rescale here")


def _activation(node: Node) -> int:
    return int(getattr(schema.ActivationFunctionType, node.activation or "NONE"))
