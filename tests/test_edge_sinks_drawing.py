"""Drawing a finding: outline, caliper and words are there, and the frame stays the frame everywhere else."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sink_results import Pixels, finding, lesion, picture, result

from edge.findings import Finding
from edge.overlay import DISCLAIMER, NORMAL_COLOUR, OTHER_COLOUR, POSITIVE_COLOUR, decision_colour
from edge.sinks import drawing
from edge.sinks.drawing import CALIPER_COLOUR, draw_analysis, draw_finding, finding_text, mark_text


def has_colour(shown: Pixels, colour: tuple[int, int, int]) -> bool:
    """Whether a pixel of it has the colour, but for what smooth edges leave of the frame."""
    return bool((np.abs(shown.astype(int) - colour).max(axis=2) < 40).any())


def words(monkeypatch: pytest.MonkeyPatch, *arguments: object, **options: object) -> list[str]:
    """All text that is drawn."""
    texts: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(drawing, "_strip", lambda _, text, *__: texts.append(text))
        draw_finding(*arguments, **options)  # type: ignore[arg-type]
    return texts


@pytest.mark.parametrize("colour", [False, True])
def test_the_outline_has_the_calls_colour_and_the_frame_its_size(colour: bool) -> None:
    pixels = picture(240, 320, colour=colour)
    shown = draw_finding(pixels, finding(lesion()), caption=False)
    assert shown.shape == (240, 320, 3)
    assert shown.dtype == np.uint8
    for row, column in ((40, 80), (80, 80), (50, 54), (70, 106)):
        assert has_colour(shown[row - 1 : row + 2, column - 1 : column + 2], POSITIVE_COLOUR)
    assert has_colour(shown[60:61, 80:81], CALIPER_COLOUR)


@pytest.mark.parametrize("colour", [False, True])
def test_the_pixels_given_are_not_drawn_on(colour: bool) -> None:
    pixels = picture(colour=colour)
    before = pixels.copy()
    pixels.flags.writeable = False
    draw_finding(pixels, finding(lesion()), reason="too dark", age_s=1.0)
    assert np.array_equal(pixels, before)


@settings(max_examples=30, deadline=None)
@given(
    centre=st.tuples(st.integers(0, 159), st.integers(0, 119)),
    radii=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    colour=st.booleans(),
)
def test_the_frame_stays_itself_away_from_what_is_drawn(
    centre: tuple[int, int], radii: tuple[int, int], colour: bool
) -> None:
    pixels, drawn = picture(colour=colour), lesion(centre=centre, radii=radii)
    shown = draw_finding(pixels, finding(drawn), caption=False)
    near = np.zeros(pixels.shape[:2], np.uint8)
    cv2.polylines(near, [np.array(drawn.contour)], True, (1,), 9)
    cv2.line(near, *drawn.diameter, (1,), 15)
    changed = np.any(shown != (pixels if colour else pixels[:, :, None]), axis=2)
    assert not np.any(changed & (near == 0))


def test_a_kept_finding_is_drawn_thinner() -> None:
    pixels = np.zeros((480, 640), np.uint8)
    new = draw_finding(pixels, finding(lesion()), caption=False)
    kept = draw_finding(pixels, finding(lesion()), reason="the picture does not change", age_s=2.0, caption=False)
    assert 0 < np.count_nonzero(kept) < 0.8 * np.count_nonzero(new)


def test_frozen_and_rejected_frames_are_marked_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    said = words(monkeypatch, picture(), finding(lesion()), reason="the picture does not change", age_s=2.34)
    assert said[1:] == ["NOT ANALYSED: the picture does not change  finding of 2.3 s ago", DISCLAIMER]
    assert words(monkeypatch, picture(), None, reason="too dark") == ["NOT ANALYSED: too dark", DISCLAIMER]
    assert words(monkeypatch, picture(), None) == [DISCLAIMER]
    assert words(monkeypatch, picture(), finding(lesion()), reason="too dark", caption=False) == []
    assert mark_text("", 1.0) == "finding of 1.0 s ago"


def test_the_marks_can_be_seen() -> None:
    dark = np.zeros((480, 640), np.uint8)
    plain, marked = draw_finding(dark, None), draw_finding(dark, None, reason="too dark")
    assert not plain[:440].any()  # the disclaimer is at the bottom
    assert plain[440:].any()
    assert np.count_nonzero(marked[:30].any(axis=2)) > 300


def test_the_words_say_what_is_known() -> None:
    whole = finding(lesion(), lesion(2))
    assert finding_text(whole) == "malignant  p(malignant) 0.88  p(lesion) 0.97  6.1 mm  2 outlines"
    assert finding_text(finding(lesion(spacing_mm=None))).endswith("  61 px")
    none = Finding("no lesion", 0.03, {"benign": 0.1, "malignant": 0.9}, "malignant", 0.4, ())
    assert finding_text(none) == "no lesion  p(lesion) 0.03"
    assert finding_text(Finding("lesion", None, {}, None, None, ())) == "lesion"


def test_the_colours_are_those_of_overlays() -> None:
    assert decision_colour(finding()) == POSITIVE_COLOUR
    assert decision_colour(finding(decision="benign")) == OTHER_COLOUR
    assert (
        decision_colour(finding(decision="no lesion")) == decision_colour(finding(decision="normal")) == NORMAL_COLOUR
    )


@pytest.mark.parametrize("size", [(16, 16), (17, 1920), (1080, 20), (2000, 3000)])
def test_any_size_of_frame_and_length_of_text_can_be_drawn(size: tuple[int, int]) -> None:
    long = replace(
        finding(lesion(centre=(8, 8), radii=(3, 2))), decision="an invasive carcinoma of no special type " * 4
    )
    shown = draw_finding(np.zeros(size, np.uint8), long, reason="a reason", age_s=3.0)
    assert shown.shape == (*size, 3)
    assert shown.any()


def test_a_lesion_of_one_pixel_is_drawn() -> None:
    point = replace(lesion(), contour=((5, 7),), diameter=((5, 7), (5, 7)), area_px=1)
    assert draw_finding(np.zeros((40, 40), np.uint8), finding(point), caption=False)[7, 5].any()


def test_an_analysis_is_drawn_with_its_reason_and_age() -> None:
    made = result(found=finding(lesion()), reason="frozen", age_s=1.5).found
    assert made is not None
    wanted = draw_finding(made.pixels, made.finding, reason="frozen", age_s=1.5)
    assert np.array_equal(draw_analysis(made), wanted)
    assert not np.array_equal(wanted, draw_finding(made.pixels, made.finding))
