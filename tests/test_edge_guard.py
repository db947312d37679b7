"""The guard: which frames no answer is given on."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.faults import STILL_FAULTS, air, frozen, live, marked, saturated
from calibration.familiarity import fit_reference
from edge.frame import GreyImage, to_grey
from edge.guard import Guard, GuardKind, GuardLimits, Verdict
from edge.phantom import phantom_case
from edge.preprocess import Box
from edge.roi import Roi

SECOND = 10**9


def whole(pixels: NDArray[np.uint8]) -> Roi:
    return Roi(Box(0, 0, *pixels.shape[:2]), None, True, False)


@pytest.fixture(scope="module")
def still() -> GreyImage:
    return phantom_case(3, label="malignant", size=(240, 300)).pixels


def kind(guard: Guard, grey: GreyImage, time_s: float = 0.0, colour: NDArray[np.uint8] | None = None) -> GuardKind:
    return guard.check(grey, colour, whole(grey), round(time_s * SECOND)).kind


@pytest.mark.parametrize("seed", range(4))
def test_a_live_picture_is_never_rejected(still: GreyImage, seed: int) -> None:
    guard = Guard()
    frames = live(still, np.random.default_rng(seed), frames=40)
    assert {kind(guard, frame, index / 20) for index, frame in enumerate(frames)} == {GuardKind.SOUND}


@pytest.mark.parametrize("seed", range(4))
def test_a_frozen_picture_is_told_after_a_second_despite_noise_and_jpeg(still: GreyImage, seed: int) -> None:
    guard = Guard()
    kinds = [kind(guard, f, i / 20) for i, f in enumerate(frozen(still, np.random.default_rng(seed), frames=30))]
    assert set(kinds[:20]) == {GuardKind.SOUND}
    assert set(kinds[20:]) == {GuardKind.FROZEN}


def test_a_grabber_that_repeats_a_slower_scanners_frames_is_not_frozen(still: GreyImage) -> None:
    guard, time_s = Guard(), 0.0
    for frame in live(still, np.random.default_rng(1), frames=30, rate_hz=10.0):
        for _ in range(6):
            assert kind(guard, frame, time_s) is GuardKind.SOUND
            time_s += 1 / 60


def test_a_thawed_picture_is_sound_at_once(still: GreyImage) -> None:
    guard = Guard()
    moved = np.roll(still, 12, axis=1)
    assert [kind(guard, still, 0.0), kind(guard, still, 2.0), kind(guard, moved, 2.1)] == [
        GuardKind.SOUND,
        GuardKind.FROZEN,
        GuardKind.SOUND,
    ]


def test_a_new_region_starts_the_freeze_clock_anew(still: GreyImage) -> None:
    guard = Guard()
    kind(guard, still, 0.0)
    smaller = np.ascontiguousarray(still[:-10])
    assert kind(guard, smaller, 5.0) is GuardKind.SOUND


@pytest.mark.parametrize("name", STILL_FAULTS)
def test_each_fault_of_the_declared_range_is_named(still: GreyImage, name: str) -> None:
    expected = {"black": "no contact", "air": "no contact"}.get(name, name)
    for seed in range(8):
        made = STILL_FAULTS[name](still, np.random.default_rng(seed))
        colour = made if made.ndim == 3 else None
        verdict = Guard().check(to_grey(made), colour, whole(made), 0)
        assert verdict.kind == expected, seed
        assert verdict.reason


def test_coloured_calipers_and_a_tinted_grey_map_are_no_doppler(still: GreyImage) -> None:
    for seed in range(8):
        picture = marked(still, np.random.default_rng(seed))
        assert kind(Guard(), still, colour=picture) is GuardKind.SOUND, seed


def test_a_coloured_logo_in_the_masked_corner_does_not_count(still: GreyImage) -> None:
    colour = cv2.cvtColor(still, cv2.COLOR_GRAY2BGR)
    colour[:60, :60] = (255, 0, 0)
    mask = np.ones(still.shape, np.bool_)
    mask[:60, :60] = False
    roi = Roi(Box(0, 0, *still.shape), mask, True, False)
    picture = np.asarray(colour, np.uint8)
    assert Guard().check(still, picture, roi, 0).kind is GuardKind.SOUND
    assert Guard().check(still, picture, whole(still), 0).kind is GuardKind.DOPPLER


def test_only_the_masked_part_counts_for_contact_and_gain(still: GreyImage) -> None:
    mask = np.zeros(still.shape, np.bool_)
    mask[:, 60:240] = True
    roi = Roi(Box(0, 0, *still.shape), mask, True, False)
    rng = np.random.default_rng(2)
    for fault, expected in ((air, GuardKind.NO_CONTACT), (saturated, GuardKind.SATURATED)):
        pixels = np.where(mask, fault(still, rng), 0).astype(np.uint8)
        assert Guard().check(pixels, None, roi, 0).kind is expected
    sector = np.where(mask, still, 0).astype(np.uint8)
    assert Guard().check(sector, None, roi, 0).kind is GuardKind.SOUND


def test_nothing_is_judged_before_the_region_is_known(still: GreyImage) -> None:
    sought = replace(whole(still), settled=False)
    first = Guard().check(still, None, sought, 0)
    again = Guard().check(still, None, replace(sought, changed=True), 0)
    assert (first.kind, again.kind) == (GuardKind.SEARCHING, GuardKind.LAYOUT)
    assert first.reason == "looking for the scan region"
    assert "layout changed" in again.reason


def test_features_far_from_calibration_are_unfamiliar() -> None:
    rng = np.random.default_rng(0)
    usual = rng.normal(1.0, 0.1, (60, 8)).astype(np.float32)
    guard = Guard(reference=fit_reference(usual))
    near, far = usual[:1], usual[:1] + np.array([[3, -3, 3, -3, 3, -3, 3, -3]], np.float32)
    assert guard.familiar(near).kind is GuardKind.SOUND
    assert guard.familiar(far).kind is GuardKind.UNFAMILIAR
    assert guard.familiar(far).reason.startswith("unfamiliar")
    assert guard.familiar(np.full((1, 8), np.nan, np.float32)).kind is GuardKind.UNFAMILIAR
    assert Guard().familiar(far) == Verdict()
    with pytest.raises(ValueError, match="12 channels, the reference is for 8"):
        guard.familiar(np.ones((1, 12), np.float32))


def test_pixels_that_are_not_the_regions_are_refused(still: GreyImage) -> None:
    with pytest.raises(ValueError, match="the region"):
        Guard().check(still[:-1], None, whole(still), 0)


def test_impossible_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        GuardLimits(frozen_s=0.0)
    with pytest.raises(ValueError, match="above 0"):
        GuardLimits(structure=-1.0)
    with pytest.raises(ValueError, match="between"):
        GuardLimits(clipped=1.0)
    with pytest.raises(ValueError, match="between"):
        GuardLimits(white=0)


def test_a_reason_belongs_to_a_rejection() -> None:
    with pytest.raises(ValueError, match="belongs to a rejection"):
        Verdict("", GuardKind.FROZEN)
    with pytest.raises(ValueError, match="belongs to a rejection"):
        Verdict("dark")


def test_real_clips_are_never_frozen(shared: Path) -> None:
    guard = Guard()
    video = cv2.VideoCapture(str(shared / "clips/linear_probe_lung_b.mp4"))
    kinds = []
    for index in range(60):
        read, frame = video.read()
        assert read
        kinds.append(kind(guard, to_grey(np.asarray(frame, np.uint8)), index / 19.1))
    video.release()
    assert set(kinds) == {GuardKind.SOUND}
