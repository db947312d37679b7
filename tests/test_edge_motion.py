"""Motion: known shifts are found under speckle, gain and fixed overlays, and another picture is no shift."""

import itertools
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.dataset import Dataset
from edge.frame import GreyImage
from edge.motion import REACH, Motion, Shift, estimate_shift
from edge.phantom import phantom_case

SIZE = (240, 320)
PHANTOMS = [phantom_case(seed, size=(400, 520)).pixels for seed in range(4)]


def view(picture: GreyImage, x: float, y: float) -> GreyImage:
    """A window onto a picture that seems to have moved by (x, y)."""
    move = np.array([[1.0, 0.0, x - 100], [0.0, 1.0, y - 80]])
    return np.asarray(cv2.warpAffine(picture, move, SIZE[::-1]), np.uint8)


def noisy(picture: GreyImage, seed: int, amount: float = 0.15) -> GreyImage:
    """Speckle and gain drawn anew."""
    rng = np.random.default_rng(seed)
    grain = cv2.GaussianBlur(rng.standard_normal(picture.shape, dtype=np.float32), (0, 0), 1.2)
    gain = rng.uniform(0.9, 1.1) * (1 + amount * grain / grain.std())
    return np.asarray(np.clip(picture * gain, 0, 255), np.uint8)


def with_overlay(picture: GreyImage) -> GreyImage:
    """Letters, a ruler and a black surround, where they are in every frame."""
    drawn = picture.copy()
    drawn[:, :24] = 0
    cv2.putText(drawn, "L 12:00 R", (30, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 1)
    for y in range(0, SIZE[0], 20):
        cv2.line(drawn, (310, y), (318, y), 255, 1)
    return drawn


def error(shift: Shift | None, x: float, y: float) -> float:
    """Of the estimate, as a share of the diagonal."""
    assert shift is not None
    return float(np.hypot(shift.x - x, shift.y - y) / np.hypot(*SIZE))


@given(st.integers(0, 3), st.floats(-60, 60), st.floats(-50, 50), st.integers(0, 999))
@settings(deadline=None, max_examples=60)
def test_a_known_shift_is_found_under_speckle_and_gain(picture: int, x: float, y: float, seed: int) -> None:
    before, after = view(PHANTOMS[picture], 0, 0), view(PHANTOMS[picture], x, y)
    shift = estimate_shift(noisy(before, seed), noisy(after, seed + 1))
    assert error(shift, x, y) < 0.012


def test_what_is_fixed_on_the_screen_rarely_holds_the_picture() -> None:
    rng = np.random.default_rng(1)
    errors = []
    for seed in range(100):
        x, y = (rng.uniform(-40, 40), rng.uniform(-30, 30)) if seed % 2 else rng.uniform(-10, 10, 2).tolist()
        before, after = (
            with_overlay(noisy(view(PHANTOMS[seed % 4], *at), 2 * seed + index))
            for index, at in enumerate([(0, 0), (x, y)])
        )
        errors.append(error(estimate_shift(before, after), x, y))
    assert np.quantile(errors, 0.95) < 0.006
    assert max(errors) < 0.02


@given(st.integers(0, 3), st.floats(-50, 50), st.floats(-40, 40))
@settings(deadline=None, max_examples=30)
def test_the_way_back_is_the_way_there(picture: int, x: float, y: float) -> None:
    before, after = view(PHANTOMS[picture], 0, 0), view(PHANTOMS[picture], x, y)
    there, back = estimate_shift(before, after), estimate_shift(after, before)
    assert back is not None
    assert error(there, -back.x, -back.y) < 0.01


def test_a_still_picture_does_not_move() -> None:
    picture = view(PHANTOMS[0], 0, 0)
    assert estimate_shift(picture, picture) == Shift(0.0, 0.0, 1.0)
    assert error(estimate_shift(with_overlay(noisy(picture, 1)), with_overlay(noisy(picture, 2))), 0, 0) < 0.004


def test_another_picture_is_no_shift() -> None:
    found = [estimate_shift(view(a, 0, 0), view(b, 0, 0)) for a, b in itertools.permutations(PHANTOMS, 2) if a is not b]
    assert found == [None] * len(found)


def test_a_jump_beyond_reach_is_no_shift() -> None:
    wide = phantom_case(9, size=(400, 1000)).pixels
    far = int(SIZE[1] * (REACH + 0.25))
    assert estimate_shift(wide[:240, :320].copy(), wide[:240, far : far + 320].copy()) is None


@pytest.mark.parametrize("level", [0, 90, 255])
def test_an_empty_picture_tells_nothing(level: int) -> None:
    empty = np.full(SIZE, level, np.uint8)
    assert estimate_shift(empty, empty) is None
    assert estimate_shift(empty, view(PHANTOMS[0], 0, 0)) is None
    assert estimate_shift(view(PHANTOMS[0], 0, 0), empty) is None


def test_motion_is_told_from_frame_to_frame() -> None:
    motion = Motion()
    assert motion.update(view(PHANTOMS[1], 0, 0)) is None
    assert error(motion.update(view(PHANTOMS[1], 12, -7)), 12, -7) < 0.006
    assert error(motion.update(view(PHANTOMS[1], 4, -7)), -8, 0) < 0.006
    motion.reset()
    assert motion.update(view(PHANTOMS[1], 4, -7)) is None


def test_from_frame_to_frame_it_is_as_between_the_two() -> None:
    """What is kept of a frame is not changed by the look at it: OpenCV's phase correlation writes into its arguments."""
    views = [noisy(view(PHANTOMS[2], 9 * step, 4 * step), step) for step in range(4)]
    motion = Motion()
    assert motion.update(views[0]) is None
    for before, after in itertools.pairwise(views):
        assert motion.update(after) == estimate_shift(before, after)


def test_a_picture_of_another_size_is_no_shift() -> None:
    motion = Motion()
    motion.update(view(PHANTOMS[1], 0, 0))
    assert motion.update(view(PHANTOMS[1], 0, 0)[:200]) is None
    with pytest.raises(ValueError, match="one size"):
        estimate_shift(PHANTOMS[1], PHANTOMS[1][:100])


@pytest.mark.parametrize("name", ["busbra", "busi"])
def test_real_stills_that_are_swept_are_followed(shared: Path, name: str) -> None:
    rng = np.random.default_rng(3)
    cases = Dataset.open([shared / "data" / name]).cases
    told, errors = 0, []
    for number, case in enumerate(random.Random(5).sample(cases, 12)):
        picture = np.asarray(cv2.resize(case.read().pixels, (520, 400)), np.uint8)
        x, y = rng.uniform(-30, 30, 2).tolist()
        shift = estimate_shift(noisy(view(picture, 0, 0), number), noisy(view(picture, x, y), number + 100))
        if shift is not None:
            told += 1
            errors.append(error(shift, x, y))
    assert told >= 11
    assert np.median(errors) < 0.004
    assert max(errors) < 0.02


def test_a_real_cine_is_followed_without_a_break(shared: Path) -> None:
    clip = cv2.VideoCapture(str(shared / "clips/linear_probe_lung_a.mp4"))
    motion, shifts = Motion(), []
    for _ in range(40):
        more, frame = clip.read()
        assert more
        shifts.append(motion.update(np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), np.uint8)))
    clip.release()
    assert shifts[0] is None
    assert all(shift is not None and np.hypot(shift.x, shift.y) < 40 for shift in shifts[1:])
