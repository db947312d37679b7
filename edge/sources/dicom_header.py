"""What the header of a DICOM ultrasound image says, checked before a pixel is decoded. Sections "C." are of DICOM PS3.3.

Taken are images of modality US, and Secondary Captures of modality OT or of none, as frame grabbers write them.
"""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from struct import unpack
from typing import Any, BinaryIO, Final

import numpy as np

from edge.errors import EdgekitError, SourceError, require
from edge.preprocess import Box

FALLBACK_FPS: Final = 25.0
"""Of a file that names no frame rate, where the user names none either."""
MAX_PIXELS: Final = 1 << 26
"""Of one frame."""
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
VIDEO: Final = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in range(100, 109))
"""MPEG-2, MPEG-4 AVC and HEVC."""

_SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
_SAMPLES: Final = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 1,
    "RGB": 3,
    "YBR_FULL": 3,
    "YBR_FULL_422": 3,
    "YBR_PARTIAL_420": 3,
    "YBR_ICT": 3,
    "YBR_RCT": 3,
}
_PACKAGES: Final = {
    "1.2.840.10008.1.2.4.57": "python-gdcm",  # JPEG Lossless
    "1.2.840.10008.1.2.4.70": "python-gdcm",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.201": "pylibjpeg-openjpeg",  # High-Throughput JPEG 2000
    "1.2.840.10008.1.2.4.202": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg-openjpeg",
}
"""What brings a decoder; pillow brings those of the other syntaxes."""
_PERIOD_S: Final = (0.001, 10.0)
"""What may lie between two frames; other values in a file are mistakes."""
_MIN_REGION: Final = 16
_CENTIMETRES: Final = 3


class NotUltrasoundError(SourceError):
    """A file that a folder may hold besides its ultrasound images."""


@dataclass(frozen=True, slots=True)
class Element:
    """The pixel data element: its value representation, where its value starts in the file, and its length in bytes."""

    vr: str
    start: int
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """An image of one or more frames.

    times_s: of every frame, where they have their own, else empty. order: sorts the images of a folder.
    """

    path: Path
    header: Any
    element: Element
    frames: int
    times_s: tuple[float, ...]
    period_s: float
    region: Box | None
    spacing_mm: tuple[float, float] | None
    sop_instance_uid: str
    order: tuple[str, str, float, str, float]

    @property
    def syntax(self) -> Any:
        """The transfer syntax, as pydicom's UID."""
        return self.header.file_meta.TransferSyntaxUID

    def time_s(self, index: int) -> float:
        """Of a frame, counted from 0."""
        return self.times_s[index] if self.times_s else index * self.period_s


def describe(path: Path, fps: float | None = None) -> Clip:
    """Read and check a file's header. fps: where it names no frame rate. Raises SourceError, MissingDependencyError."""
    pydicom = require("pydicom", extra="dicom")
    try:
        file = path.open("rb")
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    with file, reading(path, "its header cannot be read"):
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True)
        except pydicom.errors.InvalidDicomError as error:
            raise NotUltrasoundError(f"{path}: not a DICOM file; DICOM files have DICM at byte 128") from error
        _check_kind(path, header)
        return _clip(path, header, file, fps or FALLBACK_FPS)


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """One line for anything that goes wrong: pydicom and its plugins pass on whatever their own parts raise."""
    try:
        yield
    except EdgekitError:
        raise
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise SourceError(f"{path}: {what}; the file is damaged or truncated ({text[:300]})") from error


def items(value: Any) -> list[Any]:
    """The values of an element that may have none, one or more."""
    if value is None or value == "":
        return []
    return [value] if isinstance(value, (str, int, float)) else list(value)


