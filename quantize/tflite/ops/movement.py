"""Operators that move values and change none: on integers they keep their input's grid."""

from dataclasses import replace
from typing import Final

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from quantize.onnx_graph import Array, Node
from quantize.tflite.graph import Quantiser
from quantize.tflite.lower import NHWC, Lowerer, Value, usual_order
from quantize.tflite.ops.padding import pad as pad_values
from quantize.tflite.ops.table import lowers

_MOST_EDGE_ROWS: Final = 8
_MOST_REFLECTED_ROWS: Final = 3
_MOST_PADDED_AXES: Final = 5


@lowers("Pixels")
def pixels(node: Node, lowerer: Lowerer) -> None:
    """The normalised image, (p − c) / s, through DEQUANTIZE; a QUANTIZE behind it where the network begins in INT8.

    That pair is exact where the grid is the pixel, and XNNPACK takes it: a QUANTIZE from uint8 straight to int8 it leaves to a
    slower kernel, on one thread.
    """
    value = lowerer.stored(node.inputs[0])
    tensor, grid = lowerer.graph.tensors[value.index], lowerer.plan.quantised.get(node.output)
    if grid is not None and tensor.dtype == np.int8:
        lowerer.bind(node.output, value.index, value.order)
        return
    name = node.output if grid is None else f"{node.output}_float"
    index = lowerer.emit("DEQUANTIZE", [value.index], tensor.shape, None, name, schema.DequantizeOptionsT())
    lowerer.bind(node.output, index, value.order)


@lowers("Quantize", "Identity", "Dropout")
def identity(node: Node, lowerer: Lowerer) -> None:
    """The same tensor; a quantiser behind it becomes a QUANTIZE where the tensor is stored otherwise."""
    if any(node.outputs[1:]):
        raise lowerer.refuse(node, "gives its mask too; export the network after .eval()")
    training = lowerer.optional(node, 2) if node.op == "Dropout" else None
    if training is not None and training.any():
        raise lowerer.refuse(node, "in training mode; export the network after .eval()")
    lowerer.alias(node.output, lowerer.stored(node.inputs[0]))


@lowers("Cast")
def cast(node: Node, lowerer: Lowerer) -> None:
    """CAST from uint8 to float32; nothing from float32 to float32."""
    source, target = (lowerer.plan.dtypes.get(name) for name in (node.inputs[0], node.output))
    if target != np.float32 or source not in (np.dtype(np.float32), np.dtype(np.uint8), np.dtype(np.int8)):
        raise lowerer.refuse(node, f"from {source} to {target}; only uint8 images and float32 are lowered")
    value = lowerer.stored(node.inputs[0])
    if source == np.float32:
        lowerer.alias(node.output, value)
        return
    if source == np.uint8 and node.inputs[0] in lowerer.plan.inputs and not lowerer.plan.pixel_input:
        _image_as_float(node, lowerer, value)
        return
    options = schema.CastOptionsT()
    options.inDataType = schema.TensorType.UINT8 if source == np.uint8 else schema.TensorType.INT8
    options.outDataType = schema.TensorType.FLOAT32
    shape = lowerer.graph.tensors[value.index].shape
    lowerer.bind(node.output, lowerer.emit("CAST", [value.index], shape, None, node.output, options), value.order)


def _image_as_float(node: Node, lowerer: Lowerer, value: Value) -> None:
    """A uint8 image on the grid of whole numbers, through DEQUANTIZE: XNNPACK takes it, and CAST not."""
    tensor = lowerer.graph.tensors[value.index]
    whole = Quantiser(np.asarray(1.0, np.float32), np.asarray(0, np.int64))
    lowerer.graph.tensors[value.index] = replace(tensor, quantiser=whole)
    index = lowerer.emit("DEQUANTIZE", [value.index], tensor.shape, None, node.output, schema.DequantizeOptionsT())
    lowerer.bind(node.output, index, value.order)


@lowers("Transpose")
def transpose(node: Node, lowerer: Lowerer) -> None:
    """Nothing: the axes get other names, and whoever needs another order moves the data."""
    value = lowerer.stored(node.inputs[0])
    permutation = list(node.attributes.get("perm", reversed(range(len(value.order)))))
    lowerer.alias(node.output, Value(value.index, tuple(permutation.index(axis) for axis in value.order)))


