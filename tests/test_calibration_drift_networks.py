"""Drift of networks that are not ours: whatever outputs they have, and nothing said of those they have not."""

import json
from pathlib import Path

import pytest
from foreign_bundles import CLASSES, FEATURES, MASK, write_bundle

from calibration.dataset import Dataset
from calibration.drift import check_drift
from edge.bundle import OutputSpec

EVERY = (MASK, CLASSES, FEATURES)


@pytest.fixture
def dataset(small_dataset: Path) -> Dataset:
    return Dataset.open([small_dataset])


@pytest.mark.parametrize("outputs", [EVERY, (MASK,), (CLASSES,), (FEATURES,), (FEATURES, MASK)])
def test_a_network_agrees_with_its_own_copy_in_everything_it_has(
    outputs: tuple[OutputSpec, ...], dataset: Dataset, tmp_path: Path
) -> None:
    report = check_drift(write_bundle(tmp_path / "bundle", *outputs), dataset, threads=1)
    json.dumps(report.to_json(), allow_nan=False)
    kinds = {output.kind for output in outputs}
    assert report.passed
    assert report.labelled == (report.reference is not None) == bool(kinds & {"mask", "class"})
    assert len(report.artifacts) == 2
    for artifact in report.artifacts:
        assert artifact.engine_agreement is not None
        for found in (artifact.agreement, artifact.engine_agreement):
            assert found.frames == len(dataset) == 20
            assert found.outputs == {output.name: pytest.approx(0.0, abs=1e-6) for output in outputs}
            assert (found.mask_mean is None) == (found.mask_dice_min is None) == ("mask" not in kinds)
            assert (found.malignancy_mean is None) == (found.malignancy_max is None) == ("class" not in kinds)
        assert (artifact.flips is None) == ("class" not in kinds)
        assert len(artifact.results) == (20 if report.labelled else 0)
        if artifact.metrics is not None and artifact.delta is not None:
            assert (artifact.metrics.auc is None) == ("auc" not in artifact.delta) == ("class" not in kinds)
            assert (artifact.metrics.dice_mean is None) == ("dice_mean" not in artifact.delta) == ("mask" not in kinds)


@pytest.mark.parametrize("outputs", [EVERY, (FEATURES,)])
def test_an_error_of_one_engine_shows_against_the_referee_and_fails(
    outputs: tuple[OutputSpec, ...], dataset: Dataset, tmp_path: Path
) -> None:
    """Three grey levels of 254: 1.2 % of the features' range."""
    report = check_drift(write_bundle(tmp_path / "bundle", *outputs, openvino_brighter=3.0), dataset, threads=1)
    assert [artifact.passed for artifact in report.artifacts] == [True, False]
    right, wrong = (artifact.engine_agreement for artifact in report.artifacts)
    assert right is not None
    assert wrong is not None
    assert right.outputs["features"] == pytest.approx(0.0, abs=1e-6)
    assert wrong.outputs["features"] == pytest.approx(3 / 254, rel=0.05)
    assert "differs from the other engines" in report.artifacts[1].reasons[-1]


def test_an_error_of_the_int8_graph_is_no_error_of_an_engine(dataset: Dataset, tmp_path: Path) -> None:
    report = check_drift(write_bundle(tmp_path / "bundle", FEATURES, int8_brighter=3.0), dataset, threads=1)
    assert report.passed
    for artifact in report.artifacts:
        assert artifact.agreement.outputs["features"] == pytest.approx(3 / 254, rel=0.05)
        assert artifact.engine_agreement is not None
        assert artifact.engine_agreement.outputs["features"] == pytest.approx(0.0, abs=1e-6)


def test_another_positive_label_is_not_held_against_the_labels(dataset: Dataset, tmp_path: Path) -> None:
    report = check_drift(write_bundle(tmp_path / "bundle", MASK, CLASSES, positive="benign"), dataset, threads=1)
    assert report.reference is not None
    assert (report.reference.auc, report.reference.sensitivity) == (None, None)
    assert report.reference.dice_mean is not None
    assert [artifact.flips for artifact in report.artifacts] == [None, None]
