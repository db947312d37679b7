"""Agreement of two networks: figures counted by hand, taken in frame by frame."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from calibration.agreement import Agreement, AgreementLimits, Answer, Comparison, OutputDifferences
from edge.errors import EngineError
from edge.manifest import OutputSpec

FEATURES = OutputSpec("features", "other", "none", (1, 20))
SCORE = OutputSpec("score", "class", "sigmoid", (1, 1))


def mask(*levels: float) -> NDArray[np.float32]:
    return np.array([levels], np.float32)


def compare(reference: list[Answer], other: list[Answer], *outputs: OutputSpec) -> Agreement:
    comparison = Comparison(OutputDifferences(outputs))
    for one, two in zip(reference, other, strict=True):
        comparison.add(one, two)
    return comparison.agreement()


def features(*values: Any) -> dict[str, NDArray[np.float32]]:
    return {"features": np.resize(np.array(values, np.float32), (1, 20))}


def test_masks_and_scores_counted_by_hand() -> None:
    found = compare(
        [Answer({}, mask(1, 1, 0, 0), 0.9), Answer({}, mask(0, 0, 0, 0), 0.2), Answer({}, mask(0.5, 0, 0, 0.9), 0.5)],
        [
            Answer({}, mask(1, 0.4, 0, 0), 0.8),
            Answer({}, mask(0, 0.2, 0, 0), 0.25),
            Answer({}, mask(0.5, 0, 0, 0.9), 0.5),
        ],
    )
    assert found.frames == 3
    assert found.mask_mean == pytest.approx((0.6 / 4 + 0.2 / 4 + 0.0) / 3)
    assert found.mask_max == pytest.approx(0.6)
    assert found.mask_dice_min == pytest.approx(2 / 3)  # two against one pixel
    assert found.mask_dice_median == pytest.approx(5 / 6)  # the empty pair is left out
    assert found.malignancy_mean == pytest.approx(0.05)
    assert found.malignancy_max == pytest.approx(0.1)
    assert (found.outputs, found.worst_output) == ({}, None)


def test_outputs_counted_by_hand() -> None:
    """Ranges span all frames and are the reference's, however far the other network goes."""
    reference = [Answer(features(-3, 1)), Answer(features(0, 5))]
    other = [Answer(features(-3, 1.5)), Answer(features(0, 50))]
    found = compare(reference, other, FEATURES).outputs["features"]
    assert found == pytest.approx((0.5 + 45) / 4 / 8)
    back = compare(other, reference, FEATURES).outputs["features"]
    assert back == pytest.approx((0.5 + 45) / 4 / 53)


def test_every_output_has_a_figure_and_the_worst_is_named() -> None:
    reference = [Answer({**features(0, i), "score": np.array([[i]], np.float32)}) for i in range(20)]
    other = [Answer({**features(0, i), "score": np.array([[i + 0.19]], np.float32)}) for i in range(20)]
    found = compare(reference, other, FEATURES, SCORE)
    assert found.outputs == {"features": 0.0, "score": pytest.approx(0.01, rel=1e-4)}
    assert found.worst_output == found.outputs["score"]
    assert not found.within(AgreementLimits())


def test_too_few_values_have_no_range() -> None:
    """The range of one score of one frame is 0, and of a few it is chance."""
    answers = [Answer({"score": np.array([[i]], np.float32)}) for i in range(19)]
    off = [Answer({"score": np.array([[i + 1]], np.float32)}) for i in range(19)]
    assert compare(answers, off, SCORE).outputs == {"score": None}
    assert compare(answers, off, SCORE).worst_output is None
    assert compare(answers, off, SCORE).within(AgreementLimits())
    more = Answer({"score": np.array([[5]], np.float32)})
    assert compare([*answers, more], [*off, more], SCORE).outputs == {"score": pytest.approx(19 / 20 / 18)}


@pytest.mark.parametrize(
    ("level", "off", "share"), [(5.0, 0.1, 0.02), (-5.0, 0.1, 0.02), (0.0, 0.1, 0.1), (5.0, 0.0, 0.0)]
)
def test_a_constant_output_is_measured_by_its_magnitude(level: float, off: float, share: float) -> None:
    found = compare([Answer(features(level))], [Answer(features(level + off))], FEATURES).outputs["features"]
    assert found == pytest.approx(share, abs=1e-6)


ARRAYS = hnp.arrays(np.float32, (3, 1, 20), elements=st.floats(-100, 100, width=32))


