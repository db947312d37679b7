"""The overlay: the outline lies on the lesion, the frame stays the frame, and the caption says what it is."""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.frame import GreyImage
from edge.overlay import NORMAL_COLOUR, OTHER_COLOUR, POSITIVE_COLOUR, decision_colour, draw_overlay, tile
from edge.predictor import Prediction, Timing

Mask = NDArray[np.bool_]
COLOURS = {"benign": OTHER_COLOUR, "malignant": POSITIVE_COLOUR, "normal": NORMAL_COLOUR}
NO_LESION = "no lesion"


def frame(height: int = 120, width: int = 400) -> GreyImage:
    return (np.arange(height * width) % 97).astype(np.uint8).reshape(height, width)


def block(shape: tuple[int, int] = (120, 400), rows: slice = slice(30, 80), columns: slice = slice(100, 260)) -> Mask:
    mask = np.zeros(shape, np.bool_)
    mask[rows, columns] = True
    return mask


def prediction(mask: Mask, decision: str = "malignant", malignancy: float = 0.87) -> Prediction:
    return Prediction(
        mask.astype(np.uint8) * 255,
        np.zeros((4, 4), np.float32),
        {"benign": 1 - malignancy, "malignant": malignancy} | ({"normal": 0.0} if decision == "normal" else {}),
        "malignant",
        decision,
        Timing(1.0, 2.0, 3.0),
        threshold=0.42,
    )


def near_outline(mask: Mask, distance: int) -> Mask:
    """Pixels at most `distance` from the border between lesion and tissue."""
    kernel = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    wide = cv2.dilate(mask.astype(np.uint8), kernel)
    narrow = cv2.erode(mask.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(wide != narrow)


@pytest.mark.parametrize("decision", ["benign", "malignant", "normal"])
def test_the_outline_has_the_decisions_colour_and_lies_on_the_contour(decision: str) -> None:
    picture = draw_overlay(frame(), prediction(block(), decision))
    for row, column in ((30, 180), (79, 180), (55, 100), (55, 259)):
        assert tuple(picture[row, column]) == COLOURS[decision]


def test_the_decisions_have_colours_of_their_own() -> None:
    assert len(set(COLOURS.values())) == 3
    blue, _, red = OTHER_COLOUR
    assert blue > red
    blue, _, red = POSITIVE_COLOUR
    assert red > blue


@pytest.mark.parametrize(
    ("positive", "decision", "colour"),
    [
        ("carcinoma", "carcinoma", POSITIVE_COLOUR),
        ("carcinoma", "cyst", OTHER_COLOUR),
        ("carcinoma", "normal", NORMAL_COLOUR),
        ("carcinoma", NO_LESION, NORMAL_COLOUR),
        (None, "lesion", OTHER_COLOUR),
        (None, NO_LESION, NORMAL_COLOUR),
    ],
)
def test_any_networks_decision_has_a_colour(positive: str | None, decision: str, colour: tuple[int, int, int]) -> None:
    other = replace(prediction(block()), probabilities={"carcinoma": 0.5}, positive=positive, decision=decision)
    assert decision_colour(other) == colour


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(16, 90), st.integers(16, 450)),
    box=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_the_frame_stays_itself_away_from_the_outline(
    shape: tuple[int, int], box: tuple[float, float, float, float]
) -> None:
    top, bottom = sorted((int(box[0] * shape[0]), int(box[1] * shape[0])))
    left, right = sorted((int(box[2] * shape[1]), int(box[3] * shape[1])))
    mask = block(shape, slice(top, bottom), slice(left, right))
    picture = draw_overlay(frame(*shape), prediction(mask))
    assert picture.shape == (shape[0] + 44, max(shape[1], 360), 3)
    changed = np.any(picture[: shape[0], : shape[1]] != frame(*shape)[:, :, None], axis=2)
    assert not np.any(changed & ~near_outline(mask, 3))
    assert not picture[: shape[0], shape[1] :].any()


def test_a_frame_without_lesion_is_untouched() -> None:
    """Whatever pixels the mask has: no lesion has no outline."""
    pixels = frame()
    picture = draw_overlay(pixels, prediction(block(), NO_LESION))
    assert np.array_equal(picture[:120], np.repeat(pixels[:, :, None], 3, axis=2))
    assert np.array_equal(pixels, frame())


