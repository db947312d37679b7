"""A recording of a run that stays playable whatever ends it: Matroska, or MP4 in fragments, by the file's suffix.

Both are written packet by packet, so a process that is killed loses the last second at most. Edgekit's own frames only: what
lies outside the scan region is black already.
"""

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.analysis import Analysis
from edge.atomic import refused
from edge.errors import SinkError, require
from edge.overlay import DISCLAIMER
from edge.preprocess import Box, content_box
from edge.sinks.drawing import draw_analysis
from edge.sinks.newfile import open_new, write_whole
from edge.stream import Result

CODECS: Final = ("libx264", "libopenh264", "mpeg4")
"""Encoders, the first that is there is used: H.264, which every player has, else MPEG-4 Part 2, which FFmpeg has by itself.

PyAV's wheels bring libx264 (GPL-2.0-or-later) along with FFmpeg (LGPL) and PyAV (BSD). Edgekit neither contains nor distributes
it; who ships a device with it has the GPL to follow, or a PyAV built without it to install, which records by the next codec.
"""
_OPTIONS: Final = {
    "libx264": {"preset": "ultrafast", "tune": "zerolatency", "crf": "20", "forced-idr": "1"},
    "libopenh264": {"allow_skip_frames": "0"},
    "mpeg4": {"qmin": "2", "qmax": "6"},
}
_CONTAINERS: Final = {
    ".mkv": ("matroska", {"cluster_time_limit": "500"}),
    ".mp4": ("mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "500000"}),
}
KEYFRAME_MS: Final = 900
"""Below a second even when the next frame comes a little late."""
_TIME_BASE: Final = Fraction(1, 1000)
_NOMINAL_FPS: Final = 30
_TO_VIDEO: Final = np.round(16 + np.arange(256) * 219 / 255).astype(np.uint8)
"""A grey level as luma of the range video has, ITU-R BT.601: 16 to 235."""


class RecordingSink:
    """Records every frame that has pixels, at the moment it was captured; rejected ones too, failed ones not.

    path: .mkv or .mp4; it must not exist. outlines: draw the findings in (`edge.sinks.drawing`). codec: one of FFmpeg's encoders,
    None for the first of `CODECS` that is there. The picture has the size of the first frame, with a black row or column more
    where that is odd; a frame of another size is fitted into it, its aspect kept: one run, one file, one time line. One with
    colour among grey ones keeps it. Raises SinkError, MissingDependencyError (the extra "record").
    """

    def __init__(self, path: Path | str, *, outlines: bool = False, codec: str | None = None) -> None:
        self._path = Path(path)
        self._av: Any = require("av", extra="record")
        kind = _CONTAINERS.get(self._path.suffix.lower())
        if kind is None:
            raise SinkError(f"{path}: a recording is an .mkv or an .mp4 file; name one of these")
        self._outlines = outlines
        self._codec = _encoder(self._av, codec)
        self._file = _File(self._path)
        self._stream: Any = None
        self._size = (0, 0)
        self._first_ns = 0
        self._last_ms = self._key_ms = -1
        name, options = kind
        try:
            self._container: Any = self._av.open(
                self._file, "w", format=name, options={**options, "flush_packets": "1"}
            )
        except self._av.FFmpegError as error:
            self._file.close()
            raise SinkError(f"{path}: cannot be recorded ({error})") from error
        self._container.metadata["title"] = "edgekit recording"
        self._container.metadata["comment"] = DISCLAIMER

    def write(self, result: Result[Analysis]) -> None:
        found = result.found
        if found is None:
            return
        if self._file.ended:
            raise SinkError(f"{self._path}: is closed")
        pixels = draw_analysis(found) if self._outlines else found.pixels
        if self._stream is None:
            self._begin(pixels.shape[:2], found.captured_ns)
        time_ms = max(self._last_ms + 1, (found.captured_ns - self._first_ns) // 1_000_000)
        frame = self._av.VideoFrame.from_ndarray(_video(_fitted(pixels, self._size)), format="yuv420p")
        frame.pts, frame.time_base = time_ms, _TIME_BASE
        if self._key_ms < 0 or time_ms - self._key_ms >= KEYFRAME_MS:
            frame.pict_type = self._av.video.frame.PictureType.I
            self._key_ms = time_ms
        self._last_ms = time_ms
        self._mux(frame)

    def close(self) -> None:
        """Finish the file; one without a single frame is removed."""
        if self._file.ended:
            return
        try:
            if self._stream is not None:
                self._mux(None)
                self._call(self._container.close)
        finally:
            self._file.close(keep=self._stream is not None)

    def _begin(self, shape: tuple[int, ...], captured_ns: int) -> None:
        height, width = shape
        self._size = (height + height % 2, width + width % 2)  # half the resolution of colour needs even sides
        self._first_ns = captured_ns
        stream = self._container.add_stream(self._codec, rate=_NOMINAL_FPS, options=_OPTIONS.get(self._codec, {}))
        stream.height, stream.width = self._size
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = _TIME_BASE
        context.gop_size = 10 * _NOMINAL_FPS  # key frames come by time, see `write`
        context.max_b_frames = 0
        context.thread_count = 1  # the other cores belong to the network
        context.color_range, context.colorspace = 1, 6  # video range, BT.601
        self._stream = stream

    def _mux(self, frame: Any) -> None:
        self._call(lambda: self._container.mux(self._stream.encode(frame)))

    def _call(self, step: Callable[[], None]) -> None:
        """Run a step of the muxer and write what it gave; when that fails nothing more is written."""
        try:
            step()
            self._file.commit()
        except self._av.FFmpegError as error:
            self._file.close()
            raise SinkError(f"{self._path}: cannot be recorded ({error})") from error


class _File:
    """The file as the muxer sees it: what it gives is held until `commit`, which writes all of it or none.

    A part of a packet at the end, as a full disk would leave it, is what players stumble over.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = open_new(path)
        self._held: list[tuple[int, bytes]] = []
        self._position = self._end = self._whole = self._commits = 0
        self.ended = False

    def write(self, content: bytes) -> int:
        self._held.append((self._position, content))
        self.seek(len(content), os.SEEK_CUR)
        return len(content)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        self._end = max(self._end, self._position)
        return self._position

    def tell(self) -> int:
        return self._position

    def commit(self) -> None:
        """Raises SinkError, and closes the file as it was before; one that holds no more than its header is removed."""
        held, self._held = self._held, []
        try:
            for offset, content in held:
                os.lseek(self._descriptor, offset, os.SEEK_SET)
                write_whole(self._descriptor, content)
        except OSError as error:
            os.ftruncate(self._descriptor, self._whole)
            self.close(keep=self._commits > 1)
            raise refused(self._path, error) from error
        self._whole = self._end
        self._commits += bool(held)

    def close(self, *, keep: bool = True) -> None:
        if self.ended:
            return
        self.ended = True
        try:
            os.close(self._descriptor)
            if not keep:
                self._path.unlink()
        except OSError as error:
            raise refused(self._path, error) from error


def _encoder(av: Any, codec: str | None) -> str:
    wanted = CODECS if codec is None else (codec,)
    for name in wanted:
        try:
            if av.Codec(name, "w").type == "video":
                return name
        except (ValueError, av.FFmpegError):  # not built in
            continue
    raise SinkError(f"this PyAV has no video encoder {' or '.join(wanted)}; choose another codec")


def _fitted(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture in the recording's size: as it is, with a black edge, or made to fit with its aspect kept."""
    height, width = pixels.shape[:2]
    if (height, width) == size:
        return pixels
    if (height + height % 2, width + width % 2) == size:
        box = Box(0, 0, height, width)
    else:
        box = content_box((height, width), size)
        pixels = np.asarray(cv2.resize(pixels, (box.width, box.height), interpolation=cv2.INTER_AREA))
    picture = np.zeros((*size, *pixels.shape[2:]), np.uint8)
    picture[box.pixels] = pixels
    return picture


def _video(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Planar YUV 4:2:0 in the range of video, (H · 3/2, W), of an even-sided grey or BGR picture."""
    if pixels.ndim == 3:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2YUV_I420))
    height, width = pixels.shape
    planes = np.full((height * 3 // 2, width), 128, np.uint8)
    cv2.LUT(pixels, _TO_VIDEO, dst=planes[:height])
    return planes
