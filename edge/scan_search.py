"""The search for the scan's region over time: looks at single pictures, and how long they must agree before they are believed.

A search is used by one thread at a time. A look takes longer than a frame may wait, so it may be taken in another thread
than that of the frames (`edge.roi`).
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.preprocess import Box
from edge.scan_region import BRIGHT, MOVED, SAMPLES, Region, Samples, cell_means, differences, find_region, grain

SETTLE_S: Final = 0.5
"""That looks must agree before the region is known; a bare scan needs one look."""
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
_CHANGED: Final = 40
"""Grey levels by which a sample of another screen differs."""


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """A screen outside the scan, thinned out.

    step: pixels between samples. outside: (h, w) bool. levels: (n,) uint8, brightest channel of the n samples outside.
    """

    step: int
    outside: NDArray[np.bool_]
    levels: NDArray[np.uint8]

    @classmethod
    def of(cls, pixels: NDArray[np.uint8], box: Box, mask: NDArray[np.bool_] | None) -> "Surroundings":
        """What is outside a region of (H, W) or (H, W, 3) uint8 pixels."""
        height, width = pixels.shape[:2]
        step = max(2, width // 200)
        outside = np.ones((height, width), np.bool_)
        outside[box.pixels] = False
        if mask is not None:
            outside[box.pixels] = ~cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(np.bool_)
        thin = np.ascontiguousarray(outside[::step, ::step])
        return cls(step, thin, _brightest(pixels, step)[thin])

    def changed(self, pixels: NDArray[np.uint8]) -> bool:
        """Whether a picture of the same size shows another screen."""
        now = _brightest(pixels, self.step)[self.outside]
        bright = (now >= BRIGHT) | (self.levels >= BRIGHT)
        differs = cv2.absdiff(now, self.levels).reshape(-1) > _CHANGED if now.size else np.zeros(0, np.bool_)
        return int(differs.sum()) > max(0.01 * now.size, OTHER_SCREEN * int(bright.sum()))


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A region in a picture's pixels. mask: (h, w) bool over the box, None for a rectangle."""

    box: Box
    mask: NDArray[np.bool_] | None
    around: Surroundings

    @classmethod
    def of(cls, pixels: NDArray[np.uint8], region: Region) -> "Place":
        box, mask = _in_pixels(region, -(-pixels.shape[1] // SAMPLES), pixels.shape[:2])
        return cls(box, mask, Surroundings.of(pixels, box, mask))


class ScanSearch:
    """Looks at pictures of one screen, all of one size. It goes on once the region is known: the scan may move."""

    def __init__(self) -> None:
        self._known: Region | None = None
        self._candidate: Region | None = None
        self._candidate_s = 0.0
        self._grained: NDArray[np.float32] | None = None
        self._means: NDArray[np.float32] | None = None
        self._moving: NDArray[np.float32] | None = None

    def look(self, pixels: NDArray[np.uint8], time_s: float) -> Place | None:
        """Look at a picture, (H, W) or (H, W, 3) BGR uint8; the region where it is known only now, or is another one now.

        time_s: of the picture, of any clock that does not go back.
        """
        samples = Samples.of(pixels)
        difference = differences(samples)
        found = find_region(samples, difference, *self._evidence(samples, difference))
        if found is None:
            self._candidate = None
            return None
        shape = samples.grey.shape
        if self._candidate is None or _overlap(self._candidate, found, shape) < AGREE:
            self._candidate, self._candidate_s = found, time_s
        held_s = time_s - self._candidate_s
        if self._known is None:
            if not found.bare and held_s < SETTLE_S:
                return None
        elif held_s < self._patience_s(found, shape):
            return None
        self._known, self._candidate_s = found, time_s
        return Place.of(pixels, found)

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


def _brightest(pixels: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Every so many pixels the brightest channel, (h, w) uint8. Channel by channel: NumPy is slow along an axis of three."""
    thin = pixels[::step, ::step]
    if thin.ndim == 2:
        return thin
    return np.maximum(np.maximum(thin[:, :, 0], thin[:, :, 1]), thin[:, :, 2])


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