@given(ARRAYS, ARRAYS)
def test_running_sums_are_those_of_all_frames_at_once(
    reference: NDArray[np.float32], other: NDArray[np.float32]
) -> None:
    found = compare(
        [Answer({"features": frame}) for frame in reference], [Answer({"features": frame}) for frame in other], FEATURES
    ).outputs["features"]
    wide, apart = reference.astype(np.float64), np.abs(reference.astype(np.float64) - other)
    span = np.ptp(wide) or abs(wide.max()) or 1.0
    assert found == pytest.approx(apart.mean() / span)


def test_nothing_of_a_frame_stays() -> None:
    """A thousand frames of a large network do not fit into memory."""
    comparison = Comparison(OutputDifferences([FEATURES]))
    answer = Answer(features(1, 2), mask(0.2, 0.7), 0.3)
    comparison.add(answer, answer)
    kept = [comparison.mask_means, comparison.mask_maxima, comparison.mask_dice, comparison.malignancy]
    assert all(type(value) is float for values in kept for value in values)
    spreads = comparison.outputs._outputs.values()
    assert all(type(getattr(spread, name)) in (int, float) for spread in spreads for name in spread.__slots__)


def test_an_output_that_cannot_be_compared_is_an_error() -> None:
    answer = Answer(features(1))
    for wrong, message in (
        (Answer({}), "'features' is missing"),
        (Answer({"features": np.zeros((1, 21), np.float32)}), r"'features' has shape \(1, 21\)"),
        (Answer(features(np.nan)), "'features' is infinite or not a number"),
        (Answer(features(np.inf)), "'features' is infinite or not a number"),
    ):
        for pair in ((answer, wrong), (wrong, answer)):
            with pytest.raises(EngineError, match=message):
                compare([pair[0]], [pair[1]], FEATURES)


def test_tiny_masks_do_not_decide() -> None:
    """One edge pixel of a speck is no disagreement between engines."""
    speck, other = np.zeros((20, 20), np.float32), np.zeros((20, 20), np.float32)
    speck[0, :3] = other[0, 1:4] = 1.0
    assert compare([Answer({}, speck)], [Answer({}, other)]).mask_dice_min == 1.0
    speck[:, :], other[:, 10:] = 1.0, 1.0
    found = compare([Answer({}, speck)], [Answer({}, other)]).mask_dice_min
    assert found is not None
    assert found < 0.7


def test_a_network_agrees_with_itself() -> None:
    same = [Answer(features(1, 2), mask(0.2, 0.7), 0.1), Answer(features(3), mask(0.5, 0.1), 0.9)]
    found = compare(same, same, FEATURES)
    assert found == Agreement(2, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, {"features": 0.0})
    assert found.within(AgreementLimits())


def test_figures_that_do_not_exist_are_none_and_keep_every_limit() -> None:
    found = compare([Answer(features(1, 2))], [Answer(features(1, 2))], FEATURES)
    assert found == Agreement(1, None, None, None, None, None, None, None, None, {"features": 0.0})
    assert found.within(AgreementLimits())
    assert compare([Answer({}, None, 0.1)], [Answer({}, None, 0.3)]).malignancy_max == pytest.approx(0.2)
    assert compare([Answer({}, mask(0.1, 1))], [Answer({}, mask(0.1, 1))]).malignancy_max is None


@pytest.mark.parametrize(
    ("name", "worse"),
    [
        ("mask_mean", 0.0051),
        ("mask_dice_min", 0.89),
        ("mask_dice_p01", 0.969),
        ("mask_dice_median", 0.994),
        ("malignancy_p99", 0.031),
        ("malignancy_max", 0.11),
        ("outputs", 0.0051),
    ],
)
def test_every_agreement_limit_is_looked_at(name: str, worse: float) -> None:
    limits = AgreementLimits()
    at_limits = Agreement(100, 0.005, 1.0, 0.9, 0.97, 0.995, 0.03, 0.03, 0.1, {"a": 0.005, "b": None, "c": 0.0})
    assert at_limits.within(limits)
    for value in (worse, float("nan")):
        change = {"a": 0.0, "b": value} if name == "outputs" else value
        assert not Agreement(**asdict(at_limits) | {name: change}).within(limits)
        few = Agreement(**asdict(at_limits) | {name: change, "frames": 99})
        assert few.within(limits) == (name in ("mask_dice_p01", "malignancy_p99")), "one odd frame is no percentile"
