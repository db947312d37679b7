"""The pipeline: checkpoint → ONNX → QDQ ONNX → OpenVINO IR and TFLite → bundle. Read this first."""

import hashlib
import platform
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import onnx

from calibration.dataset import LABELS
from calibration.subset import CalibrationFrames
from edge.bundle import (
    OUTPUT_KINDS,
    RESIZE,
    SCHEMA,
    Artifact,
    Bundle,
    Calibration,
    InputSpec,
    Manifest,
    Missing,
    OperatingPoint,
    OutputSpec,
    Training,
    describe_file,
    new_bundle,
    write_manifest,
)
from edge.errors import ConversionError, MissingDependencyError, require
from edge.preprocess import preprocess
from emtnet.network import INPUT_SIZE, MASK_STRIDE, ExportedEmtNet
from emtnet.weights import CheckpointInfo, load_checkpoint
from quantize.head_bias import match_score_means
from quantize.onnx_graph import INPUT_NAME, OUTPUT_NAMES, export_torch
from quantize.openvino_ir import write_ir
from quantize.ptq import WeightRange, quantise
from quantize.qdq import complete

ENGINES: Final = ("onnx", "openvino", "litert")
_CHECKED_FRAMES: Final = 3
_SIZE: Final = (INPUT_SIZE, INPUT_SIZE)

Stage = Callable[[str], None]


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    *,
    calibration: CalibrationFrames,
    int8: bool,
    engines: Sequence[str] = (),
    precisions: Sequence[str] = ("fp32", "int8"),
    weight_range: WeightRange = "full",
    stage: Stage = lambda name: None,
) -> Bundle:
    """Convert an EMT-Net checkpoint to a bundle at `out` and return it.

    calibration: frames for the INT8 ranges; the first three also check the ONNX against PyTorch. int8: make INT8
    artifacts beside the FP32 ones. engines: those asked for by name, which must succeed; with none named all are tried and what
    cannot be made is listed as missing. precisions: what to keep in the bundle. stage: called with a line for each step.
    The bundle appears whole or not at all. Raises ConversionError, CalibrationError, DataError, BundleError, SinkError.
    """
    network, info = load_checkpoint(checkpoint)
    images = [preprocess(frame, _SIZE) for frame in calibration.frames]
    with new_bundle(out) as folder:
        stage("PyTorch → ONNX")
        models = {"fp32": export_torch(ExportedEmtNet(network), _SIZE, images[:_CHECKED_FRAMES])}
        if int8 and "int8" in precisions:
            stage(f"quantising on {len(images)} {calibration.source} frames")
            qdq = complete(quantise(models["fp32"], images, weight_range=weight_range))
            models["int8"] = match_score_means(qdq, models["fp32"], images)
        models = {precision: model for precision, model in models.items() if precision in precisions}
        artifacts, missing = _write_artifacts(folder, models, engines, stage)
        manifest = Manifest(
            schema=SCHEMA,
            network=info.network,
            checkpoint_sha256=hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
            input=InputSpec(INPUT_NAME, INPUT_SIZE, INPUT_SIZE, offset=128.0, scale=128.0, resize=RESIZE),
            outputs=_outputs(),
            labels=LABELS,
            operating_point=OperatingPoint(info.threshold, _chosen_on(info)),
            weight_range=weight_range,
            artifacts=artifacts,
            missing=missing,
            drift=None,
            versions=versions(),
            calibration=_calibration(calibration) if "int8" in models else None,
            training=Training(info.data, info.trained_on, info.tuned_on),
        )
        write_manifest(folder, manifest)
    return Bundle.open(out)


def _write_artifacts(
    folder: Path, models: dict[str, onnx.ModelProto], engines: Sequence[str], stage: Stage
) -> tuple[tuple[Artifact, ...], tuple[Missing, ...]]:
    """Write every model in every format. An engine asked for by name that fails raises; the others are noted."""
    artifacts, missing = [], []
    for precision, model in models.items():
        source = folder / f"{precision}.onnx"
        source.write_bytes(model.SerializeToString())
        for engine in ENGINES:
            if engines and engine not in engines and engine != "onnx":
                continue
            stage(f"{engine} {precision}")
            try:
                files = _WRITERS[engine](model, source)
            except (ConversionError, MissingDependencyError) as error:
                if engine in engines:
                    raise
                missing.append(Missing(engine, precision, str(error)))
            else:
                described = tuple(describe_file(folder, file) for file in files)
                artifacts.append(Artifact(engine, precision, described))
    return tuple(artifacts), tuple(missing)


def _write_onnx(model: onnx.ModelProto, source: Path) -> Iterable[Path]:
    return (source,)


def _write_openvino(model: onnx.ModelProto, source: Path) -> Iterable[Path]:
    return write_ir(source, source.with_suffix(".xml"))


def _write_litert(model: onnx.ModelProto, source: Path) -> Iterable[Path]:
    require("ai_edge_litert", extra="litert")
    from quantize.tflite.lower import to_tflite

    path = source.with_suffix(".tflite")
    path.write_bytes(to_tflite(model))
    return (path,)


_WRITERS: Final[dict[str, Callable[[onnx.ModelProto, Path], Iterable[Path]]]] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "litert": _write_litert,
}


def _outputs() -> tuple[OutputSpec, ...]:
    side = INPUT_SIZE // MASK_STRIDE
    shapes = {"mask": (1, 1, side, side), "malignancy": (1, 1)}
    return tuple(OutputSpec(name, OUTPUT_KINDS[name], shapes[name]) for name in OUTPUT_NAMES)


def _calibration(frames: CalibrationFrames) -> Calibration:
    whole = hashlib.sha256("".join(frames.sha256).encode()).hexdigest()
    return Calibration(frames.source, len(frames.frames), frames.sha256, whole)


def _chosen_on(info: CheckpointInfo) -> str:
    return f"{len(info.tuned_on)} selection frames of the training run, for a sensitivity of 94.1 %"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that make artifacts."""
    found = {"python": platform.python_version()}
    for package in (
        "edgekit-ultrasound",
        "torch",
        "onnx",
        "nncf",
        "onnxruntime",
        "openvino",
        "ai-edge-litert",
        "numpy",
    ):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
