"""OpenVINO: Intel CPUs (the NUC), integrated GPUs and NPUs."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.cache import read_cached, write_cached
from edge.engines import engine_errors
from edge.errors import EngineError, require
from edge.frame import GreyImage


def import_openvino() -> ModuleType:
    """Import openvino with its telemetry off: a device beside a patient does not phone home."""
    os.environ["OPENVINO_TELEMETRY_DISABLE"] = "1"
    os.environ.setdefault("DO_NOT_TRACK", "1")
    return require("openvino", extra="openvino")


_ONE_CORE = Lock()


def shared_core() -> Any:
    """The `openvino.Core` of this process, which is kept for its life; make no other one. Raises MissingDependencyError.

    The CPU plugin of a Core gives the thread that loads it a signal stack of its own, and frees it when the Core ends (its class
    SigAltStackSetup). Two that end in the order of their beginning leave the thread on a freed one. Python's handlers run there:
    Ctrl-C is a segmentation fault then.
    """
    with _ONE_CORE:
        return _made_core()


@cache
def _made_core() -> Any:
    return import_openvino().Core()


def devices() -> list[str]:
    """Names of the devices OpenVINO sees, such as CPU, GPU, NPU."""
    return list(shared_core().available_devices)


class OpenVinoEngine:
    """A compiled OpenVINO model with one inference request."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        # One tensor has every name it had in the ONNX graph, that of a folded Identity too; any of them may be the output's.
        self._outputs = [(output.get_names(), output) for output in compiled.outputs]

    def infer(self, image: GreyImage) -> Mapping[str, NDArray[np.float32]]:
        with engine_errors("openvino"):
            self._request.infer([image[None, None]], share_inputs=True)
            results = [(names, np.array(self._request.get_tensor(output).data)) for names, output in self._outputs]
            return {name: result for names, result in results for name in names}

    def close(self) -> None:
        self._request = None


def open_model(path: Path, *, precision: str, threads: int | None, device: str, cached: bool = False) -> OpenVinoEngine:
    """Compile an IR (.xml). On the CPU float layers are pinned to f32: on newer ones OpenVINO's own default is bf16.

    cached: keep the compiled network (`edge.cache`) and take it from there the next time. Raises EngineError, also when there
    is no such device.
    """
    openvino = import_openvino()
    with engine_errors("openvino"):
        core = shared_core()
        target = device.upper()
        if target != "AUTO" and not any(name.split(".")[0] == target for name in core.available_devices):
            found = ", ".join(core.available_devices) or "none"
            raise EngineError(
                f"OpenVINO sees no {target} here (devices: {found}); use --device cpu or install its driver"
            )
        settings = settings_of(target, threads=threads)
        if cached and target != "AUTO" and path.suffix == ".xml":
            return OpenVinoEngine(_compile_once(core, path, target, settings, version=openvino.__version__))
        return OpenVinoEngine(core.compile_model(path, target, settings))


def settings_of(target: str, *, threads: int | None) -> dict[str, Any]:
    """What a network is compiled with. target: OpenVINO's name of a device, CPU or GPU. threads: None leaves the choice to it."""
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if target in ("CPU", "AUTO"):
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    if target == "CPU":
        # Pinned threads wait for a core that capture, sinks or page hold while another is free.
        settings["ENABLE_CPU_PINNING"] = False
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
    return settings


def _compile_once(core: Any, path: Path, target: str, settings: dict[str, Any], *, version: str) -> Any:
    """The network of an earlier start where it was kept, else a compiled one, kept where there is a place.

    Not OpenVINO's own CACHE_DIR: that goes by the IR's path and time, and takes a blob with a flipped bit without a word.
    """
    able = list(core.get_property(target, "OPTIMIZATION_CAPABILITIES"))
    if "EXPORT_IMPORT" not in able:
        return core.compile_model(path, target, settings)
    files = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (path, path.with_suffix(".bin"))]
    key = json.dumps([version, core.get_property(target, "FULL_DEVICE_NAME"), able, settings, files], default=str)
    kept = read_cached("openvino", key)
    if kept is not None:
        try:
            return core.import_model(kept, target, settings)
        except RuntimeError:  # OpenVINO's own check of it, stricter than the key: compiled anew and kept over it
            pass
    compiled = core.compile_model(path, target, settings)
    with suppress(RuntimeError):  # a plugin that cannot export this network after all: it compiles at every start
        write_cached("openvino", key, compiled.export_model().read())
    return compiled
