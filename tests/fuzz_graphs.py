"""Seeded random ONNX graphs, sound and broken, and a runner that survives what they do to a process.

`attempt(seed)` lowers one graph and runs what comes out; `survey(seeds)` does it in worker processes: a worker that dies or
hangs names its graph. Run by hand: `python tests/fuzz_graphs.py FIRST LAST`.
"""

import contextlib
import faulthandler
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper, numpy_helper, shape_inference
from qdq_graphs import activations, with_quantisers
from test_quantize_support import NHWC_TO_NCHW, feed, interpreter

from edge.errors import ConversionError
from quantize.tflite.lower import to_tflite

Array = NDArray[Any]
Shape = tuple[int, ...]
Rng = np.random.Generator

BATCH: Final = 500  # graphs of one worker
SECONDS: Final = 20  # for one graph; a healthy one takes a few hundredths
MEMORY: Final = 12 << 30  # of a worker's address space
VALUES: Final = 20_000  # of one tensor in a sound graph

ACTIVATIONS: Final = (
    "Relu Relu LeakyRelu PRelu HardSwish HardSigmoid Sigmoid Tanh Clip Clip Abs Neg Exp Log Sqrt Elu Floor Ceil"
)
ARITHMETIC: Final = "Add Add Sub Mul Div Max Min Pow"
MOVEMENTS: Final = "Pad Slice Split Transpose Reshape Flatten Squeeze Unsqueeze DepthToSpace SpaceToDepth Identity"
REDUCTIONS: Final = "ReduceMean ReduceMean ReduceMax ReduceSum GlobalAveragePool GlobalMaxPool Softmax"
LAYERS: Final = (
    "Conv ConvTranspose Gemm MatMul BatchNormalization Concat Resize Upsample MaxPool AveragePool Cast Constant"
)
# Operators that TFLite may have and that nobody promised.
OTHERS: Final = (
    "Erf Softplus Sin Reciprocal Sum Mean Tile Gather Dropout LRN Softsign Selu LogSoftmax InstanceNormalization"
)
CLAIMED: Final = sorted(set(f"{ACTIVATIONS} {ARITHMETIC} {MOVEMENTS} {REDUCTIONS} {LAYERS}".split()))
# Operators that make much of little: an INT8 step before them says nothing about a step behind them.
STEEP: Final = (
    "BatchNormalization Div Elu Exp Floor Ceil Gemm InstanceNormalization Log LogSoftmax LRN MatMul Mul Pow Reciprocal "
    "ReduceSum Selu Softmax Softplus Sqrt"
)


# Sound graphs.


