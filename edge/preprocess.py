"""The only code that turns a frame into network input, and a network mask back into the frame.

Training, calibration, drift, benchmarks and streaming all call it. It uses only operations that give the same bytes on
x86 and Arm (OpenCV's bit-exact linear resize and the exact 2×2 area mean; INTER_LINEAR, INTER_CUBIC and fractional
INTER_AREA do not), so an image has one network input wherever it is shown.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.frame import GreyImage


def preprocess(pixels: GreyImage, size: tuple[int, int]) -> GreyImage:
    """Stretch a grey frame to the network's input.

    pixels: (H, W) uint8. size: (height, width) of the input. Returns (height, width) uint8. While both sides are
    at least twice too long they are halved by 2×2 means, so that a large screen grab does not alias.
    """
    height, width = size
    while pixels.shape[0] >= 2 * height and pixels.shape[1] >= 2 * width:
        even = pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2]
        pixels = _resized(even, (even.shape[0] // 2, even.shape[1] // 2), cv2.INTER_AREA)
    if pixels.shape == size:
        return np.ascontiguousarray(pixels)
    return _resized(pixels, size, cv2.INTER_LINEAR_EXACT)


def mask_to_frame(logits: NDArray[np.float32], size: tuple[int, int]) -> GreyImage:
    """Bring mask logits to the frame: probability of lesion in steps of 1/255.

    logits: (h, w) float32. size: (height, width) of the frame. Returns (height, width) uint8; 128 and above is lesion.
    """
    probability = np.rint(255.0 * sigmoid(logits)).astype(np.uint8)
    return _resized(probability, size, cv2.INTER_LINEAR_EXACT)


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logistic function that does not overflow: 0.5 · (1 + tanh(x / 2))."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)), np.float32)


def _resized(pixels: GreyImage, size: tuple[int, int], interpolation: int) -> GreyImage:
    return np.asarray(cv2.resize(pixels, (size[1], size[0]), interpolation=interpolation), np.uint8)