def finite(value: Any) -> float | None:
    """A finite number, None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _positive(value: Any) -> float | None:
    number = finite(value)
    return number if number is not None and number > 0.0 else None


def _text(header: Any, key: str) -> str:
    return str(header.get(key) or "")


def _check_kind(path: Path, header: Any) -> None:
    modality, kind = _text(header, "Modality"), header.get("SOPClassUID")
    captured = str(kind or "").startswith(_SECONDARY_CAPTURE)
    if modality == "US" or (captured and modality in ("", "OT")):
        return
    name = "an object of no class" if kind is None else kind.name
    raise NotUltrasoundError(
        f"{path}: {name}, modality {modality or 'unknown'}; ultrasound images (US) and Secondary Captures are read"
    )


def _clip(path: Path, header: Any, file: BinaryIO, fps: float) -> Clip:
    """Check what the header says of the image; `file` stands where reading it ended, at the pixel data."""
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise SourceError(f"{path}: names no transfer syntax, so its pixels cannot be read")
    if str(syntax) == DEFLATED:
        if "Rows" not in header:
            raise NotUltrasoundError(f"{path}: holds no image")
        element = Element("OW", 0, 0)  # within the deflated stream
    else:
        element = _find_pixels(path, syntax, file)
    rows, columns, frames = (int(header.get(key) or 0) for key in ("Rows", "Columns", "NumberOfFrames"))
    _check_pixels(path, header, rows, columns)
    _check_decoder(path, syntax)
    if not syntax.is_compressed and str(syntax) != DEFLATED:
        needed = require("pydicom.pixels.utils", extra="dicom").get_expected_length(header)
        there = min(element.length, file.seek(0, io.SEEK_END) - element.start)
        if there < needed:
            raise SourceError(f"{path}: truncated, {there} of {needed} bytes of pixels are there; copy the file again")
    times_s, period_s = _times(header, max(frames, 1), fps)
    region, spacing_mm = _region(header, rows, columns)
    uid, order = _text(header, "SOPInstanceUID"), _order(header)
    return Clip(path, header, element, max(frames, 1), times_s, period_s, region, spacing_mm, uid, order)


def _order(header: Any) -> tuple[str, str, float, str, float]:
    """`order` of a clip, read early: pydicom looks into an element only when asked for it."""
    study, series = _text(header, "StudyInstanceUID"), _text(header, "SeriesInstanceUID")
    series_number, number = (finite(header.get(key)) or 0.0 for key in ("SeriesNumber", "InstanceNumber"))
    return _text(header, "StudyDate"), study, series_number, series, number


def _find_pixels(path: Path, syntax: Any, file: BinaryIO) -> Element:
    """Read the head of the pixel data element (PS3.5, section 7.1), where pydicom stopped."""
    order = "<" if syntax.is_little_endian else ">"
    head = file.read(8)
    if not head:
        raise NotUltrasoundError(f"{path}: holds no pixel data")
    group, number, length = unpack(f"{order}HHL", head)
    vr = "OW"
    if head[4:6] in (b"OB", b"OW", b"UN"):  # looked for, since some files belie their transfer syntax
        vr = head[4:6].decode("ascii")
        (length,) = unpack(f"{order}L", file.read(4))
    if (group, number) != (0x7FE0, 0x0010):
        raise SourceError(f"{path}: its pixels are not whole numbers; float pixel data is not read")
    return Element(vr, file.tell(), length)


def _check_pixels(path: Path, header: Any, rows: int, columns: int) -> None:
    if not (rows > 0 and columns > 0 and rows * columns <= MAX_PIXELS):
        raise SourceError(f"{path}: {columns}×{rows} pixels a frame; 1 to {MAX_PIXELS} are read")
    photometric, samples = _text(header, "PhotometricInterpretation"), header.get("SamplesPerPixel")
    if _SAMPLES.get(photometric) != samples:
        raise SourceError(
            f"{path}: photometric interpretation {photometric!r} with {samples} samples a pixel is not read; "
            f"{', '.join(_SAMPLES)} are"
        )
    allocated, stored = (int(header.get(key) or 0) for key in ("BitsAllocated", "BitsStored"))
    if allocated not in (8, 16) or not 1 <= stored <= allocated:
        raise SourceError(f"{path}: {stored} bits stored in {allocated}; pixels in 8 and 16 bits are read")


def _check_decoder(path: Path, syntax: Any) -> None:
    if str(syntax) in VIDEO:
        require("av", extra="record")
        return
    try:
        there = require("pydicom.pixels", extra="dicom").get_decoder(syntax).is_available
    except NotImplementedError:
        raise SourceError(f"{path}: transfer syntax {syntax.name} is not read; decompress it first") from None
    if not there:
        package = _PACKAGES.get(str(syntax), "pillow")
        raise SourceError(f"{path}: the decoder for {syntax.name} is not installed; pip install {package}")


def _times(header: Any, frames: int, fps: float) -> tuple[tuple[float, ...], float]:
    """The time of every frame, where each has its own, and from one frame to the next (C.7.6.5)."""
    shortest, longest = _PERIOD_S
    steps = [finite(step) for step in items(header.get("FrameTimeVector"))[1:]]  # the first belongs to no step
    steps_s = [step / 1000.0 for step in steps if step is not None and shortest <= step / 1000.0 <= longest]
    if frames > 1 and len(steps) == len(steps_s) == frames - 1:
        times_s = tuple(float(time) for time in np.cumsum([0.0, *steps_s]))
        return times_s, times_s[-1] / (frames - 1)
    frame_time_ms = _positive(header.get("FrameTime"))
    periods_s = [0.0 if frame_time_ms is None else frame_time_ms / 1000.0]
    for rate in (_positive(header.get(key)) for key in ("RecommendedDisplayFrameRate", "CineRate")):
        periods_s.append(0.0 if rate is None else 1.0 / rate)
    return (), next((period_s for period_s in periods_s if shortest <= period_s <= longest), 1.0 / fps)


def _region(header: Any, rows: int, columns: int) -> tuple[Box | None, tuple[float, float] | None]:
    """The largest region of two-dimensional tissue (C.8.5.5), and millimetres a pixel, (between rows, between columns).

    A region that reaches out of the image tells that the image was scaled or cropped after it was scanned: neither its place nor
    its spacing holds any more. One pixel is let pass, since some scanners write the end for the last pixel.
    """
    largest: tuple[int, Box, Any] | None = None
    for item in items(header.get("SequenceOfUltrasoundRegions")):
        box = _region_box(item, rows, columns)
        if box is not None and (largest is None or box.height * box.width > largest[0]):
            largest = box.height * box.width, box, item
    if largest is None:
        return None, _pixel_spacing_mm(header)
    _, box, item = largest
    return box, _region_spacing_mm(item) or _pixel_spacing_mm(header)


def _region_box(item: Any, rows: int, columns: int) -> Box | None:
    if item.get("RegionSpatialFormat") != 1 or item.get("RegionDataType") != 1:
        return None
    corners = [item.get(f"RegionLocation{key}") for key in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
    if not all(isinstance(corner, int) for corner in corners):
        return None
    left, top, right, bottom = corners
    box = Box(top, left, min(bottom + 1, rows) - top, min(right + 1, columns) - left)
    inside = left >= 0 and top >= 0 and right <= columns and bottom <= rows
    return box if inside and min(box.height, box.width) >= _MIN_REGION else None


def _region_spacing_mm(item: Any) -> tuple[float, float] | None:
    if any(item.get(f"PhysicalUnits{axis}Direction") != _CENTIMETRES for axis in "XY"):
        return None
    y, x = (finite(item.get(f"PhysicalDelta{axis}")) for axis in "YX")
    return (10.0 * abs(y), 10.0 * abs(x)) if x and y else None  # the sign is a direction


def _pixel_spacing_mm(header: Any) -> tuple[float, float] | None:
    """Exactly 1 mm is no pixel of an ultrasound image: writers that know of no spacing write that."""
    for key in ("PixelSpacing", "ImagerPixelSpacing"):
        values = [_positive(value) for value in items(header.get(key))]
        if len(values) == 2 and values[0] is not None and values[1] is not None and values != [1.0, 1.0]:
            return values[0], values[1]
    return None
