"""OpenIGTLink messages as a sender makes them."""

import struct
from typing import Any

import numpy as np

from edge.sources.igtl_messages import crc64

GREY = np.arange(24 * 32, dtype=np.uint32).astype(np.uint8).reshape(24, 32)
COLOUR = np.random.default_rng(5).integers(0, 256, (24, 32, 3), np.uint8)
SCALARS = {"i1": 2, "u1": 3, "i2": 4, "u2": 5, "i4": 6, "u4": 7, "f4": 10, "f8": 11}


def message(
    kind: str, body: bytes, *, device: str = "Probe", version: int = 1, time_s: float = 0.0, crc: int | None = None
) -> bytes:
    seconds = int(time_s)
    head = struct.pack(">H12s20sII", version, kind.encode(), device.encode(), seconds, int((time_s - seconds) * 2**32))
    return head + struct.pack(">QQ", len(body), crc64(body) if crc is None else crc) + body


def image_body(pixels: np.ndarray, *, spacing_mm: tuple[float, float] = (0.2, 0.1), **changed: Any) -> bytes:
    """spacing_mm: between rows, between columns."""
    rows_mm, columns_mm = spacing_mm
    height, width = pixels.shape[:2]
    size = changed.get("size", (width, height, 1))
    head = struct.pack(
        ">HBBBB3H12f3H3H",
        1,
        changed.get("components", pixels.shape[2] if pixels.ndim == 3 else 1),
        changed.get("scalar", SCALARS[pixels.dtype.str[1:]]),
        changed.get("order", 1 if pixels.dtype.str[0] == ">" else 2),
        1,
        *size,
        *(0.0, columns_mm, 0.0),  # the image's columns run along the world's y, its rows against z
        *(0.0, 0.0, -rows_mm),
        *(1.0, 0.0, 0.0),
        *(5.0, 6.0, 7.0),
        *changed.get("offset", (0, 0, 0)),
        *changed.get("part", size),
    )
    data: bytes = changed.get("data", pixels.tobytes())
    return head + data


def image_message(pixels: np.ndarray = GREY, **changed: Any) -> bytes:
    of_message = {key: changed.pop(key) for key in ("device", "time_s", "crc") if key in changed}
    return message("IMAGE", image_body(pixels, **changed), **of_message)
