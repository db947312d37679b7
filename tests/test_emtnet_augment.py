"""Augmentation: seeded, never in place, and the mask goes where the image goes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.dataset import Sample
from edge.phantom import phantom_case
from emtnet.augment import augment

SEEDS = st.integers(0, 2**32 - 1)


def square() -> Sample:
    """A bright square off the centre of a black frame, and its mask."""
    mask = np.zeros((160, 200), np.bool_)
    mask[40:90, 60:110] = True
    return Sample(np.where(mask, 200, 0).astype(np.uint8), mask)


def variant(sample: Sample, seed: int) -> Sample:
    return augment(sample, np.random.default_rng(seed))


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_the_mask_follows_the_image(seed: int) -> None:
    varied = variant(square(), seed)
    assert varied.mask is not None
    bright = varied.pixels > np.median(varied.pixels[varied.mask]) / 2
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


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.tuples(st.integers(16, 40), st.integers(16, 40)), st.booleans())
def test_tiny_frames_give_frames(seed: int, size: tuple[int, int], masked: bool) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    varied = variant(Sample(pixels, pixels > 128 if masked else None), seed)
    assert varied.pixels.dtype == np.uint8
    assert varied.pixels.ndim == 2
    for before, after in zip(size, varied.pixels.shape, strict=True):
        assert 0.65 * before <= after <= 1.15 * before + 1
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


def test_black_stays_black() -> None:
    """Outside the sector a scanner shows 0 at any gain."""
    black = Sample(np.zeros((64, 64), np.uint8), None)
    assert not any(variant(black, seed).pixels.any() for seed in range(40))


@pytest.mark.parametrize("label", ["benign", "malignant", "normal"])
def test_a_phantom_keeps_its_lesion(label: str) -> None:
    case = phantom_case(1, label=label, size=(96, 112))
    for seed in range(10):
        varied = variant(Sample(case.pixels, case.mask), seed)
        assert varied.mask is not None
        assert varied.mask.any() == (label != "normal")
