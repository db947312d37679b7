"""Training augmentation, from frame to frame: what differs between probes, settings, scanners and hands.

It runs on native frames before `edge.preprocess`, so that training sees the network input that every device makes.
"""

from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.dataset import Sample
from edge.frame import GreyImage

Mask = NDArray[np.bool_]

_CLEAR_TRIES: Final = 4
_MARKS: Final = ("+", "x", "1", "2", "D1", "L", "R", "1.5cm", "RT BREAST", "LT 3H")


def augment(sample: Sample, rng: np.random.Generator, *, clear_share: float = 0.0) -> Sample:
    """Return a random variant of `sample`: view, mirroring, scanner look, artefacts and marks. The size may change.

    clear_share: how often a window without any lesion is cut instead, where there is one; its mask is empty.
    """
    view = None
    if clear_share and sample.mask is not None and sample.mask.any() and rng.random() < clear_share:
        view = _clear_view(sample.pixels, sample.mask, rng)
    pixels, mask = view or _random_view(sample.pixels, sample.mask, rng)
    if rng.random() < 0.5:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
        mask = None if mask is None else np.ascontiguousarray(mask[:, ::-1])
    for share, change in _CHANGES:
        if rng.random() < share:
            pixels = change(pixels, rng)
    return Sample(pixels, mask)


def _clear_view(pixels: GreyImage, mask: Mask, rng: np.random.Generator) -> tuple[GreyImage, Mask] | None:
    """A window of 40 to 80 % of each side without a lesion pixel; None when a few tries find none."""
    for _ in range(_CLEAR_TRIES):
        height, width = (round(side * rng.uniform(0.4, 0.8)) for side in pixels.shape)
        top = int(rng.integers(pixels.shape[0] - height + 1))
        left = int(rng.integers(pixels.shape[1] - width + 1))
        window = np.s_[top : top + height, left : left + width]
        if not mask[window].any() and np.count_nonzero(pixels[window]) > 0.5 * height * width:
            return pixels[window], mask[window]
    return None


def _random_view(pixels: GreyImage, mask: Mask | None, rng: np.random.Generator) -> tuple[GreyImage, Mask | None]:
    """Cut a tilted, stretched window of 70 to 110 % of the frame; outside it is black, as on a scanner's screen."""
    height, width = pixels.shape
    zoom = rng.uniform(0.7, 1.1)
    stretch = np.exp(rng.normal(0.0, 0.08))  # depth and width are set by different knobs
    out_height, out_width = round(height * zoom * stretch), round(width * zoom / stretch)
    angle = float(rng.normal(0.0, 6.0))
    centre_x = width / 2 + rng.uniform(-0.5, 0.5) * max(width - out_width, 0.12 * width)
    centre_y = height / 2 + rng.uniform(-0.5, 0.5) * max(height - out_height, 0.12 * height)
    matrix = cv2.getRotationMatrix2D((centre_x, centre_y), angle, 1.0)
    matrix[:, 2] += (out_width / 2 - centre_x, out_height / 2 - centre_y)
    size = (out_width, out_height)
    view = np.asarray(cv2.warpAffine(pixels, matrix, size, flags=cv2.INTER_LINEAR), np.uint8)
    if mask is None:
        return view, None
    warped = cv2.warpAffine(mask.astype(np.uint8), matrix, size, flags=cv2.INTER_NEAREST)
    return view, np.asarray(warped) > 0


def _gain(pixels: GreyImage, rng: np.random.Generator) -> GreyImage:
    """Gamma, contrast and brightness as one lookup table: dynamic range and gain knobs."""
    level = np.arange(256) / 255.0
    level = level ** np.exp(rng.normal(0.0, 0.3))
    level = (level - 0.3) * np.exp(rng.normal(0.0, 0.2)) + 0.3 + rng.normal(0.0, 0.06)
    return _with_table(pixels, level)


def _grey_map(pixels: GreyImage, rng: np.random.Generator) -> GreyImage:
    """A monotonous random curve: every scanner has grey maps of its own."""
    steps = rng.gamma(2.0, 1.0, 6)
    level = np.interp(np.arange(256) / 255.0, np.linspace(0.0, 1.0, 7), np.concatenate([[0.0], np.cumsum(steps)]))
    return _with_table(pixels, level / level[-1])


def _with_table(pixels: GreyImage, level: NDArray[np.float64]) -> GreyImage:
    table = np.clip(np.rint(255.0 * level), 0, 255).astype(np.uint8)
    table[0] = 0  # outside the sector stays black
    return np.asarray(cv2.LUT(pixels, table), np.uint8)


