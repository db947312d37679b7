"""The operating point: calibrated probabilities, thresholds that reach their sensitivity and carry over to another network."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from calibration.dataset import Label
from calibration.metrics import CaseResult, summarise
from calibration.operating_point import (
    MISS_COST,
    choose_operating_point,
    choose_presence_threshold,
    choose_threshold,
    fit_presence,
    fit_temperature,
    matched_threshold,
)

TWO_CLASSES = st.lists(st.tuples(st.floats(-30, 30), st.booleans()), min_size=2, max_size=40).filter(
    lambda cases: 0 < sum(flag for _, flag in cases) < len(cases)
)
PROBABILITIES = st.floats(0.002, 0.998)


def columns(cases: list[tuple[float, bool]]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, flags = zip(*cases, strict=True)
    return np.array(values, np.float64), np.array(flags, np.bool_)


def nll(probability: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    return float(-(target * np.log(probability) + (1 - target) * np.log1p(-probability)).mean())


def results(*pairs: tuple[Label, float]) -> list[CaseResult]:
    return [CaseResult("x.png", label, probability, None, None, 0.0) for label, probability in pairs]


@given(
    st.lists(
        st.tuples(st.sampled_from(["malignant", "benign", "normal"]), st.floats(0.001, 0.999)), min_size=1, max_size=40
    ),
    st.sampled_from([0.5, 0.9, 0.941, 1.0]),
)
def test_the_sensitivity_is_reached_on_the_cases_it_was_chosen_on(
    pairs: list[tuple[Label, float]], sensitivity: float
) -> None:
    cases = results(("malignant", 0.5), *pairs)
    reached = summarise(cases, threshold=choose_threshold(cases, sensitivity=sensitivity)).sensitivity
    assert reached is not None
    assert reached >= sensitivity - 1e-12


def test_it_is_the_highest_such_threshold_and_normals_have_no_say() -> None:
    malignant = [("malignant", level / 100) for level in range(1, 101)]
    cases = results(*malignant, ("benign", 0.99), ("normal", 0.01))  # type: ignore[arg-type]
    assert choose_threshold(cases) == 0.06  # 95 of 100 are at or above; 94 would miss the paper's 94.1 %
    assert choose_threshold(cases, sensitivity=0.94) == 0.07


@pytest.mark.parametrize(("probability", "threshold"), [(1.0, 0.999), (0.0, 0.001), (0.3, 0.3)])
def test_it_stays_inside_its_margin(probability: float, threshold: float) -> None:
    assert choose_threshold(results(("malignant", probability), ("benign", 0.5))) == threshold


def test_without_a_malignant_case_there_is_none() -> None:
    with pytest.raises(ValueError, match="malignant"):
        choose_threshold(results(("benign", 0.5), ("normal", 0.9)))
    with pytest.raises(ValueError, match="malignant"):
        choose_threshold([CaseResult("x.png", "malignant", None, 0.8, 0.7, 0.1)])  # a network without a class output


# Temperature


def test_the_temperature_undoes_a_known_one() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(0.0, 2.0, 20_000)
    positive = rng.random(true.size) < expit(true)
    assert fit_temperature(true, positive) == pytest.approx(1.0, abs=0.05)
    assert fit_temperature(3.0 * true, positive) == pytest.approx(3.0, rel=0.05)
    assert fit_temperature(true / 4.0, positive) == pytest.approx(0.25, rel=0.05)


@given(TWO_CLASSES)
def test_no_temperature_of_a_grid_is_likelier(cases: list[tuple[float, bool]]) -> None:
    logits, positive = columns(cases)
    signed = np.where(positive, -logits, logits)

    def loss(temperature: float) -> float:
        return float(np.logaddexp(0.0, signed / temperature).mean())

    found = fit_temperature(logits, positive)
    assert 0.05 <= found <= 20.0
    assert loss(found) <= min(loss(t) for t in np.geomspace(0.05, 20.0, 50)) + 1e-5


def test_separable_and_reversed_logits_end_at_the_limits() -> None:
    positive = np.array([False, False, True, True])
    logits = np.array([-2.0, -1.0, 1.0, 2.0])
    assert fit_temperature(logits, positive) == pytest.approx(0.05, rel=1e-3)
    assert fit_temperature(-logits, positive) == pytest.approx(20.0, rel=1e-3)


@pytest.mark.parametrize("fit", [fit_temperature, fit_presence])
def test_a_fit_needs_both_classes_and_finite_logits(fit: object) -> None:
    assert callable(fit)
    for flags in ([True, True], [False, False]):
        with pytest.raises(ValueError, match="both classes"):
            fit(np.array([0.0, 1.0]), np.array(flags))
    with pytest.raises(ValueError, match="both classes"):
        fit(np.empty(0), np.empty(0, np.bool_))
    with pytest.raises(ValueError, match="finite"):
        fit(np.array([0.0, np.nan]), np.array([True, False]))


# Presence


def test_presence_is_the_logistic_regression_of_scikit_learn_on_many_cases() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(5.0, 40.0, 20_000)
    present = rng.random(logits.size) < expit(0.05 * logits + 1.2)
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits[:, None], present)
    scale, offset = fit_presence(logits, present)
    assert scale == pytest.approx(model.coef_[0, 0], rel=0.01)  # Platt's targets differ from 0 and 1 by 1 / 20,000
    assert offset == pytest.approx(model.intercept_[0], abs=0.01)
    assert expit(scale * logits + offset).mean() == pytest.approx(present.mean(), abs=1e-3)


@given(TWO_CLASSES)
def test_presence_is_finite_rises_and_no_neighbour_is_likelier(cases: list[tuple[float, bool]]) -> None:
    logits, present = columns(cases)
    assume(np.ptp(logits) == 0.0 or np.ptp(logits) > 1e-3)
    scale, offset = fit_presence(logits, present)
    assert np.isfinite((scale, offset)).all()
    assert scale > 0.0
    seen, unseen = int(present.sum()), int((~present).sum())
    target = np.where(present, (seen + 1) / (seen + 2), 1 / (unseen + 2))
    centre = logits.mean()

    def loss(factor: float, shift: float) -> float:
        return nll(expit(scale * factor * (logits - centre) + offset + scale * centre + shift), target)

    here = loss(1.0, 0.0)
    assert here <= min(loss(1.0, 0.01), loss(1.0, -0.01), loss(1.1, 0.0)) + 1e-6
    if scale > 0.0011 / (float(logits.std()) or 1.0):
        assert here <= loss(0.9, 0.0) + 1e-6


def test_logits_that_say_nothing_leave_the_share_of_lesions() -> None:
    scale, offset = fit_presence(np.full(3, 21.4), np.array([False, False, True]))  # their mean is rounded
    assert expit(scale * 21.4 + offset) == pytest.approx((2 / 3 + 2 * 1 / 4) / 3, abs=1e-4)


def test_separable_presence_stays_short_of_certainty() -> None:
    logits = np.r_[np.full(10, -3.0), np.full(30, 5.0)]
    scale, offset = fit_presence(logits, logits > 0)
    assert expit(scale * 5.0 + offset) == pytest.approx(31 / 32, abs=1e-4)
    assert expit(scale * -3.0 + offset) == pytest.approx(1 / 12, abs=1e-4)


# Thresholds


@given(
    st.lists(st.tuples(PROBABILITIES, st.booleans(), st.booleans()), min_size=1, max_size=40),
    st.sampled_from([0.5, 0.9, 0.941, 1.0]),
)
def test_the_operating_point_is_the_highest_that_reaches_its_sensitivity_with_presence(
    cases: list[tuple[float, bool, bool]], sensitivity: float
) -> None:
    probability, malignant, present = (np.array(column) for column in zip((0.5, True, True), *cases, strict=True))
    threshold = choose_operating_point(probability, malignant, present, sensitivity=sensitivity)

    def reached(at: float) -> bool:
        return float((present & (probability >= at))[malignant].mean()) >= sensitivity - 1e-12

    if present[malignant].mean() < sensitivity - 1e-12:
        assert threshold == 0.001
    else:
        assert reached(threshold)
        assert not reached(np.nextafter(threshold, 1.0))


def test_unseen_malignant_cases_lower_the_operating_point() -> None:
    probability = np.arange(1, 101) / 100
    malignant, present = np.ones(100, np.bool_), np.ones(100, np.bool_)
    assert choose_operating_point(probability, malignant, present) == 0.06
    present[-4:] = False
    assert choose_operating_point(probability, malignant, present) == 0.02
    present[-6:] = False
    assert choose_operating_point(probability, malignant, present) == 0.001
    with pytest.raises(ValueError, match="malignant"):
        choose_operating_point(probability, ~malignant, present)


# Scores that differ by rounding alone have no threshold between them.
APART = st.integers(2_000, 998_000).map(lambda millionths: millionths / 1e6)


@given(
    st.lists(APART, min_size=1, max_size=30),
    st.lists(APART, min_size=1, max_size=30),
    st.sampled_from([0.1, 1.0, MISS_COST]),
)
def test_no_other_presence_threshold_costs_less(lesions: list[float], normals: list[float], miss_cost: float) -> None:
    seen, alarmed = np.array(lesions), np.array(normals)

    def cost(threshold: float) -> float:
        return float(miss_cost * (seen < threshold).mean() + (alarmed >= threshold).mean())

    threshold = choose_presence_threshold(seen, alarmed, miss_cost=miss_cost)
    least = min(cost(score) for score in (*lesions, *normals, 1.0))
    assert cost(threshold) == pytest.approx(least, abs=1e-9)


def test_the_presence_threshold_lies_between_the_scores_it_divides() -> None:
    assert choose_presence_threshold(np.array([0.9, 0.95]), np.array([0.1, 0.05])) == pytest.approx(0.5)
    # At equal cost 0.3 and 0.7 divide equally well, and the lower one misses fewer lesions; a missed lesion costs more.
    scattered = np.array([0.4, 0.8]), np.array([0.2, 0.6, 0.6, 0.6])
    low, high = (expit((np.log(a / (1 - a)) + np.log(b / (1 - b))) / 2) for a, b in ((0.2, 0.4), (0.6, 0.8)))
    assert choose_presence_threshold(np.array([0.4, 0.8]), np.array([0.2, 0.6]), miss_cost=1.0) == pytest.approx(low)
    assert choose_presence_threshold(*scattered, miss_cost=1.0) == pytest.approx(high)
    assert choose_presence_threshold(*scattered) == pytest.approx(low)
    assert choose_presence_threshold(np.zeros(3), np.zeros(1)) == 0.001
    for lesions, normals in ((np.empty(0), np.ones(1)), (np.ones(1), np.empty(0))):
        with pytest.raises(ValueError, match="with and without a lesion"):
            choose_presence_threshold(lesions, normals)


# Another network


@given(
    st.lists(st.integers(-40, 40), min_size=1, max_size=40),
    st.floats(0.2, 1.5),
    st.floats(-1.0, 1.0),
    st.one_of(st.integers(-45, 45).map(lambda level: float(expit(level / 10))), PROBABILITIES),
)
def test_a_monotone_change_of_scores_keeps_every_call(
    levels: list[int], slope: float, shift: float, threshold: float
) -> None:
    """With ties, with thresholds at, between and beyond the scores: not only the share, the frames are the same."""
    scores = np.array(levels) / 10
    reference, target = expit(scores), expit(slope * np.sinh(scores / 4) + shift)
    assume(target.min() > 0.001 and target.max() < 0.999)
    moved = matched_threshold(threshold, reference, target)
    np.testing.assert_array_equal(target >= moved, reference >= threshold)


@given(st.lists(st.tuples(PROBABILITIES, PROBABILITIES), min_size=1, max_size=40), PROBABILITIES)
def test_any_network_calls_as_many_frames_where_its_scores_do_not_tie(
    pairs: list[tuple[float, float]], threshold: float
) -> None:
    reference, target = np.array(pairs).T
    assume(np.unique(target).size == target.size)
    moved = matched_threshold(threshold, reference, target)
    assert np.count_nonzero(target >= moved) == np.count_nonzero(reference >= threshold)


@given(st.lists(PROBABILITIES, min_size=1, max_size=20), PROBABILITIES)
def test_the_same_network_keeps_its_threshold(scores: list[float], threshold: float) -> None:
    both = np.array(scores)
    assert matched_threshold(threshold, both, both) == pytest.approx(threshold, rel=1e-9)


def test_between_and_beyond_the_scores_logits_are_shifted_and_clipped() -> None:
    reference, target = expit(np.array([-1.0, 1.0])), expit(np.array([0.0, 3.0]))
    for before, after in ((-1.0, 0.0), (0.0, 1.5), (1.0, 3.0), (2.0, 4.0), (-3.0, -2.0)):
        assert logit(matched_threshold(float(expit(before)), reference, target)) == pytest.approx(after)
    assert matched_threshold(0.99, reference, np.array([0.5, 0.9999])) == 0.999
    assert matched_threshold(0.01, np.array([0.0, 1.0]), np.array([0.0, 0.0])) == 0.001


def test_rounding_lets_no_frame_in_or_out() -> None:
    rng = np.random.default_rng(0)
    for low, end in rng.uniform(0.01, 0.9, (300, 2)):
        reference, target = np.array([low, low + 0.05]), np.array([end, np.nextafter(end, 1.0)])
        beside = np.r_[np.nextafter(reference, 1.0), np.nextafter(reference, 0.0)]
        for threshold in np.r_[low + 0.01, low + 0.04, beside]:
            moved = matched_threshold(float(threshold), reference, target)
            np.testing.assert_array_equal(target >= moved, reference >= threshold, f"{low} {end} {threshold}")


def test_frames_of_two_networks_are_needed() -> None:
    with pytest.raises(ValueError, match="same frames"):
        matched_threshold(0.5, np.empty(0), np.empty(0))
    with pytest.raises(ValueError, match="same frames"):
        matched_threshold(0.5, np.array([0.5]), np.array([0.5, 0.6]))
