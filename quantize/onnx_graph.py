"""ONNX graphs: exported from PyTorch and checked, and read into plain records for the passes and the lowering."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from edge.errors import ConversionError
from edge.frame import GreyImage

OPSET: Final = 18
INPUT_NAME: Final = "image"
OUTPUT_NAMES: Final = ("mask", "malignancy")
TORCH_TOLERANCE: Final = 1e-4

Array = NDArray[Any]


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
    """A static ONNX graph as records: nodes in order, constants as arrays, shapes of everything."""

    nodes: list[Node]
    constants: dict[str, Array]
    shapes: dict[str, tuple[int, ...]]
    inputs: dict[str, np.dtype[Any]]
    outputs: list[str]

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
    """Read a model whose shapes are all static. Raises ConversionError for dynamic or wrong shapes and subgraphs."""
    try:
        inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError as error:
        raise ConversionError(f"ONNX cannot infer the graph's shapes: {error}") from error
    graph = inferred.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[Node] = []
    aliases: dict[str, str] = {}
    for proto in graph.node:
        attributes = {item.name: _attribute(item) for item in proto.attribute}
        inputs = [aliases.get(name, name) for name in proto.input]
        if proto.op_type == "Constant":
            constants[proto.output[0]] = np.asarray(attributes.get("value", next(iter(attributes.values()))))
        elif proto.op_type == "Identity" and proto.output[0] not in {value.name for value in graph.output}:
            aliases[proto.output[0]] = inputs[0]
        else:
            name = proto.name or proto.output[0]
            nodes.append(Node(proto.op_type, name, inputs, list(proto.output), attributes))
    shapes: dict[str, tuple[int, ...]] = {name: array.shape for name, array in constants.items()}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if any(not dim.HasField("dim_value") for dim in dims):
            raise ConversionError(f"tensor {value.name!r} has a dynamic shape; export the network with a fixed one")
        shapes[value.name] = tuple(dim.dim_value for dim in dims)
    inputs_by_name = {
        value.name: helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        for value in graph.input
        if value.name not in constants
    }
    return OnnxGraph(nodes, constants, shapes, inputs_by_name, [value.name for value in graph.output])


def export_torch(network: torch.nn.Module, size: tuple[int, int], frames: Sequence[GreyImage]) -> onnx.ModelProto:
    """Export a network of one (1, 1, height, width) uint8 image and two outputs to ONNX and check it against PyTorch.

    frames: preprocessed images for the check. Raises ConversionError when an output differs by more than 1e-4 of its
    largest magnitude (at least 1).
    """
    example = torch.zeros(1, 1, *size, dtype=torch.uint8)
    with _quiet_exporter():
        program = torch.onnx.export(
            network.eval(),
            (example,),
            dynamo=True,
            input_names=[INPUT_NAME],
            output_names=list(OUTPUT_NAMES),
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
    for image in frames:
        with torch.inference_mode():
            expected = network(torch.from_numpy(image)[None, None])
        for name, wanted, got in zip(
            OUTPUT_NAMES, expected, session.run(None, {INPUT_NAME: image[None, None]}), strict=True
        ):
            reference = wanted.numpy()
            error = float(np.abs(got - reference).max()) / max(1.0, float(np.abs(reference).max()))
            if not error <= TORCH_TOLERANCE:
                raise ConversionError(
                    f"ONNX output {name!r} differs from PyTorch by {error:.1e}, more than {TORCH_TOLERANCE}"
                )


def plain_session(model: onnx.ModelProto) -> ort.InferenceSession:
    """ONNX Runtime on the CPU with graph optimisations off: the referee, every operator as it is written."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _attribute(proto: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, onnx.GraphProto):
        raise ConversionError(f"attribute {proto.name!r} holds a subgraph (control flow), which is not supported")
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
