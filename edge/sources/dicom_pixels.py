"""The pixels of a DICOM image, decoded frame by frame into grey or BGR of 8 bits.

8-bit pixels are taken as stored. Where more bits are stored, the file's own window (DICOM PS3.3, C.11.2.1.2) maps to 0..255, or
else the whole range of the bits stored, which is the same for every frame. MONOCHROME1 is inverted.
"""

import io
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import SourceError, require
from edge.sources.dicom_header import DEFLATED, VIDEO, Clip, finite, items

Pixels = NDArray[np.uint8]

_YBR: Final = ("YBR_FULL", "YBR_FULL_422")


def decode(clip: Clip) -> Iterator[Pixels]:
    """Frames as (H, W) grey or (H, W, 3) BGR uint8, one at a time, not more than the header says.

    Raises whatever pydicom and its decoders raise; `dicom_header.reading` makes one line of it.
    """
    with clip.path.open("rb") as file:
        file.seek(clip.element.start)
        yield from islice(_video(clip, file) if str(clip.syntax) in VIDEO else _images(clip, file), clip.frames)


def _images(clip: Clip, file: BinaryIO) -> Iterator[Pixels]:
    pixels = require("pydicom.pixels", extra="dicom")
    source: Any = file
    settings: dict[str, Any] = {}
    if str(clip.syntax) == DEFLATED:  # one deflated stream: it is had as a whole or not at all
        source = require("pydicom", extra="dicom").dcmread(clip.path)
    else:
        settings = pixels.as_pixel_options(
            clip.header, transfer_syntax_uid=clip.syntax, pixel_vr=clip.element.vr, pixel_keyword="PixelData"
        )
    table = _table(clip.header)
    # Raw, since pydicom's colour conversion takes 60 ms for 640×480 and OpenCV's 2 ms.
    for array, properties in pixels.get_decoder(clip.syntax).iter_array(source, raw=True, **settings):
        photometric = str(properties["photometric_interpretation"])
        if array.ndim == 3 and photometric not in ("RGB", *_YBR):
            raise SourceError(f"{clip.path}: its decoder leaves colours as {photometric}, which are not converted")
        yield _shown(array, photometric, table)


def _video(clip: Clip, file: BinaryIO) -> Iterator[Pixels]:
    """Frames of an MPEG-2, MPEG-4 or HEVC stream, which stands in the file as if it were one frame (PS3.5, section 8.2)."""
    fragments = require("pydicom.encaps", extra="dicom").generate_fragments(file)
    next(fragments)  # the offset table
    with require("av", extra="record").open(io.BytesIO(b"".join(fragments))) as container:
        for frame in container.decode(video=0):
            pixels = frame.to_ndarray(format="bgr24")
            if pixels.shape[:2] != (clip.header.Rows, clip.header.Columns):
                raise SourceError(f"{clip.path}: its video is {frame.width}×{frame.height}, its header says otherwise")
            yield pixels


def _table(header: Any) -> Pixels:
    """How each stored value is shown, by its bits taken as an unsigned number: (n,) grey, or (n, 3) BGR of a palette."""
    count, stored = 1 << int(header.BitsAllocated), int(header.BitsStored)
    photometric = str(header.PhotometricInterpretation)
    if photometric == "PALETTE COLOR":
        index = np.arange(count, dtype=np.uint8 if count == 256 else np.uint16)
        colours = require("pydicom.pixels", extra="dicom").apply_color_lut(index, header)[:, :3]
        if colours.max() > 255:
            colours = colours >> 8
        return np.ascontiguousarray(colours[:, ::-1], np.uint8)
    values = np.arange(count, dtype=np.float64)
    low, high = 0.0, float((1 << stored) - 1)
    if header.get("PixelRepresentation") == 1:
        values[count // 2 :] -= count
        low, high = -float(1 << (stored - 1)), float((1 << (stored - 1)) - 1)
    window = _window(header) if stored > 8 and header.SamplesPerPixel == 1 else None
    if window is not None:
        low, high = window
        slope, intercept = (finite(header.get(key)) for key in ("RescaleSlope", "RescaleIntercept"))
        values = values * (1.0 if slope is None else slope) + (intercept or 0.0)
    levels = np.rint(255.0 * (np.clip(values, low, high) - low) / (high - low)).astype(np.uint8)
    return 255 - levels if photometric == "MONOCHROME1" else levels


def _window(header: Any) -> tuple[float, float] | None:
    """The values that the file's first linear window shows black and white; None without one."""
    centre, width = (finite(next(iter(items(header.get(key))), None)) for key in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None:
        return None
    function = str(header.get("VOILUTFunction") or "LINEAR")
    if function == "LINEAR" and width > 1.0:
        return centre - width / 2.0, centre + width / 2.0 - 1.0
    if function == "LINEAR_EXACT" and width > 0.0:
        return centre - width / 2.0, centre + width / 2.0
    return None


def _shown(array: NDArray[Any], photometric: str, table: Pixels) -> Pixels:
    """A decoded frame, (H, W) or (H, W, 3) integers, as it is shown. photometric: of the frame, after decoding."""
    if array.dtype == np.uint8 and table.shape == (256,):
        pixels = np.asarray(cv2.LUT(array, table), np.uint8)
    else:
        pixels = table[array.astype(np.int32) & (len(table) - 1)]
    if array.ndim == 2:
        return pixels
    if photometric in _YBR:
        swapped = np.empty_like(pixels)  # DICOM has Cb before Cr
        cv2.mixChannels([pixels], [swapped], [0, 0, 1, 2, 2, 1])
        return np.asarray(cv2.cvtColor(swapped, cv2.COLOR_YCrCb2BGR), np.uint8)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), np.uint8)
