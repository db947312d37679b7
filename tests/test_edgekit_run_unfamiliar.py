"""`edgekit run` with a bundle that has a feature reference."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
from edgekit_command import Edgekit
from foreign_bundles import MASK, write_bundle

from edge.bundle import write_manifest
from edge.manifest import OutputSpec
from edge.ood import Familiarity, FeatureReference
from edge.phantom import phantom_case
from edge.sources.opening import is_synthetic

COLOURS = OutputSpec("flat", "features", "none", (1, 3))
"""The mean of each colour channel, (p − 128) / 128."""
FAR = FeatureReference((3,), (5.0,) * 3, ((1.0,), (0.0, 1.0), (0.0, 0.0, 1.0)), 1.0)
NEAR = replace(FAR, limit=100.0)
NOWHERE = Familiarity((), "pictures whiter than white", fp32=FAR, int8=FAR)
ONLY_INT8 = Familiarity((), "any picture, but for FP32", fp32=FAR, int8=NEAR)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(3):
        cv2.imwrite(str(folder / f"{seed}.png"), phantom_case(seed, size=(96, 112)).pixels)
    return folder


def ledger(edgekit: Edgekit, folder: Path, source: object, reference: Familiarity | None, *more: str) -> dict[str, int]:
    """Frames by outcome, and those unfamiliar."""
    bundle = write_bundle(folder / "bundle", MASK, COLOURS)
    write_manifest(bundle.path, replace(bundle.manifest, features=reference))
    arguments = ("--bundle", bundle.path, "--engine", "onnx", "--policy", "all", "--roi", "none", *more)
    code, _, err = edgekit("run", source, *arguments, "--json", folder / "ledger.json")
    assert code == 0, err
    record = json.loads((folder / "ledger.json").read_text())
    rejected = record["reasons"].get("rejected", {})
    unfamiliar = sum(count for why, count in rejected.items() if why.startswith("unfamiliar"))
    return {name: record[name] for name in ("processed", "rejected")} | {"unfamiliar": unfamiliar}


def test_pictures_unlike_those_of_calibration_are_rejected_and_told(
    edgekit: Edgekit, pictures: Path, tmp_path: Path
) -> None:
    found = ledger(edgekit, tmp_path, pictures, NOWHERE)
    assert found["unfamiliar"] == found["rejected"] == 3


def test_the_precision_that_runs_has_its_own_reference(edgekit: Edgekit, pictures: Path, tmp_path: Path) -> None:
    found = ledger(edgekit, tmp_path, pictures, ONLY_INT8, "--precision", "fp32")
    assert found["unfamiliar"] == 3


@pytest.mark.parametrize(
    ("reference", "more"),
    [(ONLY_INT8, ("--precision", "int8")), (None, ()), (NOWHERE, ("--no-guard",))],
    ids=["near", "none", "no guard"],
)
def test_other_pictures_are_answered(
    edgekit: Edgekit, pictures: Path, tmp_path: Path, reference: Familiarity | None, more: tuple[str, ...]
) -> None:
    found = ledger(edgekit, tmp_path, pictures, reference, *more)
    assert (found["processed"], found["unfamiliar"]) == (3, 0)


def test_a_simulated_probe_is_not_held_against_real_pictures(edgekit: Edgekit, tmp_path: Path) -> None:
    found = ledger(edgekit, tmp_path, "phantom:5?seconds=1&size=160x128", NOWHERE)
    assert (found["processed"], found["unfamiliar"]) == (5, 0)


@pytest.mark.parametrize(
    ("source", "synthetic"),
    [("phantom", True), ("phantom:", True), ("phantom:30?seed=3", True), ("phantoms", False), ("./phantom:", False)],
)
def test_only_the_simulated_probe_is_synthetic(source: str, synthetic: bool) -> None:
    assert is_synthetic(source) is synthetic
