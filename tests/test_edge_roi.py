"""Region of interest: where the scan lies in a screen grab, and that nothing else is seen."""

from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.faults import SCREENS, grabbed, live
from benchmarks.screens import Screen, Shape, draw_screen
from edge.errors import SourceError
from edge.frame import GreyImage
from edge.phantom import phantom_case
from edge.preprocess import Box
from edge.roi import Roi, RoiFinder, black_out, parse_roi

VGA = SCREENS.sizes[0]


@pytest.fixture(scope="module")
def still() -> GreyImage:
    return phantom_case(4, label="benign", size=(300, 340)).pixels


@dataclass
class Show:
    """A finder that watches a screen at four pictures a second."""

    finder: RoiFinder = field(default_factory=RoiFinder)
    time_s: float = 0.0
    seen: list[Roi] = field(default_factory=list)

    def watch(self, screen: Screen, still: GreyImage, count: int, *, noise: float = 0.0) -> Roi:
        rng = np.random.default_rng(0)
        for frame in live(still, rng, frames=count, rate_hz=4.0):
            picture = grabbed(screen.show(frame, time_s=self.time_s), rng, noise=noise, quality=80)
            self.seen.append(self.finder.update(picture, None, self.time_s))
            self.time_s += 0.25
        return self.seen[-1]


def over(roi: Roi, size: tuple[int, int]) -> NDArray[np.bool_]:
    whole = np.zeros(size, np.bool_)
    whole[roi.box.pixels] = True if roi.mask is None else roi.mask
    return whole


def overlap(roi: Roi, screen: Screen) -> float:
    found, true = over(roi, screen.letters.shape), screen.tissue
    return float((found & true).sum() / (found | true).sum())


@pytest.mark.parametrize("size", SCREENS.sizes)
@pytest.mark.parametrize("shape", ["linear", "convex"])
def test_the_scan_is_found_and_the_letters_beside_it_are_hidden(
    still: GreyImage, size: tuple[int, int], shape: Shape
) -> None:
    screen = draw_screen(np.random.default_rng(3), size, shape)
    show = Show()
    roi = show.watch(screen, still, 4, noise=1.5 if size == VGA else 0.0)
    assert roi.settled
    assert overlap(roi, screen) > 0.9
    hidden = black_out(screen.show(still), roi)
    assert not hidden[screen.letters].any()
    assert (roi.mask is None) == (shape == "linear")


def test_nothing_is_shown_until_the_region_is_known(still: GreyImage) -> None:
    screen = draw_screen(np.random.default_rng(1), VGA, "linear")
    show = Show()
    show.watch(screen, still, 4)
    assert [roi.settled for roi in show.seen] == [False, False, True, True]
    assert not black_out(screen.show(still), show.seen[0]).any()


def test_the_region_stays_where_it_is_while_the_probe_moves(still: GreyImage) -> None:
    screen = draw_screen(np.random.default_rng(2), VGA, "convex")
    show = Show()
    show.watch(screen, still, 12)
    settled = [roi for roi in show.seen if roi.settled]
    assert len({roi.box for roi in settled}) == 1
    assert not any(roi.changed for roi in settled)


def test_lost_contact_does_not_move_the_region(still: GreyImage) -> None:
    screen = draw_screen(np.random.default_rng(2), VGA, "linear")
    show = Show()
    before = show.watch(screen, still, 4)
    after = show.watch(screen, np.zeros_like(still), 24)
    assert after.settled
    assert after.box == before.box


def test_another_screen_hides_everything_at_once_and_is_found_again(still: GreyImage) -> None:
    first, second = (draw_screen(np.random.default_rng(seed), VGA, "linear") for seed in (5, 8))
    show = Show()
    show.watch(first, still, 4)
    lost = show.watch(second, still, 1)
    assert (lost.settled, lost.changed) == (False, True)
    assert not black_out(second.show(still), lost).any()
    found = show.watch(second, still, 4)
    assert overlap(found, second) > 0.9
    assert [roi.changed for roi in show.seen if roi.settled].count(True) == 1


