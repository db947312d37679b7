"""LiteRT (TensorFlow Lite): the Raspberry Pi's engine."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.engines import engine_errors
from edge.errors import require
from edge.frame import GreyImage


class LiteRtEngine:
    """A TFLite interpreter with XNNPACK. Its input is NHWC uint8; outputs of four axes are NHWC and leave as NCHW.

    name: of the engine, for errors.
    """

    def __init__(self, interpreter: Any, *, name: str = "litert") -> None:
        interpreter.allocate_tensors()
        self._name = name
        self.interpreter = interpreter
        self._input = interpreter.get_input_details()[0]
        details = interpreter.get_signature_runner().get_output_details()
        self._outputs = [(name, detail["index"]) for name, detail in details.items()]

    def infer(self, image: GreyImage) -> Mapping[str, NDArray[np.float32]]:
        with engine_errors(self._name):
            self.interpreter.set_tensor(self._input["index"], image.reshape(self._input["shape"]))
            self.interpreter.invoke()
            return {name: _onnx_order(self.interpreter.get_tensor(index)) for name, index in self._outputs}

    def close(self) -> None:
        self.interpreter = None


def _onnx_order(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.transpose(0, 3, 1, 2)) if tensor.ndim == 4 else tensor


def open_model(path: Path, *, precision: str, threads: int | None, device: str) -> LiteRtEngine:
    """Load a .tflite file. threads: None takes every core. Raises EngineError, MissingDependencyError."""
    del precision, device
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    interpreter = require("ai_edge_litert.interpreter", extra="litert")
    with engine_errors("litert"):
        return LiteRtEngine(interpreter.Interpreter(model_path=str(path), num_threads=threads or os.cpu_count()))
