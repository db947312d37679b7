"""How far the picture moved since the frame before: one shift for the whole region, or nothing where it cannot be told.

Both pictures are brought to 128×128 pixels, freed of brightness that varies slowly (gain, depth) and of what is fixed on
the screen (letters, rulers, the black surround). The peak of their phase correlation (Kuglin and Hines, Proc. IEEE Conf.
Cybernetics and Society, 1975) is one guess at the shift, rest another, and where something is fixed, the best match of
what is not, a third, for which the pictures are compared without what is fixed. The guess by which they agree best is the
shift, if they agree at all; a peak by which the whole pictures agree well is believed at once.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.frame import GreyImage
from edge.preprocess import preprocess

SIDE: Final = 128
REACH: Final = 0.3
"""The largest shift that is believed, as a share of the region's width or height."""
AGREEMENT: Final = 0.35
"""The smallest correlation of the two pictures, laid over each other, at which a shift is believed. Two other pictures stay
below it, speckle that is drawn anew leaves it well above (tests/test_edge_motion.py)."""
SURE: Final = 0.8
"""A peak with this correlation or more that does better than rest is believed, and no further guess is made."""
_SAME: Final = 0.5
"""Mean |difference| in grey levels below which nothing moved."""
_FIXED: Final = 3
"""Grey levels by which a fixed pixel may differ from frame to frame."""
_STEEP: Final = 24.0
"""A fixed pixel stands out from its surroundings by this many grey levels; what does not, does no harm."""

_AROUND: Final = (21, 21)
"""The surroundings of a pixel."""
_MARGIN: Final = 26
"""How far a picture with something fixed on it is searched: a fifth of its side."""

_REST: Final = (0.0, 0.0)

_Plane = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Shift:
    """x, y: how far the picture moved right and down, in the region's pixels. agreement: correlation of the pictures then."""

    x: float
    y: float
    agreement: float


class Motion:
    """Shifts from frame to frame; keeps a small copy of the last one."""

    def __init__(self) -> None:
        self._before: _Small | None = None
        self._size = (0, 0)

    def update(self, grey: GreyImage) -> Shift | None:
        """The shift since the frame before; None for the first frame, another size, and where it cannot be told.

        grey: (H, W) uint8, the region alone.
        """
        after = _Small.of(grey)
        before, self._before = self._before, after
        size, self._size = self._size, grey.shape
        if before is None or size != grey.shape:
            return None
        return _scaled(_small_shift(before, after), grey.shape)

    def reset(self) -> None:
        """Forget the last frame."""
        self._before = None


def estimate_shift(before: GreyImage, after: GreyImage) -> Shift | None:
    """How far the picture moved from `before` to `after`, both (H, W) uint8 of one size; None where it cannot be told.

    Raises ValueError where the sizes differ.
    """
    if before.shape != after.shape:
        raise ValueError(f"pictures of {before.shape} and {after.shape}; a shift is between two of one size")
    return _scaled(_small_shift(_Small.of(before), _Small.of(after)), before.shape)


@dataclass(frozen=True, slots=True, eq=False)
class _Small:
    """A picture of 128×128 pixels: as it is, in float, with speckle smoothed, and its grey levels above the surroundings then."""

    pixels: GreyImage
    plane: _Plane
    soft: _Plane
    detail: _Plane

    @classmethod
    def of(cls, grey: GreyImage) -> "_Small":
        pixels = preprocess(grey, (SIDE, SIDE))
        plane = pixels.astype(np.float32)
        soft = np.asarray(cv2.GaussianBlur(plane, (7, 7), 1.2), np.float32)
        return cls(pixels, plane, soft, np.asarray(soft - cv2.blur(plane, _AROUND), np.float32))

    def detail_on(self, screen: _Plane, shown: _Plane) -> _Plane:
        """The same with nothing from where `screen` is 0, neither there nor in the surroundings of other pixels.

        shown: what part of a pixel's surroundings the screen shows.
        """
        around = cv2.blur(self.plane * screen, _AROUND) / shown
        return np.asarray((self.soft - around) * screen, np.float32)


