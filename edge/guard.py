"""The guard: frames that no answer should be given on, and why, in a sentence.

It looks at small copies of the region, so that it costs less than a resize of the frame.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.frame import GreyImage
from edge.ood import FeatureDistance, FeatureReference
from edge.roi import Roi

SIDE: Final = 64
"""Cells a side of the small copy: a grabber's noise falls to a third or less in their means."""
COARSE: Final = 16
"""Cells a side in which tissue still differs from place to place, and amplified noise does not."""
_COLOUR_SAMPLES: Final = 160


class GuardKind(StrEnum):
    """What the guard found."""

    SOUND = "sound"
    SEARCHING = "searching"
    LAYOUT = "layout"
    NO_CONTACT = "no contact"
    SATURATED = "saturated"
    DOPPLER = "doppler"
    FROZEN = "frozen"
    UNFAMILIAR = "unfamiliar"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of a frame. reason: a sentence, the same for frames of one fault, empty where the frame is sound."""

    reason: str = ""
    kind: GuardKind = GuardKind.SOUND

    def __post_init__(self) -> None:
        if bool(self.reason) == (self.kind is GuardKind.SOUND):
            raise ValueError(f"a verdict of {self.kind} with reason {self.reason!r}: a reason belongs to a rejection")


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """Where the guard says no. All were chosen on folds 1 to 4 of BUSI and BUS-BRA and on lung clip a, between what good
    frames and the declared faults (`benchmarks.faults`) show; in brackets the nearest value of either.

    frozen_s: seconds without change. frozen_change: root mean square change of the small copy, grey levels (frozen, with
    grabber noise and JPEG, at most 0.9; live within a second at least 3.8). deep_from: share of the depth that
    reverberation may fill. structure: standard deviation below it of coarse cells about their row's mean, grey levels (air
    at most 0.8; tissue at least 3.7, but for one of 1000 frames). white: level that counts as clipped. clipped: share of
    such pixels (good at most 0.10; gain far up at least 0.28). chroma: distance from grey, or from the tint of the whole
    picture, of a coloured pixel, levels. coloured: share of such pixels (calipers at most 0.0035; flow at least 0.009).
    """

    frozen_s: float = 1.0
    frozen_change: float = 1.5
    deep_from: float = 0.3
    structure: float = 1.8
    white: int = 250
    clipped: float = 0.16
    chroma: float = 40.0
    coloured: float = 0.0055

    def __post_init__(self) -> None:
        shares = (self.deep_from, self.clipped, self.coloured)
        if not all(0.0 < share < 1.0 for share in shares) or not 0 < self.white <= 255:
            raise ValueError(f"{self}: shares lie between 0 and 1, white between 1 and 255")
        if min(self.frozen_s, self.frozen_change, self.structure, self.chroma) <= 0.0:
            raise ValueError(f"{self}: every limit is above 0")


@dataclass(frozen=True, slots=True, eq=False)
class _Anchor:
    """The last picture that differed from the one before it. cells: (64, 64) float32."""

    cells: NDArray[np.float32]
    roi: Roi
    captured_ns: int


@dataclass(frozen=True, slots=True, eq=False)
class _Shape:
    """What a region's mask means for the small copies; it is the same for many frames. mask: (h, w) bool, None for a rectangle.

    area_px: pixels inside. weights: (16, 16) float32, 1 where a coarse cell lies inside.
    """

    mask: NDArray[np.bool_] | None
    area_px: int
    weights: NDArray[np.float32]

    @classmethod
    def of(cls, roi: Roi) -> "_Shape":
        if roi.mask is None:
            return cls(None, roi.box.height * roi.box.width, np.ones((COARSE, COARSE), np.float32))
        share = _cells(roi.mask.view(np.uint8) * np.uint8(255), COARSE)
        return cls(roi.mask, max(1, int(np.count_nonzero(roi.mask))), (share > 0.9 * 255).astype(np.float32))


class Guard:
    """Judges the frames of one run in order. Not thread-safe.

    reference: of the network's features at the precision that runs, None where it has none.
    """

    def __init__(self, limits: GuardLimits | None = None, reference: FeatureReference | None = None) -> None:
        self._limits = limits or GuardLimits()
        self._distance = None if reference is None else FeatureDistance(reference)
        self._anchor: _Anchor | None = None
        self._shape: _Shape | None = None

    def check(self, grey: GreyImage, colour: NDArray[np.uint8] | None, roi: Roi, captured_ns: int) -> Verdict:
        """Judge a frame by its region's pixels, before the network runs; `familiar` judges what that makes of it.

        grey: (h, w) uint8, colour: (h, w, 3) BGR uint8 or None, both of `roi.box`. captured_ns: of any clock that does not go
        back.
        """
        if not roi.settled:
            self._anchor = None
            return unsettled(roi)
        if grey.shape != (roi.box.height, roi.box.width):
            raise ValueError(f"grey is {grey.shape}, the region {roi.box}")
        cells = _small(grey)
        still_s = self._still_s(cells, roi, captured_ns)
        verdict = self._one_picture(grey, cells, colour, roi)
        if verdict.reason:
            return verdict
        if still_s >= self._limits.frozen_s:
            return Verdict("the picture is frozen", GuardKind.FROZEN)
        return Verdict()

    def reset(self) -> None:
        """Forget the pictures seen: the source was opened again."""
        self._anchor = None

    def familiar(self, features: NDArray[np.float32]) -> Verdict:
        """Judge what the network made of a frame, (1, C) float32. Raises ValueError when the reference is for another width."""
        if self._distance is None or self._distance.familiar(features):
            return Verdict()
        return Verdict("unfamiliar: unlike the pictures that the network was calibrated on", GuardKind.UNFAMILIAR)

    def _still_s(self, cells: NDArray[np.float32], roi: Roi, captured_ns: int) -> float:
        """How long the picture has not changed. Compared with the last change, not with the last frame: a grabber repeats frames,
        and a slow hand changes little from one to the next.
        """
        anchor = self._anchor
        if anchor is not None and anchor.roi.box == roi.box:
            change = float(np.sqrt(np.mean((cells - anchor.cells) ** 2)))
            if change <= self._limits.frozen_change:
                return (captured_ns - anchor.captured_ns) / 1e9
        self._anchor = _Anchor(cells, roi, captured_ns)
        return 0.0

    def _one_picture(
        self, grey: GreyImage, cells: NDArray[np.float32], colour: NDArray[np.uint8] | None, roi: Roi
    ) -> Verdict:
        limits, mask = self._limits, roi.mask
        if self._shape is None or self._shape.mask is not mask or mask is None:
            self._shape = _Shape.of(roi)
        if _clipped(grey, mask, limits.white) > limits.clipped * self._shape.area_px:
            return Verdict("saturated: too much of the picture is white, turn the gain down", GuardKind.SATURATED)
        if _structure(cells, self._shape.weights, limits.deep_from) < limits.structure:
            return Verdict(
                f"no contact: there is no tissue below the first {limits.deep_from:.0%} of the picture",
                GuardKind.NO_CONTACT,
            )
        if colour is not None:
            coloured = _coloured(colour, mask, limits.chroma)
            if coloured > limits.coloured:
                return Verdict("colour Doppler: part of the picture is coloured", GuardKind.DOPPLER)
        return Verdict()


def unsettled(roi: Roi) -> Verdict:
    """What is said while the scan region is not known; a sound verdict where it is."""
    if roi.settled:
        return Verdict()
    if roi.changed:
        return Verdict("the layout changed: looking for the scan region again", GuardKind.LAYOUT)
    return Verdict("looking for the scan region", GuardKind.SEARCHING)


def _cells(values: NDArray[np.uint8] | NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Means of side × side cells, float32."""
    wide = values.astype(np.float32) if min(values.shape) < side else values
    return np.asarray(cv2.resize(wide, (side, side), interpolation=cv2.INTER_AREA), np.float32)


