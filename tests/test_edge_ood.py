"""The distance of a network's features from those of calibration."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from calibration.familiarity import fit_reference
from edge.decode import decode
from edge.errors import BundleError
from edge.ood import GROUPS, Familiarity, FeatureDistance, FeatureReference, grouped


def drawn(count: int, *, channels: int = 48, seed: int = 0, off_axis: float = 0.1) -> NDArray[np.float32]:
    """Features that vary along three common directions, and a little otherwise."""
    directions = np.random.default_rng(7).normal(size=(3, channels))
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(count, 3)) @ directions
    return (2.0 + common + off_axis * rng.normal(size=(count, channels))).astype(np.float32)


@pytest.fixture(scope="module")
def reference() -> FeatureReference:
    return fit_reference(drawn(600), parts=(16, 32))


@pytest.fixture(scope="module")
def distance(reference: FeatureReference) -> FeatureDistance:
    return FeatureDistance(reference)


def test_frames_of_the_same_kind_are_familiar(distance: FeatureDistance) -> None:
    assert np.mean([distance.familiar(feature) for feature in drawn(400, seed=2)]) > 0.95


def test_variation_off_the_common_axes_is_unfamiliar(distance: FeatureDistance) -> None:
    assert not any(distance.familiar(feature) for feature in drawn(100, seed=3, off_axis=1.0))


def test_variation_along_the_common_axes_stays_near(distance: FeatureDistance) -> None:
    """By as much off them it is far."""
    usual, off = drawn(1, seed=4)[0], np.random.default_rng(5).normal(size=48)
    along = (usual - 2.0) * 0.5
    off *= np.linalg.norm(along) / np.linalg.norm(off)
    near, far = (distance.of(np.asarray(usual + step, np.float32)) for step in (along, off))
    assert near < 2.0 * distance.of(usual)
    assert far > 4.0 * near


def test_the_distance_is_that_of_mahalanobis() -> None:
    """In two dimensions by hand: covariance [[4, 2], [2, 2]], its inverse [[0.5, -0.5], [-0.5, 1]]."""
    lower = np.linalg.inv(np.linalg.cholesky([[4.0, 2.0], [2.0, 2.0]]))
    rows = ((float(lower[0, 0]),), (float(lower[1, 0]), float(lower[1, 1])))
    distance = FeatureDistance(FeatureReference((2,), (1.0, -1.0), rows, 1.0))
    for x, y in ((1.0, 0.0), (0.0, 2.0), (3.0, -1.0)):
        wanted = np.sqrt((0.5 * x * x - x * y + y * y) / 2)
        assert distance.of(np.array([1.0 + x, -1.0 + y], np.float32)) == pytest.approx(wanted)


@pytest.mark.parametrize("odd", [(np.nan,), (np.inf,), (np.inf, -np.inf)])
def test_an_answer_that_is_no_number_is_unfamiliar_without_a_warning(
    odd: tuple[float, ...], distance: FeatureDistance
) -> None:
    broken = drawn(1)[0].copy()
    broken[: len(odd)] = odd
    assert not distance.familiar(broken)


def test_the_shape_of_the_vector_does_not_matter(distance: FeatureDistance) -> None:
    feature = drawn(1)[0]
    assert distance.of(feature) == distance.of(feature.reshape(1, -1, 1, 1))


def test_a_vector_of_another_network_is_refused(distance: FeatureDistance) -> None:
    with pytest.raises(ValueError, match="32 channels, the reference is for 48"):
        distance.of(np.zeros(32, np.float32))


def test_the_record_survives_json_and_the_manifests_reader(reference: FeatureReference) -> None:
    known = Familiarity(("aa",), "drawn", int8=reference)
    record = json.loads(json.dumps(asdict(known)))
    assert decode(Familiarity, record, Path("manifest.json"), "features") == known


@pytest.mark.parametrize(
    ("name", "value"), [("parts", 48), ("mean", None), ("whitening", [1.0]), ("whitening", "wide"), ("limit", "2")]
)
def test_a_record_with_a_part_of_another_type_is_refused(reference: FeatureReference, name: str, value: object) -> None:
    record = json.loads(json.dumps(asdict(reference))) | {name: value}
    with pytest.raises(BundleError, match="wrong type"):
        decode(FeatureReference, record, Path("manifest.json"), "features")


@settings(max_examples=50)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=4))
def test_every_channel_is_in_one_of_at_most_32_groups_of_its_part(parts: list[int]) -> None:
    """A part of its own number throughout has it in all of its groups."""
    numbers = np.concatenate([np.full(channels, float(index)) for index, channels in enumerate(parts)])
    means = grouped(np.tile(numbers, (2, 1)).astype(np.float32), parts)
    counts = [np.count_nonzero(means[0] == index) for index in range(len(parts))]
    assert sum(counts) == means.shape[1]
    assert all(1 <= count <= min(GROUPS, channels) for count, channels in zip(counts, parts, strict=True))


def test_a_group_is_the_mean_of_its_channels() -> None:
    features = np.arange(70, dtype=np.float32)[None]
    assert grouped(features, (64, 6))[0].tolist() == [*np.arange(0.5, 64, 2.0), *range(64, 70)]


def test_impossible_records_are_refused(reference: FeatureReference) -> None:
    with pytest.raises(ValueError, match="48 channels are 48 groups"):
        replace(reference, mean=reference.mean[:-1])
    with pytest.raises(ValueError, match="48 channels are 48 groups"):
        replace(reference, whitening=reference.whitening[:-1])
    with pytest.raises(ValueError, match="256 channels are 32 groups"):
        replace(reference, parts=(256,))
    for parts in ((), (48, 0)):
        with pytest.raises(ValueError, match="parts of"):
            replace(reference, parts=parts)
    with pytest.raises(ValueError, match="finite, the limit"):
        replace(reference, limit=0.0)
    with pytest.raises(ValueError, match="finite, the limit"):
        replace(reference, mean=(float("nan"), *reference.mean[1:]))
    with pytest.raises(ValueError, match="diagonal"):
        replace(reference, whitening=((0.0,), *reference.whitening[1:]))


def test_a_bundle_has_a_reference_for_each_precision_in_it(reference: FeatureReference) -> None:
    other = replace(reference, limit=9.0)
    known = Familiarity((), "", fp32=other, int8=reference)
    assert (known.at("fp32"), known.at("int8"), known.channels) == (other, reference, 48)
    assert replace(known, fp32=None).at("fp32") is None
    with pytest.raises(ValueError, match="there is one at least"):
        Familiarity((), "")
    with pytest.raises(ValueError, match="the same channels"):
        Familiarity((), "", fp32=fit_reference(drawn(60, channels=4)), int8=reference)
