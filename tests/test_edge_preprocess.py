"""The one preprocessing: the same bytes wherever a frame is shown, and the mask back where it belongs."""

import hashlib
import warnings
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.frame import GreyImage
from edge.preprocess import mask_to_frame, preprocess, sigmoid

SIDE = st.integers(16, 700)

# sha256 of preprocess(pattern(frame), input). They change only when pixels change: then every bundle's calibration and drift
# figures are those of another preprocessing, and Manifest's `resize` must get a new name.
GOLDEN = {
    ((256, 256), (256, 256)): "8a162291617e74410ee0f6d0fe36186419af767e998d2010dd00dd64a8f125b5",
    ((16, 16), (256, 256)): "50bbb7a38ffeefc8b022b33719a58b33cafdeb5cfe7eef54757b58190198d5f7",
    ((480, 640), (256, 256)): "5c4f475af6a7d35f45e9ce4fa15d808387da6a36936d8e79c75f27fc734db9ba",
    ((512, 512), (256, 256)): "cfbc47b35defecb34a2acee95cf70ab092cca3fc43359efaef1b83af090968dc",
    ((1081, 1923), (256, 256)): "be629b2e50b1b18cae02ce9ae9b19a8e073c3c33717a6ada53ca36ddae9f7c9b",
    ((200, 701), (96, 160)): "f2f858e89b8c05ee90d7ebaf93447a5b6baa8de1c82d3e72bca922d2f020a313",
}


def pattern(height: int, width: int) -> GreyImage:
    y, x = np.indices((height, width))
    return ((7 * x + 13 * y + x * y // 5) % 256).astype(np.uint8)


@pytest.mark.parametrize(("frame", "size"), GOLDEN)
def test_bytes_are_the_golden_ones(frame: tuple[int, int], size: tuple[int, int]) -> None:
    image = preprocess(pattern(*frame), size)
    assert hashlib.sha256(image.tobytes()).hexdigest() == GOLDEN[frame, size]


def test_a_frame_of_the_input_size_is_the_input() -> None:
    assert np.array_equal(preprocess(pattern(256, 224), (256, 224)), pattern(256, 224))


@settings(max_examples=60, deadline=None)
@given(height=SIDE, width=SIDE, size=st.sampled_from([(256, 256), (64, 96), (130, 33)]))
def test_any_frame_gets_the_input_shape_and_is_left_alone(height: int, width: int, size: tuple[int, int]) -> None:
    frame = pattern(height, width)
    image = preprocess(frame, size)
    assert image.shape == size
    assert image.dtype == np.uint8
    assert image.flags["C_CONTIGUOUS"]
    assert np.array_equal(frame, pattern(height, width))


@settings(max_examples=30, deadline=None)
@given(height=SIDE, width=SIDE, grey=st.integers(0, 255))
def test_a_flat_frame_stays_flat(height: int, width: int, grey: int) -> None:
    assert np.all(preprocess(np.full((height, width), grey, np.uint8), (256, 256)) == grey)


def test_a_frame_is_stretched_not_turned_or_cropped() -> None:
    frame = np.zeros((100, 300), np.uint8)
    frame[:50, :100] = 200
    image = preprocess(frame, (60, 90))
    assert np.all(image[:28, :28] == 200)
    assert not image[32:].any()
    assert not image[:, 32:].any()


def test_a_frame_twice_as_large_is_its_two_by_two_means() -> None:
    frame = pattern(128, 192)
    wide = frame.astype(np.uint16)
    mean = (wide[::2, ::2] + wide[1::2, ::2] + wide[::2, 1::2] + wide[1::2, 1::2] + 2) // 4
    assert np.array_equal(preprocess(frame, (64, 96)), mean)


def test_a_large_frame_does_not_alias() -> None:
    """Two columns white, two black: every output pixel is half grey; one linear resize would see white only."""
    frame = np.zeros((1024, 1024), np.uint8)
    frame[:, 1::4] = frame[:, 2::4] = 255
    assert np.all(preprocess(frame, (256, 256)) == 128)


@pytest.mark.parametrize(
    ("frame", "halved"),
    [((16, 700), 0), ((300, 200), 0), ((511, 511), 0), ((512, 512), 1), ((513, 1023), 1), ((2160, 3840), 3)],
)
def test_only_operations_that_are_the_same_on_x86_and_arm(
    frame: tuple[int, int], halved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linear-exact at any factor, the area mean at exactly two; cv2's default and the others differ between machines."""
    used: list[int] = []
    resize = cv2.resize

    def spy(src: GreyImage, dsize: tuple[int, int], *, interpolation: int = cv2.INTER_LINEAR) -> Any:
        if interpolation == cv2.INTER_AREA:
            assert src.shape == (2 * dsize[1], 2 * dsize[0])
        used.append(interpolation)
        return resize(src, dsize, interpolation=interpolation)

    monkeypatch.setattr(cv2, "resize", spy)
    preprocess(pattern(*frame), (256, 256))
    mask_to_frame(np.zeros((256, 256), np.float32), frame)
    assert used.count(cv2.INTER_AREA) == halved
    assert used.count(cv2.INTER_LINEAR_EXACT) == len(used) - halved
    assert used[-1] == cv2.INTER_LINEAR_EXACT


@pytest.mark.parametrize(("logit", "level"), [(20.0, 255), (-20.0, 0), (0.0, 128), (-0.01, 127), (2.0, 225)])
def test_a_flat_mask_is_its_probability_everywhere(logit: float, level: int) -> None:
    mask = mask_to_frame(np.full((64, 64), logit, np.float32), (90, 110))
    assert mask.shape == (90, 110)
    assert mask.dtype == np.uint8
    assert np.all(mask == level)


def test_a_mask_keeps_its_place() -> None:
    logits = np.full((64, 64), -10.0, np.float32)
    logits[:16, 32:] = 10.0  # the upper quarter of the right half
    lesion = mask_to_frame(logits, (200, 500)) >= 128
    assert np.array_equal(np.flatnonzero(lesion.any(axis=1)), np.arange(50))
    assert np.array_equal(np.flatnonzero(lesion.any(axis=0)), np.arange(250, 500))


@settings(max_examples=30, deadline=None)
@given(height=SIDE, width=SIDE)
def test_a_mask_gets_the_frames_shape(height: int, width: int) -> None:
    assert mask_to_frame(np.zeros((64, 48), np.float32), (height, width)).shape == (height, width)


def test_sigmoid_does_not_overflow() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        far = sigmoid(np.array([-1e4, -100.0, 0.0, 100.0, 1e4, -np.inf, np.inf], np.float32))
    assert far.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0, 0.0, 1.0]
    assert far.dtype == np.float32


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=50))
def test_sigmoid_agrees_with_float64(values: list[float]) -> None:
    logits = np.array(values, np.float32)
    wide = logits.astype(np.float64)
    small = np.exp(-np.abs(wide))
    expected = np.where(wide >= 0, 1.0, small) / (1.0 + small)
    assert np.allclose(sigmoid(logits), expected, rtol=0.0, atol=1.5e-7)
