"""Where the scan lies in one picture of a screen: what is finely grained, or moves, over a large connected area.

Echoes have grain everywhere; panels are flat, letters and rulers are thin, icons are coloured, stored thumbnails are small.
A picture is looked at in samples, at most 640 across, so that the work does not grow with the size of the grab.
"""

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.preprocess import Box

SAMPLES: Final = 640
"""Most samples across, so that thin letters are still seen."""
CELL: Final = 4
"""Samples a side of a cell."""
GRAIN: Final = 0.35
"""Share of a neighbourhood that has grain where there is a scan. Chosen on folds 1 to 4 (benchmarks/scripts/guard.py)."""
GRAINED: Final = 3
"""Difference of neighbouring means, in grey levels: a grabber's noise of σ = 2 and JPEG give 1 to 2, echoes 3 to 20."""
FAINTEST: Final = ((0.05, 1, 0.35), (0.5, 2, 0.2), (float("inf"), 3, 0.15))
"""By the mean difference of neighbours on the panels, below: the difference of a faint echo, and the share of samples with it."""
PANEL: Final = 0.35
"""Share of a screen that is panel rather than scan, at least."""
PATCH: Final = 12
"""Samples a side of a patch."""
RIM: Final = 2
"""Samples by which the outline is drawn in: the grain of an edge reaches that far beyond it, and letters may stand there."""
MOVED: Final = 2.5
"""Change of a cell's mean, in grey levels, that is more than a grabber's noise."""
BRIGHT: Final = 96
"""Level of letters that must not be seen, in grey levels; tissue beyond the found region is darker."""
NARROWEST: Final = 9
"""Cells below which a part is a line of letters, a bar or a ruler."""
LEAST: Final = 0.04
"""Smallest share of the screen that is a scan and no thumbnail."""
COLOURED: Final = 60
"""Largest less smallest of a pixel's channels from which it is an icon rather than an echo."""