def _small_shift(before: _Small, after: _Small) -> Shift | None:
    difference = cv2.absdiff(before.pixels, after.pixels)
    if cv2.mean(difference)[0] < _SAME:
        return Shift(0.0, 0.0, 1.0) if cv2.meanStdDev(after.pixels)[1][0, 0] >= _SAME else None
    first, second = before.detail, after.detail
    peak = _peak(first, second)
    found = [_checked(first, second, guess, _EVERYWHERE) for guess in (_REST, peak)]
    if _sure(*found):
        return found[1]
    fixed = ((difference <= _FIXED) & (np.abs(first) >= _STEEP)).astype(np.uint8)
    if fixed.any():
        screen = np.asarray(1 - cv2.dilate(fixed, np.ones((7, 7), np.uint8)), np.float32)
        shown = np.asarray(np.maximum(cv2.blur(screen, _AROUND), 1e-3), np.float32)
        first, second = before.detail_on(screen, shown), after.detail_on(screen, shown)
        found = [_checked(first, second, guess, screen) for guess in (_REST, peak)]
        if not _sure(*found):
            found.append(_checked(first, second, _match(first, second, screen), screen))
    best = max(found, key=_agreement)
    return best if _agreement(best) >= AGREEMENT else None


def _sure(rest: Shift | None, peak: Shift | None) -> bool:
    """Whether the peak needs no other guess beside it."""
    return _agreement(peak) >= max(SURE, _agreement(rest))


def _agreement(shift: Shift | None) -> float:
    return -1.0 if shift is None else shift.agreement


def _peak(first: _Plane, second: _Plane) -> tuple[float, float]:
    # Copies: OpenCV multiplies what it is given by the window, in place.
    (x, y), _ = cv2.phaseCorrelate(first.copy(), second.copy(), _WINDOW)
    return x, y


def _match(first: _Plane, second: _Plane, screen: _Plane) -> tuple[float, float]:
    """Where the middle of the first picture is found in the second, counting only what `screen` shows.

    Phase correlation of masked pictures would find the mask itself, at rest.
    """
    inner = slice(_MARGIN, SIDE - _MARGIN)
    alike = cv2.matchTemplate(second, first[inner, inner], cv2.TM_CCORR_NORMED, mask=screen[inner, inner])
    found = np.asarray(np.where(np.isfinite(alike), alike, -1.0), np.float32)
    row, column = divmod(int(found.argmax()), found.shape[1])
    return column + _vertex(found[row], column) - _MARGIN, row + _vertex(found[:, column], row) - _MARGIN


def _vertex(values: _Plane, index: int) -> float:
    """How far the vertex of the parabola through a maximum and its neighbours lies from it, at most half a pixel."""
    if not 0 < index < len(values) - 1:
        return 0.0
    before, peak, after = (float(value) for value in values[index - 1 : index + 2])
    bend = before - 2.0 * peak + after
    return 0.5 * (before - after) / bend if bend < 0.0 else 0.0


def _checked(first: _Plane, second: _Plane, guess: tuple[float, float], screen: _Plane) -> Shift | None:
    """The shift with the correlation of the pictures where both show something that is not fixed; None beyond reach."""
    x, y = guess
    if not max(abs(x), abs(y)) <= REACH * SIDE:
        return None
    moved, seen = first, screen
    if guess != _REST:
        move = np.array([[1.0, 0.0, x], [0.0, 1.0, y]])
        moved = np.asarray(cv2.warpAffine(first, move, (SIDE, SIDE), flags=cv2.INTER_LINEAR), np.float32)
        seen = np.asarray(cv2.warpAffine(screen, move, (SIDE, SIDE), flags=cv2.INTER_LINEAR), np.float32) * screen
    weighted = second * seen
    power = float(np.vdot(moved * seen, moved)) * float(np.vdot(second, weighted))
    return Shift(x, y, max(0.0, float(np.vdot(moved, weighted)) / power**0.5)) if power > 0.0 else None


def _scaled(shift: Shift | None, size: tuple[int, ...]) -> Shift | None:
    if shift is None:
        return None
    return Shift(shift.x * size[1] / SIDE, shift.y * size[0] / SIDE, shift.agreement)


_EVERYWHERE: Final[_Plane] = np.ones((SIDE, SIDE), np.float32)
_WINDOW: Final[_Plane] = np.asarray(cv2.createHanningWindow((SIDE, SIDE), cv2.CV_32F), np.float32)
