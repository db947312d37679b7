"""The pipeline: checkpoint or ONNX → QDQ ONNX → OpenVINO IR and TFLite → bundle. Read this first."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import onnx

from calibration.familiarity import fit_reference
from calibration.subset import CalibrationFrames
from edge.bundle import Bundle, describe_file, new_bundle, write_manifest
from edge.errors import CalibrationError, ConversionError, DataError, MissingDependencyError, require
from edge.frame import GreyImage
from edge.manifest import PHANTOM, PRECISIONS, SCHEMA, Artifact, Calibration, InputSpec, Manifest, Missing, Training
from edge.ood import Familiarity
from edge.phantom import phantom_case
from edge.preprocess import Resize, preprocess
from edge.versions import versions
from emtnet.engine import FEATURE_VECTOR, LABELS, MALIGNANCY, mask_output
from emtnet.network import FEATURES, INPUT_SIZE, ExportedEmtNet
from emtnet.weights import load_checkpoint
from quantize.answers import answers_of, features_of
from quantize.description import Description
from quantize.golden import with_golden
from quantize.head_bias import match_score_means
from quantize.network import Network
from quantize.onnx_graph import INPUT_NAME, WeightRange, export_torch
from quantize.onnx_import import check_import, import_onnx, load_onnx
from quantize.openvino_ir import write_ir
from quantize.ptq import quantise
from quantize.qdq import complete, store_as_uint8
from quantize.thresholds import with_int8_thresholds
from quantize.verify import verified

PACKAGES: Final = (
    "edgekit-ultrasound",
    "torch",
    "onnx",
    "nncf",
    "onnxruntime",
    "openvino",
    "ai-edge-litert",
    "numpy",
)
"""Whose versions a manifest keeps: they make the artifacts."""
ENGINES: Final = ("onnx", "openvino", "litert")
_CHECKED_FRAMES: Final = 3
_SIZE: Final = (INPUT_SIZE, INPUT_SIZE)

Stage = Callable[[str], None]


def read_network(model: Path | onnx.ModelProto, description: Description | None = None) -> Network:
    """Read an EMT-Net checkpoint (.safetensors) or an ONNX network, and check what became of it on three phantoms.

    description: how an ONNX network's input and outputs are to be read; what is not said is guessed where that is safe.
    Raises ConversionError, DataError; ValueError for a checkpoint with a description.
    """
    if isinstance(model, Path) and model.suffix == ".safetensors":
        if description is not None:
            raise ValueError("a checkpoint describes itself; leave the description out")
        return _read_checkpoint(model)
    loaded = load_onnx(model) if isinstance(model, Path) else model
    name = model.stem if isinstance(model, Path) else model.graph.name or "network"
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in loaded.graph.initializer):
        raise DataError(f"{name}: its weights are in another file and were not loaded; use onnx.load(path)")
    sha256 = hashlib.sha256(loaded.SerializeToString(deterministic=True)).hexdigest()
    network = import_onnx(loaded, description or Description(), name=name, source_sha256=sha256)
    check_import(loaded, network, _phantoms(network.input.size, network.input.resize))
    return network


def _read_checkpoint(checkpoint: Path) -> Network:
    weights, info = load_checkpoint(checkpoint)
    return Network(
        name=info.network,
        source_sha256=hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        model=export_torch(ExportedEmtNet(weights), _SIZE, _phantoms(_SIZE, "stretch")),
        quantised=False,
        input=InputSpec(INPUT_NAME, *_SIZE, channels=1, offset=(128.0,), scale=(128.0,), resize="stretch"),
        outputs=(mask_output(info.network), MALIGNANCY, FEATURE_VECTOR),
        labels=LABELS,
        operating_point=info.operating_point,
        presence=info.presence,
        training=Training(info.data, info.trained_on, info.tuned_on),
        feature_parts=FEATURES,
    )


def _phantoms(size: tuple[int, int], resize: Resize) -> list[GreyImage]:
    return [preprocess(phantom_case(seed).pixels, size, resize=resize) for seed in range(_CHECKED_FRAMES)]


def export_network(
    network: Network,
    out: Path,
    *,
    calibration: CalibrationFrames,
    familiar: CalibrationFrames | None = None,
    int8: bool,
    engines: Sequence[str] = (),
    precisions: Sequence[str] = ("fp32", "int8"),
    weight_range: WeightRange = "full",
    stage: Stage = lambda name: None,
) -> Bundle:
    """Convert a network to a bundle at `out` and return it; `quantize.export` has the parameters."""
    if unknown := {*engines} - {*ENGINES} | {*precisions} - {*PRECISIONS}:
        raise ValueError(f"{', '.join(sorted(unknown))}: neither an engine ({', '.join(ENGINES)}) nor a precision")
    images = [preprocess(frame, network.input.size, resize=network.input.resize) for frame in calibration.frames]
    if not (int8 or network.quantised):
        precisions = ("fp32",)
    with new_bundle(out) as folder:
        models = _models(network, images, precisions, weight_range, stage)
        artifacts, missing = _write_artifacts(folder, models, engines, images, stage)
        calibrated = "int8" in models and not network.quantised
        manifest = Manifest(
            schema=SCHEMA,
            network=network.name,
            source_sha256=network.source_sha256,
            input=network.input,
            outputs=network.outputs,
            labels=network.labels,
            operating_point=network.operating_point,
            presence=network.presence,
            weight_range=weight_range,
            artifacts=artifacts,
            missing=missing,
            drift=None,
            versions=versions(PACKAGES),
            calibration=_calibration(calibration) if calibrated else None,
            guesses=network.guesses,
            training=network.training,
        )
        if "int8" in models and not network.quantised and (network.operating_point or network.presence):
            stage("INT8 thresholds")
            how = manifest.interpretation()
            answers = (answers_of(model, how, images) for model in (network.model, models["int8"]))
            manifest = with_int8_thresholds(manifest, *answers)
        manifest = _with_reference(manifest, network, models, familiar or calibration, stage)
        stage("golden frames")
        write_manifest(folder, with_golden(folder, manifest))
    return Bundle.open(out)


def _with_reference(
    manifest: Manifest, network: Network, models: dict[str, onnx.ModelProto], frames: CalibrationFrames, stage: Stage
) -> Manifest:
    """The manifest with a feature reference for each precision, or as it is where the frames do not give one.

    There is no reference to phantoms: every real picture would be unlike them.
    """
    spec = manifest.features_output
    if spec is None or frames.source == PHANTOM:
        return manifest
    count = len(frames.frames)
    stage(f"feature reference of {count} frames")
    images = [preprocess(frame, network.input.size, resize=network.input.resize) for frame in frames.frames]
    try:
        references = {
            precision: fit_reference(
                features_of(model, spec.name, images), parts=network.feature_parts, groups=frames.groups
            )
            for precision, model in models.items()
        }
    except CalibrationError as error:
        stage(f"no feature reference: {error}")
        return manifest
    known = Familiarity(frames.sha256, f"{count} frames of {frames.source}, cross-fitted", **references)
    return replace(manifest, features=known)


def _models(
    network: Network, images: Sequence[GreyImage], precisions: Sequence[str], weight_range: WeightRange, stage: Stage
) -> dict[str, onnx.ModelProto]:
    """The network by precision."""
    if network.quantised:
        if weight_range != "full":
            raise ConversionError(f"{network.name} has quantisers already, which stay; the weight range is theirs")
        if "int8" not in precisions:
            raise ConversionError(
                f"{network.name} has quantisers already, so there is no FP32 of it; leave --precision out"
            )
        return {"int8": store_as_uint8(network.model)}
    models = {"fp32": network.model}
    if "int8" in precisions:
        stage(f"quantising on {len(images)} frames")
        quantised = complete(
            quantise(network.model, images, weight_range=weight_range), images, weight_range=weight_range
        )
        models["int8"] = match_score_means(quantised, network.model, images)
    return {precision: model for precision, model in models.items() if precision in precisions}


def _write_artifacts(
    folder: Path,
    models: dict[str, onnx.ModelProto],
    engines: Sequence[str],
    images: Sequence[GreyImage],
    stage: Stage,
) -> tuple[tuple[Artifact, ...], tuple[Missing, ...]]:
    """Write every model in every format and run it. An engine asked for by name that fails raises; the others are noted."""
    artifacts, missing = [], []
    for precision, model in models.items():
        source = folder / f"{precision}.onnx"
        source.write_bytes(model.SerializeToString())
        for engine in ENGINES:
            if engines and engine not in engines and engine != "onnx":
                continue
            stage(f"{engine} {precision}")
            try:
                files = list(_WRITERS[engine](model, source))
                artifact = Artifact(engine, precision, tuple(describe_file(folder, file) for file in files))
                artifacts.append(verified(artifact, folder, source, images))
            except (ConversionError, MissingDependencyError) as error:
                if engine in engines:
                    raise
                missing.append(Missing(engine, precision, str(error)))
                _forget(source, engine)
    if missing and not artifacts:
        raise ConversionError(missing[0].reason)
    return tuple(artifacts), tuple(missing)


def _forget(source: Path, engine: str) -> None:
    """Remove what an engine left behind that could not be used."""
    for suffix in {"openvino": (".xml", ".bin"), "litert": (".tflite",)}.get(engine, ()):
        source.with_suffix(suffix).unlink(missing_ok=True)


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


def _calibration(frames: CalibrationFrames) -> Calibration:
    whole = hashlib.sha256("".join(frames.sha256).encode()).hexdigest()
    return Calibration(frames.source, len(frames.frames), frames.sha256, whole)
