"""Augmentation: seeded, never in place, and the mask goes where the image goes."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.dataset import Sample
from edge.frame import GreyImage
from edge.phantom import phantom_case
from emtnet.augment import _CHANGES, augment

Change = Callable[[GreyImage, np.random.Generator], GreyImage]

SEEDS = st.integers(0, 2**32 - 1)
CHANGES = {change.__name__.strip("_"): change for _, change in _CHANGES}
KEEP_BLACK = ("gain", "grey_map", "depth_gain", "speckle", "shadow", "sector", "blur", "coarse", "sharpen")


def square() -> Sample:
    """A bright square off the centre of a black frame, and its mask."""
    mask = np.zeros((160, 200), np.bool_)
    mask[40:90, 60:110] = True
    return Sample(np.where(mask, 200, 0).astype(np.uint8), mask)


def cornered(level: int) -> Sample:
    """A grey frame with a white lesion in its corner, so that most windows are clear of it."""
    mask = np.zeros((160, 200), np.bool_)
    mask[5:25, 5:30] = True
    return Sample(np.where(mask, 255, level).astype(np.uint8), mask)


def variant(sample: Sample, seed: int) -> Sample:
    return augment(sample, np.random.default_rng(seed))


@settings(max_examples=100)
@given(SEEDS)
def test_the_mask_follows_the_image(seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("emtnet.augment._CHANGES", ())
        varied = variant(square(), seed)
    assert varied.mask is not None
    bright = varied.pixels > 100
    assert (bright & varied.mask).sum() / (bright | varied.mask).sum() > 0.94


def test_the_test_above_would_notice_a_mask_left_behind() -> None:
    """Most variants move the square so far that its old place does not do."""
    sample = square()
    assert sample.mask is not None
    moved = 0
    for seed in range(30):
        mask = variant(sample, seed).mask
        assert mask is not None
        height, width = min(mask.shape[0], 160), min(mask.shape[1], 200)
        old, new = sample.mask[:height, :width], mask[:height, :width]
        moved += bool((old & new).sum() / (old | new).sum() < 0.85)
    assert moved > 25


@settings(max_examples=50)
@given(SEEDS, st.tuples(st.integers(16, 40), st.integers(16, 40)), st.booleans())
def test_tiny_frames_give_frames(seed: int, size: tuple[int, int], masked: bool) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    varied = variant(Sample(pixels, pixels > 128 if masked else None), seed)
    assert varied.pixels.dtype == np.uint8
    assert varied.pixels.ndim == 2
    for before, after in zip(size, varied.pixels.shape, strict=True):
        assert 0.45 * before <= after <= 1.7 * before
    if masked:
        assert varied.mask is not None
        assert varied.mask.dtype == np.bool_
        assert varied.mask.shape == varied.pixels.shape
    else:
        assert varied.mask is None


def test_the_generator_decides_alone() -> None:
    sample = square()
    seen = set()
    for seed in range(20):  # enough for every kind of change to have its turn
        first, again = variant(sample, seed), variant(sample, seed)
        assert first.mask is not None
        assert again.mask is not None
        assert np.array_equal(first.pixels, again.pixels)
        assert np.array_equal(first.mask, again.mask)
        seen.add(first.pixels.tobytes())
    assert len(seen) == 20


def test_the_sample_itself_is_left_alone() -> None:
    sample, untouched = square(), square()
    for seed in range(10):
        variant(sample, seed)
    assert np.array_equal(sample.pixels, untouched.pixels)
    assert sample.mask is not None
    assert untouched.mask is not None
    assert np.array_equal(sample.mask, untouched.mask)


def test_both_sides_and_several_sizes_and_gains_occur() -> None:
    left = np.zeros((100, 100), np.uint8)
    left[:, :50] = 150
    variants = [variant(Sample(left, None), seed).pixels for seed in range(40)]
    mirrored = sum(pixels[:, -20:].mean() > pixels[:, :20].mean() for pixels in variants)
    assert 10 < mirrored < 30
    assert len({pixels.shape for pixels in variants}) > 30
    assert np.std([np.median(pixels[pixels > 20]) for pixels in variants]) > 8


def test_what_no_hand_held_setting_explains_is_rare() -> None:
    """The gain knobs turn in most variants, everything else in some."""
    shares = {change.__name__.strip("_"): share for share, change in _CHANGES}
    assert shares.keys() == CHANGES.keys()
    assert max(shares, key=lambda name: shares[name]) == "gain"
    assert all(0.05 <= share <= 0.3 for name, share in shares.items() if name != "gain")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("size", [(96, 112), (20, 17)])
def test_a_change_is_seeded_and_leaves_the_frame_and_its_size_alone(change: Change, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(1, 256, size, np.uint8)
    untouched = pixels.copy()
    different = 0
    for seed in range(6):
        first, again = (change(pixels, np.random.default_rng(seed)) for _ in range(2))
        assert first.shape == size
        assert first.dtype == np.uint8
        assert np.array_equal(first, again)
        different += not np.array_equal(first, pixels)
    assert np.array_equal(pixels, untouched)
    assert different >= 4


@pytest.mark.parametrize("name", KEEP_BLACK)
def test_black_stays_black(name: str) -> None:
    """Outside the sector a scanner shows 0 at any gain."""
    pixels = np.random.default_rng(1).integers(0, 256, (80, 90), np.uint8)
    pixels[:, 45:] = 0
    beyond = 60  # blurred, a frame reaches a little over its border
    for seed in range(8):
        assert not CHANGES[name](pixels, np.random.default_rng(seed))[:, beyond:].any()


def test_marks_alone_write_on_black() -> None:
    """They stand wherever a hand put them; the list above forgets no change."""
    assert CHANGES.keys() - set(KEEP_BLACK) == {"marks"}
    marked = CHANGES["marks"](np.zeros((200, 240), np.uint8), np.random.default_rng(0))
    assert marked.max() > 100
    assert (marked > 0).mean() < 0.1


def test_no_change_of_the_picture_moves_its_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    always = tuple((1.0, change) for _, change in _CHANGES)
    for seed in range(5):
        masks = []
        for changes in ((), always):
            monkeypatch.setattr("emtnet.augment._CHANGES", changes)
            varied = variant(square(), seed)
            masks.append(varied.mask)
        assert masks[0] is not None
        assert masks[1] is not None
        assert np.array_equal(masks[0], masks[1])


def test_a_clear_window_shows_no_lesion(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lesion is the only bright thing here."""
    frame = cornered(50)
    monkeypatch.setattr("emtnet.augment._CHANGES", ())
    for seed in range(20):
        varied = augment(frame, np.random.default_rng(seed), clear_share=1.0)
        assert varied.mask is not None
        assert varied.mask.shape == varied.pixels.shape
        assert not varied.mask.any()
        assert set(np.unique(varied.pixels)) == {50}
        for before, after in zip(frame.pixels.shape, varied.pixels.shape, strict=True):
            assert 0.4 * before - 1 <= after <= 0.8 * before + 1


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_clear_windows_come_as_often_as_asked(share: float) -> None:
    frame = cornered(90)
    small = 0
    for seed in range(200):
        pixels = augment(frame, np.random.default_rng(seed), clear_share=share).pixels
        small += pixels.size < 0.5 * frame.pixels.size  # other windows are larger
    assert abs(0.9 * share - small / 200) < 0.1


def test_a_frame_full_of_lesion_and_a_frame_without_mask_have_no_clear_window() -> None:
    pixels = np.full((100, 100), 80, np.uint8)
    full = augment(Sample(pixels, np.ones((100, 100), np.bool_)), np.random.default_rng(0), clear_share=1.0)
    assert full.mask is not None
    assert full.mask.any()
    assert augment(Sample(pixels, None), np.random.default_rng(0), clear_share=1.0).mask is None


def test_a_clear_window_is_no_black_border() -> None:
    """Beside a lesion on an otherwise black frame there is nothing to look at."""
    for seed in range(10):
        varied = augment(square(), np.random.default_rng(seed), clear_share=1.0)
        assert varied.mask is not None
        assert varied.mask.any()


@pytest.mark.parametrize("label", ["benign", "malignant", "normal"])
def test_a_phantom_keeps_its_lesion(label: str) -> None:
    case = phantom_case(1, label=label, size=(96, 112))
    for seed in range(10):
        varied = variant(Sample(case.pixels, case.mask), seed)
        assert varied.mask is not None
        assert varied.mask.any() == (label != "normal")
