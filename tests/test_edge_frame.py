"""Frames: every picture a device meets becomes one grey uint8 image, or is refused in words."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.errors import DataError
from edge.frame import GreyImage, fingerprint, read_image, read_mask, to_grey

WritePng = Callable[[Path, NDArray[Any]], Path]


def ramp(height: int = 20, width: int = 24) -> GreyImage:
    return (np.arange(height * width) % 251).astype(np.uint8).reshape(height, width)


def flat(*channels: int) -> GreyImage:
    """A frame of one colour."""
    return np.tile(np.array(channels, np.uint8), (16, 16, 1))


def test_grey_stays_what_it_is() -> None:
    assert np.array_equal(to_grey(ramp()), ramp())
    assert np.array_equal(to_grey(ramp()[:, :, None]), ramp())


def test_a_view_becomes_contiguous() -> None:
    turned = to_grey(ramp()[::-1, ::-1])
    assert turned.flags["C_CONTIGUOUS"]
    assert np.array_equal(turned, ramp()[::-1, ::-1])


@pytest.mark.parametrize(("bgr", "grey"), [((255, 0, 0), 29), ((0, 255, 0), 150), ((0, 0, 255), 76)])
def test_primary_colours_have_their_bt601_weights(bgr: tuple[int, int, int], grey: int) -> None:
    assert np.all(to_grey(flat(*bgr)) == grey)


@given(b=st.integers(0, 255), g=st.integers(0, 255), r=st.integers(0, 255), alpha=st.integers(0, 255))
def test_colour_is_weighted_by_bt601_and_alpha_is_dropped(b: int, g: int, r: int, alpha: int) -> None:
    grey = to_grey(flat(b, g, r))
    assert grey.shape == (16, 16)
    assert grey.dtype == np.uint8
    assert abs(int(grey[0, 0]) - (0.114 * b + 0.587 * g + 0.299 * r)) <= 1.0
    assert np.array_equal(to_grey(flat(b, g, r, alpha)), grey)


@given(value=st.integers(0, 255))
def test_grey_shown_as_colour_comes_back_exactly(value: int) -> None:
    assert np.all(to_grey(flat(value, value, value)) == value)


@given(value=st.integers(0, 65535))
def test_sixteen_bits_keep_their_high_byte(value: int) -> None:
    assert np.all(to_grey(np.full((16, 16), value, np.uint16)) == value // 256)


def test_sixteen_bit_colour_is_weighted_like_eight_bit_colour() -> None:
    deep = flat(10, 200, 90).astype(np.uint16) * 256 + 255
    assert np.array_equal(to_grey(deep), to_grey(flat(10, 200, 90)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32, np.bool_])
def test_other_types_are_refused_by_name(dtype: type[np.generic]) -> None:
    with pytest.raises(DataError, match=f"scan 3: pixels are {np.dtype(dtype)}"):
        to_grey(np.zeros((32, 32), dtype), name="scan 3")


@pytest.mark.parametrize("shape", [(), (400,), (32, 32, 2), (32, 32, 5), (32, 32, 0), (1, 32, 32), (2, 32, 32, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="not an image of one, three or four channels"):
        to_grey(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("shape", [(1, 1), (15, 64), (64, 15), (0, 64), (0, 0), (1, 1, 3)])
def test_frames_too_small_are_refused_with_their_size(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=f"dot: {shape[1]}×{shape[0]} pixels is too small.* at least 16"):
        to_grey(np.zeros(shape, np.uint8), name="dot")


def test_the_smallest_frame_is_taken() -> None:
    assert to_grey(np.zeros((16, 16), np.uint8)).shape == (16, 16)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_lossless_files_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"frame{suffix}"
    assert cv2.imwrite(str(file), ramp())
    assert np.array_equal(read_image(file), ramp())


def test_depth_and_channels_survive_the_file(tmp_path: Path, write_png: WritePng) -> None:
    assert np.all(read_image(write_png(tmp_path / "deep.png", np.full((16, 16), 4095, np.uint16))) == 15)
    assert np.all(read_image(write_png(tmp_path / "red.png", flat(0, 0, 255))) == 76)
    assert np.all(read_image(write_png(tmp_path / "clear red.png", flat(0, 0, 255, 0))) == 76)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png: cannot be read .*No such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"cannot be read .*directory"):
        read_image(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "frame.png"
    file.write_bytes(content)
    for read in (read_image, read_mask):
        with pytest.raises(DataError, match=r"frame\.png: not an image"):
            read(file)


def test_a_truncated_image_is_refused(tmp_path: Path, write_png: WritePng) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    file = write_png(tmp_path / "frame.png", noise)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DataError, match="not an image"):
        read_image(file)


def test_a_header_that_claims_gigapixels_is_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 200_000, 200_000, 8, 0, 0, 0, 0))
    file = tmp_path / "frame.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b""))
    with pytest.raises(DataError, match=r"frame\.png: cannot be decoded"):
        read_image(file)


def test_a_mask_is_what_is_not_black_in_any_channel(tmp_path: Path, write_png: WritePng) -> None:
    colour = np.zeros((16, 16, 4), np.uint8)
    colour[:, :, 3] = 255
    colour[2, 3] = (1, 0, 0, 255)
    colour[4, 5] = (0, 0, 9, 0)
    deep = np.zeros((16, 16), np.uint16)
    deep[6, 7] = 1
    assert np.argwhere(read_mask(write_png(tmp_path / "colour.png", colour))).tolist() == [[2, 3], [4, 5]]
    assert np.argwhere(read_mask(write_png(tmp_path / "deep.png", deep))).tolist() == [[6, 7]]


def test_fingerprint_is_of_the_picture_not_of_its_container(tmp_path: Path) -> None:
    for name in ("frame.png", "frame.bmp", "frame.tif"):
        assert cv2.imwrite(str(tmp_path / name), ramp())
        assert fingerprint(read_image(tmp_path / name)) == fingerprint(ramp())
    assert fingerprint(np.asfortranarray(ramp())) == fingerprint(ramp())


def test_fingerprint_never_changes() -> None:
    """Bundles carry fingerprints of the frames nothing may be reported on: they must stay comparable."""
    assert fingerprint(ramp(16, 16)) == "b03e9dd0a7c74f597a83153c7cfa8b9912880ae693bdef03c12668b7b1c73546"


def test_fingerprint_tells_shapes_and_single_pixels_apart() -> None:
    other = ramp()
    other[7, 9] ^= 1
    shapes = [(20, 24), (24, 20), (16, 30), (1, 480), (14, 8)]
    prints = {fingerprint(np.zeros(shape, np.uint8)) for shape in shapes} | {fingerprint(ramp()), fingerprint(other)}
    assert len(prints) == len(shapes) + 2
