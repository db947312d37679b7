"""Networks of other families through the whole pipeline: FP32 and INT8, on all three engines.

The weights are random with fitted batch norms (`benchmarks.zoo`), so rounding errors grow more than in a trained network: the
bounds here catch a wrong operator, and `benchmarks/scripts/zoo_table.py` has the figures of the trained ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from test_quantize_support import Array, interpreter

from benchmarks.zoo import ZOO
from benchmarks.zoo.export import export_onnx
from calibration.subset import CalibrationFrames
from edge.bundle import Bundle
from edge.engines import open_artifact
from edge.engines.onnx import open_referee
from edge.frame import fingerprint
from quantize import Description, export

SLOW = {"efficientnet_lite", "densenet_unet", "segmenter_softmax", "resnet_unet", "mobilenet_v2_unet"}
"""Exported by `make test-all` alone, for the time they take: other networks and tests of one operator have what is in them."""
NETWORKS = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in ZOO]
FRAMES = 6
CALIBRATED_ON = 12
CALIBRATION_SEED = 1000
FLOAT_HEADS = {"classifier_only": 1, "segmenter_softmax": 1, "deeplab": 1, "efficientnet_lite": 1}
"""Layers with weights that end an output; all other networks have two."""
LARGEST = 0.06
"""Mean |Δ| between engines as a share of the range over six frames: random networks amplify a rounding."""

Outputs = Mapping[str, Array]


@dataclass(frozen=True)
class Made:
    """A bundle of a network, and what its engines and referees say of six frames: (engine, precision) → outputs."""

    bundle: Bundle
    answers: dict[tuple[str, str], Outputs]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


@cache
def made(name: str, folder: Path) -> Made:
    entry = ZOO[name]
    pixels = tuple(entry.frames(CALIBRATED_ON, first=CALIBRATION_SEED)[:, 0])
    bundle = export(
        export_onnx(entry),
        folder / name,
        calibration=CalibrationFrames("phantom", pixels, tuple(map(fingerprint, pixels))),
        description=Description(
            mean=tuple(value / 255 for value in entry.mean), std=tuple(value / 255 for value in entry.std)
        ),
    )
    frames = entry.frames(FRAMES)[:, 0]
    engines = {
        ("referee", precision): open_referee(bundle.path / f"{precision}.onnx") for precision in ("fp32", "int8")
    }
    answers: dict[tuple[str, str], Outputs] = {}
    for key, engine in engines.items():
        answers[key] = stacked([engine.infer(frame) for frame in frames])
    for artifact in bundle.manifest.artifacts:
        opened = open_artifact(bundle, artifact, threads=1)
        answers[artifact.engine, artifact.precision] = stacked([opened.infer(frame) for frame in frames])
        opened.close()
    return Made(bundle, answers)


def stacked(answers: list[Mapping[str, Array]]) -> Outputs:
    return {name: np.stack([answer[name] for answer in answers]) for name in answers[0]}


def share(got: Array, wanted: Array) -> float:
    """Mean |Δ| as a share of the range."""
    return float(np.abs(got - wanted).mean() / (wanted.max() - wanted.min()))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_engine_has_both_precisions(name: str, folder: Path) -> None:
    manifest = made(name, folder).bundle.manifest
    assert manifest.missing == ()
    assert len(manifest.artifacts) == 6
    assert {output.name for output in manifest.outputs} == set(ZOO[name].outputs)


@pytest.mark.parametrize("engine", ["litert", "openvino", "onnx"])
@pytest.mark.parametrize("name", NETWORKS)
def test_fp32_is_that_of_onnx_runtime(name: str, engine: str, folder: Path) -> None:
    answers = made(name, folder).answers
    for output, wanted in answers["referee", "fp32"].items():
        got = answers[engine, "fp32"][output]
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).max() <= 1e-3 * np.abs(wanted).max()


@pytest.mark.parametrize("engine", ["litert", "openvino", "onnx"])
@pytest.mark.parametrize("name", NETWORKS)
def test_int8_is_that_of_the_referee(name: str, engine: str, folder: Path) -> None:
    answers = made(name, folder).answers
    for output, wanted in answers["referee", "int8"].items():
        assert share(answers[engine, "int8"][output], wanted) <= LARGEST


@pytest.mark.parametrize("name", NETWORKS)
def test_int8_follows_fp32(name: str, folder: Path) -> None:
    """Each output of the INT8 network tells frames and pixels apart as the FP32 one does."""
    answers = made(name, folder).answers
    for output, wanted in answers["referee", "fp32"].items():
        got = answers["litert", "int8"][output]
        centred = [values - values.mean() for values in (wanted.astype(np.float64), got.astype(np.float64))]
        correlation = (centred[0] * centred[1]).sum() / np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
        assert correlation >= 0.9


@pytest.mark.parametrize("name", NETWORKS)
def test_all_layers_but_the_heads_are_int8(name: str, folder: Path) -> None:
    bundle = made(name, folder).bundle
    counted = bundle.choose(engine="litert", precision="int8").int8_convolutions
    assert counted is not None
    int8, every = counted
    assert int8 == every - FLOAT_HEADS.get(name, 2)
    assert int8 >= 7


@pytest.mark.parametrize("name", NETWORKS)
def test_xnnpack_takes_int8_in_one_piece(name: str, folder: Path) -> None:
    """Each operator that it does not take cuts the graph, and every cut costs."""
    bundle = made(name, folder).bundle
    content = (bundle.path / "int8.tflite").read_bytes()
    details = interpreter(content)._get_ops_details()
    assert sum(item["op_name"] == "DELEGATE" for item in details) == 1
