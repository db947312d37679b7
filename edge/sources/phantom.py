"""A simulated probe: a window that sweeps over one wide phantom picture, with fresh noise in every frame.

Motion and noise are whole-number arithmetic and OpenCV's bit-exact blur: seed, label, size, rate and number say what a frame is,
on every machine. The tissue below comes from `edge.phantom`, whose float arithmetic may round a single pixel to the neighbouring
grey on another processor (53 of 491,520 differ with and without OpenCV's vector code).
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import parse_qs

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import SourceError
from edge.frame import GreyImage
from edge.phantom import LABEL_ODDS, MIN_SIDE, PhantomCase, phantom_case
from edge.preprocess import Box
from edge.sources import Picture
from edge.sources.opening import SourceOptions

Clock = Callable[[], int]
Scalar = TypeVar("Scalar", bound=np.generic)

DEFAULT_FPS: Final = 30.0
MOST_FPS: Final = 1000.0
MOST_SIDE: Final = 2048
SWEEP_S: Final = 6.0
"""Seconds from one end of the tissue to the other."""
USAGE: Final = "phantom:30?seed=3&size=640x480&label=malignant&seconds=20"
_TRAVEL: Final = (1, 2)
"""How far the window goes, in widths: half of one keeps a lesion in the middle third of the tissue nearly always in view."""


def open_phantom(text: str | Path, options: SourceOptions | None = None) -> "PhantomSource":
    """Open `phantom:RATE?seed=&size=WIDTHxHEIGHT&label=&seconds=`, each part may be left out. Raises SourceError."""
    rate, _, query = str(text).removeprefix("phantom").removeprefix(":").partition("?")
    try:
        wanted = {key: values[-1] for key, values in parse_qs(query, strict_parsing=True).items()} if query else {}
        if unknown := wanted.keys() - {"seed", "size", "label", "seconds"}:
            raise ValueError(f"{', '.join(sorted(unknown))} is unknown")
        width, height = (int(side) for side in wanted.get("size", "640x480").split("x"))
        return PhantomSource(
            float(rate or DEFAULT_FPS),
            seed=int(wanted.get("seed", "0")),
            size=(height, width),
            label=wanted.get("label", "malignant"),
            seconds=float(wanted["seconds"]) if "seconds" in wanted else None,
        )
    except ValueError as error:
        raise SourceError(f"{text}: {error}; write it like {USAGE}") from error


class PhantomSource:
    """A probe that is moved to and fro over a phantom, `fps` frames a second.

    Without `seconds` it is live: it shows the picture of now, and what a late reader missed is in `Picture.lost`. With `seconds`
    it is a recording of that length: every frame is given as fast as it is read, and then it ends, so that a run over it ends
    well instead of opening it again. size: (height, width). label: "benign", "malignant" or "normal". clock: nanoseconds,
    monotonic. Raises ValueError.
    """

    def __init__(
        self,
        fps: float = DEFAULT_FPS,
        *,
        seed: int = 0,
        size: tuple[int, int] = (480, 640),
        label: str = "malignant",
        seconds: float | None = None,
        clock: Clock = time.monotonic_ns,
    ) -> None:
        if not 0.0 < fps <= MOST_FPS:
            raise ValueError(f"the rate is above 0 and at most {MOST_FPS:g} frames a second, not {fps:g}")
        if not MIN_SIDE <= min(size) <= max(size) <= MOST_SIDE:
            raise ValueError(f"the size is {MIN_SIDE} to {MOST_SIDE} pixels a side, not {size[1]}x{size[0]}")
        if label not in LABEL_ODDS:
            raise ValueError(f"the label is one of {', '.join(LABEL_ODDS)}, not {label!r}")
        if seed < 0:
            raise ValueError(f"the seed is 0 or more, not {seed}")
        if seconds is not None and not 0.0 < seconds < math.inf:
            raise ValueError(f"the seconds are above 0, not {seconds:g}")
        self.live = seconds is None
        self.name = f"phantom:{fps:g}?seed={seed}&size={size[1]}x{size[0]}&label={label}"
        self.frames = None if seconds is None else max(1, round(seconds * fps))
        """How many frames there are, None of a live probe."""
        self._fps, self._seed, self._size, self._clock = fps, seed, size, clock
        self._tissue = _tissue(seed, label, size)
        self._travel: int = self._tissue.pixels.shape[1] - size[1]
        self._sweep = max(1, round(SWEEP_S * fps))
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Picture]:
        if self.frames is None:
            yield from self._now()
            return
        for index in range(self.frames):
            if self._closed.is_set():
                return
            yield self._picture(index)

    def close(self) -> None:
        self._closed.set()

    def frame(self, index: int) -> GreyImage:
        """Frame `index`, (height, width) uint8. Standard deviation of the noise: about 2 grey levels on black, 9 on white."""
        tissue = self._window(self._tissue.pixels, index)
        rng = np.random.default_rng([self._seed, index])
        raw = rng.integers(0, 256, self._size, dtype=np.uint8)
        noise = np.asarray(cv2.GaussianBlur(raw, (3, 3), 0)).astype(np.int16) - 128
        shown = (noise * ((tissue >> 2) + 16).astype(np.int16)) >> 8
        return np.asarray(np.clip(tissue + shown, 0, 255), np.uint8)

    def truth(self, index: int) -> NDArray[np.bool_]:
        """Where the lesion lies in frame `index`, (height, width) bool."""
        return self._window(self._tissue.mask, index).copy()

    def shift_px(self, index: int) -> tuple[int, int]:
        """How far the picture moved from the frame before to frame `index`, (x, y) pixels; the probe moved the other way."""
        return (0, 0) if index == 0 else (self._offset(index - 1) - self._offset(index), 0)

    def _now(self) -> Iterator[Picture]:
        """The frame that is due, waited for where the reader is early, the newest one where it is late."""
        started_ns, last = self._clock(), -1
        while True:
            elapsed_s = (self._clock() - started_ns) / 1e9
            index = max(last + 1, math.floor(elapsed_s * self._fps))
            if self._closed.wait(max(0.0, index / self._fps - elapsed_s)):
                return
            yield self._picture(index, lost=index - last - 1)
            last = index

    def _picture(self, index: int, *, lost: int = 0) -> Picture:
        return Picture(self.frame(index), index / self._fps, region=Box(0, 0, *self._size), lost=lost)

    def _offset(self, index: int) -> int:
        """Left edge of the window: to the right and back, each way by the smooth step 3 u² − 2 u³, in whole numbers."""
        way, at = divmod(index, self._sweep)
        at = self._sweep - at if way % 2 else at
        whole = self._sweep**2 * self._sweep
        return (2 * self._travel * at * at * (3 * self._sweep - 2 * at) + whole) // (2 * whole)

    def _window(self, wide: NDArray[Scalar], index: int) -> NDArray[Scalar]:
        left = self._offset(index)
        return wide[:, left : left + self._size[1]]


@lru_cache(maxsize=4)
def _tissue(seed: int, label: str, size: tuple[int, int]) -> PhantomCase:
    """The wide picture, made once: a source is opened again in no time."""
    height, width = size
    return phantom_case(seed, label=label, size=(height, width + width * _TRAVEL[0] // _TRAVEL[1]))
