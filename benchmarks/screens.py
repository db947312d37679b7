"""Synthetic scanner screens: a scan, real or synthetic, amid the name, rulers, bars, icons and traces of a console.

What is drawn, and how large, comes from `benchmarks.faults.ScreenRanges`.
"""

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from benchmarks.faults import SCREENS, ScreenRanges, draw
from edge.frame import GreyImage
from edge.preprocess import Box

Shape = Literal["linear", "convex"]
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_PLAIN)
_TEXT = (200, 215, 220)


@dataclass(frozen=True, slots=True, eq=False)
class Screen:
    """A console without its scan.

    canvas: (H, W, 3) BGR uint8. letters: (H, W) bool, what must not be seen. box: the scan's place; mask: (h, w) bool
    within it, True on tissue. clock: where the seconds stand, (x, y). trace: rows of an ECG-like trace, None without one.
    """

    canvas: NDArray[np.uint8]
    letters: NDArray[np.bool_]
    box: Box
    mask: NDArray[np.bool_]
    shape: Shape
    warp: NDArray[np.float32] | None
    clock: tuple[int, int]
    trace: tuple[int, int] | None

    @property
    def tissue(self) -> NDArray[np.bool_]:
        """(H, W) bool: the true region."""
        whole = np.zeros(self.letters.shape, np.bool_)
        whole[self.box.pixels] = self.mask
        return whole

    def show(self, scan: GreyImage, *, time_s: float = 0.0) -> NDArray[np.uint8]:
        """The screen with a scan in it, (H, W, 3) BGR uint8. scan: (h, w) uint8 of any size. The clock and the trace run."""
        picture = self.canvas.copy()
        size = (self.box.width, self.box.height)
        fitted = cv2.resize(scan, size, interpolation=cv2.INTER_LINEAR)
        if self.warp is not None:
            fitted = cv2.remap(fitted, self.warp[..., 0], self.warp[..., 1], cv2.INTER_LINEAR)
        place = picture[self.box.pixels]
        place[self.mask] = fitted[self.mask][:, None]
        scale = self.letters.shape[0] / 480 * 0.45
        cv2.putText(picture, f"10:42:{int(time_s) % 60:02d}", self.clock, _FONTS[0], scale, _TEXT, 1, cv2.LINE_AA)
        if self.trace is not None:
            self._draw_trace(picture, time_s)
        return picture

    def _draw_trace(self, picture: NDArray[np.uint8], time_s: float) -> None:
        assert self.trace is not None
        top, bottom = self.trace
        columns = np.arange(self.box.left, self.box.left + self.box.width)
        progress = (columns - self.box.left) / self.box.width * 4.0
        shown = progress < time_s % 4.0
        beat = np.exp(-(((progress % 0.8) - 0.3) ** 2) / 0.001)
        rows = bottom - (bottom - top) * (0.15 + 0.7 * beat)
        points = np.column_stack([columns, rows])[shown].astype(np.int32)
        if len(points) > 1:
            cv2.polylines(picture, [points], False, (80, 220, 90), 1, cv2.LINE_AA)


