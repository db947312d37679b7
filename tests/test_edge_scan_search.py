"""The look for the scan region beside a live stream: no frame waits for it, and nothing is shown that it does not vouch for."""

import threading
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.faults import SCREENS, live
from benchmarks.screens import Screen, draw_screen
from edge.backoff import Backoff
from edge.capture import Capture, Frame
from edge.handover import Closed, Handover
from edge.ledger import Ledger
from edge.phantom import phantom_case
from edge.preprocess import Box
from edge.roi import Roi, RoiFinder, black_out
from edge.scan_region import Samples, _hull, _largest
from edge.scan_search import Place, ScanSearch, Surroundings
from edge.sources import Picture

VGA = SCREENS.sizes[0]
STILL = phantom_case(4, label="benign", size=(300, 340)).pixels


def shows(screen: Screen, count: int, *, began_s: float = 0.0) -> list[tuple[NDArray[np.uint8], float]]:
    """Pictures of a screen, four a second, with their times."""
    frames = live(STILL, np.random.default_rng(0), frames=count, rate_hz=4.0)
    times = (began_s + index / 4 for index in range(count))
    return [(screen.show(frame, time_s=time_s), time_s) for frame, time_s in zip(frames, times, strict=False)]


@pytest.fixture
def finder() -> Iterator[RoiFinder]:
    found = RoiFinder()
    yield found
    found.close()


