"""Lesions keep their number from frame to frame: each outline is matched to where the picture's motion has brought the
tracks.

A track that is not seen waits, moved along, and is given up after a while. Where the motion cannot be told the picture is
another one, and all numbers are new: one lesion with two numbers is seen by the reader, two lesions under one number are
not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.measure import Outline

PATIENCE_S: Final = 0.7
"""How long a track that is not seen waits; at slow frame rates it waits for the next frame in any case."""
OVERLAP: Final = 0.1
"""Smallest intersection over union of an outline and a track."""
NEARNESS: Final = 0.5
"""An outline that overlaps no track is still matched to one whose centre is nearer than this share of the smaller one's
size."""
_GRID: Final = 96
"""Pixels a side at which overlap is counted."""


@dataclass(slots=True)
class _Track:
    """A lesion: its newest outline, how far the picture has moved since, and when it was seen. missed: not in the last
    frame."""

    number: int
    outline: Outline
    moved: tuple[float, float]
    seen_s: float
    missed: bool = False


class Tracker:
    """Numbers outlines, from 1, in the order they appear. Used by one thread; the same calls give the same numbers."""

    def __init__(self, *, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._tracks: list[_Track] = []
        self._newest = 0

    def reset(self) -> None:
        """Give all tracks up; numbers go on."""
        self._tracks = []

    def update(self, outlines: Sequence[Outline], *, shift_px: tuple[float, float] | None, time_s: float) -> list[int]:
        """The track number of each outline.

        shift_px: how far the picture moved since the last call, (x, y), None where that cannot be told. time_s: of the
        frame, on any clock; where it goes back, all tracks are given up. Of several outlines over one track, or tracks
        over one outline, the pair of the largest overlap belongs together; an outline that is left starts a track.
        """
        if shift_px is None or any(track.seen_s > time_s for track in self._tracks):
            self._tracks = []
        x, y = shift_px or (0.0, 0.0)
        self._tracks = [
            track for track in self._tracks if not track.missed or time_s - track.seen_s <= self._patience_s
        ]
        for track in self._tracks:
            track.moved = track.moved[0] + x, track.moved[1] + y
            track.missed = True
        taken = self._match(outlines)
        numbers = []
        for index, outline in enumerate(outlines):
            track = taken.get(index) or self._start(outline)
            track.outline, track.moved, track.seen_s, track.missed = outline, (0.0, 0.0), time_s, False
            numbers.append(track.number)
        return numbers

    def _start(self, outline: Outline) -> _Track:
        self._newest += 1
        track = _Track(self._newest, outline, (0.0, 0.0), 0.0)
        self._tracks.append(track)
        return track

    def _match(self, outlines: Sequence[Outline]) -> dict[int, _Track]:
        """Tracks by the index of their outline: greedily by likeness, the older track and the larger outline first."""
        pairs = sorted(
            (-likeness(track.outline, outline, track.moved), track.number, index, track)
            for track in self._tracks
            for index, outline in enumerate(outlines)
        )
        taken: dict[int, _Track] = {}
        matched: set[int] = set()
        for unlike, number, index, track in pairs:
            if unlike < 0.0 and number not in matched and index not in taken:
                taken[index] = track
                matched.add(number)
        return taken


def likeness(before: Outline, after: Outline, moved: tuple[float, float]) -> float:
    """How well `after` continues `before`, which the picture has moved by (x, y): their overlap where it is 0.1 or more.

    Below that, nearness of their centres counts for at most 0.1; 0 where they have nothing to do with each other.
    """
    shared = overlap(before, after, moved)
    if shared >= OVERLAP:
        return shared
    (x0, y0), (x1, y1) = before.centre, after.centre
    distance = float(np.hypot(x0 + moved[0] - x1, y0 + moved[1] - y1))
    reach = NEARNESS * min(before.diameter_px, after.diameter_px)
    return OVERLAP * max(0.0, 1.0 - distance / reach)


def overlap(before: Outline, after: Outline, moved: tuple[float, float]) -> float:
    """Intersection over union of two filled outlines, the first moved by (x, y); counted on a grid of at most 96 a side."""
    x, y = round(moved[0]), round(moved[1])
    left0, top0, right0, bottom0 = before.box
    left0, top0, right0, bottom0 = left0 + x, top0 + y, right0 + x, bottom0 + y
    left1, top1, right1, bottom1 = after.box
    if left0 >= right1 or left1 >= right0 or top0 >= bottom1 or top1 >= bottom0:
        return 0.0
    left, top = min(left0, left1), min(top0, top1)
    scale = min(1.0, (_GRID - 1) / max(max(right0, right1) - left, max(bottom0, bottom1) - top))
    first = _drawn(before.contour + np.array([x, y]), (left, top), scale)
    second = _drawn(after.contour, (left, top), scale)
    both, either = cv2.countNonZero(first & second), cv2.countNonZero(first | second)
    return both / either


def _drawn(contour: NDArray[np.int32], origin: tuple[int, int], scale: float) -> NDArray[np.uint8]:
    canvas = np.zeros((_GRID, _GRID), np.uint8)
    cv2.fillPoly(canvas, [np.rint((contour - origin) * scale).astype(np.int32)], (1,))
    return canvas
