"""Smoothing: by the second, along with the motion, and afresh where the picture is another one."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.interpretation import Interpretation
from edge.manifest import OutputSpec
from edge.predictor import Estimate
from edge.smoothing import HALF_LIFE_S, Smoothed, Smoother

MASK = (28, 28)
INTERPRETATION = Interpretation(
    input_size=(56, 56),
    resize="stretch",
    mask=OutputSpec("mask", "mask", "sigmoid", (1, 1, *MASK)),
    classes=OutputSpec("malignancy", "class", "sigmoid", (1, 1)),
    labels=("benign", "malignant"),
    positive="malignant",
    threshold=0.5,
)
SIZE = (280, 560)
STILL = (0.0, 0.0)


def spot(x: float, y: float, *, radius: float = 5.0) -> NDArray[np.float32]:
    rows, columns = np.mgrid[: MASK[0], : MASK[1]]
    return np.asarray(np.clip(radius - np.hypot(columns - x, rows - y) + 0.5, 0.0, 1.0), np.float32)


def prediction(
    mask: NDArray[np.float32] | None = None, malignancy: float = 0.5, presence: float | None = None
) -> Estimate:
    labels = {"benign": 1 - malignancy, "malignant": malignancy}
    return Estimate(mask, labels, presence, {}, 0, 0, 0)


def follow(smoother: Smoother, malignancies: list[float], rate_hz: float) -> Smoothed:
    for index, malignancy in enumerate(malignancies):
        smoothed = smoother.update(prediction(None, malignancy), size=SIZE, shift_px=STILL, time_s=index / rate_hz)
    return smoothed


def test_the_first_frame_stays_as_it_is() -> None:
    mask = spot(10, 14)
    smoothed = Smoother(INTERPRETATION).update(prediction(mask, 0.3, 0.9), size=SIZE, shift_px=None, time_s=0.0)
    assert smoothed.past == 0.0
    assert smoothed.mask_probability is not None
    np.testing.assert_array_equal(smoothed.mask_probability, mask)
    assert smoothed.probabilities["malignant"] == pytest.approx(0.3)
    assert smoothed.presence == pytest.approx(0.9)


@given(st.floats(0.0, 1.0), st.integers(2, 30), st.floats(0.01, 3.0))
@settings(deadline=None)
def test_what_does_not_change_stays(malignancy: float, frames: int, step_s: float) -> None:
    smoothed = follow(Smoother(INTERPRETATION), [malignancy] * frames, 1 / step_s)
    assert smoothed.probabilities["malignant"] == pytest.approx(malignancy, abs=2e-4)
    assert sum(smoothed.probabilities.values()) == pytest.approx(1.0)


@given(st.lists(st.floats(0.02, 0.98), min_size=2, max_size=12))
def test_the_smoothed_value_lies_between_the_raw_ones(malignancies: list[float]) -> None:
    found = follow(Smoother(INTERPRETATION), malignancies, 20.0).probabilities["malignant"]
    assert min(malignancies) - 1e-9 <= found <= max(malignancies) + 1e-9


def test_the_past_fades_by_seconds_not_by_frames() -> None:
    after = []
    for rate_hz in (60, 30):
        held = [0.1] * (10 * rate_hz) + [0.9] * round(2 * HALF_LIFE_S * rate_hz)
        after.append(follow(Smoother(INTERPRETATION), held, rate_hz).probabilities["malignant"])
    assert after[0] == pytest.approx(after[1], abs=0.01)
    logit = np.log(9) * (1 - 2 * 0.25)  # two half lives: a quarter of the past is left
    assert after[0] == pytest.approx(1 / (1 + np.exp(-logit)), abs=0.01)
    assert follow(Smoother(INTERPRETATION), [0.1] * 20 + [0.9], 1.0).probabilities["malignant"] > 0.85


@given(st.floats(-8, 8), st.floats(-8, 8))
@settings(deadline=None)
def test_the_mask_moves_along_and_does_not_smear(x: float, y: float) -> None:
    per_pixel = SIZE[1] / MASK[1], SIZE[0] / MASK[0]
    smoother, unmoved = Smoother(INTERPRETATION), Smoother(INTERPRETATION)
    for index in range(3):
        mask = spot(14 + (index - 1) * x / 2, 14 + (index - 1) * y / 2)
        moved = (x / 2 * per_pixel[0], y / 2 * per_pixel[1]) if index else None
        right = smoother.update(prediction(mask), size=SIZE, shift_px=moved, time_s=index / 20)
        wrong = unmoved.update(prediction(mask), size=SIZE, shift_px=moved and STILL, time_s=index / 20)
    assert right.mask_probability is not None and wrong.mask_probability is not None
    inner = slice(4, -4), slice(4, -4)
    smear = np.abs(right.mask_probability - mask)[inner].mean()
    assert smear < 0.02  # a move by half a pixel softens the spot's edge
    if np.hypot(x, y) > 3:
        assert np.abs(wrong.mask_probability - mask)[inner].mean() > 2 * smear


def test_a_letterboxed_mask_moves_by_its_own_pixels() -> None:
    smoother = Smoother(replace(INTERPRETATION, resize="letterbox"))
    smoother.update(prediction(spot(10, 14)), size=SIZE, shift_px=None, time_s=0.0)
    smoothed = smoother.update(prediction(spot(14, 16)), size=SIZE, shift_px=(80.0, 40.0), time_s=0.05)  # 20 to a pixel
    assert smoothed.mask_probability is not None
    np.testing.assert_allclose(smoothed.mask_probability, spot(14, 16), atol=1e-5)


def test_what_comes_into_view_has_no_past() -> None:
    smoother = Smoother(INTERPRETATION)
    smoother.update(prediction(np.zeros(MASK, np.float32)), size=SIZE, shift_px=None, time_s=0.0)
    smoothed = smoother.update(prediction(np.ones(MASK, np.float32)), size=SIZE, shift_px=(200.0, 0.0), time_s=0.01)
    assert smoothed.mask_probability is not None
    assert (smoothed.mask_probability[:, :10] == 1.0).all()
    assert (smoothed.mask_probability[:, 11:] < 0.9).all()


def test_the_more_the_picture_moves_the_less_the_past_counts() -> None:
    found = []
    for x in (0.0, 40.0, 160.0):
        smoother = Smoother(INTERPRETATION)
        smoother.update(prediction(None, 0.1), size=SIZE, shift_px=None, time_s=0.0)
        found.append(smoother.update(prediction(None, 0.9), size=SIZE, shift_px=(x, 0.0), time_s=0.05).past)
    assert found[0] > found[1] > found[2] > 0.0


@pytest.mark.parametrize(("shift_px", "time_s"), [(None, 1.05), (STILL, 1.0), (STILL, 0.2)])
def test_it_starts_afresh_on_a_jump_and_where_time_does_not_go_on(
    shift_px: tuple[float, float] | None, time_s: float
) -> None:
    smoother = Smoother(INTERPRETATION)
    smoother.update(prediction(spot(5, 5), 0.05, 0.1), size=SIZE, shift_px=None, time_s=1.0)
    smoothed = smoother.update(prediction(spot(20, 20), 0.95, 0.9), size=SIZE, shift_px=shift_px, time_s=time_s)
    assert smoothed.past == 0.0
    assert smoothed.mask_probability is not None
    np.testing.assert_array_equal(smoothed.mask_probability, spot(20, 20))
    assert (smoothed.probabilities["malignant"], smoothed.presence) == pytest.approx((0.95, 0.9))


def test_presence_is_smoothed_as_a_logit() -> None:
    smoother = Smoother(INTERPRETATION, half_life_s=1e9)
    for index, presence in enumerate((0.9, 0.1)):
        smoothed = smoother.update(prediction(None, 0.5, presence), size=SIZE, shift_px=STILL, time_s=float(index))
    assert smoothed.presence == pytest.approx(0.5)


def test_a_network_without_classes_is_smoothed_too() -> None:
    smoother = Smoother(INTERPRETATION)
    bare = Estimate(spot(14, 14), {}, None, {}, 0, 0, 0)
    assert smoother.update(bare, size=SIZE, shift_px=STILL, time_s=0.0).probabilities == {}


@pytest.mark.parametrize(("half_life_s", "half_move"), [(0.0, 0.1), (0.2, 0.0), (-1.0, 0.1)])
def test_constants_that_are_none_are_refused(half_life_s: float, half_move: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Smoother(INTERPRETATION, half_life_s=half_life_s, half_move=half_move)
