"""Read a QDQ graph: which tensors are INT8, with which quantisers.

Quantiser pairs around activations disappear into the tensors, those in front of weights into the constants. What is left
is a graph of arithmetic, plus `Quantize` where a tensor is read both as float and as INT8 or with two quantisers.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from edge.errors import ConversionError
from quantize.onnx_graph import Array, Node, OnnxGraph
from quantize.tflite.fuse import fuse_activations, read_pixels
from quantize.tflite.graph import QuantisedConstant, Quantiser, integer_grid

QUANTIZE: Final = "Quantize"
_ACTIVATION_TYPES: Final = (np.dtype(np.int8), np.dtype(np.uint8))
_SMALLEST_SCALE: Final = 1e-20
_LARGEST_SCALE: Final = 1e20
"""Beyond them the product of two leaves float32, and kernels abort."""
_MOVES_ON_INTEGERS: Final = frozenset(
    {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "MaxPool", "DepthToSpace", "SpaceToDepth"}
)
"""Operators that other tools leave on the integers between a QuantizeLinear and its DequantizeLinear."""


@dataclass(slots=True, eq=False)
class Plan:
    """The graph without quantiser nodes. pixel_input: quantiser of a uint8 graph input read as (p − c) / s."""

    nodes: list[Node]
    constants: dict[str, Array]
    weights: dict[str, QuantisedConstant]
    quantised: dict[str, Quantiser]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, np.dtype[Any]]
    inputs: dict[str, np.dtype[Any]]
    outputs: list[str]
    pixel_input: dict[str, Quantiser]

    def readers(self) -> dict[str, list[Node]]:
        """Nodes that read each tensor."""
        table: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in filter(None, node.inputs):
                table.setdefault(name, []).append(node)
        return table


def make_plan(graph: OnnxGraph) -> Plan:
    """Plan the lowering of `graph`, with or without quantisers. Raises ConversionError."""
    plan = Plan(
        nodes=[replace(node, inputs=list(node.inputs), outputs=list(node.outputs)) for node in graph.nodes],
        constants=dict(graph.constants),
        weights={},
        quantised={},
        shapes=dict(graph.shapes),
        dtypes=dict(graph.dtypes),
        inputs=dict(graph.inputs),
        outputs=list(graph.outputs),
        pixel_input={},
    )
    _absorb_weights(plan)
    _Pairs(plan).absorb()
    read_pixels(plan)
    fuse_activations(plan)
    return plan


def _absorb_weights(plan: Plan) -> None:
    """Constants behind a DequantizeLinear keep their integers; those in front of a QuantizeLinear are rounded here."""
    kept = []
    for node in plan.nodes:
        source = node.inputs[0] if node.inputs else ""
        if node.op == "QuantizeLinear" and (source in plan.constants or source in plan.weights):
            quantiser, dtype = _quantiser(node, plan)
            real = plan.weights[source].real() if source in plan.weights else plan.constants[source]
            plan.constants[node.output] = quantiser.quantise(np.asarray(real, np.float32), dtype)
        elif node.op == "Clip" and _clips_integers(node, plan):
            low, high = (plan.constants.get(name) for name in (*node.inputs[1:3], "", "")[:2])
            integers = plan.constants[source]
            integers = integers if low is None else np.maximum(integers, low)
            plan.constants[node.output] = integers if high is None else np.minimum(integers, high)
        elif node.op == "DequantizeLinear" and source in plan.constants:
            integers = plan.constants[source]
            quantiser, dtype = _quantiser(node, plan, of=integers.dtype)
            plan.weights[node.output] = QuantisedConstant(integer_grid(integers), quantiser)
            plan.shapes[node.output] = integers.shape
        elif node.op == "Transpose" and source in plan.weights:
            order = node.attributes.get("perm", list(reversed(range(plan.weights[source].integers.ndim))))
            plan.weights[node.output] = plan.weights[source].transposed(order)
            plan.shapes[node.output] = plan.weights[node.output].integers.shape
        else:
            kept.append(node)
    plan.nodes = kept


def _clips_integers(node: Node, plan: Plan) -> bool:
    """True for a Clip of constant integers to constant bounds."""
    source, *bounds = node.inputs
    known = all(name in plan.constants for name in (source, *filter(None, bounds)))
    return known and plan.constants[source].dtype.kind in "iu"


class _Pairs:
    """Turns Q/DQ pairs around activations into properties of their tensors."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.readers = plan.readers()
        self.renamed: dict[str, str] = {}  # the float side of a pair → the tensor that carries it
        self.integers: dict[str, str] = {}  # the integer side → the same tensor
        self.kept: list[Node] = []

    def absorb(self) -> None:
        for node in self.plan.nodes:
            node.inputs = [self.renamed.get(name, name) for name in node.inputs]
            if node.op == "QuantizeLinear":
                self._quantise(node)
            elif node.op == "DequantizeLinear":
                self._dequantise(node)
            elif node.inputs and node.inputs[0] in self.integers:
                self._move(node)
            else:
                self._require_no_integers(node)
                self.kept.append(node)
        for name in self.plan.outputs:
            if name in self.integers:
                raise ConversionError(f"output {name!r} is made of integers; let the network end in a DequantizeLinear")
            if name in self.renamed:  # quantised and read back: stored as INT8, given as float
                self.kept.append(Node("Identity", f"{name}_output", [self.renamed[name]], [name]))
        self.plan.nodes = self.kept

    def _quantise(self, node: Node) -> None:
        plan, source = self.plan, node.inputs[0]
        quantiser, dtype = _quantiser(node, plan)
        if dtype not in _ACTIVATION_TYPES:
            raise ConversionError(
                f"node {node.name!r} ({node.op}) quantises to {dtype}; int8 and uint8 are lowered, quantise to one of them"
            )
        if quantiser.scale.ndim:
            raise ConversionError(
                f"node {node.name!r} ({node.op}) has a scale per channel; quantise activations per tensor"
            )
        view = source
        known = plan.quantised.get(source)
        if not (known.same_as(quantiser) if known is not None else self._only_read_on(source, quantiser)):
            view = f"{node.output}_view"
            plan.shapes[view] = plan.shapes[source]
            self.kept.append(Node(QUANTIZE, node.name, [source], [view]))
        plan.quantised[view] = quantiser
        self.integers[node.output] = view

    def _only_read_on(self, name: str, quantiser: Quantiser) -> bool:
        """True when a computed tensor is read through this quantiser alone: it can be stored as integers."""
        readers = self.readers.get(name, [])
        return (
            name not in self.plan.outputs
            and name not in self.plan.inputs
            and all(reader.op == "QuantizeLinear" and reader.inputs[0] == name for reader in readers)
            and all(_quantiser(reader, self.plan)[0].same_as(quantiser) for reader in readers)
        )

    def _dequantise(self, node: Node) -> None:
        plan, source = self.plan, node.inputs[0]
        if source in plan.inputs:  # the image itself is integers
            self._read_input(node, _quantiser(node, plan, of=plan.inputs[source], stored=False)[0])
        elif source not in self.integers:
            raise ConversionError(f"node {node.name!r} (DequantizeLinear) has no QuantizeLinear before it")
        else:
            view = self.integers[source]
            if not _quantiser(node, plan)[0].same_as(plan.quantised[view]):
                raise ConversionError(
                    f"node {node.name!r} (DequantizeLinear) has another scale than its QuantizeLinear; give both one"
                )
            self.renamed[node.output] = view

    def _read_input(self, node: Node, quantiser: Quantiser) -> None:
        """A DequantizeLinear of the image itself: its quantiser is the graph input's."""
        (source, *_), known = node.inputs, self.plan.pixel_input.get(node.inputs[0])
        if self.plan.inputs[source] not in _ACTIVATION_TYPES or quantiser.scale.ndim:
            raise ConversionError(
                f"node {node.name!r} (DequantizeLinear) reads input {source!r} as {self.plan.inputs[source]} with "
                f"{quantiser.scale.size} scales; give int8 or uint8 and one scale"
            )
        if known is not None and not known.same_as(quantiser):
            raise ConversionError(f"node {node.name!r} (DequantizeLinear) reads input {source!r} with a second scale")
        self.plan.pixel_input[source] = quantiser
        self.kept.append(Node("Pixels", node.name, [source], [node.output]))

    def _move(self, node: Node) -> None:
        """An operator on the integers of a pair: the same operator on the tensor they stand for."""
        view = self.integers[node.inputs[0]]
        grid = self.plan.quantised[view]
        frozen = all(name in self.plan.constants for name in node.inputs[1:] if name)
        if node.op == "Clip" and frozen:  # a narrow range, as Brevitas writes it
            bounds = [self.plan.constants.get(name) for name in (*node.inputs[1:3], "", "")[:2]]
            names = [
                self._real_bound(f"{node.output}_{side}", bound, grid) if bound is not None else ""
                for side, bound in zip(("low", "high"), bounds, strict=True)
            ]
            node.inputs = [view, *names]
        elif node.op in _MOVES_ON_INTEGERS:
            node.inputs[0] = view
        else:
            raise ConversionError(
                f"node {node.name!r} ({node.op}) reads integers; supported are graphs whose quantisers come in pairs (QDQ)"
            )
        moved = f"{node.output}_view"
        self.plan.shapes[moved] = self.plan.shapes[node.output]
        self.integers[node.output] = moved
        node.outputs = [moved, *node.outputs[1:]]
        self.plan.quantised[moved] = grid
        self.kept.append(node)

    def _real_bound(self, name: str, bound: Array, grid: Quantiser) -> str:
        shift = 128 if bound.dtype == np.uint8 else 0
        self.plan.constants[name] = ((bound.astype(np.int64) - shift - grid.zero_point) * grid.scale).astype(np.float32)
        return name

    def _require_no_integers(self, node: Node) -> None:
        if odd := [name for name in node.inputs if name in self.integers]:
            raise ConversionError(
                f"node {node.name!r} ({node.op}) reads the integers of {odd[0]!r}; "
                "supported are graphs whose quantisers come in pairs (QDQ)"
            )


