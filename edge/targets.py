"""The small computers that a bundle is made for, and where INT8 sums would saturate.

Without VNNI an x86 processor multiplies INT8 with `vpmaddubsw`, which adds two products of an unsigned and a signed byte in 16
bits: 255 · 127 · 2 is more than these hold, so a sum is cut off. OpenVINO and ONNX Runtime use it; weights of half the range fit
(255 · 64 · 2 = 32640). LiteRT's kernels (XNNPACK) do not saturate: on such a processor they widen to 16 bits before they
multiply, and on Arm without dot product they add two products of signed bytes in 16 bits at most: 2 · 127 · 128 = 32512 fits, as
TFLite's weights are never −128. docs/doctor.md has what each engine answered.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from edge.device import ARM, VNNI, X86, Device
from edge.errors import EdgekitError

HERE: Final = "here"
_SATURATING: Final = frozenset({"openvino", "onnx"})
_OLDEST_GLIBC: Final = 17
_GLIBC: Final = 36
"""Of Debian 12 and with it Raspberry Pi OS; Ubuntu since 23.04 has a newer one."""


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of computer.

    title: in words. machine: of its kernel. engine: the best there. weight_range: "half" where INT8 of the full range would
    saturate on that engine. network: the built-in one that is fast enough there. features: what its processor must have, in
    the kernel's words; one of them is enough. platforms: tags of wheels that run there, the newest first.
    """

    name: str
    title: str
    machine: str
    engine: str
    weight_range: str
    network: str
    features: frozenset[str]
    platforms: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.weight_range not in ("full", "half"):
            raise ValueError(f"{self.name}: weight_range {self.weight_range!r} is neither full nor half")

    @property
    def why_range(self) -> str:
        """The reason for the weight range, in one line."""
        if self.weight_range == "half":
            return "without VNNI OpenVINO and ONNX Runtime sum two INT8 products in 16 bits"
        return f"{self.engine} sums INT8 products in 32 bits there"


def _wheels(machine: str, *older: str) -> tuple[str, ...]:
    newest = range(_GLIBC, _OLDEST_GLIBC - 1, -1)
    return (*(f"manylinux_2_{minor}_{machine}" for minor in newest), *(f"{name}_{machine}" for name in older))


_ARM_WHEELS: Final = _wheels("aarch64", "manylinux2014")
_X86_WHEELS: Final = _wheels("x86_64", "manylinux2014", "manylinux2010", "manylinux1")

TARGETS: Final = {
    target.name: target
    for target in (
        Target(
            "pi4",
            "Arm without dot product, as Raspberry Pi 4",
            "aarch64",
            "litert",
            "full",
            "emtnet-s",
            frozenset({"asimd"}),
            _ARM_WHEELS,
        ),
        Target(
            "pi5",
            "Arm with dot product, as Raspberry Pi 5",
            "aarch64",
            "litert",
            "full",
            "emtnet",
            frozenset({"asimddp"}),
            _ARM_WHEELS,
        ),
        Target(
            "nuc",
            "x86 with VNNI, as Intel NUC since its 11th generation",
            "x86_64",
            "openvino",
            "full",
            "emtnet",
            VNNI,
            _X86_WHEELS,
        ),
        Target(
            *(
                "nuc-avx2",
                "x86 without VNNI, as Intel NUC before its 11th generation",
                "x86_64",
                "openvino",
                "half",
                "emtnet",
            ),
            frozenset({"avx2"}),
            _X86_WHEELS,
        ),
    )
}


def target_of(device: Device) -> Target:
    """The target that a device is of its kind. Raises EdgekitError where it is of none."""
    if device.machine.lower() in ARM:
        return TARGETS["pi5" if "asimddp" in device.features else "pi4"]
    if device.machine.lower() in X86:
        return TARGETS["nuc" if VNNI & set(device.features) else "nuc-avx2"]
    raise EdgekitError(f"no target for a {device.machine} machine; there are {', '.join(TARGETS)}")


def find_target(name: str, device: Device | None = None) -> Target:
    """A target by name, or for "here" that of `device`. Raises EdgekitError for an unknown name."""
    if name == HERE and device is not None:
        return target_of(device)
    if name not in TARGETS:
        raise EdgekitError(f"target {name!r} is none of {', '.join(TARGETS)}, {HERE}")
    return TARGETS[name]


def saturates(engine: str, machine: str, features: Collection[str]) -> bool:
    """Whether an engine's INT8 sums of the full weight range saturate on the CPU of such a machine."""
    return engine in _SATURATING and machine.lower() in X86 and not VNNI & set(features)
