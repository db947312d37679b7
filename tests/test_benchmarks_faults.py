"""The faults and screens that the guard is tried on."""

import numpy as np
import pytest

from benchmarks.faults import FAULTS, SCREENS, STILL_FAULTS, far, frozen, live, marked
from benchmarks.screens import Shape, draw_screen
from edge.frame import GreyImage
from edge.phantom import phantom_case


@pytest.fixture(scope="module")
def still() -> GreyImage:
    return phantom_case(5, label="benign", size=(180, 220)).pixels


@pytest.mark.parametrize("name", [*STILL_FAULTS, "marked", "far"])
def test_a_fault_is_the_same_for_the_same_seed_and_another_for_another(still: GreyImage, name: str) -> None:
    fault = {**STILL_FAULTS, "marked": marked, "far": far}[name]
    first, again, other = (fault(still, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape[:2] == still.shape
    assert first.dtype == np.uint8


def test_saturation_whitens_the_share_that_was_drawn(still: GreyImage) -> None:
    for seed in range(10):
        white = (STILL_FAULTS["saturated"](still, np.random.default_rng(seed)) >= 250).mean()
        assert FAULTS.clipped[0] <= white <= FAULTS.clipped[1] + 0.1


def test_doppler_colours_the_share_that_was_drawn(still: GreyImage) -> None:
    for seed in range(10):
        picture = STILL_FAULTS["doppler"](still, np.random.default_rng(seed)).astype(int)
        coloured = (np.ptp(picture, axis=2) > 40).mean()
        assert 0.7 * FAULTS.coloured[0] <= coloured <= 1.2 * FAULTS.coloured[1]


def test_a_live_sequence_moves_and_a_frozen_one_does_not(still: GreyImage) -> None:
    rng = np.random.default_rng(0)
    moving = [frame.astype(int) for frame in live(still, rng, frames=20)]
    standing = [frame.astype(int) for frame in frozen(still, rng, frames=20)]
    assert np.abs(moving[-1] - moving[0]).mean() > 2.0 * np.abs(standing[-1] - standing[0]).mean()


@pytest.mark.parametrize("size", SCREENS.sizes)
@pytest.mark.parametrize("shape", ["linear", "convex"])
def test_a_screen_holds_the_scan_in_its_place_and_letters_outside(
    still: GreyImage, size: tuple[int, int], shape: Shape
) -> None:
    for seed in range(3):
        screen = draw_screen(np.random.default_rng(seed), size, shape)
        picture = screen.show(still, time_s=2.0)
        assert picture.shape == (*size, 3)
        assert not (screen.letters & screen.tissue).any()
        assert screen.letters.mean() > 0.002
        assert 0.1 < screen.tissue.mean() < 0.6
        inside = picture[screen.tissue]
        assert (inside[:, 0] == inside[:, 2]).mean() > 0.95
        assert screen.mask.all() == (shape == "linear")


def test_the_clock_on_a_screen_runs(still: GreyImage) -> None:
    screen = draw_screen(np.random.default_rng(1), SCREENS.sizes[0], "linear")
    outside = ~screen.tissue
    assert not np.array_equal(screen.show(still, time_s=1.0)[outside], screen.show(still, time_s=2.0)[outside])