def _quantiser(
    node: Node, plan: Plan, *, of: np.dtype[Any] | None = None, stored: bool = True
) -> tuple[Quantiser, np.dtype[Any]]:
    """The quantiser of a Q or DQ node, and the type of its integers.

    of: that type where it is known. stored: zero points for int8 storage (uint8 q is int8 q − 128: the same grid).
    """
    for name in node.inputs[1:]:
        if name and name not in plan.constants:
            raise ConversionError(f"node {node.name!r} ({node.op}) has a computed scale or zero point; freeze it")
    if node.attributes.get("block_size", 0):
        raise ConversionError(f"node {node.name!r} ({node.op}) quantises in blocks; quantise per tensor or per channel")
    if plan.constants[node.inputs[1]].dtype not in (np.dtype(np.float32), np.dtype(np.float16)):
        raise ConversionError(f"node {node.name!r} ({node.op}) has a scale that is not float32; export it in float32")
    scale = np.asarray(plan.constants[node.inputs[1]], np.float32)
    if not ((scale >= _SMALLEST_SCALE) & (scale <= _LARGEST_SCALE)).all():
        raise ConversionError(
            f"node {node.name!r} ({node.op}) has a scale that is not a positive number of sensible size; calibrate again"
        )
    given = node.inputs[2] if len(node.inputs) > 2 else ""
    of = of or plan.dtypes.get(node.output if node.op == "QuantizeLinear" else node.inputs[0])
    zero_point = plan.constants[given] if given else np.zeros(scale.shape, of or np.uint8)
    if zero_point.shape != scale.shape and zero_point.size != scale.size:
        raise ConversionError(
            f"node {node.name!r} ({node.op}) has {scale.size} scales and {zero_point.size} zero points"
        )
    dtype = of or zero_point.dtype
    if dtype.name not in ("int8", "uint8", "int32", "int4", "uint4", "int16", "uint16"):
        raise ConversionError(f"node {node.name!r} ({node.op}) works on {dtype}; quantise to int8 or uint8")
    shift = 128 if stored and dtype == np.uint8 else 0
    offsets = np.asarray(zero_point, np.int64) - shift
    if scale.size == 1:  # axis 0: XNNPACK refuses a per-tensor quantiser with another one
        return Quantiser(scale.reshape(()), offsets.reshape(())), dtype
    rank = len(plan.shapes.get(node.inputs[0], ()))
    axis = int(node.attributes.get("axis", 1))
    if scale.ndim != 1 or not -rank <= axis < max(rank, 1):
        raise ConversionError(f"node {node.name!r} ({node.op}) has scales of shape {scale.shape} along axis {axis}")
    return Quantiser(scale, offsets, axis % rank), dtype
