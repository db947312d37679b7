"""ONNX graphs: exported from PyTorch and checked, and read into plain records for the passes and the lowering."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import helper, inliner, numpy_helper, shape_inference, version_converter

from edge.errors import ConversionError
from edge.frame import GreyImage

OPSET: Final = 18
QUANTISERS: Final = ("QuantizeLinear", "DequantizeLinear")
OLDEST_OPSET: Final = 13
"""Quantisers have one scale a channel from here on; older graphs are converted to `OPSET`."""
_OPSET_OF_ONE_RESIZE: Final = 10
INPUT_NAME: Final = "image"
OUTPUT_NAMES: Final = ("mask", "malignancy", "features")
LARGEST_SIDE: Final = 1 << 16
TORCH_TOLERANCE: Final = 1e-4

Array = NDArray[Any]
WeightRange = Literal["full", "half"]
"""How much of INT8 weights use: "half" keeps the INT16 sums of older x86 from saturating."""


@dataclass(slots=True)
class Node:
    """One operation. Inputs left out are empty strings, as in ONNX. `activation` is one fused behind it."""

    op: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    activation: str | None = None

    @property
    def output(self) -> str:
        return self.outputs[0]


@dataclass(slots=True, eq=False)
class OnnxGraph:
    """A static ONNX graph as records: nodes in order, constants as arrays, shapes and types of everything.

    unknown: tensors whose shape no one can tell before the network runs, with the reason; their shape is ().
    """

    nodes: list[Node]
    constants: dict[str, Array]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, np.dtype[Any]]
    inputs: dict[str, np.dtype[Any]]
    outputs: list[str]
    unknown: dict[str, str] = field(default_factory=dict)

    def consumers(self) -> dict[str, list[Node]]:
        """Nodes that read each tensor."""
        table: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in filter(None, node.inputs):
                table.setdefault(name, []).append(node)
        return table

    def producers(self) -> dict[str, Node]:
        """The node that writes each tensor."""
        return {name: node for node in self.nodes for name in node.outputs}


def read_graph(model: onnx.ModelProto) -> OnnxGraph:
    """Read a model. Raises ConversionError when it is not valid ONNX or an input's shape is not fixed."""
    graph = checked(model).graph
    constants = {tensor.name: _values(tensor) for tensor in graph.initializer}
    outputs = [value.name for value in graph.output]
    nodes: list[Node] = []
    aliases: dict[str, str] = {}
    for proto in graph.node:
        inputs = [aliases.get(name, name) for name in proto.input]
        op = proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}.{proto.op_type}"
        attributes = {item.name: _attribute(item) for item in proto.attribute}
        if op == "Constant" and "sparse_value" not in attributes:
            constants[proto.output[0]] = np.asarray(next(iter(attributes.values())))
        elif op == "Identity" and proto.output[0] not in outputs:
            aliases[proto.output[0]] = inputs[0]
        else:
            nodes.append(
                Node(op, proto.name or next(filter(None, proto.output), ""), inputs, list(proto.output), attributes)
            )
    result = OnnxGraph(nodes, constants, {}, {}, {}, outputs)
    result.shapes.update({name: array.shape for name, array in constants.items()})
    result.dtypes.update({name: array.dtype for name, array in constants.items()})
    for value in (*graph.input, *graph.value_info, *graph.output):
        _note_type(result, value)
    _note_inputs(result, graph)
    for node in nodes:
        for name in filter(None, node.outputs):
            if name not in result.shapes:
                result.shapes[name] = ()
                result.unknown[name] = (
                    "ONNX does not know the shape of its output; it is no standard operator, or depends on data"
                )
    return result


def _note_inputs(result: OnnxGraph, graph: onnx.GraphProto) -> None:
    for value in graph.input:
        if value.name in result.constants:
            continue
        if value.name in result.unknown:
            raise ConversionError(
                f"input {value.name!r}: {result.unknown[value.name]}; export the network with a fixed shape"
            )
        if not isinstance(value.name, str):
            raise ConversionError(f"input {value.name!r}: its name is no text; give it another")
        if max(result.shapes[value.name], default=1) > LARGEST_SIDE:
            raise ConversionError(f"input {value.name!r} of shape {result.shapes[value.name]} is no image; resize it")
        result.inputs[value.name] = result.dtypes[value.name]


def checked(model: onnx.ModelProto, *, at_least: int = OLDEST_OPSET) -> onnx.ModelProto:
    """A checked copy with shapes inferred and functions inlined; one older than opset `at_least` is brought to 18.

    Raises ConversionError when it is not valid ONNX.
    """
    try:
        if model.functions:
            model = inliner.inline_local_functions(model)
        onnx.checker.check_model(model)
        if opset_of(model) < at_least:
            model = _converted(model)
        return shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        raise ConversionError(f"not a valid ONNX network: {first_line(error)}") from error
    except (RuntimeError, ValueError, IndexError, TypeError, KeyError, MemoryError) as error:  # the converter's
        raise ConversionError(f"opset {opset_of(model)} cannot be brought to {OPSET}: {first_line(error)}") from error


