"""Draw a prediction on its frame."""

from typing import Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.frame import GreyImage
from edge.interpretation import NO_LESION
from edge.predictor import Prediction

# Orange, grey and blue of Okabe and Ito's palette, told apart with any colour vision (BGR).
POSITIVE_COLOUR: Final = (0, 159, 230)
NORMAL_COLOUR: Final = (160, 160, 160)
OTHER_COLOUR: Final = (178, 114, 0)
DISCLAIMER: Final = "Research use only - not a medical device"
_GREY: Final = (NO_LESION, "normal")
"""Answers of no lesion: by the mask, and by the usual label of networks that have one for it."""
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_CAPTION: Final = 44


def draw_overlay(
    pixels: GreyImage, prediction: Prediction, *, true_mask: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Return the frame with the lesion's outline, where the network draws one, and a caption below it.

    pixels: (H, W) uint8. true_mask: (H, W) bool, outlined thin and white. Returns (H + 44, max(W, 360), 3) uint8 BGR; the
    frame's own pixels stay where they are.
    """
    height, width = pixels.shape
    canvas = np.zeros((height + _CAPTION, max(width, 360), 3), np.uint8)
    picture = np.ascontiguousarray(canvas[:height, :width])
    picture[:] = pixels[:, :, None]
    if true_mask is not None:
        _outline(picture, true_mask, (255, 255, 255), 1)
    colour = decision_colour(prediction)
    if prediction.mask is not None:
        _outline(picture, prediction.mask, colour, 2)
    canvas[:height, :width] = picture
    text = caption(prediction)
    (needed, _), _ = cv2.getTextSize(text, _FONT, 0.5, 1)
    size = 0.5 * min(1.0, (canvas.shape[1] - 12) / needed)  # a label can have any length
    cv2.putText(canvas, text, (6, height + 18), _FONT, size, colour, 1, cv2.LINE_AA)
    cv2.putText(canvas, DISCLAIMER, (6, height + 36), _FONT, 0.4, (200, 200, 200), 1, cv2.LINE_AA)
    return canvas


def caption(prediction: Prediction) -> str:
    """The call, the probabilities it was made by and the threshold, as far as the network says so.

    Where the answer is "no lesion" the class has no say. "no outline": a call without a pixel of lesion.
    """
    parts = [prediction.decision]
    if prediction.classified and prediction.malignancy is not None:
        parts.append(f"p({prediction.positive}) {prediction.malignancy:.2f}")
        if prediction.threshold is not None:
            parts[-1] += f" (call at {prediction.threshold:.2f})"
    if prediction.presence is not None:
        parts.append(f"p(lesion) {prediction.presence:.2f}")
    if prediction.classified and prediction.mask is not None and not prediction.mask.any():
        parts.append("no outline")
    return "  ".join(parts)


class Called(Protocol):
    """Something with a call: a prediction or a finding."""

    @property
    def decision(self) -> str: ...
    @property
    def positive(self) -> str | None: ...


def decision_colour(prediction: Called) -> tuple[int, int, int]:
    """Orange for the positive label, grey for no lesion and normal, blue for anything else, BGR."""
    if prediction.decision == prediction.positive:
        return POSITIVE_COLOUR
    return NORMAL_COLOUR if prediction.decision in _GREY else OTHER_COLOUR


def tile(pictures: list[NDArray[np.uint8]], *, columns: int) -> NDArray[np.uint8]:
    """Lay pictures (H, W, 3) of any size out in a grid on black."""
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    rows = -(-len(pictures) // columns)
    sheet = np.zeros((rows * (height + 4), columns * (width + 4), 3), np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * (height + 4), index % columns * (width + 4)
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def _outline(picture: NDArray[np.uint8], mask: NDArray[np.bool_], colour: tuple[int, int, int], width: int) -> None:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, contours, -1, colour, width, cv2.LINE_AA)
