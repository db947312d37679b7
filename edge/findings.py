"""Findings: what is told of one frame, in the frame's own coordinates.

A lesion's contour runs along its outermost pixels. Its area is that of the pixels on and inside it; its longest diameter the
greatest distance between two points of the contour, plus one pixel, as a caliper would span it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Point = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Lesion:
    """One outlined lesion. Millimetres are None where the spacing is not known.

    track: its number in the run, from 1; the same lesion keeps it from frame to frame. contour: (x, y) pixels of the frame where
    the outline turns, closed. diameter: its two end points. certainty: mean probability of lesion on and inside the contour, None
    where it was not taken.
    """

    track: int
    contour: tuple[Point, ...]
    area_px: int
    diameter: tuple[Point, Point]
    diameter_px: float
    area_mm2: float | None = None
    diameter_mm: float | None = None
    certainty: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "track": self.track,
            "contour_px": [list(point) for point in self.contour],
            "area_px": self.area_px,
            "diameter_ends_px": [list(point) for point in self.diameter],
            "diameter_px": round(self.diameter_px, 2),
            "area_mm2": None if self.area_mm2 is None else round(self.area_mm2, 2),
            "diameter_mm": None if self.diameter_mm is None else round(self.diameter_mm, 2),
            "certainty": None if self.certainty is None else round(self.certainty, 4),
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer for one frame; None where the network has no such output.

    decision: a label, "lesion" or "no lesion". presence: calibrated probability of a lesion. probabilities: calibrated, by
    label, given that there is a lesion; smoothed over the frames that the probe showed the same place. positive, threshold: as
    in `edge.predictor.Prediction`. lesions: largest first, empty where the answer is "no lesion". shift_px: how far the picture
    moved since the frame before, (x, y).
    """

    decision: str
    presence: float | None
    probabilities: Mapping[str, float]
    positive: str | None
    threshold: float | None
    lesions: tuple[Lesion, ...]
    shift_px: tuple[float, float] = (0.0, 0.0)

    @property
    def malignancy(self) -> float | None:
        """Probability of the positive label where the class has a say, else None."""
        said = self.positive is not None and self.decision in self.probabilities
        return self.probabilities[self.positive] if said and self.positive is not None else None

    def to_json(self) -> dict[str, Any]:
        return {
            "decision": self.decision,
            "presence": self.presence,
            "malignancy": self.malignancy,
            "threshold": self.threshold,
            "lesions": [lesion.to_json() for lesion in self.lesions],
        }
