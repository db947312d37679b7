"""Pads of convolutions and pools: TFLite's SAME and VALID, and an operator of its own for all others."""

from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from quantize.onnx_graph import Node
from quantize.tflite.lower import Lowerer


def explicit_pads(
    node: Node, lowerer: Lowerer, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """Pads of a sliding window as [top, left, bottom, right], auto_pad written out. Raises ConversionError."""
    auto = node.attributes.get("auto_pad", "NOTSET")
    if auto == "VALID":
        return [0, 0, 0, 0]
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        pads = list(node.attributes.get("pads", [0, 0, 0, 0]))
        if min(pads) < 0:
            raise lowerer.refuse(node, f"negative pads {pads}; crop with a Slice")
        return pads
    totals = [
        same_total(size, kernel[axis], strides[axis], dilations[axis])
        for axis, size in enumerate(lowerer.shape(node.inputs[0])[2:])
    ]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return [*small, *large] if auto == "SAME_UPPER" else [*large, *small]


def require_reach(
    node: Node, lowerer: Lowerer, kernel: Sequence[int], dilations: Sequence[int], pads: Sequence[int]
) -> None:
    """Raise ConversionError when the window is larger than the padded image: ONNX infers a size that no runtime computes."""
    for axis, size in enumerate(lowerer.shape(node.inputs[0])[2:]):
        if (kernel[axis] - 1) * dilations[axis] + 1 > size + pads[axis] + pads[axis + 2]:
            raise lowerer.refuse(node, f"its kernel {tuple(kernel)} reaches beyond the padded image; pad more")


def same_total(size: int, kernel: int, stride: int, dilation: int) -> int:
    """Rows of padding that give ceil(size / stride) outputs."""
    return max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)


def same_or_valid(
    size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Sequence[int]
) -> int | None:
    """TFLite's name for explicit pads (top, left, bottom, right); None when it has none.

    SAME gives ceil(size / stride) outputs and puts the odd row of padding at the end.
    """
    if not any(pads):
        return int(schema.Padding.VALID)
    for axis in range(2):
        total = same_total(size[axis], kernel[axis], strides[axis], dilations[axis])
        if (pads[axis], pads[axis + 2]) != (total // 2, total - total // 2):
            return None
    return int(schema.Padding.SAME)


def padded_image(node: Node, lowerer: Lowerer, image: int, pads: Sequence[int], value: float = 0.0) -> int:
    """The NHWC image with [top, left, bottom, right] rows around it: zeros, or `value`."""
    tensor = lowerer.graph.tensors[image]
    batch, height, width, channels = tensor.shape
    top, left, bottom, right = pads
    amounts = lowerer.integers(f"{node.name}_pads", [[0, 0], [top, bottom], [left, right], [0, 0]])
    shape = (batch, height + top + bottom, width + left + right, channels)
    return pad(lowerer, image, amounts, shape, f"{node.name}_padded", value)


def pad(lowerer: Lowerer, index: int, amounts: int, shape: tuple[int, ...], name: str, value: float = 0.0) -> int:
    """PAD, or PADV2 for another value than 0; in INT8 the value's integer, saturated."""
    grid = lowerer.graph.tensors[index].quantiser
    if lowerer.graph.tensors[index].dtype != np.int8 or grid is None:
        if value == 0.0:
            return lowerer.emit_like("PAD", [index, amounts], shape, name, schema.PadOptionsT())
        filler = lowerer.add_constant(f"{name}_value", np.asarray([value], np.float32))
    else:
        integer = np.asarray(grid.quantise(np.asarray(value, np.float64), np.dtype(np.int8)))
        if integer == grid.zero_point:
            return lowerer.emit_like("PAD", [index, amounts], shape, name, schema.PadOptionsT())
        filler = lowerer.add_constant(f"{name}_value", integer.reshape(1), grid)
    return lowerer.emit_like("PADV2", [index, amounts, filler], shape, name, schema.PadV2OptionsT())