class Gate:
    """Holds looks in the finder's own thread back until it is opened, and keeps what was looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.begun = threading.Event(), threading.Event()
        self.seen: list[NDArray[np.uint8]] = []
        self.fault: Exception | None = None
        look, here = ScanSearch.look, threading.current_thread()

        def gated(search: ScanSearch, pixels: NDArray[np.uint8], time_s: float) -> Place | None:
            if threading.current_thread() is not here:
                self.seen.append(pixels)
                self.begun.set()
                assert self.open.wait(10)
                if self.fault is not None:
                    raise self.fault
            return look(search, pixels, time_s)

        monkeypatch.setattr(ScanSearch, "look", gated)


def settle(finder: RoiFinder, screen: Screen) -> Roi:
    """Watch a screen until its region is known; the next look is due after it."""
    roi = None
    for pixels, time_s in shows(screen, 3):
        roi = finder.update(pixels, None, time_s, wait=False)
    assert roi is not None
    assert roi.settled
    return roi


def test_no_live_frame_waits_for_a_look_once_the_region_is_known(
    finder: RoiFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = draw_screen(np.random.default_rng(2), VGA, "linear")
    gate = Gate(monkeypatch)
    known = settle(finder, screen)
    rois = [finder.update(pixels, None, time_s, wait=False) for pixels, time_s in shows(screen, 6, began_s=2.0)]
    assert gate.begun.wait(10)
    assert all(roi.settled and roi.box == known.box for roi in rois)
    assert len(gate.seen) == 1, "one look at a time"
    gate.open.set()


def test_a_look_of_before_the_screen_changed_says_nothing_of_the_new_one(
    finder: RoiFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (draw_screen(np.random.default_rng(seed), VGA, "linear") for seed in (5, 8))
    gate = Gate(monkeypatch)
    settle(finder, first)
    finder.update(first.show(STILL), None, 3.0, wait=False)
    assert gate.begun.wait(10)
    picture = second.show(STILL)
    lost = finder.update(picture, None, 3.1, wait=False)
    assert (lost.settled, lost.changed) == (False, True)
    assert not black_out(picture, lost).any()
    gate.open.set()
    assert not finder.update(picture, None, 3.15, wait=False).settled


def test_a_region_found_before_the_screen_changed_is_not_shown(
    finder: RoiFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (draw_screen(np.random.default_rng(seed), VGA, "linear") for seed in (5, 8))
    gate = Gate(monkeypatch)
    gate.open.set()
    settle(finder, first)
    place = Place(Box(0, 0, *VGA), None, Surroundings.of(first.show(STILL), Box(100, 100, 80, 80), None))
    monkeypatch.setattr(ScanSearch, "look", lambda *_: place)
    finder.update(first.show(STILL), None, 3.0, wait=False)
    finder._worker.submit(lambda: None).result()  # the look has ended
    monkeypatch.setattr(ScanSearch, "look", lambda *_: None)
    assert not finder.update(second.show(STILL), None, 3.1, wait=False).settled


def test_what_a_look_finds_holds_from_the_next_frame_on(finder: RoiFinder) -> None:
    screen = draw_screen(np.random.default_rng(2), VGA, "linear")
    settle(finder, screen)
    elsewhere = Box(50, 60, 100, 120)
    place = Place(elsewhere, None, Surroundings.of(screen.show(STILL), elsewhere, None))
    finder._search.look = lambda *_: place  # type: ignore[method-assign]
    finder.update(screen.show(STILL), None, 3.0, wait=False)
    finder._worker.submit(lambda: None).result()
    finder._search.look = lambda *_: None  # type: ignore[method-assign]
    moved, after = (finder.update(screen.show(STILL), None, time_s, wait=False) for time_s in (3.1, 3.2))
    assert (moved.box, moved.changed) == (elsewhere, True)
    assert (after.box, after.changed) == (elsewhere, False)


def test_a_fault_of_a_look_surfaces_in_a_later_frame(finder: RoiFinder, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = draw_screen(np.random.default_rng(2), VGA, "linear")
    gate = Gate(monkeypatch)
    gate.fault = RuntimeError("no memory")
    settle(finder, screen)
    finder.update(screen.show(STILL), None, 3.0, wait=False)
    gate.open.set()
    with pytest.raises(RuntimeError, match="no memory"):
        finder.update(screen.show(STILL), None, 3.1, wait=True)


def test_frames_that_wait_have_the_same_regions_every_time() -> None:
    screen = draw_screen(np.random.default_rng(3), VGA, "convex")
    seen = []
    for _ in range(2):
        finder = RoiFinder()
        seen.append([finder.update(pixels, None, time_s).box for pixels, time_s in shows(screen, 8)])
        assert not finder._worker._threads
        finder.close()
    assert seen[0] == seen[1]


def test_closing_ends_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = draw_screen(np.random.default_rng(2), VGA, "linear")
    gate = Gate(monkeypatch)
    gate.open.set()
    finder = RoiFinder()
    settle(finder, screen)
    finder.update(screen.show(STILL), None, 3.0, wait=False)
    assert gate.begun.wait(10)
    finder.close()
    assert not any(thread.is_alive() for thread in finder._worker._threads)


@pytest.mark.parametrize(
    ("is_live", "paced", "waits"), [(True, False, False), (False, True, False), (False, False, True)]
)
def test_only_frames_of_a_recording_that_is_read_whole_wait(*, is_live: bool, paced: bool, waits: bool) -> None:
    class One:
        name, live = "one", is_live

        def __iter__(self) -> Iterator[Picture]:
            yield Picture(np.zeros((20, 20), np.uint8), time_s=0.0)

        def close(self) -> None:
            pass

    out: Handover[Frame] = Handover(4)
    capture = Capture(One(), One, out, Ledger(), paced=paced, clock=lambda: 0, backoff=Backoff())
    capture.start()
    try:
        assert out.get(10).waits is waits
    except Closed:
        pytest.fail("no frame came")
    finally:
        capture.stop()


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.floats(0.0, 1.0))
@settings(max_examples=60)
def test_the_hull_of_row_ends_is_the_hull_of_all_pixels(seed: int, height: int, width: int, share: float) -> None:
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    filled = np.zeros(mask.shape, np.uint8)
    if mask.any():
        cv2.fillConvexPoly(filled, cv2.convexHull(cv2.findNonZero(mask)), 1)
    assert np.array_equal(_hull(mask), filled)


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0))
@settings(max_examples=60)
def test_the_largest_part_is_the_one_of_most_pixels(seed: int, share: float) -> None:
    mask = (np.random.default_rng(seed).random((24, 31)) < share).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    largest = _largest(mask)
    if count < 2:
        assert largest is None
    else:
        assert largest is not None
        assert np.array_equal(largest > 0, labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])))


@given(st.integers(1, 700), st.integers(16, 40), st.booleans())
@settings(max_examples=30, deadline=None)
def test_samples_are_every_nth_pixel(width: int, height: int, coloured: bool) -> None:
    width *= 3
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    samples = Samples.of(pixels if coloured else np.ascontiguousarray(pixels[:, :, 1]))
    thin = pixels[:: samples.step, :: samples.step].astype(np.int16)
    assert samples.grey.shape[1] <= 640
    assert np.array_equal(samples.grey, thin[:, :, 1])
    if coloured:
        assert samples.coloured is not None
        assert np.array_equal(samples.coloured, thin.max(axis=2) - thin.min(axis=2) > 60)


def test_a_ticking_clock_is_no_other_screen() -> None:
    screen = draw_screen(np.random.default_rng(7), VGA, "linear")
    around = Surroundings.of(screen.show(STILL), screen.box, None)
    assert not around.changed(screen.show(STILL, time_s=9.0))
    assert around.changed(draw_screen(np.random.default_rng(8), VGA, "linear").show(STILL))


def test_a_bare_scan_has_no_screen_around_it_that_could_change() -> None:
    around = Surroundings.of(STILL, Box(0, 0, *STILL.shape), None)
    assert not around.changed(255 - STILL)