def _small(grey: GreyImage) -> NDArray[np.float32]:
    """Means of 64 × 64 cells, float32. A large picture is halved first, which OpenCV does 20 times as fast as other steps."""
    while min(grey.shape) >= 2 * SIDE:
        height, width = grey.shape[0] // 2, grey.shape[1] // 2
        even = grey[: 2 * height, : 2 * width]
        grey = np.asarray(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(grey.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.float32)


def _clipped(grey: GreyImage, mask: NDArray[np.bool_] | None, white: int) -> int:
    """Pixels of the region at or above a level."""
    _, clipped = cv2.threshold(grey, white - 1, 255, cv2.THRESH_BINARY)
    return cv2.countNonZero(clipped if mask is None else cv2.bitwise_and(clipped, mask.view(np.uint8)))


def _structure(cells: NDArray[np.float32], weights: NDArray[np.float32], deep_from: float) -> float:
    """Standard deviation of the coarse cells below `deep_from` about their row's mean: reverberation is even along a row."""
    first = int(np.ceil(deep_from * COARSE))
    deep = _cells(cells, COARSE)[first:]
    weights = weights[first:]
    counts = weights.sum(axis=1, keepdims=True)
    if not counts.any():
        return 0.0
    means = (deep * weights).sum(axis=1, keepdims=True) / np.maximum(counts, 1.0)
    return float(np.sqrt(((deep - means) ** 2 * weights).sum() / counts.sum()))


def _coloured(colour: NDArray[np.uint8], mask: NDArray[np.bool_] | None, chroma: float) -> float:
    """Share of pixels off the grey map, which may be tinted: the tint is the median chroma for a level."""
    height, width = colour.shape[:2]
    down, right = -(-height // _COLOUR_SAMPLES), -(-width // _COLOUR_SAMPLES)
    samples = colour[::down, ::right]
    planes = [np.ascontiguousarray(samples[:, :, channel]) for channel in range(3)]
    if mask is not None:
        planes = [plane[mask[::down, ::right]] for plane in planes]
    blue, green, red = (plane.reshape(-1).astype(np.float32) for plane in planes)
    if not len(green):
        return 0.0
    level = (blue + green + red) / np.float32(3.0)
    lit = level > 20.0
    far = np.zeros(len(level), np.bool_)
    for channel in (blue, red):
        difference = channel - green
        tint = float(np.median(difference[lit] / level[lit])) if lit.any() else 0.0
        far |= np.abs(difference - np.float32(tint) * level) > chroma
    return float(far.mean())
