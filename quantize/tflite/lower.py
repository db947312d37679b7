"""Walk a planned ONNX graph and write TFLite operators; the layout is decided here.

Images are NHWC in TFLite and NCHW in ONNX. Every tensor carries the order of its stored axes, so that a Transpose of the
network moves labels and not data; data moves only where an operator needs another order than the one it finds. A node
runs in INT8 when its output and all its activation inputs are quantised, else in float between DEQUANTIZE and QUANTIZE.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema

from edge.errors import ConversionError
from quantize.onnx_graph import QUANTISERS, Array, Node, OnnxGraph, read_graph
from quantize.tflite.graph import Operator, Quantiser, Tensor, TfliteGraph
from quantize.tflite.plan import Plan, make_plan
from quantize.tflite.refusal import Refusals
from quantize.tflite.writer import serialise

NHWC: Final = (0, 2, 3, 1)
MAX_RANK: Final = 6
INPUT_TYPES: Final = frozenset(map(np.dtype, ("float32", "uint8", "int8", "int32", "int64", "bool")))
_MALFORMED: Final = (LookupError, TypeError, ValueError, ArithmeticError)
_SMALLEST_RESCALE: Final = 2.0**-8
"""Ratio of two scales beyond which no kernel but float rescales (XNNPACK's limit; others abort far beyond)."""
_LARGEST_COUNT: Final = 2**31 - 1
_FLOAT: Final = np.dtype(np.float32)


def to_tflite(model: onnx.ModelProto, *, description: str = "edgekit") -> bytes:
    """Lower an FP32 or QDQ ONNX model to a TFLite file with the very same weights and quantisers.

    Inputs and outputs keep their names; those of rank 4 are NHWC in the file. Raises ConversionError naming every node
    that cannot be lowered, why, and what to do.
    """
    return serialise(lower(read_graph(model)), description=description)


def lower(graph: OnnxGraph) -> TfliteGraph:
    """Lower a graph to TFLite records. Raises ConversionError naming every node that cannot be lowered."""
    from quantize.tflite.ops import LOWERINGS, NO_LOWERING, REMEDIES

    refusals = Refusals(len(graph.nodes))
    try:
        plan = make_plan(graph)
    except ConversionError as error:  # of a quantiser: told with the operators that have no lowering either
        for node in graph.nodes:
            if node.op not in LOWERINGS and node.op not in QUANTISERS:
                refusals.add(node, ConversionError(REMEDIES.get(node.op, NO_LOWERING)))
        refusals.raise_any(str(error))
        raise
    lowerer = Lowerer(plan)
    for node in plan.nodes:
        try:
            if any(name in graph.unknown for name in node.inputs):  # what it follows is refused already
                graph.unknown.update(dict.fromkeys(filter(None, node.outputs), ""))
                lowerer.pretend(node)
                continue
            if node.op not in LOWERINGS:
                raise lowerer.refuse(node, REMEDIES.get(node.op, NO_LOWERING))
            if reasons := [graph.unknown[name] for name in node.outputs if name in graph.unknown]:
                raise lowerer.refuse(node, f"{reasons[0]}; fix the shape or replace the operator")
            lowerer.require_plain(node)
            LOWERINGS[node.op](node, lowerer)
        except ConversionError as error:
            refusals.add(node, error)
            lowerer.pretend(node)
        except _MALFORMED as error:  # attributes and parameters that ONNX's own checker lets through
            reason = f"malformed ({type(error).__name__}: {error}); check its attributes and constant inputs"
            refusals.add(node, ConversionError(reason))
            lowerer.pretend(node)
    refusals.raise_any()
    lowerer.finish()
    return lowerer.graph


@dataclass(frozen=True, slots=True)
class Value:
    """Where an ONNX tensor is: stored axis i of TFLite tensor `index` is ONNX axis order[i]."""

    index: int
    order: tuple[int, ...]


class Lowerer:
    """The TFLite graph under construction, and where each ONNX tensor is in it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.graph = TfliteGraph()
        self._values: dict[str, Value] = {}
        self._reshaped_from: dict[int, int] = {}
        self._made: dict[tuple[Any, ...], int] = {}  # conversions and arrangements, each made once
        for name, dtype in plan.inputs.items():
            shape, order = plan.shapes[name], usual_order(len(plan.shapes[name]))
            stored = tuple(shape[axis] for axis in order)
            index = self.graph.add_tensor(Tensor(name, stored, dtype, plan.pixel_input.get(name)))
            self._values[name] = Value(index, order)
            self.graph.inputs.append(index)

    def finish(self) -> None:
        """Bring every output to float32 in its usual order, under its own name."""
        for name in self.plan.outputs:
            value = self.float_value(name)
            index = self.arranged(value, usual_order(len(value.order)))
            if self._is_taken(index):
                index = self.reshaped(index, self.graph.tensors[index].shape)
            self.graph.tensors[index] = replace(self.graph.tensors[index], name=name)
            self.graph.outputs.append(index)
        for name, dtype in self.plan.inputs.items():
            if dtype not in INPUT_TYPES:  # one that nothing reads, or that would have been refused
                raise ConversionError(f"input {name!r} is {dtype}; export the network in float32")

    # Reading the ONNX side.

    def refuse(self, node: Node, reason: str) -> ConversionError:
        """The error for a node that TFLite cannot express. reason: why, and what to do about it."""
        return ConversionError(reason)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor in ONNX's order."""
        return self.plan.shapes[name]

    def constant(self, node: Node, index: int) -> Array:
        """Input `index` of `node` as a float or integer array. Raises ConversionError when it is computed."""
        name = node.inputs[index]
        if name in self.plan.weights:
            return self.plan.weights[name].real()
        if name not in self.plan.constants:
            raise self.refuse(node, f"input {name!r} is computed, and TFLite wants a constant; freeze it")
        return self.plan.constants[name]

    def optional(self, node: Node, index: int) -> Array | None:
        """Like `constant`; None for an input that is left out."""
        return self.constant(node, index) if index < len(node.inputs) and node.inputs[index] else None

    def is_constant(self, name: str) -> bool:
        return name in self.plan.constants or name in self.plan.weights

    def require_plain(self, node: Node) -> None:
        """Raise ConversionError for more axes than the runtime has, and for arithmetic in anything but float32."""
        rank = max(len(self.plan.shapes.get(name, ())) for name in (*node.inputs, *node.outputs))
        if rank > MAX_RANK:
            raise self.refuse(node, f"rank {rank}; the runtime has at most {MAX_RANK}, reshape before")
        if too_large := [name for name in node.outputs if math.prod(self.plan.shapes.get(name, ())) > _LARGEST_COUNT]:
            shape = self.plan.shapes[too_large[0]]
            raise self.refuse(
                node, f"an output of shape {shape}; the runtime counts to {_LARGEST_COUNT}, resize the image"
            )
        if node.op in ("Cast", "Pixels"):
            return
        for name in (*(name for name in node.inputs if name and not self.is_constant(name)), node.output):
            dtype = self.plan.dtypes.get(name, _FLOAT)
            if name and dtype != _FLOAT and name not in self.plan.quantised:
                raise self.refuse(node, f"computes in {dtype}; export the network in float32")

    def grid(self, node: Node) -> Quantiser | None:
        """The output's quantiser when `node` runs in INT8: its output and every activation input are; else None."""
        activations = [name for name in node.inputs if name and not self.is_constant(name)]
        inside = activations and all(self.quantiser(name) is not None for name in activations)
        return self.plan.quantised.get(node.output) if inside else None

    def quantiser(self, name: str) -> Quantiser | None:
        """The quantiser an activation is stored with; None for float."""
        tensor = self.graph.tensors[self.stored(name).index]
        return tensor.quantiser if tensor.dtype == np.int8 else None

    def own_grid(self, node: Node) -> Quantiser | None:
        """The first input's quantiser, for an operator that rounds to it first; None where the output is finer, or float."""
        source, target = self.quantiser(node.inputs[0]), self.plan.quantised.get(node.output)
        if source is None or target is None or float(target.scale) < 0.75 * float(source.scale):
            return None
        return source

    # Where things are.

    def stored(self, name: str) -> Value:
        """An activation as it is stored; a constant in float32, in ONNX's order."""
        if name not in self._values:
            weight = self.plan.weights.get(name)
            data = np.asarray(weight.real() if weight else self.plan.constants[name])
            self._values[name] = Value(self.add_constant(name, data), tuple(range(data.ndim)))
        return self._values[name]

    def float_value(self, name: str) -> Value:
        """An activation in float32, through a DEQUANTIZE when it is stored as INT8."""
        value = self.stored(name)
        tensor = self.graph.tensors[value.index]
        if tensor.dtype != np.int8:
            return value
        return Value(self._dequantised(value.index), value.order)

    def _dequantised(self, index: int) -> int:
        tensor, key = self.graph.tensors[index], ("float", index)
        if key not in self._made:
            options = schema.DequantizeOptionsT()
            self._made[key] = self.emit("DEQUANTIZE", [index], tensor.shape, None, f"{tensor.name}_float", options)
        return self._made[key]

    def int8_value(self, name: str, grid: Quantiser) -> Value:
        """A quantised activation on another grid, through a QUANTIZE when it is not on it already."""
        value = self.stored(name)
        return Value(self.on_grid(value.index, grid), value.order)

    def on_grid(self, index: int, grid: Quantiser, name: str = "") -> int:
        """Tensor `index` on `grid`, through a QUANTIZE to a tensor called `name` when it is not on it already."""
        tensor = self.graph.tensors[index]
        if tensor.dtype == np.int8 and tensor.quantiser is not None and tensor.quantiser.same_as(grid):
            return index
        key = ("grid", index, grid.scale.tobytes(), grid.zero_point.tobytes())
        if tensor.dtype == np.int8 and tensor.quantiser is not None:
            ratio = float(tensor.quantiser.scale) / float(grid.scale)
            if not _SMALLEST_RESCALE <= ratio <= 1 / _SMALLEST_RESCALE:
                index = self._dequantised(index)
        if key not in self._made:
            name = name or f"{tensor.name}_requantised"
            self._made[key] = self.emit("QUANTIZE", [index], tensor.shape, grid, name, schema.QuantizeOptionsT())
        return self._made[key]

    def arranged(self, value: Value, order: tuple[int, ...]) -> int:
        """The tensor with its axes in `order`: a TRANSPOSE, a RESHAPE where only axes of length 1 move, or itself."""
        if value.order == order:
            return value.index
        key = ("order", value.index, value.order, order)
        if key not in self._made:
            tensor = self.graph.tensors[value.index]
            permutation = tuple(value.order.index(axis) for axis in order)
            shape = tuple(tensor.shape[axis] for axis in permutation)
            moves = self.moves_data(value, order)
            self._made[key] = self.transposed(value.index, permutation) if moves else self.reshaped(value.index, shape)
        return self._made[key]

    def moves_data(self, value: Value, order: tuple[int, ...]) -> bool:
        """True when bringing a value into `order` changes more than the places of axes of length 1."""
        long = [axis for axis, size in zip(value.order, self.graph.tensors[value.index].shape, strict=True) if size > 1]
        return long != [axis for axis in order if axis in long]

    def operand(self, node: Node, index: int, grid: Quantiser | None, order: tuple[int, ...] | None = None) -> int:
        """Activation input `index` of a node: as INT8 when it has a `grid`, else float; in `order`, or as it is."""
        name = node.inputs[index]
        value = self.stored(name) if grid is not None else self.float_value(name)
        return value.index if order is None else self.arranged(value, order)

    def image(self, node: Node, grid: Quantiser | None) -> int:
        """The first input as NHWC. Raises ConversionError when it has another rank than 4."""
        if len(self.shape(node.inputs[0])) != 4:
            raise self.refuse(node, f"input of shape {self.shape(node.inputs[0])}; only 2-D images are lowered")
        return self.operand(node, 0, grid, NHWC)

    # Writing the TFLite side.

    def emit(
        self,
        code: str,
        inputs: list[int],
        shape: tuple[int, ...],
        grid: Quantiser | None,
        name: str,
        options: Any = None,
    ) -> int:
        """Append an operator and its output, INT8 on `grid` or float32; return the output's index."""
        dtype = np.dtype(np.int8) if grid is not None else _FLOAT
        output = self.graph.add_tensor(Tensor(name, tuple(map(int, shape)), dtype, grid))
        self.graph.operators.append(Operator(code, tuple(inputs), (output,), options))
        return output

    def emit_like(self, code: str, inputs: list[int], shape: tuple[int, ...], name: str, options: Any = None) -> int:
        """`emit` for an operator whose output has the type and grid of its first input."""
        tensor = self.graph.tensors[inputs[0]]
        return self.emit(code, inputs, shape, tensor.quantiser if tensor.dtype == np.int8 else None, name, options)

    def bind(self, name: str, index: int, order: tuple[int, ...]) -> None:
        """Let ONNX tensor `name` be tensor `index`, brought to the quantiser that the plan stores it with."""
        grid = self.plan.quantised.get(name)
        self._values[name] = Value(index if grid is None else self.on_grid(index, grid, name), order)

    def alias(self, name: str, value: Value) -> None:
        """Let ONNX tensor `name` be a value that exists already; a quantiser behind it still applies."""
        self.bind(name, value.index, value.order)

    def pretend(self, node: Node) -> None:
        """Stand in for the outputs of a node that was refused, so that the ones behind it can be looked at."""
        for name in filter(None, node.outputs):
            shape = self.plan.shapes.get(name, ())
            grid = self.plan.quantised.get(name)
            dtype = np.dtype(np.int8) if grid is not None else _FLOAT
            self._values[name] = Value(
                self.graph.add_tensor(Tensor(name, shape, dtype, grid)), tuple(range(len(shape)))
            )

    def add_constant(self, name: str, data: Array, quantiser: Quantiser | None = None) -> int:
        """Append a constant tensor."""
        return self.graph.add_tensor(Tensor(name, data.shape, data.dtype, quantiser, np.ascontiguousarray(data)))

    def integers(self, name: str, values: Any) -> int:
        """Append an INT32 constant: axes, sizes, pads. Raises ConversionError for larger numbers."""
        numbers = np.asarray(values, np.int64)
        if np.any(numbers != numbers.astype(np.int32)):
            raise ConversionError("a size beyond 32 bits; TFLite has none")
        return self.add_constant(name, numbers.astype(np.int32))

    def reshaped(self, index: int, shape: tuple[int, ...]) -> int:
        """A RESHAPE of the stored data, from the first of several: the runtime's built-in kernels overwrite those between."""
        index = self._reshaped_from.get(index, index)
        name = f"{self.graph.tensors[index].name}_reshaped"
        options = schema.ReshapeOptionsT()
        options.newShape = list(shape)
        made = self.emit_like("RESHAPE", [index, self.integers(f"{name}_shape", shape)], shape, name, options)
        self._reshaped_from[made] = index
        return made

    def transposed(self, index: int, permutation: tuple[int, ...]) -> int:
        """A TRANSPOSE of the stored data."""
        tensor = self.graph.tensors[index]
        name = f"{tensor.name}_transposed"
        shape = tuple(tensor.shape[axis] for axis in permutation)
        inputs = [index, self.integers(f"{name}_order", permutation)]
        return self.emit_like("TRANSPOSE", inputs, shape, name, schema.TransposeOptionsT())

    def _is_taken(self, index: int) -> bool:
        """True for a tensor that cannot be renamed: an input, a constant, or an output already."""
        return index in self.graph.inputs or index in self.graph.outputs or self.graph.tensors[index].data is not None


def usual_order(rank: int) -> tuple[int, ...]:
    """The order in which inputs and outputs of a rank are stored: NHWC for images, ONNX's for the rest."""
    return NHWC if rank == 4 else tuple(range(rank))