def test_an_outline_at_the_edge_does_not_run_into_the_caption() -> None:
    inside = draw_overlay(frame(), prediction(block()))
    edge = draw_overlay(frame(), prediction(block(rows=slice(60, 120), columns=slice(0, 400))))
    assert np.array_equal(inside[120:], edge[120:])


def test_the_true_outline_is_white_and_thin_and_below_the_predicted_one() -> None:
    truth = block(rows=slice(40, 110), columns=slice(50, 200))
    picture = draw_overlay(frame(), prediction(block(rows=slice(0, 0))), true_mask=truth)
    assert picture[109, 120].min() > 220
    thin = np.any(picture[:120, :400] != frame()[:, :, None], axis=2).sum()
    thick = np.any(draw_overlay(frame(), prediction(truth))[:120, :400] != frame()[:, :, None], axis=2).sum()
    assert thin < 0.8 * thick
    both = draw_overlay(frame(), prediction(truth), true_mask=truth)
    assert tuple(both[109, 120]) == COLOURS["malignant"]


def captions(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> str:
    """All text drawn onto the overlay."""
    texts: list[str] = []
    put_text = cv2.putText

    def spy(canvas: Any, text: str, *rest: Any) -> Any:
        texts.append(text)
        return put_text(canvas, text, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(cv2, "putText", spy)
        draw_overlay(*arguments)
    return " | ".join(texts)


def test_the_caption_says_what_was_found_and_what_this_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    lesion = captions(monkeypatch, frame(), prediction(block(), "benign", 0.126))
    assert lesion == "benign  p(malignant) 0.13 (call at 0.42) | Research use only - not a medical device"
    sure = replace(prediction(block(), "malignant", 0.81), presence=0.974)
    assert "malignant  p(malignant) 0.81 (call at 0.42)  p(lesion) 0.97 |" in captions(monkeypatch, frame(), sure)
    empty = replace(prediction(block(rows=slice(0, 0)), "malignant", 0.81), presence=0.6)
    assert "p(lesion) 0.60  no outline |" in captions(monkeypatch, frame(), empty)


def test_a_frame_without_lesion_has_no_class_in_its_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    none = prediction(block(), NO_LESION, 0.9)
    assert captions(monkeypatch, frame(), none).startswith("no lesion | Research")
    calibrated = captions(monkeypatch, frame(), replace(none, presence=0.12))
    assert calibrated.startswith("no lesion  p(lesion) 0.12 | Research")
    normal = captions(monkeypatch, frame(), prediction(block(rows=slice(0, 0)), "normal", 0.1))
    assert normal.startswith("normal  p(malignant) 0.10 (call at 0.42)  no outline | Research")


def test_the_caption_says_only_what_the_network_does(monkeypatch: pytest.MonkeyPatch) -> None:
    mask_only = replace(prediction(block(), "lesion"), probabilities={}, positive=None)
    assert captions(monkeypatch, frame(), mask_only).startswith("lesion | Research")
    class_only = replace(prediction(block(), "malignant", 0.7), mask_level=None, mask_probability=None)
    assert captions(monkeypatch, frame(), class_only).startswith(
        "malignant  p(malignant) 0.70 (call at 0.42) | Research"
    )
    assert np.array_equal(draw_overlay(frame(), class_only)[:120], np.repeat(frame()[:, :, None], 3, axis=2))


@pytest.mark.parametrize("decision", ["benign", "malignant", NO_LESION, "invasive ductal carcinoma, not specified"])
def test_the_caption_fits_below_the_narrowest_frame(decision: str) -> None:
    picture = draw_overlay(np.zeros((16, 16), np.uint8), prediction(np.zeros((16, 16), np.bool_), decision))
    rows, columns = (np.flatnonzero(picture[16:].any(axis=axes)) for axes in ((1, 2), (0, 2)))
    assert len(rows) > 20  # two lines of text
    assert rows[0] >= 2
    assert rows[-1] <= 42
    assert columns[-1] < 355


def test_tiles_keep_every_picture_in_reading_order() -> None:
    pictures = [np.full((10 + i, 20, 3), 50 + i, np.uint8) for i in range(5)]
    sheet = tile(pictures, columns=2)
    assert sheet.shape == (3 * 18, 2 * 24, 3)
    for index, picture in enumerate(pictures):
        top, left = index // 2 * 18, index % 2 * 24
        assert np.array_equal(sheet[top : top + 10 + index, left : left + 20], picture)
    assert int(np.count_nonzero(sheet)) == sum(picture.size for picture in pictures)
