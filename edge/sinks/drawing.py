"""Draw a finding onto its frame: the outline of each lesion, a caliper over the largest and a caption, at the frame's own size.

Cheap enough for every frame of a live view. What is drawn stays within a few pixels of the outlines and caliper, and in strips
at the top and the bottom.
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.analysis import Analysis
from edge.findings import Finding, Lesion, Point
from edge.overlay import DISCLAIMER, NORMAL_COLOUR, decision_colour

Colour = tuple[int, int, int]
Picture = NDArray[np.uint8]

CALIPER_COLOUR: Final = (255, 255, 255)
MARK_COLOUR: Final = (66, 228, 240)
"""Yellow of Okabe and Ito's palette (BGR): words about a frame that is not a new, whole answer."""
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_SLACK_PX: Final = 0.75
"""How far a drawn outline may run beside its contour: thick lines cost by the segment, and a contour has one for every pixel."""
_LINE_PX: Final = 20
"""Height of a line of text on a frame of 480 rows."""


def draw_analysis(found: Analysis) -> Picture:
    """Draw what was found onto the frame it was found in; see `draw_finding`."""
    return draw_finding(found.pixels, found.finding, reason=found.reason, age_s=found.finding_age_s)


def draw_finding(
    pixels: NDArray[np.uint8],
    finding: Finding | None,
    *,
    reason: str = "",
    age_s: float = 0.0,
    caption: bool = True,
) -> Picture:
    """Return the frame with outlines, the caliper of the largest lesion, and a caption.

    pixels: (H, W) grey or (H, W, 3) BGR, uint8; they are not changed. finding: None draws nothing but words. reason: why the
    frame was rejected, told in words. age_s: of a finding kept from an earlier frame, told too; its outlines are thin. caption:
    words at all, the disclaimer among them; a program that shows them beside the picture leaves them out.
    Returns (H, W, 3) BGR uint8.
    """
    grey = pixels.ndim == 2
    picture: Picture = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR), np.uint8) if grey else pixels.copy()
    kept = bool(reason) or age_s > 0
    scale = min(3.0, max(0.5, picture.shape[0] / 480))
    if finding is not None:
        thick = 1 if kept else max(1, round(2 * scale))
        for lesion in finding.lesions:
            contour = cv2.approxPolyDP(np.array(lesion.contour, np.int32), _SLACK_PX, True)
            cv2.polylines(picture, [contour], True, decision_colour(finding), thick, cv2.LINE_AA)
        for lesion in finding.lesions[:1]:
            _caliper(picture, lesion.diameter, max(3, round(6 * scale)))
    if caption:
        lines: list[tuple[str, Colour]] = []
        if finding is not None:
            lines.append((finding_text(finding), decision_colour(finding)))
        if kept:
            lines.append((mark_text(reason, age_s if finding is not None else 0.0), MARK_COLOUR))
        for index, (text, colour) in enumerate(lines):
            _strip(picture, text, colour, index, scale)
        _strip(picture, DISCLAIMER, NORMAL_COLOUR, -1, 0.75 * scale)
    return picture


def finding_text(finding: Finding) -> str:
    """The call, its probability and the largest lesion's longest diameter, as far as they are known."""
    parts = [finding.decision]
    if finding.malignancy is not None:
        parts.append(f"p({finding.positive}) {finding.malignancy:.2f}")
    if finding.presence is not None:
        parts.append(f"p(lesion) {finding.presence:.2f}")
    parts += [_size(lesion) for lesion in finding.lesions[:1]]
    if len(finding.lesions) > 1:
        parts.append(f"{len(finding.lesions)} outlines")
    return "  ".join(parts)


def mark_text(reason: str, age_s: float = 0.0) -> str:
    """Words for a frame that was rejected, or that shows a finding of `age_s` ago."""
    parts = ["NOT ANALYSED: " + reason if reason else "", f"finding of {age_s:.1f} s ago" if age_s > 0 else ""]
    return "  ".join(part for part in parts if part)


def _size(lesion: Lesion) -> str:
    return f"{lesion.diameter_px:.0f} px" if lesion.diameter_mm is None else f"{lesion.diameter_mm:.1f} mm"


def _caliper(picture: Picture, ends: tuple[Point, Point], arm: int) -> None:
    """The longest diameter as a thin line with a cross at each end, as scanners draw it."""
    cv2.line(picture, *ends, CALIPER_COLOUR, 1, cv2.LINE_AA)
    for end in ends:
        cv2.drawMarker(picture, end, CALIPER_COLOUR, cv2.MARKER_TILTED_CROSS, 2 * arm, 1, cv2.LINE_AA)


def _strip(picture: Picture, text: str, colour: Colour, line: int, scale: float) -> None:
    """Write a line of text over a darkened strip, counted from the top, or for -1 at the bottom.

    A text too long for the frame is made smaller, down to what can still be read, and then cut by the frame's edge.
    """
    height, width = picture.shape[:2]
    tall = round(_LINE_PX * scale)
    top = line * tall if line >= 0 else height - tall
    size = 0.5 * scale
    (needed, _), _ = cv2.getTextSize(text, _FONT, size, 1)
    size = max(min(size, 0.3), size * min(1.0, (width - 8) / needed))
    strip = picture[max(0, top) : top + tall, : min(width, needed + 8)]
    strip >>= 2
    cv2.putText(picture, text, (4, top + round(0.72 * tall)), _FONT, size, colour, max(1, round(scale)), cv2.LINE_AA)
