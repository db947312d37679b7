"""The distance of a network's features from those of calibration."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.decode import decode
from edge.ood import FeatureReference


def drawn(count: int, *, channels: int = 96, seed: int = 0, off_axis: float = 0.1) -> NDArray[np.float32]:
    """Features that vary along three common directions, and a little otherwise."""
    directions = np.random.default_rng(7).normal(size=(3, channels))
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(count, 3)) @ directions
    return (2.0 + common + off_axis * rng.normal(size=(count, channels))).astype(np.float32)


@pytest.fixture(scope="module")
def reference() -> FeatureReference:
    return FeatureReference.fit(drawn(200), drawn(200, seed=1), chosen_on="drawn", axes=3)


def test_frames_of_the_same_kind_are_familiar(reference: FeatureReference) -> None:
    fresh = drawn(400, seed=2)
    assert np.mean([reference.familiar(feature) for feature in fresh]) > 0.97


def test_variation_off_the_common_axes_is_unfamiliar(reference: FeatureReference) -> None:
    assert not any(reference.familiar(feature) for feature in drawn(100, seed=3, off_axis=1.0))


def test_variation_along_the_common_axes_stays_near(reference: FeatureReference) -> None:
    usual, brighter = drawn(1, seed=4)[0], drawn(1, seed=4)[0]
    brighter = (2.0 + 2.0 * (brighter - 2.0)).astype(np.float32)
    assert reference.distance(brighter) < 2.5 * reference.distance(usual)


def test_an_answer_that_is_no_number_is_unfamiliar(reference: FeatureReference) -> None:
    broken = drawn(1)[0].copy()
    broken[5] = np.nan
    assert not reference.familiar(broken)


def test_the_shape_of_the_vector_does_not_matter(reference: FeatureReference) -> None:
    feature = drawn(1)[0]
    assert reference.distance(feature) == reference.distance(feature.reshape(1, -1, 1, 1))


def test_a_vector_of_another_network_is_refused(reference: FeatureReference) -> None:
    with pytest.raises(ValueError, match="32 channels, the reference is for 96"):
        reference.distance(np.zeros(32, np.float32))


def test_the_record_survives_json_and_the_manifests_reader(reference: FeatureReference) -> None:
    record = json.loads(json.dumps(reference.to_record()))
    assert FeatureReference.from_record(record) == reference
    assert decode(FeatureReference, record, Path("manifest.json"), "features") == reference


def test_a_record_with_a_part_missing_is_refused(reference: FeatureReference) -> None:
    record = reference.to_record()
    del record["axes"]
    with pytest.raises(ValueError, match="cannot be read"):
        FeatureReference.from_record(record)


@settings(max_examples=25)
@given(st.integers(6, 300), st.integers(0, 4))
def test_the_record_stays_small_whatever_the_network(channels: int, axes: int) -> None:
    features = drawn(12, channels=channels)
    fitted = FeatureReference.fit(features, features, chosen_on="", axes=axes)
    assert len(fitted.mean) <= 64
    assert fitted.channels == channels
    assert FeatureReference.from_record(fitted.to_record()) == fitted


def test_too_few_frames_or_dead_features_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        FeatureReference.fit(drawn(8), drawn(3), chosen_on="")
    with pytest.raises(ValueError, match="the same on every frame"):
        FeatureReference.fit(np.ones((20, 9), np.float32), np.ones((3, 9), np.float32), chosen_on="")
    with pytest.raises(ValueError, match="leave nothing"):
        FeatureReference.fit(drawn(20, channels=4), drawn(3, channels=4), chosen_on="", axes=4)
    with pytest.raises(ValueError, match=r"\(N, C\)"):
        FeatureReference.fit(drawn(20), drawn(20, channels=5), chosen_on="")


def test_impossible_records_are_refused(reference: FeatureReference) -> None:
    with pytest.raises(ValueError, match="one length"):
        replace(reference, mean=reference.mean[:-1])
    with pytest.raises(ValueError, match="above 0"):
        replace(reference, limit=0.0)
