"""What the TensorFlow Lite interpreter makes of a network: its operators, and which of them the XNNPACK delegate took."""

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.layers import INT8, Layer
from edge.engines import engine_errors, open_model

_CONVERTS: Final = frozenset({"QUANTIZE", "DEQUANTIZE", "CAST", "RESHAPE", "TRANSPOSE"})
_DELEGATE: Final = "DELEGATE"
Shape = tuple[int, ...]


def read_layers(path: Path, *, precision: str, threads: int) -> tuple[Layer, ...]:
    """The operators of a .tflite file as LiteRT runs them. Raises EngineError, MissingDependencyError."""
    return _read("litert", path, precision=precision, threads=threads)


def read_runtime_layers(path: Path, *, precision: str, threads: int) -> tuple[Layer, ...]:
    """The operators of a .tflite file as tflite-runtime runs them. Raises EngineError, MissingDependencyError."""
    return _read("tflite-runtime", path, precision=precision, threads=threads)


def _read(engine: str, path: Path, *, precision: str, threads: int) -> tuple[Layer, ...]:
    opened: Any = open_model(engine, path, precision=precision, threads=threads)
    try:
        with engine_errors(engine):
            return layers_of(opened.interpreter)
    finally:
        opened.close()


def layers_of(interpreter: Any) -> tuple[Layer, ...]:
    """The operators of an allocated interpreter; kernel: "XNNPACK" for those that the delegate took, else "built-in"."""
    tensors = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    details = interpreter._get_ops_details()  # the only list of operators that Python is given
    operators = [detail for detail in details if detail["op_name"] != _DELEGATE]
    taken = delegated(operators, [detail for detail in details if detail["op_name"] == _DELEGATE])
    return tuple(_layer(operator, tensors, operator["index"] in taken) for operator in operators)


def delegated(operators: list[dict[str, Any]], delegates: list[dict[str, Any]]) -> frozenset[int]:
    """Indices of the operators that delegates took: what is met on the way from a delegate's outputs to its inputs.

    Both as the interpreter describes them: "index", "inputs" and "outputs" (tensor indices).
    """
    makers = {int(tensor): operator for operator in operators for tensor in operator["outputs"]}
    taken: set[int] = set()
    for delegate in delegates:
        given, open_ends = {int(index) for index in delegate["inputs"]}, [int(index) for index in delegate["outputs"]]
        while open_ends:
            tensor = open_ends.pop()
            operator = makers.get(tensor)
            if tensor in given or operator is None or operator["index"] in taken:
                continue
            taken.add(operator["index"])
            open_ends.extend(int(index) for index in operator["inputs"])
    return frozenset(taken)


def _layer(operator: dict[str, Any], tensors: dict[int, Any], in_delegate: bool) -> Layer:
    kind = str(operator["op_name"])
    inputs = [tensors[int(index)] for index in operator["inputs"] if index >= 0]
    outputs = [tensors[int(index)] for index in operator["outputs"]]
    return Layer(
        name=str(outputs[0]["name"]),
        kind=kind,
        kernel="XNNPACK" if in_delegate else "built-in",
        shape=_shape(outputs[0]),
        macs=_MACS[kind]([_shape(tensor) for tensor in inputs], _shape(outputs[0])) if kind in _MACS else 0,
        traffic_bytes=sum(_bytes(tensor) for tensor in (*inputs, *outputs)),
        precision=_precision([tensor["dtype"] for tensor in inputs]),
        converts=kind in _CONVERTS,
    )


def _precision(types: list[type[np.generic]]) -> str:
    """INT8 where any input is: float images meet INT8 weights in kernels that round the image to INT8 first.

    (Weights that are only stored in 8 or 16 bits have a DEQUANTIZE of their own and meet the layer in float32.)
    """
    return INT8 if {np.int8, np.uint8} & set(types) else "f32"


def _of_convolution(inputs: list[Shape], out: Shape) -> int:
    return prod(out) * prod(inputs[1][1:])  # weights (out, height, width, in / groups)


def _of_depthwise(inputs: list[Shape], out: Shape) -> int:
    return prod(out) * prod(inputs[1][1:3])  # weights (1, height, width, out)


def _of_fully_connected(inputs: list[Shape], out: Shape) -> int:
    return prod(out) * inputs[1][-1]  # weights (out, in)


def _of_transposed(inputs: list[Shape], out: Shape) -> int:
    return prod(inputs[2]) * prod(inputs[1][:3])  # output size, weights (out, height, width, in), image


def _of_product(inputs: list[Shape], out: Shape) -> int:
    return prod(out) * inputs[0][-1]


_MACS: Final[dict[str, Callable[[list[Shape], Shape], int]]] = {
    "CONV_2D": _of_convolution,
    "DEPTHWISE_CONV_2D": _of_depthwise,
    "FULLY_CONNECTED": _of_fully_connected,
    "TRANSPOSE_CONV": _of_transposed,
    "BATCH_MATMUL": _of_product,
}


def _shape(tensor: dict[str, Any]) -> Shape:
    return tuple(int(size) for size in tensor["shape"])


def _bytes(tensor: dict[str, Any]) -> int:
    kind: np.dtype[Any] = np.dtype(tensor["dtype"])
    return prod(_shape(tensor)) * kind.itemsize
