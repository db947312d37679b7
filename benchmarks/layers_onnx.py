"""What ONNX Runtime makes of a network: the kernels that its profiler saw in one run."""

import json
import tempfile
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.layers import Layer, precision_of
from edge.engines.onnx import onnx_errors, session_options
from edge.errors import require

_CONVERTS: Final = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "Cast", "Transpose", "Reshape", "ReorderInput", "ReorderOutput"}
)
_BYTES: Final = {"float": 4, "float16": 2, "bfloat16": 2, "int32": 4, "int64": 8, "double": 8}
Value = tuple[str, tuple[int, ...]]
"""Type and shape, as the profiler names them."""


def read_layers(path: Path, *, precision: str, threads: int, optimise: bool = True) -> tuple[Layer, ...]:
    """The kernels of one run. optimise: False for the graph as it is written, which the referee runs.

    Raises EngineError, MissingDependencyError.
    """
    del precision
    runtime = require("onnxruntime", extra="onnx")
    options = session_options(threads=threads, optimise=optimise)
    options.enable_profiling = True
    # Packed weights are no inputs any more, and the profiler does not know their shapes then. The kernels are the same.
    options.add_session_config_entry("session.disable_prepacking", "1")
    with tempfile.TemporaryDirectory() as folder, onnx_errors():
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (image,) = session.get_inputs()
        session.run(None, {image.name: np.zeros(image.shape, np.uint8)})
        return layers_of(json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")))


def layers_of(events: list[dict[str, Any]]) -> tuple[Layer, ...]:
    """The kernels among a profile's events."""
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    return tuple(_layer(event["name"].removesuffix("_kernel_time"), event["args"]) for event in kernels)


def _layer(name: str, told: dict[str, Any]) -> Layer:
    kind = str(told["op_name"])
    inputs, outputs = (_values(told[f"{side}_type_shape"]) for side in ("input", "output"))
    place, macs = _MACS.get(kind, (0, None))
    return Layer(
        name=name,
        kind=kind,
        kernel=str(told["provider"]).removesuffix("ExecutionProvider"),
        shape=outputs[0][1] if outputs else (),
        macs=macs(inputs[0][1], inputs[place][1], outputs[0][1]) if macs is not None else 0,
        traffic_bytes=sum(prod(shape) * _BYTES.get(kind, 1) for kind, shape in (*inputs, *outputs)),
        precision=precision_of(inputs[place][0]) if inputs else "f32",
        converts=kind in _CONVERTS,
    )


def _values(told: list[dict[str, list[int]]]) -> list[Value]:
    return [(kind, tuple(shape)) for value in told for kind, shape in value.items()]


def _of_convolution(image: tuple[int, ...], weights: tuple[int, ...], out: tuple[int, ...]) -> int:
    return prod(out) * prod(weights[1:])


def _of_transposed(image: tuple[int, ...], weights: tuple[int, ...], out: tuple[int, ...]) -> int:
    return prod(image) * prod(weights[1:])


def _of_product(image: tuple[int, ...], weights: tuple[int, ...], out: tuple[int, ...]) -> int:
    return prod(out) * image[-1]


_MACS: Final[dict[str, tuple[int, Callable[[tuple[int, ...], tuple[int, ...], tuple[int, ...]], int]]]] = {
    "Conv": (1, _of_convolution),
    "FusedConv": (1, _of_convolution),
    "QLinearConv": (3, _of_convolution),
    "ConvInteger": (1, _of_convolution),
    "ConvTranspose": (1, _of_transposed),
    "Gemm": (1, _of_product),
    "FusedGemm": (1, _of_product),
    "QGemm": (3, _of_product),
    "MatMul": (1, _of_product),
    "FusedMatMul": (1, _of_product),
    "QLinearMatMul": (3, _of_product),
    "MatMulInteger": (1, _of_product),
    "MatMulIntegerToFloat": (1, _of_product),
}
"""Which input the weights are, and how many multiply-accumulates image, weights and output are."""
