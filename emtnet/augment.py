"""Training augmentation, from frame to frame: what differs between probes, settings and hands.

It runs on native frames before `edge.preprocess`, so that training sees the network input that every device makes.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.dataset import Sample
from edge.frame import GreyImage


def augment(sample: Sample, rng: np.random.Generator) -> Sample:
    """Return a random variant of `sample`: view, mirroring, gain, depth gain and speckle. The size may change."""
    pixels, mask = sample.pixels, sample.mask
    pixels, mask = _random_view(pixels, mask, rng)
    if rng.random() < 0.5:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
        mask = None if mask is None else np.ascontiguousarray(mask[:, ::-1])
    pixels = _random_gain(pixels, rng)
    if rng.random() < 0.3:
        pixels = _depth_gain(pixels, rng)
    if rng.random() < 0.3:
        pixels = _speckle(pixels, rng)
    if rng.random() < 0.2:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), float(rng.uniform(0.4, 1.2))), np.uint8)
    return Sample(pixels, mask)


def _random_view(
    pixels: GreyImage, mask: NDArray[np.bool_] | None, rng: np.random.Generator
) -> tuple[GreyImage, NDArray[np.bool_] | None]:
    """Cut a tilted window of 70 to 112 % of each side; what lies outside the frame is black, as on a scanner's screen."""
    height, width = pixels.shape
    out_height, out_width = (round(side * rng.uniform(0.7, 1.12)) for side in (height, width))
    angle = float(rng.normal(0.0, 5.0))
    centre_x = width / 2 + rng.uniform(-0.5, 0.5) * max(width - out_width, 0.1 * width)
    centre_y = height / 2 + rng.uniform(-0.5, 0.5) * max(height - out_height, 0.1 * height)
    matrix = cv2.getRotationMatrix2D((centre_x, centre_y), angle, 1.0)
    matrix[:, 2] += (out_width / 2 - centre_x, out_height / 2 - centre_y)
    size = (out_width, out_height)
    view = np.asarray(cv2.warpAffine(pixels, matrix, size, flags=cv2.INTER_LINEAR), np.uint8)
    if mask is None:
        return view, None
    warped = cv2.warpAffine(mask.astype(np.uint8), matrix, size, flags=cv2.INTER_NEAREST)
    return view, np.asarray(warped) > 0


def _random_gain(pixels: GreyImage, rng: np.random.Generator) -> GreyImage:
    """Gamma, contrast and brightness as one lookup table: dynamic range and gain knobs."""
    level = np.arange(256) / 255.0
    level = level ** np.exp(rng.normal(0.0, 0.25))
    level = (level - 0.3) * np.exp(rng.normal(0.0, 0.15)) + 0.3 + rng.normal(0.0, 0.05)
    table = np.clip(np.rint(255.0 * level), 0, 255).astype(np.uint8)
    table[0] = 0  # outside the sector stays black
    return np.asarray(cv2.LUT(pixels, table), np.uint8)


def _depth_gain(pixels: GreyImage, rng: np.random.Generator) -> GreyImage:
    """A smooth gain along depth: time-gain compensation set by another hand."""
    knots = np.exp(rng.normal(0.0, 0.2, 5))
    rows = np.linspace(0.0, 4.0, pixels.shape[0])
    gain = np.interp(rows, np.arange(5), knots)[:, None]
    return np.clip(pixels * gain, 0, 255).astype(np.uint8)


def _speckle(pixels: GreyImage, rng: np.random.Generator) -> GreyImage:
    """Multiplicative noise with a grain of one to three pixels."""
    noise = rng.normal(0.0, 1.0, pixels.shape).astype(np.float32)
    sigma = float(rng.uniform(0.5, 1.5))
    noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), sigma), np.float32)
    noise *= rng.uniform(0.05, 0.2) / max(float(noise.std()), 1e-6)
    return np.clip(pixels * (1.0 + noise), 0, 255).astype(np.uint8)