def draw_screen(
    rng: Generator, size: tuple[int, int], shape: Shape, *, aspect: float = 0.8, ranges: ScreenRanges = SCREENS
) -> Screen:
    """Draw a console. size: (height, width). aspect: width / height of the scan, kept within what the ranges allow."""
    height, width = size
    background = np.clip(draw(rng, ranges.background) + rng.integers(0, 12, 3), 0, 255) * (rng.random() < 0.5)
    canvas = np.full((height, width, 3), background, np.uint8)
    high = round(draw(rng, ranges.height) * height)
    smallest, largest = (round(share * width) for share in ranges.width)
    wide = min(max(round(high * aspect), smallest), largest, round(1.6 * high))
    top = round(0.09 * height + rng.random() * (0.86 * height - high))
    left = round(0.12 * width + rng.random() * max(0.0, 0.72 * width - wide))
    box = Box(top, left, high, wide)
    mask, warp = np.ones((high, wide), np.bool_), None
    if shape == "convex":
        mask, warp, box = _sector(rng, box, ranges)
    canvas[box.pixels][mask] = 0
    painter = _Painter(rng, canvas, box, ranges)
    clock = painter.paint()
    changed = (canvas.astype(np.int16) - background.astype(np.uint8)).any(axis=2)
    whole = np.zeros(size, np.bool_)
    whole[box.pixels] = mask
    letters = changed & ~whole
    trace = None
    below = box.top + box.height + height // 60
    if rng.random() < 0.4 and below + height // 14 < height:
        trace = (below, below + height // 16)
    return Screen(canvas, letters, box, mask, shape, warp, clock, trace)


def _sector(rng: Generator, box: Box, ranges: ScreenRanges) -> tuple[NDArray[np.bool_], NDArray[np.float32], Box]:
    """A convex sector as large as fits: its mask, where each pixel comes from in a box of its own size, and the box."""
    half = math.radians(draw(rng, ranges.angle)) / 2
    share = draw(rng, ranges.apex)
    outer = min(box.height / (1.0 - share * math.cos(half)), box.width / (2.0 * math.sin(half)))
    high, wide = int(outer * (1.0 - share * math.cos(half))), int(2.0 * outer * math.sin(half))
    y, x = np.mgrid[0:high, 0:wide].astype(np.float32)
    dx, dy = x - (wide - 1) / 2, y + outer * share * math.cos(half)
    radius, angle = np.hypot(dx, dy), np.arctan2(dx, dy)
    mask = (radius >= share * outer) & (radius <= outer) & (np.abs(angle) <= half)
    columns = (angle / half + 1.0) / 2.0 * (wide - 1)
    rows = (radius - share * outer) / (outer - share * outer) * (high - 1)
    left = box.left + (box.width - wide) // 2
    return mask, np.stack([columns, rows], axis=-1).astype(np.float32), Box(box.top, left, high, wide)


class _Painter:
    """Draws what stands around a scan."""

    def __init__(self, rng: Generator, canvas: NDArray[np.uint8], box: Box, ranges: ScreenRanges) -> None:
        self._rng, self._canvas, self._box, self._ranges = rng, canvas, box, ranges
        self._height, self._width = canvas.shape[:2]
        self._unit = self._height / 480
        self._font = _FONTS[int(rng.integers(len(_FONTS)))]

    def paint(self) -> tuple[int, int]:
        """Everything; returns where the clock stands."""
        rng, ranges = self._rng, self._ranges
        line = 0.028 * self._height
        first = "".join(rng.choice(list("ABCDEFGHKLMNOPRSTV"), 7))
        self._write(f"{first}, ANNA M   ID {rng.integers(10**7)}   *1961-04-{rng.integers(10, 28)}", (0.02, 0.03))
        self._write("GENERAL HOSPITAL  BREAST 12L", (0.55, 0.03))
        self._write("MI 0.9  TIS 0.2", (0.55, 0.065))
        right = (self._box.left + self._box.width + 40 * self._unit) / self._width
        if right < 0.9:
            for row, text in enumerate(("FR 28 Hz", "D 4.5 cm", "G 62 %", "DR 69", "AO 100 %", "L12-3")):
                self._write(text, (right, 0.2 + row * line * 1.4 / self._height))
        for row, text in enumerate(("B", "CHI", "Map 4", "P Med")):
            self._write(text, (0.012, 0.25 + row * 0.05))
        for part in (self._logo, self._grey_bar, self._ruler, self._gain_curve, self._thumbnails, self._buttons):
            if part == self._ruler or rng.random() < ranges.ornament:
                part()
        return round(0.8 * self._width), round(0.03 * self._height)

    def _write(self, text: str, place: tuple[float, float]) -> None:
        """place: (x, y), shares of the screen."""
        size = draw(self._rng, self._ranges.text_scale) * self._height
        scale = cv2.getFontScaleFromHeight(self._font, max(6, round(size * 0.75)))
        point = (round(place[0] * self._width), round(place[1] * self._height))
        cv2.putText(self._canvas, text, point, self._font, scale, _TEXT, max(1, round(self._unit * 0.8)), cv2.LINE_AA)

    def _logo(self) -> None:
        side = round(0.06 * self._height)
        colour = tuple(int(part) for part in self._rng.integers(60, 255, 3))
        cv2.circle(self._canvas, (side, round(0.13 * self._height)), side // 2, colour, -1, cv2.LINE_AA)

    def _grey_bar(self) -> None:
        left = max(2, self._box.left - round(22 * self._unit))
        rows = slice(self._box.top, self._box.top + self._box.height // 3)
        levels = np.linspace(255, 0, rows.stop - rows.start).astype(np.uint8)
        self._canvas[rows, left : left + round(9 * self._unit)] = levels[:, None, None]

    def _ruler(self) -> None:
        gap = round(draw(self._rng, self._ranges.ruler_gap) * self._unit)
        x = self._box.left + self._box.width + gap
        ticks = 10
        for tick in range(ticks + 1):
            y = self._box.top + round(tick * (self._box.height - 1) / ticks)
            long = tick % 5 == 0
            end = x + round((8 if long else 4) * self._unit)
            cv2.line(self._canvas, (x, y), (end, y), _TEXT, 1)
            if long and end + 30 * self._unit < self._width:
                self._write(str(tick), ((end + 3) / self._width, (y + 3 * self._unit) / self._height))

    def _gain_curve(self) -> None:
        left = self._box.left + self._box.width + round(28 * self._unit)
        rows = np.linspace(self._box.top, self._box.top + self._box.height - 1, 9)
        columns = left + self._rng.uniform(0, 14 * self._unit, 9)
        points = np.column_stack([columns, rows]).astype(np.int32)
        cv2.polylines(self._canvas, [points], False, (190, 190, 190), 1, cv2.LINE_AA)

    def _thumbnails(self) -> None:
        """Small stored pictures, grainy as a scan is, along the lower right."""
        high, wide = round(0.11 * self._height), round(0.09 * self._width)
        left = self._width - wide - round(0.01 * self._width)
        if left < self._box.left + self._box.width + round(50 * self._unit):
            return
        for row in range(3):
            top = round((0.55 + 0.13 * row) * self._height)
            grain = cv2.GaussianBlur(self._rng.standard_normal((high, wide), dtype=np.float32), (0, 0), 1.5)
            self._canvas[top : top + high, left : left + wide] = np.clip(90 + 120 * grain, 0, 255)[..., None]

    def _buttons(self) -> None:
        top = round(0.955 * self._height)
        if self._box.top + self._box.height >= top:
            return
        for index, name in enumerate(("Freeze", "Store", "Depth", "THI On", "Page 1/3")):
            left = round((0.1 + 0.16 * index) * self._width)
            corner = (left + round(0.14 * self._width), self._height - 3)
            cv2.rectangle(self._canvas, (left, top), corner, (96, 66, 40), -1)
            self._write(name, (left / self._width + 0.01, 0.985))
