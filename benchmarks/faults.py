"""Faults of a live picture, as seeded generators over declared ranges; and the ranges of the synthetic screens.

The ranges were fixed before any limit of the guard or of the region finder was chosen. They say what "found" means in
docs and reports; a fault milder than its range is not claimed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from edge.frame import GreyImage

Pair = tuple[float, float]
Colour = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class FaultRanges:
    """Smallest and largest severity of each fault; drawn uniformly. Levels are grey levels of 255, shares 0..1.

    grabber_noise: σ of what an analogue grabber adds to each picture. jpeg_quality: of a grabber's MJPG. frozen_s: how long
    a picture stands still. hand: speed of a hand-held probe in a good sequence, pixels a second of a 400 pixel wide region;
    receiver_noise: σ of the change of its echoes from frame to frame. bands, band_level, band_reach, haze: of a probe in
    air: how many reverberation lines, the brightest one's level, the depth (share of the picture) over which they fade to
    1/e, the mean level of noise below. black: level of a picture without any echo. clipped: share of the picture at white
    when the gain is far up. coloured: share of the region under the colours of Doppler. caliper: share of coloured marks
    that are no fault. tint: chroma of a tinted grey map at white, no fault either.
    """

    grabber_noise: Pair = (0.0, 2.0)
    jpeg_quality: Pair = (60, 95)
    frozen_s: Pair = (1.5, 3.0)
    hand: Pair = (1.0, 20.0)
    receiver_noise: Pair = (1.0, 4.0)
    bands: Pair = (1, 6)
    band_level: Pair = (60, 230)
    band_reach: Pair = (0.03, 0.12)
    haze: Pair = (0.0, 12.0)
    black: Pair = (0.0, 6.0)
    clipped: Pair = (0.25, 0.9)
    coloured: Pair = (0.01, 0.2)
    caliper: Pair = (0.0002, 0.002)
    tint: Pair = (5, 60)


@dataclass(frozen=True, slots=True)
class ScreenRanges:
    """What a synthetic scanner screen is drawn from.

    sizes: (height, width). width, height: the region's share of the screen. background: level of what is behind everything.
    text_scale: height of letters as a share of the screen's. ruler_gap: pixels of a 480 line screen between region and
    depth ruler. angle: full opening of a convex sector in degrees; apex: its inner radius as a share of the outer. Each
    ornament is there with the probability ornament; clock digits tick every second.
    """

    sizes: tuple[tuple[int, int], ...] = ((480, 640), (720, 1280), (1080, 1920))
    width: Pair = (0.40, 0.68)
    height: Pair = (0.62, 0.82)
    background: Pair = (0, 30)
    text_scale: Pair = (0.018, 0.032)
    ruler_gap: Pair = (4, 14)
    angle: Pair = (50, 85)
    apex: Pair = (0.12, 0.40)
    ornament: float = 0.7


FAULTS: Final = FaultRanges()
SCREENS: Final = ScreenRanges()


def draw(rng: Generator, limits: Pair) -> float:
    """A number drawn uniformly between two limits."""
    return float(rng.uniform(*limits))


def live(still: GreyImage, rng: Generator, *, frames: int, rate_hz: float = 20.0) -> Iterator[GreyImage]:
    """A good sequence made of one still: a hand that drifts and echoes that change from frame to frame; (H, W) uint8 each.

    The picture moves with the drawn speed along a direction that turns; the change of the echoes has the grain of speckle
    and grows with the level, as a log-compressed envelope's does above the noise floor.
    """
    height, width = still.shape
    speed = draw(rng, FAULTS.hand) * width / 400.0 / rate_hz
    sigma, heading = draw(rng, FAULTS.receiver_noise), draw(rng, (0.0, 6.28))
    x = y = 0.0
    lit = np.minimum(still.astype(np.float32) / 64.0, 1.0)
    for _ in range(frames):
        move = np.array([[1.0, 0.0, x], [0.0, 1.0, y]], np.float32)
        shifted = cv2.warpAffine(still, move, (width, height), borderMode=cv2.BORDER_REFLECT)
        noise = cv2.GaussianBlur(rng.standard_normal(still.shape, dtype=np.float32), (0, 0), 1.0) * 3.5 * sigma
        yield _levels(shifted + noise * lit)
        heading += float(rng.normal(0.0, 0.3))
        x, y = x + speed * np.cos(heading), y + speed * np.sin(heading)


def grabbed(pixels: NDArray[np.uint8], rng: Generator, *, noise: float, quality: int) -> NDArray[np.uint8]:
    """The picture as a grabber gives it: noise of its own, then JPEG. noise: σ. quality: of JPEG, 0 for none."""
    if noise > 0.0:
        pixels = _levels(pixels + rng.normal(0.0, noise, pixels.shape))
    if not quality:
        return pixels
    kept, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert kept
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED), np.uint8)


def frozen(still: GreyImage, rng: Generator, *, frames: int) -> Iterator[GreyImage]:
    """The same picture again and again, as a grabber with noise gives it; (H, W) uint8 each."""
    noise, quality = draw(rng, FAULTS.grabber_noise), round(draw(rng, FAULTS.jpeg_quality))
    for _ in range(frames):
        yield grabbed(still, rng, noise=noise, quality=quality)


def black(still: GreyImage, rng: Generator) -> GreyImage:
    """No echo and no line at all: the black level, with or without noise."""
    noise = rng.normal(draw(rng, FAULTS.black), draw(rng, FAULTS.grabber_noise), still.shape)
    return _levels(noise)


def air(still: GreyImage, rng: Generator) -> GreyImage:
    """A probe in air: lines across the picture that fade with depth, nothing but amplified noise below."""
    height, width = still.shape
    depth = np.linspace(0.0, 1.0, height, dtype=np.float32)[:, None]
    across = np.linspace(-1.0, 1.0, width, dtype=np.float32)[None, :]
    count, reach = round(draw(rng, FAULTS.bands)), draw(rng, FAULTS.band_reach)
    spacing, bend = draw(rng, (0.02, 0.08)), draw(rng, (-0.01, 0.01))
    lines = sum(np.exp(-(((depth - bend * across**2 - spacing * (n + 0.5)) / 0.008) ** 2)) for n in range(count))
    level = draw(rng, FAULTS.band_level) * np.exp(-depth / reach) * (0.5 + lines) * (1.0 + 0.1 * np.cos(9.0 * across))
    grain = cv2.GaussianBlur(rng.standard_normal(still.shape, dtype=np.float32), (0, 0), 1.2, sigmaY=0.8)
    haze = draw(rng, FAULTS.haze) * (0.5 + depth)
    return _levels(level + haze * (1.0 + 1.2 * grain))


def saturated(still: GreyImage, rng: Generator) -> GreyImage:
    """The gain turned up until the drawn share of the picture is white, noise with it."""
    grain = cv2.GaussianBlur(rng.standard_normal(still.shape, dtype=np.float32), (0, 0), 1.0) * 30.0
    level = still + grain
    return _levels(level + 255.0 - np.quantile(level, 1.0 - draw(rng, FAULTS.clipped)))


def doppler(still: GreyImage, rng: Generator) -> Colour:
    """(H, W, 3) BGR: vessels under the colours of flow or of power, in a box with a thin outline."""
    height, width = still.shape
    picture = cv2.cvtColor(still, cv2.COLOR_GRAY2BGR)
    share = draw(rng, FAULTS.coloured)
    side = min(0.9, np.sqrt(share) * draw(rng, (1.6, 2.5)) + 0.1)
    high, wide = round(side * height), round(side * width)
    top, left = int(rng.integers(0, height - high + 1)), int(rng.integers(0, width - wide + 1))
    field = cv2.GaussianBlur(rng.standard_normal((high, wide), dtype=np.float32), (0, 0), draw(rng, (3.0, 10.0)))
    size = np.abs(field)
    threshold = np.quantile(size, max(0.0, 1.0 - share * height * width / (high * wide)))
    flow = size > threshold
    strength = np.clip(size / (2.0 * threshold + 1e-6), 0.4, 1.0)[..., None]
    warm, cold = np.array([0.0, 90.0, 255.0]), np.array([255.0, 110.0, 0.0])
    power = rng.random() < 0.3
    colours = np.where((field > 0)[..., None] | power, warm, cold) * strength
    picture[top : top + high, left : left + wide][flow] = colours[flow].astype(np.uint8)
    cv2.rectangle(picture, (left, top), (left + wide - 1, top + high - 1), (200, 200, 200), 1)
    return _as_video(np.asarray(picture, np.uint8), rng)


def marked(still: GreyImage, rng: Generator) -> Colour:
    """(H, W, 3) BGR: coloured calipers and a tinted grey map, neither of which is Doppler."""
    height, width = still.shape
    tint = np.array([(-1.0, 0.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 0.3, 0.6)][int(rng.integers(3))])
    picture = still[..., None] * (1.0 + tint * draw(rng, FAULTS.tint) / 255.0 * 0.5)
    drawn = np.ascontiguousarray(np.clip(picture, 0, 255).astype(np.uint8))
    arm = max(2, round(draw(rng, FAULTS.caliper) * height * width / 16))
    for _ in range(4):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        cv2.drawMarker(drawn, (x, y), (60, 230, 230), cv2.MARKER_CROSS, min(2 * arm, 20), 1)
    return _as_video(drawn, rng)


def far(still: GreyImage, rng: Generator) -> GreyImage:
    """What the network was not made for: noise, letters, or the picture upside down."""
    kind = int(rng.integers(3))
    if kind == 0:
        return np.ascontiguousarray(still[::-1])
    if kind == 1:
        grain = cv2.GaussianBlur(rng.standard_normal(still.shape, dtype=np.float32), (0, 0), draw(rng, (0.3, 4.0)))
        return _levels(draw(rng, (40, 150)) + grain / grain.std() * draw(rng, (20, 60)))
    page = np.full(still.shape, int(draw(rng, FAULTS.black)), np.uint8)
    for row in range(18, still.shape[0], int(rng.integers(16, 32))):
        text = "".join(rng.choice(list("ABCDEFGHIKLMNOPRSTUVZ abcdefghiklmnop 0123456789"), 40))
        cv2.putText(page, text, (int(rng.integers(2, 40)), row), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 210, 1, cv2.LINE_AA)
    return page


def _levels(values: NDArray[Any]) -> GreyImage:
    """Whole levels 0..255."""
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def _as_video(picture: Colour, rng: Generator) -> Colour:
    """Through JPEG, whose chroma has half the resolution."""
    return grabbed(picture, rng, noise=0.0, quality=round(draw(rng, FAULTS.jpeg_quality)))


STILL_FAULTS: Final[dict[str, Callable[[GreyImage, Generator], NDArray[np.uint8]]]] = {
    "black": black,
    "air": air,
    "saturated": saturated,
    "doppler": doppler,
}
"""Faults of a single picture; `frozen` is one of a sequence, `far` one of the network's."""
