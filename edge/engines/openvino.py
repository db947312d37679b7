"""OpenVINO: Intel CPUs (the NUC), integrated GPUs and NPUs."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.engines import engine_errors
from edge.errors import EngineError, require
from edge.frame import GreyImage


def import_openvino() -> ModuleType:
    """Import openvino with its telemetry off: a device beside a patient does not phone home."""
    os.environ["OPENVINO_TELEMETRY_DISABLE"] = "1"
    os.environ.setdefault("DO_NOT_TRACK", "1")
    return require("openvino", extra="openvino")


def devices() -> list[str]:
    """Names of the devices OpenVINO sees, such as CPU, GPU, NPU."""
    core: Any = import_openvino().Core()
    return list(core.available_devices)


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


def open_model(path: Path, *, precision: str, threads: int | None, device: str) -> OpenVinoEngine:
    """Compile an IR (.xml). On the CPU float layers are pinned to f32: on newer ones OpenVINO's own default is bf16.

    Raises EngineError, also when there is no such device.
    """
    openvino = import_openvino()
    with engine_errors("openvino"):
        core = openvino.Core()
        target = device.upper()
        if target != "AUTO" and not any(name.split(".")[0] == target for name in core.available_devices):
            found = ", ".join(core.available_devices) or "none"
            raise EngineError(
                f"OpenVINO sees no {target} here (devices: {found}); use --device cpu or install its driver"
            )
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if target in ("CPU", "AUTO"):
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        if target == "CPU":
            # Pinned threads wait for a core that capture, sinks or page hold while another is free.
            settings["ENABLE_CPU_PINNING"] = False
            if threads is not None:
                settings["INFERENCE_NUM_THREADS"] = threads
        return OpenVinoEngine(core.compile_model(path, target, settings))
