"""Metrics: against scikit-learn and brute force, and on cases that can be counted by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from calibration.dataset import Label
from calibration.metrics import CaseResult, auc, hausdorff_95, overlap, scored, specificity_at, summarise, threshold_at
from edge.interpretation import NO_LESION

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


@given(MASKS)
def test_hausdorff_is_that_of_all_pairs_of_contour_pixels(masks: tuple[NDArray[np.bool_], ...]) -> None:
    one, other = masks
    found = hausdorff_95(one, other)
    assert found == hausdorff_95(other, one)
    if not one.any() or not other.any():
        assert found is None
        return
    contours = [np.argwhere(mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)))) for mask in masks]
    pairs = cdist(*contours)
    assert found == pytest.approx(max(np.percentile(pairs.min(axis, initial=1e9), 95) for axis in (0, 1)), rel=1e-6)


def test_hausdorff_counted_by_hand() -> None:
    one, other = np.zeros((60, 80), np.bool_), np.zeros((60, 80), np.bool_)
    one[10:30, 10:30] = True
    other[10:30, 17:37] = True
    assert hausdorff_95(one, other) == 7.0
    assert hausdorff_95(one, one) == 0.0
    point, corner = np.zeros((60, 80), np.bool_), np.zeros((60, 80), np.bool_)
    point[0, 0] = corner[30, 40] = True
    assert hausdorff_95(point, corner) == 50.0
    speck = one.copy()
    speck[50, 70] = True  # one pixel of 77: the percentile leaves it out
    assert hausdorff_95(speck, one) == 0.0


def test_the_larger_direction_counts_and_the_frame_ends_a_mask() -> None:
    whole, point = np.ones((11, 11), np.bool_), np.zeros((11, 11), np.bool_)
    point[5, 5] = True
    assert hausdorff_95(whole, point) == pytest.approx(math.hypot(5, 5))  # from the rim inwards; from the point it is 5
    with pytest.raises(ValueError, match="one shape"):
        hausdorff_95(whole, point[:1])


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
    assert metrics.positive_predictive_value == 1.0
    assert metrics.normal_malignant_rate == pytest.approx(2 / 4)
    assert metrics.threshold == 0.5


def test_accuracy_at_one_half_heeds_neither_threshold_nor_presence() -> None:
    cases = [result("malignant", 0.6), result("benign", 0.4), result("benign", 0.5), result("malignant", 0.49)]
    unseen = [replace(case, decision=NO_LESION) for case in cases]
    for every, threshold in ((cases, 0.5), (cases, 0.1), (unseen, 0.9)):
        assert summarise(every, threshold=threshold).accuracy_at_half == pytest.approx(1 / 2)


def test_normals_change_nothing_but_the_count_and_their_false_alarms() -> None:
    with_normals = summarise(CASES, threshold=0.5).to_json()
    without = summarise([case for case in CASES if case.label != "normal"], threshold=0.5).to_json()
    changed = {key for key in with_normals if with_normals[key] != without[key]}
    assert changed == {"n", "normal_false_alarm_rate", "normal_malignant_rate"}
    assert without["normal_false_alarm_rate"] is without["normal_malignant_rate"] is None


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
    answers = {
        "accuracy",
        "accuracy_at_half",
        "sensitivity",
        "specificity",
        "positive_predictive_value",
        "normal_malignant_rate",
    }
    scores = answers | {"auc", "specificity_at_sensitivity_0.941"}
    masks = {"dice_mean", "iou_mean", "normal_false_alarm_rate"}
    unscored = summarise([replace(case, probability=None) for case in CASES], threshold=None, positive=None).to_json()
    assert unscored == whole | dict.fromkeys({*scores, "threshold"})
    undrawn = [replace(case, dice=None, iou=None, lesion_share=None) for case in CASES]
    assert summarise(undrawn, threshold=0.5).to_json() == whole | dict.fromkeys(masks)


def answered(label: Label, decision: str, probability: float, hd95: float | None = None) -> CaseResult:
    return replace(result(label, probability), hd95=hd95, presence=0.7, decision=decision)


ANSWERED = (
    answered("malignant", "malignant", 0.9, hd95=4.0),
    answered("malignant", "no lesion", 0.8),
    answered("malignant", "benign", 0.3, hd95=8.0),
    answered("malignant", "malignant", 0.6),
    answered("benign", "no lesion", 0.7),
    answered("benign", "benign", 0.2, hd95=3.0),
    answered("benign", "malignant", 0.95),
    answered("normal", "malignant", 0.95, hd95=100.0),
    answered("normal", "no lesion", 0.1),
)


def test_three_answers_counted_by_hand() -> None:
    metrics = summarise(ANSWERED, threshold=0.5)
    assert metrics.sensitivity == pytest.approx(2 / 4)  # "no lesion" is a false negative, whatever its probability
    assert metrics.specificity == pytest.approx(2 / 3)  # ... and not a false positive
    assert metrics.accuracy == pytest.approx(3 / 7)  # ... but no right answer to a benign lesion
    assert metrics.lesions_missed_rate == pytest.approx(2 / 7)
    assert metrics.malignant_missed_rate == pytest.approx(1 / 4)
    assert metrics.positive_predictive_value == pytest.approx(
        2 / 3
    )  # of lesions; a normal frame answered so is told apart
    assert metrics.normal_malignant_rate == pytest.approx(1 / 2)
    assert metrics.hd95_mean == pytest.approx(5.0)
    assert metrics.normal_false_alarm_rate == 1.0  # by lesion pixels, not by the answer
    assert metrics.auc == summarise([replace(case, decision=None) for case in ANSWERED], threshold=0.5).auc


def test_an_answer_stands_before_the_threshold_and_without_one_the_threshold_decides() -> None:
    assert summarise(ANSWERED, threshold=0.99).sensitivity == pytest.approx(2 / 4)
    old = [replace(case, decision=None) for case in ANSWERED]
    metrics = summarise(old, threshold=0.99)
    assert (metrics.sensitivity, metrics.specificity) == (0.0, 1.0)
    assert (metrics.lesions_missed_rate, metrics.malignant_missed_rate) == (None, None)
    mixed = summarise([*old[:1], *ANSWERED[1:2]], threshold=0.5)
    assert (mixed.sensitivity, mixed.malignant_missed_rate) == (0.5, 1.0)


def test_roc_figures_call_no_lesion_benign_at_every_threshold() -> None:
    seen = [answered("malignant", "malignant", 0.5 + index / 100) for index in range(19)]
    benign = [answered("benign", "malignant", 0.9), answered("benign", "no lesion", 0.9)]
    missed = answered("malignant", "no lesion", 0.99)
    assert summarise([*seen, *benign], threshold=0.5).specificity_at_sensitivity_0_941 == pytest.approx(1 / 2)
    assert summarise([*seen, missed, *benign], threshold=0.5).specificity_at_sensitivity_0_941 == pytest.approx(1 / 2)
    # 19 of 21 are 90.5 %: no threshold reaches the paper's sensitivity
    assert summarise([*seen, missed, missed, *benign], threshold=0.5).specificity_at_sensitivity_0_941 == 0.0
    assert scored([missed])[0] == [0.99]
    assert scored([missed], gated=True)[0] == [-math.inf]


@pytest.mark.parametrize("positive", ["benign", "carcinoma", None])
def test_a_probability_of_anything_but_malignancy_is_not_held_against_the_labels(positive: str | None) -> None:
    found = summarise(CASES, threshold=0.5, positive=positive)
    assert (found.auc, found.accuracy, found.sensitivity, found.specificity) == (None, None, None, None)
    assert found.specificity_at_sensitivity_0_941 is None
    assert summarise(ANSWERED, threshold=0.5, positive=positive).sensitivity is None
    assert found.dice_mean == summarise(CASES, threshold=0.5).dice_mean


def test_public_names_are_fixed() -> None:
    """Scripts read these; the paper's sensitivity is part of a name."""
    assert set(summarise(CASES, threshold=0.25).to_json()) == {
        "n",
        "auc",
        "accuracy",
        "accuracy_at_half",
        "sensitivity",
        "specificity",
        "specificity_at_sensitivity_0.941",
        "dice_mean",
        "iou_mean",
        "hd95_mean",
        "lesions_missed_rate",
        "malignant_missed_rate",
        "positive_predictive_value",
        "normal_false_alarm_rate",
        "normal_malignant_rate",
        "threshold",
    }
    record = summarise(CASES, threshold=0.25).to_json()
    assert record["threshold"] == 0.25
    assert record["specificity_at_sensitivity_0.941"] == pytest.approx(1 / 2)
