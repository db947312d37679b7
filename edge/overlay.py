"""Draw a prediction on its frame."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.frame import GreyImage
from edge.predictor import Prediction

# Blue, orange and grey of Okabe and Ito's palette, told apart with any colour vision (BGR).
COLOURS: Final = {"benign": (178, 114, 0), "malignant": (0, 159, 230), "normal": (160, 160, 160)}
DISCLAIMER: Final = "Research use only - not a medical device"
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_CAPTION: Final = 44


def draw_overlay(
    pixels: GreyImage, prediction: Prediction, *, true_mask: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Return the frame with the lesion's outline and a caption below it.

    pixels: (H, W) uint8. true_mask: (H, W) bool, outlined thin and white. Returns (H + 44, max(W, 360), 3) uint8 BGR; the
    frame's own pixels stay where they are.
    """
    height, width = pixels.shape
    canvas = np.zeros((height + _CAPTION, max(width, 360), 3), np.uint8)
    picture = np.ascontiguousarray(canvas[:height, :width])
    picture[:] = pixels[:, :, None]
    if true_mask is not None:
        _outline(picture, true_mask, (255, 255, 255), 1)
    colour = COLOURS[prediction.decision]
    _outline(picture, prediction.mask, colour, 2)
    canvas[:height, :width] = picture
    found = "lesion" if prediction.mask.any() else "no lesion"
    text = f"{prediction.decision}  p(malignant) {prediction.malignancy:.2f}  {found}"
    cv2.putText(canvas, text, (6, height + 18), _FONT, 0.5, colour, 1, cv2.LINE_AA)
    cv2.putText(canvas, DISCLAIMER, (6, height + 36), _FONT, 0.4, (200, 200, 200), 1, cv2.LINE_AA)
    return canvas


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
