"""Ready pictures for load tests: a bare scan and a console's screen, played by the clock or as fast as they are taken."""

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.screens import draw_screen
from edge.phantom import phantom_case
from edge.sources import Picture

MARGIN: Final = 64
"""Pixels that the window moves over, out and back."""
STEP: Final = 2
"""Pixels that it moves from one picture to the next."""

Pictures = Sequence[NDArray[np.uint8]]


class Cine:
    """A source of ready pictures. They come by the clock, or as fast as they are taken.

    fps: pictures a second of a live source; None for a recording of `count` pictures.
    """

    def __init__(self, pictures: Pictures, *, fps: float | None, count: int | None = None) -> None:
        self.name, self.live = "cine", fps is not None
        self._pictures, self._fps, self._count = pictures, fps, count
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Picture]:
        started_s, number = time.monotonic(), 0
        while not self._closed.is_set() and (self._count is None or number < self._count):
            lost = 0
            if self._fps is not None:
                early_s = started_s + number / self._fps - time.monotonic()
                if early_s > 0 and self._closed.wait(early_s):
                    return
                lost = max(0, int(-early_s * self._fps))
                number += lost
            time_s = number / (self._fps or 30.0)
            yield Picture(self._pictures[number % len(self._pictures)], time_s=time_s, lost=lost)
            number += 1

    def close(self) -> None:
        self._closed.set()


def bare_scan(size: tuple[int, int]) -> Pictures:
    """Grey pictures of a moving window with fresh noise, nothing beside it, (H, W) uint8. size: (height, width)."""
    height, width = size
    wide = phantom_case(5, size=(height, width + MARGIN)).pixels
    rng = np.random.default_rng(0)
    noise = rng.normal(0.0, 6.0, (height, width + 2 * MARGIN)).astype(np.float32)
    made = []
    for step in (*range(0, MARGIN, STEP), *range(MARGIN, 0, -STEP)):
        shift = int(rng.integers(2 * MARGIN))
        grain = noise[:, shift : shift + width]
        made.append(np.clip(wide[:, step : step + width] + grain, 0, 255).astype(np.uint8))
    return made


def console(size: tuple[int, int]) -> Pictures:
    """What a grabber gives of a whole screen: a convex scan amid letters, rulers and icons, (H, W, 3) BGR uint8."""
    screen = draw_screen(np.random.default_rng(3), size, "convex")
    scans = bare_scan((screen.box.height, screen.box.width))
    return [screen.show(scan, time_s=index / 30.0) for index, scan in enumerate(scans)]
