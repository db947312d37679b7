"""Checkpoint or ONNX → QDQ ONNX → OpenVINO IR and TFLite → bundle; `export` does all of it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quantize.description import Description

if TYPE_CHECKING:
    import onnx

    from calibration.subset import CalibrationFrames
    from edge.bundle import Bundle
    from quantize.onnx_graph import WeightRange

__all__ = ["Description", "export"]


def export(
    model: "Path | str | onnx.ModelProto",
    out: Path | str,
    *,
    calibration: "CalibrationFrames | None" = None,
    familiar: "CalibrationFrames | None" = None,
    description: Description | None = None,
    int8: bool = True,
    engines: Sequence[str] = (),
    precisions: Sequence[str] = ("fp32", "int8"),
    weight_range: "WeightRange" = "full",
    stage: Callable[[str], None] = lambda name: None,
) -> "Bundle":
    """Convert a network to a bundle of FP32 and INT8 artifacts for ONNX Runtime, OpenVINO and LiteRT.

    model: an ONNX file or model of one image input, or an EMT-Net checkpoint (.safetensors). out: the bundle's folder; it
    appears whole or not at all. calibration: frames for the INT8 ranges, (H, W) uint8 each (`calibration.subset`); 300 phantoms
    when None. familiar: frames for the guard's feature reference, as many and as they come; those of `calibration` when None,
    and none of phantoms. description: how an ONNX network's input and outputs are to
    be read; what is not said is guessed where that is safe, and listed in the manifest. int8: make INT8 artifacts beside the FP32
    ones; a network that came with quantisers gives INT8 ones only, with its own scales. engines: those asked for by name ("onnx",
    "openvino", "litert"), which must succeed; with none named all are tried and what cannot be made is listed as missing, with
    the reason. precisions: what to keep in the bundle. weight_range: "half" for x86 processors without VNNI. stage: called with
    a line for each step.

    Raises ConversionError when the network cannot be converted, CalibrationError with too few frames, DataError for a file that
    cannot be read, BundleError and SinkError when `out` cannot be written, ValueError for an unknown engine or precision.
    """
    from calibration.subset import DEFAULT_COUNT, phantom_frames
    from quantize.pipeline import export_network, read_network

    if weight_range not in ("full", "half"):
        raise ValueError(f"weight_range {weight_range!r} is neither full nor half")
    if not int8 and "fp32" not in precisions:
        raise ValueError("INT8 artifacts need int8=True")
    network = read_network(Path(model) if isinstance(model, str) else model, description)
    return export_network(
        network,
        Path(out),
        calibration=phantom_frames(count=DEFAULT_COUNT if int8 else 16) if calibration is None else calibration,
        familiar=familiar,
        int8=int8,
        engines=engines,
        precisions=precisions,
        weight_range=weight_range,
        stage=stage,
    )
