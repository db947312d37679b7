"""OpenIGTLink messages: the header, its CRC, and the IMAGE body, parsed without trust in any of their numbers.

Source: the OpenIGTLink specification, openigtlink.org/protocols (v2_header, v2_image, v2_timestamp, v3_extendedheader).
"""

import math
from dataclasses import dataclass
from functools import cache
from struct import Struct
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import SourceError

HEADER_BYTES: Final = 58
MAX_BODY_BYTES: Final = 1 << 25
"""Of a picture: enough for 3840×2160 in colour."""
MAX_SKIPPED_BYTES: Final = 1 << 30
"""Of a message that is read past, such as a volume of another device."""

_HEADER: Final = Struct(">H12s20sIIQQ")
_EXTENDED: Final = Struct(">HHII")
_IMAGE: Final = Struct(">HBBBB3H12f3H3H")
_SCALARS: Final = {2: "i1", 3: "u1", 4: "i2", 5: "u2", 6: "i4", 7: "u4", 10: "f4", 11: "f8"}
_BYTE_ORDERS: Final = {1: ">", 2: "<"}

_POLYNOMIAL: Final = 0x42F0E1EBA9EA3693
"""Of ECMA-182, without its highest power x^64; not reflected, initial value 0, as igtl_util.c has it."""
_MASK: Final = (1 << 64) - 1

Window = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Header:
    """A message's header. kind: IMAGE, TRANSFORM ... timestamp_s: since 1970, None where the sender gives none."""

    version: int
    kind: str
    device: str
    timestamp_s: float | None
    body_bytes: int
    crc: int

    def __str__(self) -> str:
        return f"{self.kind} message of {self.device!r}"


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """pixels: (H, W) grey or (H, W, 3) BGR, uint8. spacing_mm: (between rows, between columns), None where it is not known."""

    pixels: NDArray[np.uint8]
    spacing_mm: tuple[float, float] | None


def parse_header(data: bytes) -> Header:
    """Read the 58 bytes that begin a message. Raises SourceError for what cannot be the header of one."""
    version, kind, device, seconds, fraction, body_bytes, crc = _HEADER.unpack(data)
    if version not in (1, 2, 3):
        raise SourceError(f"not an OpenIGTLink message (header version {version}; 1 to 3 are read)")
    timestamp_s = seconds + fraction / 2**32 if seconds or fraction else None
    return Header(version, _text(kind), _text(device), timestamp_s, body_bytes, crc)


def parse_image(header: Header, body: bytes | bytearray, window: Window | None = None) -> Image:
    """Read an IMAGE body: one picture of uint8, or of another type with its window.

    window: the values shown black and white. Without it uint8 stays as it is and uint16 keeps its high byte, as everywhere in
    edgekit; of any other type nobody can know the range, so it is refused. Columns of the matrix are as long as the spacing in
    millimetres; both exactly 1 are taken for a sender without calibration. Raises SourceError.
    """
    if crc64(body) != header.crc:
        raise SourceError(f"{header}: its checksum is wrong, the message was damaged on its way")
    content = _content(header, memoryview(body))
    if len(content) < _IMAGE.size:
        raise SourceError(f"{header}: {len(content)} bytes are too few for an image")
    _, components, scalar, order, _, *numbers = _IMAGE.unpack(content[: _IMAGE.size])
    size, matrix, offset, part = numbers[:3], numbers[3:15], numbers[15:18], numbers[18:21]
    if components not in (1, 3):
        raise SourceError(f"{header}: {components} components a pixel; 1 (grey) and 3 (RGB) are read")
    if scalar not in _SCALARS or order not in _BYTE_ORDERS:
        raise SourceError(f"{header}: scalar type {scalar} in byte order {order} is not one of OpenIGTLink's")
    if any(offset) or part != size:
        raise SourceError(f"{header}: holds a part of an image only; send whole images")
    kind = np.dtype(_BYTE_ORDERS[order] + _SCALARS[scalar])
    there, needed = len(content) - _IMAGE.size, math.prod(size) * components * kind.itemsize
    if there != needed or not needed:
        raise SourceError(f"{header}: {there} bytes of pixels, but {size[0]}×{size[1]}×{size[2]} pixels have {needed}")
    # Sizes and columns are in the order i (fastest), j, k; a picture has one axis of a single pixel.
    axes = [axis for axis in (2, 1, 0) if size[axis] > 1]
    if len(axes) > 2:
        raise SourceError(
            f"{header}: a volume of {size[2]} slices; name the device of the live image with ?device=NAME"
        )
    if len(axes) < 2:
        axes = [1, 0]
    values = np.frombuffer(content, kind, offset=_IMAGE.size)
    shape = [size[axis] for axis in axes] + [3] * (components == 3)
    levels = _levels(header, values, window).reshape(shape)
    if components == 3:
        levels = np.asarray(cv2.cvtColor(levels, cv2.COLOR_RGB2BGR), np.uint8)
    rows_mm, columns_mm = (math.hypot(*matrix[3 * axis : 3 * axis + 3]) for axis in axes)
    return Image(levels, _spacing_mm(rows_mm, columns_mm))


