"""Frames: grey uint8 pictures, and how anything else becomes one."""

import hashlib
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import DataError

GreyImage = NDArray[np.uint8]

MIN_SIDE: Final = 16
"""Smallest side of a frame, in pixels: below it there is nothing to segment, only an artefact of the resize."""

IMAGE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})


def to_grey(pixels: NDArray[Any], *, name: str = "frame") -> GreyImage:
    """Return `pixels` as a contiguous (H, W) uint8 grey image.

    (H, W), (H, W, 1), BGR and BGRA are accepted. Colour is weighted by ITU-R BT.601, alpha is dropped; 16-bit depth keeps its
    high byte (the full range 0..65535 maps to 0..255, so a 12-bit picture in a 16-bit file stays dark rather than
    being stretched by a gain that differs from frame to frame). Raises DataError on any other type or shape and on frames
    smaller than 16 pixels a side.
    """
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise DataError(f"{name}: pixels are {pixels.dtype}; use 8-bit or 16-bit unsigned images")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    elif pixels.ndim == 3 and pixels.shape[2] in (3, 4):
        pixels = np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels[:, :, :3]), cv2.COLOR_BGR2GRAY))
    if pixels.ndim != 2:
        raise DataError(f"{name}: shape {pixels.shape} is not an image of one, three or four channels")
    if min(pixels.shape) < MIN_SIDE:
        height, width = pixels.shape
        raise DataError(f"{name}: {width}×{height} pixels is too small; a frame has at least {MIN_SIDE} a side")
    return np.ascontiguousarray(pixels)


def read_image(path: Path | str) -> GreyImage:
    """Read an image file of any depth and channel count as a grey frame (see `to_grey`). Raises DataError."""
    return to_grey(_decode(Path(path)), name=str(path))


def read_mask(path: Path | str) -> NDArray[np.bool_]:
    """Read a lesion mask: True where any channel of the file is not 0. Raises DataError."""
    pixels = _decode(Path(path))
    if pixels.ndim == 3:
        pixels = pixels[:, :, :3].max(axis=2)
    return pixels > 0


def fingerprint(pixels: GreyImage) -> str:
    """Return the sha256 of a frame's size and pixels: the same picture has one identity in any lossless container."""
    height, width = pixels.shape
    digest = hashlib.sha256(f"{height}x{width}:".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def _decode(path: Path) -> NDArray[Any]:
    try:
        encoded = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    try:
        pixels = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED) if encoded.size else None
    except cv2.error as error:  # a header that claims more pixels than OpenCV decodes (2^30)
        raise DataError(f"{path}: cannot be decoded; its header is damaged or the image too large") from error
    if pixels is None:
        raise DataError(f"{path}: not an image; PNG, JPEG, BMP and TIFF are read")
    return np.asarray(pixels)
