"""Video files, decoded by OpenCV's FFmpeg.

A video that was cut is told from a whole one by its container, which says how many bytes it should have, not by counting frames:
FFmpeg's count is an estimate in Matroska (68 for 50 frames of a variable rate) and takes in what an edit list hides in MP4 (50
for 40). Damage inside shows when reading fails and then goes on. Where the size changes in the middle, OpenCV scales what follows
to the first one.
"""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import SourceError
from edge.sources import Picture
from edge.sources.container import is_text, missing_bytes
from edge.sources.opening import SourceOptions

FALLBACK_FPS: Final = 25.0
_LONGEST_S: Final = 10.0
"""A longer step from frame to frame is a fault of the time stamps (or ten frames' time, of a slow video)."""
_TRIES: Final = 1000
"""Reads that fail in a row before a video is taken to be at its end; there each takes some 10 µs."""
_DEPENDENT: Final = frozenset(map(ord, "PBS"))
"""Types of frames that build on others."""


def open_video(path: str | Path, options: SourceOptions | None = None) -> "VideoFile":
    """Open a video file; no option has a meaning for it. Raises SourceError where it is not a video."""
    return VideoFile(Path(path))


class VideoFile:
    """The frames of a video, BGR; `time_s` from its time stamps, made strictly increasing. Iterate once.

    Every frame that can be trusted is given: not the last one before a gap or a cut, which may be there in part only, and after a
    gap from the next key frame on, because what builds on lost frames is smeared. Then the iteration raises SourceError where
    frames are certain to be missing.
    """

    live = False

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._lock = threading.Lock()
        self._missing_bytes = _missing_bytes(path)
        # An absolute path: FFmpeg would take "a:b.mp4" for a protocol.
        self._capture: cv2.VideoCapture | None = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            self.close()
            if self._missing_bytes:
                raise SourceError(f"{path}: cut off before its index was written; no frame can be read")
            raise SourceError(f"{path}: not a video that FFmpeg reads, or damaged from the start")
        self._claimed = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self._period_s = 1.0 / (fps if 1e-3 < fps <= 1000.0 else FALLBACK_FPS)

    def __iter__(self) -> Iterator[Picture]:
        count = gaps = 0
        time_s: float | None = None
        stamp_s = 0.0
        sound = True
        held: Picture | None = (
            None  # FFmpeg gives a frame of which only a part is there; the one before a gap is not trusted
        )
        try:
            while (frame := self._next()) is not None:
                pixels, new_stamp_s, alone, failures = frame
                if failures:
                    gaps, sound, held = gaps + 1, False, None
                sound = sound or alone
                if not sound:
                    continue
                if held is not None:
                    count += 1
                    yield held
                time_s = 0.0 if time_s is None else time_s + self._step_s(new_stamp_s - stamp_s)
                stamp_s = new_stamp_s
                held = Picture(pixels, time_s)
            closed = self._capture is None
            if held is not None and not closed and not self._missing_bytes:
                count += 1
                yield held
        finally:
            self.close()
        if not closed:
            self._complain(count, gaps)

    def close(self) -> None:
        with self._lock:
            if self._capture is not None:
                self._capture.release()
            self._capture = None

    def _next(self) -> tuple[NDArray[np.uint8], float, bool, int] | None:
        """The next frame, its time stamp in s, whether it stands alone, and how many reads failed before it; None at the end."""
        for failures in range(_TRIES):
            with self._lock:
                if self._capture is None:
                    return None
                found, pixels = self._capture.read()
                if found:
                    stamp_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
                    key = int(self._capture.get(cv2.CAP_PROP_FRAME_TYPE)) not in _DEPENDENT
                    return np.asarray(pixels, np.uint8), stamp_s, key, failures
        return None

    def _step_s(self, step_s: float) -> float:
        """From frame to frame; where the stamps stand still, go back or jump, the time that a frame usually takes."""
        return step_s if 0.0 < step_s <= max(_LONGEST_S, 10.0 * self._period_s) else self._period_s

    def _complain(self, count: int, gaps: int) -> None:
        of = f" of about {self._claimed:.0f}" if self._claimed >= count else ""
        if self._missing_bytes:
            raise SourceError(
                f"{self.name}: cut off, {self._missing_bytes} bytes are missing; {count}{of} frames were read"
            )
        if gaps:
            raise SourceError(
                f"{self.name}: damaged in {gaps} place{'s' if gaps > 1 else ''}; {count}{of} frames could be read"
            )
        if not count:
            raise SourceError(f"{self.name}: no frame can be read; it is damaged or no video")


def _missing_bytes(path: Path) -> int:
    """Bytes that the file lacks. Raises SourceError for what FFmpeg should not be asked about."""
    try:
        if not path.stat().st_size:
            raise SourceError(f"{path}: the file is empty")
        if is_text(path):
            raise SourceError(f"{path}: a text, not a video")
        return missing_bytes(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
