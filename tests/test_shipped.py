"""The files that come with the package: checkpoints and built-in bundles."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import cv2
import pytest
from edgekit_command import Edgekit

from calibration.dataset import Dataset
from edge.bundle import BUILTIN, Bundle
from edge.frame import fingerprint
from edge.phantom import phantom_case
from edgekit.commands.options import NetworkName
from emtnet.engine import emtnet_interpretation
from emtnet.recipe import default_recipe
from emtnet.weights import SHIPPED, load_checkpoint

pytestmark = pytest.mark.parametrize("network", [name.value for name in NetworkName])


def test_a_shipped_checkpoint_was_trained_by_the_recipe_that_the_model_card_measures(network: str) -> None:
    _, info = load_checkpoint(SHIPPED[network])
    assert info.network == network
    assert info.guided
    assert {name: value for name, value in info.recipe.items() if name != "start"} == asdict(default_recipe(network))
    assert {"torch", "numpy"} <= info.versions.keys()
    assert any("BUS-BRA" in terms for terms in info.data)
    assert any("BUSI" in terms for terms in info.data)


def test_a_shipped_checkpoint_was_trained_on_every_fold_and_its_calls_are_fitted(network: str, shared: Path) -> None:
    _, info = load_checkpoint(SHIPPED[network])
    data = Dataset.open([shared / "data" / "busbra", shared / "data" / "busi"])
    assert len(info.trained_on) == len(set(info.trained_on)) == len(data)
    for fold in range(1, 6):
        case = next(case for case in data if case.fold == fold)
        assert fingerprint(case.read().pixels) in info.trained_on
    assert info.presence is not None
    assert "out-of-fold" in info.presence.chosen_on
    assert "sensitivity of 94.1%" in info.operating_point.chosen_on


def test_the_built_in_bundle_is_made_from_the_shipped_checkpoint(network: str) -> None:
    manifest = Bundle.open(BUILTIN[network]).manifest
    _, info = load_checkpoint(SHIPPED[network])
    assert manifest.network == network
    assert manifest.source_sha256 == hashlib.sha256(SHIPPED[network].read_bytes()).hexdigest()
    assert manifest.training.trained_on == info.trained_on
    assert manifest.operating_point is not None
    assert manifest.operating_point.int8_threshold is not None
    assert manifest.presence is not None
    assert manifest.presence.int8_threshold is not None
    assert manifest.interpretation() == emtnet_interpretation(network, info.operating_point, info.presence)
    assert (manifest.input.channels, manifest.input.offset, manifest.input.scale) == (1, (128.0,), (128.0,))
    assert not manifest.phantom_calibrated
    assert manifest.features is not None


def test_the_built_in_bundle_runs_in_int8_but_for_its_heads(network: str) -> None:
    bundle = Bundle.open(BUILTIN[network])
    counted = {(a.engine, a.precision): a.int8_convolutions for a in bundle.manifest.artifacts}
    assert counted.keys() == {("onnx", "int8"), ("openvino", "int8"), ("litert", "int8")}
    int8_and_all = counted["litert", "int8"]
    assert int8_and_all is not None
    assert int8_and_all[1] - int8_and_all[0] == 3  # the mask's layer, and the two that add up to the class
    for artifact in bundle.manifest.artifacts:
        bundle.verified_paths(artifact)


def test_network_chooses_the_built_in_bundle(network: str, edgekit: Edgekit, tmp_path: Path) -> None:
    frame = tmp_path / "frame.png"
    assert cv2.imwrite(str(frame), phantom_case(3).pixels)
    code, _, _ = edgekit("predict", frame, "--network", network, "-o", tmp_path / "findings")
    assert code == 0
    assert json.loads((tmp_path / "findings" / "predictions.json").read_text())["network"] == network


def test_network_chooses_the_checkpoint_that_is_exported(network: str, edgekit: Edgekit, tmp_path: Path) -> None:
    code, _, _ = edgekit(
        "export", "--network", network, "--precision", "fp32", "--engine", "onnx", "-o", tmp_path / "b"
    )
    assert code == 0
    made = Bundle.open(tmp_path / "b").manifest
    assert made.network == network
    assert made.source_sha256 == hashlib.sha256(SHIPPED[network].read_bytes()).hexdigest()