def test_another_size_of_the_grab_is_another_search(still: GreyImage) -> None:
    show = Show()
    show.watch(draw_screen(np.random.default_rng(5), VGA, "linear"), still, 4)
    larger = draw_screen(np.random.default_rng(5), SCREENS.sizes[1], "linear")
    lost = show.watch(larger, still, 1)
    assert (lost.settled, lost.changed) == (False, True)
    assert overlap(show.watch(larger, still, 4), larger) > 0.9


def test_a_page_of_letters_without_a_scan_is_never_shown() -> None:
    page = np.zeros((*VGA, 3), np.uint8)
    for row in range(24, VGA[0], 34):
        cv2.putText(page, "DOE, JANE  1961-04-12  ID 55512", (20, row), 0, 0.6, (220, 220, 220), 1, cv2.LINE_AA)
    finder = RoiFinder()
    assert not any(finder.update(page, None, step / 4).settled for step in range(8))


@pytest.mark.parametrize("margin", [0, 12])
def test_a_bare_scan_is_known_from_its_first_picture(still: GreyImage, margin: int) -> None:
    picture = cv2.copyMakeBorder(still, 0, 0, margin, margin, cv2.BORDER_CONSTANT)
    roi = RoiFinder().update(np.asarray(picture, np.uint8), None, 0.0)
    assert roi.settled
    assert roi.mask is None
    assert roi.box.height * roi.box.width > 0.9 * still.size


def test_a_given_region_is_taken_as_it_is_and_the_users_before_it(still: GreyImage) -> None:
    given = Box(10, 20, 100, 120)
    assert RoiFinder().update(still, given, 0.0).box == given
    assert RoiFinder(Box(0, 0, 50, 60)).update(still, given, 0.0).box == Box(0, 0, 50, 60)
    assert RoiFinder("none").update(still, given, 0.0).box == Box(0, 0, *still.shape)


def test_a_given_region_that_moves_is_told(still: GreyImage) -> None:
    finder = RoiFinder()
    boxes = [Box(0, 0, 100, 100), Box(0, 0, 100, 100), Box(5, 0, 100, 100)]
    assert [finder.update(still, box, 0.0).changed for box in boxes] == [False, False, True]


def test_a_given_region_outside_the_picture_is_not_believed(still: GreyImage) -> None:
    roi = RoiFinder().update(still, Box(31, 84, 383, 511), 0.0)
    assert roi.box == Box(0, 0, *still.shape)


def test_a_manual_region_outside_the_picture_is_a_clear_error(still: GreyImage) -> None:
    with pytest.raises(SourceError, match="--roi 300,0,200,100 does not lie in the 340×300 picture"):
        RoiFinder(Box(0, 300, 100, 200)).update(still, None, 0.0)


def test_roi_texts_are_read() -> None:
    assert parse_roi("auto") == "auto"
    assert parse_roi("none") == "none"
    assert parse_roi("80,60,480,360") == Box(60, 80, 360, 480)


@given(st.text(max_size=12))
def test_any_other_roi_text_is_a_clear_error(text: str) -> None:
    try:
        parsed = parse_roi(text)
    except SourceError as error:
        assert "give auto, none, or x,y,width,height" in str(error)
    else:
        assert parsed in ("auto", "none") or isinstance(parsed, Box)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 30), st.integers(1, 30), st.booleans())
def test_blacking_out_keeps_the_region_and_nothing_else(
    top: int, left: int, height: int, width: int, coloured: bool
) -> None:
    pixels = np.full((64, 64, 3) if coloured else (64, 64), 200, np.uint8)
    mask = np.tri(height, width, dtype=np.bool_)
    hidden = black_out(pixels, Roi(Box(top, left, height, width), mask, True, False))
    kept = np.zeros((64, 64), np.bool_)
    kept[top : top + height, left : left + width] = mask
    assert np.array_equal(hidden > 0, kept[..., None] & np.ones(3, np.bool_) if coloured else kept)
    assert (pixels == 200).all()
