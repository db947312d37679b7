"""Evaluation: a predictor over a data set, case by case, at the frame's own size."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from calibration.dataset import Case, Dataset
from calibration.evaluation import evaluate
from calibration.metrics import hausdorff_95
from edge.frame import GreyImage
from edge.interpretation import Interpretation
from edge.manifest import OutputSpec
from edge.predictor import Predictor
from edge.presence import Presence

INTERPRETATION = Interpretation(
    input_size=(64, 64),
    resize="stretch",
    mask=OutputSpec("mask", "mask", "sigmoid", (1, 1, 32, 32)),
    classes=OutputSpec("malignancy", "class", "sigmoid", (1, 1)),
    labels=("benign", "malignant"),
    positive="malignant",
    threshold=0.5,
)


class LeftHalf:
    """An engine that finds the left half of every frame, with one logit of malignancy."""

    def __init__(self, logit: float) -> None:
        self.logit = logit

    def infer(self, image: GreyImage) -> Mapping[str, NDArray[np.float32]]:
        height, width = image.shape
        mask = np.full((1, 1, height // 2, width // 2), -20.0, np.float32)
        mask[..., : width // 4] = 20.0
        return {"mask": mask, "malignancy": np.array([[self.logit]], np.float32)}

    def close(self) -> None:
        pass


def left_half(logit: float = 0.0, *, threshold: float = 0.4) -> Predictor:
    return Predictor(LeftHalf(logit), replace(INTERPRETATION, threshold=threshold))


def test_every_case_is_scored_in_order_against_its_own_mask(small_dataset: Path) -> None:
    dataset = Dataset.open([small_dataset], folds=(1,))
    evaluation = evaluate(left_half(), dataset)
    assert [result.image for result in evaluation.results] == [case.name for case in dataset]
    assert [result.label for result in evaluation.results] == [case.label for case in dataset]
    for case, result in zip(dataset, evaluation.results, strict=True):
        assert result.probability == pytest.approx(0.5)
        assert result.lesion_share == pytest.approx(0.5, abs=0.01)
        truth = case.read().mask
        assert truth is not None
        if case.label == "normal":
            assert (result.dice, result.iou) == (None, None)
        else:
            half = np.zeros_like(truth)
            half[:, : truth.shape[1] // 2] = True
            both = (truth & half).sum()
            assert result.dice == pytest.approx(2 * both / (truth.sum() + half.sum()), abs=0.02)
            assert result.iou == pytest.approx(both / (truth | half).sum(), abs=0.02)


def test_calls_are_made_at_the_predictors_threshold(small_dataset: Path) -> None:
    dataset = Dataset.open([small_dataset], folds=(1,))
    assert evaluate(left_half(threshold=0.4), dataset).metrics.sensitivity == 1.0
    assert evaluate(left_half(threshold=0.6), dataset).metrics.sensitivity == 0.0
    assert evaluate(left_half(threshold=0.6), dataset).metrics.threshold == 0.6


def test_a_lesion_without_a_mask_has_no_overlap_but_a_probability(small_dataset: Path) -> None:
    case = Case(small_dataset / "images/0.png", "0.png", (), "benign")
    evaluation = evaluate(left_half(logit=100.0), Dataset((case,)))
    assert (evaluation.results[0].dice, evaluation.results[0].probability) == (None, 1.0)
    assert evaluation.metrics.dice_mean is None


CLASS_FIGURES = {
    "auc",
    "accuracy",
    "accuracy_at_half",
    "sensitivity",
    "specificity",
    "positive_predictive_value",
    "specificity_at_sensitivity_0.941",
    "normal_malignant_rate",
}
MASK_FIGURES = {"dice_mean", "iou_mean", "normal_false_alarm_rate"}


@pytest.mark.parametrize(
    ("change", "there", "absent"),
    [
        ({}, CLASS_FIGURES | MASK_FIGURES, set()),
        ({"mask": None}, CLASS_FIGURES, MASK_FIGURES),
        ({"classes": None, "positive": None, "threshold": None}, MASK_FIGURES, CLASS_FIGURES | {"threshold"}),
        ({"labels": ("malignant", "benign"), "positive": "benign"}, MASK_FIGURES, CLASS_FIGURES),
    ],
)
def test_figures_that_a_network_cannot_have_are_none(
    change: dict[str, Any], there: set[str], absent: set[str], small_dataset: Path
) -> None:
    dataset = Dataset.open([small_dataset], folds=(1,))
    evaluation = evaluate(Predictor(LeftHalf(0.3), replace(INTERPRETATION, **change)), dataset)
    record = evaluation.metrics.to_json()
    assert {name for name in CLASS_FIGURES | MASK_FIGURES | {"threshold"} if record[name] is None} == absent
    assert all(record[name] is not None for name in there)
    (case,) = {(r.probability is None, r.lesion_share is None) for r in evaluation.results}
    assert case == ("classes" in change, "mask" in change)
    json.dumps(evaluation.to_json(), allow_nan=False)


def test_the_report_holds_the_figures_and_every_case(small_dataset: Path) -> None:
    dataset = Dataset.open([small_dataset], folds=(3,))
    evaluation = evaluate(left_half(), dataset)
    report = evaluation.to_json()
    cases = report.pop("cases")
    assert report == evaluation.metrics.to_json()
    assert [case["image"] for case in cases] == [case.name for case in dataset]
    fields = ["image", "label", "probability", "dice", "iou", "lesion_share", "hd95", "presence", "decision"]
    assert list(cases[0]) == fields


@pytest.mark.parametrize(("threshold", "found"), [(0.5, True), (0.999, False)])
def test_overlap_is_counted_after_presence(threshold: float, found: bool, small_dataset: Path) -> None:
    dataset = Dataset.open([small_dataset], folds=(1,))
    how = replace(INTERPRETATION, presence=Presence(0.5, 0.0, threshold, "nothing"))
    results = evaluate(Predictor(LeftHalf(0.3), how), dataset).results
    assert [result.presence for result in results] == pytest.approx([0.990] * len(results), abs=0.001)
    assert {result.decision for result in results} == {"malignant" if found else "no lesion"}
    assert [result.lesion_share for result in results] == pytest.approx([0.5 * found] * len(results), abs=0.01)
    lesions = [result for result in results if result.label != "normal"]
    assert all(((result.dice or 0.0) > 0.0) == ((result.iou or 0.0) > 0.0) == found for result in lesions)


def test_without_a_presence_there_is_none(small_dataset: Path) -> None:
    results = evaluate(left_half(), Dataset.open([small_dataset], folds=(1,))).results
    assert {result.presence for result in results} == {None}
    assert {result.decision for result in results} == {"malignant"}


def test_distances_are_those_of_the_two_masks(small_dataset: Path) -> None:
    dataset = Dataset.open([small_dataset], folds=(1,))
    evaluation = evaluate(left_half(), dataset)
    for case, result in zip(dataset, evaluation.results, strict=True):
        truth = case.read().mask
        assert truth is not None
        half = np.zeros_like(truth)
        half[:, : truth.shape[1] // 2] = True
        wanted = None if case.label == "normal" else hausdorff_95(half, truth)
        assert result.hd95 == (None if wanted is None else pytest.approx(wanted, abs=1.5))
