"""A bundle of small files whose manifest has no empty field, and what changes it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.bundle import Bundle, describe_file, new_bundle, write_manifest
from edge.golden_answers import Golden, GoldenAnswer, GoldenBounds, GoldenFrame
from edge.manifest import (
    MANIFEST,
    SCHEMA,
    Artifact,
    Calibration,
    InputSpec,
    Manifest,
    Missing,
    OperatingPoint,
    OutputSpec,
    Training,
)
from edge.ood import Familiarity, FeatureReference
from edge.presence import Presence

FILES = {
    "int8.xml": b"<net/>",
    "int8.bin": bytes(range(256)),
    "fp32.xml": b"<net fp32/>",
    "deep/int8.tflite": b"TFL3 int8",
    "fp32.tflite": b"TFL3 fp32",
    "int8.onnx": b"onnx int8",
    "golden/0.png": b"a frame",
    "golden/0-mask.png": b"its mask",
}
ARTIFACTS = {  # worst first: nothing may depend on the order in the manifest
    ("onnx", "int8"): ("int8.onnx",),
    ("litert", "fp32"): ("fp32.tflite",),
    ("litert", "int8"): ("deep/int8.tflite",),
    ("openvino", "fp32"): ("fp32.xml",),
    ("openvino", "int8"): ("int8.xml", "int8.bin"),
}
WHITENING = ((1.0,), (0.5, 2.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 1.0))
PACKAGES = {"openvino": "openvino", "litert": "ai_edge_litert", "onnx": "onnxruntime"}


def manifest_of(folder: Path) -> Manifest:
    """Describe the files of FILES, written to `folder`, by a manifest without empty fields."""
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return Manifest(
        schema=SCHEMA,
        network="EMT-Net",
        source_sha256="c0ffee",
        input=InputSpec("image", 256, 192, 3, (123.7, 116.3, 103.5), (58.4, 57.1, 57.4), "letterbox"),
        outputs=(
            OutputSpec("mask", "mask", "softmax", (1, 2, 128, 96)),
            OutputSpec("malignancy", "class", "sigmoid", (1, 1)),
            OutputSpec("other", "other", "none", (1, 64, 8, 6)),
            OutputSpec("features", "features", "none", (1, 4)),
        ),
        labels=("benign", "malignant"),
        operating_point=OperatingPoint(0.37, "malignant", "BUS-BRA fold 1 – sensitivity ≥ 0.941", 1.7, 0.41),
        presence=Presence(1.3, 0.4, 0.25, "BUSI fold 1", 0.21),
        weight_range="full",
        artifacts=tuple(
            Artifact(
                engine,
                precision,
                tuple(describe_file(folder, folder / name) for name in names),
                (43, 45) if (engine, precision) == ("litert", "int8") else None,
                0.0021 if precision == "int8" else None,
            )
            for (engine, precision), names in ARTIFACTS.items()
        ),
        missing=(Missing("onnx", "fp32", "not asked for"),),
        guesses=("the mask is the output of rank 4",),
        drift={"dice_loss": 0.001, "flips": [1, 2]},
        versions={"edgekit": "0.1.0"},
        calibration=Calibration("BUSI", 2, ("aa", "bb"), "ff"),
        training=Training(("BUS-BRA (CC BY 4.0)",), ("cc",), ("dd",)),
        features=Familiarity(
            ("ee",),
            "BUSI fold 1",
            fp32=FeatureReference((1, 3), (0.1, 0.2, 0.3, 0.4), WHITENING, 1.5),
            int8=FeatureReference((4,), (0.2, 0.2, 0.3, 0.4), WHITENING, 1.4),
        ),
        golden=golden_of(folder),
    )


def golden_of(folder: Path) -> Golden:
    """A golden frame with an answer in each precision."""
    frame, mask = (describe_file(folder, folder / f"golden/{name}.png") for name in ("0", "0-mask"))
    answers = tuple(GoldenAnswer(p, "malignant", (0.25, 0.75), 0.875, mask) for p in ("fp32", "int8"))
    return Golden((GoldenFrame(frame, answers),), GoldenBounds(0.01, 0.8, 0.2))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    with new_bundle(tmp_path / "bundle") as folder:
        write_manifest(folder, manifest_of(folder))
    return Bundle.open(tmp_path / "bundle")


@pytest.fixture
def edit(bundle: Bundle) -> Callable[[Callable[[Any], object]], Path]:
    """Change the manifest's JSON in place."""

    def change(edit: Callable[[Any], object]) -> Path:
        raw = json.loads((bundle.path / MANIFEST).read_text())
        edit(raw)
        (bundle.path / MANIFEST).write_text(json.dumps(raw))
        return bundle.path

    return change


Edit = Callable[[Callable[[Any], object]], Path]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def objects(raw: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all JSON objects that are records of the schema (versions and drift are free)."""
    if isinstance(raw, dict) and at not in {("versions",), ("drift",)}:
        yield at
    for key, value in raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ():
        yield from objects(value, (*at, key))


def at(raw: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        raw = raw[key]
    return raw
