"""Whether there is a lesion at all, read from the mask: the third answer beside benign and malignant.

A network that segments also says how sure it is that there is something to segment: the highest probabilities of its mask are
high on a lesion and low on a normal frame. Where there is a lesion, its outline follows from the same figure: a faint one is
outlined at half its own height.
"""

import math
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

TOP_SHARE: Final = 0.005
"""Share of the mask that is looked at: more than a lone speck, which is no lesion, and less than all but a few lesions cover."""
LESION_LEVEL: Final = 128
"""Smallest mask probability, of 255, that is lesion where nothing lower is called for."""
_LOW: Final = 0.05
"""Most of a mask lies below; the highest are sought among the rest where it is enough, which is quicker."""
_MARGIN: Final = 1e-4
"""The mean stays this far inside 0..1, so that its logit is finite."""


@dataclass(frozen=True, slots=True)
class Presence:
    """How a `presence_logit` becomes a probability that there is a lesion, and at or above which `threshold` there is one.

    scale, offset: of a logistic regression on the logit. threshold, int8_threshold: probabilities, in FP32 and in INT8; None
    where INT8 has no threshold of its own. chosen_on: in words. Raises ValueError.
    """

    scale: float
    offset: float
    threshold: float
    chosen_on: str
    int8_threshold: float | None = None

    def __post_init__(self) -> None:
        if not (0.0 < self.scale < math.inf and math.isfinite(self.offset)):
            raise ValueError(
                f"presence with scale {self.scale} and offset {self.offset}: both finite, the scale above 0"
            )
        for threshold in (self.threshold, self.int8_threshold):
            if threshold is not None and not 0.0 < threshold < 1.0:
                raise ValueError(f"presence threshold {threshold} lies outside 0..1")

    def probability(self, logit: float) -> float:
        """Probability that there is a lesion, 0..1, of a finite `presence_logit`."""
        return 0.5 * (1.0 + math.tanh(0.5 * (self.scale * logit + self.offset)))

    def at(self, precision: str) -> Self:
        """The record for one precision, its `threshold` that of "fp32" or "int8" and no other left in it."""
        if precision == "int8" and self.int8_threshold is not None:
            return replace(self, threshold=self.int8_threshold, int8_threshold=None)
        return replace(self, int8_threshold=None)


def presence_logit(probability: NDArray[np.float32]) -> float:
    """Logit of the mean of the mask's highest 0.5 %, at least one pixel.

    probability: (h, w) float32, of lesion, 0..1. The mean is kept inside 0.0001..0.9999: the result lies within ±9.21.
    """
    mean = _top_mean(probability)
    return math.log(mean / (1.0 - mean))


def outline_level(probability: NDArray[np.float32]) -> int:
    """The level, 1..128 of 255, from which a pixel belongs to a lesion that is there.

    probability: (h, w) float32, of lesion, 0..1. It is half the mean of the mask's highest 0.5 %, so that a lesion that was
    found has an outline however faint it is.
    """
    return max(1, math.floor(LESION_LEVEL * _top_mean(probability) + 0.5))


def _top_mean(probability: NDArray[np.float32]) -> float:
    flat = probability.reshape(-1)
    count = max(1, round(TOP_SHARE * flat.size))
    high = flat[flat > _LOW]
    if high.size < count:
        high = flat
    top = np.partition(high, high.size - count)[-count:]
    return min(max(float(top.mean(dtype=np.float64)), _MARGIN), 1.0 - _MARGIN)
