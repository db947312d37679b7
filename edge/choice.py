"""Which artifact of a bundle runs here when nobody named an engine: the best whose engine works on this machine."""

import platform
import warnings
from collections.abc import Sequence
from typing import Final

from edge.device import cpu_features
from edge.engines import EngineWarning, is_installed, is_present
from edge.errors import EngineError
from edge.manifest import ENGINE_ORDER, PRECISIONS, Artifact
from edge.probe import engine_fault
from edge.targets import saturates

_SATURATION: Final = "saturates on this processor (x86 without VNNI), which spoils answers"
_WAY_OUT: Final = "use LiteRT (the extra 'litert'), FP32, or export with --target here"


def engine_order(machine: str) -> tuple[str, ...]:
    """Engines by preference on a processor family: on Arm OpenVINO runs few INT8 layers, LiteRT all of them.

    tflite-runtime comes after LiteRT, which is the same interpreter with newer kernels, on x86 after ONNX Runtime too.
    """
    if machine.lower() in ("aarch64", "arm64"):
        return ("litert", "tflite-runtime", "openvino", "onnx")
    return ENGINE_ORDER


def by_preference(artifacts: Sequence[Artifact], *, weight_range: str) -> list[Artifact]:
    """The best on this machine first: INT8 before FP32, engines as in `engine_order`, but INT8 that saturates here last.

    weight_range: of the bundle that they are of.
    """
    return sorted(_by_rank(artifacts), key=lambda a: saturates_here(a, weight_range))  # stable: as ranked otherwise


def _by_rank(artifacts: Sequence[Artifact]) -> list[Artifact]:
    order = engine_order(platform.machine())
    return sorted(artifacts, key=lambda a: (PRECISIONS.index(a.precision), order.index(a.engine)))


def first_working(candidates: Sequence[Artifact], *, weight_range: str) -> Artifact:
    """The best of artifacts that are wished for, at least one; they may be of several engines.

    They are taken as in `by_preference`. An engine that does not work here (`edge.probe`) is passed over with an EngineWarning
    that says why; saturation is told too. weight_range: the bundle's. Where no engine is installed it is the best of all: opening
    it says what to install. Raises EngineError where none works.
    """
    by_rank = _by_rank(candidates)
    usable = [artifact for artifact in by_rank if is_installed(artifact.engine)]
    if not usable:
        present = [artifact for artifact in by_rank if is_present(artifact.engine)]
        return (present or by_rank)[0]  # opening one that is present says what is wrong with it
    preferred = by_preference(usable, weight_range=weight_range)
    faults: dict[str, str] = {}
    chosen = preferred[0]
    if (
        len({artifact.engine for artifact in candidates}) > 1
    ):  # a single one says itself what is wrong when it is opened
        chosen, faults = _first_without_fault(preferred)
    for fault in faults.values():
        _warn(f"{fault}; {chosen.engine} {chosen.precision} is used instead")
    best = next(artifact for artifact in usable if artifact.engine not in faults)
    if saturates_here(chosen, weight_range):
        _warn(f"INT8 of {chosen.engine} {_SATURATION}; {_WAY_OUT}")
    elif saturates_here(best, weight_range):
        _warn(f"INT8 of {best.engine} {_SATURATION}; {chosen.engine} {chosen.precision} is used instead")
    return chosen


def saturates_here(artifact: Artifact, weight_range: str) -> bool:
    """Whether an artifact of a bundle with this weight range saturates on this machine's CPU (`edge.targets.saturates`)."""
    if artifact.precision != "int8" or weight_range != "full":
        return False
    return saturates(artifact.engine, platform.machine(), cpu_features())


def _first_without_fault(artifacts: Sequence[Artifact]) -> tuple[Artifact, dict[str, str]]:
    """The first whose engine works, and why those before it do not; engines after it are not tried."""
    faults: dict[str, str] = {}
    for artifact in artifacts:
        fault = faults.get(artifact.engine) or engine_fault(artifact.engine)
        if fault is None:
            return artifact, faults
        faults[artifact.engine] = fault
    raise EngineError(f"no installed engine works here: {'; '.join(faults.values())}; edgekit doctor looks again")


def _warn(text: str) -> None:
    warnings.warn(text, EngineWarning, stacklevel=1)  # one place for all callers: Python tells each text once
