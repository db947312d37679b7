"""Network streams through OpenCV's FFmpeg: RTSP, and HTTP as of a camera's or a capture box's MJPEG.

RTSP goes over TCP first, which is OpenCV's own preference as long as nobody sets OPENCV_FFMPEG_CAPTURE_OPTIONS, an environment
variable of the whole process that stays the user's. One decoding thread, because each more adds a frame of delay. MJPEG is taken
from FFmpeg undecoded: asked to decode, it gives half a frame, cut by a lost connection, as a whole one.
"""

import re
import time
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import SourceError
from edge.sources import Picture
from edge.sources.background import BackgroundSource
from edge.sources.opening import SourceOptions

_MJPEG: Final = int.from_bytes(b"MJPG", "little")
_END_OF_IMAGE: Final = b"\xff\xd9"


def open_network(url: str | Path, options: SourceOptions | None = None) -> BackgroundSource:
    """Open rtsp://, rtsps://, http:// or https://. Raises SourceError within `open_timeout_s`.

    No message and no name holds a password, a query or what else of the address may be secret.
    """
    scheme, _, rest = str(url).partition("://")
    address, options = f"{scheme.lower()}://{rest}", options or SourceOptions()
    name = public_name(address)
    return BackgroundSource(
        name,
        lambda: _Stream(address, name, options),
        open_timeout_s=options.open_timeout_s,
        read_timeout_s=options.read_timeout_s,
    )


def public_name(url: str) -> str:
    """An address without what may be secret: user and password, the query, and a path that carries settings (with "=").

    A password with "/", "?" or "#" in it, which an address should not have, leaves open where the host begins: it is not shown.
    """
    scheme, _, rest = url.partition("://")
    authority, path, query = re.fullmatch(r"([^/?#]*)([^?#]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    if "@" in path + query:
        return f"{scheme}://…"
    return f"{scheme}://{authority.rpartition('@')[2]}{'/…' if '=' in path else path}"


class _Stream:
    """An open stream; see `edge.sources.background.Device`."""

    def __init__(self, url: str, name: str, options: SourceOptions) -> None:
        self._name, self._timeout_s = name, options.read_timeout_s
        self._timed = url.startswith("rtsp")
        self._start_ms: float | None = None
        parameters = [
            *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(options.open_timeout_s * 1e3)),
            *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(options.read_timeout_s * 1e3)),
            *(cv2.CAP_PROP_N_THREADS, 1),
        ]
        self._capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, parameters)
        if not self._capture.isOpened():
            raise SourceError(
                f"{name}: cannot be opened; check the address, the user and password, and that the sender runs"
            )
        self._encoded = int(self._capture.get(cv2.CAP_PROP_FOURCC)) == _MJPEG and self._capture.set(
            cv2.CAP_PROP_FORMAT, -1
        )

    def read(self) -> Picture:
        started_s = time.monotonic()
        found, data = self._capture.read()
        if not found:
            if time.monotonic() - started_s >= self._timeout_s:
                raise SourceError(f"{self._name}: no picture for {self._timeout_s:g} s; it stalled")
            raise SourceError(f"{self._name}: the sender ended the stream")
        pixels = np.asarray(data, np.uint8)
        return Picture(self._decoded(pixels) if self._encoded else pixels, self._time_s())

    def release(self) -> None:
        self._capture.release()

    def _decoded(self, encoded: NDArray[np.uint8]) -> NDArray[np.uint8]:
        whole = encoded.tobytes().rstrip(b"\0").endswith(_END_OF_IMAGE)
        pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if whole else None
        if pixels is None:
            raise SourceError(
                f"{self._name}: a picture came incomplete; the connection broke off or the sender is faulty"
            )
        return np.asarray(pixels, np.uint8)

    def _time_s(self) -> float | None:
        """By the sender's clock. MJPEG over HTTP has none: FFmpeg counts it at 25 frames a second."""
        if not self._timed:
            return None
        stamp_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
        if self._start_ms is None:
            self._start_ms = stamp_ms
        return (stamp_ms - self._start_ms) / 1e3
