"""Arithmetic of two tensors and more, with broadcasting."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from quantize.onnx_graph import Array, Node
from quantize.tflite.graph import Quantiser
from quantize.tflite.lower import NHWC, Lowerer, Value
from quantize.tflite.ops.convolution import activation_code
from quantize.tflite.ops.table import lowers

_LARGEST_BROADCAST: Final = 5
"""Rank up to which the runtime broadcasts in every operator of this module."""


@lowers("Add", "Sub", "Mul", "Div")
def arithmetic(node: Node, lowerer: Lowerer) -> None:
    """ADD, SUB, MUL, DIV with broadcasting. DIV runs in float; so does one with a constant that has no quantiser."""
    grid = lowerer.grid(node) if node.op != "Div" else None
    if not all(_fits_int8(lowerer, name) for name in node.inputs if lowerer.is_constant(name)):
        grid = None
    if grid is not None and node.op in ("Add", "Sub") and not _sums(node, lowerer, grid):
        grid = None
    order = _common_order(node, lowerer)
    options = getattr(schema, f"{node.op}OptionsT")()
    options.fusedActivationFunction = activation_code(node)
    inputs = [_broadcast(node, lowerer, name, grid, order) for name in node.inputs]
    _write(node, lowerer, node.op.upper(), inputs, grid, order, options)


def _sums(node: Node, lowerer: Lowerer, grid: Quantiser) -> bool:
    """True when no input's scale is 2^8 times the output's or more; kernels shift by a fixed number of bits."""
    scales = [lowerer.quantiser(name) for name in node.inputs if not lowerer.is_constant(name)]
    return all(scale is None or float(scale.scale) < 256 * float(grid.scale) for scale in scales)


@lowers("Max", "Min")
def extremum(node: Node, lowerer: Lowerer) -> None:
    """MAXIMUM and MINIMUM, two at a time; in INT8 every input is brought to the output's grid first."""
    grid = lowerer.grid(node)
    order = _common_order(node, lowerer)
    inputs = [_broadcast(node, lowerer, name, grid, order, rescale=True) for name in node.inputs]
    result = inputs[0]
    for index in inputs[1:]:
        shape = np.broadcast_shapes(lowerer.graph.tensors[result].shape, lowerer.graph.tensors[index].shape)
        code, options = f"{node.op.upper()}IMUM", schema.MaximumMinimumOptionsT()
        result = lowerer.emit(code, [result, index], shape, grid, node.output, options)
    lowerer.bind(node.output, result, order)


@lowers("Pow")
def power(node: Node, lowerer: Lowerer) -> None:
    """POW, in float."""
    order = _common_order(node, lowerer)
    inputs = [_broadcast(node, lowerer, name, None, order) for name in node.inputs]
    _write(node, lowerer, "POW", inputs, None, order, schema.PowOptionsT())


def _write(
    node: Node,
    lowerer: Lowerer,
    code: str,
    inputs: list[int],
    grid: Quantiser | None,
    order: Sequence[int],
    options: Any,
) -> None:
    shape = tuple(lowerer.shape(node.output)[axis] for axis in order)
    lowerer.bind(node.output, lowerer.emit(code, inputs, shape, grid, node.output, options), tuple(order))


def _common_order(node: Node, lowerer: Lowerer) -> tuple[int, ...]:
    """The order of the first input that has the output's rank; the others are brought to it."""
    rank = len(lowerer.shape(node.output))
    if rank > _LARGEST_BROADCAST:
        raise lowerer.refuse(node, f"rank {rank}; the runtime broadcasts up to {_LARGEST_BROADCAST}, reshape before")
    activations = [name for name in node.inputs if not lowerer.is_constant(name)]
    whole = [name for name in activations if lowerer.shape(name) == lowerer.shape(node.output)]
    ranked = [name for name in activations if len(lowerer.shape(name)) == rank]
    for name in (*whole, *ranked):
        return lowerer.stored(name).order
    return NHWC if rank == 4 else tuple(range(rank))


def _broadcast(
    node: Node,
    lowerer: Lowerer,
    name: str,
    grid: Quantiser | None,
    order: tuple[int, ...],
    *,
    rescale: bool = False,
) -> int:
    """An operand at the output's rank and in its order. rescale: in INT8, on the output's grid."""
    if lowerer.is_constant(name):
        return _constant_operand(node, lowerer, name, grid, order, rescale=rescale)
    value = lowerer.stored(name) if grid is not None else lowerer.float_value(name)
    if rescale and grid is not None:
        value = Value(lowerer.on_grid(value.index, grid), value.order)
    missing = len(order) - len(value.order)
    if missing:
        shape = lowerer.shape(name)
        straight = lowerer.arranged(value, tuple(range(len(shape))))
        value = Value(lowerer.reshaped(straight, (1,) * missing + shape), tuple(range(len(order))))
    return lowerer.arranged(value, order)


def _fits_int8(lowerer: Lowerer, name: str) -> bool:
    """True for a constant with one quantiser, and for a single number, which is exact on a grid of its own."""
    weight = lowerer.plan.weights.get(name)
    if weight is None:
        return lowerer.plan.constants[name].size == 1
    return weight.integers.size == 1 or (not weight.quantiser.scale.ndim and weight.integers.dtype == np.int8)


def _constant_operand(
    node: Node, lowerer: Lowerer, name: str, grid: Quantiser | None, order: tuple[int, ...], *, rescale: bool
) -> int:
    weight = lowerer.plan.weights.get(name)
    data: Array = np.asarray(weight.real() if weight is not None else lowerer.plan.constants[name])
    shape = (1,) * (len(order) - data.ndim) + data.shape
    label = f"{node.name}_{name}"
    if grid is None:
        return lowerer.add_constant(label, data.reshape(shape).transpose(order).astype(np.float32))
    if rescale:
        return lowerer.add_constant(label, grid.quantise(data, np.dtype(np.int8)).reshape(shape).transpose(order), grid)
    if weight is not None and not weight.quantiser.scale.ndim and weight.integers.dtype == np.int8:
        return lowerer.add_constant(label, weight.integers.reshape(shape).transpose(order), weight.quantiser)
    value = float(data.reshape(-1)[0])  # one number: exact on a grid of its own
    own = Quantiser(np.asarray(max(abs(value), 1e-30) / 127.0, np.float32), np.asarray(0, np.int64))
    return lowerer.add_constant(label, np.full(shape, int(np.sign(value)) * 127, np.int8).transpose(order), own)
