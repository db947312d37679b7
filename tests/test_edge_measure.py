"""Measurements: area and diameter are those of the pixels, in any direction and with any spacing."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.measure import SPECK, SPECK_OF_LARGEST, Outline, filled_area, lesions_of

Mask = NDArray[np.bool_]


def ellipse(size: tuple[int, int], centre: tuple[int, int], axes: tuple[int, int], angle: float = 0.0) -> Mask:
    mask = np.zeros(size, np.uint8)
    cv2.ellipse(mask, centre, axes, angle, 0, 360, 1, -1)
    return mask > 0


def blobs(seed: int, size: tuple[int, int] = (60, 80)) -> Mask:
    noise = np.random.default_rng(seed).standard_normal(size, dtype=np.float32)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 1 + seed % 5) > 0.02)


def filled(outline: Outline, size: tuple[int, int]) -> Mask:
    drawn = np.zeros(size, np.uint8)
    cv2.fillPoly(drawn, [outline.contour], (1,))
    return drawn > 0


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=60)
def test_the_area_is_the_count_of_the_pixels_on_and_inside_the_outline(seed: int) -> None:
    mask = blobs(seed)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    for contour in contours:
        drawn = np.zeros(mask.shape, np.uint8)
        cv2.drawContours(drawn, [contour], 0, 1, -1)
        assert filled_area(np.asarray(contour, np.int32).reshape(-1, 2)) == np.count_nonzero(drawn)


@given(st.integers(0, 10_000), st.floats(0.03, 0.5), st.floats(0.03, 0.5))
@settings(deadline=None, max_examples=40)
def test_the_longest_diameter_is_that_of_all_pairs_of_pixels(seed: int, row: float, column: float) -> None:
    mask = blobs(seed, (40, 50))
    for outline in lesions_of(mask, (row, column)):
        y, x = np.nonzero(filled(outline, mask.shape))
        distance = np.hypot((x[:, None] - x) * column, (y[:, None] - y) * row)
        (x0, y0), (x1, y1) = outline.diameter
        longest = math.hypot((x1 - x0) * column, (y1 - y0) * row)
        assert longest == pytest.approx(distance.max())
        assert outline.diameter_px == pytest.approx(math.hypot(x1 - x0, y1 - y0) + 1)
        assert outline.diameter_mm is not None
        assert longest + min(row, column) <= outline.diameter_mm + 1e-9 <= longest + max(row, column) + 2e-9
        assert outline.area_mm2 == pytest.approx(outline.area_px * row * column)


def test_a_bar_measures_what_it_is() -> None:
    mask = np.zeros((100, 200), np.bool_)
    mask[40:50, 20:120] = True
    (outline,) = lesions_of(mask, (0.2, 0.1))
    assert outline.area_px == 1000
    assert outline.area_mm2 == pytest.approx(20.0)
    assert outline.diameter_px == pytest.approx(math.hypot(99, 9) + 1)
    assert outline.diameter_mm == pytest.approx(math.hypot(9.9, 1.8) * (1 + 1 / math.hypot(99, 9)))


def test_the_spacing_decides_which_diameter_is_the_longest() -> None:
    mask = np.zeros((100, 100), np.bool_)
    mask[30:70, 20:80] = True
    mask[10:90, 45:55] = True
    (flat,) = lesions_of(mask, (0.1, 0.4))
    (tall,) = lesions_of(mask, (0.4, 0.1))
    assert abs(flat.diameter[0][0] - flat.diameter[1][0]) == 59
    assert abs(tall.diameter[0][1] - tall.diameter[1][1]) == 79


def test_without_spacing_there_are_no_millimetres() -> None:
    (outline,) = lesions_of(ellipse((100, 100), (50, 50), (20, 10)))
    assert (outline.area_mm2, outline.diameter_mm) == (None, None)
    assert outline.diameter_px == pytest.approx(41, abs=1)


def test_specks_are_left_out_and_what_is_larger_is_not() -> None:
    size = (200, 300)
    mask = ellipse(size, (150, 100), (40, 30))
    least = max(math.ceil(SPECK * mask.size), math.ceil(SPECK_OF_LARGEST * mask.sum()))
    side = math.isqrt(least) + 1
    mask[5 : 5 + side, 5 : 5 + side] = True
    mask[5 : 5 + side - 2, 60 : 60 + side - 2] = True
    assert [outline.area_px for outline in lesions_of(mask)][1:] == [side * side]
    alone = np.zeros(size, np.bool_)
    alone[10:14, 10:14] = True
    assert lesions_of(alone) == []
    assert lesions_of(np.zeros(size, np.bool_)) == []


def test_holes_belong_to_the_lesion_and_the_largest_comes_first() -> None:
    mask = ellipse((200, 300), (200, 100), (50, 50))
    whole = int(mask.sum())
    mask &= ~ellipse((200, 300), (200, 100), (20, 20))
    mask |= ellipse((200, 300), (60, 100), (30, 30))
    first, second = lesions_of(mask)
    assert first.area_px == whole > second.area_px
    assert first.centre == (200.0, 100.0)


def test_a_lesion_is_told_in_the_frames_coordinates() -> None:
    mask = ellipse((100, 120), (60, 40), (25, 15))
    (outline,) = lesions_of(mask, (0.1, 0.1))
    lesion = outline.lesion(3, origin=(500, 300), certainty=0.75)
    assert lesion.track == 3
    assert min(x for x, _ in lesion.contour) == 500 + np.flatnonzero(mask.any(axis=0))[0]
    assert min(y for _, y in lesion.contour) == 300 + np.flatnonzero(mask.any(axis=1))[0]
    assert set(lesion.diameter) <= set(lesion.contour)
    assert all(type(value) is int for point in lesion.contour for value in point)
    assert lesion.to_json()["certainty"] == 0.75


def test_certainty_is_the_mean_probability_inside() -> None:
    mask = ellipse((100, 120), (60, 40), (25, 15))
    level = np.where(mask, 204, 255).astype(np.uint8)
    (outline,) = lesions_of(mask)
    assert outline.certainty(level) == pytest.approx(0.8)


@pytest.mark.parametrize("spacing", [(0.0, 0.1), (0.1, -0.1), (math.nan, 0.1), (math.inf, 0.1)])
def test_a_spacing_that_is_none_is_refused(spacing: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        lesions_of(ellipse((50, 50), (25, 25), (9, 9)), spacing)
