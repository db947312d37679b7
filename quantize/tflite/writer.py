"""Serialise a `TfliteGraph` with the flatbuffer schema classes that ship in ai-edge-litert."""

from collections.abc import Sequence
from typing import Any, Final

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from quantize.tflite.graph import Array, Quantiser, Tensor, TfliteGraph

_IDENTIFIER: Final = b"TFL3"
_SCHEMA_VERSION: Final = 3
_ALIGNMENT: Final = 16
_TYPES: Final = {
    "float32": schema.TensorType.FLOAT32,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "bool": schema.TensorType.BOOL,
}
# Operator versions the runtime looks up kernels by; 1 where nothing newer is used.
_VERSIONS: Final = {
    "ADD": 2,
    "AVERAGE_POOL_2D": 2,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "DEPTH_TO_SPACE": 2,
    "DEQUANTIZE": 2,
    "FULLY_CONNECTED": 5,
    "LEAKY_RELU": 2,
    "LOGISTIC": 2,
    "MAXIMUM": 2,
    "MAX_POOL_2D": 2,
    "MEAN": 2,
    "MINIMUM": 2,
    "MIRROR_PAD": 2,
    "MUL": 2,
    "PAD": 2,
    "PADV2": 2,
    "QUANTIZE": 2,
    "REDUCE_MAX": 2,
    "REDUCE_MIN": 2,
    "RELU": 2,
    "RELU6": 2,
    "RESIZE_BILINEAR": 3,
    "RESIZE_NEAREST_NEIGHBOR": 3,
    "SLICE": 2,
    "SOFTMAX": 2,
    "SPACE_TO_DEPTH": 2,
    "STRIDED_SLICE": 2,
    "SUB": 2,
    "SUM": 2,
    "TANH": 2,
    "TRANSPOSE": 2,
    "TRANSPOSE_CONV": 4,
}


def serialise(graph: TfliteGraph, *, description: str) -> bytes:
    """Return the bytes of a .tflite file with one subgraph and one signature named "serving_default"."""
    codes = sorted({operator.code for operator in graph.operators})
    model = schema.ModelT()
    model.version = _SCHEMA_VERSION
    model.description = description
    model.operatorCodes = [_operator_code(code) for code in codes]
    model.buffers = [schema.BufferT()]  # buffer 0 is the empty one, by convention
    subgraph = schema.SubGraphT()
    subgraph.name = "main"
    subgraph.tensors = [_tensor(tensor, model.buffers) for tensor in graph.tensors]
    subgraph.inputs, subgraph.outputs = list(graph.inputs), list(graph.outputs)
    subgraph.operators = [
        _operator(codes.index(operator.code), operator.inputs, operator.outputs, operator.options)
        for operator in graph.operators
    ]
    model.subgraphs = [subgraph]
    model.signatureDefs = [_signature(graph)]
    builder = _Builder(sum(len(b.data) for b in model.buffers if b.data is not None) + (1 << 16))
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


class _Builder(flatbuffers.Builder):  # type: ignore[misc]
    """Puts buffers at multiples of 16 bytes: the schema asks for it (force_align), its Python classes do not do it."""

    def CreateNumpyVector(self, x: Array) -> int:  # noqa: N802
        self.Prep(_ALIGNMENT, x.nbytes)
        return int(super().CreateNumpyVector(x))


def _operator_code(code: str) -> Any:
    record = schema.OperatorCodeT()
    record.builtinCode = getattr(schema.BuiltinOperator, code)
    record.deprecatedBuiltinCode = min(record.builtinCode, 127)
    record.version = _VERSIONS.get(code, 1)
    return record


def _tensor(tensor: Tensor, buffers: list[Any]) -> Any:
    record = schema.TensorT()
    record.name = tensor.name
    record.shape = list(tensor.shape)
    record.type = _TYPES[tensor.dtype.name]
    record.buffer = 0
    record.hasRank = True
    if tensor.data is not None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(tensor.data, tensor.dtype).tobytes(), np.uint8)
        buffers.append(buffer)
        record.buffer = len(buffers) - 1
    if tensor.quantiser is not None:
        record.quantization = _quantisation(tensor.quantiser)
    return record


def _quantisation(quantiser: Quantiser) -> Any:
    record = schema.QuantizationParametersT()
    record.scale = np.atleast_1d(quantiser.scale).astype(np.float32)
    record.zeroPoint = np.atleast_1d(quantiser.zero_point).astype(np.int64)
    record.quantizedDimension = quantiser.axis
    return record


def _operator(index: int, inputs: Sequence[int], outputs: Sequence[int], options: Any) -> Any:
    record = schema.OperatorT()
    record.opcodeIndex = index
    record.inputs, record.outputs = list(inputs), list(outputs)
    if options is not None:
        name = type(options).__name__.removesuffix("T")
        record.builtinOptionsType = getattr(schema.BuiltinOptions, name)
        record.builtinOptions = options
    return record


def _signature(graph: TfliteGraph) -> Any:
    record = schema.SignatureDefT()
    record.signatureKey = "serving_default"
    record.subgraphIndex = 0
    record.inputs = [_tensor_map(graph, index) for index in graph.inputs]
    record.outputs = [_tensor_map(graph, index) for index in graph.outputs]
    return record


def _tensor_map(graph: TfliteGraph, index: int) -> Any:
    record = schema.TensorMapT()
    record.name = graph.tensors[index].name
    record.tensorIndex = index
    return record