@lowers("Flatten", "Reshape", "Squeeze", "Unsqueeze")
def reshape(node: Node, lowerer: Lowerer) -> None:
    """RESHAPE. Where only axes of length 1 come and go the data stays as it is; else it goes into ONNX's order first."""
    value, target = lowerer.stored(node.inputs[0]), lowerer.shape(node.output)
    source = lowerer.shape(node.inputs[0])
    order = _order_after(source, value.order, target)
    index = value.index
    if order is None:
        straight, order = tuple(range(len(source))), tuple(range(len(target)))
        index = lowerer.arranged(value, straight) if lowerer.moves_data(value, straight) else value.index
    shape = tuple(target[axis] for axis in order)
    if shape != lowerer.graph.tensors[index].shape:
        index = lowerer.reshaped(index, shape)
    lowerer.bind(node.output, index, order)


def _order_after(source: tuple[int, ...], order: tuple[int, ...], target: tuple[int, ...]) -> tuple[int, ...] | None:
    """The order of the stored axes after a reshape that only adds and drops axes of length 1; None for any other."""
    old = [axis for axis in range(len(source)) if source[axis] > 1]
    new = [axis for axis in range(len(target)) if target[axis] > 1]
    if [source[axis] for axis in old] != [target[axis] for axis in new]:
        return None
    renamed = dict(zip(old, new, strict=True))
    stored = [renamed[axis] for axis in order if axis in renamed]
    for candidate in (usual_order(len(target)), tuple(range(len(target)))):
        if [axis for axis in candidate if target[axis] > 1] == stored:
            return candidate
    return (*(axis for axis in range(len(target)) if target[axis] == 1), *stored)


@lowers("Concat")
def concat(node: Node, lowerer: Lowerer) -> None:
    """CONCATENATION; in INT8 every input is brought to the output's grid (quantize/qdq.py gives them one)."""
    grid = lowerer.grid(node)
    if grid is not None and any(map(lowerer.is_constant, node.inputs)):
        grid = None
    rank = len(lowerer.shape(node.output))
    first = next((name for name in node.inputs if not lowerer.is_constant(name)), None)
    order = lowerer.stored(first).order if first else usual_order(rank)
    indices = []
    for name in node.inputs:
        value = lowerer.int8_value(name, grid) if grid is not None else lowerer.float_value(name)
        indices.append(lowerer.arranged(value, order))
    options = schema.ConcatenationOptionsT()
    options.axis = order.index(node.attributes["axis"] % rank)
    shape = tuple(lowerer.shape(node.output)[axis] for axis in order)
    lowerer.bind(node.output, lowerer.emit("CONCATENATION", indices, shape, grid, node.output, options), order)


@lowers("Slice")
def slice_(node: Node, lowerer: Lowerer) -> None:
    """SLICE, or STRIDED_SLICE for steps other than 1."""
    source = lowerer.shape(node.inputs[0])
    rank = len(source)
    starts, ends = (lowerer.constant(node, i).tolist() for i in (1, 2))
    given_axes, given_steps = lowerer.optional(node, 3), lowerer.optional(node, 4)
    axes = [axis % rank for axis in given_axes.tolist()] if given_axes is not None else list(range(len(starts)))
    steps = given_steps.tolist() if given_steps is not None else [1] * len(starts)
    cuts = [(0, size, 1) for size in source]
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = source[axis]
        first, last = ((place + size if place < 0 else place) for place in (start, end))
        low, high = (0, size) if step > 0 else (0, size - 1)
        cuts[axis] = (min(max(first, low), high), min(max(last, low if step > 0 else -1), high), step)
    _take(node, lowerer, node.output, cuts)


@lowers("Split")
def split(node: Node, lowerer: Lowerer) -> None:
    """A SLICE for each part that is used."""
    axis = node.attributes.get("axis", 0) % len(lowerer.shape(node.inputs[0]))
    start = 0
    for name in node.outputs:
        if not name:
            raise lowerer.refuse(node, "leaves a part without a name; give every part one")
        size = lowerer.shape(name)[axis]
        cuts = [(0, length, 1) for length in lowerer.shape(node.inputs[0])]
        cuts[axis] = (start, start + size, 1)
        _take(node, lowerer, name, cuts)
        start += size


