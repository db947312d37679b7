"""The feature reference: fitted to calibration frames, its limit chosen by frames that the fit had not seen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from calibration.familiarity import FOLDS, MIN_FRAMES, QUANTILE, fit_reference, shrunk_covariance
from edge.errors import CalibrationError
from edge.ood import FeatureDistance, FeatureReference


def drawn(count: int, *, channels: int = 64, seed: int = 0, off_axis: float = 0.3) -> NDArray[np.float32]:
    """Features (N, C) that vary along three common directions, and a little otherwise."""
    directions = np.random.default_rng(7).normal(size=(3, channels))
    rng = np.random.default_rng(seed)
    return np.asarray(
        rng.normal(size=(count, 3)) @ directions + off_axis * rng.normal(size=(count, channels)), np.float32
    )


def distances(reference: FeatureReference, features: NDArray[np.float32]) -> NDArray[np.float64]:
    measure = FeatureDistance(reference)
    return np.array([measure.of(vector) for vector in features])


def test_the_limit_holds_for_frames_that_the_fit_has_not_seen() -> None:
    """What a limit on the fitted frames themselves would not do: they lie nearer than new ones."""
    reference = fit_reference(drawn(100))
    fresh = distances(reference, drawn(1000, seed=1))
    assert np.mean(fresh <= reference.limit) > 0.96
    assert np.mean(fresh <= np.quantile(distances(reference, drawn(100)), QUANTILE)) < 0.85


def test_another_direction_is_beyond_the_limit() -> None:
    reference = fit_reference(drawn(200))
    assert (distances(reference, drawn(50, seed=2, off_axis=2.0)) > reference.limit).all()


def test_frames_of_one_patient_are_on_one_side() -> None:
    patients = [f"p{index // 4}" for index in range(80)]
    views = np.repeat(drawn(20), 4, axis=0)
    together, apart = (fit_reference(views, groups=groups) for groups in (patients, ()))
    assert together.limit > 1.1 * apart.limit
    assert together.whitening == apart.whitening


def test_the_shrunk_covariance_is_nearer_than_that_of_the_sample() -> None:
    """To the one that the vectors are drawn from, and nearer the fewer there are."""
    rng = np.random.default_rng(0)
    truth = np.cov(rng.normal(size=(40, 60)))
    lower = np.linalg.cholesky(truth)
    gains = []
    for count in (40, 160, 4000):
        vectors = rng.normal(size=(count, 40)) @ lower.T
        sample = vectors.T @ vectors / count
        gains.append(np.linalg.norm(sample - truth) / np.linalg.norm(shrunk_covariance(vectors) - truth))
    assert gains[0] > gains[1] > 1.05
    assert gains[2] == pytest.approx(1.0, abs=0.05)


def test_a_direction_that_no_frame_takes_has_a_finite_weight() -> None:
    vectors = drawn(200, channels=12)
    vectors[:, 11] = vectors[:, 10]
    assert np.isfinite(distances(fit_reference(vectors), drawn(5, channels=12, seed=1))).all()
    assert np.linalg.cond(shrunk_covariance(np.tile(np.eye(2)[:1], (50, 1)))) < 1e6


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 120), min_size=1, max_size=3))
def test_the_record_stays_small_whatever_the_network(parts: list[int]) -> None:
    features = drawn(MIN_FRAMES, channels=sum(parts))
    fitted = fit_reference(features, parts=parts)
    assert len(fitted.mean) <= 32 * len(parts)
    assert fitted.parts == tuple(parts)
    assert fitted == fit_reference(features, parts=parts)


def test_frames_that_give_no_reference_are_refused() -> None:
    with pytest.raises(CalibrationError, match=f"{MIN_FRAMES - 1} frames are too few"):
        fit_reference(drawn(MIN_FRAMES - 1))
    fit_reference(drawn(MIN_FRAMES))
    with pytest.raises(CalibrationError, match=f"of 4 groups; a feature reference needs {FOLDS}"):
        fit_reference(drawn(80), groups=[f"p{index % 4}" for index in range(80)])
    with pytest.raises(CalibrationError, match="the same on every"):
        fit_reference(np.ones((80, 256), np.float32))
    with pytest.raises(ValueError, match=r"\(N, C\)"):
        fit_reference(drawn(80)[None])
    with pytest.raises(ValueError, match=r"64 channels, the parts \(32, 30\) have 62"):
        fit_reference(drawn(80), parts=(32, 30))


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_refused(odd: float) -> None:
    features = drawn(80)
    features[3, 5] = odd
    with pytest.raises(CalibrationError, match="not finite"):
        fit_reference(features)