def crc64(data: bytes | bytearray | memoryview) -> int:
    """CRC of ECMA-182 over `data`, from its polynomial alone: neighbours are joined, pair by pair, until one word is left.

    A word w before n bits is worth w · x^n modulo the polynomial, a linear map of its eight bytes: eight look-ups, for all pairs
    at once. (A loop over bytes in Python takes seconds for a frame.)
    """
    lead = bytes(-len(data) % 8)  # zeros before the message change nothing
    words = np.frombuffer(b"".join((lead, data)), ">u8")
    level = 0
    while len(words) > 1:
        if len(words) % 2:
            words = np.concatenate((np.zeros(1, words.dtype), words))
        octets = np.ascontiguousarray(words[::2], ">u8").view(np.uint8).reshape(-1, 8)
        table = _shift_table(level)
        joined = words[1::2].astype(np.uint64)
        for place in range(8):
            joined ^= table[place][octets[:, place]]
        words, level = joined, level + 1
    last = int(words[0]) if len(words) else 0
    return _times(last, _reduce(1 << 64))


@cache
def _shift_table(level: int) -> NDArray[np.uint64]:
    """(8, 256): each byte, highest first, of a word times x^(64 · 2^level)."""
    factor = _reduce(1 << 64)
    for _ in range(level):
        factor = _times(factor, factor)
    table = np.zeros((8, 256), np.uint64)
    for place in range(8):
        for bit in range(8):
            value = _times(1 << (8 * (7 - place) + bit), factor)
            table[place, 1 << bit : 2 << bit] = table[place, : 1 << bit] ^ np.uint64(value)
    return table


def _times(left: int, right: int) -> int:
    """Product of two polynomials over GF(2), modulo the polynomial."""
    product = 0
    while right:
        if right & 1:
            product ^= left
        left = _reduce(left << 1)
        right >>= 1
    return product


def _reduce(value: int) -> int:
    """A polynomial of degree 64 or less, modulo the polynomial."""
    return (value & _MASK) ^ (_POLYNOMIAL if value >> 64 else 0)


def _content(header: Header, body: memoryview) -> memoryview:
    """The body without the extended header in front and the metadata behind, which versions 2 and 3 have."""
    if header.version == 1:
        return body
    if len(body) < _EXTENDED.size:
        raise SourceError(f"{header}: {len(body)} bytes are too few for its extended header")
    front, index, metadata, _ = _EXTENDED.unpack(body[: _EXTENDED.size])
    if front < _EXTENDED.size or front + index + metadata > len(body):
        raise SourceError(
            f"{header}: its extended header of {front} and metadata of {index + metadata} bytes do not fit"
        )
    return body[front : len(body) - index - metadata]


def _levels(header: Header, values: NDArray[np.generic], window: Window | None) -> NDArray[np.uint8]:
    if window is not None:
        low, high = window
        with np.errstate(over="ignore", invalid="ignore"):
            shown = np.clip(values.astype(np.float32), low, high)
        shown = (shown - low) * (255.0 / (high - low))
        return np.rint(np.nan_to_num(shown, copy=False)).astype(np.uint8)
    if values.dtype == np.uint8:
        return np.asarray(values, np.uint8)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return (values.astype(np.uint16) >> 8).astype(np.uint8)
    raise SourceError(
        f"{header}: pixels of type {values.dtype.name}; say which values are black and white: ?window=0,255"
    )


def _spacing_mm(rows_mm: float, columns_mm: float) -> tuple[float, float] | None:
    if not all(0.0 < side < math.inf for side in (rows_mm, columns_mm)):
        return None
    unscaled = all(math.isclose(side, 1.0, abs_tol=1e-5) for side in (rows_mm, columns_mm))
    return None if unscaled else (rows_mm, columns_mm)


def _text(field: bytes) -> str:
    """A name of the sender's; what could steer a terminal that shows it is no part of one."""
    text = field.partition(b"\0")[0].decode("ascii", errors="replace").strip()
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)
