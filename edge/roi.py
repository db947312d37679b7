"""Region of interest: where the scan lies in a screen grab, held steady; all else is blacked out before a pixel leaves memory.

Patient names stand on a scanner's screen. Nothing is shown until the region is known, and again when the screen outside it
changes. The found region follows what is seen to be scan: letters beside it are hidden even where that costs a dark rim of
tissue. Letters that the scanner writes on top of the tissue stay: hiding them would cut the tissue.
"""

import re
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import SourceError
from edge.preprocess import Box
from edge.scan_search import Place, ScanSearch

Mode = Box | Literal["auto", "none"]

SEARCH_S: Final = 0.1
"""Between two looks while the region is not known."""
LOOK_S: Final = 0.5
"""Between two looks once it is known."""


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
    """Finds the region picture by picture. mode: "auto", "none" for the whole picture, or the box itself. Not thread-safe.

    Once the region is known, a look at a live picture is taken in a thread of the finder's own, and what it finds holds from the
    first picture after it: no frame waits for a look. That the screen outside is still the same is checked in every picture
    before it is shown.
    """

    def __init__(self, mode: Mode = "auto") -> None:
        self._mode = mode
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="scan region")
        self._place: Place | None = None
        self._looking: Future[Place | None] | None = None
        self._next_s = 0.0
        self.reset()

    def reset(self) -> None:
        """Forget the pictures seen, as for a source that was opened again."""
        self._shape: tuple[int, ...] = ()
        self._last: Box | None = None
        self._lost = False
        self._restart(0.0)

    def update(self, pixels: NDArray[np.uint8], given: Box | None, time_s: float, *, wait: bool = True) -> Roi:
        """The region of a picture, (H, W) or (H, W, 3) BGR uint8, which nobody writes to any more.

        given: as the source knows it, taken instead of a search where it lies in the picture. time_s: of the picture, of
        any clock that does not go back. wait: take a look that is due before the answer, so that the same pictures always have
        the same regions. Raises SourceError when a box given as mode does not lie in the picture.
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
        return self._sought(pixels, time_s, wait)

    def close(self) -> None:
        """End the finder's thread; a look that is under way is waited for."""
        self._worker.shutdown(cancel_futures=True)

    def _fixed(self, box: Box) -> Roi:
        changed = self._last is not None and self._last != box
        self._last = box
        return Roi(box, None, True, changed)

    def _sought(self, pixels: NDArray[np.uint8], time_s: float, wait: bool) -> Roi:
        before = self._place
        if pixels.shape[:2] != self._shape:
            self._lost = self._place is not None
            self._shape = pixels.shape[:2]
            self._restart(time_s)
        self._place = self._seen(wait) or self._place
        if self._place is not None and self._place.around.changed(pixels):
            self._lost = True
            self._restart(time_s)
        if time_s >= self._next_s and self._looking is None:
            self._next_s = time_s + (SEARCH_S if self._place is None else LOOK_S)
            if wait or self._place is None:
                self._place = self._search.look(pixels, time_s) or self._place
            else:
                self._looking = self._worker.submit(self._search.look, pixels, time_s)
        place = self._place
        if place is None:
            return Roi(Box(0, 0, *self._shape), None, False, self._lost)
        changed = self._lost or (before is not None and place is not before)
        self._last, self._lost = place.box, False
        return Roi(place.box, place.mask, True, changed)

    def _seen(self, wait: bool) -> Place | None:
        """What the look in the other thread found, once it ended; raises what it raised."""
        if self._looking is None or not (wait or self._looking.done()):
            return None
        looked, self._looking = self._looking, None
        return looked.result()

    def _restart(self, time_s: float) -> None:
        """Begin a search. A look that is under way belongs to the one before, and nobody asks for it."""
        self._search = ScanSearch()
        self._place = self._looking = None
        self._next_s = time_s


def black_out(pixels: NDArray[np.uint8], roi: Roi) -> NDArray[np.uint8]:
    """A copy of (H, W) or (H, W, 3) pixels, black outside the region; all black while it is not settled."""
    kept = np.zeros_like(pixels)
    if not roi.settled:
        return kept
    inside, place = pixels[roi.box.pixels], kept[roi.box.pixels]
    if roi.mask is None:
        place[:] = inside
    else:
        cv2.copyTo(inside, roi.mask.view(np.uint8), place)
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