@dataclass
class Sketch:
    """A graph that grows; every node has passed shape inference."""

    rng: Rng
    inputs: dict[str, Shape]
    opset: int = 18
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    weights: dict[str, int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shapes |= self.inputs

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def choice(self, options: Sequence[Any]) -> Any:
        return options[self.integer(0, len(options) - 1)]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def constant(self, values: Any, dtype: type[np.generic] = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(values, dtype)
        return name

    def weight(self, *shape: int, axis: int | None) -> str:
        name = self.constant(self.rng.normal(0, 1 / math.sqrt(max(1, math.prod(shape[1:]))), shape))
        self.weights[name] = axis
        return name

    def values(self, *shape: int) -> str:
        return self.constant(self.rng.uniform(-1, 2, shape))

    def integers(self, values: Sequence[int]) -> str:
        return self.constant(values, np.int64)

    def model(self, outputs: Sequence[str] | None = None) -> onnx.ModelProto:
        read = {name for node in self.nodes for name in node.input}
        ends = [name for node in self.nodes for name in node.output if name not in read]
        names = outputs or ends
        graph = helper.make_graph(
            self.nodes,
            "fuzz",
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
                for name, shape in self.inputs.items()
            ],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, self.shapes.get(name)) for name in names],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items() if name in read],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)

    def add(self, op: str, inputs: Sequence[str], *, outputs: int = 1, **attributes: Any) -> None:
        """Append a node unless ONNX finds it wrong, empty or large."""
        names = [f"t{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"n{len(self.nodes)}", **attributes))
        try:
            inferred = shape_inference.infer_shapes(self.model(names), strict_mode=True, data_prop=True)
            for value in inferred.graph.output:
                kind = value.type.tensor_type
                shape = tuple(dim.dim_value for dim in kind.shape.dim)
                small = all(size > 0 for size in shape) and math.prod(shape) <= VALUES and len(shape) <= 5
                if kind.elem_type != TensorProto.FLOAT or not small:
                    raise ValueError(shape)
                self.shapes[value.name] = shape
        except (shape_inference.InferenceError, ValueError):
            self.nodes.pop()
            for name in names:
                self.shapes.pop(name, None)


Growth = Callable[[Sketch, str, Shape], None]
GROWTHS: Final[list[Growth]] = []


def grows(share: int) -> Callable[[Growth], Growth]:
    """Register a way to grow a sketch from tensor `x` of shape `shape`."""

    def register(growth: Growth) -> Growth:
        GROWTHS.extend([growth] * share)
        return growth

    return register


@grows(4)
def grow_conv(sketch: Sketch, x: str, shape: Shape) -> None:
    if len(shape) < 3 or (len(shape) != 4 and sketch.chance(0.7)):
        return
    spatial = len(shape) - 2
    channels = shape[1]
    groups = sketch.choice([1, 1, 1, channels, sketch.choice([n for n in range(1, channels + 1) if channels % n == 0])])
    kernel = [min(sketch.integer(1, 4), size) for size in shape[2:]]
    outputs = groups * sketch.integer(1, 4)
    inputs = [x, sketch.weight(outputs, channels // groups, *kernel, axis=0)]
    inputs += [sketch.values(outputs)] if sketch.chance(0.6) else []
    attributes: dict[str, Any] = {"group": groups} if groups > 1 else {}
    attributes |= {"strides": [sketch.integer(1, 2) for _ in range(spatial)]} if sketch.chance(0.5) else {}
    attributes |= {"dilations": [sketch.integer(1, 2) for _ in range(spatial)]} if sketch.chance(0.2) else {}
    if sketch.chance(0.5):
        attributes |= {"pads": [sketch.integer(0, 2) for _ in range(2 * spatial)]}
    elif sketch.chance(0.2):
        attributes |= {"auto_pad": sketch.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])}
    sketch.add("Conv", inputs, **attributes)


@grows(1)
def grow_conv_transpose(sketch: Sketch, x: str, shape: Shape) -> None:
    if len(shape) != 4:
        return
    kernel = [sketch.integer(1, 3), sketch.integer(1, 3)]
    outputs = sketch.integer(1, 4)
    inputs = [x, sketch.weight(shape[1], outputs, *kernel, axis=1)]
    inputs += [sketch.values(outputs)] if sketch.chance(0.5) else []
    attributes: dict[str, Any] = {"strides": [sketch.integer(1, 3), sketch.integer(1, 3)]}
    attributes |= {"pads": [sketch.integer(0, 1) for _ in range(4)]} if sketch.chance(0.3) else {}
    sketch.add("ConvTranspose", inputs, **attributes)


@grows(2)
def grow_pool(sketch: Sketch, x: str, shape: Shape) -> None:
    spatial = len(shape) - 2
    if spatial < 1 or (spatial != 2 and sketch.chance(0.7)):
        return
    op = sketch.choice(["MaxPool", "AveragePool"])
    kernel = [min(sketch.integer(1, 3), size) for size in shape[2:]]
    attributes: dict[str, Any] = {"strides": [sketch.integer(1, 2) for _ in kernel]} if sketch.chance(0.6) else {}
    attributes |= {"pads": [sketch.integer(0, size - 1) for size in kernel * 2]} if sketch.chance(0.3) else {}
    attributes |= {"ceil_mode": 1} if sketch.chance(0.15) else {}
    attributes |= {"count_include_pad": 1} if op == "AveragePool" and sketch.chance(0.2) else {}
    sketch.add(op, [x], kernel_shape=kernel, **attributes)


@grows(4)
def grow_activation(sketch: Sketch, x: str, shape: Shape) -> None:
    op = sketch.choice(ACTIVATIONS.split())
    inputs = [x]
    if op == "PRelu":
        inputs.append(sketch.values(shape[1] if len(shape) > 1 else 1, *(1,) * max(0, len(shape) - 2)))
    if op == "Clip":
        low, high = sketch.choice([(0, 6), (0, 6), (0, 1), (-1, 1), (0, None)])
        inputs += [sketch.constant(low)] + ([sketch.constant(high)] if high is not None else [])
    sketch.add(op, inputs)


@grows(4)
def grow_arithmetic(sketch: Sketch, x: str, shape: Shape) -> None:
    op = sketch.choice(ARITHMETIC.split())
    partners = [name for name, other in sketch.shapes.items() if other == shape or (other and sketch.chance(0.1))]
    if partners and sketch.chance(0.5):
        other = sketch.choice(partners)
    else:
        kept = shape if sketch.chance(0.5) else shape[sketch.integer(0, len(shape)) :]
        other = sketch.values(*(size if sketch.chance(0.6) else 1 for size in kept))
        if op == "Div":
            sketch.constants[other] = np.abs(sketch.constants[other]) + np.float32(0.5)
    sketch.add(op, [other, x] if sketch.chance(0.3) and op != "Div" else [x, other])


@grows(2)
def grow_concat(sketch: Sketch, x: str, shape: Shape) -> None:
    if shape:
        partners = [name for name, other in sketch.shapes.items() if len(other) == len(shape)]
        names = [x, *(sketch.choice(partners) for _ in range(sketch.integer(1, 2)))]
        sketch.add("Concat", names, axis=sketch.integer(-len(shape), len(shape) - 1))


@grows(2)
def grow_resize(sketch: Sketch, x: str, shape: Shape) -> None:
    if len(shape) != 4:
        return
    rule = sketch.choice(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
    mode = sketch.choice(["nearest", "linear"])
    attributes = {"mode": mode, "coordinate_transformation_mode": rule}
    if mode == "nearest":
        attributes["nearest_mode"] = sketch.choice(["floor", "round_prefer_floor", "ceil"])
    if sketch.chance(0.5):
        scales = sketch.constant([1, 1, sketch.choice([1, 2, 3, 0.5]), sketch.choice([1, 2, 1.5])])
        sketch.add("Resize", [x, "", scales], **attributes)
    else:
        sizes = sketch.integers([*shape[:2], sketch.integer(1, 9), sketch.integer(1, 9)])
        sketch.add("Resize", [x, "", "", sizes], **attributes)


@grows(5)
def grow_movement(sketch: Sketch, x: str, shape: Shape) -> None:
    """What only moves values."""
    rank = len(shape)
    op = sketch.choice(MOVEMENTS.split())
    axis = sketch.integer(-rank, rank - 1) if rank else 0
    if op == "Pad" and rank:
        pads = sketch.integers([sketch.integer(0, 2) for _ in range(2 * rank)])
        value = [sketch.constant(sketch.choice([0.0, 1.0]))] if sketch.chance(0.4) else []
        sketch.add(op, [x, pads, *value], mode=sketch.choice(["constant", "constant", "reflect", "edge"]))
    elif op == "Slice" and rank:
        numbers = [[sketch.integer(-3, 2)], [sketch.choice([2, 3, -1, 2**63 - 1])], [axis], [sketch.choice([1, 1, 2])]]
        sketch.add(op, [x, *(sketch.integers(number) for number in numbers)])
    elif op == "Split" and rank:
        count = sketch.choice([n for n in (1, 2, 3, 4) if shape[axis] % n == 0])
        sketch.add(op, [x], outputs=count, axis=axis, num_outputs=count)
    elif op == "Transpose" and rank:
        sketch.add(op, [x], perm=[int(axis) for axis in sketch.rng.permutation(rank)])
    elif op == "Reshape":
        count = math.prod(shape)
        first = sketch.choice([n for n in range(1, count + 1) if count % n == 0][:40])
        second = sketch.choice([n for n in range(1, count // first + 1) if count // first % n == 0][:40])
        sketch.add(
            op, [x, sketch.integers(sketch.choice([[first, -1], [-1], [first, second, -1], [1, first, second, -1]]))]
        )
    elif op == "Flatten":
        sketch.add(op, [x], axis=sketch.integer(0, rank))
    elif op == "Squeeze" and 1 in shape:
        sketch.add(op, [x, sketch.integers([sketch.choice([i for i in range(rank) if shape[i] == 1])])])
    elif op == "Unsqueeze":
        sketch.add(op, [x, sketch.integers([sketch.integer(0, rank)])])
    elif op == "DepthToSpace" and rank == 4 and shape[1] % 4 == 0:
        sketch.add(op, [x], blocksize=2, mode=sketch.choice(["DCR", "CRD"]))
    elif op == "SpaceToDepth" and rank == 4 and shape[2] % 2 == shape[3] % 2 == 0:
        sketch.add(op, [x], blocksize=2)
    elif op == "Identity":
        sketch.add(op, [x])


@grows(2)
def grow_reduction(sketch: Sketch, x: str, shape: Shape) -> None:
    rank = len(shape)
    op = sketch.choice(REDUCTIONS.split())
    if op == "Softmax":
        sketch.add(op, [x], axis=sketch.integer(-rank, rank - 1) if rank else 0)
    elif op.startswith("Global"):
        sketch.add(op, [x])
    elif rank:
        axes = sorted({sketch.integer(0, rank - 1) for _ in range(sketch.integer(1, 2))})
        sketch.add(op, [x, sketch.integers(axes)], keepdims=sketch.integer(0, 1))


@grows(2)
def grow_matrix(sketch: Sketch, x: str, shape: Shape) -> None:
    if len(shape) == 2 and sketch.chance(0.7):
        columns = sketch.integer(1, 6)
        second = sketch.integer(0, 1)
        size = (columns, shape[1]) if second else (shape[1], columns)
        inputs = [x, sketch.weight(*size, axis=0 if second else 1)]
        inputs += [sketch.values(columns)] if sketch.chance(0.6) else []
        sketch.add("Gemm", inputs, transB=second)
    elif shape:
        sketch.add("MatMul", [x, sketch.weight(shape[-1], sketch.integer(1, 5), axis=1)])


@grows(1)
def grow_normalisation(sketch: Sketch, x: str, shape: Shape) -> None:
    if len(shape) > 1:
        norms = [sketch.values(shape[1]) for _ in range(4)]
        sketch.constants[norms[3]] = np.abs(sketch.constants[norms[3]]) + np.float32(0.3)
        sketch.add("BatchNormalization", [x, *norms])


@grows(1)
def grow_other(sketch: Sketch, x: str, shape: Shape) -> None:
    op = sketch.choice(OTHERS.split())
    if op in ("Tile", "Gather"):
        index = [1] * len(shape) if op == "Tile" else [0]
        sketch.add(op, [x, sketch.integers(index)])
    elif op == "InstanceNormalization":
        sketch.add(op, [x, sketch.values(*shape[1:2]), sketch.values(*shape[1:2])])
    else:
        sketch.add(op, [x, x] if op in ("Sum", "Mean") else [x], **({"size": 3} if op == "LRN" else {}))


def sketched(rng: Rng) -> Sketch:
    """A sound graph of 1 to 12 nodes."""
    inputs: dict[str, Shape] = {}
    for index in range(int(rng.choice([1, 1, 1, 2, 3]))):
        rank = int(rng.choice([4, 4, 4, 4, 4, 2, 2, 3, 1, 5]))
        batch = int(rng.choice([1, 1, 1, 2]))
        shape = (batch, *(int(rng.integers(1, 7)) for _ in range(rank - 1))) if rank > 1 else (int(rng.integers(1, 9)),)
        inputs[f"x{index}"] = inputs["x0"] if index and rng.random() < 0.7 else shape
    sketch = Sketch(rng, inputs)
    wanted = sketch.integer(1, 12) if sketch.chance(0.5) else sketch.integer(1, 4)
    for _ in range(10 * wanted):
        if len(sketch.nodes) == wanted:
            break
        names = list(sketch.shapes)
        x = names[-1] if sketch.chance(0.6) else sketch.choice(names)
        sketch.choice(GROWTHS)(sketch, x, sketch.shapes[x])
    if not sketch.nodes:
        sketch.add("Relu", ["x0"])
    return sketch


# Broken graphs.

Break = Callable[[onnx.ModelProto, Rng], None]
BREAKS: Final[list[Break]] = []
ODD_INTEGERS: Final = (0, 1, 2, 3, 5, -1, -2, -7, 100, 2**31 - 1, 2**31, -(2**31) - 1, 2**63 - 1, -(2**63))
ODD_FLOATS: Final = (0.0, -0.0, math.nan, math.inf, -math.inf, -1.0, 1e-45, 1e-39, 1e38, 0.5)
ODD_TYPES: Final = (
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.BOOL,
    TensorProto.STRING,
    TensorProto.BFLOAT16,
    TensorProto.INT4,
    TensorProto.COMPLEX64,
    TensorProto.UNDEFINED,
    TensorProto.FLOAT8E4M3FN,
    1234,
)


def breaks(function: Break) -> Break:
    BREAKS.append(function)
    return function


def pick(rng: Rng, options: Sequence[Any]) -> Any:
    return options[int(rng.integers(len(options)))]


def some_node(model: onnx.ModelProto, rng: Rng) -> onnx.NodeProto:
    nodes: Sequence[onnx.NodeProto] = model.graph.node
    return nodes[int(rng.integers(len(nodes)))] if nodes else model.graph.node.add()


def some_name(model: onnx.ModelProto, rng: Rng) -> str:
    names = [name for node in model.graph.node for name in (*node.input, *node.output)]
    return str(pick(rng, [*names, "", "nowhere", "x0", "ü" * 3, "a" * 500]))


@breaks
def break_attribute(model: onnx.ModelProto, rng: Rng) -> None:
    """Another value, type or length of an attribute, or none."""
    node = some_node(model, rng)
    if not node.attribute:
        name = pick(rng, ["axis", "strides", "pads", "alpha", "to", "perm", "mode", "keepdims", "group", "auto_pad"])
        node.attribute.append(helper.make_attribute(name, pick(rng, [0, -9, 1.5, "CRD", [1, 2], [3]])))
        return
    index = int(rng.integers(len(node.attribute)))
    attribute = node.attribute[index]
    action = pick(rng, ["value", "value", "value", "length", "type", "drop", "twice"])
    if action == "drop":
        del node.attribute[index]
    elif action == "twice":
        node.attribute.add().CopyFrom(attribute)
    elif action == "type":
        value = pick(rng, [1, 0.5, "text", [1, 2], [0.5], TensorProto(), helper.make_graph([], "g", [], [])])
        attribute.CopyFrom(helper.make_attribute(attribute.name, value))
    elif attribute.type == AttributeProto.INT:
        attribute.i = pick(rng, ODD_INTEGERS)
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = pick(rng, ODD_FLOATS)
    elif attribute.type == AttributeProto.STRING:
        attribute.s = pick(rng, [b"", b"nonsense", b"\xff\xfe", b"SAME_LOWER", b"linear", b"cubic", b"DCR", b"wrap"])
    elif attribute.type == AttributeProto.INTS and attribute.ints:
        if action == "length":
            attribute.ints.append(1) if rng.random() < 0.5 else attribute.ints.pop()
        else:
            attribute.ints[int(rng.integers(len(attribute.ints)))] = pick(rng, ODD_INTEGERS)


@breaks
def break_wiring(model: onnx.ModelProto, rng: Rng) -> None:
    """Names that lead elsewhere: nowhere, into a cycle, to a constant, twice written."""
    node = some_node(model, rng)
    where = node.input if rng.random() < 0.7 or not node.output else node.output
    action = pick(rng, ["rename", "rename", "drop", "add", "swap"])
    if action == "add" or not where:
        where.append(some_name(model, rng))
    elif action == "drop":
        where.pop()
    elif action == "swap":
        where[0], where[-1] = where[-1], where[0]
    else:
        where[int(rng.integers(len(where)))] = some_name(model, rng)


@breaks
def break_order(model: onnx.ModelProto, rng: Rng) -> None:
    nodes = list(model.graph.node)
    action = pick(rng, ["reverse", "duplicate", "drop", "names", "empty"])
    del model.graph.node[:]
    if action == "reverse":
        nodes.reverse()
    elif action == "duplicate":
        nodes.append(pick(rng, nodes))
    elif action == "drop":
        nodes.pop(int(rng.integers(len(nodes))))
    elif action == "names":
        for node in nodes:
            node.name = ""
    else:
        nodes = []
    model.graph.node.extend(nodes)


@breaks
def break_operator(model: onnx.ModelProto, rng: Rng) -> None:
    node = some_node(model, rng)
    if rng.random() < 0.1:
        node.domain = pick(rng, ["com.microsoft", "ai.onnx.ml", "nowhere"])
    else:
        node.op_type = pick(rng, [*all_operators(), "", "Nonsense", "Pixels", "Quantize"])


@breaks
def break_claimed_operator(model: onnx.ModelProto, rng: Rng) -> None:
    """Another operator that has a lowering, with inputs and attributes that were not made for it."""
    some_node(model, rng).op_type = pick(rng, CLAIMED)


@cache
def all_operators() -> list[str]:
    return sorted({schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain})


@breaks
def break_input(model: onnx.ModelProto, rng: Rng) -> None:
    if not model.graph.input:
        return
    value = pick(rng, model.graph.input)
    kind = value.type.tensor_type
    action = pick(
        rng, ["type", "symbol", "shapeless", "zero", "negative", "untyped", "sequence", "size", "rank", "name", "drop"]
    )
    if action == "type":
        kind.elem_type = pick(rng, ODD_TYPES)
    elif action == "shapeless":
        kind.ClearField("shape")
    elif action == "untyped":
        value.ClearField("type")
    elif action == "sequence":
        value.type.CopyFrom(helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [2])))
    elif action == "name":
        value.name = some_name(model, rng)
    elif action == "drop":
        model.graph.input.remove(value)
    elif action == "rank":
        kind.shape.dim.add().dim_value = pick(rng, [1, 2])
    elif kind.shape.dim:
        dim = pick(rng, kind.shape.dim)
        if action == "symbol":
            dim.dim_param = "N"
        else:
            dim.dim_value = {"zero": 0, "negative": -1}.get(action, pick(rng, [1, 2, 3, 64, 2**31, 2**62]))


@breaks
def break_output(model: onnx.ModelProto, rng: Rng) -> None:
    graph = model.graph
    action = pick(rng, ["none", "inner", "input", "constant", "twice", "type", "shape"])
    if action == "none":
        del graph.output[:]
    elif action == "twice" and graph.output:
        graph.output.add().CopyFrom(graph.output[0])
    elif action == "type" and graph.output:
        graph.output[0].type.tensor_type.elem_type = pick(rng, ODD_TYPES)
    elif action == "shape" and graph.output:
        graph.output[0].type.CopyFrom(
            helper.make_tensor_type_proto(TensorProto.FLOAT, pick(rng, [[], [7, 7], ["N", 1]]))
        )
    elif action == "input" and graph.input:
        graph.output.add().CopyFrom(graph.input[0])
    elif action == "constant" and graph.initializer:
        graph.output.append(helper.make_tensor_value_info(graph.initializer[0].name, TensorProto.FLOAT, None))
    else:
        graph.output.append(helper.make_tensor_value_info(some_name(model, rng), TensorProto.FLOAT, None))


@breaks
def break_constant(model: onnx.ModelProto, rng: Rng) -> None:
    """Values, type, size and storage of a constant."""
    if not model.graph.initializer:
        return
    tensor = pick(rng, model.graph.initializer)
    action = pick(
        rng, ["values", "values", "values", "type", "cut", "dims", "external", "computed", "twice", "reshape"]
    )
    if action == "values":
        try:
            array = np.array(numpy_helper.to_array(tensor))
            odd = ODD_FLOATS if array.dtype.kind == "f" else [n for n in ODD_INTEGERS if abs(n) < 2**62]
            with np.errstate(all="ignore"):
                flat = array.reshape(-1)
                chosen = np.asarray(pick(rng, odd)).astype(array.dtype)
                flat[slice(None) if rng.random() < 0.5 else int(rng.integers(max(1, flat.size)))] = chosen
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        except Exception:  # broken already
            tensor.raw_data = b""
    elif action == "type":
        tensor.data_type = pick(rng, ODD_TYPES)
    elif action == "cut":
        tensor.raw_data = tensor.raw_data[:-1]
    elif action == "dims":
        tensor.dims.append(pick(rng, [0, 1, 2, -1]))
    elif action == "reshape":
        size = math.prod(tensor.dims)
        del tensor.dims[:]
        tensor.dims.extend(pick(rng, [[size], [1, size], [size, 1], [1, 1, 1, size]]))
    elif action == "external":
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="nothing.bin")
    elif action == "twice":
        model.graph.initializer.add().CopyFrom(tensor)
    else:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        if rng.random() < 0.7:
            model.graph.initializer.remove(tensor)


def some_quantiser(model: onnx.ModelProto, rng: Rng) -> onnx.NodeProto:
    found = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    return found[int(rng.integers(len(found)))] if found else some_node(model, rng)


@breaks
def break_grid(model: onnx.ModelProto, rng: Rng) -> None:
    """Odd scales and zero points, and odd numbers of them."""
    node = some_quantiser(model, rng)
    action = pick(rng, ["scale", "scale", "zero", "channels"])
    number, kind = pick(rng, [0, 1, 127, -128, 255]), pick(rng, [np.int8, np.uint8, np.int16, np.uint16, np.int32])
    scale, size = pick(rng, ODD_FLOATS), pick(rng, [0, 1, 2, 3])
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name in node.input[1:]]:
        array = np.array(numpy_helper.to_array(tensor))
        if action == "scale" and array.dtype == np.float32:
            array = np.full(array.shape, scale, np.float32)
        elif action == "zero" and array.dtype != np.float32:
            array = np.full(array.shape, number, np.int64).astype(kind)
        elif action == "channels":
            array = np.resize(array, (size,)).astype(array.dtype)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


@breaks
def break_quantiser(model: onnx.ModelProto, rng: Rng) -> None:
    """Halves of pairs, other axes, attributes of newer opsets."""
    node = some_quantiser(model, rng)
    action = pick(rng, ["half", "without", "axis", "block_size", "output_dtype"])
    if action == "half":
        node.op_type = pick(rng, ["QuantizeLinear", "DequantizeLinear", "Identity"])
    elif action == "without":
        del node.input[2:]
    else:
        del node.attribute[:]
        value = pick(rng, ODD_TYPES) if action == "output_dtype" else pick(rng, [-9, -1, 0, 1, 2, 7])
        node.attribute.append(helper.make_attribute(action, value))


@breaks
def break_model(model: onnx.ModelProto, rng: Rng) -> None:
    action = pick(rng, ["opset", "opset", "no opset", "opsets", "ir", "graph", "function", "sparse"])
    if action == "opset":
        model.opset_import[0].version = pick(rng, [0, 1, 6, 7, 9, 10, 11, 12, 13, 17, 21, 23, 99, -1])
    elif action == "no opset":
        del model.opset_import[:]
    elif action == "opsets":
        model.opset_import.add(domain="", version=11)
    elif action == "ir":
        model.ir_version = pick(rng, [0, 1, 3, 99])
    elif action == "graph":
        model.ClearField("graph")
    elif action == "sparse":
        model.graph.sparse_initializer.add()
    else:
        node = some_node(model, rng)
        body = [helper.make_node("Relu", ["a"], ["b"])]
        model.functions.append(helper.make_function("own", "F", ["a"], ["b"], body, [helper.make_opsetid("", 18)]))
        model.opset_import.add(domain="own", version=1)
        node.op_type, node.domain = "F", "own"


@breaks
def break_flow(model: onnx.ModelProto, rng: Rng) -> None:
    """If or Loop around a node's output."""
    node = some_node(model, rng)
    source = node.output[0] if node.output else "nowhere"
    inner = helper.make_graph(
        [helper.make_node("Relu", [source], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))
    if rng.random() < 0.5:
        model.graph.node.append(helper.make_node("If", ["condition"], ["flow"], then_branch=inner, else_branch=inner))
    else:
        model.graph.node.append(helper.make_node("Loop", ["", "condition", source], ["flow"], body=inner))
    model.graph.output.append(helper.make_tensor_value_info("flow", TensorProto.FLOAT, None))


def mutated(model: onnx.ModelProto, rng: Rng) -> onnx.ModelProto:
    """Some bytes of the file flipped, cut or doubled; the first such file that still parses."""
    content = model.SerializeToString()
    for _ in range(30):
        data = bytearray(content)
        for _ in range(int(rng.integers(1, 6))):
            place = int(rng.integers(len(data)))
            action = rng.random()
            if action < 0.6:
                data[place] = int(rng.integers(256))
            elif action < 0.75:
                del data[place : place + int(rng.integers(1, 5))]
            else:
                data[place:place] = data[place : place + int(rng.integers(1, 9))]
        try:
            found = onnx.ModelProto()
            found.ParseFromString(bytes(data))
        except DecodeError:
            continue
        return found
    return model


# One graph.


@dataclass(frozen=True)
class Case:
    """A graph of the fuzz. steps: sizes of the outputs' grids for a sound QDQ graph, {} for a sound FP32 one, None: broken."""

    kind: str
    model: onnx.ModelProto
    steps: dict[str, float] | None = None


@dataclass(frozen=True)
class Verdict:
    """What became of a graph: an artifact, a refusal, or a failure."""

    seed: int
    kind: str
    fate: str
    detail: str = ""


def make(seed: int) -> Case:
    """The graph of a seed: half of them sound."""
    rng = np.random.default_rng(seed)
    sketch = sketched(rng)
    model = sketch.model()
    steps: dict[str, float] = {}
    kind = "fp32"
    if rng.random() < 0.5:
        with contextlib.suppress(Exception):  # ONNX Runtime does not run everything that ONNX allows
            weights = {
                name: axis for name, axis in sketch.weights.items() if any(name in n.input for n in sketch.nodes)
            }
            model, steps = with_quantisers(
                model, random_feeds(model, rng), rng, weights=weights, one_grid=bool(rng.random() < 0.5)
            )
            kind = "qdq"
    fate = rng.random()
    if fate < 0.55:
        return Case(kind, model, steps)
    if fate < 0.85:
        for _ in range(int(rng.integers(1, 4))):
            broken = onnx.ModelProto()
            broken.CopyFrom(model)
            breaking = pick(rng, BREAKS)
            with contextlib.suppress(Exception):  # it may be broken already
                breaking(broken, rng)
                model = broken
        return Case(f"broken {kind}", model)
    return Case(f"mutated {kind}", mutated(model, rng))


def random_feeds(model: onnx.ModelProto, rng: Rng) -> dict[str, Array]:
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input}
    return {name: rng.uniform(-2, 4, shape).astype(np.float32) for name, shape in shapes.items()}


def attempt(seed: int) -> Verdict:
    """Lower the graph of `seed`, run the file, and compare where the graph is sound."""
    case = make(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            content = to_tflite(case.model)
    except ConversionError as error:
        return Verdict(seed, case.kind, "refused", str(error))
    except Exception as error:
        return Verdict(seed, case.kind, "failed", f"to_tflite: {type(error).__name__}: {error}")
    try:
        problem = run(case, content, seed)
    except Exception as error:
        return Verdict(seed, case.kind, "failed", f"LiteRT: {type(error).__name__}: {error}")
    return Verdict(seed, case.kind, "failed" if problem else "artifact", problem)


def run(case: Case, content: bytes, seed: int) -> str:
    """Run a file on both kinds of kernels; what is wrong with the outputs of a sound graph."""
    rng = np.random.default_rng(seed)
    wanted: dict[str, Array] = {}
    feeds: dict[str, Array] = {}
    if case.steps is not None:
        feeds = random_feeds(case.model, rng)
        with contextlib.suppress(Exception):  # ONNX Runtime refuses it: nothing to compare with
            values = activations(case.model, feeds)
            if all(_is_tame(array) for array in values.values()):
                wanted = {value.name: values[value.name] for value in case.model.graph.output}
    operators = {node.op_type for node in case.model.graph.node}
    for delegate in (True, False):
        made = interpreter(content, delegate=delegate)
        for detail in made.get_input_details():
            shape = tuple(int(size) for size in detail["shape"])
            order = NHWC_TO_NCHW if len(shape) == 4 else range(len(shape))
            if case.steps is None:
                given = rng.uniform(-2, 4, [shape[axis] for axis in order])
                feeds[detail["name"]] = given.astype(detail["dtype"])
        got = feed(made, feeds)
        if case.steps is not None and got.keys() != {value.name for value in case.model.graph.output}:
            return f"outputs {sorted(got)}"
        if not delegate:  # these overwrite a tensor that is reshaped twice (LiteRT 2.3's memory planner): only run them
            continue
        for name, array in wanted.items():
            if got[name].shape != array.shape:
                return f"{name} is {got[name].shape} for {array.shape}, {delegate=}"
            away = np.abs(got[name] - array)
            if case.steps and not operators & set(STEEP.split()) and away.mean() > 4 * case.steps[name]:
                return f"{name} is {away.mean() / case.steps[name]:.1f} steps away, {delegate=}"
            if not case.steps and "Floor" not in operators and away.max() > 1e-3 * max(1.0, np.abs(array).max()):
                return f"{name} is {away.max():.3g} away, {delegate=}"
    return ""


def _is_tame(values: Array) -> bool:
    """Finite and small: everyone agrees about those, and not about the maximum of NaN."""
    return values.dtype.kind != "f" or bool(np.isfinite(values).all() and np.abs(values).max(initial=0) < 1e4)


# Many graphs.


WORKER: Final = (sys.executable, str(Path(__file__)), "--seeds")


def survey(seeds: Sequence[int], *, worker: Sequence[str] = WORKER, workers: int = 2) -> list[Verdict]:
    """Verdicts in the order of the seeds, from worker processes; a worker's death is its graph's verdict.

    worker: a command that takes seeds, and prints each before its verdict (`_work`).
    """
    shares = [list(seeds[index::workers]) for index in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        found = [verdict for part in pool.map(partial(_watched, worker), shares) for verdict in part]
    return sorted(found, key=lambda verdict: verdict.seed)


def _watched(worker: Sequence[str], seeds: list[int]) -> list[Verdict]:
    found: list[Verdict] = []
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    while seeds:
        with tempfile.TemporaryFile("w+", errors="replace") as errors:
            command = [*worker, *map(str, seeds[:BATCH])]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, check=False, env=environment
            )
            errors.seek(0)
            tail = errors.read()[-1500:]
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        found += [Verdict(**line) for line in lines if isinstance(line, dict)]
        if done.returncode == 0:
            seeds = seeds[BATCH:]
            continue
        started = [line for line in lines if isinstance(line, int)]
        if not started:
            raise RuntimeError(f"a fuzz worker did not start:\n{tail}")
        cause = "hangs" if done.returncode == -signal.SIGALRM else f"dies of {done.returncode}"
        found.append(Verdict(started[-1], "?", "failed", f"the process {cause}: {tail}"))
        seeds = seeds[seeds.index(started[-1]) + 1 :]
    return found


def _work(seeds: Sequence[int]) -> None:
    """A worker: a line for a graph begun, a line for its verdict."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    ort.set_default_logger_severity(4)
    for seed in seeds:
        print(seed, flush=True)
        signal.alarm(SECONDS)  # its default action ends the process wherever it is
        verdict = attempt(seed)
        signal.alarm(0)
        print(json.dumps(vars(verdict)), flush=True)


def main(arguments: Sequence[str]) -> None:
    """Print failures and the tally of seeds FIRST to LAST."""
    if arguments[0] == "--seeds":
        _work([int(seed) for seed in arguments[1:]])
        return
    verdicts = survey(range(int(arguments[0]), int(arguments[1])))
    for verdict in verdicts:
        if verdict.fate == "failed":
            print(f"{verdict.seed} ({verdict.kind}): {verdict.detail}")
    print(Counter((verdict.kind, verdict.fate) for verdict in verdicts))


if __name__ == "__main__":
    main(sys.argv[1:])
