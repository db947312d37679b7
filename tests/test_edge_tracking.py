"""Tracking: a lesion keeps its number while it can be followed, and no two share one."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.measure import Outline, lesions_of
from edge.tracking import PATIENCE_S, Tracker, likeness, overlap

STILL = (0.0, 0.0)


def lesion(x: float, y: float, radius: int = 25, *, tall: float = 0.7) -> Outline:
    mask = np.zeros((400, 600), np.uint8)
    cv2.ellipse(mask, (round(x), round(y)), (radius, round(radius * tall)), 0, 0, 360, 1, -1)
    (outline,) = lesions_of(mask > 0)
    return outline


def test_a_lesion_keeps_its_number_through_a_sweep() -> None:
    tracker = Tracker()
    x, y = 300.0, 200.0
    assert tracker.update([lesion(x, y)], shift_px=None, time_s=0.0) == [1]
    for index in range(1, 30):
        step = (30.0, 12.0) if index % 10 < 5 else (-30.0, -12.0)
        x, y = x + step[0], y + step[1]
        assert tracker.update([lesion(x, y, 25 + index % 3)], shift_px=step, time_s=index / 20) == [1]


def test_a_fast_move_is_followed_by_the_motion_alone() -> None:
    for moved, number in (((150.0, 0.0), 1), (STILL, 2)):
        tracker = Tracker()
        tracker.update([lesion(200, 200)], shift_px=None, time_s=0.0)
        assert tracker.update([lesion(350, 200)], shift_px=moved, time_s=0.05) == [number]


@given(st.permutations(range(4)), st.integers(0, 3))
@settings(deadline=None, max_examples=25)
def test_numbers_follow_the_lesions_in_any_order(order: list[int], missing: int) -> None:
    places = [(100, 100), (300, 100), (100, 300), (400, 300)]
    tracker = Tracker()
    first = tracker.update([lesion(*place) for place in places], shift_px=None, time_s=0.0)
    assert first == [1, 2, 3, 4]
    left = [index for index in order if index != missing]
    moved = [lesion(places[index][0] + 20, places[index][1] - 10) for index in left]
    assert tracker.update(moved, shift_px=(20, -10), time_s=0.1) == [index + 1 for index in left]


@pytest.mark.parametrize("rate_hz", [5, 20, 60])
def test_a_lesion_that_is_missed_shortly_comes_back_under_its_number(rate_hz: int) -> None:
    tracker = Tracker()
    tracker.update([lesion(200, 200)], shift_px=None, time_s=0.0)
    missed = int(0.8 * PATIENCE_S * rate_hz)
    for index in range(1, missed + 1):
        assert tracker.update([], shift_px=(2.0, 0.0), time_s=index / rate_hz) == []
    back = lesion(200 + 2 * (missed + 1), 200)
    assert tracker.update([back], shift_px=(2.0, 0.0), time_s=(missed + 1) / rate_hz) == [1]


def test_a_lesion_that_stays_away_is_given_up() -> None:
    tracker = Tracker()
    tracker.update([lesion(200, 200)], shift_px=None, time_s=0.0)
    tracker.update([], shift_px=STILL, time_s=0.5)
    tracker.update([], shift_px=STILL, time_s=PATIENCE_S + 0.1)
    assert tracker.update([lesion(200, 200)], shift_px=STILL, time_s=PATIENCE_S + 0.2) == [2]


def test_one_frame_a_second_is_enough() -> None:
    tracker = Tracker()
    assert [tracker.update([lesion(200, 200)], shift_px=STILL, time_s=float(second)) for second in range(4)] == [
        [1]
    ] * 4


def test_a_jump_gives_new_numbers() -> None:
    tracker = Tracker()
    tracker.update([lesion(200, 200)], shift_px=None, time_s=0.0)
    assert tracker.update([lesion(200, 200)], shift_px=None, time_s=0.1) == [2]


def test_time_that_goes_back_gives_new_numbers() -> None:
    tracker = Tracker()
    tracker.update([lesion(200, 200)], shift_px=None, time_s=5.0)
    assert tracker.update([lesion(200, 200)], shift_px=STILL, time_s=0.0) == [2]


def test_of_a_split_lesion_the_larger_part_keeps_the_number() -> None:
    tracker = Tracker()
    tracker.update([lesion(300, 200, 80)], shift_px=None, time_s=0.0)
    parts = [lesion(350, 200, 25), lesion(270, 200, 45)]
    assert tracker.update(parts, shift_px=STILL, time_s=0.1) == [2, 1]


def test_of_merged_lesions_the_one_that_covers_more_goes_on_and_the_other_waits() -> None:
    tracker = Tracker()
    apart = [lesion(230, 200, 60), lesion(340, 200, 30)]
    assert tracker.update(apart, shift_px=None, time_s=0.0) == [1, 2]
    assert tracker.update([lesion(260, 200, 100)], shift_px=STILL, time_s=0.1) == [1]
    assert tracker.update(apart, shift_px=STILL, time_s=0.2) == [1, 2]


def test_after_a_reset_numbers_go_on() -> None:
    tracker = Tracker()
    tracker.update([lesion(200, 200)], shift_px=None, time_s=0.0)
    tracker.reset()
    assert tracker.update([lesion(200, 200)], shift_px=STILL, time_s=0.1) == [2]


@given(st.integers(0, 40), st.integers(0, 40))
@settings(deadline=None, max_examples=30)
def test_overlap_is_that_of_the_masks(x: int, y: int) -> None:
    before, after = lesion(200, 200, 40), lesion(200 + x, 200 + y, 40)
    masks = []
    for outline in (before, after):
        drawn = np.zeros((400, 600), np.uint8)
        cv2.fillPoly(drawn, [outline.contour], (1,))
        masks.append(drawn > 0)
    true = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
    assert overlap(before, after, STILL) == pytest.approx(true, abs=0.04)
    assert overlap(before, after, (x, y)) == pytest.approx(1.0, abs=0.02)


def test_far_apart_nothing_is_alike_and_nearness_counts_less_than_overlap() -> None:
    assert likeness(lesion(100, 100), lesion(300, 100), STILL) == 0.0
    thin, beside = lesion(100, 100, 30, tall=0.2), lesion(100, 113, 30, tall=0.2)
    assert overlap(thin, beside, STILL) == 0.0
    assert 0.0 < likeness(thin, beside, STILL) < likeness(thin, lesion(104, 101, 30, tall=0.2), STILL)