Mask = NDArray[np.bool_]
_ELLIPSE: Final = {side: cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)) for side in (3, 5, NARROWEST, 15)}


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """A picture thinned out. grey: (h, w) uint8. coloured: (h, w) bool, None for a grey picture. step: pixels between samples."""

    grey: NDArray[np.uint8]
    coloured: Mask | None
    step: int

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> "Samples":
        """Take samples of (H, W) or (H, W, 3) BGR uint8 pixels."""
        step = -(-pixels.shape[1] // SAMPLES)
        thin = pixels[::step, ::step]
        if thin.ndim == 2:
            return cls(np.ascontiguousarray(thin), None, step)
        blue, green, red = (np.ascontiguousarray(thin[:, :, channel]) for channel in range(3))
        high, low = cv2.max(cv2.max(blue, green), red), cv2.min(cv2.min(blue, green), red)
        return cls(green, np.asarray(cv2.subtract(high, low)) > COLOURED, step)


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A scan's place in samples.

    mask: (h, w) bool over the box, None for a rectangle. bare: nothing but the scan is in the picture.
    """

    box: Box
    mask: Mask | None
    bare: bool = False

    def over(self, shape: tuple[int, int]) -> Mask:
        """(h, w) bool over all samples."""
        whole = np.zeros(shape, np.bool_)
        whole[self.box.pixels] = True if self.mask is None else self.mask
        return whole


def differences(samples: Samples) -> NDArray[np.uint8]:
    """(h, w) uint8, how far the mean of 3×3 samples is from the one beside it, across or along; 0 where there is colour.

    A grabber's noise is white and falls to a third in the mean; speckle is wider than a sample and stays.
    """
    soft = np.asarray(cv2.blur(samples.grey, (3, 3)))
    both = np.zeros(soft.shape, np.uint8)
    both[1:-2] = cv2.absdiff(soft[3:], soft[:-3])
    both[:, 1:-2] = cv2.max(np.ascontiguousarray(both[:, 1:-2]), cv2.absdiff(soft[:, 3:], soft[:, :-3]))
    if samples.coloured is not None:
        both[samples.coloured] = 0
    return _bytes(both)


def grain(difference: NDArray[np.uint8], least: int = GRAINED) -> NDArray[np.uint8]:
    """(h, w) uint8, 255 where a difference is at least `least`."""
    return _bytes((difference >= least) * np.uint8(255))


def cell_means(values: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean of every cell, (h / 4, w / 4) float32."""
    return np.asarray(cv2.resize(values, _cells(values.shape), interpolation=cv2.INTER_AREA), np.float32)


def find_region(
    samples: Samples, difference: NDArray[np.uint8], grained: NDArray[np.float32], moving: Mask
) -> Region | None:
    """The scan's place, None where there is none.

    difference: `differences` of the samples. grained: cell means of its `grain`, 0..255, of one picture or averaged over some.
    moving: cells that changed.
    """
    evidence = _bytes(_dense(grained) | moving)
    blob = _blob(evidence)
    if blob is None:
        return None
    bright = _bright(samples)
    least, share = _faintest(difference)
    faint, fine = grain(difference, least), grain(difference)
    blob = _with_faint_depth(faint, share, bright, blob)
    return _shape(bright, fine, faint, _thick(fine, blob))


def _bright(samples: Samples) -> Mask:
    """What may be a letter or an icon."""
    bright = samples.grey >= BRIGHT
    return bright if samples.coloured is None else bright | samples.coloured


def _blob(evidence: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """The cells of the largest part that is wide enough, with its tips; None where there is no such part."""
    largest = _largest(_opened(evidence))
    if largest is None or largest.sum() < LEAST * largest.size:
        return None
    largest = _bytes(cv2.morphologyEx(largest, cv2.MORPH_CLOSE, _ELLIPSE[5]))
    near = _bytes(cv2.dilate(largest, _ELLIPSE[5])) & evidence  # tips that the opening took
    return _kept(largest | _bytes(cv2.morphologyEx(near, cv2.MORPH_OPEN, _ELLIPSE[3])))


def _dense(cells: NDArray[np.float32], share: float = GRAIN) -> Mask:
    """Where the neighbourhood has grain in more than a share; cells of 0..255."""
    return np.asarray(cv2.blur(cells, (3, 3), borderType=cv2.BORDER_REPLICATE) > 255.0 * share)


def _opened(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Without what is narrower than a scan; a bar along the picture's side does not go on beyond it."""
    edged = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    opened = _bytes(cv2.morphologyEx(edged, cv2.MORPH_OPEN, _ELLIPSE[NARROWEST]))
    return np.ascontiguousarray(opened[1:-1, 1:-1])


def _faintest(difference: NDArray[np.uint8]) -> tuple[int, float]:
    """The smallest difference, and the share of samples with it, that tell faint echoes from this screen's flat panels."""
    patches = cv2.resize(difference.astype(np.float32), _cells(difference.shape, PATCH), interpolation=cv2.INTER_AREA)
    noise = float(np.quantile(patches, PANEL))
    return next((least, share) for most, least, share in FAINTEST if noise < most)


def _with_faint_depth(
    faint: NDArray[np.uint8], share: float, bright: Mask, blob: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The blob and the faint grain joined to it, as far as no letter is near: JPEG leaves grain beside letters."""
    letters = _bytes(cell_means(bright.view(np.uint8) * np.uint8(255)) > 0.0) & ~_bytes(cv2.dilate(blob, _ELLIPSE[3]))
    deep = _bytes(_dense(cell_means(faint), share)) & ~_bytes(cv2.dilate(letters, _ELLIPSE[5]))
    joined = _opened(deep | blob) | blob
    _, labels = cv2.connectedComponents(joined, connectivity=4)
    return _bytes(labels == np.bincount(labels[blob > 0]).argmax())


def _bytes(mask: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(mask, np.uint8)


def _cells(shape: tuple[int, ...], side: int = CELL) -> tuple[int, int]:
    """(width, height) in cells of a side."""
    return max(1, shape[1] // side), max(1, shape[0] // side)


def _largest(mask: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """The largest connected part. Labels and their counts alone: OpenCV's statistics of the parts take twice as long."""
    count, labels = cv2.connectedComponents(mask, connectivity=4)
    if count < 2:
        return None
    return _bytes(labels == 1 + int(np.argmax(np.bincount(labels.reshape(-1))[1:])))


def _kept(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    largest = _largest(mask)
    return mask if largest is None else largest


def _hull(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The convex hull of a mask, as a mask. The ends of its rows have the same hull as all its pixels."""
    rows = np.flatnonzero(mask.any(axis=1))
    filled = np.zeros(mask.shape, np.uint8)
    if len(rows):
        held = mask[rows]
        first, last = held.argmax(axis=1), mask.shape[1] - 1 - held[:, ::-1].argmax(axis=1)
        ends = np.column_stack((np.concatenate((first, last)), np.concatenate((rows, rows)))).astype(np.int32)
        cv2.fillConvexPoly(filled, cv2.convexHull(ends), 1)
    return filled


def _thick(fine: NDArray[np.uint8], blob: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What has grain at the samples' own resolution, within two cells of the blob; ticks and digits are too thin."""
    height, width = fine.shape
    reach = _bytes(cv2.resize(cv2.dilate(blob, _ELLIPSE[5]), (width, height), interpolation=cv2.INTER_NEAREST))
    sure = _bytes(cv2.resize(cv2.erode(blob, _ELLIPSE[5]), (width, height), interpolation=cv2.INTER_NEAREST))
    share = cv2.blur(fine, (5, 5), borderType=cv2.BORDER_REPLICATE)
    thick = (share > 255 * GRAIN).astype(np.uint8) & reach | sure
    return _kept(_bytes(cv2.morphologyEx(thick, cv2.MORPH_OPEN, _ELLIPSE[15])))


def _shape(bright: Mask, fine: NDArray[np.uint8], faint: NDArray[np.uint8], thick: NDArray[np.uint8]) -> Region:
    """A rectangle where the hull is as wide at its top as anywhere, else the hull but for letters that it runs around.

    A linear array's picture may be dark below, so its lower corners say nothing.
    """
    outline = _hull(thick)
    box = Box(*(cv2.boundingRect(outline)[i] for i in (1, 0, 3, 2)))
    inside = np.ascontiguousarray(outline[box.pixels])
    bare, whole = _bare(bright, box)
    if bare:
        return Region(whole, None, bare=True)
    if inside[max(1, box.height // 10)].mean() > 0.85:
        return Region(_drawn_in(_sides(fine, faint, bright, box), fine.shape), None)
    letters = _bytes(bright & ~_bytes(cv2.dilate(thick, _ELLIPSE[5])).view(np.bool_))
    inside &= ~_bytes(cv2.dilate(letters, _ELLIPSE[15]))[box.pixels] & 1
    return Region(box, _bytes(cv2.erode(inside, _ELLIPSE[2 * RIM + 1])).astype(np.bool_))


def _sides(fine: NDArray[np.uint8], faint: NDArray[np.uint8], bright: Mask, box: Box) -> Box:
    """The rectangle's sides: from inside out, the first line almost without grain ends the scan.

    A ruler's ticks leave some grain in a column, so a column ends it sooner. The lowest rows of a scan may have but a faint
    grain; they are kept where nothing bright is in them, that could be a bar of letters close to the scan.
    """
    left, right = _span(fine[box.pixels].mean(axis=0) / 255.0, 0.25)
    top, bottom = _span(fine[box.pixels].mean(axis=1) / 255.0, 0.10)
    higher, lower = _span(faint[box.pixels].mean(axis=1) / 255.0, 0.10)
    dark = np.asarray(~bright[box.pixels].any(axis=1))
    if dark[higher:top].all():
        top = min(top, higher)
    if dark[bottom:lower].all():
        bottom = max(bottom, lower)
    return Box(box.top + top, box.left + left, bottom - top, right - left)


def _span(profile: NDArray[np.float64], least: float) -> tuple[int, int]:
    """Around the middle, the lines up to the first below `least`, looked for in the outer two fifths on either side."""
    outer = len(profile) * 2 // 5
    first = np.flatnonzero(profile[:outer] < least)
    last = np.flatnonzero(profile[len(profile) - outer :] < least)
    return int(first[-1] + 1) if len(first) else 0, int(len(profile) - outer + last[0]) if len(last) else len(profile)


def _drawn_in(box: Box, shape: tuple[int, ...]) -> Box:
    """The box without its rim, but at the picture's own sides."""
    top, left = box.top + RIM * (box.top > 0), box.left + RIM * (box.left > 0)
    bottom, right = box.top + box.height, box.left + box.width
    bottom, right = bottom - RIM * (bottom < shape[0]), right - RIM * (right < shape[1])
    return Box(top, left, bottom - top, right - left)


def _bare(bright: Mask, box: Box) -> tuple[bool, Box]:
    """Whether nothing bright is beside the scan, and the box, drawn out to the picture's sides over dark margins.

    Only of a picture that the scan fills so far that it touches two sides at least; else the margins belong to a screen.
    """
    height, width = bright.shape
    sides = [box.top, box.left, height - box.top - box.height, width - box.left - box.width]
    spans = [height, width, height, width]
    beside = bright.copy()
    beside[box.pixels] = False
    if beside.sum() <= 1e-4 * beside.size:
        return True, Box(0, 0, height, width)
    if sum(side <= 2 * CELL for side in sides) < 2:
        return False, box
    bands = [bright[: box.top], bright[:, : box.left], bright[height - sides[2] :], bright[:, width - sides[3] :]]
    for index, band in enumerate(bands):
        if sides[index] <= 0.1 * spans[index] and (sides[index] <= CELL or band.mean() <= 1e-3):
            sides[index] = 0
    wider = Box(sides[0], sides[1], height - sides[0] - sides[2], width - sides[1] - sides[3])
    return wider.height * wider.width >= 0.8 * height * width, wider
