"""Predictions smoothed over time, moved along with the picture before they are mixed.

An exponential mean over seconds rather than frames, so that 1 and 60 frames a second are smoothed alike; the past loses
weight with every move of the probe, and all of it when the picture jumps. What comes into view has no past. The mask is
averaged as probability, the class and presence as logits. The constants were chosen on stills of BUS-BRA and BUSI, folds
1 to 4, swept with known motion (benchmarks/scripts/smoothing.py): no public breast cine has outlines.
"""

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.interpretation import Interpretation
from edge.predictor import Estimate
from edge.preprocess import content_box

HALF_LIFE_S: Final = 0.25
HALF_MOVE: Final = 0.2
"""Stills alone would have the past count for longer, moving or not: they have no tissue that comes and goes out of plane."""
_SURE: Final = 1e-4
"""Probabilities stay this far inside 0..1, so that their logarithms are finite."""

_Plane = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Smoothed:
    """A prediction with its past. mask_probability: (h, w) float32 as in `edge.predictor.Prediction`. past: weight of the
    frames before, 0..1, 0 after a start afresh.
    """

    mask_probability: _Plane | None
    probabilities: dict[str, float]
    presence: float | None
    past: float


class Smoother:
    """Smooths the predictions of one source. Used by one thread.

    interpretation: of the network, which says how its mask lies in the frame. half_life_s: after which the past has half
    its weight. half_move: the move after which it has half its weight, as a share of the region's width and height.
    Raises ValueError unless both are above 0.
    """

    def __init__(
        self, interpretation: Interpretation, *, half_life_s: float = HALF_LIFE_S, half_move: float = HALF_MOVE
    ) -> None:
        if not (half_life_s > 0.0 and half_move > 0.0):
            raise ValueError(f"a half life of {half_life_s} s and {half_move} of the picture; both are above 0")
        self._interpretation = interpretation
        self._half_life_s, self._half_move = half_life_s, half_move
        self.reset()

    def reset(self) -> None:
        """Forget the past."""
        self._time_s = -math.inf
        self._mask: tuple[_Plane, _Plane] | None = None  # Σ weight · probability, Σ weight
        self._logs: NDArray[np.float64] | None = None  # of the probabilities and of presence, and of what they leave
        self._weight = 0.0

    def update(
        self, prediction: Estimate, *, size: tuple[int, int], shift_px: tuple[float, float] | None, time_s: float
    ) -> Smoothed:
        """Take the next prediction in. It starts afresh where `shift_px` is None or time did not go on.

        size: (height, width) of the region. shift_px: how far the picture moved since the last one, (x, y) in the
        region's pixels. time_s: of the frame, on any clock.
        """
        since_s = time_s - self._time_s
        self._time_s = time_s
        keep, move = 0.0, (0.0, 0.0)
        if shift_px is not None and 0.0 < since_s < math.inf:
            x, y = shift_px
            moved = math.hypot(x / size[1], y / size[0])
            keep = 0.5 ** (since_s / self._half_life_s + moved / self._half_move)
            move = (x, y)
        mask = prediction.mask_probability
        if mask is not None:
            mask = self._mix_mask(mask, keep, move, size)
        logs = np.log(np.clip([*_pair(prediction.presence), *prediction.probabilities.values()], _SURE, 1.0 - _SURE))
        if self._logs is None or self._logs.shape != logs.shape or not keep:
            self._logs, self._weight = logs, 1.0
        else:
            past = keep * self._weight
            self._weight = past + 1.0
            self._logs = (past * self._logs + logs) / self._weight
        powers = np.exp(self._logs)
        presence = None if prediction.presence is None else float(powers[0] / powers[:2].sum())
        labels = powers[2:] / powers[2:].sum()
        probabilities = dict(zip(prediction.probabilities, map(float, labels), strict=True))
        return Smoothed(mask, probabilities, presence, 1.0 - 1.0 / self._weight)

    def _mix_mask(self, mask: _Plane, keep: float, move: tuple[float, float], size: tuple[int, int]) -> _Plane:
        total, weight = mask, np.ones_like(mask)
        if keep and self._mask is not None and self._mask[0].shape == mask.shape:
            step = self._mask_step(move, size, mask.shape)
            moved = [_moved(plane, step) for plane in self._mask]
            total, weight = total + keep * moved[0], weight + keep * moved[1]
        self._mask = total, weight
        return np.asarray(total / weight, np.float32)

    def _mask_step(
        self, move: tuple[float, float], size: tuple[int, int], shape: tuple[int, ...]
    ) -> tuple[float, float]:
        """A move in the region's pixels as one in the mask's."""
        how = self._interpretation
        height, width = how.input_size
        shown = content_box(size, how.input_size) if how.resize == "letterbox" else None
        across, down = (width, height) if shown is None else (shown.width, shown.height)
        return move[0] * across / size[1] * shape[1] / width, move[1] * down / size[0] * shape[0] / height


def _pair(probability: float | None) -> tuple[float, float]:
    """A probability and what it leaves; anything where there is none."""
    return (0.5, 0.5) if probability is None else (probability, 1.0 - probability)


def _moved(plane: _Plane, step: tuple[float, float]) -> _Plane:
    """A plane moved by (x, y) pixels; nothing comes in."""
    if step == (0.0, 0.0):
        return plane
    move = np.array([[1.0, 0.0, step[0]], [0.0, 1.0, step[1]]])
    return np.asarray(cv2.warpAffine(plane, move, plane.shape[::-1], flags=cv2.INTER_LINEAR), np.float32)
