"""Inference engines, each imported when a bundle that needs it is opened."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge.errors import EngineError
from edge.predictor import Engine

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.manifest import Artifact

ENGINES: Final = {
    "openvino": "edge.engines.openvino:open_model",
    "litert": "edge.engines.litert:open_model",
    "onnx": "edge.engines.onnx:open_model",
}
_PACKAGES: Final = {"openvino": "openvino", "litert": "ai_edge_litert", "onnx": "onnxruntime"}
DEVICES: Final = ("cpu", "gpu", "npu", "auto")


def is_installed(engine: str) -> bool:
    """True when the engine's package can be found; it is not imported."""
    return find_spec(_PACKAGES[engine]) is not None


def open_artifact(bundle: "Bundle", artifact: "Artifact", *, threads: int | None = None, device: str = "cpu") -> Engine:
    """Open an artifact of a bundle on its engine.

    threads: None leaves the choice to the engine. device: cpu, or gpu, npu, auto for OpenVINO. Raises EngineError,
    MissingDependencyError, IntegrityError.
    """
    return open_model(
        artifact.engine,
        bundle.verified_paths(artifact)[0],
        precision=artifact.precision,
        threads=threads,
        device=device,
    )


def open_model(
    engine: str, path: Path, *, precision: str = "int8", threads: int | None = None, device: str = "cpu"
) -> Engine:
    """Open a model file on an engine by name. Raises EngineError, MissingDependencyError."""
    if engine not in ENGINES:
        raise EngineError(f"engine {engine!r} is none of {', '.join(ENGINES)}")
    if device != "cpu" and engine != "openvino":
        raise EngineError(f"{engine} runs on the CPU only; use --engine openvino for --device {device}")
    if threads is not None and threads < 1:
        raise EngineError(f"--threads {threads}: give at least 1")
    module, function = ENGINES[engine].split(":")
    opener = getattr(importlib.import_module(module), function)
    opened: Engine = opener(path, precision=precision, threads=threads, device=device)
    return opened


@contextmanager
def engine_errors(engine: str) -> Iterator[None]:
    """Translate what an engine raises to EngineError, with its cause."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError) as error:
        lines = [line.strip() for line in str(error).splitlines() if any(map(str.isalpha, line))]
        raise EngineError(f"{engine}: {lines[-1] if lines else type(error).__name__}") from error
