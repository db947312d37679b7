"""Read a QDQ graph: which tensors are INT8, with which quantisers, and which activations fuse.

Quantiser pairs around activations disappear into the tensors, those in front of weights into the constants. What is left
is a graph of arithmetic, plus `Quantize` where a tensor is read both as float and as INT8 or with two quantisers.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from edge.errors import ConversionError
from quantize.onnx_graph import Array, Node, OnnxGraph, scalar
from quantize.tflite.graph import Quantiser

QUANTIZE: Final = "Quantize"
# CONCATENATION has the option too, and the runtime refuses every value but NONE.
_FUSES_INTO: Final = frozenset({"Conv", "Gemm", "Add", "Sub", "Mul", "MaxPool", "AveragePool"})


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedConstant:
    """A weight as the QDQ graph stores it. integers: int8; `quantiser.axis` is its ONNX axis."""

    integers: Array
    quantiser: Quantiser

    def real(self) -> Array:
        """Float32 values."""
        shape = [1] * self.integers.ndim
        if self.quantiser.scale.ndim:
            shape[self.quantiser.axis] = -1
        offset = self.quantiser.zero_point.reshape(shape) if self.quantiser.scale.ndim else self.quantiser.zero_point
        scale = self.quantiser.scale.reshape(shape) if self.quantiser.scale.ndim else self.quantiser.scale
        return ((self.integers.astype(np.float32) - offset) * scale).astype(np.float32)


@dataclass(slots=True, eq=False)
class Plan:
    """The graph without quantiser nodes. pixel_input: quantiser of a uint8 graph input read as (p − c) / s."""

    nodes: list[Node]
    constants: dict[str, Array]
    weights: dict[str, QuantisedConstant]
    quantised: dict[str, Quantiser]
    shapes: dict[str, tuple[int, ...]]
    inputs: dict[str, np.dtype[np.generic]]
    outputs: list[str]
    pixel_input: dict[str, Quantiser]


def make_plan(graph: OnnxGraph) -> Plan:
    """Plan the lowering of `graph`, with or without quantisers. Raises ConversionError."""
    plan = Plan(
        nodes=[replace(node, inputs=list(node.inputs), outputs=list(node.outputs)) for node in graph.nodes],
        constants=dict(graph.constants),
        weights={},
        quantised={},
        shapes=dict(graph.shapes),
        inputs=dict(graph.inputs),
        outputs=list(graph.outputs),
        pixel_input={},
    )
    _absorb_weights(plan)
    _absorb_pairs(plan)
    _absorb_normalisation(plan)
    _fuse_activations(plan)
    return plan


def _absorb_weights(plan: Plan) -> None:
    kept = []
    for node in plan.nodes:
        if node.op == "DequantizeLinear" and node.inputs[0] in plan.constants:
            integers = plan.constants[node.inputs[0]]
            quantiser = _quantiser(node, plan, integers.dtype)
            if integers.dtype == np.uint8:
                integers = (integers.astype(np.int16) - 128).astype(np.int8)
            plan.weights[node.output] = QuantisedConstant(integers, quantiser)
            plan.shapes[node.output] = integers.shape
        else:
            kept.append(node)
    plan.nodes = kept


def _absorb_pairs(plan: Plan) -> None:
    """Turn each Q/DQ pair into a property of its tensor, or into a Quantize node where the float side is read too."""
    readers: dict[str, list[Node]] = {}
    for node in plan.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    renamed: dict[str, str] = {}
    kept: list[Node] = []
    for node in plan.nodes:
        node.inputs = [renamed.get(name, name) for name in node.inputs]
        if node.op == "QuantizeLinear":
            quantiser = _quantiser(node, plan, np.dtype(np.uint8))
            if quantiser.scale.ndim:
                raise ConversionError(
                    f"node {node.name!r} ({node.op}) has a scale per channel; TFLite wants one per tensor"
                )
            source = node.inputs[0]
            known = plan.quantised.get(source)
            float_read = source in plan.outputs or any(
                reader.op != "QuantizeLinear" for reader in readers.get(node.inputs[0], [])
            )
            view = source
            if float_read or source in plan.inputs or (known is not None and not known.same_as(quantiser)):
                view = f"{node.output}_view"
                plan.shapes[view] = plan.shapes[source]
                kept.append(Node(QUANTIZE, node.name, [source], [view]))
            plan.quantised[view] = quantiser
            for reader in readers.get(node.output, []):
                if reader.op != "DequantizeLinear":
                    raise ConversionError(
                        f"node {reader.name!r} ({reader.op}) reads integers; "
                        "supported are graphs whose quantisers come in pairs (QDQ)"
                    )
                renamed[reader.output] = view
        elif node.op != "DequantizeLinear":
            kept.append(node)
        elif node.output not in renamed:
            raise ConversionError(f"node {node.name!r} (DequantizeLinear) has no QuantizeLinear before it")
    if odd := [name for name in plan.outputs if name in renamed]:
        raise ConversionError(f"output {odd[0]!r} is quantised; heads must end in float")
    plan.nodes = kept


def _quantiser(node: Node, plan: Plan, dtype: np.dtype[Any]) -> Quantiser:
    """The quantiser of a Q or DQ node. dtype: of the integers, for a zero point that is left out."""
    scale = np.asarray(plan.constants[node.inputs[1]], np.float32)
    given = node.inputs[2] if len(node.inputs) > 2 else ""
    zero_point = plan.constants[given] if given else np.zeros(scale.shape, dtype)
    if zero_point.dtype not in (np.dtype(np.int8), np.dtype(np.uint8)):
        raise ConversionError(
            f"node {node.name!r} ({node.op}) quantises to {zero_point.dtype}; int8 and uint8 are supported"
        )
    shift = 128 if zero_point.dtype == np.uint8 else 0  # uint8 q is int8 q − 128: the same grid
    if scale.size == 1:  # axis 0: XNNPACK refuses a per-tensor quantiser with another one
        return Quantiser(scale.reshape(()), np.asarray(zero_point.reshape(()), np.int64) - shift)
    return Quantiser(scale, np.asarray(zero_point, np.int64) - shift, int(node.attributes.get("axis", 1)))


def _absorb_normalisation(plan: Plan) -> None:
    """A uint8 image read as (p − c) / s is a quantised tensor already: scale 1/s, zero point c."""
    readers: dict[str, list[Node]] = {}
    for node in plan.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)

    def only_reader(name: str, op: str) -> Node | None:
        nodes = readers.get(name, [])
        found = len(nodes) == 1 and nodes[0].op == op and nodes[0].inputs[0] == name and name not in plan.outputs
        return nodes[0] if found else None

    for name, dtype in plan.inputs.items():
        cast = only_reader(name, "Cast") if dtype == np.uint8 else None
        minus = only_reader(cast.output, "Sub") if cast else None
        over = only_reader(minus.output, "Div") if minus else None
        if cast is None or minus is None or over is None or minus.output in plan.quantised:
            continue
        offset, divisor = scalar(plan.constants, minus.inputs[1]), scalar(plan.constants, over.inputs[1])
        if offset is None or divisor is None or not offset.is_integer() or not 0 <= offset <= 255 or divisor <= 0:
            continue
        plan.pixel_input[name] = Quantiser(np.asarray(1.0 / divisor, np.float32), np.asarray(int(offset), np.int64))
        place = plan.nodes.index(cast)
        plan.nodes = [node for node in plan.nodes if node not in (cast, minus, over)]
        plan.nodes.insert(place, Node("Pixels", over.name, [name], [over.output]))


def _fuse_activations(plan: Plan) -> None:
    """Append Relu and Clip(0, 6) to the node before, when nothing else reads or quantises the tensor between."""
    producers = {name: node for node in plan.nodes for name in node.outputs}
    count: dict[str, int] = {}
    for node in plan.nodes:
        for name in node.inputs:
            count[name] = count.get(name, 0) + 1
    kept = []
    for node in plan.nodes:
        activation = activation_of(node, plan.constants)
        before = producers.get(node.inputs[0]) if node.inputs else None
        if (
            activation is not None
            and before is not None
            and before.op in _FUSES_INTO
            and before.activation is None
            and count[node.inputs[0]] == 1
            and node.inputs[0] not in plan.quantised
            and node.inputs[0] not in plan.outputs
        ):
            before.activation = activation
            before.outputs = [node.output]
            producers[node.output] = before
        else:
            kept.append(node)
    plan.nodes = kept


def activation_of(node: Node, constants: dict[str, Array]) -> str | None:
    """The TFLite fused activation that equals `node`: RELU, RELU6 or None."""
    if node.op == "Relu":
        return "RELU"
    if node.op != "Clip":
        return None
    low, high = (*node.inputs[1:3], "", "")[:2]
    if scalar(constants, low) != 0.0:
        return None
    return "RELU" if not high else {6.0: "RELU6"}.get(scalar(constants, high) or 0.0)
