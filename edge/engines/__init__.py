"""Inference engines, each imported when a bundle that needs it is opened."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge.errors import EngineError

if TYPE_CHECKING:  # edgekit doctor asks for engines also where numpy or OpenCV is broken
    from edge.bundle import Bundle
    from edge.manifest import Artifact
    from edge.predictor import Engine

ENGINES: Final = {
    "openvino": "edge.engines.openvino:open_model",
    "litert": "edge.engines.litert:open_model",
    "onnx": "edge.engines.onnx:open_model",
    "tflite-runtime": "edge.engines.tflite_runtime:open_model",
}
_PACKAGES: Final = {
    "openvino": "openvino",
    "litert": "ai_edge_litert",
    "onnx": "onnxruntime",
    "tflite-runtime": "tflite_runtime",
}
_OBSTACLES: Final = {"tflite-runtime": "edge.engines.tflite_runtime:obstacle"}
"""What tells, without an import of the engine, that a package that is there cannot work beside the others."""
CACHING: Final = frozenset({"openvino"})
"""Engines whose compiled network is kept between two starts; the others open in a moment."""
DEVICES: Final = ("cpu", "gpu", "npu", "auto")


class EngineWarning(UserWarning):
    """Another engine is used than was to be expected, or it answers less well here; edgekit's commands print it as a note."""


def package_of(engine: str) -> str:
    """The package that an engine is imported from."""
    return _PACKAGES[engine]


def is_present(engine: str) -> bool:
    """True when the engine's package can be found; it is not imported."""
    return find_spec(_PACKAGES[engine]) is not None


def is_installed(engine: str) -> bool:
    """True when the engine's package can be found and nothing is known that keeps it from working here; it is not imported."""
    return is_present(engine) and obstacle(engine) is None


def obstacle(engine: str) -> str | None:
    """What is known to keep an engine that is there from working, and what to do, in one line; None where nothing is."""
    told: str | None = _late(_OBSTACLES[engine])() if engine in _OBSTACLES else None
    return told


def open_artifact(
    bundle: "Bundle", artifact: "Artifact", *, threads: int | None = None, device: str = "cpu"
) -> "Engine":
    """Open an artifact of a bundle on its engine.

    threads: None leaves the choice to the engine. device: cpu, or gpu, npu, auto for OpenVINO. Raises EngineError, also where
    the engine was found to take its process with it (`edge.probe`), MissingDependencyError, IntegrityError.
    """
    from edge.probe import engine_fault

    if (fault := engine_fault(artifact.engine)) is not None:
        raise EngineError(f"{fault}; choose another --engine, edgekit doctor lists those that work")
    return open_model(
        artifact.engine,
        bundle.verified_paths(artifact)[0],
        precision=artifact.precision,
        threads=threads,
        device=device,
        cached=True,
    )


def open_model(
    engine: str,
    path: Path,
    *,
    precision: str = "int8",
    threads: int | None = None,
    device: str = "cpu",
    cached: bool = False,
) -> "Engine":
    """Open a model file on an engine by name. Raises EngineError, MissingDependencyError.

    cached: an engine of `CACHING` may keep what it compiled for the next start (`edge.cache`).
    """
    if engine not in ENGINES:
        raise EngineError(f"engine {engine!r} is none of {', '.join(ENGINES)}")
    if device != "cpu" and engine != "openvino":
        raise EngineError(f"{engine} runs on the CPU only; use --engine openvino for --device {device}")
    if threads is not None and threads < 1:
        raise EngineError(f"--threads {threads}: give at least 1")
    opener = _late(ENGINES[engine])
    kept = {"cached": True} if cached and engine in CACHING else {}
    opened: Engine = opener(path, precision=precision, threads=threads, device=device, **kept)
    return opened


def _late(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


@contextmanager
def engine_errors(engine: str) -> Iterator[None]:
    """Translate what an engine raises to EngineError, with its cause."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError) as error:
        lines = [line.strip() for line in str(error).splitlines() if any(map(str.isalpha, line))]
        raise EngineError(f"{engine}: {lines[-1] if lines else type(error).__name__}") from error
