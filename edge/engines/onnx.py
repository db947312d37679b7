"""ONNX Runtime: runs the FP32 and QDQ graphs that the other artifacts come from."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import EngineError, require
from edge.frame import GreyImage


class OnnxEngine:
    """An ONNX Runtime session on the CPU."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self._outputs = [output.name for output in session.get_outputs()]

    def infer(self, image: GreyImage) -> Mapping[str, NDArray[np.float32]]:
        with onnx_errors():
            results = self._session.run(self._outputs, {self._input: image[None, None]})
        return dict(zip(self._outputs, results, strict=True))

    def close(self) -> None:
        self._session = None


def open_model(path: Path, *, precision: str, threads: int | None, device: str) -> OnnxEngine:
    """Load an .onnx file. Raises EngineError, MissingDependencyError."""
    del precision, device
    return _open(path, threads=threads, optimise=True)


def open_referee(path: Path, *, threads: int | None = None) -> OnnxEngine:
    """Load an .onnx file that runs every operator as it is written, nothing fused: what other engines are judged by."""
    return _open(path, threads=threads, optimise=False)


def session_options(*, threads: int | None, optimise: bool) -> Any:
    """What a session is opened with. threads: None leaves the choice to it. optimise: False runs the graph as it is written."""
    runtime = require("onnxruntime", extra="onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores to others
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimise:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _open(path: Path, *, threads: int | None, optimise: bool) -> OnnxEngine:
    runtime = require("onnxruntime", extra="onnx")
    options = session_options(threads=threads, optimise=optimise)
    with onnx_errors():
        return OnnxEngine(runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))


@contextmanager
def onnx_errors() -> Iterator[None]:
    """Translate what ONNX Runtime raises to EngineError, with its cause."""
    try:
        yield
    except Exception as error:  # onnxruntime raises its own classes, not derived from RuntimeError
        raise EngineError(f"onnx: {(str(error) or type(error).__name__).splitlines()[0]}") from error
