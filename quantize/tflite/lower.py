"""Walk a planned ONNX graph and write TFLite operators; the layout is decided here.

Every rank-4 activation is NHWC in TFLite and NCHW in ONNX; other ranks keep their order. A node runs in INT8 when its
output and all its activation inputs are quantised, else in float between DEQUANTIZE and QUANTIZE operators.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema

from edge.errors import ConversionError
from quantize.onnx_graph import Array, Node, OnnxGraph, read_graph
from quantize.tflite.graph import Operator, Quantiser, Tensor, TfliteGraph
from quantize.tflite.plan import Plan, make_plan
from quantize.tflite.writer import serialise

Lowering = Callable[[Node, "Lowerer"], None]
TO_NHWC: Final = (0, 2, 3, 1)
TO_NCHW: Final = (0, 3, 1, 2)


def to_tflite(model: onnx.ModelProto, *, description: str = "edgekit") -> bytes:
    """Lower an FP32 or QDQ ONNX model to a TFLite file with the very same weights and quantisers.

    Raises ConversionError naming every operator that cannot be lowered and what is supported.
    """
    return serialise(lower(read_graph(model)), description=description)


def lower(graph: OnnxGraph) -> TfliteGraph:
    """Lower a graph to TFLite records. Raises ConversionError."""
    from quantize.tflite.ops import LOWERINGS

    plan = make_plan(graph)
    if unknown := [node for node in plan.nodes if node.op not in LOWERINGS]:
        offenders = ", ".join(f"{node.name!r} ({node.op})" for node in unknown)
        raise ConversionError(
            f"TFLite: no lowering for node {offenders}; supported operators: "
            + ", ".join(sorted(op for op in LOWERINGS if op not in ("Pixels", "Quantize")))
        )
    lowerer = Lowerer(plan)
    for node in plan.nodes:
        LOWERINGS[node.op](node, lowerer)
    lowerer.finish()
    return lowerer.graph


class Lowerer:
    """The TFLite graph under construction, and where each ONNX tensor is in it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.graph = TfliteGraph()
        self._index: dict[str, int] = {}
        self._float_index: dict[str, int] = {}
        for name, dtype in plan.inputs.items():
            tensor = Tensor(name, self.shape(name), dtype, plan.pixel_input.get(name))
            self._index[name] = self.graph.add_tensor(tensor)
            self.graph.inputs.append(self._index[name])

    def finish(self) -> None:
        """Name the outputs. Raises ConversionError when one was not written."""
        for name in self.plan.outputs:
            if name not in self._index:
                raise ConversionError(f"output {name!r} is a constant or an input; nothing to run")
            self.graph.outputs.append(self._index[name])

    # Reading the ONNX side.

    def refuse(self, node: Node, reason: str) -> ConversionError:
        """The error for a node that TFLite cannot express."""
        return ConversionError(f"TFLite: node {node.name!r} ({node.op}): {reason}")

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an activation in TFLite's layout."""
        shape = self.plan.shapes[name]
        return tuple(shape[axis] for axis in TO_NHWC) if len(shape) == 4 else shape

    def axis(self, name: str, axis: int) -> int:
        """Where ONNX axis `axis` of activation `name` is in TFLite's layout."""
        rank = len(self.plan.shapes[name])
        axis %= rank
        return TO_NHWC.index(axis) if rank == 4 else axis

    def constant(self, node: Node, index: int) -> Array:
        """Input `index` of `node` as a float or integer array. Raises ConversionError when it is computed."""
        name = node.inputs[index]
        if name in self.plan.weights:
            return self.plan.weights[name].real()
        if name not in self.plan.constants:
            raise self.refuse(node, f"input {name!r} must be a constant")
        return self.plan.constants[name]

    def is_constant(self, name: str) -> bool:
        return name in self.plan.constants or name in self.plan.weights

    def runs_in_int8(self, node: Node) -> bool:
        """True when the output and every activation input of `node` are quantised."""
        activations = [name for name in node.inputs if name and not self.is_constant(name)]
        return all(name in self.plan.quantised for name in (*activations, node.output))

    # Writing the TFLite side.

    def emit(self, code: str, inputs: list[int], output: int, options: Any = None) -> None:
        """Append an operator."""
        self.graph.operators.append(Operator(code, tuple(inputs), (output,), options))

    def add_constant(self, name: str, data: Array, quantiser: Quantiser | None = None) -> int:
        """Append a constant tensor."""
        return self.graph.add_tensor(Tensor(name, data.shape, data.dtype, quantiser, data))

    def add_temporary(self, name: str, shape: tuple[int, ...], like: int) -> int:
        """Append an activation of the type and quantiser of tensor `like`."""
        model = self.graph.tensors[like]
        return self.graph.add_tensor(Tensor(name, shape, model.dtype, model.quantiser))

    def tensor(self, name: str) -> int:
        """Index of an activation as it is stored: INT8 when quantised, else float32."""
        if name not in self._index:
            if not self.is_constant(name):
                raise ConversionError(f"TFLite: tensor {name!r} is read before it is written")
            weight = self.plan.weights.get(name)
            data = np.asarray(weight.real() if weight else self.plan.constants[name])
            data = data.transpose(TO_NHWC) if data.ndim == 4 else data
            self._index[name] = self.add_constant(name, np.ascontiguousarray(data))
        return self._index[name]

    def float_tensor(self, name: str) -> int:
        """Index of an activation in float32, through a DEQUANTIZE when it is stored as INT8."""
        if name not in self.plan.quantised:
            return self.tensor(name)
        if name not in self._float_index:
            output = self.graph.add_tensor(Tensor(f"{name}_float", self.shape(name), np.dtype(np.float32)))
            self.emit("DEQUANTIZE", [self.tensor(name)], output, schema.DequantizeOptionsT())
            self._float_index[name] = output
        return self._float_index[name]

    def input(self, node: Node, index: int = 0) -> int:
        """Activation input `index` in the type the node runs in."""
        name = node.inputs[index]
        return self.tensor(name) if self.runs_in_int8(node) else self.float_tensor(name)

    def output(self, node: Node) -> int:
        """Declare the node's output in the type it is stored in; call it only for a node that runs in that type."""
        name = node.output
        quantiser = self.plan.quantised.get(name)
        dtype = np.dtype(np.int8 if quantiser is not None else np.float32)
        self._index[name] = self.graph.add_tensor(Tensor(name, self.shape(name), dtype, quantiser))
        return self._index[name]

    def write(self, node: Node, code: str, inputs: list[int], options: Any = None) -> None:
        """Emit `code` for the node; a node that runs in float but is stored as INT8 gets a QUANTIZE behind it."""
        if self.runs_in_int8(node) or node.output not in self.plan.quantised:
            self.emit(code, inputs, self.output(node), options)
            return
        name = f"{node.output}_unquantised"
        between = self.graph.add_tensor(Tensor(name, self.shape(node.output), np.dtype(np.float32)))
        self.emit(code, inputs, between, options)
        self.emit("QUANTIZE", [between], self.output(node), schema.QuantizeOptionsT())

    def alias(self, name: str, index: int) -> None:
        """Let ONNX tensor `name` be TFLite tensor `index`."""
        self._index[name] = index
