"""Drift of networks that are not ours: whatever outputs they have, and nothing said of those they have not."""

import json
from pathlib import Path

import pytest
from foreign_bundles import CLASSES, FEATURES, MASK, write_bundle

from calibration.dataset import Dataset
from calibration.drift import check_drift
from edge.bundle import Bundle
from edge.engines.onnx import open_referee
from edge.manifest import OutputSpec
from edge.predictor import Predictor
from edge.presence import Presence

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


def between_the_scores(bundle: Bundle, dataset: Dataset) -> tuple[float, float]:
    """Two thresholds on the probability of malignancy, with malignant cases between them."""
    how = bundle.manifest.interpretation()
    predictor = Predictor(open_referee(bundle.path / "fp32.onnx"), how)
    scores = sorted(
        predictor.predict(case.read().pixels).probabilities["malignant"]
        for case in dataset
        if case.label == "malignant"
    )
    return (scores[0] + scores[1]) / 2, (scores[-2] + scores[-1]) / 2


def test_every_network_is_held_against_its_own_operating_point(dataset: Dataset, tmp_path: Path) -> None:
    """The same network with another threshold in INT8 loses calls, and nothing else."""
    low, high = between_the_scores(write_bundle(tmp_path / "probe", CLASSES), dataset)
    report = check_drift(
        write_bundle(tmp_path / "bundle", CLASSES, threshold=low, int8_threshold=high), dataset, threads=1
    )
    assert report.reference is not None
    assert report.reference.threshold == low
    assert report.reference.sensitivity == 0.8
    assert len(report.artifacts) == 2
    for artifact in report.artifacts:
        assert artifact.metrics is not None
        assert artifact.metrics.threshold == high
        assert artifact.metrics.sensitivity == 0.2
        assert artifact.flips is not None
        assert artifact.flips["malignant_to_benign"] == 3
        assert artifact.agreement.malignancy_max == pytest.approx(0.0, abs=1e-6)
        assert artifact.engine_agreement is not None
        assert artifact.engine_agreement.malignancy_max == pytest.approx(0.0, abs=1e-6)


def test_presence_has_a_threshold_of_its_own_in_each_precision(dataset: Dataset, tmp_path: Path) -> None:
    """In FP32 every frame shows a lesion, in INT8 none does: the masks are empty, their probabilities the same."""
    presence = Presence(1e-6, 0.0, 0.4, "nothing", 0.6)
    report = check_drift(write_bundle(tmp_path / "bundle", MASK, presence=presence), dataset, threads=1)
    assert report.reference is not None
    assert report.reference.dice_mean is not None
    assert report.reference.dice_mean > 0.0
    for artifact in report.artifacts:
        assert artifact.metrics is not None
        assert artifact.metrics.dice_mean == 0.0
        assert {result.decision for result in artifact.results} == {"no lesion"}
        assert artifact.agreement.mask_max == pytest.approx(0.0, abs=1e-5)