def _depth_gain(pixels: GreyImage, rng: np.random.Generator) -> GreyImage:
    """A smooth gain along depth: time-gain compensation set by another hand."""
    knots = np.exp(rng.normal(0.0, 0.25, 6))
    rows = np.interp(np.linspace(0.0, 5.0, pixels.shape[0]), np.arange(6), knots)
    return _scaled(pixels, rows[:, None])


def _speckle(pixels: GreyImage, rng: np.random.Generator) -> GreyImage:
    """Multiplicative noise with a grain of one to three pixels."""
    noise = rng.standard_normal(pixels.shape, np.float32)
    noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), float(rng.uniform(0.5, 1.5))), np.float32)
    noise *= rng.uniform(0.05, 0.25) / max(float(noise.std()), 1e-6)
    return _scaled(pixels, 1.0 + noise)


def _shadow(pixels: GreyImage, rng: np.random.Generator) -> GreyImage:
    """A dark band below some depth: rib, poor contact, gas."""
    height, width = pixels.shape
    across = (np.arange(width) / width - rng.uniform()) / rng.uniform(0.03, 0.12)
    down = np.clip((np.arange(height) / height - rng.uniform(0.0, 0.6)) * 8.0, 0.0, 1.0)
    strength = rng.uniform(0.2, 0.7)
    return _scaled(pixels, 1.0 - strength * down[:, None] * np.exp(-0.5 * across**2)[None])


def _sector(pixels: GreyImage, rng: np.random.Generator) -> GreyImage:
    """Black beyond the slanted sides and the curved bottom of a virtual-convex picture."""
    height, width = pixels.shape
    slant = rng.uniform(0.0, 0.15) * width * np.linspace(1.0, 0.0, height)
    sag = rng.uniform(0.0, 0.08) * height
    x = np.arange(width)
    bottom = height - sag * (2.0 * x / width - 1.0) ** 2
    inside = (x >= slant[:, None]) & (x < width - slant[:, None]) & (np.arange(height)[:, None] < bottom)
    return np.where(inside, pixels, 0).astype(np.uint8)


def _blur(pixels: GreyImage, rng: np.random.Generator) -> GreyImage:
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), float(rng.uniform(0.4, 1.4))), np.uint8)


def _coarse(pixels: GreyImage, rng: np.random.Generator) -> GreyImage:
    """Fewer scan lines and samples, as of a small probe or a picture saved at another size."""
    height, width = pixels.shape
    small = (max(16, round(width * rng.uniform(0.35, 0.8))), max(16, round(height * rng.uniform(0.35, 0.8))))
    shrunk = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _sharpen(pixels: GreyImage, rng: np.random.Generator) -> GreyImage:
    """Edge enhancement, which most scanners offer."""
    soft = cv2.GaussianBlur(pixels, (0, 0), float(rng.uniform(1.0, 2.5)))
    strength = float(rng.uniform(0.3, 1.2))
    return np.asarray(cv2.addWeighted(pixels, 1.0 + strength, soft, -strength, 0.0), np.uint8)


def _marks(pixels: GreyImage, rng: np.random.Generator) -> GreyImage:
    """Calipers, dotted measuring lines and letters, wherever they may stand: they must not mean a lesion."""
    height, width = pixels.shape
    marked = pixels.copy()
    scale = min(height, width) / 400.0
    level = int(rng.integers(140, 256))

    def point() -> tuple[int, int]:
        return int(rng.integers(width)), int(rng.integers(height))

    for _ in range(int(rng.integers(1, 4))):
        text = _MARKS[int(rng.integers(len(_MARKS)))]
        size = scale * float(rng.uniform(0.35, 0.8))
        cv2.putText(marked, text, point(), cv2.FONT_HERSHEY_SIMPLEX, size, (level,), 1, cv2.LINE_AA)
    if rng.random() < 0.4:
        (x0, y0), (x1, y1) = point(), point()
        for share in np.linspace(0.0, 1.0, max(2, round(np.hypot(x1 - x0, y1 - y0) / 6))):
            marked[round(y0 + share * (y1 - y0)), round(x0 + share * (x1 - x0))] = level
    return marked


def _scaled(pixels: GreyImage, gain: NDArray[np.floating]) -> GreyImage:
    return np.clip(pixels * gain.astype(np.float32), 0.0, 255.0).astype(np.uint8)


_CHANGES: Final[tuple[tuple[float, Callable[[GreyImage, np.random.Generator], GreyImage]], ...]] = (
    (0.15, _coarse),
    (0.15, _blur),
    (0.10, _sharpen),
    (0.85, _gain),
    (0.15, _grey_map),
    (0.30, _depth_gain),
    (0.10, _shadow),
    (0.25, _speckle),
    (0.10, _sector),
    (0.10, _marks),
)
