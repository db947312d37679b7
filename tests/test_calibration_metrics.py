"""Metrics: against scikit-learn and brute force, and on cases that can be counted by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from calibration.dataset import Label
from calibration.metrics import CaseResult, auc, overlap, specificity_at, summarise, threshold_at

# Few levels, so that scores tie within and between the classes.
SCORED = st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=40)
SENSITIVITY = st.integers(1, 100).map(lambda percent: percent / 100)
MASKS = hnp.array_shapes(min_dims=2, max_dims=2, max_side=8).flatmap(
    lambda shape: st.tuples(hnp.arrays(np.bool_, shape), hnp.arrays(np.bool_, shape))
)


def arrays(scored: list[tuple[int, bool]]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    score, positive = zip(*scored, strict=True)
    return np.array(score) / 12, np.array(positive, np.bool_)


def sensitivity_of(threshold: float, score: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    return float((score[positive] >= threshold).mean())


@given(SCORED)
def test_auc_is_that_of_scikit_learn_with_ties(scored: list[tuple[int, bool]]) -> None:
    score, positive = arrays(scored)
    assume(0 < positive.sum() < positive.size)
    value = auc(score, positive)
    assert value is not None
    assert value == pytest.approx(roc_auc_score(positive, score), abs=1e-12)


def test_auc_of_known_orders() -> None:
    positive = np.array([False, False, True, True])
    assert auc(np.array([0.1, 0.2, 0.3, 0.4]), positive) == 1.0
    assert auc(np.array([0.4, 0.3, 0.2, 0.1]), positive) == 0.0
    assert auc(np.array([0.5, 0.5, 0.5, 0.5]), positive) == 0.5


@pytest.mark.parametrize("positive", [True, False])
def test_one_class_alone_has_no_auc_and_no_specificity_at_a_sensitivity(positive: bool) -> None:
    score, flags = np.array([0.2, 0.7]), np.full(2, positive)
    assert auc(score, flags) is None
    assert specificity_at(score, flags, sensitivity=0.9) is None


@given(SCORED, SENSITIVITY)
def test_threshold_is_the_highest_that_reaches_the_sensitivity(
    scored: list[tuple[int, bool]], sensitivity: float
) -> None:
    score, positive = arrays(scored)
    assume(positive.any())
    threshold = threshold_at(score, positive, sensitivity=sensitivity)
    assert threshold is not None
    assert sensitivity_of(threshold, score, positive) >= sensitivity - 1e-12
    assert sensitivity_of(math.nextafter(threshold, 2.0), score, positive) < sensitivity - 1e-12


def test_no_positives_no_threshold() -> None:
    assert threshold_at(np.array([0.1, 0.9]), np.array([False, False]), sensitivity=0.5) is None


@given(SCORED, SENSITIVITY)
def test_specificity_is_the_best_of_all_thresholds_by_brute_force(
    scored: list[tuple[int, bool]], sensitivity: float
) -> None:
    score, positive = arrays(scored)
    assume(0 < positive.sum() < positive.size)
    best = max(
        float((score[~positive] < threshold).mean())
        for threshold in np.arange(-1, 27) / 24  # below, at, between and above every level
        if sensitivity_of(threshold, score, positive) >= sensitivity - 1e-12
    )
    assert specificity_at(score, positive, sensitivity=sensitivity) == pytest.approx(best)


@given(MASKS)
def test_overlap_is_symmetric_bounded_and_dice_follows_from_iou(masks: tuple[NDArray[np.bool_], ...]) -> None:
    one, other = masks
    dice, iou = overlap(one, other)
    assert (dice, iou) == overlap(other, one)
    assert 0.0 <= iou <= dice <= 1.0
    assert dice == pytest.approx(2 * iou / (1 + iou))
    assert overlap(one, one) == (1.0, 1.0)
    assert (dice == 1.0) == np.array_equal(one, other)


def test_overlap_counted_by_hand() -> None:
    predicted = np.array([[1, 1, 1, 0]], np.bool_)
    true = np.array([[0, 1, 1, 1]], np.bool_)
    empty = np.zeros((1, 4), np.bool_)
    assert overlap(predicted, true) == (4 / 6, 2 / 4)
    assert overlap(predicted, empty) == (0.0, 0.0)
    assert overlap(empty, empty) == (1.0, 1.0)


def result(
    label: Label | None, probability: float, dice: float | None = None, *, lesion_share: float = 0.1
) -> CaseResult:
    iou = None if dice is None else dice / (2 - dice)
    return CaseResult("x.png", label, probability, dice, iou, lesion_share)


CASES = (
    result("malignant", 0.9, 0.8),
    result("malignant", 0.5, 0.0, lesion_share=0.0),  # nothing predicted counts as overlap 0
    result("malignant", 0.4, None),  # no mask was drawn
    result("benign", 0.45, 1.0),
    result("benign", 0.2, 0.6),
    result("normal", 0.99, lesion_share=0.02),
    result("normal", 0.01, lesion_share=0.0),
    result("normal", 0.01, lesion_share=0.0),
    result("normal", 0.98, lesion_share=0.0),
)


def test_figures_counted_by_hand() -> None:
    metrics = summarise(CASES, threshold=0.5)
    assert metrics.n == 9
    assert metrics.auc == pytest.approx(5 / 6)  # 0.4 against 0.45 is the one pair in the wrong order
    assert metrics.sensitivity == pytest.approx(2 / 3)  # a probability at the threshold is a call
    assert metrics.specificity == 1.0
    assert metrics.accuracy == pytest.approx(4 / 5)
    assert metrics.specificity_at_sensitivity_0_941 == pytest.approx(1 / 2)
    assert metrics.dice_mean == pytest.approx((0.8 + 0.0 + 1.0 + 0.6) / 4)
    assert metrics.iou_mean == pytest.approx((0.8 / 1.2 + 0.0 + 1.0 + 0.6 / 1.4) / 4)
    assert metrics.normal_false_alarm_rate == pytest.approx(1 / 4)
    assert metrics.threshold == 0.5


def test_normals_change_nothing_but_the_count_and_their_false_alarms() -> None:
    with_normals = summarise(CASES, threshold=0.5).to_json()
    without = summarise([case for case in CASES if case.label != "normal"], threshold=0.5).to_json()
    changed = {key for key in with_normals if with_normals[key] != without[key]}
    assert changed == {"n", "normal_false_alarm_rate"}
    assert without["normal_false_alarm_rate"] is None


def test_what_cannot_be_counted_is_none() -> None:
    malignant = summarise([case for case in CASES if case.label == "malignant"], threshold=0.5)
    assert (malignant.auc, malignant.specificity, malignant.specificity_at_sensitivity_0_941) == (None, None, None)
    assert malignant.sensitivity == pytest.approx(2 / 3)
    benign = summarise([case for case in CASES if case.label == "benign"], threshold=0.5)
    assert (benign.auc, benign.sensitivity, benign.specificity) == (None, None, 1.0)
    unlabelled = summarise([result(None, 0.7)], threshold=0.5)
    assert {key for key, value in unlabelled.to_json().items() if value is not None} == {"n", "threshold"}
    assert summarise([], threshold=0.5).n == 0


def test_a_network_that_draws_nothing_or_scores_nothing_keeps_the_other_half() -> None:
    whole = summarise(CASES, threshold=0.5).to_json()
    scores = {"auc", "accuracy", "sensitivity", "specificity", "specificity_at_sensitivity_0.941"}
    masks = {"dice_mean", "iou_mean", "normal_false_alarm_rate"}
    unscored = summarise([replace(case, probability=None) for case in CASES], threshold=None, positive=None).to_json()
    assert unscored == whole | dict.fromkeys({*scores, "threshold"})
    undrawn = [replace(case, dice=None, iou=None, lesion_share=None) for case in CASES]
    assert summarise(undrawn, threshold=0.5).to_json() == whole | dict.fromkeys(masks)


@pytest.mark.parametrize("positive", ["benign", "carcinoma", None])
def test_a_probability_of_anything_but_malignancy_is_not_held_against_the_labels(positive: str | None) -> None:
    found = summarise(CASES, threshold=0.5, positive=positive)
    assert (found.auc, found.accuracy, found.sensitivity, found.specificity) == (None, None, None, None)
    assert found.specificity_at_sensitivity_0_941 is None
    assert found.dice_mean == summarise(CASES, threshold=0.5).dice_mean


def test_public_names_are_fixed() -> None:
    """Scripts read these; the paper's sensitivity is part of a name."""
    assert set(summarise(CASES, threshold=0.25).to_json()) == {
        "n",
        "auc",
        "accuracy",
        "sensitivity",
        "specificity",
        "specificity_at_sensitivity_0.941",
        "dice_mean",
        "iou_mean",
        "normal_false_alarm_rate",
        "threshold",
    }
    record = summarise(CASES, threshold=0.25).to_json()
    assert record["threshold"] == 0.25
    assert record["specificity_at_sensitivity_0.941"] == pytest.approx(1 / 2)
