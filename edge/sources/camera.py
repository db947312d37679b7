"""Cameras and frame grabbers through Video4Linux."""

import errno
import fcntl
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import cv2
import numpy as np

from edge.errors import SourceError
from edge.sources import Picture
from edge.sources.background import BackgroundSource
from edge.sources.opening import SourceOptions

DEVICES: Final = Path("/dev")
BROKEN: Final = 3
"""Reads in a row without a picture that end a camera: one that came in part only (OpenCV gives none of it) is just lost."""
STALL_S: Final = 1.0
"""A read that fails after so long was no broken picture."""

# linux/videodev2.h: v4l2_capability, VIDIOC_QUERYCAP, V4L2_CAP_VIDEO_CAPTURE and its multi-planar kin, V4L2_CAP_DEVICE_CAPS.
_CAPABILITY: Final = struct.Struct("=16s32s32sIII12x")
_QUERY_CAPABILITY: Final = 0x80685600
_CAPTURES: Final = 0x00000001 | 0x00001000
_HAS_DEVICE_CAPS: Final = 0x80000000


class Capture(Protocol):
    """The part of cv2.VideoCapture that is used."""

    def isOpened(self) -> bool: ...  # noqa: N802
    def set(self, propId: int, value: float) -> bool: ...
    def get(self, propId: int) -> float: ...
    def read(self) -> tuple[bool, Any]: ...
    def release(self) -> None: ...


def open_camera(
    text: str | Path, options: SourceOptions | None = None, *, capture: Callable[[str], Capture] | None = None
) -> BackgroundSource:
    """Open a camera by number or device file. Raises SourceError where it is missing, busy, forbidden or no camera.

    Width, height and frame rate are asked for; a camera that gives others is taken as it is. capture: opens the device file.
    """
    text, options = str(text), options or SourceOptions()
    path = Path(f"/dev/video{text}" if text.isdecimal() else text)
    name = f"camera {path}"
    if capture is None:
        check_camera(path)
        capture = _video4linux
    opener = capture
    return BackgroundSource(
        name,
        lambda: _Camera(opener(str(path)), name, options),
        open_timeout_s=options.open_timeout_s,
        read_timeout_s=options.read_timeout_s,
    )


class _Camera:
    """An open camera; see `edge.sources.background.Device`."""

    def __init__(self, capture: Capture, name: str, options: SourceOptions) -> None:
        self._capture, self._name = capture, name
        self._start_ms: float | None = None
        if not capture.isOpened():
            capture.release()
            raise SourceError(f"{name}: cannot be opened; another program may be using it")
        # The pixel format first: with it change the sizes and rates to be had. Raw video needs more than USB 2 carries.
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        for wanted, value in (
            (cv2.CAP_PROP_FRAME_WIDTH, options.width),
            (cv2.CAP_PROP_FRAME_HEIGHT, options.height),
            (cv2.CAP_PROP_FPS, options.fps),
            (cv2.CAP_PROP_BUFFERSIZE, 1),  # the oldest waiting picture is the next one read
        ):
            if value is not None:
                capture.set(wanted, value)

    def read(self) -> Picture:
        started_s = time.monotonic()
        for lost in range(BROKEN):
            found, pixels = self._capture.read()
            if found and pixels is not None:
                return self._picture(pixels, lost)
            if time.monotonic() - started_s > STALL_S:
                break
        raise SourceError(f"{self._name}: gives no picture any more; check its cable and that nobody else uses it")

    def release(self) -> None:
        self._capture.release()

    def _picture(self, pixels: Any, lost: int) -> Picture:
        stamp_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
        if self._start_ms is None:
            self._start_ms = stamp_ms
        # Copied: a driver may fill the same memory again.
        time_s = (stamp_ms - self._start_ms) / 1e3 if stamp_ms > 0.0 else None
        return Picture(np.array(pixels, np.uint8), time_s, lost=lost)


def captures_video(capability: bytes) -> bool:
    """Whether a device is one to take pictures from, by the answer to VIDIOC_QUERYCAP.

    A USB camera has a second device file, of metadata, that gives none.
    """
    *_, of_driver, of_device = _CAPABILITY.unpack(capability)
    return bool((of_device if of_driver & _HAS_DEVICE_CAPS else of_driver) & _CAPTURES)


def cameras(devices: Path = DEVICES) -> list[str]:
    """Device files of video that exist, in order of their numbers."""
    found = [entry for entry in devices.glob("video*") if entry.name[5:].isdecimal()]
    return [str(entry) for entry in sorted(found, key=lambda entry: int(entry.name[5:]))]


def check_camera(path: Path) -> None:
    """Whether pictures can be taken from a device file: raises SourceError with the reason that OpenCV does not give."""
    there = cameras()
    choice = f"there is {', '.join(there)}" if there else "this machine has no /dev/video device; connect the camera"
    if not path.exists():
        raise SourceError(f"camera {path}: no such device; {choice}")
    if not sys.platform.startswith("linux"):
        return
    answer = bytearray(_CAPABILITY.size)
    try:
        device = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        try:
            fcntl.ioctl(device, _QUERY_CAPABILITY, answer)
        finally:
            os.close(device)
    except PermissionError as error:
        raise SourceError(f"camera {path}: no permission; add the user to the group 'video'") from error
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise SourceError(f"camera {path}: another program is using it; close that program") from error
        raise SourceError(f"camera {path}: not a camera ({error.strerror}); {choice}") from error
    if not captures_video(bytes(answer)):
        raise SourceError(f"camera {path}: gives no pictures (a metadata or output device); {choice}")


def _video4linux(path: str) -> Capture:
    return cv2.VideoCapture(path, cv2.CAP_V4L2 if sys.platform.startswith("linux") else cv2.CAP_ANY)