def _take(node: Node, lowerer: Lowerer, name: str, cuts: list[tuple[int, int, int]]) -> None:
    """Bind `name` to the part of the first input between (begin, end, step) of each ONNX axis."""
    value = lowerer.stored(node.inputs[0])
    begins, ends, steps = ([cuts[axis][place] for axis in value.order] for place in range(3))
    shape = tuple(lowerer.shape(name)[axis] for axis in value.order)
    if all(step == 1 for step in steps):
        if shape == lowerer.graph.tensors[value.index].shape:
            lowerer.alias(name, value)
            return
        inputs = [value.index, lowerer.integers(f"{name}_begin", begins), lowerer.integers(f"{name}_size", shape)]
        lowerer.bind(name, lowerer.emit_like("SLICE", inputs, shape, name, schema.SliceOptionsT()), value.order)
        return
    options = schema.StridedSliceOptionsT()
    options.endMask = sum(1 << place for place, end in enumerate(ends) if end < 0)  # −1 would count from the end
    inputs = [
        value.index,
        *(
            lowerer.integers(f"{name}_{what}", part)
            for what, part in zip(("begin", "end", "step"), (begins, ends, steps), strict=True)
        ),
    ]
    lowerer.bind(name, lowerer.emit_like("STRIDED_SLICE", inputs, shape, name, options), value.order)


@lowers("Pad")
def pad(node: Node, lowerer: Lowerer) -> None:
    """PAD and PADV2, on the output's grid; MIRROR_PAD for reflect, and row by row for edge; SLICE for negative pads."""
    rank = len(lowerer.shape(node.inputs[0]))
    mode = node.attributes.get("mode", "constant")
    if mode not in ("constant", "reflect", "edge"):
        raise lowerer.refuse(node, f"mode {mode}; TFLite has constant, reflect and edge")
    amounts = _pads_by_axis(node, lowerer, rank)
    fill = lowerer.optional(node, 2)
    value = lowerer.stored(node.inputs[0])
    grid = lowerer.grid(node)
    if mode == "constant" and fill is not None and fill.size and float(fill.reshape(-1)[0]) != 0.0:
        number = float(fill.reshape(-1)[0])
        value = lowerer.int8_value(node.inputs[0], grid) if grid is not None else lowerer.float_value(node.inputs[0])
    else:
        number = 0.0
    index = _cropped(lowerer, value.index, np.minimum(amounts, 0)[list(value.order)], f"{node.output}_cropped")
    added = np.maximum(amounts, 0)[list(value.order)]
    index = _padded(node, lowerer, index, added, mode, number)
    lowerer.bind(node.output, index, value.order)


def _pads_by_axis(node: Node, lowerer: Lowerer, rank: int) -> Array:
    """(rank, 2) rows before and after, in ONNX's axes."""
    pads = np.asarray(node.attributes.get("pads", []) or lowerer.constant(node, 1)).reshape(2, -1).T
    axes = lowerer.optional(node, 3)
    amounts = np.zeros((rank, 2), np.int64)
    for place, axis in enumerate(axes.tolist() if axes is not None else range(rank)):
        amounts[axis % rank] = pads[place]
    return amounts


def _cropped(lowerer: Lowerer, index: int, amounts: Array, name: str) -> int:
    if not amounts.any():
        return index
    shape = tuple(int(size + cut.sum()) for size, cut in zip(lowerer.graph.tensors[index].shape, amounts, strict=True))
    inputs = [index, lowerer.integers(f"{name}_begin", -amounts[:, 0]), lowerer.integers(f"{name}_size", shape)]
    return lowerer.emit_like("SLICE", inputs, shape, name, schema.SliceOptionsT())


def _padded(node: Node, lowerer: Lowerer, index: int, amounts: Array, mode: str, number: float) -> int:
    if not amounts.any():
        return index
    shape = lowerer.graph.tensors[index].shape
    if mode == "constant":
        if len(shape) > _MOST_PADDED_AXES:
            raise lowerer.refuse(node, f"rank {len(shape)}; the runtime pads up to {_MOST_PADDED_AXES}, reshape before")
        grown = tuple(int(size + added.sum()) for size, added in zip(shape, amounts, strict=True))
        return pad_values(lowerer, index, lowerer.integers(f"{node.name}_pads", amounts), grown, node.output, number)
    if mode == "reflect" and any(max(added) >= size for added, size in zip(amounts.tolist(), shape, strict=True)):
        raise lowerer.refuse(node, "reflects more rows than there are; pad less")
    if mode == "edge" and amounts.max() > _MOST_EDGE_ROWS:
        raise lowerer.refuse(node, f"repeats more than {_MOST_EDGE_ROWS} edge rows; pad less or reflect")
    if mode == "reflect" and amounts.max() <= _MOST_REFLECTED_ROWS:
        return _reflected(node, lowerer, index, amounts)
    while amounts.any():
        step = amounts if mode == "reflect" else np.minimum(amounts, 1)
        options = schema.MirrorPadOptionsT()
        options.mode = schema.MirrorPadMode.REFLECT if mode == "reflect" else schema.MirrorPadMode.SYMMETRIC
        shape = tuple(int(size + added.sum()) for size, added in zip(shape, step, strict=True))
        name = f"{node.output}_{len(lowerer.graph.tensors)}"
        index = lowerer.emit_like("MIRROR_PAD", [index, lowerer.integers(f"{name}_pads", step)], shape, name, options)
        amounts = amounts - step
    return index


