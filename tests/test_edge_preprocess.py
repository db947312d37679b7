"""The one preprocessing: the same bytes wherever a frame is shown, and the mask back where it belongs."""

import hashlib
import warnings
from typing import Any, get_args

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.frame import GreyImage
from edge.preprocess import Box, Resize, content_box, mask_to_frame, preprocess, sigmoid

SIDE = st.integers(16, 700)
RESIZE: st.SearchStrategy[Resize] = st.sampled_from(get_args(Resize))

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


# The same of preprocess(…, resize="letterbox").
LETTERBOXED = {
    ((256, 256), (256, 256)): "8a162291617e74410ee0f6d0fe36186419af767e998d2010dd00dd64a8f125b5",
    ((480, 640), (256, 256)): "ab2400df49843d659118cb6fc603ba856a1ded2154dec8df530eaa0670ca42b5",
    ((1081, 1923), (256, 256)): "47e909ec5d04d0365ea74cc27d41a1376d08cd36a15595c4f8cfa3080a957038",
    ((701, 200), (96, 160)): "541fb7b393b917b6fe66a9b9a9ffd0183558e7bba4da0260012b81d3a74d23b0",
}


def pattern(height: int, width: int) -> GreyImage:
    y, x = np.indices((height, width))
    return ((7 * x + 13 * y + x * y // 5) % 256).astype(np.uint8)


@pytest.mark.parametrize(("frame", "size"), GOLDEN)
def test_bytes_are_the_golden_ones(frame: tuple[int, int], size: tuple[int, int]) -> None:
    image = preprocess(pattern(*frame), size)
    assert hashlib.sha256(image.tobytes()).hexdigest() == GOLDEN[frame, size]


@pytest.mark.parametrize(("frame", "size"), LETTERBOXED)
def test_letterboxed_bytes_are_the_golden_ones(frame: tuple[int, int], size: tuple[int, int]) -> None:
    image = preprocess(pattern(*frame), size, resize="letterbox")
    assert hashlib.sha256(image.tobytes()).hexdigest() == LETTERBOXED[frame, size]


def test_a_frame_of_the_input_size_is_the_input() -> None:
    assert np.array_equal(preprocess(pattern(256, 224), (256, 224)), pattern(256, 224))


@settings(max_examples=60)
@given(height=SIDE, width=SIDE, size=st.sampled_from([(256, 256), (64, 96), (130, 33)]), resize=RESIZE)
def test_any_frame_gets_the_input_shape_and_is_left_alone(
    height: int, width: int, size: tuple[int, int], resize: Resize
) -> None:
    frame = pattern(height, width)
    image = preprocess(frame, size, resize=resize)
    assert image.shape == size
    assert image.dtype == np.uint8
    assert image.flags["C_CONTIGUOUS"]
    assert np.array_equal(frame, pattern(height, width))


@settings(max_examples=30)
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
    ("frame", "resize", "halved"),
    [
        ((16, 700), "stretch", 0),
        ((300, 200), "stretch", 0),
        ((511, 511), "stretch", 0),
        ((512, 512), "stretch", 1),
        ((513, 1023), "stretch", 1),
        ((2160, 3840), "stretch", 3),
        ((300, 200), "letterbox", 0),
        ((513, 1023), "letterbox", 1),
        ((16, 700), "letterbox", 1),
    ],
)
def test_only_operations_that_are_the_same_on_x86_and_arm(
    frame: tuple[int, int], resize: Resize, halved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linear-exact at any factor, the area mean at exactly two; cv2's default and the others differ between machines."""
    used: list[int] = []
    original = cv2.resize

    def spy(src: GreyImage, dsize: tuple[int, int], *, interpolation: int = cv2.INTER_LINEAR) -> Any:
        if interpolation == cv2.INTER_AREA:
            assert src.shape == (2 * dsize[1], 2 * dsize[0])
        used.append(interpolation)
        return original(src, dsize, interpolation=interpolation)

    monkeypatch.setattr(cv2, "resize", spy)
    preprocess(pattern(*frame), (256, 256), resize=resize)
    mask_to_frame(np.zeros((128, 128), np.float32), frame, input_size=(256, 256), resize=resize)
    assert used.count(cv2.INTER_AREA) == halved
    assert used.count(cv2.INTER_LINEAR_EXACT) == len(used) - halved
    assert used[-1] == cv2.INTER_LINEAR_EXACT


# Letterbox


def test_boxes_counted_by_hand() -> None:
    assert content_box((100, 100), (64, 64)) == Box(0, 0, 64, 64)
    assert content_box((100, 200), (64, 64)) == Box(16, 0, 32, 64)
    assert content_box((200, 100), (64, 64)) == Box(0, 16, 64, 32)
    assert content_box((3, 2), (10, 10)) == Box(0, 1, 10, 7)  # 6.67 columns; the odd pixel of padding is at the right
    assert content_box((16, 5000), (64, 64)) == Box(31, 0, 1, 64)  # 0.2 rows


@given(frame=st.tuples(SIDE, SIDE), size=st.tuples(st.integers(16, 600), st.integers(16, 600)))
def test_the_box_lies_inside_fills_one_side_and_keeps_the_aspect(frame: tuple[int, int], size: tuple[int, int]) -> None:
    box = content_box(frame, size)
    bottom, right = size[0] - box.top - box.height, size[1] - box.left - box.width
    assert min(box.top, box.left, bottom, right) >= 0
    assert bottom - box.top in (0, 1)  # centred
    assert right - box.left in (0, 1)
    assert box.height == size[0] or box.width == size[1]
    scale = min(size[0] / frame[0], size[1] / frame[1])
    assert abs(box.height - frame[0] * scale) <= 1.0
    assert abs(box.width - frame[1] * scale) <= 1.0
    assert min(box.height, box.width) >= 1


@settings(max_examples=60)
@given(height=SIDE, width=SIDE, size=st.sampled_from([(256, 256), (64, 96), (130, 33)]))
def test_a_letterboxed_frame_is_the_stretched_one_on_black(height: int, width: int, size: tuple[int, int]) -> None:
    frame = np.maximum(pattern(height, width), 1)
    image = preprocess(frame, size, resize="letterbox")
    box = content_box((height, width), size)
    assert np.array_equal(image[box.pixels], preprocess(frame, (box.height, box.width)))
    assert np.count_nonzero(image) == box.height * box.width


@settings(max_examples=60)
@given(
    frame=st.tuples(st.integers(64, 700), st.integers(64, 700)),
    size=st.sampled_from([(256, 256), (128, 192), (224, 160)]),
    stride=st.sampled_from([1, 2, 4]),
    resize=RESIZE,
)
def test_a_large_rectangle_comes_back_to_where_it_was(
    frame: tuple[int, int], size: tuple[int, int], stride: int, resize: Resize
) -> None:
    """Frame → input → a network that sees white at 1/stride of the resolution → frame."""
    height, width = frame
    truth = np.zeros(frame, np.uint8)
    truth[height // 5 : height - height // 5, width // 4 : width - width // 4] = 255
    seen = preprocess(truth, size, resize=resize)
    small = preprocess(seen, (size[0] // stride, size[1] // stride))
    found = mask_to_frame(np.asarray(small / 255, np.float32), frame, input_size=size, resize=resize) >= 128
    assert found.shape == frame
    box = content_box(frame, size) if resize == "letterbox" else Box(0, 0, *size)
    for axis, side, content in ((1, height, box.height), (0, width, box.width)):
        wanted, got = (np.flatnonzero(mask.any(axis=axis)) for mask in (truth, found))
        tolerance = 1 + 0.5 * stride * side / content  # half a network pixel, measured in the frame
        assert abs(int(got[0]) - int(wanted[0])) <= tolerance
        assert abs(int(got[-1]) - int(wanted[-1])) <= tolerance


def test_what_a_network_sees_in_the_padding_is_not_in_the_frame() -> None:
    image = preprocess(np.zeros((100, 300), np.uint8), (96, 96), resize="letterbox")
    box = content_box((100, 300), (96, 96))
    probability = np.ones(image.shape, np.float32)
    probability[box.pixels] = 0.0
    assert not mask_to_frame(probability, (100, 300), input_size=(96, 96), resize="letterbox").any()
    assert mask_to_frame(probability, (100, 300), input_size=(96, 96), resize="stretch").any()


# Masks


@pytest.mark.parametrize("resize", get_args(Resize))
@pytest.mark.parametrize(("probability", "level"), [(1.0, 255), (0.0, 0), (0.5, 128), (0.4975, 127), (0.88, 224)])
def test_a_flat_mask_is_its_probability_everywhere(probability: float, level: int, resize: Resize) -> None:
    flat = np.full((64, 64), probability, np.float32)
    mask = mask_to_frame(flat, (90, 110), input_size=(128, 128), resize=resize)
    assert mask.shape == (90, 110)
    assert mask.dtype == np.uint8
    assert np.all(mask == level)


def test_a_mask_keeps_its_place() -> None:
    probability = np.zeros((64, 64), np.float32)
    probability[:16, 32:] = 1.0  # the upper quarter of the right half
    lesion = mask_to_frame(probability, (200, 500), input_size=(64, 64), resize="stretch") >= 128
    assert np.array_equal(np.flatnonzero(lesion.any(axis=1)), np.arange(50))
    assert np.array_equal(np.flatnonzero(lesion.any(axis=0)), np.arange(250, 500))


@settings(max_examples=30)
@given(height=SIDE, width=SIDE, resize=RESIZE)
def test_a_mask_gets_the_frames_shape(height: int, width: int, resize: Resize) -> None:
    mask = mask_to_frame(np.zeros((64, 48), np.float32), (height, width), input_size=(128, 96), resize=resize)
    assert mask.shape == (height, width)
    assert mask.dtype == np.uint8


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
