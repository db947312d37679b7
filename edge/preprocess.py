"""The only code that turns a frame into network input, and a network mask back into the frame.

Training, calibration, drift, benchmarks and streaming all call it. It uses only operations that give the same bytes on
x86 and Arm (OpenCV's bit-exact linear resize and the exact 2×2 area mean; INTER_LINEAR, INTER_CUBIC and fractional
INTER_AREA do not), so an image has one network input wherever it is shown.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.frame import GreyImage

Resize = Literal["stretch", "letterbox"]
"""stretch: to the input's own aspect. letterbox: aspect kept, centred, black around it."""

_Float = TypeVar("_Float", bound=np.floating[Any])
_FAR: Final = 1e30
"""A logit beyond which nothing changes: differences of two such stay finite in float32."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of whole pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Its rows and columns, as an index."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def content_box(frame_size: tuple[int, int], input_size: tuple[int, int]) -> Box:
    """Where a letterboxed frame lies in the input: as large as its aspect allows, centred, at least one pixel a side.

    Both sizes are (height, width). Integers only, so that every machine has the same box.
    """
    (frame_height, frame_width), (height, width) = frame_size, input_size
    if height * frame_width <= width * frame_height:
        content = (height, max(1, _rounded(frame_width * height, frame_height)))
    else:
        content = (max(1, _rounded(frame_height * width, frame_width)), width)
    return Box((height - content[0]) // 2, (width - content[1]) // 2, *content)


def preprocess(pixels: GreyImage, size: tuple[int, int], *, resize: Resize = "stretch") -> GreyImage:
    """Bring a grey frame to the network's input.

    pixels: (H, W) uint8. size: (height, width) of the input. Returns (height, width) uint8. While both sides are
    at least twice too long they are halved by 2×2 means, so that a large screen grab does not alias.
    """
    if resize == "stretch":
        return _stretched(pixels, size)
    box = content_box(pixels.shape, size)
    image = np.zeros(size, np.uint8)
    image[box.pixels] = _stretched(pixels, (box.height, box.width))
    return image


def mask_to_frame(
    probability: NDArray[np.float32], size: tuple[int, int], *, input_size: tuple[int, int], resize: Resize
) -> GreyImage:
    """Bring a mask to the frame: probability of lesion in steps of 1/255.

    probability: (h, w) float32 in 0..1, over the whole input at any resolution. size: (height, width) of the frame.
    input_size, resize: as the frame was preprocessed. Returns (height, width) uint8; 128 and above is lesion.
    """
    level = np.rint(255.0 * probability).astype(np.uint8)
    if resize == "letterbox":
        if level.shape != input_size:  # the box has whole pixels at the input's resolution only
            level = _resized(level, input_size, cv2.INTER_LINEAR_EXACT)
        level = np.ascontiguousarray(level[content_box(size, input_size).pixels])
    return _resized(level, size, cv2.INTER_LINEAR_EXACT)


def sigmoid(logits: NDArray[_Float]) -> NDArray[_Float]:
    """Logistic function that does not overflow, in the precision of the logits: 0.5 · (1 + tanh(x / 2))."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)), logits.dtype)


def softmax(logits: NDArray[np.float32], *, axis: int) -> NDArray[np.float32]:
    """Softmax that does not overflow: exp(x − max x), normalised; infinite logits share what there is."""
    bounded = np.clip(logits, -_FAR, _FAR)
    powers = np.exp(bounded - bounded.max(axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis, keepdims=True), np.float32)


def _stretched(pixels: GreyImage, size: tuple[int, int]) -> GreyImage:
    height, width = size
    while pixels.shape[0] >= 2 * height and pixels.shape[1] >= 2 * width:
        even = pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2]
        pixels = _resized(even, (even.shape[0] // 2, even.shape[1] // 2), cv2.INTER_AREA)
    if pixels.shape == size:
        return np.ascontiguousarray(pixels)
    return _resized(pixels, size, cv2.INTER_LINEAR_EXACT)


def _resized(pixels: GreyImage, size: tuple[int, int], interpolation: int) -> GreyImage:
    return np.asarray(cv2.resize(pixels, (size[1], size[0]), interpolation=interpolation), np.uint8)


def _rounded(numerator: int, denominator: int) -> int:
    """The nearest whole number, halves up."""
    return (2 * numerator + denominator) // (2 * denominator)