def _converted(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` in `OPSET`. Until opset 10 a Resize had one rule; the converter leaves it to the default of the newer ones."""
    converted = version_converter.convert_version(model, OPSET)
    if opset_of(model) <= _OPSET_OF_ONE_RESIZE:
        for node in converted.graph.node:
            if node.op_type == "Resize":
                rules = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
                node.attribute.extend(helper.make_attribute(name, value) for name, value in rules.items())
    return converted


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operators that a model uses; 1 when it does not say."""
    return next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 1)


def first_line(error: Exception) -> str:
    """The first line of an error that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _values(tensor: onnx.TensorProto) -> Array:
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise ConversionError(f"constant {tensor.name!r} is damaged: {first_line(error)}") from error


def _note_type(graph: OnnxGraph, value: onnx.ValueInfoProto) -> None:
    kind = value.type.WhichOneof("value")
    name = value.name
    if kind != "tensor_type":
        graph.shapes[name], graph.unknown[name] = (
            (),
            f"a {(kind or 'value without type').replace('_type', '')}, not a tensor",
        )
        return
    tensor = value.type.tensor_type
    if tensor.elem_type:
        try:
            graph.dtypes[name] = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        except KeyError as error:
            raise ConversionError(f"tensor {name!r} has a type that ONNX does not know: {tensor.elem_type}") from error
    if not tensor.HasField("shape") or any(dim.dim_value <= 0 for dim in tensor.shape.dim):
        dims = ", ".join(
            dim.dim_param or (str(dim.dim_value) if dim.HasField("dim_value") else "?") for dim in tensor.shape.dim
        )
        graph.shapes[name], graph.unknown[name] = (
            (),
            f"its shape ({dims}) is not fixed" if dims else "its shape is not known",
        )
        if tensor.HasField("shape") and not tensor.shape.dim:
            del graph.unknown[name]  # a scalar
        return
    graph.shapes[name] = tuple(dim.dim_value for dim in tensor.shape.dim)


def export_torch(
    network: torch.nn.Module,
    size: tuple[int, int],
    frames: Sequence[GreyImage],
    *,
    names: Sequence[str] = OUTPUT_NAMES,
) -> onnx.ModelProto:
    """Export a network of one (1, 1, height, width) uint8 image to ONNX and check it against PyTorch.

    frames: preprocessed images for the check. names: of its outputs. Raises ConversionError when an output differs by more
    than 1e-4 of its largest magnitude (at least 1).
    """
    example = torch.zeros(1, 1, *size, dtype=torch.uint8)
    with _quiet_exporter():
        program = torch.onnx.export(
            network.eval(),
            (example,),
            dynamo=True,
            input_names=[INPUT_NAME],
            output_names=list(names),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for function in ("metadata_props", "doc_string"):
        model.graph.ClearField(function)  # paths of the exporting machine
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    check_against_torch(model, network, frames)
    return model


def check_against_torch(model: onnx.ModelProto, network: torch.nn.Module, frames: Sequence[GreyImage]) -> None:
    """Compare ONNX Runtime with PyTorch on `frames`. Raises ConversionError beyond 1e-4."""
    session = plain_session(model)
    names = [output.name for output in model.graph.output]
    for image in frames:
        with torch.inference_mode():
            expected = network(torch.from_numpy(image)[None, None])
        for name, wanted, got in zip(names, expected, session.run(None, {INPUT_NAME: image[None, None]}), strict=True):
            reference = wanted.numpy()
            error = float(np.abs(got - reference).max()) / max(1.0, float(np.abs(reference).max()))
            if not error <= TORCH_TOLERANCE:
                raise ConversionError(
                    f"ONNX output {name!r} differs from PyTorch by {error:.1e}, more than {TORCH_TOLERANCE}"
                )


def plain_session(model: onnx.ModelProto) -> ort.InferenceSession:
    """ONNX Runtime on the CPU with graph optimisations off: the referee, every operator as it is written."""
    return _session(model, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)


def fused_session(model: onnx.ModelProto) -> ort.InferenceSession:
    """ONNX Runtime on the CPU as a device runs it: several times as fast, rounded a little otherwise."""
    return _session(model, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)


def _session(model: onnx.ModelProto, level: Any) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _attribute(proto: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, onnx.TensorProto):
        return _values(value)
    return value


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter logs about packages that are not needed; its errors still surface as exceptions."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):  # noqa: PTH123
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


def scalar(constants: Mapping[str, Array], name: str) -> float | None:
    """The value of a one-element constant, or None when `name` is not one."""
    array = constants.get(name)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None