def _reflected(node: Node, lowerer: Lowerer, index: int, amounts: Array) -> int:
    """A few reflected rows are copied one by one: XNNPACK takes SLICE and CONCATENATION, and MIRROR_PAD not."""
    for axis, (before, after) in enumerate(amounts.tolist()):
        if not (before or after):
            continue
        shape = lowerer.graph.tensors[index].shape
        rows = [*range(before, 0, -1)], [*range(shape[axis] - 2, shape[axis] - 2 - after, -1)]
        parts = [[_row(node, lowerer, index, axis, row) for row in side] for side in rows]
        options = schema.ConcatenationOptionsT()
        options.axis = axis
        grown = tuple(size + before + after if place == axis else size for place, size in enumerate(shape))
        inputs = [*parts[0], index, *parts[1]]
        index = lowerer.emit_like("CONCATENATION", inputs, grown, f"{node.output}_axis_{axis}", options)
    return index


def _row(node: Node, lowerer: Lowerer, index: int, axis: int, row: int) -> int:
    shape = lowerer.graph.tensors[index].shape
    name = f"{node.output}_axis_{axis}_row_{row}"
    begin = [row if place == axis else 0 for place in range(len(shape))]
    one = tuple(1 if place == axis else size for place, size in enumerate(shape))
    inputs = [index, lowerer.integers(f"{name}_begin", begin), lowerer.integers(f"{name}_size", one)]
    return lowerer.emit_like("SLICE", inputs, one, name, schema.SliceOptionsT())


@lowers("DepthToSpace")
def depth_to_space(node: Node, lowerer: Lowerer) -> None:
    """DEPTH_TO_SPACE; in CRD order (PixelShuffle) a RESHAPE and a TRANSPOSE in its place."""
    index = lowerer.image(node, lowerer.quantiser(node.inputs[0]))
    block = node.attributes["blocksize"]
    batch, channels, height, width = lowerer.shape(node.output)
    rows, columns = height // block, width // block
    shape = (batch, height, width, channels)
    if node.attributes.get("mode", "DCR") == "DCR":
        options = schema.DepthToSpaceOptionsT()
        options.blockSize = block
        index = lowerer.emit_like("DEPTH_TO_SPACE", [index], shape, node.output, options)
    else:
        index = lowerer.reshaped(index, (batch * rows, columns, channels, block, block))
        index = lowerer.reshaped(lowerer.transposed(index, (0, 3, 1, 4, 2)), shape)
    lowerer.bind(node.output, index, NHWC)


@lowers("SpaceToDepth")
def space_to_depth(node: Node, lowerer: Lowerer) -> None:
    """SPACE_TO_DEPTH; in CRD order a RESHAPE and a TRANSPOSE in its place."""
    index = lowerer.image(node, lowerer.quantiser(node.inputs[0]))
    block = node.attributes["blocksize"]
    shape = tuple(lowerer.shape(node.output)[axis] for axis in NHWC)
    if node.attributes.get("mode", "DCR") == "DCR":
        options = schema.SpaceToDepthOptionsT()
        options.blockSize = block
        index = lowerer.emit_like("SPACE_TO_DEPTH", [index], shape, node.output, options)
    else:
        batch, rows, columns, channels = shape
        index = lowerer.reshaped(index, (batch * rows, block, columns, block, channels // block**2))
        index = lowerer.reshaped(lowerer.transposed(index, (0, 2, 4, 1, 3)), shape)
    lowerer.bind(node.output, index, NHWC)
