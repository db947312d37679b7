"""The machine and the versions that figures depend on, and how warm it was."""

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from edge.device import ROOT, Throttled, clock_mhz, read_device, read_throttled, temperature_c

PACKAGES: Final = ("edgekit-ultrasound", "openvino", "ai-edge-litert", "tflite-runtime", "onnxruntime", "numpy")


@dataclass(frozen=True, slots=True)
class State:
    """What changes while one measures; None where the machine does not tell."""

    temperature_c: float | None
    clock_mhz: float | None
    throttled: Throttled | None

    @property
    def limits(self) -> tuple[str, ...]:
        """What the firmware holds the processor back for at this moment, in words."""
        return self.throttled.now if self.throttled is not None else ()

    def to_json(self) -> dict[str, Any]:
        return {
            "temperature_c": self.temperature_c,
            "clock_mhz": self.clock_mhz,
            "throttled_bits": None if self.throttled is None else self.throttled.bits,
        }


ReadState = Callable[[], State]


def read_state(root: Path = ROOT) -> State:
    """The state of the machine beneath `root`; takes milliseconds on a Raspberry Pi without the firmware's file."""
    return State(temperature_c(root), clock_mhz(root), read_throttled(root))


def environment() -> dict[str, Any]:
    """Hardware, kernel and versions, as a report holds them."""
    packages = {}
    for package in PACKAGES:
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "device": asdict(read_device()),
        "kernel": platform.release(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": packages,
    }
