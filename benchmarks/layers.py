"""The layers of an artifact as an engine really runs them: what each computes, in which precision, what it must move.

Each engine tells in a way of its own; the modules `layers_openvino`, `layers_litert` and `layers_onnx` read it.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

INT8: Final = "int8"
FLOATS: Final = ("bf16", "f16", "f32")
PRECISIONS: Final = (INT8, *FLOATS)

_READERS: Final = {
    "openvino": "benchmarks.layers_openvino:read_layers",
    "litert": "benchmarks.layers_litert:read_layers",
    "tflite-runtime": "benchmarks.layers_litert:read_runtime_layers",
    "onnx": "benchmarks.layers_onnx:read_layers",
}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of the graph that an engine made of an artifact; what it fused is part of it.

    kind, kernel: the engine's names of the operator and of what runs it. shape: of its (first) output, as the engine has it.
    macs: multiply-accumulates of a layer with weights, or of a product of two activations; 0 for all others.
    traffic_bytes: inputs, weights and outputs, each once. precision: of the arithmetic, one of `PRECISIONS` where there are
    macs. converts: the layer changes type or memory layout and nothing else.
    """

    name: str
    kind: str
    kernel: str
    shape: tuple[int, ...]
    macs: int
    traffic_bytes: int
    precision: str
    converts: bool = False

    def __post_init__(self) -> None:
        if self.macs < 0 or self.traffic_bytes < 0:
            raise ValueError(f"{self.name}: {self.macs} MACs and {self.traffic_bytes} bytes cannot be negative")
        if self.macs and self.precision not in PRECISIONS:
            raise ValueError(f"{self.name}: precision {self.precision!r} is none of {', '.join(PRECISIONS)}")


def read_layers(engine: str, path: Path, *, precision: str, threads: int) -> tuple[Layer, ...]:
    """The layers that an engine runs on the CPU for a model file, in the order of execution.

    precision: of the artifact. Raises EngineError, MissingDependencyError.
    """
    module, _, function = _READERS[engine].partition(":")
    reader: Callable[..., tuple[Layer, ...]] = getattr(importlib.import_module(module), function)
    return reader(path, precision=precision, threads=threads)


def precision_of(name: str) -> str:
    """Our name of an engine's type: "int8" for i8 and u8, "f32" for float and float32, and so on; others unchanged."""
    return _PRECISION_OF.get(name.lower(), name.lower())


_PRECISION_OF: Final = {
    **dict.fromkeys(("i8", "u8", "int8", "uint8"), INT8),
    **dict.fromkeys(("f32", "float", "float32"), "f32"),
    **dict.fromkeys(("f16", "float16"), "f16"),
    **dict.fromkeys(("bf16", "bfloat16"), "bf16"),
}
