"""Outlines of a mask and what a caliper would read off them, in pixels and, where the spacing is known, in millimetres."""

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.findings import Lesion, Point

SPECK: Final = 0.001
"""Outlines below this share of the mask's pixels are left out: the smallest of 700 drawn lesions of BUS-BRA and BUSI
covers 0.004."""
SPECK_OF_LARGEST: Final = 0.05
"""Outlines below this share of the largest one are left out."""


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """One external contour of a mask, holes filled. Millimetres are None where the spacing is not known.

    contour: (N, 2) int32, the (x, y) of the outermost pixels where the outline turns, closed; between them it runs
    straight or diagonally. area_px: pixels on and inside it. diameter: the two pixels farthest from each other, in
    millimetres where the spacing is known. diameter_px, diameter_mm: their distance and one pixel more, as a caliper
    would span it, both in the same direction.
    """

    contour: NDArray[np.int32]
    area_px: int
    diameter: tuple[Point, Point]
    diameter_px: float
    area_mm2: float | None = None
    diameter_mm: float | None = None

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom, the last two excluded."""
        (left, top), (right, bottom) = self.contour.min(axis=0).tolist(), self.contour.max(axis=0).tolist()
        return left, top, right + 1, bottom + 1

    @property
    def centre(self) -> tuple[float, float]:
        """Middle of the box, (x, y)."""
        left, top, right, bottom = self.box
        return (left + right - 1) / 2, (top + bottom - 1) / 2

    def certainty(self, level: NDArray[np.uint8]) -> float:
        """Mean probability of lesion on and inside the outline, from a mask in steps of 1/255 of the same size."""
        left, top, right, bottom = self.box
        inside = np.zeros((bottom - top, right - left), np.uint8)
        cv2.fillPoly(inside, [self.contour], (1,), offset=(-left, -top))
        return cv2.mean(level[top:bottom, left:right], inside)[0] / 255.0

    def lesion(self, track: int, *, origin: Point = (0, 0), certainty: float | None = None) -> Lesion:
        """The finding of it. origin: (x, y) of the mask in the frame."""
        x, y = origin
        first, second = ((end[0] + x, end[1] + y) for end in self.diameter)
        return Lesion(
            track,
            tuple(map(tuple, (self.contour + np.array(origin, np.int32)).tolist())),
            self.area_px,
            (first, second),
            self.diameter_px,
            self.area_mm2,
            self.diameter_mm,
            certainty,
        )


def lesions_of(mask: NDArray[np.bool_], spacing_mm: tuple[float, float] | None = None) -> list[Outline]:
    """Outlines of a mask, largest first, those of one size from the bottom up.

    mask: (H, W) bool. spacing_mm: between rows and between columns. Specks are left out: what has less than 0.001 of the
    mask's pixels or 0.05 of the largest outline's. Raises ValueError for a spacing that is not above 0.
    """
    if spacing_mm is not None and not all(0.0 < step < math.inf for step in spacing_mm):
        raise ValueError(f"a spacing of {spacing_mm} mm; both numbers are above 0")
    pixels = mask.view(np.uint8)
    left, top, width, height = cv2.boundingRect(pixels)
    if not width:
        return []
    crop = pixels[top : top + height, left : left + width]
    found, _ = cv2.findContours(crop, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top))
    contours = [np.asarray(contour, np.int32).reshape(-1, 2) for contour in found]
    areas = [filled_area(contour) for contour in contours]
    least = max(SPECK * mask.size, SPECK_OF_LARGEST * max(areas))
    order = sorted((index for index, area in enumerate(areas) if area >= least), key=lambda index: -areas[index])
    return [_outline(contours[index], areas[index], spacing_mm) for index in order]


def filled_area(contour: NDArray[np.int32]) -> int:
    """Pixels on and inside a closed contour (N, 2) of straight and diagonal runs, by Pick's theorem: A + B/2 + 1.

    A is the area between the pixels' centres, B the steps around it; both count a stretch that is passed twice rightly.
    """
    after = np.concatenate((contour[1:], contour[:1]))
    x, y = contour[:, 0].astype(np.int64), contour[:, 1].astype(np.int64)
    doubled = abs(int(x @ after[:, 1] - y @ after[:, 0]))
    steps = int(np.abs(after - contour).max(axis=1).sum())
    return (doubled + steps) // 2 + 1


def _outline(contour: NDArray[np.int32], area_px: int, spacing_mm: tuple[float, float] | None) -> Outline:
    first, second = _farthest(contour, spacing_mm or (1.0, 1.0))
    across, down = second[0] - first[0], second[1] - first[1]
    distance_px = math.hypot(across, down)
    if spacing_mm is None:
        return Outline(contour, area_px, (first, second), distance_px + 1.0)
    row, column = spacing_mm
    distance_mm = math.hypot(across * column, down * row)
    pixel_mm = distance_mm / distance_px if distance_px else max(row, column)
    return Outline(contour, area_px, (first, second), distance_px + 1.0, area_px * row * column, distance_mm + pixel_mm)


def _farthest(contour: NDArray[np.int32], spacing: tuple[float, float]) -> tuple[Point, Point]:
    """The two vertices of the convex hull that are farthest from each other; a stretch of the axes keeps the hull's
    vertices."""
    hull = cv2.convexHull(contour).reshape(-1, 2)
    points = hull * np.array(spacing[::-1])
    x, y = points[:, 0], points[:, 1]
    squared = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2
    one, other = divmod(int(squared.argmax()), len(hull))
    (x0, y0), (x1, y1) = hull[one].tolist(), hull[other].tolist()
    return (x0, y0), (x1, y1)
