"""Region of interest: where the scan lies in a screen grab, held steady; all else is blacked out before a pixel leaves memory.

Patient names stand on a scanner's screen. Nothing is shown until the region is known, and again when the screen outside it
changes. The found region follows what is seen to be scan: letters beside it are hidden even where that costs a dark rim of
tissue. Letters that the scanner writes on top of the tissue stay: hiding them would cut the tissue.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import SourceError
from edge.preprocess import Box
from edge.scan_region import BRIGHT, MOVED, SAMPLES, Region, Samples, cell_means, differences, find_region, grain

Mode = Box | Literal["auto", "none"]

SEARCH_S: Final = 0.1
"""Between two looks while the region is not known."""
SETTLE_S: Final = 0.5
"""That looks must agree before the region is known; a bare scan needs one look."""
LOOK_S: Final = 0.5
"""Between two looks once it is known."""
GROW_S: Final = 1.5
"""That another region must be seen before it takes the place of a known one."""
SHRINK_S: Final = 4.0
"""The same for a smaller one inside it, which a shadow or a lifted probe can feign."""
LEAST_SHRUNK: Final = 0.35
"""Share of the known region below which a smaller one is a lifted probe."""
AGREE: Final = 0.9
"""Intersection over union from which two regions are the same."""
OTHER_SCREEN: Final = 0.4
"""Share of what is bright outside the region that changes when the screen is another one; a clock and a trace change less."""


@dataclass(frozen=True, slots=True, eq=False)
class Roi:
    """Where the scan lies.

    box: in the picture's pixels. mask: (h, w) bool over the box, None for a rectangle. settled: the region is known; while it is
    not, nothing may be shown. changed: it was known and is elsewhere, or sought, since the last picture where it was known.
    """

    box: Box
    mask: NDArray[np.bool_] | None
    settled: bool
    changed: bool


class RoiFinder:
    """Finds the region picture by picture. mode: "auto", "none" for the whole picture, or the box itself. Not thread-safe."""

    def __init__(self, mode: Mode = "auto") -> None:
        self._mode = mode
        self._shape: tuple[int, ...] = ()
        self._known: Region | None = None
        self._roi: Roi | None = None
        self._lost = False
        self._restart(0.0)

    def update(self, pixels: NDArray[np.uint8], given: Box | None, time_s: float) -> Roi:
        """The region of a picture, (H, W) or (H, W, 3) BGR uint8.

        given: as the source knows it, taken instead of a search where it lies in the picture. time_s: of the picture, of
        any clock that does not go back. Raises SourceError when a box given as mode does not lie in the picture.
        """
        height, width = pixels.shape[:2]
        if isinstance(self._mode, Box):
            if not _within(self._mode, height, width):
                box = self._mode
                raise SourceError(
                    f"--roi {box.left},{box.top},{box.width},{box.height} does not lie in the {width}×{height} picture; "
                    "give x,y,width,height in its pixels"
                )
            return self._fixed(self._mode)
        if self._mode == "none":
            return self._fixed(Box(0, 0, height, width))
        if given is not None and _within(given, height, width):
            return self._fixed(given)
        return self._sought(pixels, time_s)

    def _fixed(self, box: Box) -> Roi:
        changed = self._roi is not None and self._roi.box != box
        self._roi = Roi(box, None, True, changed)
        return self._roi

    def _sought(self, pixels: NDArray[np.uint8], time_s: float) -> Roi:
        if pixels.shape[:2] != self._shape:
            self._lost = self._known is not None
            self._shape, self._known = pixels.shape[:2], None
            self._restart(time_s)
        if self._known is not None and self._another_screen(pixels):
            self._lost, self._known = True, None
            self._restart(time_s)
        moved = False
        if time_s >= self._next_s:
            moved = self._look(pixels, time_s)
        height, width = pixels.shape[:2]
        if self._known is None:
            return Roi(Box(0, 0, height, width), None, False, self._lost)
        if moved or self._roi is None:
            box, mask = _in_pixels(self._known, -(-width // SAMPLES), (height, width))
            self._roi = Roi(box, mask, True, self._lost)
            self._lost = False
        elif self._roi.changed:
            self._roi = Roi(self._roi.box, self._roi.mask, True, False)
        return self._roi

    def _restart(self, time_s: float) -> None:
        """Begin a search."""
        self._began_s = self._next_s = time_s
        self._grained: NDArray[np.float32] | None = None
        self._means: NDArray[np.float32] | None = None
        self._moving: NDArray[np.float32] | None = None
        self._candidate: Region | None = None
        self._candidate_s = time_s

    def _look(self, pixels: NDArray[np.uint8], time_s: float) -> bool:
        """Take a look; whether the known region is another one now."""
        self._next_s = time_s + (SEARCH_S if self._known is None else LOOK_S)
        samples = Samples.of(pixels)
        difference = differences(samples)
        found = find_region(samples, difference, *self._evidence(samples, difference))
        if found is None:
            self._candidate = None
            return False
        shape = samples.grey.shape
        if self._candidate is None or _overlap(self._candidate, found, shape) < AGREE:
            self._candidate, self._candidate_s = found, time_s
        held_s = time_s - self._candidate_s
        if self._known is None:
            if not found.bare and held_s < SETTLE_S:
                return False
        elif held_s < self._patience_s(found, shape):
            return False
        self._known, self._candidate_s = found, time_s
        self._remember_screen(pixels, found)
        return True

    def _evidence(
        self, samples: Samples, difference: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Grain and motion of the cells, averaged over the last looks."""
        grained, means = cell_means(grain(difference)), cell_means(samples.grey)
        if self._grained is None or self._means is None or self._moving is None:
            self._grained, self._moving = grained, np.zeros_like(grained)
        else:
            self._grained = 0.6 * self._grained + 0.4 * grained
            self._moving = np.asarray(0.7 * self._moving + 0.3 * (np.abs(means - self._means) > MOVED), np.float32)
        self._means = means
        return self._grained, self._moving > 0.45  # twice of late: a clock's digit changes once

    def _patience_s(self, found: Region, shape: tuple[int, int]) -> float:
        """How long `found` must be seen to take the place of the known region."""
        assert self._known is not None
        if _overlap(self._known, found, shape) >= AGREE:
            return float("inf")
        known, new = self._known.over(shape), found.over(shape)
        if (new & ~known).sum() > 0.05 * new.sum():
            return GROW_S
        return SHRINK_S if new.sum() >= LEAST_SHRUNK * known.sum() else float("inf")

    def _remember_screen(self, pixels: NDArray[np.uint8], region: Region) -> None:
        """Keep what is outside the region, by which another screen is told."""
        height, width = pixels.shape[:2]
        box, mask = _in_pixels(region, -(-width // SAMPLES), (height, width))
        step = self._sparse = max(2, width // 200)
        outside = np.ones((height, width), np.bool_)
        outside[box.pixels] = False
        if mask is not None:
            outside[box.pixels] = ~cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(np.bool_)
        self._outside = outside[::step, ::step]
        self._screen = _thin(pixels, step)[self._outside]

    def _another_screen(self, pixels: NDArray[np.uint8]) -> bool:
        now = _thin(pixels, self._sparse)[self._outside]
        bright = (now >= BRIGHT) | (self._screen >= BRIGHT)
        differs = cv2.absdiff(now, self._screen).reshape(-1) > 40 if now.size else np.zeros(0, np.bool_)
        return int(differs.sum()) > max(0.01 * now.size, OTHER_SCREEN * int(bright.sum()))


def black_out(pixels: NDArray[np.uint8], roi: Roi) -> NDArray[np.uint8]:
    """A copy of (H, W) or (H, W, 3) pixels, black outside the region; all black while it is not settled."""
    kept = np.zeros_like(pixels)
    if not roi.settled:
        return kept
    if roi.mask is None:
        kept[roi.box.pixels] = pixels[roi.box.pixels]
    else:
        inside = np.ascontiguousarray(pixels[roi.box.pixels])
        kept[roi.box.pixels] = cv2.copyTo(inside, roi.mask.view(np.uint8))
    return kept


def parse_roi(text: str) -> Mode:
    """What --roi says: "auto", "none" or "x,y,w,h" in pixels. Raises SourceError."""
    if text == "auto":
        return "auto"
    if text == "none":
        return "none"
    if match := re.fullmatch(r"(\d+),(\d+),(\d+),(\d+)", text):
        left, top, width, height = map(int, match.groups())
        if width and height:
            return Box(top, left, height, width)
    raise SourceError(f"--roi {text}: give auto, none, or x,y,width,height in pixels, for example 80,60,480,360")


def _within(box: Box, height: int, width: int) -> bool:
    inside = box.top >= 0 and box.left >= 0 and box.height > 0 and box.width > 0
    return inside and box.top + box.height <= height and box.left + box.width <= width


def _thin(pixels: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    thin = pixels[::step, ::step]
    return thin if thin.ndim == 2 else np.ascontiguousarray(thin.max(axis=2))


def _overlap(first: Region, second: Region, shape: tuple[int, int]) -> float:
    """Intersection over union."""
    a, b = first.over(shape), second.over(shape)
    return float((a & b).sum() / max(1, (a | b).sum()))


def _in_pixels(region: Region, step: int, size: tuple[int, int]) -> tuple[Box, NDArray[np.bool_] | None]:
    """Box and mask in the pixels of the picture."""
    box = region.box
    bottom = min(size[0], (box.top + box.height) * step)
    right = min(size[1], (box.left + box.width) * step)
    scaled = Box(box.top * step, box.left * step, bottom - box.top * step, right - box.left * step)
    if region.mask is None:
        return scaled, None
    mask = cv2.resize(region.mask.astype(np.uint8), (scaled.width, scaled.height), interpolation=cv2.INTER_NEAREST)
    return scaled, mask.astype(np.bool_)
